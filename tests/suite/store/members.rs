//! Who is there: asked of every store, and of those that hosts share also what one host hears of another.

use std::time::Duration;

use kato_orchestrator::{
    Kind,
    model::NodeId,
    ports::store::{
        Durability,
        members::{Attendance, LeaseId},
    },
    records::SCHEMA,
};

use super::{Subject, guarded, put};

fn node(name: &str, session: u64, lease: Option<LeaseId>) -> Attendance {
    let node = NodeId::parse(name).unwrap();
    Attendance { node, session, schema: SCHEMA, lease, ttl: Duration::from_secs(30) }
}

async fn names(subject: &Subject) -> Vec<String> {
    let present = subject.members.present().await.unwrap();
    present.members.iter().map(|member| format!("{} {}", member.node, member.session)).collect()
}

async fn who_attends_is_shown_until_it_gives_its_lease_up(subject: Subject) {
    assert!(names(&subject).await.is_empty());
    let before = subject.members.present().await.unwrap().revision;
    let lease = subject.members.attend(node("one", 1, None)).await.unwrap();
    assert!(lease.remaining() > Duration::from_secs(1));
    let present = subject.members.changed_since(before).await.unwrap();
    assert_eq!((present.members.len(), present.members[0].lease), (1, lease.id()));
    // The same process may say something new of itself.
    let again = subject.members.attend(node("one", 2, None)).await.unwrap();
    assert_eq!((again.id(), names(&subject).await), (lease.id(), vec!["one 2".to_owned()]));
    let there = subject.members.present().await.unwrap().revision;
    lease.give_up().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), again.lost()).await.unwrap();
    assert!(again.remaining().is_zero());
    assert!(subject.members.changed_since(there).await.unwrap().members.is_empty());
}

async fn claims_end_with_the_lease_that_they_were_made_under(subject: Subject) {
    let lease = subject.members.attend(node("one", 1, None)).await.unwrap();
    let claim = subject.store.claim("volume 1").await.unwrap();
    let write = |value: &str| guarded(put("a", value), &[claim.guard()]);
    subject.store.commit(write("1"), Durability::Durable).await.unwrap();
    lease.give_up().await.unwrap();
    assert!(!claim.is_sure());
    let late = subject.store.commit(write("2"), Durability::Durable).await.unwrap_err();
    assert_eq!(late.kind, Kind::Unavailable, "{late}");
    // Whoever has lost its lease has to attend again before it claims anything.
    let Err(error) = subject.store.claim("volume 2").await else { panic!("claimed without a lease") };
    assert!(error.kind == Kind::Unavailable && error.message.contains("attend anew"), "{error}");
    let anew = subject.members.attend(node("one", 2, None)).await.unwrap();
    assert_ne!(anew.id(), lease.id());
    drop(subject.store.claim("volume 2").await.unwrap());
    assert_eq!(subject.value("a").await.as_deref(), Some("1"));
}

async fn a_program_that_cannot_read_the_records_is_not_let_in(subject: Subject) {
    assert_eq!(subject.members.schema().await.unwrap(), SCHEMA);
    let old = Attendance { schema: SCHEMA - 1, ..node("old", 1, None) };
    let Err(error) = subject.members.attend(old).await else { panic!("let in") };
    assert!(error.kind == Kind::Precondition && error.message.contains("upgrade it"), "{error}");
    let newer = Attendance { schema: SCHEMA + 1, ..node("newer", 1, None) };
    let _lease = subject.members.attend(newer).await.unwrap();
    assert_eq!(subject.members.schema().await.unwrap(), SCHEMA, "nobody writes what this program cannot");
}

async fn nodes_see_each_other_and_have_names_of_their_own(subject: Subject) {
    let another = subject.another.clone().unwrap();
    let one = subject.members.attend(node("one", 1, None)).await.unwrap();
    let Err(error) = another.attend(node("one", 1, None)).await else { panic!("there are two of a name") };
    assert!(error.kind == Kind::InUse && error.message.contains(&one.id().to_string()), "{error}");
    let two = another.attend(node("two", 1, None)).await.unwrap();
    assert_eq!(names(&subject).await, ["one 1", "two 1"]);
    let since = another.present().await.unwrap().revision;
    one.give_up().await.unwrap();
    let present = tokio::time::timeout(Duration::from_secs(10), another.changed_since(since)).await.unwrap();
    assert_eq!(present.unwrap().members.iter().map(|member| member.lease).collect::<Vec<_>>(), [two.id()]);
}

async fn a_claim_is_one_for_all_nodes(subject: Subject) {
    let (other, another) = (subject.another_store.clone().unwrap(), subject.another.clone().unwrap());
    let one = subject.members.attend(node("one", 1, None)).await.unwrap();
    let _two = another.attend(node("two", 1, None)).await.unwrap();
    let claim = subject.store.claim("volume 1").await.unwrap();
    let theirs = tokio::task::spawn(async move { other.claim("volume 1").await.unwrap().fencing_token() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!theirs.is_finished(), "two nodes have the same claim");
    one.give_up().await.unwrap();
    let token = tokio::time::timeout(Duration::from_secs(10), theirs).await.unwrap().unwrap();
    assert!(token > claim.fencing_token());
}

async fn the_next_process_takes_the_lease_up_and_ends_the_claims_of_the_last(subject: Subject) {
    let (next_store, next) = (subject.another_store.clone().unwrap(), subject.another.clone().unwrap());
    let lease = subject.members.attend(node("one", 1, None)).await.unwrap();
    let claim = subject.store.claim("volume 1").await.unwrap();
    // It dies here: nothing is given back.
    let (id, guard) = (lease.id(), claim.guard());
    let since = next.present().await.unwrap().members[0].since;
    let taken_up = next.attend(node("one", 2, Some(id))).await.unwrap();
    assert_eq!(taken_up.id(), id);
    let present = next.present().await.unwrap();
    assert_eq!((present.members.len(), present.members[0].session), (1, 2));
    assert!(present.members[0].since >= since);
    let again =
        tokio::time::timeout(Duration::from_secs(10), next_store.claim("volume 1")).await.unwrap().unwrap();
    assert!(again.fencing_token() > claim.fencing_token());
    let late = next_store.commit(guarded(put("a", "1"), &[guard]), Durability::Durable).await.unwrap_err();
    assert_eq!(late.kind, Kind::Unavailable, "{late}");
}

macro_rules! asked_of {
    ($($store:ident $make:expr),*; $facts:tt) => { $(asked_of! { @ $store $make; $facts })* };
    (@ $store:ident $make:expr; [$($fact:ident),* $(,)?]) => {
        mod $store {
            $(#[tokio::test]
            async fn $fact() { crate::store::members::$fact($make).await; })*
        }
    };
}

mod every {
    asked_of! {
        memory crate::store::Subject::memory(),
        sled crate::store::Subject::sled(),
        etcd crate::store::Subject::etcd().await;
        [
            who_attends_is_shown_until_it_gives_its_lease_up,
            claims_end_with_the_lease_that_they_were_made_under,
            a_program_that_cannot_read_the_records_is_not_let_in,
        ]
    }
}

mod shared {
    asked_of! {
        memory crate::store::Subject::memory(),
        etcd crate::store::Subject::etcd().await;
        [
            nodes_see_each_other_and_have_names_of_their_own,
            a_claim_is_one_for_all_nodes,
            the_next_process_takes_the_lease_up_and_ends_the_claims_of_the_last,
        ]
    }
}
