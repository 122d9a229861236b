//! `kato store`: all records as lines of JSON, out and in. A running daemon is asked for them; a stopped one's
//! are read from its folder, under the same lock that the daemon takes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::PathBuf,
};

use clap::Subcommand;
use kato_orchestrator::{Error, Kind};

use super::{Exit, Failure, Global};
use crate::{
    clock::RandomIds,
    config::{Config, StoreKind, load},
    folder::Folder,
    journal::{self, Journal},
};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write all records as lines of JSON
    Dump {
        /// Into this file instead of standard output
        #[arg(long, short, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make the records of a stopped daemon from a dump; it has to have none yet
    Load {
        /// The dump, - for standard input
        file: PathBuf,
    },
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Dump { file } => {
                let lines = dump(global)?;
                match file {
                    Some(path) => {
                        let mut out =
                            BufWriter::new(File::create(&path).map_err(|error| named(&path, &error))?);
                        out.write_all(&lines)?;
                        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
                    }
                    None => global.out().bytes(&lines)?,
                }
            }
            Self::Load { file } => {
                let config = config(global)?;
                let input: Box<dyn BufRead> = if file.as_os_str() == "-" {
                    Box::new(BufReader::new(io::stdin()))
                } else {
                    Box::new(BufReader::new(File::open(&file).map_err(|error| named(&file, &error))?))
                };
                let _folder = take(&config)?;
                let count = kato_store::load(&journal::place(&config), input)?;
                writeln!(
                    io::stderr().lock(),
                    "{count} records were loaded; start the daemon, then try `kato doctor`"
                )?;
            }
        }
        Ok(Exit::Ok)
    }
}

fn config(global: &Global) -> Result<Config, Failure> {
    let config =
        load(&global.sources()).map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()))?;
    if config.store.kind == StoreKind::Memory {
        return Err(Failure::usage("store.kind is \"memory\": a stopped daemon has no records"));
    }
    Ok(config)
}

/// The records of the running daemon, or of the stopped one.
fn dump(global: &Global) -> Result<Vec<u8>, Failure> {
    match global.client()?.fetch("/v1/store/dump") {
        Ok(lines) => return Ok(lines.to_vec()),
        Err(failure) if failure.exit == Exit::Unreachable => {}
        Err(failure) => return Err(failure),
    }
    let config = config(global)?;
    if !config.folders.data.join("store").exists() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there are no records in {}", config.folders.data.display()),
        )
        .next("name the daemon's configuration with --config"));
    }
    let _folder = take(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(async {
            let journal = Journal::open(&config)?;
            Ok::<_, Error>(journal.dump().await?)
        })
        .map_err(Failure::from)
}

/// The data folder, which a running daemon does not share.
fn take(config: &Config) -> Result<Folder, Failure> {
    Folder::take(&config.folders, &RandomIds::new()?).map_err(|error| {
        let held = error.kind == Kind::Busy;
        let failure = Failure::from(error);
        if held {
            let socket = config.admin.socket.display();
            failure
                .next(format!("a daemon is asked through its socket, {socket}; name another with --socket"))
        } else {
            failure
        }
    })
}

fn named(path: &std::path::Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Failure,
    };
    Failure::new(exit, format!("{} cannot be used: {error}", path.display()))
}
