//! What must not come out. A guest holds no credential, but a server may hand it one all the same: an error page
//! that quotes the request, a debugging endpoint, a redirect that repeats a header. So whatever was put on a
//! request is remembered here, in the forms that servers write it in, and
//!
//! - struck out of answers before the guest reads them (`imports/http/answer.rs`): byte for byte, so that lengths
//!   stay true. This is the wall; a guest that reads no credential can smuggle none.
//! - refused in what a guest answers for machines (handles, tokens, marks, parameters, `resume`) and in the URLs
//!   that it asks for: a changed handle would be another volume's, so it is no use to strike anything out there.
//! - struck out of texts for people: messages, notes, lines of the log.
//!
//! **What this cannot do.** A server that means to betray the credential (it has been shown it) can write it in
//! a form of its own. And a credential of a few letters is part of innocent words: one shorter than [`EVIDENT`]
//! is struck out of texts and looked for nowhere else.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::credentials::{Secret, base64};
use crate::text;

/// Forms shorter than this, in bytes, are part of other words by chance.
const EVIDENT: usize = 8;
/// Forms shorter than this are not even struck out of texts.
const SHORTEST: usize = 4;
/// How many forms are remembered: of some dozens of credentials, while they are replaced one by one.
const KEPT: usize = 256;

/// How many of what is secret of one request alone, its signature for one, are remembered. They are worth something
/// for some minutes, for the very same request.
const PASSING: usize = 16;

/// The credentials that were used.
#[derive(Clone, Default)]
pub(crate) struct Known(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    lasting: Arc<Vec<Secret>>,
    passing: VecDeque<Secret>,
    /// Both, because they are looked for far more often than they change.
    all: Arc<Vec<Secret>>,
}

impl Remembered {
    fn changed(&mut self) {
        self.all = Arc::new(self.lasting.iter().chain(&self.passing).cloned().collect());
    }
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

impl Known {
    /// Remembers a credential in all its forms.
    pub(crate) fn remember(&self, text: &str) {
        let mut known = self.known();
        let is_new = |form: &String| {
            form.len() >= SHORTEST && !known.lasting.iter().any(|secret| secret.expose() == form.as_str())
        };
        let new: Vec<_> = forms(text).into_iter().filter(is_new).map(|form| Secret::new(&form)).collect();
        if new.is_empty() {
            return;
        }
        let all = Arc::make_mut(&mut known.lasting);
        for form in new {
            // A form may be the same as another one of this credential.
            if !all.contains(&form) {
                all.push(form);
            }
        }
        all.drain(..all.len().saturating_sub(KEPT));
        known.changed();
    }

    /// Remembers what is secret of one request, as it is: in words that guests and servers say later it is looked for,
    /// and in the answer to that request ([`Evident::and`]).
    pub(crate) fn remember_for_now(&self, secret: &Secret) {
        let mut known = self.known();
        known.passing.push_back(secret.clone());
        while known.passing.len() > PASSING {
            known.passing.pop_front();
        }
        known.changed();
    }

    fn known(&self) -> MutexGuard<'_, Remembered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Arc<Vec<Secret>> {
        Arc::clone(&self.known().all)
    }

    /// Whether a credential is in these bytes.
    pub(crate) fn is_in(&self, bytes: &[u8]) -> bool {
        Evident(self.all()).any_in(bytes)
    }

    /// The forms that are long enough to be looked for everywhere.
    pub(crate) fn evident(&self) -> Evident {
        Evident(Arc::clone(&self.known().lasting))
    }

    /// The text without any credential.
    pub(crate) fn redact(&self, text: String) -> String {
        self.all().iter().fold(text, |text, secret| {
            if text.contains(secret.expose()) { text.replace(secret.expose(), "[redacted]") } else { text }
        })
    }

    /// One clean line of at most so many bytes without any credential: also none that was spread over lines or
    /// hidden characters, and no beginning of one that the cut leaves.
    pub(crate) fn line(&self, text: &str, longest: usize) -> String {
        let all = self.all();
        if all.is_empty() {
            return text::line(text, longest);
        }
        let widest = all.iter().map(|secret| secret.expose().len()).max().unwrap_or(0);
        text::line(&self.redact(text::line(text, longest.saturating_add(widest))), longest)
    }
}

/// The forms of a credential that are looked for.
#[derive(Clone)]
pub(crate) struct Evident(Arc<Vec<Secret>>);

impl Evident {
    /// These, and what is secret of one request.
    pub(crate) fn and(self, secret: Option<Secret>) -> Self {
        match secret {
            Some(secret) => Self(Arc::new(self.0.iter().cloned().chain([secret]).collect())),
            None => self,
        }
    }

    fn forms(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|secret| secret.expose().as_bytes()).filter(|form| form.len() >= EVIDENT)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.forms().next().is_none()
    }

    fn any_in(&self, bytes: &[u8]) -> bool {
        self.forms().any(|form| find(bytes, form).is_some())
    }

    /// Strikes every credential out, leaving everything where it is.
    pub(crate) fn strike(&self, bytes: &mut [u8]) {
        for form in self.forms() {
            let mut rest = &mut *bytes;
            while let Some(at) = find(rest, form) {
                let (_, found) = rest.split_at_mut(at);
                let (found, after) = found.split_at_mut(form.len());
                found.fill(b'*');
                rest = after;
            }
        }
    }

    /// How many of the last bytes may be the beginning of a credential that is still to come.
    pub(crate) fn open_end(&self, bytes: &[u8]) -> usize {
        let open = |form: &[u8]| {
            let longest = bytes.len().min(form.len() - 1);
            (1..=longest).rev().find(|&length| bytes.ends_with(form.get(..length).unwrap_or_default()))
        };
        self.forms().filter_map(open).max().unwrap_or(0)
    }
}

/// Where one thing begins in another.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    if bytes.len() < wanted.len() {
        return None;
    }
    let first = wanted.first()?;
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let at = from + rest.iter().position(|byte| byte == first)?;
        if bytes.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        from = at + 1;
    }
}

/// A credential as servers write it: as it is, in a URL, in JSON, encoded, and with its white space collapsed.
fn forms(secret: &str) -> Vec<String> {
    let mut escaped = String::new();
    for byte in secret.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    let json = serde_json::Value::from(secret).to_string();
    let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or_default().to_owned();
    let encoded = base64(secret.as_bytes()).trim_end_matches('=').to_owned();
    let in_urls = encoded.replace('+', "-").replace('/', "_");
    vec![
        secret.to_owned(),
        text::line(secret, secret.len()),
        escaped.replace("%20", "+"),
        escaped,
        json.replace('/', "\\/"),
        json,
        encoded,
        in_urls,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(secrets: &[&str]) -> Known {
        let known = Known::default();
        secrets.iter().for_each(|secret| known.remember(secret));
        known
    }

    #[test]
    fn a_credential_is_known_in_the_forms_that_servers_write() {
        let known = known(&["hush/\"hush\" hush"]);
        for form in [
            "hush/\"hush\" hush",
            "hush%2F%22hush%22%20hush",
            "hush%2F%22hush%22+hush",
            r#"{"you sent": "hush/\"hush\" hush"}"#,
            r#"{"you sent": "hush\/\"hush\" hush"}"#,
            "aHVzaC8iaHVzaCIgaHVzaA==",
        ] {
            assert!(known.is_in(form.as_bytes()), "{form}");
            assert!(known.redact(form.to_owned()).contains("[redacted]"), "{form}");
        }
        assert!(!known.is_in(b"hush, little baby"));
        assert!(!format!("{known:?}").contains("hush"));
    }

    #[test]
    fn a_short_one_is_struck_out_of_texts_and_looked_for_nowhere_else() {
        let known = known(&["root", "abc"]);
        assert_eq!(known.line("as root, abc", 100), "as [redacted], abc");
        assert!(!known.is_in(b"root") && known.evident().is_empty());
    }

    #[test]
    fn neither_a_cut_nor_hidden_characters_let_a_part_of_it_through() {
        let known = known(&["hush-hush-hush"]);
        assert_eq!(known.line("0123456789 hush-hush-hush", 16), "0123456789 [reda…");
        assert_eq!(known.line("hu\u{200b}sh-hu\u{7}sh-hush!", 100), "[redacted]!");
    }

    #[test]
    fn what_is_struck_out_keeps_its_length_and_an_open_end_is_found() {
        let evident = known(&["secret-1", "crossing"]).evident();
        let mut bytes = b"a secret-1 and secret-1secret-1, secret-2".to_vec();
        evident.strike(&mut bytes);
        assert_eq!(bytes, b"a ******** and ****************, secret-2");
        assert_eq!(evident.open_end(b"it is secret-"), 7);
        assert_eq!(evident.open_end(b"it is secret-1"), 0);
        assert_eq!(evident.open_end(b"it is no sec"), 3);
        assert_eq!(evident.open_end(b""), 0);
    }

    #[test]
    fn old_ones_are_forgotten_in_the_end() {
        let known = Known::default();
        for number in 0..1000 {
            known.remember(&format!("credential-{number}"));
        }
        assert!(known.all().len() <= KEPT);
        assert!(known.is_in(b"credential-999") && !known.is_in(b"credential-1,"));
    }

    #[test]
    fn signatures_are_known_for_a_while_and_push_no_credential_out() {
        let known = known(&["hush-hush-hush"]);
        for number in 0..1000 {
            known.remember_for_now(&Secret::new(&format!("signature-{number}")));
        }
        assert!(known.is_in(b"hush-hush-hush") && known.is_in(b"signature-999"));
        assert!(!known.is_in(b"signature-1,"));
        assert_eq!(known.line("by signature-998", 100), "by [redacted]");
        let mut answer = b"hush-hush-hush signature-999".to_vec();
        known.evident().and(Some(Secret::new("signature-999"))).strike(&mut answer);
        assert_eq!(answer, b"************** *************");
    }
}
