//! `kato plugin`: what a component is, asks for and may do, and which are installed.

use std::{fs, path::PathBuf};

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use serde_json::Value as Json;

use super::{
    Exit, Failure, Global,
    client::encode,
    complete, each,
    filter::{self, Filter},
    list::List,
    output::{Column, column, wide, word},
    volume::{done, size},
};
use crate::plugins;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the plugins that are built in or installed
    #[command(visible_alias = "list")]
    Ls {
        /// Only these: name= (with * for anything), origin=, version=, offers=, used-by=, used=true or false
        #[arg(long, short, value_name = "KEY=VALUE")]
        filter: Vec<String>,
    },
    /// Tell everything about a plugin: what it is, what it asks for, and what it was granted
    #[command(alias = "get")]
    Inspect {
        /// A file, or the name or digest of a plugin
        #[arg(add = ArgValueCompleter::new(complete::plugins))]
        plugin: String,
    },
    /// Install a component, pinned by its digest
    Install {
        /// The component's file
        file: PathBuf,
    },
    /// Remove installed plugins
    #[command(visible_alias = "rm")]
    Remove {
        /// By name or digest
        #[arg(required = true, add = ArgValueCompleter::new(complete::plugins))]
        plugins: Vec<String>,
    },
}

const COLUMNS: &[Column] = &[
    column("NAME", |plugin| word(plugin, "name")),
    column("VERSION", |plugin| word(plugin, "version")),
    column("ORIGIN", |plugin| word(plugin, "origin")),
    column("USED BY", |plugin| words(plugin, "used_by")),
    column("OFFERS", |plugin| words(plugin, "offers")),
    wide("SIZE", |plugin| size(plugin, "size_bytes")),
    wide("DIGEST", |plugin| word(plugin, "digest")),
];

fn words(item: &Json, field: &str) -> String {
    let words = item.get(field).and_then(Json::as_array).into_iter().flatten();
    words.filter_map(Json::as_str).collect::<Vec<_>>().join(",")
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Ls { filter } => {
                let filters = Filter::all(&filter, filter::PLUGINS)?;
                let list = List { place: "/v1/plugins", noun: "plugin", columns: COLUMNS, filters: &filters };
                return list.show(global, &global.client()?);
            }
            Self::Inspect { plugin } => global.out().things(vec![inspect(global, &plugin)?])?,
            Self::Install { file } => {
                let bytes = read(&file)?;
                // Looked at here first, so that what is no component never travels.
                plugins::describe(&bytes)?;
                let installed = global.client()?.send("/v1/plugins", bytes)?;
                return done(global, installed);
            }
            Self::Remove { plugins } => {
                let client = global.client()?;
                return each(&plugins, |plugin| {
                    global.confirm(&format!("Removes plugin {plugin}."), plugin)?;
                    client.delete(&format!("/v1/plugins/{}", encode(plugin)))?;
                    global.out().text(&format!("{plugin}\n"))
                });
            }
        }
        Ok(Exit::Ok)
    }
}

/// A file is looked at without any daemon.
fn inspect(global: &Global, plugin: &str) -> Result<Json, Failure> {
    let is_file = plugin.contains('/') || plugin.ends_with(".wasm");
    if is_file {
        return Ok(plugins::describe(&read(&PathBuf::from(plugin))?)?);
    }
    global.client()?.get(&format!("/v1/plugins/{}", encode(plugin)))
}

fn read(file: &PathBuf) -> Result<Vec<u8>, Failure> {
    fs::read(file).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::PermissionDenied => Exit::Permission,
            _ => Exit::Failure,
        };
        Failure::new(exit, format!("{} cannot be read: {error}", file.display()))
    })
}
