//! Load: closed loop or open loop, over a number of connections.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use tokio::task::JoinSet;

use super::super::CliError;
use super::connection::Connection;
use super::server::Server;
use super::{Measured, RunArgs, Scenario};
use crate::runtime::Stopwatch;

/// How a server is loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Connections, each with one request in flight.
    pub(super) connections: u32,
    /// Requests a second over all connections; `None` closes the loop.
    pub(super) rate: Option<u32>,
    /// For how long.
    pub(super) duration: Duration,
}

/// What is requested, and which answer is the right one.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) authority: String,
    method: Method,
    path: &'static str,
    api_key: String,
    content_type: &'static str,
    body: Bytes,
    expected: StatusCode,
}

impl Target {
    pub(super) fn new(scenario: Scenario, args: &RunArgs, server: &Server) -> Self {
        let payload_bytes = args.payload_bytes as usize;
        let event = event_body(payload_bytes, "");
        let (method, path, body, expected) = match scenario {
            Scenario::Ingest | Scenario::EndToEnd => {
                (Method::POST, "/api/events", event, StatusCode::ACCEPTED)
            }
            Scenario::IngestBatch | Scenario::Store => {
                let batch = format!("[{}]", vec![event; args.batch as usize].join(","));
                (Method::POST, "/api/events/batch", batch, StatusCode::ACCEPTED)
            }
            Scenario::IngestRaw => {
                let body = "x".repeat(payload_bytes);
                (Method::POST, "/api/events/raw", body, StatusCode::ACCEPTED)
            }
            Scenario::Health => (Method::GET, "/api/health", String::new(), StatusCode::OK),
            Scenario::Metrics => (Method::GET, "/metrics", String::new(), StatusCode::OK),
        };
        let content_type = match scenario {
            Scenario::IngestRaw => "text/plain",
            Scenario::Ingest
            | Scenario::IngestBatch
            | Scenario::Store
            | Scenario::EndToEnd
            | Scenario::Health
            | Scenario::Metrics => "application/json",
        };
        Self {
            authority: server.authority().to_owned(),
            method,
            path,
            api_key: server.api_key().to_owned(),
            content_type,
            body: body.into(),
            expected,
        }
    }

    /// The request, with another body if one is given.
    pub(super) fn request(&self, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, CliError> {
        let body = body.unwrap_or_else(|| self.body.clone());
        let request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header("host", &self.authority)
            .header("x-api-key", &self.api_key)
            .header("content-type", self.content_type)
            .body(Full::new(body))?;
        Ok(request)
    }

    /// The same request with another key.
    pub(super) fn with_key(&self, key: &str) -> Self {
        Self { api_key: key.to_owned(), ..self.clone() }
    }

    pub(super) fn is_right(&self, status: StatusCode) -> bool {
        // The bare handler answers 202 to everything.
        status == self.expected || status == StatusCode::ACCEPTED
    }
}

/// An event whose payload is a JSON string of `payload_bytes`, starting with `mark`.
pub(super) fn event_body(payload_bytes: usize, mark: &str) -> String {
    format!(r#"{{"type":"bench.event","payload":{}}}"#, event_payload(payload_bytes, mark))
}

/// A JSON string of `payload_bytes`, quotes included, starting with `mark`.
pub(super) fn event_payload(payload_bytes: usize, mark: &str) -> String {
    format!("\"{mark}{}\"", "x".repeat(payload_bytes.saturating_sub(2 + mark.len())))
}

impl Load {
    /// Loads the target and measures every answer.
    pub(super) async fn run(self, target: &Target) -> Result<Measured, CliError> {
        self.drive(&target.authority, |connection, mut line| {
            let target = target.clone();
            async move {
                let mut connection = connection;
                while let Some(due) = line.next().await {
                    let request = target.request(None)?;
                    match connection.send(request).await {
                        Ok((status, _)) if target.is_right(status) => {
                            line.measured.right(line.watch.elapsed().saturating_sub(due));
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

    /// Opens the connections, runs `work` on each at once, and puts together what they measured.
    pub(super) async fn drive<F>(
        self,
        authority: &str,
        work: impl Fn(Connection, Line) -> F,
    ) -> Result<Measured, CliError>
    where
        F: Future<Output = Result<Measured, CliError>> + Send + 'static,
    {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(authority).await?);
        }
        let watch = Stopwatch::start();
        let mut tasks = JoinSet::new();
        for (number, connection) in (0..self.connections).zip(connections) {
            let pace = self.rate.map(|rate| Pace::new(rate, self.connections, number));
            let line = Line { watch, pace, end: self.duration, measured: Measured::new()? };
            tasks.spawn(work(connection, line));
        }
        let mut total = Measured::new()?;
        while let Some(done) = tasks.join_next().await {
            total.add(done??)?;
        }
        total.seconds = watch.seconds();
        Ok(total)
    }
}

/// One connection's part of the load: when to send next, and what was measured.
pub(super) struct Line {
    pub(super) watch: Stopwatch,
    pace: Option<Pace>,
    end: Duration,
    pub(super) measured: Measured,
}

/// The moments at which one connection of an open loop sends.
#[derive(Clone, Copy)]
struct Pace {
    next: Duration,
    step: Duration,
}

impl Pace {
    /// Connections take turns, so that all together send evenly.
    fn new(rate: u32, connections: u32, number: u32) -> Self {
        let gap = Duration::from_secs(1) / rate;
        Self { next: gap * number, step: gap * connections }
    }
}

impl Line {
    /// Waits until the next request is due, and returns the moment its latency counts from, as time
    /// since the start: in an open loop the moment it was due if earlier answers held it up, else the
    /// moment it is sent, so that nobody is charged for a timer that rings late. `None` at the end of
    /// the run.
    pub(super) async fn next(&mut self) -> Option<Duration> {
        let now = self.watch.elapsed();
        let due = match &mut self.pace {
            None => now,
            Some(pace) => {
                let due = pace.next;
                pace.next += pace.step;
                if now < due {
                    tokio::time::sleep(due.min(self.end).saturating_sub(now)).await;
                    due.max(self.watch.elapsed())
                } else {
                    due
                }
            }
        };
        (due < self.end).then_some(due)
    }
}
