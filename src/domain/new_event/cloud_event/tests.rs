//! `CloudEvents`: what is taken in each mode, and what every violation is called.

use super::*;
use crate::domain::Timestamp;
use crate::domain::new_event::tests::violations;
use serde_json::Value;

const LIMITS: NewEventLimits = NewEventLimits { payload_bytes_max: 400, batch_events_max: 3 };
/// As the specification shows one.
const EXAMPLE: &str = r#"{ "specversion" : "1.0", "type" : "com.github.pull_request.opened",
    "source" : "https://github.com/cloudevents/spec/pull", "subject" : "123", "id" : "A234-1234-1234",
    "time" : "1970-01-01T00:00:01Z", "comexampleextension1" : "value", "comexampleothervalue" : 5,
    "datacontenttype" : "text/xml", "data" : "<much wow=\"xml\"/>" }"#;

type Header = (&'static str, &'static [u8]);

fn faults(body: &str) -> Vec<(String, &'static str)> {
    let error = parse_cloud_event(body.as_bytes(), &LIMITS).unwrap_err();
    violations(error).into_iter().map(|(_, field, code)| (field, code)).collect()
}

fn binary(headers: &[Header], body: &[u8]) -> Result<NewEvent<'static>, NewEventError> {
    parse_binary_cloud_event(headers.iter().copied(), body, &LIMITS)
}

#[test]
fn mode_is_told_by_the_content_type_and_the_batch_is_no_single_event() {
    let of = |text: &str, has_version| CloudEventMode::of(text.as_bytes(), has_version);
    assert_eq!(of("application/cloudevents+json", false), Some(CloudEventMode::Structured));
    let named = "Application/CloudEvents+JSON; charset=utf-8";
    assert_eq!(of(named, true), Some(CloudEventMode::Structured));
    let batch = "application/cloudevents-batch+json; charset=utf-8";
    assert_eq!(of(batch, false), Some(CloudEventMode::Batch));
    for other in
        ["application/cloudevents+xml", "application/cloudevents", "application/cloudeventsx"]
    {
        assert_eq!(of(other, false), Some(CloudEventMode::OtherFormat), "{other}");
    }
    for other in ["application/json", "", "text/plain"] {
        assert_eq!(of(other, true), Some(CloudEventMode::Binary), "{other}");
        assert_eq!(of(other, false), None, "{other}");
    }
}

#[test]
fn structured_event_is_its_own_payload() {
    let new_event = parse_cloud_event(EXAMPLE.as_bytes(), &LIMITS).unwrap();
    assert_eq!(new_event.event_type, "com.github.pull_request.opened");
    assert_eq!(&*new_event.payload, EXAMPLE.as_bytes());
    let dedup = "https://github.com/cloudevents/spec/pull A234-1234-1234";
    assert_eq!(new_event.dedup_id.as_deref(), Some(dedup));
    assert_eq!(new_event.account_id.as_deref(), Some("123"));
    assert_eq!(new_event.occurred_at, Some(Timestamp::from_micros(1_000_000)));
    assert_eq!(new_event.user_id, None);
    let least = r#"{"specversion":"1.0","type":"a","source":"/s","id":"1","subject":null}"#;
    let new_event = parse_cloud_event(least.as_bytes(), &LIMITS).unwrap();
    assert_eq!((new_event.account_id, new_event.occurred_at), (None, None));
    assert!(is_cloud_event(EXAMPLE.as_bytes()) && !is_cloud_event(br#"{"type":"a"}"#));
    assert!(!is_cloud_event(b"[]") && !is_cloud_event(b"1"));
}

#[test]
fn every_violation_is_reported_at_once() {
    let body = r#"{"specversion":"0.3","type":"a b","source":"s p","id":"","subject":7,"time":"now",
        "dataschema":1,"data":1,"data_base64":"*","Ext":1,"a-b":2,"ext":{},"one":1,"one":2,"type":"x"}"#;
    let expected = [
        ("Ext", "unknown"),
        ("a-b", "unknown"),
        ("ext", "type"),
        ("one", "repeated"),
        ("type", "repeated"),
        ("specversion", "format"),
        ("id", "length"),
        ("source", "format"),
        ("subject", "type"),
        ("time", "format"),
        ("dataschema", "type"),
        ("data_base64", "repeated"),
        ("data_base64", "format"),
    ];
    assert_eq!(faults(body), expected.map(|(field, code)| (field.to_owned(), code)));
    let nothing = ["specversion", "id", "source", "type"];
    assert_eq!(faults("{}"), nothing.map(|field| (field.to_owned(), "required")));
    for other in ["[]", "1", "null", "\"a\""] {
        assert_eq!(faults(other), [(String::new(), "type")], "{other}");
    }
    let many: Vec<String> = (0..=ATTRIBUTES_MAX).map(|n| format!("\"a{n}\":1")).collect();
    assert_eq!(faults(&format!("{{{}}}", many.join(","))), [(String::new(), "length")]);
    let long = EXAMPLE.replace("much wow", &"x".repeat(400));
    assert_eq!(faults(&long), [("data".to_owned(), "too_large")]);
    let reserved = EXAMPLE.replace("com.github.pull_request.opened", "hookgate.a");
    assert_eq!(faults(&reserved), [("type".to_owned(), "reserved")]);
    let error = parse_cloud_event(b"{\"id\":", &LIMITS).unwrap_err();
    assert!(matches!(error, NewEventError::Malformed(_)));
}

#[test]
fn source_and_id_name_an_event_however_long_they_are() {
    assert_eq!(dedup_id("/s", "a b"), "/s a b");
    let long = dedup_id("/s", &"x".repeat(300));
    assert_eq!((long.len(), long.starts_with("sha256:")), (71, true));
    assert_ne!(long, dedup_id("/s", &"x".repeat(301)));
    assert!(dedup_id("/s", "a\tb").starts_with("sha256:"));
}

#[test]
fn batch_is_an_array_of_events() {
    let one = r#"{"specversion":"1.0","type":"a","source":"/s","id":"1"}"#;
    let body = format!("[{one}, {EXAMPLE}]");
    let events = parse_cloud_events(body.as_bytes(), &LIMITS).unwrap();
    assert_eq!((&*events[0].payload, &*events[1].payload), (one.as_bytes(), EXAMPLE.as_bytes()));
    let bad = format!("[{one},{{}},3]");
    let found = violations(parse_cloud_events(bad.as_bytes(), &LIMITS).unwrap_err());
    assert_eq!(found[0], (Some(1), "specversion".to_owned(), "required"));
    assert_eq!(found.last().unwrap(), &(Some(2), String::new(), "type"));
    for shapeless in ["{}", "1", one] {
        let found = violations(parse_cloud_events(shapeless.as_bytes(), &LIMITS).unwrap_err());
        assert_eq!((found[0].1.as_str(), found[0].2), ("events", "type"), "{shapeless}");
    }
    for length in ["[]".to_owned(), format!("[{}]", [one; 4].join(","))] {
        let found = violations(parse_cloud_events(length.as_bytes(), &LIMITS).unwrap_err());
        assert_eq!((found[0].1.as_str(), found[0].2), ("events", "length"), "{length}");
    }
    let error = parse_cloud_events(b"[1,", &LIMITS).unwrap_err();
    assert!(matches!(error, NewEventError::Malformed(_)));
}

#[test]
fn headers_and_body_become_one_object() {
    let headers: [Header; 8] = [
        ("content-type", b"application/json; charset=utf-8"),
        ("ce-specversion", b"1.0"),
        ("ce-type", b"com.example.someevent"),
        ("ce-source", b"/mycontext"),
        ("ce-id", b"1234-1234-1234"),
        ("ce-subject", b"Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("ce-ext", b"\"a \\\"b\\\"\""),
        ("host", b"example.com"),
    ];
    let new_event = binary(&headers, b"{ \"n\" : 1.0 }").unwrap();
    let payload = std::str::from_utf8(&new_event.payload).unwrap();
    let expected = "{\"specversion\":\"1.0\",\"type\":\"com.example.someevent\",\"source\":\"/mycontext\",\
        \"id\":\"1234-1234-1234\",\"subject\":\"Euro € 😀\",\"ext\":\"a \\\"b\\\"\",\
        \"datacontenttype\":\"application/json; charset=utf-8\",\"data\":{ \"n\" : 1.0 }}";
    assert_eq!(payload, expected);
    assert_eq!(new_event.account_id.as_deref(), Some("Euro € 😀"));
    assert!(is_cloud_event(&new_event.payload));

    let of = |content_type: Option<Header>, body: &[u8]| {
        let headers: Vec<Header> = headers[1..5].iter().copied().chain(content_type).collect();
        let new_event = binary(&headers, body).unwrap();
        let payload: Value = serde_json::from_slice(&new_event.payload).unwrap();
        (
            payload["datacontenttype"].clone(),
            payload["data"].clone(),
            payload["data_base64"].clone(),
        )
    };
    let text = Some(("content-type", &b"text/plain"[..]));
    assert_eq!(of(text, b"hi"), ("text/plain".into(), Value::Null, "aGk=".into()));
    assert_eq!(of(None, b"{}"), (Value::Null, serde_json::json!({}), Value::Null));
    assert_eq!(of(None, b"\xff"), (Value::Null, Value::Null, "/w==".into()));
    assert_eq!(of(text, b""), ("text/plain".into(), Value::Null, Value::Null));
}

#[test]
fn violations_of_binary_events_name_their_headers() {
    let found = |headers: &[Header], body: &[u8]| -> Vec<(String, &'static str)> {
        let error = binary(headers, body).unwrap_err();
        violations(error).into_iter().map(|(_, field, code)| (field, code)).collect()
    };
    let headers: [Header; 7] = [
        ("ce-specversion", b"1.0"),
        ("ce-specversion", b"1.0"),
        ("ce-type", b"a b"),
        ("ce-source", b"%ff"),
        ("ce-id", b"1"),
        ("ce-datacontenttype", b"a/b"),
        ("ce-a_b", b"1"),
    ];
    let expected = [
        ("ce-source", "format"),
        ("ce-datacontenttype", "unknown"),
        ("data", "too_large"),
        ("ce-specversion", "repeated"),
        ("ce-a_b", "unknown"),
        ("ce-source", "required"),
        ("ce-type", "format"),
    ];
    let expected = expected.map(|(field, code)| (field.to_owned(), code));
    assert_eq!(found(&headers, &[b'"'; 401]), expected);
    let json: [Header; 1] = [("content-type", b"application/json")];
    assert!(matches!(binary(&json, b"{").unwrap_err(), NewEventError::Malformed(_)));
}
