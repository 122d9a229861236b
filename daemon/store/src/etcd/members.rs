//! The nodes that are there: for each a key under its lease, which goes when the lease does.
//!
//! ```text
//! <prefix>s/n/<node>   {"node":"…","session":3,"schema":1}
//! ```
//!
//! *Schema.* Records may be written in what everybody who is there can read. The house's key says what that is, and so
//! what may have been written ever; it is only raised. Raising it is one stroke with "nobody came meanwhile", and coming
//! is one stroke with "it was not raised meanwhile": of a node that cannot read it and one that writes it, one loses.

use std::sync::Arc;

use async_trait::async_trait;
use kato_orchestrator::{
    Error, Kind,
    model::NodeId,
    ports::store::{
        Entry, Revision,
        members::{Attendance, Lease, LeaseId, Member, Members, Present},
    },
    records::SCHEMA,
};
use serde_json::{Value, json};

use super::{
    EtcdStore, Room,
    draft::{Condition, Draft, Effect},
    lease::Attending,
    receipts::Wrote,
    wire::{KeyValue, RangeRequest, revision},
};
use crate::attendance::{taken, too_old};

/// How often something is tried again because somebody else was faster.
const ATTEMPTS: usize = 16;

fn text(wish: &Attendance) -> Vec<u8> {
    json!({ "node": wish.node.as_str(), "session": wish.session, "schema": wish.schema })
        .to_string()
        .into_bytes()
}

fn member(kv: &KeyValue) -> Option<Member> {
    let value: Value = serde_json::from_slice(&kv.value).ok()?;
    Some(Member {
        node: NodeId::parse(value.get("node")?.as_str()?).ok()?,
        session: value.get("session")?.as_u64()?,
        schema: value.get("schema")?.as_u64()?.try_into().ok()?,
        lease: LeaseId(u64::from_ne_bytes(kv.lease.to_ne_bytes())),
        since: revision(kv.create_revision),
    })
}

fn contended() -> Error {
    Error::busy("other nodes came and went each time this was tried: try again in a moment")
}

impl Room {
    async fn members(&self) -> Result<Present, Error> {
        let (key, range_end) = self.layout.nodes();
        let answer = self.client.ask(&RangeRequest { key, range_end, ..RangeRequest::default() }).await?;
        let members = answer.kvs.iter().map(|kv| {
            member(kv).ok_or_else(|| {
                Error::internal(format!(
                    "the key {} in etcd describes no node: it is damaged; the node that it is of writes it again when it \
                     starts",
                    String::from_utf8_lossy(&kv.key)
                ))
            })
        });
        let now = answer.header.as_ref().map_or(0, |header| revision(header.revision));
        Ok(Present { members: members.collect::<Result<_, _>>()?, revision: now })
    }

    async fn attend(self: &Arc<Self>, wish: Attendance) -> Result<Attending, Error> {
        let key = self.layout.node(wish.node.as_str());
        let tenure = self.tenure_of(wish.lease, wish.ttl).await?;
        // Whatever comes of it, the lease is not kept up longer than somebody has it.
        let attending = Attending::new(self, tenure);
        for _ in 0..ATTEMPTS {
            let (house, written) = self.house().await?.ok_or_else(no_house)?;
            if wish.schema < house.schema {
                self.revoke(&attending.tenure).await?;
                return Err(too_old(&wish.node, wish.schema, house.schema));
            }
            let there =
                self.client.ask(&RangeRequest { key: key.clone(), ..RangeRequest::default() }).await?;
            let mut at = 0;
            if let Some(kv) = there.kvs.first() {
                let lease = LeaseId(u64::from_ne_bytes(kv.lease.to_ne_bytes()));
                if lease != attending.tenure.name() && Some(lease) != wish.lease {
                    self.revoke(&attending.tenure).await?;
                    return Err(taken(&wish.node, lease));
                }
                at = revision(kv.mod_revision);
            }
            let draft = Draft {
                conditions: vec![
                    Condition::Written(self.layout.house(), written),
                    Condition::Written(key.clone(), at),
                ],
                effects: vec![Effect::Put(key.clone(), text(&wish), attending.tenure.id)],
            };
            if let Wrote::Applied { .. } = self.write(&draft).await? {
                return Ok(attending);
            }
        }
        Err(contended())
    }

    async fn schema(&self) -> Result<u16, Error> {
        for _ in 0..ATTEMPTS {
            let (mut house, written) = self.house().await?.ok_or_else(no_house)?;
            let present = self.members().await?;
            let lowest =
                present.members.iter().map(|member| member.schema).min().unwrap_or(SCHEMA).min(SCHEMA);
            if lowest <= house.schema {
                return Ok(house.schema);
            }
            house.schema = lowest;
            let nobody_came = Condition::NoneNewer(self.layout.nodes(), present.revision);
            match self.write_house(&house, written, vec![nobody_came]).await {
                Ok(_) => return Ok(lowest),
                Err(error) if error.kind == Kind::Busy => {}
                Err(error) => return Err(error),
            }
        }
        Err(contended())
    }
}

fn no_house() -> Error {
    Error::precondition(
        "the records in etcd were removed while they were in use: restore etcd, then run `kato recover --scan`",
    )
}

#[async_trait]
impl Members for EtcdStore {
    async fn attend(&self, attendance: Attendance) -> Result<Box<dyn Lease>, Error> {
        self.room.is_open().await?;
        Ok(Box::new(self.room.attend(attendance).await?))
    }

    async fn present(&self) -> Result<Present, Error> {
        self.room.is_open().await?;
        self.room.members().await
    }

    async fn changed_since(&self, since: Revision) -> Result<Present, Error> {
        self.room.is_open().await?;
        match self.room.nodes.watch_from("", since.max(1)).await {
            // What happened since is not remembered: it may be anything.
            Err(error) if error.kind != Kind::OutOfRange => Err(error),
            Ok(_) | Err(_) => self.room.members().await,
        }
    }

    async fn schema(&self) -> Result<u16, Error> {
        self.room.is_open().await?;
        self.room.schema().await
    }

    async fn believe(&self, remembered: Vec<Entry>) -> Result<bool, Error> {
        self.accept_here(remembered).await
    }
}
