//! Reading names and values: the operator's configuration, or a class's parameters. A [`Reader`] takes one
//! after the other and keeps its complaints, so that a person sees all mistakes at once.
//!
//! ```
//! use kato_plugin_sdk::configuration::Reader;
//!
//! let configuration = [("region".to_owned(), "eu-1".to_owned()), ("retries".to_owned(), "many".to_owned())];
//! let mut reader = Reader::new("configuration", &configuration);
//! let region = reader.text("region", "");
//! reader.integer("retries", 3, 0..=10);
//! reader.flag("fast", false);
//! assert_eq!(region, "eu-1");
//! assert!(reader.finish().unwrap_err().message.contains("retries"));
//! ```

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::{
    capacity,
    types::{Error, Pair},
};

/// Reads names and values, and collects what is wrong with them.
#[derive(Debug)]
pub struct Reader<'a> {
    what: &'static str,
    values: BTreeMap<&'a str, &'a str>,
    known: Vec<&'static str>,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader of these; `what` they are stands in the complaints: `configuration`, `parameters`.
    #[must_use]
    pub fn new(what: &'static str, pairs: &'a [Pair]) -> Self {
        let mut values = BTreeMap::new();
        let mut mistakes = Vec::new();
        for (name, value) in pairs {
            if values.insert(name.as_str(), value.as_str()).is_some() {
                mistakes.push(format!("`{name}` is given twice"));
            }
        }
        Self { what, values, known: Vec::new(), mistakes }
    }

    /// The value as it was given, if it was.
    pub fn given(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        self.values.remove(name)
    }

    /// A text.
    pub fn text(&mut self, name: &'static str, default: &str) -> String {
        self.given(name).unwrap_or(default).to_owned()
    }

    /// A text that has to be given.
    pub fn required(&mut self, name: &'static str) -> String {
        let value = self.given(name).unwrap_or_default();
        if value.is_empty() {
            self.wrong(format!("`{name}` is missing"));
        }
        value.to_owned()
    }

    /// `true` or `false`.
    pub fn flag(&mut self, name: &'static str, default: bool) -> bool {
        match self.given(name) {
            None => default,
            Some("true") => true,
            Some("false") => false,
            Some(other) => {
                self.wrong(format!("`{name}` is {other:?}: write true or false"));
                default
            }
        }
    }

    /// A whole number within a range.
    pub fn integer(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(text) = self.given(name) else { return default };
        match text.parse() {
            Ok(value) if range.contains(&value) => value,
            _ => {
                let (from, to) = range.into_inner();
                self.wrong(format!("`{name}` is {text:?}: write a whole number from {from} to {to}"));
                default
            }
        }
    }

    /// A number within a range, in hundredths: `1.5` is 150. At most two digits behind the point.
    pub fn hundredths(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(text) = self.given(name) else { return default };
        match hundredths(text) {
            Some(value) if range.contains(&value) => value,
            _ => {
                let (from, to) = range.into_inner();
                let (from, to) = (spelt(from), spelt(to));
                self.wrong(format!("`{name}` is {text:?}: write a number from {from} to {to}, such as 1.5"));
                default
            }
        }
    }

    /// A size as people write it, such as `10GiB`, in bytes.
    pub fn size(&mut self, name: &'static str, default: u64) -> u64 {
        let Some(text) = self.given(name) else { return default };
        capacity::parse(text).unwrap_or_else(|| {
            self.wrong(format!("`{name}` is {text:?}: write a size such as 10GiB, 512MiB or 0"));
            default
        })
    }

    /// One of a few words; nothing if it was not given.
    pub fn word<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.given(name)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.wrong(format!("`{name}` is {text:?}: write one of {}", words.join(", ")));
        }
        found
    }

    /// Adds a complaint of the caller's own.
    pub fn wrong(&mut self, mistake: impl Into<String>) {
        self.mistakes.push(mistake.into());
    }

    /// All mistakes in one error, those who were never asked for included.
    pub fn finish(mut self) -> Result<(), Error> {
        for name in self.values.keys() {
            self.mistakes.push(format!("`{name}` is unknown: known are {}", self.known.join(", ")));
        }
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(Error::invalid(format!("in the {}: {}", self.what, self.mistakes.join("; "))))
        }
    }
}

fn hundredths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 2 {
        return None;
    }
    let part: u64 = format!("{part:0<2}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(part)
}

fn spelt(hundredths: u64) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let pairs = pairs(&[
            ("a", "yes"),
            ("b", "11"),
            ("c", "1.505"),
            ("d", "ten"),
            ("e", "blue"),
            ("odd", "1"),
            ("a", "no"),
        ]);
        let mut reader = Reader::new("parameters", &pairs);
        reader.flag("a", false);
        reader.integer("b", 1, 0..=10);
        reader.hundredths("c", 150, 100..=1000);
        reader.size("d", 0);
        reader.word("e", &[("red", 1), ("green", 2)]);
        reader.required("f");
        let error = reader.finish().unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        for name in ["a", "b", "c", "d", "e", "f", "odd"] {
            assert!(error.message.contains(&format!("`{name}`")), "{name}: {}", error.message);
        }
        assert!(error.message.contains("twice"), "{}", error.message);
    }

    #[test]
    fn what_is_not_given_is_its_default() {
        let mut reader = Reader::new("configuration", &[]);
        assert!(reader.flag("a", true));
        assert_eq!(reader.integer("b", 7, 0..=10), 7);
        assert_eq!(reader.hundredths("c", 150, 100..=1000), 150);
        assert_eq!(reader.size("d", 1 << 30), 1 << 30);
        assert_eq!(reader.word("e", &[("red", 1)]), None);
        assert_eq!(reader.text("f", "x"), "x");
        reader.finish().unwrap();
    }

    #[test]
    fn numbers_with_a_point_are_read_exactly() {
        for (text, value) in [("1", 100), ("1.5", 150), ("1.05", 105), ("20.25", 2025), ("0.1", 10)] {
            assert_eq!(hundredths(text), Some(value), "{text}");
        }
        for text in ["", ".5", "1.", "1.505", "-1", "1e3", "1.5.2", "99999999999999999999"] {
            assert_eq!(hundredths(text), None, "{text}");
        }
    }
}
