//! What surrounds every request: its trace, its time limit, and an answer whatever happens.
//!
//! A plain function around the router rather than layers within it, because each layer costs a boxed
//! future and a cloned service on every request. For the same reason a single event does not pass
//! the router at all: `POST /api/events` is most of what a server is asked.

use std::convert::Infallible;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;

use super::cors;
use super::error::ApiError;
use super::extract::{EventsWrite, Scoped};
use super::line::Line;
use super::router::{SINGLE_EVENTS, router};
use super::routes::events;
use super::state::{AppState, Settings};
use super::trace::{self, Arrival, X_TRACE_ID};

/// The whole API, ready to be served. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    app: AppState,
    router: TowerToHyperService<Router>,
}

impl Api {
    /// The API over these parts.
    pub fn new(app: AppState) -> Self {
        Self { router: TowerToHyperService::new(router(app.clone())), app }
    }

    /// What the configuration says to the API.
    pub(super) fn settings(&self) -> &Settings {
        self.app.settings()
    }

    /// Answers a request that came on a line.
    pub(super) async fn answer(
        &self,
        request: hyper::Request<Incoming>,
        line: &Line,
    ) -> Result<Response, Infallible> {
        line.begin_request();
        let arrival = Arrival::note(request.headers(), line.peer);
        let origin = self.allowed_origin(request.headers());
        let mut response = bounded(self.handle(request.map(Body::new), arrival, line), line).await;
        if let Some(error) = response.extensions_mut().remove::<Arc<ApiError>>() {
            // The router alone knows which methods a route takes, and has noted them.
            let allow = response.headers_mut().remove(ALLOW);
            response = error.answer(arrival.trace_id);
            response.headers_mut().extend(allow.map(|allow| (ALLOW, allow)));
            guard(response.headers_mut());
        }
        let headers = response.headers_mut();
        headers.insert(X_TRACE_ID, trace::header_value(arrival.trace_id));
        if let Some(origin) = origin {
            cors::allow(headers, origin);
        }
        line.end_request();
        Ok(response)
    }

    async fn handle(&self, mut request: Request, arrival: Arrival, line: &Line) -> Response {
        if request.method() == Method::POST && request.uri().path() == SINGLE_EVENTS {
            return self.post_one(request, arrival, line).await.into_response();
        }
        if cors::is_preflight(request.method(), request.headers())
            && self.allowed_origin(request.headers()).is_some()
        {
            return cors::preflight();
        }
        request.extensions_mut().insert(arrival);
        // Boxed, so that the future of a single event is not as large as that of any route.
        let Ok(mut response) = Box::pin(self.router.call(request)).await;
        guard(response.headers_mut());
        response
    }

    /// The origin of a web page that may call; `None` too when no page may, which costs nothing.
    fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origins = &self.app.settings().cors_origins;
        if origins.are_none() { None } else { cors::allowed_origin(origins, headers) }
    }

    async fn post_one(
        &self,
        request: Request,
        arrival: Arrival,
        line: &Line,
    ) -> Result<Response, ApiError> {
        let tenant = Scoped::<EventsWrite>::again(request.headers(), &self.app, line).await?;
        events::post_one(State(self.app.clone()), arrival, tenant, request).await
    }
}

/// Keeps an answer out of caches, since it may show a secret and none knows whose key it was for, and
/// browsers from taking it for anything but what it says it is. The `202` of a single event goes
/// without: nobody caches the answer to a `POST`, and there is nothing in it but an id.
fn guard(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The handler's response, or an error in its place when it panics or takes too long.
async fn bounded(handled: impl Future<Output = Response>, line: &Line) -> Response {
    // Handlers share nothing mutable but the parts below, which keep themselves whole.
    let mut handled = pin!(AssertUnwindSafe(handled).catch_unwind());
    poll_fn(|context| {
        if line.request_is_overdue() {
            return Poll::Ready(ApiError::TimedOut.into_response());
        }
        let panicked = |_| ApiError::internal("a handler panicked").into_response();
        handled.as_mut().poll(context).map(|handled| handled.unwrap_or_else(panicked))
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::super::line::{Bounds, Lines};
    use super::*;

    const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn lines() -> Lines {
        Lines::new(Bounds { head: Duration::MAX, request: Duration::ZERO })
    }

    fn error(mut response: Response) -> Arc<ApiError> {
        response.extensions_mut().remove().unwrap()
    }

    #[tokio::test]
    async fn panic_becomes_an_internal_error() {
        let response = bounded(async { panic!("on purpose") }, &lines().open(PEER)).await;
        assert!(matches!(*error(response), ApiError::Internal(_)));
    }

    #[tokio::test]
    async fn what_takes_too_long_is_answered_in_time() {
        let mut lines = lines();
        let line = lines.open(PEER);
        line.begin_request();
        let mut response = pin!(bounded(std::future::pending(), &line));
        assert!(futures_util::poll!(&mut response).is_pending());
        lines.sweep();
        assert!(matches!(*error(response.await), ApiError::TimedOut));
    }

    #[tokio::test]
    async fn what_is_ready_passes_as_it_is() {
        let response = async { Response::new(Body::empty()) };
        let response = bounded(response, &lines().open(PEER)).await;
        assert_eq!(response.status(), 200);
        assert!(response.extensions().is_empty());
    }
}
