//! A client of the API, for what a measurement prepares and removes.

use std::time::Duration;

use hookgate::cli::CliError;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use serde_json::Value;

use crate::connection::Connection;

/// Pause before a call that a limit or a full queue has refused is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Repetitions of a refused call: two minutes.
const RETRIES_MAX: u32 = 1200;

/// Calls the API of one server with one key, each time on a new connection.
#[derive(Clone)]
pub(crate) struct ApiClient {
    authority: String,
    key: String,
}

impl ApiClient {
    /// A client of the server at `host:port`.
    pub(crate) fn new(authority: &str, key: &str) -> Self {
        Self { authority: authority.to_owned(), key: key.to_owned() }
    }

    /// A client of the same server with another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self::new(&self.authority, key)
    }

    /// The `host:port` of the server.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Calls the API, and again while it answers 429 or 503.
    ///
    /// # Errors
    /// Every other answer than success.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Value, CliError> {
        let mut answer = self.send(method, path, body).await?;
        for _ in 0..RETRIES_MAX {
            if !matches!(answer.0, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
            {
                break;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            answer = self.send(method, path, body).await?;
        }
        let (status, body) = answer;
        if !status.is_success() {
            let body = String::from_utf8_lossy(&body);
            return Err(format!("{method} {path}: {status} {body}").into());
        }
        Ok(if body.is_empty() { Value::Null } else { serde_json::from_slice(&body)? })
    }

    /// Calls the API once, whatever it answers.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(StatusCode, Bytes), CliError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header("x-api-key", &self.key)
            .header("content-type", "application/json")
            .body(Full::from(body.to_owned()))?;
        Ok(Connection::open(&self.authority).await?.send(request).await?)
    }

    /// Creates an endpoint and returns its path.
    pub(crate) async fn create_endpoint(
        &self,
        url: &str,
        event_types: &[&str],
    ) -> Result<String, CliError> {
        let body = serde_json::json!({ "url": url, "event_types": event_types });
        let endpoint = self.call("POST", "/api/endpoints", &body.to_string()).await?;
        let id = endpoint["id"].as_str().ok_or("the endpoint has no id")?;
        Ok(format!("/api/endpoints/{id}"))
    }
}
