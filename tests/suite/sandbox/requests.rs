//! Requests of a guest: to hosts and addresses that are not granted, by redirect, with headers that are not
//! its own. What comes back is `answers.rs`, credentials are `leaks.rs`.

use kato_orchestrator::{Error, Kind};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

use super::{Sandbox, assert_open, create, quick};

/// A server that answers every request the same way, with `{request}` replaced by what it heard.
pub(super) struct Server {
    port: u16,
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn answering(response: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut heard = vec![0; 4096];
                let length = stream.read(&mut heard).await.unwrap_or(0);
                let heard = String::from_utf8_lossy(&heard[..length]).replace("\r\n", "|");
                let answer = response.replace("{request}", &heard);
                // The client may be gone, which is its right.
                let _gone = stream.write_all(answer.as_bytes()).await;
                let _gone = stream.shutdown().await;
            }
        });
        Self { port, _tasks: tasks }
    }

    pub(super) fn grant(&self) -> String {
        format!("[[http]]\nurl = \"http://127.0.0.1:{}\"\naddresses = \"loopback\"\n", self.port)
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nheard {request}";

pub(super) async fn request(sandbox: &Sandbox, argument: &str, grants: &str) -> Error {
    sandbox.attack("request", argument, grants).await.map(|_| ()).unwrap_err()
}

#[tokio::test]
async fn a_granted_request_is_sent_and_others_are_refused() {
    let sandbox = Sandbox::new();
    let server = Server::answering(OK).await;
    let grants = format!("{}methods = [\"GET\"]\npaths = [\"/v1/**\"]", server.grant());
    let good = request(&sandbox, &format!("GET {}/v1/disks", server.url()), &grants).await;
    assert!(good.message.contains("it answered 200 heard GET /v1/disks"), "{good}");
    for (argument, word) in [
        (format!("POST {}/v1/disks", server.url()), "method or path"),
        (format!("GET {}/v2", server.url()), "method or path"),
        (format!("GET {}/v1/../v2", server.url()), "method or path"),
        (format!("GET https://127.0.0.1:{}/v1/x", server.port), "no grant"),
        (format!("GET http://localhost:{}/v1/x", server.port), "no grant"),
        ("GET http://example.com/".into(), "no grant"),
        ("GET http://169.254.169.254/latest/meta-data".into(), "no grant"),
        (format!("CONNECT {}/v1/x", server.url()), "no grant allows this method"),
    ] {
        let error = request(&sandbox, &argument, &grants).await;
        assert_open(&error, &["is refused", word]);
        assert_eq!(error.kind, Kind::PermissionDenied, "{argument}");
    }
    let error = request(&sandbox, &format!("GET {}/", server.url()), "").await;
    assert_open(&error, &["no grant"]);
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn metadata_and_internal_addresses_are_refused_however_they_are_written() {
    let sandbox = Sandbox::new();
    for (host, addresses, word) in [
        (
            "169.254.169.254",
            "[\"public\", \"private\", \"loopback\", \"0.0.0.0/0\"]",
            "link-local or metadata",
        ),
        ("2852039166", "[\"public\", \"private\", \"loopback\"]", "link-local or metadata"),
        ("0xa9.0xfe.0xa9.0xfe", "[\"public\", \"private\"]", "link-local or metadata"),
        ("0xa9fea9fe", "[\"public\", \"private\"]", "link-local or metadata"),
        ("0251.0376.0251.0376", "[\"public\", \"private\"]", "link-local or metadata"),
        ("0251.254.0xa9fe", "[\"public\", \"private\"]", "link-local or metadata"),
        ("0177.0.0.1", "\"public\"", "this host itself"),
        ("017700000001", "\"public\"", "this host itself"),
        ("127.1", "\"public\"", "this host itself"),
        ("0", "[\"public\", \"private\", \"loopback\"]", "link-local or metadata"),
        ("012.0.0.1", "\"public\"", "a private address"),
        ("[::ffff:169.254.169.254]", "[\"public\", \"private\", \"::/0\"]", "link-local or metadata"),
        ("[fd00:ec2::254]", "[\"public\", \"private\"]", "link-local or metadata"),
        ("100.100.100.200", "[\"public\", \"private\"]", "link-local or metadata"),
        ("127.0.0.1", "[\"public\", \"private\"]", "this host itself"),
        ("2130706433", "\"public\"", "this host itself"),
        ("localhost", "\"public\"", "this host itself"),
        ("10.0.0.1", "\"public\"", "a private address"),
        ("[::ffff:10.0.0.1]", "\"public\"", "a private address"),
    ] {
        let grants = format!("[[http]]\nurl = \"http://{host}\"\naddresses = {addresses}");
        let error = request(&sandbox, &format!("GET http://{host}/"), &grants).await;
        assert_open(&error, &[word]);
        assert_eq!(error.kind, Kind::PermissionDenied, "{host}");
        // Whatever it is, a grant for another spelling is none for this one.
        let grants = "[[http]]\nurl = \"http://127.0.0.1\"\naddresses = \"loopback\"";
        if host != "127.0.0.1" {
            let error = request(&sandbox, &format!("GET http://{host}/"), grants).await;
            assert_open(&error, &["no grant"]);
        }
    }
}

#[tokio::test]
async fn a_redirect_is_a_request_of_its_own() {
    let sandbox = Sandbox::new();
    let away = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest\r\nconnection: close\r\n\r\n";
    let server = Server::answering(away).await;
    let error = request(&sandbox, &format!("GET {}/", server.url()), &server.grant()).await;
    assert_open(&error, &["169.254.169.254", "is refused"]);
    assert_eq!(error.kind, Kind::PermissionDenied);
}

#[tokio::test]
async fn a_guest_vouches_for_nothing() {
    let sandbox = Sandbox::new();
    let server = Server::answering(OK).await;
    let grants = format!(
        "{}authoriser = {{ header = {{ name = \"X-Auth-Token\", secret = {{ env = \"T\" }} }} }}",
        server.grant()
    );
    for header in ["Authorization:Bearer x", "Cookie:a=b", "Host:evil", "X-Auth-Token:x", "X-Forwarded-For:1"]
    {
        let argument = format!("GET {}/", server.url());
        let behave = [("behave", "request"), ("argument", argument.as_str()), ("header", header)];
        let backend = sandbox.load("hostile", &behave, &grants, quick()).await.unwrap();
        let error = create(&*backend).await.unwrap_err();
        assert_open(&error, &["header refused"]);
    }
}

#[tokio::test]
async fn a_server_that_fails_after_hearing_leaves_the_outcome_open() {
    let sandbox = Sandbox::new();
    // The guest turns every failure into a refusal that would be final if nothing else were known.
    for response in ["HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\n", ""] {
        let server = Server::answering(response).await;
        let argument = format!("POST {}/make", server.url());
        let behave = [("behave", "request"), ("argument", argument.as_str()), ("refuse", "yes")];
        let backend = sandbox.load("hostile", &behave, &server.grant(), quick()).await.unwrap();
        let error = create(&*backend).await.unwrap_err();
        assert!(error.kind == Kind::InvalidArgument && !error.is_final(), "{response:?}: {error:?}");
    }
    let server = Server::answering("HTTP/1.1 400 Bad\r\nconnection: close\r\n\r\n").await;
    let argument = format!("POST {}/make", server.url());
    let behave = [("behave", "request"), ("argument", argument.as_str()), ("refuse", "yes")];
    let backend = sandbox.load("hostile", &behave, &server.grant(), quick()).await.unwrap();
    let error = create(&*backend).await.unwrap_err();
    assert!(error.kind == Kind::InvalidArgument && error.is_final(), "{error:?}");
}
