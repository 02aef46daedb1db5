//! From `POST` to the webhook's arrival, with receivers of the bench's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::CliError;
use super::connection::Connection;
use super::load::{Load, Target, event_body};
use super::server::Server;
use super::{Measured, RunArgs, Scenario, unless_stopped};
use crate::runtime::Stopwatch;

/// Receivers, each an endpoint of its own that takes every event of its type.
pub(super) const RECEIVERS: u32 = 4;
/// How long webhooks may still arrive after the last event was accepted.
const LAST_WEBHOOK: Duration = Duration::from_mins(2);

/// What receivers and senders share: events carry when they were due, webhooks bring it back.
pub(super) struct Board {
    watch: Stopwatch,
    accepted: AtomicU64,
    arrived: AtomicU64,
    last_arrival_micros: AtomicU64,
    latencies: Mutex<Measured>,
    progress: Notify,
}

impl Board {
    pub(super) fn new() -> Result<Self, CliError> {
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

/// Posts events and waits for their webhooks. The rate is that of webhooks arriving, over the time
/// from the first post to the last arrival; the latency is from post to arrival.
pub(super) async fn run(
    args: &RunArgs,
    server: &Server,
    load: Load,
    stop: &CancellationToken,
) -> Result<Measured, CliError> {
    let board = Arc::new(Board::new()?);
    let target = Target::new(Scenario::EndToEnd, args, server);
    let mut connection = Connection::open(server.authority()).await?;
    let mut receivers = JoinSet::new();
    let mut endpoints = Vec::new();
    for number in 0..RECEIVERS {
        let url = receive(&mut receivers, Arc::clone(&board)).await?;
        let body = format!(r#"{{"url":"{url}","event_types":["bench.receiver-{number}"]}}"#);
        endpoints.push(call(&mut connection, server, "POST", "/api/endpoints", body).await?);
    }

    let posted_and_arrived = async {
        let sent = post_all(args, &target, load, &board).await?;
        let all_arrived = async {
            while board.arrived.load(Ordering::SeqCst) < board.accepted.load(Ordering::SeqCst) {
                board.progress.notified().await;
            }
        };
        let complete = tokio::time::timeout(LAST_WEBHOOK, all_arrived).await.is_ok();
        Ok((sent, complete))
    };
    let outcome = unless_stopped(stop, posted_and_arrived).await;
    // However it ended: the server may be somebody's.
    for endpoint in endpoints {
        let id = endpoint["id"].as_str().ok_or("an endpoint has no id")?;
        let path = format!("/api/endpoints/{id}");
        call(&mut connection, server, "DELETE", &path, String::new()).await?;
    }

    let (sent, complete) = outcome?;
    let mut measured = Measured::new()?;
    measured.add(std::mem::replace(&mut *board.latencies.lock().await, Measured::new()?))?;
    measured.add(sent)?;
    if !complete {
        measured.wrong("webhooks missing");
    }
    let micros = board.last_arrival_micros.load(Ordering::SeqCst);
    measured.seconds = Duration::from_micros(micros).as_secs_f64();
    Ok(measured)
}

/// Posts events to every receiver's type in turn. Returns the wrong answers only: right ones count
/// when their webhook arrives.
async fn post_all(
    args: &RunArgs,
    target: &Target,
    load: Load,
    board: &Arc<Board>,
) -> Result<Measured, CliError> {
    let payload_bytes = args.payload_bytes as usize;
    load.drive(&target.authority, |connection, mut line| {
        let (target, board) = (target.clone(), Arc::clone(board));
        async move {
            let mut connection = connection;
            let mut turn = 0;
            while let Some(due) = line.next().await {
                // The load's clock and the board's differ by the time it took to connect.
                let offset = board.watch.elapsed().saturating_sub(line.watch.elapsed());
                let mark = format!("{:020}", (due + offset).as_micros());
                turn = (turn + 1) % RECEIVERS;
                let body = event_body(payload_bytes, &mark)
                    .replace("bench.event", &format!("bench.receiver-{turn}"));
                match connection.send(target.request(Some(body.into()))?).await {
                    Ok((status, _)) if target.is_right(status) => {
                        board.accepted.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok((status, _)) => line.measured.wrong(status.as_str()),
                    Err(error) => {
                        line.measured.wrong(&error.to_string());
                        connection = Connection::open(&target.authority).await?;
                    }
                }
            }
            Ok(line.measured)
        }
    })
    .await
}

/// Starts a receiver and returns its URL.
pub(super) async fn receive(
    tasks: &mut JoinSet<()>,
    board: Arc<Board>,
) -> Result<String, CliError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    let router = Router::new().fallback(arrive).with_state(board);
    tasks.spawn(async move {
        // Ends with the measurement.
        let _ = axum::serve(listener, router).await;
    });
    Ok(url)
}

async fn arrive(State(board): State<Arc<Board>>, body: Bytes) -> StatusCode {
    let now = board.watch.elapsed();
    let marked = body
        .windows(8)
        .position(|window| window == b"\"data\":\"")
        .and_then(|place| body.get(place + 8..place + 28))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let Some(due) = marked.map(Duration::from_micros) else {
        return StatusCode::BAD_REQUEST;
    };
    board.latencies.lock().await.right(now.saturating_sub(due));
    let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    board.last_arrival_micros.fetch_max(micros, Ordering::SeqCst);
    board.arrived.fetch_add(1, Ordering::SeqCst);
    board.progress.notify_one();
    StatusCode::NO_CONTENT
}

/// Asks the API as the tenant that is measured.
pub(super) async fn call(
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
