//! The scenario `end-to-end`: from `POST` to the arrival of the webhook at a receiver in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::serve::ListenerExt;
use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{RunArgs, Scenario};
use crate::connection::Connection;
use crate::load::Load;
use crate::measure::unless_stopped;
use crate::report::Measured;
use crate::server::Server;
use crate::target::{Target, event_body};

/// Receivers; each has its own endpoint and event type.
pub(crate) const RECEIVERS: u32 = 4;
/// How long to wait for webhooks after the last event was accepted.
const LAST_WEBHOOK: Duration = Duration::from_mins(2);

/// Shared by senders and receivers: an event carries the time it was due, its webhook brings it back.
pub(crate) struct Arrivals {
    watch: Stopwatch,
    accepted: AtomicU64,
    arrived: AtomicU64,
    last_arrival_micros: AtomicU64,
    latencies: Mutex<Measured>,
    progress: Notify,
}

impl Arrivals {
    /// Nothing accepted or arrived; time starts now.
    pub(crate) fn new() -> Result<Self, CliError> {
        Ok(Self {
            watch: Stopwatch::start(),
            accepted: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            last_arrival_micros: AtomicU64::new(0),
            latencies: Mutex::new(Measured::new()?),
            progress: Notify::new(),
        })
    }
}

/// Posts events and waits for their webhooks. The rate is the webhooks', over the time from the first
/// post to the last arrival; the latency is the time from post to arrival.
pub(crate) async fn run(
    args: &RunArgs,
    server: &Server,
    load: Load,
    stop: &CancellationToken,
) -> Result<Measured, CliError> {
    let arrivals = Arc::new(Arrivals::new()?);
    let target = Target::new(Scenario::EndToEnd, args, server);
    let mut connection = Connection::open(server.authority()).await?;
    let mut receivers = JoinSet::new();
    let mut endpoints = Vec::new();
    for number in 0..RECEIVERS {
        let url = receive(&mut receivers, Arc::clone(&arrivals)).await?;
        let body = format!(r#"{{"url":"{url}","event_types":["bench.receiver-{number}"]}}"#);
        endpoints.push(call(&mut connection, server, "POST", "/api/endpoints", body).await?);
    }

    let posted_and_arrived = async {
        let sent = post_all(args, &target, load, &arrivals).await?;
        let all_arrived = async {
            while arrivals.arrived.load(Ordering::SeqCst) < arrivals.accepted.load(Ordering::SeqCst)
            {
                arrivals.progress.notified().await;
            }
        };
        let complete = tokio::time::timeout(LAST_WEBHOOK, all_arrived).await.is_ok();
        Ok((sent, complete))
    };
    let outcome = unless_stopped(stop, posted_and_arrived).await;
    // After a failure too: the server may be in use by others.
    for endpoint in endpoints {
        let id = endpoint["id"].as_str().ok_or("an endpoint has no id")?;
        let path = format!("/api/endpoints/{id}");
        call(&mut connection, server, "DELETE", &path, String::new()).await?;
    }

    let (sent, complete) = outcome?;
    let mut measured = Measured::new()?;
    measured.add(std::mem::replace(&mut *arrivals.latencies.lock().await, Measured::new()?))?;
    measured.add(sent)?;
    if !complete {
        measured.error("webhooks missing");
    }
    let micros = arrivals.last_arrival_micros.load(Ordering::SeqCst);
    measured.seconds = Duration::from_micros(micros).as_secs_f64();
    Ok(measured)
}

/// Posts events of the receivers' types, round-robin. Returns only errors: an accepted event counts
/// when its webhook arrives.
async fn post_all(
    args: &RunArgs,
    target: &Target,
    load: Load,
    arrivals: &Arc<Arrivals>,
) -> Result<Measured, CliError> {
    let payload_bytes = args.payload_bytes as usize;
    load.drive(&target.authority, |mut connection, mut pacer| {
        let (target, arrivals) = (target.clone(), Arc::clone(arrivals));
        async move {
            let mut receiver = 0;
            while let Some(due) = pacer.next().await {
                // The pacer's clock started later, by the time it took to connect.
                let offset = arrivals.watch.elapsed().saturating_sub(pacer.watch.elapsed());
                let mark = format!("{:020}", (due + offset).as_micros());
                receiver = (receiver + 1) % RECEIVERS;
                let body = event_body(payload_bytes, &mark)
                    .replace("bench.event", &format!("bench.receiver-{receiver}"));
                let body = Some(body.into());
                if target.exchange(&mut connection, body, &mut pacer.measured).await? {
                    arrivals.accepted.fetch_add(1, Ordering::SeqCst);
                }
            }
            Ok(pacer.measured)
        }
    })
    .await
}

/// Starts a receiver and returns its URL.
pub(crate) async fn receive(
    tasks: &mut JoinSet<()>,
    arrivals: Arc<Arrivals>,
) -> Result<String, CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().fallback(arrive).with_state(arrivals);
    tasks.spawn(async move {
        // Aborted when the measurement ends.
        let _ = axum::serve(listener, router).await;
    });
    Ok(url)
}

/// Receives a webhook and records its latency.
async fn arrive(State(arrivals): State<Arc<Arrivals>>, body: Bytes) -> StatusCode {
    let now = arrivals.watch.elapsed();
    let marked = body
        .windows(8)
        .position(|window| window == b"\"data\":\"")
        .and_then(|at| body.get(at + 8..at + 28))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let Some(due) = marked.map(Duration::from_micros) else {
        return StatusCode::BAD_REQUEST;
    };
    arrivals.latencies.lock().await.success(now.saturating_sub(due));
    let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    arrivals.last_arrival_micros.fetch_max(micros, Ordering::SeqCst);
    arrivals.arrived.fetch_add(1, Ordering::SeqCst);
    arrivals.progress.notify_one();
    StatusCode::NO_CONTENT
}

/// Calls the API with the key of the measured tenant.
pub(crate) async fn call(
    connection: &mut Connection,
    server: &Server,
    method: &str,
    path: &str,
    body: String,
) -> Result<serde_json::Value, CliError> {
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", server.authority())
        .header("x-api-key", server.api_key())
        .header("content-type", "application/json")
        .body(http_body_util::Full::from(body))?;
    let (status, body) = connection.send(request).await?;
    if !status.is_success() {
        return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(&body)).into());
    }
    Ok(if body.is_empty() { serde_json::Value::Null } else { serde_json::from_slice(&body)? })
}
