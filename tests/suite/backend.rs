//! The backend suite: what the hall relies on, asked of every backend in the same words. A new backend adds a
//! way to be made to `backend/ground.rs` and a line at the end; one that is nobody's of ours is asked by
//! `cargo xtask conform`. What holds for the `local` plugin beyond that
//! is `backend/local.rs`; that every call of it can be cut off is proved beside the plugin, where its host can
//! be made to fail.

pub(crate) mod ground;
mod local;
mod stalls;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kato_orchestrator::{
    Error, Kind,
    model::{Bytes, CapacityRange, ClusterId, Handle, Token},
    ports::backend::{Asking, Create, Cut, Effect, Made, Origin, Pending, Shot, Standing, Verb, Which},
};

use self::ground::Subject;

/// The token of a thing of this name.
fn token(name: &str) -> Token {
    Token::derive(ClusterId(1), "suite", name, 0)
}

fn which(name: &str) -> Which {
    Which { token: token(name), handle: None }
}

fn known(made: &Made) -> Which {
    Which { token: made.token.clone().unwrap(), handle: Some(made.handle.clone()) }
}

/// How long is waited at most for what is under way.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits, though never as long as people do.
async fn pause(pending: &Pending) {
    tokio::time::sleep(pending.retry_after.min(PAUSE)).await;
}

impl Subject {
    /// A wish for a volume of the subject's kind.
    fn wish(&self, name: &str) -> Create {
        Create {
            token: token(name),
            mark: format!("kato1 mark of {name}"),
            name: name.to_owned(),
            size: CapacityRange::at_least(self.size),
            parameters: self.parameters.clone(),
            source: None,
            topology: Vec::new(),
            resume: None,
        }
    }

    /// A wish for a copy.
    fn copy(&self, name: &str, source: Origin) -> Create {
        Create { source: Some(source), ..self.wish(name) }
    }

    /// Asks until it is done, as the hall does.
    async fn create(&self, mut wish: Create) -> Result<Made, Error> {
        loop {
            match self.backend.create(wish.clone()).await? {
                Effect::Done(made) => return Ok(Made { parameters: None, ..made }),
                Effect::Pending(pending) => {
                    pause(&pending).await;
                    wish.resume = Some(self.wait(Verb::Create, &wish.token, pending.resume).await);
                }
            }
        }
    }

    /// Waits for the moment at which an effect is to be asked again, and answers with what.
    async fn wait(&self, verb: Verb, token: &Token, mut resume: Vec<u8>) -> Vec<u8> {
        let Some(polling) = self.backend.polling() else { return resume };
        loop {
            let which = Which { token: token.clone(), handle: None };
            let asking = Asking { verb, which, node: None, resume: resume.clone() };
            match polling.poll(vec![asking]).await.unwrap().pop().unwrap() {
                Standing::Ready => return resume,
                Standing::Still(pending) => {
                    pause(&pending).await;
                    resume = pending.resume;
                }
            }
        }
    }

    async fn make(&self, name: &str) -> Made {
        self.create(self.wish(name)).await.unwrap()
    }

    async fn delete(&self, which: Which) -> Result<(), Error> {
        let mut resume = None;
        loop {
            match self.backend.delete(which.clone(), resume).await? {
                Effect::Done(()) => return Ok(()),
                Effect::Pending(pending) => {
                    pause(&pending).await;
                    resume = Some(pending.resume);
                }
            }
        }
    }

    /// Cuts, and waits until something can be made from it.
    async fn cut(&self, name: &str, volume: Which) -> Result<Shot, Error> {
        let mut wish = Cut {
            token: token(name),
            mark: format!("kato1 mark of {name}"),
            name: name.to_owned(),
            volume,
            parameters: BTreeMap::new(),
            resume: None,
        };
        loop {
            match self.backend.snapshots().unwrap().cut(wish.clone()).await? {
                Effect::Done(shot) if shot.ready => return Ok(shot),
                // Its moment is fixed, and whoever asks again hears of the same one.
                Effect::Done(_) => tokio::time::sleep(PAUSE).await,
                Effect::Pending(pending) => {
                    pause(&pending).await;
                    wish.resume = Some(pending.resume);
                }
            }
        }
    }

    async fn delete_snapshot(&self, name: &str) -> Result<(), Error> {
        let mut resume = None;
        loop {
            match self.backend.snapshots().unwrap().delete_snapshot(which(name), resume).await? {
                Effect::Done(()) => return Ok(()),
                Effect::Pending(pending) => {
                    pause(&pending).await;
                    resume = Some(pending.resume);
                }
            }
        }
    }

    async fn grow(&self, name: &str, size: CapacityRange) -> Result<Bytes, Error> {
        let mut resume = None;
        loop {
            match self.backend.grow().unwrap().grow(which(name), size, resume).await? {
                Effect::Done(size) => return Ok(size),
                Effect::Pending(pending) => {
                    pause(&pending).await;
                    resume = Some(pending.resume);
                }
            }
        }
    }

    async fn look(&self, name: &str) -> Option<Made> {
        self.inspect(vec![which(name)]).await.pop().unwrap()
    }

    /// What is to be seen of these, as whoever made them was told it: what is in force besides is told to who looks.
    async fn inspect(&self, which: Vec<Which>) -> Vec<Option<Made>> {
        let found = self.backend.inspect(which).await.unwrap();
        found.into_iter().map(|made| made.map(|made| Made { parameters: None, ..made })).collect()
    }

    /// The tokens of all volumes, page by page.
    async fn listed(&self) -> Vec<Token> {
        let (mut tokens, mut page) = (Vec::new(), None);
        loop {
            let answer = self.backend.list(page).await.unwrap();
            tokens.extend(answer.items.into_iter().map(|made| made.token.unwrap()));
            page = answer.next;
            if page.is_none() {
                return tokens;
            }
        }
    }
}

async fn the_same_wish_finds_the_same_volume(subject: Subject) {
    let made = subject.make("a").await;
    assert!(made.size >= subject.size);
    assert_eq!((made.mark.as_str(), made.token.clone()), ("kato1 mark of a", Some(token("a"))));
    subject.write(&made, b"bytes");
    for _ in 0..10 {
        assert_eq!(subject.make("a").await, made);
    }
    assert_eq!(subject.read(&made), b"bytes");
    assert_eq!(subject.listed().await, [token("a")]);
}

async fn another_wish_under_the_same_token_is_refused(subject: Subject) {
    let made = subject.make("a").await;
    let larger = CapacityRange::at_least(Bytes(made.size.0 + Bytes::GIB.0));
    let refusal = subject.create(Create { size: larger, ..subject.wish("a") }).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::AlreadyExists, "{refusal}");
    assert_eq!(subject.look("a").await, Some(made));
}

async fn ten_at_once_make_one_volume(subject: Subject) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (backend, wish) = (subject.backend.clone(), subject.wish("a"));
        tasks.spawn(async move { backend.create(wish).await });
    }
    // Some may be told to come again; none may be told of another volume.
    for answer in tasks.join_all().await {
        match answer {
            Ok(Effect::Done(made)) => assert_eq!(made.token, Some(token("a"))),
            Ok(Effect::Pending(_)) => {}
            Err(error) => {
                assert!(matches!(error.kind, Kind::Busy | Kind::Unavailable), "{error}");
                assert!(!error.is_final(), "{error}");
            }
        }
    }
    let made = subject.make("a").await;
    subject.write(&made, b"bytes");
    assert_eq!(subject.listed().await, [token("a")]);
    subject.delete(known(&made)).await.unwrap();
    assert!(subject.is_empty(), "{:?}", subject.left());
}

async fn what_is_deleted_is_gone_and_deleted_again(subject: Subject) {
    let made = subject.make("a").await;
    subject.write(&made, b"bytes");
    for which in [known(&made), which("a"), known(&made)] {
        subject.delete(which).await.unwrap();
        assert_eq!(subject.look("a").await, None);
    }
    assert_eq!(subject.listed().await, []);
    assert!(subject.is_empty(), "{:?}", subject.left());
    // The name is free again, and nothing of the old volume is in the new one.
    let again = subject.make(subject.free_again("a")).await;
    assert_eq!(subject.read(&again), b"");
}

async fn what_was_never_made_is_deleted(subject: Subject) {
    subject.delete(which("never")).await.unwrap();
    if subject.backend.snapshots().is_some() {
        subject.delete_snapshot("never").await.unwrap();
    }
}

async fn many_are_looked_at_in_the_order_of_the_question(subject: Subject) {
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        made.push(subject.make(name).await);
    }
    let question = ["c", "x", "a", "a", "y", "b"].map(which).to_vec();
    let [a, b, c] = made.try_into().unwrap();
    let answer = subject.inspect(question).await;
    assert_eq!(answer, [Some(c), None, Some(a.clone()), Some(a), None, Some(b)]);
    assert_eq!(subject.backend.inspect(Vec::new()).await.unwrap(), []);
}

async fn pages_are_complete_while_volumes_are_deleted(subject: Subject) {
    let mut all = BTreeSet::new();
    for n in 0..subject.many() {
        let wish = subject.wish(&format!("v{n}"));
        all.insert(subject.create(wish).await.unwrap().token.unwrap());
    }
    let unmoved: BTreeSet<_> = subject.listed().await.into_iter().collect();
    assert_eq!(unmoved, all);
    let (mut seen, mut page) = (Vec::new(), None);
    loop {
        let answer = subject.backend.list(page).await.unwrap();
        seen.extend(answer.items.into_iter().map(|made| made.token.unwrap()));
        page = answer.next;
        if page.is_none() {
            break;
        }
        let last = seen.last().unwrap().clone();
        subject.delete(Which { token: last, handle: None }).await.unwrap();
    }
    let distinct: BTreeSet<_> = seen.iter().cloned().collect();
    assert_eq!((seen.len(), distinct), (all.len(), all), "each once, also the ones that were deleted after");
}

async fn a_new_mark_is_seen_by_everybody(subject: Subject) {
    subject.make("a").await;
    for mark in ["kato1 new", "kato1 new", "kato1 newer"] {
        subject.backend.remark(which("a"), mark.into()).await.unwrap();
        assert_eq!(subject.look("a").await.unwrap().mark, mark);
        assert_eq!(subject.backend.list(None).await.unwrap().items[0].mark, mark);
    }
    let again = subject.create(subject.wish("a")).await.unwrap();
    assert_eq!(again.mark, "kato1 newer", "whoever asks again hears what is on it");
    let refusal = subject.backend.remark(which("never"), "kato1".into()).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::NotFound, "{refusal}");
}

async fn growing_never_shrinks(subject: Subject) {
    let made = subject.make("a").await;
    if made.size == Bytes(0) {
        let refusal = subject.grow("a", CapacityRange::at_least(Bytes::GIB)).await.unwrap_err();
        assert_eq!(refusal.kind, Kind::Precondition, "{refusal}");
        return;
    }
    subject.write(&made, b"bytes");
    let double = Bytes(made.size.0 * 2);
    let grown = subject.grow("a", CapacityRange::at_least(double)).await.unwrap();
    assert!(grown >= double);
    for smaller in [double, made.size, Bytes(0)] {
        assert_eq!(subject.grow("a", CapacityRange::at_least(smaller)).await.unwrap(), grown);
    }
    let now = subject.look("a").await.unwrap();
    assert_eq!((now.size, now.handle.clone()), (grown, made.handle));
    assert_eq!(subject.read(&now), b"bytes");
    let refusal = subject.grow("never", CapacityRange::at_least(double)).await.unwrap_err();
    assert_eq!(refusal.kind, Kind::NotFound, "{refusal}");
}

async fn the_moment_of_a_snapshot_is_the_first_call(subject: Subject) {
    let made = subject.make("a").await;
    subject.write(&made, b"before");
    let shot = subject.cut("s", known(&made)).await.unwrap();
    assert_eq!((shot.ready, shot.mark.as_str()), (true, "kato1 mark of s"));
    subject.write(&made, b"after");
    for _ in 0..10 {
        assert_eq!(subject.cut("s", known(&made)).await.unwrap(), shot);
    }
    let answer = subject.backend.snapshots().unwrap().inspect_snapshots(vec![which("t"), which("s")]).await;
    assert_eq!(answer.unwrap(), [None, Some(shot.clone())]);
    let page = subject.backend.snapshots().unwrap().list_snapshots(None).await.unwrap();
    assert_eq!((page.items, page.next), (vec![shot.clone()], None));
    assert_eq!(subject.listed().await, [token("a")], "a snapshot is no volume");

    let origin = Origin::Snapshot(Which { token: token("s"), handle: Some(shot.handle) });
    let copy = subject.create(subject.copy("b", origin)).await.unwrap();
    assert_eq!((subject.read(&copy), subject.read(&made)), (b"before".to_vec(), b"after".to_vec()));
}

async fn a_snapshot_needs_a_volume_and_a_copy_a_source(subject: Subject) {
    let of_volume = subject.create(subject.copy("b", Origin::Volume(which("never")))).await.unwrap_err();
    let clones = subject.backend.describe().abilities.clone;
    assert_eq!(of_volume.kind, if clones { Kind::NotFound } else { Kind::Unsupported }, "{of_volume}");
    for refusal in [
        subject.cut("s", which("never")).await.map(drop),
        subject.create(subject.copy("b", Origin::Snapshot(which("never")))).await.map(drop),
    ] {
        let refusal = refusal.unwrap_err();
        assert!(matches!(refusal.kind, Kind::NotFound), "{refusal}");
    }
    assert_eq!(subject.look("b").await, None);
    assert!(subject.is_empty(), "{:?}", subject.left());
}

async fn volumes_and_snapshots_live_and_go_by_themselves(subject: Subject) {
    let made = subject.make("a").await;
    subject.write(&made, b"bytes");
    subject.cut("s", known(&made)).await.unwrap();
    if !subject.backend.describe().abilities.snapshot_needs_volume {
        subject.delete(known(&made)).await.unwrap();
    }
    let copy = subject.create(subject.copy("b", Origin::Snapshot(which("s")))).await.unwrap();
    if !subject.backend.describe().abilities.clone_needs_source {
        for _ in 0..2 {
            subject.delete_snapshot("s").await.unwrap();
        }
    }
    assert_eq!(subject.read(&copy), b"bytes");
    // Its source is gone, and the same wish still finds it.
    assert_eq!(subject.create(subject.copy("b", Origin::Snapshot(which("s")))).await.unwrap(), copy);
    for name in ["b", "a"] {
        subject.delete(which(name)).await.unwrap();
    }
    subject.delete_snapshot("s").await.unwrap();
    assert!(subject.is_empty(), "{:?}", subject.left());
}

async fn a_clone_has_the_bytes_and_goes_its_own_way(subject: Subject) {
    if !subject.backend.describe().abilities.clone {
        return;
    }
    let made = subject.make("a").await;
    subject.write(&made, b"bytes");
    subject.backend.clone_how(known(&made)).await.unwrap();
    let wish = subject.copy("b", Origin::Volume(known(&made)));
    let copy = subject.create(wish.clone()).await.unwrap();
    for _ in 0..10 {
        assert_eq!(subject.create(wish.clone()).await.unwrap(), copy);
    }
    assert_ne!(copy.handle, made.handle);
    assert_eq!(subject.read(&copy), b"bytes");
    subject.write(&copy, b"of the clone");
    assert_eq!(subject.read(&made), b"bytes");
    subject.write(&made, b"of the source");
    assert_eq!(subject.read(&copy), b"of the clone");
}

async fn a_copy_may_be_larger_than_its_source(subject: Subject) {
    let made = subject.make("a").await;
    if made.size == Bytes(0) {
        return;
    }
    subject.write(&made, b"bytes");
    subject.cut("s", known(&made)).await.unwrap();
    let size = CapacityRange::at_least(Bytes(made.size.0 * 3));
    let clone = subject.backend.describe().abilities.clone.then(|| ("b", Origin::Volume(which("a"))));
    for (name, origin) in clone.into_iter().chain([("c", Origin::Snapshot(which("s")))]) {
        let copy = subject.create(Create { size, ..subject.copy(name, origin) }).await.unwrap();
        assert!(copy.size >= size.required, "{name} is {}", copy.size);
        assert_eq!(subject.read(&copy), b"bytes");
    }
}

async fn polls_answer_every_question_and_change_nothing(subject: Subject) {
    let Some(polling) = subject.backend.polling() else { return };
    subject.hold_up(Verb::Create, 3);
    let Effect::Pending(pending) = subject.backend.create(subject.wish("a")).await.unwrap() else {
        panic!("it was to take a while");
    };
    // What is under way may be to be seen already, where it lies with its mark.
    let seen = subject.look("a").await;
    let about = |name: &str, verb, resume: &[u8]| Asking {
        verb,
        which: which(name),
        node: None,
        resume: resume.to_vec(),
    };
    // What is under way, what was never asked for, and what was answered by nobody.
    let askings = vec![
        about("a", Verb::Create, &pending.resume),
        about("never", Verb::Delete, &[]),
        about("a", Verb::Create, b"not of this backend"),
    ];
    // When it is best to come again may be another moment each time.
    let poll = async || {
        let mut standings = polling.poll(askings.clone()).await.unwrap();
        for standing in &mut standings {
            if let Standing::Still(pending) = standing {
                pending.retry_after = Duration::ZERO;
            }
        }
        standings
    };
    let first = poll().await;
    assert_eq!(first.len(), 3);
    assert!(matches!(first[0], Standing::Still(_)));
    assert_eq!(first[1], Standing::Ready, "nothing is known of it: the effect tells");
    for _ in 0..10 {
        assert_eq!(poll().await, first);
    }
    assert_eq!(polling.poll(Vec::new()).await.unwrap(), []);
    assert_eq!(subject.look("a").await, seen);
    let made = subject.create(Create { resume: Some(pending.resume), ..subject.wish("a") }).await.unwrap();
    assert_eq!(subject.look("a").await, Some(made));
}

async fn the_blocks_of_snapshots_are_told_and_those_that_changed_among_them(subject: Subject) {
    let Some(extents) = subject.backend.extents() else { return };
    let made = subject.make("a").await;
    subject.write(&made, b"before");
    let one = subject.cut("s", known(&made)).await.unwrap();
    subject.write(&made, b"AFTER IT");
    let two = subject.cut("t", known(&made)).await.unwrap();
    let (base, shot) = (which("s"), Which { token: token("t"), handle: Some(two.handle) });
    let first = extents.allocated(base.clone(), one.size, Bytes(0)).await;
    if matches!(&first, Err(refusal) if refusal.kind == Kind::Unsupported && refusal.is_final()) {
        assert_eq!(subject.size, Bytes(0), "only what has no size has no blocks");
        return;
    }
    for changed in [false, true] {
        let (mut told, mut from) = (0, Some(Bytes(0)));
        while let Some(at) = from {
            let page = match changed {
                true => extents.changed(base.clone(), shot.clone(), two.size, at).await.unwrap(),
                false => extents.allocated(shot.clone(), two.size, at).await.unwrap(),
            };
            for extent in page.extents {
                if extent.offset.0 <= told {
                    told = told.max(extent.offset.0 + extent.length.0);
                }
            }
            from = page.next;
        }
        assert!(told >= 5, "changed: {changed}; of what was written only {told} bytes are told");
    }
    let same = extents.changed(shot.clone(), shot.clone(), two.size, Bytes(0)).await.unwrap();
    assert_eq!((same.extents.len(), same.next), (0, None));
    assert_eq!(extents.allocated(shot.clone(), two.size, two.size).await.unwrap().extents, []);
    let never = extents.changed(which("never"), shot, two.size, Bytes(0)).await.unwrap_err();
    assert_eq!(never.kind, Kind::NotFound, "{never}");
}

async fn a_backend_is_the_same_each_time_it_is_asked(subject: Subject) {
    let first = subject.backend.check().await.unwrap().fingerprint;
    subject.make("a").await;
    for _ in 0..10 {
        assert_eq!(subject.backend.check().await.unwrap().fingerprint, first);
    }
}

async fn what_it_says_of_itself_is_what_it_can_do(subject: Subject) {
    let said = subject.backend.describe();
    assert!(!said.plugin.is_empty() && said.size_step >= Bytes(1));
    assert!(said.max_size.is_none_or(|max| max >= said.min_size));
    assert_eq!(said.abilities.grow.is_some(), subject.backend.grow().is_some());
    assert_eq!(said.abilities.attachments, subject.backend.attachments().is_some());
    assert_eq!(said.abilities.snapshots, subject.backend.snapshots().is_some());
    assert_eq!(said.abilities.extents, subject.backend.extents().is_some());
    assert_eq!(said.abilities.polling, subject.backend.polling().is_some());
    let made = subject.make("a").await;
    assert_eq!(made.connection.is_some(), !said.abilities.attachments);
    assert!(made.size.0.is_multiple_of(said.size_step.0));
    assert!(Handle::parse(made.handle.as_str()).is_ok());
}

macro_rules! asked_of_every_backend {
    ($($fact:ident),* $(,)?) => {
        asked_of_every_backend! { @ fake: Subject::fake(); $($fact),* }
        asked_of_every_backend! { @ fake_polled: Subject::fake_polled(); $($fact),* }
        asked_of_every_backend! { @ theirs: Subject::theirs().await; $($fact),* }
        asked_of_every_backend! { @ local_directories: Subject::directories().await; $($fact),* }
        asked_of_every_backend! { @ local_images: Subject::images().await; $($fact),* }
        asked_of_every_backend! { @ local_thin_images: Subject::thin_images().await; $($fact),* }
        asked_of_every_backend! { @ local_images_on_xfs: Subject::images_on_xfs().await; $($fact),* }
        asked_of_every_backend! { @ local_images_on_btrfs: Subject::images_on_btrfs().await; $($fact),* }
        asked_of_every_backend! { @ local_directories_on_btrfs: Subject::directories_on_btrfs().await; $($fact),* }

        /// All facts, one after the other, for a backend whose world takes long to make.
        pub(crate) async fn every_fact(make: impl AsyncFn(&str) -> Subject) {
            $(println!("{}", stringify!($fact));
            $fact(make(stringify!($fact)).await).await;)*
        }
    };
    (@ $name:ident: $subject:expr; $($fact:ident),*) => {
        mod $name {
            use super::Subject;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $fact() { super::$fact($subject).await; })*
        }
    };
}

asked_of_every_backend! {
    the_same_wish_finds_the_same_volume,
    another_wish_under_the_same_token_is_refused,
    ten_at_once_make_one_volume,
    what_is_deleted_is_gone_and_deleted_again,
    what_was_never_made_is_deleted,
    many_are_looked_at_in_the_order_of_the_question,
    pages_are_complete_while_volumes_are_deleted,
    a_new_mark_is_seen_by_everybody,
    growing_never_shrinks,
    the_moment_of_a_snapshot_is_the_first_call,
    a_snapshot_needs_a_volume_and_a_copy_a_source,
    volumes_and_snapshots_live_and_go_by_themselves,
    a_clone_has_the_bytes_and_goes_its_own_way,
    a_copy_may_be_larger_than_its_source,
    polls_answer_every_question_and_change_nothing,
    the_blocks_of_snapshots_are_told_and_those_that_changed_among_them,
    a_backend_is_the_same_each_time_it_is_asked,
    what_it_says_of_itself_is_what_it_can_do,
}
