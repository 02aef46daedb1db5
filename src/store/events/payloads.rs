//! Lists of events with and without their payloads.
//!
//! A list reads how long the payloads are, which neither engine loads them for, and then only those that fit into the
//! page. Payloads in the list's own statement would all be loaded before it is known which of them are shown.

use std::collections::HashMap;

use bytes::Bytes;

use super::{read_accept_span, read_trace};
use crate::domain::{EventId, EventSummary, OrgId, Page, Timestamp};
use crate::store::engine::{Row, args};
use crate::store::{Result, Store};

use uuid::Uuid;

/// The columns that [`read_summary`] reads.
pub(super) const SUMMARY_COLUMNS: &str = "id, org_id, event_type,
    CAST(length(payload) AS bigint) AS payload_bytes, dedup_id, account_id, user_id, occurred_at,
    received_at, trace_id, trace_text, accept_span";

/// Reads [`SUMMARY_COLUMNS`].
pub(super) fn read_summary(row: &Row) -> Result<EventSummary> {
    Ok(EventSummary {
        id: row.get("id")?,
        org_id: row.get("org_id")?,
        event_type: row.parse("event_type")?,
        payload_bytes: row.get("payload_bytes")?,
        dedup_id: row.get_opt("dedup_id")?,
        account_id: row.get_opt("account_id")?,
        user_id: row.get_opt("user_id")?,
        occurred_at: row.get_opt("occurred_at")?,
        received_at: row.get("received_at")?,
        trace_id: read_trace(row)?,
        accept_span: read_accept_span(row)?,
    })
}

impl Store {
    /// The event with this id that was accepted at this time, without its payload; also one that is held for pending
    /// deliveries.
    pub(in crate::store) async fn event_summary(
        &self,
        org: OrgId,
        id: EventId,
        received_at: Timestamp,
    ) -> Result<Option<EventSummary>> {
        let dialect = self.engine.dialect();
        let (events, org_id) = (super::with_held(dialect), dialect.not_indexed("org_id"));
        let sql = format!(
            "SELECT {SUMMARY_COLUMNS} FROM {events}
             WHERE id = $1 AND received_at = $2 AND {org_id} = $3"
        );
        self.engine.find(sql, args![id, received_at, org], read_summary).await
    }

    /// Reads the payloads of a page of an organisation's events. The page ends early where they have more than
    /// `bytes_max` bytes together, but has a row. An event that was deleted meanwhile is left out.
    pub async fn with_payloads(
        &self,
        org: OrgId,
        page: Page<EventSummary>,
        bytes_max: usize,
    ) -> Result<Page<(EventSummary, Bytes)>> {
        let page = page.within(bytes_max, |event| event.payload_bytes, EventSummary::cursor);
        let mut payloads = self.payloads(org, &page.data).await?;
        let with_payload = |event: EventSummary| {
            let payload = payloads.remove(&(event.id, event.received_at))?;
            Some((event, payload))
        };
        let data = page.data.into_iter().filter_map(with_payload).collect();
        Ok(Page { data, next_cursor: page.next_cursor })
    }

    /// Those of an organisation's events that have one of these keys, in any order, without their payloads.
    pub async fn events_by_key(
        &self,
        org: OrgId,
        keys: &[(EventId, Timestamp)],
    ) -> Result<Vec<EventSummary>> {
        self.by_key(org, keys, SUMMARY_COLUMNS, read_summary).await
    }

    /// The payloads of these events.
    async fn payloads(
        &self,
        org: OrgId,
        events: &[EventSummary],
    ) -> Result<HashMap<(EventId, Timestamp), Bytes>> {
        let keys: Vec<_> = events.iter().map(|event| (event.id, event.received_at)).collect();
        let read = |row: &Row| {
            let payload: Vec<u8> = row.get("payload")?;
            Ok(((row.get("id")?, row.get("received_at")?), payload.into()))
        };
        let found = self.by_key(org, &keys, "id, received_at, payload", read).await?;
        Ok(found.into_iter().collect())
    }

    /// Reads events by the primary key: the times only leave out partitions. An id may have come again.
    async fn by_key<T>(
        &self,
        org: OrgId,
        keys: &[(EventId, Timestamp)],
        columns: &str,
        read: impl Fn(&Row) -> Result<T>,
    ) -> Result<Vec<T>> {
        let times = || keys.iter().map(|(_, received_at)| *received_at);
        let (Some(oldest), Some(newest)) = (times().min(), times().max()) else {
            return Ok(Vec::new());
        };
        let dialect = self.engine.dialect();
        let sql = format!(
            "SELECT {columns} FROM events
             WHERE {} AND received_at >= $2 AND received_at <= $3 AND {} = $1",
            dialect.any("id", "$4"),
            dialect.not_indexed("org_id"),
        );
        let ids: Vec<Uuid> = keys.iter().map(|(id, _)| id.uuid()).collect();
        self.engine.list(sql, args![org, oldest, newest, ids], read).await
    }
}
