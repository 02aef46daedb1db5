//! A test event to one endpoint.

use std::num::NonZeroU32;

use axum::extract::State;

use crate::api::views::{DeliveryDetail, TestEvent};
use crate::api::{CallerReach, endpoints};
use crate::domain::{EndpointId, EventType, TEST_EVENT_TYPE, TraceId, Violation};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped, Tenant};
use crate::http::outcome_wait::{OutcomeWait, WaitQuery};
use crate::http::rate_limit;
use crate::http::request::{OptionalBodyAndParameters, json_fields};
use crate::http::request_context::RequestContext;
use crate::http::respond::{Accepted, Either, Json, Location, RateLimitHeaders};
use crate::http::server::RequestDeadline;
use crate::http::state::AppState;
use crate::limit::RateLimitState;

json_fields! {
    /// The test event.
    pub(in crate::http) struct TestRequest check(check_type) {
        /// Its type; `hookgate.test` if unset. No other under `hookgate.`.
        nullable r#type: EventType,
    }
}

/// `POST /api/endpoints/{id}/test`: 202 with the delivery to look at, or with `wait` 200 with its outcome. It costs one
/// event of the rate limit.
pub(in crate::http) async fn send(
    State(app): State<AppState>,
    context: RequestContext,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    deadline: RequestDeadline,
    OptionalBodyAndParameters(TestRequest { r#type }, wait): OptionalBodyAndParameters<
        TestRequest,
        WaitQuery,
    >,
) -> Result<(Location, RateLimitHeaders, Either<Json<DeliveryDetail>, Accepted<TestEvent>>), ApiError>
{
    let wait = OutcomeWait::begin(&app, &tenant, deadline, &wait)?;
    let event_type = match r#type {
        Some(event_type) => event_type,
        None => TEST_EVENT_TYPE.parse().map_err(ApiError::internal)?,
    };
    let (rate_limit, sent) = send_to(&app, &tenant, id, event_type, context.trace_id).await?;
    let location = Location(format!("/api/deliveries/{}", sent.delivery_id));
    let outcome = match wait {
        Some(wait) => wait.outcome(&app, &tenant, sent.delivery_id, 0).await,
        None => None,
    };
    let answer = outcome.map_or(Either::Second(Accepted(sent)), |ended| Either::First(Json(ended)));
    Ok((location, RateLimitHeaders(rate_limit), answer))
}

/// Sends a test event, and counts it as an event that was posted.
pub(in crate::http) async fn send_to(
    app: &AppState,
    tenant: &Tenant,
    id: EndpointId,
    event_type: EventType,
    trace_id: TraceId,
) -> Result<(RateLimitState, TestEvent), ApiError> {
    let rate_limit = rate_limit::take(app, tenant, NonZeroU32::MIN)?;
    let reach = CallerReach::new(tenant.org_id, tenant.principal.account.clone());
    let by = tenant.actor();
    let sent = endpoints::send_test(app.subsystems(), reach, id, event_type, trace_id, &by).await?;
    app.metrics.http.events_ingested_total.inc();
    tenant.principal.usage.add(1);
    app.metrics.ingest.events_stored_total.inc();
    app.metrics.ingest.deliveries_planned_total.inc();
    Ok((rate_limit, sent))
}

/// Operational events come from the server alone: a receiver may trust their types.
fn check_type(request: &TestRequest) -> Result<(), Violation> {
    let named = request.r#type.as_ref().map_or(TEST_EVENT_TYPE, EventType::as_str);
    if named == TEST_EVENT_TYPE || !EventType::is_operational(named) {
        return Ok(());
    }
    let rule =
        "must be hookgate.test or outside hookgate., which is reserved for operational events";
    Err(Violation::new("type", "reserved", rule))
}
