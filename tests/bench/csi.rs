//! The CSI door: volumes that come and go, a pod's start and end on the node, pages of a long list, and creates beside
//! very many volumes. Each beside a server that does nothing (`null.rs`), which is what gRPC costs, and beside the bare
//! system calls of the same work, which is what the disk costs. What stands in one row was taken in turns.

mod loans;
mod many;
mod pairs;

mod caller;
mod null;

use std::sync::Arc;

use kato_csi::protocol::Volume;

use self::{
    caller::{Caller, Kind},
    null::Null,
    pairs::Plugin,
};
use crate::{
    Effort, Fallible,
    daemon::Daemon,
    table::Table,
    yardstick::{Appender, Ground, RECORD},
};

pub(crate) fn rows(ground: &Ground, effort: Effort, table: &mut Table) -> Fallible {
    let daemon = Daemon::start_with_csi(&ground.folder("daemon")?)?;
    let volume = warm(&daemon)?;
    let scene = Scene {
        ground,
        effort,
        first: daemon.memory()?,
        daemon,
        null: Null::start(&ground.folder("null")?, volume, Vec::new())?,
        journal: Appender::make(&ground.folder("bare")?.join("journal"))?,
        plugin: Plugin::load(&ground.folder("plugin")?)?,
    };
    pairs::rows(&scene, table)?;
    loans::rows(&scene, table)?;
    many::rows(&scene, table)
}

/// The first use of everything (plugin compiled, folders made) is not what is measured. Answers what such a volume is.
fn warm(daemon: &Daemon) -> Fallible<Volume> {
    let mut caller = Caller::open(&daemon.csi())?;
    let volume = caller.create("warm", Kind::Directory)?;
    caller.delete(&volume)?;
    Ok(volume)
}

/// What is measured, and what it is held against.
struct Scene<'a> {
    ground: &'a Ground,
    effort: Effort,
    daemon: Daemon,
    /// The daemon's memory before anything was asked of it, in MiB.
    first: f64,
    null: Null,
    journal: Appender,
    plugin: Arc<Plugin>,
}

impl Scene<'_> {
    /// How often the same is measured, in turns with what it is held against.
    fn rounds(&self) -> usize {
        self.effort.of(3, 1)
    }

    /// Appends to a journal that all share, so often for each piece.
    fn append(&self, flushes: usize) -> Fallible {
        (0..flushes).try_for_each(|_| self.journal.append(&RECORD))
    }
}
