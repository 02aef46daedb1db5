//! A temporary endpoint of an organisation: events reach this process as long as it runs.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::webhook::IncomingWebhook;
use crate::cli::CliError;
use crate::cli::server::{ApiServer, ServerError};
use crate::delivery::{Verifier, sign};
use crate::domain::SigningSecret;
use crate::runtime::Clock;

/// Seconds of a long poll, and events that one answers with at most.
const POLL: &str = "wait=20&limit=50";
/// Time until an inbox is asked again after an error.
const RETRY: Duration = Duration::from_secs(2);
const DESCRIPTION: &str = "hookgate listen, removed when it ends";

/// An endpoint that is removed when the command ends.
pub(super) struct TemporaryEndpoint {
    server: ApiServer,
    id: String,
    pub(super) verifier: Verifier,
    /// What signs the events of an inbox, which come without signatures.
    pub(super) inbox_secret: Option<SigningSecret>,
}

#[derive(Deserialize)]
struct CreatedEndpoint {
    id: String,
    secret: Option<String>,
}

/// What an inbox answers with.
#[derive(Deserialize)]
pub(super) struct PulledEvents {
    data: Vec<InboxEvent>,
}

#[derive(Deserialize)]
struct InboxEvent {
    id: String,
    r#type: String,
    timestamp: Option<String>,
    received_at: String,
    payload: Box<RawValue>,
}

impl TemporaryEndpoint {
    /// Makes an endpoint that posts to `url`, or an inbox where that is `None` or refused as an address that webhooks
    /// may not go to.
    pub(super) async fn begin(
        server: ApiServer,
        event_types: &[String],
        url: Option<&Url>,
    ) -> Result<Self, CliError> {
        if let Some(url) = url {
            let body = json!({"url": url.as_str(), "event_types": event_types, "description": DESCRIPTION});
            match server
                .call::<CreatedEndpoint>(Method::POST, "/api/endpoints", Some(body.to_string()))
                .await
            {
                Ok(CreatedEndpoint { id, secret }) => {
                    let secret = secret.ok_or("the endpoint has no secret")?;
                    return Ok(Self { server, id, verifier: secret.parse()?, inbox_secret: None });
                }
                Err(ServerError::Refused { status, .. })
                    if status == StatusCode::UNPROCESSABLE_ENTITY => {}
                Err(error) => return Err(cannot("make an endpoint", &error)),
            }
        }
        let body = json!({"kind": "pull", "event_types": event_types, "description": DESCRIPTION});
        let created = server
            .call::<CreatedEndpoint>(Method::POST, "/api/endpoints", Some(body.to_string()))
            .await;
        let CreatedEndpoint { id, .. } =
            created.map_err(|error| cannot("make an inbox", &error))?;
        let secret = SigningSecret::generate()?;
        let verifier = Verifier::Secret(secret.clone());
        Ok(Self { server, id, verifier, inbox_secret: Some(secret) })
    }

    /// The endpoint's id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Waits for events of the inbox, however often the server does not answer.
    pub(super) async fn receive(&self, report: impl Fn(&ServerError)) -> PulledEvents {
        let path = format!("/api/inbox?inbox={}&{POLL}", self.id);
        loop {
            match self.server.call::<PulledEvents>(Method::GET, &path, None).await {
                Ok(received) if received.data.is_empty() => {}
                Ok(received) => return received,
                Err(error) => {
                    report(&error);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Acknowledges an event of the inbox, or gives it back to come again.
    pub(super) async fn finish(&self, event: &str, is_done: bool) -> Result<(), ServerError> {
        let path = if is_done { "/api/ack" } else { "/api/nack" };
        let path = format!("{path}?inbox={}", self.id);
        let mut body = json!({ "ids": [event] });
        if !is_done {
            body["delay_seconds"] = 5.into();
        }
        self.server.call::<Value>(Method::POST, &path, Some(body.to_string())).await.map(drop)
    }

    /// Sends an event once more to the endpoint.
    pub(super) async fn replay(&self, event: &str) -> Result<(), ServerError> {
        let body = json!({ "endpoint_id": self.id });
        let path = format!("/api/events/{event}/replay");
        self.server.call::<Value>(Method::POST, &path, Some(body.to_string())).await.map(drop)
    }

    /// Removes the endpoint.
    pub(super) async fn end(&self) -> Result<(), CliError> {
        let path = format!("/api/endpoints/{}", self.id);
        let removed = self.server.call::<Value>(Method::DELETE, &path, None).await;
        removed
            .map(drop)
            .map_err(|error| cannot(&format!("remove the endpoint {}", self.id), &error))
    }
}

impl PulledEvents {
    /// The events as the webhooks that a server would send, signed with `secret`, each with the id of its event.
    pub(super) fn webhooks(
        self,
        secret: &SigningSecret,
        clock: &Clock,
    ) -> Vec<(String, IncomingWebhook)> {
        self.data.into_iter().map(|event| event.webhook(secret, clock)).collect()
    }
}

impl InboxEvent {
    fn webhook(self, secret: &SigningSecret, clock: &Clock) -> (String, IncomingWebhook) {
        let received_at = clock.now();
        let (timestamp, sent) = (self.timestamp.unwrap_or(self.received_at), received_at.seconds());
        let body = format!(
            r#"{{"type":"{}","timestamp":"{timestamp}","data":{}}}"#,
            self.r#type,
            self.payload.get()
        );
        let sent = sent.to_string();
        let signature = sign(secret, &self.id, &sent, body.as_bytes());
        let fields = [
            ("content-type", "application/json"),
            ("webhook-id", &self.id),
            ("webhook-timestamp", &sent),
            ("webhook-signature", &signature),
        ];
        let value =
            |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
        let named = |(name, text): (&'static str, &str)| {
            (axum::http::HeaderName::from_static(name), value(text))
        };
        let headers: HeaderMap = fields.into_iter().map(named).collect();
        (self.id, IncomingWebhook { received_at, headers, body: Bytes::from(body) })
    }
}

fn cannot(what: &str, error: &ServerError) -> CliError {
    format!("cannot {what}: {error}").into()
}
