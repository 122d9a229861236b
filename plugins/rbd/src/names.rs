//! How things are called. A volume's image has the creation token for its name, and a snapshot too; whatever is made
//! for a while only has a dot in its name, which no token has. This file knows names and asks nobody.
//!
//! ```text
//! <token>            a volume's image; its handle is `<token>`, or `<token>+7` when it is kept 7 days after its end
//! <image>@<token>    a snapshot; its handle is `<image id>@<token>`, because images can be in the trash
//! <image>@clone.<token>  what the volume <token> is cloned from, until it is
//! gone.<image id>    an image that was taken out of the trash, until a volume is made of one of its snapshots
//! ```

use std::fmt;

use kato_plugin_sdk::types::{Error, Which};

/// How the tokens of the house begin.
const OURS: &str = "kato-";
/// How the snapshots begin that volumes are cloned from.
const CLONE: &str = "clone.";
/// How images are called that are out of the trash for a while.
const GONE: &str = "gone.";

/// Whether the programs take it for a name.
pub(crate) fn is_word(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.len() <= 100
        && text.bytes().all(safe)
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric())
}

/// A creation token that can be an image's or a snapshot's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > 64 || !is_word(text) || text.contains('.') {
            return Err(Error::invalid(format!(
                "the token {text:?} cannot name an image: a letter or digit, then letters, digits, - and _, 64 at most"
            )));
        }
        Ok(Self(text.to_owned()))
    }

    /// The token of the volume that is meant; a handle of another one is refused.
    pub(crate) fn of_volume(which: &Which) -> Result<Self, Error> {
        let token = Self::parse(&which.token)?;
        match &which.handle {
            Some(handle) if parted(handle).is_none_or(|(name, _)| name != token.0) => Err(
                Error::precondition(format!("the volume {handle:?} is not the one with the token {token}")),
            ),
            _ => Ok(token),
        }
    }

    /// The token of the snapshot that is meant, and the id of its image where the host has heard it.
    pub(crate) fn of_snapshot(which: &Which) -> Result<(Self, Option<&str>), Error> {
        let token = Self::parse(&which.token)?;
        let Some(handle) = &which.handle else { return Ok((token, None)) };
        match handle.split_once('@') {
            Some((id, name)) if name == token.0 && is_word(id) => Ok((token, Some(id))),
            _ => Err(Error::precondition(format!(
                "the snapshot {handle:?} is not the one with the token {token}"
            ))),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the snapshot that this volume is cloned from, if it is made from a volume.
    pub(crate) fn origin(&self) -> String {
        format!("{CLONE}{self}")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn parted(handle: &str) -> Option<(&str, u64)> {
    match handle.split_once('+') {
        None => Some((handle, 0)),
        Some((name, days)) => Some((name, days.parse().ok()?)),
    }
}

/// How we call a volume to the host.
pub(crate) fn volume_handle(image: &str, days: u64) -> String {
    if days == 0 { image.to_owned() } else { format!("{image}+{days}") }
}

/// How many days a volume is kept after its end. One whose handle nobody heard has nothing to keep.
pub(crate) fn days(which: &Which) -> u64 {
    which.handle.as_deref().and_then(parted).map_or(0, |(_, days)| days)
}

/// How we call a snapshot to the host.
pub(crate) fn snapshot_handle(image: &str, token: &str) -> String {
    format!("{image}@{token}")
}

/// Whether only the house calls images so.
pub(crate) fn is_ours(image: &str) -> bool {
    image.starts_with(OURS) && !image.contains('.')
}

/// What an image is called while it is out of the trash.
pub(crate) fn gone(id: &str) -> String {
    format!("{GONE}{id}")
}

/// Whether an image is called so, whichever it is.
pub(crate) fn is_gone(image: &str) -> bool {
    image.starts_with(GONE)
}

/// Whether volumes are cloned from a snapshot of this name.
pub(crate) fn is_origin(snapshot: &str) -> bool {
    snapshot.starts_with(CLONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn which(token: &str, handle: &str) -> Which {
        Which { token: token.into(), handle: Some(handle.into()) }
    }

    #[test]
    fn a_handle_that_is_not_the_tokens_is_refused() {
        assert!(Token::of_volume(&which("kato-a", "kato-a")).is_ok());
        assert!(Token::of_volume(&which("kato-a", "kato-a+7")).is_ok());
        assert!(Token::of_volume(&which("kato-a", "kato-b")).is_err());
        assert!(Token::of_volume(&which("kato-a", "kato-a+x")).is_err());
        assert_eq!(Token::of_snapshot(&which("s", "12ab@s")).unwrap().1, Some("12ab"));
        for handle in ["12ab@t", "s", "-x@s", "@s", "12/ab@s"] {
            assert!(Token::of_snapshot(&which("s", handle)).is_err(), "{handle}");
        }
    }

    #[test]
    fn no_token_is_called_as_what_is_made_for_a_while() {
        for text in ["", "-a", "a/b", "a b", "gone.12ab", "clone.a", "a@b", &"a".repeat(65)] {
            assert!(Token::parse(text).is_err(), "{text}");
        }
        let token = Token::parse(&format!("kato-{}", "a".repeat(58))).unwrap();
        assert!(is_word(&token.origin()) && is_origin(&token.origin()));
        assert!(is_ours("kato-a") && !is_ours("katoa") && !is_ours("gone.1") && is_gone(&gone("12ab")));
    }

    #[test]
    fn days_are_in_the_handle() {
        assert_eq!(
            (volume_handle("kato-a", 0), volume_handle("kato-a", 7)),
            ("kato-a".into(), "kato-a+7".into())
        );
        assert_eq!(days(&which("kato-a", "kato-a+7")), 7);
        assert_eq!(days(&which("kato-a", "kato-a")), 0);
    }
}
