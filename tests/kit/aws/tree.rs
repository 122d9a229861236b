//! What a node sees of its disks, as Nitro shows them: a `sys` and a `dev` of its own, with a root disk, an instance store
//! where the type has one, and a disk for each volume that is attached. A volume's disk takes the lowest name that is free,
//! so a name is another volume's before long. The device node is the loop device's; only its name and what sysfs says of
//! it are made up.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

/// What an EBS volume calls itself.
const EBS: &str = "Amazon Elastic Block Store";

/// What a disk of the host calls itself.
const INSTANCE_STORE: &str = "Amazon EC2 NVMe Instance Storage";

/// The folders of an instance.
#[derive(Debug)]
pub(super) struct Tree {
    folder: PathBuf,
    /// The serial numbers of the disks, by the number in their names.
    disks: BTreeMap<u32, Disk>,
}

#[derive(Debug)]
struct Disk {
    serial: String,
    model: &'static str,
    dev: String,
}

impl Tree {
    /// With what a node has before any volume. Of these disks there are names only: who opens one is told that there is no
    /// such device.
    pub(super) fn plant(folder: PathBuf, root: &str, instance_store: bool) -> io::Result<Self> {
        for inside in ["sys/block", "sys/class/block", "sys/dev/block", "dev/disk/by-id"] {
            fs::create_dir_all(folder.join(inside))?;
        }
        let mut tree = Self { folder, disks: BTreeMap::new() };
        tree.show(&serial_of(root), EBS, "259:0", 8 << 30)?;
        tree.part(0, "259:1", 8 << 30)?;
        if instance_store {
            tree.show("AWS6A17C4F25B0D3E891", INSTANCE_STORE, "259:2", 75_000_000_000)?;
        }
        Ok(tree)
    }

    /// Shows a volume's disk. Answers its name.
    pub(super) fn show_volume(&mut self, volume: &str, dev: &str, bytes: u64) -> io::Result<String> {
        self.show(&serial_of(volume), EBS, dev, bytes)
    }

    /// Takes a volume's disk away.
    pub(super) fn hide_volume(&mut self, volume: &str) -> io::Result<()> {
        let serial = serial_of(volume);
        let Some(number) =
            self.disks.iter().find(|(_, disk)| disk.serial == serial).map(|(number, _)| *number)
        else {
            return Ok(());
        };
        let Some(disk) = self.disks.remove(&number) else { return Ok(()) };
        let name = name_of(number);
        fs::remove_file(self.by_id(&disk))?;
        fs::remove_file(self.folder.join("dev").join(&name))?;
        for link in ["sys/block", "sys/class/block"] {
            fs::remove_file(self.folder.join(link).join(&name))?;
        }
        fs::remove_file(self.folder.join("sys/dev/block").join(&disk.dev))?;
        fs::remove_dir_all(self.folder.join("sys").join(controller(number)))
    }

    /// Tells how large a volume's disk has become.
    pub(super) fn resize_volume(&self, volume: &str, bytes: u64) -> io::Result<()> {
        let serial = serial_of(volume);
        for (number, _) in self.disks.iter().filter(|(_, disk)| disk.serial == serial) {
            let name = name_of(*number);
            let entry = self.folder.join("sys").join(controller(*number)).join(name);
            replace(&entry.join("size"), &format!("{}\n", bytes / 512))?;
        }
        Ok(())
    }

    /// The names of the disks and their serial numbers.
    pub(super) fn disks(&self) -> Vec<(String, String)> {
        self.disks.iter().map(|(number, disk)| (name_of(*number), disk.serial.clone())).collect()
    }

    fn show(&mut self, serial: &str, model: &'static str, dev: &str, bytes: u64) -> io::Result<String> {
        let number = (0..).find(|number| !self.disks.contains_key(number)).unwrap_or(0);
        let name = name_of(number);
        let disk = Disk { serial: serial.to_owned(), model, dev: dev.to_owned() };
        let controller = controller(number);
        let at = self.folder.join("sys").join(&controller);
        let entry = at.join(&name);
        fs::create_dir_all(entry.join("holders"))?;
        fs::create_dir_all(entry.join("slaves"))?;
        fs::write(at.join("serial"), format!("{serial:<20}\n"))?;
        fs::write(at.join("model"), format!("{model:<40}\n"))?;
        symlink("..", entry.join("device"))?;
        symlink("../../../../../../class/block", entry.join("subsystem"))?;
        for (file, text) in [
            ("dev", dev.to_owned()),
            ("size", (bytes / 512).to_string()),
            ("ro", "0".to_owned()),
            ("removable", "0".to_owned()),
            ("uevent", format!("DEVNAME={name}\nDEVTYPE=disk")),
        ] {
            fs::write(entry.join(file), format!("{text}\n"))?;
        }
        for (link, target) in [
            (format!("block/{name}"), format!("../{controller}/{name}")),
            (format!("class/block/{name}"), format!("../../{controller}/{name}")),
            (format!("dev/block/{dev}"), format!("../../{controller}/{name}")),
        ] {
            symlink(target, self.folder.join("sys").join(link))?;
        }
        self.node(&name, dev)?;
        // The link comes last, as udev makes it: whoever sees it sees all of the rest.
        symlink(format!("../../{name}"), self.by_id(&disk))?;
        self.disks.insert(number, disk);
        Ok(name)
    }

    /// The first and only partition of a disk.
    fn part(&self, number: u32, dev: &str, bytes: u64) -> io::Result<()> {
        let Some(disk) = self.disks.get(&number) else { return Ok(()) };
        let (name, whole, controller) =
            (format!("{}p1", name_of(number)), name_of(number), controller(number));
        let entry = self.folder.join("sys").join(&controller).join(&whole).join(&name);
        fs::create_dir_all(entry.join("holders"))?;
        for (file, text) in [
            ("dev", dev.to_owned()),
            ("partition", "1".to_owned()),
            ("start", "2048".to_owned()),
            ("size", (bytes / 512 - 4096).to_string()),
        ] {
            fs::write(entry.join(file), format!("{text}\n"))?;
        }
        let sys = self.folder.join("sys");
        symlink(format!("../../{controller}/{whole}/{name}"), sys.join("class/block").join(&name))?;
        symlink(format!("../../{controller}/{whole}/{name}"), sys.join("dev/block").join(dev))?;
        self.node(&name, dev)?;
        let link = self.by_id(disk);
        symlink(format!("../../{name}"), format!("{}-part1", link.display()))
    }

    fn node(&self, name: &str, dev: &str) -> io::Result<()> {
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut parts = dev.split(':');
        let dev = makedev(number(parts.next()), number(parts.next()));
        let path = self.folder.join("dev").join(name);
        Ok(mknodat(CWD, path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, dev)?)
    }

    fn by_id(&self, disk: &Disk) -> PathBuf {
        let id = format!("nvme-{}_{}", disk.model.replace(' ', "_"), disk.serial);
        self.folder.join("dev/disk/by-id").join(id)
    }
}

/// What a volume's disk has for a serial number: the volume's id without its dash.
pub(super) fn serial_of(volume: &str) -> String {
    volume.replace('-', "")
}

fn name_of(number: u32) -> String {
    format!("nvme{number}n1")
}

/// Where sysfs has a controller.
fn controller(number: u32) -> String {
    format!("devices/pci0000:00/0000:00:{:02x}.0/nvme/nvme{number}", 4 + number)
}

/// Writes a file that nobody sees half.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}
