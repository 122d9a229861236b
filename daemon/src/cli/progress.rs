//! A bar for a person who watches: on the terminal's last line, and nowhere where nobody looks.

use std::{
    io::{self, IsTerminal, Write as _},
    time::Duration,
};

use kato_orchestrator::model::Bytes;
use tokio::time::Instant;

use super::Global;

/// How wide the bar itself is.
const WIDTH: u64 = 24;

/// One line that is written over and over.
#[derive(Debug)]
pub(super) struct Bar {
    name: String,
    shown: bool,
    visible: bool,
    began: Instant,
}

impl Bar {
    pub(super) fn new(global: &Global, name: &str) -> Self {
        let visible = !global.quiet && io::stderr().is_terminal();
        Self { name: name.to_owned(), shown: false, visible, began: Instant::now() }
    }

    /// How far it is, and how much was moved for that.
    pub(super) fn show(&mut self, at: u64, of: u64, moved: u64) {
        if !self.visible || of == 0 {
            return;
        }
        let line = line(&self.name, at, of, moved, self.began.elapsed());
        // Nobody is hurt when a terminal is gone.
        let _written = write!(io::stderr().lock(), "\r\x1b[2K{line}");
        self.shown = true;
    }

    /// Leaves the line as nobody would have written it.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _written = write!(io::stderr().lock(), "\r\x1b[2K");
        }
    }
}

fn line(name: &str, at: u64, of: u64, moved: u64, time: Duration) -> String {
    let share = |whole: u64| {
        let part = u128::from(at.min(of)).saturating_mul(u128::from(whole)) / u128::from(of.max(1));
        u64::try_from(part).unwrap_or(whole)
    };
    let full = share(WIDTH);
    let bar: String = (0..WIDTH).map(|place| if place < full { '#' } else { '.' }).collect();
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(100);
    let pace = Bytes(moved.saturating_mul(1000) / millis);
    format!("{name} [{bar}] {:3} % of {}, {} moved, {pace}/s", share(100), Bytes(of), Bytes(moved))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_far_and_how_fast() {
        let told = line("copy", 512 << 20, 1 << 30, 256 << 20, Duration::from_secs(2));
        assert_eq!(told, "copy [############............]  50 % of 1GiB, 256MiB moved, 128MiB/s");
        assert!(line("copy", 9, 3, 0, Duration::ZERO).contains("100 %"));
    }
}
