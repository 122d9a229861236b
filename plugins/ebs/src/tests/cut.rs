//! Cut off at every request. Each story is told once undisturbed; then it is cut off at every request that it takes,
//! before it or after it with the answer lost, and then repeated, which must end where the undisturbed story ended, or
//! reversed, which must leave nothing.

use kato_plugin_sdk::testing::Cut as CutOff;

use super::*;

/// What is asked, and how it is undone.
struct Story {
    name: &'static str,
    before: fn(&Backend),
    tell: fn(&Backend) -> Result<(), Error>,
    undo: fn(&Backend) -> Result<(), Error>,
}

fn with_volume(backend: &Backend) {
    backend.create(&wish("kato-a")).unwrap();
}

fn attached(backend: &Backend) {
    with_volume(backend);
    backend.attach("kato-a", &node(MACHINE)).unwrap();
}

fn with_snapshot(backend: &Backend) {
    backend.create(&wish("kato-v")).unwrap();
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
    backend.pass(10_000);
}

const STORIES: &[Story] = &[
    Story {
        name: "create",
        before: |_| {},
        tell: |backend| backend.create(&wish("kato-a")).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "create from a snapshot",
        before: with_snapshot,
        tell: |backend| {
            let fast = pairs(&[("fast-restore", "true")]);
            backend.create(&Wish { parameters: fast, ..from_snapshot("kato-a", "kato-s") }).map(drop)
        },
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "attach",
        before: with_volume,
        tell: |backend| backend.attach("kato-a", &node(MACHINE)).map(drop),
        undo: |backend| backend.detach("kato-a", &node(MACHINE)),
    },
    Story {
        name: "detach",
        before: attached,
        tell: |backend| backend.detach("kato-a", &node(MACHINE)),
        undo: |backend| backend.detach("kato-a", &node(MACHINE)),
    },
    Story {
        name: "grow",
        before: with_volume,
        tell: |backend| backend.grow("kato-a", at_least(8 * GIB)).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "modify",
        before: with_volume,
        tell: |backend| backend.modify("kato-a", &[("type", "io1"), ("iops", "200")]),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "cut",
        before: with_volume,
        tell: |backend| backend.cut(&cut_of("kato-s", "kato-a")).map(drop),
        undo: |backend| backend.delete_snapshot(&which("kato-s")),
    },
    Story {
        name: "remark",
        before: with_volume,
        tell: |backend| volumes::remark(&backend.cloud(), &which("kato-a"), "new"),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "delete",
        before: with_volume,
        tell: |backend| backend.delete(&named("kato-a", &backend.id("kato-a"))).map(drop),
        undo: |backend| backend.delete(&which("kato-a")),
    },
    Story {
        name: "delete a snapshot",
        before: with_snapshot,
        tell: |backend| backend.delete_snapshot(&which("kato-s")),
        undo: |backend| backend.delete_snapshot(&which("kato-s")),
    },
];

/// What is there when nothing goes on any more.
fn settled(backend: &Backend) -> Vec<String> {
    backend.pass(60_000);
    backend.inspect(which("kato-none"));
    backend.state()
}

fn each_cut(
    keeping: bool,
    calm: fn(&Story, &Backend),
    cut_off: fn(&Story, &Backend),
    after: fn(&Story, &Backend) -> Result<(), Error>,
) {
    for story in STORIES {
        let undisturbed = Backend::new();
        (story.before)(&undisturbed);
        calm(story, &undisturbed);
        let expected = settled(&undisturbed);
        for cut in [CutOff::Before, CutOff::After] {
            for request in 1.. {
                let mut backend = Backend::new();
                (story.before)(&backend);
                backend.kept = keeping.then(Rc::default);
                backend.wire.cut(Some(cut(request)));
                cut_off(story, &backend);
                let ended = backend.wire.sent() < request;
                backend.wire.cut(None);
                let at = format!("{} at {:?}", story.name, cut(request));
                after(story, &backend).unwrap_or_else(|error| panic!("{at}: {error:?}"));
                assert_eq!(settled(&backend), expected, "{at}");
                if ended {
                    assert!(request > 1, "{}: nothing was cut", story.name);
                    break;
                }
            }
        }
    }
}

/// Somebody who asks again for what he deleted by a handle that he knows.
fn again(story: &Story, backend: &Backend) -> Result<(), Error> {
    if story.name == "delete" {
        return backend.delete(&which("kato-a"));
    }
    (story.tell)(backend)
}

#[test]
fn what_is_cut_off_and_repeated_ends_as_if_it_never_was() {
    each_cut(
        true,
        |story, backend| (story.tell)(backend).unwrap(),
        |story, backend| drop((story.tell)(backend)),
        |story, backend| {
            // No daemon is there again in less.
            backend.pass(1_000);
            again(story, backend)
        },
    );
}

#[test]
fn so_it_does_when_all_was_forgotten() {
    each_cut(
        false,
        |story, backend| (story.tell)(backend).unwrap(),
        |story, backend| drop((story.tell)(backend)),
        |story, backend| {
            // For snapshots, of which EC2 does not tell whether it was asked before, only once they can be seen.
            backend.pass(if story.name == "cut" { 3_000 } else { 0 });
            again(story, backend)
        },
    );
}

#[test]
fn what_is_cut_off_and_reversed_leaves_nothing() {
    each_cut(
        false,
        |story, backend| {
            (story.tell)(backend).unwrap();
            backend.pass(60_000);
            (story.undo)(backend).unwrap();
        },
        |story, backend| drop((story.tell)(backend)),
        |story, backend| {
            // As long as the component says that what was asked for may still come true.
            backend.pass(crate::describe(&Vec::new()).unwrap().settle_ms);
            (story.undo)(backend)
        },
    );
}

#[test]
fn a_reversal_that_is_cut_off_is_finished_by_the_next() {
    each_cut(
        false,
        |story, backend| {
            (story.tell)(backend).unwrap();
            backend.pass(60_000);
            (story.undo)(backend).unwrap();
        },
        |story, backend| {
            // The cut is for the reversal: the telling is done by somebody beside.
            let beside = Backend { wire: Wire::to(backend.ec2.clone()), ..backend.clone() };
            (story.tell)(&beside).unwrap();
            backend.pass(60_000);
            drop((story.undo)(backend));
        },
        |story, backend| (story.undo)(backend),
    );
}

#[test]
fn a_create_that_is_asked_by_two_at_once_makes_one() {
    let backend = Backend::new();
    for _ in 0..3 {
        assert!(matches!(
            make::create(&backend.cloud(), &wish("kato-a"), None).unwrap(),
            Created::Pending(_)
        ));
    }
    backend.create(&wish("kato-a")).unwrap();
    assert_eq!(backend.state().len(), 1);
}
