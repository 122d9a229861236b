//! Sizes are bytes, and say so. How people write them is read here and nowhere else, so that every door and
//! every file of configuration takes the same words.

use std::fmt;

use crate::error::Error;

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl Bytes {
    /// One mebibyte.
    pub const MIB: Self = Self(1 << 20);
    /// One gibibyte.
    pub const GIB: Self = Self(1 << 30);
    /// The largest size that anybody may ask for: one pebibyte.
    pub const MAX: Self = Self(1 << 50);

    /// Reads what people write: `10GiB`, `10G`, `10g`, `512MiB`, `1.5TiB`, `1073741824`, `5 GB`. A bare
    /// letter is binary, as Docker's users expect; only `kB MB GB TB PB` are decimal.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let wrong = |why: &str| {
            Error::invalid(format!(
                "the size {text:?} {why}: write a number with a unit, for example 10GiB, 512MiB or 1073741824"
            ))
        };
        let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "ki" | "kib" => 1 << 10,
            "m" | "mi" | "mib" => 1 << 20,
            "g" | "gi" | "gib" => 1 << 30,
            "t" | "ti" | "tib" => 1 << 40,
            "p" | "pi" | "pib" => 1 << 50,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            "pb" => 1_000_000_000_000_000,
            _ => return Err(wrong("has an unknown unit")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.len() > 9 || fraction.contains('.') {
            return Err(wrong("is not a number"));
        }
        let whole: u128 = whole.parse().map_err(|_| wrong("is not a number"))?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let part: u128 =
            if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| wrong("is not a number"))? };
        let bytes = whole
            .checked_mul(u128::from(factor))
            .and_then(|bytes| bytes.checked_add(part * u128::from(factor) / scale))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .map(Self)
            .filter(|bytes| *bytes <= Self::MAX)
            .ok_or_else(|| {
                Error::out_of_range(format!(
                    "the size {text:?} is larger than the largest allowed, {}",
                    Self::MAX
                ))
            })?;
        if bytes.0 == 0 {
            return Err(wrong("is zero"));
        }
        Ok(bytes)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u32); 5] = [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        for (unit, shift) in UNITS {
            let whole = self.0 >> shift;
            if whole > 0 {
                let tenths = ((self.0 - (whole << shift)) * 10) >> shift;
                return if tenths == 0 {
                    write!(f, "{whole}{unit}")
                } else {
                    write!(f, "{whole}.{tenths}{unit}")
                };
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// How large a thing may be: at least `required`, at most `limit`. A `required` of zero asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityRange {
    /// At least so many bytes; zero when the caller does not care.
    pub required: Bytes,
    /// At most so many.
    pub limit: Option<Bytes>,
}

impl CapacityRange {
    /// A range that any size satisfies.
    pub const ANY: Self = Self { required: Bytes(0), limit: None };

    /// At least this.
    #[must_use]
    pub fn at_least(required: Bytes) -> Self {
        Self { required, limit: None }
    }

    /// Whether a thing of this size is within.
    #[must_use]
    pub fn admits(&self, size: Bytes) -> bool {
        size >= self.required && self.limit.is_none_or(|limit| size <= limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("1", 1),
            ("10GiB", 10 << 30),
            ("10g", 10 << 30),
            ("2G", 2 << 30),
            ("1.5MiB", 3 << 19),
            ("5 GB", 5_000_000_000),
            ("1024", 1024),
        ] {
            assert_eq!(Bytes::parse(text).unwrap(), Bytes(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused_with_the_reason() {
        for text in
            ["", "0", "-1", "x", "1.2.3G", "1EiB", "99999999999999999999", "1e3", "0.0G", "10 GiBs", ".5G"]
        {
            let error = Bytes::parse(text).unwrap_err();
            assert!(error.message.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_print_short() {
        assert_eq!(Bytes(10 << 30).to_string(), "10GiB");
        assert_eq!(Bytes(3 << 19).to_string(), "1.5MiB");
        assert_eq!(Bytes(17).to_string(), "17B");
    }
}
