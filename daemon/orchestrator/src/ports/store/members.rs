//! Who shares a store: nodes show themselves under a lease, which the store keeps up while they live.
//!
//! A lease is not a life. It outlives the process that asked for it, for as long as it was granted: so its id goes
//! to disk before the node serves anything, and the next process takes it up again ([`Attendance::lease`]). A crash
//! or an upgrade that is over sooner is seen by nobody. Once a lease ran out it never comes back: whoever was shown
//! under it is gone for the others, the claims made under it are anybody's, and what is still written under them
//! is refused ([`Guard::Claimed`](super::Guard)). Such a node attends anew, after it has found out what became of
//! it meanwhile.
//!
//! What follows from somebody's absence is not decided here: the store tells who is there and who is not.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use super::{Entry, Revision};
use crate::{error::Error, model::NodeId};

/// The name of a lease, as it is kept on disk: 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl LeaseId {
    /// Reads what was written with `Display`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attendance {
    /// Who it is.
    pub node: NodeId,
    /// Which of its lives this is.
    pub session: u64,
    /// The newest schema of records that it can read.
    pub schema: u16,
    /// The lease of the process before, if one is known: taken up again if it has not run out.
    pub lease: Option<LeaseId>,
    /// How long a new lease lives without being kept up. A shared store rounds it up to whole seconds and to
    /// what it can keep up at all.
    pub ttl: Duration,
}

/// A node that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub node: NodeId,
    /// Which of its lives this is.
    pub session: u64,
    /// The newest schema of records that it can read.
    pub schema: u16,
    /// What it is shown under.
    pub lease: LeaseId,
    /// When it came, in revisions of the store.
    pub since: Revision,
}

/// Who is there at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// In the order of their names.
    pub members: Vec<Member>,
    /// The moment.
    pub revision: Revision,
}

/// A node's lease, kept up until this is dropped; then it lives as long as it was granted for.
#[async_trait]
pub trait Lease: Send + Sync {
    /// To be kept on disk for the next process.
    fn id(&self) -> LeaseId;

    /// How much longer it certainly lives, as far as this host's clock can tell, should nobody keep it up. Nothing
    /// is left when the store has not been heard for that long: the node has to behave as if it were fenced, and
    /// may still turn out not to be.
    fn remaining(&self) -> Duration;

    /// Returns when the lease is known to have run out. It never comes back.
    async fn lost(&self);

    /// Gives it up: the others see at once that this node is gone. For a node that is taken out of the cluster; a
    /// stop for a while leaves the lease alone.
    async fn give_up(&self) -> Result<(), Error>;
}

/// The nodes that share a store.
#[async_trait]
pub trait Members: Send + Sync + 'static {
    /// Shows this node to the others; claims are made under its lease from now on. `InUse` says that somebody
    /// else is shown under this name, `Precondition` that the records are in a schema that it cannot read.
    async fn attend(&self, attendance: Attendance) -> Result<Box<dyn Lease>, Error>;

    /// Who is there.
    async fn present(&self) -> Result<Present, Error>;

    /// Waits until somebody came or went after that moment, and answers who is there then.
    async fn changed_since(&self, revision: Revision) -> Result<Present, Error>;

    /// The schema that records may be written in: the newest that all who are there can read, and none that is
    /// older than what was written before. Whoever cannot read it is not let in any more once it was answered.
    async fn schema(&self) -> Result<u16, Error>;

    /// A person has decided to take records for the truth that were refused because they were set back. The first node
    /// that is told so makes them what it remembers, before anybody else believes them; it is answered true. The others
    /// join what they find.
    async fn believe(&self, remembered: Vec<Entry>) -> Result<bool, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        for id in [0, 7, u64::MAX] {
            assert_eq!(LeaseId::parse(&LeaseId(id).to_string()), Some(LeaseId(id)));
        }
        for wrong in ["", "7", "+000000000000007", "000000000000000g", "00000000000000007"] {
            assert_eq!(LeaseId::parse(wrong), None, "{wrong}");
        }
    }
}
