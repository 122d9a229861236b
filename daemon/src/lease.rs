//! The lease's id on this host's disk: the next process takes it up again, and nobody notices that there was another one.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use kato_orchestrator::{Error, Keepsake, ports::store::members::LeaseId};

/// A file in the data folder.
#[derive(Clone, Debug)]
pub(crate) struct LeaseFile(PathBuf);

impl LeaseFile {
    /// The one of this data folder.
    pub(crate) fn beneath(folder: &Path) -> Self {
        Self(folder.join("lease"))
    }

    fn read(&self) -> Result<Option<LeaseId>, Error> {
        match fs::read_to_string(&self.0) {
            // What is no lease's id was cut off by a crash while it was written: there was none before it.
            Ok(text) => Ok(LeaseId::parse(text.trim())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("cannot be read", error)),
        }
    }

    fn write(&self, lease: LeaseId) -> Result<(), Error> {
        let failed = |error| self.failed("cannot be written", error);
        let begun = self.0.with_extension("new");
        let mut file = File::create(&begun).map_err(failed)?;
        writeln!(file, "{lease}").map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&begun, &self.0).map_err(failed)?;
        let folder = self.0.parent().unwrap_or_else(|| Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        Error::unavailable(format!("{} {what}: {error}", self.0.display())).caused_by(error)
    }
}

#[async_trait]
impl Keepsake for LeaseFile {
    async fn lease(&self) -> Result<Option<LeaseId>, Error> {
        let file = self.clone();
        blocking(move || file.read()).await
    }

    async fn keep(&self, lease: LeaseId) -> Result<(), Error> {
        let file = self.clone();
        blocking(move || file.write(lease)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("work on the lease's file was cut short").caused_by(error))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_is_found_by_the_next_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = LeaseFile::beneath(folder.path());
        assert_eq!(file.lease().await.unwrap(), None);
        for lease in [LeaseId(7), LeaseId(u64::MAX)] {
            file.keep(lease).await.unwrap();
            assert_eq!(LeaseFile::beneath(folder.path()).lease().await.unwrap(), Some(lease));
        }
        fs::write(folder.path().join("lease"), "00000").unwrap();
        assert_eq!(file.lease().await.unwrap(), None);
    }
}
