//! The keys: plain ASCII, one path for each record, so that what belongs together is read with one scan.
//!
//! ```text
//! v/<volume>                      volume          n/v/<name>    volume by its name
//! v/<volume>/a/<node>             attachment      s/<snapshot>  snapshot
//! v/<volume>/m/<node>             mount           n/s/<name>    snapshot by its name
//! v/<volume>/p/<node>/<holder>    publication     g/<group>     group of snapshots, unfinished
//! v/<volume>/l/<node>             lost mount; stays behind when the volume is deleted
//! t/<volume>                      tombstone       n/g/<name>    group by its name
//! b/<backend>                     backend         h/<node>      node
//! w/v/<volume>, w/s/<snapshot>    has an unfinished wish
//! i/g/<group>/<index>             snapshot by its place in its group
//! i/m/<node>/<volume>             is mounted on this node, or lost there
//! i/v/<backend>/<handle>          volume by what its backend calls it; i/s/… the same for snapshots
//! meta/cluster                    the cluster's id
//! meta/handles                    everything is in the indexes of handles
//! ```
//!
//! What a caller wrote is percent-encoded outside of `A-Z a-z 0-9 _ . -`, so a `/` never stands inside a
//! segment. A long holder (a CSI target path may have 4 KiB) becomes its hash; its record holds the real one.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{
    model::{
        BackendName, GroupId, Handle, HolderId, NodeId, Place, SnapshotId, SnapshotName, VolumeId, VolumeName,
    },
    ports::store::Key,
};

/// All volumes with what belongs to them.
pub const VOLUMES: &str = "v/";
/// All snapshots.
pub const SNAPSHOTS: &str = "s/";
/// All names of volumes.
pub const VOLUME_NAMES: &str = "n/v/";
/// All names of snapshots.
pub const SNAPSHOT_NAMES: &str = "n/s/";
/// All groups with an unfinished wish.
pub const GROUPS: &str = "g/";
/// All names of groups.
pub const GROUP_NAMES: &str = "n/g/";
/// All tombstones.
pub const TOMBSTONES: &str = "t/";
/// All backends.
pub const BACKENDS: &str = "b/";
/// All nodes.
pub const NODES: &str = "h/";
/// All that was given back while shared records were away. In a node's own copy of them alone.
pub const OWED: &str = "o/";
/// All volumes with an unfinished wish.
pub const WORK_VOLUMES: &str = "w/v/";
/// All snapshots with an unfinished wish.
pub const WORK_SNAPSHOTS: &str = "w/s/";

/// The longest encoded holder that stands in a key as it is.
const HOLDER_LIMIT: usize = 100;

/// A volume.
#[must_use]
pub fn volume(id: VolumeId) -> Key {
    format!("v/{id}")
}

/// Everything that belongs to a volume, as a prefix: attachments, mounts, publications.
#[must_use]
pub fn of_volume(id: VolumeId) -> Key {
    format!("v/{id}/")
}

/// What comes after everything that belongs to a volume, and before the next one.
#[must_use]
pub fn end_of_volume(id: VolumeId) -> Key {
    format!("v/{id}/~")
}

/// Which volume a key beneath [`VOLUMES`] belongs to.
#[must_use]
pub fn volume_of(key: &str) -> Option<VolumeId> {
    VolumeId::parse(key.strip_prefix(VOLUMES)?.split('/').next()?)
}

/// A volume's attachment to a node.
#[must_use]
pub fn attachment(volume: VolumeId, node: &NodeId) -> Key {
    format!("v/{volume}/a/{}", segment(node.as_str()))
}

/// A volume's mount on a node.
#[must_use]
pub fn mount(volume: VolumeId, node: &NodeId) -> Key {
    format!("v/{volume}/m/{}", segment(node.as_str()))
}

/// What a node may still have of a volume that was taken from it.
#[must_use]
pub fn lost_mount(volume: VolumeId, node: &NodeId) -> Key {
    format!("v/{volume}/l/{}", segment(node.as_str()))
}

/// A holder's publication.
#[must_use]
pub fn publication(volume: VolumeId, node: &NodeId, holder: &HolderId) -> Key {
    format!("v/{volume}/p/{}/{}", segment(node.as_str()), holder_segment(holder))
}

/// What a holder still has after it gave back while the records were away, as a publication.
pub(crate) fn owed(volume: VolumeId, holder: &HolderId) -> Key {
    format!("o/{volume}/{}", holder_segment(holder))
}

/// All publications of a volume on a node, as a prefix.
#[must_use]
pub fn publications(volume: VolumeId, node: &NodeId) -> Key {
    format!("v/{volume}/p/{}/", segment(node.as_str()))
}

/// A volume's name, which leads to its id.
#[must_use]
pub fn volume_name(name: &VolumeName) -> Key {
    format!("n/v/{}", segment(name.as_str()))
}

/// A snapshot.
#[must_use]
pub fn snapshot(id: SnapshotId) -> Key {
    format!("s/{id}")
}

/// A snapshot's name, which leads to its id.
#[must_use]
pub fn snapshot_name(name: &SnapshotName) -> Key {
    format!("n/s/{}", segment(name.as_str()))
}

/// A group of snapshots that is being cut or deleted.
#[must_use]
pub fn group(id: GroupId) -> Key {
    format!("g/{id}")
}

/// A group's name, as far as it is kept, which leads to its id.
#[must_use]
pub fn group_name(kept: &str) -> Key {
    format!("n/g/{}", segment(kept))
}

/// A snapshot by its place in its group.
#[must_use]
pub fn place(place: &Place) -> Key {
    format!("i/g/{}/{:02}", place.group, place.index)
}

/// All snapshots of a group, as a prefix.
#[must_use]
pub fn places(id: GroupId) -> Key {
    format!("i/g/{id}/")
}

/// A tombstone.
#[must_use]
pub fn tombstone(id: VolumeId) -> Key {
    format!("t/{id}")
}

/// A backend.
#[must_use]
pub fn backend(name: &BackendName) -> Key {
    format!("b/{}", segment(name.as_str()))
}

/// A node.
#[must_use]
pub fn node(id: &NodeId) -> Key {
    format!("h/{}", segment(id.as_str()))
}

/// The cluster's id.
#[must_use]
pub fn cluster() -> Key {
    "meta/cluster".to_owned()
}

/// A volume has an unfinished wish.
#[must_use]
pub fn work_volume(id: VolumeId) -> Key {
    format!("w/v/{id}")
}

/// A snapshot has an unfinished wish.
#[must_use]
pub fn work_snapshot(id: SnapshotId) -> Key {
    format!("w/s/{id}")
}

/// A node has a mount of a volume, or may have a lost one.
#[must_use]
pub fn node_mount(node: &NodeId, volume: VolumeId) -> Key {
    format!("i/m/{}/{volume}", segment(node.as_str()))
}

/// A volume by what its backend calls it.
#[must_use]
pub fn volume_handle(backend: &BackendName, handle: &Handle) -> Key {
    format!("i/v/{}/{}", segment(backend.as_str()), segment(handle.as_str()))
}

/// A snapshot by what its backend calls it.
#[must_use]
pub fn snapshot_handle(backend: &BackendName, handle: &Handle) -> Key {
    format!("i/s/{}/{}", segment(backend.as_str()), segment(handle.as_str()))
}

/// Whether everything is in the indexes of handles: stores of an earlier release had none.
#[must_use]
pub fn handles() -> Key {
    "meta/handles".to_owned()
}

/// All mounts of a node, as a prefix.
#[must_use]
pub fn node_mounts(node: &NodeId) -> Key {
    format!("i/m/{}/", segment(node.as_str()))
}

/// A caller's text as one segment of a key.
#[must_use]
pub fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ok = write!(encoded, "%{byte:02X}").is_ok();
        }
    }
    encoded
}

/// The caller's text of a segment; nothing for a hash, or for what [`segment`] never made.
#[must_use]
pub fn name_of(segment: &str) -> Option<String> {
    if hashed(segment) {
        return None;
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => {
                let mut digit =
                    || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let high = digit()?;
                (high << 4) | digit()?
            }
            byte => byte,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// A holder that itself begins like a hash is hashed too: nobody can name himself into another's place.
fn holder_segment(holder: &HolderId) -> String {
    let encoded = segment(holder.as_str());
    if encoded.len() <= HOLDER_LIMIT && !encoded.starts_with("h-") {
        return encoded;
    }
    let mut hashed = String::from("h-");
    for byte in Sha256::digest(holder.as_str().as_bytes()) {
        let _ok = write!(hashed, "{byte:02x}").is_ok();
    }
    hashed
}

fn hashed(segment: &str) -> bool {
    segment.strip_prefix("h-").is_some_and(|hash| {
        hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// What stands under a key, as its shape tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// A volume.
    Volume,
    /// An attachment.
    Attachment,
    /// A mount.
    Mount,
    /// A mount that its node lost.
    LostMount,
    /// A publication.
    Publication,
    /// A volume's name.
    VolumeName,
    /// A snapshot.
    Snapshot,
    /// A snapshot's name.
    SnapshotName,
    /// A group of snapshots with an unfinished wish.
    Group,
    /// A group's name.
    GroupName,
    /// A snapshot's place in its group.
    Place,
    /// A tombstone.
    Tombstone,
    /// A backend.
    Backend,
    /// A node.
    Node,
    /// The cluster's id.
    Cluster,
    /// A volume's unfinished wish.
    WorkVolume,
    /// A snapshot's unfinished wish.
    WorkSnapshot,
    /// A node's mount.
    NodeMount,
    /// A volume's handle.
    VolumeHandle,
    /// A snapshot's handle.
    SnapshotHandle,
    /// That the indexes of handles are whole.
    Handles,
    /// Nothing that this program would write.
    Unknown,
}

impl KeyKind {
    /// What stands under this key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let parts: Vec<&str> = key.split('/').collect();
        let volume = |id: &str| VolumeId::parse(id).is_some();
        let snapshot = |id: &str| SnapshotId::parse(id).is_some();
        let group = |id: &str| GroupId::parse(id).is_some();
        match parts.as_slice() {
            ["v", id] if volume(id) => Self::Volume,
            ["v", id, "a", _] if volume(id) => Self::Attachment,
            ["v", id, "m", _] if volume(id) => Self::Mount,
            ["v", id, "l", _] if volume(id) => Self::LostMount,
            ["v", id, "p", _, _] if volume(id) => Self::Publication,
            ["n", "v", _] => Self::VolumeName,
            ["s", id] if snapshot(id) => Self::Snapshot,
            ["n", "s", _] => Self::SnapshotName,
            ["g", id] if group(id) => Self::Group,
            ["n", "g", _] => Self::GroupName,
            ["i", "g", id, _] if group(id) => Self::Place,
            ["t", id] if volume(id) => Self::Tombstone,
            ["b", _] => Self::Backend,
            ["h", _] => Self::Node,
            ["meta", "cluster"] => Self::Cluster,
            ["w", "v", id] if volume(id) => Self::WorkVolume,
            ["w", "s", id] if snapshot(id) => Self::WorkSnapshot,
            ["i", "m", _, id] if volume(id) => Self::NodeMount,
            ["i", "v", _, _] => Self::VolumeHandle,
            ["i", "s", _, _] => Self::SnapshotHandle,
            ["meta", "handles"] => Self::Handles,
            _ => Self::Unknown,
        }
    }

    /// The kind of record that belongs there; nothing where none does.
    #[must_use]
    pub fn record(self) -> Option<&'static str> {
        match self {
            Self::Volume => Some("volume"),
            Self::Attachment => Some("attachment"),
            Self::Mount => Some("mount"),
            Self::LostMount => Some("lost-mount"),
            Self::Publication => Some("publication"),
            Self::VolumeName | Self::VolumeHandle => Some("volume-id"),
            Self::Snapshot => Some("snapshot"),
            Self::SnapshotName | Self::SnapshotHandle | Self::Place => Some("snapshot-id"),
            Self::Group => Some("group"),
            Self::GroupName => Some("group-id"),
            Self::Tombstone => Some("tombstone"),
            Self::Backend => Some("backend"),
            Self::Node => Some("node"),
            Self::Cluster => Some("cluster"),
            Self::WorkVolume | Self::WorkSnapshot | Self::NodeMount | Self::Handles => Some("marker"),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_text_never_leaves_its_segment_and_comes_back() {
        for text in ["db", "../../x", "a/b", "🦀 ü\t", "100%", "%41", "h-x", "."] {
            let encoded = segment(text);
            assert!(encoded.is_ascii() && !encoded.contains('/'), "{encoded}");
            assert_eq!(name_of(&encoded).as_deref(), Some(text));
        }
        assert_eq!(name_of("%4"), None);
        assert_eq!(name_of("%zz"), None);
        assert_eq!(name_of("%ff"), None);
    }

    #[test]
    fn a_long_holder_is_hashed_and_nobody_can_pretend_to_be_its_hash() {
        let node = NodeId::parse("n/1").unwrap();
        let key = |holder: &str| publication(VolumeId(1), &node, &HolderId::parse(holder).unwrap());
        let long = key(&"/var/lib/kubelet/".repeat(20));
        assert!(long.len() < 120, "{long}");
        assert_eq!(KeyKind::of(&long), KeyKind::Publication);
        let hash = long.rsplit('/').next().unwrap();
        assert_eq!(name_of(hash), None);
        assert_ne!(key(hash), long);
        assert_eq!(key("c0ffee"), format!("v/{}/p/n%2F1/c0ffee", VolumeId(1)));
    }

    #[test]
    fn every_key_tells_what_stands_under_it() {
        let (volume_id, snapshot_id) = (VolumeId(1), SnapshotId(2));
        let node_id = NodeId::parse("a/b").unwrap();
        let holder = HolderId::parse("/x").unwrap();
        let backend_name = || BackendName::parse("ebs").unwrap();
        for (key, kind) in [
            (volume(volume_id), KeyKind::Volume),
            (attachment(volume_id, &node_id), KeyKind::Attachment),
            (mount(volume_id, &node_id), KeyKind::Mount),
            (lost_mount(volume_id, &node_id), KeyKind::LostMount),
            (publication(volume_id, &node_id, &holder), KeyKind::Publication),
            (volume_name(&VolumeName::parse("a/b").unwrap()), KeyKind::VolumeName),
            (snapshot(snapshot_id), KeyKind::Snapshot),
            (snapshot_name(&SnapshotName::parse("a/b").unwrap()), KeyKind::SnapshotName),
            (tombstone(volume_id), KeyKind::Tombstone),
            (backend(&backend_name()), KeyKind::Backend),
            (node(&node_id), KeyKind::Node),
            (cluster(), KeyKind::Cluster),
            (work_volume(volume_id), KeyKind::WorkVolume),
            (work_snapshot(snapshot_id), KeyKind::WorkSnapshot),
            (volume_handle(&backend_name(), &Handle::parse("vol/1").unwrap()), KeyKind::VolumeHandle),
            (snapshot_handle(&backend_name(), &Handle::parse("s-1").unwrap()), KeyKind::SnapshotHandle),
            (handles(), KeyKind::Handles),
            (node_mount(&node_id, volume_id), KeyKind::NodeMount),
            ("v/short".to_owned(), KeyKind::Unknown),
            (String::new(), KeyKind::Unknown),
        ] {
            assert!(key.is_ascii());
            assert_eq!(KeyKind::of(&key), kind, "{key}");
        }
    }
}
