//! The injected clock: the system's in production, set by hand in tests.

#![expect(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::Timestamp;

/// A source of the current time. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<ManualTime>),
}

/// The two readings of a manual clock, in microseconds.
#[derive(Debug)]
struct ManualTime {
    wall: AtomicI64,
    monotonic: AtomicI64,
}

/// A reading of a monotonic clock, which a step of the wall clock does not move.
///
/// It means nothing outside the process: never store it, and compare it only with readings of the same [`Clock`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// The start of the clock.
    pub const ZERO: Self = Self(Duration::ZERO);

    /// This time and `span`.
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// This time less `span`, but not before the start of the clock.
    pub const fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// The time since `earlier`; zero when it is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// When the system's monotonic clock was first read.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Clock {
    /// The clock of the system.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until [`Self::advance`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        let wall = AtomicI64::new(start.micros());
        Self(Source::Manual(Arc::new(ManualTime { wall, monotonic: AtomicI64::new(0) })))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => {
                let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
            }
            Source::Manual(time) => Timestamp::from_micros(time.wall.load(Ordering::SeqCst)),
        }
    }

    /// The current monotonic time, for waits inside the process.
    pub fn monotonic(&self) -> Monotonic {
        match &self.0 {
            Source::System => Monotonic(START.elapsed()),
            Source::Manual(time) => {
                let micros = time.monotonic.load(Ordering::SeqCst);
                Monotonic(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
            }
        }
    }

    /// The wall-clock time of a monotonic time from now on; now when it is past.
    pub fn timestamp_of(&self, time: Monotonic) -> Timestamp {
        self.now().plus(time.since(self.monotonic()))
    }

    /// Advances both times of a manual clock. Has no effect on the system's clock.
    pub fn advance(&self, span: Duration) {
        if let Source::Manual(time) = &self.0 {
            let micros = i64::try_from(span.as_micros()).unwrap_or(0);
            time.wall.fetch_add(micros, Ordering::SeqCst);
            time.monotonic.fetch_add(micros, Ordering::SeqCst);
        }
    }

    /// Steps the wall-clock time of a manual clock, as an administrator or NTP does. Has no effect on the
    /// system's clock.
    pub fn step_to(&self, now: Timestamp) {
        if let Source::Manual(time) = &self.0 {
            time.wall.store(now.micros(), Ordering::SeqCst);
        }
    }
}

/// Measures a duration on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    /// The time from this start to a later one; zero when it was not later.
    pub fn until(self, later: Self) -> Duration {
        later.0.saturating_duration_since(self.0)
    }

    /// The time since the start, in seconds, the unit of metrics.
    pub fn seconds(self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);
    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn step_of_the_wall_clock_does_not_move_the_monotonic_time() {
        let clock = Clock::manual(NOW);
        let before = clock.monotonic();
        clock.advance(HOUR);
        assert_eq!(clock.monotonic().since(before), HOUR);
        assert_eq!(clock.now(), NOW.plus(HOUR));
        clock.step_to(NOW);
        assert_eq!((clock.now(), clock.monotonic().since(before)), (NOW, HOUR));
        assert_eq!(clock.timestamp_of(clock.monotonic().plus(HOUR)), NOW.plus(HOUR));
        assert_eq!(clock.timestamp_of(before), NOW);
    }

    #[test]
    fn monotonic_time_of_the_system_never_goes_back() {
        let clock = Clock::system();
        let readings = [(); 100].map(|()| clock.monotonic());
        assert!(readings.is_sorted());
    }
}
