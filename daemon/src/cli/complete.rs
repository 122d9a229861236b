//! Completion in the shell. The shell runs this program with the words so far, and gets the words that may
//! follow; names of volumes, snapshots, groups, classes, backends and plugins are asked of the daemon, which has half a second.
//! The same script serves this program by its other name, dvdcli.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::{
    CompletionCandidate,
    env::{CompleteEnv, Shells},
};
use serde_json::Value as Json;

use super::{Cli, Exit, Failure, Global, client::Client, dvdcli, output::word};
use crate::config::{Sources, load};

/// The variable by which the shell's script says that it wants words, not work.
const VARIABLE: &str = "KATO_COMPLETE";

/// How long a person who pressed a key may be kept waiting.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(super) struct Completion {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let name = match self.shell {
            Shell::Bash => "bash",
            Shell::Zsh => "zsh",
            Shell::Fish => "fish",
        };
        let shells = Shells::builtins();
        let shell = shells
            .completer(name)
            .ok_or_else(|| Failure::new(Exit::Failure, format!("there is no completion for {name}")))?;
        let mut script = Vec::new();
        for name in ["kato", "dvdcli"] {
            shell.write_registration(VARIABLE, name, name, name, &mut script)?;
        }
        global.out().bytes(&script)?;
        Ok(Exit::Ok)
    }
}

/// Answers the shell, if it was the shell that asked.
pub(super) fn answered() -> Result<bool, Failure> {
    let words = std::env::args_os();
    let here = std::env::current_dir().ok();
    let factory = if dvdcli::is_meant() { dvdcli::Alone::command } else { Cli::command };
    CompleteEnv::with_factory(factory)
        .var(VARIABLE)
        .try_complete(words, here.as_deref())
        .map_err(|error| Failure::usage(error.to_string()))
}

pub(super) fn volumes(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/names", typed)
}

pub(super) fn snapshots(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/snapshots", typed)
}

pub(super) fn groups(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/groups", typed)
}

pub(super) fn classes(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/classes", typed)
}

pub(super) fn nodes(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/nodes", typed)
}

pub(super) fn backends(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/backends", typed)
}

/// The parameters that some backend can change, up to their value.
pub(super) fn parameters(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    let items = client().and_then(|client| client.get_within("/v1/backends", PATIENCE)).unwrap_or_default();
    let all =
        |item: &Json, field: &str| item.get(field).and_then(Json::as_array).cloned().unwrap_or_default();
    let parameters = all(&items, "items").into_iter().flat_map(|backend| {
        let plugin = backend.get("plugin").cloned().unwrap_or_default();
        all(&plugin, "parameters")
    });
    let names: std::collections::BTreeSet<String> = parameters
        .filter(|parameter| parameter.get("mutable") == Some(&Json::Bool(true)))
        .map(|parameter| format!("{}=", word(&parameter, "name")))
        .collect();
    names.into_iter().filter(|name| name.starts_with(&typed)).map(CompletionCandidate::new).collect()
}

pub(super) fn plugins(typed: &OsStr) -> Vec<CompletionCandidate> {
    names("/v1/plugins", typed)
}

/// The names that begin as typed; none when the daemon is not there, for a shell has no use for an error.
fn names(path: &str, typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    let items = client().and_then(|client| client.get_within(path, PATIENCE)).unwrap_or_default();
    let items = items.get("items").and_then(Json::as_array).cloned().unwrap_or_default();
    let names = items.iter().map(|item| item.as_str().map_or_else(|| word(item, "name"), str::to_owned));
    names.filter(|name| name.starts_with(&typed)).map(CompletionCandidate::new).collect()
}

/// The daemon of the command line so far: what it names by --socket and --config is not read yet, but the
/// environment is.
fn client() -> Result<Client, Failure> {
    let words: Vec<String> = std::env::args_os().filter_map(|word| word.into_string().ok()).collect();
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).map(PathBuf::from)
    };
    let global = Sources::here(after("--config"), Vec::new());
    let named = after("--socket").or_else(|| global.environment.get("KATO_SOCKET").map(PathBuf::from));
    let file = global.file.clone().or_else(|| global.environment.get("KATO_CONFIG").map(PathBuf::from));
    let socket = match named {
        Some(socket) => socket,
        None => load(&Sources { file, ..global })
            .map_or_else(|_| PathBuf::from("/run/kato/admin.sock"), |config| config.admin.socket),
    };
    Client::new(socket, None)
}
