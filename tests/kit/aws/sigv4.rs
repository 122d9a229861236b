//! Whether a request was signed by whom it names, as Signature Version 4 has it: the key has to be known, the scope has to
//! be of today, of the region and of the service that is asked, and the signature has to be of this very request. How a
//! service says no is its own affair.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::query::encoded;
use crate::{
    clock::parse_stamp,
    http::{Request, pairs},
};

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// How far a clock may be off, in seconds.
const SKEW: i64 = 15 * 60;

/// Who may ask.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name of the key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: String,
    /// What comes with a key that is of use for a time only.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// Why a request is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    Unsigned,
    UnknownKey,
    ExpiredKey,
    WrongToken,
    WrongScope,
    WrongTime,
    WrongSignature,
}

/// The keys that there are, and those that there were.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) current: Credentials,
    pub(super) expired: Vec<Credentials>,
}

impl Keys {
    /// Whether this request is one of theirs.
    pub(super) fn verify(
        &self,
        request: &Request,
        region: &str,
        service: &str,
        now: i64,
    ) -> Result<(), Doubt> {
        let signed = Signed::of(request).ok_or(Doubt::Unsigned)?;
        let mut scope = signed.credential.split('/');
        let mut next = || scope.next().unwrap_or_default();
        let (key, day) = (next(), next());
        if self.expired.iter().any(|old| old.access_key_id == key) {
            return Err(Doubt::ExpiredKey);
        }
        if key != self.current.access_key_id {
            return Err(Doubt::UnknownKey);
        }
        if request.header("x-amz-security-token") != self.current.session_token.as_deref() {
            return Err(Doubt::WrongToken);
        }
        if (next(), next(), next()) != (region, service, "aws4_request") || !signed.stamp.starts_with(day) {
            return Err(Doubt::WrongScope);
        }
        if parse_stamp(signed.stamp).is_none_or(|stamp| (stamp - now).abs() > SKEW) {
            return Err(Doubt::WrongTime);
        }
        let secret = &self.current.secret_access_key;
        let seal = |payload: &str| signed.signature_of(request, payload, secret, [day, region, service]);
        let is_right = match request.header("x-amz-content-sha256") {
            Some(UNSIGNED) => seal(UNSIGNED) == signed.signature,
            Some(told) => told == hex(&request.digest()) && seal(told) == signed.signature,
            // Nothing is said, so either will do where either is allowed.
            None => {
                let unsigned =
                    service == "ebs" && request.method == "PUT" && seal(UNSIGNED) == signed.signature;
                unsigned || seal(&hex(&request.digest())) == signed.signature
            }
        };
        if is_right { Ok(()) } else { Err(Doubt::WrongSignature) }
    }
}

/// What a request says of its signature.
struct Signed<'r> {
    credential: &'r str,
    headers: &'r str,
    signature: &'r str,
    stamp: &'r str,
}

impl<'r> Signed<'r> {
    fn of(request: &'r Request) -> Option<Self> {
        let fields = request.header("authorization")?.strip_prefix("AWS4-HMAC-SHA256")?;
        let field = |name: &str| {
            fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='))
        };
        Some(Self {
            credential: field("Credential")?,
            headers: field("SignedHeaders")?,
            signature: field("Signature")?,
            stamp: request.header("x-amz-date")?,
        })
    }

    fn signature_of(&self, request: &Request, payload: &str, secret: &str, scope: [&str; 3]) -> String {
        let mut parameters = pairs(&request.query);
        parameters.sort();
        let parameters: Vec<_> =
            parameters.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let headers: String = self
            .headers
            .split(';')
            .map(|name| {
                let value = request.header(name).unwrap_or_default();
                format!("{name}:{}\n", value.split_whitespace().collect::<Vec<_>>().join(" "))
            })
            .collect();
        // The path came encoded, and is encoded once more.
        let path: Vec<_> = request.path.split('/').map(encoded).collect();
        let canonical = [
            request.method.as_str(),
            &path.join("/"),
            &parameters.join("&"),
            &headers,
            self.headers,
            payload,
        ]
        .join("\n");
        let [day, region, service] = scope;
        let text = format!(
            "AWS4-HMAC-SHA256\n{}\n{day}/{region}/{service}/aws4_request\n{}",
            self.stamp,
            hex(&Sha256::digest(canonical))
        );
        let key = [day, region, service, "aws4_request"]
            .iter()
            .fold(format!("AWS4{secret}").into_bytes(), |key, part| hmac(&key, part));
        hex(&hmac(&key, &text))
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
