//! What surrounds every request: its trace, its time limit, and an answer whatever happens.
//!
//! One middleware rather than four, because each layer of the router costs a boxed future and a
//! cloned service on every request.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;

use super::error::ApiError;
use super::state::AppState;
use super::trace::{self, Arrival, X_TRACE_ID};

/// Runs the request inside its bounds and finishes its answer.
pub(super) async fn envelope(
    State(app): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrival = Arrival::note(request.headers());
    request.extensions_mut().insert(arrival);
    let mut response = bounded(next.run(request), app.settings().request_timeout).await;
    if let Some(error) = response.extensions_mut().remove::<Arc<ApiError>>() {
        response = error.answer(arrival.trace_id);
    }
    response.headers_mut().insert(X_TRACE_ID, trace::header_value(arrival.trace_id));
    response
}

/// The handler's response, or an error in its place when it panics or takes too long.
async fn bounded(handled: impl Future<Output = Response>, timeout: Duration) -> Response {
    // Handlers share nothing mutable but the parts below, which keep themselves whole.
    let handled = AssertUnwindSafe(handled).catch_unwind();
    match tokio::time::timeout(timeout, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => ApiError::internal("a handler panicked").into_response(),
        Err(_) => ApiError::TimedOut.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn error(mut response: Response) -> Arc<ApiError> {
        response.extensions_mut().remove().unwrap()
    }

    #[tokio::test]
    async fn a_panic_becomes_an_internal_error() {
        let response = bounded(async { panic!("on purpose") }, LIMIT).await;
        assert!(matches!(*error(response), ApiError::Internal(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_too_long_is_answered_in_time() {
        let response = bounded(std::future::pending(), LIMIT).await;
        assert!(matches!(*error(response), ApiError::TimedOut));
    }

    #[tokio::test]
    async fn what_is_ready_passes_as_it_is() {
        let response = bounded(async { Response::new(Body::empty()) }, LIMIT).await;
        assert_eq!(response.status(), 200);
        assert!(response.extensions().is_empty());
    }
}
