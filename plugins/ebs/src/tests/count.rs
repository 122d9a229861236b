//! How few requests it takes. Many are driven at once here, as the host does it: all that is due is polled in one call.

use super::*;

/// What one of many is doing, and what it is asked again with.
struct One {
    token: String,
    due: u64,
    resume: Option<Vec<u8>>,
    /// Whether the poll said that the effect is to be asked.
    ready: bool,
}

type Ask = fn(&Cloud<Wire>, &str, Option<&[u8]>) -> Result<Step<()>, Error>;

/// Drives these at once, and answers how many milliseconds each of them took, in sum.
fn together(backend: &Backend, verb: Verb, tokens: &[String], ask: Ask) -> u64 {
    let began = backend.ec2.borrow().now;
    let mut open: Vec<One> = tokens
        .iter()
        .map(|token| One { token: token.clone(), due: began, resume: None, ready: true })
        .collect();
    let mut took = 0;
    while !open.is_empty() {
        let due = open.iter().map(|one| one.due).min().unwrap();
        backend.ec2.borrow_mut().now = due;
        let cloud = backend.cloud();
        let mut askings = BTreeMap::new();
        for (at, one) in open.iter_mut().enumerate().filter(|(_, one)| one.due <= due) {
            if one.ready {
                match ask(&cloud, &one.token, one.resume.as_deref()).unwrap() {
                    Step::Done(()) => {
                        took += due - began;
                        one.due = u64::MAX;
                    }
                    Step::Pending(pending) => {
                        one.ready = false;
                        one.due = due + pending.retry_after_ms;
                        one.resume = Some(pending.resume);
                    }
                }
                continue;
            }
            askings.insert(
                at,
                Asking {
                    verb,
                    which: which(&one.token),
                    node: Some(MACHINE.into()),
                    resume: one.resume.clone().unwrap(),
                },
            );
        }
        let asked: Vec<_> = askings.values().cloned().collect();
        if !asked.is_empty() {
            for (at, standing) in askings.keys().zip(poll::poll(&cloud, &asked).unwrap()) {
                match standing {
                    Standing::Ready => open[*at].ready = true,
                    Standing::Still(pending) => {
                        open[*at].due = due + pending.retry_after_ms;
                        open[*at].resume = Some(pending.resume);
                    }
                }
            }
        }
        open.retain(|one| one.due != u64::MAX);
    }
    took
}

#[test]
fn a_hundred_creates_and_cycles_take_less_than_a_look_a_second_each() {
    let backend = Backend::new();
    let tokens: Vec<String> = (0..100).map(|n| format!("kato-{n}")).collect();
    let ids = |backend: &Backend, token: &str| named(token, &backend.id(token));
    let (mut creates, mut cycles, mut seconds) = (0, 0, 0);
    for some in tokens.chunks(20) {
        seconds += together(&backend, Verb::Create, some, |cloud, token, resume| {
            step!(
                make::create(cloud, &wish(token), work(resume)).map(|made| match made {
                    Created::Done(_) => Deleted::Done,
                    Created::Pending(pending) => Deleted::Pending(pending),
                }),
                Deleted,
                unit
            )
        });
        creates += backend.asked().len();
        let first = ids(&backend, &some[0]);
        assert!(backend.inspect(first).is_some());
        backend.asked();
        seconds += together(&backend, Verb::Attach, some, |cloud, token, resume| {
            let id = work(resume).map(|work| work.id);
            let id = id.unwrap_or_else(|| cloud.find(&which(token)).unwrap().unwrap().id);
            let node = node(MACHINE);
            step!(
                attachments::attach(cloud, &named(token, &id), &node, work(resume)).map(
                    |answer| match answer {
                        Attaching::Done(_) => Detaching::Done,
                        Attaching::Pending(pending) => Detaching::Pending(pending),
                    }
                ),
                Detaching,
                unit
            )
        });
        seconds += together(&backend, Verb::Detach, some, |cloud, token, resume| {
            let id = work(resume).map(|work| work.id);
            let id = id.unwrap_or_else(|| cloud.find(&which(token)).unwrap().unwrap().id);
            step!(
                attachments::detach(cloud, &named(token, &id), &node(MACHINE), work(resume)),
                Detaching,
                unit
            )
        });
        // The host knows the ids; here they were looked up for it, once for each effect.
        cycles += backend.asked().len() - 2 * some.len();
    }
    println!("{creates} requests for 100 creates, {cycles} for 100 cycles, {} s waited for", seconds / 1000);
    assert!(
        (creates + cycles) as u64 * 1000 < seconds,
        "{creates} + {cycles} requests, {} s",
        seconds / 1000
    );
    assert!(creates <= 325, "{creates}");
    assert!(cycles <= 550, "{cycles}");
}

#[test]
fn a_hundred_waits_are_one_look() {
    let backend = Backend::new();
    let mut askings = Vec::new();
    for n in 0..100 {
        let token = format!("kato-{n}");
        let Created::Pending(pending) = make::create(&backend.cloud(), &wish(&token), None).unwrap() else {
            panic!("it takes four seconds")
        };
        askings.push(Asking { verb: Verb::Create, which: which(&token), node: None, resume: pending.resume });
    }
    backend.pass(3_500);
    backend.asked();
    let still = poll::poll(&backend.cloud(), &askings).unwrap();
    assert!(still.iter().all(|standing| matches!(standing, Standing::Still(_))));
    assert_eq!(backend.asked(), ["DescribeVolumes"]);
    backend.pass(1_000);
    let ready = poll::poll(&backend.cloud(), &askings).unwrap();
    assert!(ready.iter().all(|standing| *standing == Standing::Ready));
    askings.push(askings[0].clone());
    assert_eq!(kind(poll::poll(&backend.cloud(), &askings)), ErrorKind::InvalidArgument);
    askings.truncate(1);
    askings[0].resume = b"something else".to_vec();
    assert_eq!(poll::poll(&backend.cloud(), &askings).unwrap(), [Standing::Ready]);
}
