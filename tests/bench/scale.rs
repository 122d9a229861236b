//! Many volumes: how long a daemon takes to start over a journal of them, to list and to find one, and what
//! memory it takes. The records are written straight into the store, because making 100,000 real volumes would
//! measure something else.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use kato_orchestrator::{
    model::{
        BackendName, Bytes, CapacityRange, ClassName, Connection, DataRoot, Filesystem, FsState, FsType,
        Handle, Timestamp, Volume, VolumeId, VolumeName, VolumeState, Wanted,
    },
    ports::store::{Batch, Durability, Store},
    records::{encode, keys},
};
use kato_store::{Config, SledStore};
use tokio::runtime::Runtime;

use crate::{
    Effort, Fallible,
    clock::{once, together},
    daemon::{Daemon, data_of},
    table::{Row, Table, time},
    yardstick::Ground,
};

const BATCH: u32 = 100;

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let folder = ground.folder("idle")?;
    let first = Daemon::start(&folder)?;
    table.row(&memory_row("memory, first start (compiles the plugin)", &first, None)?);
    let compiling = first.start_up;
    drop(first);
    let idle = Daemon::start(&folder)?;
    table.row(&memory_row("memory without a volume", &idle, Some(40.0))?);
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
        table.row(&memory_row(&format!("memory over {count} volumes"), &daemon, large.then_some(150.0))?);
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
            yardstick: "-".to_owned(),
            aim: (count == 10_000)
                .then(|| ("under 20 ms".to_owned(), list.median() < Duration::from_millis(20))),
            ..Row::default()
        });
        let get = together(
            1,
            effort.of(1000, 5),
            |_| daemon.door(),
            |door, piece| door.get(&name(u32::try_from(piece)? * 7919 % count)),
        )?;
        table.row(&Row {
            what: format!("get one of {count} volumes"),
            ours: time(get.median()),
            yardstick: "-".to_owned(),
            ..Row::default()
        });
        table.row(&memory_row(
            &format!("memory after listing {count} volumes"),
            &daemon,
            large.then_some(150.0),
        )?);
    }
    Ok(())
}

fn memory_row(what: &str, daemon: &Daemon, aim: Option<f64>) -> Fallible<Row> {
    let memory = daemon.memory()?;
    Ok(Row {
        what: what.to_owned(),
        ours: format!("{memory:.0} MiB"),
        yardstick: "-".to_owned(),
        aim: aim.map(|most| (format!("under {most:.0} MiB"), memory < most)),
        ..Row::default()
    })
}

/// Writes this many volumes into a new journal, as the daemon would have written them.
fn fill(data: &Path, count: u32) -> Fallible {
    let runtime = Runtime::new()?;
    let store = SledStore::open(Config::at(data.join("store")))?;
    let ((), _) = once(|| {
        runtime.block_on(async {
            for first in (0..count).step_by(usize::try_from(BATCH)?) {
                let mut batch = Batch::default();
                for number in first..count.min(first + BATCH) {
                    let volume = volume(number)?;
                    let (key, name_key) = (keys::volume(volume.id), keys::volume_name(&volume.name));
                    batch.puts.push((name_key.clone(), encode(&name_key, &volume.id)));
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

fn name(number: u32) -> String {
    format!("volume-{number:06}")
}

fn volume(number: u32) -> Fallible<Volume> {
    let handle = format!("directory/{number:06}");
    Ok(Volume {
        id: VolumeId(u128::from(number) * 0x9e37_79b9_7f4a_7c15 + 1),
        name: VolumeName::parse(&name(number))?,
        class: ClassName::parse("default")?,
        backend: BackendName::parse("local")?,
        generation: 0,
        wanted: Wanted { size: CapacityRange::ANY, parameters: BTreeMap::new() },
        actual: Some(Bytes(0)),
        actual_parameters: BTreeMap::new(),
        source: None,
        connection: Some(Connection::Directory {
            root: "/var/lib/kato/volumes".to_owned(),
            path: handle.clone(),
        }),
        handle: Some(Handle::parse(&handle)?),
        topology: BTreeMap::new(),
        state: VolumeState::Ready,
        filesystem: Filesystem {
            fs: FsType::Ext4,
            state: FsState::Formatted,
            mount_options: Vec::new(),
            root: DataRoot::default(),
        },
        dependants: BTreeSet::new(),
        labels: BTreeMap::new(),
        created: Timestamp(1_700_000_000_000),
        intent: None,
    })
}
