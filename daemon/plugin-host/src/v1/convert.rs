//! Between the contract's types and the model's. Going out nothing can fail. Coming in nothing is believed:
//! lengths, counts and names are checked here, whatever is wrong is answered as one sentence about the
//! plugin, texts for people are cleaned, and nothing that machines will read holds a credential
//! (`grants/leaks.rs`). Whether an answer fits its question is `verify.rs`.

use std::{collections::BTreeMap, time::Duration};

use kato_orchestrator::{
    model::{Bytes, CapacityRange, Connection, Fingerprint, Handle, Timestamp, Token},
    ports::{
        backend::{
            Abilities, Asking, Blankness, Check, Create, Cut, Cutting, Description, Growing, Health, Made,
            NodeFacts, Origin, Page, Parameter, Pending, Room, Shot, Verb, Which,
        },
        extents::{Extent, ExtentPage},
    },
};

use super::{
    abi::{
        exports::kato::storage::{capacity, health, identity, polling, snapshots, volumes},
        kato::storage::types,
    },
    abilities,
};
use crate::{
    grants::{Powers, connections::root_of, credentials::Secrets},
    limits, text,
};

/// A sentence about what is wrong with an answer.
pub(crate) type Lie = String;

pub(crate) fn pairs(map: &BTreeMap<String, String>) -> Vec<(String, String)> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

pub(crate) fn which_to_wire(which: &Which) -> types::Which {
    types::Which {
        token: which.token.as_str().to_owned(),
        handle: which.handle.as_ref().map(|handle| handle.as_str().to_owned()),
    }
}

pub(crate) fn range_to_wire(range: CapacityRange) -> types::CapacityRange {
    types::CapacityRange { required_bytes: range.required.0, limit_bytes: range.limit.map(|limit| limit.0) }
}

pub(crate) fn create_to_wire(wish: &Create) -> volumes::Wish {
    volumes::Wish {
        token: wish.token.as_str().to_owned(),
        mark: wish.mark.clone(),
        name: wish.name.clone(),
        size: range_to_wire(wish.size),
        parameters: pairs(&wish.parameters),
        source: wish.source.as_ref().map(|source| match source {
            Origin::Snapshot(which) => volumes::Origin::Snapshot(which_to_wire(which)),
            Origin::Volume(which) => volumes::Origin::Volume(which_to_wire(which)),
        }),
        topology: wish.topology.iter().map(pairs).collect(),
    }
}

pub(crate) fn cut_to_wire(wish: &Cut) -> snapshots::Wish {
    snapshots::Wish {
        token: wish.token.as_str().to_owned(),
        mark: wish.mark.clone(),
        name: wish.name.clone(),
        volume: which_to_wire(&wish.volume),
        parameters: pairs(&wish.parameters),
    }
}

pub(crate) fn node_to_wire(node: &NodeFacts) -> types::Node {
    types::Node {
        name: node.name.clone(),
        identities: node.identities.clone(),
        used_devices: node.used_devices.clone(),
        bad_devices: node.bad_devices.clone(),
    }
}

pub(crate) fn asking_to_wire(asking: &Asking) -> polling::Asking {
    polling::Asking {
        verb: match asking.verb {
            Verb::Create => polling::Verb::Create,
            Verb::Delete => polling::Verb::Delete,
            Verb::Grow => polling::Verb::Grow,
            Verb::Modify => polling::Verb::Modify,
            Verb::Attach => polling::Verb::Attach,
            Verb::Detach => polling::Verb::Detach,
            Verb::Fence => polling::Verb::Fence,
            Verb::Cut => polling::Verb::Cut,
            Verb::DeleteSnapshot => polling::Verb::DeleteSnapshot,
        },
        which: which_to_wire(&asking.which),
        node: asking.node.clone(),
        resume: asking.resume.clone(),
    }
}

pub(crate) fn pending_from_wire(pending: types::Pending, secrets: &Secrets) -> Result<Pending, Lie> {
    if pending.resume.len() > limits::RESUME {
        return Err(format!(
            "`resume` is {} bytes long, and {} are allowed",
            pending.resume.len(),
            limits::RESUME
        ));
    }
    secret(&pending.resume, "`resume`", secrets)?;
    Ok(Pending {
        resume: pending.resume,
        retry_after: Duration::from_millis(pending.retry_after_ms).min(limits::PATIENCE),
        note: secrets.line(&pending.note, limits::TEXT),
    })
}

/// Refuses what holds a credential. This comes before every other look at a text, because what those say may
/// quote it.
fn secret(wire: &[u8], what: &str, secrets: &Secrets) -> Result<(), Lie> {
    if secrets.are_in(wire) {
        return Err(format!(
            "{what} holds a credential of this backend's, which a server must have repeated to the plugin"
        ));
    }
    Ok(())
}

pub(crate) fn handle(wire: &str, secrets: &Secrets) -> Result<Handle, Lie> {
    secret(wire.as_bytes(), "a handle", secrets)?;
    if wire.len() > limits::HANDLE {
        return Err(format!("a handle is {} bytes long, and {} are allowed", wire.len(), limits::HANDLE));
    }
    Handle::parse(wire).map_err(|error| error.message)
}

fn token(wire: Option<String>, secrets: &Secrets) -> Result<Option<Token>, Lie> {
    wire.map(|token| {
        secret(token.as_bytes(), "a token", secrets)?;
        if token.len() > limits::TOKEN {
            return Err(format!("a token is {} bytes long, and {} are allowed", token.len(), limits::TOKEN));
        }
        Token::parse(&token).map_err(|error| error.message)
    })
    .transpose()
}

fn mark(wire: String, secrets: &Secrets) -> Result<String, Lie> {
    secret(wire.as_bytes(), "a mark", secrets)?;
    if wire.len() > limits::MARK {
        return Err(format!("a mark is {} bytes long, and {} are allowed", wire.len(), limits::MARK));
    }
    Ok(wire)
}

fn size(bytes: u64) -> Result<Bytes, Lie> {
    if Bytes(bytes) > Bytes::MAX {
        return Err(format!("a size of {bytes} bytes is larger than any"));
    }
    Ok(Bytes(bytes))
}

fn words(
    wire: Vec<(String, String)>,
    what: &str,
    secrets: &Secrets,
) -> Result<BTreeMap<String, String>, Lie> {
    if wire.len() > limits::PAIRS {
        return Err(format!("there are {} {what}, and {} are allowed", wire.len(), limits::PAIRS));
    }
    let count = wire.len();
    for word in wire.iter().flat_map(|(key, value)| [key, value]) {
        secret(word.as_bytes(), &format!("one of the {what}"), secrets)?;
        if word.len() > limits::WORD || word.chars().any(char::is_control) {
            return Err(format!("one of the {what} is longer than {} bytes or no plain text", limits::WORD));
        }
    }
    let map: BTreeMap<_, _> = wire.into_iter().collect();
    if map.len() != count {
        return Err(format!("two of the {what} have the same name"));
    }
    Ok(map)
}

pub(crate) fn word(wire: &str, what: &str, secrets: &Secrets) -> Result<String, Lie> {
    secret(wire.as_bytes(), what, secrets)?;
    if wire.len() > limits::WORD || wire.chars().any(char::is_control) {
        return Err(format!("{what} is longer than {} bytes or no plain text", limits::WORD));
    }
    Ok(wire.to_owned())
}

/// A connection in the model's words; `check` of its grant is still to come.
pub(crate) fn connection_from_wire(wire: types::Connection, powers: &Powers) -> Result<Connection, Lie> {
    let texts = connection_texts(&wire);
    texts.iter().try_for_each(|text| secret(text.as_bytes(), "a connection", &powers.secrets))?;
    let root = |grant: &str| root_of(&powers.directories, grant).map_err(|error| error.message);
    Ok(match wire {
        types::Connection::Directory(types::Beneath { grant, path }) => {
            Connection::Directory { root: root(&grant)?, path }
        }
        types::Connection::File(types::Beneath { grant, path }) => {
            Connection::File { root: root(&grant)?, path }
        }
        types::Connection::Device(types::Device { identity, value }) => {
            Connection::Device { identity, value }
        }
        types::Connection::Rbd(types::Rbd { pool, namespace, image, snapshot }) => {
            Connection::Rbd { cluster: powers.backend.clone(), pool, namespace, image, snapshot }
        }
        types::Connection::Iscsi(types::Iscsi { portals, iqn, lun, multipath, initiator }) => {
            Connection::Iscsi { backend: powers.backend.clone(), portals, iqn, lun, multipath, initiator }
        }
        types::Connection::Nbd(types::Nbd { server, export }) => Connection::Nbd { server, export },
        types::Connection::Nfs(types::Nfs { server, path, options }) => {
            Connection::Nfs { server, path, options }
        }
    })
}

/// Every text of a connection.
fn connection_texts(wire: &types::Connection) -> Vec<&str> {
    fn all<'a>(list: &'a [String], rest: &[&'a String]) -> Vec<&'a str> {
        list.iter().chain(rest.iter().copied()).map(String::as_str).collect()
    }
    match wire {
        types::Connection::Directory(types::Beneath { grant, path })
        | types::Connection::File(types::Beneath { grant, path }) => all(&[], &[grant, path]),
        types::Connection::Device(types::Device { identity, value }) => all(&[], &[identity, value]),
        types::Connection::Rbd(types::Rbd { pool, namespace, image, snapshot }) => {
            let mut texts = all(&[], &[pool, namespace, image]);
            texts.extend(snapshot.as_deref());
            texts
        }
        types::Connection::Iscsi(types::Iscsi { portals, iqn, lun: _, multipath, initiator }) => {
            let mut texts = all(portals, &[iqn]);
            texts.extend(multipath.iter().chain(initiator).map(String::as_str));
            texts
        }
        types::Connection::Nbd(types::Nbd { server, export }) => all(&[], &[server, export]),
        types::Connection::Nfs(types::Nfs { server, path, options }) => all(options, &[server, path]),
    }
}

pub(crate) fn volume_from_wire(wire: types::Volume, powers: &Powers) -> Result<Made, Lie> {
    let secrets = &powers.secrets;
    Ok(Made {
        handle: handle(&wire.handle, secrets)?,
        size: size(wire.size_bytes)?,
        mark: mark(wire.mark, secrets)?,
        token: token(wire.token, secrets)?,
        connection: wire.connection.map(|wire| connection_from_wire(wire, powers)).transpose()?,
        attached: wire.attached.map(|nodes| nodes_from_wire(nodes, secrets)).transpose()?,
        topology: words(wire.topology, "topology keys", secrets)?,
        parameters: wire.parameters.map(|wire| words(wire, "parameters", secrets)).transpose()?,
    })
}

fn nodes_from_wire(wire: Vec<String>, secrets: &Secrets) -> Result<Vec<String>, Lie> {
    if wire.len() > limits::PAIRS {
        return Err(format!("it is attached to {} nodes, and {} are allowed", wire.len(), limits::PAIRS));
    }
    wire.iter().map(|node| word(node, "a node's name", secrets)).collect()
}

pub(crate) fn snapshot_from_wire(wire: types::Snapshot, secrets: &Secrets) -> Result<Shot, Lie> {
    Ok(Shot {
        handle: handle(&wire.handle, secrets)?,
        volume: wire.volume.map(|wire| handle(&wire, secrets)).transpose()?,
        size: size(wire.size_bytes)?,
        cut: wire.cut_ms.map(Timestamp),
        ready: wire.ready,
        mark: mark(wire.mark, secrets)?,
        token: token(wire.token, secrets)?,
    })
}

/// A page, whose next one must be another than was asked for: a list has to end.
pub(crate) fn page_from_wire<W, T>(
    items: Vec<W>,
    next: Option<String>,
    asked: Option<&str>,
    secrets: &Secrets,
    item: impl Fn(W) -> Result<T, Lie>,
) -> Result<Page<T>, Lie> {
    if items.len() > limits::ITEMS {
        return Err(format!("a page holds {} items, and {} are allowed", items.len(), limits::ITEMS));
    }
    if let Some(next) = &next {
        secret(next.as_bytes(), "the next page's token", secrets)?;
        if next.is_empty() || next.len() > limits::PAGE {
            return Err(format!(
                "the next page's token is {} bytes long, and 1 to {} are allowed",
                next.len(),
                limits::PAGE
            ));
        }
        if Some(next.as_str()) == asked {
            return Err("the next page is the one that was asked for".into());
        }
    }
    Ok(Page { items: items.into_iter().map(item).collect::<Result<_, _>>()?, next })
}

/// A page of extents; whether they fit the question is `verify.rs`.
pub(crate) fn extents_from_wire(wire: types::ExtentPage) -> ExtentPage {
    let extent =
        |wire: types::Extent| Extent { offset: Bytes(wire.offset_bytes), length: Bytes(wire.length_bytes) };
    ExtentPage { extents: wire.extents.into_iter().map(extent).collect(), next: wire.next_bytes.map(Bytes) }
}

pub(crate) fn check_from_wire(wire: &identity::Status, secrets: &Secrets) -> Result<Check, Lie> {
    if wire.fingerprint.trim().is_empty() {
        return Err("the fingerprint is empty".into());
    }
    Ok(Check {
        fingerprint: Fingerprint(word(&wire.fingerprint, "the fingerprint", secrets)?),
        note: secrets.line(&wire.note, limits::TEXT),
    })
}

pub(crate) fn cutting_from_wire(wire: types::Cutting) -> Cutting {
    match wire {
        types::Cutting::Instant => Cutting::Instant,
        types::Cutting::Copy => Cutting::Copy,
        types::Cutting::Unmounted => Cutting::Unmounted,
    }
}

pub(crate) fn room_from_wire(wire: capacity::Room) -> Room {
    Room { available: Bytes(wire.available_bytes), total: wire.total_bytes.map(Bytes) }
}

pub(crate) fn health_from_wire(wire: health::Condition, secrets: &Secrets) -> Result<Health, Lie> {
    secret(wire.reason.as_bytes(), "a health reason", secrets)?;
    if wire.reason.len() > 128 || !wire.reason.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("a health reason is no CamelCase word".into());
    }
    Ok(Health {
        reason: wire.reason,
        message: secrets.line(&wire.message, limits::TEXT),
        severe: wire.severe,
    })
}

/// What a component says of itself, narrowed to what it exports.
pub(crate) fn description_from_wire(
    wire: identity::Description,
    offers: &abilities::Abilities,
    secrets: &Secrets,
) -> Result<Description, Lie> {
    secret(wire.name.as_bytes(), "its name", secrets)?;
    let name = text::line(&wire.name, 63);
    if name.is_empty() || name != wire.name {
        return Err("its name is empty, too long, or no plain text".into());
    }
    if wire.parameters.len() > limits::PAIRS {
        return Err(format!(
            "it has {} parameters, and {} are allowed",
            wire.parameters.len(),
            limits::PAIRS
        ));
    }
    let (min_size, size_step) = (size(wire.min_size_bytes)?, size(wire.size_step_bytes.max(1))?);
    let max_size = (wire.max_size_bytes > 0).then(|| Bytes(wire.max_size_bytes).min(Bytes::MAX));
    if max_size.is_some_and(|max| max < min_size) {
        return Err("its largest volume is smaller than its smallest".into());
    }
    let parameters = wire.parameters.into_iter().map(|wire| {
        Ok(Parameter {
            name: word(&wire.name, "a parameter's name", secrets)?,
            summary: secrets.line(&wire.summary, limits::TEXT),
            default: word(&wire.default, "a parameter's default", secrets)?,
            shape: word(&wire.shape, "a parameter's shape", secrets)?,
            mutable: wire.mutable,
        })
    });
    let grow = wire.grow.map(|grow| match grow {
        identity::Growing::Online => Growing::Online,
        identity::Growing::Offline => Growing::Offline,
    });
    let snapshots = offers.snapshots.is_some() && wire.snapshots;
    Ok(Description {
        plugin: name,
        version: secrets.line(&wire.version, 63),
        summary: secrets.line(&wire.summary, limits::TEXT),
        min_size,
        max_size,
        size_step,
        settle: Duration::from_millis(wire.settle_ms).min(limits::PATIENCE),
        blank: match wire.blank {
            identity::Blankness::Zeroes => Blankness::Zeroes,
            identity::Blankness::Anything => Blankness::Anything,
        },
        parameters: parameters.collect::<Result<_, Lie>>()?,
        abilities: Abilities {
            grow: grow.filter(|_| offers.grow.is_some()),
            attachments: offers.attachments.is_some(),
            fence: offers.fencing.is_some(),
            snapshots,
            clone: offers.clone.is_some() && wire.clone,
            modify: offers.modify.is_some(),
            groups: snapshots && offers.groups.is_some(),
            extents: snapshots && offers.extents.is_some(),
            snapshot_data: snapshots && offers.extents.is_some() && offers.snapshot_data.is_some(),
            snapshot_writing: snapshots && offers.snapshot_writing.is_some(),
            health: offers.health.is_some(),
            capacity: offers.capacity.is_some(),
            polling: offers.polling.is_some(),
            shared: false,
            node_bound: false,
            snapshot_needs_volume: wire.snapshot_needs_volume,
            clone_needs_source: wire.clone_needs_source,
        },
    })
}
