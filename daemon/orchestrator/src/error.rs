//! The one error of the house. Adapters translate inward to it, doors translate outward from it, and
//! nobody else names a gRPC status, an HTTP code, an errno or a guest's error.
//!
//! A [`Kind`] exists only because some caller acts differently on it. [`Finality`] says whether the effect
//! that was asked for can still happen: while it is [`Finality::Pending`] no door may tell its caller
//! anything final, or the caller would forget a volume that exists. `message` is for people and safe to
//! show; `source` is for the log.

use std::{fmt, sync::Arc, time::Duration};

/// What went wrong, as far as anybody acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Malformed, or unsatisfiable as written.
    InvalidArgument,
    /// A capacity or page outside of what is allowed.
    OutOfRange,
    /// No such volume, snapshot, node, class or backend.
    NotFound,
    /// The same name or path with another wish.
    AlreadyExists,
    /// Attached, published, or something depends on it.
    InUse,
    /// Out of order, or beyond what the volume can do.
    Precondition,
    /// Another operation is at work.
    Busy,
    /// No space, quota or attachment slot.
    Exhausted,
    /// Credentials or a grant refuse.
    PermissionDenied,
    /// This backend cannot do it.
    Unsupported,
    /// Backend, store or node cannot be reached or throttles.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// A bug, a trap, or a corrupt record.
    Internal,
}

/// When the same request may succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Not as it is written.
    Never,
    /// After somebody changed something.
    AfterChange,
    /// After a while.
    Later,
    /// Almost at once.
    Soon,
}

/// Whether the effect that was asked for is known not to have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finality {
    /// Nothing happened and nothing will.
    Final,
    /// It may have happened, or may yet.
    Pending,
}

impl Kind {
    /// All kinds, for tables and tests.
    pub const ALL: [Self; 13] = [
        Self::InvalidArgument,
        Self::OutOfRange,
        Self::NotFound,
        Self::AlreadyExists,
        Self::InUse,
        Self::Precondition,
        Self::Busy,
        Self::Exhausted,
        Self::PermissionDenied,
        Self::Unsupported,
        Self::Unavailable,
        Self::Timeout,
        Self::Internal,
    ];

    /// When the same request may succeed.
    #[must_use]
    pub fn retry(self) -> Retry {
        match self {
            Self::InvalidArgument
            | Self::OutOfRange
            | Self::NotFound
            | Self::AlreadyExists
            | Self::Unsupported
            | Self::Internal => Retry::Never,
            Self::InUse | Self::Precondition | Self::PermissionDenied => Retry::AfterChange,
            Self::Exhausted | Self::Unavailable => Retry::Later,
            Self::Busy | Self::Timeout => Retry::Soon,
        }
    }

    /// Whether whoever asked hears it at once, because waiting mends nothing.
    #[must_use]
    pub fn is_refusal(self) -> bool {
        matches!(self.retry(), Retry::Never | Retry::AfterChange)
    }

    /// The kind's name in logs, metrics, JSON and records: kebab-case and stable.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid-argument",
            Self::OutOfRange => "out-of-range",
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::InUse => "in-use",
            Self::Precondition => "precondition",
            Self::Busy => "busy",
            Self::Exhausted => "exhausted",
            Self::PermissionDenied => "permission-denied",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What went wrong, with whom, and what to do about it. Cheap to clone, because requests with the same goal
/// share one answer.
#[derive(Clone, Debug)]
#[expect(
    clippy::error_impl_error,
    reason = "the house's errors are called `module::Error`, and this is the house's"
)]
pub struct Error {
    /// What went wrong, for deciding.
    pub kind: Kind,
    /// Whether the effect is known not to have happened.
    pub finality: Finality,
    /// The thing it happened to, as its caller names it; empty when there is none.
    pub subject: String,
    /// What happened and what to do next, for people; safe to show.
    pub message: String,
    /// When to ask again, if whoever refused said so.
    pub retry_after: Option<Duration>,
    /// Whether the creation token can never be used again: the generation is raised, recorded, and the wish
    /// asked with another token.
    pub token_burnt: bool,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A final error of this kind.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            finality: Finality::Final,
            subject: String::new(),
            message: message.into(),
            retry_after: None,
            token_burnt: false,
            source: None,
        }
    }

    /// The same error, about this thing.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// The same error, of an effect whose outcome is unknown.
    #[must_use]
    pub fn pending(mut self) -> Self {
        self.finality = Finality::Pending;
        self
    }

    /// The same error, of an effect that is known not to have happened.
    #[must_use]
    pub fn settled(mut self) -> Self {
        self.finality = Finality::Final;
        self
    }

    /// The same error, with the word when to ask again.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// The same error, of a create whose token can never be used again.
    #[must_use]
    pub fn token_burnt(mut self) -> Self {
        self.token_burnt = true;
        self
    }

    /// The same error, with what caused it, for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Whether the effect is known not to have happened.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.finality == Finality::Final
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Error { $($(#[$doc])* #[must_use] pub fn $name(message: impl Into<String>) -> Self { Self::new(Kind::$kind, message) })* }
    };
}

constructors! {
    /// Malformed, or unsatisfiable as written.
    invalid => InvalidArgument,
    /// A capacity or page outside of what is allowed.
    out_of_range => OutOfRange,
    /// Unknown.
    not_found => NotFound,
    /// The same name with another wish.
    already_exists => AlreadyExists,
    /// Held by somebody.
    in_use => InUse,
    /// Out of order.
    precondition => Precondition,
    /// Somebody else is at work.
    busy => Busy,
    /// No room.
    exhausted => Exhausted,
    /// Refused by credentials or a grant.
    permission_denied => PermissionDenied,
    /// Beyond this backend.
    unsupported => Unsupported,
    /// Out of reach now.
    unavailable => Unavailable,
    /// Too late.
    timeout => Timeout,
    /// A bug or a broken record.
    internal => Internal,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.subject.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.subject, self.message)
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The answer of an idempotent operation: it did something, or everything was so already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The world is different now.
    Changed(T),
    /// It was so already.
    Unchanged(T),
}

impl<T> Outcome<T> {
    /// What was answered, either way.
    pub fn into_inner(self) -> T {
        match self {
            Self::Changed(value) | Self::Unchanged(value) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
    }
}
