//! Drops whole days of PostgreSQL's tables, once no organisation keeps them.

use time::{Date, OffsetDateTime, Time};

use super::expiry::HELD_PER_ORG;
use super::in_use::is_needed;
use super::{LONGEST, Round};
use crate::domain::Timestamp;
use crate::runtime::Stopwatch;
use crate::store::engine::{Dialect, Engine, PostgresEngine, Row, Tx, args};
use crate::store::maintenance::{
    LOCK_TIMEOUT, begin_dropping, days_before, drop_day, partition_name,
};
use crate::store::{Result, Store, events};

/// Tries to drop a day while its locks are taken.
const TRIES: usize = 5;
/// Held events that are deleted in one transaction.
const RELEASED_PER_STEP: u32 = 500;

/// Whether old days are dropped.
pub(super) fn are_dropped(store: &Store) -> bool {
    store.engine.dialect() == Dialect::Postgres
}

/// Whether some rows are in a default partition, as an earlier version has left them: they are deleted one by one.
pub(super) async fn has_default(store: &Store) -> Result<bool> {
    if !are_dropped(store) {
        return Ok(false);
    }
    let sql = "SELECT to_regclass('events_default') IS NOT NULL
                   OR to_regclass('deliveries_default') IS NOT NULL
                   OR to_regclass('delivery_attempts_default') IS NOT NULL AS found";
    store.engine.one(sql, args![]).await?.get("found")
}

impl Round<'_> {
    /// Drops the days that are older than the longest time that any organisation keeps its rows.
    pub(super) async fn drop_days(&mut self) -> Result<()> {
        let Engine::Postgres(engine) = &*self.store.engine else { return Ok(()) };
        self.release_held().await?;
        let longest = self.store.engine.one(LONGEST, args![]).await?;
        let Some(before) = self.no_org_keeps(&longest)? else { return Ok(()) };
        for table in ["delivery_attempts", "deliveries", "events"] {
            for day in days_before(engine, table, before).await? {
                if table == "events" {
                    self.hold_needed(day).await?;
                }
                let mut tries = TRIES;
                loop {
                    let step = Stopwatch::start();
                    match self.drop_unkept(engine, (table, day), before).await {
                        Ok(true) => break,
                        Ok(false) => return Ok(()),
                        Err(error) if tries > 1 && !error.is_connection() => {
                            tracing::debug!(%error, table, %day, "cannot drop a day yet");
                            tries -= 1;
                            self.pause(&step).await;
                        }
                        Err(error) => return Err(error),
                    }
                }
                tracing::info!(table, %day, "dropped a day that no organisation keeps");
                self.report.days += 1;
            }
        }
        Ok(())
    }

    /// Drops a day, unless an organisation keeps rows from before `before` by now: `false` then. None can raise its time
    /// until that is done.
    async fn drop_unkept(
        &self,
        engine: &PostgresEngine,
        (table, day): (&'static str, Date),
        before: Timestamp,
    ) -> Result<bool> {
        let mut tx = Tx::Postgres(begin_dropping(engine, table, LOCK_TIMEOUT).await?);
        let longest = tx.one(LONGEST, args![]).await?;
        if self.no_org_keeps(&longest)?.is_none_or(|kept| kept < before) {
            tx.rollback().await?;
            return Ok(false);
        }
        drop_day(tx.postgres()?, table, day).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Before when no organisation keeps rows, by what [`LONGEST`] finds; `None` when one keeps them for ever, or there is
    /// none.
    fn no_org_keeps(&self, longest: &Row) -> Result<Option<Timestamp>> {
        Ok(self.read_longest(longest)?.map(|days| self.before(days)))
    }

    /// Copies the events of a day that pending deliveries need, at most [`HELD_PER_ORG`] of each organisation. A
    /// delivery that is planned from now on, or beyond the bound, finds no event, and expires when it is claimed. The
    /// lock keeps an event from being copied while it is erased.
    async fn hold_needed(&self, day: Date) -> Result<()> {
        let Some(next_day) = day.next_day() else { return Ok(()) };
        let begin = |day: Date| Timestamp::from(OffsetDateTime::new_utc(day, Time::MIDNIGHT));
        let sql = format!(
            "INSERT INTO held_events ({columns})
             SELECT {columns} FROM (
                 SELECT k.event_id, k.event_received_at,
                        row_number() OVER (PARTITION BY k.org_id ORDER BY k.event_received_at) AS number
                 FROM (
                     SELECT o.id AS org_id, p.event_id, p.event_received_at
                     FROM orgs o CROSS JOIN LATERAL (
                         SELECT event_id, event_received_at FROM pending_deliveries
                         WHERE org_id = o.id AND created_at >= $1 AND created_at < $2
                     ) p
                     UNION
                     SELECT org_id, event_id, event_received_at FROM pending_deliveries
                     WHERE created_at > event_received_at
                       AND event_received_at >= $1 AND event_received_at < $2
                 ) k
             ) k CROSS JOIN LATERAL (
                 SELECT * FROM {partition} e
                 WHERE e.id = k.event_id AND e.received_at = k.event_received_at
                 LIMIT 1 FOR KEY SHARE
             ) e
             WHERE k.number <= $3
             ON CONFLICT DO NOTHING",
            columns = events::COLUMNS,
            partition = partition_name("events", day),
        );
        let mut tx = self.store.engine.begin().await?;
        let args = args![begin(day), begin(next_day), i64::from(HELD_PER_ORG)];
        let held = tx.execute(sql, args).await?;
        tx.commit().await?;
        if held > 0 {
            tracing::info!(%day, held, "kept events of a day for pending deliveries");
        }
        Ok(())
    }

    /// Deletes held events that no pending delivery needs any more.
    async fn release_held(&mut self) -> Result<()> {
        let needed = is_needed(Dialect::Postgres, "h.org_id", "h.id", "h.received_at");
        let sql = format!(
            "DELETE FROM held_events WHERE (id, received_at) IN (
                 SELECT h.id, h.received_at FROM held_events h WHERE NOT {needed} LIMIT $1)"
        );
        loop {
            let step = Stopwatch::start();
            let mut tx = self.begin_step().await?;
            let deleted = tx.execute(sql.clone(), args![RELEASED_PER_STEP]).await?;
            tx.commit().await?;
            self.report.rows += deleted;
            if deleted < u64::from(RELEASED_PER_STEP) {
                return Ok(());
            }
            self.pause(&step).await;
        }
    }
}
