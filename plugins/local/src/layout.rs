//! Where things lie beneath the granted directory, and what is written beside them. Everything is found by its
//! token alone; there is no index that could disagree with what is there. This file knows names and text, and
//! touches no file; `api.rs` does.
//!
//! ```text
//! kato-local                  the marker: what this data folder is
//! volumes/<token>/meta        kind, size, thin, source, name: see [`Meta`]
//! volumes/<token>/mark        what the host wrote on it
//! volumes/<token>/tree/       the bytes of a directory volume, or
//! volumes/<token>/image       the bytes of an image volume
//! volumes/.gone-<token>       being removed, not there any more
//! snapshots/...               the same
//! coming/volumes-<token>.<n>  an attempt at making it, not there yet; apart, so that looking for attempts
//!                             takes as long with a hundred thousand volumes as with one
//! ```

use std::fmt;

use kato_plugin_sdk::types::{Error, Which};

/// The marker of a data folder.
pub(crate) const MARKER: &str = "kato-local";
/// Where the marker is written before it is there.
pub(crate) const NEW_MARKER: &str = ".new-kato-local";
/// Where attempts at making things are.
pub(crate) const COMING: &str = "coming";
/// The first line of a `meta`, with its version.
const TITLE: &str = "kato-local 1";

/// What kinds of things there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shelf {
    Volumes,
    Snapshots,
}

impl Shelf {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Volumes => "volumes",
            Self::Snapshots => "snapshots",
        }
    }

    /// One of them, in a message.
    pub(crate) fn one(self) -> &'static str {
        match self {
            Self::Volumes => "volume",
            Self::Snapshots => "snapshot",
        }
    }
}

/// What holds the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    Image,
}

impl Kind {
    /// The words of the class parameter and of `meta`.
    pub(crate) const WORDS: [(&'static str, Self); 2] =
        [("directory", Self::Directory), ("image", Self::Image)];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Image => "image",
        }
    }

    /// The name of what holds the bytes.
    pub(crate) fn content(self) -> &'static str {
        match self {
            Self::Directory => "tree",
            Self::Image => "image",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Directory => "dir",
            Self::Image => "img",
        }
    }
}

/// A creation token that is safe as a name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.len() > 64
            || !text.bytes().all(safe)
            || !text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(Error::invalid(format!(
                "the token {text:?} cannot name a directory: a letter or digit, then letters, digits, - and _, \
                 64 at most"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a thing is, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shelf: Shelf,
    pub(crate) token: Token,
}

impl Place {
    pub(crate) fn new(shelf: Shelf, token: &str) -> Result<Self, Error> {
        Ok(Self { shelf, token: Token::parse(token)? })
    }

    /// The place of what is meant; a handle of something else is refused.
    pub(crate) fn of(shelf: Shelf, which: &Which) -> Result<Self, Error> {
        let place = Self::new(shelf, &which.token)?;
        match &which.handle {
            Some(handle)
                if ![Kind::Directory, Kind::Image].iter().any(|kind| place.handle(*kind) == *handle) =>
            {
                Err(Error::precondition(format!(
                    "the {} {handle:?} is not the one with the token {}",
                    shelf.one(),
                    place.token
                )))
            }
            _ => Ok(place),
        }
    }

    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.shelf.path(), self.token)
    }

    /// Where it is while it is being made. Each attempt has a place of its own: one that is thought dead, and
    /// is not, can then neither spoil nor finish another's work.
    pub(crate) fn coming(&self, attempt: &str) -> String {
        format!("{COMING}/{}{attempt}", self.attempts())
    }

    /// How the names of all attempts at it begin. No token contains a dot.
    pub(crate) fn attempts(&self) -> String {
        format!("{}-{}.", self.shelf.path(), self.token)
    }

    /// Where it is while it is being removed.
    pub(crate) fn going(&self) -> String {
        format!("{}/.gone-{}", self.shelf.path(), self.token)
    }

    pub(crate) fn meta(&self) -> String {
        format!("{}/meta", self.path())
    }

    pub(crate) fn mark(&self) -> String {
        format!("{}/mark", self.path())
    }

    /// The path of what holds the bytes.
    pub(crate) fn content(&self, kind: Kind) -> String {
        format!("{}/{}", self.path(), kind.content())
    }

    /// How we call it to the host.
    pub(crate) fn handle(&self, kind: Kind) -> String {
        format!("{}/{}", kind.prefix(), self.token)
    }
}

/// What is written beside the bytes: what cannot be seen from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) kind: Kind,
    /// Of an image its length, of a directory its quota, zero for none.
    pub(crate) size: u64,
    /// Whether blocks are only taken when they are written.
    pub(crate) thin: bool,
    /// What it was copied from, as `volume/<token>` or `snapshot/<token>`.
    pub(crate) source: Option<String>,
    /// What its owner calls it; for people only.
    pub(crate) name: String,
}

impl Meta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut text =
            format!("{TITLE}\nkind {}\nsize {}\nthin {}\n", self.kind.word(), self.size, self.thin);
        if let Some(source) = &self.source {
            text.push_str(&format!("source {source}\n"));
        }
        let name: String = self.name.chars().filter(|c| !c.is_control()).collect();
        text.push_str(&format!("name {name}\nend\n"));
        text.into_bytes()
    }

    /// Nothing if the text is not a whole one of ours. Words that a later version adds are passed over.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut lines = text.strip_suffix("end\n")?.lines();
        if lines.next() != Some(TITLE) {
            return None;
        }
        let (mut kind, mut size, mut thin, mut source, mut name) = (None, None, None, None, String::new());
        for line in lines {
            let (word, value) = line.split_once(' ')?;
            match word {
                "kind" => kind = Kind::WORDS.iter().find(|(word, _)| *word == value).map(|(_, kind)| *kind),
                "size" => size = value.parse().ok(),
                "thin" => thin = value.parse().ok(),
                "source" => source = Some(value.to_owned()),
                "name" => value.clone_into(&mut name),
                _ => {}
            }
        }
        Some(Self { kind: kind?, size: size?, thin: thin?, source, name })
    }
}

#[cfg(test)]
mod tests {
    use kato_plugin_sdk::types::ErrorKind;

    use super::*;

    #[test]
    fn a_token_is_never_a_path() {
        assert!(Token::parse("kato-abcdefghijklmnopqrstuvwxyz").is_ok());
        for bad in ["", ".", "..", "a/b", "../a", ".new-a", "-a", "a.b", "a b", "a\0", "ä", &"x".repeat(65)]
        {
            assert_eq!(Token::parse(bad).unwrap_err().kind, ErrorKind::InvalidArgument, "{bad:?}");
        }
    }

    #[test]
    fn a_handle_and_a_token_that_disagree_are_refused() {
        let which = |handle: &str| Which { token: "a".into(), handle: Some(handle.into()) };
        assert!(Place::of(Shelf::Volumes, &which("dir/a")).is_ok());
        assert!(Place::of(Shelf::Volumes, &which("img/a")).is_ok());
        for bad in ["dir/b", "a", "", "img/../a", "dir/a/"] {
            let error = Place::of(Shelf::Volumes, &which(bad)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Precondition, "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (source, name) in [(None, ""), (Some("snapshot/x"), "My volume: ü 🦀"), (Some("volume/y"), "end")]
        {
            let meta = Meta {
                kind: Kind::Image,
                size: 1 << 40,
                thin: true,
                source: source.map(str::to_owned),
                name: name.into(),
            };
            assert_eq!(Meta::decode(&meta.encode()), Some(meta));
        }
    }

    #[test]
    fn a_name_cannot_forge_a_line() {
        let name = "x\nsize 0\nend".into();
        let meta = Meta { kind: Kind::Directory, size: 7, thin: false, source: None, name };
        assert_eq!(Meta::decode(&meta.encode()).map(|meta| meta.size), Some(7));
    }

    #[test]
    fn no_part_of_a_text_is_taken_for_the_whole() {
        let meta = Meta { kind: Kind::Image, size: 4096, thin: false, source: None, name: "n".into() };
        let text = meta.encode();
        for end in 0..text.len() {
            assert_eq!(Meta::decode(&text[..end]), None, "{end}");
        }
    }
}
