//! `kato node`: what this host is, what it can connect to, and how much it has to do.

use clap::Subcommand;

use super::{Exit, Failure, Global};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Tell everything about this host
    #[command(alias = "get")]
    Inspect,
}

impl Verb {
    pub(super) fn run(self, global: &Global) -> Result<Exit, Failure> {
        match self {
            Self::Inspect => {
                let mut node = global.client()?.get("/v1/node")?;
                if let Some(map) = node.as_object_mut()
                    && let Some(id) = map.get("id").cloned()
                {
                    map.insert("name".to_owned(), id);
                }
                global.out().things(vec![node])?;
            }
        }
        Ok(Exit::Ok)
    }
}
