//! Events: reading and replaying them. `post_events` accepts them.
//!
//! An event can be read once it is stored, usually milliseconds after its `202`.

use axum::extract::State;
use axum::response::IntoResponse;
use serde::Serialize;

use crate::api::events;
use crate::api::views::{EventDetail, EventView, ReplayedEvent};
use crate::domain::{
    Cursor, EndpointId, EventFilter, EventId, EventTypeFilter, PageRequest, Timestamp, TraceFilter,
};
use crate::http::byte_budget::Owner;
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::held_answer;
use crate::http::request::{
    Include, Label, List, ListPage, NoQuery, OptionalBody, Positioned, json_fields, query_fields,
};
use crate::http::respond::{self, Accepted, Json, WrittenAnswer};
use crate::http::state::AppState;

pub(in crate::http) use super::post_events::{post_batch, post_one, post_raw};

/// Answers with more bytes of payloads are written on the background threads: each byte is checked and copied.
const WRITTEN_HERE_BYTES_MAX: usize = 256 * 1024;
/// A page of payloads as it was read, and as it is written.
const READING_BYTES: usize = 2 * PageRequest::PAYLOAD_BYTES_MAX;
/// What an answer is expected to have beside payloads.
const FIELDS_BYTES: usize = 64 * 1024;

query_fields! {
    /// Which events are listed.
    pub(in crate::http) struct EventQuery {
        /// Of this type: `user.login`, or a prefix such as `user.*`, `user:*` or `user/*`.
        r#type: EventTypeFilter,
        /// Of this account.
        account_id: Label,
        /// Of this user.
        user_id: Label,
        /// With this dedup id.
        dedup_id: Label,
        /// Of this trace: its 32 digits, or the text that its sender gave as `x-trace-id`.
        trace_id: TraceFilter,
        /// Accepted at this time or later.
        since: Timestamp,
        /// Accepted before this time.
        until: Timestamp,
        /// `payload`: the events with their payloads. Then a page ends early at 4 MiB of them.
        include: Include,
    }
}

json_fields! {
    /// Where an event is sent again.
    pub(in crate::http) struct EventReplay {
        /// To this endpoint; if left out, to every endpoint that received it.
        optional endpoint_id: EndpointId,
    }
}

/// `GET /api/events`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, listing, filter }: List<EventQuery>,
) -> Result<WrittenAnswer<Json<ListPage<EventView>>>, ApiError> {
    let (org, with_payloads) = (tenant.org_id, filter.include.is_some());
    let filter = filter.filter();
    // Until the answer is there and counted.
    let _reading = if with_payloads {
        Some(held_answer::reserve(&app, Owner::Org(org), READING_BYTES)?)
    } else {
        None
    };
    let events = events::list(app.replica_reads(), org, &filter, page, with_payloads).await?;
    let bytes = events.data.iter().map(EventView::shown_payload_bytes).sum();
    answer(&app, listing.page(events), bytes).await
}

/// `GET /api/events/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EventId>,
    _: NoQuery,
) -> Result<WrittenAnswer<Json<EventDetail>>, ApiError> {
    let org = tenant.org_id;
    let _reading = held_answer::reserve(&app, Owner::Org(org), reading_bytes(&app))?;
    let look = |subsystems| async move { events::one(&subsystems, org, id).await };
    let shown = app.look_up(look).await?;
    let bytes = shown.event.shown_payload_bytes();
    answer(&app, shown, bytes).await
}

/// What reading an event takes at most, or a page of payloads if that is less: larger events are counted when the
/// answer is there.
fn reading_bytes(app: &AppState) -> usize {
    READING_BYTES.min(2 * app.settings().event_bytes_max)
}

/// 200 with a body that has `payload_bytes` of payloads.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    app: &AppState,
    body: T,
    payload_bytes: usize,
) -> Result<WrittenAnswer<Json<T>>, ApiError> {
    if payload_bytes <= WRITTEN_HERE_BYTES_MAX {
        return Ok(Json(body).into_response().into());
    }
    respond::large_json(app, body, payload_bytes + FIELDS_BYTES).await.map(Into::into)
}

/// `POST /api/events/{id}/replay`: 202 with the new deliveries.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EventId>,
    OptionalBody(EventReplay { endpoint_id }): OptionalBody<EventReplay>,
) -> Result<Accepted<ReplayedEvent>, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    Ok(Accepted(events::replay(app.subsystems(), org, id, endpoint_id, &by).await?))
}

impl Positioned for EventView {
    fn position(&self) -> Cursor {
        self.cursor()
    }
}

impl EventQuery {
    /// The events that are asked for.
    pub(in crate::http) fn filter(self) -> EventFilter {
        let Self { r#type, account_id, user_id, dedup_id, trace_id, since, until, include: _ } =
            self;
        EventFilter {
            event_type: r#type,
            account_id: account_id.map(|label| label.0),
            user_id: user_id.map(|label| label.0),
            dedup_id: dedup_id.map(|label| label.0),
            since,
            until,
            trace: trace_id,
        }
    }
}
