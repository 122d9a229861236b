//! What etcd says when it says no, and what that means here: the one table. etcd tells its errors apart by their text
//! alone (its own client does the same): the code is shared by what has to be waited for and what never mends.

use kato_orchestrator::Error;
use tonic::{Code, Status};

/// Why a member did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// What was asked about is too old.
    Compacted,
    /// What was asked about has not happened yet: how a large transaction is given up (`draft.rs`).
    FutureRevision,
    /// The database is full, and nothing is written until somebody makes room.
    NoSpace,
    /// More operations than it takes in one transaction.
    TooManyOperations,
    /// More bytes than it takes in one request.
    TooLarge,
    /// There is no such lease, or there is none any more.
    NoLease,
    /// There is a lease of this id.
    LeaseExists,
    /// The pass is not good any more, or there was none.
    NoPass,
    /// The user and the password do not fit.
    WrongPassword,
    /// etcd asks nobody for a password.
    NoUsers,
    /// The user may not.
    Denied,
    /// The member has no leader: it is cut off, or there is an election.
    NoLeader,
    /// The member has too much to do.
    Busy,
    /// The members' data differ.
    Corrupt,
    /// It was not heard what became of it: the member went away, was too slow, or gave up waiting itself.
    Lost,
    /// Anything else.
    Other,
}

impl Cause {
    /// What a status means.
    pub(crate) fn of(status: &Status) -> Self {
        let says = |text: &str| status.message().contains(text);
        match status.code() {
            _ if says("required revision has been compacted") => Self::Compacted,
            _ if says("required revision is a future revision") => Self::FutureRevision,
            _ if says("database space exceeded") => Self::NoSpace,
            _ if says("too many operations in txn") => Self::TooManyOperations,
            _ if says("request is too large") || says("larger than max") => Self::TooLarge,
            _ if says("requested lease not found") => Self::NoLease,
            _ if says("lease already exists") => Self::LeaseExists,
            _ if says("invalid auth token") || says("user name is empty") || says("auth store is old") => {
                Self::NoPass
            }
            _ if says("authentication failed") => Self::WrongPassword,
            _ if says("authentication is not enabled") => Self::NoUsers,
            _ if says("no leader") => Self::NoLeader,
            _ if says("too many requests") => Self::Busy,
            Code::DataLoss => Self::Corrupt,
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated => Self::NoPass,
            Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::Internal
            | Code::Unknown => Self::Lost,
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented => Self::Other,
        }
    }

    /// Whether another member, or the same a little later, may do it.
    pub(crate) fn mends_itself(self) -> bool {
        match self {
            Self::NoLeader | Self::Busy | Self::Lost => true,
            Self::Compacted
            | Self::FutureRevision
            | Self::NoSpace
            | Self::TooManyOperations
            | Self::TooLarge
            | Self::NoLease
            | Self::LeaseExists
            | Self::NoPass
            | Self::WrongPassword
            | Self::NoUsers
            | Self::Denied
            | Self::Corrupt
            | Self::Other => false,
        }
    }
}

/// What the status behind an error of ours means.
pub(crate) fn cause_of(error: &Error) -> Option<Cause> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<Status>().map(Cause::of)
}

/// What a caller hears of a status that nothing was tried against.
pub(crate) fn from_wire(status: &Status) -> Error {
    let said = told(status);
    let error = match Cause::of(status) {
        Cause::NoSpace => Error::exhausted(
            "etcd's database is full (alarm NOSPACE) and takes only what removes records: compact and defragment it, or \
             raise its --quota-backend-bytes, then `etcdctl alarm disarm`; until then volumes stay as they are",
        ),
        Cause::TooManyOperations => Error::precondition(
            "etcd takes fewer operations in one transaction than the 128 that it takes by default: start its members \
             with --max-txn-ops=128 or more",
        ),
        Cause::TooLarge => Error::precondition(
            "etcd takes fewer bytes in one request than the 1.5 MiB that it takes by default: start its members with \
             --max-request-bytes=1572864 or more",
        ),
        Cause::WrongPassword => Error::permission_denied(
            "etcd does not know this user with this password: see store.etcd.user and store.etcd.password",
        ),
        Cause::NoPass => Error::permission_denied(
            "etcd wants to know who asks: write store.etcd.user and store.etcd.password",
        ),
        Cause::NoUsers => Error::precondition(
            "etcd asks nobody for a password: take store.etcd.user away, or `etcdctl auth enable`",
        ),
        Cause::Denied => Error::permission_denied(
            "etcd does not let this user read and write beneath store.etcd.prefix: grant its role `readwrite` with \
             --prefix there",
        ),
        Cause::Corrupt => Error::internal(format!(
            "etcd says that the data of its members differ ({said}): repair it before anything else"
        )),
        Cause::NoLease => Error::unavailable("the lease of this node has run out"),
        Cause::Compacted => Error::out_of_range("etcd does not remember that revision any more"),
        Cause::LeaseExists | Cause::FutureRevision | Cause::Other => {
            Error::internal(format!("etcd refused a request ({said}): this is a bug, please report it"))
        }
        Cause::NoLeader | Cause::Busy | Cause::Lost => {
            Error::unavailable(format!("etcd cannot be reached or has no majority now ({said})"))
        }
    };
    error.caused_by(status.clone())
}

/// An error with what is behind it.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_not_heard_is_no_refusal() {
        for (status, cause) in [
            (Status::unavailable("etcdserver: request timed out"), Cause::Lost),
            (Status::unavailable("etcdserver: leader changed"), Cause::Lost),
            (Status::unavailable("etcdserver: no leader"), Cause::NoLeader),
            (Status::unknown("transport error"), Cause::Lost),
            (Status::resource_exhausted("etcdserver: mvcc: database space exceeded"), Cause::NoSpace),
            (Status::resource_exhausted("etcdserver: too many requests"), Cause::Busy),
            (Status::invalid_argument("etcdserver: user name is empty"), Cause::NoPass),
            (Status::unauthenticated("etcdserver: invalid auth token"), Cause::NoPass),
            (Status::permission_denied("etcdserver: permission denied"), Cause::Denied),
        ] {
            assert_eq!(Cause::of(&status), cause, "{status}");
        }
    }
}
