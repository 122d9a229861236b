//! `kato class`: the recipes by which volumes are made. They are configuration, so here they are only shown.

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use serde_json::Value as Json;

use super::{
    Exit, Failure, Global,
    client::encode,
    complete,
    filter::{self, Filter},
    list::List,
    output::{Column, column, wide, word},
    volume::size,
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List classes
    #[command(visible_alias = "list")]
    Ls {
        /// Only these: name= (with * for anything), backend=, fs=, default=true or false
        #[arg(long, short, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Tell everything about a class
    #[command(alias = "get")]
    Inspect {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::classes))]
        name: String,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |class| word(class, "name")),
    column(
        "DEFAULT",
        |class| if word(class, "default") == "true" { "yes".to_owned() } else { String::new() },
    ),
    column("BACKEND", |class| word(class, "backend")),
    column("FS", |class| word(class, "fs")),
    column("SIZE", |class| size(class, "default_size_bytes")),
    column("AT MOST", |class| size(class, "max_size_bytes")),
    wide("RETAIN", |class| word(class, "retain")),
    wide("PARAMETERS", |class| {
        let parameters = class.get("parameters").and_then(Json::as_object).into_iter().flatten();
        let shown = parameters.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
        shown.collect::<Vec<_>>().join(",")
    }),
];

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        match self {
            Self::Ls { filter } => {
                let filters = Filter::all(&filter, filter::CLASSES)?;
                let list = List { place: "/v1/classes", noun: "class", columns: COLUMNS, filters: &filters };
                return list.show(global, &client);
            }
            Self::Inspect { name } => {
                global.out().things(vec![client.get(&format!("/v1/classes/{}", encode(&name)))?])?;
            }
        }
        Ok(Exit::Ok)
    }
}
