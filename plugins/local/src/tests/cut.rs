//! Cut, or overtaken, at every call. Each story is told once undisturbed; then, for every call that it makes of
//! the host, it is cut off there (before the call, in its midst, or after it with the answer lost), and then
//! either repeated, which must end where the undisturbed story ended, or reversed, which must leave nothing. Or
//! the same is asked a second time at that call, or the contrary, as happens when a call that was given up is
//! still at work.

use kato_plugin_sdk::{
    testing::{Cut, MemoryFiles},
    types::{Error, Volume},
};

use super::*;

/// What is asked, and how it is undone.
struct Story {
    name: &'static str,
    before: fn(&Backend),
    tell: fn(&Backend) -> Result<(), Error>,
    undo: fn(&Backend) -> Result<(), Error>,
}

const STORIES: &[Story] = &[
    Story {
        name: "create a directory",
        before: |_| {},
        tell: |backend| backend.create(&wish("a")).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "create an image",
        before: |_| {},
        tell: |backend| backend.create(&image("a", 4 * MIB)).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "create a thin image",
        before: |_| {},
        tell: |backend| backend.create(&thin("a", 4 * MIB)).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "create an image that fills most of the folder",
        before: |_| {},
        tell: |backend| backend.create(&image("a", 20 * MIB)).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "create a limited directory",
        before: |_| {},
        tell: |backend| {
            let wish = Wish { parameters: pairs(&[("kind", "directory")]), ..image("a", 4 * MIB) };
            backend.create(&wish).map(drop)
        },
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "clone an image",
        before: |backend| source(backend, &image("s", 4 * MIB)),
        tell: |backend| backend.create(&Wish { size: at_least(6 * MIB), ..from_volume("a", "s") }).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "clone a directory",
        before: |backend| source(backend, &wish("s")),
        tell: |backend| backend.create(&from_volume("a", "s")).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "cut an image",
        before: |backend| source(backend, &image("s", 4 * MIB)),
        tell: |backend| backend.cut(&snapshot("a", "s")).map(drop),
        undo: |backend| backend.delete_snapshot("a"),
    },
    Story {
        name: "cut a directory",
        before: |backend| source(backend, &wish("s")),
        tell: |backend| backend.cut(&snapshot("a", "s")).map(drop),
        undo: |backend| backend.delete_snapshot("a"),
    },
    Story {
        name: "make a volume from a snapshot",
        before: |backend| {
            source(backend, &image("s", 4 * MIB));
            backend.cut(&snapshot("m", "s")).unwrap();
        },
        tell: |backend| backend.create(&from_snapshot("a", "m")).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "grow an image",
        before: |backend| {
            backend.create(&image("a", 4 * MIB)).unwrap();
        },
        tell: |backend| backend.grow("a", 8 * MIB).map(drop),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "give an image its blocks",
        before: |backend| {
            backend.create(&thin("a", 4 * MIB)).unwrap();
        },
        tell: |backend| backend.modify("a", &[("thin", "false")]),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "make an image thin",
        before: |backend| {
            backend.create(&image("a", 4 * MIB)).unwrap();
        },
        tell: |backend| backend.modify("a", &[("thin", "true")]),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "write a new mark",
        before: |backend| {
            backend.create(&wish("a")).unwrap();
        },
        tell: |backend| volumes::remark(&backend.folder, &which("a"), "new"),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "delete a directory",
        before: |backend| {
            backend.create(&wish("a")).unwrap();
        },
        tell: |backend| backend.delete("a"),
        undo: |backend| backend.delete("a"),
    },
    Story {
        name: "delete a snapshot",
        before: |backend| {
            source(backend, &wish("s"));
            backend.cut(&snapshot("a", "s")).unwrap();
        },
        tell: |backend| backend.delete_snapshot("a"),
        undo: |backend| backend.delete_snapshot("a"),
    },
];

fn source(backend: &Backend, wish: &Wish) {
    let made = backend.create(wish).unwrap();
    let inside = if made.handle.starts_with("img") { "volumes/s/image" } else { "volumes/s/tree/file" };
    backend.files().poke(inside, b"bytes");
}

fn backend(reflink: bool, slices: u32) -> Backend {
    Backend::new(MemoryFiles::default().reflink(reflink).quota(true).slices(slices).total(32 * MIB))
}

/// All that is there: each path, and of files the bytes and the lengths. The marker's own bytes are left out.
fn state(backend: &Backend) -> Vec<(String, Option<Vec<u8>>, Option<u64>)> {
    let files = backend.files();
    let paths = files.paths().into_iter().filter(|path| !path.starts_with("kato-local"));
    paths
        .map(|path| {
            let length = files.space(&path).ok().map(|taken| taken.length_bytes);
            (path.clone(), files.peek(&path), length)
        })
        .collect()
}

/// Everything of the token is told to be there in whole, or not at all.
fn seen_whole(backend: &Backend, story: &str) {
    let whole = |handle: &str, mark: &str| {
        assert!(mark.starts_with("mark of") || mark == "new", "{story}: {handle} is seen without its mark");
    };
    for volume in volumes::list(&backend.folder, None).unwrap().items {
        let Volume { handle, mark, token, .. } = volume;
        whole(&handle, &mark);
        assert_eq!(
            backend.reason(&token.unwrap()),
            (String::new(), false),
            "{story}: {handle} is seen broken"
        );
    }
    for snapshot in snapshots::list(&backend.folder, None).unwrap().items {
        whole(&snapshot.handle, &snapshot.mark);
    }
}

fn each_cut(check: impl Fn(&Story, bool, u32, Cut) -> bool) {
    for story in STORIES {
        for (reflink, slices) in [(false, 1), (false, 3), (true, 1)] {
            for cut in [Cut::Before, Cut::Within, Cut::After] {
                let mut call = 1;
                while check(story, reflink, slices, cut(call)) {
                    call += 1;
                }
                assert!(call > 3, "{}: no call was cut", story.name);
            }
        }
    }
}

#[test]
fn what_is_cut_off_and_repeated_ends_as_if_it_never_was() {
    each_cut(|story, reflink, slices, cut| {
        let calm = backend(reflink, slices);
        (story.before)(&calm);
        (story.tell)(&calm).unwrap();

        let backend = backend(reflink, slices);
        (story.before)(&backend);
        backend.files().cut(cut);
        let cut_off = (story.tell)(&backend).is_err();
        backend.files().mend();
        seen_whole(&backend, story.name);
        (story.tell)(&backend).unwrap_or_else(|error| panic!("{} at {cut:?}: {error:?}", story.name));
        assert_eq!(state(&backend), state(&calm), "{} at {cut:?}", story.name);
        cut_off
    });
}

#[test]
fn what_is_cut_off_and_reversed_leaves_nothing() {
    each_cut(|story, reflink, slices, cut| {
        let calm = backend(reflink, slices);
        (story.before)(&calm);
        (story.undo)(&calm).unwrap();

        let backend = backend(reflink, slices);
        (story.before)(&backend);
        backend.files().cut(cut);
        let cut_off = (story.tell)(&backend).is_err();
        backend.files().mend();
        (story.undo)(&backend).unwrap_or_else(|error| panic!("{} at {cut:?}: {error:?}", story.name));
        assert_eq!(state(&backend), state(&calm), "{} at {cut:?}", story.name);
        cut_off
    });
}

#[test]
fn a_delete_that_is_cut_off_is_finished_by_the_next() {
    each_cut(|story, reflink, slices, cut| {
        let calm = backend(reflink, slices);
        (story.before)(&calm);
        (story.undo)(&calm).unwrap();

        let backend = backend(reflink, slices);
        (story.before)(&backend);
        (story.tell)(&backend).unwrap();
        backend.files().cut(cut);
        let cut_off = (story.undo)(&backend).is_err();
        backend.files().mend();
        seen_whole(&backend, story.name);
        (story.undo)(&backend).unwrap();
        assert_eq!(state(&backend), state(&calm), "{} at {cut:?}", story.name);
        cut_off
    });
}

#[test]
fn a_first_check_that_is_cut_off_still_makes_one_marker() {
    for cut in [Cut::Before, Cut::Within, Cut::After] {
        for call in 1..12 {
            let backend = Backend {
                folder: Folder(MemoryFiles::default()),
                config: Config::read(&Vec::new()).unwrap(),
            };
            backend.files().cut(cut(call));
            let heard = backend.check().ok();
            backend.files().mend();
            let fingerprint = backend.check().unwrap();
            assert!(heard.is_none_or(|heard| heard == fingerprint));
            assert_eq!(backend.check().unwrap(), fingerprint);
            assert_eq!(
                backend.files().paths(),
                ["coming", "kato-local", "snapshots", "volumes"],
                "{:?}",
                cut(call)
            );
        }
    }
}

/// What a call that was overtaken may answer, besides what it answers otherwise.
fn overtaken(answer: &Result<(), Error>) -> bool {
    answer.as_ref().map_or_else(
        |error| matches!(error.kind, ErrorKind::Busy | ErrorKind::NotFound | ErrorKind::Unavailable),
        |()| true,
    )
}

#[test]
fn what_is_asked_twice_at_once_ends_as_if_it_was_asked_once() {
    for story in STORIES {
        for (reflink, slices) in [(false, 1), (false, 3), (true, 1)] {
            let calm = backend(reflink, slices);
            (story.before)(&calm);
            (story.tell)(&calm).unwrap();
            for call in 1.. {
                let (backend, other) = pair(reflink, slices);
                (story.before)(&backend);
                let tell = story.tell;
                backend.files().meanwhile(call, move || tell(&other).unwrap());
                let answer = (story.tell)(&backend);
                assert!(overtaken(&answer), "{} at {call}: {answer:?}", story.name);
                let ended = backend.files().undisturbed();
                seen_whole(&backend, story.name);
                (story.tell)(&backend).unwrap_or_else(|error| panic!("{} at {call}: {error:?}", story.name));
                assert_eq!(state(&backend), state(&calm), "{} at {call}", story.name);
                if ended {
                    break;
                }
            }
        }
    }
}

#[test]
fn what_is_deleted_while_it_is_made_leaves_nothing_after_one_more_delete() {
    for story in STORIES {
        for (reflink, slices) in [(false, 1), (false, 3), (true, 1)] {
            let calm = backend(reflink, slices);
            (story.before)(&calm);
            (story.undo)(&calm).unwrap();
            for call in 1.. {
                let (backend, other) = pair(reflink, slices);
                (story.before)(&backend);
                let undo = story.undo;
                backend.files().meanwhile(call, move || undo(&other).unwrap());
                let answer = (story.tell)(&backend);
                assert!(overtaken(&answer), "{} at {call}: {answer:?}", story.name);
                let ended = backend.files().undisturbed();
                seen_whole(&backend, story.name);
                (story.undo)(&backend).unwrap();
                assert_eq!(state(&backend), state(&calm), "{} at {call}", story.name);
                if ended {
                    break;
                }
            }
        }
    }
}

/// Two who work in the same folder.
fn pair(reflink: bool, slices: u32) -> (Backend, Backend) {
    let one = backend(reflink, slices);
    let other = Backend { folder: Folder(one.files().clone()), config: Config::read(&Vec::new()).unwrap() };
    (one, other)
}
