//! What the controller is asked about volumes: each request is one command of the hall, and its answer in the wire's
//! words. What a list leaves out for being too large is asked for again with its token.

use std::sync::Arc;

use kato_orchestrator::{
    Error,
    model::{Connection, FsState, VolumeId},
    ops::{
        AskRoom, AttachVolume, Context, DeleteVolume, DetachVolume, GrowVolume, ModifyVolume, Reach,
        VolumeView,
    },
};
use prost::Message as _;

use crate::{
    context,
    convert::{self, Capability, NodeNames},
    door::Door,
    ids::named,
    pages::{self, Filter, List},
    protocol::{
        ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetVolumeRequest,
        ControllerGetVolumeResponse, ControllerModifyVolumeRequest, ControllerModifyVolumeResponse,
        ControllerPublishVolumeRequest, ControllerPublishVolumeResponse, ControllerUnpublishVolumeRequest,
        ControllerUnpublishVolumeResponse, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest,
        DeleteVolumeResponse, GetCapacityRequest, GetCapacityResponse, ListVolumesRequest,
        ListVolumesResponse, ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse,
        controller_get_volume_response, list_volumes_response,
        validate_volume_capabilities_response::Confirmed,
    },
};

/// No answer is larger: clients refuse what is above 4 MiB.
pub(crate) const ANSWER_LIMIT: usize = 3_500_000;

/// How many entries are read from the records at a time: a usual page, and one more.
const PAGE: usize = 1001;

pub(crate) async fn create(
    door: Arc<Door>,
    ctx: Context,
    request: CreateVolumeRequest,
) -> Result<CreateVolumeResponse, Error> {
    let wish = convert::create_from_wire(&door, &request)?;
    let view = door.orchestrator.create(&ctx, wish).await?.into_inner();
    // What exists is never refused for good: its caller would forget it.
    let mut volume = convert::volume_to_wire(&door, &view).map_err(Error::pending)?;
    // What was wished, as it was named: the hall has compared it with what there is.
    volume.content_source = request.volume_content_source;
    Ok(CreateVolumeResponse { volume: Some(volume) })
}

pub(crate) async fn delete(
    door: Arc<Door>,
    ctx: Context,
    request: DeleteVolumeRequest,
) -> Result<DeleteVolumeResponse, Error> {
    // What is no id of ours names nothing, and nothing is deleted already.
    if let Some(volume) = named(convert::volume_from_wire(&door, &request.volume_id))? {
        door.orchestrator.delete(&ctx, DeleteVolume { volume, forget: false }).await?;
    }
    Ok(DeleteVolumeResponse {})
}

pub(crate) async fn publish(
    door: Arc<Door>,
    ctx: Context,
    request: ControllerPublishVolumeRequest,
) -> Result<ControllerPublishVolumeResponse, Error> {
    let id = request.volume_id;
    let capability = Capability::required(request.volume_capability.as_ref())?;
    context::check(&door, &id, &request.volume_context)?;
    let wish = AttachVolume {
        volume: convert::volume_from_wire(&door, &id)?,
        node: convert::node_from_wire(&request.node_id)?,
        read_only: request.readonly || capability.read_only,
        many: capability.is_for_many_nodes(),
    };
    let attached = door.orchestrator.attach(&ctx, wish).await?.into_inner();
    let publish_context = context::of_attachment(&door, &id, &attached).map_err(Error::pending)?;
    Ok(ControllerPublishVolumeResponse { publish_context })
}

pub(crate) async fn unpublish(
    door: Arc<Door>,
    ctx: Context,
    request: ControllerUnpublishVolumeRequest,
) -> Result<ControllerUnpublishVolumeResponse, Error> {
    let node = match request.node_id.as_str() {
        "" => None,
        // A node that was never ours has nothing of ours.
        id => match named(convert::node_from_wire(id))? {
            Some(node) => Some(node),
            None => return Ok(ControllerUnpublishVolumeResponse {}),
        },
    };
    if let Some(volume) = named(convert::volume_from_wire(&door, &request.volume_id))? {
        door.orchestrator.detach(&ctx, DetachVolume { volume, node }).await?;
    }
    Ok(ControllerUnpublishVolumeResponse {})
}

pub(crate) async fn validate(
    door: Arc<Door>,
    _: Context,
    request: ValidateVolumeCapabilitiesRequest,
) -> Result<ValidateVolumeCapabilitiesResponse, Error> {
    let view = door.orchestrator.find(&convert::volume_from_wire(&door, &request.volume_id)?).await?;
    let fits = fits(&door, &view, &request);
    let (confirmed, message) = match fits {
        Ok(()) => (
            Some(Confirmed {
                volume_context: request.volume_context,
                volume_capabilities: request.volume_capabilities,
                parameters: request.parameters,
                mutable_parameters: request.mutable_parameters,
            }),
            String::new(),
        ),
        Err(error) => (None, error.to_string()),
    };
    Ok(ValidateVolumeCapabilitiesResponse { confirmed, message })
}

/// Whether a volume is what somebody takes it for, and can be used in these ways.
fn fits(door: &Door, view: &VolumeView, request: &ValidateVolumeCapabilitiesRequest) -> Result<(), Error> {
    context::check(door, &request.volume_id, &request.volume_context)?;
    let volume = &view.volume;
    let abilities = door.orchestrator.catalog().backend(&volume.backend)?.describe().abilities;
    let is_directory = volume.connection.as_ref().is_some_and(Connection::is_directory);
    for capability in convert::capabilities_from_wire(&request.volume_capabilities)? {
        if capability.is_for_many_nodes() && !abilities.shared {
            return Err(Error::unsupported(format!(
                "volumes of the backend {} are used by one node at a time",
                volume.backend
            )));
        }
        if capability.raw && is_directory {
            return Err(Error::unsupported("it is a directory, which has no device"));
        }
        let other = capability.fs.filter(|fs| *fs != volume.filesystem.fs && !is_directory);
        if let Some(fs) = other.filter(|_| volume.filesystem.state != FsState::Blank) {
            return Err(Error::unsupported(format!("it holds {} and not {fs}", volume.filesystem.fs)));
        }
    }
    let mut parameters = request.parameters.clone();
    parameters.extend(request.mutable_parameters.clone());
    let class = convert::class_from_wire(&mut parameters)?;
    if let Some(class) = class.filter(|class| *class != volume.class) {
        return Err(Error::unsupported(format!("it is of class {} and not of {class}", volume.class)));
    }
    convert::notes_from_wire(&mut parameters);
    match parameters.into_iter().find(|(name, value)| volume.actual_parameters.get(name) != Some(value)) {
        Some((name, _)) => Err(Error::unsupported(format!("it was not made with this value of {name:?}"))),
        None => Ok(()),
    }
}

pub(crate) async fn list(
    door: Arc<Door>,
    _: Context,
    request: ListVolumesRequest,
) -> Result<ListVolumesResponse, Error> {
    let mut after = pages::from_wire(List::Volumes, Filter::default(), &request.starting_token)?
        .map(|key| VolumeId::parse(&key).ok_or_else(|| Error::busy("the page token names no volume")))
        .transpose()?;
    let most = usize::try_from(request.max_entries).ok().filter(|most| *most > 0).unwrap_or(usize::MAX);
    let names = NodeNames::read(&door).await?;
    let (mut entries, mut size) = (Vec::new(), 0);
    loop {
        // One more than is told, to see whether there is more.
        let wanted = most.saturating_sub(entries.len()).saturating_add(1);
        let page = door.orchestrator.list_by_id(after, PAGE.min(wanted)).await?;
        for view in &page.items {
            if let Some(entry) = entry(&door, view, &names) {
                size += entry.encoded_len() + 8;
                if size > ANSWER_LIMIT || entries.len() == most {
                    return more(entries, after);
                }
                entries.push(entry);
            }
            after = Some(view.volume.id);
        }
        let Some(next) = page.next else {
            return Ok(ListVolumesResponse { entries, next_token: String::new() });
        };
        after = VolumeId::parse(&next);
    }
}

/// A volume on a list; nothing where its backend has not named it yet: then it is nobody's to use, and its create is still
/// asked for. One that cannot be named at all does not take the others with it.
fn entry(door: &Door, view: &VolumeView, names: &NodeNames) -> Option<list_volumes_response::Entry> {
    view.volume.handle.as_ref()?;
    let told = || -> Result<_, Error> {
        let status = list_volumes_response::VolumeStatus { published_node_ids: names.to_wire(view)? };
        Ok(list_volumes_response::Entry {
            volume: Some(convert::volume_to_wire(door, view)?),
            status: Some(status),
        })
    };
    told().inspect_err(|error| tracing::warn!(%error, "left a volume out of a list")).ok()
}

fn more(
    entries: Vec<list_volumes_response::Entry>,
    after: Option<VolumeId>,
) -> Result<ListVolumesResponse, Error> {
    let after = after.map(|id| id.to_string()).unwrap_or_default();
    let next_token = pages::to_wire(List::Volumes, Filter::default(), &after)?;
    Ok(ListVolumesResponse { entries, next_token })
}

pub(crate) async fn get(
    door: Arc<Door>,
    _: Context,
    request: ControllerGetVolumeRequest,
) -> Result<ControllerGetVolumeResponse, Error> {
    let view = door.orchestrator.find(&convert::volume_from_wire(&door, &request.volume_id)?).await?;
    Ok(ControllerGetVolumeResponse {
        volume: Some(convert::volume_to_wire(&door, &view)?),
        status: Some(controller_get_volume_response::VolumeStatus {
            published_node_ids: NodeNames::read(&door).await?.to_wire(&view)?,
        }),
    })
}

pub(crate) async fn capacity(
    door: Arc<Door>,
    _: Context,
    request: GetCapacityRequest,
) -> Result<GetCapacityResponse, Error> {
    convert::capabilities_from_wire(&request.volume_capabilities)?;
    let mut parameters = request.parameters.clone();
    let class = convert::class_from_wire(&mut parameters)?;
    let class = Some(convert::known_class(&door, class.as_ref())?.name.clone());
    convert::notes_from_wire(&mut parameters);
    let place = convert::place_from_wire(&door, request.accessible_topology.as_ref());
    let room = door.orchestrator.room(&AskRoom { class, parameters, place }).await?;
    Ok(GetCapacityResponse {
        available_capacity: convert::bytes_to_wire(room.available),
        maximum_volume_size: room.max.map(convert::bytes_to_wire),
        minimum_volume_size: Some(convert::bytes_to_wire(room.min)),
    })
}

pub(crate) async fn expand(
    door: Arc<Door>,
    ctx: Context,
    request: ControllerExpandVolumeRequest,
) -> Result<ControllerExpandVolumeResponse, Error> {
    let wish = GrowVolume {
        volume: convert::volume_from_wire(&door, &request.volume_id)?,
        size: convert::range_from_wire(request.capacity_range.as_ref()),
        reach: Reach::Backend,
    };
    let view = door.orchestrator.grow(&ctx, wish).await?.into_inner();
    // Whatever has a device has to be told on the node, and so has the filesystem on it: also when this is a repeat.
    let is_directory = view.volume.connection.as_ref().is_some_and(Connection::is_directory);
    Ok(ControllerExpandVolumeResponse {
        capacity_bytes: convert::bytes_to_wire(view.size()),
        node_expansion_required: !is_directory,
    })
}

pub(crate) async fn modify(
    door: Arc<Door>,
    ctx: Context,
    request: ControllerModifyVolumeRequest,
) -> Result<ControllerModifyVolumeResponse, Error> {
    let mut parameters = request.mutable_parameters.clone();
    convert::notes_from_wire(&mut parameters);
    let volume = convert::volume_from_wire(&door, &request.volume_id)?;
    if parameters.is_empty() {
        door.orchestrator.find(&volume).await?;
        return Ok(ControllerModifyVolumeResponse {});
    }
    door.orchestrator.modify(&ctx, ModifyVolume { volume, parameters }).await?;
    Ok(ControllerModifyVolumeResponse {})
}
