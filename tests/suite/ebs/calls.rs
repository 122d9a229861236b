//! How many requests it takes: volumes that are made, attached and detached, many at once, with Amazon's own delays. Whoever
//! waits is asked about together with all others, so the requests for looking are fewer than one a second for each.
//! Twenty here, a hundred with `cargo xtask soak ebs`.

#![expect(
    clippy::disallowed_methods,
    reason = "what is waited for is counted in seconds of the model's, which are this machine's; the number comes from \
              `cargo xtask soak`"
)]

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use kato_tests::{
    aws::{Aws, Site},
    machine::{Machine, until},
};
use serde_json::json;

use super::ground::{ZONE, is_detached, is_empty, sections, start_with};

/// How many are at work at once.
const AT_ONCE: u64 = 20;

/// How many volumes are made, and how many times one is attached and detached.
fn number() -> u64 {
    std::env::var("KATO_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(AT_ONCE).max(AT_ONCE)
}

/// Does something for as many volumes at once, and answers how long they waited in all.
fn at_once(of: &(impl Fn(u64) + Sync)) -> Duration {
    let waited = |number| {
        let begun = Instant::now();
        of(number);
        begun.elapsed()
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..AT_ONCE).map(|number| scope.spawn(move || waited(number))).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    })
}

/// Prints what a phase took, and holds it against one look a second for each volume.
fn tell(what: &str, cycles: u64, calls: &BTreeMap<String, u64>, waited: Duration) {
    println!("{what}: {cycles} cycles, in which volumes waited for {} s in all", waited.as_secs());
    for (action, calls) in calls {
        println!(
            "  {action}: {calls}, {:.2} a cycle",
            f64::from(u32::try_from(*calls).unwrap()) / f64::from(u32::try_from(cycles).unwrap())
        );
    }
    let looks: u64 =
        calls.iter().filter(|(action, _)| action.starts_with("Describe")).map(|(_, calls)| calls).sum();
    assert!(looks < waited.as_secs(), "{what}: {looks} looks in {} s of waiting", waited.as_secs());
}

#[test]
fn many_that_wait_cost_fewer_looks_than_one_a_second_for_each() {
    let machine = Machine::start();
    let aws = Aws::start_in_with(&machine, Site { pace: 1.0, ..Site::default() });
    let instance = aws.add_instance(ZONE, "m7i.48xlarge");
    // How mounts feel is looked after as often as it is by default.
    let told = sections(&aws, &instance).replace("watch-every = \"1s\"", "watch-every = \"30s\"");
    let node = start_with(&machine, &told, &aws.credentials());
    let rounds = number().div_ceil(AT_ONCE);
    let cycles = rounds * AT_ONCE;

    aws.forget_calls();
    let mut waited = Duration::ZERO;
    for round in 0..rounds {
        waited += at_once(&|number| {
            let name = format!("v{round}-{number}");
            node.wire().done("Create", json!({ "Name": name, "Opts": { "class": "ebs", "size": "1GiB" } }));
        });
    }
    tell("creates", cycles, &aws.all_calls(), waited);
    assert_eq!(aws.calls("CreateVolume"), cycles);

    aws.forget_calls();
    waited = Duration::ZERO;
    for _ in 0..rounds {
        waited += at_once(&|number| drop(node.take(&format!("v0-{number}"))));
        waited += at_once(&|number| {
            node.give(&format!("v0-{number}"));
            is_detached_of(&aws, &format!("v0-{number}"));
        });
    }
    is_detached(&aws);
    tell("attachments and detachments", cycles, &aws.all_calls(), waited);
    assert_eq!(aws.calls("DetachVolume"), cycles);
    // A device name that somebody else took at the same moment is another one the next time.
    let attached = aws.calls("AttachVolume");
    assert!((cycles..=cycles + cycles / 10).contains(&attached), "{attached} calls for {cycles} attachments");

    node.remove_all();
    node.has_let_go();
    is_empty(&aws, &[&instance]);
}

/// Waits until one volume is detached.
fn is_detached_of(aws: &Aws, name: &str) {
    until("a volume to be detached", || {
        let volumes = aws.volumes();
        let volume = volumes.iter().find(|volume| volume.tags["Name"] == name).unwrap();
        volume.attachments.is_empty().then_some(())
    });
}
