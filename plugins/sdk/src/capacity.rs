//! Sizes: reading them as people write them, and choosing one within what a caller asked for.
//!
//! ```
//! use kato_plugin_sdk::{capacity::Limits, types::CapacityRange};
//!
//! let limits = Limits { min: 1 << 20, max: None, step: 4096, default: 1 << 30 };
//! let asked = CapacityRange { required_bytes: 5_000_000, limit_bytes: None };
//! assert_eq!(limits.choose(&asked).unwrap(), 5_001_216);
//! ```

use crate::types::{CapacityRange, Error};

/// What sizes a backend can make.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The smallest.
    pub min: u64,
    /// The largest, if there is one.
    pub max: Option<u64>,
    /// Sizes are multiples of this.
    pub step: u64,
    /// What is made when nobody says how large.
    pub default: u64,
}

impl Limits {
    /// The size to make: the smallest possible one that satisfies the range; the default, as far as the range
    /// allows it, when nothing is required.
    pub fn choose(&self, asked: &CapacityRange) -> Result<u64, Error> {
        let most = asked.limit_bytes.unwrap_or(u64::MAX).min(self.max.unwrap_or(u64::MAX));
        let wished = match asked.required_bytes {
            0 => self.default.min(most / self.step.max(1) * self.step.max(1)),
            required => required,
        };
        let size = wished.max(self.min).checked_next_multiple_of(self.step.max(1)).unwrap_or(u64::MAX);
        if size <= most {
            return Ok(size);
        }
        Err(Error::out_of_range(match self.max {
            Some(max) if size > max => {
                format!("{} is more than the largest size here, {}", spell(wished), spell(max))
            }
            _ => format!(
                "no size of at least {} and at most {} can be made: sizes here are multiples of {} and at least {}",
                spell(wished),
                spell(most),
                spell(self.step),
                spell(self.min)
            ),
        }))
    }
}

/// Whether a thing of this size satisfies the range.
#[must_use]
pub fn admits(asked: &CapacityRange, size: u64) -> bool {
    size >= asked.required_bytes && asked.limit_bytes.is_none_or(|limit| size <= limit)
}

/// Whether the range asks for anything.
#[must_use]
pub fn asked(range: &CapacityRange) -> bool {
    range.required_bytes > 0 || range.limit_bytes.is_some()
}

/// Reads a whole number with an optional unit: `10GiB`, `10g`, `512MiB`, `5GB`, `4096`. A bare letter is
/// binary; only `kB MB GB TB` are decimal. Nothing if it is none.
///
/// ```
/// assert_eq!(kato_plugin_sdk::capacity::parse("2GiB"), Some(2 << 30));
/// assert_eq!(kato_plugin_sdk::capacity::parse("2 GB"), Some(2_000_000_000));
/// assert_eq!(kato_plugin_sdk::capacity::parse("much"), None);
/// ```
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// Spells a size for people: `10GiB`, `1.5MiB`, `17B`.
#[must_use]
pub fn spell(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        let whole = bytes >> shift;
        if whole > 0 {
            let tenths = (((bytes - (whole << shift)) >> (shift - 10)) * 10) >> 10;
            return if tenths == 0 { format!("{whole}{unit}") } else { format!("{whole}.{tenths}{unit}") };
        }
    }
    format!("{bytes}B")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ErrorKind;

    const LIMITS: Limits = Limits { min: 1 << 20, max: Some(1 << 40), step: 4096, default: 1 << 30 };

    fn range(required_bytes: u64, limit_bytes: Option<u64>) -> CapacityRange {
        CapacityRange { required_bytes, limit_bytes }
    }

    #[test]
    fn the_smallest_size_that_satisfies_is_chosen() {
        for (asked, size) in [
            (range(0, None), 1 << 30),
            (range(0, Some((1 << 21) + 1)), 1 << 21),
            (range(1, None), 1 << 20),
            (range((1 << 20) + 1, None), (1 << 20) + 4096),
            (range(1 << 40, Some(1 << 40)), 1 << 40),
        ] {
            let chosen = LIMITS.choose(&asked).unwrap();
            assert_eq!(chosen, size, "{asked:?}");
            assert!(admits(&asked, chosen));
        }
    }

    #[test]
    fn what_cannot_be_satisfied_is_out_of_range() {
        for asked in [
            range((1 << 20) + 1, Some((1 << 20) + 2)),
            range(0, Some(1000)),
            range((1 << 40) + 1, None),
            range(u64::MAX, None),
            range(2 << 20, Some(1 << 20)),
        ] {
            assert_eq!(LIMITS.choose(&asked).unwrap_err().kind, ErrorKind::OutOfRange, "{asked:?}");
        }
    }

    #[test]
    fn sizes_are_read_and_spelt() {
        for (text, bytes) in
            [("4096", 4096), ("1 GiB", 1 << 30), ("2t", 2 << 40), ("3MB", 3_000_000), ("0", 0)]
        {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "-1", "1.5G", "G", "1EiB", "99999999999999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(spell(3 << 19), "1.5MiB");
        assert_eq!(spell(1 << 30), "1GiB");
        assert_eq!(spell(u64::MAX), "16777215.9TiB");
        assert_eq!(spell(17), "17B");
    }
}
