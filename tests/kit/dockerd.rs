//! A real dockerd inside of a [`Machine`], with one image (busybox) and no network. It starts its own
//! containerd; containers that it leaves behind when it is killed end with the machine.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a peer that does not start ends the test, in words"
)]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::machine::{Machine, Process, until};

/// A running dockerd.
#[derive(Debug)]
pub struct Dockerd<'m> {
    machine: &'m Machine,
    live_restore: bool,
    process: Process,
}

impl<'m> Dockerd<'m> {
    /// The image that is there: busybox, which answers to the names of its tools.
    pub const IMAGE: &'static str = "busybox";

    /// Starts one and gives it its image.
    #[must_use]
    pub fn start(machine: &'m Machine) -> Self {
        Self::with(machine, false)
    }

    /// Starts one whose containers live on while it does not.
    #[must_use]
    pub fn start_with_live_restore(machine: &'m Machine) -> Self {
        Self::with(machine, true)
    }

    fn with(machine: &'m Machine, live_restore: bool) -> Self {
        let process = launch(machine, live_restore);
        let this = Self { machine, live_restore, process };
        this.wait_until_ready();
        this.import_image(Self::IMAGE, &[]);
        this
    }

    fn wait_until_ready(&self) {
        until("dockerd to be ready", || {
            let answer =
                self.command().args(["version", "--format", "{{.Server.Version}}"]).output().unwrap();
            answer.status.success().then_some(())
        });
    }

    /// Makes an image of busybox with these changes, as lines of a Dockerfile.
    pub fn import_image(&self, name: &str, changes: &[&str]) {
        let root = self.machine.folder().join("image");
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
        let mut import = self.command();
        import.arg("import");
        for change in changes {
            import.args(["--change", change]);
        }
        let answer = import.args(["-", name]).stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        assert!(tar.wait().unwrap().success());
    }

    /// Runs docker and answers what it printed, or what it complained about.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        told(&self.command().args(arguments).output().unwrap())
    }

    /// Starts docker, and does not wait for it.
    #[must_use]
    pub fn docker_later(&self, arguments: &[&str]) -> Child {
        self.command().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The docker client, aimed at this dockerd.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new("docker");
        command
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_CONFIG", self.machine.folder().join("client"))
            .env("DOCKER_HOST", format!("unix://{}", self.machine.folder().join("docker.sock").display()))
            .stdin(Stdio::null());
        command
    }

    /// Kills it with its containerd, as a crash would: containers are left as they are.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end.
    pub fn stop(&mut self) {
        self.process.stop();
    }

    /// Starts it again over the same state, and waits until it answers.
    pub fn start_again(&mut self) {
        self.launch_again();
        self.wait_until_ready();
    }

    /// Starts it again over the same state, and does not wait.
    pub fn launch_again(&mut self) {
        assert!(!self.process.runs(), "it has to end before it is started again");
        self.process = launch(self.machine, self.live_restore);
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn launch(machine: &Machine, live_restore: bool) -> Process {
    let folder = machine.folder();
    // A dockerd that was killed leaves its number behind, which may be somebody else's by now.
    fs::remove_file(folder.join("docker.pid")).ok();
    machine.spawn("dockerd", "dockerd.log", |command| {
        command
            .arg("--data-root")
            .arg(folder.join("docker"))
            .args(["--exec-root", "/run/docker", "--pidfile"])
            .arg(folder.join("docker.pid"))
            .arg("--host")
            .arg(format!("unix://{}", folder.join("docker.sock").display()))
            .args(["--cgroup-parent", &format!("/{}", machine.name())])
            // The host's systemd does not know the numbers of processes in here.
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            // The network is the machine's own, so no bridge of another daemon is touched.
            .args(["--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false"]);
        if live_restore {
            command.arg("--live-restore");
        }
    })
}

pub(crate) fn lay_out_image(root: &Path) {
    let programs = root.join("bin");
    fs::create_dir_all(&programs).unwrap();
    for folder in ["tmp", "data", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    // What an image has at a volume's place is copied into an empty volume.
    fs::create_dir_all(root.join("seeded")).unwrap();
    fs::write(root.join("seeded/from-image"), "seed\n").unwrap();
    let busybox = busybox();
    fs::copy(&busybox, programs.join("busybox")).unwrap();
    let tools = Command::new(&busybox).arg("--list").output().unwrap();
    for tool in String::from_utf8(tools.stdout).unwrap().lines().filter(|tool| *tool != "busybox") {
        symlink("busybox", programs.join(tool)).unwrap();
    }
}

fn busybox() -> PathBuf {
    ["/usr/bin/busybox", "/bin/busybox"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .expect("busybox, linked statically: install the package busybox-static")
}

pub(crate) fn told(answer: &Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if answer.status.success() { Ok(text(&answer.stdout)) } else { Err(text(&answer.stderr)) }
}
