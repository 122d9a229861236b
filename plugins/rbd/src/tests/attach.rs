//! Who may reach a volume, and who no longer.

use kato_plugin_sdk::{
    attachments::{Attached, Attaching, Detaching},
    fencing::Fenced,
    types::{Connection, Node},
};

use super::*;
use crate::attachments;

const HERE: &str = "10.0.0.1:0/7";
const THERE: &str = "10.0.0.2:0/8";
const MGR: &str = "127.0.0.1:0/99";

fn node(name: &str, clients: &[&str]) -> Node {
    let identities = clients.iter().map(|client| ("client".to_owned(), (*client).to_owned())).collect();
    Node { name: name.into(), identities, used_devices: Vec::new(), bad_devices: Vec::new() }
}

impl Backend {
    fn attach(&self, token: &str, node: &Node, read_only: bool) -> Result<Connection, Error> {
        match attachments::attach(&self.pool(), &which(token), node, read_only)? {
            Attaching::Done(Attached { connection, client: None }) => Ok(connection),
            other => panic!("{other:?}"),
        }
    }

    fn detach(&self, token: &str, node: &Node) {
        assert_eq!(attachments::detach(&self.pool(), &which(token), node).unwrap(), Detaching::Done);
    }

    fn fence(&self, token: &str, node: &Node, clients: &[&str]) -> Result<Vec<String>, Error> {
        let clients: Vec<_> = clients.iter().map(|client| (*client).to_owned()).collect();
        match attachments::fence(&self.pool(), &which(token), node, &clients)? {
            Fenced::Done => Ok(self.ceph.borrow().blocked.clone()),
            Fenced::Pending(pending) => Err(Error::unavailable(pending.note)),
        }
    }

    fn watched(&self, token: &str, watchers: &[&str]) {
        self.ceph.borrow_mut().image(token).watchers = watchers.iter().map(|one| (*one).to_owned()).collect();
    }

    fn attached(&self, token: &str) -> Vec<String> {
        self.inspect(token).unwrap().attached.unwrap()
    }
}

fn backend() -> Backend {
    let backend = Backend::new();
    backend.create(&wish("kato-a")).unwrap();
    backend
}

#[test]
fn one_node_writes_at_a_time() {
    let (backend, here, there) = (backend(), node("here", &[HERE]), node("there", &[THERE]));
    let (connection, taken) = backend.taken(|backend| backend.attach("kato-a", &here, false).unwrap());
    assert_eq!(taken, ["rbd-claim", "rbd-status"]);
    assert!(
        matches!(connection, Connection::Rbd(at) if (at.pool.as_str(), at.image.as_str()) == ("kato", "kato-a"))
    );
    // Its own client is no stranger, and asking again changes nothing.
    backend.watched("kato-a", &[HERE]);
    backend.attach("kato-a", &here, false).unwrap();
    assert_eq!(backend.attached("kato-a"), ["here"]);
    for read_only in [false, true] {
        let error = backend.attach("kato-a", &there, read_only).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InUse);
        assert!(
            error.message.contains("attached to here") && error.message.contains("lock break"),
            "{error:?}"
        );
    }
    let ((), taken) = backend.taken(|backend| backend.detach("kato-a", &here));
    assert_eq!(taken, ["rbd-claims", "rbd-unclaim"]);
    backend.detach("kato-a", &here);
    backend.watched("kato-a", &[]);
    backend.attach("kato-a", &there, false).unwrap();
    assert_eq!(backend.attached("kato-a"), ["there"]);
}

#[test]
fn readers_share_and_a_writer_waits_for_them() {
    let (backend, here, there) = (backend(), node("here", &[]), node("there", &[]));
    for node in [&here, &there, &here] {
        backend.attach("kato-a", node, true).unwrap();
    }
    assert_eq!(backend.ceph.borrow_mut().image("kato-a").claims.len(), 2);
    assert_eq!(kind(backend.attach("kato-a", &here, false)), ErrorKind::InUse);
    backend.detach("kato-a", &there);
    backend.attach("kato-a", &here, false).unwrap();
    assert!(!backend.ceph.borrow_mut().image("kato-a").shared);
    // A writer that reads is attached already.
    backend.attach("kato-a", &here, true).unwrap();
    assert_eq!(backend.attached("kato-a"), ["here"]);
}

#[test]
fn whoever_else_has_the_image_open_keeps_it() {
    let (backend, here) = (backend(), node("here", &[HERE]));
    backend.watched("kato-a", &[THERE, MGR]);
    for read_only in [false, true] {
        let error = backend.attach("kato-a", &here, read_only).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InUse);
        assert!(error.message.contains(THERE) && !error.message.contains(MGR), "{}", error.message);
        assert!(backend.attached("kato-a").is_empty());
    }
    backend.watched("kato-a", &[MGR, HERE]);
    backend.attach("kato-a", &here, false).unwrap();
    // Who cannot tell the mgr's clients takes them for strangers, and gives back only what was taken just now.
    backend.ceph.borrow_mut().mgr_may_be_asked = false;
    assert_eq!(kind(backend.attach("kato-a", &here, false)), ErrorKind::InUse);
    assert_eq!(backend.attached("kato-a"), ["here"]);
}

#[test]
fn what_is_not_there_is_not_attached_and_leaves_nothing() {
    let (backend, here) = (backend(), node("here", &[]));
    assert_eq!(kind(backend.attach("kato-b", &here, false)), ErrorKind::NotFound);
    assert!(backend.ceph.borrow().strays.is_empty());
    backend.detach("kato-b", &here);
    assert_eq!(kind(backend.attach("kato-a", &node("a b", &[]), false)), ErrorKind::InvalidArgument);
}

#[test]
fn a_fenced_node_is_blocklisted_and_has_no_claim() {
    let (backend, here, there) = (backend(), node("here", &[]), node("there", &[]));
    backend.attach("kato-a", &here, false).unwrap();
    backend.watched("kato-a", &[HERE, THERE, MGR]);
    assert_eq!(backend.fence("kato-a", &here, &[HERE]).unwrap(), [HERE, THERE]);
    assert!(backend.attached("kato-a").is_empty());
    backend.watched("kato-a", &[]);
    backend.attach("kato-a", &there, false).unwrap();
    // Asked in doubt: the other node keeps the volume.
    backend.watched("kato-a", &["10.0.0.3:0/9"]);
    assert_eq!(backend.fence("kato-a", &here, &[]).unwrap(), [HERE, THERE]);
    assert_eq!(backend.attached("kato-a"), ["there"]);
    // What is known to be a client of the node's is cut off in any case.
    let known = node("here", &["10.0.0.3:0/9"]);
    assert_eq!(backend.fence("kato-a", &known, &[]).unwrap(), [HERE, THERE, "10.0.0.3:0/9"]);
    assert_eq!(backend.fence("kato-b", &here, &["10.0.0.4:0/10"]).unwrap().last().unwrap(), "10.0.0.4:0/10");
}

#[test]
fn a_client_that_may_come_in_again_soon_is_not_fenced_yet() {
    let (backend, here) = (backend(), node("here", &[]));
    backend.attach("kato-a", &here, false).unwrap();
    backend.ceph.borrow_mut().short.push(HERE.to_owned());
    let refusal = backend.fence("kato-a", &here, &[HERE]).unwrap_err();
    assert!(refusal.message.contains("blocklist rm"), "{refusal:?}");
    assert_eq!(backend.attached("kato-a"), ["here"], "nobody else gets it meanwhile");
    backend.ceph.borrow_mut().short.clear();
    backend.fence("kato-a", &here, &[HERE]).unwrap();
}

#[test]
fn nothing_is_fenced_that_cannot_be_proven() {
    let (backend, here) = (backend(), node("here", &[]));
    backend.attach("kato-a", &here, false).unwrap();
    backend.watched("kato-a", &[HERE]);
    backend.ceph.borrow_mut().mgr_may_be_asked = false;
    assert_eq!(kind(backend.fence("kato-a", &here, &[])), ErrorKind::PermissionDenied);
    backend.ceph.borrow_mut().broken.insert("ceph-blocklist", 13);
    assert_eq!(kind(backend.fence("kato-a", &here, &[HERE])), ErrorKind::PermissionDenied);
    assert_eq!(backend.attached("kato-a"), ["here"]);
    // No client is known: with exclusive-lock the next writer cuts it off, without it nobody does.
    backend.watched("kato-a", &[]);
    backend.fence("kato-a", &here, &[]).unwrap();
    backend.create(&with("kato-b", &[("features", "layering")])).unwrap();
    backend.attach("kato-b", &here, false).unwrap();
    assert_eq!(kind(backend.fence("kato-b", &here, &[])), ErrorKind::Precondition);
    assert_eq!(backend.attached("kato-b"), ["here"]);
}

#[test]
fn a_claim_is_given_or_refused_whole_wherever_it_is_cut_off() {
    use kato_plugin_sdk::testing::Cut;
    for cut in [Cut::Before, Cut::After] {
        for command in 1..6 {
            let (backend, here) = (backend(), node("here", &[]));
            backend.commands.cut(cut(command));
            drop(backend.attach("kato-a", &here, false));
            backend.commands.mend();
            backend.attach("kato-a", &here, false).unwrap();
            assert_eq!(backend.ceph.borrow_mut().image("kato-a").claims.len(), 1);
            backend.watched("kato-a", &[HERE]);
            backend.commands.cut(cut(command));
            drop(backend.fence("kato-a", &here, &[]));
            backend.commands.mend();
            assert!(backend.fence("kato-a", &here, &[]).unwrap().contains(&HERE.to_owned()));
            assert!(backend.attached("kato-a").is_empty());
        }
    }
}
