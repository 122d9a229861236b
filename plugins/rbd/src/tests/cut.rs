//! Cut, or overtaken, at every command. Each story is told once undisturbed; then it is cut off at every command that
//! it takes (before it, in its midst, or after it with the answer lost), and then repeated, which must end where the
//! undisturbed story ended, or reversed, which must leave nothing. Or somebody else asks the same at that command.

use kato_plugin_sdk::testing::Cut;

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
        name: "create an image",
        before: |_| {},
        tell: |backend| backend.create(&sized("kato-a", 4 * MIB)).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "create an image that is to be kept",
        before: |_| {},
        tell: |backend| backend.create(&with("kato-a", &[("trash-days", "7")])).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "copy a volume",
        before: |backend| drop(backend.create(&sized("kato-s", 4 * MIB)).unwrap()),
        tell: |backend| {
            backend.create(&Wish { size: at_least(6 * MIB), ..from_volume("kato-a", "kato-s") }).map(drop)
        },
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "make a volume from a snapshot",
        before: |backend| {
            backend.create(&with("kato-s", &[("trash-days", "7")])).unwrap();
            backend.cut(&cut_of("kato-m", "kato-s")).unwrap();
        },
        tell: |backend| {
            backend
                .create(&Wish { size: at_least(2 * GIB), ..from_snapshot("kato-a", which("kato-m")) })
                .map(drop)
        },
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "make a volume from a snapshot in the trash",
        before: |backend| {
            backend.create(&sized("kato-s", 4 * MIB)).unwrap();
            backend.cut(&cut_of("kato-m", "kato-s")).unwrap();
            backend.delete(&which("kato-s")).unwrap();
            // It was taken out before, so its name is what it ends with.
            backend.create(&from_snapshot("kato-b", which("kato-m"))).unwrap();
        },
        tell: |backend| backend.create(&from_snapshot("kato-a", which("kato-m"))).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "cut a volume",
        before: |backend| drop(backend.create(&sized("kato-s", 4 * MIB)).unwrap()),
        tell: |backend| backend.cut(&cut_of("kato-m", "kato-s")).map(drop),
        undo: |backend| backend.delete_snapshot(&which("kato-m")),
    },
    Story {
        name: "grow a volume",
        before: |backend| drop(backend.create(&sized("kato-a", 4 * MIB)).unwrap()),
        tell: |backend| backend.grow("kato-a", at_least(8 * MIB)).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "delete a volume with a snapshot",
        before: |backend| {
            backend.create(&sized("kato-a", 4 * MIB)).unwrap();
            backend.cut(&cut_of("kato-m", "kato-a")).unwrap();
        },
        tell: |backend| backend.delete(&which("kato-a")),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "delete the last clone of what is in the trash",
        before: |backend| {
            backend.create(&sized("kato-s", 4 * MIB)).unwrap();
            backend.create(&from_volume("kato-a", "kato-s")).unwrap();
            backend.create(&from_volume("kato-b", "kato-a")).unwrap();
            backend.delete(&which("kato-s")).unwrap();
            backend.delete(&which("kato-a")).unwrap();
        },
        tell: |backend| backend.delete(&which("kato-b")),
        undo: |backend| backend.delete(&which("kato-b")),
    },
    Story {
        name: "delete the last snapshot of what is in the trash",
        before: |backend| {
            backend.create(&sized("kato-a", 4 * MIB)).unwrap();
            backend.cut(&cut_of("kato-m", "kato-a")).unwrap();
            backend.delete(&which("kato-a")).unwrap();
        },
        tell: |backend| backend.delete_snapshot(&which("kato-m")),
        undo: |backend| backend.delete_snapshot(&which("kato-m")),
    },
];

/// Everything that is there once somebody has deleted something that was not there: that sweeps up.
fn swept(backend: &Backend) -> Vec<String> {
    backend.delete(&which("kato-nothing")).unwrap();
    backend.ceph.borrow().state()
}

/// Cuts every story at every command, then does `after`, and compares with what `calm` did undisturbed.
fn each_cut(
    calm: fn(&Story, &Backend),
    cut_off: fn(&Story, &Backend),
    after: fn(&Story, &Backend) -> Result<(), Error>,
) {
    for story in STORIES {
        let undisturbed = Backend::new();
        (story.before)(&undisturbed);
        calm(story, &undisturbed);
        let expected = swept(&undisturbed);
        for cut in [Cut::Before, Cut::Within, Cut::After] {
            for command in 1.. {
                let backend = Backend::new();
                (story.before)(&backend);
                backend.commands.cut(cut(command));
                cut_off(story, &backend);
                let ended = (backend.commands.taken().len() as u64) < command;
                backend.commands.mend();
                let at = format!("{} at {:?}", story.name, cut(command));
                after(story, &backend).unwrap_or_else(|error| panic!("{at}: {error:?}"));
                assert_eq!(swept(&backend), expected, "{at}");
                if ended {
                    assert!(command > 2, "{}: nothing was cut", story.name);
                    break;
                }
            }
        }
    }
}

#[test]
fn what_is_cut_off_and_repeated_ends_as_if_it_never_was() {
    each_cut(
        |story, backend| (story.tell)(backend).unwrap(),
        |story, backend| drop((story.tell)(backend)),
        |story, backend| (story.tell)(backend),
    );
}

#[test]
fn what_is_cut_off_and_reversed_leaves_nothing() {
    each_cut(
        |story, backend| (story.undo)(backend).unwrap(),
        |story, backend| drop((story.tell)(backend)),
        |story, backend| (story.undo)(backend),
    );
}

#[test]
fn a_reversal_that_is_cut_off_is_finished_by_the_next() {
    each_cut(
        |story, backend| {
            (story.tell)(backend).unwrap();
            (story.undo)(backend).unwrap();
        },
        |story, backend| {
            // The cut is for the reversal: the telling is done by somebody beside.
            (story.tell)(&backend.beside()).unwrap();
            drop((story.undo)(backend));
        },
        |story, backend| (story.undo)(backend),
    );
}

#[test]
fn what_two_ask_at_once_is_there_once() {
    for story in STORIES {
        let calm = Backend::new();
        (story.before)(&calm);
        (story.tell)(&calm).unwrap();
        let expected = swept(&calm);
        for command in 1.. {
            let backend = Backend::new();
            (story.before)(&backend);
            let (other, tell) = (backend.beside(), story.tell);
            backend.commands.meanwhile(command, move || tell(&other).unwrap());
            let answer = (story.tell)(&backend);
            let ended = backend.commands.undisturbed();
            let overtaken =
                |kind| matches!(kind, ErrorKind::Busy | ErrorKind::NotFound | ErrorKind::Unavailable);
            assert!(
                answer.as_ref().err().is_none_or(|error| overtaken(error.kind)),
                "{} {answer:?}",
                story.name
            );
            (story.tell)(&backend).unwrap_or_else(|error| panic!("{} at {command}: {error:?}", story.name));
            assert_eq!(swept(&backend), expected, "{} at {command}", story.name);
            if ended {
                break;
            }
        }
    }
}
