//! The overview: what was sent and delivered in the last day, what waits, and what fails.

use std::collections::HashMap;

use super::endpoints::{name, percent, shown, state};
use crate::api::analytics::{self, MetricsRequest};
use crate::api::views::{EndpointView, EventMetrics, MetricsRow};
use crate::api::{deliveries, endpoints, orgs};
use crate::domain::{
    DeliveryFilter, DeliveryStatus, HOUR_MINUTES, ListOrder, MetricsGroup, OrgId, PageRequest,
    Role, Scope, Timestamp, minute_of, minute_start,
};
use crate::http::console::failure::ConsoleError;
use crate::http::console::ui::{
    Button, Cell, Chart, ChartBar, ConsolePage, DataTable, Html, Panel, Tile, Tiles, grouped,
    paragraph, span,
};
use crate::http::console::visitor::Visitor;

/// Hours in the charts.
const HOURS: i64 = 24;
/// Failing endpoints that are listed.
const FAILING_SHOWN: u32 = 10;

/// Events and deliveries by hour, oldest first.
pub(super) struct Hours {
    events: Vec<ChartBar>,
    deliveries: Vec<ChartBar>,
    pub(super) delivered: u64,
    pub(super) dead: u64,
    pub(super) accepted: u64,
    /// Of the latest hour with a delivery.
    p95: Option<u64>,
}

/// `GET /console`: an organisation's, or the operator's.
pub(in crate::http::console) async fn show(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    if visitor.open.principal.role == Role::Operator && visitor.viewed_org().is_none() {
        return operator(&visitor).await;
    }
    if visitor.is_portal() {
        return super::portal::overview(&visitor).await;
    }
    let Ok(org) = visitor.org(Scope::EventsRead) else {
        let text =
            "The key of this session may not read events. The navigation shows what it may do.";
        return Ok(visitor.page("Overview").section(Panel::html("", vec![paragraph(text)])));
    };
    let request = MetricsRequest { limit: 2 * 24, ..hourly() };
    let subsystems = visitor.app.replica_reads();
    let metrics = analytics::events(subsystems, org, request).await?;
    let hours = Hours::of(&metrics, subsystems.clock.now());
    let tiles = tiles(&visitor, org, &hours).await?;
    let mut page = visitor.page("Overview").section(tiles);
    if hours.accepted == 0 {
        page = page.section(first_steps(&visitor));
    }
    page = page.section(hours.events_chart()).section(hours.deliveries_chart());
    if visitor.org(Scope::EndpointsRead).is_ok() {
        page = page.section(failing(&visitor, org).await?);
    }
    Ok(page)
}

/// Counts by hour of the last day.
pub(super) fn hourly() -> MetricsRequest {
    MetricsRequest {
        group_by: MetricsGroup::Hour,
        from: None,
        to: None,
        event_type: None,
        account_id: None,
        after: None,
        limit: 48,
    }
}

async fn tiles(visitor: &Visitor, org: OrgId, hours: &Hours) -> Result<Html, ConsoleError> {
    let subsystems = visitor.app.replica_reads();
    let status = Some(DeliveryStatus::Pending);
    let waiting = DeliveryFilter { status, ..DeliveryFilter::default() };
    let request = PageRequest { order: ListOrder::OldestFirst, ..PageRequest::first(1) };
    let waiting = deliveries::list(subsystems, org, &waiting, request).await?;
    let now = subsystems.clock.now();
    let oldest =
        waiting.data.first().map(|delivery| span(now.since(delivery.created_at).as_secs()));
    let found = orgs::one(visitor.app.reads(), org).await?;
    let usage = visitor.open.principal.usage.events();
    let quotas = orgs::quotas(visitor.app.reads(), &found, usage).await?;
    let month = quotas.events_this_month;
    let left = month.left.map_or("no limit".to_owned(), grouped);
    let used = format!("{} used", grouped(month.used));
    let mut tiles = vec![
        Tile::new("Events, 24 hours", grouped(hours.accepted), ""),
        hours.success(),
        Tile::new(
            "Latency p95",
            hours.p95.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms))),
            "latest hour",
        ),
        Tile::new("Oldest waiting", oldest.unwrap_or_else(|| "nothing waits".to_owned()), ""),
    ];
    // What an operator sees of the month would be their own.
    if visitor.viewed_org().is_none() {
        tiles.push(Tile::new("Events left this month", left, used));
    }
    Ok(Tiles { tiles }.html())
}

fn first_steps(visitor: &Visitor) -> Html {
    let mut parts = vec![paragraph("No event in the last 24 hours. To begin:")];
    if visitor.may(Scope::EndpointsManage) {
        parts.push(Button::link("1. Add an endpoint", "/console/endpoints/new", true));
    }
    parts.push(Button::link("2. Post an event", "/console/samples", false));
    parts.push(Button::link("3. Watch it live", "/console/live", false));
    Panel::html("First steps", parts)
}

async fn failing(visitor: &Visitor, org: OrgId) -> Result<Html, ConsoleError> {
    let found = endpoints::failing_or_disabled(visitor.app.reads(), org, FAILING_SHOWN).await?;
    let now = visitor.app.reads().clock.now();
    let failing = found.iter().map(|endpoint| shown(visitor, endpoint));
    let row = |view: EndpointView| {
        vec![
            Cell::link(format!("/console/endpoints/{}", view.id), name(&view)),
            state(&view, now),
            Cell::maybe(view.disabled_reason.as_deref()),
            Cell::maybe_time(view.last_failure_at),
        ]
    };
    let table = DataTable::new(
        "Failing and disabled endpoints",
        &["Endpoint", "State", "Reason", "Last failure"],
    );
    let table = table.rows(failing.map(row));
    Ok(table.empty("No endpoint fails or is disabled", "").html())
}

async fn operator(visitor: &Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.operator(Scope::OperatorRead)?;
    let subsystems = visitor.app.replica_reads();
    let metrics = analytics::events_for_operator(subsystems, None, hourly()).await?;
    let hours = Hours::of(&metrics, subsystems.clock.now());
    let tiles = Tiles {
        tiles: vec![
            Tile::new("Events, 24 hours", grouped(hours.accepted), "of all organisations"),
            hours.success(),
            Tile::new(
                "Latency p95",
                hours.p95.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms))),
                "latest hour",
            ),
        ],
    };
    let page = visitor.page("Overview").section(tiles.html());
    Ok(page.section(hours.events_chart()).section(hours.deliveries_chart()))
}

impl Hours {
    /// Every hour of the last day, those without anything too.
    pub(super) fn of(metrics: &EventMetrics, now: Timestamp) -> Self {
        let rows: HashMap<&str, &MetricsRow> =
            metrics.data.iter().map(|row| (row.group.as_str(), row)).collect();
        let this_hour = minute_of(now).div_euclid(HOUR_MINUTES) * HOUR_MINUTES;
        let mut hours = Self {
            events: Vec::new(),
            deliveries: Vec::new(),
            delivered: 0,
            dead: 0,
            accepted: 0,
            p95: None,
        };
        for age in (0..HOURS).rev() {
            let begins = minute_start(this_hour - age * HOUR_MINUTES).to_string();
            let row = rows.get(begins.as_str());
            let count =
                |field: fn(&MetricsRow) -> Option<u64>| row.and_then(|row| field(row)).unwrap_or(0);
            let (events, delivered) = (count(|row| row.events), count(|row| row.delivered));
            let dead = count(|row| row.dead);
            hours.accepted += events;
            hours.delivered += delivered;
            hours.dead += dead;
            let latest = row.and_then(|row| row.latency_ms?.p95);
            hours.p95 = latest.or(hours.p95);
            let label = begins.get(..16).unwrap_or(&begins).replace('T', " ");
            hours.events.push(ChartBar { label: label.clone(), values: vec![events] });
            hours.deliveries.push(ChartBar { label, values: vec![delivered, dead] });
        }
        hours
    }

    fn success(&self) -> Tile {
        let finished = self.delivered + self.dead;
        #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
        let share = self.delivered as f64 / finished as f64;
        let rate = if finished == 0 { "–".to_owned() } else { percent(share) };
        let note = format!("{} delivered, {} dead", grouped(self.delivered), grouped(self.dead));
        Tile::new("Success rate, 24 hours", rate, note)
    }

    pub(super) fn events_chart(&self) -> Html {
        Chart::html("Events per hour", "last 24 hours, UTC", &[("events", "")], &self.events)
    }

    pub(super) fn deliveries_chart(&self) -> Html {
        let series = [("delivered", ""), ("dead", "bad")];
        Chart::html("Deliveries per hour", "last 24 hours, UTC", &series, &self.deliveries)
    }
}
