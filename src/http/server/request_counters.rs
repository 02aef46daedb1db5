//! Counts requests by the path of their route and the status of their answer.
//!
//! The path is found again here, from the table of routes, so that answers that no handler gave are counted with their
//! route, too: refusals, time limits, repeated answers.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use matchit::Router;

use crate::http::console::console_table;
use crate::http::paths::SINGLE_EVENTS;
use crate::http::router::route_table;
use crate::telemetry::{Counter, CounterByText};

/// The route of requests that no route takes. No path of theirs is a label: callers choose those.
const UNMATCHED: &str = "unmatched";

/// Counts requests.
pub(super) struct RequestCounters {
    paths: Router<&'static str>,
    requests: CounterByText,
    /// Of `POST /api/events` with 202, most of a server's traffic.
    accepted: Counter,
}

/// The labels of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CountedRequest {
    method: &'static str,
    pub(super) route: &'static str,
}

impl RequestCounters {
    /// Counters of every route, in this family.
    pub(super) fn new(requests: CounterByText) -> Self {
        let mut paths = Router::new();
        let pages = console_table().into_iter().map(|page| page.path);
        let distinct: BTreeSet<&'static str> =
            route_table().into_iter().map(|route| route.path).chain(pages).collect();
        for path in distinct {
            if let Err(error) = paths.insert(path, path) {
                tracing::error!(path, %error, "requests of a route are counted as unmatched");
            }
        }
        let accepted = requests.with_label_values(&["POST", SINGLE_EVENTS, "202"]);
        Self { paths, requests, accepted }
    }

    /// The labels of a request with this path.
    pub(super) fn labels(&self, method: &Method, path: &str) -> CountedRequest {
        let method = method_label(method);
        if path == SINGLE_EVENTS {
            return CountedRequest { method, route: SINGLE_EVENTS };
        }
        let route = self.paths.at(path).map_or(UNMATCHED, |matched| *matched.value);
        CountedRequest { method, route }
    }

    /// Counts a request that is answered.
    pub(super) fn count(&self, request: CountedRequest, status: StatusCode) {
        let CountedRequest { method, route } = request;
        if status == StatusCode::ACCEPTED && route == SINGLE_EVENTS && method == "POST" {
            self.accepted.inc();
        } else {
            self.requests.with_label_values(&[method, route, status.as_str()]).inc();
        }
    }
}

/// The method; `other` for what a caller made up.
fn method_label(method: &Method) -> &'static str {
    const KNOWN: [Method; 7] = [
        Method::POST,
        Method::GET,
        Method::PATCH,
        Method::DELETE,
        Method::PUT,
        Method::HEAD,
        Method::OPTIONS,
    ];
    const NAMES: [&str; 7] = ["POST", "GET", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
    let known = KNOWN.iter().zip(NAMES).find(|(known, _)| *known == method);
    known.map_or("other", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::HttpMetrics;
    use crate::telemetry::Registry;

    fn counters() -> RequestCounters {
        let metrics = HttpMetrics::register(&Registry::new()).unwrap();
        RequestCounters::new(metrics.hookgate_http_requests_total.clone())
    }

    #[test]
    fn every_route_is_counted_by_its_own_path() {
        let counters = counters();
        for route in route_table() {
            let path = route.path.replace("{id}", "0190b5a7-0000-7000-8000-000000000000");
            let path = path.replace("{code}", "not_found");
            let found = counters.labels(&route.method, &path);
            assert_eq!(found.route, route.path);
            assert_eq!(found.method, route.method.as_str());
        }
    }

    #[test]
    fn what_callers_make_up_is_no_label() {
        let counters = counters();
        for path in ["/other", "/api/events/a/b/c", "/metrics/", "*", ""] {
            let method = Method::from_bytes(b"BREW").unwrap();
            let found = counters.labels(&method, path);
            assert_eq!(found, CountedRequest { method: "other", route: UNMATCHED }, "{path}");
        }
    }

    #[test]
    fn requests_are_counted_by_status() {
        let counters = counters();
        let request = counters.labels(&Method::POST, SINGLE_EVENTS);
        counters.count(request, StatusCode::ACCEPTED);
        counters.count(request, StatusCode::ACCEPTED);
        counters.count(request, StatusCode::TOO_MANY_REQUESTS);
        let of =
            |status| counters.requests.with_label_values(&["POST", SINGLE_EVENTS, status]).get();
        assert_eq!((of("202"), of("429")), (2, 1));
    }
}
