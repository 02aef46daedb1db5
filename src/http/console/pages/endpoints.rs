//! Endpoints: the list, and one with its settings, its state and its latest deliveries.

use crate::api::views::{DeliveryStats, DeliveryView, EndpointDetail, EndpointStats, EndpointView};
use crate::api::{Subsystems, analytics, deliveries, endpoints};
use crate::domain::{
    DeliveryFilter, Endpoint, EndpointId, EndpointKind, PageRequest, Scope, Timestamp,
};
use crate::http::console::failure::ConsoleError;
use crate::http::console::lists;
use crate::http::console::ui::{
    Button, Cell, Chart, ChartBar, ConsoleForm, ConsolePage, DataTable, FactList, FormField, Html,
    Panel, Tile, Tiles, Tone, grouped, paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::extract::Id;
use crate::store::{InboxBacklog, PENDING_COUNTED_MAX};

pub(super) const PATH: &str = "/console/endpoints";
/// Hours in its charts.
const HOURS: u32 = 24;
/// Deliveries below an endpoint.
const DELIVERIES_SHOWN: u32 = 10;

/// `GET /console/endpoints`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EndpointsRead)?;
    let (request, list) = lists::page_request(&visitor)?;
    let account = visitor.parameter("account_id");
    let found = endpoints::list(visitor.app.reads(), reach, account.as_deref(), request).await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let now = visitor.app.reads().clock.now();
    let rows = found.data.iter().map(|endpoint| row(&shown(&visitor, endpoint), now));
    let table = DataTable::new(
        "Endpoints",
        &["Sends to", "State", "Event types", "Description", "Last success"],
    )
    .rows(rows)
    .pages(first, next)
    .empty("No endpoint yet", "An endpoint is the URL that your webhooks are sent to.")
    .step("/console/endpoints/new", "Add the first one");
    let mut page = visitor.page("Endpoints");
    if visitor.may(Scope::EndpointsManage) {
        page = page.action(Button::link("Add endpoint", "/console/endpoints/new", true));
    }
    Ok(page.section(table.html()))
}

/// An endpoint as the visitor may read it.
pub(super) fn shown(visitor: &Visitor, endpoint: &Endpoint) -> EndpointView {
    let view = EndpointView::from(endpoint);
    if visitor.may(Scope::EndpointsManage) { view } else { view.masked() }
}

fn row(endpoint: &EndpointView, now: Timestamp) -> Vec<Cell> {
    let types = endpoint.event_types.to_string();
    vec![
        Cell::link(format!("{PATH}/{}", endpoint.id), name(endpoint)),
        state(endpoint, now),
        if types.is_empty() { Cell::text("all") } else { Cell::code(types.replace(',', ", ")) },
        Cell::maybe(endpoint.description.as_deref()),
        Cell::maybe_time(endpoint.last_success_at),
    ]
}

/// What an endpoint is called: its URL, or that it is an inbox.
pub(super) fn name(endpoint: &EndpointView) -> String {
    let inbox = if endpoint.default_inbox { "Default inbox" } else { "Inbox" };
    endpoint.url.clone().unwrap_or_else(|| inbox.to_owned())
}

/// Whether an endpoint is well.
pub(super) fn state(endpoint: &EndpointView, now: Timestamp) -> Cell {
    match (endpoint.enabled, endpoint.failing_since) {
        (false, _) => Cell::badge(Tone::Plain, "disabled"),
        (true, Some(since)) => {
            let span = crate::http::console::ui::span(now.since(since).as_secs());
            Cell::badge(Tone::Bad, format!("failing for {span}"))
        }
        (true, None) if endpoint.last_success_at.is_some() => Cell::badge(Tone::Good, "delivers"),
        (true, None) => Cell::badge(Tone::Plain, "enabled"),
    }
}

/// `GET /console/endpoints/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<EndpointId>,
) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EndpointsRead)?;
    let subsystems = visitor.app.reads();
    let endpoint = endpoints::one(subsystems, reach.clone(), id).await?;
    let detail = endpoints::detail(subsystems, &endpoint).await?;
    let detail = if visitor.may(Scope::EndpointsManage) { detail } else { detail.masked() };
    let view = &detail.endpoint;
    let mut page = visitor.page(name(view)).crumb(PATH, "Endpoints");
    if visitor.may(Scope::EndpointsManage) {
        page = actions(page, &visitor, view);
    }
    if let Some(reason) = &view.disabled_reason {
        let text =
            format!("Disabled: {reason}. Nothing is sent; deliveries wait until it is enabled.");
        page = page.section(Panel::warning(&text));
    } else if let Some(until) = detail.paused_until {
        let until = crate::http::console::ui::Moment::of(until);
        let text = format!(
            "The circuit breaker is open until {until}: the endpoint kept failing, or asked to wait. A test or a retry is sent all the same."
        );
        page = page.section(Panel::warning(&text));
    }
    if visitor.reach(Scope::EventsRead).is_ok() {
        let look = |subsystems: Subsystems| {
            let reach = reach.clone();
            async move {
                let stats = analytics::endpoint_stats(&subsystems, reach.clone(), id).await?;
                Ok((stats, analytics::endpoint_hours(&subsystems, reach, id, HOURS).await?))
            }
        };
        let (stats, hours) = visitor.app.look_up(look).await?;
        page = page.section(figures(&stats, &detail)).section(charts(&hours));
    }
    if endpoint.kind == EndpointKind::Pull {
        let backlog = endpoints::backlog(subsystems, &endpoint).await?;
        page = page.section(waiting(&backlog, subsystems.clock.now()));
    }
    page = page.section(settings(&detail, subsystems.clock.now()));
    if visitor.reach(Scope::EventsRead).is_ok() {
        page = page.section(latest(&visitor, id).await?);
    }
    if visitor.may(Scope::EndpointsManage) {
        page = more_actions(page, &visitor, view);
    }
    Ok(page)
}

fn actions(page: ConsolePage, visitor: &Visitor, view: &EndpointView) -> ConsolePage {
    let path = format!("{PATH}/{}", view.id);
    let button =
        |label: &str, verb: &str| Button::new(label, format!("{path}/{verb}"), &visitor.csrf());
    let page = match (view.enabled, view.kind) {
        (true, EndpointKind::Webhook) => {
            page.action(button("Send test event", "test").main().html())
        }
        (true, EndpointKind::Pull) => page,
        (false, _) => {
            page.action(button("Enable", "enabled").with("enabled", "true").main().html())
        }
    };
    let page = page.action(Button::link("Edit", &format!("{path}/edit"), false));
    if view.enabled {
        page.action(button("Disable", "enabled").with("enabled", "false").html())
    } else {
        page
    }
}

fn figures(stats: &EndpointStats, detail: &EndpointDetail) -> Html {
    let DeliveryStats { delivered, dead, failed_attempts, success_rate, latency_ms, .. } =
        &stats.last_day;
    let rate = success_rate.map_or("–".to_owned(), percent);
    let p95 = latency_ms.p95.map_or("–".to_owned(), |ms| format!("{} ms", grouped(ms)));
    let p50 = latency_ms.p50.map_or(String::new(), |ms| format!("half within {} ms", grouped(ms)));
    let pending = serde_json::to_value(detail.pending_count).unwrap_or_default();
    let pending = pending.as_str().map_or_else(|| pending.to_string(), str::to_owned);
    Tiles {
        tiles: vec![
            Tile::new(
                "Success rate, 24 hours",
                rate,
                format!("{} delivered, {} dead", grouped(*delivered), grouped(*dead)),
            ),
            Tile::new("Latency p95, 24 hours", p95, p50),
            Tile::new("Failed attempts, 24 hours", grouped(*failed_attempts), ""),
            Tile::new("Pending now", pending, ""),
        ],
    }
    .html()
}

/// How deliveries ended and how long they took, by hour.
fn charts(hours: &[DeliveryStats]) -> Html {
    let label = |stats: &DeliveryStats| {
        let begins = stats.from.to_string();
        begins.get(..16).unwrap_or(&begins).replace('T', " ")
    };
    let ended = hours.iter();
    let ended = ended
        .map(|stats| ChartBar { label: label(stats), values: vec![stats.delivered, stats.dead] });
    let took = hours.iter().map(|stats| ChartBar {
        label: label(stats),
        values: vec![stats.latency_ms.p95.unwrap_or_default()],
    });
    let (ended, took): (Vec<_>, Vec<_>) = (ended.collect(), took.collect());
    let span = "last 24 hours, UTC";
    let series = [("delivered", ""), ("dead", "bad")];
    let latency = [("ms, 95 of 100 within", "")];
    Html::from(vec![
        Chart::html("Deliveries per hour", span, &series, &ended),
        Chart::levels("Latency per hour", span, &latency, &took),
    ])
}

/// What waits in an inbox.
fn waiting(backlog: &InboxBacklog, now: Timestamp) -> Html {
    let oldest = backlog.oldest.map(|at| crate::http::console::ui::span(now.since(at).as_secs()));
    let counted = if backlog.waiting > PENDING_COUNTED_MAX {
        format!("over {}", grouped(PENDING_COUNTED_MAX))
    } else {
        grouped(backlog.waiting)
    };
    Tiles {
        tiles: vec![
            Tile::new("Waiting in the inbox", counted, "received ones included"),
            Tile::new("Oldest", oldest.unwrap_or_else(|| "nothing waits".to_owned()), ""),
            Tile::new("In flight", grouped(backlog.in_flight), "received, not settled yet"),
        ],
    }
    .html()
}

/// A share in percent, with as many digits as tell it from 100.
pub(super) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent > 99.995 { "100 %".to_owned() } else { format!("{:.2} %", percent.min(99.99)) }
}

fn settings(detail: &EndpointDetail, now: Timestamp) -> Html {
    let EndpointDetail { endpoint: view, headers, .. } = detail;
    let types = view.event_types.to_string();
    let types =
        if types.is_empty() { Cell::text("all") } else { Cell::code(types.replace(',', ", ")) };
    let number = |number: Option<u32>| {
        number.map_or(Cell::text("as the server"), |number| Cell::number(number.into()))
    };
    let schedule = view.policy.retry_schedule.as_ref().map(ToString::to_string);
    let schedule = match schedule.as_deref() {
        None => Cell::text("as the server"),
        Some("") => Cell::text("no retries"),
        Some(waits) => Cell::code(waits.replace(',', ", ")),
    };
    let names =
        headers.as_ref().map(|headers| headers.keys().cloned().collect::<Vec<_>>().join(", "));
    let mut facts = FactList::new("Settings")
        .with("State", state(view, now))
        .with_some("Description", Cell::maybe(view.description.as_deref()))
        .with("Event types", types)
        .with_some("Account", Cell::maybe(view.account_id.as_deref()));
    if view.kind == EndpointKind::Webhook {
        let signature = view
            .signature
            .map_or(Cell::text("cannot be read"), |scheme| Cell::text(scheme.as_str()));
        facts = facts
            .with("Signature", signature)
            .with_some("Public key", view.public_key.as_ref().map_or(Cell::None, Cell::code))
            .with_some("Custom headers", Cell::maybe(names.filter(|names| !names.is_empty())))
            .with("Attempts at once", number(view.policy.max_concurrency))
            .with(
                "Attempts per second",
                view.policy
                    .rate_limit_per_second
                    .map_or(Cell::text("no limit"), |rate| Cell::number(rate.into())),
            )
            .with("Retry schedule", schedule);
    } else {
        facts = facts
            .with(
                "Hidden after receipt",
                view.visibility_seconds
                    .map_or(Cell::text("30 s"), |s| Cell::text(format!("{s} s"))),
            )
            .with(
                "Receipts at most",
                view.max_receives.map_or(Cell::text("10"), |max| Cell::number(max.into())),
            )
            .with("Last read", Cell::maybe_time(view.last_read_at));
    }
    facts
        .with("In order", Cell::yes(view.policy.ordered))
        .with_some("Failing since", Cell::maybe_time(view.failing_since))
        .with_some("Last success", Cell::maybe_time(view.last_success_at))
        .with_some("Last failure", Cell::maybe_time(view.last_failure_at))
        .with("Created", Cell::time(view.created_at))
        .with("Id", Cell::code(view.id))
        .html()
}

async fn latest(visitor: &Visitor, id: EndpointId) -> Result<Html, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let filter = DeliveryFilter { endpoint_id: Some(id), ..DeliveryFilter::default() };
    let request = PageRequest::first(DELIVERIES_SHOWN);
    let found = deliveries::list(visitor.app.replica_reads(), reach, &filter, request).await?;
    let found = found.map(DeliveryView::from);
    let all = format!("/console/deliveries?endpoint_id={id}");
    let columns = ["Event", "Endpoint", "State", "Created", "#Attempts", "Last error"];
    let table = DataTable::new("Latest deliveries", &columns)
        .rows(found.data.iter().map(super::deliveries::row))
        .pages(None, found.next_cursor.map(|_| all))
        .empty(
            "No delivery yet",
            "Send a test event, or post an event of a type that it subscribes to.",
        );
    Ok(table.html())
}

/// The rest of what can be done with an endpoint.
fn more_actions(page: ConsolePage, visitor: &Visitor, view: &EndpointView) -> ConsolePage {
    let (path, csrf) = (format!("{PATH}/{}", view.id), visitor.csrf());
    let mut danger = vec![
        Button::new("Cancel pending deliveries", format!("{path}/cancel-pending"), &csrf)
            .danger("Everything that waits for this endpoint is cancelled. New events are delivered as before.")
            .html(),
        Button::new("Delete endpoint", format!("{path}/delete"), &csrf)
            .danger("The endpoint is deleted for good, and its pending deliveries are cancelled. Its past deliveries stay readable.")
            .html(),
    ];
    if view.kind == EndpointKind::Pull {
        return page.section(Panel::danger("Cannot be taken back", danger));
    }
    let overlap = FormField::line("overlap_seconds", "Overlap in seconds").value("86400");
    let rotate = ConsoleForm::post(format!("{path}/rotate"), &csrf, "Rotate secret").field(
        overlap.hint("For so long the old secret signs beside the new one. 0 ends it at once."),
    );
    let secret = vec![
        paragraph(
            "Receivers verify each webhook with the secret. The audit log records who has seen it.",
        ),
        Button::new("Show secret", format!("{path}/secret"), &csrf).html(),
        rotate.html(),
    ];
    let since = FormField::time("since", "Given up since");
    let replay = ConsoleForm::post(format!("{path}/replay"), &csrf, "Replay failures")
        .field(since.required());
    let replay = vec![
        paragraph("Sends again what was given up since this time, once the receiver is well."),
        replay.html(),
    ];
    let page =
        page.section(Panel::html("Secret", secret)).section(Panel::html("Replay failures", replay));
    page.section(Panel::danger("Cannot be taken back", std::mem::take(&mut danger)))
}
