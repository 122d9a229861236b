//! Telling whoever started us how we are, in systemd's words: one datagram for each sentence. Without systemd
//! nobody listens, and nothing is said.

use std::{
    ffi::OsString,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use crate::config::environment::Service;

/// Who listens.
#[derive(Debug)]
pub(crate) struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Whoever this process was told about.
    pub(crate) fn of(service: &Service) -> Self {
        let to = service.notify.as_ref().and_then(|name| match reach(name) {
            Ok(to) => Some(to),
            Err(error) => {
                tracing::warn!(%error, "systemd could not be told how we are");
                None
            }
        });
        Self { to, watchdog: service.watchdog }
    }

    /// Says something, such as `READY=1`.
    pub(crate) fn say(&self, words: &str) {
        if let Some((socket, to)) = &self.to
            && let Err(error) = socket.send_to_addr(words.as_bytes(), to)
        {
            tracing::warn!(%error, "systemd could not be told how we are");
        }
    }

    /// How often we have to say that we live.
    pub(crate) fn beat(&self) -> Option<Duration> {
        self.watchdog.map(|watchdog| watchdog / 2)
    }
}

fn reach(name: &OsString) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let bytes = name.as_bytes();
    let address = match bytes.split_first() {
        Some((b'@', rest)) => SocketAddr::from_abstract_name(rest)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_every_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let ear = UnixDatagram::bind(&path).unwrap();
        let service = Service {
            notify: Some(path.into()),
            watchdog: Some(Duration::from_secs(10)),
            ..Service::default()
        };
        let notifier = Notifier::of(&service);
        notifier.say("READY=1");
        let mut heard = [0; 64];
        let length = ear.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
        assert_eq!(notifier.beat(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn nobody_listens_without_systemd() {
        let notifier = Notifier::of(&Service::default());
        notifier.say("READY=1");
        assert_eq!(notifier.beat(), None);
    }
}
