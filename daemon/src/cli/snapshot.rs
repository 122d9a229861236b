//! `kato snapshot`: cutting, finding and removing snapshots.

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use serde_json::json;

use super::{
    Exit, Failure, Global,
    client::encode,
    complete, each,
    export::{Export, Import},
    filter::{self, Filter},
    list::List,
    output::{Column, column, wide, word},
    pairs,
    volume::{done, size},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Cut a snapshot of a volume
    Create {
        /// Of which volume
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        volume: String,
        /// What to call it
        name: String,
        /// What to write on it
        #[arg(long = "label", short, value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// What the backend is told
        #[arg(long = "parameter", short, value_name = "KEY=VALUE")]
        parameters: Vec<String>,
        /// Come back as soon as its moment is fixed, before volumes can be made from it
        #[arg(long)]
        no_wait: bool,
    },
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls {
        /// Only those of this volume
        #[arg(long, add = ArgValueCompleter::new(complete::volumes))]
        volume: Option<String>,
        /// Only these: state=, volume=, class=, backend=, name= (with * for anything), label=KEY or label=KEY=VALUE
        #[arg(long, short, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// Go on and print each snapshot that changes
        #[arg(long, short)]
        watch: bool,
    },
    /// Tell everything about snapshots
    #[command(alias = "get")]
    Inspect {
        /// Which
        #[arg(required = true, add = ArgValueCompleter::new(complete::snapshots))]
        names: Vec<String>,
    },
    /// Write a snapshot into a file, or into a pipe
    Export(Export),
    /// Make a volume of what a snapshot was exported to
    Import(Import),
    /// Remove snapshots
    #[command(visible_alias = "delete", alias = "remove")]
    Rm {
        /// Which
        #[arg(required = true, add = ArgValueCompleter::new(complete::snapshots))]
        names: Vec<String>,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |snapshot| word(snapshot, "name")),
    column("STATE", |snapshot| word(snapshot, "state")),
    column("VOLUME", |snapshot| word(snapshot, "volume")),
    column("SIZE", |snapshot| size(snapshot, "size_bytes")),
    column("BACKEND", |snapshot| word(snapshot, "backend")),
    column("CUT", |snapshot| word(snapshot, "cut").get(..19).unwrap_or_default().replace('T', " ")),
    wide("CLASS", |snapshot| word(snapshot, "class")),
    wide("ID", |snapshot| word(snapshot, "id")),
];

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        let place = |name: &str| format!("/v1/snapshots/{}", encode(name));
        match self {
            Self::Create { volume, name, labels, parameters, no_wait } => {
                let body = json!({
                    "name": name,
                    "volume": volume,
                    "labels": pairs(&labels)?,
                    "parameters": pairs(&parameters)?,
                    "until_ready": !no_wait,
                });
                done(global, client.post("/v1/snapshots", &body)?)
            }
            Self::Ls { volume, mut filter, watch } => {
                filter.extend(volume.map(|volume| format!("volume={volume}")));
                let filters = Filter::all(&filter, filter::SNAPSHOTS)?;
                let list =
                    List { place: "/v1/snapshots", noun: "snapshot", columns: COLUMNS, filters: &filters };
                if watch { list.watch(global, &client) } else { list.show(global, &client) }
            }
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
            Self::Export(wish) => wish.run(global, &client),
            Self::Import(wish) => wish.run(global, &client),
            Self::Rm { names } => each(&names, |name| {
                global.confirm(&format!("Destroys snapshot {name}."), name)?;
                client.get(&place(name))?;
                client.delete(&place(name))?;
                global.out().text(&format!("{name}\n"))
            }),
        }
    }
}
