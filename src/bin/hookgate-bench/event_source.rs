//! The events that a load posts.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use crate::args::RunArgs;

/// Accounts and users of the events with labels: so many that their indexes are used as in a store of many
/// customers, where few events in a row have the same one.
const ACCOUNTS: u64 = 1_000;
const USERS: u64 = 20_000;
/// Shares no factor with either number, so that consecutive events have distant labels, and all are used.
const LABEL_STEP: u64 = 7_919;

/// The type of an event, where none is asked for.
const EVENT_TYPE: &str = "bench.event";

/// Makes events that have the payload and the optional fields of the arguments.
#[derive(Debug)]
pub(crate) struct EventSource {
    payload_bytes: usize,
    /// The start of every `dedup_id`, different in each run; `None` for events without.
    dedup_prefix: Option<String>,
    has_labels: bool,
    made: AtomicU64,
}

impl EventSource {
    /// A source of events that no other source makes.
    pub(crate) fn new(args: &RunArgs) -> Self {
        Self {
            payload_bytes: args.payload_bytes as usize,
            dedup_prefix: args.fields.dedup_ids.then(|| Uuid::new_v4().simple().to_string()),
            has_labels: args.fields.labels,
            made: AtomicU64::new(0),
        }
    }

    /// The same, whose events have every optional field.
    pub(crate) fn distinct(args: &RunArgs) -> Self {
        let dedup_prefix = Some(Uuid::new_v4().simple().to_string());
        Self { dedup_prefix, has_labels: true, ..Self::new(args) }
    }

    /// Whether any two events are the same.
    pub(crate) const fn is_constant(&self) -> bool {
        self.dedup_prefix.is_none() && !self.has_labels
    }

    /// The next event, as JSON.
    pub(crate) fn next(&self) -> String {
        self.next_of(EVENT_TYPE, "")
    }

    /// The next event of a type, with a payload that starts with `mark`.
    pub(crate) fn next_of(&self, event_type: &str, mark: &str) -> String {
        let payload = payload(self.payload_bytes, mark);
        let mut event = format!(r#"{{"type":"{event_type}","payload":{payload}"#);
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        if let Some(prefix) = &self.dedup_prefix {
            // Writing to a string does not fail.
            let _ = write!(event, r#","dedup_id":"{prefix}-{number}""#);
        }
        if self.has_labels {
            let label = number.wrapping_mul(LABEL_STEP);
            let (account, user) = (label % ACCOUNTS, label % USERS);
            let _ = write!(event, r#","account_id":"account-{account}","user_id":"user-{user}""#);
        }
        event.push('}');
        event
    }

    /// The next `events` events, as a JSON array.
    pub(crate) fn next_batch(&self, events: u32) -> String {
        let events: Vec<_> = (0..events).map(|_| self.next()).collect();
        format!("[{}]", events.join(","))
    }
}

/// A JSON string of `payload_bytes`, quotes included, starting with `mark`.
pub(crate) fn payload(payload_bytes: usize, mark: &str) -> String {
    format!("\"{mark}{}\"", "x".repeat(payload_bytes.saturating_sub(2 + mark.len())))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn source(dedup_prefix: Option<&str>, has_labels: bool) -> EventSource {
        let (dedup_prefix, made) = (dedup_prefix.map(str::to_owned), AtomicU64::new(0));
        EventSource { payload_bytes: 20, dedup_prefix, has_labels, made }
    }

    #[test]
    fn plain_events_are_the_same_and_have_nothing_optional() {
        let source = source(None, false);
        assert!(source.is_constant());
        assert_eq!(source.next(), r#"{"type":"bench.event","payload":"xxxxxxxxxxxxxxxxxx"}"#);
        assert_eq!(source.next_of("a.b", "1"), source.next_of("a.b", "1"));
    }

    #[test]
    fn every_event_of_a_batch_has_its_own_dedup_id_and_labels() {
        let source = source(Some("run"), true);
        assert!(!source.is_constant());
        let events: Vec<Value> = serde_json::from_str(&source.next_batch(500)).unwrap();
        let values = |field: &str| events.iter().map(|event| event[field].to_string()).collect();
        for (field, least) in [("dedup_id", 500), ("account_id", 500), ("user_id", 500)] {
            let distinct: HashSet<String> = values(field);
            assert_eq!(distinct.len(), least, "{field}");
        }
        assert_eq!(events[0]["payload"].as_str().unwrap().len(), 18);
    }
}
