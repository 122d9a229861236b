//! The stored form of a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::form::{self, empty, mirror};
use crate::model::{
    BackendName, Bytes, ClassName, Filesystem, Handle, Intent, NodeId, Place, Snapshot, SnapshotId,
    SnapshotName, SnapshotState, Timestamp, Token, VolumeId, VolumeName,
};

mirror! {
    Snapshot => SnapshotForm,
    SnapshotState => SnapshotStateForm,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Snapshot", rename_all = "kebab-case")]
struct SnapshotForm {
    #[serde(with = "form")]
    id: SnapshotId,
    #[serde(with = "form")]
    name: SnapshotName,
    #[serde(with = "form")]
    volume: VolumeId,
    #[serde(with = "form")]
    volume_name: VolumeName,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    volume_handle: Option<Handle>,
    #[serde(with = "form")]
    class: ClassName,
    #[serde(with = "form")]
    backend: BackendName,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    seat: Option<NodeId>,
    #[serde(default, skip_serializing_if = "empty")]
    generation: u32,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    made_as: Option<Token>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    group: Option<Place>,
    #[serde(default, skip_serializing_if = "empty")]
    parameters: BTreeMap<String, String>,
    #[serde(with = "form")]
    size: Bytes,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    handle: Option<Handle>,
    #[serde(with = "form")]
    state: SnapshotState,
    #[serde(with = "form")]
    filesystem: Filesystem,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    dependants: BTreeSet<VolumeId>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    cut: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    held_still: Option<Duration>,
    #[serde(with = "form")]
    created: Timestamp,
    #[serde(default, skip_serializing_if = "empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    intent: Option<Intent>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SnapshotState", rename_all = "kebab-case")]
enum SnapshotStateForm {
    Creating,
    Cut,
    Ready,
    Deleting,
}
