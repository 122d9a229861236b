//! The certificate of the service that lists changed blocks, where nobody else makes one.
//!
//! **How it is made.** An authority of its own signs it and is forgotten: its key is never written down, so there is
//! none to be stolen, and whoever trusts the authority trusts this one certificate.
//!
//! **How it rotates.** Whoever prints the objects again hands in the Secret that is there. As long as more than a third of
//! the certificate's life is left it is kept, and what is printed is the same to the letter. Later another one is made,
//! with an authority of its own; the earlier authority stays beside it, so that readers trust the service while its pods
//! go over from one to the other.

use std::{fmt, sync::Arc, time::Duration};

use kato_orchestrator::Error;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};

use crate::deploy::base64;

/// How long a certificate is good.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// How much earlier than now it begins to be good: clocks differ.
const EARLIER: Duration = Duration::from_secs(3600);

/// A certificate with its key, and by whom it is known; each in PEM.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) chain: String,
    pub(crate) key: String,
    /// The one that signed it, and the one before.
    pub(crate) authorities: String,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("authorities", &self.authorities).finish_non_exhaustive()
    }
}

impl Certificate {
    /// The one that was there, if it is still good for these names, or another one.
    pub(crate) fn keep_or_make(
        earlier: Option<Self>,
        names: &[String],
        now: Duration,
    ) -> Result<Self, Error> {
        match earlier {
            Some(earlier) if earlier.is_good(names, now) && earlier.is_good(names, now + LIFE / 3) => {
                Ok(earlier)
            }
            Some(earlier) => {
                let mut made = Self::make(names, now)?;
                if earlier.is_good(names, now) {
                    made.authorities.push_str(first(&earlier.authorities));
                }
                Ok(made)
            }
            None => Self::make(names, now),
        }
    }

    fn make(names: &[String], now: Duration) -> Result<Self, Error> {
        let failed =
            |error: rcgen::Error| Error::internal("a certificate could not be made").caused_by(error);
        let called = |name: &str| {
            let mut called = DistinguishedName::new();
            called.push(DnType::CommonName, name);
            called
        };
        let name = names.first().map_or("", String::as_str);
        let epoch = date_time_ymd(1970, 1, 1);
        let mut authority = CertificateParams::default();
        authority.distinguished_name = called(&format!("{name} authority {}", now.as_secs()));
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut own = CertificateParams::new(names.to_vec()).map_err(failed)?;
        own.distinguished_name = called(name);
        own.use_authority_key_identifier_extension = true;
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for params in [&mut authority, &mut own] {
            params.not_before = epoch + now.saturating_sub(EARLIER);
            params.not_after = epoch + (now + LIFE);
        }
        let authority_key = KeyPair::generate().map_err(failed)?;
        let root = authority.self_signed(&authority_key).map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let signed = own.signed_by(&key, &Issuer::new(authority, authority_key)).map_err(failed)?;
        Ok(Self {
            chain: pem("CERTIFICATE", signed.der()),
            key: pem("PRIVATE KEY", key.serialized_der()),
            authorities: pem("CERTIFICATE", root.der()),
        })
    }

    /// Whether a reader that trusts its authorities believes at this time that it is all of these names, and whether the
    /// key is its own.
    fn is_good(&self, names: &[String], when: Duration) -> bool {
        self.believed(names, when).is_some()
    }

    fn believed(&self, names: &[String], when: Duration) -> Option<()> {
        let provider: Arc<CryptoProvider> = Arc::new(default_provider());
        let mut roots = RootCertStore::empty();
        for root in certificates(&self.authorities)? {
            roots.add(root).ok()?;
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = verifier.build().ok()?;
        let chain = certificates(&self.chain)?;
        let (own, between) = chain.split_first()?;
        for name in names {
            let name = ServerName::try_from(name.as_str()).ok()?;
            let when = UnixTime::since_unix_epoch(when);
            verifier.verify_server_cert(own, between, &name, &[], when).ok()?;
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).ok()?;
        let key = provider.key_provider.load_private_key(key).ok()?;
        CertifiedKey::new(chain, key).keys_match().ok()
    }

    /// Reads the Secret in whatever was printed: by us, or by kubectl, as YAML or JSON.
    pub(crate) fn read(text: &str) -> Option<Self> {
        Some(Self {
            chain: value(text, "tls.crt")?,
            key: value(text, "tls.key")?,
            authorities: value(text, "ca.crt")?,
        })
    }

    /// The authorities alone, of a Secret of somebody else's.
    pub(crate) fn read_authorities(text: &str) -> Option<String> {
        value(text, "ca.crt").filter(|pem| certificates(pem).is_some_and(|all| !all.is_empty()))
    }
}

/// What stands behind a key of a Secret's data: one word of base64 on the same line.
fn value(text: &str, key: &str) -> Option<String> {
    let found = text.lines().find_map(|line| {
        let (word, value) = line.split_once(':')?;
        let plain = |word: &'_ str| word.trim().trim_end_matches(',').trim_matches('"').to_owned();
        (plain(word) == key).then(|| plain(value))
    });
    String::from_utf8(base64::decode(&found?)?).ok()
}

fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().ok()
}

/// The first certificate of several.
fn first(pem: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----\n";
    pem.find(END).and_then(|at| pem.get(..at + END.len())).unwrap_or_default()
}

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        text += &base64::encode(line);
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn names() -> Vec<String> {
        ["kato-blocks.kato".to_owned(), "kato-blocks.kato.svc".to_owned()].to_vec()
    }

    fn later(earlier: &Certificate, days: u32) -> Certificate {
        Certificate::keep_or_make(Some(earlier.clone()), &names(), NOW + DAY * days).unwrap()
    }

    #[test]
    fn a_certificate_is_good_for_its_names_and_its_life() {
        let made = Certificate::keep_or_make(None, &names(), NOW).unwrap();
        assert!(made.is_good(&names(), NOW) && made.is_good(&names(), NOW + DAY * 364));
        assert!(!made.is_good(&names(), NOW + DAY * 366), "it is over");
        assert!(!made.is_good(&names(), NOW - DAY), "it had not begun");
        assert!(!made.is_good(&["kato-blocks.other".to_owned()], NOW), "it is another name");
        let other = Certificate::make(&names(), NOW).unwrap();
        assert!(!Certificate { key: other.key.clone(), ..made.clone() }.is_good(&names(), NOW));
        assert!(!Certificate { authorities: other.authorities, ..made.clone() }.is_good(&names(), NOW));
        assert!(!format!("{made:?}").contains("PRIVATE KEY"));
    }

    #[test]
    fn it_is_kept_until_a_third_of_its_life_is_left() {
        let first = Certificate::keep_or_make(None, &names(), NOW).unwrap();
        for days in [0, 1, 100, 243] {
            assert_eq!(later(&first, days), first, "after {days} days");
        }
        let second = later(&first, 244);
        assert_ne!(second.chain, first.chain);
        assert_ne!(second.key, first.key);
        // Whoever trusts what is told now believes the old one and the new one.
        let when = NOW + DAY * 244;
        assert!(second.is_good(&names(), when) && second.is_good(&names(), when + DAY * 364));
        assert!(
            Certificate { authorities: second.authorities.clone(), ..first.clone() }.is_good(&names(), when)
        );
        assert_eq!(certificates(&second.authorities).unwrap().len(), 2);
        // The one before is forgotten with the next.
        let third = later(&second, 500);
        assert_eq!(certificates(&third.authorities).unwrap().len(), 2);
        assert!(!Certificate { authorities: third.authorities, ..first }.is_good(&names(), when));
    }

    #[test]
    fn one_that_is_over_or_of_another_name_is_replaced_and_not_trusted_any_more() {
        let first = Certificate::keep_or_make(None, &names(), NOW).unwrap();
        assert_eq!(certificates(&later(&first, 400).authorities).unwrap().len(), 1);
        let elsewhere = vec!["kato-blocks.elsewhere".to_owned()];
        let other = Certificate::keep_or_make(Some(first), &elsewhere, NOW).unwrap();
        assert!(other.is_good(&elsewhere, NOW));
        assert_eq!(certificates(&other.authorities).unwrap().len(), 1);
        let broken = Certificate { chain: "x".into(), key: "y".into(), authorities: "z".into() };
        assert!(later(&broken, 0).is_good(&names(), NOW));
    }

    #[test]
    fn a_secret_is_read_however_it_was_printed() {
        let made = Certificate::keep_or_make(None, &names(), NOW).unwrap();
        let of = |pem: &str| base64::encode(pem.as_bytes());
        let (chain, key, authorities) = (of(&made.chain), of(&made.key), of(&made.authorities));
        let yaml = format!(
            "kind: Secret\ndata:\n  ca.crt: {authorities}\n  tls.crt: \"{chain}\"\n  tls.key: {key}\ntype: x\n"
        );
        let json = format!(
            "{{\n  \"data\": {{\n    \"ca.crt\": \"{authorities}\",\n    \"tls.crt\": \"{chain}\",\n    \
             \"tls.key\": \"{key}\"\n  }}\n}}\n"
        );
        for text in [&yaml, &json] {
            assert_eq!(Certificate::read(text).unwrap(), made);
            assert_eq!(Certificate::read_authorities(text).unwrap(), made.authorities);
        }
        assert_eq!(Certificate::read("kind: Secret\n"), None);
        assert_eq!(Certificate::read_authorities(&format!("ca.crt: {}", of("nothing"))), None);
    }
}
