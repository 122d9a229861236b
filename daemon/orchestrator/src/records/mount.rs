//! The stored form of what a node has of a volume: its attachment, its mount, the publications of those who hold it,
//! and what it may still have of one that was taken from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::form::{self, empty, mirror};
use crate::model::{
    Attachment, AttachmentState, Caller, Connection, Fence, Hold, HolderId, Intent, LostMount, Mount,
    MountState, NodeId, Publication, PublicationState, Purpose, Target, Timestamp, VolumeId, VolumeName,
};

mirror! {
    Attachment => AttachmentForm,
    AttachmentState => AttachmentStateForm,
    Hold => HoldForm,
    Fence => FenceForm,
    Mount => MountForm,
    LostMount => LostMountForm,
    MountState => MountStateForm,
    Publication => PublicationForm,
    PublicationState => PublicationStateForm,
    Purpose => PurposeForm,
    Target => TargetForm,
    Caller => CallerForm,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Attachment", rename_all = "kebab-case")]
struct AttachmentForm {
    #[serde(with = "form")]
    volume: VolumeId,
    #[serde(with = "form")]
    node: NodeId,
    #[serde(with = "form")]
    state: AttachmentState,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    connection: Option<Connection>,
    #[serde(default, skip_serializing_if = "empty")]
    client: Option<String>,
    #[serde(default, skip_serializing_if = "empty")]
    fencing_token: u64,
    #[serde(default, skip_serializing_if = "empty")]
    read_only: bool,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    hold: Hold,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    fence: Fence,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    intent: Option<Intent>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "AttachmentState", rename_all = "kebab-case")]
enum AttachmentStateForm {
    Attaching,
    Attached,
    Detaching,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Hold", rename_all = "kebab-case")]
enum HoldForm {
    WithMount,
    Asked,
    Lent,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Fence", rename_all = "kebab-case")]
enum FenceForm {
    Unneeded,
    Wished,
    Done,
    Unproven,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Mount", rename_all = "kebab-case")]
struct MountForm {
    #[serde(with = "form")]
    volume: VolumeId,
    #[serde(with = "form")]
    node: NodeId,
    #[serde(with = "form")]
    state: MountState,
    boot_id: String,
    #[serde(default, skip_serializing_if = "empty")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "empty")]
    device: Option<String>,
    #[serde(default, skip_serializing_if = "empty")]
    read_only: bool,
    #[serde(default, skip_serializing_if = "empty")]
    raw: bool,
    #[serde(default, skip_serializing_if = "empty")]
    options: Vec<String>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    idle_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "empty")]
    fs_behind: bool,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    intent: Option<Intent>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "LostMount", rename_all = "kebab-case")]
struct LostMountForm {
    #[serde(with = "form")]
    name: VolumeName,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    connection: Option<Connection>,
    #[serde(with = "form")]
    mount: Mount,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    holders: BTreeMap<HolderId, Publication>,
    #[serde(with = "form")]
    since: Timestamp,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    intent: Option<Intent>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "MountState", rename_all = "kebab-case")]
enum MountStateForm {
    Mounting,
    Mounted,
    Broken(String),
    Unmounting,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Publication", rename_all = "kebab-case")]
struct PublicationForm {
    #[serde(with = "form")]
    volume: VolumeId,
    #[serde(with = "form")]
    node: NodeId,
    #[serde(with = "form")]
    holder: HolderId,
    count: u32,
    #[serde(with = "form")]
    target: Target,
    #[serde(default, skip_serializing_if = "empty")]
    read_only: bool,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    purpose: Purpose,
    #[serde(default, skip_serializing_if = "empty")]
    alone: bool,
    #[serde(default, skip_serializing_if = "empty")]
    group: Option<u32>,
    #[serde(with = "form")]
    state: PublicationState,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    caller: Option<Caller>,
    #[serde(with = "form")]
    since: Timestamp,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    doubtful_since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    intent: Option<Intent>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Purpose", rename_all = "kebab-case")]
enum PurposeForm {
    Use,
    Stage,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Target", rename_all = "kebab-case")]
enum TargetForm {
    Shared,
    Path(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PublicationState", rename_all = "kebab-case")]
enum PublicationStateForm {
    Publishing,
    Published,
    Leaving,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Caller", rename_all = "kebab-case")]
struct CallerForm {
    pid: u32,
    started: u64,
}
