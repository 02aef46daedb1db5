//! Posting events: the hot path.
//!
//! Order: key, media type, rate limit, body, parse, limits by type and of deliveries, journal. The cost
//! of a single event is known before its body is read, so the server neither buffers nor parses for a
//! tenant over its limit. The cost of a batch is known only after parsing: it is refused unread when nothing is left
//! of a limit; its body and the number of its events are bounded either way. An event that is refused after the rate
//! limit still counts against it.
//!
//! A body holds its bytes of the budget until its events are in the journal.

use std::slice;

use axum::extract::State;
use axum::http::header::WARNING;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;

use super::deduplication::{Deduplication, Duplicate};
use super::event_answers::{
    AcceptedEvent, AcceptedEvents, RawAccepted, accepted, many_accepted, one_accepted,
};
use super::event_bodies::{EventBatchBody, RawEvent, SingleEvent};
use super::event_forms::{self, EventForm};
use crate::domain::{
    CloudEventMode, EventId, MediaType, NewEvent, NewEventError, NewEventLimits, Violation,
    is_envelope, parse_batch, parse_cloud_events, parse_lines, parse_raw, raw_header_for,
};
use crate::http::body::ReceivedBody;
use crate::http::byte_budget::Owner;
use crate::http::error::ApiError;
use crate::http::extract::{EventsWrite, Scoped, Tenant};
use crate::http::metrics::RejectedRequest;
use crate::http::request::{UnreadRequest, refuse_query};
use crate::http::request_context::RequestContext;
use crate::http::respond::{Accepted, RateLimitHeaders, WrittenAnswer};
use crate::http::server_span::ServerSpan;
use crate::http::state::{AppState, Settings};
use crate::http::{body, rate_limit};
use crate::ingest::AcceptError;
use crate::journal::AppendError;
use crate::limit::RateLimitState;

/// A batch of more bytes than this is parsed on the background threads. A hundred small events stay
/// below it; a thousand take half a millisecond, for which no other tenant should have to wait.
const PARSED_HERE_BYTES_MAX: usize = 32 * 1024;
/// A single event of more bytes than this is parsed, encoded and checksummed there. The largest one by default stays
/// below it.
const ACCEPTED_HERE_BYTES_MAX: usize = 512 * 1024;

/// The warning at an event posted as a raw body, RFC 7234, section 5.5.7.
const ENVELOPE_WARNING: &str = "299 - \"The body looks like an event, and became the payload of an \
                                event of type raw. Post events to /api/events.\"";

/// `POST /api/events`: 202 once the event is on stable storage.
pub(in crate::http) async fn post_one(
    State(app): State<AppState>,
    context: RequestContext,
    tenant: Scoped<EventsWrite>,
    UnreadRequest { request, .. }: UnreadRequest<SingleEvent>,
) -> Result<WrittenAnswer<(RateLimitHeaders, Accepted<AcceptedEvent>)>, ApiError> {
    let dedup = Deduplication::asked(&request, |_| None)?;
    let form = EventForm::of(request.headers())?;
    let taken = rate_limit::take_unparsed(&app, &tenant)?;
    let limits = app.settings().new_event_limits(&tenant.principal.limits);
    let bytes_max = Settings::event_body_bytes_max(&limits);
    let body = body::read(&app, Owner::Org(tenant.org_id), request, bytes_max).await;
    let body = body.map_err(|error| error.naming_payload_limit(&limits))?;
    rate_limit::take_bytes(&app, &tenant, &body)?;
    if body.len() > ACCEPTED_HERE_BYTES_MAX {
        let threads = app.background.clone();
        let accepting =
            async move { accept_one(&app, &context, &tenant, taken, (dedup, form), &body).await };
        let answer = threads.spawn(accepting).await.map_err(ApiError::internal)?;
        return answer.map(Into::into);
    }
    accept_one(&app, &context, &tenant, taken, (dedup, form), &body).await.map(Into::into)
}

/// Parses an event and accepts it.
async fn accept_one(
    app: &AppState,
    context: &RequestContext,
    tenant: &Tenant,
    taken: Option<RateLimitState>,
    (dedup, form): (Deduplication, EventForm),
    body: &ReceivedBody,
) -> Result<Response, ApiError> {
    let limits = app.settings().new_event_limits(&tenant.principal.limits);
    let new_event = form.parse(body, &limits).map_err(|error| refuse_event(app, &limits, error))?;
    accept_single(app, context, tenant, taken, dedup, new_event).await
}

/// Accepts an event, unless it is a duplicate and its sender asked for that to be found first.
async fn accept_single(
    app: &AppState,
    context: &RequestContext,
    tenant: &Tenant,
    taken: Option<RateLimitState>,
    mut dedup: Deduplication,
    mut new_event: NewEvent<'_>,
) -> Result<Response, ApiError> {
    dedup.name(&mut new_event);
    let quota = rate_limit::take_parsed(app, tenant, slice::from_ref(&new_event), taken)?;
    let found = dedup.find(app, tenant, &new_event).await?;
    if let Some((id, found)) = found
        && found != Duplicate::None
    {
        return Ok(accepted(one_accepted(id, Some(found)), quota));
    }
    let ids = accept(app, context, tenant, slice::from_ref(&new_event)).await?;
    let [id] = ids[..] else { return Err(ApiError::internal("an event without an id")) };
    Ok(accepted(one_accepted(id, found.map(|(_, found)| found)), quota))
}

/// `POST /api/events/raw`: any body, taken as it is; 202 once the event is on stable storage.
pub(in crate::http) async fn post_raw(
    State(app): State<AppState>,
    context: RequestContext,
    tenant: Scoped<EventsWrite>,
    UnreadRequest { request, .. }: UnreadRequest<RawEvent>,
) -> Result<WrittenAnswer<RawAccepted>, ApiError> {
    let dedup = Deduplication::asked(&request, raw_header_for)?;
    let taken = rate_limit::take_unparsed(&app, &tenant)?;
    let (head, body) = request.into_parts();
    let limits = app.settings().new_event_limits(&tenant.principal.limits);
    let (owner, bytes_max) = (Owner::Org(tenant.org_id), limits.payload_bytes_max);
    let body = body::read_beside(&app, owner, &head.headers, body, bytes_max).await?;
    rate_limit::take_bytes(&app, &tenant, &body)?;
    if body.len() > ACCEPTED_HERE_BYTES_MAX {
        let threads = app.background.clone();
        let accepting = async move {
            accept_raw(&app, &context, &tenant, taken, dedup, &head.headers, &body).await
        };
        let answer = threads.spawn(accepting).await.map_err(ApiError::internal)?;
        return answer.map(Into::into);
    }
    accept_raw(&app, &context, &tenant, taken, dedup, &head.headers, &body).await.map(Into::into)
}

/// Makes an event of a raw body and accepts it.
async fn accept_raw(
    app: &AppState,
    context: &RequestContext,
    tenant: &Tenant,
    taken: Option<RateLimitState>,
    dedup: Deduplication,
    headers: &HeaderMap,
    body: &ReceivedBody,
) -> Result<Response, ApiError> {
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let new_event = parse_raw(headers, body).map_err(|error| refuse(app, error))?;
    let limits = app.settings().new_event_limits(&tenant.principal.limits);
    let is_envelope = is_envelope(&new_event, &limits);
    let mut response = accept_single(app, context, tenant, taken, dedup, new_event).await?;
    if is_envelope {
        response.headers_mut().insert(WARNING, HeaderValue::from_static(ENVELOPE_WARNING));
    }
    Ok(response)
}

/// `POST /api/events/batch`: 202 once every event is on stable storage. All or none are taken.
pub(in crate::http) async fn post_batch(
    State(app): State<AppState>,
    context: RequestContext,
    tenant: Scoped<EventsWrite>,
    UnreadRequest { request, .. }: UnreadRequest<EventBatchBody>,
) -> Result<WrittenAnswer<(RateLimitHeaders, Accepted<AcceptedEvents>)>, ApiError> {
    refuse_query(request.uri())?;
    let parse = batch_parser(request.headers())?;
    rate_limit::require_some_left(&app, &tenant)?;
    let limits = app.settings().new_event_limits(&tenant.principal.limits);
    let bytes_max = app.settings().batch_bytes_max;
    let body = body::read(&app, Owner::Org(tenant.org_id), request, bytes_max).await;
    let body = body.map_err(|error| error.naming_payload_limit(&limits))?;
    rate_limit::take_bytes(&app, &tenant, &body)?;
    if body.len() <= PARSED_HERE_BYTES_MAX {
        let (new_events, quota) = parse_and_take(&app, &tenant, parse, &body)?;
        let ids = accept(&app, &context, &tenant, &new_events).await?;
        return Ok(accepted(many_accepted(&ids), quota).into());
    }
    let (app_there, tenant_there) = (app.clone(), tenant.clone());
    let parsing = async move {
        let (new_events, quota) = parse_and_take(&app_there, &tenant_there, parse, &body)?;
        let new_events: Vec<_> = new_events.into_iter().map(NewEvent::into_owned).collect();
        // The copies are as large as the body, which is dropped.
        Ok::<_, ApiError>((new_events, quota, body.into_permit()))
    };
    let (new_events, quota, _held) =
        app.background.spawn(parsing).await.map_err(ApiError::internal)??;
    let ids = accept(&app, &context, &tenant, &new_events).await?;
    Ok(accepted(many_accepted(&ids), quota).into())
}

/// Parses a batch and takes its events from what the tenant may send.
fn parse_and_take<'a>(
    app: &AppState,
    tenant: &Tenant,
    parse: BatchParser,
    body: &'a [u8],
) -> Result<(Vec<NewEvent<'a>>, RateLimitState), ApiError> {
    let limits = app.settings().new_event_limits(&tenant.principal.limits);
    let new_events = parse(body, &limits).map_err(|error| refuse(app, error))?;
    let quota = rate_limit::take_parsed(app, tenant, &new_events, None)?;
    Ok((new_events, quota))
}

type BatchParser =
    for<'a> fn(&'a [u8], &NewEventLimits) -> Result<Vec<NewEvent<'a>>, NewEventError>;

/// What parses a batch of the declared form.
fn batch_parser(headers: &HeaderMap) -> Result<BatchParser, ApiError> {
    match event_forms::cloud_event_mode(headers) {
        Some(CloudEventMode::Batch) => return Ok(parse_cloud_events),
        Some(CloudEventMode::Structured | CloudEventMode::OtherFormat) => {
            let taken = "application/cloudevents-batch+json; single CloudEvents go to /api/events";
            return Err(ApiError::UnsupportedMediaType { taken });
        }
        Some(CloudEventMode::Binary) => {
            let rule = "is a header of a single CloudEvent, which goes to /api/events";
            let violation = Violation::new("ce-specversion", "unknown", rule);
            return Err(ApiError::invalid(violation));
        }
        None => {}
    }
    match body::media_type(headers) {
        MediaType::Json => Ok(parse_batch),
        MediaType::NdJson => Ok(parse_lines),
        MediaType::Other => {
            let taken = "application/json, application/x-ndjson for one event per line, or \
                         application/cloudevents-batch+json";
            Err(ApiError::UnsupportedMediaType { taken })
        }
    }
}

async fn accept(
    app: &AppState,
    context: &RequestContext,
    tenant: &Tenant,
    new_events: &[NewEvent<'_>],
) -> Result<Vec<EventId>, ApiError> {
    let trace = (context.trace_id.clone(), context.span.as_ref().map(ServerSpan::id));
    match app.intake.accept(tenant.org_id, new_events, trace).await {
        Ok(ids) => {
            if let Some(span) = &context.span {
                span.accepted(tenant.org_id, &ids);
            }
            app.metrics.http.events_ingested_total.inc_by(ids.len() as u64);
            tenant.principal.usage.add(ids.len() as u64);
            app.metrics.http.event_ingestion_latency_seconds.observe(context.watch.seconds());
            Ok(ids)
        }
        Err(error) => {
            let reason = match error {
                AcceptError::Journal(AppendError::ShareUsedUp) => {
                    Some(RejectedRequest::JournalShare)
                }
                AcceptError::Journal(AppendError::TooLarge) | AcceptError::Record(_) => None,
                AcceptError::StorageLow => Some(RejectedRequest::StorageLow),
                AcceptError::Journal(_) => Some(RejectedRequest::JournalUnavailable),
            };
            if let Some(reason) = reason {
                app.metrics.http.rejected_requests_total.of(reason).inc();
            }
            Err(error.into())
        }
    }
}

/// Tells a payload over its cap like a body over its cap, if that is all that is wrong.
fn refuse_event(app: &AppState, limits: &NewEventLimits, error: NewEventError) -> ApiError {
    let too_large = |violation: &Violation| violation.code == "too_large";
    let only_too_large = match &error {
        NewEventError::Invalid(violations) => violations.iter().all(too_large),
        NewEventError::Malformed(_) => false,
    };
    let refusal = refuse(app, error);
    if only_too_large {
        let body_bytes_max = Settings::event_body_bytes_max(limits);
        return ApiError::EventTooLarge {
            payload_bytes_max: limits.payload_bytes_max,
            body_bytes_max,
        };
    }
    refusal
}

fn refuse(app: &AppState, error: NewEventError) -> ApiError {
    match error {
        NewEventError::Malformed(error) => {
            app.metrics.http.count_violation("malformed_json");
            ApiError::MalformedJson(error)
        }
        NewEventError::Invalid(violations) => {
            for violation in &violations {
                app.metrics.http.count_violation(violation.code);
            }
            ApiError::Invalid(violations)
        }
    }
}
