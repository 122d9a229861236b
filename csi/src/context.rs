//! What the two contexts say: a volume's, which its owner keeps for as long as it is, and an attachment's, which lasts as
//! long as that. Together they tell a node that has never heard of the volume, and that may not reach its backend,
//! all that it needs to have it mounted.

use std::collections::BTreeMap;

use kato_orchestrator::{
    Error,
    model::{Bytes, ClassName, DataRoot, Filesystem, FsState, FsType, Token, Volume, VolumeName},
    ops::{AttachedVolume, Loan},
};

use crate::{
    connection,
    door::Door,
    seal::{ContextKind, OURS},
};

type Words = BTreeMap<String, String>;

/// What Kubernetes says of a pod that brings a volume of its own.
pub(crate) const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// What goes with a volume for as long as it is. The same volume always has the same words.
pub(crate) fn of_volume(door: &Door, id: &str, volume: &Volume) -> Result<Words, Error> {
    let mut words = Words::new();
    let mut word = |name: &str, value: &str| drop(words.insert(format!("{OURS}{name}"), value.to_owned()));
    word("class", volume.class.as_str());
    word("name", volume.name.as_str());
    word("token", volume.token(door.orchestrator.cluster()).as_str());
    word("fs", volume.filesystem.fs.name());
    let root = &volume.filesystem.root;
    word("data-root", root.directory.as_deref().unwrap_or("/"));
    for (name, value) in [("uid", root.uid), ("gid", root.gid), ("mode", root.mode)] {
        if let Some(value) = value {
            word(name, &value.to_string());
        }
    }
    if !volume.filesystem.mount_options.is_empty() {
        word("mount-options", &volume.filesystem.mount_options.join("\n"));
    }
    door.config.seal.seal(ContextKind::Volume, id, words)
}

/// What goes with an attachment.
pub(crate) fn of_attachment(door: &Door, id: &str, attached: &AttachedVolume) -> Result<Words, Error> {
    let missing = || Error::internal("the volume is attached, but nothing says how it is reached");
    let mut words = connection::to_wire(attached.attachment.connection.as_ref().ok_or_else(missing)?);
    let mut word = |name: &str, value: &str| drop(words.insert(format!("{OURS}{name}"), value.to_owned()));
    let (volume, attachment) = (&attached.volume, &attached.attachment);
    word("size", &volume.actual.unwrap_or_default().0.to_string());
    word("begun", if volume.filesystem.state == FsState::Blank { "no" } else { "yes" });
    if let Some(client) = &attachment.client {
        word("client", client);
    }
    door.config.seal.seal(ContextKind::Publish, id, words)
}

/// Refuses a context of a volume that is not as it was answered. One without any word of ours is of somebody who wrote
/// down the id alone.
pub(crate) fn check(door: &Door, id: &str, context: &Words) -> Result<(), Error> {
    match context.keys().any(|key| key.starts_with(OURS)) {
        true => door.config.seal.open(ContextKind::Volume, id, context).map(drop),
        false => Ok(()),
    }
}

/// What a node is told of a volume that somebody else looks after; nothing where it has to attach it by itself.
pub(crate) fn loan(
    door: &Door,
    id: &str,
    volume_context: &Words,
    publish_context: &Words,
) -> Result<Option<Loan>, Error> {
    check(door, id, volume_context)?;
    if publish_context.is_empty() {
        return Ok(None);
    }
    let volume = door.config.seal.open(ContextKind::Volume, id, volume_context)?;
    let publish = door.config.seal.open(ContextKind::Publish, id, publish_context)?;
    let word = |words: &Words, name: &str| words.get(&format!("{OURS}{name}")).cloned().unwrap_or_default();
    let number = |name: &str| volume.get(&format!("{OURS}{name}")).and_then(|text| text.parse().ok());
    let directory = word(&volume, "data-root");
    Ok(Some(Loan {
        connection: connection::from_wire(&publish)?,
        client: publish.get(&format!("{OURS}client")).cloned(),
        name: VolumeName::parse(&word(&volume, "name"))?,
        token: Token::parse(&word(&volume, "token"))?,
        class: ClassName::parse(&word(&volume, "class"))?,
        size: Bytes(word(&publish, "size").parse().unwrap_or_default()),
        filesystem: Filesystem {
            fs: FsType::parse(&word(&volume, "fs"))?,
            state: if word(&publish, "begun") == "no" { FsState::Blank } else { FsState::Formatted },
            mount_options: word(&volume, "mount-options")
                .split('\n')
                .filter(|option| !option.is_empty())
                .map(str::to_owned)
                .collect(),
            root: DataRoot {
                directory: (directory != "/").then_some(directory),
                uid: number("uid"),
                gid: number("gid"),
                mode: number("mode"),
            },
        },
    }))
}
