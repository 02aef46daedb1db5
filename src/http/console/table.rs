//! Every page of the console on one screen, with what it needs.

use axum::Router;
use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodFilter, on};

use super::assets;
use super::pages::{
    accounts, audit, dead_letters, deliveries, endpoint_changes, endpoints, events,
    failing_endpoints, keys, live, operator_keys, org_changes, orgs, overview, portal, replays,
    samples, server, session, sign_in,
};
use crate::domain::Scope;
use crate::http::state::AppState;

/// What a page needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsoleNeeds {
    /// No session.
    Nothing,
    /// Any session.
    Session,
    /// A session of an organisation, whose key has this scope.
    Tenant(Scope),
    /// A session of an operator, whose key has this scope.
    Operator(Scope),
}

/// A page, or a change that a page makes.
#[derive(Clone, Debug)]
pub struct ConsoleRoute {
    /// `GET` for a page, `POST` for a change.
    pub method: Method,
    /// Its path.
    pub path: &'static str,
    /// What it needs.
    pub needs: ConsoleNeeds,
}

/// Every page and change, in the order of the table.
pub fn console_table() -> Vec<ConsoleRoute> {
    table().routes
}

/// The router of every page.
pub(super) fn router() -> Router<AppState> {
    table().router
}

const READ: ConsoleNeeds = ConsoleNeeds::Tenant(Scope::EventsRead);
const MANAGE: ConsoleNeeds = ConsoleNeeds::Tenant(Scope::EndpointsManage);
const READ_ALL: ConsoleNeeds = ConsoleNeeds::Operator(Scope::OperatorRead);
const CHANGE_ALL: ConsoleNeeds = ConsoleNeeds::Operator(Scope::OperatorWrite);
const KEYS: ConsoleNeeds = ConsoleNeeds::Tenant(Scope::KeysManage);
const READ_ENDPOINTS: ConsoleNeeds = ConsoleNeeds::Tenant(Scope::EndpointsRead);
const READ_KEYS: ConsoleNeeds = ConsoleNeeds::Tenant(Scope::KeysRead);

/// The one place where pages are added.
fn table() -> PageTable {
    let groups: [fn(PageTable) -> PageTable; 4] = [sessions, reading, changes, operators];
    groups.into_iter().fold(PageTable::default(), |table, add| add(table))
}

fn sessions(table: PageTable) -> PageTable {
    use ConsoleNeeds::{Nothing, Session};
    table
        .get(Nothing, "/", sign_in::root)
        .get(Nothing, "/console/assets/{file}", assets::file)
        .get(Nothing, "/console/sign-in", sign_in::form)
        .post(Nothing, "/console/sign-in", sign_in::submit)
        .get(Nothing, "/console/link/{token}", sign_in::link)
        .post(Nothing, "/console/link/{token}", sign_in::use_link)
        .post(Session, "/console/sign-out", sign_in::sign_out)
        .get(Session, "/console/session", session::show)
        .post(Session, "/console/sign-out-everywhere", session::sign_out_everywhere)
        .get(Session, "/console", overview::show)
        .get(Session, "/console/portal/theme.css", portal::theme)
        .get(Session, "/console/portal/logo", portal::logo)
}

fn reading(table: PageTable) -> PageTable {
    table
        .get(READ, "/console/events", events::list)
        .get(READ, "/console/events/{id}", events::one)
        .get(READ, "/console/live", live::show)
        .get(READ, "/console/live/stream", live::stream)
        .get(READ_ENDPOINTS, "/console/endpoints", endpoints::list)
        .get(MANAGE, "/console/endpoints/new", endpoint_changes::new)
        .get(MANAGE, "/console/endpoints/check-url", endpoint_changes::check_url)
        .get(READ_ENDPOINTS, "/console/endpoints/{id}", endpoints::one)
        .get(MANAGE, "/console/endpoints/{id}/edit", endpoint_changes::edit)
        .get(READ, "/console/deliveries", deliveries::list)
        .get(READ, "/console/deliveries/{id}", deliveries::one)
        .get(READ, "/console/dead-letters", dead_letters::list)
        .get(READ, "/console/dead-letters/{id}", dead_letters::one)
        .get(READ, "/console/replays/{id}", replays::one)
        .get(READ, "/console/accounts", accounts::list)
        .get(READ, "/console/accounts/summary", accounts::one)
        .get(READ_KEYS, "/console/keys", keys::list)
        .get(KEYS, "/console/keys/new", keys::new)
        .get(READ_KEYS, "/console/keys/{id}", keys::one)
        .get(READ_KEYS, "/console/audit", audit::list)
        .get(READ, "/console/samples", samples::show)
}

fn changes(table: PageTable) -> PageTable {
    table
        .post(MANAGE, "/console/events/{id}/replay", events::replay)
        .post(MANAGE, "/console/endpoints", endpoint_changes::create)
        .post(MANAGE, "/console/endpoints/{id}", endpoint_changes::change)
        .post(MANAGE, "/console/endpoints/{id}/test", endpoint_changes::test)
        .post(MANAGE, "/console/endpoints/{id}/enabled", endpoint_changes::enable)
        .post(MANAGE, "/console/endpoints/{id}/secret", endpoint_changes::show_secret)
        .post(MANAGE, "/console/endpoints/{id}/rotate", endpoint_changes::rotate)
        .post(MANAGE, "/console/endpoints/{id}/replay", endpoint_changes::replay)
        .post(MANAGE, "/console/endpoints/{id}/cancel-pending", endpoint_changes::cancel_pending)
        .post(MANAGE, "/console/endpoints/{id}/delete", endpoint_changes::delete)
        .post(MANAGE, "/console/deliveries/{id}/retry", deliveries::retry)
        .post(MANAGE, "/console/deliveries/{id}/replay", deliveries::replay)
        .post(MANAGE, "/console/deliveries/{id}/cancel", deliveries::cancel)
        .post(MANAGE, "/console/dead-letters/replay", replays::start)
        .post(MANAGE, "/console/dead-letters/discard", replays::discard)
        .post(MANAGE, "/console/dead-letters/{id}/replay", dead_letters::replay)
        .post(MANAGE, "/console/dead-letters/{id}/discard", dead_letters::discard)
        .post(MANAGE, "/console/replays/{id}/cancel", replays::cancel)
        .post(KEYS, "/console/keys", keys::create)
        .post(KEYS, "/console/keys/{id}/rename", keys::rename)
        .post(KEYS, "/console/keys/{id}/rotate", keys::rotate)
        .post(KEYS, "/console/keys/{id}/revoke", keys::revoke)
}

fn operators(table: PageTable) -> PageTable {
    const VIEW: ConsoleNeeds = ConsoleNeeds::Operator(Scope::OperatorImpersonate);
    table
        .get(READ_ALL, "/console/orgs", orgs::list)
        .post(CHANGE_ALL, "/console/orgs", org_changes::create)
        .get(READ_ALL, "/console/orgs/{id}", orgs::one)
        .post(CHANGE_ALL, "/console/orgs/{id}/limits", org_changes::change)
        .post(CHANGE_ALL, "/console/orgs/{id}/suspend", org_changes::suspend)
        .post(CHANGE_ALL, "/console/orgs/{id}/resume", org_changes::resume)
        .post(CHANGE_ALL, "/console/orgs/{id}/delete", org_changes::delete)
        .post(CHANGE_ALL, "/console/orgs/{id}/keys", org_changes::create_key)
        .post(VIEW, "/console/orgs/{id}/view", org_changes::view)
        .post(ConsoleNeeds::Session, "/console/leave", org_changes::leave)
        .get(READ_ALL, "/console/operator-keys", operator_keys::list)
        .post(CHANGE_ALL, "/console/operator-keys", operator_keys::create)
        .get(READ_ALL, "/console/operator-keys/{id}", operator_keys::one)
        .post(CHANGE_ALL, "/console/operator-keys/{id}/rename", operator_keys::rename)
        .post(CHANGE_ALL, "/console/operator-keys/{id}/rotate", operator_keys::rotate)
        .post(CHANGE_ALL, "/console/operator-keys/{id}/revoke", operator_keys::revoke)
        .get(READ_ALL, "/console/operator-audit", audit::of_all)
        .get(READ_ALL, "/console/failing-endpoints", failing_endpoints::list)
        .get(READ_ALL, "/console/server", server::show)
}

/// The list of pages and the router, filled together so that they agree.
#[derive(Default)]
struct PageTable {
    routes: Vec<ConsoleRoute>,
    router: Router<AppState>,
}

impl PageTable {
    fn get<H: Handler<T, AppState>, T: 'static>(
        self,
        needs: ConsoleNeeds,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::GET, MethodFilter::GET), needs, path, handler)
    }

    fn post<H: Handler<T, AppState>, T: 'static>(
        self,
        needs: ConsoleNeeds,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.row((Method::POST, MethodFilter::POST), needs, path, handler)
    }

    fn row<H: Handler<T, AppState>, T: 'static>(
        mut self,
        (method, filter): (Method, MethodFilter),
        needs: ConsoleNeeds,
        path: &'static str,
        handler: H,
    ) -> Self {
        self.routes.push(ConsoleRoute { method, path, needs });
        Self { router: self.router.route(path, on(filter, handler)), ..self }
    }
}
