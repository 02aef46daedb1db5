//! How an operation can fail: what its parts, its key and its limits can cause, and what it says itself.

use std::collections::BTreeMap;

use axum::http::Method;

use crate::http::paths;
use crate::http::problem::{self, Problem};
use crate::http::route::{Access, Route};

/// Any request.
const ALWAYS: [Problem; 4] =
    [problem::AMBIGUOUS_LENGTH, problem::INVALID_HOST, problem::INTERNAL, problem::REQUEST_TIMEOUT];
/// Any request with a key.
const WITH_A_KEY: [Problem; 5] = [
    problem::UNAUTHORIZED,
    problem::TOO_MANY_FAILED_KEYS,
    problem::AUTH_UNAVAILABLE,
    problem::STORE_UNAVAILABLE,
    problem::READ_TIMEOUT,
];
/// Any answer to a `GET` that may be refused for lack of memory.
const ANSWERED: [Problem; 2] = [problem::TOO_MANY_ANSWER_BYTES, problem::ANSWER_BYTES_EXHAUSTED];
/// Any request with an `Idempotency-Key`. It takes a read, and its body is read whole first.
const NAMED: [Problem; 5] = [
    problem::ALREADY_CREATED,
    problem::IDEMPOTENCY_IN_PROGRESS,
    problem::IDEMPOTENCY_KEY_REUSED,
    problem::READ_RATE_LIMITED,
    problem::TOO_MANY_READS,
];

/// Every error of an operation, by status and code.
pub(super) fn of(route: &Route) -> BTreeMap<u16, BTreeMap<&'static str, Problem>> {
    let mut found: Vec<Problem> = ALWAYS.to_vec();
    match route.access {
        Access::Anyone => {}
        Access::Tenant(scope) => {
            found.extend(WITH_A_KEY);
            found.extend([problem::TENANT_KEY_REQUIRED, problem::ORG_SUSPENDED]);
            found.extend(scope.map(|_| problem::SCOPE_REQUIRED));
        }
        Access::Operator(_) => {
            found.extend(WITH_A_KEY);
            found.extend([problem::OPERATOR_KEY_REQUIRED, problem::SCOPE_REQUIRED]);
        }
    }
    if route.method == Method::GET {
        found.extend(ANSWERED);
    }
    // Without a scope, any key reads what is its own.
    let reads = route.request.is_charged || route.access == Access::Tenant(None);
    match (reads, route.method == Method::GET) {
        (false, _) => {}
        (true, true) => found.extend([problem::READ_RATE_LIMITED, problem::TOO_MANY_READS]),
        (true, false) => found.push(problem::WRITE_RATE_LIMITED),
    }
    if is_named(route) {
        found.extend(NAMED);
    }
    found.extend(&route.request.problems);
    found.extend(route.operation.problems);
    let mut by_status: BTreeMap<u16, BTreeMap<&'static str, Problem>> = BTreeMap::new();
    for problem in found {
        by_status.entry(problem.status).or_default().insert(problem.code, problem);
    }
    by_status
}

/// Whether its requests run once by their `Idempotency-Key`.
pub(super) fn is_named(route: &Route) -> bool {
    route.method == Method::POST
        && route.access != Access::Anyone
        && !paths::is_single_event(route.path)
}
