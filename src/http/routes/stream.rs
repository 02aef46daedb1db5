//! `GET /api/stream`: what happens in an organisation, as it happens.

use axum::extract::State;
use axum::response::Response;

use crate::api::changes::ChangeFilter;
use crate::domain::{ChangeKind, EventTypeFilter};
use crate::http::change_stream;
use crate::http::error::ApiError;
use crate::http::extract::{EventsRead, Scoped};
use crate::http::header_extract::LastEventId;
use crate::http::request::{Include, Parameters, query_fields};
use crate::http::server::RequestDeadline;
use crate::http::state::AppState;
use crate::http::stream_caller::StreamCaller;

query_fields! {
    /// What is streamed.
    pub(in crate::http) struct StreamQuery {
        /// Of this kind only: `event`, `delivery` or `dead_letter`.
        kind: ChangeKind,
        /// Events of this type: `user.login`, or a prefix such as `user.*`.
        r#type: EventTypeFilter,
        /// `payload`: events with their payloads.
        include: Include,
    }
}

/// `GET /api/stream`: server-sent events. `Last-Event-ID` goes on behind that one.
pub(in crate::http) async fn follow(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    LastEventId(after): LastEventId,
    Parameters(query): Parameters<StreamQuery>,
) -> Result<Response, ApiError> {
    let StreamQuery { kind, r#type, include } = query;
    let kinds = kind.map_or_else(|| ChangeKind::ALL.to_vec(), |kind| vec![kind]);
    let filter = ChangeFilter { kinds, event_type: r#type, with_payloads: include.is_some() };
    change_stream::answer(app, tenant, caller, deadline, (filter, after)).await
}
