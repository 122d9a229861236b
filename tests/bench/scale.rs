//! Many volumes: how long a daemon takes to start over a journal of them, to list and to find one, and what
//! memory it takes. The records are written straight into the store, because making 100,000 real volumes would
//! measure something else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::Path,
    time::Duration,
};

use kato_orchestrator::{
    model::{
        BackendName, Bytes, CapacityRange, ClassName, Connection, DataRoot, Filesystem, FsState, FsType,
        Handle, Timestamp, Volume, VolumeId, VolumeName, VolumeState, Wanted,
    },
    ports::store::{Batch, Durability, Entry, Store},
    records::{encode, keys, to_json},
};
use kato_store::{Config, SledStore};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    Effort, Fallible,
    clock::{once, together},
    daemon::{Daemon, data_of},
    table::{Row, Table, ratio, time},
    yardstick::Ground,
};

const BATCH: u32 = 100;

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let folder = ground.folder("idle")?;
    let first = Daemon::start(&folder)?;
    table.row(&memory_row("memory, first start (compiles the plugin)", &first, None, None)?);
    let compiling = first.start_up;
    drop(first);
    let idle = Daemon::start(&folder)?;
    table.row(&memory_row("memory without a volume", &idle, Some(40.0), None)?);
    let empty = idle.start_up;
    drop(idle);
    table.row(&Row {
        what: "start without a volume".to_owned(),
        ours: time(empty),
        yardstick: format!("first start {}", time(compiling)),
        ..Row::default()
    });
    let sizes: &[u32] = if effort.smoke { &[100] } else { &[1_000, 10_000, 100_000] };
    for &count in sizes {
        let folder = ground.folder(&format!("scale-{count}"))?;
        // The first start makes the folder ours.
        drop(Daemon::start(&folder)?);
        fill(&data_of(&folder), count)?;
        let lines = folder.join("records.jsonl");
        write_lines(&lines, count)?;
        let weight = Some(std::fs::metadata(&lines)?.len());
        let daemon = Daemon::start(&folder)?;
        table.row(&Row {
            what: format!("start over {count} volumes"),
            ours: time(daemon.start_up),
            yardstick: format!("empty {}", time(empty)),
            aim: (count == 100_000)
                .then(|| ("under 2 s".to_owned(), daemon.start_up < Duration::from_secs(2))),
            ..Row::default()
        });
        let large = count == 100_000;
        let what = format!("memory over {count} volumes");
        table.row(&memory_row(&what, &daemon, large.then_some(150.0), weight)?);
        // What a program without us would do: read a file with a line of JSON for each volume.
        let read = together(1, effort.of(10, 1), |_| Ok(()), |(), _| read_lines(&lines, count))?;
        let list = together(
            1,
            effort.of(10, 1),
            |_| daemon.door(),
            |door, _| {
                let found = door.list()?;
                if u32::try_from(found)? == count {
                    Ok(())
                } else {
                    Err(format!("{found} of {count} were listed").into())
                }
            },
        )?;
        table.row(&Row {
            what: format!("list {count} volumes"),
            ours: time(list.median()),
            yardstick: format!("a file of JSON lines {}", time(read.median())),
            ratio: ratio(list.median(), read.median()),
            aim: (count == 10_000)
                .then(|| ("under 20 ms".to_owned(), list.median() < Duration::from_millis(20))),
        });
        let get = together(
            1,
            effort.of(1000, 5),
            |_| daemon.door(),
            |door, piece| door.get(&name(u32::try_from(piece)? * 7919 % count)),
        )?;
        let empty = together(1, effort.of(1000, 5), |_| daemon.door(), |door, _| door.activate())?;
        table.row(&Row {
            what: format!("get one of {count} volumes"),
            ours: time(get.median()),
            yardstick: format!("an empty question {}", time(empty.median())),
            ratio: ratio(get.median(), empty.median()),
            ..Row::default()
        });
        table.row(&memory_row(
            &format!("memory after listing {count} volumes"),
            &daemon,
            large.then_some(150.0),
            weight,
        )?);
    }
    Ok(())
}

/// Memory, beside what the records weigh as lines of JSON.
fn memory_row(what: &str, daemon: &Daemon, aim: Option<f64>, lines: Option<u64>) -> Fallible<Row> {
    let memory = daemon.memory()?;
    let weight = lines.map(|bytes| format!("as JSON lines {}", Bytes(bytes)));
    Ok(Row {
        what: what.to_owned(),
        ours: format!("{memory:.0} MiB"),
        yardstick: weight.unwrap_or_else(|| "-".to_owned()),
        aim: aim.map(|most| (format!("under {most:.0} MiB"), memory < most)),
        ..Row::default()
    })
}

/// Writes this many volumes into a new journal, as the daemon would have written them.
pub(crate) fn fill(data: &Path, count: u32) -> Fallible {
    let runtime = Runtime::new()?;
    let store = SledStore::open(Config::at(data.join("store")))?;
    let ((), _) = once(|| {
        runtime.block_on(async {
            for first in (0..count).step_by(usize::try_from(BATCH)?) {
                let mut batch = Batch::default();
                for number in first..count.min(first + BATCH) {
                    let volume = volume(number)?;
                    let key = keys::volume(volume.id);
                    let handle =
                        volume.handle.as_ref().map(|handle| keys::volume_handle(&volume.backend, handle));
                    for way in handle.into_iter().chain([keys::volume_name(&volume.name)]) {
                        batch.puts.push((way.clone(), encode(&way, &volume.id)));
                    }
                    batch.puts.push((key.clone(), encode(&key, &volume)));
                }
                store.commit(batch, Durability::Lazy).await?;
            }
            store.flush().await?;
            Ok(())
        })
    })?;
    Ok(())
}

/// The same volumes as lines of JSON.
fn write_lines(path: &Path, count: u32) -> Fallible {
    let mut file = BufWriter::new(File::create(path)?);
    for number in 0..count {
        let volume = volume(number)?;
        let key = keys::volume(volume.id);
        let value = encode(&key, &volume);
        writeln!(file, "{}", to_json(&Entry { key, value, revision: 1 })?)?;
    }
    Ok(file.flush()?)
}

/// Finds the name in each line.
fn read_lines(path: &Path, count: u32) -> Fallible {
    let mut names = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        let name = line.pointer("/record/name").and_then(Value::as_str).ok_or("a volume has no name")?;
        names.push(name.to_owned());
    }
    if names.len() == usize::try_from(count)? { Ok(()) } else { Err("lines are missing".into()) }
}

fn name(number: u32) -> String {
    format!("volume-{number:06}")
}

/// What names it at its backend.
pub(crate) fn token(number: u32) -> String {
    format!("kato-{number:026}")
}

fn volume(number: u32) -> Fallible<Volume> {
    let handle = format!("dir/{}", token(number));
    Ok(Volume {
        id: VolumeId(u128::from(number) * 0x9e37_79b9_7f4a_7c15 + 1),
        name: VolumeName::parse(&name(number))?,
        class: ClassName::parse("default")?,
        backend: BackendName::parse("local")?,
        generation: 0,
        made_as: None,
        wanted: Wanted { size: CapacityRange::ANY, ..Wanted::default() },
        actual: Some(Bytes(0)),
        actual_parameters: BTreeMap::new(),
        source: None,
        filling: None,
        found: false,
        held_still: None,
        connection: Some(Connection::Directory {
            root: "/var/lib/kato/volumes".to_owned(),
            path: format!("volumes/{}/tree", token(number)),
        }),
        handle: Some(Handle::parse(&handle)?),
        topology: BTreeMap::from([("node".to_owned(), "bench".to_owned())]),
        state: VolumeState::Ready,
        filesystem: Filesystem {
            fs: FsType::Ext4,
            state: FsState::Formatted,
            mount_options: Vec::new(),
            root: DataRoot::default(),
        },
        dependants: BTreeSet::new(),
        keeping: Default::default(),
        labels: BTreeMap::new(),
        created: Timestamp(1_700_000_000_000),
        intent: None,
    })
}
