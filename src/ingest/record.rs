//! The journal's record: the events of one request, as bytes.
//!
//! One request is one record, so that its events are accepted as a whole or not at all, even across a crash. They are
//! accepted one microsecond apart, so that their timestamps define their order.
//!
//! The first byte is the format version. The rest is postcard, whose wire format is stable since 1.0: the header that
//! the events share, what is known of their trace beside its id, then the events.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record_trace::TraceFields;
use crate::domain::{Event, EventId, EventType, NewEvent, OrgId, SpanId, Timestamp, TraceId};

const VERSION: u8 = 3;
/// Nothing of the trace but its id.
const VERSION_TRACE_ID_ONLY: u8 = 2;
/// And all events of a record have the same timestamp.
const VERSION_ONE_TIMESTAMP: u8 = 1;

/// The fields that the events of a record share; `received_at` is the timestamp of the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordHeader {
    pub(super) org_id: OrgId,
    pub(super) received_at: Timestamp,
    pub(super) trace_id: TraceId,
    /// The span of the request; `None` unless its trace is sampled.
    pub(super) accept_span: Option<SpanId>,
}

/// Why a record cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A newer version of the program wrote it.
    #[error("record format {0} is not known to this version")]
    Version(u8),
    /// Its bytes are malformed.
    #[error("record cannot be decoded: {0}")]
    Malformed(#[from] postcard::Error),
    /// It has an invalid event type.
    #[error("record has an invalid event type")]
    EventType,
    /// It is empty.
    #[error("record is empty")]
    Empty,
}

#[derive(Serialize, Deserialize)]
struct Head {
    org_id: [u8; 16],
    received_at: i64,
    trace_id: [u8; 16],
}

/// The part of a record before its events.
struct Shared<'a> {
    head: Head,
    trace: TraceFields<'a>,
    /// Microseconds between the timestamps of two events.
    apart_us: i64,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    id: [u8; 16],
    event_type: &'a str,
    dedup_id: Option<&'a str>,
    account_id: Option<&'a str>,
    user_id: Option<&'a str>,
    occurred_at: Option<i64>,
    #[serde(with = "serde_bytes")]
    payload: &'a [u8],
}

/// The size of the pieces in which the journal reads. A record is a slice of such a piece, or a piece of its own
/// if it is longer.
const PIECE_BYTES: usize = 256 * 1024;

/// Most bytes that an event takes besides its strings and its payload.
const ENTRY_BYTES: usize = 64;

/// Encodes the events of one request as a record.
pub(super) fn encode(
    header: &RecordHeader,
    drafts: &[NewEvent<'_>],
    ids: &[EventId],
) -> Result<Vec<u8>, RecordError> {
    let payloads: usize =
        drafts.iter().map(|new_event| new_event.payload.len() + ENTRY_BYTES).sum();
    let mut record = Vec::with_capacity(2 * ENTRY_BYTES + payloads);
    record.push(VERSION);
    let head = Head {
        org_id: header.org_id.uuid().into_bytes(),
        received_at: header.received_at.micros(),
        trace_id: *header.trace_id.bytes(),
    };
    record = postcard::to_extend(&head, record)?;
    record = postcard::to_extend(&TraceFields::of(&header.trace_id, header.accept_span), record)?;
    for (new_event, id) in drafts.iter().zip(ids) {
        let entry = Entry {
            id: id.uuid().into_bytes(),
            event_type: &new_event.event_type,
            dedup_id: new_event.dedup_id.as_deref(),
            account_id: new_event.account_id.as_deref(),
            user_id: new_event.user_id.as_deref(),
            occurred_at: new_event.occurred_at.map(Timestamp::micros),
            payload: &new_event.payload,
        };
        record = postcard::to_extend(&entry, record)?;
    }
    Ok(record)
}

/// Encodes one event as a record of its own, for a dead letter.
pub(super) fn encode_event(event: &Event) -> Result<Vec<u8>, RecordError> {
    let new_event = NewEvent {
        event_type: event.event_type.as_str().into(),
        payload: Cow::Borrowed(&event.payload),
        dedup_id: event.dedup_id.as_deref().map(Into::into),
        account_id: event.account_id.as_deref().map(Into::into),
        user_id: event.user_id.as_deref().map(Into::into),
        occurred_at: event.occurred_at,
    };
    let shared = RecordHeader {
        org_id: event.org_id,
        received_at: event.received_at,
        trace_id: event.trace_id.clone(),
        accept_span: event.accept_span,
    };
    encode(&shared, &[new_event], &[event.id])
}

/// Whose record it is; `None` if this version cannot decode it.
pub fn record_owner(record: &[u8]) -> Option<OrgId> {
    match record.split_first()? {
        // Postcard writes the bytes of the organisation's id first, as they are.
        (&(VERSION | VERSION_TRACE_ID_ONLY | VERSION_ONE_TIMESTAMP), rest) => {
            rest.first_chunk().map(|id| OrgId::from_uuid(Uuid::from_bytes(*id)))
        }
        _ => None,
    }
}

/// The timestamp of the first event of a record.
pub(super) fn received_at(record: &[u8]) -> Result<Timestamp, RecordError> {
    let (shared, _) = shared(record)?;
    Ok(Timestamp::from_micros(shared.head.received_at))
}

/// Decodes a record's events.
///
/// A payload that is much smaller than its record is a copy: a slice would keep the whole record in memory for as
/// long as one of its deliveries waits. A payload that is most of it is a slice.
pub(super) fn decode(record: &Bytes) -> Result<Vec<Arc<Event>>, RecordError> {
    let (Shared { mut head, trace, apart_us }, mut rest) = shared(record)?;
    let trace_id = TraceId::from_parts(head.trace_id, trace.text);
    let traced = (&trace_id, trace.accept_span());
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (entry, tail): (Entry<'_>, &[u8]) = postcard::take_from_bytes(rest)?;
        events.push(Arc::new(event(&head, traced, &entry, record)?));
        head.received_at = head.received_at.saturating_add(apart_us);
        rest = tail;
    }
    Ok(events)
}

/// The part before the events, and the bytes of the events.
fn shared(record: &[u8]) -> Result<(Shared<'_>, &[u8]), RecordError> {
    let (version, rest) = record.split_first().ok_or(RecordError::Empty)?;
    let (has_trace, apart_us) = match *version {
        VERSION => (true, 1),
        VERSION_TRACE_ID_ONLY => (false, 1),
        VERSION_ONE_TIMESTAMP => (false, 0),
        newer => return Err(RecordError::Version(newer)),
    };
    let (head, rest) = postcard::take_from_bytes(rest)?;
    let (trace, rest) =
        if has_trace { postcard::take_from_bytes(rest)? } else { (TraceFields::default(), rest) };
    Ok((Shared { head, trace, apart_us }, rest))
}

fn event(
    head: &Head,
    (trace_id, accept_span): (&TraceId, Option<SpanId>),
    entry: &Entry<'_>,
    record: &Bytes,
) -> Result<Event, RecordError> {
    let event_type: EventType = entry.event_type.parse().map_err(|_| RecordError::EventType)?;
    Ok(Event {
        id: EventId::from_uuid(Uuid::from_bytes(entry.id)),
        org_id: OrgId::from_uuid(Uuid::from_bytes(head.org_id)),
        event_type,
        payload: payload(entry.payload, record),
        dedup_id: entry.dedup_id.map(str::to_owned),
        account_id: entry.account_id.map(str::to_owned),
        user_id: entry.user_id.map(str::to_owned),
        occurred_at: entry.occurred_at.map(Timestamp::from_micros),
        received_at: Timestamp::from_micros(head.received_at),
        trace_id: trace_id.clone(),
        accept_span,
    })
}

/// A payload that keeps at most twice its size in memory.
fn payload(payload: &[u8], record: &Bytes) -> Bytes {
    if payload.len() < record.len().max(PIECE_BYTES) / 2 {
        Bytes::copy_from_slice(payload)
    } else {
        record.slice_ref(payload)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn shared() -> RecordHeader {
        RecordHeader {
            org_id: OrgId::mint(Timestamp::from_micros(1)),
            received_at: Timestamp::from_micros(1_700_000_000_000_001),
            trace_id: TraceId::mint(),
            accept_span: None,
        }
    }

    fn new_event(payload: &str) -> NewEvent<'_> {
        NewEvent {
            event_type: "user.login".into(),
            payload: Cow::Borrowed(payload.as_bytes()),
            dedup_id: Some("d".into()),
            account_id: None,
            user_id: Some("ü".into()),
            occurred_at: Some(Timestamp::from_micros(-5)),
        }
    }

    #[test]
    fn record_round_trips() {
        let shared = shared();
        let ids: Vec<EventId> = (0..2).map(|_| EventId::mint(shared.received_at)).collect();
        let drafts = [new_event("1e400"), new_event(r#""\u0000""#)];
        let record = Bytes::from(encode(&shared, &drafts, &ids).unwrap());
        let events = decode(&record).unwrap();
        assert_eq!(record_owner(&record), Some(shared.org_id));
        assert_eq!(events.len(), 2);
        for (index, event) in events.iter().enumerate() {
            assert_eq!(event.id, ids[index]);
            assert_eq!(event.payload, *drafts[index].payload);
            assert_eq!(event.user_id.as_deref(), Some("ü"));
            assert_eq!(event.account_id, None);
            assert_eq!(event.occurred_at, Some(Timestamp::from_micros(-5)));
            let received_at = shared.received_at.plus(Duration::from_micros(index as u64));
            assert_eq!((event.org_id, event.received_at), (shared.org_id, received_at));
        }
        let again = Bytes::from(encode_event(&events[0]).unwrap());
        assert_eq!(decode(&again).unwrap(), events[..1]);
    }

    #[test]
    fn truncated_records_are_errors() {
        let shared = shared();
        let id = EventId::mint(shared.received_at);
        let record = Bytes::from(encode(&shared, &[new_event("[1,2]")], &[id]).unwrap());
        let head_only = encode(&shared, &[], &[]).unwrap().len();
        for length in (0..record.len()).filter(|length| *length != head_only) {
            assert!(decode(&record.slice(..length)).is_err(), "{length}");
        }
    }

    #[test]
    fn no_payload_keeps_a_much_larger_record_in_memory() {
        let (text, half) = ("x".repeat(PIECE_BYTES), "x".repeat(PIECE_BYTES / 2));
        for payloads in
            [vec!["1"], vec!["1", &text], vec![&half], vec![&text; 3], vec![&text, &half]]
        {
            let shared = shared();
            let drafts: Vec<_> = payloads.iter().map(|payload| new_event(payload)).collect();
            let ids: Vec<_> = drafts.iter().map(|_| EventId::mint(shared.received_at)).collect();
            let record = Bytes::from(encode(&shared, &drafts, &ids).unwrap());
            for event in decode(&record).unwrap() {
                let is_slice = record.as_ptr_range().contains(&event.payload.as_ptr());
                let is_most = 2 * event.payload.len() >= record.len().max(PIECE_BYTES);
                assert_eq!(is_slice, is_most, "{} of {}", event.payload.len(), record.len());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn arbitrary_bytes_decode_or_fail_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            versioned in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if versioned && let Some(version) = bytes.first_mut() {
                *version = VERSION;
            }
            if let Ok(events) = decode(&Bytes::from(bytes)) {
                for event in events {
                    let again = Bytes::from(encode_event(&event).unwrap());
                    prop_assert_eq!(&decode(&again).unwrap()[0], &event);
                }
            }
        }

        #[test]
        fn damaged_record_does_not_panic(
            place in any::<prop::sample::Index>(),
            with in any::<u8>(),
        ) {
            let shared = shared();
            let ids = [EventId::mint(shared.received_at), EventId::mint(shared.received_at)];
            let mut record = encode(&shared, &[new_event("[1]"), new_event("2")], &ids).unwrap();
            let place = place.index(record.len());
            record[place] = with;
            // The journal's checksums prevent this, but it must not panic either.
            let _ = decode(&Bytes::from(record));
        }
    }

    /// A record with two events as this earlier version wrote it.
    fn earlier_record(version: u8, shared: &RecordHeader) -> Bytes {
        let ids = [EventId::mint(shared.received_at), EventId::mint(shared.received_at)];
        let mut record = encode(shared, &[new_event("1"), new_event("2")], &ids).unwrap();
        record[0] = version;
        // None, none and none of the trace, behind the organisation, the time and the trace id.
        let head = Head {
            org_id: shared.org_id.uuid().into_bytes(),
            received_at: shared.received_at.micros(),
            trace_id: *shared.trace_id.bytes(),
        };
        let trace_at = 1 + postcard::to_extend(&head, Vec::new()).unwrap().len();
        assert_eq!(record.drain(trace_at..trace_at + 3).collect::<Vec<_>>(), [0, 0, 0]);
        record.into()
    }

    #[test]
    fn records_of_earlier_versions_decode() {
        let shared = shared();
        for (version, apart) in [(VERSION_ONE_TIMESTAMP, 0), (VERSION_TRACE_ID_ONLY, 1)] {
            let record = earlier_record(version, &shared);
            assert_eq!(record_owner(&record), Some(shared.org_id));
            let events = decode(&record).unwrap();
            let second = shared.received_at.plus(Duration::from_micros(apart));
            assert_eq!(
                (events[0].received_at, events[1].received_at),
                (shared.received_at, second)
            );
            assert!(events.iter().all(|event| event.trace_id == shared.trace_id));
        }
    }

    #[test]
    fn callers_own_trace_id_is_kept() {
        let trace_id = TraceId::from_header("demo-123", None).unwrap();
        let shared = RecordHeader { trace_id: trace_id.clone(), ..shared() };
        let id = EventId::mint(shared.received_at);
        let record = Bytes::from(encode(&shared, &[new_event("1")], &[id]).unwrap());
        let events = decode(&record).unwrap();
        assert_eq!(events[0].trace_id, trace_id);
        let again = Bytes::from(encode_event(&events[0]).unwrap());
        assert_eq!(decode(&again).unwrap(), events);
    }

    #[test]
    fn span_of_a_sampled_request_is_kept_and_no_other_costs_a_byte() {
        let (plain, id) = (shared(), EventId::mint(Timestamp::from_micros(1)));
        let sampled = RecordHeader { accept_span: Some(SpanId::mint()), ..plain.clone() };
        let encoded = |header| Bytes::from(encode(header, &[new_event("1")], &[id]).unwrap());
        let (short, long) = (encoded(&plain), encoded(&sampled));
        // The span, and whether it is sampled.
        assert_eq!(long.len(), short.len() + 8 + 1);
        assert_eq!(decode(&short).unwrap()[0].accept_span, None);
        let events = decode(&long).unwrap();
        assert_eq!(events[0].accept_span, sampled.accept_span);
        let again = Bytes::from(encode_event(&events[0]).unwrap());
        assert_eq!(decode(&again).unwrap(), events);
    }

    #[test]
    fn newer_format_is_an_error_with_its_version() {
        assert!(matches!(decode(&Bytes::from_static(&[9, 0])), Err(RecordError::Version(9))));
    }
}
