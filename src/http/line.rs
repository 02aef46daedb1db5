//! Lines: what a connection waits for and since when, and the one clock that watches them all.
//!
//! A connection is told to stop, and is bounded in the time of each request and of the wait for the
//! next. With a timer and a stop signal of its own, each request would arm two timers and each wake
//! of the task would poll three futures; that costs more than finding the route. Here a request
//! writes one word, a wake reads two, and a sweep four times a second looks for lines that are late.
//! Bounds are therefore kept to a quarter of a second, late and never early.

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::auth::ConnectionKeyCache;

/// The time between two sweeps.
pub(super) const TICK: Duration = Duration::from_millis(250);

/// No phase: lines begin at tick 0 and a process does not live for as many ticks as this.
const NEVER: u64 = u64::MAX;

/// All open lines, owned by whoever accepts connections.
#[derive(Debug)]
pub(super) struct Lines {
    shared: Arc<Shared>,
    open: Vec<Weak<Line>>,
    bounds: Bounds,
}

/// How long a line may stay in each of its phases.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// From the end of one answer to the whole head of the next request.
    pub(super) head: Duration,
    /// From the head of a request to its answer.
    pub(super) request: Duration,
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    /// The tick at which the phase began, shifted left by one, and in the lowest bit whether it is a request.
    phase: AtomicU64,
    /// The phase that has lasted too long, [`NEVER`] until there is one. It names the phase, so that
    /// it cannot be taken for a verdict on the next one.
    overdue: AtomicU64,
    waker: AtomicWaker,
    /// Whoever is connected.
    pub(super) peer: IpAddr,
    /// The key that came last.
    pub(super) key_cache: ConnectionKeyCache,
}

#[derive(Debug, Default)]
struct Shared {
    ticks: AtomicU64,
    stopping: AtomicBool,
}

impl Lines {
    /// No lines yet.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { shared: Arc::default(), open: Vec::new(), bounds }
    }

    /// A new line to `peer`, which waits for its first request.
    pub(super) fn open(&mut self, peer: IpAddr) -> Arc<Line> {
        let ticks = self.shared.ticks.load(Ordering::Relaxed);
        let line = Arc::new(Line {
            shared: Arc::clone(&self.shared),
            phase: AtomicU64::new(ticks << 1),
            overdue: AtomicU64::new(NEVER),
            waker: AtomicWaker::new(),
            peer,
            key_cache: ConnectionKeyCache::default(),
        });
        self.open.push(Arc::downgrade(&line));
        line
    }

    /// Lets a tick pass: tells the lines that are late, and forgets those that ended.
    pub(super) fn sweep(&mut self) {
        let now = self.shared.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        let (head, request) = (ticks_of(self.bounds.head), ticks_of(self.bounds.request));
        self.open.retain(|line| {
            let Some(line) = line.upgrade() else { return false };
            let phase = line.phase.load(Ordering::Relaxed);
            let bound = if is_request(phase) { request } else { head };
            if now - (phase >> 1) > bound && line.overdue.swap(phase, Ordering::Relaxed) != phase {
                line.waker.wake();
            }
            true
        });
    }

    /// Tells every line to end after the request that is in flight.
    pub(super) fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.open.iter().filter_map(Weak::upgrade).for_each(|line| line.waker.wake());
    }
}

impl Line {
    /// Registers the task to wake when something changes. A task's waker stays the same as long as
    /// it lives, so once is enough.
    pub(super) fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// Waits for something before the first head, within the time for one; `None` when it takes
    /// longer, or the server stops.
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

    /// A request's head is there.
    pub(super) fn begin_request(&self) {
        self.begin(1);
    }

    /// A request's answer is ready; the next head is waited for.
    pub(super) fn end_request(&self) {
        self.begin(0);
    }

    /// Whether a request has taken too long.
    pub(super) fn request_is_overdue(&self) -> bool {
        self.overdue().is_some_and(is_request)
    }

    /// Whether the next request has not come in time.
    pub(super) fn head_is_overdue(&self) -> bool {
        self.overdue().is_some_and(|phase| !is_request(phase))
    }

    /// Whether to end after the request that is in flight.
    pub(super) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::SeqCst)
    }

    fn begin(&self, kind: u64) {
        let ticks = self.shared.ticks.load(Ordering::Relaxed);
        self.phase.store(ticks << 1 | kind, Ordering::Relaxed);
    }

    /// The present phase, if it is overdue.
    fn overdue(&self) -> Option<u64> {
        let overdue = self.overdue.load(Ordering::Relaxed);
        (overdue == self.phase.load(Ordering::Relaxed)).then_some(overdue)
    }
}

const fn is_request(phase: u64) -> bool {
    phase & 1 == 1
}

/// Rounded up: a phase that began within a tick must not end early.
fn ticks_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis().div_ceil(TICK.as_millis())).unwrap_or(NEVER >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const BOUNDS: Bounds = Bounds { head: TICK.saturating_mul(5), request: TICK.saturating_mul(2) };

    #[test]
    fn each_phase_has_its_own_bound_and_is_late_but_never_early() {
        let mut lines = Lines::new(BOUNDS);
        let line = lines.open(PEER);
        let lateness = |lines: &mut Lines, ticks: usize| {
            (0..ticks).for_each(|_| lines.sweep());
            (line.head_is_overdue(), line.request_is_overdue())
        };
        assert_eq!(lateness(&mut lines, 5), (false, false));
        assert_eq!(lateness(&mut lines, 1), (true, false));
        line.begin_request();
        assert_eq!(lateness(&mut lines, 2), (false, false));
        assert_eq!(lateness(&mut lines, 1), (false, true));
        line.end_request();
        assert_eq!(lateness(&mut lines, 5), (false, false));
    }

    #[test]
    fn line_that_ended_is_forgotten_and_the_others_learn_of_the_stop() {
        let mut lines = Lines::new(BOUNDS);
        let line = lines.open(PEER);
        drop(lines.open(PEER));
        lines.sweep();
        assert_eq!(lines.open.len(), 1);
        assert!(!line.is_stopping());
        lines.stop();
        assert!(line.is_stopping());
    }
}
