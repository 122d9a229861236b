//! Credentials stay with the host: an authoriser puts them on a request on its way out. They come by
//! reference (a file, a credential of systemd's, an environment variable that the daemon looked up), are read
//! when they are used and again after a while, and never print. How they are kept out of what a guest reads and
//! says, although a server may repeat them, is `leaks.rs`.

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_types::sdk_config::SharedTimeSource;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header, request::Parts};
use kato_orchestrator::Error;
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    Environment,
    leaks::{Evident, Known},
    way::Way,
};
use crate::aws::{self, AwsSigv4};

/// How long a secret that was read from a file is used before it is read again.
const FRESH: Duration = Duration::from_secs(30);
/// The largest secret.
const LARGEST: usize = 16 << 10;

/// A text that never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a text as a secret.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that uses it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum SecretSource {
    /// A file; its trailing line break does not count.
    File(PathBuf),
    /// An environment variable of the daemon's.
    Env(String),
    /// A credential that systemd gives to the daemon (`LoadCredential=` in its unit), by its name.
    Credential(String),
}

/// Puts a credential on a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub enum Authoriser {
    /// `Authorization: Bearer …`.
    Bearer {
        /// The token.
        secret: SecretSource,
    },
    /// A header of any name.
    Header {
        /// Its name.
        name: String,
        /// Its value.
        secret: SecretSource,
    },
    /// `Authorization: Basic …`.
    Basic {
        /// The user.
        user: String,
        /// The password.
        secret: SecretSource,
    },
    /// A signature of the whole request, as AWS asks for.
    #[serde(rename = "aws-sigv4")]
    AwsSigv4(AwsSigv4),
}

impl Authoriser {
    /// The headers that it sets, which no guest may set.
    pub(crate) fn headers(&self) -> Result<Vec<HeaderName>, Error> {
        match self {
            Self::Bearer { .. } | Self::Basic { .. } => Ok(vec![header::AUTHORIZATION]),
            Self::Header { name, .. } => Ok(vec![header_name(name)?]),
            Self::AwsSigv4(signer) => signer.headers(),
        }
    }

    /// Whether it vouches for this request, which the grant allows as far as method and path go.
    pub(crate) fn allow(&self, request: &Parts, body: &Bytes) -> Result<(), Error> {
        match self {
            Self::Bearer { .. } | Self::Header { .. } | Self::Basic { .. } => Ok(()),
            Self::AwsSigv4(signer) => signer.allow(request, body),
        }
    }

    /// Puts the credential on. What is answered is a secret of this request alone.
    pub(crate) async fn sign(
        &self,
        request: &mut Parts,
        body: &Bytes,
        secrets: &Secrets,
        way: &Way,
    ) -> Result<Option<Secret>, Error> {
        let (name, value) = match self {
            Self::Bearer { secret } => {
                let text = format!("Bearer {}", secrets.get(secret).await?.expose());
                (header::AUTHORIZATION, sensitive(text)?)
            }
            Self::Header { name, secret } => {
                (header_name(name)?, sensitive(secrets.get(secret).await?.expose().to_owned())?)
            }
            Self::Basic { user, secret } => (header::AUTHORIZATION, basic(user, secret, secrets).await?),
            Self::AwsSigv4(signer) => {
                let signature = signer.sign(request, body, secrets, way).await?;
                secrets.known.remember_for_now(&signature);
                return Ok(Some(signature));
            }
        };
        request.headers.insert(name, value);
        Ok(None)
    }
}

fn header_name(name: &str) -> Result<HeaderName, Error> {
    HeaderName::try_from(name).map_err(|error| {
        Error::invalid(format!("the authoriser's header {name:?} is no header name")).caused_by(error)
    })
}

/// A user and a password as a header carries them.
pub(super) async fn basic(
    user: &str,
    secret: &SecretSource,
    secrets: &Secrets,
) -> Result<HeaderValue, Error> {
    let secret = secrets.get(secret).await?;
    let encoded = base64(format!("{user}:{}", secret.expose()).as_bytes());
    secrets.known.remember(&encoded);
    sensitive(format!("Basic {encoded}"))
}

/// A credential as the value of a header.
fn sensitive(text: String) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(text).map_err(|_secret| {
        Error::invalid("the credential holds characters that no header can carry: check its source")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The secrets of one backend: looked up late, remembered for redacting.
#[derive(Clone)]
pub(crate) struct Secrets {
    environment: Environment,
    read: Arc<Mutex<BTreeMap<PathBuf, (Instant, Secret)>>>,
    known: Known,
    /// Credentials for AWS, each by what they are of.
    aws: Arc<Mutex<Vec<AwsIdentity>>>,
}

/// Whose credentials for AWS, and how they are fetched.
struct AwsIdentity {
    region: String,
    profile: Option<String>,
    way: Way,
    keys: Arc<aws::Keys>,
}

impl Default for Secrets {
    fn default() -> Self {
        let nothing: Environment = Arc::new(|_| None);
        Self::new(&nothing)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    pub(crate) fn new(environment: &Environment) -> Self {
        let environment = Arc::clone(environment);
        Self { environment, read: Arc::default(), known: Known::default(), aws: Arc::default() }
    }

    /// The credentials that a request to AWS is signed with. The services of one region share them.
    pub(crate) fn aws_keys(&self, signer: &AwsSigv4, way: &Way) -> Result<Arc<aws::Keys>, Error> {
        let (region, profile) = (&signer.region, &signer.profile);
        let mut all = self.aws.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |own: &&AwsIdentity| (&own.region, &own.profile, &own.way) == (region, profile, way);
        if let Some(own) = all.iter().find(same) {
            return Ok(Arc::clone(&own.keys));
        }
        let clock = SharedTimeSource::default();
        // What the chain redacts by must not hold the chain, or neither would ever be let go.
        let redacting = Self { aws: Arc::default(), ..self.clone() };
        let chain =
            aws::Chain::new(region, profile.as_deref(), &self.environment, &redacting, way, clock.clone())?;
        let keys = Arc::new(aws::Keys::new(chain, clock, &self.known));
        let (region, profile, way) = (region.clone(), profile.clone(), way.clone());
        all.push(AwsIdentity { region, profile, way, keys: Arc::clone(&keys) });
        Ok(keys)
    }

    async fn get(&self, source: &SecretSource) -> Result<Secret, Error> {
        let secret = match source {
            SecretSource::Env(name) => (self.environment)(name).map(|text| Secret::new(&text)).ok_or_else(|| {
                Error::unavailable(format!(
                    "the credential cannot be used: the environment variable {name} is not set for the daemon"
                ))
            })?,
            SecretSource::File(path) => self.file(path).await?,
            SecretSource::Credential(name) => self.file(&self.handed_over(name)?).await?,
        };
        if secret.expose().is_empty() {
            return Err(Error::unavailable("the credential cannot be used: its source is empty"));
        }
        self.known.remember(secret.expose());
        Ok(secret)
    }

    async fn file(&self, path: &PathBuf) -> Result<Secret, Error> {
        let fresh = {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.get(path).filter(|(when, _)| when.elapsed() < FRESH).map(|(_, secret)| secret.clone())
        };
        if let Some(secret) = fresh {
            return Ok(secret);
        }
        let failed = |why: String| {
            Error::unavailable(format!("the credential in {} cannot be used: {why}", path.display()))
        };
        let bytes = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
        if bytes.len() > LARGEST {
            return Err(failed("it is larger than 16 KiB".into()));
        }
        let text = String::from_utf8(bytes).map_err(|_bytes| failed("it is not text".into()))?;
        let secret = Secret::new(text.trim_end_matches(['\r', '\n']));
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(path.clone(), (Instant::now(), secret.clone()));
        Ok(secret)
    }

    /// Where systemd put a credential.
    fn handed_over(&self, name: &str) -> Result<PathBuf, Error> {
        let unusable = |why: &str| {
            Error::unavailable(format!("the credential {name:?} of systemd's cannot be used: {why}"))
        };
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(unusable("it is a name, without slashes"));
        }
        let folder = (self.environment)("CREDENTIALS_DIRECTORY")
            .ok_or_else(|| unusable("the daemon was given none (write `LoadCredential=` into its unit)"))?;
        Ok(PathBuf::from(folder).join(name))
    }

    /// One clean line of a guest's, of at most so many bytes, without any credential.
    pub(crate) fn line(&self, text: &str, longest: usize) -> String {
        self.known.line(text, longest)
    }

    /// The text without any credential.
    pub(crate) fn redact(&self, text: String) -> String {
        self.known.redact(text)
    }

    /// Whether a credential is in these bytes.
    pub(crate) fn are_in(&self, bytes: &[u8]) -> bool {
        self.known.is_in(bytes)
    }

    /// What is struck out of an answer.
    pub(crate) fn evident(&self) -> Evident {
        self.known.evident()
    }
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |bits: u32| {
        let index = usize::try_from(bits & 63).unwrap_or(0);
        char::from(ALPHABET.get(index).copied().unwrap_or(b'A'))
    };
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - u32::try_from(chunk.len()).unwrap_or(3)));
        for place in 0..4_u32 {
            let used = usize::try_from(place).unwrap_or(0) <= chunk.len();
            text.push(if used { letter(bits >> (18 - 6 * place)) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_usual_one() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("user:pass", "dXNlcjpwYXNz")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[tokio::test]
    async fn credentials_are_put_on_and_struck_out() {
        let environment: Environment = Arc::new(|name| (name == "TOKEN").then(|| "hush-hush".to_owned()));
        let secrets = Secrets::new(&environment);
        let mut request = http::Request::new(()).into_parts().0;
        let authoriser: Authoriser = toml::from_str("bearer = { secret = { env = \"TOKEN\" } }").unwrap();
        authoriser.sign(&mut request, &Bytes::new(), &secrets, &Way::default()).await.unwrap();
        let headers = request.headers;
        assert_eq!(headers.get(header::AUTHORIZATION).unwrap(), "Bearer hush-hush");
        assert_eq!(secrets.redact("got hush-hush".into()), "got [redacted]");
        assert!(secrets.are_in(b"a-hush-hush-b") && !secrets.are_in(b"hush"));
        assert!(!format!("{headers:?} {secrets:?}").contains("hush"));
    }

    #[tokio::test]
    async fn a_secret_in_a_file_loses_its_line_break_and_a_missing_one_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("token");
        let secrets = Secrets::default();
        let source = SecretSource::File(file.clone());
        assert!(secrets.get(&source).await.unwrap_err().message.contains("token"));
        std::fs::write(&file, "abc123\n").unwrap();
        assert_eq!(secrets.get(&source).await.unwrap(), Secret::new("abc123"));
        assert_eq!(format!("{:?}", Secret::new("abc123")), "Secret(…)");
    }

    #[tokio::test]
    async fn a_credential_of_systemds_is_found_by_its_name() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("cloud"), "abc123\n").unwrap();
        let folder = temp.path().to_str().unwrap().to_owned();
        let environment: Environment =
            Arc::new(move |name| (name == "CREDENTIALS_DIRECTORY").then(|| folder.clone()));
        let secrets = Secrets::new(&environment);
        let named = |name: &str| SecretSource::Credential(name.to_owned());
        assert_eq!(secrets.get(&named("cloud")).await.unwrap(), Secret::new("abc123"));
        for bad in ["../cloud", "", ".", "/etc/passwd"] {
            assert!(secrets.get(&named(bad)).await.unwrap_err().message.contains("without slashes"), "{bad}");
        }
        let none = Secrets::default().get(&named("cloud")).await.unwrap_err();
        assert!(none.message.contains("LoadCredential="), "{none}");
    }
}
