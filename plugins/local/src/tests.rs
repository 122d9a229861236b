//! Every operation against a folder in memory. What holds for each of them is `cut.rs`: it is cut off before,
//! within and after every single call that it makes of the host, and repeated or reversed. How large things are and
//! become is `sizes.rs`, and where their blocks are `extents.rs`.

mod cut;
mod extents;
mod sizes;

use std::collections::BTreeMap;

use kato_plugin_sdk::{
    files::Files,
    grow::Grown,
    modify::Modified,
    snapshots::{CutAnswer, Deleting},
    testing::MemoryFiles,
    types::{CapacityRange, Connection, Cutting, Error, ErrorKind, Pair, Snapshot, Volume, Which},
    volumes::{Created, Deleted, Origin, Wish},
};

use crate::{api::Folder, config::Config, snapshots, volumes};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A backend in memory, driven as the host drives it: what is pending is asked again with its `resume`.
struct Backend {
    folder: Folder<MemoryFiles>,
    config: Config,
}

impl Backend {
    fn new(files: MemoryFiles) -> Self {
        Self::with(files, &[])
    }

    fn with(files: MemoryFiles, configuration: &[(&str, &str)]) -> Self {
        let backend = Self { folder: Folder(files), config: Config::read(&pairs(configuration)).unwrap() };
        backend.check().unwrap();
        backend
    }

    fn files(&self) -> &MemoryFiles {
        &self.folder.0
    }

    fn check(&self) -> Result<String, Error> {
        crate::check(&self.folder, &self.config).map(|status| status.fingerprint)
    }

    fn create(&self, wish: &Wish) -> Result<Volume, Error> {
        let mut resume = None;
        loop {
            match volumes::create(&self.folder, &self.config, wish, resume.as_deref())? {
                Created::Done(volume) => return Ok(volume),
                Created::Pending(pending) => resume = Some(pending.resume),
            }
        }
    }

    fn delete(&self, token: &str) -> Result<(), Error> {
        while let Deleted::Pending(_) = volumes::delete(&self.folder, &which(token))? {}
        Ok(())
    }

    fn cut(&self, wish: &snapshots_wish::Wish) -> Result<Snapshot, Error> {
        let mut resume = None;
        loop {
            match snapshots::cut(&self.folder, &self.config, wish, resume.as_deref())? {
                CutAnswer::Done(snapshot) => return Ok(snapshot),
                CutAnswer::Pending(pending) => resume = Some(pending.resume),
            }
        }
    }

    fn delete_snapshot(&self, token: &str) -> Result<(), Error> {
        while let Deleting::Pending(_) = snapshots::delete(&self.folder, &which(token))? {}
        Ok(())
    }

    fn grow(&self, token: &str, required: u64) -> Result<u64, Error> {
        match volumes::grow(&self.folder, &self.config, &which(token), &at_least(required))? {
            Grown::Done(size) => Ok(size),
            Grown::Pending(_) => unreachable!("growing is done at once"),
        }
    }

    fn modify(&self, token: &str, parameters: &[(&str, &str)]) -> Result<(), Error> {
        match volumes::modify(&self.folder, &which(token), &pairs(parameters))? {
            Modified::Done => Ok(()),
            Modified::Pending(_) => unreachable!("modifying is done at once"),
        }
    }

    fn inspect(&self, tokens: &[&str]) -> Vec<Option<Volume>> {
        let which: Vec<_> = tokens.iter().map(|token| which(token)).collect();
        volumes::inspect(&self.folder, &which).unwrap()
    }

    fn room(&self, parameters: &[(&str, &str)]) -> u64 {
        volumes::room(&self.folder, &self.config, &pairs(parameters)).unwrap().available_bytes
    }

    fn reason(&self, token: &str) -> (String, bool) {
        let condition = volumes::health(&self.folder, &[which(token)]).unwrap().remove(0);
        (condition.reason, condition.severe)
    }
}

use kato_plugin_sdk::snapshots as snapshots_wish;

fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn which(token: &str) -> Which {
    Which { token: token.into(), handle: None }
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

fn image(token: &str, size: u64) -> Wish {
    Wish { size: at_least(size), ..wish(token) }
}

fn thin(token: &str, size: u64) -> Wish {
    Wish { parameters: pairs(&[("thin", "true")]), ..image(token, size) }
}

fn from_volume(token: &str, source: &str) -> Wish {
    Wish { source: Some(Origin::Volume(which(source))), ..wish(token) }
}

fn from_snapshot(token: &str, source: &str) -> Wish {
    Wish { source: Some(Origin::Snapshot(which(source))), ..wish(token) }
}

fn snapshot(token: &str, volume: &str) -> snapshots_wish::Wish {
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
fn without_a_size_a_volume_is_a_directory_and_with_one_an_image() {
    let backend = Backend::new(MemoryFiles::default());
    let made = backend.create(&wish("a")).unwrap();
    assert_eq!((made.handle.as_str(), made.size_bytes), ("dir/a", 0));
    assert!(matches!(&made.connection, Some(Connection::Directory(at)) if at.path == "volumes/a/tree"));
    let made = backend.create(&image("b", 5 * MIB + 1)).unwrap();
    assert_eq!((made.handle.as_str(), made.size_bytes), ("img/b", 5 * MIB + 4096));
    assert!(matches!(&made.connection, Some(Connection::File(at)) if at.path == "volumes/b/image"));
    let made = backend.create(&Wish { parameters: pairs(&[("kind", "image")]), ..wish("c") }).unwrap();
    assert_eq!(made.size_bytes, GIB);
}

#[test]
fn a_plain_directory_takes_few_calls() {
    let backend = Backend::new(MemoryFiles::default());
    let before = backend.files().calls();
    backend.create(&wish("a")).unwrap();
    let made = backend.files().calls();
    backend.delete("a").unwrap();
    assert_eq!((made - before, backend.files().calls() - made), (7, 3));
}

#[test]
fn the_same_wish_finds_the_same_volume() {
    let backend = Backend::new(MemoryFiles::default());
    for wish in [wish("a"), image("b", 5 * MIB), thin("c", 5 * MIB)] {
        let made = backend.create(&wish).unwrap();
        let paths = backend.files().paths();
        for _ in 0..10 {
            assert_eq!(backend.create(&wish).unwrap(), made);
        }
        assert_eq!(backend.files().paths(), paths);
    }
}

#[test]
fn another_wish_under_the_same_token_is_refused() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&image("a", 8 * MIB)).unwrap();
    backend.create(&image("s", 8 * MIB)).unwrap();
    for other in [
        image("a", 9 * MIB),
        thin("a", 8 * MIB),
        from_volume("a", "s"),
        wish("a"),
        Wish { parameters: pairs(&[("kind", "directory")]), ..wish("a") },
        Wish { size: CapacityRange { required_bytes: 0, limit_bytes: Some(7 * MIB) }, ..wish("a") },
    ] {
        assert_eq!(kind(backend.create(&other)), ErrorKind::AlreadyExists, "{other:?}");
    }
}

#[test]
fn nothing_that_is_not_a_token_or_a_mark_gets_near_a_file() {
    let backend = Backend::new(MemoryFiles::default());
    let paths = backend.files().paths();
    for token in ["", "..", "../a", "a/b", ".new-a", "a\0"] {
        assert_eq!(kind(backend.create(&wish(token))), ErrorKind::InvalidArgument, "{token:?}");
        assert_eq!(kind(backend.delete(token)), ErrorKind::InvalidArgument, "{token:?}");
    }
    for mark in ["a\nb", "ä", &"x".repeat(201)] {
        let wish = Wish { mark: mark.into(), ..wish("a") };
        assert_eq!(kind(backend.create(&wish)), ErrorKind::InvalidArgument, "{mark:?}");
    }
    assert_eq!(backend.files().paths(), paths);
}

#[test]
fn what_is_deleted_is_gone_and_deleted_again() {
    let backend = Backend::new(MemoryFiles::default().slices(3));
    let empty = backend.files().paths();
    for wish in [wish("a"), image("a", MIB)] {
        backend.create(&wish).unwrap();
        for _ in 0..3 {
            backend.delete("a").unwrap();
            assert_eq!(backend.inspect(&["a"]), [None]);
            assert_eq!(backend.files().paths(), empty);
        }
    }
}

#[test]
fn a_delete_hides_the_volume_from_the_first_slice_on() {
    let backend = Backend::new(MemoryFiles::default().slices(5));
    backend.create(&wish("a")).unwrap();
    assert!(matches!(volumes::delete(&backend.folder, &which("a")), Ok(Deleted::Pending(_))));
    assert_eq!(backend.inspect(&["a"]), [None]);
    assert_eq!(volumes::list(&backend.folder, None).unwrap().items, []);
}

#[test]
fn a_handle_of_another_volume_is_refused() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&image("a", MIB)).unwrap();
    for handle in ["img/b", "dir/a", "x"] {
        let which = Which { token: "a".into(), handle: Some(handle.into()) };
        assert_eq!(kind(volumes::inspect(&backend.folder, &[which])), ErrorKind::Precondition, "{handle}");
    }
    let wrong = Which { token: "a".into(), handle: Some("img/b".into()) };
    assert_eq!(kind(volumes::delete(&backend.folder, &wrong)), ErrorKind::Precondition);
    assert!(backend.inspect(&["a"])[0].is_some());
}

#[test]
fn many_are_looked_at_in_the_order_of_the_question() {
    let backend = Backend::new(MemoryFiles::default());
    for token in ["a", "b", "c"] {
        backend.create(&wish(token)).unwrap();
    }
    let seen = backend.inspect(&["c", "x", "a", "y", "c"]);
    let tokens: Vec<_> = seen.iter().map(|v| v.as_ref().and_then(|v| v.token.as_deref())).collect();
    assert_eq!(tokens, [Some("c"), None, Some("a"), None, Some("c")]);
    let many: Vec<_> = (0..101).map(|n| which(&format!("t{n}"))).collect();
    assert_eq!(kind(volumes::inspect(&backend.folder, &many)), ErrorKind::InvalidArgument);
}

#[test]
fn pages_are_complete_while_volumes_are_deleted() {
    let backend = Backend::new(MemoryFiles::default());
    let tokens: Vec<_> = (0..250).map(|n| format!("t{n:03}")).collect();
    for token in &tokens {
        backend.create(&wish(token)).unwrap();
    }
    backend.files().make_directory("volumes/.new-t000x").unwrap();
    backend.files().make_directory("volumes/lost+found").unwrap();
    let (mut seen, mut page) = (Vec::new(), None);
    loop {
        let answer = volumes::list(&backend.folder, page.as_deref()).unwrap();
        seen.extend(answer.items.into_iter().filter_map(|volume| volume.token));
        // The last one that was listed, and one that was not yet.
        if let Some(last) = seen.last().cloned().filter(|_| answer.next.is_some()) {
            backend.delete(&last).unwrap();
            backend.delete("t249").unwrap();
        }
        page = answer.next;
        if page.is_none() {
            break;
        }
    }
    assert_eq!(seen, tokens[..249]);
    assert_eq!(kind(volumes::list(&backend.folder, Some("../x"))), ErrorKind::InvalidArgument);
}

#[test]
fn a_page_of_leftovers_does_not_end_the_list() {
    let backend = Backend::new(MemoryFiles::default());
    for n in 0..150 {
        backend.files().make_directory(&format!("volumes/.gone-{n}")).unwrap();
    }
    backend.create(&wish("a")).unwrap();
    assert_eq!(volumes::list(&backend.folder, None).unwrap().items.len(), 1);
}

#[test]
fn a_mark_is_rewritten() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&wish("a")).unwrap();
    for _ in 0..2 {
        volumes::remark(&backend.folder, &which("a"), "other").unwrap();
        assert_eq!(backend.inspect(&["a"])[0].as_ref().unwrap().mark, "other");
    }
    assert_eq!(kind(volumes::remark(&backend.folder, &which("b"), "m")), ErrorKind::NotFound);
    assert_eq!(kind(volumes::remark(&backend.folder, &which("a"), "\n")), ErrorKind::InvalidArgument);
}

#[test]
fn the_moment_of_a_snapshot_is_the_first_call() {
    for reflink in [true, false] {
        let backend = Backend::new(MemoryFiles::default().reflink(reflink).slices(3));
        backend.create(&image("a", MIB)).unwrap();
        backend.files().poke("volumes/a/image", b"before");
        let first = backend.cut(&snapshot("s", "a")).unwrap();
        assert!(first.ready);
        backend.files().poke("volumes/a/image", b"after");
        assert_eq!(backend.cut(&snapshot("s", "a")).unwrap(), first);
        assert_eq!(backend.files().peek("snapshots/s/image").unwrap(), b"before");
        // It lives without its volume, and what was made from it lives without it.
        backend.delete("a").unwrap();
        assert_eq!(backend.cut(&snapshot("s", "a")).unwrap(), first);
        backend.create(&from_snapshot("b", "s")).unwrap();
        backend.delete_snapshot("s").unwrap();
        backend.delete_snapshot("s").unwrap();
        assert_eq!(backend.files().peek("volumes/b/image").unwrap(), b"before");
        assert_eq!(backend.create(&from_snapshot("b", "s")).unwrap().handle, "img/b");
        assert_eq!(kind(backend.cut(&snapshot("t", "a"))), ErrorKind::NotFound);
        assert_eq!(kind(backend.create(&from_snapshot("c", "s"))), ErrorKind::NotFound);
    }
}

#[test]
fn a_snapshot_of_another_volume_under_the_same_token_is_refused() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&wish("a")).unwrap();
    backend.create(&wish("b")).unwrap();
    backend.cut(&snapshot("s", "a")).unwrap();
    assert_eq!(kind(backend.cut(&snapshot("s", "b"))), ErrorKind::AlreadyExists);
}

#[test]
fn copies_have_the_bytes_and_honour_a_larger_size() {
    let backend = Backend::new(MemoryFiles::default().slices(2));
    backend.create(&image("a", MIB)).unwrap();
    backend.files().poke("volumes/a/image", b"bytes");
    let copy = backend.create(&Wish { size: at_least(3 * MIB), ..from_volume("b", "a") }).unwrap();
    assert_eq!(copy.size_bytes, 3 * MIB);
    assert_eq!(backend.files().peek("volumes/b/image").unwrap(), b"bytes");
    assert_eq!(backend.files().space("volumes/b/image").unwrap().length_bytes, 3 * MIB);
    let small = CapacityRange { required_bytes: 0, limit_bytes: Some(MIB / 2) };
    assert_eq!(kind(backend.create(&Wish { size: small, ..from_volume("c", "a") })), ErrorKind::OutOfRange);

    backend.create(&wish("d")).unwrap();
    backend.files().poke("volumes/d/tree/file", b"text");
    backend.create(&from_volume("e", "d")).unwrap();
    assert_eq!(backend.files().peek("volumes/e/tree/file").unwrap(), b"text");
    let other = Wish { parameters: pairs(&[("kind", "image")]), ..from_volume("f", "d") };
    assert_eq!(kind(backend.create(&other)), ErrorKind::InvalidArgument);
}

#[test]
fn how_a_volume_is_held_depends_on_what_lies_beneath() {
    let how = |files: MemoryFiles, wish: &Wish| {
        let backend = Backend::with(files, &[("copy-limit", "4MiB")]);
        backend.create(wish).unwrap();
        volumes::how(&backend.folder, &backend.config, &which(&wish.token))
    };
    assert_eq!(how(MemoryFiles::default().reflink(true), &image("a", 8 * MIB)), Ok(Cutting::Instant));
    assert_eq!(how(MemoryFiles::default(), &image("a", 4 * MIB)), Ok(Cutting::Copy));
    assert_eq!(how(MemoryFiles::default().reflink(true), &wish("a")), Ok(Cutting::Unmounted));
    let refusal = how(MemoryFiles::default(), &image("a", 8 * MIB)).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Precondition);
    assert!(refusal.message.contains("copy-limit"), "{}", refusal.message);
}

#[test]
fn what_is_too_large_to_copy_is_refused_and_leaves_nothing() {
    let backend = Backend::with(MemoryFiles::default(), &[("copy-limit", "4MiB")]);
    backend.create(&image("a", 8 * MIB)).unwrap();
    let paths = backend.files().paths();
    assert_eq!(kind(backend.cut(&snapshot("s", "a"))), ErrorKind::Precondition);
    assert_eq!(kind(backend.create(&from_volume("b", "a"))), ErrorKind::Precondition);
    assert_eq!(backend.files().paths(), paths);
}

#[test]
fn the_folder_is_the_same_for_ever() {
    let backend = Backend::new(MemoryFiles::default());
    let first = backend.check().unwrap();
    backend.create(&wish("a")).unwrap();
    assert_eq!(backend.check().unwrap(), first);
    let other = Backend::new(MemoryFiles::default());
    assert_ne!(other.check().unwrap(), first);
    backend.files().poke("kato-local", b"nonsense");
    assert_eq!(kind(backend.check()), ErrorKind::Internal);
}

#[test]
fn an_unmounted_folder_says_nothing_is_gone() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&wish("a")).unwrap();
    backend.cut(&snapshot("s", "a")).unwrap();
    let fingerprint = backend.check().unwrap();
    let mut away = BTreeMap::new();
    backend.files().unmount(&mut away);
    let folder = &backend.folder;
    assert_eq!(kind(volumes::inspect(folder, &[which("a")])), ErrorKind::Unavailable);
    assert_eq!(kind(snapshots::inspect(folder, &[which("s")])), ErrorKind::Unavailable);
    assert_eq!(kind(volumes::list(folder, None)), ErrorKind::Unavailable);
    assert_eq!(kind(snapshots::list(folder, None)), ErrorKind::Unavailable);
    assert_eq!(kind(backend.create(&wish("b"))), ErrorKind::Unavailable);
    assert_eq!(kind(backend.delete("a")), ErrorKind::Unavailable);
    assert_eq!(kind(backend.delete_snapshot("s")), ErrorKind::Unavailable);
    assert_eq!(kind(backend.grow("a", GIB)), ErrorKind::Unavailable);
    assert_eq!(kind(volumes::remark(folder, &which("a"), "m")), ErrorKind::Unavailable);
    assert_eq!(kind(volumes::health(folder, &[which("a")])), ErrorKind::Unavailable);
    assert_eq!(backend.files().paths(), Vec::<String>::new());
    // Another folder in its place is another backend.
    assert_ne!(backend.check().unwrap(), fingerprint);
    backend.files().unmount(&mut away);
    assert_eq!(backend.check().unwrap(), fingerprint);
    assert!(backend.inspect(&["a"])[0].is_some());
}

#[test]
fn a_folder_with_volumes_and_no_marker_is_not_taken_for_a_new_one() {
    let backend = Backend::new(MemoryFiles::default());
    backend.create(&wish("a")).unwrap();
    backend.files().harm("kato-local", None);
    let refusal = backend.check().unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Unavailable);
    assert!(refusal.message.contains("kato-local"), "{}", refusal.message);
    backend.files().missing(true);
    assert_eq!(kind(backend.check()), ErrorKind::Unavailable);
}

#[test]
fn a_folder_on_the_wrong_filesystem_is_refused() {
    let backend = Backend {
        folder: Folder(MemoryFiles::default()),
        config: Config::read(&pairs(&[("filesystem", "xfs")])).unwrap(),
    };
    assert_eq!(kind(backend.check()), ErrorKind::Unavailable);
    assert_eq!(backend.files().paths(), Vec::<String>::new());
}

#[test]
fn what_is_broken_is_told_and_touched_by_nobody() {
    let backend = Backend::new(MemoryFiles::default());
    for token in ["gone", "short", "text", "well"] {
        backend.create(&image(token, 8 * MIB)).unwrap();
    }
    backend.create(&wish("tree")).unwrap();
    backend.files().harm("volumes/gone/image", None);
    backend.files().harm("volumes/short/image", Some(MIB));
    backend.files().harm("volumes/text/meta", None);
    backend.files().harm("volumes/tree/tree", None);
    for (token, reason, severe) in [
        ("gone", "ImageMissing", true),
        ("short", "ImageShort", true),
        ("text", "DescriptionDamaged", false),
        ("tree", "DirectoryMissing", true),
        ("never", "VolumeMissing", true),
        ("well", "", false),
    ] {
        assert_eq!(backend.reason(token), (reason.to_owned(), severe), "{token}");
    }
    // It is still there, as large as it was, and is neither grown nor copied over with zeroes.
    for token in ["gone", "short"] {
        assert_eq!(backend.inspect(&[token])[0].as_ref().unwrap().size_bytes, 8 * MIB, "{token}");
        assert_eq!(kind(backend.grow(token, 16 * MIB)), ErrorKind::Precondition, "{token}");
        assert_eq!(kind(backend.cut(&snapshot("s", token))), ErrorKind::Precondition, "{token}");
        assert_eq!(kind(backend.create(&from_volume("c", token))), ErrorKind::Precondition, "{token}");
    }
    assert_eq!(backend.inspect(&["text"])[0].as_ref().unwrap().size_bytes, 8 * MIB);
    assert_eq!(kind(backend.create(&image("text", 8 * MIB))), ErrorKind::Precondition);
}

#[test]
fn a_copy_whose_source_vanished_leaves_nothing() {
    let backend = Backend::new(MemoryFiles::default().slices(3));
    backend.create(&wish("a")).unwrap();
    let answer = volumes::create(&backend.folder, &backend.config, &from_volume("b", "a"), None);
    let Ok(Created::Pending(pending)) = answer else { panic!("{answer:?}") };
    backend.delete("a").unwrap();
    let paths = || backend.files().paths().into_iter().filter(|path| path.contains("-b.")).count();
    assert_eq!(paths(), 1);
    let mut resume = Some(pending.resume);
    let refusal = loop {
        match volumes::create(&backend.folder, &backend.config, &from_volume("b", "a"), resume.as_deref()) {
            Ok(Created::Pending(pending)) => resume = Some(pending.resume),
            answer => break answer,
        }
    };
    assert_eq!((kind(refusal), paths()), (ErrorKind::NotFound, 0));
}

#[test]
fn a_volume_that_may_outgrow_the_folder_is_told() {
    let backend = Backend::new(MemoryFiles::default().total(GIB));
    backend.create(&thin("a", GIB)).unwrap();
    assert_eq!(backend.reason("a").0, "RoomShort");
}

#[test]
fn what_lies_in_the_way_is_never_replaced() {
    let backend = Backend::new(MemoryFiles::default());
    for wish in [wish("a"), image("a", MIB)] {
        backend.files().make_directory("volumes/a").unwrap();
        assert_eq!(kind(backend.create(&wish)), ErrorKind::Busy);
        assert_eq!(backend.files().names("volumes", None, 10).unwrap(), ["a"]);
    }
    backend.files().poke("volumes/a/strange", b"");
    assert_eq!(kind(volumes::inspect(&backend.folder, &[which("a")])), ErrorKind::Internal);
}
