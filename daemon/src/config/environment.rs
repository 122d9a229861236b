//! What the environment says that is no configuration: systemd's sockets and watchdog, and whether the person
//! at the terminal wants colours. Together with `sources.rs` the only reader of the environment.

use std::{ffi::OsString, time::Duration};

use kato_docker_plugin::Passed;

/// What systemd, or whoever speaks its language, handed to us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Service {
    /// Where we say that we are ready.
    pub(crate) notify: Option<OsString>,
    /// How long we may be silent.
    pub(crate) watchdog: Option<Duration>,
    /// The sockets that were bound for us.
    pub(crate) passed: Passed,
}

impl Service {
    /// What this process was handed. What is meant for another process (our parent) is not ours.
    pub(crate) fn here() -> Self {
        let text = |name: &str| std::env::var_os(name)?.into_string().ok();
        let own = |name: &str| text(name).is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = text("WATCHDOG_USEC").filter(|_| own("WATCHDOG_PID"));
        Self {
            notify: std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
            watchdog: watchdog.and_then(|usec| usec.parse().ok()).map(Duration::from_micros),
            passed: Passed {
                pid: text("LISTEN_PID").unwrap_or_default(),
                count: text("LISTEN_FDS").unwrap_or_default(),
                names: text("LISTEN_FDNAMES").unwrap_or_default(),
            },
        }
    }
}

/// Whether the person asked for no colours (<https://no-color.org>).
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// A secret that a grant refers to by the name of its variable.
pub(crate) fn secret(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}
