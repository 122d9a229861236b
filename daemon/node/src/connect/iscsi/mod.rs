//! A unit behind iSCSI portals becomes a block device in one of two ways, tried in the operator's order: the kernel's own
//! initiator, looked after by open-iscsi (`open_iscsi.rs`), and a server of QEMU's behind a loop device (`qemu.rs`), which
//! needs no module. What is connected already is found whatever the order says by now.
//!
//! A session that is lost is waited for by either way, without end: an error would be the end of the filesystem above.
//! The watch over mounts tells of it. The account comes from the backend's grant and is in no connection (`accounts.rs`).

pub(crate) mod name;
mod open_iscsi;
mod qemu;

use std::path::{Path, PathBuf};

use kato_orchestrator::{Error, model::VolumeId};
use rustix::fs::{major, minor};
use serde::{Deserialize, Serialize};

use super::is_read_only;
use crate::{Config, accounts::Chap, command::Programs, config::IscsiDriver, errno::failed, server::Place};

/// A unit, and how this node reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// `address:port` each.
    pub(crate) portals: Vec<String>,
    /// The target's name.
    pub(crate) iqn: String,
    pub(crate) lun: u32,
    /// Who we say that we are.
    pub(crate) initiator: String,
    /// How we prove that.
    pub(crate) chap: Option<Chap>,
    pub(crate) site: Site,
}

/// How units are connected on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    /// The ways to try, the best first.
    drivers: Vec<IscsiDriver>,
    servers: Place,
    /// The device nodes, and sysfs, as the host has them.
    dev: PathBuf,
    sys: PathBuf,
    /// Where open-iscsi may have its records.
    records: Vec<PathBuf>,
}

impl Site {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            drivers: config.iscsi.clone(),
            servers: config.servers(),
            dev: config.dev.clone(),
            sys: config.sys.clone(),
            records: config.iscsi_records.clone(),
        }
    }
}

impl Unit {
    /// The device, made if it is not there.
    pub(crate) fn connect(
        &self,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<PathBuf, Error> {
        if let Some((driver, device)) = self.found(volume)? {
            if driver.keeps(self, volume, &device, read_only) {
                return Ok(device);
            }
            driver.disconnect(self, volume, &device, programs)?;
        }
        let mut reasons = Vec::new();
        for driver in &self.site.drivers {
            match driver.usable(programs, &self.site).and_then(|()| driver.suits(self)) {
                Ok(()) => return driver.connect(self, volume, read_only, programs),
                Err(reason) => reasons.push(format!("{}: {reason}", driver.name())),
            }
        }
        Err(Error::unsupported(format!("this node cannot connect {self}: {}", reasons.join("; "))))
    }

    /// The device, if it is connected.
    pub(crate) fn find(&self, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
        Ok(self.found(volume)?.map(|(_, device)| device))
    }

    fn found(&self, volume: VolumeId) -> Result<Option<(IscsiDriver, PathBuf)>, Error> {
        for driver in IscsiDriver::ALL {
            if let Some(device) = driver.find(self, volume)? {
                return Ok(Some((driver, device)));
            }
        }
        Ok(None)
    }

    /// Where what is mounted can be read. An error says why it does not reach the unit any more; `Timeout`, that it does
    /// not now and may yet.
    pub(crate) fn still_leads_to(
        &self,
        volume: VolumeId,
        called: &Path,
        numbers: (u32, u32),
    ) -> Result<PathBuf, Error> {
        let Some((driver, found)) = self.found(volume)? else {
            return Err(Error::unavailable(format!(
                "{} is not connected to {self} any more",
                called.display()
            )));
        };
        let stat = rustix::fs::stat(&found)
            .map_err(|error| failed(format_args!("look at {}", found.display()), error))?;
        if (major(stat.st_rdev), minor(stat.st_rdev)) != numbers {
            return Err(Error::unavailable(format!(
                "{} was mounted, and {self} is {} now: it went away and came back",
                called.display(),
                found.display()
            )));
        }
        driver.require_session(self, volume, &found)?;
        Ok(found)
    }

    /// Takes the device away; `InUse` if somebody has it.
    pub(crate) fn disconnect(&self, volume: VolumeId, programs: &Programs) -> Result<(), Error> {
        if let Some((driver, device)) = self.found(volume)? {
            driver.disconnect(self, volume, &device, programs)?;
        }
        // What never came to have a device, too.
        qemu::clear(self, volume)?;
        open_iscsi::clear(self, volume, programs)
    }

    /// Makes the device as large as the unit.
    pub(crate) fn rescan(&self, volume: VolumeId, device: &Path, programs: &Programs) -> Result<(), Error> {
        match self.found(volume)? {
            Some((IscsiDriver::OpenIscsi, _)) => open_iscsi::rescan(self, volume, device, programs),
            Some((IscsiDriver::Qemu, _)) => qemu::rescan(self, volume, device),
            None => Ok(()),
        }
    }

    /// An error about a session that is lost.
    fn waits(&self, for_whom: &str) -> Error {
        Error::timeout(format!(
            "{self} does not answer ({for_whom}): what reads and writes waits, and goes on by itself when it is back"
        ))
    }
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the unit {} of the iSCSI target {}", self.lun, self.iqn)
    }
}

/// Ways that work on this node, and why the others do not.
pub(crate) fn reasons(config: &Config) -> Vec<(String, Result<(), String>)> {
    let (programs, site) = (Programs::within(config.programs.clone()), Site::of(config));
    let way = |driver: IscsiDriver| {
        let usable = match config.iscsi.contains(&driver) {
            true => driver.usable(&programs, &site),
            false => Err("the configuration leaves it out (`node.iscsi`)".to_owned()),
        };
        (format!("iscsi by {}", driver.name()), usable)
    };
    let by_kernel = IscsiDriver::OpenIscsi;
    let several = match config.iscsi.first() == Some(&by_kernel) {
        true => by_kernel.usable(&programs, &site).and_then(|()| open_iscsi::multipath(&programs, &site)),
        false => Err("only open-iscsi has it, and the configuration does not begin with that (`node.iscsi`)"
            .to_owned()),
    };
    let several = several.map_err(|reason| {
        format!("{reason}; of several portals the first that answers is used, and no other until it is connected anew")
    });
    let mut found: Vec<_> = IscsiDriver::ALL.map(way).into();
    found.push(("iscsi multipath".to_owned(), several));
    found
}

impl IscsiDriver {
    /// All of them, in the order that suits most nodes.
    pub const ALL: [Self; 2] = [Self::OpenIscsi, Self::Qemu];

    /// As the configuration spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenIscsi => "open-iscsi",
            Self::Qemu => "qemu",
        }
    }

    /// Why it cannot be used on this node.
    fn usable(self, programs: &Programs, site: &Site) -> Result<(), String> {
        match self {
            Self::OpenIscsi => open_iscsi::usable(programs, site),
            Self::Qemu => qemu::usable(programs, &site.servers),
        }
    }

    /// Why it cannot connect this unit.
    fn suits(self, unit: &Unit) -> Result<(), String> {
        let is_mutual = unit.chap.as_ref().is_some_and(|chap| chap.mutual.is_some());
        match self {
            Self::Qemu if is_mutual => Err(
                "it cannot have a target prove who it is, as the grant asks for (`chap.mutual`): use open-iscsi, or \
                 take that out of the grant"
                    .to_owned(),
            ),
            Self::OpenIscsi | Self::Qemu => Ok(()),
        }
    }

    fn connect(
        self,
        unit: &Unit,
        volume: VolumeId,
        read_only: bool,
        programs: &Programs,
    ) -> Result<PathBuf, Error> {
        match self {
            Self::OpenIscsi => open_iscsi::connect(unit, volume, programs),
            Self::Qemu => qemu::connect(unit, volume, read_only, programs),
        }
    }

    fn find(self, unit: &Unit, volume: VolumeId) -> Result<Option<PathBuf>, Error> {
        match self {
            Self::OpenIscsi => Ok(open_iscsi::find(unit, volume)),
            Self::Qemu => qemu::find(unit, volume),
        }
    }

    /// Whether a device that is there is what is wished for. A session that is lost comes back by itself; a server that
    /// ended does not.
    fn keeps(self, unit: &Unit, volume: VolumeId, device: &Path, read_only: bool) -> bool {
        match self {
            // Whoever mounts it to read mounts it so; the device is the same.
            Self::OpenIscsi => true,
            Self::Qemu => {
                qemu::require_alive(unit, volume, device).is_ok() && is_read_only(device) == read_only
            }
        }
    }

    fn require_session(self, unit: &Unit, volume: VolumeId, device: &Path) -> Result<(), Error> {
        match self {
            Self::OpenIscsi => open_iscsi::require_session(unit, volume),
            Self::Qemu => qemu::require_session(unit, volume, device),
        }
    }

    fn disconnect(
        self,
        unit: &Unit,
        volume: VolumeId,
        device: &Path,
        programs: &Programs,
    ) -> Result<(), Error> {
        match self {
            Self::OpenIscsi => open_iscsi::disconnect(unit, volume, device, programs),
            Self::Qemu => qemu::disconnect(unit, volume, device),
        }
    }
}
