//! `kato snapshot export` and `import`: a snapshot as a file, and a volume out of one. The file is written here, page by
//! page as the daemon tells them; it is read by the daemon, which goes on with it after a crash.

use std::{
    fs::{self, File},
    io::{self, BufWriter, IsTerminal as _, Read as _, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use clap_complete::ArgValueCompleter;
use kato_node::export::{Head, Writer};
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

use super::{
    Exit, Failure, Global,
    client::{Client, encode},
    complete, pairs,
    progress::Bar,
    volume::{done, place},
};

/// How long the daemon is asked to wait before it is looked how far it came.
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub(super) struct Export {
    /// Which
    #[arg(add = ArgValueCompleter::new(complete::snapshots))]
    name: String,
    /// Into which file; - for standard output
    file: PathBuf,
    /// Write over a file that is there
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(super) struct Import {
    /// Out of which file, on the daemon's host; - for standard input
    file: PathBuf,
    /// What to call the volume
    volume: String,
    /// By which recipe it is made
    #[arg(long, short, add = ArgValueCompleter::new(complete::classes))]
    class: Option<String>,
    /// How large, such as 10GiB: as large as it was, where nothing is said
    #[arg(long, short)]
    size: Option<String>,
    /// What the backend is told, on top of the class
    #[arg(long = "parameter", short, value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// What to write on it
    #[arg(long = "label", short, value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Export {
    pub(super) fn run(self, global: &Global, client: &Client) -> Result<Exit, Failure> {
        if self.file == Path::new("-") {
            let out = io::stdout();
            if out.is_terminal() {
                return Err(Failure::usage(
                    "a snapshot is no text: name a file, or lead it into another program",
                ));
            }
            self.write(global, client, BufWriter::with_capacity(1 << 20, out.lock()))?;
            return Ok(Exit::Ok);
        }
        if self.file.exists() && !self.force {
            return Err(Failure::usage(format!(
                "{} is there already: name another file, or say --force",
                self.file.display()
            )));
        }
        // Whole or not there: who looks for the file finds one that can be used.
        let part = beside(&self.file, "part");
        let file = File::create(&part)?;
        let written = self
            .write(global, client, BufWriter::with_capacity(1 << 20, file))
            .and_then(|file| Ok(file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?))
            .and_then(|()| Ok(fs::rename(&part, &self.file)?));
        if written.is_err() {
            let _gone = fs::remove_file(&part);
        }
        written?;
        global.out().text(&format!("{}\n", self.file.display()))?;
        Ok(Exit::Ok)
    }

    fn write<W: Write>(&self, global: &Global, client: &Client, to: W) -> Result<W, Failure> {
        let path = format!("/v1/snapshots/{}/data", encode(&self.name));
        let mut bar = Bar::new(global, &self.name);
        let (mut from, mut moved) = (0, 0_u64);
        let mut to = Some(to);
        let mut writer = None;
        loop {
            let page = client.fetch(&format!("{path}?from={from}"))?;
            let nonsense = || Failure::new(Exit::Failure, "the daemon's answer cannot be read");
            let end = page.iter().position(|byte| *byte == b'\n').ok_or_else(nonsense)?;
            let (told, mut bytes) = page.split_at(end.saturating_add(1));
            let told: Json = serde_json::from_slice(told).map_err(|_| nonsense())?;
            let number = |word: &str| told.get(word).and_then(Json::as_u64);
            let text = |word: &str| told.get(word).and_then(Json::as_str).map(str::to_owned);
            let size = number("size_bytes").ok_or_else(nonsense)?;
            if let Some(to) = to.take() {
                let head = Head {
                    size_bytes: size,
                    fs: text("fs").ok_or_else(nonsense)?,
                    directory: text("directory"),
                    volume: text("volume").unwrap_or_default(),
                    snapshot: text("snapshot").unwrap_or_default(),
                    cut: text("cut").unwrap_or_default(),
                };
                writer = Some(Writer::begin(to, &head)?);
            }
            let writer = writer.as_mut().ok_or_else(nonsense)?;
            for block in told.get("blocks").and_then(Json::as_array).into_iter().flatten() {
                let part = |at: usize| block.get(at).and_then(Json::as_u64).ok_or_else(nonsense);
                let length = usize::try_from(part(1)?).map_err(|_| nonsense())?;
                let (block, rest) = bytes.split_at_checked(length).ok_or_else(nonsense)?;
                writer.put(part(0)?, block)?;
                moved = moved.saturating_add(part(1)?);
                bytes = rest;
            }
            match number("next_bytes") {
                Some(next) => from = next,
                None => break,
            }
            bar.show(from, size, moved);
        }
        bar.end();
        let whole = writer.ok_or_else(|| Failure::new(Exit::Failure, "the snapshot has no size"))?;
        Ok(whole.end()?)
    }
}

impl Import {
    pub(super) fn run(self, global: &Global, client: &Client) -> Result<Exit, Failure> {
        if self.file != Path::new("-") {
            let file = fs::canonicalize(&self.file)
                .map_err(|error| Failure::usage(format!("{}: {error}", self.file.display())))?;
            return self.ask(global, client, &file);
        }
        // The daemon reads it more than once, if need be.
        let kept = tempfile_for(&self.volume)?;
        let outcome = keep(&kept).and_then(|()| self.ask(global, client, &kept));
        let _gone = fs::remove_file(&kept);
        outcome
    }

    fn ask(&self, global: &Global, client: &Client, file: &Path) -> Result<Exit, Failure> {
        let mut body = Map::new();
        let words = [
            ("name", Some(self.volume.clone())),
            ("from_file", Some(file.display().to_string())),
            ("class", self.class.clone()),
            ("size", self.size.clone()),
        ];
        body.extend(words.into_iter().filter_map(|(word, value)| Some((word.to_owned(), value?.into()))));
        body.insert("parameters".to_owned(), pairs(&self.parameters)?);
        body.insert("labels".to_owned(), pairs(&self.labels)?);
        let body = Json::Object(body);
        let began = Instant::now();
        let mut bar = Bar::new(global, &self.volume);
        loop {
            let failure = match client.post_within("/v1/volumes", &body, LOOK_EVERY) {
                Ok(made) => {
                    bar.end();
                    return done(global, made);
                }
                Err(failure) => failure,
            };
            let over = client.timeout().is_some_and(|timeout| began.elapsed() >= timeout);
            if failure.exit != Exit::Timeout || over {
                bar.end();
                return Err(failure);
            }
            let volume = client.get(&place(&self.volume)).unwrap_or_default();
            if let Some(copying) = volume.get("copying") {
                let number = |word: &str| copying.get(word).and_then(Json::as_u64).unwrap_or_default();
                bar.show(number("at_bytes"), number("of_bytes"), number("moved_bytes"));
            }
        }
    }
}

fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{ending}"));
    file.with_file_name(name)
}

fn tempfile_for(volume: &str) -> Result<PathBuf, Failure> {
    let name = format!("kato-import-{}-{}", encode(volume), std::process::id());
    Ok(fs::canonicalize(std::env::temp_dir())?.join(name))
}

/// Keeps what comes on standard input, where nobody else reads it.
fn keep(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut input = io::stdin().lock();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(()),
            count => file.write_all(buffer.get(..count).unwrap_or_default())?,
        }
    }
}
