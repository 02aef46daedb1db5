//! Lists of deliveries: pending and finished ones in one order.
//!
//! A page is the union of a page of each table, which is read by one index and stops when it is full, so that a list
//! costs the same however many rows there are. PostgreSQL opens every day's partition that a statement may
//! need: so a page looks at its list in spans.

use std::collections::{BTreeMap, HashMap};

use super::deliveries::{read, select_finished, select_pending};
use super::delivery_types::{Types, read_type};
use super::engine::{Dialect, args};
use super::list_query::{ListPart, ListQuery, Listed, Selected};
use super::page::{END_OF_TIME, ListBounds, OrderSql};
use super::{Result, Store, events};
use crate::domain::{
    Cursor, Delivery, DeliveryFilter, DeliveryStatus, EndpointId, ErrorClass, Event, EventId,
    OrgId, Page, PageRequest, Timestamp,
};

/// Events with one id that a list by event covers: an id comes again when its `dedup_id` is used after the window.
const EVENTS_OF_AN_ID_MAX: u32 = 10;
/// Days whose events one statement reads.
const DAYS_AT_ONCE: usize = 32;
const DAY_MICROS: i64 = 86_400_000_000;

/// Rows whose last attempt failed: the condition of the indexes on why.
const FAILED: &str = "error_class IS NOT NULL";

/// One of the two tables, and its indexes.
struct DeliveryTable {
    listed: Listed,
    /// The SELECT of deliveries from some of its rows, named `d`.
    select: fn(&str) -> String,
    by_endpoint: &'static str,
    by_error_class: &'static str,
    by_status_code: &'static str,
}

const PENDING: DeliveryTable = DeliveryTable {
    listed: Listed { table: "pending_deliveries", at: "created_at", by_type: "", by_day: false },
    select: select_pending,
    by_endpoint: "pending_by_endpoint",
    by_error_class: "pending_by_error_class",
    by_status_code: "pending_by_status_code",
};
const FINISHED: DeliveryTable = DeliveryTable {
    listed: Listed { table: "deliveries", at: "created_at", by_type: "", by_day: true },
    select: select_finished,
    by_endpoint: "deliveries_by_endpoint",
    by_error_class: "deliveries_by_error_class",
    by_status_code: "deliveries_by_status_code",
};

/// What a list selects, looked up where it has to be.
struct Selection<'a> {
    org: OrgId,
    filter: &'a DeliveryFilter,
    /// When the deliveries of the filter's event were planned.
    planned: Option<&'a [Timestamp]>,
    types: Types<'a>,
    bounds: ListBounds,
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
        let planned_first = planned.and_then(|all| all.iter().min().copied());
        // The later of the two; without either, where the organisation begins.
        let since = planned_first.max(filter.since);
        let bounds = ListBounds { order: page.order, since, until: filter.until };
        let mut selection = Selection { org, filter, planned, types: Types::All, bounds };
        let mut after = bounds.start(page.after);
        let mut look_back = self.look_back(org, bounds.order, after.at, bounds.last()).await?;
        let (limit, mut rows) = (page.limit as usize, Vec::new());
        loop {
            let (far, types) = (look_back.next(), filter.event_type.as_ref());
            selection.types = self.types_of_deliveries(org, types, (far, after)).await?;
            let missing = limit + 1 - rows.len();
            let (more, examined_to) = self.union(&selection, far, after, missing).await?;
            rows.extend(more);
            if rows.len() > limit || examined_to.is_some() || look_back.is_at_its_end() {
                let mut page = Page::from_rows(rows, page.limit, position);
                page.next_cursor = page.next_cursor.or(examined_to);
                page.data
                    .retain(|(row, _)| filter.status.is_none_or(|status| row.status == status));
                let Page { data, next_cursor } = page;
                return Ok(Page { data: self.with_event_types(org, data).await?, next_cursor });
            }
            after = look_back.behind();
        }
    }

    /// When the deliveries of the events with this id were created, redeliveries apart. Of events that are gone, whose
    /// redeliveries may be kept, an id with its time in it tells it. Nothing does for the id of a `dedup_id`: then all days
    /// of deliveries are looked through, as those of events were.
    async fn planned_at(&self, org: OrgId, event: EventId) -> Result<Vec<Timestamp>> {
        let mut received = self.events_received_at(org, event, EVENTS_OF_AN_ID_MAX).await?;
        if received.is_empty() {
            received.extend(event.minted_at().map(|at| at.min(END_OF_TIME)));
        }
        Ok(received.into_iter().map(Timestamp::floor_ms).collect())
    }

    /// So many rows, each with the time of its event; and the last row that was examined, when more follow.
    async fn union(
        &self,
        selection: &Selection<'_>,
        far: Timestamp,
        after: Cursor,
        wanted: usize,
    ) -> Result<(Vec<(Delivery, Timestamp)>, Option<Cursor>)> {
        if matches!(&selection.types, Types::Keys(keys) if keys.is_empty()) {
            return Ok((Vec::new(), None));
        }
        let (dialect, status) = (self.engine.dialect(), selection.filter.status);
        let (mut selects, mut args) = (Vec::new(), args![after.at, after.id, wanted]);
        let mut ends = Vec::new();
        let may_be_pending = status.is_none_or(|status| status == DeliveryStatus::Pending);
        let may_be_finished = status != Some(DeliveryStatus::Pending);
        let tables = [(may_be_pending, &PENDING), (may_be_finished, &FINISHED)];
        for (_, table) in tables.into_iter().filter(|(is_read, _)| *is_read) {
            let query = selection.query(dialect, table, args.len());
            if let Some(Selected { sql, args: more, examined_to }) =
                query.select(self, "*", far, after).await?
            {
                selects.push((table.select)(&format!("({sql}) d")));
                args.extend(more);
                ends.extend(examined_to);
            }
        }
        if selects.is_empty() {
            return Ok((Vec::new(), None));
        }
        let order = selection.bounds.order;
        let sorted = OrderSql::of(order).sorted("created_at");
        let sql = format!("SELECT * FROM ({}) d {sorted} LIMIT $3", selects.join(" UNION ALL "));
        let mut rows = self.engine.list(sql, args, read).await?;
        // Behind the end of one table, rows of it may be missing between those of the other one.
        let nearer = |one, other| if order.is_before(one, other) { one } else { other };
        let end = ends.into_iter().reduce(nearer);
        rows.retain(|row| end.is_none_or(|end| !order.is_before(end, position(row))));
        Ok((rows, end))
    }

    /// Deliveries as people see them, with the types of their events.
    pub(super) async fn with_event_types(
        &self,
        org: OrgId,
        rows: Vec<(Delivery, Timestamp)>,
    ) -> Result<Vec<Delivery>> {
        // A statement opens the partitions of the days that it names.
        let mut by_day: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for (row, received_at) in &rows {
            let day = match self.engine.dialect() {
                Dialect::Sqlite => 0,
                Dialect::Postgres => received_at.micros().div_euclid(DAY_MICROS),
            };
            by_day.entry(day).or_default().push((row.event_id.uuid(), *received_at));
        }
        let days: Vec<_> = by_day.into_values().collect();
        let mut types = HashMap::new();
        for days in days.chunks(DAYS_AT_ONCE) {
            let (mut selects, mut args) = (Vec::new(), args![org]);
            for events in days {
                let first = events.iter().map(|(_, at)| *at).min().unwrap_or(END_OF_TIME);
                let last = events.iter().map(|(_, at)| *at).max().unwrap_or(END_OF_TIME);
                let ids: Vec<_> = events.iter().map(|(id, _)| *id).collect();
                let number = args.len();
                let dialect = self.engine.dialect();
                selects.push(format!(
                    "SELECT id, received_at, event_type FROM events
                     WHERE {} AND received_at >= ${} AND received_at <= ${} AND {} = $1",
                    dialect.any("id", &format!("${}", number + 1)),
                    number + 2,
                    number + 3,
                    dialect.not_indexed("org_id"),
                ));
                args.extend(args![ids, first, last]);
            }
            types.extend(self.engine.list(selects.join(" UNION ALL "), args, read_type).await?);
        }
        let is_missing = |(row, received_at): &&(Delivery, Timestamp)| {
            !types.contains_key(&(row.event_id, *received_at))
        };
        let missing: Vec<_> =
            rows.iter().filter(is_missing).map(|(row, _)| row.event_id.uuid()).collect();
        types.extend(self.types_of_held(org, missing).await?);
        let shown = |(row, received_at): (Delivery, Timestamp)| {
            let event_type = types.get(&(row.event_id, received_at)).cloned();
            self.shown(Delivery { event_type, ..row })
        };
        Ok(rows.into_iter().map(shown).collect())
    }
}

/// Where a row is in its list.
fn position((row, _): &(Delivery, Timestamp)) -> Cursor {
    Cursor { at: row.created_at, id: row.id.uuid() }
}

impl<'a> Selection<'a> {
    /// The query of one table. Its parameters follow `before` others.
    fn query(&self, dialect: Dialect, table: &DeliveryTable, before: usize) -> ListQuery<'a> {
        let DeliveryFilter { status, endpoint_id, error_class, status_code, .. } = self.filter;
        let mut query = ListQuery::new(dialect, table.listed, self.org, self.bounds, before);
        let is_pending = table.listed.table == PENDING.listed.table;
        let failed = status.filter(|status| is_failed(*status)).filter(|_| !is_pending);
        match (failed, endpoint_id) {
            (Some(failed), Some(endpoint)) => {
                by_endpoint_status(&mut query, dialect, failed, *endpoint);
            }
            (failed, endpoint) => {
                query.equal_unscoped("endpoint_id", Some(table.by_endpoint), *endpoint);
                if let Some(failed) = failed {
                    let failed = format!("'{}'", failed.as_str());
                    query.special(
                        "deliveries_by_status",
                        &format!(
                            "org_id = {} AND status <> 'delivered' AND status = {failed}",
                            query.org()
                        ),
                        &dialect.unindexed("status", &failed),
                    );
                }
            }
        }
        if *status == Some(DeliveryStatus::Delivered) {
            query.check("status = 'delivered'".to_owned());
        }
        let class = error_class.map(ErrorClass::as_str);
        query.equal_within(("error_class", table.by_error_class, FAILED), class);
        let code = status_code.map(u32::from);
        query.equal_within(("status_code", table.by_status_code, FAILED), code);
        let by_event = self.event_parts(&mut query, dialect);
        let is_by_event = by_event.is_some();
        if let Some(parts) = by_event {
            query.parts(parts);
        }
        match &self.types {
            Types::All => {}
            Types::Prefix(prefix) => {
                let prefix = query.parameter(*prefix);
                let events = events::with_held(dialect);
                query.check(format!(
                    "EXISTS (SELECT 1 FROM {events}
                             WHERE e.id = event_id AND e.received_at = event_received_at
                               AND substr(e.event_type, 1, length({prefix})) = {prefix})"
                ));
            }
            Types::Keys(keys) if is_pending && !is_by_event => {
                let parts = pending_parts(&mut query, dialect, keys);
                query.parts(parts);
            }
            Types::Keys(keys) => match &keys[..] {
                [key] if !is_by_event => {
                    query.equal_unscoped("type_key", Some("deliveries_by_type"), Some(*key));
                }
                _ => query.one_of("type_key", keys.clone()),
            },
        }
        query
    }

    /// The lists of an event's deliveries: those that were planned, by the primary key, and those that were created
    /// later.
    fn event_parts(&self, query: &mut ListQuery<'a>, dialect: Dialect) -> Option<Vec<ListPart>> {
        let event = query.parameter(self.filter.event_id?);
        let mut parts = Vec::new();
        for planned in self.planned.unwrap_or_default() {
            let (planned, org) = (query.parameter(*planned), query.org());
            parts.push(format!("org_id = {org} AND created_at = {planned} AND event_id = {event}"));
        }
        let scope = dialect.unindexed("org_id", query.org());
        parts.push(format!("event_id = {event} AND created_at > event_received_at AND {scope}"));
        Some(parts.into_iter().map(|by_index| ListPart { index: None, by_index }).collect())
    }
}

/// Whether a status is one that few deliveries have.
const fn is_failed(status: DeliveryStatus) -> bool {
    matches!(status, DeliveryStatus::Dead | DeliveryStatus::Cancelled)
}

/// The deliveries of an endpoint with a status.
fn by_endpoint_status(
    query: &mut ListQuery<'_>,
    dialect: Dialect,
    status: DeliveryStatus,
    endpoint: EndpointId,
) {
    let (endpoint, status) = (query.parameter(endpoint), format!("'{}'", status.as_str()));
    // Spelled out, so that the planner finds the partial index on what was not delivered.
    let by_index = format!(
        "endpoint_id = {endpoint} AND status <> 'delivered' AND status = {status} AND {}",
        query.scope()
    );
    let (of_endpoint, of_status) =
        (dialect.unindexed("endpoint_id", &endpoint), dialect.unindexed("status", &status));
    let checked = format!("{of_endpoint} AND {of_status}");
    query.special("deliveries_by_endpoint_status", &by_index, &checked);
}

/// The lists of pending deliveries with these types: those that wait, and those in flight, which are as few as the
/// slots of all servers.
fn pending_parts(query: &mut ListQuery<'_>, dialect: Dialect, keys: &[i64]) -> Vec<ListPart> {
    let scope = query.scope();
    let mut parts = Vec::new();
    for key in keys {
        let key = query.parameter(*key);
        parts.push(ListPart {
            index: Some("pending_by_type"),
            by_index: format!("type_key = {key} AND lease_token IS NULL AND {scope}"),
        });
    }
    let keys = query.parameter(keys.to_vec());
    let is_one = match dialect {
        Dialect::Sqlite => format!("+type_key IN (SELECT value FROM json_each({keys}))"),
        Dialect::Postgres => format!("(type_key = ANY ({keys})) IS TRUE"),
    };
    parts.push(ListPart {
        index: Some("pending_leases"),
        by_index: format!("lease_token IS NOT NULL AND {is_one} AND {scope}"),
    });
    parts
}
