//! Answers in flight: a large one holds its bytes of a budget until it is written or dropped.
//!
//! A client that asks and does not read keeps its answer in the server's memory until `HEAD_TIMEOUT`. Answers of up
//! to [`FRAME_BYTES`] are not counted: they lie in the buffer that a connection has anyway.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};

use super::byte_budget::{ByteBudget, BytePermit, Owner};
use super::error::ApiError;
use super::metrics::RejectedRequest;
use super::state::AppState;

/// Bytes that are handed to the connection at once. It takes no more than it can buffer: a whole answer
/// would be its own at once, and the budget would know nothing of it.
pub(super) const FRAME_BYTES: usize = 64 * 1024;

/// Who asked, once it is known. The middleware puts it into a routed request; authentication sets it.
#[derive(Clone, Debug, Default)]
pub(super) struct AnswerOwner(Arc<OnceLock<Owner>>);

impl AnswerOwner {
    /// Sets who asked. The first one stays.
    pub(super) fn set(&self, owner: Owner) {
        let _ = self.0.set(owner);
    }

    /// Who asked.
    pub(super) fn get(&self) -> Owner {
        self.0.get().copied().unwrap_or(Owner::Anyone)
    }
}

/// Takes the bytes that it takes to read and write a large answer, before it is there.
///
/// # Errors
/// When the budget has less.
pub(super) fn reserve(app: &AppState, owner: Owner, bytes: usize) -> Result<BytePermit, ApiError> {
    let mut permit = app.answers().permit(owner);
    grow(app, &mut permit, bytes)?;
    Ok(permit)
}

/// The same for a permit that is there: takes what it has less.
///
/// # Errors
/// When the budget has less.
pub(super) fn grow(app: &AppState, permit: &mut BytePermit, bytes: usize) -> Result<(), ApiError> {
    permit.grow_to(bytes).map_err(|exhausted| {
        app.metrics.http.rejected_requests_total.of(RejectedRequest::AnswerBytes).inc();
        ApiError::AnswerBytes(exhausted)
    })
}

/// The answer, with its bytes taken from the budget.
///
/// # Errors
/// When the budget has less and `may_refuse`. The answer to a request that has changed something is not refused, but
/// counted all the same.
pub(super) async fn hold(
    response: Response,
    budget: &ByteBudget,
    owner: Owner,
    may_refuse: bool,
) -> Result<Response, ApiError> {
    if response.body().size_hint().lower() <= FRAME_BYTES as u64 {
        return Ok(response);
    }
    let (head, body) = response.into_parts();
    // An answer is one buffer already.
    let bytes = body.collect().await.map_err(ApiError::internal)?.to_bytes();
    let mut permit = budget.permit(owner);
    if may_refuse {
        permit.grow_to(bytes.len()).map_err(ApiError::AnswerBytes)?;
    } else {
        permit.overdraw_to(bytes.len());
    }
    Ok(Response::from_parts(head, Body::new(HeldAnswer { rest: bytes, _permit: permit })))
}

/// Marks the answer to a `GET` that has changed something, and so is not refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChangedState;

/// The body of an answer that holds bytes of the budget.
struct HeldAnswer {
    rest: Bytes,
    _permit: BytePermit,
}

impl HttpBody for HeldAnswer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = self.rest.len().min(FRAME_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::byte_budget::Exhausted;
    use crate::telemetry::Gauge;

    async fn held(budget: &ByteBudget, bytes: usize, may_refuse: bool) -> Result<Body, ApiError> {
        let response = Response::new(Body::from(vec![b'x'; bytes]));
        hold(response, budget, Owner::Anyone, may_refuse).await.map(Response::into_body)
    }

    #[tokio::test]
    async fn answer_gives_its_bytes_back_when_it_is_written_or_dropped() {
        let budget = ByteBudget::new(1_000_000, Gauge::new("held", "bytes").unwrap());
        let answer = held(&budget, 600_000, true).await.unwrap();
        assert_eq!(answer.size_hint().exact(), Some(600_000));
        assert_eq!(budget.check(Owner::Operators, 400_001), Err(Exhausted::Total));
        let refused = held(&budget, 600_000, true).await;
        assert!(matches!(refused, Err(ApiError::AnswerBytes(Exhausted::Share))));
        drop(held(&budget, 600_000, false).await.unwrap());
        let written = answer.collect().await.unwrap().to_bytes();
        assert_eq!(written, vec![b'x'; 600_000]);
        drop(held(&budget, 1_000_000, true).await.unwrap());
        budget.check(Owner::Operators, 1_000_000).unwrap();
    }

    #[tokio::test]
    async fn small_answers_are_not_counted() {
        let budget = ByteBudget::new(0, Gauge::new("held", "bytes").unwrap());
        drop(held(&budget, FRAME_BYTES, true).await.unwrap());
        assert!(held(&budget, FRAME_BYTES + 1, true).await.is_err());
    }
}
