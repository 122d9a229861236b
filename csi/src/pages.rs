//! Tokens of pages: where a list goes on. A token carries the last key that was told and which list it is of, and nothing
//! that lives in this process, so it outlives a restart and the deletion of what it names. What is no token of
//! ours is answered ABORTED, for which the specification asks: the caller begins the list again.

use kato_orchestrator::Error;
use sha2::{Digest, Sha256};

use crate::rules::TEXT_LIMIT;

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Volumes,
    Snapshots,
    VolumeHealth,
}

impl List {
    fn letter(self) -> char {
        match self {
            Self::Volumes => 'v',
            Self::Snapshots => 's',
            Self::VolumeHealth => 'h',
        }
    }
}

/// How a list is narrowed, such as by the volume whose snapshots are asked for: a token of one is none of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter<'a>(pub(crate) &'a str);

/// How many characters the check takes, and what comes before the key.
const CHECK: usize = 8;

/// The key that a list goes on after; nothing where it begins.
pub(crate) fn from_wire(list: List, filter: Filter<'_>, token: &str) -> Result<Option<String>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let key = token.strip_prefix(list.letter()).and_then(|rest| rest.split_at_checked(CHECK));
    match key {
        Some((check, key)) if !key.is_empty() && check == self::check(list, filter, key) => {
            Ok(Some(key.to_owned()))
        }
        Some(_) | None => Err(Error::busy(
            "the page token is none that this list has answered: begin the list again without one",
        )),
    }
}

/// The token for going on after a key.
pub(crate) fn to_wire(list: List, filter: Filter<'_>, key: &str) -> Result<String, Error> {
    let token = format!("{}{}{key}", list.letter(), check(list, filter, key));
    match token.len() <= TEXT_LIMIT {
        true => Ok(token),
        false => Err(Error::internal(format!("the key {key:?} is too long to go on after"))),
    }
}

/// The most bytes that the key of a page may have.
#[cfg(test)]
pub(crate) const KEY_LIMIT: usize = TEXT_LIMIT - CHECK - 1;

fn check(list: List, filter: Filter<'_>, key: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(b"kato-page-1\0");
    hash.update([list.letter() as u8]);
    hash.update((filter.0.len() as u64).to_be_bytes());
    hash.update(filter.0);
    hash.update(key);
    hash.finalize().iter().take(CHECK / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use kato_orchestrator::Kind;

    use super::*;

    const ALL: Filter<'_> = Filter("");

    #[test]
    fn a_list_goes_on_where_it_stopped() {
        assert_eq!(from_wire(List::Volumes, ALL, "").unwrap(), None);
        for key in ["a", "ü 🦀", "v", "00000000", &"k".repeat(KEY_LIMIT)] {
            let token = to_wire(List::Snapshots, Filter("local/a"), key).unwrap();
            assert!(token.len() <= TEXT_LIMIT);
            assert_eq!(from_wire(List::Snapshots, Filter("local/a"), &token).unwrap().as_deref(), Some(key));
        }
        assert!(to_wire(List::Volumes, ALL, &"k".repeat(KEY_LIMIT + 1)).is_err());
    }

    #[test]
    fn nothing_else_is_a_token() {
        let ours = to_wire(List::Volumes, ALL, "db").unwrap();
        let mut changed = ours.clone();
        changed.pop();
        for foreign in
            ["x", "v", "v0000000", "v00000000", "v00000000db", "🦀🦀🦀🦀", &changed, &format!("{ours}b")]
        {
            assert_eq!(from_wire(List::Volumes, ALL, foreign).unwrap_err().kind, Kind::Busy, "{foreign}");
        }
        assert!(from_wire(List::VolumeHealth, ALL, &ours).is_err(), "it is of another list");
        assert!(from_wire(List::Volumes, Filter("x"), &ours).is_err(), "the list was narrowed otherwise");
    }
}
