//! Which disk was which volume's, where a disk says nothing of itself but its name. It is the one thing about
//! devices that the kernel cannot be asked for: a name is free again as soon as a disk has gone, and the disk
//! that has it may be the last volume's, which is still going, or the next one's. A note is written before a disk
//! is used and is true of one boot; one that is lost makes nobody forget a byte, and only lets a disk that none
//! of our volumes had be judged by its uses and its size.

use std::{fs, io, path::PathBuf};

use kato_orchestrator::Error;

use crate::errno::failed;

/// The folder of notes, one file for each name.
pub(super) struct Notes {
    folder: PathBuf,
}

/// Whose disk had a name last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Which of the disks that had the name since the machine began.
    pub(super) appearance: String,
    /// The volume's id.
    pub(super) volume: String,
}

impl Notes {
    /// The notes in this folder, which need not be there yet.
    pub(super) fn within(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// What is noted of a name since the machine began.
    pub(super) fn of(&self, name: &str) -> Result<Option<Note>, Error> {
        let file = self.folder.join(name);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(format_args!("read {}", file.display()), error)),
        };
        let boot = boot()?;
        let mut words = text.split_whitespace();
        let note = (words.next() == Some(&boot))
            .then(|| Some(Note { appearance: words.next()?.to_owned(), volume: words.next()?.to_owned() }));
        Ok(note.flatten())
    }

    /// Notes whose disk has a name.
    pub(super) fn write(&self, name: &str, appearance: &str, volume: &str) -> Result<(), Error> {
        let note = Note { appearance: appearance.to_owned(), volume: volume.to_owned() };
        if self.of(name)?.as_ref() == Some(&note) {
            return Ok(());
        }
        let what =
            |error| failed(format_args!("note in {} whose disk {name} is", self.folder.display()), error);
        fs::create_dir_all(&self.folder).map_err(what)?;
        // Whole or not at all. It need not outlive the machine, so nothing is flushed.
        let new = self.folder.join(format!(".{name}"));
        fs::write(&new, format!("{} {appearance} {volume}\n", boot()?)).map_err(what)?;
        fs::rename(&new, self.folder.join(name)).map_err(what)
    }
}

fn boot() -> Result<String, Error> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .map_err(|error| failed("read the kernel's boot id", error))
}
