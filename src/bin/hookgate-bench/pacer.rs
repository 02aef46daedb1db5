//! When each connection of a load sends its next request.

use std::time::Duration;

use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;

use crate::load::Load;
use crate::report::Measured;

/// One connection's share of a load: its send times, and its measurements.
pub(crate) struct Pacer {
    pub(crate) watch: Stopwatch,
    schedule: Option<Schedule>,
    end: Duration,
    pub(crate) measured: Measured,
}

/// Send times of one connection of an open loop.
#[derive(Clone, Copy)]
struct Schedule {
    next: Duration,
    step: Duration,
}

impl Schedule {
    /// Connections alternate, so that their requests together are evenly spaced.
    fn new(rate: u32, connections: u32, number: u32) -> Self {
        let gap = Duration::from_secs(1) / rate;
        Self { next: gap * number, step: gap * connections }
    }
}

impl Pacer {
    /// The pacer of connection `number`, for a run that started with `watch`.
    pub(crate) fn new(load: Load, number: u32, watch: Stopwatch) -> Result<Self, CliError> {
        let schedule = load.rate.map(|rate| Schedule::new(rate, load.connections, number));
        Ok(Self { watch, schedule, end: load.duration, measured: Measured::new()? })
    }

    /// Waits until the next request is due. Returns the time since the start from which its latency
    /// counts, or `None` at the end of the run.
    ///
    /// In an open loop a request that earlier answers held up counts from the time it was due. A
    /// request that only a late timer held up counts from the time it is sent.
    pub(crate) async fn next(&mut self) -> Option<Duration> {
        let now = self.watch.elapsed();
        let due = match &mut self.schedule {
            None => now,
            Some(schedule) => {
                let due = schedule.next;
                schedule.next += schedule.step;
                if now < due {
                    tokio::time::sleep(due.min(self.end).saturating_sub(now)).await;
                    due.max(self.watch.elapsed())
                } else {
                    due
                }
            }
        };
        (due < self.end).then_some(due)
    }
}
