//! The whole API on one screen.

use axum::Router;
use axum::routing::{delete, get, post};

use super::error::ApiError;
use super::routes::{
    dead_letters, deliveries, endpoint_secrets, endpoint_test, endpoints, events, health, keys,
    metrics, orgs, replays,
};
use super::state::AppState;

/// Where single events are posted. The envelope hands them to their handler without asking the
/// router, which has the route too, so that it is listed here and in the `Allow` field.
pub(super) const SINGLE_EVENTS: &str = "/api/events";

/// Every route.
pub(super) fn router(app: AppState) -> Router {
    Router::new()
        // Tenants: events.
        .route(SINGLE_EVENTS, post(events::post_one).get(events::list))
        .route("/api/events/batch", post(events::post_batch))
        .route("/api/events/raw", post(events::post_raw))
        .route("/api/v1/events", post(events::post_raw))
        .route("/api/events/{id}", get(events::one))
        .route("/api/events/{id}/replay", post(events::replay))
        // Tenants: webhooks.
        .route("/api/endpoints", post(endpoints::create).get(endpoints::list))
        .route(
            "/api/endpoints/{id}",
            get(endpoints::one).patch(endpoints::change).delete(endpoints::remove),
        )
        .route("/api/endpoints/{id}/secret", get(endpoint_secrets::show))
        .route("/api/endpoints/{id}/secret/rotate", post(endpoint_secrets::rotate))
        .route("/api/endpoints/{id}/test", post(endpoint_test::send))
        .route("/api/endpoints/{id}/replay", post(replays::of_endpoint))
        .route("/api/endpoints/{id}/cancel-pending", post(endpoints::cancel_pending))
        .route("/api/deliveries", get(deliveries::list))
        .route("/api/deliveries/{id}", get(deliveries::one))
        .route("/api/deliveries/{id}/retry", post(deliveries::retry))
        .route("/api/deliveries/{id}/replay", post(deliveries::replay))
        .route("/api/deliveries/{id}/cancel", post(deliveries::cancel))
        .route("/api/dead-letters", get(dead_letters::list))
        .route("/api/dead-letters/replay", post(replays::of_dead_letters))
        .route("/api/dead-letters/{id}", get(dead_letters::one).delete(dead_letters::remove))
        .route("/api/dead-letters/{id}/replay", post(dead_letters::replay))
        .route("/api/replays", get(replays::list))
        .route("/api/replays/{id}", get(replays::one))
        .route("/api/replays/{id}/cancel", post(replays::cancel))
        // Tenants: themselves.
        .route("/api/org", get(orgs::own))
        .route("/api/keys", get(keys::own))
        // Operators.
        .route("/api/admin/orgs", post(orgs::create).get(orgs::list))
        .route("/api/admin/orgs/{id}", get(orgs::one).patch(orgs::change))
        .route("/api/admin/orgs/{id}/keys", post(keys::create_for_org).get(keys::list_of_org))
        .route("/api/admin/keys", post(keys::create_for_operator).get(keys::list))
        .route("/api/admin/keys/{id}", get(keys::one).merge(delete(keys::revoke)))
        .route("/api/admin/keys/{id}/rotate", post(keys::rotate))
        // Probes and scrapers: no key.
        .route("/api/health", get(health::report))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::scrape))
        .fallback(async || ApiError::RouteNotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(app)
}
