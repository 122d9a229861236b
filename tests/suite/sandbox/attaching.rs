//! Devices that a guest names when it attaches a volume: what the node would mount.

use std::sync::Arc;

use kato_orchestrator::{
    Error, Kind,
    model::{Connection, Token},
    ports::{
        Backend,
        backend::{Attached, Effect, NodeFacts, Which},
    },
};

use super::{Sandbox, assert_open, quick};

const GRANTS: &str = "connections = { device = [\"wwid\"] }";

async fn hostile(sandbox: &Sandbox, behave: &[(&str, &str)]) -> Arc<dyn Backend> {
    sandbox.load("hostile", behave, GRANTS, quick()).await.unwrap()
}

fn node() -> NodeFacts {
    NodeFacts { name: "node-a".into(), ..NodeFacts::default() }
}

fn which(token: &str) -> Which {
    Which { token: Token::parse(token).unwrap(), handle: None }
}

async fn attach(backend: &dyn Backend, token: &str) -> Result<Attached, Error> {
    match backend.attachments().unwrap().attach(which(token), node(), false, None).await? {
        Effect::Done(attached) => Ok(attached),
        Effect::Pending(pending) => panic!("it is pending: {pending:?}"),
    }
}

#[tokio::test]
async fn only_granted_kinds_of_device_are_attached() {
    let sandbox = Sandbox::new();
    let honest = hostile(&sandbox, &[("client", "initiator-1")]).await;
    let attached = attach(&*honest, "token-1").await.unwrap();
    let device = Connection::Device { identity: "wwid".into(), value: "naa.token-1".into() };
    assert_eq!((attached.connection, attached.client.as_deref()), (device, Some("initiator-1")));
    for argument in ["by-id sda", "wwid ../../dev/vda", "wwid /dev/vda", "wwid", "nvme-serial x"] {
        let backend = hostile(&sandbox, &[("argument", argument)]).await;
        let error = attach(&*backend, "token-1").await.unwrap_err();
        assert_open(&error, &["not granted"]);
        assert_eq!(error.kind, Kind::PermissionDenied, "{argument}: {error}");
    }
    let ungranted = sandbox.load("hostile", &[], "", quick()).await.unwrap();
    assert_open(&attach(&*ungranted, "token-1").await.unwrap_err(), &["kind device", "not granted"]);
    let long = "x".repeat(1001);
    let backend = hostile(&sandbox, &[("client", long.as_str())]).await;
    let error = attach(&*backend, "token-1").await.unwrap_err();
    assert_open(&error, &["answered nonsense", "the client's identity", "1000 bytes"]);
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn one_device_is_not_two_attached_volumes() {
    let sandbox = Sandbox::new();
    let one = [("argument", "wwid naa.1"), ("present", "yes")];
    let held = hostile(&sandbox, &[&one[..], &[("attached", "node-a")]].concat()).await;
    attach(&*held, "token-1").await.unwrap();
    // The same volume for another node is the same device.
    attach(&*held, "token-1").await.unwrap();
    let error = attach(&*held, "token-2").await.unwrap_err();
    assert_open(&error, &["the connection", "naa.1", "two attached volumes, token-1 and token-2"]);
    // What was detached passes its place on.
    let passed = hostile(&sandbox, &[&one[..], &[("attached", "")]].concat()).await;
    attach(&*passed, "token-1").await.unwrap();
    attach(&*passed, "token-2").await.unwrap();
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn a_refused_attach_or_detach_is_final_only_when_the_backend_shows_that_it_is_so() {
    let sandbox = Sandbox::new();
    for (nodes, attach_is_final, detach_is_final) in [
        (Some(""), true, false),
        (Some("node-a"), false, true),
        (Some("node-b"), true, false),
        (None, true, false),
    ] {
        let mut behave = vec![("behave", "refuse"), ("present", "yes")];
        behave.extend(nodes.map(|nodes| ("attached", nodes)));
        let backend = hostile(&sandbox, &behave).await;
        let error = attach(&*backend, "token-1").await.unwrap_err();
        assert_eq!((error.kind, error.is_final()), (Kind::Exhausted, attach_is_final), "{nodes:?}");
        let attachments = backend.attachments().unwrap();
        let error = attachments.detach(which("token-1"), node(), None).await.map(drop).unwrap_err();
        assert_eq!((error.kind, error.is_final()), (Kind::InUse, detach_is_final), "{nodes:?}");
    }
    sandbox.neighbour_is_well().await;
}
