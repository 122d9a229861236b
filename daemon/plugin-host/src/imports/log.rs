//! A guest's lines for the daemon's log: cleaned, cut, and limited in number, because a guest that can fill
//! the log can hide in it.

use crate::{
    guest::Guest,
    v1::abi::kato::storage::log::{Host, Level},
};

/// Lines that one call may write.
const LINES: u32 = 50;
/// Bytes of one line.
const LONGEST: usize = 500;

impl Host for Guest {
    async fn log(&mut self, level: Level, message: String) {
        let line = self.reach.notes.line();
        if line > LINES {
            if line == LINES + 1 {
                tracing::warn!(backend = %self.reach.ground.backend, "a plugin wrote more lines in one call than are logged");
            }
            return;
        }
        let message = self.reach.ground.powers.secrets.line(&message, LONGEST);
        let backend = &self.reach.ground.backend;
        match level {
            Level::Debug => tracing::debug!(%backend, plugin = %message, "plugin"),
            Level::Info => tracing::info!(%backend, plugin = %message, "plugin"),
            Level::Warn => tracing::warn!(%backend, plugin = %message, "plugin"),
            Level::Error => tracing::error!(%backend, plugin = %message, "plugin"),
        }
    }
}
