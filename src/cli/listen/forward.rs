//! Passes webhooks on to a receiver in development.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Url};
use serde::Serialize;

use super::webhook::IncomingWebhook;
use crate::cli::CliError;
use crate::cli::server::{cause_of, client};

/// Time for an answer, above which a server gives up by default.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer that are shown.
const SHOWN_BYTES: usize = 1024;
/// Header fields that belong to one connection, or are made anew.
const NOT_FORWARDED: [header::HeaderName; 5] = [
    header::HOST,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

/// Passes webhooks on to a URL.
pub(super) struct Forwarder {
    client: Client,
    url: Url,
}

/// What has become of a webhook that was passed on.
#[derive(Serialize)]
pub(super) struct Forwarded {
    /// The status that it was answered with; `None` without an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// The start of the answer, or why there is none.
    answer: String,
}

impl Forwarder {
    /// Passes webhooks on to this URL.
    pub(super) fn new(url: Url) -> Result<Self, CliError> {
        Ok(Self { client: client(ANSWER_MAX)?, url })
    }

    /// Passes a webhook on, its header fields and body as they came.
    pub(super) async fn forward(&self, webhook: &IncomingWebhook) -> Forwarded {
        let mut headers: HeaderMap = webhook.headers.clone();
        for name in NOT_FORWARDED {
            headers.remove(name);
        }
        let request = self.client.post(self.url.clone()).headers(headers);
        match request.body(webhook.body.clone()).send().await {
            Ok(answer) => {
                let status = Some(answer.status().as_u16());
                Forwarded { status, answer: start_of(answer).await }
            }
            Err(error) => Forwarded { status: None, answer: cause_of(&error) },
        }
    }
}

impl Forwarded {
    /// The status to answer the webhook with.
    pub(super) fn status(&self) -> StatusCode {
        let status = self.status.and_then(|status| StatusCode::from_u16(status).ok());
        status.unwrap_or(StatusCode::BAD_GATEWAY)
    }
}

impl fmt::Display for Forwarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "→ {status} {}", self.answer),
            None => write!(f, "→ no answer: {}", self.answer),
        }
    }
}

async fn start_of(mut answer: reqwest::Response) -> String {
    let mut start = Vec::new();
    while start.len() < SHOWN_BYTES {
        match answer.chunk().await {
            Ok(Some(chunk)) => start.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    start.truncate(SHOWN_BYTES);
    String::from_utf8_lossy(&start).into_owned()
}
