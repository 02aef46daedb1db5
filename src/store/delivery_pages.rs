//! Lists of deliveries: pending and finished ones in one order, newest first.
//!
//! A page is the union of a few parts. Each part reads one table by one index and stops after a page, so that a list
//! costs the same however many rows there are. PostgreSQL opens every day's partition that a statement may
//! need: so a page looks back in spans.

use super::deliveries::{read, select_finished, select_pending};
use super::engine::{Args, Dialect, Value, args};
use super::page::{self, END_OF_TIME};
use super::{Result, Store};
use crate::domain::{
    Cursor, Delivery, DeliveryFilter, DeliveryStatus, Event, EventId, OrgId, Page, PageRequest,
    Timestamp,
};

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
        let planned = match filter.event_id {
            Some(event) => Some(self.planned_at(org, event).await?),
            None => None,
        };
        self.delivery_page(org, filter, planned.as_deref(), page).await
    }

    /// The deliveries of an event.
    pub async fn deliveries_of_event(
        &self,
        event: &Event,
        page: PageRequest,
    ) -> Result<Page<Delivery>> {
        let filter = DeliveryFilter { event_id: Some(event.id), ..DeliveryFilter::default() };
        let planned = [event.received_at.floor_ms()];
        self.delivery_page(event.org_id, &filter, Some(&planned), page).await
    }

    /// A page, with the times at which the deliveries of the filter's event were planned.
    async fn delivery_page(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        planned: Option<&[Timestamp]>,
        page: PageRequest,
    ) -> Result<Page<Delivery>> {
        let after = page::start(page, filter.until);
        let planned_first = planned.map(|all| all.iter().min().copied().unwrap_or(END_OF_TIME));
        // The later of the two; without either, where the organisation begins.
        let oldest = planned_first.max(filter.since);
        let mut look_back = self.look_back(org, after.at, oldest).await?;
        loop {
            let parts = parts(self.engine.dialect(), org, filter, planned, look_back.next());
            let rows = self.part_rows(parts, page.limit, after).await?;
            if rows.len() > page.limit as usize || look_back.is_at_its_end() {
                let position = |row: &Delivery| Cursor { at: row.created_at, id: row.id.uuid() };
                let mut page = Page::from_rows(rows, page.limit, position);
                page.data.retain(|row| filter.status.is_none_or(|status| row.status == status));
                return Ok(page);
            }
        }
    }

    /// When the deliveries of the events with this id were created, redeliveries apart.
    async fn planned_at(&self, org: OrgId, event: EventId) -> Result<Vec<Timestamp>> {
        let received = self.events_received_at(org, event, EVENTS_OF_AN_ID_MAX).await?;
        Ok(received.into_iter().map(Timestamp::floor_ms).collect())
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
        self.engine.list(sql, args, |row| Ok(self.shown(read(row)?))).await
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
    let DeliveryFilter { status, event_id, endpoint_id, since: _, until: _ } = filter;
    let mut args = Vec::new();
    let mut parameter = |value: Value<'static>| {
        args.push(value);
        format!("${}", 3 + args.len())
    };
    let org = parameter(org.into());
    // The cursor's time, too, since PostgreSQL leaves out partitions by it.
    let mut all = format!("created_at >= {} AND created_at <= $1", parameter(from.into()));
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
