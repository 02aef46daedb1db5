//! The whole API on one screen.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{Method, Uri};
use axum::routing::{MethodFilter, on};
use serde_json::{Map, Value};

use super::console;
use super::error::ApiError;
use super::openapi::{
    Cacheable, DescribesAnswers, Operates, Operation, document, operations as op,
};
use super::paths::{BATCHES, RAW_EVENTS, SINGLE_EVENTS};
use super::request::Inputs;
use super::respond::{Json, WrittenAnswer};
use super::route::{Access, Route};
use super::route_hint;
use super::routes::{
    accounts, analytics, audit, dead_letters, deliveries, docs, endpoint_secrets, endpoint_test,
    endpoints, erasures, events, exports, health, inbox, keys, logs, metrics, orgs, own_keys,
    own_org, portal, problems, replays, servers, stream,
};
use super::state::AppState;
use super::static_answer::{StaticAnswer, Wanted};
use crate::domain::Scope;

/// Every route of the API, in the order of the table.
pub fn route_table() -> Vec<Route> {
    table().routes
}

/// The OpenAPI document of every route.
pub fn openapi_document() -> Value {
    document(&route_table())
}

/// The document as it is sent.
static DOCUMENT: LazyLock<Result<StaticAnswer, ApiError>> = LazyLock::new(|| {
    let text = serde_json::to_vec(&openapi_document()).map_err(ApiError::internal)?;
    StaticAnswer::new("application/json", text)
});

/// `GET /openapi.json`. It stands here, since it shows the table.
async fn show_document(
    wanted: Wanted,
) -> Result<WrittenAnswer<Cacheable<Json<Map<String, Value>>>>, ApiError> {
    let document = DOCUMENT.as_ref().map_err(|error| ApiError::internal(error.to_string()))?;
    document.answer(&wanted).map(Into::into)
}

/// The router of every route.
pub(super) fn router(app: AppState) -> Router {
    let Table { routes, router } = table();
    let paths: Arc<[&str]> = routes.iter().map(|route| route.path).collect();
    router
        .merge(console::router())
        .fallback(async move |uri: Uri| {
            ApiError::RouteNotFound(route_hint::meant(&paths, uri.path()))
        })
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .with_state(app)
}

const POST_EVENTS: Access = Access::Tenant(Some(Scope::EventsWrite));
const READ_EVENTS: Access = Access::Tenant(Some(Scope::EventsRead));
const READ_ENDPOINTS: Access = Access::Tenant(Some(Scope::EndpointsRead));
const ENDPOINTS: Access = Access::Tenant(Some(Scope::EndpointsManage));
const CONSUME: Access = Access::Tenant(Some(Scope::InboxConsume));
const READ_KEYS: Access = Access::Tenant(Some(Scope::KeysRead));
const KEYS: Access = Access::Tenant(Some(Scope::KeysManage));
const ERASE: Access = Access::Tenant(Some(Scope::DataErase));
const ANY_TENANT: Access = Access::Tenant(None);
const READ_ALL: Access = Access::Operator(Scope::OperatorRead);
const CHANGE_ALL: Access = Access::Operator(Scope::OperatorWrite);

/// The one place where routes are added.
fn table() -> Table {
    let groups: [fn(Table) -> Table; 6] = [
        events_and_inboxes,
        webhooks,
        accounts_and_erasures,
        own_organisation,
        operators,
        everybody,
    ];
    groups.into_iter().fold(Table::default(), |table, add| add(table))
}

fn events_and_inboxes(table: Table) -> Table {
    table
        // Events.
        .post(POST_EVENTS, SINGLE_EVENTS, events::post_one, &op::POST_EVENT)
        .post(POST_EVENTS, BATCHES, events::post_batch, &op::POST_EVENTS)
        .post(POST_EVENTS, RAW_EVENTS[0], events::post_raw, &op::POST_RAW_EVENT)
        .post(POST_EVENTS, RAW_EVENTS[1], events::post_raw, &op::POST_RAW_EVENT_ALIAS)
        .get(READ_EVENTS, SINGLE_EVENTS, events::list, &op::LIST_EVENTS)
        .get(READ_EVENTS, "/api/events/export", exports::of_events, &op::EXPORT_EVENTS)
        .get(READ_EVENTS, "/api/stream", stream::follow, &op::STREAM_CHANGES)
        .get(READ_EVENTS, "/api/events/{id}", events::one, &op::GET_EVENT)
        .post(ENDPOINTS, "/api/events/{id}/replay", events::replay, &op::REPLAY_EVENT)
        // Inboxes.
        .get(CONSUME, "/api/inbox", inbox::receive, &op::RECEIVE_EVENTS)
        .post(CONSUME, "/api/ack", inbox::ack, &op::ACKNOWLEDGE_EVENTS)
        .post(CONSUME, "/api/ack/{id}", inbox::ack_one, &op::ACKNOWLEDGE_EVENT)
        .post(CONSUME, "/api/nack", inbox::nack, &op::RETURN_EVENTS)
}

fn webhooks(table: Table) -> Table {
    table
        // Webhooks.
        .post(ENDPOINTS, "/api/endpoints", endpoints::create, &op::CREATE_ENDPOINT)
        .get(READ_ENDPOINTS, "/api/endpoints", endpoints::list, &op::LIST_ENDPOINTS)
        .get(READ_ENDPOINTS, "/api/endpoints/{id}", endpoints::one, &op::GET_ENDPOINT)
        .patch(ENDPOINTS, "/api/endpoints/{id}", endpoints::change, &op::UPDATE_ENDPOINT)
        .delete(ENDPOINTS, "/api/endpoints/{id}", endpoints::remove, &op::DELETE_ENDPOINT)
        .get(
            ENDPOINTS,
            "/api/endpoints/{id}/secret",
            endpoint_secrets::show,
            &op::GET_ENDPOINT_SECRET,
        )
        .post(
            ENDPOINTS,
            "/api/endpoints/{id}/secret/rotate",
            endpoint_secrets::rotate,
            &op::ROTATE_ENDPOINT_SECRET,
        )
        .post(ENDPOINTS, "/api/endpoints/{id}/test", endpoint_test::send, &op::TEST_ENDPOINT)
        .post(ENDPOINTS, "/api/endpoints/{id}/replay", replays::of_endpoint, &op::REPLAY_ENDPOINT)
        .post(
            ENDPOINTS,
            "/api/endpoints/{id}/cancel-pending",
            endpoints::cancel_pending,
            &op::CANCEL_PENDING_DELIVERIES,
        )
        .get(
            READ_EVENTS,
            "/api/endpoints/{id}/attempts",
            deliveries::attempts_of_endpoint,
            &op::LIST_ENDPOINT_ATTEMPTS,
        )
        .get(READ_EVENTS, "/api/deliveries", deliveries::list, &op::LIST_DELIVERIES)
        .get(READ_EVENTS, "/api/deliveries/export", exports::of_deliveries, &op::EXPORT_DELIVERIES)
        .get(READ_EVENTS, "/api/deliveries/{id}", deliveries::one, &op::GET_DELIVERY)
        .post(ENDPOINTS, "/api/deliveries/{id}/retry", deliveries::retry, &op::RETRY_DELIVERY)
        .post(ENDPOINTS, "/api/deliveries/{id}/replay", deliveries::replay, &op::REPLAY_DELIVERY)
        .post(ENDPOINTS, "/api/deliveries/{id}/cancel", deliveries::cancel, &op::CANCEL_DELIVERY)
        .get(READ_EVENTS, "/api/dead-letters", dead_letters::list, &op::LIST_DEAD_LETTERS)
        .post(
            ENDPOINTS,
            "/api/dead-letters/replay",
            replays::of_dead_letters,
            &op::REPLAY_DEAD_LETTERS,
        )
        .post(ENDPOINTS, "/api/dead-letters/discard", replays::discard, &op::DISCARD_DEAD_LETTERS)
        .get(
            READ_EVENTS,
            "/api/dead-letters/export",
            exports::of_dead_letters,
            &op::EXPORT_DEAD_LETTERS,
        )
        .get(READ_EVENTS, "/api/dead-letters/{id}", dead_letters::one, &op::GET_DEAD_LETTER)
        .delete(ENDPOINTS, "/api/dead-letters/{id}", dead_letters::remove, &op::DELETE_DEAD_LETTER)
        .post(
            ENDPOINTS,
            "/api/dead-letters/{id}/replay",
            dead_letters::replay,
            &op::REPLAY_DEAD_LETTER,
        )
        .get(
            READ_EVENTS,
            "/api/endpoints/{id}/stats",
            analytics::endpoint_stats,
            &op::GET_ENDPOINT_STATS,
        )
        .get(READ_EVENTS, "/api/replays", replays::list, &op::LIST_REPLAYS)
        .get(READ_EVENTS, "/api/replays/{id}", replays::one, &op::GET_REPLAY)
        .post(ENDPOINTS, "/api/replays/{id}/cancel", replays::cancel, &op::CANCEL_REPLAY)
}

fn accounts_and_erasures(table: Table) -> Table {
    table
        // What was sent, counted.
        .get(READ_EVENTS, "/api/accounts", accounts::list, &op::LIST_ACCOUNTS)
        .get(READ_EVENTS, "/api/accounts/sample", accounts::sample, &op::SAMPLE_ACCOUNTS)
        .get(READ_EVENTS, "/api/accounts/{id}/summary", accounts::summary, &op::GET_ACCOUNT_SUMMARY)
        .get(READ_EVENTS, "/api/event-types", accounts::event_types, &op::LIST_EVENT_TYPES)
        .get(READ_EVENTS, "/api/analytics/events", analytics::events, &op::GET_EVENT_METRICS)
        // Erasures.
        .delete(ERASE, "/api/events/{id}", erasures::of_event, &op::ERASE_EVENT)
        .delete(ERASE, "/api/accounts/{id}/data", erasures::of_account, &op::ERASE_ACCOUNT)
        .get(ERASE, "/api/erasures", erasures::list, &op::LIST_ERASURES)
        .get(ERASE, "/api/erasures/{id}", erasures::one, &op::GET_ERASURE)
}

fn own_organisation(table: Table) -> Table {
    table
        // The caller's own organisation.
        .get(ANY_TENANT, "/api/org", own_org::own, &op::GET_OWN_ORG)
        .patch(KEYS, "/api/org", own_org::change, &op::UPDATE_OWN_ORG)
        .get(ENDPOINTS, "/api/portal", portal::show, &op::GET_PORTAL)
        .patch(ENDPOINTS, "/api/portal", portal::change, &op::UPDATE_PORTAL)
        .post(ENDPOINTS, "/api/portal-links", portal::create_link, &op::CREATE_PORTAL_LINK)
        .post(KEYS, "/api/keys", own_keys::create, &op::CREATE_KEY)
        .get(READ_KEYS, "/api/keys", own_keys::list, &op::LIST_KEYS)
        .get(READ_KEYS, "/api/keys/{id}", own_keys::one, &op::GET_KEY)
        .patch(KEYS, "/api/keys/{id}", own_keys::change, &op::UPDATE_KEY)
        .delete(KEYS, "/api/keys/{id}", own_keys::revoke, &op::REVOKE_KEY)
        .post(KEYS, "/api/keys/{id}/rotate", own_keys::rotate, &op::ROTATE_KEY)
        .get(READ_KEYS, "/api/audit", audit::own, &op::LIST_AUDIT_ENTRIES)
}

fn operators(table: Table) -> Table {
    table
        // Operators.
        .post(CHANGE_ALL, "/api/admin/orgs", orgs::create, &op::CREATE_ORG)
        .get(READ_ALL, "/api/admin/orgs", orgs::list, &op::LIST_ORGS)
        .get(READ_ALL, "/api/admin/orgs/{id}", orgs::one, &op::GET_ORG)
        .patch(CHANGE_ALL, "/api/admin/orgs/{id}", orgs::change, &op::UPDATE_ORG)
        .delete(CHANGE_ALL, "/api/admin/orgs/{id}", orgs::delete, &op::DELETE_ORG)
        .post(CHANGE_ALL, "/api/admin/orgs/{id}/suspend", orgs::suspend, &op::SUSPEND_ORG)
        .post(CHANGE_ALL, "/api/admin/orgs/{id}/resume", orgs::resume, &op::RESUME_ORG)
        .post(CHANGE_ALL, "/api/admin/orgs/{id}/keys", keys::create_for_org, &op::CREATE_ORG_KEY)
        .get(READ_ALL, "/api/admin/orgs/{id}/keys", keys::list_of_org, &op::LIST_ORG_KEYS)
        .post(CHANGE_ALL, "/api/admin/keys", keys::create_for_operator, &op::CREATE_OPERATOR_KEY)
        .get(READ_ALL, "/api/admin/keys", keys::list, &op::LIST_ALL_KEYS)
        .get(READ_ALL, "/api/admin/keys/{id}", keys::one, &op::GET_ANY_KEY)
        .patch(CHANGE_ALL, "/api/admin/keys/{id}", keys::change, &op::UPDATE_ANY_KEY)
        .delete(CHANGE_ALL, "/api/admin/keys/{id}", keys::revoke, &op::REVOKE_ANY_KEY)
        .post(CHANGE_ALL, "/api/admin/keys/{id}/rotate", keys::rotate, &op::ROTATE_ANY_KEY)
        .get(READ_ALL, "/api/admin/audit", audit::list, &op::LIST_ALL_AUDIT_ENTRIES)
        .get(READ_ALL, "/api/admin/servers", servers::list, &op::LIST_SERVERS)
        .get(READ_ALL, "/api/admin/quarantine", servers::quarantine, &op::GET_QUARANTINE)
        .get(
            READ_ALL,
            "/api/admin/failing-endpoints",
            servers::failing_endpoints,
            &op::LIST_FAILING_ENDPOINTS,
        )
        .get(
            READ_ALL,
            "/api/admin/analytics/events",
            analytics::events_of_all,
            &op::GET_ALL_EVENT_METRICS,
        )
        .get(READ_ALL, "/api/admin/usage", analytics::usage, &op::LIST_USAGE)
        .get(READ_ALL, "/api/admin/logs", logs::show, &op::GET_LOGS)
        .patch(CHANGE_ALL, "/api/admin/logs", logs::change, &op::UPDATE_LOGS)
}

fn everybody(table: Table) -> Table {
    table
        // Documentation, probes and scrapers.
        .get(Access::Anyone, "/openapi.json", show_document, &op::GET_OPENAPI)
        .get(Access::Anyone, "/docs", docs::page, &op::GET_DOCS)
        .get(Access::Anyone, "/docs/{file}", docs::file, &op::GET_DOCS_FILE)
        .get(Access::Anyone, "/problems/{code}", problems::page, &op::GET_PROBLEM)
        .get(Access::Anyone, "/api/health", health::report, &op::GET_HEALTH)
        .get(Access::Anyone, "/health/live", health::live, &op::GET_LIVENESS)
        .get(Access::Anyone, "/health/ready", health::ready, &op::GET_READINESS)
        .get(Access::Anyone, "/metrics", metrics::scrape, &op::GET_METRICS)
}

/// The list of routes and the router, filled together so that they agree.
#[derive(Default)]
struct Table {
    routes: Vec<Route>,
    router: Router<AppState>,
}

impl Table {
    fn get<H: Operates<T>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
        operation: &'static Operation,
    ) -> Self {
        self.row((Method::GET, MethodFilter::GET), access, (path, operation), handler)
    }

    fn post<H: Operates<T>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
        operation: &'static Operation,
    ) -> Self {
        self.row((Method::POST, MethodFilter::POST), access, (path, operation), handler)
    }

    fn patch<H: Operates<T>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
        operation: &'static Operation,
    ) -> Self {
        self.row((Method::PATCH, MethodFilter::PATCH), access, (path, operation), handler)
    }

    fn delete<H: Operates<T>, T: Inputs + 'static>(
        self,
        access: Access,
        path: &'static str,
        handler: H,
        operation: &'static Operation,
    ) -> Self {
        self.row((Method::DELETE, MethodFilter::DELETE), access, (path, operation), handler)
    }

    fn row<H: Operates<T>, T: Inputs + 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        access: Access,
        (path, operation): (&'static str, &'static Operation),
        handler: H,
    ) -> Self {
        let (request, answers) = (T::schema(), H::Output::describe);
        self.routes.push(Route { method, path, access, request, operation, answers });
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
