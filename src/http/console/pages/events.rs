//! Events: the list, and one with its payload and deliveries.

use axum::response::Response;

use super::deliveries::shell_quoted;
use crate::api::events;
use crate::api::views::{DeliveryView, EventDetail, EventView};
use crate::domain::{EventId, Scope};
use crate::http::byte_budget::Owner;
use crate::http::console::failure::{ConsoleError, see_other};
use crate::http::console::lists::{self, Asked};
use crate::http::console::posted::PostedForm;
use crate::http::console::ui::{
    Button, Cell, CodeBlock, ConsoleForm, ConsolePage, DataTable, FactList, FormField, Html, Panel,
    bytes, paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;
use crate::http::extract::Id;
use crate::http::held_answer;
use crate::http::routes::events::EventQuery;

const PATH: &str = "/console/events";

/// `GET /console/events`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let Asked { filter, page: request, list, violations } = lists::asked::<EventQuery>(&visitor)?;
    let mut page = lists::with_filters(visitor.page("Events"), filters(&visitor), &violations);
    if !visitor.is_portal() {
        page = page.action(Button::link("Live tail", "/console/live", false));
    }
    if !violations.is_empty() {
        return Ok(page);
    }
    let filter = filter.filter();
    let found = events::list(visitor.app.replica_reads(), reach, &filter, request, false).await?;
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let columns = ["Type", "Accepted", "Account", "User", "#Size"];
    let table =
        DataTable::new("Events", &columns).rows(found.data.iter().map(row)).pages(first, next);
    let table = if visitor.is_portal() {
        table.empty("No event matches", "Widen the filters, or wait for the first one.")
    } else {
        table
            .empty("No event matches", "Post one, or widen the filters.")
            .step("/console/samples", "How to post an event")
    };
    Ok(page.section(table.html()))
}

fn filters(visitor: &Visitor) -> ConsoleForm {
    let value = |name| visitor.parameter(name).unwrap_or_default();
    ConsoleForm::filters(PATH)
        .field(FormField::line("type", "Type").value(value("type")).hint("user.login or user.*"))
        .field(FormField::line("account_id", "Account").value(value("account_id")))
        .field(FormField::line("user_id", "User").value(value("user_id")))
        .field(FormField::line("dedup_id", "Dedup id").value(value("dedup_id")))
        .field(FormField::line("trace_id", "Trace").value(value("trace_id")))
        .field(FormField::time("since", "From").value(value("since")))
        .field(FormField::time("until", "Until").value(value("until")))
}

/// The row of an event, also in the live tail.
pub(super) fn row(event: &EventView) -> Vec<Cell> {
    let event = event.summary();
    vec![
        Cell::link(format!("{PATH}/{}", event.id), &event.event_type),
        Cell::time(event.received_at),
        Cell::maybe(event.account_id.as_deref()),
        Cell::maybe(event.user_id.as_deref()),
        Cell::Number(bytes(event.payload_bytes as u64)),
    ]
}

/// `GET /console/events/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<EventId>,
) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let reading = 2 * visitor.app.settings().event_bytes_max;
    let _reading = held_answer::reserve(&visitor.app, Owner::of(&visitor.open.principal), reading)?;
    let look = |subsystems| {
        let reach = reach.clone();
        async move { events::one(&subsystems, reach, id).await }
    };
    let found = visitor.app.look_up(look).await?;
    let EventDetail { event, duplicates, conflicts, deliveries, deliveries_next_cursor } = found;
    let summary = event.summary();
    let mut page = visitor.page(summary.event_type.as_str()).crumb(PATH, "Events");
    if visitor.may(Scope::EndpointsManage) {
        let replay = Button::new("Send again", format!("{PATH}/{id}/replay"), &visitor.csrf());
        page = page.action(replay.html());
    }
    let account = summary.account_id.as_deref();
    let account = match account {
        Some(account) if !visitor.is_portal() => super::accounts::link(account),
        account => Cell::maybe(account),
    };
    let facts = FactList::new("Event")
        .with("Id", Cell::code(id))
        .with("Type", Cell::code(&summary.event_type))
        .with("Accepted", Cell::time(summary.received_at))
        .with_some("Happened", Cell::maybe_time(summary.occurred_at))
        .with_some("Account", account)
        .with_some("User", Cell::maybe(summary.user_id.as_deref()))
        .with_some("Dedup id", Cell::maybe(summary.dedup_id.as_deref()))
        .with_some("Duplicates dropped", duplicates.map_or(Cell::None, Cell::number))
        .with_some("Of those with other content", conflicts.map_or(Cell::None, Cell::number))
        .with(
            "Trace",
            Cell::link(format!("{PATH}?trace_id={}", summary.trace_id), &summary.trace_id),
        )
        .with("Payload", Cell::text(bytes(summary.payload_bytes as u64)));
    let payload = event.payload().map(|payload| String::from_utf8_lossy(payload));
    let payload = payload.unwrap_or_default();
    let shown = if payload.is_empty() {
        Panel::html(
            "Payload",
            vec![paragraph(
                "The payload is removed: it is older than payloads are kept, or was erased.",
            )],
        )
    } else {
        let mut parts = vec![CodeBlock::json("Payload", &payload)];
        if !visitor.is_portal() {
            parts.push(curl(&event, &payload));
        }
        Panel::html("Payload", parts)
    };
    let all = format!("/console/deliveries?event_id={id}");
    let more = deliveries_next_cursor.map(|_| all);
    Ok(page.section(facts.html()).section(table(&deliveries, more)).section(shown))
}

/// The event as a call that posts it again.
fn curl(event: &EventView, payload: &str) -> Html {
    /// A call that is longer is of no use in a shell.
    const BYTES_MAX: usize = 8 * 1024;
    if payload.len() > BYTES_MAX {
        return Html::default();
    }
    let kind = event.summary().event_type.as_str();
    let body = shell_quoted(&format!("{{\"type\":\"{kind}\",\"payload\":{payload}}}"));
    let text = format!(
        "curl -i \"$API_URL/api/events\" \\\n  -H \"X-API-Key: $HOOKGATE_API_KEY\" \\\n  -H 'Content-Type: application/json' \\\n  -d {body}"
    );
    let code = CodeBlock::text("Post this event as a new one with curl", &text);
    Html(format!("<details class=\"more\"><summary>As curl</summary>{code}</details>"))
}

fn table(deliveries: &[DeliveryView], more: Option<String>) -> Html {
    let columns = ["Event", "Endpoint", "State", "Created", "#Attempts", "Last error"];
    DataTable::new("Deliveries", &columns)
        .rows(deliveries.iter().map(super::deliveries::row))
        .pages(None, more)
        .empty(
            "No delivery",
            "No endpoint subscribes to this type, or none did when the event was accepted.",
        )
        .step("/console/endpoints", "Endpoints")
        .html()
}

/// `POST /console/events/{id}/replay`.
pub(in crate::http::console) async fn replay(
    Id(id): Id<EventId>,
    PostedForm { visitor, form }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let endpoint = form.some("endpoint_id").map(str::parse).transpose();
    let endpoint = endpoint.map_err(|_| ApiError::NotFound)?;
    events::replay(visitor.app.subsystems(), reach, id, endpoint, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=replayed")))
}
