//! The way that granted requests take: straight to the address that was checked or through a proxy of the
//! operator's, and whose certificates are believed on it. Requests of one way share connections; those of two
//! ways never do.
//!
//! A proxy resolves names itself, so behind one the address that a name turns out to be is the proxy's to
//! judge; what is written as a number, in whatever form, is still checked here. Plain requests are handed to
//! it whole, for encrypted ones it is asked for a tunnel (`CONNECT`, which no guest may ask for itself), inside
//! of which the server proves who it is as ever.
//!
//! ```toml
//! [[http]]
//! url = "https://storage.internal.example"
//! ca = "/etc/kato/internal-ca.pem"                      # instead of the public authorities
//! proxy = { url = "http://proxy.internal.example:3128", user = "kato", secret = { file = "/etc/kato/proxy" } }
//! ```

use std::{path::PathBuf, sync::Arc};

use http::HeaderValue;
use kato_orchestrator::Error;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use serde::Deserialize;

use super::credentials::{SecretSource, Secrets, basic};

/// A proxy that requests go through.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyGrant {
    /// `http://host:port`.
    pub url: String,
    /// Who it is told that we are; needs a secret.
    #[serde(default)]
    pub user: Option<String>,
    /// The password.
    #[serde(default)]
    pub secret: Option<SecretSource>,
}

/// A proxy, ready to be connected to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) host: String,
    pub(crate) port: u16,
    credential: Option<(String, SecretSource)>,
}

/// How requests of a grant travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) proxy: Option<Arc<Proxy>>,
    ca: Option<PathBuf>,
}

impl Way {
    pub(crate) fn new(proxy: Option<&ProxyGrant>, ca: Option<&PathBuf>) -> Result<Self, Error> {
        let way = Self { proxy: proxy.map(Proxy::new).transpose()?.map(Arc::new), ca: ca.cloned() };
        // A file that is missing or wrong is the operator's mistake, and is told when the grant is read.
        way.roots()?;
        Ok(way)
    }

    /// Whose word is believed for a server's certificate.
    pub(crate) fn roots(&self) -> Result<RootCertStore, Error> {
        let Some(path) = &self.ca else {
            return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() });
        };
        let wrong = |why: &str| {
            Error::invalid(format!("the authorities in {} cannot be used: {why}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(&format!("it is no PEM file: {error}")))?;
            roots.add(certificate).map_err(|error| wrong(&error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("it holds no certificate (a PEM file begins with BEGIN CERTIFICATE)"));
        }
        Ok(roots)
    }
}

impl Proxy {
    fn new(grant: &ProxyGrant) -> Result<Self, Error> {
        let wrong = |why: &str| Error::invalid(format!("the proxy {:?} {why}", grant.url));
        let plain = || wrong("is no proxy: write http://host:port");
        let rest = grant.url.strip_prefix("http://").ok_or_else(plain)?.trim_end_matches('/');
        let (host, port) = rest.rsplit_once(':').ok_or_else(plain)?;
        let port = port.parse().map_err(|_digits| plain())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(plain());
        }
        let credential = match (&grant.user, &grant.secret) {
            (Some(user), Some(secret)) => Some((user.clone(), secret.clone())),
            (None, None) => None,
            _ => return Err(wrong("has a user without a secret, or a secret without a user")),
        };
        Ok(Self { host: host.to_owned(), port, credential })
    }

    /// What the proxy is shown of us.
    pub(crate) async fn credential(&self, secrets: &Secrets) -> Result<Option<HeaderValue>, Error> {
        match &self.credential {
            Some((user, secret)) => basic(user, secret, secrets).await.map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(toml: &str) -> Result<Way, Error> {
        Way::new(Some(&toml::from_str(toml).unwrap()), None)
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port() {
        let proxy = way("url = \"http://proxy.example:3128/\"").unwrap().proxy.unwrap();
        assert_eq!((proxy.host.as_str(), proxy.port), ("proxy.example", 3128));
        assert_eq!(way("url = \"http://[fd00::1]:80\"").unwrap().proxy.unwrap().host, "fd00::1");
        for bad in
            ["https://p:1", "p:1", "http://p", "http://u:p@h:1", "http://:1", "http://p:x", "socks5://p:1"]
        {
            let error = way(&format!("url = {bad:?}")).unwrap_err();
            assert!(error.message.contains(bad), "{error}");
        }
        assert!(way("url = \"http://p:1\"\nuser = \"x\"").unwrap_err().message.contains("without a secret"));
    }

    #[test]
    fn a_file_without_certificates_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("ca.pem");
        let told = || Way::new(None, Some(&file)).unwrap_err().message;
        assert!(told().contains("ca.pem"), "{}", told());
        std::fs::write(&file, "hello").unwrap();
        assert!(told().contains("no certificate"), "{}", told());
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(told().contains("ca.pem"), "{}", told());
    }
}
