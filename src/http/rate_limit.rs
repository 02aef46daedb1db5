//! OrgRate limits and quotas of an organisation, checked per request.

use std::num::NonZeroU32;

use super::error::ApiError;
use super::extract::Tenant;
use super::state::AppState;
use crate::domain::{Month, OrgLimit, OrgLimits};
use crate::http::metrics::RejectedRequest;
use crate::limit::{OrgRate, RateDecision, RateLimitState};
use crate::runtime::Stopwatch;

/// Charges `events` to the tenant's limits and returns what is left of its rate limit.
pub(super) fn take(
    app: &AppState,
    tenant: &Tenant,
    events: NonZeroU32,
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
    let verdict = app.limiter.check(tenant.org_id, rate(&principal.limits), events);
    app.metrics.http.rate_limit_check_latency_seconds.observe(watch.seconds());
    let refusal = match verdict {
        RateDecision::Allowed(quota) => return Ok(quota),
        RateDecision::Denied { state: quota, retry_after } => {
            ApiError::RateLimited { quota, retry_after }
        }
        RateDecision::ExceedsBurst(quota) => {
            ApiError::BatchOverRateLimit { quota, events: events.get() }
        }
    };
    app.metrics.http.rejected_requests_total.of(RejectedRequest::RateLimited).inc();
    Err(refusal)
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

/// Charges a body to the tenant's byte limit, if it has one.
pub(super) fn take_bytes(app: &AppState, tenant: &Tenant, body: &[u8]) -> Result<(), ApiError> {
    let Some(per_minute) = tenant.principal.limits.get(OrgLimit::BytesPerMinute) else {
        return Ok(());
    };
    let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let Some(bytes) = NonZeroU32::new(bytes) else { return Ok(()) };
    let refusal = match app.limiter.check_bytes(tenant.org_id, per_minute, bytes) {
        RateDecision::Allowed(_) => return Ok(()),
        RateDecision::Denied { state: quota, retry_after } => {
            ApiError::ByteRateLimited { quota, retry_after }
        }
        RateDecision::ExceedsBurst(_) => {
            ApiError::TooLarge { what: "a request", bytes_max: per_minute as usize }
        }
    };
    app.metrics.http.rejected_requests_total.of(RejectedRequest::RateLimited).inc();
    Err(refusal)
}

/// The event rate of an organisation with these limits.
pub(super) fn rate(limits: &OrgLimits) -> OrgRate {
    OrgRate { per_minute: limits.get(OrgLimit::RatePerMinute), burst: limits.get(OrgLimit::Burst) }
}
