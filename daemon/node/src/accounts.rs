//! Who this node is at its backends: what a connection leaves out because it differs from node to node, changes, or is
//! nobody else's to know. Secrets are here by reference and are read when they are used. The daemon fills this from its
//! configuration; a worker is told what it needs for its task and forgets it.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use kato_orchestrator::Error;
use serde::{Deserialize, Serialize};

/// Who this node is, by the names of backends that connections give.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// In Ceph clusters.
    pub ceph: BTreeMap<String, Ceph>,
    /// At targets of iSCSI; nothing where they ask for no account.
    pub iscsi: BTreeMap<String, Option<Chap>>,
}

/// Who somebody is in a Ceph cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceph {
    /// The cluster's configuration file.
    pub conf: PathBuf,
    /// The file with the key.
    pub keyring: PathBuf,
    /// The user, without `client.`.
    pub user: String,
}

/// An account at targets of iSCSI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chap {
    /// Who we say that we are.
    pub user: String,
    /// How we prove that.
    pub secret: Secret,
    /// Who the target has to prove that it is.
    pub mutual: Option<Box<Chap>>,
}

/// Where a secret is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// In a file; its trailing line break does not count.
    File(PathBuf),
    /// Here.
    Text(String),
    /// Nowhere, for this reason.
    Nowhere(String),
}

/// A secret that was read. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Plain(String);

impl Secret {
    /// Reads it.
    pub(crate) fn read(&self) -> Result<Plain, Error> {
        let text = match self {
            Self::Text(text) => text.clone(),
            Self::Nowhere(why) => return Err(Error::precondition(why.clone())),
            Self::File(path) => fs::read_to_string(path)
                .map_err(|error| crate::errno::failed(format_args!("read {}", path.display()), error))?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(Error::precondition(format!(
                "the secret in {self:?} is no line of text: see what its source holds"
            )));
        }
        Ok(Plain(text.to_owned()))
    }
}

impl Plain {
    /// The text, for those who hand it over.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Text(_) => f.write_str("the daemon's environment"),
            Self::Nowhere(_) => f.write_str("nowhere"),
        }
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plain(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_line_and_never_prints() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let file = Secret::File(path.clone());
        assert!(file.read().unwrap_err().message.contains("/s"));
        for (written, is_good) in
            [("hush\n", true), ("hush\r\n", true), ("", false), ("\n", false), ("a\nb", false)]
        {
            fs::write(&path, written).unwrap();
            assert_eq!(file.read().is_ok(), is_good, "{written:?}");
        }
        fs::write(&path, "hush\n").unwrap();
        assert_eq!(file.read().unwrap().expose(), "hush");
        let chap = Chap { user: "u".into(), secret: Secret::Text("hush".into()), mutual: None };
        assert!(!format!("{chap:?} {:?}", chap.secret.read().unwrap()).contains("hush"));
        let nowhere = Secret::Nowhere("the variable S is not set".into());
        assert_eq!(nowhere.read().unwrap_err().message, "the variable S is not set");
    }
}
