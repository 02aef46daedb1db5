//! What goes over the wire: the body and the header fields of one webhook. Pure.

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, InvalidHeaderValue, USER_AGENT};

use crate::domain::{Event, LeasedDelivery, Timestamp};

use super::signer::sign;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const HOOKGATE: HeaderValue =
    HeaderValue::from_static(concat!("Hookgate/", env!("CARGO_PKG_VERSION")));

/// `{"type":…,"timestamp":…,"data":…}`, the data byte for byte as the tenant sent it.
///
/// Put together for every attempt: copying the payload costs a small part of hashing it, and a body
/// kept from the first attempt on would hold a second copy of every payload that waits.
pub(super) fn body(event: &Event) -> Bytes {
    let event_type = event.event_type.as_str();
    let timestamp = event.timestamp().to_string();
    // Neither an event type nor a timestamp holds a character that JSON escapes.
    let parts: [&[u8]; 7] = [
        br#"{"type":""#,
        event_type.as_bytes(),
        br#"","timestamp":""#,
        timestamp.as_bytes(),
        br#"","data":"#,
        &event.payload,
        b"}",
    ];
    parts.concat().into()
}

/// The header fields of an attempt that starts at `at`.
///
/// # Errors
/// Never in practice: every value is made of digits, letters and punctuation.
pub(super) fn headers(
    delivery: &LeasedDelivery,
    at: Timestamp,
    body: &[u8],
) -> Result<HeaderMap, InvalidHeaderValue> {
    let event = &delivery.event;
    // The same on every attempt, which lets a receiver drop what it has seen.
    let id = event.id.to_string();
    let timestamp = at.seconds().to_string();
    let signature = sign(&delivery.endpoint.secret, &id, &timestamp, body);
    let traceparent = event.trace_id.traceparent(delivery.id.uuid());

    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(USER_AGENT, HOOKGATE);
    headers.insert("webhook-id", HeaderValue::try_from(id)?);
    headers.insert("webhook-timestamp", HeaderValue::try_from(timestamp)?);
    headers.insert("webhook-signature", HeaderValue::try_from(signature)?);
    headers.insert("traceparent", HeaderValue::try_from(traceparent)?);
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::domain::{
        DeliveryId, Endpoint, EndpointId, EventId, EventTypeFilters, InstanceId, Lease, LeaseToken,
        OrgId, Pacing, SigningSecret, TraceId,
    };

    use super::*;

    const AT: Timestamp = Timestamp::from_micros(1_700_000_000_999_999);

    fn delivery() -> LeasedDelivery {
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
        };
        let endpoint = Endpoint {
            id: EndpointId::mint(AT),
            org_id,
            url: "https://example.com/".parse().unwrap(),
            event_types: EventTypeFilters::default(),
            description: None,
            secret: SigningSecret::generate().unwrap(),
            disabled_reason: None,
            created_at: AT,
            updated_at: AT,
            pacing: Pacing::default(),
            failing_since: None,
        };
        LeasedDelivery {
            id: DeliveryId::mint(AT),
            event: Arc::new(event),
            endpoint: Arc::new(endpoint),
            attempts: 0,
            lease: Lease { token: LeaseToken::mint(InstanceId::new(1)), until: AT },
        }
    }

    #[test]
    fn the_payload_travels_byte_for_byte() {
        let delivery = delivery();
        assert_eq!(
            body(&delivery.event),
            "{\"type\":\"user.login\",\"timestamp\":\"2023-11-14T22:13:20.999999Z\",\
             \"data\":{ \"n\":1.0e2,\t\"s\":\"\\u0000\"}}"
        );
    }

    #[test]
    fn the_tenants_own_time_is_what_receivers_are_told() {
        let mut event = Arc::unwrap_or_clone(delivery().event);
        event.occurred_at = Some(Timestamp::from_micros(0));
        let body = body(&event);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["timestamp"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_headers_identify_time_sign_and_trace_the_attempt() {
        let delivery = delivery();
        let body = body(&delivery.event);
        let headers = headers(&delivery, AT, &body).unwrap();
        let secret = standardwebhooks::Webhook::new(&delivery.endpoint.secret.reveal()).unwrap();
        let id = delivery.event.id.to_string();
        assert_eq!(headers["webhook-id"], id);
        assert_eq!(headers["webhook-timestamp"], "1700000000");
        assert_eq!(headers["webhook-signature"], secret.sign(&id, 1_700_000_000, &body).unwrap());
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["user-agent"], concat!("Hookgate/", env!("CARGO_PKG_VERSION")));
        let traceparent = headers["traceparent"].to_str().unwrap();
        assert_eq!(TraceId::from_traceparent(traceparent).unwrap(), delivery.event.trace_id);
    }
}
