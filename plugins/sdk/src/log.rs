//! Lines for the daemon's log. The host limits their rate and size; never put a credential into one.

use crate::worlds::base::kato::storage::log::{self, Level};

/// For somebody who debugs this backend.
pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

/// Something changed that an operator may want to know.
pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

/// Something is odd, and work goes on.
pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

/// A person has to act.
pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

/// Outside of a component there is no host; what backends log in their tests is nowhere.
fn write(level: Level, message: &str) {
    if cfg!(target_family = "wasm") {
        log::log(level, message);
    }
}
