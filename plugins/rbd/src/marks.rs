//! What is written on an image, in its metadata: `kato.mark`, `kato.trash-days`, and `kato.snapshot.<token>` for each
//! snapshot. A clone inherits all of its parent's metadata the moment before it is whole, so a mark says for whom it
//! was written: an image that carries another's was cloned and not yet marked, by us or by somebody else. It says as
//! well what the image was made from, because that cannot be seen any more once a clone is flattened.

use std::collections::BTreeMap;

use kato_plugin_sdk::{
    types::{Error, Which},
    volumes::Origin,
};

use crate::names::Token;

pub(crate) const MARK: &str = "kato.mark";
const DAYS: &str = "kato.trash-days";
const SNAPSHOT: &str = "kato.snapshot.";

/// The metadata of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks(pub(crate) BTreeMap<String, String>);

/// What a volume's mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// What it was made from, as [`source`] spells it; empty for nothing.
    pub(crate) source: String,
    /// What the host wrote.
    pub(crate) text: String,
}

impl Mark {
    /// As it is written on this image: at most 18 bytes more than the host's own text, which has at most 200.
    pub(crate) fn spell(&self, image: &str) -> String {
        let (sum, source) = (sum(image), &self.source);
        let text = &self.text;
        if source.is_empty() { format!("{sum} {text}") } else { format!("{sum}.{source} {text}") }
    }

    /// What is written on this image, unless it was written on another one.
    fn read(image: &str, written: &str) -> Option<Self> {
        let (head, text) = written.split_once(' ').unwrap_or((written, ""));
        let (name, source) = head.split_once('.').unwrap_or((head, ""));
        (name == sum(image)).then(|| Self { source: source.to_owned(), text: text.to_owned() })
    }
}

impl Marks {
    /// The mark that was written for the image of this name.
    pub(crate) fn of(&self, image: &str) -> Option<Mark> {
        self.0.get(MARK).and_then(|written| Mark::read(image, written))
    }

    /// Whether there is any mark, its own or an inherited one: a clone gets it when it hangs on its parent.
    pub(crate) fn any(&self) -> bool {
        self.0.contains_key(MARK)
    }

    /// How many days the volume is kept after its end.
    pub(crate) fn days(&self) -> u64 {
        self.0.get(DAYS).and_then(|days| days.parse().ok()).unwrap_or(0)
    }

    /// What is written for a snapshot.
    pub(crate) fn snapshot(&self, token: &str) -> Option<String> {
        self.0
            .get(&format!("{SNAPSHOT}{token}"))
            .and_then(|written| Mark::read(token, written))
            .map(|mark| mark.text)
    }
}

/// How a snapshot's mark is written.
pub(crate) fn of_snapshot(token: &Token, text: &str) -> String {
    Mark { source: String::new(), text: text.to_owned() }.spell(token.as_str())
}

/// How the thing that a volume is made from is spelt in its mark.
pub(crate) fn source(origin: Option<&Origin>) -> String {
    let sum_of = |what: &str, which: &Which| sum(&format!("{what}/{}", which.token));
    match origin {
        None => String::new(),
        Some(Origin::Snapshot(which)) => sum_of("snapshot", which),
        Some(Origin::Volume(which)) => sum_of("volume", which),
    }
}

/// FNV-1a of 32 bits: it tells names apart that nobody chose to be alike.
fn sum(text: &str) -> String {
    let hash =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

/// Refuses a mark that cannot be kept.
pub(crate) fn check(token: &Token, text: &str) -> Result<(), Error> {
    if text.len() <= 200 && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Ok(());
    }
    Err(Error::invalid(format!("the mark of {token} has to be printable ASCII of at most 200 bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(image: &str, mark: &Mark) -> Marks {
        Marks(BTreeMap::from([(MARK.to_owned(), mark.spell(image))]))
    }

    #[test]
    fn a_mark_is_believed_by_the_image_that_it_was_written_on() {
        for text in ["", "-x", "a mark: x = {1}", " led by a space"] {
            for source in ["", "12345678"] {
                let mark = Mark { source: source.into(), text: text.into() };
                let marks = marks("kato-a", &mark);
                assert_eq!(marks.of("kato-a"), Some(mark), "{text:?}");
                assert_eq!(marks.of("kato-b"), None);
                assert!(marks.any());
            }
        }
        assert_eq!(Marks(BTreeMap::from([(MARK.into(), "by hand".into())])).of("kato-a"), None);
    }

    #[test]
    fn the_longest_mark_has_room() {
        let mark = Mark { source: sum("x"), text: "m".repeat(200) };
        assert!(mark.spell("kato-a").len() <= 256);
        let token = Token::parse("kato-a").unwrap();
        check(&token, &mark.text).unwrap();
        assert!(check(&token, &"m".repeat(201)).is_err() && check(&token, "a\nb").is_err());
    }
}
