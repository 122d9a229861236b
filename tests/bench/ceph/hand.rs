//! An image by hand: made by `rbd` with the very words that the daemon's grant has, served by `qemu-storage-daemon` with
//! the very arguments of the daemon's connector, below a loop device with direct IO and an ext4 with the daemon's own
//! options. Everything runs inside of the machine. What the daemon does besides (a mark on the image, a claim for its
//! node, a look at who else has it, a journal, the search for blankness) is left out: that is the difference that is
//! measured.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::Scene;
use crate::Fallible;

/// What the daemon's command lines have before the command, besides who asks.
const LIMITS: [&str; 8] = [
    "--log-file",
    "/dev/null",
    "--rados_osd_op_timeout",
    "15",
    "--rados_mon_op_timeout",
    "15",
    "--client_mount_timeout",
    "15",
];

/// What a volume has when its class says nothing else.
const FEATURES: &str = "layering,exclusive-lock,object-map,fast-diff,deep-flatten";

/// An image that is there.
pub(super) struct Image<'s> {
    scene: &'s Scene<'s>,
    name: String,
}

impl<'s> Image<'s> {
    pub(super) fn create(scene: &'s Scene<'s>, name: &str, bytes: u64) -> Fallible<Self> {
        let image = Self::existing(scene, name);
        let (spec, size) = (image.spec(), format!("{bytes}B"));
        image.rbd(&["create", &spec, "--size", &size, "--image-feature", FEATURES])?;
        Ok(image)
    }

    /// One that was made before.
    pub(super) fn existing(scene: &'s Scene<'s>, name: &str) -> Self {
        Self { scene, name: name.to_owned() }
    }

    pub(super) fn remove(&self) -> Fallible {
        self.rbd(&["rm", &self.spec(), "--no-progress"]).map(drop)
    }

    /// Runs `rbd` as the daemon's user, for half a minute at most.
    pub(super) fn rbd(&self, words: &[&str]) -> Fallible<String> {
        Ok(self.scene.cluster.as_user().rbd(&[&LIMITS, words].concat())?)
    }

    /// What `rbd` calls it.
    pub(super) fn spec(&self) -> String {
        format!("{}/{}", self.scene.cluster.pool(), self.name)
    }

    /// Brings it to a folder, with a new filesystem.
    pub(super) fn mount(&self) -> Fallible<Mounted<'s>> {
        let folder = self.scene.machine.folder().join(&self.name);
        let mount = folder.join("mount");
        fs::create_dir_all(&mount)?;
        let file = folder.join("disk");
        fs::write(&file, "")?;
        self.serve(&folder, &file)?;
        let (file, at) = (file.display(), mount.display());
        let device = self.scene.shell(&format!(
            "set -e; device=$(losetup --find --show --direct-io=on --sector-size 512 {file}); \
             mkfs.ext4 -q -F -m 0 -E nodiscard,lazy_itable_init=1,lazy_journal_init=1 $device; \
             mount -t ext4 -o nosuid,nodev $device {at}; echo $device"
        ))?;
        Ok(Mounted { scene: self.scene, device: device.trim().to_owned(), mount, folder })
    }

    /// Starts the server. It has gone into the background when it serves.
    fn serve(&self, folder: &Path, file: &Path) -> Fallible {
        let cluster = self.scene.cluster;
        let (user, pool, at) = (cluster.user(), cluster.pool(), folder.display());
        let conf = fs::read_to_string(cluster.conf())?;
        let ours = format!(
            "\n\n[client.{user}]\nkeyring = {}\nlog_file = /dev/null\nadmin_socket = {at}/asok\n\
             rados_osd_op_timeout = 0\nrados_mon_op_timeout = 0\n",
            cluster.keyring().display()
        );
        fs::write(folder.join("ceph.conf"), conf + &ours)?;
        let words = [
            "qemu-storage-daemon",
            "--daemonize",
            "--pidfile",
            &format!("{at}/pid"),
            "--chardev",
            &format!("socket,id=q,path={at}/q,server=on,wait=off"),
            "--monitor",
            "chardev=q",
            "--blockdev",
            &format!(
                "driver=rbd,node-name=disk,pool={pool},image={},user={user},conf={at}/ceph.conf,cache.direct=on,\
                 discard=unmap",
                self.name
            ),
            "--export",
            &format!("type=fuse,id=out,node-name=disk,mountpoint={},writable=on", file.display()),
        ];
        self.scene.run(&words).map(drop)
    }
}

/// An image that can be written to.
pub(super) struct Mounted<'s> {
    scene: &'s Scene<'s>,
    device: String,
    folder: PathBuf,
    /// Where its filesystem is, inside of the machine.
    pub(super) mount: PathBuf,
}

impl Mounted<'_> {
    /// The server's process, as the machine numbers it.
    pub(super) fn server(&self) -> Fallible<String> {
        Ok(fs::read_to_string(self.folder.join("pid"))?.trim().to_owned())
    }

    /// Takes everything down again, and waits until the server has ended.
    pub(super) fn unmount(&self) -> Fallible {
        let server = self.server()?;
        self.scene.shell(&format!("umount {} && losetup -d {}", self.mount.display(), self.device))?;
        self.quit()?;
        // One that has ended and was not waited for has no command line.
        let line = self.scene.machine.path(format!("/proc/{server}/cmdline"));
        for _ in 0..10_000 {
            if fs::read(&line).unwrap_or_default().is_empty() {
                return Ok(fs::remove_dir_all(&self.folder)?);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Err(format!("the server {server} does not end").into())
    }

    /// Asks the server to end, and listens until it hangs up, which it may do without a word.
    fn quit(&self) -> Fallible {
        let stream = UnixStream::connect(self.folder.join("q"))?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new())?;
        for command in ["qmp_capabilities", "quit"] {
            stream.get_mut().write_all(format!("{{\"execute\": \"{command}\"}}\n").as_bytes())?;
            if stream.read_line(&mut String::new()).is_err() && command != "quit" {
                return Err("the server does not answer".into());
            }
        }
        while stream.read_line(&mut String::new()).is_ok_and(|read| read > 0) {}
        Ok(())
    }
}
