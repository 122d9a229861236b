//! The words about copies from one backend to another.

use std::collections::BTreeMap;

use kato_orchestrator::{
    Error,
    model::{ClassName, Filling, Stage, VolumeName},
    ops::CopyVolume,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Size, body, range};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CopyWish {
    name: String,
    class: String,
    size: Option<Size>,
    limit: Option<Size>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    keep: bool,
}

/// The wish for a copy of this volume.
pub(crate) fn copy_from_wire(name: VolumeName, bytes: &[u8]) -> Result<CopyVolume, Error> {
    let wish: CopyWish = body(bytes)?;
    Ok(CopyVolume {
        source: name.into(),
        name: VolumeName::parse(&wish.name)?,
        class: ClassName::parse(&wish.class)?,
        size: range(wish.size.as_ref(), wish.limit.as_ref())?,
        parameters: wish.parameters,
        labels: wish.labels,
        keep: wish.keep,
    })
}

/// How far a copy from another backend has come.
pub(super) fn filling_to_wire(filling: &Filling) -> Json {
    json!({
        "stage": match filling.stage {
            Stage::Making => "making",
            Stage::Copying => "copying",
            Stage::Copied => "copied",
        },
        "at_bytes": filling.at.0,
        "of_bytes": filling.of.0,
        "moved_bytes": filling.moved.0,
        "only_changes": filling.since.is_some(),
    })
}
