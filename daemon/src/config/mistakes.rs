//! What a person wrote that cannot be meant, with its place, the reason, and the key that was probably meant.
//! All mistakes are told at once: nobody should have to start a daemon five times to repair five typing errors.

use std::fmt;

use super::tree::Origin;

/// Something in the configuration that cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where it was written.
    pub(crate) origin: Origin,
    /// The key, empty where there is none.
    pub(crate) key: String,
    /// What is wrong with it.
    pub(crate) reason: String,
    /// What was probably meant.
    pub(crate) meant: Option<String>,
}

impl Mistake {
    pub(crate) fn new(origin: Origin, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { origin, key: key.into(), reason: reason.into(), meant: None }
    }

    pub(crate) fn meaning(mut self, meant: Option<String>) -> Self {
        self.meant = meant;
        self
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.reason)?;
        if let Some(meant) = &self.meant {
            write!(f, "; did you mean \"{meant}\"?")?;
        }
        Ok(())
    }
}

/// All mistakes of a configuration, never none.
#[derive(Debug)]
pub(crate) struct Mistakes(pub(crate) Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} mistake{}:", if count == 1 { "" } else { "s" })?;
        for mistake in &self.0 {
            write!(f, "\n  {mistake}")?;
        }
        f.write_str("\nrepair them, then try `kato config check`")
    }
}

/// The known word that is nearest to what was written, if any is near enough to have been meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let written = written.to_lowercase().replace('_', "-");
    let reach = (written.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|word| (distance(&written, word), word))
        .filter(|(distance, word)| *distance <= reach || (word.starts_with(&written) && written.len() > 2))
        .min()
        .map(|(_, word)| word.to_owned())
}

/// How many letters have to be changed, added, left out or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for (j, b) in to.iter().enumerate() {
            let cost = |from: &[usize], at: usize| from.get(at).copied().unwrap_or(usize::MAX - 1);
            let change = cost(&row, j) + usize::from(a != b);
            let mut best = change.min(cost(&row, j + 1) + 1).min(cost(&next, j) + 1);
            let swapped = i > 0
                && j > 0
                && from.get(i - 1) == Some(b)
                && to.get(j - 1) == Some(a)
                && !before.is_empty();
            if swapped {
                best = best.min(cost(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_word() {
        let known = ["socket", "scope", "enabled", "idle-grace", "reap-after"];
        for (written, meant) in [
            ("sokcet", Some("socket")),
            ("enable", Some("enabled")),
            ("idle_grace", Some("idle-grace")),
            ("Scope", Some("scope")),
            ("colour", None),
        ] {
            assert_eq!(nearest(written, known).as_deref(), meant, "{written}");
        }
    }
}
