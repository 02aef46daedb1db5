//! Whatever comes from outside is parsed or refused, and what is accepted is what it says.
//!
//! Bytes are made to look like the real thing: pieces of it, in any order, cut and joined anywhere.
//! The record of the journal and its frames, which are not public, have theirs beside them.

use hookgate::auth::PresentedKey;
use hookgate::config::{DestinationConfig, Networks, Origins};
use hookgate::delivery::SsrfGuard;
use hookgate::domain::{
    ApiKeyId, Cursor, EventType, NewEvent, NewEventError, NewEventLimits, Timestamp, TraceId,
    parse_batch, parse_event, parse_lines, parse_raw, without_bom,
};
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

use crate::support::forged_key;

const LIMITS: NewEventLimits = NewEventLimits { payload_bytes_max: 200, batch_events_max: 5 };

/// Pieces of events, of JSON and of what is nearly both.
const PIECES: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b" ",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"1e400",
    b"-0",
    b"null",
    b"true",
    br#""type""#,
    br#""payload""#,
    br#""dedup_id""#,
    br#""timestamp""#,
    br#""events""#,
    br#""type":"a.b","#,
    br#""payload":{"a":[1,2]}"#,
    br#"{"type":"a.b","payload":1}"#,
    br#"{"type":"a","payload":"\u00e9","user_id":"u","timestamp":"2026-01-31T12:00:00Z"}"#,
];

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => proptest::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A JSON value of a few levels.
fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// That a new event keeps the rules it was checked for, and is found again in an event made of it.
fn assert_sound(new_event: &NewEvent<'_>, payload_bytes_max: usize) {
    assert!(new_event.event_type.parse::<EventType>().is_ok(), "{new_event:?}");
    assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&new_event.payload).is_ok());
    assert!(new_event.payload.len() <= payload_bytes_max, "{new_event:?}");
    let text = |name: &str, value: Option<String>| {
        value.map_or(String::new(), |value| format!(",\"{name}\":{}", Value::from(value)))
    };
    let label = |label: &Option<std::borrow::Cow<'_, str>>| label.as_deref().map(str::to_owned);
    let event = format!(
        r#"{{"type":"{}","payload":{}{}{}{}{}}}"#,
        new_event.event_type,
        String::from_utf8_lossy(&new_event.payload),
        text("dedup_id", label(&new_event.dedup_id)),
        text("account_id", label(&new_event.account_id)),
        text("user_id", label(&new_event.user_id)),
        text("timestamp", new_event.occurred_at.map(|moment| moment.to_string())),
    );
    let limits = NewEventLimits { payload_bytes_max, ..LIMITS };
    let again = parse_event(event.as_bytes(), &limits).unwrap();
    // A raw body keeps the white space around it, which an envelope's value has not.
    assert_eq!(*again.payload, *new_event.payload.trim_ascii(), "{event}");
    let rest = |new_event: &NewEvent<'_>| {
        let NewEvent { event_type, dedup_id, account_id, user_id, occurred_at, .. } = new_event;
        format!("{event_type:?} {dedup_id:?} {account_id:?} {user_id:?} {occurred_at:?}")
    };
    assert_eq!(rest(&again), rest(new_event), "{event}");
}

fn assert_refusal(error: &NewEventError) {
    match error {
        NewEventError::Malformed(text) => assert!(!text.is_empty()),
        NewEventError::Invalid(violations) => assert!(!violations.is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn events_and_batches_are_parsed_or_refused(body in pieces()) {
        match parse_event(&body, &LIMITS) {
            Ok(new_event) => assert_sound(&new_event, LIMITS.payload_bytes_max),
            Err(error) => assert_refusal(&error),
        }
        for parse in [parse_batch, parse_lines] {
            match parse(&body, &LIMITS) {
                Ok(drafts) => {
                    prop_assert!((1..=LIMITS.batch_events_max).contains(&drafts.len()));
                    for new_event in &drafts { assert_sound(new_event, LIMITS.payload_bytes_max); }
                }
                Err(error) => assert_refusal(&error),
            }
        }
    }

    #[test]
    fn list_and_lines_of_the_same_events_are_the_same_batch(
        payloads in proptest::collection::vec(json(), 1..4)
    ) {
        let event = |payload: &Value| format!(r#"{{"type":"a","payload":{payload}}}"#);
        let events: Vec<String> = payloads.iter().map(event).collect();
        let limits = NewEventLimits { payload_bytes_max: 10_000, ..LIMITS };
        let list = format!("[{}]", events.join(","));
        let list = parse_batch(list.as_bytes(), &limits).unwrap();
        let lines = events.join("\n");
        let lines = parse_lines(lines.as_bytes(), &limits).unwrap();
        prop_assert_eq!(format!("{list:?}"), format!("{lines:?}"));
        for (new_event, payload) in list.iter().zip(&payloads) {
            let payload = payload.to_string();
            prop_assert_eq!(&*new_event.payload, payload.as_bytes());
        }
    }

    #[test]
    fn any_body_is_a_raw_event_and_can_be_had_back(
        body in prop_oneof![pieces(), proptest::collection::vec(any::<u8>(), 0..64)],
        media_type in prop_oneof![Just("application/json"), Just("text/plain"), Just("")],
    ) {
        let headers = [("content-type", media_type.as_bytes())];
        let new_event = parse_raw(headers, &body).unwrap();
        assert_sound(&new_event, usize::MAX);
        let value: Value = serde_json::from_slice(&new_event.payload).unwrap_or_default();
        if *new_event.payload != *without_bom(&body) {
            use base64::Engine;
            let text = value["base64"].as_str().unwrap();
            prop_assert_eq!(base64::engine::general_purpose::STANDARD.decode(text).unwrap(), body);
        }
    }

    #[test]
    fn raw_headers_are_taken_or_refused(
        name in proptest::sample::select(vec![
            "x-event-type", "x-dedup-id", "x-account-id", "x-user-id", "x-event-timestamp",
        ]),
        value in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        match parse_raw([(name, value.as_slice())], b"x") {
            Ok(new_event) => assert_sound(&new_event, usize::MAX),
            Err(error) => assert_refusal(&error),
        }
    }

    #[test]
    fn key_is_itself_or_none(seed in any::<u16>(), id in any::<u128>(), place in 0..84_usize, c in any::<char>()) {
        let key = forged_key(ApiKeyId::from_uuid(Uuid::from_u128(id)), seed);
        let parsed: PresentedKey = key.parse().unwrap();
        prop_assert_eq!(parsed.reveal(), &key);
        prop_assert_eq!(parsed.id().uuid().as_u128(), id);
        let mut changed: Vec<char> = key.chars().collect();
        changed[place] = c;
        let changed: String = changed.into_iter().collect();
        prop_assert_eq!(changed.parse::<PresentedKey>().is_ok(), changed == key);
    }

    #[test]
    fn texts_are_keys_ids_times_and_networks_or_none(text in "\\PC{0,100}") {
        prop_assert!(text.parse::<PresentedKey>().is_err());
        let _ = (text.parse::<Cursor>(), TraceId::from_traceparent(&text), text.parse::<ApiKeyId>());
        let _ = (text.parse::<Networks>(), text.parse::<Origins>());
        if let Ok(moment) = text.parse::<Timestamp>() {
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
        }
    }

    #[test]
    fn moment_that_is_read_can_be_written(
        year in prop_oneof![Just(0), Just(9999), 0..=9999_u16],
        (month, day) in prop_oneof![Just((1, 1)), Just((12, 31)), (1..=12_u8, 1..=31_u8)],
        time in prop_oneof![Just((0, 0, 0)), Just((23, 59, 60)), (0..=24_u8, 0..=60_u8, 0..=60_u8)],
        fraction in "(\\.[0-9]{1,9})?",
        offset in prop_oneof![Just("Z".to_owned()), "[+-][0-2][0-9]:[0-5][0-9]"],
    ) {
        let (hour, minute, second) = time;
        let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}");
        if let Ok(moment) = text.parse::<Timestamp>() {
            prop_assert_eq!(moment.to_string().parse::<Timestamp>().unwrap(), moment);
            prop_assert_eq!(serde_json::to_value(moment).unwrap(), moment.to_string());
        }
    }

    #[test]
    fn endpoints_url_is_one_that_may_be_called_however_it_is_written(
        scheme in prop_oneof![
            proptest::sample::select(vec!["https://", "http://", "HTTPS:\\\\", "file:///"])
                .prop_map(str::to_owned),
            "[a-z]{1,5}:/{0,3}",
        ],
        user in prop_oneof![4 => Just(String::new()), 1 => "[a-z]{1,4}(:[a-z]{0,4})?@"],
        host in prop_oneof![
            Just("example.com".to_owned()),
            any::<u32>().prop_map(|bits| bits.to_string()),
            any::<u32>().prop_map(|bits| format!("0x{bits:x}")),
            any::<[u8; 4]>().prop_map(|b| format!("{}.{}.{}.{}", b[0], b[1], b[2], b[3])),
            any::<[u8; 4]>().prop_map(|b| format!("0{:o}.{}.{}", b[0], b[1], u16::from(b[2]))),
            any::<u128>().prop_map(|bits| format!("[{}]", std::net::Ipv6Addr::from_bits(bits))),
            any::<[u8; 4]>().prop_map(|b| format!("[::ffff:{}.{}.{}.{}]", b[0], b[1], b[2], b[3])),
            proptest::sample::select(vec!["localhost", "127.1", "[::1]", "169.254.169.254", "①②⑦.0.0.1"])
                .prop_map(str::to_owned),
            "\\PC{0,20}",
        ],
        rest in "(:[0-9]{0,6})?(/\\PC{0,20})?",
    ) {
        let guard = SsrfGuard::new(&DestinationConfig::default());
        let text = format!("{scheme}{user}{host}{rest}");
        if let Ok(url) = guard.parse_url(&text) {
            prop_assert_eq!(url.scheme(), "https");
            prop_assert!(url.username().is_empty() && url.password().is_none(), "{}", url);
            let forbidden = match url.host().unwrap() {
                url::Host::Domain(name) => name == "localhost" || name.ends_with(".localhost"),
                url::Host::Ipv4(address) => is_inside(address),
                url::Host::Ipv6(address) => {
                    address.is_loopback()
                        || address.is_unspecified()
                        || address.is_unique_local()
                        || address.is_unicast_link_local()
                        || address.to_ipv4_mapped().is_some_and(is_inside)
                }
            };
            prop_assert!(!forbidden, "{} leads inside", url);
            prop_assert_eq!(guard.parse_url(url.as_str()).unwrap(), url);
        }
    }
}

fn is_inside(address: std::net::Ipv4Addr) -> bool {
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
}
