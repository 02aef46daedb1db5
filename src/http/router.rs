//! The whole API on one screen.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

use super::error::ApiError;
use super::routes::{
    dead_letters, deliveries, endpoint_secrets, endpoint_test, endpoints, events, health, keys,
    metrics, orgs, replays,
};
use super::state::AppState;

/// Where single events are posted. The envelope hands them to their handler without asking the
/// router, which has the route too, so that it is listed here and in the `Allow` field.
pub(super) const SINGLE_EVENTS: &str = "/api/events";

/// Whose key a route takes. Handlers ask for it by the extractor of the same name; that they do is
/// what the matrix of the integration tests walks every route for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An organisation's, which sees what is its own.
    Tenant,
    /// An operator's.
    Operator,
    /// None: probes and scrapers.
    Anyone,
}

/// A route as the table lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Its method. A route that takes `GET` takes `HEAD`, too.
    pub method: Method,
    /// Its path, as in `/api/events/{id}`.
    pub path: &'static str,
    /// Whose key it takes.
    pub access: Access,
}

/// Every route of the API, in the order of the table.
pub fn route_table() -> Vec<Route> {
    table().routes
}

/// Every route, ready to answer.
pub(super) fn router(app: AppState) -> Router {
    table()
        .router
        .fallback(async || ApiError::RouteNotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(app)
}

/// The one place where routes are added.
fn table() -> Table {
    use Access::{Anyone, Operator, Tenant};
    Table::default()
        // Events.
        .post(Tenant, SINGLE_EVENTS, events::post_one)
        .post(Tenant, "/api/events/batch", events::post_batch)
        .post(Tenant, "/api/events/raw", events::post_raw)
        .post(Tenant, "/api/v1/events", events::post_raw)
        .get(Tenant, SINGLE_EVENTS, events::list)
        .get(Tenant, "/api/events/{id}", events::one)
        .post(Tenant, "/api/events/{id}/replay", events::replay)
        // Webhooks.
        .post(Tenant, "/api/endpoints", endpoints::create)
        .get(Tenant, "/api/endpoints", endpoints::list)
        .get(Tenant, "/api/endpoints/{id}", endpoints::one)
        .patch(Tenant, "/api/endpoints/{id}", endpoints::change)
        .delete(Tenant, "/api/endpoints/{id}", endpoints::remove)
        .get(Tenant, "/api/endpoints/{id}/secret", endpoint_secrets::show)
        .post(Tenant, "/api/endpoints/{id}/secret/rotate", endpoint_secrets::rotate)
        .post(Tenant, "/api/endpoints/{id}/test", endpoint_test::send)
        .post(Tenant, "/api/endpoints/{id}/replay", replays::of_endpoint)
        .post(Tenant, "/api/endpoints/{id}/cancel-pending", endpoints::cancel_pending)
        .get(Tenant, "/api/deliveries", deliveries::list)
        .get(Tenant, "/api/deliveries/{id}", deliveries::one)
        .post(Tenant, "/api/deliveries/{id}/retry", deliveries::retry)
        .post(Tenant, "/api/deliveries/{id}/replay", deliveries::replay)
        .post(Tenant, "/api/deliveries/{id}/cancel", deliveries::cancel)
        .get(Tenant, "/api/dead-letters", dead_letters::list)
        .post(Tenant, "/api/dead-letters/replay", replays::of_dead_letters)
        .get(Tenant, "/api/dead-letters/{id}", dead_letters::one)
        .delete(Tenant, "/api/dead-letters/{id}", dead_letters::remove)
        .post(Tenant, "/api/dead-letters/{id}/replay", dead_letters::replay)
        .get(Tenant, "/api/replays", replays::list)
        .get(Tenant, "/api/replays/{id}", replays::one)
        .post(Tenant, "/api/replays/{id}/cancel", replays::cancel)
        // Themselves.
        .get(Tenant, "/api/org", orgs::own)
        .get(Tenant, "/api/keys", keys::own)
        // Operators.
        .post(Operator, "/api/admin/orgs", orgs::create)
        .get(Operator, "/api/admin/orgs", orgs::list)
        .get(Operator, "/api/admin/orgs/{id}", orgs::one)
        .patch(Operator, "/api/admin/orgs/{id}", orgs::change)
        .post(Operator, "/api/admin/orgs/{id}/keys", keys::create_for_org)
        .get(Operator, "/api/admin/orgs/{id}/keys", keys::list_of_org)
        .post(Operator, "/api/admin/keys", keys::create_for_operator)
        .get(Operator, "/api/admin/keys", keys::list)
        .get(Operator, "/api/admin/keys/{id}", keys::one)
        .delete(Operator, "/api/admin/keys/{id}", keys::revoke)
        .post(Operator, "/api/admin/keys/{id}/rotate", keys::rotate)
        // Probes and scrapers.
        .get(Anyone, "/api/health", health::report)
        .get(Anyone, "/health/live", health::live)
        .get(Anyone, "/health/ready", health::ready)
        .get(Anyone, "/metrics", metrics::scrape)
}

/// Routes as they are listed and as they answer, kept together so that neither has one that the
/// other has not.
#[derive(Default)]
struct Table {
    routes: Vec<Route>,
    router: Router<AppState>,
}

impl Table {
    fn get<H: Handler<T, AppState>, T: 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::GET, MethodFilter::GET), access, path, handler)
    }

    fn post<H: Handler<T, AppState>, T: 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::POST, MethodFilter::POST), access, path, handler)
    }

    fn patch<H: Handler<T, AppState>, T: 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::PATCH, MethodFilter::PATCH), access, path, handler)
    }

    fn delete<H: Handler<T, AppState>, T: 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::DELETE, MethodFilter::DELETE), access, path, handler)
    }

    fn row<H: Handler<T, AppState>, T: 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.routes.push(Route { method, path, access });
        Self { router: self.router.route(path, on(filter, handler)), ..self }
    }
}
