//! A server that commands talk to over HTTP, with an API key.

use std::time::Duration;

use reqwest::{Client, Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::CliError;

/// Time for an answer. Long polls of up to 30 s come in time.
const ANSWER_MAX: Duration = Duration::from_mins(1);
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

    async fn bytes(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<Vec<u8>, ServerError> {
        let not_a_path = |error: url::ParseError| ServerError::NotHookgate {
            url: self.base.clone(),
            cause: error.to_string(),
        };
        let url = self.base.join(path).map_err(not_a_path)?;
        let mut request = self.client.request(method, url.clone()).header("X-API-Key", &self.key);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        let answer = async {
            let answer = request.send().await?;
            Ok((answer.status(), answer.bytes().await?))
        };
        let (status, bytes) = answer.await.map_err(|error: reqwest::Error| {
            ServerError::NoAnswer { url, cause: cause_of(&error) }
        })?;
        if status.is_success() {
            return Ok(bytes.into());
        }
        Err(ServerError::Refused { status, text: refusal_text(&bytes) })
    }
}

/// An HTTP client of commands.
pub(super) fn client(timeout: Duration) -> reqwest::Result<Client> {
    // Fails when there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().no_proxy().timeout(timeout).build()
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
        return String::from_utf8_lossy(answer).chars().take(SHOWN_CHARS).collect();
    };
    let mut said = problem["detail"].as_str().unwrap_or_default().to_owned();
    // A single one is the detail.
    let violations = problem["errors"].as_array().filter(|all| all.len() > 1);
    for violation in violations.into_iter().flatten() {
        let part = |field: &str| violation[field].as_str().unwrap_or_default();
        said = format!("{said}\n  {} {}", part("field"), part("message"));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

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
