//! Middleware around every request: trace id, time limit, panics, error answers, security headers.
//!
//! It is one function around the router rather than a stack of layers, because each layer costs a
//! boxed future and a cloned service per request. For the same reason `POST /api/events`, most of a
//! server's traffic, bypasses the router.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, EXPECT, HOST, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, Version};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::access_log::AccessLog;
use super::conn_deadline::{ConnDeadline, RequestDeadline};
use super::request_counters::RequestCounters;
use crate::http::byte_budget::Owner;
use crate::http::connection::Connection;
use crate::http::error::ApiError;
use crate::http::extract::{EventsWrite, Scoped};
use crate::http::held_answer::{self, AnswerOwner, ChangedState};
use crate::http::metrics::RejectedRequest;
use crate::http::paths::SINGLE_EVENTS;
use crate::http::request_context::{self, RequestContext, X_TRACE_ID};
use crate::http::router::router;
use crate::http::routes::events;
use crate::http::server_span::ServerSpan;
use crate::http::state::{AppState, Settings};
use crate::http::unread_body::RequestBody;
use crate::http::{console, cors, idempotency, respond};
use crate::telemetry::Gauge;

/// The whole API, ready to be served. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    app: AppState,
    router: TowerToHyperService<Router>,
    counters: Arc<RequestCounters>,
    access_log: AccessLog,
}

impl Api {
    /// The API over these parts.
    pub fn new(app: AppState) -> Self {
        let requests = app.metrics.http.hookgate_http_requests_total.clone();
        let counters = Arc::new(RequestCounters::new(requests));
        let access_log = AccessLog::new(app.settings().access_log_ratio);
        let router = TowerToHyperService::new(router(app.clone()));
        Self { app, router, counters, access_log }
    }

    /// Open connections, for the listener to count.
    pub(super) fn connections_open(&self) -> &Gauge {
        &self.app.metrics.http.hookgate_connections_open
    }

    /// Resolves once requests with an idempotency key have ended, when no more arrive.
    pub(super) async fn settled(&self) {
        self.app.settling().ended().await;
    }

    /// The API's settings.
    pub(super) fn settings(&self) -> &Settings {
        self.app.settings()
    }

    /// Answers one request of a connection.
    pub(super) async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        connection: &Connection,
        deadline: &Arc<ConnDeadline>,
    ) -> Result<Response, Infallible> {
        deadline.begin_request(request.method().is_safe());
        let counted = self.counters.labels(request.method(), request.uri().path());
        let trusted = &self.app.settings().trusted_proxies;
        let logged = self.access_log.begin((&request, counted.route), connection.peer, trusted);
        let malformed = malformed(&request, connection);
        let clock = &self.app.subsystems().clock;
        let mut context = RequestContext::new(request.headers(), connection.peer, clock);
        let (trace_id, watch) = (context.trace_id.clone(), context.watch);
        let posted = (request.method(), counted.route);
        let span = ServerSpan::begin(&self.app.tracer, posted, request.headers(), &trace_id);
        context.span.clone_from(&span);
        let origin = self.allowed_origin(request.headers());
        let is_page = console::owns(request.uri().path());
        let waits = request.headers().contains_key(EXPECT);
        let drained_bytes_max = self.app.settings().drained_bytes_max;
        let request = request.map(|body| {
            Body::new(RequestBody::new(body, &connection.unread, drained_bytes_max, waits))
        });
        let handled = async {
            match malformed {
                None => self.handle(request, context, connection, deadline).await,
                Some(error) => error.into_response(),
            }
        };
        let mut response = bounded(handled, deadline).await;
        if let Some(error) = response.extensions_mut().remove::<Arc<ApiError>>() {
            // Only the router knows which methods the route allows; keep what it wrote.
            let allow = response.headers_mut().remove(ALLOW);
            response = if is_page {
                console::failure(&error, &trace_id, response.headers())
            } else {
                respond::problem(&error, &trace_id)
            };
            response.headers_mut().extend(allow.map(|allow| (ALLOW, allow)));
            add_security_headers(response.headers_mut());
        }
        let headers = response.headers_mut();
        headers.insert(X_TRACE_ID, request_context::header_value(&trace_id));
        if let Some(origin) = origin {
            cors::allow(headers, origin);
        }
        self.counters.count(counted, response.status());
        if let Some(span) = span.filter(|span| span.is_of_use(response.status())) {
            let ended = (clock.now(), watch.elapsed());
            self.app.tracer.record(|| span.ended(&trace_id, response.status(), ended));
        }
        if let Some(logged) = logged {
            logged.log(response.status(), &trace_id);
        }
        deadline.end_request();
        connection.head_scan.next_head();
        Ok(response)
    }

    async fn handle(
        &self,
        mut request: Request,
        context: RequestContext,
        connection: &Connection,
        deadline: &Arc<ConnDeadline>,
    ) -> Response {
        if request.method() == Method::POST && request.uri().path() == SINGLE_EVENTS {
            return self.post_one(request, context, connection).await.into_response();
        }
        if cors::is_preflight(request.method(), request.headers())
            && self.allowed_origin(request.headers()).is_some()
        {
            return cors::preflight(self.app.settings().cors_max_age);
        }
        request.extensions_mut().insert(context.clone());
        request.extensions_mut().insert(RequestDeadline::new(Arc::clone(deadline)));
        let (owner, is_safe) = (AnswerOwner::default(), request.method().is_safe());
        request.extensions_mut().insert(owner.clone());
        // Boxed, so that the future of a single event does not grow to the size of the router's.
        let response = if idempotency::applies(&request) {
            let api = self.clone();
            let run =
                |request| -> BoxFuture<'_, _> { Box::pin(async move { api.route(request).await }) };
            let once = Box::pin(idempotency::once(&self.app, request, &context, run));
            once.await.unwrap_or_else(IntoResponse::into_response)
        } else {
            self.route(request).await
        };
        let may_refuse = is_safe && response.extensions().get::<ChangedState>().is_none();
        let mut response = self.hold(response, owner.get(), may_refuse).await;
        add_security_headers(response.headers_mut());
        response
    }

    async fn route(&self, request: Request) -> Response {
        let Ok(response) = Box::pin(self.router.call(request)).await;
        response
    }

    /// The answer with its bytes taken from the budget, or the refusal of a request that only reads.
    async fn hold(&self, response: Response, owner: Owner, may_refuse: bool) -> Response {
        let held = held_answer::hold(response, self.app.answers(), owner, may_refuse).await;
        held.unwrap_or_else(|error| {
            self.app.metrics.http.rejected_requests_total.of(RejectedRequest::AnswerBytes).inc();
            error.into_response()
        })
    }

    /// The request's origin, if `CORS_ORIGINS` allows it.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origins = &self.app.settings().cors_origins;
        if origins.are_none() { None } else { cors::allowed_origin(origins, headers) }
    }

    async fn post_one(
        &self,
        request: Request,
        context: RequestContext,
        connection: &Connection,
    ) -> Result<Response, ApiError> {
        let tenant =
            Scoped::<EventsWrite>::on_connection(request.headers(), &self.app, connection).await?;
        let answer = events::post_one(State(self.app.clone()), context, tenant, request.into());
        answer.await.map(IntoResponse::into_response)
    }
}

/// What hyper lets pass and RFC 9112 has refused.
fn malformed<B>(request: &hyper::Request<B>, connection: &Connection) -> Option<ApiError> {
    if !names_host(request) {
        Some(ApiError::InvalidHost)
    } else if request.headers().contains_key(TRANSFER_ENCODING) && connection.head_scan.has_length()
    {
        Some(ApiError::AmbiguousLength)
    } else {
        None
    }
}

/// Whether a request names one host, as RFC 9112, section 3.2, requires of HTTP/1.1.
fn names_host<B>(request: &hyper::Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => true,
        (None, _) => request.version() < Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}

/// Keeps an answer out of caches, since it may contain a secret, unless it says how long it may be kept; and keeps browsers from guessing its
/// content type. The `202` of a single event does without: answers to `POST` are not cached, and it
/// holds nothing but an id.
fn add_security_headers(headers: &mut HeaderMap) {
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The handler's response, or an error if it panics or misses its deadline.
async fn bounded(handled: impl Future<Output = Response>, deadline: &ConnDeadline) -> Response {
    // Unwind safe: handlers share nothing mutable but the subsystems, whose state a panic cannot break.
    let mut handled = pin!(AssertUnwindSafe(handled).catch_unwind());
    poll_fn(|context| {
        if deadline.request_is_overdue() {
            return Poll::Ready(ApiError::TimedOut.into_response());
        }
        let panicked = |_| ApiError::internal("a handler panicked").into_response();
        handled.as_mut().poll(context).map(|handled| handled.unwrap_or_else(panicked))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::conn_deadline::{Bounds, ConnDeadlines};
    use super::*;

    fn deadlines() -> ConnDeadlines {
        ConnDeadlines::new(Bounds { head: Duration::MAX, request: Duration::ZERO })
    }

    fn error(mut response: Response) -> Arc<ApiError> {
        response.extensions_mut().remove().unwrap()
    }

    #[tokio::test]
    async fn panics_become_internal_errors() {
        let response = bounded(async { panic!("on purpose") }, &deadlines().open()).await;
        assert!(matches!(*error(response), ApiError::Internal(_)));
    }

    #[tokio::test]
    async fn requests_past_their_deadline_time_out() {
        let mut deadlines = deadlines();
        let deadline = deadlines.open();
        deadline.begin_request(false);
        let mut response = pin!(bounded(std::future::pending(), &deadline));
        assert!(futures_util::poll!(&mut response).is_pending());
        deadlines.sweep();
        assert!(matches!(*error(response.await), ApiError::TimedOut));
    }

    #[tokio::test]
    async fn ready_answers_pass_unchanged() {
        let response = async { Response::new(Body::empty()) };
        let response = bounded(response, &deadlines().open()).await;
        assert_eq!(response.status(), 200);
        assert!(response.extensions().is_empty());
    }
}
