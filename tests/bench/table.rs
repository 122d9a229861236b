//! The table: what was measured, the yardstick beside it, their ratio, and the aim. A row is printed as soon
//! as it is known; at the end stands how many aims were met. An aim that was missed fails nothing: a shared
//! machine is not a judge.

use std::time::Duration;

/// A row.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Ours.
    pub(crate) ours: String,
    /// What it is held against.
    pub(crate) yardstick: String,
    /// Ours by the yardstick's, where that is a number.
    pub(crate) ratio: Option<f64>,
    /// What was hoped for, and whether it came true.
    pub(crate) aim: Option<(String, bool)>,
}

/// All rows so far.
#[derive(Debug, Default)]
pub(crate) struct Table {
    aims: usize,
    met: usize,
}

impl Table {
    /// Begins a group of rows.
    pub(crate) fn group(&mut self, name: &str) {
        println!("\n{name:<42} {:>34} {:>42} {:>6}  aim", "measured", "yardstick", "ratio");
    }

    /// Adds and prints a row.
    pub(crate) fn row(&mut self, row: &Row) {
        let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        let aim = row
            .aim
            .as_ref()
            .map_or_else(String::new, |(aim, met)| format!("{aim}: {}", if *met { "met" } else { "MISSED" }));
        self.aims += usize::from(row.aim.is_some());
        self.met += usize::from(row.aim.as_ref().is_some_and(|(_, met)| *met));
        println!("{:<42} {:>34} {:>42} {ratio:>6}  {aim}", row.what, row.ours, row.yardstick);
    }

    pub(crate) fn print_summary(&self) {
        println!("\n{} of {} aims met", self.met, self.aims);
    }
}

/// A time as a person reads it.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 1e-3 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{:.1} µs", seconds * 1e6)
    }
}

/// One time by another.
pub(crate) fn ratio(ours: Duration, yardstick: Duration) -> Option<f64> {
    (!yardstick.is_zero()).then(|| ours.as_secs_f64() / yardstick.as_secs_f64())
}
