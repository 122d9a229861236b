//! Time: when a call came, when to ask again, and the dates that EC2 writes. Nobody else here asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

/// The beat of waiting. What waits is told to come again at the next one, so that all that wait come together, and one
/// request answers for all of them.
const BEAT_MS: u64 = 2_000;
/// The shortest wait.
const LEAST_MS: u64 = 500;

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "a component has no other clock than WASI's")]
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long it is until the next beat.
pub(crate) fn beat(now: u64) -> u64 {
    let left = BEAT_MS - now % BEAT_MS;
    if left < LEAST_MS { left + BEAT_MS } else { left }
}

/// `2026-11-26T10:46:10.819Z` in milliseconds since 1970.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.trim_end_matches('Z').split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    let fraction: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1000 + fraction)
}

/// Days since 1970-01-01 by the Gregorian calendar: years begin in March here, so that the leap day is the last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T00:00:01Z", 951_782_401_000),
            ("2026-11-26T10:46:10.819Z", 1_795_689_970_819),
            ("2026-11-26T10:46:10.8Z", 1_795_689_970_800),
        ] {
            assert_eq!(parse(text), Some(ms), "{text}");
        }
        for text in ["", "2026-11-26", "2026-13-01T00:00:00Z", "1969-01-01T00:00:00Z", "2026-11-26T10:46Z"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn who_waits_comes_at_the_beat() {
        for now in [0, 1, 999, 1_400, 1_501, 1_999, 123_456_789] {
            assert_eq!((now + beat(now)) % BEAT_MS, 0, "{now}");
            assert!((LEAST_MS..BEAT_MS + LEAST_MS).contains(&beat(now)), "{now}");
        }
    }
}
