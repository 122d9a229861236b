//! A volume of Amazon EBS, told as its id and the name that it was attached under: `vol-0123abcd:/dev/xvdba`.
//!
//! On Nitro it is an NVMe disk whose serial is the id, and the name means nothing: the kernel counts such disks
//! in the order in which it meets them. udev's links lag, so sysfs alone is asked. On Xen nothing but the name
//! tells one disk from another. A name passes from volume to volume, and the last one's disk may still be here
//! under it while EC2 has long attached the next: it has to have gone, with everything that stood on it, and the
//! disk has to be one that no other volume had (`notes.rs`).

use kato_orchestrator::Error;

use super::{disk::Disk, foreign::Uses, notes::Notes};

/// The model of an EBS volume on Nitro. What an instance brings along is another: it is gone with the instance.
const MODEL: &str = "Amazon Elastic Block Store";

/// A volume that is wanted.
pub(super) struct Volume<'a> {
    id: &'a str,
    /// The letters that end its name.
    letters: &'a str,
}

impl<'a> Volume<'a> {
    /// Reads `<volume id>:<device name>`.
    pub(super) fn parse(value: &'a str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!(
                "the EBS identity {value:?} is not one: it is a volume's id and a device name, such as \
                 vol-0123abcd:/dev/xvdba"
            ))
        };
        let (id, name) = value.split_once(':').ok_or_else(wrong)?;
        let digits = id.strip_prefix("vol-").unwrap_or_default();
        let letters =
            name.strip_prefix("/dev/xvd").or_else(|| name.strip_prefix("/dev/sd")).unwrap_or_default();
        let is_id = (8..=17).contains(&digits.len())
            && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        // `a` is the root disk.
        let is_name = (1..=2).contains(&letters.len())
            && letters.bytes().all(|b| b.is_ascii_lowercase())
            && letters != "a";
        if is_id && is_name { Ok(Self { id, letters }) } else { Err(wrong()) }
    }

    /// Which of these disks it is.
    pub(super) fn among(&self, mut disks: Vec<Disk>) -> Vec<Disk> {
        let is_nitro = disks.iter().any(is_volume_on_nitro);
        disks.retain(|disk| if is_nitro { self.is_by_serial(disk) } else { self.is_by_name(disk) });
        disks
    }

    /// Whether it is this disk.
    pub(super) fn is(&self, disk: &Disk) -> bool {
        self.is_by_serial(disk) || self.is_by_name(disk)
    }

    fn is_by_serial(&self, disk: &Disk) -> bool {
        is_volume_on_nitro(disk) && disk.has("nvme-serial", self.id)
    }

    fn is_by_name(&self, disk: &Disk) -> bool {
        disk.name.strip_prefix("xvd") == Some(self.letters)
            && disk.text("device/devtype").is_none_or(|kind| kind == "vbd")
    }

    /// Refuses a disk that is a previous volume's, or whose name something of a previous volume still has.
    pub(super) fn refuse_leftovers(&self, disk: &Disk, uses: &Uses, notes: &Notes) -> Result<(), Error> {
        if !self.is_by_name(disk) {
            return Ok(());
        }
        let not_yet = |why: String| {
            Err(Error::unavailable(format!(
                "the volume {} is to appear as {}, but {why}: it has not appeared yet",
                self.id, disk.name
            )))
        };
        // The kernel keeps a disk that is taken away for as long as somebody has it open.
        if let Some(state) = disk.text("device/state").filter(|state| state != "Connected") {
            return not_yet(format!("the disk of that name is {}", state.to_lowercase()));
        }
        match notes.of(&disk.name)? {
            Some(note) if note.appearance == disk.appearance() => match note.volume == self.id {
                true => Ok(()),
                false => not_yet(format!("the disk of that name is still that of {}", note.volume)),
            },
            last => {
                // Another disk had the name: of that one nothing may be left, whatever its numbers are.
                let left = uses.of(disk).find(|_| last.is_some());
                let by_name = uses.named(&disk.name).find(|mount| Some(mount.device) != disk.numbers());
                match left.or(by_name) {
                    Some(mount) => not_yet(format!(
                        "a previous disk of that name is still mounted at {}",
                        mount.point.display()
                    )),
                    None => Ok(()),
                }
            }
        }
    }

    /// Remembers that this disk is this volume's.
    pub(super) fn take(&self, disk: &Disk, notes: &Notes) -> Result<(), Error> {
        if self.is_by_name(disk) { notes.write(&disk.name, disk.appearance(), self.id) } else { Ok(()) }
    }

    /// Whether a disk that is known by its name is another one than that which was this volume's.
    pub(super) fn is_another(&self, disk: &Disk, notes: &Notes) -> Result<bool, Error> {
        if !self.is_by_name(disk) {
            return Ok(false);
        }
        Ok(notes
            .of(&disk.name)?
            .is_some_and(|note| note.volume != self.id || note.appearance != disk.appearance()))
    }
}

fn is_volume_on_nitro(disk: &Disk) -> bool {
    disk.name.starts_with("nvme") && disk.text("device/model").as_deref() == Some(MODEL)
}
