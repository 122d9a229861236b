//! Between the contract's words and what lies in the pool.

use kato_plugin_sdk::{
    capacity::{self, spell},
    types::{Connection, Error, Rbd, Snapshot, Volume},
};

use crate::{
    answers::{Cut, Image},
    config::{Config, FEATURES},
    error,
    make::New,
    marks::Marks,
    names::{self, Token},
};

/// What stands for a source in a mark that was lost and written again.
pub(crate) const UNKNOWN: &str = "?";

/// Whether the image that is there is what is wished for.
pub(crate) fn satisfies(new: &New<'_>, image: &Image, marks: &Marks) -> Result<(), Error> {
    let other = |why: &str| Err(error::other_wish(new.token, why));
    let mark = marks.of(new.token.as_str());
    match &mark {
        Some(mark) if mark.source != new.mark.source && mark.source != UNKNOWN => {
            return other("it was made from something else");
        }
        None if new.mark.source.is_empty() && image.parent.is_some() => return other("it is a clone"),
        _ => {}
    }
    if mark.is_some() && marks.days() != new.parameters.trash_days {
        return other(&format!("it has trash-days={}", marks.days()));
    }
    let [all, ..] = FEATURES;
    let wanted = |feature: &str| new.parameters.features.split(',').any(|one| one == feature);
    if all.split(',').any(|feature| wanted(feature) != image.features.iter().any(|one| one == feature)) {
        return other(&format!("its features are {}", image.features.join(",")));
    }
    if new.parameters.data_pool.is_some() && new.parameters.data_pool != image.data_pool {
        return other("its data lie in another pool");
    }
    if !capacity::admits(new.size, image.size) {
        return other(&format!("its size is {}", spell(image.size)));
    }
    Ok(())
}

/// A volume that was made or found, as the host sees it.
pub(crate) fn volume(token: &Token, size: u64, days: u64, mark: String, attached: Vec<String>) -> Volume {
    Volume {
        handle: names::volume_handle(token.as_str(), days),
        size_bytes: size,
        mark,
        token: Some(token.to_string()),
        connection: None,
        attached: Some(attached),
        topology: Vec::new(),
        parameters: None,
    }
}

/// How a node reaches a volume.
pub(crate) fn connection(config: &Config, token: &Token) -> Connection {
    Connection::Rbd(Rbd {
        pool: config.pool.clone(),
        namespace: config.namespace.clone(),
        image: token.to_string(),
        snapshot: None,
    })
}

/// How a node reads a snapshot.
pub(crate) fn snapshot_connection(config: &Config, image: &str, token: &Token) -> Connection {
    Connection::Rbd(Rbd {
        pool: config.pool.clone(),
        namespace: config.namespace.clone(),
        image: image.to_owned(),
        snapshot: Some(token.to_string()),
    })
}

/// A snapshot, as the host sees it.
pub(crate) fn snapshot(id: &str, cut: &Cut, volume: Option<String>, mark: String) -> Snapshot {
    Snapshot {
        handle: names::snapshot_handle(id, &cut.name),
        volume,
        size_bytes: cut.size,
        cut_ms: None,
        ready: true,
        mark,
        token: Some(cut.name.clone()),
    }
}
