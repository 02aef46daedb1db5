//! The live tail: what happens in an organisation, as it happens.

use std::fmt::Write;
use std::net::IpAddr;

use axum::response::Response;

use crate::api::changes::{Change, ChangeFilter};
use crate::auth::SessionToken;
use crate::domain::{ChangeCursor, ChangeKind, OrgId, Scope};
use crate::http::byte_budget::Owner;
use crate::http::change_stream::{self, FollowsChanges};
use crate::http::console::failure::ConsoleError;
use crate::http::console::found_session::org_of;
use crate::http::console::ui::{Button, Cell, ConsolePage, Html, Tone, escaped};
use crate::http::console::visitor::Visitor;
use crate::http::error::ApiError;
use crate::http::header_extract::LastEventId;
use crate::http::read_limit::ReadPermit;
use crate::http::server::RequestDeadline;
use crate::http::state::AppState;

/// The columns of the table.
const LABELS: [&str; 5] = ["What", "Name", "State", "When", "Id"];

/// A session that follows changes.
struct LiveSession {
    token: SessionToken,
    address: IpAddr,
}

/// `GET /console/live`.
pub(in crate::http::console) async fn show(visitor: Visitor) -> Result<ConsolePage, ConsoleError> {
    visitor.org(Scope::EventsRead)?;
    let head = LABELS.map(|label| format!("<th scope=\"col\" role=\"columnheader\">{label}</th>"));
    let head = head.concat();
    let tail = format!(
        "<section class=\"panel\" data-stream=\"/console/live/stream\">\
         <div class=\"head\"><p data-state role=\"status\">Connecting…</p>\
         <button type=\"button\" data-pause hidden>Pause</button></div>\
         <noscript><p>The live tail needs scripts. The lists of events and deliveries work without.</p></noscript>\
         <table class=\"cards\" role=\"table\"><caption class=\"unseen\">Live changes, newest first</caption>\
         <thead role=\"rowgroup\"><tr role=\"row\">{head}</tr></thead><tbody role=\"rowgroup\"></tbody></table><p class=\"empty\" data-empty>Waiting for the next event…</p></section>"
    );
    let page = visitor
        .page("Live")
        .lead("Events, deliveries and dead letters as they happen, newest first.");
    let page = page.action(Button::link("Events", "/console/events", false));
    Ok(page.section(Html(tail)))
}

/// `GET /console/live/stream`: server-sent events, each a row of the table.
pub(in crate::http::console) async fn stream(
    LastEventId(last): LastEventId,
    deadline: RequestDeadline,
    mut visitor: Visitor,
) -> Result<Response, ConsoleError> {
    let org = visitor.org(Scope::EventsRead)?;
    let after = last.or_else(|| visitor.parsed::<ChangeCursor>("after"));
    let filter =
        ChangeFilter { kinds: ChangeKind::ALL.to_vec(), event_type: None, with_payloads: false };
    let reading = visitor.take_reading().ok_or_else(|| ApiError::internal("no read"))?;
    let follower = LiveSession { token: visitor.token.clone(), address: visitor.address };
    let (app, reader) = (visitor.app.clone(), (org, Owner::of(&visitor.open.principal), reading));
    drop(visitor);
    Ok(change_stream::answer(app, reader, follower, deadline, (filter, after)).await?)
}

impl FollowsChanges for LiveSession {
    type Reader = ReadPermit;

    async fn again(&self, app: &AppState) -> Result<(OrgId, ReadPermit), ApiError> {
        let open = app.authenticator.session(&self.token, self.address, false).await?;
        let open = open.ok_or(ApiError::KeyInvalid)?;
        let org = org_of(&open, Scope::EventsRead).map_err(|_| ApiError::KeyInvalid)?;
        Ok((org, ReadPermit::take(app, &open.principal).await?))
    }

    fn write(text: &mut String, id: ChangeCursor, change: &Change) -> Result<(), ApiError> {
        let cells = row(change);
        let cells = cells.iter().zip(LABELS);
        let cell = |(cell, label): (&Cell, &str)| {
            format!("<td role=\"cell\" data-label=\"{label}\"><span>{cell}</span></td>")
        };
        let cells: String = cells.map(cell).collect();
        // Cells have no line breaks outside of what tenants write.
        let cells = cells.replace(['\n', '\r'], " ");
        let _ = write!(text, "id: {id}\ndata: <tr role=\"row\">{cells}</tr>\n\n");
        Ok(())
    }
}

fn row(change: &Change) -> [Cell; 5] {
    match change {
        Change::Event(event) => {
            let event = event.summary();
            [
                Cell::text("event"),
                Cell::link(format!("/console/events/{}", event.id), &event.event_type),
                Cell::badge(Tone::Plain, "accepted"),
                Cell::time(event.received_at),
                Cell::code(event.id),
            ]
        }
        Change::Delivery(delivery) => {
            let name = delivery.event_type.clone().unwrap_or_else(|| "delivery".to_owned());
            let url = delivery.endpoint_url.as_deref().unwrap_or("inbox");
            let href = format!("/console/deliveries/{}", delivery.id);
            let link = Cell::link(href, name);
            let name = format!("{link} <span class=\"quiet\">to {}</span>", escaped(url));
            [
                Cell::text("delivery"),
                Cell::Html(Html(name)),
                Cell::status(delivery.status),
                Cell::time(delivery.finished_at.unwrap_or(delivery.created_at)),
                Cell::code(delivery.id),
            ]
        }
        Change::DeadLetter(letter) => {
            let name = letter.event_type.clone().unwrap_or_else(|| "rejected event".to_owned());
            [
                Cell::text("dead letter"),
                Cell::link(format!("/console/dead-letters/{}", letter.id), name),
                Cell::badge(Tone::Bad, &*letter.reason),
                Cell::time(letter.created_at),
                Cell::code(letter.id),
            ]
        }
    }
}
