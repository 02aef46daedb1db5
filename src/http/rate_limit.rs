//! Rate limits and quotas of a tenant's events.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::charges;
use super::error::ApiError;
use super::extract::Tenant;
use super::state::AppState;
use crate::auth::Principal;
use crate::domain::{EventType, Month, NewEvent, OrgLimit};
use crate::http::metrics::RejectedRequest;
use crate::limit::{Charge, Limit, RateLimitState};
use crate::runtime::Stopwatch;

/// Charges `events` to the tenant's limits and returns what is left of its rate limit.
pub(super) fn take(
    app: &AppState,
    tenant: &Tenant,
    events: NonZeroU32,
) -> Result<RateLimitState, ApiError> {
    take_with(app, tenant, events, Vec::new())
}

/// Charges one event before its body is read, so that nothing is read for a tenant over its limit. `None` if
/// its type may have a rate: then [`take_parsed`] charges it, since an event that its type's rate refuses
/// shall not use up the organisation's.
pub(super) fn take_unparsed(
    app: &AppState,
    tenant: &Tenant,
) -> Result<Option<RateLimitState>, ApiError> {
    if tenant.principal.event_type_rates.is_empty() {
        return take(app, tenant, NonZeroU32::MIN).map(Some);
    }
    require_some_left(app, tenant).map(|()| None)
}

/// Refuses a body before it is read when a limit has not even one event left. Takes nothing: neither the number of
/// events nor their types are known yet.
pub(super) fn require_some_left(app: &AppState, tenant: &Tenant) -> Result<(), ApiError> {
    let principal = &tenant.principal;
    if let Some(events_per_month) = principal.limits.get(OrgLimit::EventsPerMonth)
        && principal.usage.left(events_per_month) == 0
    {
        app.metrics.http.rejected_requests_total.of(RejectedRequest::RateLimited).inc();
        return Err(over_month(app, events_per_month, 0, 1));
    }
    let (org, limits) = (tenant.org_id, &principal.limits);
    let own =
        [Some(app.limiter.events(org, limits)), of_key(principal), app.limiter.bytes(org, limits)];
    for limit in own.into_iter().flatten() {
        charges::require_some_left(app, limit)?;
    }
    Ok(())
}

/// Charges events that were parsed, and their deliveries. `taken` is what [`take_unparsed`] has charged.
pub(super) fn take_parsed(
    app: &AppState,
    tenant: &Tenant,
    new_events: &[NewEvent<'_>],
    taken: Option<RateLimitState>,
) -> Result<RateLimitState, ApiError> {
    let deliveries = deliveries(app, tenant, new_events);
    if let Some(taken) = taken {
        if let Some(charge) = deliveries {
            charges::take(app, &charge)?;
        }
        return Ok(taken);
    }
    let events = u32::try_from(new_events.len()).ok().and_then(NonZeroU32::new);
    let events = events.ok_or_else(|| ApiError::internal("a batch parsed to no events"))?;
    let mut narrower = types(tenant, new_events);
    narrower.extend(deliveries);
    take_with(app, tenant, events, narrower)
}

/// Charges a body to the tenant's byte limit, if it has one.
pub(super) fn take_bytes(app: &AppState, tenant: &Tenant, body: &[u8]) -> Result<(), ApiError> {
    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let limit = app.limiter.bytes(tenant.org_id, &tenant.principal.limits);
    let (Some(limit), Some(bytes)) = (limit, NonZeroU32::new(bytes)) else { return Ok(()) };
    charges::take(app, &limit.charge(bytes))
}

/// Charges `events` to the tenant's limits, and `narrower` to theirs.
fn take_with(
    app: &AppState,
    tenant: &Tenant,
    events: NonZeroU32,
    mut narrower: Vec<Charge>,
) -> Result<RateLimitState, ApiError> {
    let watch = Stopwatch::start();
    let principal = &tenant.principal;
    if let Some(events_per_month) = principal.limits.get(OrgLimit::EventsPerMonth)
        && let left = principal.usage.left(events_per_month)
        && left < events.get()
    {
        app.metrics.http.rejected_requests_total.of(RejectedRequest::RateLimited).inc();
        return Err(over_month(app, events_per_month, left, events.get()));
    }
    if let Some(limit) = of_key(principal) {
        narrower.push(limit.charge(events));
    }
    let own = app.limiter.events(tenant.org_id, &principal.limits).charge(events);
    let taken = app.limiter.check_all(&own, &narrower);
    app.metrics.http.rate_limit_check_latency_seconds.observe(watch.seconds());
    taken.map_err(|refused| charges::refusal(app, &refused))
}

/// The limit of the caller's key, if it has one.
fn of_key(principal: &Principal) -> Option<Limit> {
    Some(Limit::of_key(principal.key_id, principal.rate_limit_per_minute?))
}

/// What events take from the rates of their types.
fn types(tenant: &Tenant, new_events: &[NewEvent<'_>]) -> Vec<Charge> {
    let rates = &tenant.principal.event_type_rates;
    if rates.is_empty() {
        return Vec::new();
    }
    let mut costs: HashMap<&EventType, (u32, u32)> = HashMap::new();
    for new_event in new_events {
        if let Some((event_type, rate)) = rates.get(&new_event.event_type) {
            costs.entry(event_type).or_insert((rate, 0)).1 += 1;
        }
    }
    let charge = |(event_type, (rate, cost)): (&EventType, _)| {
        let limit = Limit::of_type(tenant.org_id, event_type.clone(), rate);
        NonZeroU32::new(cost).map(|cost| limit.charge(cost))
    };
    costs.into_iter().filter_map(charge).collect()
}

/// What events take from the delivery limit, as far as it is known. An event that alone becomes more
/// deliveries than may be planned at once takes all of them: it cannot be sent in parts.
fn deliveries(app: &AppState, tenant: &Tenant, new_events: &[NewEvent<'_>]) -> Option<Charge> {
    let events = new_events.iter();
    let events = events.map(|new| (new.event_type.as_ref(), new.account_id.as_deref()));
    let planned = app.planned_deliveries(tenant.org_id, events)?;
    let mut planned = u32::try_from(planned).unwrap_or(u32::MAX);
    let limit = app.limiter.deliveries(tenant.org_id, &tenant.principal.limits);
    if let [_] = new_events {
        planned = planned.min(limit.rate.burst.get());
    }
    NonZeroU32::new(planned).map(|planned| limit.charge(planned))
}

/// The refusal of more events than are left this month. Waiting helps if they fit into the next month.
fn over_month(app: &AppState, events_per_month: u32, left: u32, events: u32) -> ApiError {
    let now = app.subsystems().clock.now();
    let next_month = Month::end(now).since(now);
    let fits_next_month = events <= events_per_month;
    // A batch of one cannot be smaller.
    if left == 0 && (fits_next_month || events == 1) {
        return ApiError::MonthUsedUp { events_per_month, retry_after: next_month };
    }
    let retry_after = fits_next_month.then_some(next_month);
    ApiError::BatchOverMonth { events_per_month, left, events, retry_after }
}
