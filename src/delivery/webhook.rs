//! The request of a webhook: its body and headers, as specified by Standard Webhooks. Pure.

use bytes::Bytes;
use reqwest::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderName, InvalidHeaderValue,
    USER_AGENT,
};

use serde_json::{Value, json};

use crate::domain::{
    DecryptionError, DeliveryId, Event, EventSummary, EventType, LeasedDelivery, SpanId, Timestamp,
    WebhookFormat, is_cloud_event,
};

use super::signer::sign_with_all;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOUD_EVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json");
const HOOKGATE: HeaderValue =
    HeaderValue::from_static(concat!("Hookgate/", env!("CARGO_PKG_VERSION")));

/// `{"type":…,"timestamp":…,"data":…}`, with the payload byte for byte as `data`, and before it the account and the user
/// of an event that has them; or a `CloudEvent`.
///
/// Built for every attempt: copying the payload costs a fraction of hashing it, and a cached body would keep
/// a second copy of every waiting payload in memory.
pub(super) fn body(event: &Event, format: WebhookFormat) -> Bytes {
    if format == WebhookFormat::CloudEvents {
        return cloud_event(event);
    }
    let labels = (event.account_id.as_deref(), event.user_id.as_deref());
    standard_body(&event.event_type, event.timestamp(), labels, &event.payload)
}

/// The body of a webhook in the standard format; `labels` are the account and the user of the event.
pub fn standard_body(
    event_type: &EventType,
    timestamp: Timestamp,
    labels: (Option<&str>, Option<&str>),
    payload: &[u8],
) -> Bytes {
    [head(event_type, timestamp, labels).as_bytes(), payload, b"}"].concat().into()
}

/// An event as a `CloudEvent` in the JSON format. One that was posted as such is sent on as it came; the attributes of
/// any other are its own, and its source is its organisation.
fn cloud_event(event: &Event) -> Bytes {
    if is_cloud_event(&event.payload) {
        return event.payload.clone();
    }
    let Event { id, org_id, event_type, account_id, user_id, payload, .. } = event;
    let mut head = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("urn:hookgate:org:{org_id}"),
        "type": event_type.as_str(),
        "time": event.timestamp().to_string(),
        "datacontenttype": "application/json",
    });
    // Both are not empty where they are set, as the specification wants it.
    if let Some(account_id) = account_id {
        head["subject"] = account_id.as_str().into();
    }
    if let Some(user_id) = user_id {
        head["userid"] = user_id.as_str().into();
    }
    let head = head.to_string();
    let open = head.strip_suffix('}').unwrap_or(&head);
    [open.as_bytes(), b",\"data\":", payload, b"}"].concat().into()
}

/// The bytes in the body of an event in the standard format.
pub(super) fn body_bytes(event: &EventSummary) -> usize {
    let labels = (event.account_id.as_deref(), event.user_id.as_deref());
    head(&event.event_type, event.timestamp(), labels).len() + event.payload_bytes + 1
}

/// The body in the standard format up to the payload. Types and timestamps have no character that JSON escapes.
fn head(
    event_type: &EventType,
    timestamp: Timestamp,
    (account_id, user_id): (Option<&str>, Option<&str>),
) -> String {
    let mut head = format!(r#"{{"type":"{event_type}","timestamp":"{timestamp}""#);
    for (name, id) in [("account_id", account_id), ("user_id", user_id)] {
        if let Some(id) = id {
            head.extend([",\"", name, "\":", &Value::from(id).to_string()]);
        }
    }
    head.push_str(r#","data":"#);
    head
}

/// The span that the `traceparent` of an attempt names: its own if the trace of the event is sampled, or else one of the
/// delivery, which nobody records.
pub(super) fn span(delivery: DeliveryId, accept_span: Option<SpanId>, number: u32) -> SpanId {
    match accept_span {
        Some(_) => SpanId::of_attempt(delivery, number),
        None => SpanId::of_delivery(delivery),
    }
}

/// Why the headers of a webhook cannot be built. The webhook is then not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadersError {
    /// The secret or the custom headers cannot be decrypted.
    #[error(transparent)]
    Decryption(#[from] DecryptionError),
    /// Never in practice: header names are checked when they are set.
    #[error("cannot form the request: {0}")]
    Name(#[from] InvalidHeaderName),
    /// Never in practice: header values are checked when they are set.
    #[error("cannot form the request: {0}")]
    Value(#[from] InvalidHeaderValue),
}

/// The header fields of an attempt that starts at `at`: the endpoint's own, and over them ours.
///
/// # Errors
/// When the endpoint's secrets or its own fields cannot be read.
pub(super) fn headers(
    delivery: &LeasedDelivery,
    at: Timestamp,
    body: &[u8],
) -> Result<HeaderMap, HeadersError> {
    let (event, endpoint) = (&delivery.event, &delivery.endpoint);
    let secrets = endpoint.secrets.as_ref().map_err(DecryptionError::clone)?;
    let custom = endpoint.headers.as_ref().map_err(DecryptionError::clone)?;
    // The same for every attempt, so that receivers can deduplicate.
    let id = event.id.to_string();
    let timestamp = at.seconds().to_string();
    let signature = sign_with_all(secrets.signing_at(at), &id, &timestamp, body);
    let number = delivery.attempts.saturating_add(1);
    let span = span(delivery.id, event.accept_span, number);
    let traceparent = event.trace_id.traceparent(span);

    let mut headers = HeaderMap::with_capacity(9);
    for (name, value) in custom.iter() {
        let mut value = HeaderValue::try_from(value)?;
        value.set_sensitive(true);
        headers.insert(HeaderName::try_from(name)?, value);
    }
    let is_standard = endpoint.config.format.is_standard();
    headers.insert(CONTENT_TYPE, if is_standard { JSON } else { CLOUD_EVENT });
    headers.insert(USER_AGENT, HOOKGATE);
    headers.insert("webhook-id", HeaderValue::try_from(id)?);
    headers.insert("webhook-timestamp", HeaderValue::try_from(timestamp)?);
    headers.insert("webhook-signature", HeaderValue::try_from(signature)?);
    headers.insert("traceparent", HeaderValue::try_from(traceparent)?);
    // Its owner may have set one that its receiver expects.
    let trace_id = HeaderValue::try_from(event.trace_id.to_string())?;
    headers.entry("x-trace-id").or_insert(trace_id);
    Ok(headers)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use crate::domain::{
        CustomHeaders, DeliveryId, Endpoint, EventId, InstanceId, Lease, LeaseToken, OrgId,
        Secrets, SigningSecret, TraceId, TraceParent,
    };

    use super::*;

    const AT: Timestamp = Timestamp::from_micros(1_700_000_000_999_999);

    pub(in crate::delivery) fn delivery() -> LeasedDelivery {
        let org_id = OrgId::mint(AT);
        let event = Event {
            id: EventId::mint(AT),
            org_id,
            event_type: "user.login".parse().unwrap(),
            payload: Bytes::from_static(b"{ \"n\":1.0e2,\t\"s\":\"\\u0000\"}"),
            dedup_id: None,
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: AT,
            trace_id: TraceId::mint(),
            accept_span: None,
        };
        let url = "https://example.com/".parse().unwrap();
        let endpoint = Endpoint::new(org_id, url, SigningSecret::generate().unwrap(), AT);
        LeasedDelivery {
            id: DeliveryId::mint(AT),
            event: Arc::new(event),
            endpoint: Arc::new(endpoint),
            attempts: 0,
            ordered: false,
            lease: Lease { token: LeaseToken::mint(InstanceId::new(1)), until: AT },
        }
    }

    #[test]
    fn payload_travels_byte_for_byte() {
        let delivery = delivery();
        assert_eq!(
            body(&delivery.event, WebhookFormat::Standard),
            "{\"type\":\"user.login\",\"timestamp\":\"2023-11-14T22:13:20.999999Z\",\
             \"data\":{ \"n\":1.0e2,\t\"s\":\"\\u0000\"}}"
        );
    }

    #[test]
    fn event_is_put_into_a_cloud_event_unless_it_is_one() {
        let mut event = Arc::unwrap_or_clone(delivery().event);
        event.account_id = Some("acme \"1\"".to_owned());
        event.user_id = Some("u".to_owned());
        let sent = body(&event, WebhookFormat::CloudEvents);
        assert!(is_cloud_event(&sent));
        let text = std::str::from_utf8(&sent).unwrap();
        assert!(text.ends_with(",\"data\":{ \"n\":1.0e2,\t\"s\":\"\\u0000\"}}"), "{text}");
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!(sent["id"], event.id.to_string());
        assert_eq!(sent["source"], format!("urn:hookgate:org:{}", event.org_id));
        assert_eq!((&sent["subject"], &sent["userid"]), (&json!("acme \"1\""), &json!("u")));
        assert_eq!(sent["time"], "2023-11-14T22:13:20.999999Z");

        let one = Bytes::from_static(
            br#" {"specversion":"1.0","id":"1","source":"/s","type":"a","x":1}"#,
        );
        event.payload = one.clone();
        assert_eq!(body(&event, WebhookFormat::CloudEvents), one);
        let delivery = with(|endpoint| endpoint.config.format = WebhookFormat::CloudEvents);
        let headers = headers(&delivery, AT, &one).unwrap();
        assert_eq!(headers["content-type"], "application/cloudevents+json");
    }

    #[test]
    fn account_and_user_are_told_where_an_event_has_them() {
        let mut event = Arc::unwrap_or_clone(delivery().event);
        event.account_id = Some("acme \"1\"".to_owned());
        event.user_id = Some("ada".to_owned());
        let body = body(&event, WebhookFormat::default());
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["account_id"], &body["user_id"]), (&"acme \"1\"".into(), &"ada".into()));
    }

    #[test]
    fn timestamp_is_the_time_that_the_tenant_gave() {
        let mut event = Arc::unwrap_or_clone(delivery().event);
        event.occurred_at = Some(Timestamp::from_micros(0));
        let body = body(&event, WebhookFormat::Standard);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["timestamp"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn headers_identify_time_sign_and_trace_the_attempt() {
        let delivery = delivery();
        let body = body(&delivery.event, WebhookFormat::Standard);
        let headers = headers(&delivery, AT, &body).unwrap();
        let secret = delivery.endpoint.secrets.as_ref().unwrap().current().reveal();
        let secret = standardwebhooks::Webhook::new(&secret).unwrap();
        let id = delivery.event.id.to_string();
        assert_eq!(headers["webhook-id"], id);
        assert_eq!(headers["webhook-timestamp"], "1700000000");
        assert_eq!(headers["webhook-signature"], secret.sign(&id, 1_700_000_000, &body).unwrap());
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["user-agent"], concat!("Hookgate/", env!("CARGO_PKG_VERSION")));
        let traceparent = headers["traceparent"].to_str().unwrap();
        assert_eq!(TraceId::from_traceparent(traceparent).unwrap(), delivery.event.trace_id);
        assert_eq!(headers["x-trace-id"], delivery.event.trace_id.to_string());
    }

    #[test]
    fn attempt_of_a_sampled_trace_names_its_own_span() {
        let mut delivery = delivery();
        let parent = |delivery: &LeasedDelivery| {
            let headers = headers(delivery, AT, b"{}").unwrap();
            headers["traceparent"].to_str().unwrap().parse::<TraceParent>().unwrap()
        };
        assert_eq!(parent(&delivery).span, SpanId::of_delivery(delivery.id));
        Arc::get_mut(&mut delivery.event).unwrap().accept_span = Some(SpanId::mint());
        for attempts in 0..3 {
            delivery.attempts = attempts;
            let TraceParent { trace_id, span, is_sampled } = parent(&delivery);
            assert_eq!(span, SpanId::of_attempt(delivery.id, attempts + 1));
            assert!(is_sampled && trace_id == delivery.event.trace_id);
        }
    }

    fn with(change: impl FnOnce(&mut Endpoint)) -> LeasedDelivery {
        let mut delivery = delivery();
        change(Arc::get_mut(&mut delivery.endpoint).unwrap());
        delivery
    }

    #[test]
    fn attempt_is_signed_with_every_active_secret() {
        let overlap = std::time::Duration::from_mins(1);
        let (old, new) = (SigningSecret::generate().unwrap(), SigningSecret::generate().unwrap());
        let secrets = Secrets::new(old.clone()).rotated(new.clone(), overlap, AT).unwrap();
        let delivery = with(|endpoint| endpoint.secrets = Ok(secrets));
        let signatures = |at: Timestamp| {
            let headers = headers(&delivery, at, b"{}").unwrap();
            headers["webhook-signature"].to_str().unwrap().to_owned()
        };
        let by = |secret: &SigningSecret, at: Timestamp| {
            let secret = standardwebhooks::Webhook::new(&secret.reveal()).unwrap();
            secret.sign(&delivery.event.id.to_string(), at.seconds(), b"{}").unwrap()
        };
        assert_eq!(signatures(AT), format!("{} {}", by(&new, AT), by(&old, AT)));
        let after = AT.plus(overlap);
        assert_eq!(signatures(after), by(&new, after));
    }

    #[test]
    fn custom_headers_are_sent_and_never_replace_ours() {
        // Headers that were stored without passing the checks.
        let text = r#"{"authorization":"Bearer s3cret","webhook-id":"forged","user-agent":"x","x-trace-id":"own"}"#;
        let custom = CustomHeaders::from_text(text).unwrap();
        let delivery = with(|endpoint| endpoint.headers = Ok(custom));
        let headers = headers(&delivery, AT, b"{}").unwrap();
        assert_eq!(headers["authorization"], "Bearer s3cret");
        assert!(!format!("{headers:?}").contains("s3cret"));
        assert_eq!(headers["webhook-id"], delivery.event.id.to_string());
        assert!(headers["user-agent"].to_str().unwrap().starts_with("Hookgate/"));
        assert_eq!(headers["x-trace-id"], "own");
    }

    #[test]
    fn webhook_without_its_secret_or_custom_headers_is_an_error() {
        let unreadable = || DecryptionError("see SECRETS_KEY".to_owned());
        let without_secret = with(|endpoint| endpoint.secrets = Err(unreadable()));
        let without_fields = with(|endpoint| endpoint.headers = Err(unreadable()));
        for delivery in [without_secret, without_fields] {
            let error = headers(&delivery, AT, b"{}").unwrap_err();
            assert_eq!(error.to_string(), "see SECRETS_KEY");
        }
    }
}
