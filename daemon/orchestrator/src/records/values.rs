//! The stored form of the values that records are made of: ids, names, sizes, moments, filesystems, ways to
//! connect and unfinished wishes. Words are those of the contract and the CLI, in kebab-case.

use std::fmt::Write;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::form::{self, Stored, empty, mirror, read_text};
use crate::{
    error::{Finality, Kind},
    model::{
        BackendName, Bytes, CapacityRange, ClassName, ClusterId, Connection, DataRoot, Failure, Filesystem,
        Fingerprint, FsState, FsType, GroupId, GroupName, Handle, HolderId, Intent, NodeId, SnapshotId,
        SnapshotName, Timestamp, Token, VolumeId, VolumeName,
    },
};

macro_rules! texts {
    ($($what:literal $model:ident: $write:expr, $read:expr;)*) => { $(
        impl Stored for $model {
            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let write: fn(&Self, S) -> Result<S::Ok, S::Error> = $write;
                write(self, to)
            }
            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                read_text(from, $what, $read)
            }
        }
    )* };
}

texts! {
    "a volume's id" VolumeId: |it, to| to.collect_str(it), VolumeId::parse;
    "a snapshot's id" SnapshotId: |it, to| to.collect_str(it), SnapshotId::parse;
    "a group's id" GroupId: |it, to| to.collect_str(it), GroupId::parse;
    "a cluster's id" ClusterId: |it, to| to.collect_str(it), ClusterId::parse;
    "a volume's name" VolumeName: |it, to| to.serialize_str(it.as_str()), |text| VolumeName::parse(text).ok();
    "a snapshot's name" SnapshotName: |it, to| to.serialize_str(it.as_str()), |text| SnapshotName::parse(text).ok();
    "a group's name" GroupName: |it, to| to.serialize_str(it.as_str()), |text| GroupName::parse(text).ok();
    "a class's name" ClassName: |it, to| to.serialize_str(it.as_str()), |text| ClassName::parse(text).ok();
    "a backend's name" BackendName: |it, to| to.serialize_str(it.as_str()), |text| BackendName::parse(text).ok();
    "a node's id" NodeId: |it, to| to.serialize_str(it.as_str()), |text| NodeId::parse(text).ok();
    "a holder" HolderId: |it, to| to.serialize_str(it.as_str()), |text| HolderId::parse(text).ok();
    "a handle" Handle: |it, to| to.serialize_str(it.as_str()), |text| Handle::parse(text).ok();
    "a creation token" Token: |it, to| to.serialize_str(it.as_str()), |text| Token::parse(text).ok();
    "a fingerprint" Fingerprint: |it, to| to.serialize_str(&it.0), |text| Some(Fingerprint(text.to_owned()));
    "a filesystem" FsType: |it, to| to.serialize_str(it.name()), |text| FsType::parse(text).ok();
    // A kind that this program does not know was a newer one's, and is only shown.
    "a kind of error" Kind: |it, to| to.serialize_str(it.name()), |text| Some(Kind::from_name(text).unwrap_or(Kind::Internal));
    "bytes in hex" Octets: |it, to| to.collect_str(it), Octets::parse;
}

macro_rules! numbers {
    ($($model:ident),*) => { $(
        impl Stored for $model {
            fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> { to.serialize_u64(self.0) }
            fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> { u64::deserialize(from).map(Self) }
        }
    )* };
}

numbers!(Bytes, Timestamp);

mirror! {
    Connection => ConnectionForm,
    Filesystem => FilesystemForm,
    FsState => FsStateForm,
    DataRoot => DataRootForm,
    CapacityRange => CapacityRangeForm,
    Intent => IntentForm,
    Failure => FailureForm,
    Finality => FinalityForm,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Connection", rename_all = "kebab-case")]
enum ConnectionForm {
    Directory {
        root: String,
        path: String,
    },
    File {
        root: String,
        path: String,
    },
    Device {
        identity: String,
        value: String,
    },
    Rbd {
        cluster: String,
        pool: String,
        #[serde(default, skip_serializing_if = "empty")]
        namespace: String,
        image: String,
        #[serde(default, skip_serializing_if = "empty")]
        snapshot: Option<String>,
    },
    Iscsi {
        #[serde(default, skip_serializing_if = "empty")]
        backend: String,
        portals: Vec<String>,
        iqn: String,
        lun: u32,
        #[serde(default, skip_serializing_if = "empty")]
        multipath: Option<String>,
        #[serde(default, skip_serializing_if = "empty")]
        initiator: Option<String>,
    },
    Nbd {
        server: String,
        export: String,
    },
    Nfs {
        server: String,
        path: String,
        #[serde(default, skip_serializing_if = "empty")]
        options: Vec<String>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Filesystem", rename_all = "kebab-case")]
struct FilesystemForm {
    #[serde(with = "form")]
    fs: FsType,
    #[serde(with = "form")]
    state: FsState,
    #[serde(default, skip_serializing_if = "empty")]
    mount_options: Vec<String>,
    #[serde(with = "form")]
    root: DataRoot,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "FsState", rename_all = "kebab-case")]
enum FsStateForm {
    Blank,
    Formatting,
    Formatted,
}

// No directory means the mount itself, so an absent one is written as such and not left to a default.
#[derive(Serialize, Deserialize)]
#[serde(remote = "DataRoot", rename_all = "kebab-case")]
struct DataRootForm {
    #[serde(default, skip_serializing_if = "empty")]
    directory: Option<String>,
    #[serde(default, skip_serializing_if = "empty")]
    uid: Option<u32>,
    #[serde(default, skip_serializing_if = "empty")]
    gid: Option<u32>,
    #[serde(default, skip_serializing_if = "empty")]
    mode: Option<u32>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "CapacityRange", rename_all = "kebab-case")]
struct CapacityRangeForm {
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    required: Bytes,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    limit: Option<Bytes>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Intent", rename_all = "kebab-case")]
struct IntentForm {
    #[serde(with = "form")]
    since: Timestamp,
    #[serde(default, skip_serializing_if = "empty")]
    attempts: u32,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    last_error: Option<Failure>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    next_try: Timestamp,
    #[serde(default, skip_serializing_if = "empty", with = "octets")]
    resume: Option<Vec<u8>>,
    #[serde(default, skip_serializing_if = "empty")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "empty")]
    copying: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Failure", rename_all = "kebab-case")]
struct FailureForm {
    #[serde(with = "form")]
    kind: Kind,
    #[serde(with = "form")]
    finality: Finality,
    message: String,
    #[serde(with = "form")]
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Finality", rename_all = "kebab-case")]
enum FinalityForm {
    Final,
    Pending,
}

/// Bytes that are no text, in hex.
struct Octets(Vec<u8>);

impl Octets {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => {
                let digit =
                    |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                Some(digit(high)? << 4 | digit(low)?)
            }
            _ => None,
        });
        digits.collect::<Option<Vec<u8>>>().map(Self)
    }
}

impl std::fmt::Display for Octets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in &self.0 {
            for digit in [byte >> 4, byte & 15] {
                f.write_char(char::from(DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0')))?;
            }
        }
        Ok(())
    }
}

/// For serde's `with`: optional bytes.
pub(super) mod octets {
    use super::{Deserializer, Octets, Serializer, Stored};

    pub(in crate::records) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.clone().map(Octets).write(to)
    }

    pub(in crate::records) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Ok(Option::<Octets>::read(from)?.map(|Octets(bytes)| bytes))
    }
}
