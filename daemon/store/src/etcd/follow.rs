//! What happens in etcd, as it happens: one watch over records and nodes, which fills the history that everybody of
//! this process reads from (`watch.rs`). It ends and is begun again as members come and go, each time where it was.
//!
//! A history is only as new as what has come in. [`Room::catch_up`] writes a key that is watched too and waits for it:
//! what was committed before it has then come in as well. (etcd can be asked for its progress instead, but 3.4.23 is
//! among those that answer before they have sent what they speak of.)
//!
//! When etcd has compacted what was missed, there is a gap: history begins anew at the present, and whoever watches
//! from before hears that it has to read everything again.

use std::{sync::Arc, time::Duration};

use kato_orchestrator::{
    Error,
    ports::store::{Entry, Revision},
};
use tokio::{sync::watch, time::timeout};
use tonic::{Status, Streaming};

use super::{
    Room,
    client::{Failed, Pace},
    error::{Cause, from_wire},
    layout::Place,
    wire::{
        Event, KeyValue, PutRequest, RangeRequest, WatchCreateRequest, WatchResponse, event::EventType,
        revision, signed,
    },
};
use crate::committer::Applied;

/// Why a stream ended.
enum End {
    /// Its member went away, or we chose another.
    Cut(Status),
    /// etcd does not remember what was missed.
    Compacted,
    /// It is not the cluster that we know, or is to be believed anew.
    Stranger,
}

/// Follows for as long as it is let.
pub(crate) async fn follow(room: Arc<Room>, from: Revision) {
    let mut next = from + 1;
    let mut pace = Pace::endless();
    loop {
        let before = next;
        let member = room.client.current();
        let end = match stream(&room, member, &mut next).await {
            Ok(end) => end,
            Err(Failed::Stranger(_)) => End::Stranger,
            Err(Failed::Said(status)) if Cause::of(&status) == Cause::Compacted => End::Compacted,
            Err(Failed::Said(status)) => End::Cut(status),
        };
        if next != before {
            pace = Pace::endless();
        }
        match end {
            End::Cut(status) => {
                tracing::debug!(member = room.client.name(member), %status, "the watch was cut");
                if Cause::of(&status).mends_itself() {
                    room.client.turn(member);
                } else {
                    tracing::warn!(error = %from_wire(&status), "etcd refuses the watch");
                }
                drop(pace.wait(status).await);
            }
            End::Compacted => match present(&room).await {
                Ok(now) => {
                    tracing::warn!(
                        missed_after = next - 1,
                        now,
                        "etcd forgot changes that were missed: watchers begin anew"
                    );
                    room.records.begin_at(now);
                    room.nodes.begin_at(now);
                    room.position.send_replace(now);
                    next = now + 1;
                }
                Err(error) => drop(pace.wait(Status::unavailable(error.message)).await),
            },
            End::Stranger => next = begin_anew(&room).await + 1,
        }
    }
}

/// Waits until a person has decided what to believe, and begins with what is there then.
async fn begin_anew(room: &Room) -> Revision {
    loop {
        if room.client.known.check().is_ok()
            && let Ok(now) = present(room).await
        {
            room.records.begin_at(now);
            room.nodes.begin_at(now);
            room.position.send_replace(now);
            room.begun_anew.notify_one();
            return now;
        }
        drop(timeout(Duration::from_secs(1), room.believe_anew.notified()).await);
    }
}

/// The newest revision of all.
pub(crate) async fn present(room: &Room) -> Result<Revision, Error> {
    let look = RangeRequest { key: room.layout.house(), count_only: true, ..RangeRequest::default() };
    let answer = room.client.ask(&look).await?;
    Ok(answer.header.map_or(0, |header| revision(header.revision)))
}

async fn stream(room: &Room, member: usize, next: &mut Revision) -> Result<End, Failed> {
    let (key, range_end) = room.layout.watched();
    let wish = WatchCreateRequest {
        key,
        range_end,
        start_revision: signed(*next),
        progress_notify: true,
        fragment: true,
    };
    let floor = room.client.known.seen();
    let (mut stream, _stay) = room.client.watch(member, wish).await?;
    let mut turns = room.client.turns();
    let mut events = Vec::new();
    loop {
        let message = tokio::select! {
            biased;
            message = stream.message() => message.map_err(Failed::Said)?,
            () = room.believe_anew.notified() => return Ok(End::Stranger),
            () = elsewhere(&mut turns, member) => return Ok(End::Cut(Status::cancelled("another member is asked"))),
            () = room.client.deaf(member) => return Ok(End::Cut(Status::unavailable("it does not answer"))),
        };
        let Some(message) = message else {
            return Ok(End::Cut(Status::unavailable("the member ended the watch")));
        };
        room.client.heard(member);
        // A member may be behind the others, so its own revision says nothing; events come when it has caught up.
        room.client.known.admit(message.header.as_ref(), None).map_err(Failed::Stranger)?;
        if message.compact_revision > 0 {
            return Ok(End::Compacted);
        }
        if message.canceled {
            return Ok(End::Cut(ended(&message)));
        }
        if message.created {
            set_back(room, &message, floor).map_err(Failed::Stranger)?;
            continue;
        }
        let (last, now) =
            (!message.fragment, message.header.as_ref().map_or(0, |header| revision(header.revision)));
        if message.events.is_empty() {
            // Nothing happened until then: from there it is taken up again.
            *next = (*next).max(now + 1);
            advance(&room.position, now);
            continue;
        }
        events.extend(message.events);
        if last && let Some(newest) = take(room, std::mem::take(&mut events)) {
            *next = newest + 1;
            advance(&room.position, newest);
        }
    }
}

/// Why a watch was refused. etcd says so in words, and gives no code.
fn ended(message: &WatchResponse) -> Status {
    match message.cancel_reason.as_str() {
        "" => Status::unavailable("the member cancelled the watch"),
        reason => Status::unknown(reason),
    }
}

/// A member that begins a watch behind what we have seen is slow, or was set back with all others: which of both, an
/// answer of the whole cluster tells. It is asked for by the next one who reads or writes; here it is only made sure
/// that there is one.
fn set_back(room: &Room, message: &WatchResponse, floor: Revision) -> Result<(), Error> {
    let now = message.header.as_ref().map_or(0, |header| revision(header.revision));
    if now < floor {
        room.doubt.notify_one();
    }
    room.client.known.check()
}

async fn elsewhere(turns: &mut watch::Receiver<usize>, member: usize) {
    if turns.wait_for(|current| *current != member).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Makes history of events, by revision. Answers the newest.
fn take(room: &Room, events: Vec<Event>) -> Option<Revision> {
    let (mut records, mut nodes): (Vec<Applied>, Vec<Applied>) = (Vec::new(), Vec::new());
    let mut newest = None;
    for event in events {
        let gone = event.r#type() == EventType::Delete;
        let Some(kv) = event.kv else { continue };
        let at = revision(kv.mod_revision);
        newest = Some(at);
        let (list, key) = match room.layout.place(&kv.key) {
            Place::Record(key) => (&mut records, key),
            Place::Node(node) => (&mut nodes, node),
            Place::Other => continue,
        };
        if list.last().is_none_or(|last| last.revision != at) {
            list.push(Applied { revision: at, events: Vec::new() });
        }
        if let Some(last) = list.last_mut() {
            let entry = (!gone).then(|| entry(key.clone(), kv));
            last.events.push((key, entry));
        }
    }
    room.records.push(records);
    room.nodes.push(nodes);
    newest
}

/// A record as the port has it.
pub(crate) fn entry(key: String, kv: KeyValue) -> Entry {
    Entry { key, revision: revision(kv.mod_revision), value: kv.value }
}

fn advance(position: &watch::Sender<Revision>, to: Revision) {
    position.send_if_modified(|position| {
        let further = to > *position;
        *position = (*position).max(to);
        further
    });
}

impl Room {
    /// Waits until all that happened before has come in.
    pub(crate) async fn catch_up(&self) -> Result<(), Error> {
        let deadline = self.client.deadline();
        let put = PutRequest { key: self.layout.barrier(&self.node), ..PutRequest::default() };
        let answer = self.client.ask_until(&put, deadline).await?;
        let wanted = answer.header.map_or(0, |header| revision(header.revision));
        let mut position = self.position.subscribe();
        let reached = position.wait_for(|position| *position >= wanted);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::unavailable(
                "etcd took a write and does not send the changes that it is among: see whether all its members are well",
            )),
        }
    }

    /// Waits until a key is gone that was there at this revision, or until it is time to look again.
    pub(crate) async fn await_gone(&self, key: Vec<u8>, after: Revision) -> Result<(), Error> {
        /// A watch may end without a word; then a look does no harm.
        const LOOK_AGAIN: Duration = Duration::from_secs(10);
        let member = self.client.current();
        let wish =
            WatchCreateRequest { key, start_revision: signed(after + 1), ..WatchCreateRequest::default() };
        let gone = async {
            let (mut stream, _stay) = self.client.watch(member, wish).await?;
            let mut turns = self.client.turns();
            tokio::select! {
                () = until_gone(&mut stream) => {}
                () = elsewhere(&mut turns, member) => {}
                () = self.client.deaf(member) => self.client.turn(member),
            }
            Ok(())
        };
        match timeout(LOOK_AGAIN, gone).await {
            Err(_) | Ok(Ok(())) => Ok(()),
            Ok(Err(Failed::Stranger(error))) => Err(error),
            Ok(Err(Failed::Said(status))) if Cause::of(&status).mends_itself() => {
                self.client.turn(member);
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            }
            Ok(Err(Failed::Said(status))) => Err(from_wire(&status)),
        }
    }
}

async fn until_gone(stream: &mut Streaming<WatchResponse>) {
    while let Ok(Some(message)) = stream.message().await {
        let gone = message.events.iter().any(|event| event.r#type() == EventType::Delete);
        if gone || message.canceled || message.compact_revision > 0 {
            return;
        }
    }
}
