//! What the kernel says, in the house's words: the only table from errno to [`Kind`]. Each error names the
//! thing it happened to; whoever knows a remedy adds it to the text. It knows no volume.

use std::{fmt::Display, io};

use kato_orchestrator::{Error, Kind};
use rustix::io::Errno;

/// The error of a call to the kernel: `what` could not be done.
pub(crate) fn failed(what: impl Display, error: impl Into<io::Error>) -> Error {
    let error = error.into();
    let reason = error.raw_os_error().map_or_else(|| error.to_string(), words);
    Error::new(kind(&error), format!("{what}: {reason}")).caused_by(error)
}

/// Whether the kernel said this.
pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn kind(error: &io::Error) -> Kind {
    let Some(errno) = Errno::from_io_error(error) else {
        return Kind::Unavailable;
    };
    match errno {
        Errno::NOSPC | Errno::DQUOT | Errno::MFILE | Errno::NFILE | Errno::NOMEM => Kind::Exhausted,
        Errno::PERM | Errno::ACCESS => Kind::PermissionDenied,
        Errno::BUSY => Kind::InUse,
        Errno::ROFS | Errno::UCLEAN | Errno::BADMSG | Errno::LOOP | Errno::XDEV | Errno::NOTDIR => {
            Kind::Precondition
        }
        Errno::INVAL => Kind::InvalidArgument,
        Errno::NOSYS | Errno::OPNOTSUPP => Kind::Unsupported,
        _ => Kind::Unavailable,
    }
}

/// The kernel's own words, without `(os error 5)`.
fn words(errno: i32) -> String {
    match Errno::from_raw_os_error(errno) {
        Errno::UCLEAN => "its structures are damaged".into(),
        Errno::IO => "input/output error".into(),
        other => {
            let text = other.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_keep_their_meaning_and_lose_their_number() {
        let error = failed("mount /x", Errno::BUSY);
        assert_eq!(error.kind, Kind::InUse);
        assert_eq!(error.message, "mount /x: Device or resource busy");
        assert_eq!(failed("write", Errno::NOSPC).kind, Kind::Exhausted);
        assert_eq!(failed("read", Errno::IO).kind, Kind::Unavailable);
    }
}
