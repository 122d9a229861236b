//! What servers answer: too much, too slowly, packed too tightly.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use kato_orchestrator::{Error, Kind};
use kato_plugin_host::Limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Sandbox, assert_open, create, quick};

/// Listens, and lets the first who comes have its way.
async fn listening<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> (u16, JoinSet<()>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // All of the request: a connection that is closed with something unread is cut, and so is what was sent.
        let mut heard = [0; 4096];
        assert!(stream.read(&mut heard).await.unwrap() > 0);
        serve(stream).await;
    });
    (port, tasks)
}

async fn ask(sandbox: &Sandbox, behave: &str, port: u16, limits: Limits) -> Error {
    let grants = format!("[[http]]\nurl = \"http://127.0.0.1:{port}\"\naddresses = \"loopback\"");
    let argument = format!("GET http://127.0.0.1:{port}/");
    let argument = if behave == "inflate" { argument.trim_start_matches("GET ") } else { &argument };
    let behave = [("behave", behave), ("argument", argument)];
    let backend = sandbox.load("hostile", &behave, &grants, limits).await.unwrap();
    create(&*backend).await.unwrap_err()
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut() {
    let sandbox = Sandbox::new();
    let (port, mut tasks) = listening(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
    })
    .await;
    let limits = Limits { response_mib: 1, cpu_ms: 5_000, ..quick() };
    let error = ask(&sandbox, "request", port, limits).await;
    assert_open(&error, &["broke off"]);
    tasks.join_next().await.unwrap().unwrap();
    sandbox.neighbour_is_well().await;
}

#[tokio::test]
async fn an_answer_by_the_byte_has_the_deadline_of_the_call_and_is_hung_up_on() {
    let sandbox = Sandbox::new();
    let (port, mut tasks) = listening(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
        // Goes on until the client has hung up.
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let waiting = ask(&sandbox, "request", port, Limits { wall_ms: 1_500, ..quick() });
    tokio::pin!(waiting);
    tokio::select! {
        biased;
        () = sandbox.neighbour_is_well() => {}
        error = &mut waiting => panic!("it ended before its neighbour had an answer: {error}"),
    }
    let error = waiting.await;
    assert_open(&error, &["did not answer within 1500 ms", "wall_ms"]);
    assert_eq!(error.kind, Kind::Timeout);
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn headers_without_an_end_are_cut_too() {
    let sandbox = Sandbox::new();
    let (port, mut tasks) = listening(async |mut stream: TcpStream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        let line = format!("x-more: {}\r\n", "x".repeat(1000));
        while stream.write_all(line.as_bytes()).await.is_ok() {}
    })
    .await;
    let error = ask(&sandbox, "request", port, quick()).await;
    assert_open(&error, &["the request failed"]);
    tasks.join_next().await.unwrap().unwrap();
    sandbox.neighbour_is_well().await;
}

/// So many mebibytes of nothing, packed.
#[expect(clippy::disallowed_methods, reason = "gzip packs it")]
fn packed(mebibytes: u32) -> Vec<u8> {
    let line = format!("head -c {mebibytes}M /dev/zero | gzip -n");
    let output = Command::new("sh").args(["-c", &line]).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[tokio::test]
async fn nothing_is_unpacked_for_a_guest_and_what_it_unpacks_itself_fills_its_own_memory() {
    let sandbox = Sandbox::new();
    for (mebibytes, word) in [(1, "became Ok(1048576)"), (200, "its limit is 64 MiB")] {
        let bomb = packed(mebibytes);
        let length = bomb.len();
        let (port, _tasks) = listening(async move |mut stream: TcpStream| {
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&bomb).await.unwrap();
        })
        .await;
        let error = ask(&sandbox, "inflate", port, Limits { cpu_ms: 20_000, ..quick() }).await;
        assert_open(&error, &[word]);
        if mebibytes == 1 {
            assert_open(&error, &[&format!("{length} bytes")]);
        }
    }
    sandbox.neighbour_is_well().await;
}
