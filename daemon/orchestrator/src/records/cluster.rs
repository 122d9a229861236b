//! The stored form of what stands around the volumes: nodes, backends, and the markers of presence indexes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    Marker,
    form::{self, Stored, empty, mirror},
};
use crate::model::{BackendName, BackendRecord, Fingerprint, Node, NodeId, NodeState, Timestamp};

mirror! {
    Node => NodeForm,
    NodeState => NodeStateForm,
    BackendRecord => BackendRecordForm,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Node", rename_all = "kebab-case")]
struct NodeForm {
    #[serde(with = "form")]
    id: NodeId,
    boot_id: String,
    session: u64,
    #[serde(default, skip_serializing_if = "empty")]
    topology: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "empty", with = "form")]
    names: BTreeMap<BackendName, String>,
    #[serde(with = "form")]
    state: NodeState,
    #[serde(default, skip_serializing_if = "empty")]
    drained: bool,
    schema: u16,
    #[serde(with = "form")]
    seen: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "NodeState", rename_all = "kebab-case")]
enum NodeStateForm {
    Live,
    Away(#[serde(with = "form")] Timestamp),
    Down,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "BackendRecord", rename_all = "kebab-case")]
struct BackendRecordForm {
    #[serde(with = "form")]
    name: BackendName,
    #[serde(with = "form")]
    fingerprint: Fingerprint,
    plugin: String,
    #[serde(with = "form")]
    bound: Timestamp,
}

impl Stored for Marker {
    fn write<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.by.as_ref().map(NodeId::as_str).serialize(to)
    }
    fn read<'de, D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let by = Option::<String>::deserialize(from)?;
        let by = by.map(|by| NodeId::parse(&by).map_err(serde::de::Error::custom)).transpose()?;
        Ok(Self { by })
    }
}
