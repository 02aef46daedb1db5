//! How far `seed` is: a bar on a terminal, and a line every 50,000 events elsewhere.

use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::runtime::Stopwatch;

const EVENTS_PER_LINE: u64 = 50_000;
const BAR: &str = "{wide_bar} {human_pos} of {human_len} events  {per_sec}  {eta} left";

/// Shows how many events were made.
pub(super) struct Progress {
    bar: ProgressBar,
    events: u64,
    done: u64,
    began: Stopwatch,
}

impl Progress {
    pub(super) fn new(events: u64) -> Self {
        // It draws nothing where standard error is no terminal.
        let bar = ProgressBar::with_draw_target(Some(events), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template(BAR) {
            bar.set_style(style);
        }
        Self { bar, events, done: 0, began: Stopwatch::start() }
    }

    /// Counts further events.
    pub(super) fn add(&mut self, events: u64) {
        let lines = self.done / EVENTS_PER_LINE;
        self.done += events;
        self.bar.set_position(self.done);
        if self.bar.is_hidden() && self.done / EVENTS_PER_LINE > lines {
            // Nobody is harmed if it cannot be shown.
            let _ = writeln!(io::stderr(), "{}", self.line());
        }
    }

    /// Events per second so far.
    #[expect(clippy::cast_precision_loss, reason = "five million at most")]
    pub(super) fn rate(&self) -> f64 {
        self.done as f64 / self.began.seconds().max(0.001)
    }

    pub(super) fn seconds(&self) -> f64 {
        self.began.seconds()
    }

    #[expect(clippy::cast_precision_loss, reason = "five million at most")]
    fn line(&self) -> String {
        let rate = self.rate();
        let left = self.events.saturating_sub(self.done) as f64 / rate.max(1.0);
        format!("{} of {} events, {rate:.0} per second, {left:.0} s left", self.done, self.events)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
