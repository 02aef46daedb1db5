//! The whole API on one screen.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::routing::{MethodFilter, on};

use super::error::ApiError;
use super::paths::{BATCHES, RAW_EVENTS, SINGLE_EVENTS};
use super::request::{Inputs, RequestSchema};
use super::route_hint;
use super::routes::{
    accounts, analytics, audit, dead_letters, deliveries, endpoint_secrets, endpoint_test,
    endpoints, erasures, events, exports, health, inbox, keys, metrics, orgs, own_keys, own_org,
    problems, replays, stream,
};
use super::state::AppState;
use crate::domain::Scope;

/// Whose key a route takes. Handlers ask for it by their extractor; the matrix of the integration
/// tests walks every route to prove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// An organisation's key with this scope; `None` takes any scope. It reaches only its own data.
    Tenant(Option<Scope>),
    /// An operator's key with this scope.
    Operator(Scope),
    /// None: documentation, probes and scrapers.
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
    /// What it takes in body and query. Empty for the routes that post events, which have parsers of
    /// their own.
    pub request: RequestSchema,
}

/// Every route of the API, in the order of the table.
pub fn route_table() -> Vec<Route> {
    table().routes
}

/// The router of every route.
pub(super) fn router(app: AppState) -> Router {
    let Table { routes, router } = table();
    let paths: Arc<[&str]> = routes.iter().map(|route| route.path).collect();
    router
        .fallback(async move |uri: Uri| {
            ApiError::RouteNotFound(route_hint::meant(&paths, uri.path()))
        })
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(app)
}

const POST_EVENTS: Access = Access::Tenant(Some(Scope::EventsWrite));
const READ_EVENTS: Access = Access::Tenant(Some(Scope::EventsRead));
const ENDPOINTS: Access = Access::Tenant(Some(Scope::EndpointsManage));
const CONSUME: Access = Access::Tenant(Some(Scope::InboxConsume));
const KEYS: Access = Access::Tenant(Some(Scope::KeysManage));
const ERASE: Access = Access::Tenant(Some(Scope::DataErase));
const ANY_TENANT: Access = Access::Tenant(None);
const READ_ALL: Access = Access::Operator(Scope::OperatorRead);
const CHANGE_ALL: Access = Access::Operator(Scope::OperatorWrite);

/// The one place where routes are added.
fn table() -> Table {
    Table::default()
        // Events.
        .post(POST_EVENTS, SINGLE_EVENTS, events::post_one)
        .post(POST_EVENTS, BATCHES, events::post_batch)
        .post(POST_EVENTS, RAW_EVENTS[0], events::post_raw)
        .post(POST_EVENTS, RAW_EVENTS[1], events::post_raw)
        .get(READ_EVENTS, SINGLE_EVENTS, events::list)
        .get(READ_EVENTS, "/api/events/export", exports::of_events)
        .get(READ_EVENTS, "/api/stream", stream::follow)
        .get(READ_EVENTS, "/api/events/{id}", events::one)
        .post(ENDPOINTS, "/api/events/{id}/replay", events::replay)
        // Inboxes.
        .get(CONSUME, "/api/inbox", inbox::receive)
        .post(CONSUME, "/api/ack", inbox::ack)
        .post(CONSUME, "/api/ack/{id}", inbox::ack_one)
        .post(CONSUME, "/api/nack", inbox::nack)
        // Webhooks.
        .post(ENDPOINTS, "/api/endpoints", endpoints::create)
        .get(ENDPOINTS, "/api/endpoints", endpoints::list)
        .get(ENDPOINTS, "/api/endpoints/{id}", endpoints::one)
        .patch(ENDPOINTS, "/api/endpoints/{id}", endpoints::change)
        .delete(ENDPOINTS, "/api/endpoints/{id}", endpoints::remove)
        .get(ENDPOINTS, "/api/endpoints/{id}/secret", endpoint_secrets::show)
        .post(ENDPOINTS, "/api/endpoints/{id}/secret/rotate", endpoint_secrets::rotate)
        .post(ENDPOINTS, "/api/endpoints/{id}/test", endpoint_test::send)
        .post(ENDPOINTS, "/api/endpoints/{id}/replay", replays::of_endpoint)
        .post(ENDPOINTS, "/api/endpoints/{id}/cancel-pending", endpoints::cancel_pending)
        .get(READ_EVENTS, "/api/endpoints/{id}/attempts", deliveries::attempts_of_endpoint)
        .get(READ_EVENTS, "/api/deliveries", deliveries::list)
        .get(READ_EVENTS, "/api/deliveries/export", exports::of_deliveries)
        .get(READ_EVENTS, "/api/deliveries/{id}", deliveries::one)
        .post(ENDPOINTS, "/api/deliveries/{id}/retry", deliveries::retry)
        .post(ENDPOINTS, "/api/deliveries/{id}/replay", deliveries::replay)
        .post(ENDPOINTS, "/api/deliveries/{id}/cancel", deliveries::cancel)
        .get(READ_EVENTS, "/api/dead-letters", dead_letters::list)
        .post(ENDPOINTS, "/api/dead-letters/replay", replays::of_dead_letters)
        .post(ENDPOINTS, "/api/dead-letters/discard", replays::discard)
        .get(READ_EVENTS, "/api/dead-letters/export", exports::of_dead_letters)
        .get(READ_EVENTS, "/api/dead-letters/{id}", dead_letters::one)
        .delete(ENDPOINTS, "/api/dead-letters/{id}", dead_letters::remove)
        .post(ENDPOINTS, "/api/dead-letters/{id}/replay", dead_letters::replay)
        .get(READ_EVENTS, "/api/endpoints/{id}/stats", analytics::endpoint_stats)
        .get(READ_EVENTS, "/api/replays", replays::list)
        .get(READ_EVENTS, "/api/replays/{id}", replays::one)
        .post(ENDPOINTS, "/api/replays/{id}/cancel", replays::cancel)
        // What was sent, counted.
        .get(READ_EVENTS, "/api/accounts", accounts::list)
        .get(READ_EVENTS, "/api/accounts/sample", accounts::sample)
        .get(READ_EVENTS, "/api/accounts/{id}/summary", accounts::summary)
        .get(READ_EVENTS, "/api/event-types", accounts::event_types)
        .get(READ_EVENTS, "/api/analytics/events", analytics::events)
        // Erasures.
        .delete(ERASE, "/api/events/{id}", erasures::of_event)
        .delete(ERASE, "/api/accounts/{id}/data", erasures::of_account)
        .get(ERASE, "/api/erasures", erasures::list)
        .get(ERASE, "/api/erasures/{id}", erasures::one)
        // The caller's own organisation.
        .get(ANY_TENANT, "/api/org", own_org::own)
        .patch(KEYS, "/api/org", own_org::change)
        .post(KEYS, "/api/keys", own_keys::create)
        .get(KEYS, "/api/keys", own_keys::list)
        .get(KEYS, "/api/keys/{id}", own_keys::one)
        .delete(KEYS, "/api/keys/{id}", own_keys::revoke)
        .post(KEYS, "/api/keys/{id}/rotate", own_keys::rotate)
        .get(KEYS, "/api/audit", audit::own)
        // Operators.
        .post(CHANGE_ALL, "/api/admin/orgs", orgs::create)
        .get(READ_ALL, "/api/admin/orgs", orgs::list)
        .get(READ_ALL, "/api/admin/orgs/{id}", orgs::one)
        .patch(CHANGE_ALL, "/api/admin/orgs/{id}", orgs::change)
        .delete(CHANGE_ALL, "/api/admin/orgs/{id}", orgs::delete)
        .post(CHANGE_ALL, "/api/admin/orgs/{id}/suspend", orgs::suspend)
        .post(CHANGE_ALL, "/api/admin/orgs/{id}/resume", orgs::resume)
        .post(CHANGE_ALL, "/api/admin/orgs/{id}/keys", keys::create_for_org)
        .get(READ_ALL, "/api/admin/orgs/{id}/keys", keys::list_of_org)
        .post(CHANGE_ALL, "/api/admin/keys", keys::create_for_operator)
        .get(READ_ALL, "/api/admin/keys", keys::list)
        .get(READ_ALL, "/api/admin/keys/{id}", keys::one)
        .delete(CHANGE_ALL, "/api/admin/keys/{id}", keys::revoke)
        .post(CHANGE_ALL, "/api/admin/keys/{id}/rotate", keys::rotate)
        .get(READ_ALL, "/api/admin/audit", audit::list)
        .get(READ_ALL, "/api/admin/analytics/events", analytics::events_of_all)
        .get(READ_ALL, "/api/admin/usage", analytics::usage)
        // Documentation, probes and scrapers.
        .get(Access::Anyone, "/problems/{code}", problems::page)
        .get(Access::Anyone, "/api/health", health::report)
        .get(Access::Anyone, "/health/live", health::live)
        .get(Access::Anyone, "/health/ready", health::ready)
        .get(Access::Anyone, "/metrics", metrics::scrape)
}

/// The list of routes and the router, filled together so that they agree.
#[derive(Default)]
struct Table {
    routes: Vec<Route>,
    router: Router<AppState>,
}

impl Table {
    fn get<H: Handler<T, AppState>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::GET, MethodFilter::GET), access, path, handler)
    }

    fn post<H: Handler<T, AppState>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::POST, MethodFilter::POST), access, path, handler)
    }

    fn patch<H: Handler<T, AppState>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::PATCH, MethodFilter::PATCH), access, path, handler)
    }

    fn delete<H: Handler<T, AppState>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::DELETE, MethodFilter::DELETE), access, path, handler)
    }

    fn row<H: Handler<T, AppState>, T: Inputs + 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        access: Access,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.routes.push(Route { method, path, access, request: T::schema() });
        Self { router: self.router.route(path, on(filter, handler)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Routes that post events have parsers of their own; the rest declare what they take.
    #[test]
    fn every_field_and_parameter_of_a_request_is_described() {
        for Route { method, path, request, .. } in route_table() {
            let fields = request.body.iter().filter_map(|body| body["properties"].as_object());
            for (name, field) in fields.flatten() {
                let described = field["description"].as_str().is_some_and(|text| !text.is_empty());
                assert!(described, "{method} {path}: {name}");
            }
            for parameter in &request.query {
                assert!(parameter["description"].is_string(), "{method} {path}: {parameter}");
            }
            let changes = method == Method::PATCH;
            assert!(!changes || request.body.is_some(), "{method} {path} declares no body");
        }
    }

    #[test]
    fn limits_of_organisations_have_the_domains_names() {
        let is_patch =
            |route: &Route| route.method == Method::PATCH && route.path == "/api/admin/orgs/{id}";
        let body = route_table().into_iter().find(is_patch).unwrap().request.body.unwrap();
        for limit in crate::domain::OrgLimit::ALL {
            assert!(body["properties"][limit.name()].is_object(), "{}", limit.name());
        }
    }
}
