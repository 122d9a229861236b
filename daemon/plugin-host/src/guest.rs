//! What one instance carries with it through one call: its bit of WASI (clocks, chance, and a place for what
//! it prints), the backend's powers, and notes on what happened outside, from which the answer's finality is
//! decided. It lives as long as the call.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use kato_orchestrator::{Error, model::BackendName};
use wasmtime::component::{ResourceTable, ResourceTableError};
use wasmtime_wasi::{
    WasiCtx, WasiCtxView, WasiView,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    engine::Engine,
    files::turns::Turns,
    grants::Powers,
    imports::{
        files::Copies,
        http::{Client, Outgoing},
        transfers::Freight,
    },
    limits::{Ceiling, Limits},
    stray::Strays,
    text,
};

/// How much of what a guest prints is kept for the log.
const PRINTED: usize = 4 << 10;

/// How many things of the host's (streams, timers, headers) a guest may hold at once.
const HELD: usize = 1000;

/// What a host function stopped a guest for.
pub(crate) fn stopped(trap: &wasmtime::Error) -> String {
    match trap.downcast_ref() {
        Some(ResourceTableError::Full) => {
            format!("it held more than {HELD} things of the host's at once (streams, timers, headers)")
        }
        _ => format!("it was stopped: {}", text::line(&trap.root_cause().to_string(), 300)),
    }
}

/// What the host functions of a backend stand on.
pub(crate) struct Ground {
    pub(crate) backend: BackendName,
    pub(crate) engine: Arc<Engine>,
    pub(crate) powers: Powers,
    pub(crate) limits: Limits,
    pub(crate) client: Client,
    pub(crate) copies: Arc<Copies>,
    pub(crate) turns: Arc<Turns>,
    pub(crate) strays: Arc<Strays>,
}

/// The data of one instance's store.
pub(crate) struct Guest {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outgoing: Outgoing,
    pub(crate) ceiling: Ceiling,
    pub(crate) reach: Reach,
}

/// What the host functions of one call work with; unlike the rest it can be shared across an await.
pub(crate) struct Reach {
    pub(crate) ground: Arc<Ground>,
    pub(crate) notes: Arc<Notes>,
    /// What the call moves between the backend and the hall.
    pub(crate) freight: Option<Arc<Freight>>,
}

impl Guest {
    pub(crate) fn new(ground: &Arc<Ground>, notes: &Arc<Notes>) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HELD);
        let printed = Printed(Arc::clone(notes));
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(64 << 10);
        Self {
            wasi: WasiCtx::builder()
                .stdout(printed.clone())
                .stderr(printed)
                .max_random_size(64 << 10)
                .build(),
            http,
            table,
            outgoing: Outgoing::new(Arc::clone(ground), Arc::clone(notes)),
            ceiling: Ceiling::new(&ground.limits),
            reach: Reach { ground: Arc::clone(ground), notes: Arc::clone(notes), freight: None },
        }
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outgoing, table: &mut self.table, ctx: &mut self.http }
    }
}

/// What happened during a call beside its answer.
#[derive(Debug, Default)]
pub(crate) struct Notes(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    denied: Option<Error>,
    uncertain: bool,
    printed: Vec<u8>,
    lines: u32,
}

impl Notes {
    fn with<T>(&self, note: impl FnOnce(&mut Noted) -> T) -> T {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Something was refused because it is not granted. The first one is the cause of the rest.
    pub(crate) fn denied(&self, error: &Error) {
        self.with(|noted| _ = noted.denied.get_or_insert_with(|| error.clone()));
    }

    /// What was refused.
    pub(crate) fn denial(&self) -> Option<Error> {
        self.with(|noted| noted.denied.clone())
    }

    /// Something that changes the world outside was begun and its end not heard.
    pub(crate) fn uncertain(&self) {
        self.with(|noted| noted.uncertain = true);
    }

    /// Whether the guest's word about what happened is worth nothing.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.with(|noted| noted.uncertain)
    }

    /// Counts a line for the log; how many there were.
    pub(crate) fn line(&self) -> u32 {
        self.with(|noted| {
            noted.lines = noted.lines.saturating_add(1);
            noted.lines
        })
    }

    /// What the guest printed, a panic's message for one.
    pub(crate) fn printed(&self) -> String {
        self.with(|noted| String::from_utf8_lossy(&noted.printed).into_owned())
    }

    fn print(&self, bytes: &[u8]) {
        self.with(|noted| {
            let room = PRINTED.saturating_sub(noted.printed.len());
            noted.printed.extend(bytes.iter().take(room));
        });
    }
}

/// Standard output and error of a guest: the beginning is kept, the rest is let go.
#[derive(Clone)]
struct Printed(Arc<Notes>);

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }

    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }
}

impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.print(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[async_trait::async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}
