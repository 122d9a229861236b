//! What the operator decides for this door. The daemon nests it in its own configuration as `[docker]`.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// What the operator decides for the Docker door.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where dockerd finds us. The file's name without `.sock` is the driver's name.
    pub socket: PathBuf,
    /// Whether a volume belongs to this host or is the same on every host of a swarm.
    pub scope: Scope,
    /// Whether mounting an unknown volume makes it, as `docker run -v` and dvdcli expect.
    pub implicit: bool,
    /// How long Create and Mount may take, in seconds. dockerd gives up after 120 and undoes nothing.
    pub mount_seconds: u64,
    /// How long everything else may take, in seconds. dockerd gives up after 60.
    pub call_seconds: u64,
    /// How long a client may take to send a request that it has begun, in seconds.
    pub request_seconds: u64,
}

/// Where a volume's name is unique, in Docker's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// On this host.
    #[default]
    Local,
    /// In the whole swarm.
    Global,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("/run/docker/plugins/kato.sock"),
            scope: Scope::default(),
            implicit: true,
            mount_seconds: 110,
            call_seconds: 50,
            request_seconds: 10,
        }
    }
}

impl Config {
    /// What users write after `--volume-driver`.
    #[must_use]
    pub fn driver(&self) -> String {
        self.socket.file_stem().map_or_else(|| "kato".into(), |stem| stem.to_string_lossy().into_owned())
    }

    /// What does not fit, one sentence each; empty when all is well.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !self.socket.is_absolute() {
            mistakes.push(format!("docker.socket is {:?}: give an absolute path", self.socket));
        }
        if self.socket.extension().is_none_or(|extension| extension != "sock") {
            mistakes
                .push(format!("docker.socket is {:?}: dockerd only looks for names in .sock", self.socket));
        }
        for (key, seconds, most) in [
            ("mount-seconds", self.mount_seconds, 119),
            ("call-seconds", self.call_seconds, 59),
            ("request-seconds", self.request_seconds, 60),
        ] {
            if seconds == 0 || seconds > most {
                mistakes
                    .push(format!("docker.{key} is {seconds}: give 1 to {most}, dockerd waits no longer"));
            }
        }
        mistakes
    }

    pub(crate) fn mount_wait(&self) -> Duration {
        Duration::from_secs(self.mount_seconds)
    }

    pub(crate) fn call_wait(&self) -> Duration {
        Duration::from_secs(self.call_seconds)
    }

    pub(crate) fn request_wait(&self) -> Duration {
        Duration::from_secs(self.request_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_configuration_has_no_mistakes() {
        assert_eq!(Config::default().mistakes(), Vec::<String>::new());
        assert_eq!(Config::default().driver(), "kato");
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let config = Config {
            socket: "plugins/kato".into(),
            mount_seconds: 120,
            call_seconds: 0,
            ..Config::default()
        };
        assert_eq!(config.mistakes().len(), 4, "{:?}", config.mistakes());
    }
}
