//! The portal: what an account was sent and how its endpoints do, and the files of its look.

use axum::response::Response;

use super::endpoints::{name, percent, shown, state};
use super::hours::{Hours, hourly};
use crate::api::{analytics, deliveries, endpoints};
use crate::domain::{DeliveryFilter, DeliveryStatus, Endpoint, ListOrder, PageRequest, Scope};
use crate::http::console::failure::ConsoleError;
use crate::http::console::portal_look::{file, style};
use crate::http::console::ui::{
    Button, Cell, ConsolePage, DataTable, Html, Panel, Tile, Tiles, grouped, paragraph, span,
};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;

/// Endpoints that are shown with their figures; the list of endpoints has all.
const ENDPOINTS_SHOWN: u32 = 10;

/// What the portal of an account begins with.
pub(super) async fn overview(visitor: &Visitor) -> Result<ConsolePage, ConsoleError> {
    let mut page = visitor.page("Overview");
    let Ok(reach) = visitor.reach(Scope::EventsRead) else {
        let text = "The navigation shows what you may see.";
        return Ok(page.section(Panel::html("", vec![paragraph(text)])));
    };
    let subsystems = visitor.app.replica_reads();
    let now = subsystems.clock.now();
    let metrics = analytics::events(subsystems, reach.clone(), hourly()).await?;
    let hours = Hours::of(&metrics, now);
    let waiting =
        DeliveryFilter { status: Some(DeliveryStatus::Pending), ..DeliveryFilter::default() };
    let request = PageRequest { limit: 1, after: None, order: ListOrder::OldestFirst };
    let waiting = deliveries::list(subsystems, reach, &waiting, request).await?;
    let oldest =
        waiting.data.first().map(|delivery| span(now.since(delivery.created_at).as_secs()));
    let tiles = Tiles {
        tiles: vec![
            Tile::new("Events, 24 hours", grouped(hours.accepted), ""),
            Tile::new("Oldest waiting", oldest.unwrap_or_else(|| "nothing waits".to_owned()), ""),
        ],
    };
    page = page.section(tiles.html()).section(hours.events_chart());
    if visitor.reach(Scope::EndpointsRead).is_ok() {
        page = page.section(of_endpoints(visitor).await?);
    }
    Ok(page)
}

async fn of_endpoints(visitor: &Visitor) -> Result<Html, ConsoleError> {
    let reach = visitor.reach(Scope::EndpointsRead)?;
    let request = PageRequest::first(ENDPOINTS_SHOWN);
    let found = endpoints::list(visitor.app.reads(), reach.clone(), None, request).await?;
    let mut rows = Vec::with_capacity(found.data.len());
    for endpoint in &found.data {
        rows.push(row(visitor, endpoint).await?);
    }
    let columns = ["Endpoint", "State", "#Success, 24 hours", "#Latency p95", "Last failure"];
    let more = found.next_cursor.map(|_| super::endpoints::PATH.to_owned());
    let table = DataTable::new("Endpoints", &columns).rows(rows.into_iter()).pages(None, more);
    let table = table.empty("No endpoint yet", "An endpoint is the URL that webhooks are sent to.");
    let mut parts = vec![table.html()];
    if visitor.may(Scope::EndpointsManage) {
        parts.push(Button::link("Add endpoint", "/console/endpoints/new", true));
    }
    Ok(Html::from(parts))
}

async fn row(visitor: &Visitor, endpoint: &Endpoint) -> Result<Vec<Cell>, ConsoleError> {
    let subsystems = visitor.app.replica_reads();
    let reach = visitor.reach(Scope::EventsRead)?;
    let stats = analytics::endpoint_stats(subsystems, reach, endpoint.id).await?;
    let view = shown(visitor, endpoint);
    let rate = stats.last_day.success_rate.map_or("–".to_owned(), percent);
    let p95 = stats.last_day.latency_ms.p95;
    Ok(vec![
        Cell::link(format!("{}/{}", super::endpoints::PATH, view.id), name(&view)),
        state(&view, subsystems.clock.now()),
        Cell::Number(rate),
        Cell::Number(p95.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms)))),
        Cell::maybe_time(view.last_failure_at),
    ])
}

/// `GET /console/portal/theme.css`.
pub(in crate::http::console) async fn theme(visitor: Visitor) -> Result<Response, ConsoleError> {
    let looks = visitor.open.portal.as_ref().ok_or(ApiError::NotFound)?;
    let colour = looks.colour.ok_or(ApiError::NotFound)?;
    Ok(file("text/css; charset=utf-8", style(colour).into_bytes()))
}

/// `GET /console/portal/logo`.
pub(in crate::http::console) async fn logo(visitor: Visitor) -> Result<Response, ConsoleError> {
    let looks = visitor.open.portal.as_ref().ok_or(ApiError::NotFound)?;
    let logo = looks.logo.as_ref().ok_or(ApiError::NotFound)?;
    Ok(file(logo.media_type(), logo.bytes().to_vec()))
}
