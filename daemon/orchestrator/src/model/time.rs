//! Moments come from the `Clock` port and are plain numbers here, so that the house can be simulated.

use std::{fmt, time::Duration};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// This much later.
    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    /// A moment as it prints, and nothing else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != "0000-00-00T00:00:00.000Z".len() {
            return None;
        }
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.splitn(3, '-').map(str::parse::<u64>);
        let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
        let mut time = time.splitn(3, ':');
        let (hour, minute) = (time.next()?.parse::<u64>().ok()?, time.next()?.parse::<u64>().ok()?);
        let (second, millis) = time.next()?.split_once('.')?;
        let (second, millis) = (second.parse::<u64>().ok()?, millis.parse::<u64>().ok()?);
        // Howard Hinnant's days-from-civil, for days since 1970: a year begins in March.
        let year = year.checked_sub(u64::from(month <= 2))?;
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
        let days = (year * 365 + year / 4 + year / 400 + day_of_year).checked_sub(year / 100 + 719_468)?;
        let seconds = days.checked_mul(86_400)? + hour * 3600 + minute * 60 + second;
        let moment = Self(seconds.checked_mul(1000)? + millis);
        // What is out of range, or written otherwise, does not print as it was.
        (moment.to_string() == text).then_some(moment)
    }

    /// How long after `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// RFC 3339 in UTC with milliseconds, as Docker's `CreatedAt` wants it.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.0 / 1000, self.0 % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant's civil-from-days, for days since 1970.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_index = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_index + 2) / 5 + 1;
        let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_print_as_rfc_3339() {
        assert_eq!(Timestamp(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Timestamp(951_782_400_123).to_string(), "2000-02-29T00:00:00.123Z");
        assert_eq!(Timestamp(1_795_221_296_000).to_string(), "2026-11-21T00:34:56.000Z");
    }

    #[test]
    fn what_was_printed_is_read_and_nothing_else_is() {
        for millis in (0..4_102_444_800_000).step_by(86_399_123 * 7).chain([951_782_400_123, 0]) {
            let moment = Timestamp(millis);
            assert_eq!(Timestamp::parse(&moment.to_string()), Some(moment), "{moment}");
        }
        for wrong in [
            "",
            "2026-11-21",
            "2026-13-21T00:34:56.000Z",
            "2026-11-31T00:34:56.000Z",
            "0000-00-00T00:00:00.000Z",
            "2026-11-21T24:00:00.000Z",
            "2026-11-21T00:34:56.0Z",
            "26-11-21T00:34:56.000Z",
            "99999999999-11-21T00:34:56.000Z",
        ] {
            assert_eq!(Timestamp::parse(wrong), None, "{wrong}");
        }
    }
}
