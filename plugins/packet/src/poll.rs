//! Waiting, and how much of it stands, for few requests: one list of the project answers for all that are being made. What
//! else waits has nothing that could be looked up for many, and is asked again itself.
//!
//! A `resume` is two words: what is done, and the id that it is about or the time when it was asked for. Everything else
//! is read off the cloud.

use std::fmt::Display;

use kato_plugin_sdk::{
    http::Transport,
    polling::{Asking, Standing},
    types::{Error, Pending},
};

use crate::api::Cloud;

/// When to ask again. It is the same for all, so that they come together.
const BEAT_MS: u64 = 2_000;

/// The answer that something goes on.
pub(crate) fn pending(resume: impl Display, note: impl Into<String>) -> Pending {
    Pending { resume: resume.to_string().into_bytes(), retry_after_ms: BEAT_MS, note: note.into() }
}

/// The same, of a volume that is being made.
pub(crate) fn making(id: &str, state: &str) -> Pending {
    pending(format!("making {id}"), format!("the volume {id} is {state}"))
}

/// The word behind another one in a `resume`.
pub(crate) fn word<'a>(resume: &'a [u8], doing: &str) -> Option<&'a str> {
    std::str::from_utf8(resume).ok()?.strip_prefix(doing)?.strip_prefix(' ')
}

/// How this work stands.
pub(crate) fn poll<T: Transport>(cloud: &Cloud<T>, askings: &[Asking]) -> Result<Vec<Standing>, Error> {
    let makings: Vec<_> = askings.iter().map(|asking| word(&asking.resume, "making")).collect();
    let volumes = if makings.iter().any(Option::is_some) { cloud.volumes()? } else { Vec::new() };
    let standing = |id: &Option<&str>| {
        let volume = id.and_then(|id| volumes.iter().find(|volume| volume.id == id));
        match volume.filter(|volume| !volume.is_active()) {
            Some(volume) => Standing::Still(making(&volume.id, &volume.state)),
            None => Standing::Ready,
        }
    };
    Ok(makings.iter().map(standing).collect())
}
