//! What the controller is asked about snapshots.

use std::sync::Arc;

use kato_orchestrator::{
    Error, Kind,
    model::{Snapshot, SnapshotId, SnapshotState},
    ops::{Context, DeleteSnapshot},
};
use prost::Message as _;

use crate::{
    convert,
    door::Door,
    ids::{ThingId, named},
    pages::{self, Filter, List},
    protocol::{
        CreateSnapshotRequest, CreateSnapshotResponse, DeleteSnapshotRequest, DeleteSnapshotResponse,
        GetSnapshotRequest, GetSnapshotResponse, ListSnapshotsRequest, ListSnapshotsResponse,
        list_snapshots_response,
    },
    volumes::ANSWER_LIMIT,
};

/// How many are read from the records at a time.
const PAGE: usize = 1000;

pub(crate) async fn create(
    door: Arc<Door>,
    ctx: Context,
    request: CreateSnapshotRequest,
) -> Result<CreateSnapshotResponse, Error> {
    let snapshot =
        door.orchestrator.create_snapshot(&ctx, convert::cut_from_wire(&door, &request)?).await?.into_inner();
    let snapshot = convert::snapshot_to_wire(&door, &snapshot).map_err(Error::pending)?;
    Ok(CreateSnapshotResponse { snapshot: Some(snapshot) })
}

pub(crate) async fn delete(
    door: Arc<Door>,
    ctx: Context,
    request: DeleteSnapshotRequest,
) -> Result<DeleteSnapshotResponse, Error> {
    if let Some(snapshot) = named(convert::snapshot_from_wire(&door, &request.snapshot_id))? {
        door.orchestrator.delete_snapshot(&ctx, DeleteSnapshot { snapshot }).await?;
    }
    Ok(DeleteSnapshotResponse {})
}

pub(crate) async fn get(
    door: Arc<Door>,
    _: Context,
    request: GetSnapshotRequest,
) -> Result<GetSnapshotResponse, Error> {
    let snapshot =
        door.orchestrator.find_snapshot(&convert::snapshot_from_wire(&door, &request.snapshot_id)?).await?;
    Ok(GetSnapshotResponse { snapshot: Some(convert::snapshot_to_wire(&door, &snapshot)?) })
}

pub(crate) async fn list(
    door: Arc<Door>,
    _: Context,
    request: ListSnapshotsRequest,
) -> Result<ListSnapshotsResponse, Error> {
    let filter = format!("{}\n{}", request.snapshot_id, request.source_volume_id);
    let filter = if filter == "\n" { Filter::default() } else { Filter(&filter) };
    let token = pages::from_wire(List::Snapshots, filter, &request.starting_token)?;
    let mut after = token
        .map(|key| SnapshotId::parse(&key).ok_or_else(|| Error::busy("the page token names no snapshot")))
        .transpose()?;
    let wanted = Wanted::of(&request)?;
    let Some(wanted) = wanted else { return Ok(ListSnapshotsResponse::default()) };
    if let Some(id) = &wanted.snapshot {
        return one(&door, id, &wanted).await;
    }
    let most = usize::try_from(request.max_entries).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
    let (mut entries, mut size) = (Vec::new(), 0);
    loop {
        let page = door.orchestrator.list_snapshots_by_id(after, PAGE).await?;
        for snapshot in &page.items {
            if let Some(entry) = wanted.admits(snapshot).then(|| entry(&door, snapshot)).flatten() {
                size += entry.encoded_len() + 8;
                // The token goes on after the last that was told, whatever is deleted meanwhile.
                if size > ANSWER_LIMIT || entries.len() == most {
                    let after = after.map(|id| id.to_string()).unwrap_or_default();
                    let next_token = pages::to_wire(List::Snapshots, filter, &after)?;
                    return Ok(ListSnapshotsResponse { entries, next_token });
                }
                entries.push(entry);
            }
            after = Some(snapshot.id);
        }
        if page.next.is_none() {
            return Ok(ListSnapshotsResponse { entries, next_token: String::new() });
        }
    }
}

/// A snapshot on a list. One that cannot be named, as its backend is not configured any more, does not take the others with
/// it.
fn entry(door: &Door, snapshot: &Snapshot) -> Option<list_snapshots_response::Entry> {
    convert::snapshot_to_wire(door, snapshot)
        .inspect_err(|error| tracing::warn!(%error, "left a snapshot out of a list"))
        .map(|snapshot| list_snapshots_response::Entry { snapshot: Some(snapshot) })
        .ok()
}

async fn one(door: &Door, id: &ThingId, wanted: &Wanted) -> Result<ListSnapshotsResponse, Error> {
    let which = kato_orchestrator::model::SnapshotRef::Handle(id.backend.clone(), id.handle.clone());
    let entries = match door.orchestrator.find_snapshot(&which).await {
        Ok(snapshot) if wanted.admits(&snapshot) => {
            vec![list_snapshots_response::Entry {
                snapshot: Some(convert::snapshot_to_wire(door, &snapshot)?),
            }]
        }
        Ok(_) => Vec::new(),
        Err(error) if error.kind == Kind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(ListSnapshotsResponse { entries, next_token: String::new() })
}

/// Which snapshots are asked for.
struct Wanted {
    snapshot: Option<ThingId>,
    volume: Option<ThingId>,
}

impl Wanted {
    /// Nothing where an id is none of ours: then there are no such snapshots.
    fn of(request: &ListSnapshotsRequest) -> Result<Option<Self>, Error> {
        let read = |text: &str| match text {
            "" => Ok(Some(None)),
            id => named(ThingId::from_wire(id)).map(|id| id.map(Some)),
        };
        let (snapshot, volume) = (read(&request.snapshot_id)?, read(&request.source_volume_id)?);
        Ok(snapshot.zip(volume).map(|(snapshot, volume)| Self { snapshot, volume }))
    }

    fn admits(&self, snapshot: &Snapshot) -> bool {
        let of = self.volume.as_ref().is_none_or(|volume| {
            snapshot.backend == volume.backend && snapshot.volume_handle.as_ref() == Some(&volume.handle)
        });
        of && snapshot.handle.is_some()
            && snapshot.volume_handle.is_some()
            && snapshot.state != SnapshotState::Deleting
    }
}
