//! A real podman inside of a [`Machine`], told of our plugin, with the same image as [`crate::dockerd`]. There is
//! no daemon to start: each command is a process of its own, which is what makes it another kind of peer.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a peer that does not start ends the test, in words"
)]

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::{
    dockerd::{lay_out_image, told},
    machine::Machine,
};

/// A podman that knows our plugin as `kato`.
#[derive(Debug)]
pub struct Podman<'m> {
    machine: &'m Machine,
}

impl<'m> Podman<'m> {
    /// Configures it, and gives it its image, `busybox`.
    #[must_use]
    pub fn prepare(machine: &'m Machine) -> Self {
        let folder = machine.folder().join("podman");
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("containers.conf"),
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n\
             [engine.volume_plugins]\nkato = \"/run/docker/plugins/kato.sock\"\n",
        )
        .unwrap();
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers\"\ngraphroot = \"{}/graph\"\n",
            folder.display()
        );
        fs::write(folder.join("storage.conf"), storage).unwrap();
        let podman = Self { machine };
        let root = machine.folder().join("image");
        if !root.exists() {
            lay_out_image(&root);
        }
        let mut tar = Command::new("tar")
            .args(["-c", "-C"])
            .arg(&root)
            .arg(".")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let import = podman.command(&["import", "-", "busybox"]).stdin(tar.stdout.take().unwrap()).output();
        told(&import.unwrap()).unwrap();
        assert!(tar.wait().unwrap().success());
        podman
    }

    /// Runs podman and answers what it printed, or what it complained about.
    pub fn podman(&self, arguments: &[&str]) -> Result<String, String> {
        told(&self.command(arguments).output().unwrap())
    }

    /// Runs a shell line in a container, with these options before the image.
    pub fn run(&self, options: &str, line: &str) -> Result<String, String> {
        let group = format!("/{}", self.machine.name());
        let mut words = vec!["run", "--network", "none", "--cgroup-parent", &group];
        words.extend(options.split(' '));
        words.extend(["busybox", "sh", "-c", line]);
        self.podman(&words)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let folder = self.machine.folder().join("podman");
        let mut command = self.machine.command("podman");
        command
            .env("CONTAINERS_CONF", folder.join("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", folder.join("storage.conf"))
            .args(arguments);
        command
    }
}
