//! What is written comes back, whatever is damaged is noticed, and what another version wrote is understood
//! or refused by name.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{envelope, *};
use crate::{
    error::{Finality, Kind},
    model::*,
};

fn entry(key: &str, value: Vec<u8>) -> Entry {
    Entry { key: key.to_owned(), value, revision: 1 }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn intent() -> Intent {
    Intent {
        since: Timestamp(10),
        attempts: 3,
        last_error: Some(Failure {
            kind: Kind::Unavailable,
            finality: Finality::Pending,
            message: "no \"route\"\n🦀".into(),
            at: Timestamp(11),
        }),
        next_try: Timestamp(12),
        resume: Some((0..=255).collect()),
        note: Some("copying".into()),
        copying: true,
    }
}

fn connections() -> Vec<Connection> {
    let text = |text: &str| text.to_owned();
    vec![
        Connection::Directory { root: text("/srv"), path: text("a") },
        Connection::File { root: text("/srv"), path: text("b") },
        Connection::Device { identity: text("nvme-serial"), value: text("vol1") },
        Connection::Rbd {
            cluster: text("ceph"),
            pool: text("rbd"),
            namespace: text("ns"),
            image: text("i"),
            snapshot: Some(text("s")),
        },
        Connection::Iscsi {
            backend: text("cloud"),
            portals: vec![text("10.0.0.2:3260")],
            iqn: text("iqn.x"),
            lun: 7,
            multipath: Some(text("m")),
            initiator: Some(text("iqn.y")),
        },
        Connection::Nbd { server: text("h:10809"), export: text("e") },
        Connection::Nfs { server: text("h"), path: text("/e"), options: vec![text("vers=4")] },
    ]
}

fn filesystem(state: FsState) -> Filesystem {
    Filesystem {
        fs: FsType::Xfs,
        state,
        mount_options: vec!["noatime".into()],
        root: DataRoot { directory: None, uid: Some(0), gid: Some(999), mode: Some(0o750) },
    }
}

fn full_volume() -> Volume {
    Volume {
        id: VolumeId(u128::MAX),
        name: VolumeName::parse("../db 🦀").unwrap(),
        class: ClassName::parse("fast").unwrap(),
        backend: BackendName::parse("ebs").unwrap(),
        generation: 4,
        made_as: Some(Token::parse("kato-x").unwrap()),
        wanted: Wanted {
            size: CapacityRange { required: Bytes::GIB, limit: Some(Bytes::MAX) },
            parameters: map(&[("iops", "3000")]),
            places: vec![map(&[("zone", "a")]), map(&[])],
        },
        actual: Some(Bytes::MIB),
        actual_parameters: map(&[("iops", "100")]),
        source: Some(Source::Volume(VolumeId(3))),
        filling: Some(Filling {
            stage: Stage::Copying,
            at: Bytes(7),
            of: Bytes(9),
            moved: Bytes(3),
            since: Some(Since { base: SnapshotId(1), twin: SnapshotId(2) }),
            seed: Some(Seed {
                generation: 1,
                handle: Some(Handle::parse("h").unwrap()),
                block: Bytes(4),
                blocks: 2,
                digest: Some(vec![1, 255]),
            }),
            temporary: true,
            keep: true,
            twin: Some(SnapshotId(3)),
        }),
        found: true,
        held_still: Some(Duration::from_millis(1234)),
        handle: Some(Handle::parse("vol-1").unwrap()),
        connection: connections().pop(),
        topology: map(&[("zone", "eu-1a")]),
        state: VolumeState::Ready,
        filesystem: filesystem(FsState::Formatted),
        dependants: BTreeSet::from([
            Dependant::Attachment(NodeId::parse("n1").unwrap()),
            Dependant::Snapshot(SnapshotId(5)),
            Dependant::Group(GroupId(7)),
            Dependant::Clone(VolumeId(6)),
        ]),
        keeping: Keeping::Ephemeral,
        labels: map(&[("a", "b"), ("", "")]),
        created: Timestamp(u64::MAX),
        intent: Some(intent()),
    }
}

fn small_volume() -> Volume {
    Volume {
        id: VolumeId(1),
        name: VolumeName::parse("db").unwrap(),
        class: ClassName::parse("default").unwrap(),
        backend: BackendName::parse("local").unwrap(),
        generation: 0,
        made_as: None,
        wanted: Wanted::default(),
        actual: None,
        actual_parameters: BTreeMap::new(),
        source: None,
        filling: None,
        found: false,
        held_still: None,
        handle: None,
        connection: None,
        topology: BTreeMap::new(),
        state: VolumeState::Creating,
        filesystem: Filesystem {
            fs: FsType::Ext4,
            state: FsState::Blank,
            mount_options: Vec::new(),
            root: DataRoot::default(),
        },
        dependants: BTreeSet::new(),
        keeping: Keeping::Owned,
        labels: BTreeMap::new(),
        created: Timestamp(1),
        intent: None,
    }
}

fn full_snapshot() -> Snapshot {
    Snapshot {
        id: SnapshotId(9),
        name: SnapshotName::parse("nightly").unwrap(),
        volume: VolumeId(1),
        volume_name: VolumeName::parse("db").unwrap(),
        volume_handle: Some(Handle::parse("vol-1").unwrap()),
        class: ClassName::parse("fast").unwrap(),
        backend: BackendName::parse("ebs").unwrap(),
        seat: Some(NodeId::parse("n1").unwrap()),
        generation: 1,
        made_as: Some(Token::parse("kato-y").unwrap()),
        group: Some(Place { group: GroupId(8), name: "#00".into(), index: 1, of: 2 }),
        parameters: map(&[("tier", "cold")]),
        size: Bytes::GIB,
        handle: Some(Handle::parse("snap-1").unwrap()),
        state: SnapshotState::Cut,
        filesystem: filesystem(FsState::Formatting),
        dependants: BTreeSet::from([VolumeId(2), VolumeId(3)]),
        cut: Some(Timestamp(5)),
        held_still: Some(Duration::from_secs(2)),
        created: Timestamp(4),
        labels: map(&[("by", "cron")]),
        intent: Some(intent()),
    }
}

fn full_group() -> Group {
    let member = |volume, handle| Member {
        volume: VolumeId(volume),
        snapshot: SnapshotId(volume),
        token: Token::parse("kato-z").unwrap(),
        handle,
    };
    Group {
        id: GroupId(8),
        name: GroupName::parse("nightly 🦀").unwrap(),
        backend: BackendName::parse("ebs").unwrap(),
        seat: Some(NodeId::parse("n1").unwrap()),
        generation: 2,
        members: vec![member(1, Some(Handle::parse("snap-1").unwrap())), member(2, None)],
        state: GroupState::Creating,
        parameters: map(&[("tier", "cold")]),
        labels: map(&[("by", "cron")]),
        created: Timestamp(4),
        intent: intent(),
    }
}

fn full_attachment() -> Attachment {
    Attachment {
        volume: VolumeId(1),
        node: NodeId::parse("n1").unwrap(),
        state: AttachmentState::Attached,
        connection: connections().pop(),
        client: Some("10.0.0.1:0/77".into()),
        fencing_token: 12,
        read_only: true,
        hold: Hold::Asked,
        fence: Fence::Wished,
        intent: Some(intent()),
    }
}

fn full_mount() -> Mount {
    Mount {
        volume: VolumeId(1),
        node: NodeId::parse("n1").unwrap(),
        state: MountState::Broken("server died".into()),
        boot_id: "b".into(),
        path: Some("/run/kato/1".into()),
        device: Some("/dev/loop3".into()),
        read_only: true,
        raw: true,
        options: vec!["noatime".into()],
        idle_since: Some(Timestamp(3)),
        fs_behind: true,
        intent: Some(intent()),
    }
}

fn full_lost_mount() -> LostMount {
    LostMount {
        name: VolumeName::parse("db").unwrap(),
        connection: connections().pop(),
        mount: full_mount(),
        holders: BTreeMap::from([(full_publication().holder, full_publication())]),
        since: Timestamp(9),
        intent: Some(intent()),
    }
}

fn full_publication() -> Publication {
    Publication {
        volume: VolumeId(1),
        node: NodeId::parse("n1").unwrap(),
        holder: HolderId::parse("/var/lib/kubelet/x").unwrap(),
        count: 2,
        target: Target::Path("/var/lib/kubelet/x".into()),
        read_only: true,
        purpose: Purpose::Stage,
        alone: true,
        group: Some(7),
        state: PublicationState::Published,
        caller: Some(Caller { pid: 77, started: 123 }),
        since: Timestamp(1),
        doubtful_since: Some(Timestamp(2)),
        intent: Some(intent()),
    }
}

fn full_tombstone() -> Tombstone {
    Tombstone {
        id: VolumeId(1),
        what: Buried::Snapshot,
        backend: BackendName::parse("ebs").unwrap(),
        token: Token::derive(ClusterId(1), "volume", "db", 0),
        handle: Some(Handle::parse("vol-1").unwrap()),
        until: Timestamp(99),
        intent: intent(),
    }
}

fn full_node() -> Node {
    Node {
        id: NodeId::parse("n1").unwrap(),
        boot_id: "b".into(),
        session: 3,
        topology: map(&[("zone", "a")]),
        names: BTreeMap::from([(BackendName::parse("ebs").unwrap(), "i-1".to_owned())]),
        state: NodeState::Away(Timestamp(9)),
        drained: true,
        schema: 1,
        seen: Timestamp(8),
    }
}

fn full_backend() -> BackendRecord {
    BackendRecord {
        name: BackendName::parse("ebs").unwrap(),
        fingerprint: Fingerprint("123/eu-1".into()),
        plugin: "kato-ebs".into(),
        bound: Timestamp(1),
    }
}

fn round_trip<T: Record + PartialEq + std::fmt::Debug>(record: T) {
    let value = encode("k", &record);
    assert_eq!(decode::<T>(&entry("k", value)).unwrap(), record);
}

/// One encoded record of each kind, with a key that suits it.
fn one_of_each() -> Vec<(String, Vec<u8>)> {
    fn of<T: Record>(key: String, record: &T) -> (String, Vec<u8>) {
        let value = encode(&key, record);
        (key, value)
    }
    let node = NodeId::parse("n1").unwrap();
    vec![
        of(keys::volume(VolumeId(1)), &full_volume()),
        of(keys::snapshot(SnapshotId(9)), &full_snapshot()),
        of(keys::attachment(VolumeId(1), &node), &full_attachment()),
        of(keys::mount(VolumeId(1), &node), &full_mount()),
        of(keys::lost_mount(VolumeId(1), &node), &full_lost_mount()),
        of(keys::publication(VolumeId(1), &node, &full_publication().holder), &full_publication()),
        of(keys::tombstone(VolumeId(1)), &full_tombstone()),
        of(keys::node(&node), &full_node()),
        of(keys::backend(&full_backend().name), &full_backend()),
        of(keys::cluster(), &ClusterId(77)),
        of(keys::volume_name(&VolumeName::parse("db").unwrap()), &VolumeId(1)),
        of(keys::snapshot_name(&SnapshotName::parse("db").unwrap()), &SnapshotId(1)),
        of(keys::work_volume(VolumeId(1)), &Marker { by: Some(NodeId::parse("n1").unwrap()) }),
        of(keys::group(GroupId(8)), &full_group()),
        of(keys::group_name("nightly"), &GroupId(8)),
        of(keys::place(&full_snapshot().group.unwrap()), &SnapshotId(9)),
    ]
}

#[test]
fn every_record_comes_back_as_it_was_written() {
    round_trip(full_volume());
    round_trip(small_volume());
    for connection in connections() {
        round_trip(Volume { connection: Some(connection.clone()), ..small_volume() });
        round_trip(Attachment { connection: Some(connection), ..full_attachment() });
    }
    for state in [VolumeState::Creating, VolumeState::Ready, VolumeState::Deleting, VolumeState::Lost] {
        round_trip(Volume { state, ..small_volume() });
    }
    for state in [FsState::Blank, FsState::Formatting, FsState::Formatted] {
        round_trip(Volume { filesystem: filesystem(state), ..small_volume() });
    }
    round_trip(Volume { source: Some(Source::Snapshot(SnapshotId(1))), ..small_volume() });
    round_trip(Volume { source: Some(Source::File("/m.kato".into())), ..small_volume() });
    round_trip(Volume { intent: Some(Intent::default()), ..small_volume() });
    for kind in Kind::ALL {
        for finality in [Finality::Final, Finality::Pending] {
            let failure = Failure { kind, finality, message: String::new(), at: Timestamp(0) };
            let intent = Intent { last_error: Some(failure), resume: Some(Vec::new()), ..Intent::default() };
            round_trip(Volume { intent: Some(intent), ..small_volume() });
        }
    }
    for state in [SnapshotState::Creating, SnapshotState::Cut, SnapshotState::Ready, SnapshotState::Deleting]
    {
        round_trip(Snapshot { state, ..full_snapshot() });
    }
    round_trip(Snapshot { dependants: BTreeSet::new(), cut: None, handle: None, ..full_snapshot() });
    for state in [AttachmentState::Attaching, AttachmentState::Attached, AttachmentState::Detaching] {
        round_trip(Attachment { state, ..full_attachment() });
    }
    for fence in [Fence::Unneeded, Fence::Wished, Fence::Done, Fence::Unproven] {
        round_trip(Attachment { fence, ..full_attachment() });
    }
    for state in [MountState::Mounting, MountState::Mounted, MountState::Unmounting] {
        round_trip(Mount { state, path: None, device: None, idle_since: None, ..full_mount() });
    }
    round_trip(full_mount());
    round_trip(full_lost_mount());
    round_trip(LostMount { connection: None, holders: BTreeMap::new(), intent: None, ..full_lost_mount() });
    for state in [PublicationState::Publishing, PublicationState::Published, PublicationState::Leaving] {
        round_trip(Publication { state, target: Target::Shared, caller: None, ..full_publication() });
    }
    round_trip(full_publication());
    round_trip(full_tombstone());
    for state in [NodeState::Live, NodeState::Away(Timestamp(7)), NodeState::Down] {
        round_trip(Node { state, drained: false, ..full_node() });
    }
    round_trip(full_backend());
    round_trip(ClusterId(u128::MAX));
    round_trip(VolumeId(0));
    round_trip(SnapshotId(7));
    for state in [GroupState::Creating, GroupState::Deleting] {
        round_trip(Group { state, ..full_group() });
    }
    round_trip(GroupId(7));
    round_trip(Marker::default());
    round_trip(Marker { by: Some(NodeId::parse("n/1").unwrap()) });
}

#[test]
fn every_flipped_bit_of_every_kind_is_noticed() {
    for (key, value) in one_of_each() {
        for bit in 0..value.len() * 8 {
            let mut damaged = value.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = to_json(&entry(&key, damaged)).unwrap_err();
            assert_eq!(error.kind, Kind::Internal, "bit {bit} of {key}");
            assert_eq!(error.subject, key);
            assert!(error.message.contains("kato recover --scan"), "{error}");
        }
    }
}

#[test]
fn a_cut_or_lengthened_value_is_noticed() {
    for (key, value) in one_of_each() {
        for length in 0..value.len() {
            assert!(to_json(&entry(&key, value[..length].to_vec())).is_err(), "{length} bytes of {key}");
        }
        let longer = [value, vec![0]].concat();
        assert!(to_json(&entry(&key, longer)).is_err(), "{key}");
    }
}

#[test]
fn a_record_under_another_key_is_noticed() {
    let error = decode::<VolumeId>(&entry("n/v/b", encode("n/v/a", &VolumeId(1)))).unwrap_err();
    assert_eq!((error.kind, error.subject.as_str()), (Kind::Internal, "n/v/b"));
}

#[test]
fn a_record_of_another_kind_is_an_error_that_names_both() {
    let error = decode::<SnapshotId>(&entry("k", encode("k", &VolumeId(1)))).unwrap_err();
    assert_eq!(error.kind, Kind::Internal);
    assert!(error.message.contains("volume-id") && error.message.contains("snapshot-id"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_with_both_numbers() {
    let value = envelope::seal("k", 7, VolumeId::TAG, b"{\"something\":\"new\"}");
    let error = decode::<VolumeId>(&entry("k", value)).unwrap_err();
    assert_eq!(error.kind, Kind::Precondition);
    assert!(error.message.contains("schema 7") && error.message.contains("schema 1"), "{error}");
}

#[test]
fn fields_that_are_not_known_are_ignored_and_pass_through_a_dump() {
    let mut json: serde_json::Value = serde_json::from_slice(&form::to_bytes(&small_volume())).unwrap();
    json["colour"] = serde_json::json!({ "of": ["the", "future"] });
    let key = keys::volume(VolumeId(1));
    let value = envelope::seal(&key, SCHEMA, Volume::TAG, &serde_json::to_vec(&json).unwrap());
    let written = entry(&key, value);
    assert_eq!(decode::<Volume>(&written).unwrap(), small_volume());
    let (_, loaded) = from_json(&to_json(&written).unwrap()).unwrap();
    assert_eq!(to_json(&entry(&key, loaded)).unwrap()["record"]["colour"]["of"][1], "future");
}

#[test]
fn what_is_empty_is_not_written() {
    let text = String::from_utf8(form::to_bytes(&small_volume())).unwrap();
    assert_eq!(
        text,
        "{\"id\":\"00000000000000000000000000000001\",\"name\":\"db\",\"class\":\"default\",\"backend\":\"local\",\
         \"wanted\":{\"size\":{}},\"state\":\"creating\",\
         \"filesystem\":{\"fs\":\"ext4\",\"state\":\"blank\",\"root\":{\"directory\":\"data\"}},\"created\":1}"
    );
}

#[test]
fn every_record_passes_through_json() {
    for (key, value) in one_of_each() {
        let json = to_json(&entry(&key, value)).unwrap();
        let (again, loaded) = from_json(&json).unwrap();
        assert_eq!(again, key);
        assert_eq!(to_json(&entry(&key, loaded)).unwrap(), json);
        assert_eq!(json["kind"], keys::KeyKind::of(&key).record().unwrap());
    }
}

#[test]
fn a_line_that_is_no_record_is_refused_with_the_reason() {
    let good = serde_json::json!({ "key": "n/v/db", "schema": 1, "kind": "volume-id", "record": VolumeId(1).to_string() });
    assert!(from_json(&good).is_ok());
    for (field, wrong) in [
        ("key", serde_json::json!(null)),
        ("key", serde_json::json!("b/ebs")),
        ("key", serde_json::json!("somewhere/else")),
        ("schema", serde_json::json!(99)),
        ("schema", serde_json::json!(-1)),
        ("kind", serde_json::json!("cluster")),
        ("kind", serde_json::json!("poem")),
        ("record", serde_json::json!("short")),
    ] {
        let mut bad = good.clone();
        bad[field] = wrong.clone();
        let error = from_json(&bad).unwrap_err();
        let kind = if wrong == 99 { Kind::Precondition } else { Kind::InvalidArgument };
        assert_eq!(error.kind, kind, "{field} = {wrong}: {error}");
    }
}
