//! Version 1 of the contract, as an adapter of the port `Backend`. A later version of the contract gets a
//! room like this one beside it, and the house never learns which of them it talks to.
//!
//! [`Plugin`] is one configured backend. Each method converts, calls a fresh instance (`call.rs`), converts
//! back (`convert.rs`), and checks that the answer fits the question (`verify.rs`). **Finality** is decided
//! in [`Plugin::settle`]: a refused effect is final only when a fresh instance looked and found it so.
//! The abilities beyond volumes are in `extra.rs`, `extents.rs` and `blocks.rs`.

pub(crate) mod abi;
pub(crate) mod abilities;
mod blocks;
pub(crate) mod call;
mod convert;
pub(crate) mod error;
mod extents;
mod extra;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kato_orchestrator::{
    Error, Finality,
    model::Token,
    ports::{
        Backend, Extents, SnapshotReading, SnapshotWriting,
        backend::{
            Attachments, Check, Create, Cutting, Description, Effect, Extras, Fencing, Grow, Made, Page,
            Polling, Snapshots, Which,
        },
    },
};

use self::{
    abi::{exports::kato::storage::volumes, kato::storage::types},
    call::{Answer, Caller, Class, Entered, Failure},
    convert::Lie,
    verify::Given,
};
use crate::{
    grants::credentials::Secrets,
    guest::{Ground, Notes},
    limits,
};

/// One configured backend behind a component of version 1.
pub(crate) struct Plugin {
    caller: Arc<Caller>,
    description: Description,
    given: Mutex<Given>,
}

/// Whether the connections of these volumes are granted.
fn connectable<'a>(
    ground: &Ground,
    volumes: impl IntoIterator<Item = &'a types::Volume>,
) -> Result<(), Error> {
    volumes
        .into_iter()
        .filter_map(|volume| volume.connection.as_ref())
        .try_for_each(|connection| reachable(ground, connection))
}

/// Whether a connection is granted. It may be a path, so this looks at the disk; it is called on the call's
/// thread, at its end.
fn reachable(ground: &Ground, wire: &types::Connection) -> Result<(), Error> {
    match convert::connection_from_wire(wire.clone(), &ground.powers) {
        Ok(connection) => ground.powers.connections.check(&connection),
        // What cannot even be converted is answered as nonsense when the volume is.
        Err(_) => Ok(()),
    }
}

/// What a refused effect turned out to be when somebody looked.
enum Found {
    /// Nothing of it happened.
    Nothing,
    /// Something did, or nobody could tell.
    Perhaps,
}

impl Plugin {
    /// Asks the component what it is, and is ready.
    pub(crate) async fn open(caller: Caller) -> Result<Self, Error> {
        let caller = Arc::new(caller);
        let asked = caller
            .call("identity.describe", Class::Read, |it: Entered<'_>| {
                Box::pin(async move {
                    let identity = it.abilities.identity.load(&mut *it.store, it.instance)?;
                    identity.call_describe(it.store, it.configuration).await
                })
            })
            .await;
        let wire = asked.map_err(|failure| match failure {
            Failure::Broke(error) => error,
            Failure::Refused(error, notes) => {
                error::from_wire(error, &notes, &caller.ground.powers.secrets).about(caller.subject())
            }
        })?;
        let secrets = &caller.ground.powers.secrets;
        let mut description = convert::description_from_wire(wire, &caller.loaded.abilities, secrets)
            .map_err(|lie| caller.lied("identity.describe", lie))?;
        // What needs no attaching and lies in a directory of this host is of no use on another one.
        description.abilities.node_bound =
            !description.abilities.attachments && caller.ground.powers.connections.are_of_this_host();
        Ok(Self { caller, description, given: Mutex::default() })
    }

    fn lied(&self, function: &'static str) -> impl Fn(Lie) -> Error {
        move |lie| self.caller.lied(function, self.secrets().redact(lie))
    }

    fn secrets(&self) -> &Secrets {
        &self.caller.ground.powers.secrets
    }

    /// A refusal as our error, pending.
    fn refused(&self, error: types::Error, notes: &Notes) -> Error {
        if notes.denial().is_some() {
            let backend = self.caller.ground.backend.as_str().to_owned();
            metrics::counter!("kato_plugin_denied_total", "backend" => backend).increment(1);
        }
        error::from_wire(error, notes, self.secrets()).about(self.caller.subject())
    }

    /// Calls a function that only reads: its refusal changes nothing, so it is final.
    async fn read<T, F>(&self, function: &'static str, run: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(Entered<'a>) -> futures_util::future::BoxFuture<'a, Answer<T>> + Send + 'static,
    {
        self.caller.call(function, Class::Read, run).await.map_err(|failure| match failure {
            Failure::Broke(error) => error,
            Failure::Refused(error, notes) => {
                let sure = error::refuses(error.kind);
                let mut error = self.refused(error, &notes);
                if sure {
                    error.finality = Finality::Final;
                }
                error
            }
        })
    }

    /// Calls a function that changes something. When it is refused, `look` finds out what is so.
    async fn effect<T, F, L>(&self, function: &'static str, run: F, look: L) -> Result<T, Error>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(Entered<'a>) -> futures_util::future::BoxFuture<'a, Answer<T>> + Send + 'static,
        L: Future<Output = Found> + Send,
    {
        match self.caller.call(function, Class::Effect, run).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Broke(error)) => Err(error),
            Err(Failure::Refused(error, notes)) => {
                let open = notes.is_uncertain() || !error::refuses(error.kind);
                let mut error = self.refused(error, &notes);
                if !open && matches!(look.await, Found::Nothing) {
                    error.finality = Finality::Final;
                }
                Err(error)
            }
        }
    }

    /// Looks at volumes in a fresh instance, a batch at a time.
    async fn look(&self, which: &[Which]) -> Result<Vec<Option<Made>>, Error> {
        let mut found = Vec::with_capacity(which.len());
        for batch in which.chunks(limits::BATCH) {
            let wire: Vec<_> = batch.iter().map(convert::which_to_wire).collect();
            let answer = self
                .read("volumes.inspect", move |it: Entered<'_>| {
                    Box::pin(async move {
                        let volumes = it.abilities.volumes.load(&mut *it.store, it.instance)?;
                        let answer = volumes.call_inspect(&mut *it.store, it.configuration, &wire).await?;
                        let ground = &it.store.data().reach.ground;
                        Ok(answer.map(|found| (connectable(ground, found.iter().flatten()), found)))
                    })
                })
                .await?;
            let (connectable, answer) = answer;
            let lied = self.lied("volumes.inspect");
            verify::counted(answer.len(), batch.len()).map_err(&lied)?;
            for (which, wire) in batch.iter().zip(answer) {
                let made = wire.map(|wire| self.volume(wire)).transpose().map_err(&lied)?;
                if let Some(made) = &made {
                    verify::found(made, which).map_err(&lied)?;
                }
                found.push(made);
            }
            connectable.map_err(|error| self.unconnectable(error))?;
        }
        Ok(found)
    }

    fn volume(&self, wire: types::Volume) -> Result<Made, Lie> {
        convert::volume_from_wire(wire, &self.caller.ground.powers)
    }

    /// A connection that was answered and is not granted, or leads nowhere.
    fn unconnectable(&self, error: Error) -> Error {
        let backend = self.caller.ground.backend.as_str().to_owned();
        metrics::counter!("kato_plugin_denied_total", "backend" => backend).increment(1);
        error.about(self.caller.subject()).pending()
    }

    /// Whether nothing stands under this token, or something that carries another mark, so that another wish made it.
    async fn absent(&self, token: &Token, mark: &str) -> Found {
        let which = Which { token: token.clone(), handle: None };
        match self.look(&[which]).await.as_deref() {
            Ok([None]) => Found::Nothing,
            Ok([Some(made)]) if !made.mark.is_empty() && made.mark != mark => Found::Nothing,
            Ok(_) | Err(_) => Found::Perhaps,
        }
    }

    /// Takes handle and connection for a token, unless the plugin gave one of them to another that still stands.
    async fn settle_marks(&self, made: &Made, token: &Token) -> Result<(), Lie> {
        for mark in verify::marks(made) {
            let other = self.given().other(&mark, token);
            if let Some(other) = other {
                let before = Which { token: other.clone(), handle: None };
                if !matches!(self.look(&[before]).await.as_deref(), Ok([None])) {
                    return Err(format!("it gave {mark} to two volumes, {other} and {token}"));
                }
            }
            self.given().keep(mark, token);
        }
        Ok(())
    }

    fn given(&self) -> std::sync::MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for Plugin {
    fn describe(&self) -> Description {
        self.description.clone()
    }

    async fn check(&self) -> Result<Check, Error> {
        let status = self
            .read("identity.check", |it: Entered<'_>| {
                Box::pin(async move {
                    let identity = it.abilities.identity.load(&mut *it.store, it.instance)?;
                    identity.call_check(it.store, it.configuration).await
                })
            })
            .await?;
        convert::check_from_wire(&status, self.secrets()).map_err(self.lied("identity.check"))
    }

    async fn create(&self, wish: Create) -> Result<Effect<Made>, Error> {
        let wire = convert::create_to_wire(&wish);
        let (token, mark, size, resume) = (wish.token, wish.mark, wish.size, wish.resume);
        let answer = self
            .effect(
                "volumes.create",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        let volumes = it.abilities.volumes.load(&mut *it.store, it.instance)?;
                        let resume = resume.as_deref();
                        let answer =
                            volumes.call_create(&mut *it.store, it.configuration, &wire, resume).await?;
                        let ground = &it.store.data().reach.ground;
                        Ok(answer.map(|created| match &created {
                            volumes::Created::Done(volume) => (connectable(ground, [volume]), created),
                            volumes::Created::Pending(_) => (Ok(()), created),
                        }))
                    })
                },
                async { self.absent(&token, &mark).await },
            )
            .await?;
        let (connectable, answer) = answer;
        let lied = self.lied("volumes.create");
        match answer {
            volumes::Created::Pending(pending) => {
                convert::pending_from_wire(pending, self.secrets()).map(Effect::Pending).map_err(lied)
            }
            volumes::Created::Done(volume) => {
                let made = self.volume(volume).map_err(&lied)?;
                verify::made(&made, &token).map_err(&lied)?;
                verify::sized(&made, size).map_err(&lied)?;
                self.settle_marks(&made, &token).await.map_err(&lied)?;
                connectable.map_err(|error| self.unconnectable(error))?;
                Ok(Effect::Done(made))
            }
        }
    }

    async fn delete(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        let wire = convert::which_to_wire(&which);
        let answer = self
            .effect(
                "volumes.delete",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        let volumes = it.abilities.volumes.load(&mut *it.store, it.instance)?;
                        volumes.call_delete(it.store, it.configuration, &wire, resume.as_deref()).await
                    })
                },
                async {
                    match self.look(std::slice::from_ref(&which)).await.as_deref() {
                        Ok([Some(_)]) => Found::Nothing,
                        Ok(_) | Err(_) => Found::Perhaps,
                    }
                },
            )
            .await?;
        match answer {
            volumes::Deleted::Pending(pending) => convert::pending_from_wire(pending, self.secrets())
                .map(Effect::Pending)
                .map_err(self.lied("volumes.delete")),
            volumes::Deleted::Done => {
                self.given().forget(&which.token);
                Ok(Effect::Done(()))
            }
        }
    }

    async fn inspect(&self, which: Vec<Which>) -> Result<Vec<Option<Made>>, Error> {
        self.look(&which).await
    }

    async fn list(&self, page: Option<String>) -> Result<Page<Made>, Error> {
        let asked = page.clone();
        let answer = self
            .read("volumes.list", move |it: Entered<'_>| {
                Box::pin(async move {
                    let volumes = it.abilities.volumes.load(&mut *it.store, it.instance)?;
                    let answer = volumes.call_list(&mut *it.store, it.configuration, page.as_deref()).await?;
                    let ground = &it.store.data().reach.ground;
                    Ok(answer.map(|page| (connectable(ground, &page.items), page)))
                })
            })
            .await?;
        let (connectable, answer) = answer;
        let page =
            convert::page_from_wire(answer.items, answer.next, asked.as_deref(), self.secrets(), |wire| {
                self.volume(wire)
            })
            .map_err(self.lied("volumes.list"))?;
        connectable.map_err(|error| self.unconnectable(error))?;
        Ok(page)
    }

    async fn clone_how(&self, source: Which) -> Result<Cutting, Error> {
        if !self.description.abilities.clone {
            return Err(self.lacks("copy volumes"));
        }
        let wire = convert::which_to_wire(&source);
        let answer = self
            .read("clone.how", move |it: Entered<'_>| {
                Box::pin(async move {
                    let indices =
                        it.abilities.clone.as_ref().ok_or_else(|| wasmtime::Error::msg("not offered"))?;
                    let clone = indices.load(&mut *it.store, it.instance)?;
                    clone.call_how(it.store, it.configuration, &wire).await
                })
            })
            .await?;
        Ok(convert::cutting_from_wire(answer))
    }

    async fn remark(&self, which: Which, mark: String) -> Result<(), Error> {
        let wire = convert::which_to_wire(&which);
        let wanted = mark.clone();
        self.effect(
            "volumes.remark",
            move |it: Entered<'_>| {
                Box::pin(async move {
                    let volumes = it.abilities.volumes.load(&mut *it.store, it.instance)?;
                    volumes.call_remark(it.store, it.configuration, &wire, &mark).await
                })
            },
            async {
                match self.look(std::slice::from_ref(&which)).await.as_deref() {
                    Ok([Some(made)]) if made.mark == wanted => Found::Perhaps,
                    Ok(_) => Found::Nothing,
                    Err(_) => Found::Perhaps,
                }
            },
        )
        .await
    }

    fn grow(&self) -> Option<&dyn Grow> {
        self.description.abilities.grow.is_some().then_some(self as _)
    }

    fn attachments(&self) -> Option<&dyn Attachments> {
        self.description.abilities.attachments.then_some(self as _)
    }

    fn fencing(&self) -> Option<&dyn Fencing> {
        self.description.abilities.fence.then_some(self as _)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        self.description.abilities.snapshots.then_some(self as _)
    }

    fn extents(&self) -> Option<&dyn Extents> {
        self.description.abilities.extents.then_some(self as _)
    }

    fn snapshot_data(&self) -> Option<&dyn SnapshotReading> {
        self.description.abilities.snapshot_data.then_some(self as _)
    }

    fn snapshot_writing(&self) -> Option<&dyn SnapshotWriting> {
        self.description.abilities.snapshot_writing.then_some(self as _)
    }

    fn extras(&self) -> Option<&dyn Extras> {
        let abilities = &self.description.abilities;
        (abilities.modify || abilities.health || abilities.capacity).then_some(self as _)
    }

    fn polling(&self) -> Option<&dyn Polling> {
        self.description.abilities.polling.then_some(self as _)
    }
}

impl Plugin {
    fn lacks(&self, what: &str) -> Error {
        Error::unsupported(format!("the plugin {} cannot {what}", self.description.plugin))
            .about(self.caller.subject())
    }
}
