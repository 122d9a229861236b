//! Trees of /dev and /sys in the form that the kernel and udev give them, from a line for each disk:
//! `name major:minor sectors word=value…`, where the words are `serial` and `model` (with `_` for blanks) of an NVMe
//! controller, `part` for a partition, `seq` for the kernel's count of disks, and `own=place:text` for any file; and
//! `link name disk` for what udev makes.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::super::{Device, Site};

pub(super) struct Tree(TempDir);

impl Tree {
    pub(super) fn of(text: &str) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for folder in ["sys/block", "sys/class/block", "sys/dev/block", "dev/disk/by-id"] {
            fs::create_dir_all(tree.path(folder)).unwrap();
        }
        tree.add(text);
        tree
    }

    pub(super) fn path(&self, place: &str) -> PathBuf {
        self.0.path().join(place)
    }

    /// A device that is wanted of this host.
    pub(super) fn device(&self, identity: &str, value: &str) -> Device {
        let site = Site {
            dev: self.path("dev"),
            sys: self.path("sys"),
            places: vec!["/our/mounts".into()],
            notes: self.path("notes"),
            patience: Duration::from_millis(100),
        };
        Device { identity: identity.to_owned(), value: value.to_owned(), site }
    }

    pub(super) fn add(&self, text: &str) {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let ["link", name, disk] = words[..] {
                symlink(format!("../../{disk}"), self.path("dev/disk/by-id").join(name)).unwrap();
            } else {
                self.add_disk(words[0], words[1], words[2], &words[3..]);
            }
        }
    }

    fn add_disk(&self, name: &str, numbers: &str, sectors: &str, words: &[&str]) {
        let (parent, entry) = match name.strip_prefix("xvd") {
            Some(_) => {
                let parent = self.path("sys/devices").join(format!("vbd-{}", numbers.replace(':', "")));
                (parent.clone(), parent.join("block").join(name))
            }
            None => {
                let controller = name.split('n').take(2).collect::<Vec<_>>().join("n");
                let parent =
                    self.path("sys/devices/pci0000:00").join(format!("0000:{name}")).join(controller);
                (parent.clone(), parent.join(name))
            }
        };
        fs::create_dir_all(entry.join("holders")).unwrap();
        symlink(&parent, entry.join("device")).unwrap();
        write(&entry.join("dev"), &format!("{numbers}\n"));
        write(&entry.join("size"), &format!("{sectors}\n"));
        if name.starts_with("xvd") {
            write(&parent.join("devtype"), "vbd\n");
            write(&parent.join("state"), "Connected\n");
        }
        for (word, value) in words.iter().map(|word| word.split_once('=').unwrap()) {
            match word {
                "serial" => write(&parent.join("serial"), &format!("{value:20}\n")),
                "model" => write(&parent.join("model"), &format!("{:40}\n", value.replace('_', " "))),
                "seq" => write(&entry.join("diskseq"), &format!("{value}\n")),
                "part" => {
                    write(&entry.join(value).join("partition"), "1\n");
                    symlink(entry.join(value), self.path("sys/class/block").join(value)).unwrap();
                    write(&self.path("dev").join(value), "");
                }
                "own" => {
                    let (place, text) = value.split_once(':').unwrap();
                    write(&entry.join(place), text);
                }
                other => panic!("{other} is no word of a tree"),
            }
        }
        for link in [format!("block/{name}"), format!("class/block/{name}"), format!("dev/block/{numbers}")] {
            symlink(&entry, self.path("sys").join(link)).unwrap();
        }
        write(&self.path("dev").join(name), "");
    }

    /// Writes one file of a disk.
    pub(super) fn add_file(&self, disk: &str, place: &str, text: &str) {
        write(&self.path("sys/block").join(disk).join(place), text);
    }

    /// Takes a disk away. udev's links stay: it is always late.
    pub(super) fn remove(&self, disk: &str) {
        let entry = fs::canonicalize(self.path("sys/block").join(disk)).unwrap();
        let numbers = fs::read_to_string(entry.join("dev")).unwrap();
        for link in
            [format!("block/{disk}"), format!("class/block/{disk}"), format!("dev/block/{}", numbers.trim())]
        {
            fs::remove_file(self.path("sys").join(link)).unwrap();
        }
        // Kept, so that no later folder can be given its inode: the kernel does not use one again so soon either.
        fs::rename(&entry, entry.with_extension("gone")).unwrap();
        fs::remove_file(self.path("dev").join(disk)).unwrap();
    }
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}
