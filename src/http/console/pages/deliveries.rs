//! Deliveries: the list, and one with its attempts.

use axum::response::Response;

use crate::api::deliveries;
use crate::api::views::{AttemptView, DeliveryDetail, DeliveryView};
use crate::delivery::SentRequest;
use crate::domain::{DeliveryId, DeliveryStatus, ErrorClass, Scope};
use crate::http::console::explain;
use crate::http::console::failure::{ConsoleError, see_other};
use crate::http::console::lists::{self, Asked};
use crate::http::console::posted::PostedForm;
use crate::http::console::ui::{
    Button, Cell, CodeBlock, ConsoleForm, ConsolePage, DataTable, FactList, FormField, Html, Panel,
    Tone, changing, grouped, paragraph,
};
use crate::http::console::visitor::Visitor;
use crate::http::extract::Id;
use crate::http::routes::deliveries::DeliveryQuery;

const PATH: &str = "/console/deliveries";

/// `GET /console/deliveries`.
pub(in crate::http::console) async fn list(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let Asked { filter, page: request, list, violations } =
        lists::asked::<DeliveryQuery>(&visitor)?;
    let page = lists::with_filters(visitor.page("Deliveries"), filters(&visitor), &violations);
    if !violations.is_empty() {
        return Ok(page);
    }
    let filter = filter.filter();
    let found = deliveries::list(visitor.app.replica_reads(), reach, &filter, request).await?;
    let found = found.map(DeliveryView::from);
    let (first, next) = visitor.list_pages(&list, found.next_cursor);
    let columns = ["Event", "Endpoint", "State", "Created", "#Attempts", "Last error"];
    let table = DataTable::new("Deliveries", &columns)
        .rows(found.data.iter().map(row))
        .pages(first, next)
        .empty(
            "No delivery matches",
            "Events become deliveries once an endpoint subscribes to their type.",
        )
        .step("/console/endpoints/new", "Add an endpoint");
    Ok(page.section(table.html()))
}

fn filters(visitor: &Visitor) -> ConsoleForm {
    let value = |name| visitor.parameter(name).unwrap_or_default();
    let states = ["pending", "delivered", "dead", "cancelled"];
    let classes: Vec<&str> = ErrorClass::ALL.iter().map(|class| class.as_str()).collect();
    ConsoleForm::filters(PATH)
        .field(FormField::choice("status", "State", "Any", &states).value(value("status")))
        .field(
            FormField::line("type", "Event type").value(value("type")).hint("user.login or user.*"),
        )
        .field(
            FormField::choice("error_class", "Last error", "Any", &classes)
                .value(value("error_class")),
        )
        .field(
            FormField::line("status_code", "Answered")
                .value(value("status_code"))
                .hint("such as 503"),
        )
        .field(FormField::line("endpoint_id", "Endpoint id").value(value("endpoint_id")))
        .field(FormField::line("event_id", "Event id").value(value("event_id")))
        .field(FormField::time("since", "From").value(value("since")))
        .field(FormField::time("until", "Until").value(value("until")))
}

/// The row of a delivery, also below its event and its endpoint.
pub(super) fn row(delivery: &DeliveryView) -> Vec<Cell> {
    let event = delivery.event_type.clone().unwrap_or_else(|| "delivery".to_owned());
    let endpoint = delivery.endpoint_url.as_deref().unwrap_or("an inbox, or deleted");
    vec![
        Cell::link(format!("{PATH}/{}", delivery.id), event),
        Cell::text(endpoint),
        Cell::status(delivery.status),
        Cell::time(delivery.created_at),
        Cell::number(delivery.attempt_count.into()),
        last_error(delivery),
    ]
}

fn last_error(delivery: &DeliveryView) -> Cell {
    let class = delivery.last_error_class.map(ErrorClass::as_str);
    match (class, delivery.last_status_code) {
        (Some("status"), Some(code)) => Cell::text(format!("answered {code}")),
        (Some(class), _) => Cell::text(class),
        (None, _) => Cell::None,
    }
}

/// `GET /console/deliveries/{id}`.
pub(in crate::http::console) async fn one(
    visitor: Visitor,
    Id(id): Id<DeliveryId>,
) -> Result<ConsolePage, ConsoleError> {
    let reach = visitor.reach(Scope::EventsRead)?;
    let look = |subsystems| {
        let reach = reach.clone();
        async move { deliveries::one(&subsystems, reach, id).await }
    };
    let DeliveryDetail { delivery, attempts } = visitor.app.look_up(look).await?;
    let mut page = visitor.page("Delivery").crumb(PATH, "Deliveries");
    if visitor.may(Scope::EndpointsManage) {
        page = actions(page, &visitor, &delivery);
    }
    let event = delivery.event_type.clone().unwrap_or_else(|| delivery.event_id.to_string());
    let endpoint =
        delivery.endpoint_url.clone().unwrap_or_else(|| delivery.endpoint_id.to_string());
    let state = explain::state(delivery.status, delivery.held_by);
    let mut facts = FactList::new("")
        .with("State", Cell::status(delivery.status))
        .with("Meaning", Cell::text(state))
        .with("Event", Cell::link(format!("/console/events/{}", delivery.event_id), event))
        .with(
            "Endpoint",
            Cell::link(format!("/console/endpoints/{}", delivery.endpoint_id), endpoint),
        )
        .with("Created", Cell::time(delivery.created_at))
        .with_some("Next attempt", Cell::maybe_time(delivery.next_attempt_at))
        .with_some("Finished", Cell::maybe_time(delivery.finished_at))
        .with("Delivery id", Cell::code(id));
    if let Some(of) = delivery.replay_of {
        facts = facts.with("Repeats", Cell::link(format!("{PATH}/{of}"), of));
    }
    let is_pending = delivery.status == DeliveryStatus::Pending;
    let parts = vec![facts.html(), attempts_panel(&attempts, delivery.attempt_count)];
    Ok(page.section(changing(&visitor.here(), is_pending, parts)))
}

/// The newest attempts of so many, the last one first.
fn attempts_panel(attempts: &[AttemptView], made: u32) -> Html {
    let (shown, made) = (attempts.len() as u64, u64::from(made));
    let mut parts = Vec::new();
    if attempts.is_empty() {
        parts.push(paragraph("No attempt yet."));
    } else if made > shown {
        let text = format!("The newest {} of {} attempts.", grouped(shown), grouped(made));
        parts.push(paragraph(&text));
    }
    parts.extend(attempts.iter().rev().map(attempt));
    Panel::html("Attempts", parts)
}

fn actions(page: ConsolePage, visitor: &Visitor, delivery: &DeliveryView) -> ConsolePage {
    let button = |label: &str, verb: &str| {
        Button::new(label, format!("{PATH}/{}/{verb}", delivery.id), &visitor.csrf())
    };
    match delivery.status {
        DeliveryStatus::Pending => page
            .action(button("Retry now", "retry").main().html())
            .action(button("Cancel", "cancel").html()),
        DeliveryStatus::Dead => page
            .action(button("Replay", "replay").main().html())
            .action(button("Retry once", "retry").html()),
        DeliveryStatus::Delivered | DeliveryStatus::Cancelled => {
            page.action(button("Replay", "replay").html())
        }
    }
}

fn attempt(AttemptView { attempt, request }: &AttemptView) -> Html {
    let (tone, outcome) = match (attempt.status_code, attempt.error_class) {
        (Some(code), None) => (Tone::Good, format!("answered {code}")),
        (Some(code), Some(_)) => (Tone::Bad, format!("answered {code}")),
        (None, class) => (Tone::Bad, class.map_or("failed", ErrorClass::as_str).to_owned()),
    };
    let mut facts = FactList::new("")
        .with("Started", Cell::time(attempt.started_at))
        .with("Took", Cell::text(format!("{} ms", grouped(attempt.duration_ms.into()))));
    if let Some(class) = attempt.error_class {
        let explained = explain::attempt(class, attempt.status_code);
        facts = facts.with("What happened", Cell::text(explained.what));
        facts = facts.with("What to do", Cell::text(explained.remedy));
    }
    facts = facts.with_some("Error", Cell::maybe(attempt.error.as_deref()));
    let mut parts = vec![facts_only(&facts)];
    if let Some(excerpt) = attempt.response_excerpt.as_deref().filter(|text| !text.is_empty()) {
        // The number, since each block is a region with a name of its own.
        let label = format!("Answer to attempt {}, its start", attempt.number);
        parts.push(CodeBlock::text(&label, excerpt));
    }
    if let Some(request) = request {
        parts.push(sent(attempt.number, request));
    }
    let heading = Cell::badge(tone, outcome);
    let parts = Html::from(parts);
    Html(format!(
        "<div class=\"attempt {}\"><h3>Attempt {} {heading}</h3>{parts}</div>",
        tone.class(),
        attempt.number
    ))
}

/// The facts without a box of their own.
fn facts_only(facts: &FactList) -> Html {
    Html(facts.html().0.replacen("<section class=\"panel\">", "<div>", 1).replacen(
        "</section>",
        "</div>",
        1,
    ))
}

/// A text as one word of a shell.
pub(super) fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// The request of an attempt as it was sent, and as a call.
fn sent(number: u32, request: &SentRequest) -> Html {
    let SentRequest { method, url, headers, body_bytes } = request;
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
    let head = format!("{method} {url}\n{}", lines.collect::<String>());
    let note = format!(
        "The body has {} bytes: the event's payload in its envelope. *** stands for what is secret.",
        grouped(*body_bytes as u64)
    );
    let flags = headers
        .iter()
        .map(|(name, value)| format!(" \\\n  -H {}", shell_quoted(&format!("{name}: {value}"))));
    let curl = format!(
        "curl -i -X {method} {}{} \\\n  -d @body.json",
        shell_quoted(url),
        flags.collect::<String>()
    );
    let request = CodeBlock::text(&format!("Request of attempt {number} as it was sent"), &head);
    let note = paragraph(&note);
    let curl = CodeBlock::text(&format!("Request of attempt {number} with curl"), &curl);
    Html(format!(
        "<details class=\"more\"><summary>Request</summary>{request}{note}{curl}</details>"
    ))
}

/// `POST /console/deliveries/{id}/retry`.
pub(in crate::http::console) async fn retry(
    Id(id): Id<DeliveryId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    deliveries::retry(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=retried")))
}

/// `POST /console/deliveries/{id}/replay`: leads to the new delivery.
pub(in crate::http::console) async fn replay(
    Id(id): Id<DeliveryId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    let repeated = deliveries::replay(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}/{}?done=replayed", repeated.id)))
}

/// `POST /console/deliveries/{id}/cancel`.
pub(in crate::http::console) async fn cancel(
    Id(id): Id<DeliveryId>,
    PostedForm { visitor, .. }: PostedForm,
) -> Result<Response, ConsoleError> {
    let (reach, by) = visitor.change(Scope::EndpointsManage)?;
    deliveries::cancel(visitor.app.subsystems(), reach, id, &by).await?;
    Ok(see_other(&format!("{PATH}/{id}?done=cancelled")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Attempt, Timestamp};

    #[test]
    fn words_of_a_shell_hold_whatever_is_in_them() {
        assert_eq!(shell_quoted("x'|reboot|': v"), "'x'\\''|reboot|'\\'': v'");
    }

    #[test]
    fn panel_tells_how_many_attempts_it_leaves_out() {
        let made = |number| AttemptView {
            attempt: Attempt {
                number,
                started_at: Timestamp::from_micros(0),
                duration_ms: 1,
                status_code: Some(500),
                error_class: Some(ErrorClass::Status),
                error: None,
                response_excerpt: None,
            },
            request: None,
        };
        let shown = [made(1_003), made(1_004)];
        let panel = |made| attempts_panel(&shown, made).0;
        let text = format!("The newest 2 of {} attempts.", grouped(1_004));
        assert!(panel(1_004).contains(&text));
        assert!(!panel(2).contains("newest"));
        assert!(attempts_panel(&[], 0).0.contains("No attempt yet."));
    }
}
