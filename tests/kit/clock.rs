//! A model's time and its chance. Time is real, but a test can let it pass; delays are drawn from a seed, and shortened by
//! the site's pace so that a test need not wait as long as people do. Amazon's house and Packet's have one of each.

#![expect(clippy::disallowed_methods, reason = "a model has a clock of its own")]

use std::{
    ops::Range,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long the model has run.
pub(crate) type Moment = Duration;

/// Time that a test can let pass.
#[derive(Debug)]
pub(crate) struct Clock {
    begun: Instant,
    wall: SystemTime,
    passed: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now(), wall: SystemTime::now(), passed: Duration::ZERO }
    }

    pub(crate) fn now(&self) -> Moment {
        self.begun.elapsed() + self.passed
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.passed += time;
    }

    /// Seconds since 1970 of a moment.
    pub(crate) fn seconds(&self, moment: Moment) -> f64 {
        self.since_1970(moment).as_secs_f64()
    }

    /// How long after 1970 a moment is.
    pub(crate) fn since_1970(&self, moment: Moment) -> Duration {
        (self.wall + moment).duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// A moment as RFC 3339 has it, with milliseconds.
    pub(crate) fn written(&self, moment: Moment) -> String {
        let since = self.since_1970(moment);
        let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
        format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            since.subsec_millis()
        )
    }
}

/// Seconds since 1970 of what a signature says, as `20261126T183000Z`.
pub(crate) fn parse_stamp(text: &str) -> Option<i64> {
    let number = |range: Range<usize>| text.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    // The year begins in March, so that the day that there sometimes is comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// The day that so many days after 1970 began.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Numbers by chance, the same for the same seed.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn of_seed(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn number(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1.
    pub(crate) fn part(&mut self) -> f64 {
        f64::from(u32::try_from(self.number() >> 32).unwrap_or(0)) / f64::from(u32::MAX)
    }

    pub(crate) fn happens(&mut self, probability: f64) -> bool {
        self.part() < probability
    }

    pub(crate) fn between(&mut self, seconds: Range<f64>) -> Duration {
        Duration::from_secs_f64(seconds.start + self.part() * (seconds.end - seconds.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_and_read_alike() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(19_782), (2024, 2, 29));
        assert_eq!(parse_stamp("20240229T010203Z"), Some(19_782 * 86_400 + 3723));
        assert_eq!(parse_stamp("yesterday"), None);
    }
}
