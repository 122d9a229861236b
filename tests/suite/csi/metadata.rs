//! Snapshot metadata: which blocks a snapshot has, and which differ between two. What counts is told by bytes: with the
//! blocks that are told to differ, a copy of the one becomes the other, bit for bit, whatever filesystem the backend's
//! folder lies on. Then who is told nothing, and what a caller may do who reads slowly or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use kato_csi::{
    Role,
    protocol::{
        BlockMetadata, BlockMetadataType, CapacityRange, ControllerExpandVolumeRequest,
        CreateSnapshotRequest, CreateVolumeRequest, DeleteSnapshotRequest, GetMetadataAllocatedRequest,
        GetMetadataAllocatedResponse, GetMetadataDeltaRequest, GetPluginCapabilitiesRequest,
        ListVolumesRequest, Volume, VolumeCapability, plugin_capability,
        snapshot_metadata_client::SnapshotMetadataClient, volume_capability::access_mode::Mode,
    },
};
use kato_orchestrator::{
    Orchestrator,
    model::{HolderId, SnapshotName, Target, VolumeName, VolumeRef},
    ops::{Access, Context, CreateSnapshot, CreateVolume, MountVolume, UnmountVolume},
    testing::FakeBackend,
};
use kato_tests::csi::CsiDoor;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use super::{
    ground::{House, MIB, Plan, device, usual, wish},
    hall, hall_over,
};
use crate::host::ground::{Ground, run};

const BLOCK: u64 = 4096;
const SIZE: u64 = 64 << 20;

/// A ground whose granted folder lies on a filesystem of this kind; nothing for this machine's own.
fn ground_on(kind: Option<&str>) -> Ground {
    let ground = Ground::new();
    if let Some(kind) = kind {
        let disk = ground.path("disk");
        File::create_new(&disk).unwrap().set_len(1 << 30).unwrap();
        let (disk, granted) = (disk.display().to_string(), ground.granted().display().to_string());
        run("mkfs", &["-t", kind, "-q", &disk]);
        run("mount", &["-t", kind, "-o", "loop", &disk, &granted]);
    }
    ground
}

/// A volume, a snapshot's bytes of it, and what can be asked about them.
struct Stage<'g> {
    ground: &'g Ground,
    house: House,
    metadata: SnapshotMetadataClient<Channel>,
}

impl<'g> Stage<'g> {
    async fn open(ground: &'g Ground) -> Self {
        let house = Plan::all(ground).open().await;
        let metadata = house.door.caller().await.snapshot_metadata();
        Self { ground, house, metadata }
    }

    async fn volume(&self, name: &str, thin: bool, capability: VolumeCapability) -> Volume {
        let wish = CreateVolumeRequest {
            parameters: BTreeMap::from([("thin".to_owned(), thin.to_string())]),
            volume_capabilities: vec![capability],
            ..wish(name, i64::try_from(SIZE).unwrap() / MIB)
        };
        self.house.create(wish).await.unwrap()
    }

    /// Has a volume published for as long as something is done with it at its path.
    async fn with(&self, volume: &Volume, capability: &VolumeCapability, act: impl FnOnce(PathBuf)) {
        let (staged, pods) = (self.ground.path("staged"), self.ground.path("pods"));
        fs::create_dir_all(&staged).unwrap();
        fs::create_dir_all(&pods).unwrap();
        let target = pods.join("one");
        self.house.stage(volume, &staged, capability, &BTreeMap::new()).await.unwrap();
        self.house.publish(volume, &staged, &target, capability).await.unwrap();
        act(target.clone());
        self.house.unpublish(&volume.volume_id, &target).await.unwrap();
        self.house.unstage(&volume.volume_id, &staged).await.unwrap();
    }

    /// Writes these bytes at these places of a volume's device.
    async fn write(&self, volume: &Volume, writes: &[(u64, u8, u64)]) {
        self.with(volume, &device(Mode::SingleNodeMultiWriter), |target| {
            let disk = File::options().write(true).open(target).unwrap();
            for (at, byte, length) in writes {
                disk.write_all_at(&vec![*byte; usize::try_from(*length).unwrap()], *at).unwrap();
            }
            disk.sync_all().unwrap();
        })
        .await;
    }

    async fn cut(&self, name: &str, volume: &Volume) -> String {
        let request = CreateSnapshotRequest {
            source_volume_id: volume.volume_id.clone(),
            name: name.into(),
            ..Default::default()
        };
        let answer = self.house.clients.controller.clone().create_snapshot(request).await.unwrap();
        answer.into_inner().snapshot.unwrap().snapshot_id
    }

    /// The bytes of a snapshot.
    fn bytes(&self, id: &str) -> Vec<u8> {
        let token = id.rsplit('/').next().unwrap();
        fs::read(self.ground.granted().join("snapshots").join(token).join("image")).unwrap()
    }

    async fn allocated(&self, id: &str, from: i64, most: i32) -> Result<Vec<Range<u64>>, Status> {
        let request = GetMetadataAllocatedRequest {
            snapshot_id: id.into(),
            starting_offset: from,
            max_results: most,
            ..Default::default()
        };
        let mut stream = self.metadata.clone().get_metadata_allocated(request).await?.into_inner();
        let mut told = Told::new(from, most);
        while let Some(message) = stream.message().await? {
            told.hear(message.block_metadata_type, message.volume_capacity_bytes, &message.block_metadata);
        }
        Ok(told.end())
    }

    async fn delta(&self, base: &str, id: &str, from: i64, most: i32) -> Result<Vec<Range<u64>>, Status> {
        let request = GetMetadataDeltaRequest {
            base_snapshot_id: base.into(),
            target_snapshot_id: id.into(),
            starting_offset: from,
            max_results: most,
            ..Default::default()
        };
        let mut stream = self.metadata.clone().get_metadata_delta(request).await?.into_inner();
        let mut told = Told::new(from, most);
        while let Some(message) = stream.message().await? {
            told.hear(message.block_metadata_type, message.volume_capacity_bytes, &message.block_metadata);
        }
        Ok(told.end())
    }

    /// A copy of the base's bytes with the blocks that are told to differ is the other snapshot, bit for bit.
    async fn prove(&self, base: &str, id: &str) -> Vec<Range<u64>> {
        let delta = self.delta(base, id, 0, 0).await.unwrap();
        let (mut copy, target) = (self.bytes(base), self.bytes(id));
        copy.resize(target.len(), 0);
        for block in &delta {
            let block = usize::try_from(block.start).unwrap()..usize::try_from(block.end).unwrap();
            copy[block.clone()].copy_from_slice(&target[block]);
        }
        assert!(copy == target, "a block that differs was not told: {delta:?}");
        delta
    }
}

/// What a stream told, which is checked as it is heard.
struct Told {
    from: u64,
    most: usize,
    at: u64,
    capacity: Option<i64>,
    blocks: Vec<Range<u64>>,
}

impl Told {
    fn new(from: i64, most: i32) -> Self {
        let from = u64::try_from(from).unwrap_or(0);
        let most = if most == 0 { 4096 } else { usize::try_from(most).unwrap_or(0) };
        Self { from, most, at: from, capacity: None, blocks: Vec::new() }
    }

    fn hear(&mut self, kind: i32, capacity: i64, blocks: &[BlockMetadata]) {
        assert_eq!(kind, i32::from(BlockMetadataType::VariableLength));
        assert!(blocks.len() <= self.most, "{} blocks in a message", blocks.len());
        assert_eq!(*self.capacity.get_or_insert(capacity), capacity);
        for block in blocks {
            let start = u64::try_from(block.byte_offset).unwrap();
            let end = start + u64::try_from(block.size_bytes).unwrap();
            assert!(start >= self.at && end > start && end > self.from && block.byte_offset <= capacity);
            self.at = end;
            self.blocks.push(start..end);
        }
    }

    /// All of it, joined where it is one.
    fn end(self) -> Vec<Range<u64>> {
        assert!(self.capacity.is_some(), "not even the size was told");
        joined(self.blocks)
    }
}

fn joined(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => all.push(range),
        }
    }
    all
}

/// The blocks that these writes are in.
fn blocks(writes: &[(u64, u8, u64)]) -> Vec<Range<u64>> {
    let block = |(at, _, length): &(u64, u8, u64)| at / BLOCK * BLOCK..(at + length).div_ceil(BLOCK) * BLOCK;
    let mut all: Vec<_> = writes.iter().map(block).collect();
    all.sort_by_key(|range| range.start);
    joined(all)
}

/// What is left of these from an offset on.
fn rest(ranges: &[Range<u64>], from: u64) -> Vec<Range<u64>> {
    ranges.iter().filter(|range| range.end > from).map(|range| range.start.max(from)..range.end).collect()
}

async fn blocks_are_told(kind: Option<&str>, thin: bool) {
    let ground = ground_on(kind);
    let stage = Stage::open(&ground).await;
    let volume = stage.volume("pvc-1", thin, device(Mode::SingleNodeMultiWriter)).await;
    let first = [
        (0, 1, BLOCK),
        ((1 << 20) + BLOCK, 2, 2 * BLOCK),
        ((3 << 20) + 100, 3, 50),
        (40 << 20, 4, 5 << 20),
        (SIZE - BLOCK, 5, BLOCK),
    ];
    stage.write(&volume, &first).await;
    let one = stage.cut("one", &volume).await;
    let allocated = stage.allocated(&one, 0, 0).await.unwrap();
    if kind == Some("ext4") && !thin {
        // Where blocks cannot be shared a snapshot is a copy, and one of blocks that were taken beforehand may be whole.
        let known =
            |block: &Range<u64>| allocated.iter().any(|all| all.start <= block.start && block.end <= all.end);
        assert!(blocks(&first).iter().all(known), "{allocated:?}");
    } else {
        assert_eq!(allocated, blocks(&first), "{kind:?} thin={thin}");
    }

    // Changed, zeroed, changed in the midst of a large block, new; and a hole in place of data.
    let second = [
        (100, 6, 8),
        ((1 << 20) + BLOCK, 0, BLOCK),
        ((42 << 20) + BLOCK, 7, 3 * BLOCK),
        (20 << 20, 8, 3 * BLOCK),
    ];
    stage.write(&volume, &second).await;
    let hole = ((44 << 20), 0, 1 << 20);
    stage
        .with(&volume, &device(Mode::SingleNodeMultiWriter), |target| {
            let (at, _, length) = hole;
            let words = ["-o", &at.to_string(), "-l", &length.to_string(), target.to_str().unwrap()];
            run("blkdiscard", &words);
        })
        .await;
    let two = stage.cut("two", &volume).await;
    let changed: Vec<_> = second.into_iter().chain([hole]).collect();
    let delta = stage.prove(&one, &two).await;
    assert_eq!(delta, blocks(&changed), "{kind:?} thin={thin}");
    stage.prove(&two, &one).await;
    assert_eq!(stage.delta(&two, &two, 0, 0).await.unwrap(), []);

    // From anywhere on, in the middle of a block too, and with as few as wanted in a message.
    let end = i64::try_from(SIZE).unwrap();
    for from in [1, 4095, 4096, 4097, (1 << 20) + 5000, (42 << 20) + 9000, end - 1, end] {
        let most = i32::try_from(from % 4).unwrap();
        let told = stage.allocated(&two, from, most).await.unwrap();
        let all = stage.allocated(&two, 0, 0).await.unwrap();
        let from = u64::try_from(from).unwrap();
        assert_eq!(told, rest(&all, from), "{kind:?} from {from}");
        let told = stage.delta(&one, &two, i64::try_from(from).unwrap(), most).await.unwrap();
        assert_eq!(told, rest(&delta, from), "{kind:?} from {from}");
    }
    for beyond in [end + 1, i64::MAX, -1] {
        let refused = stage.allocated(&two, beyond, 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{beyond}: {refused}");
        let refused = stage.delta(&one, &two, beyond, 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{beyond}: {refused}");
    }
    assert_eq!(stage.allocated(&two, 0, -1).await.unwrap_err().code(), Code::InvalidArgument);

    // A volume that has grown differs where it was not before, and its first snapshots are told as they were.
    let grow = ControllerExpandVolumeRequest {
        volume_id: volume.volume_id.clone(),
        capacity_range: Some(CapacityRange { required_bytes: end + 8 * MIB, limit_bytes: 0 }),
        ..Default::default()
    };
    stage.house.clients.controller.clone().controller_expand_volume(grow).await.unwrap();
    let third = [(SIZE + (4 << 20), 9, BLOCK)];
    stage.write(&volume, &third).await;
    let three = stage.cut("three", &volume).await;
    assert_eq!(stage.prove(&two, &three).await, blocks(&third), "{kind:?} thin={thin}");
    stage.prove(&one, &three).await;
    assert_eq!(stage.allocated(&one, 0, 3).await.unwrap(), allocated);
    assert_eq!(stage.allocated(&one, end + 1, 0).await.unwrap_err().code(), Code::OutOfRange);

    // The volume is not needed for any of it.
    stage.house.delete(&volume.volume_id).await.unwrap();
    assert_eq!(stage.prove(&one, &two).await, delta);
    stage.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_told_where_they_are_shared_on_xfs() {
    blocks_are_told(Some("xfs"), true).await;
    blocks_are_told(Some("xfs"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_told_where_they_are_shared_on_btrfs() {
    blocks_are_told(Some("btrfs"), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_told_where_bytes_have_to_be_compared_on_ext4() {
    blocks_are_told(Some("ext4"), true).await;
    blocks_are_told(Some("ext4"), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_told_without_a_map_on_tmpfs() {
    let ground = Ground::new();
    run("mount", &["-t", "tmpfs", "-o", "size=512m", "none", ground.granted().to_str().unwrap()]);
    let stage = Stage::open(&ground).await;
    let volume = stage.volume("pvc-1", true, usual()).await;
    let mut cuts = Vec::new();
    for text in ["monday", "tuesday"] {
        stage.with(&volume, &usual(), |target| fs::write(target.join("file"), text).unwrap()).await;
        cuts.push(stage.cut(text, &volume).await);
    }
    assert!(!stage.prove(&cuts[0], &cuts[1]).await.is_empty());
    stage.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_life_of_a_filesystem_is_followed_from_one_snapshot_to_the_next() {
    for kind in ["xfs", "ext4"] {
        let ground = ground_on(Some(kind));
        let stage = Stage::open(&ground).await;
        let volume = stage.volume("pvc-1", true, usual()).await;
        let mut cuts = Vec::new();
        for day in 0..4_u8 {
            stage
                .with(&volume, &usual(), |target| {
                    let content: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8 ^ day).collect();
                    fs::write(target.join(format!("file-{day}")), &content).unwrap();
                    if day > 0 {
                        let old = File::options().write(true).open(target.join("file-0")).unwrap();
                        old.write_all_at(&[day; 10], u64::from(day) * 70_001).unwrap();
                    }
                    if day == 3 {
                        fs::remove_file(target.join("file-1")).unwrap();
                    }
                })
                .await;
            cuts.push(stage.cut(&format!("day-{day}"), &volume).await);
        }
        for (number, base) in cuts.iter().enumerate() {
            for id in &cuts[number..] {
                stage.prove(base, id).await;
            }
        }
        // What is not told to hold data is zeroes.
        let (bytes, mut at) = (stage.bytes(&cuts[3]), 0);
        for block in stage.allocated(&cuts[3], 0, 7).await.unwrap().iter().chain([&(SIZE..SIZE)]) {
            let gap = at..usize::try_from(block.start).unwrap();
            assert!(bytes[gap.clone()].iter().all(|byte| *byte == 0), "{kind}: data at {gap:?}");
            at = usize::try_from(block.end).unwrap();
        }
        stage.house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_forgot_everything_goes_on_where_another_was_cut_off() {
    let ground = ground_on(Some("xfs"));
    let stage = Stage::open(&ground).await;
    let volume = stage.volume("pvc-1", true, device(Mode::SingleNodeMultiWriter)).await;
    let mut cuts = Vec::new();
    for (name, byte) in [("one", 1), ("two", 2)] {
        let writes: Vec<_> = (0..50).map(|number| (number * 10 * BLOCK, byte, BLOCK)).collect();
        stage.write(&volume, &writes).await;
        cuts.push(stage.cut(name, &volume).await);
    }
    let all = stage.prove(&cuts[0], &cuts[1]).await;
    assert_eq!(all.len(), 50);
    stage.house.close().await;
    let from = all[20].start + 100;
    // Whose records are new and empty; and once more, of which the first ones are taken for granted.
    for _ in 0..2 {
        let stage = Stage::open(&ground).await;
        let told = stage.delta(&cuts[0], &cuts[1], i64::try_from(from).unwrap(), 8).await.unwrap();
        assert_eq!(told, rest(&all, from));
        stage.house.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_refused_by_its_reason() {
    let ground = Ground::new();
    let stage = Stage::open(&ground).await;
    let mut cuts = Vec::new();
    for name in ["a", "b"] {
        let volume = stage.volume(name, true, usual()).await;
        stage.with(&volume, &usual(), |target| fs::write(target.join("file"), name).unwrap()).await;
        cuts.push(stage.cut(name, &volume).await);
    }
    let folder = CreateVolumeRequest {
        parameters: BTreeMap::from([("class".to_owned(), "folders".to_owned())]),
        capacity_range: None,
        ..wish("c", 0)
    };
    let folder = stage.house.create(folder).await.unwrap();
    stage.with(&folder, &usual(), |target| fs::write(target.join("file"), "c").unwrap()).await;
    let tree = stage.cut("c", &folder).await;
    let elsewhere = cuts[0].replace("@here/", "@there/");
    assert_ne!(elsewhere, cuts[0]);
    for (id, code, words) in [
        ("", Code::InvalidArgument, "snapshot_id"),
        ("nothing", Code::NotFound, "nothing"),
        ("local@here/img/kato-b", Code::NotFound, "img/kato-b"),
        ("other/img/kato-b", Code::Unavailable, "other"),
        (&elsewhere, Code::FailedPrecondition, "node there"),
        (&tree, Code::FailedPrecondition, "directory"),
    ] {
        let refused = stage.allocated(id, 0, 0).await.unwrap_err();
        assert_eq!(refused.code(), code, "{id}: {refused}");
        assert!(refused.message().contains(words), "{id}: {refused}");
        for (base, target) in [(id, cuts[0].as_str()), (cuts[0].as_str(), id)] {
            let refused = stage.delta(base, target, 0, 0).await.unwrap_err();
            let strangers = id == tree && refused.code() == Code::InvalidArgument;
            assert!(refused.code() == code || strangers, "{base} {target}: {refused}");
        }
    }
    let strangers = stage.delta(&cuts[0], &cuts[1], 0, 0).await.unwrap_err();
    assert_eq!(strangers.code(), Code::InvalidArgument, "{strangers}");
    assert!(
        strangers.message().contains("the volume b") && strangers.message().contains("one of a"),
        "{strangers}"
    );

    let request = DeleteSnapshotRequest { snapshot_id: cuts[0].clone(), ..Default::default() };
    stage.house.clients.controller.clone().delete_snapshot(request).await.unwrap();
    assert_eq!(stage.allocated(&cuts[0], 0, 0).await.unwrap_err().code(), Code::NotFound);
    stage.house.close().await;
}

/// A hall over a backend in memory, and a snapshot with so many blocks.
async fn fragmented(blocks: usize) -> (Arc<Orchestrator>, String) {
    let (hall, world) = hall().await;
    let ctx = || Context::new("test", "test", hall.clock().now().plus(Duration::from_secs(60)));
    let name = VolumeName::parse("db").unwrap();
    let (volume, holder) = (VolumeRef::Name(name.clone()), HolderId::parse("one").unwrap());
    let made = hall.create(&ctx(), CreateVolume::named(name)).await.unwrap().into_inner();
    let mount = MountVolume {
        volume: volume.clone(),
        holder: holder.clone(),
        counts: false,
        caller: None,
        target: Target::Shared,
        read_only: false,
        access: Access::default(),
        implicit: None,
    };
    hall.mount(&ctx(), mount).await.unwrap();
    hall.unmount(&ctx(), UnmountVolume { volume: volume.clone(), holder, all: true }).await.unwrap();
    let handle = made.volume.handle.unwrap();
    *world.lock().unwrap().bytes(handle.as_str()).unwrap() =
        (0..blocks * 2).map(|at| u8::from(at % 2 == 0)).collect();
    let cut = CreateSnapshot {
        name: SnapshotName::parse("cut").unwrap(),
        volume,
        parameters: BTreeMap::new(),
        labels: BTreeMap::new(),
        until_ready: true,
    };
    let snapshot = hall.create_snapshot(&ctx(), cut).await.unwrap().into_inner();
    (hall, format!("{}/{}", snapshot.backend, snapshot.handle.unwrap()))
}

fn question(id: &str) -> GetMetadataAllocatedRequest {
    GetMetadataAllocatedRequest { snapshot_id: id.into(), ..Default::default() }
}

async fn read(mut stream: Streaming<GetMetadataAllocatedResponse>) -> Result<usize, Status> {
    let mut blocks = 0;
    while let Some(message) = stream.message().await? {
        blocks += message.block_metadata.len();
    }
    Ok(blocks)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_keeps_its_own_seat_and_only_until_its_deadline() {
    const MANY: usize = 20_000;
    let (hall, id) = fragmented(MANY).await;
    let door = CsiDoor::open(hall, |config| config.calls = 2);
    // As many as are worked on at once, each on a connection of its own, and none of them reads.
    let mut deaf = Vec::new();
    for _ in 0..16 {
        let mut request = Request::new(question(&id));
        request.set_timeout(Duration::from_secs(3));
        let mut metadata = door.caller().await.snapshot_metadata();
        deaf.push((metadata.get_metadata_allocated(request).await.unwrap().into_inner(), metadata));
    }
    let mut controller = door.caller().await.controller();
    for _ in 0..10 {
        let list = controller.list_volumes(ListVolumesRequest::default());
        timeout(Duration::from_secs(2), list).await.unwrap().unwrap();
    }
    // One more waits, and is served when their time is over.
    let mut metadata = door.caller().await.snapshot_metadata();
    let stream = metadata.get_metadata_allocated(question(&id)).await.unwrap().into_inner();
    assert_eq!(timeout(Duration::from_secs(30), read(stream)).await.unwrap().unwrap(), MANY);
    for (stream, _) in deaf {
        // What was sent before is read; that it is not all of it is never kept back.
        // Or the client's own library has lost its patience with so many small messages that nobody reads.
        let broken = read(stream).await.unwrap_err();
        let codes = [Code::DeadlineExceeded, Code::Cancelled, Code::ResourceExhausted];
        assert!(codes.contains(&broken.code()), "{broken:?}");
    }
    timeout(Duration::from_secs(10), door.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cancelled_ends_at_once() {
    let (hall, id) = fragmented(200_000).await;
    let door = CsiDoor::open(hall, |_| ());
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let mut metadata = door.caller().await.snapshot_metadata();
        let request = question(&id);
        calls.spawn(async move {
            let mut stream = metadata.get_metadata_allocated(request).await?.into_inner();
            stream.message().await
        });
    }
    // Only so many are worked on at once: as they are let go one by one, all of them get their first message.
    let all = async {
        while let Some(first) = calls.join_next().await {
            assert!(!first.unwrap().unwrap().unwrap().block_metadata.is_empty());
        }
    };
    timeout(Duration::from_secs(30), all).await.unwrap();
    timeout(Duration::from_secs(10), door.close()).await.unwrap();
}

#[tokio::test]
async fn a_deadline_of_a_millisecond_never_looks_like_the_end() {
    const MANY: usize = 20_000;
    let (hall, id) = fragmented(MANY).await;
    let door = CsiDoor::open(hall, |_| ());
    let mut metadata = door.caller().await.snapshot_metadata();
    for millis in [1, 2, 5, 10, 50] {
        let mut request = Request::new(question(&id));
        request.set_timeout(Duration::from_millis(millis));
        let told = match metadata.get_metadata_allocated(request).await {
            Ok(stream) => read(stream.into_inner()).await,
            Err(status) => Err(status),
        };
        match told {
            Ok(blocks) => assert_eq!(blocks, MANY, "a part was told as the whole"),
            Err(status) => {
                assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
            }
        }
    }
    door.close().await;
}

#[tokio::test]
async fn it_is_claimed_and_served_where_a_backend_can_and_nowhere_else() {
    let claimed = async |door: &CsiDoor| {
        let mut identity = door.caller().await.identity();
        let claims = identity.get_plugin_capabilities(GetPluginCapabilitiesRequest {}).await.unwrap();
        let wanted = plugin_capability::service::Type::SnapshotMetadataService;
        claims.into_inner().capabilities.iter().any(|claim| match &claim.r#type {
            Some(plugin_capability::Type::Service(service)) => service.r#type() == wanted,
            _ => false,
        })
    };
    let asked = async |door: &CsiDoor| {
        let mut metadata = door.caller().await.snapshot_metadata();
        let answer = match metadata.get_metadata_allocated(question("fake/snap/none")).await {
            Ok(stream) => read(stream.into_inner()).await,
            Err(status) => Err(status),
        };
        answer.unwrap_err().code()
    };
    for (role, able, served) in [
        (Role::All, true, true),
        (Role::Controller, true, true),
        (Role::Node, true, false),
        (Role::All, false, false),
    ] {
        let change = |fake: FakeBackend| if able { fake } else { fake.without_extents() };
        let door = CsiDoor::open(hall_over(change).await.0, |config| config.role = role);
        assert_eq!(claimed(&door).await, served, "{role:?} {able}");
        let code = if served { Code::NotFound } else { Code::Unimplemented };
        assert_eq!(asked(&door).await, code, "{role:?} {able}");
        door.close().await;
    }
}
