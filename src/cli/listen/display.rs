//! How a webhook is shown: a line and its body for people, or one JSON object in a line for programs.
//!
//! Whoever sends a webhook chooses its bytes, so no control character of it reaches a terminal.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::forward::Forwarded;
use super::webhook::{IncomingWebhook, Signature};
use crate::cli::output::Output;
use crate::cli::printable::{indented, printable, printable_json, printable_line};

/// A webhook that was answered.
pub(super) struct Shown<'a> {
    pub(super) webhook: &'a IncomingWebhook,
    /// Which attempt of its event this is, from 1.
    pub(super) attempt: u64,
    pub(super) signature: &'a Signature,
    /// What it was answered with.
    pub(super) status: StatusCode,
    /// The time from its arrival to the answer.
    pub(super) duration: Duration,
    pub(super) forwarded: Option<&'a Forwarded>,
}

/// The same for programs.
#[derive(Serialize)]
struct WebhookLine<'a> {
    received_at: String,
    webhook_id: Option<&'a str>,
    r#type: Option<String>,
    attempt: u64,
    signature: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature_error: Option<&'a str>,
    status: u16,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded: Option<&'a Forwarded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Map<String, Value>>,
    body: WebhookBody<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum WebhookBody<'a> {
    Json(&'a RawValue),
    Text(String),
}

impl Shown<'_> {
    /// The text to print.
    pub(super) fn render(&self, output: Output, with_headers: bool) -> String {
        match output {
            Output::Text => self.text(with_headers),
            Output::Json => self.json(with_headers),
        }
    }

    fn text(&self, with_headers: bool) -> String {
        let Self { webhook, attempt, status, .. } = self;
        let signature = match self.signature {
            Signature::Unchecked => "signature not checked; set --secret".to_owned(),
            Signature::Valid => "signature valid".to_owned(),
            Signature::Invalid(why) => format!("SIGNATURE INVALID: {why}"),
        };
        let mut lines = vec![format!(
            "{}  {}  {}  attempt {attempt}  {}  {:.1} ms  {signature}",
            webhook.received_at,
            printable_line(&webhook.event_type().unwrap_or_else(|| "no type".to_owned())),
            printable_line(webhook.id().unwrap_or("no webhook-id")),
            status.as_u16(),
            milliseconds(self.duration),
        )];
        if with_headers {
            let line = |(name, value): (&HeaderName, &HeaderValue)| {
                format!("{name}: {}", printable_line(&String::from_utf8_lossy(value.as_bytes())))
            };
            lines.extend(webhook.headers.iter().map(line));
            lines.push(String::new());
        }
        lines.push(match json(&webhook.body) {
            Some(json) => printable(&indented(json.get())),
            None => printable(&String::from_utf8_lossy(&webhook.body)),
        });
        lines.extend(self.forwarded.map(|forwarded| printable(&forwarded.to_string())));
        lines.join("\n")
    }

    fn json(&self, with_headers: bool) -> String {
        let Self { webhook, attempt, status, .. } = *self;
        let (signature, signature_error) = match self.signature {
            Signature::Unchecked => ("unchecked", None),
            Signature::Valid => ("valid", None),
            Signature::Invalid(why) => ("invalid", Some(why.as_str())),
        };
        let line = WebhookLine {
            received_at: webhook.received_at.to_string(),
            webhook_id: webhook.id(),
            r#type: webhook.event_type(),
            attempt,
            signature,
            signature_error,
            status: status.as_u16(),
            duration_ms: milliseconds(self.duration),
            forwarded: self.forwarded,
            headers: with_headers.then(|| header_map(&webhook.headers)),
            body: json(&webhook.body).map_or_else(
                || WebhookBody::Text(String::from_utf8_lossy(&webhook.body).into_owned()),
                WebhookBody::Json,
            ),
        };
        let line = serde_json::to_string(&line).unwrap_or_else(|error| error.to_string());
        // JSON may have line breaks between its values; every webhook is one line.
        printable_json(&line.replace(['\n', '\r'], " "))
    }
}

fn json(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(body).ok()
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10_000.0).round() / 10.0
}

fn header_map(headers: &HeaderMap) -> Map<String, Value> {
    let text = |name| {
        let values = headers.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ")
    };
    headers.keys().map(|name| (name.to_string(), text(name).into())).collect()
}
