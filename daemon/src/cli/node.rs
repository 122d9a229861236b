//! `kato node`: which hosts share the records and what they hold, what this one can connect to, and what a person decides
//! about a host: that nothing new goes there, or that it is surely down.

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    client::encode,
    complete,
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
    /// Mount nothing new on a host, and tell what still holds it
    Drain {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        name: String,
    },
    /// Let a host have new mounts again
    Undrain {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        name: String,
    },
    /// Say that a host is down, after making sure: what it has is mounted elsewhere, where nobody could cut it off
    ConfirmDown {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::nodes))]
        name: String,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |node| word(node, "name")),
    column("STATE", |node| match word(node, "drained") == "true" {
        true => format!("{}, drained", word(node, "state")),
        false => word(node, "state"),
    }),
    column("MOUNTS", |node| word(node, "mounts")),
    column("LOST", |node| word(node, "mounts_lost")),
    column("HOLDERS", |node| words(node, "holders", "; ")),
    wide("SESSION", |node| word(node, "session")),
    wide("PLACE", |node| {
        let place = node.get("topology").and_then(Json::as_object).into_iter().flatten();
        let shown = place.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        shown.collect::<Vec<_>>().join(",")
    }),
];

fn words(node: &Json, key: &str, between: &str) -> String {
    let all = node.get(key).and_then(Json::as_array).into_iter().flatten();
    all.filter_map(Json::as_str).collect::<Vec<_>>().join(between)
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        let place = |name: &str, verb: &str| format!("/v1/nodes/{}/{verb}", encode(name));
        let node = match self {
            Self::Ls => {
                global.out().list(&client.list("/v1/nodes")?, COLUMNS)?;
                return Ok(Exit::Ok);
            }
            Self::Inspect => {
                let mut node = client.get("/v1/node")?;
                if let Some(map) = node.as_object_mut()
                    && let Some(id) = map.get("id").cloned()
                {
                    map.insert("name".to_owned(), id);
                }
                global.out().things(vec![node])?;
                return Ok(Exit::Ok);
            }
            Self::Drain { name } => client.post(&place(&name, "drain"), &json!({}))?,
            Self::Undrain { name } => client.delete(&place(&name, "drain"))?,
            Self::ConfirmDown { name } => {
                let what = format!(
                    "Everything that node {name} has may be mounted elsewhere from now on. If it still writes, data is lost."
                );
                global.confirm(&what, &name)?;
                client.post(&place(&name, "confirm-down"), &json!({}))?
            }
        };
        global.out().list(&[node], COLUMNS)?;
        Ok(Exit::Ok)
    }
}
