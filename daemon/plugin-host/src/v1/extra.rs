//! What a backend can do beyond volumes: grow, attach and fence, snapshots, and the smaller abilities. Each
//! is here as volumes are in `mod.rs`: convert, call, check.

use std::collections::BTreeMap;

use async_trait::async_trait;
use kato_orchestrator::{
    Error,
    model::{Bytes, CapacityRange, Connection, Token},
    ports::backend::{
        Asking, Attached, Attachments, Cut, Cutting, Effect, Extras, Fencing, Grow, Health, NodeFacts, Page,
        Polling, Room, Shot, Snapshots, Standing, Which,
    },
};

use super::{
    Found, Plugin,
    abi::exports::kato::storage::{attachments, fencing, grow, modify, polling, snapshots},
    abi::kato::storage::types,
    call::Entered,
    convert::{self, Lie},
    reachable, verify,
};
use crate::limits;

/// The interface of an ability, loaded; a call to one that is not offered is our bug and ends the call.
macro_rules! ability {
    ($it:ident . $name:ident) => {
        $it.abilities
            .$name
            .as_ref()
            .ok_or_else(|| wasmtime::Error::msg(concat!("the plugin does not offer ", stringify!($name))))?
            .load(&mut *$it.store, $it.instance)?
    };
}
pub(super) use ability;

impl Plugin {
    fn pending<T>(&self, function: &'static str, wire: types::Pending) -> Result<Effect<T>, Error> {
        convert::pending_from_wire(wire, self.secrets()).map(Effect::Pending).map_err(self.lied(function))
    }

    async fn look_at_snapshots(&self, which: &[Which]) -> Result<Vec<Option<Shot>>, Error> {
        let mut found = Vec::with_capacity(which.len());
        for batch in which.chunks(limits::BATCH) {
            let wire: Vec<_> = batch.iter().map(convert::which_to_wire).collect();
            let answer = self
                .read("snapshots.inspect", move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.snapshots).call_inspect(it.store, it.configuration, &wire).await
                    })
                })
                .await?;
            let lied = self.lied("snapshots.inspect");
            verify::counted(answer.len(), batch.len()).map_err(&lied)?;
            for (which, wire) in batch.iter().zip(answer) {
                let shot = wire.map(|wire| convert::snapshot_from_wire(wire, self.secrets()));
                let shot = shot.transpose().map_err(&lied)?;
                if let Some(shot) = &shot {
                    verify::found(shot, which).map_err(&lied)?;
                }
                found.push(shot);
            }
        }
        Ok(found)
    }

    pub(super) async fn absent_snapshot(&self, token: &Token, mark: &str) -> Found {
        let which = Which { token: token.clone(), handle: None };
        match self.look_at_snapshots(&[which]).await.as_deref() {
            Ok([None]) => Found::Nothing,
            Ok([Some(shot)]) if !shot.mark.is_empty() && shot.mark != mark => Found::Nothing,
            Ok(_) | Err(_) => Found::Perhaps,
        }
    }
}

impl Plugin {
    /// The nodes that a volume is attached to; nothing where nobody can tell. One that is not there is attached
    /// to none.
    async fn attached_to(&self, which: &Which) -> Result<Option<Vec<String>>, Error> {
        let wire = vec![convert::which_to_wire(which)];
        let answer = self
            .read("volumes.inspect", move |it: Entered<'_>| {
                Box::pin(async move {
                    let volumes = it.abilities.volumes.load(&mut *it.store, it.instance)?;
                    volumes.call_inspect(it.store, it.configuration, &wire).await
                })
            })
            .await?;
        let lied = self.lied("volumes.inspect");
        verify::counted(answer.len(), 1).map_err(&lied)?;
        let Some(volume) = answer.into_iter().next().flatten() else { return Ok(Some(Vec::new())) };
        let attached = volume.attached.clone();
        verify::found(&self.volume(volume).map_err(&lied)?, which).map_err(&lied)?;
        Ok(attached)
    }
}

impl Plugin {
    /// Takes the way to the bytes of an attached volume for its token, unless it is another volume's that is still
    /// attached: the node would mount one tenant's bytes for another. What was detached may pass its place on.
    async fn settle_way(&self, connection: &Connection, token: &Token) -> Result<(), Lie> {
        let way = verify::way(connection);
        let other = self.given().other(&way, token);
        if let Some(other) = other {
            let before = Which { token: other.clone(), handle: None };
            if matches!(self.attached_to(&before).await, Ok(Some(nodes)) if !nodes.is_empty()) {
                return Err(format!("it gave {way} to two attached volumes, {other} and {token}"));
            }
        }
        self.given().keep(way, token);
        Ok(())
    }
}

#[async_trait]
impl Grow for Plugin {
    async fn grow(
        &self,
        which: Which,
        size: CapacityRange,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Bytes>, Error> {
        let (wire, range) = (convert::which_to_wire(&which), convert::range_to_wire(size));
        let answer = self
            .effect(
                "grow.grow",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.grow)
                            .call_grow(it.store, it.configuration, &wire, range, resume.as_deref())
                            .await
                    })
                },
                async {
                    match self.look(std::slice::from_ref(&which)).await.as_deref() {
                        Ok([Some(made)]) if made.size >= size.required => Found::Perhaps,
                        Ok(_) => Found::Nothing,
                        Err(_) => Found::Perhaps,
                    }
                },
            )
            .await?;
        match answer {
            grow::Grown::Pending(pending) => self.pending("grow.grow", pending),
            grow::Grown::Done(bytes) if size.admits(Bytes(bytes)) && Bytes(bytes) <= Bytes::MAX => {
                Ok(Effect::Done(Bytes(bytes)))
            }
            grow::Grown::Done(bytes) => Err(self.caller.lied(
                "grow.grow",
                format!(
                    "it was asked to grow to {} and says that it grew to {}",
                    size.required,
                    Bytes(bytes)
                ),
            )),
        }
    }
}

#[async_trait]
impl Attachments for Plugin {
    async fn attach(
        &self,
        which: Which,
        node: NodeFacts,
        read_only: bool,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<Attached>, Error> {
        let named = node.name.clone();
        let (wire, node) = (convert::which_to_wire(&which), convert::node_to_wire(&node));
        let answer = self
            .effect(
                "attachments.attach",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        let answer = ability!(it.attachments)
                            .call_attach(
                                &mut *it.store,
                                it.configuration,
                                &wire,
                                &node,
                                read_only,
                                resume.as_deref(),
                            )
                            .await?;
                        let ground = &it.store.data().reach.ground;
                        Ok(answer.map(|attaching| match &attaching {
                            attachments::Attaching::Done(attached) => {
                                (reachable(ground, &attached.connection), attaching)
                            }
                            attachments::Attaching::Pending(_) => (Ok(()), attaching),
                        }))
                    })
                },
                async {
                    match self.attached_to(&which).await {
                        Ok(Some(nodes)) if nodes.contains(&named) => Found::Perhaps,
                        // Where the backend does not tell, an attachment that stands after all is found by the
                        // next attach, or taken down by detach, both of which are idempotent.
                        Ok(_) => Found::Nothing,
                        Err(_) => Found::Perhaps,
                    }
                },
            )
            .await?;
        let (reachable, answer) = answer;
        match answer {
            attachments::Attaching::Pending(pending) => self.pending("attachments.attach", pending),
            attachments::Attaching::Done(attached) => {
                let lied = self.lied("attachments.attach");
                let connection =
                    convert::connection_from_wire(attached.connection, &self.caller.ground.powers);
                let connection = connection.map_err(&lied)?;
                reachable.map_err(|error| self.unconnectable(error))?;
                self.settle_way(&connection, &which.token).await.map_err(&lied)?;
                let client = attached.client;
                let client =
                    client.map(|client| convert::word(&client, "the client's identity", self.secrets()));
                Ok(Effect::Done(Attached { connection, client: client.transpose().map_err(&lied)? }))
            }
        }
    }

    async fn detach(
        &self,
        which: Which,
        node: NodeFacts,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        let named = node.name.clone();
        let (wire, node) = (convert::which_to_wire(&which), convert::node_to_wire(&node));
        let answer = self
            .effect(
                "attachments.detach",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.attachments)
                            .call_detach(it.store, it.configuration, &wire, &node, resume.as_deref())
                            .await
                    })
                },
                async {
                    match self.attached_to(&which).await {
                        Ok(Some(nodes)) if nodes.contains(&named) => Found::Nothing,
                        // Nobody can see whether it is detached by now: the same call again tells.
                        Ok(_) | Err(_) => Found::Perhaps,
                    }
                },
            )
            .await?;
        match answer {
            attachments::Detaching::Pending(pending) => self.pending("attachments.detach", pending),
            attachments::Detaching::Done => Ok(Effect::Done(())),
        }
    }
}

#[async_trait]
impl Fencing for Plugin {
    async fn fence(
        &self,
        which: Which,
        node: NodeFacts,
        clients: Vec<String>,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        let (wire, node) = (convert::which_to_wire(&which), convert::node_to_wire(&node));
        let answer = self
            .effect(
                "fencing.fence",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.fencing)
                            .call_fence(it.store, it.configuration, &wire, &node, &clients, resume.as_deref())
                            .await
                    })
                },
                std::future::ready(Found::Perhaps),
            )
            .await?;
        match answer {
            fencing::Fenced::Pending(pending) => self.pending("fencing.fence", pending),
            fencing::Fenced::Done => Ok(Effect::Done(())),
        }
    }
}

#[async_trait]
impl Snapshots for Plugin {
    async fn how(&self, volume: Which) -> Result<Cutting, Error> {
        let wire = convert::which_to_wire(&volume);
        self.read("snapshots.how", move |it: Entered<'_>| {
            Box::pin(async move { ability!(it.snapshots).call_how(it.store, it.configuration, &wire).await })
        })
        .await
        .map(convert::cutting_from_wire)
    }

    async fn cut(&self, wish: Cut) -> Result<Effect<Shot>, Error> {
        let wire = convert::cut_to_wire(&wish);
        let (token, mark, volume, resume) = (wish.token, wish.mark, wish.volume, wish.resume);
        let answer = self
            .effect(
                "snapshots.cut",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.snapshots)
                            .call_cut(it.store, it.configuration, &wire, resume.as_deref())
                            .await
                    })
                },
                async { self.absent_snapshot(&token, &mark).await },
            )
            .await?;
        match answer {
            snapshots::CutAnswer::Pending(pending) => self.pending("snapshots.cut", pending),
            snapshots::CutAnswer::Done(wire) => {
                let lied = self.lied("snapshots.cut");
                verify::source(wire.volume.as_deref(), &volume).map_err(&lied)?;
                let shot = convert::snapshot_from_wire(wire, self.secrets()).map_err(&lied)?;
                verify::made(&shot, &token).map_err(&lied)?;
                Ok(Effect::Done(shot))
            }
        }
    }

    async fn delete_snapshot(&self, which: Which, resume: Option<Vec<u8>>) -> Result<Effect<()>, Error> {
        let wire = convert::which_to_wire(&which);
        let answer = self
            .effect(
                "snapshots.delete",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.snapshots)
                            .call_delete(it.store, it.configuration, &wire, resume.as_deref())
                            .await
                    })
                },
                async {
                    match self.look_at_snapshots(std::slice::from_ref(&which)).await.as_deref() {
                        Ok([Some(_)]) => Found::Nothing,
                        Ok(_) | Err(_) => Found::Perhaps,
                    }
                },
            )
            .await?;
        match answer {
            snapshots::Deleting::Pending(pending) => self.pending("snapshots.delete", pending),
            snapshots::Deleting::Done => Ok(Effect::Done(())),
        }
    }

    async fn inspect_snapshots(&self, which: Vec<Which>) -> Result<Vec<Option<Shot>>, Error> {
        self.look_at_snapshots(&which).await
    }

    async fn list_snapshots(&self, page: Option<String>) -> Result<Page<Shot>, Error> {
        let asked = page.clone();
        let answer = self
            .read("snapshots.list", move |it: Entered<'_>| {
                Box::pin(async move {
                    ability!(it.snapshots).call_list(it.store, it.configuration, page.as_deref()).await
                })
            })
            .await?;
        convert::page_from_wire(answer.items, answer.next, asked.as_deref(), self.secrets(), |wire| {
            convert::snapshot_from_wire(wire, self.secrets())
        })
        .map_err(self.lied("snapshots.list"))
    }
}

#[async_trait]
impl Extras for Plugin {
    async fn modify(
        &self,
        which: Which,
        parameters: BTreeMap<String, String>,
        resume: Option<Vec<u8>>,
    ) -> Result<Effect<()>, Error> {
        if !self.description.abilities.modify {
            return Err(self.lacks("change parameters"));
        }
        let (wire, pairs) = (convert::which_to_wire(&which), convert::pairs(&parameters));
        let answer = self
            .effect(
                "modify.modify",
                move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.modify)
                            .call_modify(it.store, it.configuration, &wire, &pairs, resume.as_deref())
                            .await
                    })
                },
                async {
                    match self.look(std::slice::from_ref(&which)).await.as_deref() {
                        // Some of them may be in force already: then it is not true that nothing happened.
                        Ok([Some(made)]) => match &made.parameters {
                            Some(now)
                                if parameters.iter().any(|(name, value)| now.get(name) == Some(value)) =>
                            {
                                Found::Perhaps
                            }
                            _ => Found::Nothing,
                        },
                        Ok(_) => Found::Nothing,
                        Err(_) => Found::Perhaps,
                    }
                },
            )
            .await?;
        match answer {
            modify::Modified::Pending(pending) => self.pending("modify.modify", pending),
            modify::Modified::Done => Ok(Effect::Done(())),
        }
    }

    async fn room(&self, parameters: BTreeMap<String, String>) -> Result<Room, Error> {
        if !self.description.abilities.capacity {
            return Err(self.lacks("tell how much room there is"));
        }
        let pairs = convert::pairs(&parameters);
        self.read("capacity.capacity", move |it: Entered<'_>| {
            Box::pin(async move {
                ability!(it.capacity).call_capacity(it.store, it.configuration, &pairs, &[]).await
            })
        })
        .await
        .map(convert::room_from_wire)
    }

    async fn health(&self, which: Vec<Which>) -> Result<Vec<Health>, Error> {
        if !self.description.abilities.health {
            return Err(self.lacks("tell how volumes feel"));
        }
        let mut conditions = Vec::with_capacity(which.len());
        for batch in which.chunks(limits::BATCH) {
            let wire: Vec<_> = batch.iter().map(convert::which_to_wire).collect();
            let answer = self
                .read("health.health", move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.health).call_health(it.store, it.configuration, &wire).await
                    })
                })
                .await?;
            let lied = self.lied("health.health");
            verify::counted(answer.len(), batch.len()).map_err(&lied)?;
            for wire in answer {
                conditions.push(convert::health_from_wire(wire, self.secrets()).map_err(&lied)?);
            }
        }
        Ok(conditions)
    }
}

#[async_trait]
impl Polling for Plugin {
    async fn poll(&self, askings: Vec<Asking>) -> Result<Vec<Standing>, Error> {
        let mut standings = Vec::with_capacity(askings.len());
        for batch in askings.chunks(limits::BATCH) {
            let wire: Vec<_> = batch.iter().map(convert::asking_to_wire).collect();
            let answer = self
                .read("polling.poll", move |it: Entered<'_>| {
                    Box::pin(async move {
                        ability!(it.polling).call_poll(it.store, it.configuration, &wire).await
                    })
                })
                .await?;
            let lied = self.lied("polling.poll");
            verify::counted(answer.len(), batch.len()).map_err(&lied)?;
            for wire in answer {
                standings.push(match wire {
                    polling::Standing::Ready => Standing::Ready,
                    polling::Standing::Still(pending) => {
                        Standing::Still(convert::pending_from_wire(pending, self.secrets()).map_err(&lied)?)
                    }
                });
            }
        }
        Ok(standings)
    }
}
