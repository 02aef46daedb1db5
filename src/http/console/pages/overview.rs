//! The overview: what was sent and delivered in the last day, what waits, and what fails.

use super::endpoints::{name, shown, state};
use super::hours::{Hours, hourly};
use crate::api::analytics::{self, MetricsRequest};
use crate::api::views::EndpointView;
use crate::api::{deliveries, endpoints, orgs};
use crate::domain::{DeliveryFilter, DeliveryStatus, ListOrder, OrgId, PageRequest, Role, Scope};
use crate::http::console::failure::ConsoleError;
use crate::http::console::ui::{
    Button, Cell, ConsolePage, DataTable, Html, Panel, Tile, Tiles, grouped, paragraph, span,
};
use crate::http::console::visitor::Visitor;

/// Failing endpoints that are listed.
const FAILING_SHOWN: u32 = 10;

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
