//! Retention: what is deleted by its age, how much at a time, and what is kept longer because it is still needed.
//!
//! # Operation
//! A round goes through the organisations, one after the other, and deletes what is older than each may keep, by the
//! index that has its rows in the order of time (`rows`, `aged`). Payloads and excerpts of responses may go earlier
//! than rows (`payloads`). PostgreSQL drops whole days once they are older than any organisation keeps (`days`), so that
//! only organisations with a shorter time cost deletions.
//!
//! # What is still needed
//! An event that a pending delivery needs is kept until that is finished, and so is its payload. What waits that long is
//! bounded per organisation; beyond the bound deliveries are given up, as dead letters of the reason `expired`
//! (`expiry`). Of a day that is dropped such events move to `held_events`, where claims and look-ups find them.
//!
//! # Pace
//! Each step is a small transaction, a long one for the write queue of SQLite. The round pauses after each for 16 times
//! as long as that took, so that who writes beside it hardly notices. A round that is longer halves its pauses every five
//! minutes, down to half of the store's time. On
//! PostgreSQL one instance at a time does a step.
//!
//! # Failure
//! A round that fails is repeated from its start. Its report names what it deleted before. Between rounds only the progress
//! of removing payloads is remembered. What fails for one organisation although the database can be reached is told,
//! and keeps nothing else from being deleted; the next round tries it again.
//!
//! # Changes meanwhile
//! A round may take hours. Each step looks whether its organisation still keeps what it kept when it was read, under a lock
//! that its change needs: if not, nothing more of it is deleted until the next round. So does each day that is dropped,
//! under a lock that the change of any organisation needs.

mod aged;
mod days;
mod expiry;
mod gauges;
mod in_use;
mod payloads;
mod rows;

use std::time::Duration;

use super::advisory_locks::RETENTION;
use super::engine::{Engine, Row, Tx, args};
use super::{Result, Store, StoreError, System};
use crate::config::{RetentionConfig, days as in_days};
use crate::domain::{OrgId, OrgLimit, OrgLimits, Timestamp};
use crate::runtime::Stopwatch;

use aged::{AGED, AgedRows};
pub(super) use expiry::expire_missing;
pub(super) use rows::delete_deliveries;

/// Organisations that are read at once.
const ORGS_AT_ONCE: u32 = 500;
/// Pauses of a round that begins, as a multiple of the step before.
const PAUSES_AT_FIRST: u32 = 16;
/// How often they are halved, until they are as long as the step.
const PAUSES_HALVED_EVERY: Duration = Duration::from_mins(5);
/// What [`Round::read_longest`] reads.
const LONGEST: &str = "SELECT count(*) AS count, CAST(max(retention_days) AS bigint) AS longest,
                              CAST(min(retention_days) AS bigint) AS shortest,
                              coalesce(sum(CASE WHEN retention_days IS NULL THEN 1 ELSE 0 END), 0) AS unset
                       FROM orgs WHERE deleting_since IS NULL";
/// The longest pause after a step.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Of the rows that a long transaction may write, the part that a step does: one row is in many indexes.
const PART_OF_ROWS: usize = 2;

/// What a round has deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RetentionReport {
    /// Rows of events, deliveries, attempts, dead letters, replays, keys and audit entries. Rows of whole days that
    /// were dropped are not counted.
    pub rows: u64,
    /// Payloads.
    pub payloads: u64,
    /// Days of a table that were dropped.
    pub days: u64,
    /// Deliveries that were given up because their events are too old.
    pub expired: u64,
}

/// A round that has not deleted everything that is too old.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct RetentionFailure {
    /// What it has deleted all the same.
    pub report: RetentionReport,
    /// What failed first, or has ended the round.
    pub error: StoreError,
}

impl RetentionFailure {
    /// Whether the round ended early, since the database cannot be reached.
    pub fn is_cut_short(&self) -> bool {
        self.error.is_connection()
    }
}

/// How long an organisation's rows are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct OrgRetention {
    org: OrgId,
    /// Days; `None` for ever.
    rows: Option<u32>,
    /// Days; `None` as long as rows.
    payloads: Option<u32>,
}

/// A round of retention.
struct Round<'a> {
    store: &'a Store,
    config: &'a RetentionConfig,
    now: Timestamp,
    began: Stopwatch,
    report: RetentionReport,
    /// The first failure that did not end the round.
    failed: Option<StoreError>,
}

impl System<'_> {
    /// Deletes what is older than it is to be kept. Meant to be called every hour; it takes as long as there is
    /// something to delete.
    ///
    /// # Errors
    /// When the database cannot be reached, or else what failed first, once everything else is deleted.
    pub async fn enforce_retention(
        self,
        config: &RetentionConfig,
        now: Timestamp,
    ) -> Result<RetentionReport, RetentionFailure> {
        // By the earlier of two clocks, so that one which is ahead deletes nothing too early.
        let now = now.min(self.0.due(now));
        let (began, report) = (Stopwatch::start(), RetentionReport::default());
        let mut round = Round { store: self.0, config, now, began, report, failed: None };
        let ended = round.run().await;
        let Round { report, failed, .. } = round;
        match ended.err().or(failed) {
            Some(error) => Err(RetentionFailure { report, error }),
            None => Ok(report),
        }
    }
}

impl Round<'_> {
    /// Deletes everything that is too old. What fails is noted, unless it ends the round.
    async fn run(&mut self) -> Result<()> {
        let deleted = self.delete_by_org().await;
        self.go_on_after(deleted, None)?;
        let dropped = self.drop_days().await;
        self.go_on_after(dropped, None)?;
        let deleted = self.delete_overall().await;
        self.go_on_after(deleted, None)?;
        if let Engine::Sqlite(engine) = &*self.store.engine
            && self.report != RetentionReport::default()
        {
            let given_back = engine.give_space_back().await;
            self.go_on_after(given_back, None)?;
        }
        Ok(())
    }

    /// Goes on after something has failed, of an organisation or of all of them, unless the database cannot be reached.
    fn go_on_after(&mut self, result: Result<()>, org: Option<OrgId>) -> Result<()> {
        let Err(error) = result else { return Ok(()) };
        if error.is_connection() {
            return Err(error);
        }
        let org = org.map_or_else(|| "all".to_owned(), |org| org.to_string());
        tracing::warn!(%org, %error, "a part of retention failed; the next round tries it again");
        self.failed.get_or_insert(error);
        Ok(())
    }

    /// Goes through the organisations. One whose times cannot be read keeps what it has.
    async fn delete_by_org(&mut self) -> Result<()> {
        let by_day = self.kept_by_day().await;
        // Without it, rows of all are deleted one by one.
        let by_day = match by_day {
            Ok(by_day) => by_day,
            Err(error) => {
                self.go_on_after(Err(error), None)?;
                None
            }
        };
        let mut after = OrgId::from_uuid(uuid::Uuid::nil());
        loop {
            let orgs = self.orgs_after(after).await?;
            let Some((last, _)) = orgs.last() else { return Ok(()) };
            after = *last;
            for (org, kept) in orgs {
                let deleted = match kept {
                    Ok(kept) => self.delete_of(kept, by_day.is_some() && kept.rows == by_day).await,
                    Err(error) => Err(error),
                };
                self.go_on_after(deleted, Some(org))?;
            }
        }
    }

    /// How many days those organisations keep their rows that keep them the longest, where whole days are dropped for them.
    async fn kept_by_day(&self) -> Result<Option<u32>> {
        if !days::are_dropped(self.store) || days::has_default(self.store).await? {
            return Ok(None);
        }
        self.read_longest(&self.store.engine.one(LONGEST, args![]).await?)
    }

    async fn delete_of(&mut self, kept: OrgRetention, by_day: bool) -> Result<()> {
        if let Some(before) = kept.rows.map(|days| self.before(days)) {
            self.expire_overdue(kept, before).await?;
            if !by_day {
                self.delete_rows(kept, before).await?;
            }
        }
        if let Some(before) = kept.payloads.map(|days| self.before(days)) {
            self.remove_payloads(kept, before).await?;
        }
        for table in AGED {
            let days = table.days(self.config, kept.rows);
            if let Some(before) = days.map(|days| self.before(days)) {
                self.delete_aged(table, AgedRows::Of(kept), before).await?;
            }
        }
        Ok(())
    }

    /// What belongs to no organisation, or is few enough to be deleted for all at once.
    async fn delete_overall(&mut self) -> Result<()> {
        for table in AGED {
            if let Some(days) = table.days(self.config, None) {
                self.delete_aged(table, AgedRows::Sums, self.before(days)).await?;
            }
        }
        for table in aged::AGED_OVERALL {
            if let Some(days) = table.days(self.config, None) {
                self.delete_aged(table, AgedRows::All, self.before(days)).await?;
            }
        }
        Ok(())
    }

    /// Organisations by id, with how long they keep what they have, each as far as it can be read.
    async fn orgs_after(&self, after: OrgId) -> Result<Vec<(OrgId, Result<OrgRetention>)>> {
        let sql = "SELECT id, retention_days, payload_retention_days FROM orgs
                   WHERE deleting_since IS NULL AND id > $1 ORDER BY id LIMIT $2";
        let read = |row: &Row| Ok((row.get("id")?, self.read_org(row)));
        self.store.engine.list(sql, args![after, ORGS_AT_ONCE], read).await
    }

    fn read_org(&self, row: &Row) -> Result<OrgRetention> {
        let limits = OrgLimits::default()
            .with(OrgLimit::RetentionDays, row.get_opt("retention_days")?)
            .with(OrgLimit::PayloadRetentionDays, row.get_opt("payload_retention_days")?)
            .or(&retention_defaults(self.config));
        Ok(OrgRetention {
            org: row.get("id")?,
            rows: limits.get(OrgLimit::RetentionDays),
            payloads: limits.get(OrgLimit::PayloadRetentionDays),
        })
    }

    /// How many days the organisation keeps its rows that keeps them the longest; `None` for ever, or when there is
    /// none. Fails when any time cannot be true.
    fn read_longest(&self, row: &Row) -> Result<Option<u32>> {
        let default = self.config.retention.map(in_days);
        let (count, unset): (u64, u64) = (row.get("count")?, row.get("unset")?);
        let own: Option<u32> = row.get_opt("longest")?;
        // It may be negative where the longest is not.
        let _: Option<u32> = row.get_opt("shortest")?;
        Ok(match (count, unset) {
            (0, _) => None,
            (_, 0) => own,
            _ => default.map(|default| own.map_or(default, |own| own.max(default))),
        })
    }

    /// What is older than so many days was accepted before this time.
    fn before(&self, days: u32) -> Timestamp {
        self.now.minus(Duration::from_hours(24) * days)
    }

    /// Begins a step, once no other instance does one.
    async fn begin_step(&self) -> Result<Tx<'_>> {
        let mut tx = self.store.engine.begin_long().await?;
        if let Tx::Postgres(_) = tx {
            tx.execute(format!("SELECT pg_advisory_xact_lock({RETENTION})"), args![]).await?;
        }
        Ok(tx)
    }

    /// Begins a step for an organisation; `None` when its retention times have changed since they were read.
    async fn begin_step_of(&self, kept: OrgRetention) -> Result<Option<Tx<'_>>> {
        let mut tx = self.begin_step().await?;
        let lock = tx.dialect().lock(" FOR SHARE");
        let sql = format!(
            "SELECT id, retention_days, payload_retention_days FROM orgs
             WHERE deleting_since IS NULL AND id = $1{lock}"
        );
        let now = tx.find(sql, args![kept.org], |row| self.read_org(row)).await?;
        Ok((now == Some(kept)).then_some(tx))
    }

    /// Rows that a step may write.
    fn rows_per_step(&self) -> usize {
        self.store.engine.rows_at_once() / PART_OF_ROWS
    }

    /// Pauses after a step that did something.
    async fn pause(&self, step: &Stopwatch) {
        tokio::time::sleep(pause_after(step.elapsed(), self.began.elapsed())).await;
    }
}

/// How long organisations keep what they have that have no time of their own.
pub(crate) fn retention_defaults(config: &RetentionConfig) -> OrgLimits {
    OrgLimits::default()
        .with(OrgLimit::RetentionDays, config.retention.map(in_days))
        .with(OrgLimit::PayloadRetentionDays, config.payload_retention.map(in_days))
}

/// The pause after a step that took this long, in a round that goes on for so long.
fn pause_after(step: Duration, round: Duration) -> Duration {
    let halvings = round.as_secs() / PAUSES_HALVED_EVERY.as_secs();
    let factor = PAUSES_AT_FIRST.checked_shr(halvings.try_into().unwrap_or(u32::MAX));
    (step * factor.unwrap_or(0).max(1)).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_round_pauses_less_and_never_less_than_a_step() {
        let pause = |millis, minutes| {
            pause_after(Duration::from_millis(millis), Duration::from_mins(minutes)).as_millis()
        };
        let pauses = [0, 4, 5, 10, 15, 20, 25, 1_000_000].map(|minutes| pause(10, minutes));
        assert_eq!(pauses, [160, 160, 80, 40, 20, 10, 10, 10]);
        assert_eq!((pause(100, 0), pause(5_000, 100)), (1_000, 1_000));
    }
}
