//! One call of a plugin against the same work in native Rust: `inspect` of one volume by our own `local`
//! component (a fresh instance in the sandbox, its arguments and answer checked, its files opened step by step
//! beneath the grant) against reading the very same files with the standard library.

#![expect(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kato_orchestrator::{
    model::{BackendName, CapacityRange, Token},
    ports::{
        Backend,
        backend::{Create, Which},
    },
};
use kato_plugin_host::{BackendSpec, Config, ConnectionGrants, Grants, Limits, PluginHost, embedded};
use tokio::runtime::Runtime;

use crate::{
    Effort, Fallible,
    clock::{Run, together},
    table::{Row, Table, ratio, time},
    yardstick::Ground,
};

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let folder = ground.folder("volumes")?;
    let runtime = Runtime::new()?;
    let backend = runtime.block_on(load(&folder))?;
    let token = Token::parse("kato-bench").map_err(|error| error.to_string())?;
    runtime.block_on(make(&backend, &token))?;
    let which = Which { token, handle: None };
    let files = files_beneath(&folder.join("volumes"))?;
    let count = effort.of(50_000, 10);
    let ours = inspect(&runtime, &backend, &which, count)?;
    let native = together(
        1,
        count,
        |_| Ok(()),
        |(), _| {
            for file in &files {
                fs::read(file)?;
            }
            Ok(())
        },
    )?;
    let more = ours.median().saturating_sub(native.median());
    table.row(&Row {
        what: format!("inspect by the plugin ({} files)", files.len()),
        ours: time(ours.median()),
        yardstick: format!("native {}", time(native.median())),
        ratio: ratio(ours.median(), native.median()),
        aim: Some((format!("under 50 µs more ({})", time(more)), more < Duration::from_micros(50))),
    });
    Ok(())
}

/// The local backend over this folder, as the daemon loads it.
pub(crate) async fn load(folder: &Path) -> Fallible<Arc<dyn Backend>> {
    let component = embedded::component("local").ok_or("the local backend is not embedded")?;
    let host = PluginHost::new(Config::default())?;
    let spec = BackendSpec {
        name: BackendName::parse("local")?,
        component: Arc::from(component),
        configuration: BTreeMap::new(),
        grants: Grants {
            directories: BTreeMap::from([("data".to_owned(), folder.to_path_buf())]),
            connections: ConnectionGrants { directory: true, file: true, ..ConnectionGrants::default() },
            ..Grants::default()
        },
        limits: Limits::default(),
    };
    let backend = host.load(spec).await?;
    backend.check().await?;
    Ok(backend)
}

/// Has it make a directory.
pub(crate) async fn make(backend: &Arc<dyn Backend>, token: &Token) -> Fallible {
    let wish = Create {
        token: token.clone(),
        mark: "k1:bench".to_owned(),
        name: "bench".to_owned(),
        size: CapacityRange::ANY,
        parameters: BTreeMap::new(),
        source: None,
        topology: Vec::new(),
        resume: None,
    };
    backend.create(wish).await?;
    Ok(())
}

/// Called from a task of a runtime with many threads, as the hall's drivers do it.
fn inspect(runtime: &Runtime, backend: &Arc<dyn Backend>, which: &Which, count: usize) -> Fallible<Run> {
    let (backend, which) = (Arc::clone(backend), which.clone());
    let calls = runtime.spawn(async move {
        let mut run = Run::default();
        let begun = Instant::now();
        for _ in 0..count {
            let start = Instant::now();
            let found = backend.inspect(vec![which.clone()]).await.map_err(|error| error.to_string())?;
            run.each.push(start.elapsed());
            if found.iter().all(Option::is_none) {
                return Err("the plugin lost its volume".to_owned());
            }
        }
        run.wall = begun.elapsed();
        run.each.sort();
        Ok(run)
    });
    Ok(runtime.block_on(calls)??)
}

/// Every file of the one volume that there is.
fn files_beneath(folder: &Path) -> Fallible<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { files.extend(files_beneath(&path)?) } else { files.push(path) }
    }
    Ok(files)
}
