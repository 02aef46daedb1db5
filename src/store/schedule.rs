//! The schedule time: the clock by which deliveries are due and leases lapse, one for all servers of a database.
//!
//! # Operation
//! It is the database server's clock in PostgreSQL, and the server's own clock beside a SQLite file, plus `ahead`,
//! which the store keeps. A server reads it once a second ([`Schedule::follow`]) and lets its [`Clock`] go on from
//! there by the monotonic clock, so that two servers whose own clocks are an hour apart agree to a fraction of a
//! second, and a step of a wall clock changes nothing in between. Small differences are adopted. Of steps, the
//! schedule time is kept from going back: `ahead` grows by as much, and what waits is due when it would have been. A
//! step forward is kept out beside SQLite in the same way; in PostgreSQL it is adopted, since a server that was
//! suspended cannot tell it from its own sleep.
//!
//! `latest` keeps the schedule time from going back while no server runs.
//!
//! # Failure
//! While the store is away the schedule time goes on by the monotonic clock, and before a server has ever
//! reached it, by the server's own.

use std::time::Duration;

use super::engine::{Dialect, Row, args};
use super::{Result, Store};
use crate::domain::{Delivery, Timestamp};
use crate::runtime::{Clock, Stopwatch};

/// A greater difference is a step, and not a clock that is being adjusted.
const STEP_MIN: Duration = Duration::from_secs(1);
/// Time between two writes of the latest schedule time.
const NOTE_INTERVAL: Duration = Duration::from_mins(1);

/// What keeps a server's schedule time in step with the store's.
#[derive(Debug)]
pub struct Schedule {
    store: Store,
    clock: Clock,
    ahead: i64,
    noted: Option<Stopwatch>,
    /// The wall-clock time less the monotonic time at the last look.
    wall: i64,
}

/// The schedule time as the store tells it.
#[derive(Clone, Copy)]
struct Told {
    /// In microseconds, when the reading began and when it had ended, by the schedule time of this server.
    between: (i64, i64),
    /// The clock of the database, or of this server beside SQLite.
    reference: i64,
    ahead: i64,
    latest: i64,
}

impl Told {
    fn at(self) -> i64 {
        self.reference.saturating_add(self.ahead)
    }

    /// How far the store's schedule time is ahead of this server's; 0 within the time that the reading took.
    fn difference(self) -> i64 {
        let (from, until) = self.between;
        self.at() - self.at().clamp(from, until.max(from))
    }
}

impl Schedule {
    /// A greater difference between a server's clock and its database's is told at the start.
    pub const APART_MAX: Duration = Duration::from_secs(5);

    /// Sets the schedule time of `clock` by the store, which is migrated.
    pub async fn start(store: Store, clock: Clock) -> Result<Self> {
        let wall = wall_base(&clock);
        let mut schedule = Self { store, clock, ahead: 0, noted: None, wall };
        schedule.agree().await?;
        let (wall, at) = (schedule.clock.now(), schedule.clock.schedule());
        let is_apart = wall.since(at).max(at.since(wall)) > Self::APART_MAX;
        if is_apart && schedule.is_shared() {
            tracing::warn!(
                server = %wall, schedule = %at,
                "this server's clock is not the database's; retries and leases follow the database's"
            );
        }
        Ok(schedule)
    }

    /// Sets the schedule time of `clock` for a process that works beside the servers and does not stay.
    pub async fn look(store: &Store, clock: &Clock) -> Result<()> {
        let wall = wall_base(clock);
        let mut schedule =
            Self { store: store.clone(), clock: clock.clone(), ahead: 0, noted: None, wall };
        let mut told = schedule.read().await?;
        if told.latest - told.at() > micros(STEP_MIN) {
            told.ahead += told.latest - told.at();
        }
        schedule.adopt(told);
        Ok(())
    }

    /// Compares the clocks. To be called every second.
    pub async fn follow(&mut self) -> Result<()> {
        self.watch_wall_clock();
        let told = if self.is_shared() { self.read().await? } else { self.told_by_clock() };
        let is_step = told.difference().unsigned_abs() > micros(STEP_MIN).unsigned_abs();
        let is_noted = self.noted.is_some_and(|noted| noted.elapsed() < NOTE_INTERVAL);
        if is_step || !is_noted {
            return self.agree().await;
        }
        self.adopt(told);
        Ok(())
    }

    /// Whether servers share the schedule time, and so its reference.
    fn is_shared(&self) -> bool {
        self.store.engine.dialect() == Dialect::Postgres
    }

    /// Tells of a step of this server's clock, which new stamps follow.
    fn watch_wall_clock(&mut self) {
        let wall = wall_base(&self.clock);
        let step = wall.saturating_sub(self.wall);
        if step.unsigned_abs() > micros(STEP_MIN).unsigned_abs() {
            self.store.metrics.hookgate_clock_steps_total.inc();
            tracing::warn!(
                seconds = step / 1_000_000,
                "this server's clock was set; events get its new time, retries and leases are not moved"
            );
        }
        self.wall = wall;
    }

    fn told_by_clock(&self) -> Told {
        let at = self.clock.schedule().micros();
        let (reference, ahead) = (self.clock.now().micros(), self.ahead);
        Told { between: (at, at), reference, ahead, latest: at }
    }

    async fn read(&self) -> Result<Told> {
        let from = self.clock.schedule().micros();
        let row = self.store.engine.one(told_sql(self.store.engine.dialect()), args![]).await?;
        self.told(from, &row)
    }

    fn told(&self, from: i64, row: &Row) -> Result<Told> {
        let between = (from, self.clock.schedule().micros());
        let reference = row.get_opt("reference")?.unwrap_or_else(|| self.clock.now().micros());
        Ok(Told { between, reference, ahead: row.get("ahead")?, latest: row.get("latest")? })
    }

    /// Agrees with the store on the schedule time: keeps it from going back, and notes it.
    async fn agree(&mut self) -> Result<()> {
        let mut tx = self.store.engine.begin().await?;
        // The lock first: the clock is read after the wait for it.
        let lock = tx.dialect().lock(" FOR UPDATE");
        tx.all(format!("SELECT ahead FROM store_clock{lock}"), args![]).await?;
        let from = self.clock.schedule().micros();
        let row = tx.one(told_sql(tx.dialect()), args![]).await?;
        let mut told = self.told(from, &row)?;
        self.keep_from_going_back(&mut told);
        let latest = told.latest.max(told.at());
        let note = "UPDATE store_clock SET ahead = $1, latest = $2";
        tx.execute(note, args![told.ahead, latest]).await?;
        tx.commit().await?;
        self.noted = Some(Stopwatch::start());
        self.adopt(told);
        Ok(())
    }

    fn keep_from_going_back(&self, told: &mut Told) {
        let step_min = micros(STEP_MIN);
        if told.latest - told.at() > step_min && !self.clock.is_scheduled() {
            let step = told.at() - told.latest;
            told.ahead -= step;
            self.tell(
                step,
                "the clock went back while no server ran; what waits is due all the same",
            );
        }
        let difference = told.difference();
        if !self.clock.is_scheduled() || difference.abs() <= step_min {
            return;
        }
        if difference < 0 {
            told.ahead -= difference;
            self.tell(
                difference,
                "the clock of the store went back; what waits is due all the same",
            );
        } else if self.is_shared() {
            self.tell(
                difference,
                "the clock of the database went forward; what waits is due earlier",
            );
        } else {
            told.ahead -= difference;
        }
    }

    fn tell(&self, step: i64, what: &str) {
        if self.is_shared() {
            self.store.metrics.hookgate_clock_steps_total.inc();
        }
        tracing::warn!(seconds = step / 1_000_000, "{what}");
    }

    fn adopt(&mut self, told: Told) {
        self.ahead = told.ahead;
        let at = if self.clock.is_scheduled() {
            self.clock.schedule().micros().saturating_add(told.difference())
        } else {
            told.at()
        };
        self.clock.set_schedule(Timestamp::from_micros(at));
    }
}

impl Store {
    /// The same store, whose changes make deliveries due by the schedule time of `clock`.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// The schedule time, for a caller whose time is `now`.
    pub(super) fn due(&self, now: Timestamp) -> Timestamp {
        self.clock.as_ref().map_or(now, Clock::schedule)
    }

    /// A delivery as people see it: its next attempt by the wall clock.
    pub(super) fn shown(&self, mut delivery: Delivery) -> Delivery {
        delivery.next_attempt_at = delivery.next_attempt_at.map(|at| self.shown_time(at));
        delivery
    }

    /// A schedule time as people see it: by the wall clock.
    pub(super) fn shown_time(&self, at: Timestamp) -> Timestamp {
        let Some(clock) = &self.clock else { return at };
        let ahead = clock.schedule().micros().saturating_sub(clock.now().micros());
        if ahead.unsigned_abs() <= micros(STEP_MIN).unsigned_abs() {
            return at;
        }
        // Whole seconds, so that it does not change from one look to the next.
        let ahead = (ahead + ahead.signum() * 500_000) / 1_000_000 * 1_000_000;
        Timestamp::from_micros(at.micros().saturating_sub(ahead))
    }
}

/// What the store tells of the schedule time; beside SQLite, the reference is the server's clock.
const fn told_sql(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "SELECT NULL AS reference, ahead, latest FROM store_clock",
        Dialect::Postgres => {
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS reference,
                    ahead, latest FROM store_clock"
        }
    }
}

fn wall_base(clock: &Clock) -> i64 {
    clock.now().micros().saturating_sub(clock.monotonic().micros())
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
