//! Names that change their mind. A name whose first address is public and whose second one is private is the
//! oldest way around a check of addresses: it is checked as the one and connected to as the other. This machine
//! has no such name, so the test makes one: a network of its own with a name server in it, whose public address
//! is as good as any other's there.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use kato_orchestrator::Kind;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::{Sandbox, assert_open, requests::request};

/// An address that nobody would call private.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
const PRIVATE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const PORT: u16 = 8080;

/// Does something in a network where nobody else is. Threads that are started meanwhile are in it too.
fn in_a_network_of_its_own(work: impl FnOnce(IpAddr) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        #[expect(unsafe_code, reason = "only a table of descriptors that is unshared is unsafe")]
        // SAFETY: the new namespace is one of networks; descriptors stay shared with the other threads.
        unsafe {
            unshare_unsafe(UnshareFlags::NEWNET).expect("a network of its own needs root");
        }
        let resolver = resolver();
        let [public, resolver_address] = [PUBLIC.to_string(), resolver.to_string()];
        ip(&["link", "set", "lo", "up"]);
        ip(&["address", "add", &public, "dev", "lo"]);
        if !resolver.is_loopback() {
            ip(&["address", "add", &resolver_address, "dev", "lo"]);
        }
        work(resolver);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Whom this machine asks for names: in the test's network that is the test.
fn resolver() -> IpAddr {
    let file = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = file.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok());
    servers.into_iter().next().unwrap_or_else(|| PRIVATE.into())
}

#[expect(clippy::disallowed_methods, reason = "the suite arranges its own network")]
fn ip(words: &[&str]) {
    let status = Command::new("ip").args(words).status().expect("`ip` of iproute2");
    assert!(status.success(), "ip {words:?}");
}

/// A name server: `fickle` is public when it is asked first and private ever after, `both` is both at once. It
/// counts how often it is asked for an address.
fn serve_names(address: IpAddr) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind(SocketAddr::new(address, 53)).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // A header of twelve bytes, then the name in pieces, then type and class.
            let name = packet[12..length].iter().position(|&byte| byte == 0).unwrap();
            let question = &packet[12..12 + name + 5];
            let wants_v4 = question[name + 1..name + 3] == [0, 1];
            let addresses = match (&question[1..3], wants_v4) {
                (b"fi", true) if count.fetch_add(1, Ordering::SeqCst) == 0 => vec![PUBLIC],
                (b"fi", true) => vec![PRIVATE],
                (b"bo", true) => vec![PRIVATE, PUBLIC],
                _ => Vec::new(),
            };
            let number = u8::try_from(addresses.len()).unwrap();
            let mut answer = vec![packet[0], packet[1], 0x81, 0x80, 0, 1, 0, number, 0, 0, 0, 0];
            answer.extend_from_slice(question);
            for address in addresses {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
                answer.extend(address.octets());
            }
            socket.send_to(&answer, from).unwrap();
        }
    });
    asked
}

/// A server that says who it is and counts who came.
fn serve(address: Ipv4Addr, says: &'static str) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((address, PORT)).unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut heard = [0; 4096];
            let _heard = stream.read(&mut heard);
            let _gone = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{says}");
        }
    });
    came
}

#[test]
fn the_address_that_was_checked_is_the_one_that_is_connected_to() {
    in_a_network_of_its_own(|resolver| {
        let asked = serve_names(resolver);
        let (public, private) = (serve(PUBLIC, "the public one"), serve(PRIVATE, "the private one"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let sandbox = Sandbox::new();
            let get = async |name: &str| {
                let url = format!("http://{name}.example:{PORT}");
                let grants = format!("[[http]]\nurl = {url:?}\naddresses = \"public\"");
                request(&sandbox, &format!("GET {url}/"), &grants).await
            };
            // One question for one request: nothing is left to change between the check and the connection.
            let first = get("fickle").await;
            assert!(first.message.contains("it answered 200 the public one"), "{first}");
            assert_eq!(asked.load(Ordering::SeqCst), 1);
            let second = get("fickle").await;
            assert_open(&second, &["fickle.example is 127.0.0.1", "this host itself"]);
            assert_eq!(second.kind, Kind::PermissionDenied);
            // Of two addresses at once only the granted one is taken.
            let both = get("both").await;
            assert!(both.message.contains("it answered 200 the public one"), "{both}");
            sandbox.neighbour_is_well().await;
        });
        assert_eq!(public.load(Ordering::SeqCst), 2);
        assert_eq!(private.load(Ordering::SeqCst), 0, "somebody was connected to the private address");
    });
}
