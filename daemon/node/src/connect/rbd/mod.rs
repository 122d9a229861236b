//! An image in a Ceph pool becomes a block device in one of three ways, tried in the operator's order: the kernel's own
//! client (`krbd.rs`), the kernel's nbd with a server of Ceph's (`nbd.rs`), and a server of QEMU's behind a loop device
//! (`qemu.rs`), which needs no module. What is connected already is found whatever the order says by now.
//!
//! This file has what they share: who we are in the cluster, and questions to it. Questions are control: they carry
//! limits, for `rbd` waits for ever by default. The data path never does: an error there loses writes, so it waits.

mod krbd;
mod nbd;
mod qemu;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use kato_orchestrator::{
    Error,
    model::{Bytes, VolumeId},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::is_read_only;
use crate::{
    accounts::Ceph,
    command::{Ended, Program, Programs},
    config::RbdDriver,
    server::Place,
};

/// How often it is looked who has an image open besides us, and how long in between.
const LOOKS: u32 = 10;
const BETWEEN: Duration = Duration::from_millis(300);

/// How long the cluster has for an answer about an image, in seconds.
const ANSWER: &str = "15";

/// An image, and how this node reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Who we are in its cluster.
    pub(crate) ceph: Ceph,
    pub(crate) pool: String,
    /// Empty for the default one.
    pub(crate) namespace: String,
    pub(crate) image: String,
    /// A snapshot of it, which is only read.
    pub(crate) snapshot: Option<String>,
    /// The ways to try, the best first.
    pub(crate) drivers: Vec<RbdDriver>,
    pub(crate) servers: Place,
}

impl Image {
    /// The device, made if it is not there.
    pub(crate) fn connect(
        &self,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<PathBuf, Error> {
        if let Some((driver, device)) = self.found(volume)? {
            let is_alive = driver.require_alive(self, volume, &device).is_ok();
            if is_alive && is_read_only(&device) == read_only {
                return Ok(device);
            }
            driver.disconnect(self, volume, &device, programs)?;
        }
        let mut reasons = Vec::new();
        for driver in &self.drivers {
            match driver.usable(programs, &self.servers) {
                Ok(()) => return driver.connect(self, volume, read_only, programs),
                Err(reason) => reasons.push(format!("{}: {reason}", driver.name())),
            }
        }
        Err(Error::unsupported(format!("this node cannot connect images of Ceph: {}", reasons.join("; "))))
    }

    /// The device, if it is connected.
    pub(crate) fn find(&self, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
        Ok(self.found(volume)?.map(|(_, device)| device))
    }

    fn found(&self, volume: VolumeId) -> Result<Option<(RbdDriver, PathBuf)>, Error> {
        for driver in RbdDriver::ALL {
            if let Some(device) = driver.find(self, volume)? {
                return Ok(Some((driver, device)));
            }
        }
        Ok(None)
    }

    /// Who we are to the cluster there: what is shut out when this node has to be. One that only reads is nobody.
    pub(crate) fn client(
        &self,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<Option<String>, Error> {
        if read_only {
            return Ok(None);
        }
        if let Some((RbdDriver::Krbd, device)) = self.found(volume)? {
            return krbd::client(&device).map(Some);
        }
        // Whoever writes the image's metadata has it open too, and is gone in a moment: it may be our own plugin's program.
        let mut looks = 0;
        loop {
            let watchers = self.strangers(programs)?;
            looks += 1;
            match watchers.as_slice() {
                [only] => return Ok(Some(only.clone())),
                [] => {
                    return Err(Error::unavailable(format!(
                        "the image {} is connected here, and its cluster knows of nobody who has it open: it has cut us \
                         off, or does not know yet",
                        self.spec()
                    )));
                }
                _ if looks < LOOKS => sleep(BETWEEN),
                several => {
                    return Err(Error::in_use(format!(
                        "the image {} was opened by somebody else at the same moment ({}): nothing is mounted while \
                         that lasts",
                        self.spec(),
                        several.join(", ")
                    )));
                }
            }
        }
    }

    /// Everybody who has the image open, and is no manager of the cluster's where there are several.
    fn strangers(&self, programs: &Programs) -> Result<Vec<String>, Error> {
        let mut watchers = self.watchers(programs)?;
        if watchers.len() > 1 {
            // The managers open images too, to flatten them. Not every user may ask who they are.
            let managers = self.managers(programs).unwrap_or_default();
            watchers.retain(|watcher| !managers.contains(watcher));
        }
        Ok(watchers)
    }

    /// An error says why the mounted device does not reach the image any more.
    pub(crate) fn still_leads_to(&self, volume: VolumeId, device: &Path) -> Result<(), Error> {
        match self.found(volume)? {
            Some((driver, found)) if found == device => driver.require_alive(self, volume, device),
            _ => Err(Error::unavailable(format!(
                "{} is not connected to the image {} any more",
                device.display(),
                self.spec()
            ))),
        }
    }

    /// Takes the device away; `InUse` if somebody has it.
    pub(crate) fn disconnect(&self, volume: VolumeId, programs: &Programs) -> Result<(), Error> {
        if let Some((driver, device)) = self.found(volume)? {
            driver.disconnect(self, volume, &device, programs)?;
        }
        // What never came to have a device, too.
        qemu::clear(self, volume)
    }

    /// Makes the device as large as the image.
    pub(crate) fn rescan(&self, volume: VolumeId, device: &Path, programs: &Programs) -> Result<(), Error> {
        match self.found(volume)? {
            Some((RbdDriver::Qemu, _)) => qemu::rescan(self, volume, device, programs),
            // The kernel's client hears of it by itself.
            Some((RbdDriver::Krbd | RbdDriver::Nbd, _)) | None => Ok(()),
        }
    }

    /// As people and `rbd` write it.
    fn spec(&self) -> String {
        let snapshot = self.snapshot.as_ref().map(|name| format!("@{name}")).unwrap_or_default();
        match self.namespace.as_str() {
            "" => format!("{}/{}{snapshot}", self.pool, self.image),
            namespace => format!("{}/{namespace}/{}{snapshot}", self.pool, self.image),
        }
    }

    /// Everybody who has the image open to write.
    fn watchers(&self, programs: &Programs) -> Result<Vec<String>, Error> {
        let status = self.ask(programs, &["status", &self.spec(), "--format", "json"])?;
        let watchers = status.get("watchers").and_then(Value::as_array);
        let address = |watcher: &Value| watcher.get("address").and_then(Value::as_str).map(str::to_owned);
        Ok(watchers.into_iter().flatten().filter_map(address).collect())
    }

    /// How large the image is.
    fn size(&self, programs: &Programs) -> Result<Bytes, Error> {
        let info = self.ask(programs, &["info", &self.spec(), "--format", "json"])?;
        info.get("size")
            .and_then(Value::as_u64)
            .map(Bytes)
            .ok_or_else(|| Error::internal(format!("rbd does not tell how large {} is", self.spec())))
    }

    /// The cluster's managers, as they are known to it.
    fn managers(&self, programs: &Programs) -> Result<Vec<String>, Error> {
        let identity = self.identity();
        let line: Vec<&OsStr> = identity
            .iter()
            .map(OsStr::new)
            .chain(["--connect-timeout", ANSWER, "--format", "json", "mgr", "dump"].map(OsStr::new))
            .collect();
        let dump = told(programs.run(Program::Ceph, &line)?, Program::Ceph, "the cluster's managers")?;
        let clients = dump.get("active_clients").and_then(Value::as_array);
        let addresses = clients.into_iter().flatten().filter_map(|client| client.get("addrvec")?.as_array());
        let client = |address: &Value| {
            Some(format!("{}/{}", address.get("addr")?.as_str()?, address.get("nonce")?.as_u64()?))
        };
        Ok(addresses.flatten().filter_map(client).collect())
    }

    /// Asks about an image.
    fn ask(&self, programs: &Programs, question: &[&str]) -> Result<Value, Error> {
        told(self.run(programs, question)?, Program::Rbd, &format!("the image {}", self.spec()))
    }

    fn run(&self, programs: &Programs, words: &[&str]) -> Result<Ended, Error> {
        let identity = self.identity();
        let limits = ["--rados_osd_op_timeout", "--rados_mon_op_timeout", "--client_mount_timeout"]
            .into_iter()
            .flat_map(|limit| [limit, ANSWER]);
        let line: Vec<&OsStr> = identity
            .iter()
            .map(String::as_str)
            .chain(limits)
            .chain(words.iter().copied())
            .map(OsStr::new)
            .collect();
        programs.run(Program::Rbd, &line)
    }

    fn identity(&self) -> Vec<String> {
        let Ceph { conf, keyring, user } = &self.ceph;
        let path = |path: &Path| path.display().to_string();
        vec!["--conf".into(), path(conf), "--id".into(), user.clone(), "--keyring".into(), path(keyring)]
    }
}

/// What a program of Ceph's answered. Its exit code is the kernel's number of the error.
fn told(ended: Ended, program: Program, about: &str) -> Result<Value, Error> {
    match ended.code {
        Some(0) => serde_json::from_str(&ended.printed).map_err(|error| {
            Error::internal(format!("what is told of {about} cannot be read")).caused_by(error)
        }),
        Some(2) => Err(Error::not_found(format!("{about} is not there"))),
        Some(110) => {
            Err(Error::unavailable(format!("the cluster did not answer within {ANSWER} s about {about}")))
        }
        _ => Err(Error::unavailable(format!("{about}: {}", ended.describe(program)))),
    }
}

impl RbdDriver {
    /// All of them, in the order that suits most nodes.
    pub const ALL: [Self; 3] = [Self::Krbd, Self::Nbd, Self::Qemu];

    /// As the configuration spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Krbd => "krbd",
            Self::Nbd => "nbd",
            Self::Qemu => "qemu",
        }
    }

    /// Why it cannot be used on this node.
    pub(crate) fn usable(self, programs: &Programs, servers: &Place) -> Result<(), String> {
        match self {
            Self::Krbd => krbd::usable(programs),
            Self::Nbd => nbd::usable(programs),
            Self::Qemu => qemu::usable(programs, servers),
        }
    }

    fn connect(
        self,
        image: &Image,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<PathBuf, Error> {
        match self {
            Self::Krbd => krbd::connect(image, read_only, programs),
            Self::Nbd => nbd::connect(image, volume, read_only, programs),
            Self::Qemu => qemu::connect(image, volume, read_only, programs),
        }
    }

    fn find(self, image: &Image, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
        match self {
            Self::Krbd => Ok(krbd::find(Path::new("/sys/bus/rbd/devices"), image)),
            Self::Nbd => Ok(nbd::find(image)),
            Self::Qemu => qemu::find(image, volume),
        }
    }

    fn require_alive(self, image: &Image, volume: VolumeId, device: &Path) -> Result<(), Error> {
        match self {
            // It is found only as long as there is somebody behind it.
            Self::Krbd | Self::Nbd => Ok(()),
            Self::Qemu => qemu::require_alive(image, volume, device),
        }
    }

    fn disconnect(
        self,
        image: &Image,
        volume: VolumeId,
        device: &Path,
        programs: &Programs,
    ) -> Result<(), Error> {
        match self {
            Self::Krbd | Self::Nbd => {
                super::device::let_go(device)?;
                let unmap = ["device", "unmap", "--device-type", self.name(), &device.display().to_string()];
                let ended = image.run(programs, &unmap)?;
                match ended.code {
                    Some(0) => Ok(()),
                    _ => Err(Error::unavailable(format!(
                        "{} was not unmapped: {}",
                        device.display(),
                        ended.describe(Program::Rbd)
                    ))),
                }
            }
            Self::Qemu => qemu::disconnect(image, volume, device),
        }
    }
}
