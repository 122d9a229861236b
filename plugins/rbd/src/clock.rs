//! The day on which a volume that is kept after its end may go. Nothing else here depends on the time.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 24 * 60 * 60;

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a component has no other clock than WASI's")]
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The day that begins when so many days have passed in full, as `2027-01-31`.
pub(crate) fn date(now: u64, days: u64) -> String {
    let (year, month, day) = civil(now / DAY + days + 1);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The date of the day with this number since 1970-01-01, by the Gregorian calendar: years begin in March here, so
/// that the leap day is the last.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let era = day / 146_097;
    let day = day % 146_097;
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (day, date) in
            [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (11_017, (2000, 3, 1)), (20_783, (2026, 11, 26))]
        {
            assert_eq!(civil(day), date, "{day}");
        }
        assert_eq!(date(20_783 * DAY + 5, 0), "2026-11-27");
        assert_eq!(date(20_783 * DAY + 5, 35), "2027-01-01");
    }
}
