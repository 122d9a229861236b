//! What the CSI door is told, and the key that it seals contexts with: the configured one, or, where one daemon is
//! controller and node at once, one that is made in the data folder and stays there.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use kato_csi::SealKey;
use kato_orchestrator::{Error, ports::Ids};

use crate::{clock, config::Config, secrets};

/// What the door is told.
pub(crate) fn door(config: &Config, data: &Path, ids: &dyn Ids) -> Result<kato_csi::Config, Error> {
    let csi = &config.csi;
    let key = match &csi.seal {
        Some(source) => secrets::read(source).and_then(SealKey::new),
        None => own(data, ids).and_then(SealKey::new),
    };
    Ok(kato_csi::Config {
        role: csi.role,
        name: csi.name.clone(),
        topology: config.node.topology.clone(),
        stage: csi.stage,
        roots: csi.roots.clone(),
        wait: csi.wait,
        calls: csi.calls,
        ..kato_csi::Config::new(key.map_err(|error| error.about("csi.seal"))?)
    })
}

/// This daemon's own key, made once.
fn own(data: &Path, ids: &dyn Ids) -> Result<Vec<u8>, Error> {
    let path = data.join("seal");
    match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(broken(&path, error)),
        Ok(text) => return Ok(text),
    }
    let key: String = (0..2).map(|_| clock::hex(ids.next())).collect();
    write(&path, &key).map_err(|error| broken(&path, error))?;
    Ok(key.into_bytes())
}

/// Writes it so that a power cut leaves all of it or none, for nobody else to read.
fn write(path: &Path, key: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn broken(path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("{} cannot be kept: {error}", path.display())).caused_by(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::clock::RandomIds;

    #[test]
    fn a_key_of_its_own_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let ids = RandomIds::new().unwrap();
        let first = own(folder.path(), &ids).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(own(folder.path(), &ids).unwrap(), first);
        let mode = fs::metadata(folder.path().join("seal")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
