//! A client of Packet's API that says exactly what it is told to say, and an initiator that does what a node's would: both
//! are nobody's of ours, and ask whether the kit's model tells the truth.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use kato_tests::{
    packet::Packet,
    tgt::{Account, LUN},
};
use serde_json::Value;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The JSON of what has this status.
    pub(super) fn with(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.json()
    }

    /// Why it was refused, in the one sentence that it has.
    pub(super) fn refusal(&self, status: u16) -> String {
        let errors = self.with(status)["errors"].clone();
        assert_eq!(errors.as_array().map(Vec::len), Some(1), "{errors}");
        errors[0].as_str().unwrap().to_owned()
    }
}

/// Somebody with a token.
pub(super) struct Client {
    address: String,
    token: String,
}

impl Client {
    pub(super) fn of(packet: &Packet<'_>) -> Self {
        Self { address: packet.endpoint().trim_start_matches("http://").to_owned(), token: packet.token() }
    }

    pub(super) fn with_token(packet: &Packet<'_>, token: &str) -> Self {
        Self { token: token.to_owned(), ..Self::of(packet) }
    }

    /// Somebody without one, at another address.
    pub(super) fn at(address: &str) -> Self {
        Self { address: address.to_owned(), token: String::new() }
    }

    /// Says this; nothing when the connection ended without an answer.
    pub(super) fn say(&self, method: &str, path: &str, kind: &str, body: &str) -> Option<Reply> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let (address, token) = (&self.address, &self.token);
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nX-Auth-Token: {token}\r\nConnection: close\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header =
            |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(Reply { status, headers: lines.filter_map(header).collect(), body: body.to_owned() })
    }

    pub(super) fn ask(&self, method: &str, path: &str, body: &Value) -> Reply {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.say(method, path, "application/json", &body).expect("an answer")
    }

    pub(super) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &Value::Null)
    }

    pub(super) fn post(&self, path: &str, body: Value) -> Reply {
        self.ask("POST", path, &body)
    }

    pub(super) fn patch(&self, path: &str, body: Value) -> Reply {
        self.ask("PATCH", path, &body)
    }

    pub(super) fn delete(&self, path: &str) -> Reply {
        self.ask("DELETE", path, &Value::Null)
    }
}

/// An initiator: QEMU's, which speaks iSCSI by itself.
#[derive(Clone, Debug)]
pub(crate) struct Initiator {
    pub(super) name: String,
    pub(super) account: Option<Account>,
}

impl Initiator {
    pub(crate) fn named(name: &str) -> Self {
        Self { name: name.to_owned(), account: None }
    }

    /// Does this to the disk of a target, in the words of `qemu-io`: what it printed, or what it complained about. What
    /// does not end is ended.
    pub(crate) fn on(&self, portal: &str, iqn: &str, does: &[&str]) -> Result<String, String> {
        let output = self.command(portal, iqn, does).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // It complains about what goes wrong on the way, and ends as if nothing had.
        let (printed, complaint) = (text(&output.stdout), text(&output.stderr));
        let failed = !output.status.success() || printed.contains("failed") || complaint.contains("failed");
        if failed { Err(format!("{}: {printed}{complaint}", output.status)) } else { Ok(printed) }
    }

    pub(super) fn command(&self, portal: &str, iqn: &str, does: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "30", "qemu-io"]);
        let mut image = format!(
            "driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal},file.target={iqn},file.lun={LUN},\
             file.initiator-name={}",
            self.name
        );
        if let Some(Account { user, secret }) = &self.account {
            command.args(["--object", &format!("secret,id=s,data={secret}")]);
            image.push_str(&format!(",file.user={user},file.password-secret=s"));
        }
        for line in does {
            command.args(["-c", line]);
        }
        command.args(["--image-opts", &image]);
        command
    }
}
