//! The log of changes: which events were stored, and which deliveries ended or were given up, lately.
//!
//! It is written for organisations whose changes somebody follows, in the transaction of the change, and kept for
//! [`CHANGES_KEPT`]. Every server looks at its start and once a second which organisations those are, so that all others
//! cost nothing.
//!
//! Readers see the changes of one organisation in one order, and none is committed behind what they have read: SQLite
//! has one connection that writes, and on PostgreSQL rows of transactions that began after an unfinished one wait.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::engine::{Dialect, Row, Tx, args};
use super::{Result, Store, StoreError, System};
use crate::domain::{
    ChangeCursor, ChangeKind, Decision, DeliveryId, Event, EventId, LoggedChange, OrgId, Outcome,
    Timestamp,
};

/// How long changes are kept: whoever comes back within it misses none.
pub const CHANGES_KEPT: Duration = Duration::from_mins(2);
/// How long changes are logged after they were last asked for.
const LOGGED_FOR: Duration = Duration::from_mins(3);
/// Rows of the log that are read at once; each has the changes of one transaction.
const ROWS_MAX: u32 = 4;
/// Organisations that are followed at once. Streams are fewer.
const FOLLOWED_MAX: u32 = 10_000;
/// Rows that one step deletes at most.
const DELETED_PER_STEP: u64 = 1_000;

/// The organisations whose changes are logged, as this process knows them.
#[derive(Debug, Default)]
pub(super) struct FollowedOrgs {
    orgs: RwLock<HashSet<OrgId>>,
    are_any: AtomicBool,
}

impl FollowedOrgs {
    fn set(&self, orgs: HashSet<OrgId>) {
        let are_any = !orgs.is_empty();
        *self.orgs.write().unwrap_or_else(PoisonError::into_inner) = orgs;
        self.are_any.store(are_any, Ordering::Relaxed);
    }

    /// The changes that are to be logged, by organisation.
    fn logged(&self, changes: impl Iterator<Item = (OrgId, LoggedChange)>) -> ChangesByOrg {
        let mut by_org = ChangesByOrg::new();
        if !self.are_any.load(Ordering::Relaxed) {
            return by_org;
        }
        let orgs = self.orgs.read().unwrap_or_else(PoisonError::into_inner);
        for (org, change) in changes.filter(|(org, _)| orgs.contains(org)) {
            change.write(by_org.entry(org).or_default());
        }
        by_org
    }
}

/// Changes to log, in their form in the store.
pub(super) type ChangesByOrg = HashMap<OrgId, Vec<u8>>;

impl Store {
    /// The events that are to be logged. Those that the store has already are logged again.
    pub(super) fn logged_events(&self, events: &[Arc<Event>]) -> ChangesByOrg {
        self.followed.logged(events.iter().map(|event| {
            let (kind, id, at) = (ChangeKind::Event, event.id.uuid(), event.received_at);
            (event.org_id, LoggedChange { kind, id, at })
        }))
    }

    /// The deliveries, and the dead letters, whose outcomes are to be logged.
    pub(super) fn logged_outcomes(&self, outcomes: &[Outcome]) -> ChangesByOrg {
        self.logged_ends(outcomes.iter().map(|outcome| {
            let is_dead = matches!(outcome.decision, Decision::Dead(_));
            (outcome.org_id, outcome.delivery_id, is_dead)
        }))
    }

    /// The deliveries, and the dead letters of those that have one by now, which are to be logged.
    pub(super) fn logged_ends(
        &self,
        ended: impl IntoIterator<Item = (OrgId, DeliveryId, bool)>,
    ) -> ChangesByOrg {
        self.followed.logged(ended.into_iter().flat_map(|(org, delivery, is_dead)| {
            let (id, at) = (delivery.uuid(), delivery.created_at());
            let change = |kind| (org, LoggedChange { kind, id, at });
            let dead = is_dead.then(|| change(ChangeKind::DeadLetter));
            [Some(change(ChangeKind::Delivery)), dead].into_iter().flatten()
        }))
    }

    /// The dead letter of an event that the store refuses, if it is to be logged.
    pub(super) fn logged_refusal(&self, org: OrgId, event: EventId, at: Timestamp) -> ChangesByOrg {
        let (kind, id) = (ChangeKind::DeadLetter, event.uuid());
        self.followed.logged(std::iter::once((org, LoggedChange { kind, id, at })))
    }

    /// Has the changes of an organisation logged from a second from now on, for some minutes. Whoever follows them asks
    /// for it every half minute.
    pub async fn follow_changes(&self, org: OrgId, now: Timestamp) -> Result<()> {
        let sql = "INSERT INTO change_streams (org_id, until) SELECT id, $2 FROM orgs WHERE id = $1
                   ON CONFLICT (org_id) DO UPDATE SET until = excluded.until";
        let mut tx = self.engine.begin().await?;
        tx.execute(sql, args![org, self.due(now).plus(LOGGED_FOR)]).await?;
        tx.commit().await
    }

    /// Behind the last change of an organisation.
    pub async fn newest_change(&self, org: OrgId, now: Timestamp) -> Result<ChangeCursor> {
        let sql = match self.engine.dialect() {
            Dialect::Sqlite => {
                "SELECT 0 AS tx, coalesce(max(seq), 0) + 1 AS seq FROM change_log
                 WHERE org_id = $1 AND tx = 0"
            }
            // Everything of unfinished transactions is yet to come.
            Dialect::Postgres => {
                "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS tx,
                        0::bigint AS seq WHERE $1::uuid IS NOT NULL"
            }
        };
        let row = self.engine.one(sql, args![org]).await?;
        let (tx, seq) = (row.get("tx")?, row.get("seq")?);
        Ok(ChangeCursor { tx, seq, seen: 0, at_seconds: now.seconds() })
    }

    /// The changes of an organisation after a position, each with the position behind it: those of a few
    /// transactions, oldest first.
    pub async fn changes_after(
        &self,
        org: OrgId,
        after: ChangeCursor,
        now: Timestamp,
    ) -> Result<Vec<(ChangeCursor, LoggedChange)>> {
        // A statement ends within half a minute, so what is older than a minute has no neighbour that is unfinished,
        // whatever else keeps a transaction open in the same server.
        let settled = match self.engine.dialect() {
            Dialect::Sqlite => "",
            Dialect::Postgres => {
                " AND (tx < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                       OR logged_at < clock_timestamp() - interval '1 minute')"
            }
        };
        let sql = format!(
            "SELECT tx, seq, items FROM change_log
             WHERE org_id = $1 AND (tx, seq) >= ($2, $3){settled}
             ORDER BY tx, seq LIMIT $4"
        );
        let read = |row: &Row| {
            let items: Vec<u8> = row.get("items")?;
            Ok((row.get::<i64>("tx")?, row.get::<i64>("seq")?, items))
        };
        let rows = self.engine.list(sql, args![org, after.tx, after.seq, ROWS_MAX], read).await?;
        let mut changes = Vec::new();
        for (tx, seq, items) in rows {
            let seen = if (tx, seq) == (after.tx, after.seq) { after.seen } else { 0 };
            let (items, rest) = items.as_chunks::<{ LoggedChange::BYTES }>();
            let read: Option<Vec<LoggedChange>> = items.iter().map(LoggedChange::read).collect();
            let Some(read) = read.filter(|_| rest.is_empty()) else {
                return Err(StoreError::Corrupt("a row of the log of changes".to_owned()));
            };
            let (all, at_seconds) = (read.len(), now.seconds());
            for (change, number) in read.into_iter().zip(1_u32..).skip(seen as usize) {
                let is_last = number as usize == all;
                let (seq, seen) = if is_last { (seq + 1, 0) } else { (seq, number) };
                changes.push((ChangeCursor { tx, seq, seen, at_seconds }, change));
            }
        }
        Ok(changes)
    }
}

impl System<'_> {
    /// Looks whose changes are to be logged, and deletes those that are no longer kept. To be called once a second.
    pub async fn refresh_followed(self, now: Timestamp) -> Result<()> {
        let was_any = self.0.followed.are_any.load(Ordering::Relaxed);
        let are_any = self.load_followed(now).await?;
        // What is left when the last one goes is deleted by whoever follows next, or within the hour.
        if was_any || are_any { self.delete_old_changes(now).await } else { Ok(()) }
    }

    /// Looks whose changes are to be logged, and returns whether there are any. To be called before a process changes
    /// anything: streams may be open at other servers, or come back to this one.
    pub async fn load_followed(self, now: Timestamp) -> Result<bool> {
        let (engine, now) = (&self.0.engine, self.0.due(now));
        let sql = "SELECT org_id FROM change_streams WHERE until > $1 LIMIT $2";
        let orgs = engine.list(sql, args![now, FOLLOWED_MAX], |row| row.get("org_id")).await?;
        let orgs: HashSet<OrgId> = orgs.into_iter().collect();
        let are_any = !orgs.is_empty();
        self.0.followed.set(orgs);
        Ok(are_any)
    }

    /// Deletes changes, and the marks of organisations that nobody follows, in bounded steps.
    pub(super) async fn delete_old_changes(self, now: Timestamp) -> Result<()> {
        let (engine, now) = (&self.0.engine, self.0.due(now));
        let logs = "DELETE FROM change_log WHERE seq IN
                        (SELECT seq FROM change_log WHERE logged_at < $1 ORDER BY logged_at LIMIT $2)";
        loop {
            let mut tx = engine.begin_long().await?;
            let deleted =
                tx.execute(logs, args![now.minus(CHANGES_KEPT), DELETED_PER_STEP]).await?;
            let marks = "DELETE FROM change_streams WHERE until < $1";
            tx.execute(marks, args![now.minus(CHANGES_KEPT)]).await?;
            tx.commit().await?;
            if deleted < DELETED_PER_STEP {
                return Ok(());
            }
        }
    }
}

/// Logs changes, in the transaction that makes them.
pub(super) async fn log(tx: &mut Tx<'_>, changes: ChangesByOrg, now: Timestamp) -> Result<()> {
    for (org, items) in &changes {
        let (columns, mut args) = match tx.dialect() {
            Dialect::Sqlite => {
                ("org_id, items, logged_at) VALUES ($1, $2, $3)", args![*org, &items[..]])
            }
            Dialect::Postgres => ("org_id, items) VALUES ($1, $2)", args![*org, &items[..]]),
        };
        if tx.dialect() == Dialect::Sqlite {
            args.push(now.into());
        }
        tx.execute(format!("INSERT INTO change_log ({columns}"), args).await?;
    }
    Ok(())
}
