//! Secrets of the daemon's own, by reference: the configuration says where one is, and here it is fetched. Those of
//! backends are the plugin host's business.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::Error;
use kato_plugin_host::SecretSource;

use crate::config::environment;

/// The secret that is meant.
pub(crate) fn read(source: &SecretSource) -> Result<Vec<u8>, Error> {
    let from = |path: PathBuf| {
        fs::read(&path).map_err(|error| {
            Error::precondition(format!("{} cannot be read: {error}", path.display())).caused_by(error)
        })
    };
    let mut secret = match source {
        SecretSource::File(path) => from(path.clone())?,
        SecretSource::Env(name) => environment::secret(name)
            .ok_or_else(|| Error::precondition(format!("the variable {name} is not set for the daemon")))?
            .into_bytes(),
        SecretSource::Credential(name) => {
            let folder = environment::secret("CREDENTIALS_DIRECTORY").ok_or_else(|| {
                Error::precondition(format!(
                    "systemd hands over no credentials here: add LoadCredential={name}:PATH to the unit"
                ))
            })?;
            from(Path::new(&folder).join(name))?
        }
    };
    // A person's editor, or `echo`, ends the file with a line break; the secret is the line.
    if secret.ends_with(b"\n") {
        secret.pop();
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_line_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, format!("{}\n", "k".repeat(32))).unwrap();
        assert_eq!(read(&SecretSource::File(path)).unwrap(), "k".repeat(32).into_bytes());
        assert!(read(&SecretSource::File(folder.path().join("none"))).is_err());
    }
}
