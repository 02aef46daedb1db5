//! Exports of events, deliveries and dead letters as NDJSON.

use axum::extract::State;
use axum::response::Response;

use super::dead_letters::DeadLetterQuery;
use super::deliveries::DeliveryQuery;
use super::events::EventQuery;
use crate::http::error::ApiError;
use crate::http::export::{Exported, answer};
use crate::http::extract::{EventsRead, Scoped};
use crate::http::request::ExportList;
use crate::http::server::RequestDeadline;
use crate::http::state::AppState;
use crate::http::stream_caller::StreamCaller;

/// `GET /api/events/export`.
pub(in crate::http) async fn of_events(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    ExportList { after, order, filter }: ExportList<EventQuery>,
) -> Result<Response, ApiError> {
    let with_payloads = filter.include.is_some();
    let exported = Exported::Events(filter.in_order(order), with_payloads);
    answer(app, tenant, caller, deadline, (exported, after)).await
}

/// `GET /api/deliveries/export`.
pub(in crate::http) async fn of_deliveries(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    ExportList { after, order, filter }: ExportList<DeliveryQuery>,
) -> Result<Response, ApiError> {
    let exported = Exported::Deliveries(filter.in_order(order));
    answer(app, tenant, caller, deadline, (exported, after)).await
}

/// `GET /api/dead-letters/export`.
pub(in crate::http) async fn of_dead_letters(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    ExportList { after, order, filter }: ExportList<DeadLetterQuery>,
) -> Result<Response, ApiError> {
    let exported = Exported::DeadLetters(filter.in_order(order));
    answer(app, tenant, caller, deadline, (exported, after)).await
}
