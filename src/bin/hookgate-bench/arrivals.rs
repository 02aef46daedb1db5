//! The receivers of the scenario `end-to-end`, and when each webhook arrived.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONNECTION;
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::report::Measured;

/// Digits of the number that starts each payload.
const NUMBER_DIGITS: usize = 20;

/// Shared by senders and receivers: an event carries its number, and its webhook brings it back.
pub(crate) struct Arrivals {
    /// The clock of every time here.
    pub(crate) watch: Stopwatch,
    /// How long a receiver waits before it answers.
    receiver_delay: Duration,
    /// Whether a receiver closes each connection after its answer.
    closes: bool,
    state: Mutex<ArrivalState>,
    progress: Notify,
}

struct ArrivalState {
    /// By the numbers of their events.
    webhooks: Vec<Webhook>,
    accepted: u64,
    /// Webhooks of accepted events that have arrived.
    arrived: u64,
    last_arrival: Duration,
    latencies: Latencies,
}

/// The times of one event and its webhook.
#[derive(Clone, Copy)]
struct Webhook {
    due: Duration,
    accepted: Option<Duration>,
    arrived: Option<Duration>,
}

/// The latencies of one run.
pub(crate) struct Latencies {
    /// From the time that an event was due to the arrival of its webhook.
    pub(crate) end_to_end: Measured,
    /// From the `202` of an event to the arrival of its webhook; zero when the webhook was first.
    pub(crate) accept_to_receiver: Measured,
}

impl Latencies {
    fn new() -> Result<Self, CliError> {
        Ok(Self { end_to_end: Measured::new()?, accept_to_receiver: Measured::new()? })
    }
}

impl Arrivals {
    /// Nothing posted; time starts now.
    pub(crate) fn new(receiver_delay: Duration, closes: bool) -> Result<Self, CliError> {
        let state = ArrivalState {
            webhooks: Vec::new(),
            accepted: 0,
            arrived: 0,
            last_arrival: Duration::ZERO,
            latencies: Latencies::new()?,
        };
        let watch = Stopwatch::start();
        let (state, progress) = (Mutex::new(state), Notify::new());
        Ok(Self { watch, receiver_delay, closes, state, progress })
    }

    /// An event that is due at `due` is posted. Returns its number.
    pub(crate) fn posted(&self, due: Duration) -> usize {
        let webhooks = &mut self.lock().webhooks;
        webhooks.push(Webhook { due, accepted: None, arrived: None });
        webhooks.len() - 1
    }

    /// The start of the payload of an event.
    pub(crate) fn mark(number: usize) -> String {
        format!("{number:0NUMBER_DIGITS$}")
    }

    /// An event has been accepted.
    pub(crate) fn accepted(&self, number: usize) {
        let now = self.watch.elapsed();
        let mut state = self.lock();
        state.accepted += 1;
        state.update(number, |webhook| webhook.accepted = Some(now));
    }

    /// A webhook has arrived. A repeated one changes nothing.
    fn arrived(&self, number: usize) {
        let now = self.watch.elapsed();
        let mut state = self.lock();
        if state.webhooks.get(number).is_some_and(|webhook| webhook.arrived.is_none()) {
            state.last_arrival = now;
            state.update(number, |webhook| webhook.arrived = Some(now));
            self.progress.notify_one();
        }
    }

    /// Waits until the webhooks of all accepted events have arrived.
    pub(crate) async fn all_arrived(&self) {
        while !self.lock().is_complete() {
            self.progress.notified().await;
        }
    }

    /// The latencies and the time of the last arrival. A webhook that is missing counts as an error, with the
    /// time that it has been missing for.
    pub(crate) fn finish(&self) -> Result<(Latencies, Duration), CliError> {
        let now = self.watch.elapsed();
        let mut state = self.lock();
        let mut latencies = std::mem::replace(&mut state.latencies, Latencies::new()?);
        for webhook in &state.webhooks {
            if let Webhook { due, accepted: Some(accepted), arrived: None } = *webhook {
                latencies.end_to_end.success(now.saturating_sub(due));
                latencies.end_to_end.error("webhook missing");
                latencies.accept_to_receiver.success(now.saturating_sub(accepted));
            }
        }
        Ok((latencies, state.last_arrival))
    }

    fn lock(&self) -> MutexGuard<'_, ArrivalState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArrivalState {
    /// Sets one time of a webhook, and records its latencies once both are known.
    fn update(&mut self, number: usize, set: impl FnOnce(&mut Webhook)) {
        let Some(webhook) = self.webhooks.get_mut(number) else { return };
        set(webhook);
        if let Webhook { due, accepted: Some(accepted), arrived: Some(arrived) } = *webhook {
            self.arrived += 1;
            self.latencies.end_to_end.success(arrived.saturating_sub(due));
            self.latencies.accept_to_receiver.success(arrived.saturating_sub(accepted));
        }
    }

    const fn is_complete(&self) -> bool {
        self.arrived == self.accepted
    }
}

/// Starts a receiver and returns its URL.
pub(crate) async fn receive(
    tasks: &mut JoinSet<()>,
    arrivals: Arc<Arrivals>,
) -> Result<String, CliError> {
    let router = Router::new().fallback(arrive).with_state(arrivals);
    let (url, serving) = receiver(router).await?;
    tasks.spawn(serving);
    Ok(url)
}

/// The URL of a receiver on a free port, and what serves it until it is dropped.
pub(crate) async fn receiver(
    router: Router,
) -> Result<(String, impl Future<Output = ()> + Send + 'static), CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let serving = async move {
        // Aborted when the measurement ends.
        let _ = axum::serve(listener, router).await;
    };
    Ok((url, serving))
}

/// Receives a webhook, notes its arrival, and answers after the delay.
async fn arrive(State(arrivals): State<Arc<Arrivals>>, body: Bytes) -> Response {
    let marked = body
        .windows(8)
        .position(|window| window == b"\"data\":\"")
        .and_then(|at| body.get(at + 8..at + 8 + NUMBER_DIGITS))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let Some(number) = marked else { return StatusCode::BAD_REQUEST.into_response() };
    arrivals.arrived(number);
    if !arrivals.receiver_delay.is_zero() {
        tokio::time::sleep(arrivals.receiver_delay).await;
    }
    if arrivals.closes {
        return (StatusCode::NO_CONTENT, [(CONNECTION, "close")]).into_response();
    }
    StatusCode::NO_CONTENT.into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn run_is_complete_when_every_accepted_event_has_arrived() {
        let arrivals = Arrivals::new(Duration::ZERO, false).unwrap();
        let [refused, first, second] = [(); 3].map(|()| arrivals.posted(Duration::ZERO));
        arrivals.accepted(first);
        // The webhook may be faster than the answer.
        arrivals.arrived(second);
        arrivals.accepted(second);
        assert!(!arrivals.lock().is_complete());
        for number in [first, first, refused, 99] {
            arrivals.arrived(number);
        }
        arrivals.all_arrived().await;
        let (latencies, _) = arrivals.finish().unwrap();
        assert_eq!(latencies.end_to_end.count(), 2);
        assert_eq!(latencies.accept_to_receiver.count(), 2);
    }

    #[tokio::test]
    async fn missing_webhook_is_an_error_and_counts_with_its_time() {
        let arrivals = Arrivals::new(Duration::ZERO, false).unwrap();
        let number = arrivals.posted(Duration::ZERO);
        arrivals.accepted(number);
        let (latencies, _) = arrivals.finish().unwrap();
        assert_eq!(latencies.end_to_end.count(), 1);
        assert_eq!(latencies.end_to_end.errors()["webhook missing"], 1);
    }
}
