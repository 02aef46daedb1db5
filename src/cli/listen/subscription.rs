//! A temporary endpoint of an organisation: events reach this process as long as it runs.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::webhook::IncomingWebhook;
use crate::cli::CliError;
use crate::cli::server::{ApiServer, ServerError};
use crate::delivery::{Verifier, sign, standard_body};
use crate::domain::{EventId, SigningSecret};
use crate::runtime::Clock;

/// Seconds of a long poll. It answers with one event, since each has its lease from then on.
const POLL: &str = "wait=20&limit=1";
/// What a lease has beyond the time that an event may take here, in seconds.
const LEASE_MARGIN_SECONDS: u64 = 30;
/// The longest lease that an inbox gives, in seconds.
const LEASE_MAX_SECONDS: u64 = 43_200;
/// Statuses after which asking again is of no use: the key or the inbox is gone.
const FINAL: [StatusCode; 3] =
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
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
    account_id: Option<String>,
    user_id: Option<String>,
    timestamp: Option<String>,
    received_at: String,
    payload: Box<RawValue>,
}

/// Where the server reaches this process.
pub(super) enum Reach {
    /// At this URL, as the caller says.
    Certainly(Url),
    /// At this URL, unless its settings forbid private addresses.
    Perhaps(Url),
    /// Nowhere.
    Nowhere,
}

impl TemporaryEndpoint {
    /// Makes an endpoint that posts here, or an inbox where the server does not reach this process. An event of an inbox
    /// may take `busy_max` until it is acknowledged.
    pub(super) async fn begin(
        server: ApiServer,
        event_types: &[String],
        reach: &Reach,
        busy_max: Duration,
    ) -> Result<Self, CliError> {
        if let Reach::Certainly(url) | Reach::Perhaps(url) = reach {
            let body = json!({"url": url.as_str(), "event_types": event_types, "description": DESCRIPTION});
            match create(&server, &body).await {
                Ok(CreatedEndpoint { id, secret }) => {
                    let secret = secret.ok_or("the endpoint has no secret")?;
                    return Ok(Self { server, id, verifier: secret.parse()?, inbox_secret: None });
                }
                Err(error) if !(matches!(reach, Reach::Perhaps(_)) && is_unreachable(&error)) => {
                    return Err(cannot("make an endpoint", &error));
                }
                Err(_) => {}
            }
        }
        let lease = (busy_max.as_secs() + LEASE_MARGIN_SECONDS).min(LEASE_MAX_SECONDS);
        let body = json!({
            "kind": "pull", "event_types": event_types, "description": DESCRIPTION, "visibility_seconds": lease,
        });
        let created = create(&server, &body).await;
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

    /// Waits for an event of the inbox, as long as the server may answer some time.
    pub(super) async fn receive(
        &self,
        report: impl Fn(&ServerError),
    ) -> Result<PulledEvents, CliError> {
        let path = format!("/api/inbox?inbox={}&{POLL}", self.id);
        loop {
            match self.server.call::<PulledEvents>(Method::GET, &path, None).await {
                Ok(received) if received.data.is_empty() => {}
                Ok(received) => return Ok(received),
                Err(ServerError::Refused { status, text }) if FINAL.contains(&status) => {
                    return Err(cannot("read the inbox", &ServerError::Refused { status, text }));
                }
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
    pub(super) async fn replay(&self, event: EventId) -> Result<(), ServerError> {
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
    ) -> Result<Vec<(String, IncomingWebhook)>, CliError> {
        self.data.into_iter().map(|event| event.webhook(secret, clock)).collect()
    }
}

impl InboxEvent {
    fn webhook(
        self,
        secret: &SigningSecret,
        clock: &Clock,
    ) -> Result<(String, IncomingWebhook), CliError> {
        let received_at = clock.now();
        let timestamp = self.timestamp.as_deref().unwrap_or(&self.received_at).parse()?;
        let labels = (self.account_id.as_deref(), self.user_id.as_deref());
        let payload = self.payload.get().as_bytes();
        let body = standard_body(&self.r#type.parse()?, timestamp, labels, payload);
        let sent = received_at.seconds();
        let sent = sent.to_string();
        let signature = sign(secret, &self.id, &sent, &body);
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
        Ok((self.id, IncomingWebhook { received_at, headers, body }))
    }
}

async fn create(server: &ApiServer, body: &Value) -> Result<CreatedEndpoint, ServerError> {
    server.call(Method::POST, "/api/endpoints", Some(body.to_string())).await
}

/// Whether the server refuses to send webhooks to a private address.
fn is_unreachable(error: &ServerError) -> bool {
    matches!(error, ServerError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, text }
        if text.starts_with("url ") && text.contains("ALLOW_PRIVATE_ENDPOINTS"))
}

fn cannot(what: &str, error: &ServerError) -> CliError {
    format!("cannot {what}: {error}").into()
}
