//! Volumes that come and go again, and what such a pair of calls is made of.

use std::{path::Path, sync::Arc, time::Duration};

use kato_orchestrator::{
    model::Token,
    ports::{Backend, backend::Which},
};
use tokio::runtime::Runtime;

use super::{
    Scene,
    caller::{Caller, Kind},
};
use crate::{
    Fallible,
    clock::{Run, together},
    plugin,
    raw::figures,
    table::{Row, Table, ratio, time},
    yardstick::directory,
};

pub(super) fn rows(scene: &Scene<'_>, table: &mut Table) -> Fallible {
    let mut caller = Caller::open(&scene.daemon.csi())?;
    let flushes = scene
        .daemon
        .flushes_of(scene.effort.of(20, 2), |number| pair(&mut caller, &format!("flush-{number}")))?;
    let volumes = scene.ground.folder("bare/volumes")?;
    for at_once in [1, 8, 64] {
        let count = scene.effort.of(if at_once == 1 { 100 } else { 640 }, at_once);
        let (mut ours, mut bare, mut parts) = (Run::default(), Run::default(), Parts::default());
        for round in 0..scene.rounds() {
            let name = format!("pair-{at_once}-{round}");
            ours.add(pairs(&scene.daemon.csi(), at_once, count, &name)?);
            parts.add(scene, at_once, count, &name)?;
            bare.add(together(
                at_once,
                count,
                |_| Ok(()),
                |(), piece| {
                    scene.append(flushes)?;
                    directory(&volumes, &piece.to_string())
                },
            )?);
        }
        let row = |what: &str, yardstick: String, each: Duration, aim| Row {
            what: format!("create + delete, {at_once} at once{what}"),
            ours: figures(&ours),
            yardstick,
            ratio: ratio(ours.median(), each),
            aim,
        };
        table.row(&row("", format!("null {}", figures(&parts.null)), parts.null.median(), None));
        let what = format!(", {flushes} flushes");
        table.row(&row(&what, format!("bare {}", figures(&bare)), bare.median(), None));
        let aim = (at_once == 64).then(|| ("within 3 times".to_owned(), ours.median() <= 3 * parts.sum()));
        table.row(&row("", parts.tell(), parts.sum(), aim));
    }
    Ok(())
}

fn pairs(socket: &Path, at_once: usize, count: usize, name: &str) -> Fallible<Run> {
    together(
        at_once,
        count,
        |_| Caller::open(socket),
        |caller, piece| pair(caller, &format!("{name}-{piece}")),
    )
}

fn pair(caller: &mut Caller, name: &str) -> Fallible {
    let volume = caller.create(name, Kind::Directory)?;
    caller.delete(&volume)
}

/// What a durable create and delete cannot do without, each with as many at once.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Both calls, with nobody who does anything.
    null: Run,
    /// One flush of a journal that all share.
    flush: Run,
    /// The plugin making and removing a directory, durably.
    plugin: Run,
}

impl Parts {
    fn add(&mut self, scene: &Scene<'_>, at_once: usize, count: usize, name: &str) -> Fallible {
        self.null.add(pairs(scene.null.socket(), at_once, count, name)?);
        self.flush.add(together(at_once, count, |_| Ok(()), |(), _| scene.append(1))?);
        self.plugin.add(together(
            at_once,
            count,
            |_| Ok(()),
            |(), piece| Arc::clone(&scene.plugin).pair(format!("{name}-{piece}")),
        )?);
        Ok(())
    }

    /// Both calls, one flush, and one call of the plugin: half of what making and removing take.
    fn sum(&self) -> Duration {
        self.null.median() + self.flush.median() + self.plugin.median() / 2
    }

    fn tell(&self) -> String {
        let (null, flush) = (time(self.null.median()), time(self.flush.median()));
        format!("null {null}, flush {flush}, plugin {}", time(self.plugin.median() / 2))
    }
}

/// The local backend, with no house around it.
pub(super) struct Plugin {
    backend: Arc<dyn Backend>,
    runtime: Runtime,
}

impl Plugin {
    pub(super) fn load(folder: &Path) -> Fallible<Arc<Self>> {
        let runtime = Runtime::new()?;
        Ok(Arc::new(Self { backend: runtime.block_on(plugin::load(folder))?, runtime }))
    }

    /// Has a directory made and removed, by a task as the hall's drivers do it.
    fn pair(self: Arc<Self>, name: String) -> Fallible {
        let backend = Arc::clone(&self.backend);
        let task = self.runtime.spawn(async move {
            let token = Token::parse(&name).map_err(|error| error.to_string())?;
            plugin::make(&backend, &token).await.map_err(|error| error.to_string())?;
            let which = Which { token, handle: None };
            backend.delete(which, None).await.map(drop).map_err(|error| error.to_string())
        });
        Ok(self.runtime.block_on(task)??)
    }
}
