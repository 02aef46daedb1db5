//! Deltas: what a transaction has added to the counts, as records in postcard's format, one after the other.
//!
//! A record is self-contained, so that a database can put those of the rows that it has really written behind one
//! another, and leave out the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::labels::{OutcomeLabels, push_labels, read_labels};
use crate::domain::{
    Decision, DeliveryId, EndpointId, Event, EventLabels, OrgId, Outcome, Timestamp,
};
use crate::store::engine::{Row, Tx, args};
use crate::store::{Result, StoreError};

/// Events that claim to be from further in the future count by when they were accepted.
const AHEAD_MAX: Duration = Duration::from_hours(24);

/// Something that is counted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum DeltaRecord<'a> {
    /// An event that was stored.
    #[serde(borrow)]
    Event(EventRecord<'a>),
    /// An outcome that counted.
    Outcome(OutcomeRecord),
}

/// A stored event.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EventRecord<'a> {
    /// The time by which it counts, in microseconds.
    at: i64,
    /// When it was accepted, in microseconds after that time.
    accepted_after: i64,
    pub(super) bytes: u64,
    pub(super) event_type: &'a str,
    pub(super) account_id: Option<&'a str>,
    pub(super) user_id: Option<&'a str>,
}

/// The outcome of an attempt, or a delivery that is given up without one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OutcomeRecord {
    at: i64,
    endpoint: [u8; 16],
    pub(super) ended: Ended,
    /// From the creation of a delivery until it was delivered.
    pub(super) latency_ms: Option<u64>,
    /// Of the attempt, if there was one.
    pub(super) duration_ms: Option<u32>,
}

/// An event that is stored, and counted.
#[derive(Clone, Debug)]
pub(in crate::store) struct CountedEvent {
    pub(in crate::store) account_id: Option<String>,
    pub(in crate::store) received_at: Timestamp,
    event_type: String,
    user_id: Option<String>,
    occurred_at: Option<Timestamp>,
    bytes: u64,
}

/// What became of a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::store) enum Ended {
    Delivered,
    Dead,
    /// It waits for its next attempt.
    NotYet,
}

impl CountedEvent {
    /// The columns that [`Self::read`] reads.
    pub(in crate::store) const COLUMNS: &str =
        "account_id, received_at, event_type, user_id, occurred_at,
         CAST(length(payload) AS bigint) AS bytes";

    /// Reads [`Self::COLUMNS`].
    pub(in crate::store) fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            account_id: row.get_opt("account_id")?,
            received_at: row.get("received_at")?,
            event_type: row.get("event_type")?,
            user_id: row.get_opt("user_id")?,
            occurred_at: row.get_opt("occurred_at")?,
            bytes: row.get("bytes")?,
        })
    }

    /// The record by which it was counted.
    pub(super) fn record(&self, kept: Option<Duration>) -> EventRecord<'_> {
        let at = counted_at(self.occurred_at, self.received_at, kept).micros();
        EventRecord {
            at,
            accepted_after: self.received_at.micros().saturating_sub(at),
            bytes: self.bytes,
            event_type: &self.event_type,
            account_id: self.account_id.as_deref(),
            user_id: self.user_id.as_deref(),
        }
    }
}

impl EventRecord<'_> {
    /// The time by which it counts.
    pub(super) const fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.at)
    }

    /// When it was accepted.
    pub(super) const fn accepted_at(&self) -> Timestamp {
        Timestamp::from_micros(self.at.saturating_add(self.accepted_after))
    }
}

impl OutcomeRecord {
    /// When it was decided.
    pub(super) const fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.at)
    }

    /// An outcome of this kind, a second after 1970.
    #[cfg(test)]
    pub(super) const fn of_test(ended: Ended) -> Self {
        let duration_ms = Some(1);
        Self { at: 1_000_000, endpoint: [1; 16], ended, latency_ms: None, duration_ms }
    }

    /// The endpoint.
    pub(super) const fn endpoint(&self) -> EndpointId {
        EndpointId::from_uuid(Uuid::from_bytes(self.endpoint))
    }
}

/// The time by which an event counts: its own, unless that is older than events are kept, or far ahead.
fn counted_at(
    occurred_at: Option<Timestamp>,
    received_at: Timestamp,
    kept: Option<Duration>,
) -> Timestamp {
    let is_plausible = |at: &Timestamp| {
        let is_kept = kept.is_none_or(|kept| *at >= received_at.minus(kept));
        is_kept && *at <= received_at.plus(AHEAD_MAX)
    };
    occurred_at.filter(is_plausible).unwrap_or(received_at)
}

/// Appends the record of an event.
fn push_event(to: Vec<u8>, event: &Event, kept: Option<Duration>) -> Result<Vec<u8>> {
    let at = counted_at(event.occurred_at, event.received_at, kept).micros();
    let record = DeltaRecord::Event(EventRecord {
        at,
        accepted_after: event.received_at.micros().saturating_sub(at),
        bytes: event.payload.len() as u64,
        event_type: event.event_type.as_str(),
        account_id: event.account_id.as_deref(),
        user_id: event.user_id.as_deref(),
    });
    postcard::to_extend(&record, to).map_err(|error| corrupt(&error))
}

/// The record of an event.
pub(in crate::store) fn of_event(event: &Event, kept: Option<Duration>) -> Result<Vec<u8>> {
    push_event(Vec::new(), event, kept)
}

/// The deltas of events, one per organisation.
pub(in crate::store) fn of_events<'a>(
    events: impl IntoIterator<Item = &'a Event>,
    kept: Option<Duration>,
) -> Result<Vec<(OrgId, Vec<u8>)>> {
    let mut bodies = BTreeMap::<OrgId, Vec<u8>>::new();
    for event in events {
        let body = bodies.entry(event.org_id).or_default();
        *body = push_event(std::mem::take(body), event, kept)?;
    }
    Ok(bodies.into_iter().collect())
}

/// The deltas of events that are shared.
pub(in crate::store) fn of_shared(
    events: &[Arc<Event>],
    kept: Option<Duration>,
) -> Result<Vec<(OrgId, Vec<u8>)>> {
    of_events(events.iter().map(Arc::as_ref), kept)
}

/// An outcome as a delta has it.
#[derive(Default)]
pub(in crate::store) struct CountedOutcome {
    /// Its record; empty where nothing is counted.
    pub(in crate::store) record: Vec<u8>,
    /// Its type and account; empty where nothing is counted.
    pub(in crate::store) labels: Vec<u8>,
}

/// What an outcome adds to the counts.
pub(in crate::store) fn of_outcome(outcome: &Outcome) -> Result<CountedOutcome> {
    let ended = match outcome.decision {
        Decision::Delivered => Ended::Delivered,
        Decision::Dead(_) => Ended::Dead,
        Decision::RetryAt(_) if outcome.attempt.is_none() => return Ok(CountedOutcome::default()),
        Decision::RetryAt(_) => Ended::NotYet,
    };
    let latency_ms =
        (ended == Ended::Delivered).then(|| latency_ms(outcome.delivery_id, outcome.decided_at));
    let record = DeltaRecord::Outcome(OutcomeRecord {
        at: outcome.decided_at.micros(),
        endpoint: outcome.endpoint_id.uuid().into_bytes(),
        ended,
        latency_ms,
        duration_ms: outcome.attempt.as_ref().map(|attempt| attempt.duration_ms),
    });
    let record = postcard::to_stdvec(&record).map_err(|error| corrupt(&error))?;
    let labels = push_labels(Vec::new(), outcome.labels.as_ref());
    Ok(CountedOutcome { record, labels: labels.map_err(|error| corrupt(&error))? })
}

/// The delta of deliveries of an organisation that end without an attempt of their own: consumers of inboxes have
/// settled them, or they have expired.
#[derive(Default)]
pub(in crate::store) struct EndedDelta {
    body: Vec<u8>,
    labels: Vec<u8>,
}

impl EndedDelta {
    /// Adds a delivery.
    pub(in crate::store) fn push(
        &mut self,
        endpoint: EndpointId,
        (delivery, ended): (DeliveryId, Ended),
        labels: Option<&EventLabels>,
        at: Timestamp,
    ) -> Result<()> {
        let record = DeltaRecord::Outcome(OutcomeRecord {
            at: at.micros(),
            endpoint: endpoint.uuid().into_bytes(),
            ended,
            latency_ms: (ended == Ended::Delivered).then(|| latency_ms(delivery, at)),
            duration_ms: None,
        });
        self.body = postcard::to_extend(&record, std::mem::take(&mut self.body))
            .map_err(|error| corrupt(&error))?;
        self.labels = push_labels(std::mem::take(&mut self.labels), labels)
            .map_err(|error| corrupt(&error))?;
        Ok(())
    }

    /// Appends it to the deltas of an organisation, in the transaction that ends the deliveries.
    pub(in crate::store) async fn append(&self, tx: &mut Tx<'_>, org: OrgId) -> Result<()> {
        let sql = "INSERT INTO rollup_deltas (org_id, body, labels) VALUES ($1, $2, $3)";
        tx.execute(sql, args![org, self.body.as_slice(), self.labels.as_slice()]).await?;
        Ok(())
    }
}

fn latency_ms(delivery: DeliveryId, at: Timestamp) -> u64 {
    u64::try_from(at.since(delivery.created_at()).as_millis()).unwrap_or(u64::MAX)
}

/// Bytes as hexadecimal digits.
pub(in crate::store) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |number: u8| char::from(DIGITS[usize::from(number)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Calls `each` with every record of a delta.
pub(super) fn read_records<'a>(
    mut body: &'a [u8],
    mut each: impl FnMut(DeltaRecord<'a>),
) -> Result<()> {
    while !body.is_empty() {
        let (record, rest) = postcard::take_from_bytes(body).map_err(|error| corrupt(&error))?;
        body = rest;
        each(record);
    }
    Ok(())
}

/// Calls `each` with every record of a delta and, where it is an outcome, its type and account, if they are known.
pub(super) fn read_labelled<'a>(
    body: &'a [u8],
    labels: Option<&'a [u8]>,
    mut each: impl FnMut(DeltaRecord<'a>, Option<OutcomeLabels<'a>>),
) -> Result<()> {
    let labels = read_labels(labels.unwrap_or_default()).map_err(|error| corrupt(&error))?;
    let mut labels = labels.into_iter();
    read_records(body, |record| {
        let of_outcome = match &record {
            DeltaRecord::Outcome(_) => labels.next().flatten(),
            DeltaRecord::Event(_) => None,
        };
        each(record, of_outcome);
    })
}

/// The error of a rollup that this program never wrote.
pub(super) fn corrupt(error: &postcard::Error) -> StoreError {
    StoreError::Corrupt(format!("a rollup: {error}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::{EventId, TraceId};

    fn event(occurred_at: Option<i64>) -> Event {
        let received_at = Timestamp::from_micros(1_000_000_000_000_000);
        Event {
            id: EventId::mint(received_at),
            org_id: OrgId::mint(received_at),
            event_type: "a.b".parse().unwrap(),
            payload: Bytes::from_static(b"{}"),
            dedup_id: None,
            account_id: Some("acc".to_owned()),
            user_id: None,
            occurred_at: occurred_at.map(Timestamp::from_micros),
            received_at,
            trace_id: TraceId::mint(),
            accept_span: None,
        }
    }

    #[test]
    fn events_count_by_their_own_time_unless_it_is_implausible() {
        let day = 86_400_000_000;
        let accepted = 1_000_000_000_000_000;
        let counted = |at: Option<i64>, kept_days: Option<u64>| {
            let kept = kept_days.map(|days| Duration::from_hours(24 * days));
            let event = event(at);
            counted_at(event.occurred_at, event.received_at, kept).micros()
        };
        assert_eq!(counted(None, None), accepted);
        assert_eq!(counted(Some(accepted - 5), None), accepted - 5);
        assert_eq!(counted(Some(0), None), 0);
        assert_eq!(counted(Some(accepted - 2 * day), Some(2)), accepted - 2 * day);
        assert_eq!(counted(Some(accepted - 2 * day - 1), Some(2)), accepted);
        assert_eq!(counted(Some(accepted + day), None), accepted + day);
        assert_eq!(counted(Some(accepted + day + 1), None), accepted);
    }

    #[test]
    fn records_follow_one_another() {
        let (one, other) = (event(None), event(Some(7)));
        let mut body = of_event(&one, None).unwrap();
        body.extend(of_event(&other, None).unwrap());
        let mut times = Vec::new();
        read_records(&body, |record| {
            let DeltaRecord::Event(record) = record else { panic!("{record:?}") };
            assert_eq!((record.event_type, record.account_id), ("a.b", Some("acc")));
            times.push((record.at().micros(), record.accepted_at()));
        })
        .unwrap();
        let accepted = one.received_at;
        assert_eq!(times, [(accepted.micros(), accepted), (7, accepted)]);
        assert!(read_records(&body[1..], |_| {}).is_err());
        assert_eq!(hex(&[0, 0x9f, 255]), "009fff");
        let by_org = of_events([&one, &one, &other], None).unwrap();
        assert_eq!(by_org.len(), 2);
    }
}
