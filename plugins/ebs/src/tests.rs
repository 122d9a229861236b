//! Every operation against an EC2 in memory (`fake.rs`), driven as the host drives it: what is pending waits, is polled,
//! and is asked again with its `resume`. What holds for each of them is `cut.rs`: cut off at every request, and repeated
//! or reversed. Attachments are `attach.rs`, changes of size and type `change.rs`, snapshots `snapshots.rs`, their bytes
//! `blocks.rs` and `writing.rs`, and how few requests it takes `count.rs`.

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
mod blocks;
mod change;
mod count;
mod cut;
mod direct;
mod fake;
mod snapshots;
mod wire;
mod writing;

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use kato_plugin_sdk::{
    attachments::{Attaching, Detaching},
    fencing::Fenced,
    grow::Grown,
    modify::Modified,
    polling::{Asking, Standing, Verb},
    snapshots::{CutAnswer, Deleting, Wish as Cut},
    types::{CapacityRange, Connection, Error, ErrorKind, Node, Pair, Pending, Snapshot, Volume, Which},
    volumes::{Created, Deleted, Origin, Wish},
};

use crate::{api::Cloud, attachments, config::Config, kind::GIB, make, poll, resume::work, volumes};
use fake::Ec2;
use wire::Wire;

const MACHINE: &str = "i-0a";

/// A backend in memory.
#[derive(Clone)]
struct Backend {
    ec2: Rc<RefCell<Ec2>>,
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
    /// A region where things take four seconds and are not to be seen for three.
    fn new() -> Self {
        let ec2 = Ec2 {
            now: 1_000_000,
            unseen: 3_000,
            slow: 4_000,
            machines: [(MACHINE.to_owned(), "running"), ("i-0b".to_owned(), "running")].into(),
            ..Ec2::default()
        };
        let ec2 = Rc::new(RefCell::new(ec2));
        Self { ec2: ec2.clone(), wire: Wire::to(ec2), more: Vec::new(), kept: None }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.more.push((name.to_owned(), value.to_owned()));
        self
    }

    /// EC2, as one call of the host's sees it.
    fn cloud(&self) -> Cloud<Wire> {
        let mut configuration = pairs(&[
            ("region", "eu-test-1"),
            ("ec2-endpoint", "http://ec2.test"),
            ("ebs-endpoint", "http://ebs.test"),
            ("zone", "eu-test-1a"),
        ]);
        configuration.extend(self.more.clone());
        let now = self.ec2.borrow().now;
        Cloud::new(self.wire.clone(), Config::granted(&configuration).unwrap(), now)
    }

    fn pass(&self, ms: u64) {
        self.ec2.borrow_mut().now += ms;
    }

    /// Drives an effect to its end, or until ten minutes are over.
    fn drive<A>(
        &self,
        asking: (Verb, &str, Option<&str>),
        ask: impl Fn(&Cloud<Wire>, Option<&[u8]>) -> Result<Step<A>, Error>,
    ) -> Result<A, Error> {
        let (verb, token, node) = asking;
        let end = self.ec2.borrow().now + 600_000;
        let key = format!("{verb:?} {token}");
        let mut resume = self.kept.as_ref().and_then(|kept| kept.borrow().get(&key).cloned());
        while self.ec2.borrow().now < end {
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
                let asking = Asking {
                    verb,
                    which: which(token),
                    node: node.map(str::to_owned),
                    resume: pending.resume.clone(),
                };
                match poll::poll(&self.cloud(), &[asking])?.remove(0) {
                    Standing::Still(still) => pending = still,
                    Standing::Ready => break,
                }
            }
            resume = Some(pending.resume);
        }
        Err(Error::unavailable("it takes more than ten minutes"))
    }

    fn create(&self, wish: &Wish) -> Result<Volume, Error> {
        self.drive((Verb::Create, &wish.token, None), |cloud, resume| {
            step!(make::create(cloud, wish, work(resume)), Created)
        })
    }

    fn delete(&self, which: &Which) -> Result<(), Error> {
        match volumes::delete(&self.cloud(), which)? {
            Deleted::Done => Ok(()),
            Deleted::Pending(_) => unreachable!("nobody waits for the end of a deletion"),
        }
    }

    fn attach(&self, token: &str, node: &Node) -> Result<String, Error> {
        let attached = self.drive((Verb::Attach, token, Some(&node.name)), |cloud, resume| {
            step!(attachments::attach(cloud, &which(token), node, work(resume)), Attaching)
        })?;
        match attached.connection {
            Connection::Device(device) => {
                assert_eq!(device.identity, "ebs");
                Ok(device.value)
            }
            other => panic!("{other:?}"),
        }
    }

    fn detach(&self, token: &str, node: &Node) -> Result<(), Error> {
        self.drive((Verb::Detach, token, Some(&node.name)), |cloud, resume| {
            step!(attachments::detach(cloud, &which(token), node, work(resume)), Detaching, unit)
        })
    }

    fn fence(&self, token: &str, node: &Node) -> Result<(), Error> {
        self.drive((Verb::Fence, token, Some(&node.name)), |cloud, _| {
            step!(attachments::fence(cloud, &which(token), node), Fenced, unit)
        })
    }

    fn grow(&self, token: &str, size: CapacityRange) -> Result<u64, Error> {
        self.drive((Verb::Grow, token, None), |cloud, resume| {
            step!(crate::change::grow(cloud, &which(token), &size, work(resume)), Grown)
        })
    }

    fn modify(&self, token: &str, parameters: &[(&str, &str)]) -> Result<(), Error> {
        let parameters = pairs(parameters);
        self.drive((Verb::Modify, token, None), |cloud, resume| {
            step!(crate::change::modify(cloud, &which(token), &parameters, work(resume)), Modified, unit)
        })
    }

    fn cut(&self, wish: &Cut) -> Result<Snapshot, Error> {
        self.drive((Verb::Cut, &wish.token, None), |cloud, resume| {
            step!(crate::snapshots::cut(cloud, wish, work(resume)), CutAnswer)
        })
    }

    fn delete_snapshot(&self, which: &Which) -> Result<(), Error> {
        match crate::snapshots::delete(&self.cloud(), which)? {
            Deleting::Done => Ok(()),
            Deleting::Pending(_) => unreachable!("nobody waits for the end of a deletion"),
        }
    }

    fn inspect(&self, which: Which) -> Option<Volume> {
        volumes::inspect(&self.cloud(), &[which]).unwrap().remove(0)
    }

    fn snapshot(&self, which: Which) -> Option<Snapshot> {
        crate::snapshots::inspect(&self.cloud(), &[which]).unwrap().remove(0)
    }

    /// What was asked since this was asked last.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.ec2.borrow_mut().asked)
    }

    /// The volume of a token, as it is.
    fn id(&self, token: &str) -> String {
        let ec2 = self.ec2.borrow();
        let mut found = ec2.volumes.iter().filter(|(_, volume)| {
            volume.state != "deleted" && volume.tags.get("kato-token").is_some_and(|known| known == token)
        });
        let (id, _) = found.next().unwrap();
        assert!(found.next().is_none(), "there are two of {token}");
        id.clone()
    }

    /// All that is there, without what differs from one run to the next.
    fn state(&self) -> Vec<String> {
        let ec2 = self.ec2.borrow();
        let volumes = ec2.volumes.values().filter(|volume| volume.state != "deleted").map(|volume| {
            let attached: Vec<_> =
                volume.attachments.iter().map(|one| format!("{} {}", one.machine, one.state)).collect();
            let (state, gib, kind, iops) = (volume.state, volume.gib, &volume.kind, volume.iops);
            format!("volume {state} {gib} {kind} {iops} {:?} {attached:?}", volume.tags)
        });
        let snapshots = ec2.snapshots.values().map(|snapshot| format!("snapshot of {}", snapshot.volume));
        let mut state: Vec<_> = volumes.chain(snapshots).collect();
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
        mark: format!("mark of {token} <&>"),
        name: "data".into(),
        size: at_least(5 * GIB),
        parameters: Vec::new(),
        source: None,
        topology: Vec::new(),
    }
}

fn of(token: &str, parameters: &[(&str, &str)]) -> Wish {
    Wish { parameters: pairs(parameters), ..wish(token) }
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

fn from_snapshot(token: &str, snapshot: &str) -> Wish {
    Wish { source: Some(Origin::Snapshot(which(snapshot))), ..wish(token) }
}

fn node(name: &str) -> Node {
    Node { name: name.into(), identities: Vec::new(), used_devices: Vec::new(), bad_devices: Vec::new() }
}

fn kind<T: std::fmt::Debug>(answer: Result<T, Error>) -> ErrorKind {
    answer.unwrap_err().kind
}

#[test]
fn a_volume_is_made_with_what_was_asked_for() {
    let backend = Backend::new().with("tags", "team=blue");
    let parameters = [
        ("type", "io2"),
        ("iops", "4000"),
        ("kms-key", "alias/k"),
        ("multi-attach", "true"),
        ("tags", "a=1"),
    ];
    let volume = backend.create(&of("kato-a", &parameters)).unwrap();
    assert_eq!((volume.size_bytes, volume.token.as_deref()), (5 * GIB, Some("kato-a")));
    assert_eq!((volume.mark.as_str(), volume.connection), ("mark of kato-a <&>", None));
    assert_eq!(volume.topology, pairs(&[("zone", "eu-test-1a")]));
    let seen = backend.inspect(named("kato-a", &volume.handle)).unwrap();
    let told = [("type", "io2"), ("iops", "4000"), ("encrypted", "true"), ("multi-attach", "true")];
    assert_eq!(seen.parameters, Some(pairs(&told)));
    let ec2 = backend.ec2.borrow();
    let tags = &ec2.volumes[&volume.handle].tags;
    assert_eq!((tags["Name"].as_str(), tags["team"].as_str(), tags["a"].as_str()), ("data", "blue", "1"));
}

#[test]
fn it_is_made_in_the_zone_that_is_wished_for() {
    let backend = Backend::new();
    let places = |zones: &[&str]| zones.iter().map(|zone| pairs(&[("rack", "1"), ("zone", zone)])).collect();
    let volume =
        backend.create(&Wish { topology: places(&["eu-test-1b", "eu-test-1a"]), ..wish("kato-a") }).unwrap();
    assert_eq!(volume.topology, pairs(&[("zone", "eu-test-1b")]));
    let elsewhere = Wish { topology: places(&["eu-test-1c"]), ..wish("kato-a") };
    assert_eq!(kind(backend.create(&elsewhere)), ErrorKind::AlreadyExists);
    let mut nowhere = Backend::new().cloud();
    nowhere.config.zone.clear();
    assert_eq!(kind(make::create(&nowhere, &wish("kato-b"), None)), ErrorKind::InvalidArgument);
}

#[test]
fn a_token_with_another_wish_is_refused_and_the_same_one_is_found() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-a")).unwrap();
    assert_eq!(backend.create(&wish("kato-a")).unwrap(), volume);
    for other in [
        Wish { size: at_least(6 * GIB), ..wish("kato-a") },
        of("kato-a", &[("type", "gp2")]),
        of("kato-a", &[("iops", "5000")]),
        of("kato-a", &[("encrypted", "true")]),
    ] {
        assert_eq!(kind(backend.create(&other)), ErrorKind::AlreadyExists, "{other:?}");
    }
    assert_eq!(backend.state().len(), 1);
}

#[test]
fn sizes_are_those_of_the_type() {
    let backend = Backend::new();
    let made = |wish: &Wish| backend.create(wish).map(|volume| volume.size_bytes / GIB);
    assert_eq!(made(&Wish { size: at_least(0), ..wish("kato-a") }).unwrap(), 10);
    assert_eq!(made(&Wish { size: at_least(GIB + 1), ..wish("kato-b") }).unwrap(), 2);
    assert_eq!(made(&of("kato-c", &[("type", "st1")])).unwrap(), 125);
    let large = Wish { size: at_least(2_000 * GIB), ..of("kato-d", &[("type", "standard")]) };
    assert_eq!(kind(backend.create(&large)), ErrorKind::OutOfRange);
}

#[test]
fn a_token_of_what_is_gone_is_burnt() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-a")).unwrap();
    backend.delete(&which("kato-a")).unwrap();
    // EC2 still answers with the volume that went.
    assert_eq!(kind(backend.create(&wish("kato-a"))), ErrorKind::TokenBurnt);
    let other = Wish { size: at_least(7 * GIB), ..wish("kato-a") };
    assert_eq!(kind(backend.create(&other)), ErrorKind::TokenBurnt);
    assert_eq!(backend.inspect(named("kato-a", &volume.handle)), None);
}

#[test]
fn a_token_with_a_live_volume_is_not_burnt() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    let (asked, id) = (of("kato-a", &[("encrypted", "false")]), backend.id("kato-a"));
    // What is asked differs, so EC2 would refuse the token; the volume is what is wished for all the same.
    assert_eq!(backend.create(&asked).unwrap().handle, id);
    // Not even while it is not to be seen.
    let age = backend.ec2.borrow().now - backend.ec2.borrow().volumes[&id].made;
    backend.ec2.borrow_mut().unseen = age + 10_000;
    assert_eq!(backend.create(&asked).unwrap().handle, id);
}

#[test]
fn what_failed_under_a_token_does_not_hide_what_is_good() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-a")).unwrap();
    for (id, state) in [("vol-0000", "error"), ("vol-0001", "deleting")] {
        let mut other = backend.ec2.borrow().volumes[&volume.handle].clone();
        (other.state, other.made) = (state, 0);
        backend.ec2.borrow_mut().volumes.insert(id.into(), other);
    }
    assert_eq!(backend.create(&wish("kato-a")).unwrap(), volume);
    assert_eq!(backend.inspect(which("kato-a")).unwrap().handle, volume.handle);
}

#[test]
fn a_volume_that_is_not_to_be_seen_for_long_is_waited_for() {
    let backend = Backend::new();
    backend.ec2.borrow_mut().unseen = 45_000;
    backend.create(&wish("kato-a")).unwrap();
    assert_eq!(backend.state().len(), 1);
    backend.ec2.borrow_mut().unseen = 90_000;
    // For too long: it goes, so that it is not there one day beside the one that is made in its place.
    assert_eq!(kind(backend.create(&wish("kato-b"))), ErrorKind::TokenBurnt);
    assert_eq!(backend.state().len(), 1);
}

#[test]
fn a_volume_that_fails_as_it_is_made_leaves_nothing() {
    let backend = Backend::new();
    backend.ec2.borrow_mut().failing = true;
    assert_eq!(kind(backend.create(&wish("kato-a"))), ErrorKind::TokenBurnt);
    let error = backend.create(&of("kato-b", &[("kms-key", "alias/wrong")])).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
    assert!(error.message.contains("alias/wrong"), "{}", error.message);
    assert_eq!(backend.state(), Vec::<String>::new());
}

#[test]
fn a_quota_is_believed_only_when_nothing_is_to_be_seen() {
    let backend = Backend::new();
    backend.ec2.borrow_mut().quota = 1;
    // The first request made it, and nobody heard. The second is refused while it is not to be seen.
    backend.wire.cut(Some(kato_plugin_sdk::testing::Cut::After(2)));
    assert_eq!(kind(backend.create(&wish("kato-a"))), ErrorKind::Unavailable);
    backend.wire.cut(None);
    backend.create(&wish("kato-a")).unwrap();
    let error = backend.create(&wish("kato-b")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("quota"), "{}", error.message);
}

#[test]
fn many_volumes_are_looked_at_in_one_request_and_listed_by_pages() {
    let backend = Backend::new();
    let volumes: Vec<_> = (0..30).map(|n| backend.create(&wish(&format!("kato-{n}"))).unwrap()).collect();
    backend.asked();
    let mut asked: Vec<_> =
        volumes.iter().map(|volume| named(volume.token.as_deref().unwrap(), &volume.handle)).collect();
    asked.push(named("kato-x", "vol-deadbeef"));
    let seen = volumes::inspect(&backend.cloud(), &asked).unwrap();
    assert_eq!(backend.asked(), ["DescribeVolumes"]);
    assert!(seen[..30].iter().all(Option::is_some) && seen[30].is_none());
    backend.ec2.borrow_mut().page = 7;
    let (mut found, mut page) = (Vec::new(), None);
    loop {
        let answer = volumes::list(&backend.cloud(), page.as_deref()).unwrap();
        found.extend(answer.items.into_iter().map(|volume| volume.handle));
        page = answer.next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!((found.len(), backend.asked().len()), (30, 5));
    assert_eq!(volumes::inspect(&backend.cloud(), &asked).unwrap(), seen);
}

#[test]
fn a_handle_of_another_token_is_refused() {
    let backend = Backend::new();
    let (a, b) = (backend.create(&wish("kato-a")).unwrap(), backend.create(&wish("kato-b")).unwrap());
    for wrong in [named("kato-a", &b.handle), named("kato-a", "../x")] {
        assert_eq!(
            kind(volumes::inspect(&backend.cloud(), std::slice::from_ref(&wrong))),
            ErrorKind::Precondition
        );
        assert_eq!(kind(backend.delete(&wrong)), ErrorKind::Precondition);
        assert_eq!(kind(volumes::remark(&backend.cloud(), &wrong, "m")), ErrorKind::Precondition);
        assert_eq!(
            kind(attachments::fence(&backend.cloud(), &wrong, &node(MACHINE))),
            ErrorKind::Precondition
        );
    }
    let wrong = named("kato-a", &b.handle);
    let refused = backend.drive((Verb::Attach, "kato-a", Some(MACHINE)), |cloud, resume| {
        step!(attachments::attach(cloud, &wrong, &node(MACHINE), work(resume)), Attaching)
    });
    assert_eq!(kind(refused), ErrorKind::Precondition);
    backend.pass(10_000);
    assert_eq!(backend.inspect(named("kato-b", &b.handle)).unwrap().attached, Some(vec![]));
    assert!(backend.inspect(named("kato-a", &a.handle)).is_some());
}

#[test]
fn copies_of_its_tags_do_not_delete_a_volume() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-a")).unwrap();
    let copy = backend.ec2.borrow().volumes[&volume.handle].clone();
    backend.ec2.borrow_mut().volumes.insert("vol-00ff".into(), copy);
    assert_eq!(kind(backend.delete(&which("kato-a"))), ErrorKind::Precondition);
    backend.delete(&named("kato-a", &volume.handle)).unwrap();
    assert_eq!(backend.id("kato-a"), "vol-00ff");
}

#[test]
fn a_volume_in_use_is_not_deleted_and_one_that_is_gone_is() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.attach("kato-a", &node(MACHINE)).unwrap();
    let error = backend.delete(&which("kato-a")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InUse);
    assert!(error.message.contains(MACHINE), "{}", error.message);
    backend.delete(&which("kato-none")).unwrap();
    backend.delete(&named("kato-none", "vol-deadbeef")).unwrap();
}

#[test]
fn a_volume_that_is_not_to_be_seen_is_deleted_by_its_handle() {
    let backend = Backend::new();
    let volume = backend.create(&wish("kato-a")).unwrap();
    backend.ec2.borrow_mut().unseen = 10_000_000;
    backend.delete(&named("kato-a", &volume.handle)).unwrap();
    assert_eq!(backend.state(), Vec::<String>::new());
}

#[test]
fn marks_are_written_over_and_only_when_they_differ() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    volumes::remark(&backend.cloud(), &which("kato-a"), "new").unwrap();
    backend.asked();
    volumes::remark(&backend.cloud(), &which("kato-a"), "new").unwrap();
    assert_eq!(backend.asked(), ["DescribeVolumes"]);
    assert_eq!(backend.inspect(which("kato-a")).unwrap().mark, "new");
    assert_eq!(kind(volumes::remark(&backend.cloud(), &which("kato-b"), "new")), ErrorKind::NotFound);
}

#[test]
fn throttling_is_told_at_once_and_a_failing_server_is_asked_again_where_that_is_safe() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.asked();
    backend.ec2.borrow_mut().refusals = vec![("DescribeVolumes", 503, "RequestLimitExceeded")];
    assert_eq!(kind(volumes::inspect(&backend.cloud(), &[which("kato-a")])), ErrorKind::Throttled);
    assert_eq!(backend.asked().len(), 1);
    backend.ec2.borrow_mut().refusals = vec![("DescribeVolumes", 500, "InternalError"); 2];
    assert!(backend.inspect(which("kato-a")).is_some());
    assert_eq!(backend.asked().len(), 3);
    backend.ec2.borrow_mut().refusals = vec![("AttachVolume", 503, "Unavailable"); 2];
    assert_eq!(kind(backend.attach("kato-a", &node(MACHINE))), ErrorKind::Unavailable);
    assert_eq!(backend.asked().iter().filter(|action| *action == "AttachVolume").count(), 1);
}

#[test]
fn who_is_refused_reads_what_to_do() {
    let backend = Backend::new();
    backend.ec2.borrow_mut().refusals = vec![("CreateVolume", 403, "UnauthorizedOperation")];
    let error = backend.create(&wish("kato-a")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(
        error.message.contains("ec2:CreateVolume") && error.message.contains("policy"),
        "{}",
        error.message
    );
}

#[test]
fn health_is_told_of_those_that_are_there() {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend.create(&of("kato-b", &[("tags", "ill=1")])).unwrap();
    let told =
        volumes::health(&backend.cloud(), &[which("kato-b"), which("kato-x"), which("kato-a")]).unwrap();
    let told: Vec<_> = told.iter().map(|one| (one.reason.as_str(), one.severe)).collect();
    assert_eq!(told, [("Impaired", true), ("NotFound", true), ("", false)]);
}

#[test]
fn a_backend_is_its_account_and_region() {
    let backend = Backend::new();
    assert_eq!(crate::check(&backend.cloud()).unwrap().fingerprint, "account 123456789012, region eu-test-1");
    backend.ec2.borrow_mut().machines.clear();
    assert_eq!(kind(crate::check(&backend.cloud())), ErrorKind::Unavailable);
    backend.create(&wish("kato-v")).unwrap();
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    assert_eq!(crate::check(&backend.cloud()).unwrap().fingerprint, "account 123456789012, region eu-test-1");
    let told = crate::describe(&Vec::new()).unwrap();
    assert_eq!((told.name.as_str(), told.parameters.len(), told.clone), ("ebs", 8, false));
    assert_eq!(volumes::room(&pairs(&[("type", "gp2")])).unwrap().available_bytes, 16_384 * GIB);
}
