//! The injected clock: the system's in production, set by hand in tests.
//!
//! It has three readings. The wall-clock time is for stamps that people and receivers see, and goes wherever
//! an administrator or NTP sets it. The monotonic time is for waits inside the process. The schedule time is for what
//! the store keeps of waits: when a retry is due, when a lease lapses. It goes on evenly while the wall clock steps;
//! the store sets it, and shares it between the servers of one database.

#![expect(clippy::disallowed_methods, reason = "the one place that reads the system's clocks")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::domain::Timestamp;

/// A source of the current time. Clones share it.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
    /// The schedule time less the monotonic time, in microseconds; [`UNSCHEDULED`] until it is set.
    schedule: Arc<AtomicI64>,
}

const UNSCHEDULED: i64 = i64::MIN;

#[derive(Clone, Debug)]
enum Source {
    System,
    /// The system's clocks, the wall clock so many microseconds ahead.
    Shifted(Arc<AtomicI64>),
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

    /// The time that [`Self::micros`] tells.
    pub fn from_micros(micros: i64) -> Self {
        Self(Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    /// Microseconds since the start of the clock.
    pub fn micros(self) -> i64 {
        i64::try_from(self.0.as_micros()).unwrap_or(i64::MAX)
    }

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
static START: LazyLock<Duration> = LazyLock::new(since_boot);

/// The time since the machine started, also while it was suspended: a retry that became due then is due.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).unwrap_or_default()
}

/// The time since the first reading; other systems tell no time of suspension.
#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}

impl Clock {
    fn of(source: Source) -> Self {
        Self { source, schedule: Arc::new(AtomicI64::new(UNSCHEDULED)) }
    }

    /// The clock of the system.
    pub fn system() -> Self {
        Self::of(Source::System)
    }

    /// The clock of the system with its wall clock `micros` ahead, which [`Self::step_by`] changes. For tests of
    /// servers whose clocks differ.
    pub fn shifted(micros: i64) -> Self {
        Self::of(Source::Shifted(Arc::new(AtomicI64::new(micros))))
    }

    /// A clock that stands still at `start` until [`Self::advance`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        let wall = AtomicI64::new(start.micros());
        Self::of(Source::Manual(Arc::new(ManualTime { wall, monotonic: AtomicI64::new(0) })))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        match &self.source {
            Source::System => system_now(),
            Source::Shifted(micros) => {
                let micros = micros.load(Ordering::SeqCst);
                Timestamp::from_micros(system_now().micros().saturating_add(micros))
            }
            Source::Manual(time) => Timestamp::from_micros(time.wall.load(Ordering::SeqCst)),
        }
    }

    /// The current monotonic time, for waits inside the process.
    pub fn monotonic(&self) -> Monotonic {
        match &self.source {
            Source::System | Source::Shifted(_) => Monotonic(since_boot().saturating_sub(*START)),
            Source::Manual(time) => Monotonic::from_micros(time.monotonic.load(Ordering::SeqCst)),
        }
    }

    /// The current schedule time: by which retries are due and leases lapse. A step of the wall clock does not move it.
    /// Until it is set, the wall-clock time.
    pub fn schedule(&self) -> Timestamp {
        match self.schedule.load(Ordering::Relaxed) {
            UNSCHEDULED => self.now(),
            base => Timestamp::from_micros(base.saturating_add(self.monotonic().micros())),
        }
    }

    /// Whether the schedule time is set.
    pub fn is_scheduled(&self) -> bool {
        self.schedule.load(Ordering::Relaxed) != UNSCHEDULED
    }

    /// Sets the schedule time, which goes on from there.
    pub fn set_schedule(&self, now: Timestamp) {
        let base = now.micros().saturating_sub(self.monotonic().micros());
        self.schedule.store(base, Ordering::Relaxed);
    }

    /// The wall-clock time of a monotonic time from now on; now when it is past.
    pub fn timestamp_of(&self, time: Monotonic) -> Timestamp {
        self.now().plus(time.since(self.monotonic()))
    }

    /// Advances both times of a manual clock. Has no effect on the system's clock.
    pub fn advance(&self, span: Duration) {
        if let Source::Manual(time) = &self.source {
            let micros = i64::try_from(span.as_micros()).unwrap_or(0);
            time.wall.fetch_add(micros, Ordering::SeqCst);
            time.monotonic.fetch_add(micros, Ordering::SeqCst);
        }
    }

    /// Steps the wall-clock time of a manual clock, as an administrator or NTP does. Has no effect on the
    /// system's clock.
    pub fn step_to(&self, now: Timestamp) {
        if let Source::Manual(time) = &self.source {
            time.wall.store(now.micros(), Ordering::SeqCst);
        }
    }

    /// The same by `micros`, also of a shifted clock.
    pub fn step_by(&self, micros: i64) {
        match &self.source {
            Source::System => {}
            Source::Shifted(wall) => _ = wall.fetch_add(micros, Ordering::SeqCst),
            Source::Manual(time) => _ = time.wall.fetch_add(micros, Ordering::SeqCst),
        }
    }
}

fn system_now() -> Timestamp {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX))
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
    fn schedule_time_goes_on_evenly_while_the_wall_clock_steps() {
        let clock = Clock::manual(NOW);
        clock.step_by(7);
        assert_eq!(clock.schedule(), NOW.plus(Duration::from_micros(7)), "the wall clock's, unset");
        clock.set_schedule(NOW);
        clock.step_by(-1_000_000);
        clock.advance(HOUR);
        assert_eq!(clock.clone().schedule(), NOW.plus(HOUR));
        let shifted = Clock::shifted(3_600_000_000);
        assert!(shifted.now().since(Clock::system().now()) > HOUR / 2);
    }

    #[test]
    fn monotonic_time_of_the_system_never_goes_back() {
        let clock = Clock::system();
        let readings = [(); 100].map(|()| clock.monotonic());
        assert!(readings.is_sorted());
    }
}
