//! Records in etcd as configured: where its members are, how they are believed, and who we are to them. What is written
//! is understood whatever the records are kept in now, because records that move need both.

use super::{Etcd, backends, mistakes::Mistake, scope::Scope};

/// Understands the section. Nothing if no members are written.
pub(super) fn etcd(scope: &Scope<'_>, mistakes: &mut Vec<Mistake>) -> Option<Etcd> {
    let endpoints = scope.texts("endpoints");
    if endpoints.is_empty() {
        return None;
    }
    let encrypted = |endpoint: &String| endpoint.starts_with("https://");
    for endpoint in endpoints.iter().filter(|endpoint| !is_member(endpoint)) {
        let reason =
            format!("\"{endpoint}\" is no member: write scheme, host and port, as in https://10.0.0.1:2379");
        mistakes.push(scope.mistake("endpoints", reason));
    }
    if endpoints.iter().any(encrypted) && !endpoints.iter().all(encrypted) {
        mistakes.push(
            scope.mistake(
                "endpoints",
                "some are https and some are not: all members are reached the same way",
            ),
        );
    }
    let prefix = scope.text("prefix").unwrap_or_default();
    if prefix.is_empty() || prefix.len() > 256 || !prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
        let reason =
            format!("\"{prefix}\" can be no prefix: write 1 to 256 letters, digits and signs without spaces");
        mistakes.push(scope.mistake("prefix", reason));
    }
    let tls = scope.section("tls");
    let ca = tls.path("ca");
    match (&ca, endpoints.iter().any(encrypted)) {
        (None, true) => {
            mistakes.push(
                tls.mistake("ca", "this has to be written for https: who signed the members' certificates"),
            );
        }
        (Some(_), false) => {
            mistakes.push(
                tls.mistake("ca", "no member is reached by https: write https:// in store.etcd.endpoints"),
            );
        }
        (Some(_), true) | (None, false) => {}
    }
    let identity = match (tls.path("cert"), tls.path("key")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (Some(_), None) => {
            mistakes.push(tls.mistake("key", "this has to be written with store.etcd.tls.cert"));
            None
        }
        (None, Some(_)) => {
            mistakes.push(tls.mistake("cert", "this has to be written with store.etcd.tls.key"));
            None
        }
        (None, None) => None,
    };
    let password =
        scope.node("password").and_then(|_| backends::secret(&scope.section("password"), mistakes));
    let user = match (scope.text("user"), password) {
        (Some(user), Some(password)) => Some((user, password)),
        (Some(_), None) => {
            if scope.node("password").is_none() {
                mistakes.push(scope.mistake("password", "this has to be written with store.etcd.user"));
            }
            None
        }
        (None, Some(_)) => {
            mistakes.push(scope.mistake("user", "this has to be written with store.etcd.password"));
            None
        }
        (None, None) => None,
    };
    Some(Etcd {
        endpoints,
        prefix,
        ca,
        identity,
        user,
        keep_history: scope.span("keep-history"),
        patience: scope.span("patience"),
        lease: scope.span("lease"),
        away: scope.span("away"),
    })
}

/// Whether it has a scheme, a host and a port, and nothing else.
fn is_member(endpoint: &str) -> bool {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    rest.and_then(|rest| rest.rsplit_once(':')).is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', '?']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{Sources, StoreKind, load};

    fn read(text: &str) -> Result<Etcd, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.toml");
        std::fs::write(&file, format!("[store]\nkind = \"etcd\"\n[store.etcd]\n{text}")).unwrap();
        let sources = Sources { file: Some(file), set: Vec::new(), environment: BTreeMap::new() };
        let config = load(&sources).map_err(|mistakes| mistakes.to_string())?;
        assert_eq!(config.store.kind, StoreKind::Etcd);
        config.store.etcd.ok_or_else(|| "nothing".to_owned())
    }

    #[test]
    fn members_alone_suffice() {
        let etcd = read("endpoints = [\"http://[::1]:2379\", \"http://b:1\"]\n").unwrap();
        assert_eq!((etcd.prefix.as_str(), etcd.endpoints.len(), etcd.user), ("kato/", 2, None));
        let full = "endpoints = [\"https://a:1\"]\nuser = \"kato\"\npassword.env = \"PASSWORD\"\n\
                    tls = { ca = \"/ca\", cert = \"/c\", key = \"/k\" }\nkeep-history = \"0s\"\n";
        let etcd = read(full).unwrap();
        assert!(etcd.user.is_some() && etcd.identity.is_some() && etcd.keep_history.is_zero());
    }

    #[test]
    fn what_cannot_be_meant_is_told() {
        let one = "endpoints = [\"http://a:1\"]\n";
        let secure = "endpoints = [\"https://a:1\"]\n";
        for (text, told) in [
            ("", "store.etcd.endpoints"),
            ("endpoints = [\"a:1\"]\n", "is no member"),
            ("endpoints = [\"http://a\"]\n", "is no member"),
            ("endpoints = [\"http://a:1/x\"]\n", "is no member"),
            ("endpoints = [\"http://a:1\", \"https://a:2\"]\ntls.ca = \"/ca\"\n", "same way"),
            (secure, "store.etcd.tls.ca"),
            (&format!("{one}tls.ca = \"/ca\"\n"), "store.etcd.tls.ca"),
            (&format!("{secure}tls = {{ ca = \"/ca\", cert = \"/c\" }}\n"), "store.etcd.tls.key"),
            (&format!("{one}prefix = \"a b\"\n"), "store.etcd.prefix"),
            (&format!("{one}user = \"kato\"\n"), "store.etcd.password"),
            (&format!("{one}password.file = \"/p\"\n"), "store.etcd.user"),
            (
                &format!("{one}user = \"kato\"\npassword = {{ file = \"/p\", env = \"P\" }}\n"),
                "in two places",
            ),
        ] {
            let mistakes = read(text).unwrap_err();
            assert!(mistakes.contains(told), "{text}: {mistakes}");
        }
    }
}
