//! A server that commands talk to over HTTP, with an API key.

use std::time::Duration;

use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::CliError;
use super::printable::printable;

/// Time for an answer. Long polls of up to 30 s come in time.
const ANSWER_MAX: Duration = Duration::from_mins(1);
/// Time without a byte of a stream, which says every 15 s that it is open.
const SILENCE_MAX: Duration = Duration::from_mins(1);
/// Characters of an answer that is not a problem document, as it is shown.
const SHOWN_CHARS: usize = 500;

/// A server, and the key that it is called with.
pub(super) struct ApiServer {
    client: Client,
    base: Url,
    key: String,
}

/// Why a call has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServerError {
    /// There is no answer.
    #[error("no answer from {url}: {cause}")]
    NoAnswer {
        /// What was asked.
        url: Url,
        /// The innermost cause.
        cause: String,
    },
    /// The answer is not a success.
    #[error("{status}: {text}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it says.
        text: String,
    },
    /// The path would lead elsewhere.
    #[error("{0:?} is not a path: it must begin with one /")]
    NotAPath(String),
    /// The server answers elsewhere.
    #[error("{status}: the server is at {location:?}; give that as the URL")]
    Moved {
        /// The status of the answer.
        status: StatusCode,
        /// Where it sends callers.
        location: String,
    },
    /// The answer is a success, but not what the API answers.
    #[error("{url} is not Hookgate's API: {cause}")]
    NotHookgate {
        /// What was asked.
        url: Url,
        /// What is wrong with the answer.
        cause: String,
    },
}

impl ApiServer {
    /// The server at a base URL.
    pub(super) fn new(base: &Url, key: String) -> Result<Self, CliError> {
        let client = client(ANSWER_MAX)?;
        Ok(Self { client, base: base.clone(), key })
    }

    /// The server's base URL.
    pub(super) const fn base(&self) -> &Url {
        &self.base
    }

    /// The key that it is called with.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Calls the API: a path with its query, and a JSON body.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<T, ServerError> {
        let bytes = self.bytes(method, path, body).await?;
        // An answer without a body is read as `null`.
        let bytes = if bytes.is_empty() { b"null" } else { &*bytes };
        serde_json::from_slice(bytes).map_err(|error| ServerError::NotHookgate {
            url: self.base.clone(),
            cause: error.to_string(),
        })
    }

    /// The URL of a path, below that of the base.
    fn url(&self, path: &str) -> Result<Url, ServerError> {
        let not_a_path = || ServerError::NotAPath(path.to_owned());
        if !path.starts_with('/') || path.starts_with("//") || path.contains('\\') {
            return Err(not_a_path());
        }
        let base = self.base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}{path}")).map_err(|_| not_a_path())
    }

    /// Opens a stream of server-sent events, behind the one with this id or from now on.
    pub(super) async fn follow(
        &self,
        path: &str,
        after: Option<&str>,
    ) -> Result<Response, ServerError> {
        let url = self.url(path)?;
        let builder = builder().read_timeout(SILENCE_MAX).connect_timeout(ANSWER_MAX);
        let no_answer = |error: reqwest::Error| no_answer(&url, &error);
        let mut request = builder.build().map_err(no_answer)?.get(url.clone());
        if let Some(after) = after {
            request = request.header("Last-Event-ID", after);
        }
        self.answer(request, &url).await
    }

    async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Vec<u8>, ServerError> {
        let url = self.url(path)?;
        let mut request = self.client.request(method, url.clone());
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = self.answer(request, &url).await?;
        let bytes = answer.bytes().await.map_err(|error| no_answer(&url, &error))?;
        Ok(bytes.into())
    }

    /// Sends a request, and returns its answer if that is a success.
    async fn answer(&self, request: RequestBuilder, url: &Url) -> Result<Response, ServerError> {
        let answer = request.header("X-API-Key", &self.key).send().await;
        let answer = answer.map_err(|error| no_answer(url, &error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let location = answer.headers().get(LOCATION).cloned();
        let bytes = answer.bytes().await.map_err(|error| no_answer(url, &error))?;
        if let Some(location) = location.filter(|_| status.is_redirection()) {
            let location = String::from_utf8_lossy(location.as_bytes());
            return Err(ServerError::Moved { status, location: printable(&location) });
        }
        Err(ServerError::Refused { status, text: refusal_text(&bytes) })
    }
}

/// An HTTP client of commands.
pub(super) fn client(timeout: Duration) -> reqwest::Result<Client> {
    builder().timeout(timeout).build()
}

/// It follows no redirect: the key is for one server, and a `POST` would become a `GET`.
fn builder() -> ClientBuilder {
    // Fails when there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().redirect(Policy::none())
}

fn no_answer(url: &Url, error: &reqwest::Error) -> ServerError {
    ServerError::NoAnswer { url: url.clone(), cause: cause_of(error) }
}

/// The innermost cause of an error, which says most.
pub(super) fn cause_of(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// What a problem document says: its detail, and every violation if there are some.
fn refusal_text(answer: &[u8]) -> String {
    let Ok(problem) = serde_json::from_slice::<Value>(answer) else {
        let text: String = String::from_utf8_lossy(answer).chars().take(SHOWN_CHARS).collect();
        return printable(&text);
    };
    let mut said = problem["detail"].as_str().unwrap_or_default().to_owned();
    // A single one is the detail.
    let violations = problem["errors"].as_array().filter(|all| all.len() > 1);
    for violation in violations.into_iter().flatten() {
        let part = |field: &str| violation[field].as_str().unwrap_or_default();
        said = format!("{said}\n  {} {}", part("field"), part("message"));
    }
    printable(&said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_the_server_alone() {
        let base = Url::parse("https://example.com/hookgate/").unwrap();
        let server = ApiServer::new(&base, "key".to_owned()).unwrap();
        let url = server.url("/api/events?limit=1").unwrap();
        assert_eq!(url.as_str(), "https://example.com/hookgate/api/events?limit=1");
        for wrong in ["//other/api", "https://other/", "api/events", "/\\other"] {
            assert!(server.url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn refusal_names_every_violation() {
        let one = br#"{"detail": "url must be a URL", "errors": [{"field": "url", "message": "must be a URL"}]}"#;
        assert_eq!(refusal_text(one), "url must be a URL");
        let two = br#"{"detail": "2 fields are invalid", "errors": [{"field": "a", "message": "must be 1"},
            {"field": "b", "message": "is required"}]}"#;
        assert_eq!(refusal_text(two), "2 fields are invalid\n  a must be 1\n  b is required");
        assert_eq!(refusal_text(b"<html>"), "<html>");
    }
}
