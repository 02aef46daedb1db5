//! `GET /api/stream`: what happens in an organisation, as it happens.

use axum::extract::State;
use schemars::JsonSchema;

use crate::api::changes::{Change, ChangeFilter};
use crate::domain::{ChangeKind, EventTypeFilter};
use crate::http::byte_budget::Owner;
use crate::http::change_stream;
use crate::http::error::ApiError;
use crate::http::extract::{EventsRead, Scoped};
use crate::http::header_extract::LastEventId;
use crate::http::openapi::EventStream;
use crate::http::request::{Include, Parameters, query_fields};
use crate::http::respond::WrittenAnswer;
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

/// The data of one server-sent event.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "describes what `change_stream` writes")]
pub(in crate::http) enum StreamedChange {
    Change(Box<Change>),
    Notice(StreamNotice),
}

/// Why a stream begins anew, `reset`.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `change_stream` writes")]
pub(in crate::http) struct StreamNotice {
    /// A stable code.
    reason: String,
}

/// `GET /api/stream`: server-sent events. `Last-Event-ID` goes on behind that one.
pub(in crate::http) async fn follow(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    caller: StreamCaller<EventsRead>,
    deadline: RequestDeadline,
    LastEventId(after): LastEventId,
    Parameters(query): Parameters<StreamQuery>,
) -> Result<WrittenAnswer<EventStream<StreamedChange>>, ApiError> {
    let StreamQuery { kind, r#type, include } = query;
    let kinds = kind.map_or_else(|| ChangeKind::ALL.to_vec(), |kind| vec![kind]);
    let filter = ChangeFilter { kinds, event_type: r#type, with_payloads: include.is_some() };
    let reader = (tenant.org_id, Owner::Org(tenant.org_id), tenant);
    change_stream::answer(app, reader, caller, deadline, (filter, after)).await.map(Into::into)
}
