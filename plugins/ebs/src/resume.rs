//! What is under way, as it is handed to the host and comes back: one line of text, so that whoever reads a record can
//! read it.
//!
//! ```text
//! 1 attaching vol-0123abcd 1795689970819 1795689972001 /dev/xvdba,/dev/xvdbb
//! │ │         │            │ since        │ when we last did something for it
//! │ doing     id, or `-`                                  device names: the one that is tried, then those that failed
//! form
//! ```

use kato_plugin_sdk::types::Pending;

use crate::clock;

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// A volume was made, and is not available yet.
    Making,
    /// EC2 says that the token belongs to a volume of another kind, which nobody sees.
    Doubting,
    /// A quota is used up, and the volume may be there all the same.
    Refused,
    /// A volume is being changed.
    Changing,
    Attaching,
    /// An attaching that did not end is taken back.
    Undoing,
    Detaching,
    /// It was forced.
    Forcing,
    /// A snapshot is about to be cut, or was cut and may not be the only one.
    Cutting,
    /// What was written becomes a snapshot.
    Completing,
    /// A machine is going down, or a volume is taken from one that is.
    Fencing,
}

const WORDS: [(&str, Doing); 11] = [
    ("making", Doing::Making),
    ("doubting", Doing::Doubting),
    ("refused", Doing::Refused),
    ("changing", Doing::Changing),
    ("attaching", Doing::Attaching),
    ("undoing", Doing::Undoing),
    ("detaching", Doing::Detaching),
    ("forcing", Doing::Forcing),
    ("cutting", Doing::Cutting),
    ("completing", Doing::Completing),
    ("fencing", Doing::Fencing),
];

/// Work that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) doing: Doing,
    /// Of the volume, or of the snapshot that is made; empty where it is not known.
    pub(crate) id: String,
    /// When it began, in milliseconds since 1970.
    pub(crate) since: u64,
    /// When we last did something for it.
    pub(crate) last: u64,
    /// Device names: the one that is tried, then those that failed.
    pub(crate) devices: Vec<String>,
}

impl Work {
    pub(crate) fn new(doing: Doing, id: &str, now: u64) -> Self {
        Self { doing, id: id.to_owned(), since: now, last: now, devices: Vec::new() }
    }

    pub(crate) fn read(resume: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(resume).ok()?.split(' ');
        if words.next()? != "1" {
            return None;
        }
        let doing = words.next()?;
        let doing = WORDS.iter().find(|(word, _)| *word == doing)?.1;
        let id = words.next().map(|id| if id == "-" { "" } else { id })?.to_owned();
        let (since, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let devices = words.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        Some(Self { doing, id, since, last, devices })
    }

    fn spell(&self) -> Vec<u8> {
        let doing = WORDS.iter().find(|(_, doing)| *doing == self.doing).map_or("", |(word, _)| word);
        let id = if self.id.is_empty() { "-" } else { &self.id };
        format!("1 {doing} {id} {} {} {}", self.since, self.last, self.devices.join(",")).into_bytes()
    }

    /// The answer that it goes on.
    pub(crate) fn pending(&self, now: u64, note: impl Into<String>) -> Pending {
        Pending { resume: self.spell(), retry_after_ms: clock::beat(now), note: note.into() }
    }
}

/// The work that an effect comes back to; nothing for its first call. What cannot be read begins anew: every effect here
/// can.
pub(crate) fn work(resume: Option<&[u8]>) -> Option<Work> {
    resume.and_then(Work::read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spelt_is_read() {
        for (_, doing) in WORDS {
            for devices in [
                vec![],
                vec!["/dev/xvdba".to_owned()],
                vec!["/dev/xvdba".to_owned(), "/dev/xvdbb".to_owned()],
            ] {
                let work = Work { devices, last: 7, ..Work::new(doing, "vol-01", 5) };
                assert_eq!(Work::read(&work.spell()), Some(work.clone()));
            }
        }
        let work = Work::new(Doing::Cutting, "", 5);
        assert_eq!(Work::read(&work.spell()), Some(work));
        for text in ["", "1", "2 making vol-1 5 5 ", "1 mending vol-1 5 5 ", "1 making vol-1 x 5 "] {
            assert_eq!(Work::read(text.as_bytes()), None, "{text}");
        }
    }
}
