//! The ways that the operator gives to requests and commands: a proxy, authorities of its own, a file system
//! that cannot be written.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
};

use kato_orchestrator::Kind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Sandbox, assert_open};

/// A proxy that tunnels, and answers plain requests itself with what it heard. It notes every first line.
struct Proxy {
    port: u16,
    tasks: JoinSet<()>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                served.spawn(serve(stream));
            }
        });
        Self { port, tasks }
    }

    fn grant(&self) -> String {
        format!(
            "proxy = {{ url = \"http://127.0.0.1:{}\", user = \"kato\", secret = {{ env = \"PROXY\" }} }}",
            self.port
        )
    }
}

async fn serve(mut stream: TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_gone) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    // kato:let-me-through, as every proxy expects it.
    if !head.to_ascii_lowercase().contains("proxy-authorization: basic a2f0bzpszxqtbwutdghyb3vnaa==") {
        let _gone = stream.write_all(b"HTTP/1.1 407 Who are you\r\nconnection: close\r\n\r\n").await;
    } else if let Some(target) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) {
        let Ok(mut server) = TcpStream::connect(target).await else { return };
        let _gone = stream.write_all(b"HTTP/1.1 200 Go ahead\r\n\r\n").await;
        let _ended = copy_bidirectional(&mut stream, &mut server).await;
    } else {
        let line = head.lines().next().unwrap_or_default();
        let answer = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nthe proxy heard {line}");
        let _gone = stream.write_all(answer.as_bytes()).await;
    }
}

const ENVIRONMENT: &[(&str, &str)] = &[("PROXY", "let-me-through")];

async fn get(sandbox: &Sandbox, url: &str, grants: &str) -> kato_orchestrator::Error {
    sandbox.attack("request", &format!("GET {url}"), grants).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn plain_requests_are_handed_to_the_proxy_whole() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let proxy = Proxy::start().await;
    let grants = format!("[[http]]\nurl = \"http://storage.internal.test\"\n{}", proxy.grant());
    let heard = get(&sandbox, "http://storage.internal.test/v1/disks", &grants).await;
    assert!(heard.message.contains("the proxy heard GET http://storage.internal.test/v1/disks"), "{heard}");
    let refused = get(&sandbox, "http://other.internal.test/", &grants).await;
    assert_open(&refused, &["no grant"]);
    let stranger = grants.replace("kato", "somebody");
    let refused = get(&sandbox, "http://storage.internal.test/v1/disks", &stranger).await;
    assert!(refused.message.contains("407"), "{refused}");
}

#[tokio::test]
async fn a_proxy_is_no_way_to_addresses_that_are_not_granted() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let proxy = Proxy::start().await;
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "0177.1",
        "127.0.0.1",
        "[::ffff:10.0.0.1]",
    ] {
        let grants = format!("[[http]]\nurl = \"http://{host}\"\naddresses = \"public\"\n{}", proxy.grant());
        let error = get(&sandbox, &format!("http://{host}/"), &grants).await;
        assert_eq!(error.kind, Kind::PermissionDenied, "{host}: {error}");
    }
}

/// An authority, and a certificate of its for `localhost`.
const CERTIFY: &str = "set -e; exec 2>/dev/null; new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $new -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem
openssl req $new -subj /CN=localhost -keyout key.pem -out ask.pem
printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > extensions
openssl x509 -req -in ask.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile extensions -out cert.pem";

/// A server with a certificate that only its own authority vouches for.
struct Encrypted {
    child: Child,
    port: u16,
    /// Kept open, for it goes on talking.
    _words: BufReader<ChildStdout>,
}

impl Encrypted {
    async fn start(folder: &Path) -> Self {
        assert!(shell(folder, CERTIFY).wait().unwrap().success(), "openssl makes the certificates");
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let serve = format!("exec openssl s_server -www -accept {port} -cert cert.pem -key key.pem");
        let mut child = shell(folder, &serve);
        let mut words = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // A connection that says nothing would end it, so it is not knocked at.
        while !line.starts_with("ACCEPT") {
            line.clear();
            assert!(words.read_line(&mut line).unwrap() > 0, "openssl ended before it listened");
        }
        Self { child, port, _words: words }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the suite brings its own server")]
fn shell(folder: &Path, line: &str) -> Child {
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn the_operators_own_authorities_are_believed_and_no_others_straight_and_through_a_tunnel() {
    let sandbox = Sandbox::with_environment(ENVIRONMENT);
    let (temp, proxy) = (tempfile::tempdir().unwrap(), Proxy::start().await);
    for (ca, through, who, word) in [
        (true, false, "", "it answered 200"),
        (true, true, "kato", "it answered 200"),
        (false, false, "", "TlsCertificateError"),
        (false, true, "kato", "TlsCertificateError"),
        (true, true, "somebody", "refused a tunnel"),
    ] {
        // One each: it ends with the first client that hangs up on it.
        let server = Encrypted::start(temp.path()).await;
        let url = format!("https://localhost:{}", server.port);
        let mut grants = format!("[[http]]\nurl = \"{url}\"\naddresses = \"loopback\"\n");
        if ca {
            grants += &format!("ca = {:?}\n", temp.path().join("ca.pem"));
        }
        if through {
            grants += &proxy.grant().replace("kato", who);
        }
        let heard = get(&sandbox, &format!("{url}/"), &grants).await;
        assert!(heard.message.contains(word), "{grants}: {heard}");
    }
    drop(proxy.tasks);
}

#[tokio::test]
async fn a_command_can_write_nothing_unless_it_is_granted() {
    let sandbox = Sandbox::new();
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = place.path().join("left");
    let run = async |more: &str| {
        let grants = format!("[commands]\nwho = {{ line = \"/usr/bin/touch {}\"{more} }}", file.display());
        sandbox.attack("command", "who", &grants).await.map(drop).unwrap_err()
    };
    let refused = run("").await;
    assert!(!refused.message.starts_with("0 "), "{refused}");
    assert!(!file.exists(), "a command left something behind: {refused}");
    let allowed = run(", writable = true").await;
    assert!(allowed.message.starts_with('0') && file.exists(), "{allowed}");
    sandbox.neighbour_is_well().await;
}
