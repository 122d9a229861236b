//! What Ceph's programs answer, in the contract's words. `rbd` and `ceph` exit with the errno; `rados` exits with 1
//! whatever it was and names the errno in its last line, so that is where it is read. What a number means for one
//! command (17 for a create, 2 for a delete) its caller says; everything that it did not expect comes here.

use kato_plugin_sdk::{
    commands::Output,
    types::{Error, ErrorKind},
};

use crate::names::Token;

pub(crate) const DENIED: i32 = 13;
pub(crate) const ABSENT: i32 = 2;
pub(crate) const WATCHED: i32 = 16;
pub(crate) const THERE: i32 = 17;
pub(crate) const INVALID: i32 = 22;
pub(crate) const HOLDS_SNAPSHOTS: i32 = 39;
pub(crate) const LATE: i32 = 110;
/// A program ended badly and told no number.
const UNTOLD: i32 = -1;

/// What the user of the backend needs.
const CAPS: &str = "check that the keyring holds this user's key, and the user's caps: mon 'profile rbd, allow command \"mgr dump\"' osd 'profile rbd pool=...' mgr \
                    'profile rbd pool=...'";

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Zero when all went well.
    pub(crate) errno: i32,
    pub(crate) stdout: String,
    stderr: String,
}

impl Ended {
    pub(crate) fn of(command: &str, output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        let errno = match (status, command) {
            (1, "rbd-claim" | "rbd-claims" | "rbd-unclaim" | "rbd-marks-by-id") => {
                let named = stderr.lines().rev().find_map(|line| errno(line.strip_prefix("error ")?));
                named.or_else(|| stderr.lines().rev().find_map(bracketed)).unwrap_or(UNTOLD)
            }
            // `ceph` says so of everything that keeps it from reaching the cluster.
            (1, _) if command.starts_with("ceph-") => UNTOLD,
            _ => status,
        };
        Self { errno, stdout, stderr }
    }

    /// The error of a command that should not have ended so.
    pub(crate) fn error(&self, doing: &str) -> Error {
        let (kind, advice) = kind(self.errno);
        let said = said(&self.stderr);
        let said = if said.is_empty() { format!("the program ended with {}", self.errno) } else { said };
        let message =
            if advice.is_empty() { format!("{doing}: {said}") } else { format!("{doing}: {said}; {advice}") };
        Error::new(kind, message).detail(format!("errno {}: {}", self.errno, shortened(&self.stderr, 1000)))
    }
}

/// The number at the beginning of `16: (16) Device or resource busy`.
fn errno(text: &str) -> Option<i32> {
    text.split(':').next()?.trim().parse().ok()
}

/// The number in `error getting omap keys: (2) No such file or directory`.
fn bracketed(line: &str) -> Option<i32> {
    line.split('(').skip(1).find_map(|rest| rest.split(')').next()?.parse().ok())
}

fn kind(errno: i32) -> (ErrorKind, &'static str) {
    match errno {
        1 | DENIED => (ErrorKind::PermissionDenied, CAPS),
        // Whoever expects that a thing is not there says so. Otherwise it went while we were at it.
        ABSENT => (ErrorKind::Busy, ""),
        11 | THERE => (ErrorKind::Busy, ""),
        WATCHED | HOLDS_SNAPSHOTS => (ErrorKind::InUse, ""),
        28 | 122 => (ErrorKind::Exhausted, "delete something, add storage, or raise the pool's quota"),
        95 => (ErrorKind::Unsupported, ""),
        108 => (
            ErrorKind::Unavailable,
            "this host is blocklisted in the cluster: see `ceph osd blocklist ls`, and let it in again by hand",
        ),
        LATE => (ErrorKind::Unavailable, "the cluster did not answer in time: see `ceph -s`"),
        UNTOLD | 5 | 101 | 103 | 104 | 107 | 111 | 112 | 113 | 126 | 127 => (ErrorKind::Unavailable, ""),
        _ => (ErrorKind::Internal, ""),
    }
}

/// What the program said to a person: its last line that is no line of a log.
fn said(stderr: &str) -> String {
    let lines: Vec<_> =
        stderr.lines().map(str::trim).filter(|line| !line.is_empty() && !is_log(line)).collect();
    let line = lines
        .iter()
        .rev()
        .find(|line| line.starts_with("rbd: ") || line.starts_with("Error "))
        .or_else(|| lines.last());
    let line = line.map_or("", |line| line.trim_start_matches("rbd: ").trim_start_matches("error: "));
    shortened(line, 300)
}

/// `2026-11-26T10:46:10.819+0000 7f12c461f380 -1 librbd::…`
fn is_log(line: &str) -> bool {
    let mut words = line.split(' ');
    let time =
        words.next().is_some_and(|word| word.contains('T') && word.starts_with(|c: char| c.is_ascii_digit()));
    time && words
        .next()
        .is_some_and(|word| word.len() > 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn shortened(text: &str, most: usize) -> String {
    text.trim().chars().take(most).collect()
}

pub(crate) fn no_volume(token: &Token) -> Error {
    Error::not_found(format!("there is no volume with the token {token}: the pool has no such image"))
}

/// The token is taken by something with another wish.
pub(crate) fn other_wish(token: &Token, why: &str) -> Error {
    Error::already_exists(format!("an image {token} is there and is not what is asked for: {why}"))
}

/// An answer that is not of the shape that we know.
pub(crate) fn unread(command: &str, answer: &str) -> Error {
    let long = answer.len() >= 1 << 20;
    Error::internal(format!(
        "the answer of {command} cannot be read{}",
        if long {
            ": it is longer than the host takes (1 MiB), so too many things lie in the pool"
        } else {
            ""
        }
    ))
    .detail(shortened(answer, 300))
}

/// A page or question of the wrong size.
pub(crate) fn too_many(what: &str, asked: usize) -> Error {
    Error::invalid(format!("{asked} {what} are asked for at once: 100 are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(command: &str, status: i32, stderr: &str) -> Ended {
        Ended::of(command, Output { status, stdout: String::new(), stderr: stderr.into() })
    }

    #[test]
    fn a_person_reads_what_ceph_said_and_no_log() {
        let stderr = "2026-11-26T10:46:30.195+0000 7f9c5b46380 -1 librbd::image::CreateRequest: 0x55 no\n\
                      rbd: create error: (28) No space left on device\n";
        let error = ended("rbd-create", 28, stderr).error("making the image");
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert!(
            error.message.starts_with("making the image: create error: (28) No space left"),
            "{}",
            error.message
        );
        assert!(error.detail.contains("librbd"));
    }

    #[test]
    fn rados_tells_the_errno_in_its_last_line() {
        let refused =
            "ERROR: failed locking: (16) Device or resource busy\nerror 16: (16) Device or resource busy\n";
        assert_eq!(ended("rbd-claim", 1, refused).errno, 16);
        let absent = "error getting omap keys rbd/rbd_header.1147: (2) No such file or directory\n";
        assert_eq!(ended("rbd-marks-by-id", 1, absent).errno, 2);
        assert_eq!(ended("rbd-claims", 1, "").error("x").kind, ErrorKind::Unavailable);
        assert_eq!(ended("ceph-fsid", 1, "").error("x").kind, ErrorKind::Unavailable);
        assert_eq!(ended("rbd-create", 1, refused).errno, 1);
    }

    #[test]
    fn every_number_has_a_kind() {
        for (errno, kind) in [
            (1, ErrorKind::PermissionDenied),
            (13, ErrorKind::PermissionDenied),
            (16, ErrorKind::InUse),
            (28, ErrorKind::Exhausted),
            (39, ErrorKind::InUse),
            (95, ErrorKind::Unsupported),
            (108, ErrorKind::Unavailable),
            (110, ErrorKind::Unavailable),
            (122, ErrorKind::Exhausted),
            (99, ErrorKind::Internal),
        ] {
            assert_eq!(ended("rbd-info", errno, "rbd: no").error("x").kind, kind, "{errno}");
        }
        assert!(ended("rbd-info", 13, "").error("x").message.contains("caps"));
    }
}
