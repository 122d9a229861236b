//! The mark: what our records say of a volume, in one short string that its backend keeps with it, so that
//! the records can be rebuilt from the backend alone.
//!
//! `k1:<cluster>:<id>:<generation>:<fs>:<B|F>:<class>:<name>:<crc32>`, printable ASCII, at most 200 bytes.
//! Class and name are percent-encoded; a name that does not fit is replaced by `#` and the head of its
//! digest. `F` is written before the first mkfs, so a `B` promises that no filesystem was ever begun. The
//! mark of another cluster is never touched.

use sha2::{Digest, Sha256};

use crate::{
    error::Error,
    model::{ClassName, ClusterId, FsState, FsType, Volume, VolumeId, VolumeName},
    records::keys,
};

const LIMIT: usize = 200;

/// What a mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Whose it is.
    pub cluster: ClusterId,
    /// The thing's id.
    pub id: VolumeId,
    /// Which attempt at its name it was.
    pub generation: u32,
    /// Which filesystem is or will be on it.
    pub fs: FsType,
    /// Whether making one was ever begun.
    pub formatted: bool,
    /// The class.
    pub class: ClassName,
    /// The name; nothing when it was too long to be kept.
    pub name: Option<VolumeName>,
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
            self.fs,
            if self.formatted { 'F' } else { 'B' },
            keys::segment(self.class.as_str()),
        );
        let name = self.name.as_ref().map(|name| keys::segment(name.as_str())).unwrap_or_default();
        let room = LIMIT.saturating_sub(head.len() + 10);
        let name = if name.len() <= room {
            name
        } else {
            let digest = Sha256::digest(name.as_bytes());
            format!("#{}", digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        let body = format!("{head}:{name}");
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}:{crc:08x}")
    }

    /// What a kept mark says; an error if it is not one of ours or was damaged.
    pub fn decode(text: &str) -> Result<Self, Error> {
        let wrong = || Error::internal(format!("{text:?} is not a mark of ours, or it was damaged"));
        let (body, crc) = text.rsplit_once(':').ok_or_else(wrong)?;
        if u32::from_str_radix(crc, 16).ok() != Some(crc32fast::hash(body.as_bytes())) {
            return Err(wrong());
        }
        let parts: Vec<&str> = body.split(':').collect();
        let [version, cluster, id, generation, fs, formatted, class, name] = parts.as_slice() else {
            return Err(wrong());
        };
        if *version != "k1" {
            return Err(wrong());
        }
        let text_of = |segment: &str| keys::name_of(segment).ok_or_else(wrong);
        Ok(Self {
            cluster: ClusterId::parse(cluster).ok_or_else(wrong)?,
            id: VolumeId::parse(id).ok_or_else(wrong)?,
            generation: generation.parse().map_err(|_| wrong())?,
            fs: FsType::parse(fs)?,
            formatted: match *formatted {
                "F" => true,
                "B" => false,
                _ => return Err(wrong()),
            },
            class: ClassName::parse(&text_of(class)?)?,
            name: if name.starts_with('#') { None } else { Some(VolumeName::parse(&text_of(name)?)?) },
        })
    }
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
            formatted: true,
            class: ClassName::parse("fast: ü").unwrap(),
            name: Some(VolumeName::parse(name).unwrap()),
        }
    }

    #[test]
    fn a_mark_survives_being_kept() {
        let mark = mark("db:1/ü");
        assert_eq!(Mark::decode(&mark.encode()).unwrap(), mark);
    }

    #[test]
    fn a_long_name_is_kept_as_its_digest() {
        let text = mark(&"ü".repeat(60)).encode();
        assert!(text.len() <= LIMIT, "{}", text.len());
        assert_eq!(Mark::decode(&text).unwrap().name, None);
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
