//! Connection deadlines: how long a connection waits for a request, and a request for its answer.
//!
//! One sweep four times a second serves all connections. A timer and a stop signal per connection
//! would arm two timers per request and poll three futures per wake-up, which costs more than
//! routing. Here a request writes one word and a wake-up reads two. Deadlines are therefore up to a
//! quarter of a second late, and never early.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use futures_util::task::AtomicWaker;

use crate::http::error::ApiError;
use crate::http::request::Input;
use crate::http::state::AppState;

/// The time between two sweeps.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// A read that has taken this many ticks is ended once its client is gone.
const LONG_READ_TICKS: u64 = 4;

/// Set in a phase that is a request.
const REQUEST: u64 = 0b01;
/// Set in a request that changes nothing.
const READ: u64 = 0b10;
/// Set in a request that waits on purpose.
const UNLIMITED: u64 = 0b100;
/// The bits below the tick.
const FLAG_BITS: u32 = 3;

/// No phase. Ticks count from 0, and no process lives for this many.
const NEVER: u64 = u64::MAX;

/// The deadlines of all open connections, owned by the listener.
#[derive(Debug)]
pub(super) struct ConnDeadlines {
    shared: Arc<Shared>,
    open: Vec<Weak<ConnDeadline>>,
    bounds: Bounds,
}

/// How long each phase of a connection may last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// From the end of one answer to the complete head of the next request.
    pub(super) head: Duration,
    /// From the head of a request to its answer.
    pub(super) request: Duration,
}

/// Deadline state of one connection.
#[derive(Debug)]
pub(super) struct ConnDeadline {
    shared: Arc<Shared>,
    /// The tick at which the phase began, shifted left by [`FLAG_BITS`], with [`REQUEST`], [`READ`] and
    /// [`UNLIMITED`].
    phase: AtomicU64,
    /// The phase that missed its deadline, or [`NEVER`]. It names the phase, so that it cannot be
    /// mistaken for a verdict on the next one.
    overdue: AtomicU64,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Shared {
    ticks: AtomicU64,
    stopping: AtomicBool,
}

impl ConnDeadlines {
    /// No connections yet.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { shared: Arc::default(), open: Vec::new(), bounds }
    }

    /// Starts the deadline of a new connection, which waits for its first request.
    pub(super) fn open(&mut self) -> Arc<ConnDeadline> {
        let ticks = self.shared.ticks.load(Ordering::Relaxed);
        let deadline = Arc::new(ConnDeadline {
            shared: Arc::clone(&self.shared),
            phase: AtomicU64::new(ticks << FLAG_BITS),
            overdue: AtomicU64::new(NEVER),
            waker: AtomicWaker::new(),
        });
        self.open.push(Arc::downgrade(&deadline));
        deadline
    }

    /// Advances the clock by one tick: wakes connections past their deadline and drops closed ones.
    pub(super) fn sweep(&mut self) {
        let now = self.shared.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let (head, request) = (ticks_of(self.bounds.head), ticks_of(self.bounds.request));
        self.open.retain(|deadline| {
            let Some(deadline) = deadline.upgrade() else { return false };
            let phase = deadline.phase.load(Ordering::Relaxed);
            let bound = match phase & (REQUEST | UNLIMITED) {
                0 => head,
                REQUEST => request,
                _ => NEVER,
            };
            let took = now - (phase >> FLAG_BITS);
            let is_late = took > bound && deadline.overdue.swap(phase, Ordering::Relaxed) != phase;
            if is_late || is_read(phase) && took >= LONG_READ_TICKS {
                deadline.waker.wake();
            }
            true
        });
    }

    /// Tells every connection to close after its current request.
    pub(super) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.open.iter().filter_map(Weak::upgrade).for_each(|deadline| deadline.waker.wake());
    }
}

impl ConnDeadline {
    /// Registers the task to wake once when something changes. Waking it takes the registration, so a task registers
    /// at every poll.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Runs `work`, such as a TLS handshake, within the time for the first request head; `None` when
    /// it takes longer or the server stops.
    pub(super) async fn before_first_head<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        poll_fn(|context| {
            self.register(context);
            if self.head_is_overdue() || self.is_stopping() {
                return Poll::Ready(None);
            }
            work.as_mut().poll(context).map(Some)
        })
        .await
    }

    /// The head of a request has arrived. A read changes nothing, so it may be ended when its client is gone.
    pub(super) fn begin_request(&self, is_read: bool) {
        self.begin(if is_read { REQUEST | READ } else { REQUEST });
    }

    /// Whether a read has taken so long that its client is to be looked after. It is woken with every tick.
    pub(super) fn is_long_read(&self) -> bool {
        let phase = self.phase.load(Ordering::Relaxed);
        is_read(phase)
            && self.shared.ticks.load(Ordering::Relaxed) - (phase >> FLAG_BITS) >= LONG_READ_TICKS
    }

    /// Makes the current read overdue.
    pub(super) fn end_read(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        if is_read(phase) {
            self.overdue.store(phase, Ordering::Relaxed);
        }
    }

    /// The current request may take any time. Its client is looked after all the same, if it only reads.
    fn lift(&self) {
        let phase = self.phase.load(Ordering::Relaxed);
        if is_request(phase) {
            self.phase.store(phase | UNLIMITED, Ordering::Relaxed);
        }
    }

    /// The time for the current phase begins anew.
    fn restart(&self) {
        let flags = self.phase.load(Ordering::Relaxed) & ((1 << FLAG_BITS) - 1);
        self.begin(flags);
    }

    /// The answer is ready; the connection waits for the next head.
    pub(super) fn end_request(&self) {
        self.begin(0);
    }

    /// Whether the current request has taken too long.
    pub(super) fn request_is_overdue(&self) -> bool {
        self.overdue().is_some_and(is_request)
    }

    /// Whether the next request head did not arrive in time.
    pub(super) fn head_is_overdue(&self) -> bool {
        self.overdue().is_some_and(|phase| !is_request(phase))
    }

    /// Whether to close after the current request.
    pub(super) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
    }

    fn begin(&self, kind: u64) {
        let ticks = self.shared.ticks.load(Ordering::Relaxed);
        self.phase.store(ticks << FLAG_BITS | kind, Ordering::Relaxed);
    }

    /// The current phase, if it is overdue.
    fn overdue(&self) -> Option<u64> {
        let overdue = self.overdue.load(Ordering::Relaxed);
        (overdue == self.phase.load(Ordering::Relaxed)).then_some(overdue)
    }
}

/// The time limit of a request, for handlers that wait on purpose and for answers that are streams. The middleware puts
/// it into a routed request.
#[derive(Clone, Debug)]
pub(in crate::http) struct RequestDeadline(Arc<ConnDeadline>);

impl RequestDeadline {
    pub(super) const fn new(deadline: Arc<ConnDeadline>) -> Self {
        Self(deadline)
    }

    /// Takes the limit off the current request: `REQUEST_TIMEOUT` no longer ends it. The end of its client does, if its
    /// method is safe, and the handler bounds it otherwise.
    pub(in crate::http) fn lift(&self) {
        self.0.lift();
    }

    /// Notes that a part of the answer was written, so that `HEAD_TIMEOUT`, the time to write an answer, begins anew.
    pub(in crate::http) fn restart(&self) {
        self.0.restart();
    }
}

impl FromRequestParts<AppState> for RequestDeadline {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, ApiError> {
        let deadline = parts.extensions.get::<Self>().cloned();
        deadline.ok_or_else(|| ApiError::internal("a request without a deadline"))
    }
}

impl Input for RequestDeadline {}

const fn is_request(phase: u64) -> bool {
    phase & REQUEST != 0
}

const fn is_read(phase: u64) -> bool {
    phase & READ != 0
}

/// Rounded up: a phase that began within a tick must not end early.
fn ticks_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis().div_ceil(TICK.as_millis())).unwrap_or(NEVER >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { head: TICK.saturating_mul(5), request: TICK.saturating_mul(2) };

    #[test]
    fn deadlines_are_late_but_never_early_and_differ_by_phase() {
        let mut deadlines = ConnDeadlines::new(BOUNDS);
        let deadline = deadlines.open();
        let lateness = |deadlines: &mut ConnDeadlines, ticks: usize| {
            (0..ticks).for_each(|_| deadlines.sweep());
            (deadline.head_is_overdue(), deadline.request_is_overdue())
        };
        assert_eq!(lateness(&mut deadlines, 5), (false, false));
        assert_eq!(lateness(&mut deadlines, 1), (true, false));
        deadline.begin_request(false);
        assert_eq!(lateness(&mut deadlines, 2), (false, false));
        assert_eq!(lateness(&mut deadlines, 1), (false, true));
        deadline.end_request();
        assert_eq!(lateness(&mut deadlines, 5), (false, false));
    }

    #[test]
    fn only_a_read_is_ended_when_its_client_is_gone_and_only_a_long_one() {
        let mut deadlines = ConnDeadlines::new(Bounds { request: Duration::MAX, ..BOUNDS });
        let deadline = deadlines.open();
        let long_reads = |deadlines: &mut ConnDeadlines| {
            (0..5).for_each(|_| deadlines.sweep());
            deadline.is_long_read()
        };
        deadline.begin_request(false);
        assert!(!long_reads(&mut deadlines));
        deadline.end_read();
        assert!(!deadline.request_is_overdue());
        deadline.begin_request(true);
        assert!(!deadline.is_long_read());
        assert!(long_reads(&mut deadlines));
        assert!(!deadline.request_is_overdue());
        deadline.end_read();
        assert!(deadline.request_is_overdue());
        deadline.end_request();
        assert!(!deadline.request_is_overdue() && !deadline.is_long_read());
    }

    #[test]
    fn lifted_limit_is_back_for_the_next_request() {
        let mut deadlines = ConnDeadlines::new(BOUNDS);
        let deadline = deadlines.open();
        let overdue_after = |deadlines: &mut ConnDeadlines, ticks: usize| {
            (0..ticks).for_each(|_| deadlines.sweep());
            deadline.request_is_overdue()
        };
        deadline.begin_request(true);
        deadline.lift();
        assert!(!overdue_after(&mut deadlines, 100));
        deadline.end_read();
        assert!(deadline.request_is_overdue(), "its client is gone");
        deadline.begin_request(true);
        assert!(!overdue_after(&mut deadlines, 2));
        deadline.restart();
        assert!(!overdue_after(&mut deadlines, 2));
        assert!(overdue_after(&mut deadlines, 1));
    }

    #[test]
    fn closed_connections_are_dropped_and_open_ones_learn_of_the_stop() {
        let mut deadlines = ConnDeadlines::new(BOUNDS);
        let deadline = deadlines.open();
        drop(deadlines.open());
        deadlines.sweep();
        assert_eq!(deadlines.open.len(), 1);
        assert!(!deadline.is_stopping());
        deadlines.stop();
        assert!(deadline.is_stopping());
    }
}
