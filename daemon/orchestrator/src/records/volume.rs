//! The stored form of a volume and of what is left of one that was never heard of (its tombstone).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    form::{self, empty, mirror},
    values::octets,
};
use crate::model::{
    BackendName, Buried, Bytes, CapacityRange, ClassName, Connection, Dependant, Filesystem, Filling,
    GroupId, Handle, Intent, Keeping, NodeId, Seed, Since, SnapshotId, Source, Stage, Timestamp, Token,
    Tombstone, Volume, VolumeId, VolumeName, VolumeState, Wanted,
};

mirror! {
    Volume => VolumeForm,
    Wanted => WantedForm,
    VolumeState => VolumeStateForm,
    Source => SourceForm,
    Filling => FillingForm,
    Stage => StageForm,
    Since => SinceForm,
    Seed => SeedForm,
    Keeping => KeepingForm,
    Dependant => DependantForm,
    Tombstone => TombstoneForm,
    Buried => BuriedForm,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Volume", rename_all = "kebab-case")]
struct VolumeForm {
    #[serde(with = "form")]
    id: VolumeId,
    #[serde(with = "form")]
    name: VolumeName,
    #[serde(with = "form")]
    class: ClassName,
    #[serde(with = "form")]
    backend: BackendName,
    #[serde(default, skip_serializing_if = "empty")]
    generation: u32,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    made_as: Option<Token>,
    #[serde(with = "form")]
    wanted: Wanted,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    actual: Option<Bytes>,
    #[serde(default, skip_serializing_if = "empty")]
    actual_parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    source: Option<Source>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    filling: Option<Filling>,
    #[serde(default, skip_serializing_if = "empty")]
    found: bool,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    held_still: Option<Duration>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    handle: Option<Handle>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    connection: Option<Connection>,
    #[serde(default, skip_serializing_if = "empty")]
    topology: BTreeMap<String, String>,
    #[serde(with = "form")]
    state: VolumeState,
    #[serde(with = "form")]
    filesystem: Filesystem,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    dependants: BTreeSet<Dependant>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    keeping: Keeping,
    #[serde(default, skip_serializing_if = "empty")]
    labels: BTreeMap<String, String>,
    #[serde(with = "form")]
    created: Timestamp,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    intent: Option<Intent>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Keeping", rename_all = "kebab-case")]
enum KeepingForm {
    Owned,
    Ephemeral,
    Borrowed,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Wanted", rename_all = "kebab-case")]
struct WantedForm {
    #[serde(with = "form")]
    size: CapacityRange,
    #[serde(default, skip_serializing_if = "empty")]
    parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "empty")]
    places: Vec<BTreeMap<String, String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "VolumeState", rename_all = "kebab-case")]
enum VolumeStateForm {
    Creating,
    Ready,
    Deleting,
    Lost,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Source", rename_all = "kebab-case")]
enum SourceForm {
    Snapshot(#[serde(with = "form")] SnapshotId),
    Volume(#[serde(with = "form")] VolumeId),
    File(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Filling", rename_all = "kebab-case")]
struct FillingForm {
    #[serde(with = "form")]
    stage: Stage,
    #[serde(with = "form")]
    at: Bytes,
    #[serde(with = "form")]
    of: Bytes,
    #[serde(with = "form")]
    moved: Bytes,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    since: Option<Since>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    seed: Option<Seed>,
    #[serde(default, skip_serializing_if = "empty")]
    temporary: bool,
    #[serde(default, skip_serializing_if = "empty")]
    keep: bool,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    twin: Option<SnapshotId>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Stage", rename_all = "kebab-case")]
enum StageForm {
    Making,
    Copying,
    Copied,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Since", rename_all = "kebab-case")]
struct SinceForm {
    #[serde(with = "form")]
    base: SnapshotId,
    #[serde(with = "form")]
    twin: SnapshotId,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Seed", rename_all = "kebab-case")]
struct SeedForm {
    generation: u32,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    handle: Option<Handle>,
    #[serde(with = "form")]
    block: Bytes,
    blocks: u64,
    #[serde(default, skip_serializing_if = "empty", with = "octets")]
    digest: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Dependant", rename_all = "kebab-case")]
enum DependantForm {
    Attachment(#[serde(with = "form")] NodeId),
    Snapshot(#[serde(with = "form")] SnapshotId),
    Group(#[serde(with = "form")] GroupId),
    Clone(#[serde(with = "form")] VolumeId),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Tombstone", rename_all = "kebab-case")]
struct TombstoneForm {
    #[serde(with = "form")]
    id: VolumeId,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    what: Buried,
    #[serde(with = "form")]
    backend: BackendName,
    #[serde(with = "form")]
    token: Token,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    handle: Option<Handle>,
    #[serde(with = "form")]
    until: Timestamp,
    #[serde(with = "form")]
    intent: Intent,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Buried", rename_all = "kebab-case")]
enum BuriedForm {
    Volume,
    Snapshot,
}
