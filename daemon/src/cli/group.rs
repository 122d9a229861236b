//! `kato group`: snapshots of several volumes at one moment, which come and go together.

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    client::encode,
    complete, each,
    list::List,
    output::{Column, column, wide, word},
    pairs,
    volume::{done, size},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Cut snapshots of several volumes at one moment, all of them or none
    Create {
        /// What to call the group
        name: String,
        /// Of which volumes; all in one backend
        #[arg(required = true, add = ArgValueCompleter::new(complete::volumes))]
        volumes: Vec<String>,
        /// What to write on each snapshot
        #[arg(long = "label", short, value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// What the backend is told
        #[arg(long = "parameter", short, value_name = "KEY=VALUE")]
        parameters: Vec<String>,
    },
    /// List groups
    #[command(visible_alias = "list")]
    Ls,
    /// Tell everything about groups and their snapshots
    #[command(alias = "get")]
    Inspect {
        /// Which
        #[arg(required = true, add = ArgValueCompleter::new(complete::groups))]
        names: Vec<String>,
    },
    /// Remove groups, with all of their snapshots
    #[command(visible_alias = "delete", alias = "remove")]
    Rm {
        /// Which
        #[arg(required = true, add = ArgValueCompleter::new(complete::groups))]
        names: Vec<String>,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |group| word(group, "name")),
    column("STATE", |group| word(group, "state")),
    column("SNAPSHOTS", |group| word(group, "members")),
    column("SIZE", |group| size(group, "size_bytes")),
    column("BACKEND", |group| word(group, "backend")),
    column("CUT", |group| word(group, "cut").get(..19).unwrap_or_default().replace('T', " ")),
    wide("ID", |group| word(group, "id")),
];

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        let place = |name: &str| format!("/v1/groups/{}", encode(name));
        match self {
            Self::Create { name, volumes, labels, parameters } => {
                let body = json!({
                    "name": name,
                    "volumes": volumes,
                    "labels": pairs(&labels)?,
                    "parameters": pairs(&parameters)?,
                });
                done(global, client.post("/v1/groups", &body)?)
            }
            Self::Ls => List { place: "/v1/groups", noun: "group", columns: COLUMNS, filters: &[] }
                .show(global, &client),
            Self::Inspect { names } => {
                let mut found = Vec::new();
                let exit = each(&names, |name| {
                    found.push(client.get(&place(name))?);
                    Ok(())
                });
                if !found.is_empty() {
                    global.out().things(found)?;
                }
                exit
            }
            Self::Rm { names } => each(&names, |name| {
                global.confirm(&format!("Destroys all snapshots of the group {name}."), name)?;
                client.delete(&place(name))?;
                global.out().text(&format!("{name}\n"))
            }),
        }
    }
}
