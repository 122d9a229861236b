//! `kato volume`: making, finding, growing and removing volumes, and saying why one waits.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use kato_orchestrator::model::Bytes;
use serde_json::{Map, Value as Json, json};

use super::{
    Exit, Failure, Global,
    client::{Client, encode},
    complete,
    copy::Copy,
    each,
    filter::{self, Filter},
    list::List,
    output::{Column, Format, column, wide, word},
    pairs,
};

/// How often a volume that is waited for is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make a volume, or find the one that is as wished
    Create(Box<Create>),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Tell everything about volumes
    #[command(alias = "get")]
    Inspect {
        /// Which
        #[arg(required = true, add = ArgValueCompleter::new(complete::volumes))]
        names: Vec<String>,
    },
    /// Remove volumes and their data
    #[command(visible_alias = "delete", alias = "remove")]
    Rm {
        /// Which
        #[arg(required = true, add = ArgValueCompleter::new(complete::volumes))]
        names: Vec<String>,
        /// Forget the record alone and leave the data: for a volume that its backend no longer has
        #[arg(long)]
        forget: bool,
        /// It is no failure if there is none
        #[arg(long)]
        ignore_missing: bool,
    },
    /// Make a volume larger
    Grow {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        name: String,
        /// How large in all, such as 20GiB
        size: String,
    },
    /// Change parameters of a volume, as far as its backend can: `kato backend inspect` lists them
    Modify {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        name: String,
        /// What is to change
        #[arg(required = true, value_name = "KEY=VALUE", add = ArgValueCompleter::new(complete::parameters))]
        parameters: Vec<String>,
    },
    /// Copy a volume, as it is now, into a new one of another class, on whatever backend
    Copy(Copy),
    /// Take a broken mount of this node down and make it again, with a check of its filesystem
    Repair {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        name: String,
        /// Also where somebody still holds it: what they have of it is broken, and they lose it
        #[arg(long)]
        force: bool,
    },
    /// Tell what a volume waits for and who holds it
    Why {
        /// Which
        #[arg(add = ArgValueCompleter::new(complete::volumes))]
        name: String,
        /// Go on and tell each change, until it waits for nothing
        #[arg(long, short)]
        watch: bool,
    },
    /// Remove all volumes that nobody holds and that match
    Prune {
        /// Which: as in `ls`; `all=true` for every one
        #[arg(long, short, required = true, value_name = "KEY=VALUE")]
        filter: Vec<String>,
        /// Only list them
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Args, Debug)]
pub(super) struct Create {
    /// What to call it
    name: String,
    /// By which recipe
    #[arg(long, short, add = ArgValueCompleter::new(complete::classes))]
    class: Option<String>,
    /// How large, such as 10GiB
    #[arg(long, short)]
    size: Option<String>,
    /// What the backend is told, on top of the class
    #[arg(long = "parameter", short, value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// What to write on it
    #[arg(long = "label", short, value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Make it a copy of a snapshot
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "from_volume", add = ArgValueCompleter::new(complete::snapshots))]
    from_snapshot: Option<String>,
    /// Make it a copy of a volume
    #[arg(long, value_name = "VOLUME", add = ArgValueCompleter::new(complete::volumes))]
    from_volume: Option<String>,
    /// Which filesystem: ext4 or xfs
    #[arg(long)]
    fs: Option<String>,
    /// The directory of the filesystem that a container gets; / for all of it
    #[arg(long, value_name = "DIRECTORY")]
    data_root: Option<String>,
    /// Who owns what a container finds
    #[arg(long)]
    uid: Option<u32>,
    /// The same for the group
    #[arg(long)]
    gid: Option<u32>,
    /// Its mode in octal
    #[arg(long)]
    mode: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Ls {
    /// Only these: state=, class=, backend=, node=, holder=, name= (with * for anything), label=KEY or
    /// label=KEY=VALUE, used=true or false
    #[arg(long, short, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Go on and print each volume that changes
    #[arg(long, short)]
    watch: bool,
}

const COLUMNS: &[Column] = &[
    column("NAME", |volume| word(volume, "name")),
    column("STATE", state),
    column("SIZE", |volume| size(volume, "size_bytes")),
    column("CLASS", |volume| word(volume, "class")),
    column("BACKEND", |volume| word(volume, "backend")),
    column("HOLDERS", |volume| count(volume, "holders")),
    column("CREATED", |volume| word(volume, "created").get(..19).unwrap_or_default().replace('T', " ")),
    wide("NODES", |volume| nodes(volume).join(",")),
    wide("FS", |volume| word(volume, "fs")),
    wide("PATH", |volume| word(volume, "path")),
    wide("LABELS", labels),
    wide("ID", |volume| word(volume, "id")),
];

fn state(volume: &Json) -> String {
    let failed = volume.get("intent").is_some_and(|intent| intent.get("last_error").is_some());
    let broken = list(volume, "mounts").any(|mount| word(mount, "state") == "broken");
    let unwell = volume.get("complaint").is_some();
    let mark = match (broken, failed, unwell) {
        (true, ..) => " (broken)",
        (false, true, _) => " (failing)",
        (false, false, true) => " (unwell)",
        (false, false, false) => "",
    };
    word(volume, "state") + mark
}

/// A number of bytes as people read it.
pub(super) fn size(item: &Json, field: &str) -> String {
    match item.get(field).and_then(Json::as_u64) {
        None | Some(0) => String::new(),
        Some(bytes) => Bytes(bytes).to_string(),
    }
}

pub(super) fn list<'a>(item: &'a Json, field: &str) -> impl Iterator<Item = &'a Json> {
    item.get(field).and_then(Json::as_array).into_iter().flatten()
}

fn count(item: &Json, field: &str) -> String {
    list(item, field).count().to_string()
}

pub(super) fn nodes(volume: &Json) -> Vec<String> {
    list(volume, "mounts").map(|mount| word(mount, "node")).collect()
}

fn labels(item: &Json) -> String {
    let labels = item.get("labels").and_then(Json::as_object).into_iter().flatten();
    labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect::<Vec<_>>()
        .join(",")
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        let client = global.client()?;
        match self {
            Self::Create(wish) => create(global, &client, *wish),
            Self::Ls(wish) => ls(global, &client, &wish),
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
            Self::Rm { names, forget, ignore_missing } => {
                let path =
                    |name: &str| format!("{}{}", place(name), if forget { "?forget=true" } else { "" });
                each(&names, |name| {
                    let what = if forget { "Forgets the record of" } else { "Destroys all data of" };
                    global.confirm(&format!("{what} volume {name}."), name)?;
                    match client.get(&place(name)) {
                        Ok(_) => {}
                        Err(failure) if failure.exit == Exit::NotFound && ignore_missing => return Ok(()),
                        Err(failure) => return Err(failure),
                    }
                    client.delete(&path(name))?;
                    global.out().text(&format!("{name}\n"))
                })
            }
            Self::Grow { name, size } => {
                let grown = client.post(&format!("{}/grow", place(&name)), &json!({ "size": size }))?;
                done(global, grown)
            }
            Self::Modify { name, parameters } => {
                let wish = json!({ "parameters": pairs(&parameters)? });
                done(global, client.post(&format!("{}/modify", place(&name)), &wish)?)
            }
            Self::Copy(wish) => wish.run(global, &client),
            Self::Repair { name, force } => repair(global, &client, &name, force),
            Self::Why { name, watch: false } => why(global, &client.get(&reason(&name))?),
            Self::Why { name, watch: true } => watch_why(global, &client, &name),
            Self::Prune { filter, dry_run } => prune(global, &client, &filter, dry_run),
        }
    }
}

pub(super) fn place(name: &str) -> String {
    format!("/v1/volumes/{}", encode(name))
}

/// What was made: its name for a person who reads along, all of it for a program.
pub(super) fn done(global: &Global, thing: Json) -> Result<Exit, Failure> {
    let out = global.out();
    match out.format {
        Format::Table | Format::Wide | Format::Name => out.text(&format!("{}\n", word(&thing, "name")))?,
        Format::Json | Format::Yaml => out.things(vec![thing])?,
    }
    Ok(Exit::Ok)
}

fn create(global: &Global, client: &Client, wish: Create) -> Result<Exit, Failure> {
    let mut body = Map::new();
    body.insert("name".to_owned(), wish.name.into());
    body.insert("parameters".to_owned(), pairs(&wish.parameters)?);
    body.insert("labels".to_owned(), pairs(&wish.labels)?);
    let words = [
        ("class", wish.class),
        ("size", wish.size),
        ("from_snapshot", wish.from_snapshot),
        ("from_volume", wish.from_volume),
        ("fs", wish.fs),
        ("data_root", wish.data_root),
        ("mode", wish.mode),
    ];
    for (key, value) in words {
        if let Some(value) = value {
            body.insert(key.to_owned(), value.into());
        }
    }
    for (key, value) in [("uid", wish.uid), ("gid", wish.gid)] {
        if let Some(value) = value {
            body.insert(key.to_owned(), value.into());
        }
    }
    let made = client.post("/v1/volumes", &Json::Object(body))?;
    tell_held(&made)?;
    done(global, made)
}

/// Tells a person that writers had to wait for a copy. Programs find it in what was made.
pub(super) fn tell_held(made: &Json) -> Result<(), Failure> {
    if let Some(held) = made.get("source_held_ms").and_then(Json::as_u64) {
        writeln!(
            io::stderr().lock(),
            "kato: whoever writes to the source had to wait for {held} ms while it was copied"
        )?;
    }
    Ok(())
}

fn ls(global: &Global, client: &Client, wish: &Ls) -> Result<Exit, Failure> {
    let filters = Filter::all(&wish.filter, filter::VOLUMES)?;
    let list = List { place: "/v1/volumes", noun: "volume", columns: COLUMNS, filters: &filters };
    if wish.watch { list.watch(global, client) } else { list.show(global, client) }
}

fn repair(global: &Global, client: &Client, name: &str, force: bool) -> Result<Exit, Failure> {
    if force {
        global.confirm(&format!("Takes the mount of volume {name} from whoever holds it."), name)?;
    }
    let path = format!("{}/repair{}", place(name), if force { "?force=true" } else { "" });
    let answer = client.post(&path, &Json::Null)?;
    if answer.get("changed") == Some(&Json::Bool(false))
        && matches!(global.out().format, Format::Table | Format::Wide)
    {
        global.out().text(&format!("{name} is not broken on this node\n"))?;
        return Ok(Exit::Ok);
    }
    done(global, answer.get("volume").cloned().unwrap_or_default())
}

fn why(global: &Global, why: &Json) -> Result<Exit, Failure> {
    let out = global.out();
    if !matches!(out.format, Format::Table | Format::Wide) {
        out.things(vec![why.clone()])?;
        return Ok(Exit::Ok);
    }
    let volume = why.get("volume").unwrap_or(&Json::Null);
    let mut text = format!("{} is {}", word(volume, "name"), state(volume));
    let size = size(volume, "size_bytes");
    if !size.is_empty() {
        text.push_str(&format!(", {size}"));
    }
    text.push('\n');
    for (title, field, none) in [
        ("waits for", "waits", "It waits for nothing."),
        ("ails", "ails", ""),
        ("held by", "holders", "Nobody holds it."),
        ("kept by", "keeps", "Nothing keeps it from being deleted."),
    ] {
        let mut lines = list(why, field).filter_map(Json::as_str).peekable();
        if lines.peek().is_none() {
            if !none.is_empty() {
                text.push_str(&format!("{none}\n"));
            }
            continue;
        }
        text.push_str(&format!("{title}:\n"));
        for line in lines {
            text.push_str(&format!("  {line}\n"));
        }
    }
    out.text(&text)?;
    Ok(Exit::Ok)
}

fn reason(name: &str) -> String {
    format!("{}/why", place(name))
}

/// Tells each change of what a volume waits for, until that is nothing.
fn watch_why(global: &Global, client: &Client, name: &str) -> Result<Exit, Failure> {
    let mut last = Json::Null;
    loop {
        let now = client.get(&reason(name))?;
        if now != last {
            match global.out().format {
                // A line for each, so that a program need not guess where one ends.
                Format::Json => global.out().text(&format!("{now}\n"))?,
                _ => {
                    why(global, &now)?;
                }
            }
        }
        if list(&now, "waits").next().is_none() {
            return Ok(Exit::Ok);
        }
        last = now;
        thread::sleep(WATCH_EVERY);
    }
}

fn prune(global: &Global, client: &Client, filter: &[String], dry_run: bool) -> Result<Exit, Failure> {
    let filters = Filter::all(filter, filter::VOLUMES)?;
    let volumes: Vec<Json> = client
        .list("/v1/volumes")?
        .into_iter()
        .filter(|volume| list(volume, "holders").next().is_none() && word(volume, "state") == "ready")
        .filter(|volume| filters.iter().all(|filter| filter.admits(volume)))
        .collect();
    if dry_run || volumes.is_empty() {
        global.out().list(&volumes, COLUMNS)?;
        return Ok(Exit::Ok);
    }
    if !global.yes {
        let names: Vec<String> = volumes.iter().map(|volume| word(volume, "name")).collect();
        let what = format!("Destroys all data of {} volumes: {}.", names.len(), names.join(", "));
        global.must_confirm(&what, "yes")?;
    }
    let names: Vec<String> = volumes.iter().map(|volume| word(volume, "name")).collect();
    each(&names, |name| {
        client.delete(&place(name))?;
        global.out().text(&format!("{name}\n"))
    })
}
