//! Where things are in etcd. Everything lies beneath one prefix, so that several houses, and strangers, can share a
//! cluster, and a user's role needs one line:
//!
//! ```text
//! <prefix>house                      whose records these are, their schema, and whether they are whole (`house.rs`)
//! <prefix>c/<key> NUL <ticket>       who claims a key, and who waits for it (`claims.rs`); under a lease
//! <prefix>k                          up to where history was given up (`tidy.rs`)
//! <prefix>r/<key>                    a record, as the hall sealed it
//! <prefix>s/b/<node>                 written to see it come back (`follow.rs`)
//! <prefix>s/n/<node>                 a node that is there (`members.rs`); under its lease
//! <prefix>t/<node>/<process>/<slot>  a receipt: the last write of this slot (`receipts.rs`)
//! ```
//!
//! `r/` and `s/` lie side by side, for one watch has both.

use kato_orchestrator::{Error, ports::store::Key};

use super::wire::all_that_begin;

/// The longest prefix.
const LONGEST: usize = 256;

/// The keys beneath a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    prefix: String,
}

/// What a key that was watched is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A record.
    Record(Key),
    /// A node.
    Node(String),
    /// Anything else.
    Other,
}

impl Layout {
    /// Beneath a prefix that can be one.
    pub(crate) fn new(prefix: &str) -> Result<Self, Error> {
        let plain = prefix.len() <= LONGEST && prefix.bytes().all(|byte| byte.is_ascii_graphic());
        if !plain || prefix.is_empty() {
            return Err(Error::invalid(format!(
                "{prefix:?} can be no prefix in etcd: write one to {LONGEST} letters, digits and signs without spaces, \
                 for example \"kato/\""
            )));
        }
        let prefix = if prefix.ends_with('/') { prefix.to_owned() } else { format!("{prefix}/") };
        Ok(Self { prefix })
    }

    /// Everything of this house.
    pub(crate) fn everything(&self) -> (Vec<u8>, Vec<u8>) {
        all_that_begin(self.prefix.as_bytes())
    }

    /// Whose records these are.
    pub(crate) fn house(&self) -> Vec<u8> {
        self.at("house")
    }

    /// Up to where history was given up.
    pub(crate) fn compaction(&self) -> Vec<u8> {
        self.at("k")
    }

    /// A record.
    pub(crate) fn record(&self, key: &str) -> Vec<u8> {
        self.at(&format!("r/{key}"))
    }

    /// All records whose keys begin so, after one of them.
    pub(crate) fn records(&self, prefix: &str, after: Option<&str>) -> (Vec<u8>, Vec<u8>) {
        let (mut from, end) = all_that_begin(&self.record(prefix));
        if let Some(after) = after.filter(|after| *after >= prefix) {
            from = self.record(after);
            from.push(0);
        }
        (from, end)
    }

    /// The record that a key is of.
    pub(crate) fn key(&self, key: &[u8]) -> Option<Key> {
        match self.place(key) {
            Place::Record(key) => Some(key),
            Place::Node(_) | Place::Other => None,
        }
    }

    /// What is watched.
    pub(crate) fn watched(&self) -> (Vec<u8>, Vec<u8>) {
        (self.at("r/"), self.at("t"))
    }

    /// What a key is.
    pub(crate) fn place(&self, key: &[u8]) -> Place {
        let Some(rest) = std::str::from_utf8(key).ok().and_then(|key| key.strip_prefix(&self.prefix)) else {
            return Place::Other;
        };
        if let Some(key) = rest.strip_prefix("r/") {
            Place::Record(key.to_owned())
        } else if let Some(node) = rest.strip_prefix("s/n/") {
            Place::Node(node.to_owned())
        } else {
            Place::Other
        }
    }

    /// What a node writes to see it come back.
    pub(crate) fn barrier(&self, node: &str) -> Vec<u8> {
        self.at(&format!("s/b/{node}"))
    }

    /// A node that is there.
    pub(crate) fn node(&self, node: &str) -> Vec<u8> {
        self.at(&format!("s/n/{node}"))
    }

    /// All nodes that are there.
    pub(crate) fn nodes(&self) -> (Vec<u8>, Vec<u8>) {
        all_that_begin(&self.at("s/n/"))
    }

    /// A place in a queue, called by its key and its ticket with a NUL in between.
    pub(crate) fn ticket(&self, name: &str) -> Vec<u8> {
        self.at(&format!("c/{name}"))
    }

    /// The queue for a key.
    pub(crate) fn queue(&self, key: &str) -> (Vec<u8>, Vec<u8>) {
        all_that_begin(&self.at(&format!("c/{key}\0")))
    }

    /// What the keys of all queues begin with.
    pub(crate) fn queues(&self) -> Vec<u8> {
        self.at("c/")
    }

    /// All queues.
    pub(crate) fn all_queues(&self) -> (Vec<u8>, Vec<u8>) {
        all_that_begin(&self.queues())
    }

    /// A receipt.
    pub(crate) fn receipt(&self, node: &str, process: &str, slot: u64) -> Vec<u8> {
        self.at(&format!("t/{node}/{process}/{slot}"))
    }

    /// All receipts of a node.
    pub(crate) fn receipts(&self, node: &str) -> (Vec<u8>, Vec<u8>) {
        all_that_begin(&self.at(&format!("t/{node}/")))
    }

    /// The receipts of everybody.
    pub(crate) fn all_receipts(&self) -> (Vec<u8>, Vec<u8>) {
        all_that_begin(&self.at("t/"))
    }

    fn at(&self, rest: &str) -> Vec<u8> {
        [self.prefix.as_bytes(), rest.as_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_what_it_was_made_as() {
        let layout = Layout::new("house-1").unwrap();
        assert_eq!(layout.house(), b"house-1/house");
        assert_eq!(layout.key(&layout.record("v/1")), Some("v/1".to_owned()));
        assert_eq!(layout.place(&layout.node("a")), Place::Node("a".to_owned()));
        assert_eq!(layout.place(&layout.barrier("a")), Place::Other);
        assert_eq!(layout.place(b"house-2/r/v/1"), Place::Other);
        let (from, end) = layout.watched();
        for (key, watched) in [
            (layout.record(""), true),
            (layout.record("\u{7f}"), true),
            (layout.barrier("z"), true),
            (layout.node("a"), true),
            (layout.receipt("a", "b", 0), false),
            (layout.ticket("a\0b"), false),
            (layout.compaction(), false),
        ] {
            assert_eq!(key >= from && key < end, watched, "{key:?}");
        }
    }

    #[test]
    fn records_are_read_after_one_of_them() {
        let layout = Layout::new("k/").unwrap();
        assert_eq!(layout.records("v/", None), (b"k/r/v/".to_vec(), b"k/r/v0".to_vec()));
        assert_eq!(layout.records("v/", Some("v/1")).0, b"k/r/v/1\0");
        assert_eq!(layout.records("v/", Some("a")).0, b"k/r/v/");
        assert_eq!(layout.records("", None), (b"k/r/".to_vec(), b"k/r0".to_vec()));
    }

    #[test]
    fn what_can_be_no_prefix_is_refused() {
        for wrong in ["", "a b", "ü", &"k".repeat(300)] {
            assert!(Layout::new(wrong).is_err(), "{wrong}");
        }
    }
}
