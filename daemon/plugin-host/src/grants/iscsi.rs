//! Granted targets of iSCSI. The plugin names portals, a target and a unit; the operator says where portals may be and how
//! the names of targets have to begin, and has the account that opens them. The account is the node's alone: a
//! connection names the backend whose grant has it, and nothing of it is ever in a guest, a record or a log.

use std::net::SocketAddr;

use kato_orchestrator::Error;
use serde::Deserialize;

use super::{credentials::SecretSource, http::Network};

/// More portals than any array has for one target.
const MOST: usize = 16;

/// Logical units behind iSCSI portals.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IscsiGrant {
    /// The portals, as `address:port`, `network:port` (`10.144.0.0/16:3260`) or `name:port`.
    pub portals: Vec<String>,
    /// What the target's name has to begin with; empty for any target of these portals.
    #[serde(default)]
    pub iqn_prefix: String,
    /// The account that opens the targets; nothing where they ask for none.
    #[serde(default)]
    pub chap: Option<ChapGrant>,
}

/// An account at targets (CHAP).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChapGrant {
    /// Who the node says that it is.
    pub user: String,
    /// How it proves that.
    pub secret: SecretSource,
    /// How the target has to prove who it is; nothing where it need not.
    #[serde(default)]
    pub mutual: Option<Box<ChapGrant>>,
}

/// Where a portal may be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Range {
    Within(Network, u16),
    Named(String),
}

impl Range {
    fn parse(text: &str) -> Option<Self> {
        let (place, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let bare = place.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match (Network::parse(bare.unwrap_or(place)), bare) {
            (Some(network), _) => Some(Self::Within(network, port)),
            (None, None) if is_host(place) => Some(Self::Named(text.to_owned())),
            (None, _) => None,
        }
    }

    fn holds(&self, portal: &str) -> bool {
        match self {
            Self::Within(network, port) => portal
                .parse::<SocketAddr>()
                .is_ok_and(|address| address.port() == *port && network.holds(address.ip())),
            Self::Named(name) => name == portal,
        }
    }
}

impl IscsiGrant {
    /// What is wrong with it.
    pub(super) fn mistakes(&self) -> Vec<Error> {
        let odd = self.portals.iter().filter(|portal| Range::parse(portal).is_none());
        let mut found: Vec<Error> = odd
            .map(|portal| {
                Error::invalid(format!(
                    "the granted iSCSI portal {portal:?} is no address:port, network:port or name:port, such as \
                     10.144.0.0/16:3260"
                ))
            })
            .collect();
        let accounts = self.chap.iter().flat_map(|chap| [Some(chap), chap.mutual.as_deref()]);
        for chap in accounts.flatten() {
            if chap.user.is_empty() || !chap.user.bytes().all(|byte| byte.is_ascii_graphic()) {
                found.push(Error::invalid("the user of an iSCSI account (chap) is no plain word"));
            }
            if chap.mutual.as_ref().is_some_and(|mutual| mutual.mutual.is_some()) {
                found.push(Error::invalid("an iSCSI target proves itself once: mutual holds another mutual"));
            }
        }
        found
    }

    /// Why this is not granted.
    pub(super) fn refusal(&self, portals: &[String], iqn: &str, initiator: Option<&str>) -> Option<String> {
        let ranges: Vec<Range> = self.portals.iter().filter_map(|text| Range::parse(text)).collect();
        let outside = |portal: &&String| !ranges.iter().any(|range| range.holds(portal));
        if let Some(portal) = portals.iter().find(outside) {
            return Some(format!("the iSCSI portal {portal:?}"));
        }
        if portals.is_empty() || portals.len() > MOST {
            return Some(format!("a target with {} portals (1 to {MOST} are understood)", portals.len()));
        }
        if !iqn.starts_with(&self.iqn_prefix) || !is_name(iqn) {
            return Some(format!("the target {iqn:?}"));
        }
        initiator
            .filter(|name| !is_name(name))
            .map(|name| format!("a target for the initiator {name:?}, which is no name of one"))
    }
}

/// Whether this can be the name of a target or an initiator.
fn is_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'_');
    (1..=223).contains(&name.len()) && name.bytes().all(word)
}

fn is_host(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    (1..=253).contains(&name.len()) && name.bytes().all(word) && !name.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(portals: &[&str], iqn_prefix: &str) -> IscsiGrant {
        let portals = portals.iter().map(|portal| (*portal).to_owned()).collect();
        IscsiGrant { portals, iqn_prefix: iqn_prefix.to_owned(), chap: None }
    }

    #[test]
    fn portals_are_within_their_ranges_and_targets_begin_as_they_have_to() {
        let granted = grant(
            &["10.144.0.0/16:3260", "[fd00::/8]:3260", "192.0.2.7:860", "san.example:3260"],
            "iqn.2013-05.com.daterainc",
        );
        assert!(granted.mistakes().is_empty());
        let refused = |portals: &[&str], iqn: &str| {
            let portals: Vec<String> = portals.iter().map(|portal| (*portal).to_owned()).collect();
            granted.refusal(&portals, iqn, None)
        };
        let target = "iqn.2013-05.com.daterainc:tc:01:sn:00aa";
        for portals in [
            &["10.144.40.17:3260", "10.144.56.17:3260"][..],
            &["[fd00::1]:3260"],
            &["192.0.2.7:860"],
            &["san.example:3260"],
        ] {
            assert_eq!(refused(portals, target), None, "{portals:?}");
        }
        for portals in [
            &[][..],
            &["10.145.0.1:3260"],
            &["10.144.40.17:3261"],
            &["10.144.40.17"],
            &["10.144.40.17:3260", "169.254.169.254:3260"],
            &["[fe80::1]:3260"],
            &["192.0.2.8:860"],
            &["other.example:3260"],
            &["san.example:3260,file=/etc/shadow"],
            &["010.144.40.17:3260"],
        ] {
            assert!(refused(portals, target).is_some(), "{portals:?}");
        }
        for iqn in [
            "iqn.2013-05.com.other:x",
            "",
            "iqn.2013-05.com.daterainc:a b",
            "iqn.2013-05.com.daterainc,lun=2",
        ] {
            assert!(refused(&["192.0.2.7:860"], iqn).is_some(), "{iqn}");
        }
        assert!(granted.refusal(&["192.0.2.7:860".to_owned()], target, Some("a,b")).is_some());
    }

    #[test]
    fn what_is_no_range_is_told() {
        for odd in [
            "10.0.0.1",
            "10.0.0.0/33:3260",
            "10.0.0.1:0",
            "10.0.0.1:70000",
            "a b:3260",
            "[san]:3260",
            ":3260",
        ] {
            let told = grant(&[odd], "").mistakes();
            assert_eq!(told.len(), 1, "{odd}");
            assert!(told[0].message.contains(odd), "{odd}: {}", told[0]);
        }
    }

    #[test]
    fn a_targets_proof_is_one_account_more() {
        let text = "portals = [\"10.0.0.1:3260\"]\n[chap]\nuser = \"u\"\nsecret = { file = \"/s\" }\n\
                    [chap.mutual]\nuser = \"t\"\nsecret = { env = \"T\" }\n";
        let granted: IscsiGrant = toml::from_str(text).unwrap();
        assert!(granted.mistakes().is_empty());
        let twice = format!("{text}[chap.mutual.mutual]\nuser = \"x\"\nsecret = {{ env = \"X\" }}\n");
        assert_eq!(toml::from_str::<IscsiGrant>(&twice).unwrap().mistakes().len(), 1);
    }
}
