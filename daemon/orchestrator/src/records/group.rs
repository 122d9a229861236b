//! The stored form of a group of snapshots, and of a snapshot's place in one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::form::{self, empty, mirror};
use crate::model::{
    BackendName, Group, GroupId, GroupName, GroupState, Handle, Intent, Member, NodeId, Place, SnapshotId,
    Timestamp, Token, VolumeId,
};

mirror! {
    Group => GroupForm,
    GroupState => GroupStateForm,
    Member => MemberForm,
    Place => PlaceForm,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Group", rename_all = "kebab-case")]
struct GroupForm {
    #[serde(with = "form")]
    id: GroupId,
    #[serde(with = "form")]
    name: GroupName,
    #[serde(with = "form")]
    backend: BackendName,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    seat: Option<NodeId>,
    #[serde(default, skip_serializing_if = "empty")]
    generation: u32,
    #[serde(with = "form")]
    members: Vec<Member>,
    #[serde(with = "form")]
    state: GroupState,
    #[serde(default, skip_serializing_if = "empty")]
    parameters: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "empty")]
    labels: BTreeMap<String, String>,
    #[serde(with = "form")]
    created: Timestamp,
    #[serde(with = "form")]
    intent: Intent,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "GroupState", rename_all = "kebab-case")]
enum GroupStateForm {
    Creating,
    Deleting,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Member", rename_all = "kebab-case")]
struct MemberForm {
    #[serde(with = "form")]
    volume: VolumeId,
    #[serde(with = "form")]
    snapshot: SnapshotId,
    #[serde(with = "form")]
    token: Token,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    handle: Option<Handle>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Place", rename_all = "kebab-case")]
struct PlaceForm {
    #[serde(with = "form")]
    group: GroupId,
    name: String,
    index: u8,
    of: u8,
}
