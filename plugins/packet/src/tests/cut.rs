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

fn nothing(_: &Backend) {}

fn with_volume(backend: &Backend) {
    backend.create(&wish("kato-a")).unwrap();
}

fn attached(backend: &Backend) {
    with_volume(backend);
    backend.attach("kato-a", NODE).unwrap();
}

fn with_snapshot(backend: &Backend) {
    backend.create(&wish("kato-v")).unwrap();
    backend.cut(&cut_of("kato-s", "kato-v")).unwrap();
}

fn larger(token: &str, source: Origin) -> Wish {
    let parameters = pairs(&[("plan", "storage_2"), ("snapshot-policies", "1day:7")]);
    Wish { size: at_least(25 * GIB), parameters, ..copy(token, source) }
}

fn delete(backend: &Backend) -> Result<(), Error> {
    backend.delete(&which("kato-a"))
}

const STORIES: &[Story] = &[
    Story {
        name: "create",
        before: nothing,
        tell: |backend| backend.create(&of("kato-a", &[("snapshot-policies", "1day:7")])).map(drop),
        undo: delete,
    },
    Story {
        name: "create from a snapshot",
        before: with_snapshot,
        tell: |backend| backend.create(&larger("kato-a", Origin::Snapshot(which("kato-s")))).map(drop),
        undo: delete,
    },
    Story {
        name: "create from a volume",
        before: with_snapshot,
        tell: |backend| backend.create(&larger("kato-a", Origin::Volume(which("kato-v")))).map(drop),
        undo: delete,
    },
    Story {
        name: "create from a volume whose clones begin bare",
        before: |backend| {
            backend.api.borrow_mut().inherits = false;
            with_snapshot(backend);
        },
        tell: |backend| backend.create(&copy("kato-a", Origin::Volume(which("kato-v")))).map(drop),
        undo: delete,
    },
    Story {
        name: "attach",
        before: with_volume,
        tell: |backend| backend.attach("kato-a", NODE).map(drop),
        undo: |backend| backend.detach("kato-a", NODE),
    },
    Story {
        name: "detach",
        before: attached,
        tell: |backend| backend.detach("kato-a", NODE),
        undo: |backend| backend.detach("kato-a", NODE),
    },
    Story {
        name: "fence",
        before: |backend| {
            attached(backend);
            backend.api.borrow_mut().machines.insert(NODE.into(), "inactive");
        },
        tell: |backend| backend.fence("kato-a", NODE),
        undo: |backend| backend.detach("kato-a", NODE),
    },
    Story {
        name: "grow",
        before: with_volume,
        tell: |backend| backend.grow("kato-a", at_least(28 * GIB)).map(drop),
        undo: delete,
    },
    Story {
        name: "modify",
        before: with_volume,
        tell: |backend| {
            backend.modify("kato-a", &[("plan", "storage_2"), ("snapshot-policies", "1day:7,1hour:2")])
        },
        undo: delete,
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
        undo: delete,
    },
    Story { name: "delete", before: with_volume, tell: delete, undo: delete },
    Story {
        name: "delete a snapshot",
        before: with_snapshot,
        tell: |backend| backend.delete_snapshot(&which("kato-s")),
        undo: |backend| backend.delete_snapshot(&which("kato-s")),
    },
];

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
        let expected = undisturbed.state();
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
                assert_eq!(backend.state(), expected, "{at}");
                if ended {
                    assert!(request > 1, "{}: nothing was cut", story.name);
                    break;
                }
            }
        }
    }
}

#[test]
fn what_is_cut_off_and_repeated_ends_as_if_it_never_was() {
    each_cut(
        true,
        |story, backend| (story.tell)(backend).unwrap(),
        |story, backend| drop((story.tell)(backend)),
        |story, backend| (story.tell)(backend),
    );
}

#[test]
fn so_it_does_when_all_was_forgotten() {
    each_cut(
        false,
        |story, backend| (story.tell)(backend).unwrap(),
        |story, backend| drop((story.tell)(backend)),
        |story, backend| (story.tell)(backend),
    );
}

#[test]
fn what_is_cut_off_and_reversed_leaves_nothing() {
    each_cut(
        false,
        |story, backend| {
            (story.tell)(backend).unwrap();
            (story.undo)(backend).unwrap();
        },
        |story, backend| drop((story.tell)(backend)),
        |story, backend| {
            // As long as the component says that what was asked for may still come true.
            let configuration = pairs(&[("base-url", BASE), ("project", PROJECT)]);
            backend.pass(crate::describe(&configuration)?.settle_ms);
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
            (story.undo)(backend).unwrap();
        },
        |story, backend| {
            // The cut is for the reversal: the telling is done by somebody beside.
            let beside = Backend { wire: Wire::to(backend.api.clone()), ..backend.clone() };
            (story.tell)(&beside).unwrap();
            drop((story.undo)(backend));
        },
        |story, backend| (story.undo)(backend),
    );
}
