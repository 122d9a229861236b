//! The mark: what our records say of a volume or a snapshot, in one short string that its backend keeps with
//! it, so that the records can be rebuilt from the backend alone.
//!
//! ```text
//! k1:<cluster>:<id>:<generation>:<fs>:<B|F>:<class>:<name>:<crc32>        a volume
//! s1:<cluster>:<id>:<volume>:<generation>:<fs>:<class>:<name>:<crc32>     a snapshot
//! m1:<cluster>:<group>:<volume>:<index>of<n>:<fs>:<class>:<name>:<crc32>  a snapshot that was cut with others
//! ```
//!
//! Printable ASCII, at most 200 bytes. Class and name are percent-encoded; what does not fit is replaced by `#`
//! and the head of its digest, so that whoever says the name can be believed. `<fs>` is `ext4`, or
//! `ext4/<directory>` where a container gets another directory of it than `data`. `F` is written before the
//! first mkfs, so a `B` promises that no filesystem was ever begun. Id and name of a snapshot that was cut with others
//! come of its place in the group, whose name is what the mark tells. The mark of another cluster is never touched.

use sha2::{Digest, Sha256};

use crate::{
    error::Error,
    model::{
        ClassName, ClusterId, DataRoot, Filesystem, FsState, FsType, GroupId, GroupName, Place, Snapshot,
        SnapshotId, SnapshotName, Volume, VolumeId, VolumeName,
    },
    records::keys,
};

const LIMIT: usize = 200;

/// How much room a class has, in its encoded form.
const CLASS: usize = 32;

/// How much room the name of a group has.
const GROUP: usize = 17;

/// How much room a directory has. A longer one is kept as all of the filesystem, in which it is found.
const DIRECTORY: usize = 20;

/// What the mark of a volume says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose it is.
    pub cluster: ClusterId,
    /// The volume's id.
    pub id: VolumeId,
    /// Which attempt at its name it was.
    pub generation: u32,
    /// Which filesystem is or will be on it.
    pub fs: FsType,
    /// Which directory of it a container gets; nothing for all of it.
    pub directory: Option<String>,
    /// Whether making one was ever begun.
    pub formatted: bool,
    /// The class.
    pub class: ClassName,
    /// The name; nothing when it was too long to be kept.
    pub name: Option<VolumeName>,
}

/// What the mark of a snapshot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotMark {
    /// Whose it is.
    pub cluster: ClusterId,
    /// The snapshot's id.
    pub id: SnapshotId,
    /// Whose bytes.
    pub volume: VolumeId,
    /// Which attempt at its name it was.
    pub generation: u32,
    /// Its place in the group that it was cut with.
    pub group: Option<Place>,
    /// Which filesystem is on it.
    pub fs: FsType,
    /// Which directory of it a container gets; nothing for all of it.
    pub directory: Option<String>,
    /// The class of its volume.
    pub class: ClassName,
    /// The name; nothing when it was too long to be kept.
    pub name: Option<SnapshotName>,
}

impl Mark {
    /// The mark of a volume as it stands.
    #[must_use]
    pub fn of(volume: &Volume, cluster: ClusterId) -> Self {
        Self {
            cluster,
            id: volume.id,
            generation: volume.generation,
            fs: volume.filesystem.fs,
            directory: directory(&volume.filesystem),
            formatted: volume.filesystem.state != FsState::Blank,
            class: volume.class.clone(),
            name: Some(volume.name.clone()),
        }
    }

    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> String {
        let head = format!(
            "k1:{}:{}:{}:{}:{}:{}",
            self.cluster,
            self.id,
            self.generation,
            content(self.fs, self.directory.as_deref()),
            if self.formatted { 'F' } else { 'B' },
            kept(self.class.as_str(), CLASS),
        );
        seal(&head, self.name.as_ref().map(VolumeName::as_str))
    }

    /// What a kept mark says; an error if it is not one of ours or was damaged.
    pub fn decode(text: &str) -> Result<Self, Error> {
        let wrong = || wrong(text);
        let [cluster, id, generation, content, formatted, class, name] = open(text, "k1")?;
        let (fs, directory) = content_of(content).ok_or_else(wrong)??;
        Ok(Self {
            cluster: ClusterId::parse(cluster).ok_or_else(wrong)?,
            id: VolumeId::parse(id).ok_or_else(wrong)?,
            generation: generation.parse().map_err(|_| wrong())?,
            fs,
            directory,
            formatted: match formatted {
                "F" => true,
                "B" => false,
                _ => return Err(wrong()),
            },
            class: class_of(class).ok_or_else(wrong)??,
            name: name_of(name).map(|name| VolumeName::parse(&name.ok_or_else(wrong)?)).transpose()?,
        })
    }

    /// Whether this is the mark of a thing of that name, which it may not hold.
    #[must_use]
    pub fn fits(&self, kept: &str, name: &VolumeName) -> bool {
        Self { name: Some(name.clone()), ..self.clone() }.encode() == kept
    }
}

impl SnapshotMark {
    /// The mark of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot, cluster: ClusterId) -> Self {
        Self {
            cluster,
            id: snapshot.id,
            volume: snapshot.volume,
            generation: snapshot.generation,
            group: snapshot.group.clone(),
            fs: snapshot.filesystem.fs,
            directory: directory(&snapshot.filesystem),
            class: snapshot.class.clone(),
            name: Some(snapshot.name.clone()),
        }
    }

    /// As it is kept.
    #[must_use]
    pub fn encode(&self) -> String {
        if let Some(place) = &self.group {
            return close(&format!(
                "m1:{}:{}:{}:{}of{}:{}:{}:{}",
                self.cluster,
                place.group,
                self.volume,
                place.index,
                place.of,
                content(self.fs, self.directory.as_deref()),
                kept(self.class.as_str(), CLASS),
                place.name,
            ));
        }
        let head = format!(
            "s1:{}:{}:{}:{}:{}:{}",
            self.cluster,
            self.id,
            self.volume,
            self.generation,
            content(self.fs, self.directory.as_deref()),
            kept(self.class.as_str(), CLASS),
        );
        seal(&head, self.name.as_ref().map(SnapshotName::as_str))
    }

    /// What a kept mark says; an error if it is not one of ours or was damaged.
    pub fn decode(text: &str) -> Result<Self, Error> {
        if text.starts_with("m1:") {
            return Self::decode_member(text);
        }
        let wrong = || wrong(text);
        let [cluster, id, volume, generation, content, class, name] = open(text, "s1")?;
        let (fs, directory) = content_of(content).ok_or_else(wrong)??;
        Ok(Self {
            cluster: ClusterId::parse(cluster).ok_or_else(wrong)?,
            id: SnapshotId::parse(id).ok_or_else(wrong)?,
            volume: VolumeId::parse(volume).ok_or_else(wrong)?,
            generation: generation.parse().map_err(|_| wrong())?,
            group: None,
            fs,
            directory,
            class: class_of(class).ok_or_else(wrong)??,
            name: name_of(name).map(|name| SnapshotName::parse(&name.ok_or_else(wrong)?)).transpose()?,
        })
    }

    fn decode_member(text: &str) -> Result<Self, Error> {
        let wrong = || wrong(text);
        let [cluster, group, volume, place, content, class, name] = open(text, "m1")?;
        let (fs, directory) = content_of(content).ok_or_else(wrong)??;
        let (index, of) = place.split_once("of").ok_or_else(wrong)?;
        let place = Place {
            group: GroupId::parse(group).ok_or_else(wrong)?,
            name: name.to_owned(),
            index: index.parse().map_err(|_| wrong())?,
            of: of.parse().map_err(|_| wrong())?,
        };
        Ok(Self {
            cluster: ClusterId::parse(cluster).ok_or_else(wrong)?,
            id: place.snapshot(),
            volume: VolumeId::parse(volume).ok_or_else(wrong)?,
            generation: 0,
            fs,
            directory,
            class: class_of(class).ok_or_else(wrong)??,
            name: Some(place.snapshot_name()?),
            group: Some(place),
        })
    }

    /// What a group is called, as far as the marks of its snapshots tell.
    pub(crate) fn group_name(place: &Place) -> Result<GroupName, Error> {
        match name_of(&place.name) {
            Some(Some(name)) => GroupName::parse(&name),
            _ => GroupName::parse(&place.name),
        }
    }

    /// Whether this is the mark of a thing of that name, which it may not hold.
    #[must_use]
    pub fn fits(&self, kept: &str, name: &SnapshotName) -> bool {
        Self { name: Some(name.clone()), ..self.clone() }.encode() == kept
    }
}

fn wrong(text: &str) -> Error {
    Error::internal(format!("{text:?} is not a mark of ours, or it was damaged"))
}

/// Which directory a container gets; an empty one is all of it.
fn directory(filesystem: &Filesystem) -> Option<String> {
    filesystem.root.directory.clone().filter(|directory| !directory.is_empty())
}

fn content(fs: FsType, directory: Option<&str>) -> String {
    match directory {
        directory if directory == DataRoot::default().directory.as_deref() => fs.to_string(),
        directory => {
            let directory = keys::segment(directory.unwrap_or_default());
            format!("{fs}/{}", if directory.len() > DIRECTORY { "" } else { &directory })
        }
    }
}

/// The filesystem and its directory; nothing if it is damaged.
fn content_of(text: &str) -> Option<Result<(FsType, Option<String>), Error>> {
    let (fs, directory) = match text.split_once('/') {
        None => (text, DataRoot::default().directory),
        Some((fs, "")) => (fs, None),
        Some((fs, directory)) => (fs, Some(keys::name_of(directory)?)),
    };
    Some(FsType::parse(fs).map(|fs| (fs, directory)))
}

/// Puts the name, or what stands for it, and the checksum behind a head.
fn seal(head: &str, name: Option<&str>) -> String {
    let name = kept(name.unwrap_or_default(), LIMIT.saturating_sub(head.len() + 10));
    close(&format!("{head}:{name}"))
}

/// What a group is called, as far as the marks of its snapshots have room for it.
pub(crate) fn kept_group(name: &GroupName) -> String {
    kept(name.as_str(), GROUP)
}

/// The words of a mark with their checksum.
fn close(body: &str) -> String {
    let crc = crc32fast::hash(body.as_bytes());
    format!("{body}:{crc:08x}")
}

/// A text as one word, or the head of its digest where it has no room.
fn kept(text: &str, room: usize) -> String {
    let word = keys::segment(text);
    if word.len() <= room {
        return word;
    }
    let digest = Sha256::digest(word.as_bytes());
    format!("#{}", digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The class, as far as it was kept: see [`is_class`].
fn class_of(word: &str) -> Option<Result<ClassName, Error>> {
    let name = if word.starts_with('#') { word.to_owned() } else { keys::name_of(word)? };
    Some(ClassName::parse(&name))
}

/// Whether a class of a mark is this one, whose name may have been too long to be kept.
pub(crate) fn is_class(marked: &ClassName, class: &ClassName) -> bool {
    marked == class || marked.as_str() == kept(class.as_str(), CLASS)
}

/// The words of a mark of this version, after its checksum was found right.
fn open<'a, const WORDS: usize>(text: &'a str, version: &str) -> Result<[&'a str; WORDS], Error> {
    let (body, crc) = text.rsplit_once(':').ok_or_else(|| wrong(text))?;
    if u32::from_str_radix(crc, 16).ok() != Some(crc32fast::hash(body.as_bytes())) {
        return Err(wrong(text));
    }
    let words =
        body.strip_prefix(version).and_then(|body| body.strip_prefix(':')).ok_or_else(|| wrong(text))?;
    let words: Vec<&str> = words.split(':').collect();
    words.try_into().map_err(|_| wrong(text))
}

/// The name as it was given; nothing where only its digest was kept, and nothing in it if it is damaged.
fn name_of(segment: &str) -> Option<Option<String>> {
    (!segment.starts_with('#')).then(|| keys::name_of(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str) -> Mark {
        Mark {
            cluster: ClusterId(1),
            id: VolumeId(2),
            generation: 3,
            fs: FsType::Xfs,
            directory: Some("data".into()),
            formatted: true,
            class: ClassName::parse("fast: ü").unwrap(),
            name: Some(VolumeName::parse(name).unwrap()),
        }
    }

    fn snapshot_mark(name: &str) -> SnapshotMark {
        SnapshotMark {
            cluster: ClusterId(1),
            id: SnapshotId(2),
            volume: VolumeId(3),
            generation: 4,
            group: None,
            fs: FsType::Ext4,
            directory: Some("data".into()),
            class: ClassName::parse("default").unwrap(),
            name: Some(SnapshotName::parse(name).unwrap()),
        }
    }

    #[test]
    fn a_mark_survives_being_kept() {
        for directory in [Some("data"), Some("pg/ü:x"), None] {
            let mark = Mark { directory: directory.map(str::to_owned), ..mark("db:1/ü") };
            assert_eq!(Mark::decode(&mark.encode()).unwrap(), mark);
            let mark =
                SnapshotMark { directory: directory.map(str::to_owned), ..snapshot_mark("before: ü") };
            assert_eq!(SnapshotMark::decode(&mark.encode()).unwrap(), mark);
        }
    }

    #[test]
    fn a_volume_is_never_taken_for_a_snapshot() {
        assert!(SnapshotMark::decode(&mark("db").encode()).is_err());
        assert!(Mark::decode(&snapshot_mark("db").encode()).is_err());
    }

    #[test]
    fn a_long_name_is_kept_as_its_digest_and_known_again() {
        let long = "ü".repeat(60);
        let text = mark(&long).encode();
        assert!(text.len() <= LIMIT, "{}", text.len());
        let kept = Mark::decode(&text).unwrap();
        assert_eq!(kept.name, None);
        assert!(kept.fits(&text, &VolumeName::parse(&long).unwrap()));
        assert!(!kept.fits(&text, &VolumeName::parse("db").unwrap()));
        let text = snapshot_mark(&long).encode();
        assert!(text.len() <= LIMIT, "{}", text.len());
        assert!(SnapshotMark::decode(&text).unwrap().fits(&text, &SnapshotName::parse(&long).unwrap()));
    }

    #[test]
    fn no_mark_is_too_long_to_be_kept() {
        let class = ClassName::parse(&"ü".repeat(31)).unwrap();
        let (directory, generation) = (Some("ü".repeat(100)), u32::MAX);
        let text = SnapshotMark {
            directory: directory.clone(),
            generation,
            class: class.clone(),
            ..snapshot_mark(&"ü".repeat(60))
        }
        .encode();
        assert!(text.len() <= LIMIT, "{}", text.len());
        assert!(is_class(&SnapshotMark::decode(&text).unwrap().class, &class));
        let text = Mark { directory, generation, class: class.clone(), ..mark(&"ü".repeat(60)) }.encode();
        assert!(text.len() <= LIMIT, "{}", text.len());
        let kept = Mark::decode(&text).unwrap();
        assert!(is_class(&kept.class, &class) && kept.directory.is_none());
    }

    #[test]
    fn the_mark_of_a_member_tells_its_place_and_from_that_its_id_and_name() {
        let long = GroupName::parse(&"ü".repeat(60)).unwrap();
        for name in [GroupName::parse("nightly").unwrap(), long] {
            let place = Place { group: GroupId(9), name: kept_group(&name), index: 23, of: 24 };
            let mark = SnapshotMark {
                id: place.snapshot(),
                name: Some(place.snapshot_name().unwrap()),
                generation: 0,
                directory: Some("twenty bytes are kept".get(..20).unwrap().replace(' ', "_")),
                class: ClassName::parse(&"c".repeat(32)).unwrap(),
                group: Some(place),
                ..snapshot_mark("x")
            };
            let text = mark.encode();
            assert!(text.len() <= LIMIT, "{}", text.len());
            assert_eq!(SnapshotMark::decode(&text).unwrap(), mark);
        }
    }

    #[test]
    fn a_damaged_mark_is_noticed() {
        let text = mark("db").encode();
        for (index, byte) in text.bytes().enumerate() {
            let mut bytes = text.clone().into_bytes();
            bytes[index] = if byte == b'x' { b'y' } else { b'x' };
            assert!(Mark::decode(&String::from_utf8(bytes).unwrap()).is_err());
        }
    }
}
