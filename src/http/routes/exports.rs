//! Exports of events, deliveries and dead letters as NDJSON.

use axum::extract::State;
use schemars::JsonSchema;

use super::dead_letters::DeadLetterQuery;
use super::deliveries::DeliveryQuery;
use super::events::EventQuery;
use crate::api::views::{DeliveryView, EventView};
use crate::domain::{DeadLetter, ListCursor};
use crate::http::error::ApiError;
use crate::http::export::{Exported, answer};
use crate::http::extract::{EventsRead, Scoped};
use crate::http::openapi::JsonLines;
use crate::http::request::ExportList;
use crate::http::respond::WrittenAnswer;
use crate::http::server::RequestDeadline;
use crate::http::state::AppState;
use crate::http::stream_caller::StreamCaller;

/// One line of an export: a row, or where the export goes on.
#[derive(JsonSchema)]
#[schemars(rename = "{T}Line", untagged)]
#[expect(dead_code, reason = "describes what `export` writes")]
pub(in crate::http) enum ExportLine<T> {
    Row(T),
    End(ExportEnd),
}

/// The line behind each page, and the last one.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `export` writes")]
pub(in crate::http) struct ExportEnd {
    /// Where an export that ends here goes on; `null` at the end of the list.
    next_cursor: Option<ListCursor>,
    /// Why it ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ExportError>,
}

/// Why an export ended early.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `export` writes")]
pub(in crate::http) struct ExportError {
    /// The code of the error.
    code: String,
    /// Its detail.
    detail: String,
}

/// `GET /api/events/export`.
pub(in crate::http) async fn of_events(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    ExportList { after, listing, filter }: ExportList<EventQuery>,
) -> Result<WrittenAnswer<JsonLines<ExportLine<EventView>>>, ApiError> {
    let with_payloads = filter.include.is_some();
    let exported = Exported::Events(filter.filter(), with_payloads);
    answer(app, tenant, caller, deadline, (exported, listing, after)).await.map(Into::into)
}

/// `GET /api/deliveries/export`.
pub(in crate::http) async fn of_deliveries(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    ExportList { after, listing, filter }: ExportList<DeliveryQuery>,
) -> Result<WrittenAnswer<JsonLines<ExportLine<DeliveryView>>>, ApiError> {
    let exported = Exported::Deliveries(filter.filter());
    answer(app, tenant, caller, deadline, (exported, listing, after)).await.map(Into::into)
}

/// `GET /api/dead-letters/export`.
pub(in crate::http) async fn of_dead_letters(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    ExportList { after, listing, filter }: ExportList<DeadLetterQuery>,
) -> Result<WrittenAnswer<JsonLines<ExportLine<DeadLetter>>>, ApiError> {
    let exported = Exported::DeadLetters(filter.filter());
    answer(app, tenant, caller, deadline, (exported, listing, after)).await.map(Into::into)
}
