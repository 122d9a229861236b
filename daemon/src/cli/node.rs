//! `kato node`: what this host is, what it can connect to, and how much it has to do.

use clap::Subcommand;
use serde_json::Value as Json;

use super::{
    Exit, Failure, Global,
    output::{Column, column, wide, word},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the hosts that share the records: with the records on this host's disk, this one
    #[command(visible_alias = "list")]
    Ls,
    /// Tell everything about this host
    #[command(alias = "get")]
    Inspect,
}

const COLUMNS: &[Column] = &[
    column("NAME", |node| word(node, "name")),
    column("HOSTNAME", |node| word(node, "hostname")),
    column("VERSION", |node| word(node, "version")),
    column("VOLUMES", |node| word(node, "volumes")),
    column("MOUNTS", |node| word(node, "mounts")),
    column("AT WORK", |node| word(node, "intents")),
    wide("CONNECTS", |node| {
        let connectors = node.get("connectors").and_then(Json::as_array).into_iter().flatten();
        let works = connectors.filter(|one| word(one, "works") == "true").map(|one| word(one, "name"));
        works.collect::<Vec<_>>().join(",")
    }),
];

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let mut node = global.client()?.get("/v1/node")?;
        if let Some(map) = node.as_object_mut()
            && let Some(id) = map.get("id").cloned()
        {
            map.insert("name".to_owned(), id);
        }
        match self {
            Self::Ls => global.out().list(&[node], COLUMNS)?,
            Self::Inspect => global.out().things(vec![node])?,
        }
        Ok(Exit::Ok)
    }
}
