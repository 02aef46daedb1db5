//! The request of an attempt as it was sent, told from what is stored: its event, its endpoint and the time at which it
//! started. Pure.
//!
//! **Invariant:** nothing is told that may differ from what was sent. An endpoint that was changed since, or so short a
//! time before that the server which sent may not have known, tells nothing; nor does an attempt that ended before
//! anything was sent. Left out are `User-Agent`, which names the version of the server, and what HTTP adds itself.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::webhook;
use crate::domain::{
    Attempt, DeliveryId, Endpoint, EndpointKind, ErrorClass, EventSummary, Timestamp,
};

/// How long after a change of an endpoint some server may still send to what it was before.
const CHANGE_KNOWN_AFTER: Duration = Duration::from_secs(30);
/// What stands for a secret.
const MASK: &str = "***";

/// The request of an attempt, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct SentRequest {
    /// `POST`.
    pub method: &'static str,
    /// The URL, without the values of its query.
    pub url: String,
    /// The header fields. `***` stands for the signature and for the values of custom headers.
    pub headers: BTreeMap<String, String>,
    /// Bytes in the body.
    pub body_bytes: usize,
}

/// The request of an attempt to deliver `event` to `endpoint` as they are now; `None` where it may have been another.
pub fn sent_request(
    delivery: DeliveryId,
    event: &EventSummary,
    endpoint: &Endpoint,
    attempt: &Attempt,
) -> Option<SentRequest> {
    if endpoint.kind != EndpointKind::Webhook
        || !was_sent(attempt.error_class)
        // How long a CloudEvent is, is not known without its payload.
        || !endpoint.config.format.is_standard()
        || !was_known(endpoint, attempt.started_at)
    {
        return None;
    }
    let custom = endpoint.headers.as_ref().ok()?;
    let mut headers: BTreeMap<String, String> =
        custom.iter().map(|(name, _)| (name.to_lowercase(), MASK.to_owned())).collect();
    headers.entry("x-trace-id".to_owned()).or_insert_with(|| event.trace_id.to_string());
    let span = webhook::span(delivery, event.accept_span, attempt.number);
    let own = [
        ("content-type", "application/json".to_owned()),
        ("webhook-id", event.id.to_string()),
        ("webhook-timestamp", attempt.started_at.seconds().to_string()),
        ("webhook-signature", MASK.to_owned()),
        ("traceparent", event.trace_id.traceparent(span)),
    ];
    headers.extend(own.map(|(name, value)| (name.to_owned(), value)));
    headers.remove("user-agent");
    Some(SentRequest {
        method: "POST",
        url: Endpoint::shown_url(endpoint.url.as_str()),
        headers,
        body_bytes: webhook::body_bytes(event),
    })
}

/// Whether an attempt that ended so had sent its request.
const fn was_sent(error_class: Option<ErrorClass>) -> bool {
    !matches!(
        error_class,
        Some(
            ErrorClass::Blocked
                | ErrorClass::Signing
                | ErrorClass::Internal
                | ErrorClass::Dns
                | ErrorClass::Connect
                | ErrorClass::Tls
        )
    )
}

/// Whether every server knew an endpoint as it is now when an attempt started.
fn was_known(endpoint: &Endpoint, started_at: Timestamp) -> bool {
    endpoint.updated_at == endpoint.created_at
        || endpoint.updated_at.plus(CHANGE_KNOWN_AFTER) < started_at
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::webhook::tests::delivery;
    use crate::domain::{CustomHeaders, LeasedDelivery, SpanId, WebhookFormat};

    fn attempt(started_at: Timestamp, error_class: Option<ErrorClass>) -> Attempt {
        Attempt {
            number: 1,
            started_at,
            duration_ms: 1,
            status_code: None,
            error_class,
            error: None,
            response_excerpt: None,
        }
    }

    fn sent(delivery: &LeasedDelivery, attempt: &Attempt) -> Option<SentRequest> {
        let event = EventSummary::from((*delivery.event).clone());
        sent_request(delivery.id, &event, &delivery.endpoint, attempt)
    }

    #[test]
    fn request_is_told_as_it_is_sent_but_for_secrets() {
        let mut delivery = delivery();
        let custom = CustomHeaders::from_text(r#"{"authorization":"Bearer s3cret"}"#).unwrap();
        Arc::get_mut(&mut delivery.endpoint).unwrap().headers = Ok(custom);
        let at = delivery.endpoint.created_at;
        let body = webhook::body(&delivery.event, WebhookFormat::Standard);
        let told = sent(&delivery, &attempt(at, None)).unwrap();
        assert_eq!((told.method, told.url.as_str()), ("POST", "https://example.com/"));
        assert_eq!(told.body_bytes, body.len());
        let built = webhook::headers(&delivery, at, &body).unwrap();
        assert_eq!(told.headers.len() + 1, built.len(), "all but User-Agent");
        for (name, value) in &told.headers {
            let masked = ["authorization", "webhook-signature"].contains(&name.as_str());
            let built = built[name].to_str().unwrap();
            assert_eq!(value, if masked { MASK } else { built }, "{name}");
        }
    }

    #[test]
    fn attempt_of_a_sampled_trace_is_told_with_its_own_span() {
        let mut delivery = delivery();
        Arc::get_mut(&mut delivery.event).unwrap().accept_span = Some(SpanId::mint());
        let at = delivery.endpoint.created_at;
        let built = webhook::headers(&delivery, at, b"{}").unwrap();
        let told = sent(&delivery, &attempt(at, None)).unwrap();
        assert_eq!(told.headers["traceparent"], built["traceparent"].to_str().unwrap());
    }

    #[test]
    fn nothing_is_told_that_may_differ_from_what_was_sent() {
        let mut delivery = delivery();
        let changed = delivery.endpoint.created_at.plus(Duration::from_secs(5));
        Arc::get_mut(&mut delivery.endpoint).unwrap().updated_at = changed;
        let known = changed.plus(CHANGE_KNOWN_AFTER);
        for (at, is_told) in [(changed, false), (known, false), (known.plus(SECOND), true)] {
            assert_eq!(sent(&delivery, &attempt(at, None)).is_some(), is_told);
        }
        let later = known.plus(SECOND);
        for (class, is_told) in [(ErrorClass::Dns, false), (ErrorClass::Status, true)] {
            assert_eq!(sent(&delivery, &attempt(later, Some(class))).is_some(), is_told);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
}
