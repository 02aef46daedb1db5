//! The event type and account of an outcome: how a delta has them, and where they are looked up for deliveries that end
//! without an attempt.
//!
//! They are in a column of their own, since a server of an earlier version reads the records beside them as they are: one
//! entry per outcome, in the order of the outcomes.

use std::collections::HashMap;

use uuid::Uuid;

use crate::domain::{EventId, EventLabels, Timestamp};
use crate::store::Result;
use crate::store::engine::{Args, Dialect, Row, args};

/// By what an outcome is counted beside its endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct OutcomeLabels<'a> {
    pub(super) event_type: &'a str,
    pub(super) account_id: Option<&'a str>,
}

/// The labels of events, by their keys.
pub(in crate::store) type LabelsByEvent = HashMap<(EventId, Timestamp), EventLabels>;

/// Appends the entry of an outcome; an empty one where its event is not known.
pub(super) fn push_labels(to: Vec<u8>, labels: Option<&EventLabels>) -> postcard::Result<Vec<u8>> {
    let entry = labels.map(|labels| (labels.event_type.as_str(), labels.account_id.as_deref()));
    postcard::to_extend(&entry, to)
}

/// The entries of a delta.
pub(super) fn read_labels(mut entries: &[u8]) -> postcard::Result<Vec<Option<OutcomeLabels<'_>>>> {
    let mut labels = Vec::new();
    while !entries.is_empty() {
        let (entry, rest): (Option<(&str, Option<&str>)>, _) = postcard::take_from_bytes(entries)?;
        entries = rest;
        labels.push(entry.map(|(event_type, account_id)| OutcomeLabels { event_type, account_id }));
    }
    Ok(labels)
}

/// The statement that reads the labels of events, with its parameters; `None` without events. It goes by the primary
/// key; the times leave the partitions of other days out.
pub(in crate::store) fn labels_statement(
    dialect: Dialect,
    events: impl Iterator<Item = (EventId, Timestamp)>,
) -> Option<(String, Args<'static>)> {
    let (mut ids, times): (Vec<Uuid>, Vec<_>) = events.map(|(id, at)| (id.uuid(), at)).unzip();
    let (oldest, newest) = (times.iter().min().copied()?, times.iter().max().copied()?);
    ids.sort_unstable();
    ids.dedup();
    let of = |table: &str| {
        let is_one = dialect.any("id", "$1");
        format!(
            "SELECT id, received_at, event_type, account_id FROM {table}
             WHERE {is_one} AND received_at BETWEEN $2 AND $3"
        )
    };
    let sql = match dialect {
        Dialect::Sqlite => of("events"),
        // Those of days that were dropped are held apart.
        Dialect::Postgres => format!("{} UNION ALL {}", of("events"), of("held_events")),
    };
    Some((sql, args![ids, oldest, newest]))
}

/// Reads a row of [`labels_statement`].
pub(in crate::store) fn read_labels_row(row: &Row) -> Result<((EventId, Timestamp), EventLabels)> {
    let key = (row.get("id")?, row.get("received_at")?);
    let (event_type, account_id) = (row.parse("event_type")?, row.get_opt("account_id")?);
    Ok((key, EventLabels { event_type, account_id }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_one_another_also_empty_ones() {
        let labels = |account: Option<&str>| EventLabels {
            event_type: "a.b".parse().unwrap(),
            account_id: account.map(str::to_owned),
        };
        let mut entries = Vec::new();
        for labels in [Some(labels(Some("acc"))), None, Some(labels(None))] {
            entries = push_labels(entries, labels.as_ref()).unwrap();
        }
        let read = |account_id| Some(OutcomeLabels { event_type: "a.b", account_id });
        assert_eq!(read_labels(&entries).unwrap(), [read(Some("acc")), None, read(None)]);
        assert!(read_labels(&[]).unwrap().is_empty());
        assert!(read_labels(&entries[..3]).is_err());
    }
}
