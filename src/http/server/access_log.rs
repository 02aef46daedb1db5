//! The access log: a line for a share of the requests, once each is answered.
//!
//! It has no query, header or body, and no path but its route's, which may hold what is nobody's business.

use std::net::IpAddr;

use axum::http::{Method, Request, StatusCode};

use crate::config::Networks;
use crate::domain::TraceId;
use crate::http::client_ip;
use crate::runtime::Stopwatch;

/// Which requests get a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct AccessLog {
    ratio: f64,
}

/// A request that gets a line.
pub(super) struct LoggedRequest {
    method: Method,
    route: &'static str,
    client: IpAddr,
    watch: Stopwatch,
}

impl AccessLog {
    /// A line for this share of the requests, from 0 to 1.
    pub(super) const fn new(ratio: f64) -> Self {
        Self { ratio }
    }

    /// The request of a peer for a route, if it gets a line.
    pub(super) fn begin<B>(
        self,
        (request, route): (&Request<B>, &'static str),
        peer: IpAddr,
        trusted: &Networks,
    ) -> Option<LoggedRequest> {
        let is_chosen = self.ratio > 0.0 && rand::random::<f64>() < self.ratio;
        is_chosen.then(|| LoggedRequest {
            method: request.method().clone(),
            route,
            client: client_ip::address(peer, request.headers(), trusted),
            watch: Stopwatch::start(),
        })
    }
}

impl LoggedRequest {
    /// Logs that it is answered; its body may still be on its way.
    pub(super) fn log(self, status: StatusCode, trace_id: &TraceId) {
        let Self { method, route, client, watch } = self;
        tracing::info!(
            target: "hookgate::access",
            %method,
            route,
            status = status.as_u16(),
            duration_ms = watch.seconds() * 1_000.0,
            %client,
            %trace_id,
            "answered"
        );
    }
}
