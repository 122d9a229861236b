//! Constructors of the contract's error. The kind is for the host, the message is for a person and says what
//! is wrong and what to do about it; what the backend itself said goes into `detail`, for the log. A
//! credential goes into neither.
//!
//! ```
//! use kato_plugin_sdk::types::{Error, ErrorKind};
//!
//! let error = Error::throttled("the cloud asks for fewer calls").retry_after_ms(2_000).detail("HTTP 429");
//! assert_eq!(error.kind, ErrorKind::Throttled);
//! assert_eq!(error.retry_after_ms, Some(2_000));
//! ```

use crate::types::{Error, ErrorKind};

impl Error {
    /// An error of this kind.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), detail: String::new(), retry_after_ms: None }
    }

    /// The same error, with what the backend said, for the log.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// The same error, with the word when to ask again.
    #[must_use]
    pub fn retry_after_ms(mut self, wait: u64) -> Self {
        self.retry_after_ms = Some(wait);
        self
    }

    /// The same error, with what was being done in front of its message: `making the image: no room`.
    #[must_use]
    pub fn while_at(mut self, doing: impl std::fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident),* $(,)?) => {
        impl Error { $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(message: impl Into<String>) -> Self { Self::new(ErrorKind::$kind, message) }
        )* }
    };
}

constructors! {
    /// Malformed, or unsatisfiable as written.
    invalid => InvalidArgument,
    /// A capacity or page outside of what is allowed.
    out_of_range => OutOfRange,
    /// What the call is about does not exist.
    not_found => NotFound,
    /// The token is taken by a thing with another wish.
    already_exists => AlreadyExists,
    /// Something depends on it or holds it.
    in_use => InUse,
    /// Out of order, or beyond what the thing can do in its state.
    precondition => Precondition,
    /// Another operation of the backend's own is in the way.
    busy => Busy,
    /// No space, quota or slot.
    exhausted => Exhausted,
    /// Credentials or a grant refuse.
    permission_denied => PermissionDenied,
    /// This backend cannot do that at all.
    unsupported => Unsupported,
    /// Out of reach, or failing in a way that passes.
    unavailable => Unavailable,
    /// The backend asks for fewer calls.
    throttled => Throttled,
    /// The creation token can never be used again.
    token_burnt => TokenBurnt,
    /// None of the others.
    internal => Internal,
}
