//! Names are the caller's, ids are ours, handles are the backend's; none of them is a bare string.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// The longest name that any door may hand in, in bytes (the CSI size limit).
pub const NAME_LIMIT: usize = 128;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// The id that prints so.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                (text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
                    .then(|| u128::from_str_radix(text, 16).ok().map(Self))
                    .flatten()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}({self})", stringify!($name)) }
        }
    )* };
}

ids! {
    /// Our id of a volume: 32 lower-case hex digits, safe as a path and as a key.
    VolumeId,
    /// Our id of a snapshot.
    SnapshotId,
    /// Our id of a group of snapshots, made anew whenever one is to be cut: what carries the same one was cut at
    /// one moment.
    GroupId,
    /// The id of the cluster (of this set of records), made once.
    ClusterId,
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident($what:literal, $limit:expr)),* $(,)?) => { $(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name. Anything but control characters is legal: a name is never a path.
            pub fn parse(text: &str) -> Result<Self, Error> {
                check($what, text, $limit)?;
                Ok(Self(text.into()))
            }

            /// The name as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str { &self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}({:?})", stringify!($name), &*self.0) }
        }
    )* };
}

names! {
    /// What the caller calls a volume; unique.
    VolumeName("volume name", NAME_LIMIT),
    /// What the caller calls a snapshot; unique.
    SnapshotName("snapshot name", NAME_LIMIT),
    /// What the caller calls a group of snapshots; unique.
    GroupName("group name", NAME_LIMIT),
    /// What the operator calls a class.
    ClassName("class name", 63),
    /// What the operator calls a backend.
    BackendName("backend name", 63),
    /// What the house calls a host.
    NodeId("node id", NAME_LIMIT),
    /// Who holds a publication: Docker's mount id, CSI's target path, or a fixed word for callers without one.
    HolderId("holder", 4096),
    /// What the backend calls what it made.
    Handle("handle", 512),
    /// The creation token: how a thing is found whose handle was never heard.
    Token("token", 64),
}

fn check(what: &str, text: &str, limit: usize) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::invalid(format!("the {what} is empty: give it at least one character")));
    }
    if text.len() > limit {
        return Err(Error::invalid(format!(
            "the {what} is {} bytes long: at most {limit} are allowed",
            text.len()
        )));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) {
        return Err(Error::invalid(format!("the {what} {text:?} contains a control character")));
    }
    Ok(())
}

impl Token {
    /// The token of a thing's n-th attempt to exist: the same inputs always give the same token, so that it
    /// can be found again by anybody who knows its name. 26 characters of `[a-z2-7]`, led by `kato-`.
    #[must_use]
    pub fn derive(cluster: ClusterId, kind: &str, name: &str, generation: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"kato-token-1\0");
        hash.update(cluster.0.to_be_bytes());
        hash.update(kind.as_bytes());
        hash.update(b"\0");
        hash.update(generation.to_be_bytes());
        hash.update(name.as_bytes());
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let digest = hash.finalize();
        let mut text = String::from("kato-");
        let mut bits = 0u32;
        let mut count = 0;
        for byte in digest.iter().take(17) {
            bits = (bits << 8) | u32::from(*byte);
            count += 8;
            while count >= 5 && text.len() < 31 {
                count -= 5;
                let index = ((bits >> count) & 31) as usize;
                text.push(char::from(ALPHABET.get(index).copied().unwrap_or(b'a')));
            }
            bits &= (1 << count) - 1;
        }
        Self(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_stable_distinct_and_short() {
        let cluster = ClusterId(7);
        let one = Token::derive(cluster, "volume", "db", 0);
        assert_eq!(one, Token::derive(cluster, "volume", "db", 0));
        assert_eq!(one.as_str().len(), 31);
        assert_ne!(one, Token::derive(cluster, "volume", "db", 1));
        assert_ne!(one, Token::derive(cluster, "snapshot", "db", 0));
        assert_ne!(one, Token::derive(ClusterId(8), "volume", "db", 0));
    }

    #[test]
    fn names_take_any_text_but_control_characters() {
        assert!(VolumeName::parse("../../x 🦀\tü").is_ok());
        for bad in ["", "a\0b", "a\u{7f}", &"x".repeat(129)] {
            assert!(VolumeName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_print_as_they_parse() {
        let id = VolumeId(0xfeed);
        assert_eq!(VolumeId::parse(&id.to_string()), Some(id));
        assert_eq!(VolumeId::parse("+0000000000000000000000000000000"), None);
    }
}
