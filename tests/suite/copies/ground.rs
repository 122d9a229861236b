//! A daemon on a machine as a test of copies talks to it, and bytes that are known again wherever they come out.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use kato_tests::{
    daemon::Daemon,
    machine::{Machine, until},
};
use serde_json::{Value, json};

use crate::docker::wire::Wire;

/// How long each of the files is that a volume is filled with.
pub(crate) const ROWS: usize = 3 << 20;

/// A daemon on a machine.
pub(crate) struct Node<'m> {
    pub(crate) machine: &'m Machine,
    pub(crate) daemon: Daemon<'m>,
}

impl<'m> Node<'m> {
    pub(crate) fn start_with(machine: &'m Machine, sections: &str, environment: &[(&str, &str)]) -> Self {
        Self { machine, daemon: Daemon::start_in(machine, sections, environment) }
    }

    /// The Docker door.
    pub(crate) fn wire(&self) -> Wire {
        Wire(self.daemon.docker_socket())
    }

    /// Runs `kato` with these words: what it printed, or what it complained about.
    pub(crate) fn kato(&self, words: &str) -> Result<String, String> {
        let output = self.daemon.kato(&words.split(' ').collect::<Vec<_>>());
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout).unwrap()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }

    /// What `kato` says as JSON.
    pub(crate) fn told(&self, words: &str) -> Value {
        let said = self.kato(&format!("{words} -o json"));
        serde_json::from_str(&said.unwrap_or_else(|refusal| panic!("{words}: {refusal}"))).unwrap()
    }

    /// Where a volume is while somebody holds it, seen from outside.
    pub(crate) fn take(&self, name: &str) -> PathBuf {
        let answer = self.wire().done("Mount", json!({ "Name": name, "ID": "one" }));
        self.machine.path(Path::new(answer["Mountpoint"].as_str().unwrap()))
    }

    /// Gives it back.
    pub(crate) fn give(&self, name: &str) {
        self.wire().done("Unmount", json!({ "Name": name, "ID": "one" }));
    }

    /// What there is of volumes or snapshots.
    pub(crate) fn names(&self, noun: &str) -> Vec<String> {
        let listed = self.kato(&format!("{noun} ls -q")).unwrap();
        listed.lines().map(str::to_owned).collect()
    }

    /// Waits until a copy is a volume like all others.
    pub(crate) fn is_copied(&self, name: &str) {
        until("the copy to be whole", || {
            let copy = self.told(&format!("volume inspect {name}"));
            (copy["state"] == "ready" && copy.get("copying").is_none()).then_some(())
        });
    }

    /// Says this until it is done: what is in the way passes. What that is can be read where it does not.
    pub(crate) fn at_last(&self, words: &str) {
        let mut told = String::new();
        until(words, || match self.kato(words) {
            Ok(_) => Some(()),
            Err(refusal) => {
                if refusal != told {
                    eprintln!("{words}: {refusal}");
                    told = refusal;
                }
                None
            }
        });
    }

    /// Removes everything, whoever made it.
    pub(crate) fn remove_all(&self) {
        for noun in ["snapshot", "volume"] {
            for name in self.names(noun) {
                self.at_last(&format!("{noun} rm --yes {name}"));
            }
        }
    }

    /// No device of ours is left over anything but these volumes.
    pub(crate) fn has_let_go(&self) {
        let folder = self.machine.folder().display().to_string();
        until("all devices to be gone", || {
            let loops = self.machine.shell("losetup -nO BACK-FILE || true").stdout;
            (!String::from_utf8(loops).unwrap().contains(&folder)).then_some(())
        });
        let found = self.kato("doctor").unwrap();
        assert!(!found.contains("stray"), "{found}");
    }
}

/// Something that is no zeroes and no pattern.
pub(crate) fn noise(bytes: usize, mut seed: u64) -> Vec<u8> {
    let next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(bytes).collect()
}

/// Makes what was written to a filesystem last.
pub(crate) fn sync(data: &Path) {
    rustix::fs::syncfs(File::open(data).unwrap()).unwrap();
}

pub(crate) fn fill(data: &Path, seed: u64) {
    for number in 0..6 {
        fs::write(data.join(format!("rows-{number}")), noise(ROWS, seed + number)).unwrap();
    }
    sync(data);
}

pub(crate) fn holds(data: &Path, seed: u64) {
    for number in 0..6 {
        let found = fs::read(data.join(format!("rows-{number}"))).unwrap();
        assert!(found == noise(ROWS, seed + number), "rows-{number} is not what it was");
    }
}
