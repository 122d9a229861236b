//! Between the wire's words and the hall's. Nothing here asks anybody: names are checked, wishes are read,
//! views are told. Docker's own daemon checks no name at all, so `../../x` and 300 characters do come here.

use std::collections::BTreeMap;

use kato_orchestrator::{
    Catalog, Error,
    model::{
        AttachmentState, Caller, Dependant, FsState, HolderId, MountState, NodeId, Target, VolumeName,
        VolumeState,
    },
    ops::{Access, CreateVolume, MountVolume, UnmountVolume, VolumeView},
};
use serde_json::{Map, Value, json};

use crate::{
    config::Config,
    options,
    protocol::{CreateRequest, HolderRequest, VolumeEntry},
    socket::Peer,
};

/// The longest name that this door takes, in bytes.
const NAME_LIMIT: usize = 128;

/// Who holds a volume for callers that send no ID: dvdcli, and Docker up to 1.11. They mount at every start of
/// a service and seldom unmount, so their holds do not count and are never reaped.
const NO_ID: &str = "without-id";

/// A name that Docker itself would take: `[A-Za-z0-9][A-Za-z0-9_.-]*`.
pub(crate) fn name_from_wire(text: &str) -> Result<VolumeName, Error> {
    const RULE: &str = "names start with a letter or digit and go on with letters, digits, '_', '.' and '-'";
    if text.is_empty() {
        return Err(Error::invalid(format!("the volume has no name: {RULE}")));
    }
    if text.len() > NAME_LIMIT {
        return Err(Error::invalid(format!(
            "the volume's name is {} bytes long: at most {NAME_LIMIT} are allowed",
            text.len()
        )));
    }
    let right = text.bytes().enumerate().all(|(index, byte)| {
        byte.is_ascii_alphanumeric() || (index > 0 && matches!(byte, b'_' | b'.' | b'-'))
    });
    if !right {
        return Err(Error::invalid(format!("the volume's name {text:?} is not allowed: {RULE}")));
    }
    VolumeName::parse(text)
}

/// Whether Docker made this name up: nobody will ever ask for it by name.
fn is_anonymous(name: &VolumeName) -> bool {
    let name = name.as_str();
    name.len() == 64 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The wish of a Create.
pub(crate) fn create_from_wire(request: &CreateRequest, catalog: &Catalog) -> Result<CreateVolume, Error> {
    let name = name_from_wire(&request.name)?;
    match &request.options {
        Some(options) if !options.is_empty() => options::read(name, options, catalog),
        _ => unsaid(name, catalog),
    }
}

/// The wish of somebody who said nothing but a name.
fn unsaid(name: VolumeName, catalog: &Catalog) -> Result<CreateVolume, Error> {
    let mut wish = CreateVolume::named(name);
    if is_anonymous(&wish.name) {
        // Docker mostly forgets those that it made up, and each of them may be a disk that costs money.
        wish.class = Some(catalog.anonymous_class.clone().ok_or_else(|| {
            Error::precondition(
                "nobody gave this volume a name, so nobody would find it again, and this host makes none of \
                 those: write -v NAME:/path for each VOLUME of the image, or name a class for anonymous volumes \
                 in kato's configuration",
            )
            .about(format!("volume {}", wish.name))
        })?);
    }
    Ok(wish)
}

/// The wish of a Mount.
pub(crate) fn mount_from_wire(
    request: &HolderRequest,
    peer: &Peer,
    config: &Config,
    catalog: &Catalog,
) -> Result<MountVolume, Error> {
    let name = name_from_wire(&request.name)?;
    let (holder, counts) = holder_from_wire(request)?;
    // An anonymous volume that exists may be mounted even where no more of them are made.
    let implicit = if config.implicit { unsaid(name.clone(), catalog).ok().map(Box::new) } else { None };
    Ok(MountVolume {
        volume: name.into(),
        holder,
        counts,
        caller: counts.then_some(Caller { pid: peer.pid, started: peer.started }),
        target: Target::Shared,
        read_only: false,
        access: Access::default(),
        implicit,
    })
}

/// The wish of an Unmount.
pub(crate) fn unmount_from_wire(request: &HolderRequest) -> Result<UnmountVolume, Error> {
    let name = name_from_wire(&request.name)?;
    let (holder, counts) = holder_from_wire(request)?;
    Ok(UnmountVolume { volume: name.into(), holder, all: !counts })
}

/// Who asks, and whether its mounts count: dockerd mounts again under the same ID for `docker cp`.
fn holder_from_wire(request: &HolderRequest) -> Result<(HolderId, bool), Error> {
    match request.id.as_deref() {
        None | Some("") => Ok((HolderId::parse(NO_ID)?, false)),
        Some(id) => Ok((HolderId::parse(id)?, true)),
    }
}

/// What `docker volume inspect` shows. The name is the one that was asked for.
pub(crate) fn volume_to_wire(asked: &str, view: &VolumeView, node: &NodeId) -> VolumeEntry {
    VolumeEntry {
        name: asked.to_owned(),
        mountpoint: view.path_on(node).unwrap_or_default(),
        created_at: view.volume.created.to_string(),
        status: status_to_wire(view),
    }
}

fn status_to_wire(view: &VolumeView) -> Map<String, Value> {
    let volume = &view.volume;
    let mut status = Map::new();
    let mut tell = |key: &str, value: Value| {
        status.insert(key.to_owned(), value);
    };
    tell("state", state_to_wire(volume.state).into());
    let broken = view.mounts.iter().find_map(|mount| match &mount.state {
        MountState::Broken(why) => Some(why),
        MountState::Mounting | MountState::Mounted | MountState::Unmounting => None,
    });
    if let Some(why) = broken {
        tell("health", format!("broken: {why}").into());
    }
    if let Some(complaint) = &view.complaint {
        tell("complaint", complaint.to_string().into());
    }
    tell("class", volume.class.as_str().into());
    tell("backend", volume.backend.as_str().into());
    tell("size", view.size().to_string().into());
    tell("size-bytes", view.size().0.into());
    let wanted = volume.wanted.size.required;
    if volume.wants_growth() {
        tell("wanted-size", wanted.to_string().into());
    }
    tell("id", volume.id.to_string().into());
    if let Some(handle) = &volume.handle {
        tell("handle", handle.as_str().into());
    }
    if volume.connection.as_ref().is_some_and(|connection| connection.is_directory()) {
        tell("filesystem", "directory".into());
    } else {
        let made = match volume.filesystem.state {
            FsState::Blank => " (made at the first mount)",
            FsState::Formatting => " (being made)",
            FsState::Formatted => "",
        };
        tell("filesystem", format!("{}{made}", volume.filesystem.fs).into());
    }
    if let Some(held) = volume.held_still {
        let words = format!("what it was copied from was held still for {} ms meanwhile", held.as_millis());
        tell("copied", words.into());
    }
    if !volume.wanted.parameters.is_empty() {
        tell("parameters", strings(&volume.wanted.parameters));
    }
    if !volume.labels.is_empty() {
        tell("labels", strings(&volume.labels));
    }
    if !volume.dependants.is_empty() {
        tell("dependants", volume.dependants.iter().map(dependant_to_wire).collect());
    }
    if !view.attachments.is_empty() {
        tell(
            "attachments",
            view.attachments
                .iter()
                .map(|it| {
                    let state = match it.state {
                        AttachmentState::Attaching => "attaching",
                        AttachmentState::Attached => "attached",
                        AttachmentState::Detaching => "detaching",
                    };
                    json!({"node": it.node.as_str(), "state": state})
                })
                .collect(),
        );
    }
    if !view.mounts.is_empty() {
        tell(
            "mounts",
            view.mounts
                .iter()
                .map(|it| {
                    let state = match &it.state {
                        MountState::Mounting => "mounting".to_owned(),
                        MountState::Mounted => "mounted".to_owned(),
                        MountState::Broken(why) => format!("broken: {why}"),
                        MountState::Unmounting => "unmounting".to_owned(),
                    };
                    json!({"node": it.node.as_str(), "state": state, "device": it.device})
                })
                .collect(),
        );
    }
    if !view.lost.is_empty() {
        let lost = view.lost.iter();
        let told = lost.map(|it| json!({"node": it.mount.node.as_str(), "since": it.since.to_string()}));
        tell("lost-mounts", told.collect());
    }
    tell(
        "holders",
        view.publications
            .iter()
            .map(|it| json!({"holder": it.holder.as_str(), "node": it.node.as_str(), "count": it.count}))
            .collect(),
    );
    let intents = view
        .volume
        .intent
        .iter()
        .chain(view.attachments.iter().filter_map(|it| it.intent.as_ref()))
        .chain(view.mounts.iter().filter_map(|it| it.intent.as_ref()))
        .chain(view.publications.iter().filter_map(|it| it.intent.as_ref()));
    for intent in intents {
        if let Some(note) = &intent.note {
            tell("waits", note.as_str().into());
        }
        if let Some(failure) = &intent.last_error {
            tell("error", failure.message.as_str().into());
            tell("error-at", failure.at.to_string().into());
            tell("attempts", intent.attempts.into());
        }
    }
    status
}

fn strings(map: &BTreeMap<String, String>) -> Value {
    map.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect::<Map<_, _>>().into()
}

fn state_to_wire(state: VolumeState) -> &'static str {
    match state {
        VolumeState::Creating => "creating",
        VolumeState::Ready => "ready",
        VolumeState::Deleting => "deleting",
        VolumeState::Lost => "lost",
    }
}

fn dependant_to_wire(dependant: &Dependant) -> Value {
    match dependant {
        Dependant::Attachment(node) => format!("node {node}"),
        Dependant::Snapshot(id) => format!("snapshot {id}"),
        Dependant::Group(id) => format!("group {id}"),
        Dependant::Clone(id) => format!("volume {id}"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kato_orchestrator::{
        Kind,
        model::{
            BackendName, Bytes, CapacityRange, ClassName, DataRoot, Failure, Filesystem, FsType, Intent,
            Mount, Publication, PublicationState, SnapshotId, Timestamp, Volume, VolumeId, Wanted,
        },
    };

    use super::*;

    const ANONYMOUS: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const PEER: Peer = Peer { pid: 7, started: 9 };

    fn named(name: &str) -> CreateRequest {
        CreateRequest { name: name.into(), options: None }
    }

    fn held(name: &str, id: Option<&str>) -> HolderRequest {
        HolderRequest { name: name.into(), id: id.map(Into::into) }
    }

    #[test]
    fn names_are_those_that_docker_itself_allows() {
        for good in ["db", "9", "A.b-c_d", "a..b", &"x".repeat(128), ANONYMOUS] {
            assert_eq!(name_from_wire(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "../../x",
            "a/b",
            "/",
            "a b",
            "vol:colon",
            "size=10,name=foo",
            "-a",
            "_a",
            "a\0",
            "a\n",
            "🦀",
            "ä",
            " a",
            &"x".repeat(129),
            &"x".repeat(300),
        ] {
            let error = name_from_wire(bad).unwrap_err();
            assert_eq!(error.kind, Kind::InvalidArgument, "{bad:?}");
            assert!(error.message.contains("name"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn a_mount_with_an_id_counts_and_knows_its_caller() {
        let wish =
            mount_from_wire(&held("db", Some("c0ffee")), &PEER, &Config::default(), &Catalog::default())
                .unwrap();
        assert_eq!((wish.holder.as_str(), wish.counts), ("c0ffee", true));
        assert_eq!(wish.caller, Some(Caller { pid: 7, started: 9 }));
        assert_eq!(wish.target, Target::Shared);
        assert!(!wish.implicit.unwrap().exact);
        let back = unmount_from_wire(&held("db", Some("c0ffee"))).unwrap();
        assert_eq!((back.holder.as_str(), back.all), ("c0ffee", false));
    }

    #[test]
    fn a_mount_without_an_id_does_not_count_and_is_never_reaped() {
        for id in [None, Some("")] {
            let wish =
                mount_from_wire(&held("db", id), &PEER, &Config::default(), &Catalog::default()).unwrap();
            assert_eq!((wish.holder.as_str(), wish.counts, wish.caller), (NO_ID, false, None));
            let back = unmount_from_wire(&held("db", id)).unwrap();
            assert_eq!((back.holder.as_str(), back.all), (NO_ID, true));
        }
    }

    #[test]
    fn nothing_is_made_by_a_mount_where_that_is_switched_off() {
        let config = Config { implicit: false, ..Config::default() };
        let wish = mount_from_wire(&held("db", Some("1")), &PEER, &config, &Catalog::default()).unwrap();
        assert!(wish.implicit.is_none());
    }

    #[test]
    fn anonymous_volumes_are_refused_unless_a_class_is_meant_for_them() {
        let class = ClassName::parse("scratch").unwrap();
        let meant = Catalog { anonymous_class: Some(class.clone()), ..Catalog::default() };
        let none = Catalog::default();

        let error = create_from_wire(&named(ANONYMOUS), &none).unwrap_err();
        assert_eq!(error.kind, Kind::Precondition);
        assert!(error.message.contains("-v NAME:/path"), "{error}");
        let mount = mount_from_wire(&held(ANONYMOUS, Some("1")), &PEER, &Config::default(), &none).unwrap();
        assert!(mount.implicit.is_none());

        assert_eq!(create_from_wire(&named(ANONYMOUS), &meant).unwrap().class, Some(class.clone()));
        let mount = mount_from_wire(&held(ANONYMOUS, Some("1")), &PEER, &Config::default(), &meant).unwrap();
        assert_eq!(mount.implicit.unwrap().class, Some(class));
        assert_eq!(create_from_wire(&named("db"), &meant).unwrap().class, None);

        let options = BTreeMap::from([("size".to_owned(), "1".to_owned())]);
        let deliberate = CreateRequest { name: ANONYMOUS.into(), options: Some(options) };
        assert!(create_from_wire(&deliberate, &none).is_ok());
    }

    #[test]
    fn an_empty_map_of_options_says_nothing() {
        let request = CreateRequest { name: "db".into(), options: Some(BTreeMap::new()) };
        assert!(!create_from_wire(&request, &Catalog::default()).unwrap().exact);
    }

    fn view() -> VolumeView {
        let id = VolumeId(1);
        let node = NodeId::parse("here").unwrap();
        let failure = Failure {
            kind: Kind::Exhausted,
            finality: kato_orchestrator::Finality::Final,
            message: "no slot is free".into(),
            at: Timestamp(1_000),
        };
        VolumeView {
            volume: Volume {
                id,
                name: VolumeName::parse("db").unwrap(),
                class: ClassName::parse("fast").unwrap(),
                backend: BackendName::parse("ebs").unwrap(),
                generation: 0,
                made_as: None,
                wanted: Wanted { size: CapacityRange::at_least(Bytes(2 << 30)), ..Wanted::default() },
                actual: Some(Bytes::GIB),
                actual_parameters: BTreeMap::new(),
                source: None,
                filling: None,
                found: false,
                held_still: None,
                handle: None,
                connection: None,
                topology: BTreeMap::new(),
                state: VolumeState::Ready,
                filesystem: Filesystem {
                    fs: FsType::Ext4,
                    state: FsState::Formatted,
                    mount_options: Vec::new(),
                    root: DataRoot::default(),
                },
                dependants: BTreeSet::from([Dependant::Snapshot(SnapshotId(3))]),
                keeping: Default::default(),
                labels: BTreeMap::from([("env".into(), "prod".into())]),
                created: Timestamp(951_782_400_123),
                intent: Some(Intent { attempts: 4, last_error: Some(failure), ..Intent::default() }),
            },
            attachments: Vec::new(),
            mounts: vec![Mount {
                volume: id,
                node: node.clone(),
                state: MountState::Mounted,
                boot_id: "boot".into(),
                path: Some("/var/lib/kato/m".into()),
                device: Some("/dev/loop3".into()),
                read_only: false,
                raw: false,
                options: Vec::new(),
                idle_since: None,
                fs_behind: false,
                intent: None,
            }],
            lost: Vec::new(),
            complaint: None,
            publications: vec![Publication {
                volume: id,
                node,
                holder: HolderId::parse("c0ffee").unwrap(),
                count: 2,
                target: Target::Shared,
                read_only: false,
                purpose: Default::default(),
                alone: false,
                group: None,
                state: PublicationState::Published,
                caller: None,
                since: Timestamp(0),
                doubtful_since: None,
                intent: None,
            }],
        }
    }

    #[test]
    fn inspect_tells_what_a_person_wants_to_know() {
        let entry = volume_to_wire("db", &view(), &NodeId::parse("here").unwrap());
        assert_eq!(entry.mountpoint, "/var/lib/kato/m/data");
        assert_eq!(entry.created_at, "2000-02-29T00:00:00.123Z");
        assert_eq!(
            Value::from(entry.status),
            json!({
                "state": "ready", "class": "fast", "backend": "ebs", "size": "1GiB", "size-bytes": 1_073_741_824,
                "wanted-size": "2GiB", "id": "00000000000000000000000000000001", "filesystem": "ext4",
                "labels": {"env": "prod"}, "dependants": ["snapshot 00000000000000000000000000000003"],
                "mounts": [{"node": "here", "state": "mounted", "device": "/dev/loop3"}],
                "holders": [{"holder": "c0ffee", "node": "here", "count": 2}],
                "error": "no slot is free", "error-at": "1970-01-01T00:00:01.000Z", "attempts": 4,
            })
        );
    }

    #[test]
    fn a_volume_that_is_mounted_elsewhere_has_no_path_here() {
        assert_eq!(volume_to_wire("db", &view(), &NodeId::parse("there").unwrap()).mountpoint, "");
    }
}
