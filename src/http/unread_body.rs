//! The unread rest of a request's body: received and dropped for a moment after the answer.
//!
//! A client that sends all of its request before it reads would otherwise find a reset connection instead of
//! the answer. The answer does not wait for the rest: the connection's task reads it while the client reads the answer.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::HttpBody;
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Sleep;

/// How long the rest is read. Then the connection is closed.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// Bodies whose rest is read at once at most, in the process: reading costs CPU, and who is refused all the time would
/// take it from others. Beyond it a connection is closed at once.
const DRAINS_MAX: usize = 32;

static DRAINS: Semaphore = Semaphore::const_new(DRAINS_MAX);

/// What is left to read of the body of a connection's last request. Requests on a connection follow one another, so
/// there is at most one.
#[derive(Debug, Default)]
pub(super) struct UnreadBody {
    rest: Mutex<Option<Rest>>,
    /// Whether there is any, without the lock.
    is_there: AtomicBool,
}

#[derive(Debug)]
struct Rest {
    body: Incoming,
    bytes_left: usize,
    /// Set when the reading begins, in the connection's task.
    deadline: Option<Pin<Box<Sleep>>>,
    _permit: SemaphorePermit<'static>,
}

impl UnreadBody {
    fn set(&self, body: Incoming, bytes_max: usize) {
        let Ok(permit) = DRAINS.try_acquire() else { return };
        let rest = Rest { body, bytes_left: bytes_max, deadline: None, _permit: permit };
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
        self.is_there.store(true, Ordering::Release);
    }

    /// Reads and drops what has arrived of the rest, if there is one. Wakes the task for more of it, and at the end of
    /// the time for it.
    pub(super) fn drain(&self, context: &mut Context<'_>) {
        if !self.is_there.load(Ordering::Acquire) {
            return;
        }
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        if rest.as_mut().is_none_or(|rest| rest.poll(context).is_ready()) {
            *rest = None;
            self.is_there.store(false, Ordering::Release);
            // The connection goes on with its next request, or closes.
            context.waker().wake_by_ref();
        }
    }
}

impl Rest {
    /// Ready when the body has ended, or enough of it was read.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let sleep = || Box::pin(tokio::time::sleep(DRAIN_TIME_MAX));
        if self.deadline.get_or_insert_with(sleep).as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        while self.bytes_left > 0 {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            let Some(Ok(frame)) = frame else { break };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.bytes_left = self.bytes_left.saturating_sub(bytes);
        }
        Poll::Ready(())
    }
}

/// The body of a request. What is not read of it when it is dropped goes to the connection's [`UnreadBody`].
#[derive(Debug)]
pub(super) struct RequestBody {
    /// `None` once it was read to its end, or has failed.
    body: Option<Incoming>,
    unread: Arc<UnreadBody>,
    drained_bytes_max: usize,
    /// Whether its client sends it at all before the server asks for it.
    is_on_its_way: bool,
}

impl RequestBody {
    /// A body of which nothing was read. `waits` is whether its client waits for `100 Continue`.
    pub(super) fn new(
        body: Incoming,
        unread: &Arc<UnreadBody>,
        drained_bytes_max: usize,
        waits: bool,
    ) -> Self {
        let unread = Arc::clone(unread);
        Self { body: Some(body), unread, drained_bytes_max, is_on_its_way: !waits }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Reading asks for the body.
        self.is_on_its_way = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && self.is_on_its_way
            && !body.is_end_stream()
        {
            self.unread.set(body, self.drained_bytes_max);
        }
    }
}
