//! Every operation against a cluster in memory (`fake.rs`). What holds for each of them is `cut.rs`: it is cut off at
//! every command, or somebody else does the same meanwhile, and it is repeated or reversed. What goes by way of the
//! trash is `trash.rs`, and who may reach a volume `attach.rs`.

mod attach;
mod cut;
mod extents;
mod fake;
mod trash;

use std::{cell::RefCell, rc::Rc};

use kato_plugin_sdk::{
    grow::Grown,
    snapshots::{self as snapshots_wish, CutAnswer, Deleting},
    testing::MemoryCommands,
    types::{CapacityRange, Cutting, Error, ErrorKind, Pair, Snapshot, Volume, Which},
    volumes::{Created, Deleted, Origin, Wish},
};

use crate::{api::Pool, config::Config, snapshots, volumes};
use fake::Ceph;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A backend in memory, driven as the host drives it: what is pending is asked again with its `resume`.
#[derive(Clone)]
struct Backend {
    ceph: Rc<RefCell<Ceph>>,
    commands: MemoryCommands,
}

impl Backend {
    fn new() -> Self {
        let ceph = Rc::new(RefCell::new(Ceph::default()));
        Self { ceph: ceph.clone(), commands: MemoryCommands::new(ceph) }
    }

    /// Somebody else with the same cluster.
    fn beside(&self) -> Self {
        Self { ceph: self.ceph.clone(), commands: MemoryCommands::new(self.ceph.clone()) }
    }

    /// The pool, as one call of the host's sees it.
    fn pool(&self) -> Pool<MemoryCommands> {
        let configuration = pairs(&[("pool", "kato"), ("data-pools", "ec")]);
        Pool::new(self.commands.clone(), Config::granted(&configuration).unwrap())
    }

    fn create(&self, wish: &Wish) -> Result<Volume, Error> {
        match volumes::create(&self.pool(), wish)? {
            Created::Done(volume) => Ok(volume),
            Created::Pending(pending) => Err(Error::unavailable(pending.note)),
        }
    }

    fn delete(&self, which: &Which) -> Result<(), Error> {
        let mut resume = None;
        loop {
            match volumes::delete(&self.pool(), which, resume.as_deref())? {
                Deleted::Done => return Ok(()),
                Deleted::Pending(pending) => resume = Some(pending.resume),
            }
        }
    }

    fn cut(&self, wish: &snapshots_wish::Wish) -> Result<Snapshot, Error> {
        match snapshots::cut(&self.pool(), wish)? {
            CutAnswer::Done(snapshot) => Ok(snapshot),
            CutAnswer::Pending(_) => unreachable!("cutting is done at once"),
        }
    }

    fn delete_snapshot(&self, which: &Which) -> Result<(), Error> {
        let Deleting::Done = snapshots::delete(&self.pool(), which)? else {
            unreachable!("deleting is done at once")
        };
        Ok(())
    }

    fn grow(&self, token: &str, size: CapacityRange) -> Result<u64, Error> {
        match volumes::grow(&self.pool(), &which(token), &size)? {
            Grown::Done(size) => Ok(size),
            Grown::Pending(_) => unreachable!("growing is done at once"),
        }
    }

    fn inspect(&self, token: &str) -> Option<Volume> {
        volumes::inspect(&self.pool(), &[which(token)]).unwrap().remove(0)
    }

    fn snapshot(&self, which: Which) -> Option<Snapshot> {
        snapshots::inspect(&self.pool(), &[which]).unwrap().remove(0)
    }

    fn volumes(&self) -> Vec<Volume> {
        let (mut items, mut page) = (Vec::new(), None);
        loop {
            let answer = volumes::list(&self.pool(), page.as_deref()).unwrap();
            items.extend(answer.items);
            page = answer.next;
            if page.is_none() {
                return items;
            }
        }
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        let (mut items, mut page) = (Vec::new(), None);
        loop {
            let answer = snapshots::list(&self.pool(), page.as_deref()).unwrap();
            items.extend(answer.items);
            page = answer.next;
            if page.is_none() {
                return items;
            }
        }
    }

    /// The commands that this takes.
    fn taken<T>(&self, act: impl FnOnce(&Self) -> T) -> (T, Vec<String>) {
        drop(self.commands.taken());
        let answer = act(self);
        (answer, self.commands.taken())
    }

    fn names(&self) -> Vec<String> {
        let ceph = self.ceph.borrow();
        ceph.images.values().filter(|image| image.trash.is_none()).map(|image| image.name.clone()).collect()
    }

    fn trash(&self) -> Vec<String> {
        let ceph = self.ceph.borrow();
        ceph.images.values().filter(|image| image.trash.is_some()).map(|image| image.name.clone()).collect()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn which(token: &str) -> Which {
    Which { token: token.into(), handle: None }
}

fn by(token: &str, handle: &str) -> Which {
    Which { token: token.into(), handle: Some(handle.into()) }
}

fn at_least(required_bytes: u64) -> CapacityRange {
    CapacityRange { required_bytes, limit_bytes: None }
}

fn wish(token: &str) -> Wish {
    Wish {
        token: token.into(),
        mark: format!("mark of {token}"),
        name: "a volume".into(),
        size: at_least(0),
        parameters: Vec::new(),
        source: None,
        topology: Vec::new(),
    }
}

fn sized(token: &str, size: u64) -> Wish {
    Wish { size: at_least(size), ..wish(token) }
}

fn with(token: &str, parameters: &[(&str, &str)]) -> Wish {
    Wish { parameters: pairs(parameters), ..wish(token) }
}

fn from_volume(token: &str, source: &str) -> Wish {
    Wish { source: Some(Origin::Volume(which(source))), ..wish(token) }
}

fn from_snapshot(token: &str, source: Which) -> Wish {
    Wish { source: Some(Origin::Snapshot(source)), ..wish(token) }
}

fn cut_of(token: &str, volume: &str) -> snapshots_wish::Wish {
    snapshots_wish::Wish {
        token: token.into(),
        mark: format!("mark of {token}"),
        name: "a snapshot".into(),
        volume: which(volume),
        parameters: Vec::new(),
    }
}

fn kind<T: std::fmt::Debug>(answer: Result<T, Error>) -> ErrorKind {
    answer.unwrap_err().kind
}

#[test]
fn an_image_takes_two_commands() {
    let backend = Backend::new();
    let (made, taken) = backend.taken(|backend| backend.create(&sized("kato-a", 5 * MIB + 1)).unwrap());
    assert_eq!(taken, ["rbd-create", "rbd-mark"]);
    assert_eq!(
        (made.handle.as_str(), made.size_bytes, made.mark.as_str()),
        ("kato-a", 6 * MIB, "mark of kato-a")
    );
    assert_eq!(backend.create(&wish("kato-b")).unwrap().size_bytes, GIB);
    let ((), taken) = backend.taken(|backend| backend.delete(&by("kato-a", "kato-a")).unwrap());
    assert_eq!(taken, ["rbd-info", "rbd-remove"]);
    assert_eq!(backend.names(), ["kato-b"]);
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let backend = Backend::new();
    let wish = Wish {
        size: CapacityRange { required_bytes: MIB + 1, limit_bytes: Some(MIB + 2) },
        ..wish("kato-a")
    };
    assert_eq!(kind(backend.create(&wish)), ErrorKind::OutOfRange);
    assert!(backend.names().is_empty());
}

#[test]
fn the_same_wish_finds_the_same_volume_and_another_one_is_refused() {
    let backend = Backend::new();
    let wish =
        Wish { parameters: pairs(&[("trash-days", "7"), ("data-pool", "ec")]), ..sized("kato-a", 4 * MIB) };
    let made = backend.create(&wish).unwrap();
    assert_eq!(made.handle, "kato-a+7");
    assert_eq!(backend.create(&wish).unwrap(), made);
    assert_eq!(backend.ceph.borrow_mut().image("kato-a").data_pool.as_deref(), Some("ec"));
    for other in [
        Wish { size: at_least(8 * MIB), ..wish.clone() },
        Wish { parameters: pairs(&[("trash-days", "8")]), ..wish.clone() },
        Wish { parameters: pairs(&[("trash-days", "7"), ("features", "layering")]), ..wish.clone() },
        Wish { source: Some(Origin::Volume(which("kato-b"))), ..wish },
    ] {
        assert_eq!(kind(backend.create(&other)), ErrorKind::AlreadyExists, "{other:?}");
    }
    assert_eq!(kind(backend.create(&with("kato-c", &[("data-pool", "rbd")]))), ErrorKind::InvalidArgument);
}

#[test]
fn a_mark_that_is_missing_is_written_again() {
    let backend = Backend::new();
    let made = backend.create(&wish("kato-a")).unwrap();
    backend.ceph.borrow_mut().image("kato-a").meta.clear();
    assert_eq!(backend.inspect("kato-a").unwrap().mark, "");
    assert_eq!(backend.create(&wish("kato-a")).unwrap(), made);
    assert_eq!(backend.inspect("kato-a").unwrap().mark, "mark of kato-a");
    volumes::remark(&backend.pool(), &which("kato-a"), "new").unwrap();
    assert_eq!(backend.inspect("kato-a").unwrap().mark, "new");
    assert_eq!(kind(volumes::remark(&backend.pool(), &which("kato-b"), "new")), ErrorKind::NotFound);
}

#[test]
fn a_new_mark_keeps_what_the_volume_was_made_from() {
    let backend = Backend::new();
    backend.create(&wish("kato-s")).unwrap();
    let wish = from_volume("kato-a", "kato-s");
    backend.create(&wish).unwrap();
    volumes::remark(&backend.pool(), &which("kato-a"), "new").unwrap();
    assert_eq!(backend.create(&wish).unwrap().mark, "new", "whoever asks again hears what is on it");
    assert_eq!(kind(backend.create(&from_volume("kato-a", "kato-b"))), ErrorKind::AlreadyExists);
    backend.ceph.borrow_mut().image("kato-a").meta.clear();
    volumes::remark(&backend.pool(), &which("kato-a"), "newer").unwrap();
    assert_eq!(backend.create(&wish).unwrap().mark, "newer");
}

#[test]
fn a_half_made_image_is_made_anew() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.ceph.borrow_mut().image("kato-a").half = true;
    assert_eq!(backend.inspect("kato-a"), None);
    let (made, taken) = backend.taken(|backend| backend.create(&sized("kato-a", 4 * MIB)).unwrap());
    assert_eq!(made.size_bytes, 4 * MIB);
    assert_eq!(taken, ["rbd-create", "rbd-info", "rbd-remove", "rbd-create", "rbd-mark"]);
}

#[test]
fn a_key_that_is_gone_makes_nothing_absent() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    let cut = backend.cut(&cut_of("kato-m", "kato-a")).unwrap();
    backend.ceph.borrow_mut().key = false;
    let (pool, volume, snapshot) = (backend.pool(), which("kato-a"), by("kato-m", &cut.handle));
    assert_eq!(kind(volumes::inspect(&pool, std::slice::from_ref(&volume))), ErrorKind::Unavailable);
    assert_eq!(kind(backend.delete(&volume)), ErrorKind::Unavailable);
    assert_eq!(kind(backend.delete_snapshot(&snapshot)), ErrorKind::Unavailable);
    assert_eq!(kind(snapshots::inspect(&pool, &[snapshot])), ErrorKind::Unavailable);
    assert_eq!(kind(crate::check(&pool)), ErrorKind::Unavailable);
    backend.ceph.borrow_mut().key = true;
    assert!(backend.inspect("kato-a").is_some());
}

#[test]
fn a_volume_of_a_snapshot_is_a_clone_of_the_wished_size() {
    let backend = Backend::new();
    backend.create(&with("kato-s", &[("trash-days", "7")])).unwrap();
    let cut = backend.cut(&cut_of("kato-m", "kato-s")).unwrap();
    let from = by("kato-m", &cut.handle);
    let (made, taken) =
        backend.taken(|backend| backend.create(&from_snapshot("kato-a", from.clone())).unwrap());
    assert_eq!((made.handle.as_str(), made.size_bytes), ("kato-a", GIB));
    assert_eq!(taken, ["rbd-info-by-id", "rbd-info", "rbd-clone", "rbd-info", "rbd-note", "rbd-mark"]);
    let larger = Wish { size: at_least(2 * GIB), ..from_snapshot("kato-b", from.clone()) };
    assert_eq!(backend.create(&larger).unwrap().size_bytes, 2 * GIB);
    let limit = CapacityRange { required_bytes: 0, limit_bytes: Some(GIB - 1) };
    let smaller = Wish { size: limit, ..from_snapshot("kato-c", from.clone()) };
    assert_eq!(kind(backend.create(&smaller)), ErrorKind::OutOfRange);
    // The days are the clone's own, not its parent's.
    assert_eq!(backend.inspect("kato-a").unwrap().handle, "kato-a");
    for wish in [from_snapshot("kato-a", from), larger] {
        assert_eq!(backend.create(&wish).unwrap().mark, wish.mark);
    }
    assert_eq!(
        kind(backend.create(&from_snapshot("kato-d", by("kato-x", "ffff@kato-x")))),
        ErrorKind::NotFound
    );
    assert_eq!(kind(backend.create(&from_snapshot("kato-d", which("kato-x")))), ErrorKind::NotFound);
}

#[test]
fn a_volume_of_a_volume_leaves_no_snapshot_but_what_ceph_needs() {
    let backend = Backend::new();
    backend.create(&sized("kato-s", 4 * MIB)).unwrap();
    let (made, taken) = backend.taken(|backend| backend.create(&from_volume("kato-a", "kato-s")).unwrap());
    assert_eq!(made.size_bytes, 4 * MIB);
    assert_eq!(
        taken,
        [
            "rbd-info",
            "rbd-info",
            "rbd-snapshot",
            "rbd-clone",
            "rbd-info",
            "rbd-remove-snapshot",
            "rbd-note",
            "rbd-mark"
        ]
    );
    assert!(backend.ceph.borrow_mut().image("kato-s").snaps.iter().all(|snap| snap.deleted));
    assert!(backend.snapshots().is_empty());
    backend.delete(&which("kato-s")).unwrap();
    assert_eq!(backend.create(&from_volume("kato-a", "kato-s")).unwrap(), made);
    assert_eq!(kind(backend.create(&from_volume("kato-b", "kato-s"))), ErrorKind::NotFound);
    backend.delete(&which("kato-a")).unwrap();
    assert!(backend.ceph.borrow().images.is_empty());
}

#[test]
fn how_a_volume_is_held_is_not_at_all() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    assert_eq!(volumes::how(&backend.pool(), &which("kato-a")).unwrap(), Cutting::Instant);
    assert_eq!(kind(volumes::how(&backend.pool(), &which("kato-b"))), ErrorKind::NotFound);
}

#[test]
fn deep_clones_are_flattened_and_too_deep_ones_wait_for_it() {
    let backend = Backend::new();
    backend.create(&sized("kato-0", 4 * MIB)).unwrap();
    let chain = |number: usize| from_volume(&format!("kato-{number}"), &format!("kato-{}", number - 1));
    for number in 1..=7 {
        backend.create(&chain(number)).unwrap();
    }
    assert_eq!(backend.ceph.borrow().tasks, ["kato-5", "kato-6", "kato-7"]);
    assert!(backend.create(&chain(8)).unwrap_err().message.contains("waiting for flatten"));
    assert!(backend.create(&chain(8)).is_err());
    backend.ceph.borrow_mut().flatten();
    assert_eq!(backend.create(&chain(8)).unwrap().size_bytes, 4 * MIB);
    // Who cannot ask for it makes the clone all the same.
    backend.ceph.borrow_mut().broken.insert("ceph-flatten", 13);
    for number in 9..=13 {
        backend.create(&chain(number)).unwrap();
    }
}

#[test]
fn a_volume_grows_and_never_shrinks() {
    let backend = Backend::new();
    backend.create(&sized("kato-a", 4 * MIB)).unwrap();
    let (size, taken) = backend.taken(|backend| backend.grow("kato-a", at_least(5 * MIB + 1)).unwrap());
    assert_eq!((size, taken.len()), (6 * MIB, 2));
    assert_eq!(backend.grow("kato-a", at_least(MIB)).unwrap(), 6 * MIB);
    let limit = CapacityRange { required_bytes: 0, limit_bytes: Some(5 * MIB) };
    assert_eq!(kind(backend.grow("kato-a", limit)), ErrorKind::OutOfRange);
    assert_eq!(kind(backend.grow("kato-b", at_least(MIB))), ErrorKind::NotFound);
    assert_eq!(backend.inspect("kato-a").unwrap().size_bytes, 6 * MIB);
}

#[test]
fn foreign_images_are_passed_over_and_pages_have_an_end() {
    let backend = Backend::new();
    for number in 0..40 {
        backend.create(&sized(&format!("kato-{number:02}"), MIB)).unwrap();
    }
    backend.create(&sized("other-token", MIB)).unwrap();
    for name in ["a-foreign", "z.foreign"] {
        let image = fake::Image { name: name.into(), size: MIB, ..fake::Image::default() };
        backend.ceph.borrow_mut().images.insert(name.into(), image);
    }
    // A clone by hand inherits the mark and is none of ours for that.
    let meta = backend.ceph.borrow_mut().image("other-token").meta.clone();
    let image = fake::Image { name: "by-hand".into(), size: MIB, meta, ..fake::Image::default() };
    backend.ceph.borrow_mut().images.insert("by-hand".into(), image);
    let volumes = backend.volumes();
    assert_eq!(volumes.len(), 41);
    assert!(volumes.iter().any(|volume| volume.handle == "other-token"));
    let first = volumes::list(&backend.pool(), None).unwrap();
    backend.delete(&which(first.next.as_ref().unwrap())).unwrap();
    let second = volumes::list(&backend.pool(), first.next.as_deref()).unwrap();
    assert_eq!(second.items.len(), 16);
}

#[test]
fn the_room_is_what_quota_and_disks_leave() {
    let backend = Backend::new();
    let room = volumes::room(&backend.pool(), &[]).unwrap();
    assert_eq!((room.available_bytes, room.total_bytes), (1 << 40, Some((1 << 40) + 1000)));
    backend.ceph.borrow_mut().quota = 1500;
    let room = volumes::room(&backend.pool(), &pairs(&[("data-pool", "ec")])).unwrap();
    assert_eq!((room.available_bytes, room.total_bytes), (500, Some(1500)));
}

#[test]
fn a_change_that_came_too_late_in_a_full_pool_is_exhausted() {
    let backend = Backend::new();
    backend.ceph.borrow_mut().broken.insert("rbd-create", 110);
    assert_eq!(kind(backend.create(&wish("kato-a"))), ErrorKind::Unavailable);
    backend.ceph.borrow_mut().quota = 1000;
    let error = backend.create(&wish("kato-a")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("quota"), "{}", error.message);
}

#[test]
fn the_fingerprint_names_cluster_pool_and_namespace() {
    let backend = Backend::new();
    let status = crate::check(&backend.pool()).unwrap();
    assert_eq!(status.fingerprint, "fsid bcd776c0-dfea-45af-9ac8-b004cb8137a2, pool kato (2)");
    assert_eq!(status.note, "");
    let mut pool = backend.pool();
    pool.config.namespace = "n".into();
    pool.config.data_pools.push("gone".into());
    let status = crate::check(&pool).unwrap();
    assert!(status.fingerprint.ends_with("pool kato (2), namespace n") && status.note.contains("gone"));
    pool.config.pool = "other".into();
    assert!(crate::check(&pool).unwrap_err().message.contains("other"));
    backend.ceph.borrow_mut().broken.insert("rbd-list", 13);
    let error = crate::check(&backend.pool()).unwrap_err();
    assert!(error.kind == ErrorKind::PermissionDenied && error.message.contains("profile rbd"), "{error:?}");
    assert_eq!(crate::describe(&Vec::new()).unwrap().min_size_bytes, MIB);
}
