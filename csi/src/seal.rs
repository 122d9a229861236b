//! Contexts are what a caller carries from one of our processes to another: from the controller to the node, for ever in
//! the case of a volume's. Whoever can write to them could point a node at somebody else's bytes, so what is ours in them,
//! every key that begins with `kato.storage/`, is sealed: HMAC-SHA256 over the kind of context, the volume's id and all of
//! these keys. Other keys are added on the way (`csi.storage.k8s.io/…`) and are nobody's secret; the seal leaves them out,
//! and so must whoever trusts it.

use std::{collections::BTreeMap, fmt};

use hmac::{Hmac, KeyInit, Mac};
use kato_orchestrator::Error;
use sha2::Sha256;

use crate::rules::MAP_LIMIT;

/// What our keys begin with.
pub(crate) const OURS: &str = "kato.storage/";

/// Where the seal is.
const SEAL: &str = "kato.storage/seal";

/// The fewest bytes of a key.
const KEY_LEAST: usize = 32;

/// Which context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContextKind {
    /// What a volume is, for as long as it is.
    Volume,
    /// How a node reaches it, for as long as it is attached.
    Publish,
}

impl ContextKind {
    fn word(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Publish => "publish",
        }
    }
}

/// What contexts are sealed with. Every process of one cluster has the same. It is kept as the state that every seal begins
/// with: lists seal very many.
#[derive(Clone)]
pub struct SealKey(Hmac<Sha256>);

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(***)")
    }
}

impl SealKey {
    /// Takes a key of at least 32 bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, Error> {
        let bytes = bytes.into();
        match bytes.len() {
            #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
            KEY_LEAST.. => Ok(Self(Hmac::new_from_slice(&bytes).expect("HMAC takes keys of every length"))),
            length => Err(Error::invalid(format!(
                "the key for seals has {length} bytes, and less than {KEY_LEAST} can be guessed: make one with \
                 `head -c 32 /dev/urandom | base64`"
            ))),
        }
    }

    /// The same words under a seal.
    pub(crate) fn seal(
        &self,
        kind: ContextKind,
        volume: &str,
        mut words: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        words.remove(SEAL);
        let tag = self.mac(kind, volume, &words).finalize().into_bytes();
        words.insert(SEAL.to_owned(), to_hex(&tag));
        let size: usize = words.iter().map(|(key, value)| key.len() + value.len()).sum();
        match size <= MAP_LIMIT {
            true => Ok(words),
            false => Err(Error::precondition(format!(
                "its {} context would take {size} bytes, and CSI allows {MAP_LIMIT}: give its class fewer or shorter \
                 parameters",
                kind.word()
            ))
            .about(format!("volume {volume}"))),
        }
    }

    /// Our own words from under a seal, without it and without what others added; an error if there is none, or if any of
    /// them is not as it was.
    pub(crate) fn open(
        &self,
        kind: ContextKind,
        volume: &str,
        words: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let broken = |what: &str| {
            let field = match kind {
                ContextKind::Volume => "volume_context",
                ContextKind::Publish => "publish_context",
            };
            Err(Error::invalid(format!(
                "{what}: hand it over as the controller answered it for this volume, and give every process the same csi.seal"
            ))
            .about(format!("{field} of volume {volume}")))
        };
        let Some(text) = words.get(SEAL) else { return broken("it carries no seal") };
        let Some(tag) = from_hex(text) else { return broken("its seal is no seal of ours") };
        // In constant time: how much of a guess is right shows nowhere.
        if self.mac(kind, volume, words).verify_slice(&tag).is_err() {
            return broken("it is not what was sealed");
        }
        Ok(ours(words).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn mac(&self, kind: ContextKind, volume: &str, words: &BTreeMap<String, String>) -> Hmac<Sha256> {
        // Each part is led by its length, so that no two contexts are the same bytes.
        let mut mac = self.0.clone();
        let mut part = |text: &str| {
            mac.update(&(text.len() as u64).to_be_bytes());
            mac.update(text.as_bytes());
        };
        part("kato-seal-1");
        part(kind.word());
        part(volume);
        for (key, value) in ours(words) {
            part(key);
            part(value);
        }
        mac
    }
}

/// What the seal covers.
fn ours(words: &BTreeMap<String, String>) -> impl Iterator<Item = (&String, &String)> {
    words.iter().filter(|(key, _)| key.starts_with(OURS) && *key != SEAL)
}

fn to_hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? * 16 + digit(*low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> SealKey {
        SealKey::new([byte; 32]).unwrap()
    }

    fn words(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_was_sealed_is_opened_and_what_others_add_is_left_out() {
        let ours = words(&[("kato.storage/fs", "ext4"), ("kato.storage/class", "fast")]);
        let mut sealed = key(1).seal(ContextKind::Volume, "local/a", ours.clone()).unwrap();
        sealed.insert("csi.storage.k8s.io/pod.name".into(), "x".into());
        sealed.insert("storage.kubernetes.io/csiProvisionerIdentity".into(), "y".into());
        assert_eq!(key(1).open(ContextKind::Volume, "local/a", &sealed).unwrap(), ours);
        let again = key(1).seal(ContextKind::Volume, "local/a", sealed.clone()).unwrap();
        assert_eq!(again, sealed, "sealing twice changes nothing");
    }

    #[test]
    fn no_change_of_ours_goes_unseen() {
        let ours = words(&[("kato.storage/fs", "ext4"), ("kato.storage/root", "data")]);
        let sealed = key(1).seal(ContextKind::Publish, "local/a", ours).unwrap();
        let opened = |key: &SealKey, kind, volume: &str, words: &BTreeMap<String, String>| {
            key.open(kind, volume, words).is_ok()
        };
        assert!(opened(&key(1), ContextKind::Publish, "local/a", &sealed));
        assert!(!opened(&key(2), ContextKind::Publish, "local/a", &sealed), "another key");
        assert!(!opened(&key(1), ContextKind::Volume, "local/a", &sealed), "another kind");
        assert!(!opened(&key(1), ContextKind::Publish, "local/b", &sealed), "another volume");
        for changed in [
            ("kato.storage/fs", Some("xfs")),
            ("kato.storage/fs", None),
            ("kato.storage/more", Some("")),
            (SEAL, Some("")),
            (SEAL, Some("00")),
            (SEAL, Some("ü")),
            (SEAL, None),
        ] {
            let mut other = sealed.clone();
            match changed {
                (key, Some(value)) => drop(other.insert(key.to_owned(), value.to_owned())),
                (key, None) => drop(other.remove(key)),
            }
            assert!(!opened(&key(1), ContextKind::Publish, "local/a", &other), "{changed:?}");
        }
        // The same bytes in a row, cut otherwise.
        let moved =
            words(&[("kato.storage/fsext4", ""), ("kato.storage/root", "data"), (SEAL, &sealed[SEAL])]);
        assert!(!opened(&key(1), ContextKind::Publish, "local/a", &moved));
        let none = key(1).open(ContextKind::Publish, "local/a", &words(&[])).unwrap_err();
        assert!(none.to_string().contains("publish_context") && none.message.contains("csi.seal"), "{none}");
    }

    #[test]
    fn a_context_that_no_caller_could_carry_is_not_made() {
        let large = words(&[("kato.storage/x", &"x".repeat(MAP_LIMIT))]);
        assert!(key(1).seal(ContextKind::Volume, "local/a", large).is_err());
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_printed() {
        assert!(SealKey::new([1; 31]).is_err());
        assert_eq!(format!("{:?}", key(65)), "SealKey(***)");
    }
}
