//! `kato backend`: what is configured, whether it can be used, and the word of a person that it is to be
//! believed although it is another than before.

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use serde_json::{Value as Json, json};

use super::{
    Exit, Failure, Global,
    client::encode,
    complete,
    filter::{self, Filter},
    list::List,
    output::{Column, column, wide, word},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List backends
    #[command(visible_alias = "list")]
    Ls {
        /// Only these: name= (with * for anything), plugin=, ability=, usable=true or false
        #[arg(long, short, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Tell everything about a backend
    #[command(alias = "get")]
    Inspect {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::backends))]
        name: String,
    },
    /// Believe a backend although it is another than the one that was used before
    Rebind {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::backends))]
        name: String,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |backend| word(backend, "name")),
    column("USABLE", |backend| if word(backend, "usable") == "true" { "yes".into() } else { "no".into() }),
    column("PLUGIN", |backend| backend.get("plugin").map(|plugin| word(plugin, "name")).unwrap_or_default()),
    column("VERSION", |backend| {
        backend.get("plugin").map(|plugin| word(plugin, "version")).unwrap_or_default()
    }),
    column("ABILITIES", |backend| {
        let abilities = backend.get("plugin").and_then(|plugin| plugin.get("abilities"));
        let abilities = abilities.and_then(Json::as_array).into_iter().flatten();
        abilities.filter_map(Json::as_str).collect::<Vec<_>>().join(",")
    }),
    column("NOTE", |backend| match backend.get("problem") {
        Some(problem) => word(problem, "detail"),
        None => match backend.get("health").map(health).unwrap_or_default() {
            unwell if unwell.is_empty() => word(backend, "note"),
            unwell => unwell,
        },
    }),
    wide("IS", |backend| word(backend, "fingerprint")),
    wide("WAS", |backend| backend.get("bound").map(|bound| word(bound, "fingerprint")).unwrap_or_default()),
];

/// What does not go well with a backend's volumes, in few words.
fn health(said: &Json) -> String {
    match (said.get("problem"), said.get("complaints").and_then(Json::as_u64)) {
        (Some(_), _) => "cannot say how its volumes are".to_owned(),
        (None, None | Some(0)) => String::new(),
        (None, Some(1)) => "1 volume is unwell".to_owned(),
        (None, Some(many)) => format!("{many} volumes are unwell"),
    }
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        let place = |name: &str| format!("/v1/backends/{}", encode(name));
        match self {
            Self::Ls { filter } => {
                let filters = Filter::all(&filter, filter::BACKENDS)?;
                let list =
                    List { place: "/v1/backends", noun: "backend", columns: COLUMNS, filters: &filters };
                return list.show(global, &client);
            }
            Self::Inspect { name } => global.out().things(vec![client.get(&place(&name))?])?,
            Self::Rebind { name } => {
                let what = format!(
                    "What backend {name} says is believed from now on: volumes that it does not have count as lost."
                );
                global.confirm(&what, &name)?;
                let view = client.post(&format!("{}/rebind", place(&name)), &json!({}))?;
                global.out().things(vec![view])?;
            }
        }
        Ok(Exit::Ok)
    }
}
