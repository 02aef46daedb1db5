//! Events by their id, when nothing else is known of them.
//!
//! SQLite finds them by the primary key. PostgreSQL has one primary key per day and would look into each: so it
//! looks first where the id says that the event is. A UUIDv7 has the time at which it was minted; for the id of a
//! `dedup_id` the deduplication keys have it, as long as they are kept.

use std::collections::HashSet;
use std::time::Duration;

use crate::domain::{EventId, OrgId, Timestamp};
use crate::store::engine::{Dialect, Row, args};
use crate::store::page::{END_OF_TIME, START_OF_TIME};
use crate::store::{Result, Store, System};

/// How far the time in an id may be from that of the event. They are the same, to the millisecond, for all events
/// that a server accepts.
const SLACK: Duration = Duration::from_hours(1);
/// All of time, from the first to the last moment that is looked at.
const ALL: (Timestamp, Timestamp) = (START_OF_TIME, END_OF_TIME);

/// A table, and the span of time in it.
type EventSpan = (&'static str, (Timestamp, Timestamp));

impl System<'_> {
    /// Those of some ids that an event has. It looks into every day.
    pub async fn stored_events(self, ids: &[EventId]) -> Result<HashSet<EventId>> {
        let ids: Vec<_> = ids.iter().map(|id| id.uuid()).collect();
        let engine = &self.0.engine;
        let dialect = engine.dialect();
        let (events, is_one) = (super::with_held(dialect), dialect.any("id", "$1"));
        let sql = format!("SELECT id FROM {events} WHERE {is_one}");
        let found = engine.list(sql, args![ids], |row| row.get("id")).await?;
        Ok(found.into_iter().collect())
    }
}

impl Store {
    /// The newest event with an id.
    pub(in crate::store) async fn newest_event<T>(
        &self,
        org: OrgId,
        id: EventId,
        columns: &str,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Option<T>> {
        for span in self.spans_of(org, id).await? {
            let mut found = self.events_within(org, id, span, (columns, 1), &read).await?;
            if let Some(event) = found.pop() {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// When the newest events with an id were received, at most so many. An id comes again when its `dedup_id` is
    /// used after the window.
    pub(in crate::store) async fn events_received_at(
        &self,
        org: OrgId,
        id: EventId,
        max: u32,
    ) -> Result<Vec<Timestamp>> {
        // Only an id with its time in it belongs to one event alone.
        let mut spans = self.spans_of(org, id).await?;
        if id.minted_at().is_none() {
            spans.retain(|(_, span)| *span == ALL);
        }
        let read = |row: &Row| row.get("received_at");
        for span in spans {
            let found = self.events_within(org, id, span, ("received_at", max), read).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    async fn events_within<T>(
        &self,
        org: OrgId,
        id: EventId,
        (table, (from, to)): EventSpan,
        (columns, max): (&str, u32),
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        // Without statistics SQLite would rather walk the events of the organisation.
        let org_id = self.engine.dialect().not_indexed("org_id");
        let sql = format!(
            "SELECT {columns} FROM {table}
             WHERE id = $1 AND {org_id} = $2 AND received_at >= $3 AND received_at <= $4
             ORDER BY received_at DESC LIMIT $5"
        );
        self.engine.list(sql, args![id, org, from, to, max], read).await
    }

    /// Where the newest event with an id is looked for, one after the other: last among those of days that were
    /// dropped.
    async fn spans_of(&self, org: OrgId, id: EventId) -> Result<Vec<EventSpan>> {
        let likely = match (self.engine.dialect(), id.minted_at()) {
            (Dialect::Sqlite, _) => None,
            (Dialect::Postgres, Some(at)) => {
                let within = |at: Timestamp| at.clamp(START_OF_TIME, END_OF_TIME);
                Some((within(at.minus(SLACK)), within(at.plus(SLACK))))
            }
            (Dialect::Postgres, None) => {
                let sql = "SELECT received_at FROM dedup_keys WHERE org_id = $1 AND event_id = $2";
                let key = self.engine.find(sql, args![org, id], |row| row.get("received_at"));
                key.await?.map(|at| (at, END_OF_TIME))
            }
        };
        let mut spans: Vec<EventSpan> =
            likely.into_iter().chain([ALL]).map(|span| ("events", span)).collect();
        if self.engine.dialect() == Dialect::Postgres {
            spans.push(("held_events", ALL));
        }
        Ok(spans)
    }
}
