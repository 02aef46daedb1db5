//! The request of a scenario, and the answer that it expects.

use hookgate::cli::CliError;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};

use crate::args::{RunArgs, Scenario};
use crate::connection::Connection;
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
    body: Bytes,
    expected: StatusCode,
}

impl Target {
    /// The request of a scenario to this server.
    pub(crate) fn new(scenario: Scenario, args: &RunArgs, server: &Server) -> Self {
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
            Scenario::List => (Method::GET, "/api/events?limit=1", String::new(), StatusCode::OK),
            Scenario::Health => (Method::GET, "/api/health", String::new(), StatusCode::OK),
            Scenario::Metrics => (Method::GET, "/metrics", String::new(), StatusCode::OK),
        };
        let content_type = match scenario {
            Scenario::IngestRaw => "text/plain",
            Scenario::Ingest
            | Scenario::IngestBatch
            | Scenario::Store
            | Scenario::EndToEnd
            | Scenario::List
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

    /// The request; `body` replaces the scenario's body.
    pub(crate) fn request(&self, body: Option<Bytes>) -> Result<Request<Full<Bytes>>, CliError> {
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

/// An event whose payload is a JSON string of `payload_bytes`, starting with `mark`.
pub(crate) fn event_body(payload_bytes: usize, mark: &str) -> String {
    format!(r#"{{"type":"bench.event","payload":{}}}"#, event_payload(payload_bytes, mark))
}

/// A JSON string of `payload_bytes`, quotes included, starting with `mark`.
pub(crate) fn event_payload(payload_bytes: usize, mark: &str) -> String {
    format!("\"{mark}{}\"", "x".repeat(payload_bytes.saturating_sub(2 + mark.len())))
}
