//! The request of a scenario, and the answer that it expects.

use std::sync::Arc;

use hookgate::cli::CliError;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};

use crate::args::{RunArgs, Scenario};
use crate::connection::Connection;
use crate::event_source::EventSource;
use crate::report::Measured;
use crate::server::Server;

/// A request, and the status that it expects.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) authority: String,
    method: Method,
    path: &'static str,
    api_key: String,
    content_type: &'static str,
    /// Whether the answer may be.
    is_compressed: bool,
    body: Body,
    expected: StatusCode,
}

/// The body of a request.
#[derive(Clone)]
enum Body {
    /// The same for every request.
    Constant(Bytes),
    /// One event.
    Event(Arc<EventSource>),
    /// So many events.
    Batch(Arc<EventSource>, u32),
}

impl Body {
    /// Made once where every request has the same.
    fn prepared(self) -> Self {
        match &self {
            Self::Event(events) | Self::Batch(events, _) if events.is_constant() => {
                Self::Constant(self.bytes())
            }
            _ => self,
        }
    }

    /// The body of the next request.
    fn bytes(&self) -> Bytes {
        match self {
            Self::Constant(bytes) => bytes.clone(),
            Self::Event(events) => events.next().into(),
            Self::Batch(events, size) => events.next_batch(*size).into(),
        }
    }
}

impl Target {
    /// The request of a scenario to this server.
    pub(crate) fn new(scenario: Scenario, args: &RunArgs, server: &Server) -> Self {
        let events = match scenario {
            Scenario::Write => EventSource::distinct(args),
            _ => EventSource::new(args),
        };
        let events = Arc::new(events);
        let nothing = Body::Constant(Bytes::new());
        let (method, path, body, expected) = match scenario {
            Scenario::Ingest | Scenario::EndToEnd | Scenario::Write => {
                (Method::POST, "/api/events", Body::Event(events).prepared(), StatusCode::ACCEPTED)
            }
            Scenario::IngestBatch | Scenario::Store | Scenario::Inbox => {
                let batch = Body::Batch(events, args.batch);
                (Method::POST, "/api/events/batch", batch.prepared(), StatusCode::ACCEPTED)
            }
            Scenario::IngestRaw => {
                let body = "x".repeat(args.payload_bytes as usize);
                (Method::POST, "/api/events/raw", Body::Constant(body.into()), StatusCode::ACCEPTED)
            }
            Scenario::List => (Method::GET, "/api/events?limit=1", nothing, StatusCode::OK),
            // Its requests are those of read and write.
            Scenario::Read | Scenario::Mixed => {
                (Method::GET, "/api/events?limit=10", nothing, StatusCode::OK)
            }
            Scenario::SimpleGet => (Method::GET, "/health/live", nothing, StatusCode::OK),
            Scenario::Openapi => (Method::GET, "/openapi.json", nothing, StatusCode::OK),
            Scenario::Health => (Method::GET, "/api/health", nothing, StatusCode::OK),
            Scenario::Metrics => (Method::GET, "/metrics", nothing, StatusCode::OK),
        };
        let content_type = match scenario {
            Scenario::IngestRaw => "text/plain",
            _ => "application/json",
        };
        Self {
            authority: server.authority().to_owned(),
            method,
            path,
            api_key: server.api_key().to_owned(),
            content_type,
            is_compressed: scenario == Scenario::Openapi,
            body,
            expected,
        }
    }

    /// The requests that a scenario sends in turn.
    pub(crate) fn in_turn(scenario: Scenario, args: &RunArgs, server: &Server) -> Vec<Self> {
        if scenario != Scenario::Mixed {
            return vec![Self::new(scenario, args, server)];
        }
        let (read, write) =
            [Scenario::Read, Scenario::Write].map(|one| Self::new(one, args, server)).into();
        let is_write = |turn: u32| matches!(turn, 2 | 5 | 8);
        (0..10).map(|turn| if is_write(turn) { write.clone() } else { read.clone() }).collect()
    }

    /// The request; `body` replaces the scenario's body.
    pub(crate) fn request(&self, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, CliError> {
        let body = body.unwrap_or_else(|| self.body.bytes());
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header("host", &self.authority)
            .header("x-api-key", &self.api_key)
            .header("content-type", self.content_type);
        if self.is_compressed {
            request = request.header("accept-encoding", "gzip");
        }
        Ok(request.body(Full::new(body))?)
    }

    /// Sends the request, with `body` in place of the scenario's body if there is one, and returns whether it
    /// was accepted. Other answers are counted as errors; a broken connection is opened anew.
    pub(crate) async fn exchange(
        &self,
        connection: &mut Connection,
        body: Option<Bytes>,
        measured: &mut Measured,
    ) -> Result<bool, CliError> {
        match connection.send(self.request(body)?).await {
            Ok((status, _)) if self.is_expected(status) => return Ok(true),
            Ok((status, _)) => measured.error(status.as_str()),
            Err(error) => {
                measured.error(&error.to_string());
                *connection = Connection::open(&self.authority).await?;
            }
        }
        Ok(false)
    }

    /// The same request with another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { api_key: key.to_owned(), ..self.clone() }
    }

    /// Whether this status means that the request was accepted.
    fn is_expected(&self, status: StatusCode) -> bool {
        // The bare handler answers 202 to every request.
        status == self.expected || status == StatusCode::ACCEPTED
    }
}
