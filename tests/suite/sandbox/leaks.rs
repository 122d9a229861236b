//! Credentials: put on requests, read back by nobody, and carried out by no answer.

use std::{
    io,
    sync::{Arc, Mutex, OnceLock},
};

use kato_orchestrator::{Error, Kind, ports::backend::Effect};
use tracing_subscriber::fmt::MakeWriter;

use super::{
    Sandbox, assert_open, assert_told, create, quick,
    requests::{OK, Server, request},
    token, wish,
};

const CANARY: &str = "canary+hush/hush=hush";
const ENVIRONMENT: &[(&str, &str)] = &[("CLOUD_TOKEN", CANARY)];

/// How it might be found: as it is, encoded, and a good part of it.
const TRACES: [&str; 3] = ["hush/hush", "canary%2B", "Y2FuYXJ5K2h1c2gvaHVzaD1odXNo"];

fn bearer(server: &Server) -> String {
    format!("{}authoriser = {{ bearer = {{ secret = {{ env = \"CLOUD_TOKEN\" }} }} }}\n", server.grant())
}

/// What was logged by this process: by the house at every level, by what it is made of as far as a person would
/// look for a mistake. (At `trace` wasmtime writes down what every guest says to its host, before it is looked at.)
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn kept() -> Self {
        static KEPT: OnceLock<Log> = OnceLock::new();
        let begin = || {
            let log = Self::default();
            let lines = tracing_subscriber::fmt().with_env_filter("debug,kato_plugin_host=trace");
            tracing::subscriber::set_global_default(lines.with_ansi(false).with_writer(log.clone()).finish())
                .unwrap();
            log
        };
        KEPT.get_or_init(begin).clone()
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// No trace of the credential in a text.
fn assert_clean(what: &str, text: &str) {
    for trace in TRACES {
        assert!(!text.contains(trace), "{what}: {trace} in {text}");
    }
}

/// An error with all that is logged of it.
pub(super) fn whole(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(" {error} {error:?}");
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_credential_is_put_on_and_struck_out_of_the_answer() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let log = Log::kept();
    let plain = "HTTP/1.1 200 OK\r\nx-you-sent: {request}\r\nconnection: close\r\n\r\n{request}";
    let server = Server::answering(plain).await;
    let echoed = request(&sandbox, &format!("GET {}/", server.url()), &bearer(&server)).await;
    let stars = "*".repeat(CANARY.len());
    assert_eq!(echoed.message.matches(&format!("authorization: Bearer {stars}|")).count(), 2, "{echoed}");
    assert!(echoed.message.contains("accept-encoding: identity"), "{echoed}");
    // The guest itself read no more than that: it cannot smuggle out what it turns around.
    let argument = format!("GET {}/", server.url());
    let behave = [("behave", "request"), ("argument", argument.as_str()), ("backwards", "yes")];
    let backend = sandbox.load("hostile", &behave, &bearer(&server), quick()).await.unwrap();
    let turned = create(&*backend).await.unwrap_err();
    assert!(turned.message.contains("reraeB :noitazirohtua"), "{turned}");
    assert!(!turned.message.contains("hsuh"), "{turned}");
    for error in [&echoed, &turned] {
        assert_clean("the error", &whole(error));
    }
    let missing = bearer(&server).replace("CLOUD_TOKEN", "OTHER");
    let error = request(&sandbox, &format!("GET {}/", server.url()), &missing).await;
    assert_open(&error, &["OTHER is not set"]);
    assert_clean("the log", &log.text());
}

#[tokio::test]
async fn basic_credentials_are_struck_out_as_they_are_sent_and_as_they_are() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    // kato:canary+hush/hush=hush, as a server that decodes it would show it.
    let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{request} for canary+hush/hush=hush";
    let server = Server::answering(answer).await;
    let grants = bearer(&server).replace("bearer = {", "basic = { user = \"kato\",");
    let echoed = request(&sandbox, &format!("GET {}/", server.url()), &grants).await;
    assert!(echoed.message.contains("authorization: Basic ****"), "{echoed}");
    assert!(echoed.message.contains("for ****"), "{echoed}");
    assert!(!echoed.message.contains("a2F0bzpj"), "{echoed}");
    assert_clean("the error", &whole(&echoed));
}

/// A guest that knows the credential, tries to carry it out this way, and is asked to create a volume.
async fn carry(sandbox: &Sandbox, server: &Server, way: &str) -> Result<String, Error> {
    let url = format!("GET {}", server.url());
    let behave = [("behave", "leak"), ("argument", way), ("url", url.as_str()), ("leak", CANARY)];
    let grants = format!("{}\n[connections]\ndirectory = true\nfile = true", bearer(server));
    let backend = sandbox.load("hostile", &behave, &grants, quick()).await.unwrap();
    match backend.create(wish(token())).await? {
        Effect::Done(made) => Ok(format!("{made:?}")),
        Effect::Pending(pending) => Ok(format!("{pending:?}")),
    }
}

#[tokio::test]
async fn no_answer_carries_a_credential_out() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let log = Log::kept();
    let server = Server::answering(OK).await;
    let holds = "holds a credential of this backend";
    for (way, words) in [
        // What machines read is refused.
        ("handle", ["a handle", holds]),
        ("long-handle", ["a handle", holds]),
        ("token", ["a token", holds]),
        ("mark", ["a mark", holds]),
        ("topology", ["topology keys", holds]),
        ("parameter", ["parameters", holds]),
        ("connection", ["a connection", holds]),
        ("grant", ["a connection", holds]),
        ("resume", ["`resume`", holds]),
        ("url", ["its URL", holds]),
        ("query", ["its URL", holds]),
        ("host", ["its URL", holds]),
        ("header", ["one of its headers", holds]),
        // What people read loses it.
        ("message", ["it is", "[redacted]"]),
        ("detail", ["look into the log", ""]),
        ("hidden", ["[redacted]", ""]),
        ("cut", ["xxx", "[redacted]"]),
        ("panic", ["panicked", "[redacted]"]),
        ("path", ["[redacted]", ""]),
        ("name", ["[redacted]", "not granted"]),
    ] {
        let error = carry(&sandbox, &server, way).await.unwrap_err();
        // What a grant refuses is refused for good.
        assert_told(&error, &words);
        assert_clean(way, &whole(&error));
        let denied = matches!(way, "url" | "query" | "host" | "header" | "path" | "name");
        let kind = if denied { Kind::PermissionDenied } else { Kind::Internal };
        assert_eq!(error.kind, kind, "{way}: {error}");
    }
    for way in ["note", "log"] {
        assert_clean(way, &carry(&sandbox, &server, way).await.unwrap());
    }
    sandbox.neighbour_is_well().await;
    let log = log.text();
    assert!(log.contains("it is [redacted]"), "the guest's lines are in the log");
    assert_clean("the log", &log);
}

#[tokio::test]
async fn what_a_backend_is_and_its_lists_hold_no_credential_either() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let server = Server::answering(OK).await;
    let url = format!("GET {}", server.url());
    for (way, word) in [("fingerprint", "the fingerprint"), ("note", "")] {
        let behave = [("behave", "leak"), ("argument", way), ("url", url.as_str()), ("leak", CANARY)];
        let backend = sandbox.load("hostile", &behave, &bearer(&server), quick()).await.unwrap();
        // The first request, which is what makes the credential known.
        let _whatever = backend.create(wish(token())).await;
        let listed = backend.list(None).await.map(drop).unwrap_err();
        assert_open(&listed, &["the next page's token", "holds a credential"]);
        match backend.check().await {
            Ok(check) => assert_eq!((way, check.note.as_str()), ("note", "[redacted]")),
            Err(error) => {
                assert_open(&error, &[word, "holds a credential"]);
                assert_clean(way, &whole(&error));
            }
        }
    }
}

#[tokio::test]
async fn a_neighbours_credential_directory_and_server_are_its_own() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let server = Server::answering(OK).await;
    // The neighbour is granted the server with a credential, and a directory beside the hostile one's.
    let beside = sandbox.data().parent().unwrap().join("beside");
    std::fs::create_dir(&beside).unwrap();
    let argument = format!("GET {}/", server.url());
    let own = format!("directories = {{ other = {beside:?} }}\n{}", bearer(&server));
    let ask = [("behave", "request"), ("argument", argument.as_str())];
    let neighbour = sandbox.load("neighbour", &ask, &own, quick()).await.unwrap();
    let signed = create(&*neighbour).await.unwrap_err();
    assert!(signed.message.contains("authorization: Bearer ****"), "{signed}");
    let write = [("behave", "grant"), ("argument", "asked")];
    create(&*sandbox.load("neighbour", &write, &own, quick()).await.unwrap()).await.unwrap();
    assert!(beside.join("x").exists());
    // The hostile one asks for the same and has nothing of it.
    let error = request(&sandbox, &argument, "").await;
    assert_open(&error, &["no grant"]);
    let unsigned = request(&sandbox, &argument, &server.grant()).await;
    assert!(unsigned.message.contains("GET / HTTP/1.1"), "{unsigned}");
    assert!(!unsigned.message.contains("authorization"), "{unsigned}");
    let error = sandbox.attack("grant", "asked", "").await.map(drop).unwrap_err();
    assert_told(&error, &["\"other\"", "not granted"]);
    let error = sandbox.attack("write", "../beside/y", "").await.map(drop).unwrap_err();
    assert_told(&error, &[]);
    assert_eq!(error.kind, Kind::PermissionDenied);
    let grants = "connections = { directory = true }";
    let error = sandbox.attack("directory", "../beside", grants).await.map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::PermissionDenied);
    assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 1);
}
