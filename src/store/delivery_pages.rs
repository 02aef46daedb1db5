//! Lists of deliveries: pending and finished ones in one order, newest first.
//!
//! A page is the union of a few parts. Each part reads one table by one index and stops after a page, so that a list
//! costs the same however many rows there are. PostgreSQL opens every day's partition that a statement may
//! need: so a page reads the latest days first, and more of them only while it is not full.

use std::time::Duration;

use uuid::Uuid;

use super::deliveries::{read, select_finished, select_pending};
use super::engine::{Args, Dialect, Row, Value, args};
use super::page::{END_OF_TIME, START_OF_TIME};
use super::{Result, Store};
use crate::domain::{
    Cursor, Delivery, DeliveryFilter, DeliveryStatus, EventId, OrgId, Page, PageRequest, Timestamp,
};

/// The first span of time that a page reads, and how much longer the next one is.
const SPAN: Duration = Duration::from_hours(48);
const SPAN_FACTOR: u32 = 8;
/// How much a server's clock may be behind the one that wrote when an organisation was created.
const CLOCK_SKEW: Duration = Duration::from_hours(24);
/// Events with one id that a list by event covers: an id comes again when its `dedup_id` is used after the window.
const EVENTS_OF_AN_ID_MAX: u32 = 10;

/// The conditions of a page's parts, and the values of their parameters.
struct PageParts {
    /// Of parts that read `pending_deliveries`.
    pending: Vec<String>,
    /// Of parts that read `deliveries`.
    finished: Vec<String>,
    /// That table, with the index that SQLite is to use.
    finished_table: &'static str,
    args: Args<'static>,
}

impl Store {
    /// The organisation's deliveries that pass the filter. A page of pending ones leaves out those that are being
    /// cancelled and may be shorter then; cancelled ones are listed once they are.
    pub async fn deliveries(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>> {
        let end = Cursor { at: END_OF_TIME, id: Uuid::max() };
        let after = page.after.unwrap_or(end);
        let after = Cursor { at: after.at.clamp(START_OF_TIME, END_OF_TIME), ..after };
        let planned = match filter.event_id {
            Some(event) => Some(self.planned_at(org, event).await?),
            None => None,
        };
        let oldest = match planned.as_deref() {
            Some(planned) => planned.iter().min().copied().unwrap_or(END_OF_TIME),
            None => self.oldest_of(org).await?,
        };
        let oldest = filter.since.map_or(oldest, |since| since.max(oldest));
        let mut span = SPAN;
        let mut from = match self.engine.dialect() {
            // One table, one index: nothing is opened in vain.
            Dialect::Sqlite => oldest,
            Dialect::Postgres => {
                let newest = after.at.min(filter.until.unwrap_or(END_OF_TIME));
                newest.min(self.now().await?)
            }
        };
        loop {
            from = from.minus(span).max(oldest);
            let parts = parts(self.engine.dialect(), org, filter, planned.as_deref(), from);
            let rows = self.part_rows(parts, page.limit, after).await?;
            if rows.len() > page.limit as usize || from <= oldest {
                let position = |row: &Delivery| Cursor { at: row.created_at, id: row.id.uuid() };
                let mut page = Page::from_rows(rows, page.limit, position);
                page.data.retain(|row| filter.status.is_none_or(|status| row.status == status));
                return Ok(page);
            }
            span *= SPAN_FACTOR;
        }
    }

    /// When the deliveries of the events with this id were created, redeliveries apart.
    async fn planned_at(&self, org: OrgId, event: EventId) -> Result<Vec<Timestamp>> {
        let sql = "SELECT received_at FROM events WHERE id = $1 AND org_id = $2
                   ORDER BY received_at DESC LIMIT $3";
        let received = |row: &Row| row.get::<Timestamp>("received_at").map(Timestamp::floor_ms);
        self.engine.list(sql, args![event, org, EVENTS_OF_AN_ID_MAX], received).await
    }

    /// Before the first delivery of an organisation.
    async fn oldest_of(&self, org: OrgId) -> Result<Timestamp> {
        let sql = "SELECT created_at FROM orgs WHERE id = $1";
        let created = self.engine.find(sql, args![org], |row| row.get::<Timestamp>("created_at"));
        Ok(created.await?.map_or(END_OF_TIME, |created| created.minus(CLOCK_SKEW)))
    }

    /// The time of PostgreSQL's clock: where the latest deliveries are.
    async fn now(&self) -> Result<Timestamp> {
        self.engine.one("SELECT now() AS now", args![]).await?.get("now")
    }

    /// The rows of a page and one more, if there are so many.
    async fn part_rows(
        &self,
        parts: PageParts,
        limit: u32,
        after: Cursor,
    ) -> Result<Vec<Delivery>> {
        let page = |table: &str, condition: &String| {
            format!(
                "(SELECT * FROM {table} WHERE {condition} AND (created_at, id) < ($1, $2)
                  ORDER BY created_at DESC, id DESC LIMIT $3) d"
            )
        };
        let PageParts { pending, finished, finished_table, args: of_parts } = parts;
        let pending = pending.iter().map(|c| select_pending(&page("pending_deliveries", c)));
        let finished = finished.iter().map(|c| select_finished(&page(finished_table, c)));
        let selects: Vec<String> = pending.chain(finished).collect();
        let sql = format!(
            "SELECT * FROM ({}) d ORDER BY created_at DESC, id DESC LIMIT $3",
            selects.join(" UNION ALL ")
        );
        let mut args = args![after.at, after.id, i64::from(limit) + 1];
        args.extend(of_parts);
        self.engine.list(sql, args, read).await
    }
}

/// The parts of a page, each with the shortest index for the filter. `planned` are the times of creation of an event's
/// deliveries; nothing older than `from` is read.
fn parts(
    dialect: Dialect,
    org: OrgId,
    filter: &DeliveryFilter,
    planned: Option<&[Timestamp]>,
    from: Timestamp,
) -> PageParts {
    let DeliveryFilter { status, event_id, endpoint_id, since: _, until } = filter;
    let mut args = Vec::new();
    let mut parameter = |value: Value<'static>| {
        args.push(value);
        format!("${}", 3 + args.len())
    };
    let org = parameter(org.into());
    // The cursor's time, too, since PostgreSQL leaves out partitions by it.
    let mut all = format!("created_at >= {} AND created_at <= $1", parameter(from.into()));
    if let Some(until) = until {
        all = format!("{all} AND created_at < {}", parameter((*until).into()));
    }
    let of_endpoint = endpoint_id.map(|endpoint| parameter(endpoint.into()));
    let mut conditions = Vec::new();
    match (event_id, of_endpoint) {
        (Some(event), endpoint) => {
            let event = parameter((*event).into());
            if let Some(endpoint) = endpoint {
                all = format!("{all} AND {}", dialect.unindexed("endpoint_id", &endpoint));
            }
            // Those that were planned, by the primary key, and those that were created later.
            for planned in planned.unwrap_or_default() {
                let planned = parameter((*planned).into());
                conditions.push(format!(
                    "org_id = {org} AND created_at = {planned} AND event_id = {event} AND {all}"
                ));
            }
            conditions.push(format!(
                "event_id = {event} AND created_at > event_received_at AND {} AND {all}",
                dialect.unindexed("org_id", &org)
            ));
        }
        (None, Some(endpoint)) => conditions.push(format!(
            "endpoint_id = {endpoint} AND {} AND {all}",
            dialect.unindexed("org_id", &org)
        )),
        (None, None) => conditions.push(format!("org_id = {org} AND {all}")),
    }
    let is_pending = *status == Some(DeliveryStatus::Pending);
    let finished = if is_pending { Vec::new() } else { conditions.clone() };
    let pending = if is_pending || status.is_none() { conditions } else { Vec::new() };
    let finished_table = finished_table(dialect, filter);
    let of_status = status.map_or("", of_status);
    let finished = finished.into_iter().map(|condition| format!("{condition}{of_status}"));
    PageParts { pending, finished: finished.collect(), finished_table, args }
}

/// SQLite would walk the primary key, or all of an endpoint's, rather than use a partial index on the status.
const fn finished_table(dialect: Dialect, filter: &DeliveryFilter) -> &'static str {
    let failed = matches!(filter.status, Some(DeliveryStatus::Dead | DeliveryStatus::Cancelled));
    match (dialect, filter.event_id, filter.endpoint_id) {
        (Dialect::Sqlite, None, None) if failed => "deliveries INDEXED BY deliveries_by_status",
        (Dialect::Sqlite, None, Some(_)) if failed => {
            "deliveries INDEXED BY deliveries_by_endpoint_status"
        }
        _ => "deliveries",
    }
}

/// The condition that a finished delivery has a status, spelled out so that the planner finds the partial indexes on
/// what was not delivered.
const fn of_status(status: DeliveryStatus) -> &'static str {
    match status {
        DeliveryStatus::Pending => "",
        DeliveryStatus::Delivered => " AND status = 'delivered'",
        DeliveryStatus::Dead => " AND status <> 'delivered' AND status = 'dead'",
        DeliveryStatus::Cancelled => " AND status <> 'delivered' AND status = 'cancelled'",
    }
}
