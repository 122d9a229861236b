//! `kato store`: all records as lines of JSON, out and in, and from one kind of store to the other. A running daemon is
//! asked for them; a stopped one's are read from where they are, under the same lock that the daemon takes.
//!
//! Records that have moved stay where they were, set aside so that no daemon takes them for the present: a store on sled
//! under another name, one in etcd with a word in it that says so.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::PathBuf,
};

use clap::{Subcommand, ValueEnum};
use kato_orchestrator::{
    Error, Kind,
    model::ClusterId,
    ports::{
        Members as _, Store as _,
        store::{Durability, Entry},
    },
    records::{self, keys},
};
use kato_store::{EtcdStore, MemoryStore, SledStore};
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
    /// Move the records of stopped daemons from this host's disk into etcd, or back
    Migrate {
        /// Where they are
        #[arg(long)]
        from: Place,
        /// Where they are to be
        #[arg(long)]
        to: Place,
        /// Throw away what an earlier try left in etcd, or what had moved out of it
        #[arg(long)]
        anew: bool,
    },
}

/// A kind of store that outlives its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Place {
    /// On this host's disk
    Sled,
    /// In etcd, as store.etcd says
    Etcd,
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
            Self::Migrate { from, to, anew } => migrate(global, from, to, anew)?,
            Self::Load { file } => {
                let config = config(global)?;
                let input: Box<dyn Read> = if file.as_os_str() == "-" {
                    Box::new(io::stdin())
                } else {
                    Box::new(File::open(&file).map_err(|error| named(&file, &error))?)
                };
                let mut lines = Noticing { input: BufReader::new(input), cluster: None, line: Vec::new() };
                let mut folder = take(&config)?;
                let count = match config.store.kind {
                    StoreKind::Etcd => runtime()?.block_on(into_etcd(&config, &mut lines))?,
                    StoreKind::Sled | StoreKind::Memory => {
                        let count = kato_store::load(&journal::place(&config), &mut lines)?;
                        // The records say whose they are, and the folder that they live in says the same.
                        if let Some(cluster) = lines.cluster {
                            folder.adopt(cluster.0)?;
                        }
                        count
                    }
                };
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
    if config.store.kind == StoreKind::Sled && !config.folders.data.join("store").exists() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("there are no records in {}", config.folders.data.display()),
        )
        .next("name the daemon's configuration with --config"));
    }
    let _folder = take(&config)?;
    runtime()?.block_on(async { Journal::open(&config).await?.dump().await }).map_err(Failure::from)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Puts what a dump holds into an etcd that has nothing.
async fn into_etcd(config: &Config, lines: impl BufRead) -> Result<u64, Error> {
    let dump = MemoryStore::new();
    for (key, value) in kato_store::read_dump(lines)? {
        let batch = kato_orchestrator::ports::store::Batch { puts: vec![(key, value)], ..Default::default() };
        dump.commit(batch, Durability::Lazy).await?;
    }
    kato_store::into_etcd(&dump, journal::etcd(config)?, false).await
}

fn migrate(global: &Global, from: Place, to: Place, anew: bool) -> Result<(), Failure> {
    let config =
        load(&global.sources()).map_err(|mistakes| Failure::new(Exit::Config, mistakes.to_string()))?;
    if from == to {
        return Err(Failure::usage(
            "records move from sled to etcd, or from etcd to sled: --from and --to are the same",
        ));
    }
    let mut folder = take(&config)?;
    let etcd = journal::etcd(&config)?;
    let place = journal::place(&config);
    let (count, next) = match to {
        Place::Etcd => {
            if !place.path.join("sled").exists() {
                return Err(Failure::new(
                    Exit::NotFound,
                    format!("there are no records in {}", place.path.display()),
                )
                .next("name the daemon's configuration with --config"));
            }
            let count = runtime()?.block_on(async {
                let opened = SledStore::open(place.clone())?;
                kato_store::into_etcd(&opened, etcd, anew).await
            })?;
            let aside = set_aside(&place.path)?;
            let next = format!(
                "{} is what they were; write store.kind = \"etcd\" and start the daemon, then try `kato doctor`",
                aside.display()
            );
            (count, next)
        }
        Place::Sled => {
            let cluster = runtime()?.block_on(async {
                let opened = EtcdStore::open(etcd).await?;
                let moved = out_of_etcd(&opened, &place).await;
                opened.close().await;
                moved
            })?;
            if let (_, Some(cluster)) = cluster {
                folder.adopt(cluster.0)?;
            }
            let next = "etcd still has what they were, and says that they left; write store.kind = \"sled\" and start the \
                        daemon, then try `kato doctor`";
            (cluster.0, next.to_owned())
        }
    };
    writeln!(io::stderr().lock(), "{count} records were moved and compared; {next}")?;
    Ok(())
}

/// Moves everything out of etcd, when nobody uses it.
async fn out_of_etcd(
    from: &EtcdStore,
    place: &kato_store::Config,
) -> Result<(u64, Option<ClusterId>), Error> {
    let present = from.present().await?;
    if !present.members.is_empty() {
        let names: Vec<_> = present.members.iter().map(|member| member.node.to_string()).collect();
        return Err(Error::in_use(format!(
            "the daemons of {} use these records: stop them all, and wait until their leases have run out",
            names.join(", ")
        )));
    }
    let count = kato_store::into_sled(from, place).await?;
    from.left().await?;
    let cluster: Option<Entry> = from.load(&keys::cluster()).await?;
    Ok((count, cluster.map(|entry| records::decode(&entry)).transpose()?))
}

/// Puts a store that is history where no daemon looks for one. Its dumps stay.
fn set_aside(store: &std::path::Path) -> Result<PathBuf, Failure> {
    // What was set aside before stays too.
    let mut names = std::iter::once("sled.moved".to_owned()).chain((2..).map(|n| format!("sled.moved-{n}")));
    let aside = names.find(|name| !store.join(name).exists()).unwrap_or_default();
    let aside = store.join(aside);
    // Without its mark a missing engine would be taken for a lost one.
    for name in ["mark", "seal"] {
        match std::fs::remove_file(store.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(named(&store.join(name), &error));
            }
            _ => {}
        }
    }
    std::fs::rename(store.join("sled"), &aside).map_err(|error| named(&aside, &error))?;
    Ok(aside)
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
