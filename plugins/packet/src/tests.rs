//! Every operation against an API in memory (`tests/fake.rs`), driven as the host drives it: what is pending waits, is
//! polled, and is asked again with its `resume`. What holds for each of them is `cut.rs`: cut off at every request, and
//! repeated or reversed. Clones and snapshots are `copies.rs`, attachments `attach.rs`, and what the API and those before
//! it may answer `wire.rs`.

/// The answer of an effect as a step of whoever drives it.
macro_rules! step {
    ($answer:expr, $kind:ident, unit) => {
        match $answer? {
            $kind::Done => Ok(Step::Done(())),
            $kind::Pending(pending) => Ok(Step::Pending(pending)),
        }
    };
    ($answer:expr, $kind:ident) => {
        match $answer? {
            $kind::Done(done) => Ok(Step::Done(done)),
            $kind::Pending(pending) => Ok(Step::Pending(pending)),
        }
    };
}

mod attach;
mod copies;
mod cut;
mod fake;
mod wire;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use kato_plugin_sdk::{
    attachments::{Attaching, Detaching},
    fencing::Fenced,
    grow::Grown,
    modify::Modified,
    polling::{Asking, Standing, Verb},
    snapshots::{CutAnswer, Deleting, Wish as Cut},
    types::{
        CapacityRange, Connection, Error, ErrorKind, Iscsi, Node, Pair, Pending, Snapshot, Volume, Which,
    },
    volumes::{Created, Deleted, Origin, Wish},
};
use serde_json::Value;

use crate::{
    api::Cloud,
    attachments,
    config::{Config, GIB},
    make,
    marks::Label,
    poll, snapshots, volumes,
};
use fake::{Api, BASE, Meet, PROJECT, Wire};

const NODE: &str = "e7b9f0a2-6666-4777-8888-334455667788";
const OTHER: &str = "f8c0a1b3-6666-4777-8888-334455667788";

/// A backend in memory.
#[derive(Clone)]
struct Backend {
    api: Rc<RefCell<Api>>,
    wire: Wire,
    more: Vec<Pair>,
    /// What the host keeps of work whose end it has not recorded; nothing where it records every end.
    kept: Option<Rc<RefCell<Kept>>>,
}

type Kept = BTreeMap<String, Vec<u8>>;

/// The answer of an effect.
enum Step<A> {
    Done(A),
    Pending(Pending),
}

impl Backend {
    /// A project where volumes take four seconds, and clones begin with what is written on their source.
    fn new() -> Self {
        let api = Api {
            now: 1_000_000,
            slow: 4_000,
            inherits: true,
            tells: true,
            machines: [(NODE.to_owned(), "active"), (OTHER.to_owned(), "active")].into(),
            ..Api::default()
        };
        let api = Rc::new(RefCell::new(api));
        Self { api: api.clone(), wire: Wire::to(api), more: Vec::new(), kept: None }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The API, as one call of the host's sees it.
    fn cloud(&self) -> Cloud<Wire> {
        let mut configuration = pairs(&[("base-url", BASE), ("project", PROJECT), ("facility", "tst1")]);
        configuration.extend(self.more.clone());
        let now = self.api.borrow().now;
        Cloud::new(self.wire.clone(), Config::read(&configuration).unwrap(), now)
    }

    fn pass(&self, ms: u64) {
        self.api.borrow_mut().now += ms;
    }

    /// Drives an effect to its end, or until two minutes are over.
    fn drive<A>(
        &self,
        (verb, token): (Verb, &str),
        ask: impl Fn(&Cloud<Wire>, Option<&[u8]>) -> Result<Step<A>, Error>,
    ) -> Result<A, Error> {
        let end = self.api.borrow().now + 120_000;
        let key = format!("{verb:?} {token}");
        let mut resume = self.kept.as_ref().and_then(|kept| kept.borrow().get(&key).cloned());
        while self.api.borrow().now < end {
            let mut pending = match ask(&self.cloud(), resume.as_deref())? {
                Step::Done(done) => return Ok(done),
                Step::Pending(pending) => pending,
            };
            loop {
                if let Some(kept) = &self.kept {
                    kept.borrow_mut().insert(key.clone(), pending.resume.clone());
                }
                assert!(pending.resume.len() <= 4096 && !pending.note.is_empty(), "{pending:?}");
                self.pass(pending.retry_after_ms);
                let resume = pending.resume.clone();
                let asking = Asking { verb, which: which(token), node: None, resume };
                match poll::poll(&self.cloud(), &[asking])?.remove(0) {
                    Standing::Still(still) => pending = still,
                    Standing::Ready => break,
                }
            }
            resume = Some(pending.resume);
        }
        Err(Error::unavailable("it takes more than two minutes"))
    }

    fn create(&self, wish: &Wish) -> Result<Volume, Error> {
        self.drive((Verb::Create, &wish.token), |cloud, resume| {
            step!(make::create(cloud, wish, resume), Created)
        })
    }

    fn delete(&self, which: &Which) -> Result<(), Error> {
        match volumes::delete(&self.cloud(), which)? {
            Deleted::Done => Ok(()),
            Deleted::Pending(_) => unreachable!("nobody waits for the end of a deletion"),
        }
    }

    fn attach(&self, token: &str, node: &str) -> Result<Iscsi, Error> {
        let attached = self.drive((Verb::Attach, token), |cloud, _| {
            step!(attachments::attach(cloud, &which(token), &machine(node)), Attaching)
        })?;
        match attached.connection {
            Connection::Iscsi(iscsi) => Ok(iscsi),
            other => panic!("{other:?}"),
        }
    }

    fn detach(&self, token: &str, node: &str) -> Result<(), Error> {
        self.drive((Verb::Detach, token), |cloud, _| {
            step!(attachments::detach(cloud, &which(token), &machine(node)), Detaching, unit)
        })
    }

    fn fence(&self, token: &str, node: &str) -> Result<(), Error> {
        self.drive((Verb::Fence, token), |cloud, _| {
            step!(attachments::fence(cloud, &which(token), &machine(node)), Fenced, unit)
        })
    }

    fn grow(&self, token: &str, size: CapacityRange) -> Result<u64, Error> {
        self.drive((Verb::Grow, token), |cloud, _| step!(volumes::grow(cloud, &which(token), &size), Grown))
    }

    fn modify(&self, token: &str, parameters: &[(&str, &str)]) -> Result<(), Error> {
        let parameters = pairs(parameters);
        self.drive((Verb::Modify, token), |cloud, _| {
            step!(volumes::modify(cloud, &which(token), &parameters), Modified, unit)
        })
    }

    fn cut(&self, wish: &Cut) -> Result<Snapshot, Error> {
        self.drive((Verb::Cut, &wish.token), |cloud, _| step!(snapshots::cut(cloud, wish), CutAnswer))
    }

    fn delete_snapshot(&self, which: &Which) -> Result<(), Error> {
        match snapshots::delete(&self.cloud(), which)? {
            Deleting::Done => Ok(()),
            Deleting::Pending(_) => unreachable!("nobody waits for the end of a deletion"),
        }
    }

    fn inspect(&self, which: Which) -> Option<Volume> {
        volumes::inspect(&self.cloud(), &[which]).unwrap().remove(0)
    }

    fn snapshot(&self, which: Which) -> Option<Snapshot> {
        snapshots::inspect(&self.cloud(), &[which]).unwrap().remove(0)
    }

    /// What was asked since this was asked last.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.api.borrow_mut().asked)
    }

    /// The id of the volume of a token that was made to its end.
    fn id(&self, token: &str) -> String {
        let api = self.api.borrow();
        let ours = api.disks.iter().filter(|(id, disk)| {
            Label::read(&disk.description).is_some_and(|label| label.token == token && label.id == **id)
        });
        let ours: Vec<_> = ours.map(|(id, _)| id.clone()).collect();
        assert_eq!(ours.len(), 1, "{token}");
        ours[0].clone()
    }

    /// All that is there, without what differs from one run to the next.
    fn state(&self) -> Vec<String> {
        let api = self.api.borrow();
        let mut state: Vec<_> = api
            .disks
            .iter()
            .map(|(id, disk)| {
                let label = Label::read(&disk.description);
                let label = label.map(|label| (label.token, label.mark, label.name, label.id == *id));
                let kato = &disk.customdata["kato"];
                let doing = if kato["id"] == id.as_str() { kato["doing"].clone() } else { Value::Null };
                let machines: Vec<_> = disk.attachments.iter().map(|(_, machine)| machine).collect();
                let policies: Vec<_> =
                    disk.policies.iter().map(|(_, frequency, count)| (frequency, count)).collect();
                let notes = kato["snapshots"].as_object();
                let snapshots = disk.snapshots.iter().map(|(one, _)| {
                    notes
                        .and_then(|notes| notes.get(one))
                        .map_or_else(|| "foreign".to_owned(), |note| note["token"].to_string())
                });
                let snapshots: Vec<_> = snapshots.collect();
                format!(
                    "{label:?} {} {} {doing} {machines:?} {policies:?} {snapshots:?}",
                    disk.gib, disk.plan
                )
            })
            .collect();
        state.sort();
        state
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn which(token: &str) -> Which {
    Which { token: token.into(), handle: None }
}

fn named(token: &str, handle: &str) -> Which {
    Which { token: token.into(), handle: Some(handle.into()) }
}

fn at_least(required_bytes: u64) -> CapacityRange {
    CapacityRange { required_bytes, limit_bytes: None }
}

fn wish(token: &str) -> Wish {
    Wish {
        token: token.into(),
        mark: format!("mark of {token} <&\">"),
        name: "data".into(),
        size: at_least(20 * GIB),
        parameters: Vec::new(),
        source: None,
        topology: Vec::new(),
    }
}

fn of(token: &str, parameters: &[(&str, &str)]) -> Wish {
    Wish { parameters: pairs(parameters), ..wish(token) }
}

fn copy(token: &str, source: Origin) -> Wish {
    Wish { source: Some(source), ..wish(token) }
}

fn cut_of(token: &str, volume: &str) -> Cut {
    Cut {
        token: token.into(),
        mark: format!("mark of {token}"),
        name: "nightly".into(),
        volume: which(volume),
        parameters: Vec::new(),
    }
}

fn machine(name: &str) -> Node {
    Node { name: name.into(), identities: Vec::new(), used_devices: Vec::new(), bad_devices: Vec::new() }
}

fn kind<T: std::fmt::Debug>(answer: Result<T, Error>) -> ErrorKind {
    answer.unwrap_err().kind
}

#[test]
fn a_volume_is_made_with_what_was_asked_for() {
    let backend = Backend::new();
    let parameters =
        [("plan", "storage_2"), ("billing-cycle", "monthly"), ("snapshot-policies", "1day:7, 1hour:24")];
    let volume = backend.create(&of("kato-a", &parameters)).unwrap();
    assert_eq!((volume.size_bytes, volume.token.as_deref()), (20 * GIB, Some("kato-a")));
    assert_eq!((volume.mark.as_str(), volume.attached.as_deref()), ("mark of kato-a <&\">", Some(&[][..])));
    assert_eq!(volume.topology, pairs(&[("facility", "tst1"), ("project", PROJECT)]));
    let told =
        [("plan", "storage_2"), ("billing-cycle", "monthly"), ("snapshot-policies", "1day:7,1hour:24")];
    assert_eq!(volume.parameters, Some(pairs(&told)));
    let seen = backend.inspect(named("kato-a", &volume.handle)).unwrap();
    assert_eq!(seen, volume);
    assert_eq!(backend.inspect(which("kato-a")).unwrap(), volume);
    assert_eq!(backend.create(&of("kato-a", &parameters)).unwrap(), volume);
    assert_eq!(Label::read(&backend.api.borrow().disks[&volume.handle].description).unwrap().name, "data");
}

#[test]
fn it_is_made_in_the_facility_that_is_wished_for() {
    let backend = Backend::new();
    let places = |places: &[&[(&str, &str)]]| places.iter().map(|place| pairs(place)).collect();
    let elsewhere = [("facility", "tst1"), ("project", "another")];
    let topology = places(&[&elsewhere, &[("rack", "1"), ("facility", "tst2")]]);
    let volume = backend.create(&Wish { topology, ..wish("kato-a") }).unwrap();
    assert_eq!(volume.topology[0].1, "tst2");
    let other = Wish { topology: places(&[&[("facility", "tst1")]]), ..wish("kato-a") };
    assert_eq!(kind(backend.create(&other)), ErrorKind::AlreadyExists);
    let both = Wish { topology: places(&[&[("facility", "tst1")]]), ..of("kato-b", &[("facility", "tst2")]) };
    assert_eq!(kind(backend.create(&both)), ErrorKind::InvalidArgument);
    assert_eq!(backend.create(&of("kato-b", &[("facility", "88d2e4f1")])).unwrap().topology[0].1, "tst2");
    let mut cloud = Backend::new().cloud();
    cloud.config.facility.clear();
    assert_eq!(kind(make::create(&cloud, &wish("kato-c"), None)), ErrorKind::InvalidArgument);
}

#[test]
fn a_token_with_another_wish_is_refused() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    for other in [
        Wish { size: at_least(21 * GIB), ..wish("kato-a") },
        Wish { size: CapacityRange { required_bytes: 0, limit_bytes: Some(10 * GIB) }, ..wish("kato-a") },
        of("kato-a", &[("plan", "storage_2")]),
        of("kato-a", &[("facility", "tst2")]),
    ] {
        assert_eq!(kind(backend.create(&other)), ErrorKind::AlreadyExists, "{other:?}");
    }
    assert_eq!(backend.state().len(), 1);
}

#[test]
fn sizes_are_whole_gib_within_the_limits() {
    let backend = Backend::new();
    let sized = |token: &str, bytes| Wish { size: at_least(bytes), ..wish(token) };
    for (token, asked, gib) in [("kato-a", 0, 100), ("kato-b", 1, 10), ("kato-c", 10 * GIB + 1, 11)] {
        assert_eq!(backend.create(&sized(token, asked)).unwrap().size_bytes, gib * GIB);
    }
    assert_eq!(kind(backend.create(&sized("kato-d", 10_001 * GIB))), ErrorKind::OutOfRange);
    let small = Backend::new().with("min-size", "100GiB").with("max-size", "200GiB");
    assert_eq!(small.create(&sized("kato-a", GIB)).unwrap().size_bytes, 100 * GIB);
    assert_eq!(kind(small.create(&sized("kato-b", 201 * GIB))), ErrorKind::OutOfRange);
}

#[test]
fn a_request_whose_answer_was_lost_makes_one() {
    let backend = Backend::new();
    // It comes true while somebody looks for it, and it is not asked for again.
    backend.api.borrow_mut().meetings = vec![("POST", "/storage", Meet::Late(15_000))];
    backend.create(&wish("kato-a")).unwrap();
    assert_eq!(backend.asked().iter().filter(|asked| asked.starts_with("POST")).count(), 1);
    // It never does.
    backend.api.borrow_mut().meetings = vec![("POST", "/storage", Meet::Late(u64::MAX / 2))];
    backend.create(&wish("kato-b")).unwrap();
    assert_eq!(backend.state().len(), 2);
}

#[test]
fn what_was_made_twice_is_one_volume_in_the_end() {
    let backend = Backend::new();
    // It comes true after all was forgotten and asked for again.
    backend.api.borrow_mut().meetings = vec![("POST", "/storage", Meet::Late(2_000))];
    for _ in 0..2 {
        make::create(&backend.cloud(), &wish("kato-a"), None).unwrap();
        backend.pass(1_000);
    }
    backend.pass(1_000);
    backend.inspect(which("kato-a"));
    assert_eq!(backend.state().len(), 2);
    let oldest = backend.api.borrow().disks.iter().min_by_key(|(_, disk)| disk.made).unwrap().0.clone();
    let volume = backend.create(&wish("kato-a")).unwrap();
    assert_eq!((volume.handle, backend.state().len()), (oldest, 1));
}

#[test]
fn a_second_one_that_somebody_has_is_left_alone() {
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    let description = Label::new("kato-a", "", "").spell();
    let (free, held) = {
        let mut api = backend.api.borrow_mut();
        let (free, held) = (api.foreign(&description), api.foreign(&description));
        api.disks.get_mut(&held).unwrap().attachments = vec![("at-1".into(), OTHER.into())];
        (free, held)
    };
    backend.pass(10_000);
    // Whoever clones it at the portal has what is written on it as well.
    let clone = backend.api.borrow_mut().clone_of(&id, "");
    assert_eq!(backend.create(&wish("kato-a")).unwrap().handle, id);
    let there = |id: &String| backend.api.borrow().disks.contains_key(id);
    assert!(!there(&free) && there(&held) && there(&clone));
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::InUse);
    backend.api.borrow_mut().disks.get_mut(&held).unwrap().attachments.clear();
    backend.delete(&named("kato-a", &id)).unwrap();
    assert!(!there(&id) && !there(&held) && there(&clone));
}

#[test]
fn of_two_that_were_made_to_their_end_none_goes_by_the_token() {
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    let other = backend.api.borrow_mut().foreign("");
    let label = Label { id: other.clone(), ..Label::new("kato-a", "", "") };
    backend.api.borrow_mut().disks.get_mut(&other).unwrap().description = label.spell();
    backend.pass(10_000);
    assert_eq!(backend.create(&wish("kato-a")).unwrap().handle, id);
    let error = backend.delete(&which("kato-a")).unwrap_err();
    assert!(error.kind == ErrorKind::Precondition && error.message.contains(&other), "{error:?}");
    assert_eq!(backend.state().len(), 2);
    backend.delete(&named("kato-a", &id)).unwrap();
    assert_eq!(backend.id("kato-a"), other);
}

#[test]
fn what_is_others_is_never_touched() {
    let backend = Backend::new();
    for description in ["", "orders-db", "{}", "{\"Name\":\"pvc-1\",\"Created\":1}", "[1", "{\"kato\":7}"] {
        backend.api.borrow_mut().foreign(description);
    }
    let before = format!("{:?}", backend.api.borrow().disks);
    backend.create(&wish("kato-a")).unwrap();
    backend.attach("kato-a", NODE).unwrap();
    backend.detach("kato-a", NODE).unwrap();
    assert_eq!(volumes::list(&backend.cloud(), None).unwrap().items.len(), 1);
    backend.delete(&which("kato-a")).unwrap();
    assert_eq!(format!("{:?}", backend.api.borrow().disks), before);
    let foreign = backend.api.borrow().disks.keys().next().cloned().unwrap();
    for which in [named("kato-a", &foreign), named("kato-a", "../../x")] {
        assert_eq!(kind(backend.delete(&which)), ErrorKind::Precondition);
        assert_eq!(kind(volumes::remark(&backend.cloud(), &which, "m")), ErrorKind::Precondition);
        assert_eq!(
            kind(attachments::detach(&backend.cloud(), &which, &machine(NODE))),
            ErrorKind::Precondition
        );
    }
    assert_eq!(format!("{:?}", backend.api.borrow().disks), before);
}

#[test]
fn a_volume_is_grown_and_changed_only_while_it_is_detached() {
    let backend = Backend::new();
    backend.create(&of("kato-a", &[("snapshot-policies", "1day:7,1hour:3")])).unwrap();
    backend.attach("kato-a", NODE).unwrap();
    assert_eq!(backend.grow("kato-a", at_least(20 * GIB)).unwrap(), 20 * GIB);
    assert_eq!(kind(backend.grow("kato-a", at_least(30 * GIB))), ErrorKind::InUse);
    assert_eq!(kind(backend.modify("kato-a", &[("plan", "storage_2")])), ErrorKind::InUse);
    backend.modify("kato-a", &[("snapshot-policies", "1week:2,1day:7"), ("billing-cycle", "daily")]).unwrap();
    backend.detach("kato-a", NODE).unwrap();
    assert_eq!(backend.grow("kato-a", at_least(29 * GIB + 1)).unwrap(), 30 * GIB);
    let limit = CapacityRange { required_bytes: 30 * GIB + 1, limit_bytes: Some(30 * GIB + 2) };
    assert_eq!(kind(backend.grow("kato-a", limit)), ErrorKind::OutOfRange);
    backend.modify("kato-a", &[("plan", "storage_2")]).unwrap();
    assert_eq!(kind(backend.modify("kato-a", &[("facility", "tst2")])), ErrorKind::InvalidArgument);
    let told = [("plan", "storage_2"), ("billing-cycle", "daily"), ("snapshot-policies", "1day:7,1week:2")];
    assert_eq!(backend.inspect(which("kato-a")).unwrap().parameters, Some(pairs(&told)));
    backend.modify("kato-a", &[("snapshot-policies", "")]).unwrap();
    assert!(backend.api.borrow().disks[&backend.id("kato-a")].policies.is_empty());
}

#[test]
fn a_new_mark_leaves_the_rest() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    volumes::remark(&backend.cloud(), &which("kato-a"), "new").unwrap();
    let volume = backend.inspect(which("kato-a")).unwrap();
    assert_eq!((volume.mark.as_str(), volume.token.as_deref()), ("new", Some("kato-a")));
    assert_eq!(kind(volumes::remark(&backend.cloud(), &which("kato-x"), "new")), ErrorKind::NotFound);
}

#[test]
fn what_keeps_a_volume_keeps_it_from_being_deleted() {
    let backend = Backend::new();
    let id = backend.create(&wish("kato-a")).unwrap().handle;
    backend.attach("kato-a", NODE).unwrap();
    let error = backend.delete(&which("kato-a")).unwrap_err();
    assert!(error.kind == ErrorKind::InUse && error.message.contains(NODE), "{error:?}");
    backend.detach("kato-a", NODE).unwrap();
    backend.api.borrow_mut().disks.get_mut(&id).unwrap().locked = true;
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::Precondition);
    backend.api.borrow_mut().disks.get_mut(&id).unwrap().locked = false;
    backend.cut(&cut_of("kato-s", "kato-a")).unwrap();
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::InUse);
    backend.delete_snapshot(&which("kato-s")).unwrap();
    backend.api.borrow_mut().meetings =
        vec![("DELETE", "/storage", Meet::Refused(422, "still being released"))];
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::Busy);
    backend.delete(&which("kato-a")).unwrap();
    backend.delete(&named("kato-a", &id)).unwrap();
    assert!(backend.state().is_empty());
}

#[test]
fn what_the_component_says_of_itself_follows_its_configuration() {
    let configuration =
        pairs(&[("base-url", "https://api.x/"), ("project", PROJECT), ("min-size", "100GiB")]);
    let described = crate::describe(&configuration).unwrap();
    assert_eq!((described.name.as_str(), described.min_size_bytes / GIB), ("packet", 100));
    assert_eq!(Config::read(&configuration).unwrap().base, "https://api.x");
    let wrong = [
        ("base-url", "api.x"),
        ("project", "a/b"),
        ("metadata-url", "x"),
        ("default-size", "1GiB"),
        ("x", "y"),
    ];
    let message = crate::describe(&pairs(&wrong)).unwrap_err().message;
    for (name, _) in wrong {
        assert!(message.contains(&format!("`{name}`")), "{name}: {message}");
    }
    assert!(crate::describe(&Vec::new()).unwrap_err().message.contains("`project` is missing"));
    for text in ["1day", "1day:0", "1day:257", "2day:1"] {
        assert!(crate::config::Parameters::read(&pairs(&[("snapshot-policies", text)])).is_err(), "{text}");
    }
}
