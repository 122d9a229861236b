//! The kernel's own client of Ceph: `rbd device map`, and sysfs for what is mapped. It survives everything but the
//! kernel, needs no server, and tells by itself who it is to the cluster. `--exclusive` keeps its lock: without that two
//! clients hand it to and fro, and both write.

use std::{
    fs,
    path::{Path, PathBuf},
};

use kato_orchestrator::Error;

use super::Image;
use crate::{
    command::{Program, Programs},
    errno::failed,
};

pub(super) fn usable(programs: &Programs) -> Result<(), String> {
    if !Path::new("/sys/bus/rbd").exists() {
        return Err("the kernel has no rbd: load the module (`modprobe rbd`), where it was built".to_owned());
    }
    programs.find(Program::Rbd).map(drop).map_err(|error| error.message)
}

pub(super) fn connect(image: &Image, read_only: bool, programs: &Programs) -> Result<PathBuf, Error> {
    let spec = image.spec();
    let mut words = vec!["device", "map", "--device-type", "krbd", &spec];
    // A lock is a writer's.
    words.push(if read_only { "--read-only" } else { "--exclusive" });
    let ended = image.run(programs, &words)?;
    if ended.code != Some(0) {
        let what = ended.describe(Program::Rbd);
        return Err(Error::unavailable(format!("the kernel did not map the image {spec}: {what}")));
    }
    find(Path::new("/sys/bus/rbd/devices"), image)
        .ok_or_else(|| Error::unavailable(format!("the image {spec} was mapped and is not to be seen")))
}

/// The device of an image, or of one of its snapshots: never one for the other.
pub(super) fn find(devices: &Path, image: &Image) -> Option<PathBuf> {
    let says = |device: &Path, word: &str| {
        fs::read_to_string(device.join(word)).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    fs::read_dir(devices).ok()?.flatten().map(|entry| entry.path()).find_map(|device| {
        let is_it = says(&device, "name") == image.image
            && says(&device, "pool") == image.pool
            && says(&device, "pool_ns") == image.namespace
            && Some(says(&device, "current_snap")).filter(|name| !matches!(name.as_str(), "" | "-"))
                == image.snapshot;
        let number = device.file_name()?.to_str()?;
        is_it.then(|| PathBuf::from(format!("/dev/rbd{number}")))
    })
}

/// Who the kernel is to the cluster: `address:port/nonce`.
pub(super) fn client(device: &Path) -> Result<String, Error> {
    let name = device.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix("rbd").unwrap_or_default();
    let place = Path::new("/sys/bus/rbd/devices").join(number).join("client_addr");
    fs::read_to_string(&place)
        .map(|text| text.trim().to_owned())
        .map_err(|error| failed(format_args!("read {}", place.display()), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accounts::Ceph, server::Place};

    #[test]
    fn a_mapped_image_is_found_by_its_pool_namespace_and_name_and_no_snapshot_is() {
        let sys = tempfile::tempdir().unwrap();
        let device = |number: &str, words: &[(&str, &str)]| {
            let folder = sys.path().join(number);
            fs::create_dir(&folder).unwrap();
            for (word, value) in words {
                fs::write(folder.join(word), format!("{value}\n")).unwrap();
            }
        };
        device("0", &[("name", "i"), ("pool", "p"), ("pool_ns", "n"), ("current_snap", "s")]);
        device("1", &[("name", "i"), ("pool", "p"), ("pool_ns", ""), ("current_snap", "-")]);
        device("2", &[("name", "i"), ("pool", "p"), ("pool_ns", "n"), ("current_snap", "-")]);
        let image = |namespace: &str, image: &str| Image {
            ceph: Ceph { conf: "/c".into(), keyring: "/k".into(), user: "u".into() },
            pool: "p".into(),
            namespace: namespace.into(),
            image: image.into(),
            snapshot: None,
            drivers: Vec::new(),
            servers: Place { folder: "/s".into(), anywhere: false },
        };
        assert_eq!(find(sys.path(), &image("n", "i")), Some("/dev/rbd2".into()));
        assert_eq!(find(sys.path(), &image("", "i")), Some("/dev/rbd1".into()));
        let snapshot = Image { snapshot: Some("s".into()), ..image("n", "i") };
        assert_eq!(find(sys.path(), &snapshot), Some("/dev/rbd0".into()));
        assert_eq!(find(sys.path(), &image("", "j")), None);
        assert_eq!(find(Path::new("/nowhere"), &image("", "i")), None);
    }
}
