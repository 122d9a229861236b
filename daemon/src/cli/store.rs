//! `kato store`: all records as lines of JSON, out and in. A running daemon is asked for them; a stopped one's
//! are read from its folder, under the same lock that the daemon takes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use clap::Subcommand;
use kato_orchestrator::{Kind, model::ClusterId, records::keys};
use serde_json::Value as Json;

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
                let input: Box<dyn Read> = if file.as_os_str() == "-" {
                    Box::new(io::stdin())
                } else {
                    Box::new(File::open(&file).map_err(|error| named(&file, &error))?)
                };
                let mut lines = Noticing { input: BufReader::new(input), cluster: None, line: Vec::new() };
                let mut folder = take(&config)?;
                let count = kato_store::load(&journal::place(&config), &mut lines)?;
                // The records say whose they are, and the folder that they live in says the same.
                if let Some(cluster) = lines.cluster {
                    folder.adopt(cluster.0)?;
                }
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
    runtime.block_on(async { Journal::open(&config)?.dump().await }).map_err(Failure::from)
}

/// A dump on its way in, which notices whose records they are.
struct Noticing<R> {
    input: R,
    cluster: Option<ClusterId>,
    line: Vec<u8>,
}

impl<R: BufRead> Noticing<R> {
    fn notice(&mut self) {
        let line: Json = serde_json::from_slice(&self.line).unwrap_or_default();
        if line.get("key").and_then(Json::as_str) == Some(keys::cluster().as_str())
            && let Some(id) = line.get("record").and_then(Json::as_str).and_then(ClusterId::parse)
        {
            self.cluster = Some(id);
        }
        self.line.clear();
    }
}

impl<R: BufRead> Read for Noticing<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut there = self.fill_buf()?;
        let count = there.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Noticing<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        let there = self.input.fill_buf().map(|there| there.get(..count).unwrap_or(there).to_vec());
        for byte in there.unwrap_or_default() {
            self.line.push(byte);
            if byte == b'\n' {
                self.notice();
            }
        }
        self.input.consume(count);
    }
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

pub(super) fn named(path: &std::path::Path, error: &io::Error) -> Failure {
    let exit = match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        io::ErrorKind::PermissionDenied => Exit::Permission,
        _ => Exit::Failure,
    };
    Failure::new(exit, format!("{} cannot be used: {error}", path.display()))
}
