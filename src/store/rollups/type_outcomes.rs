//! The outcomes of an account in an hour by event type, minute by minute: which type fails, and for whom.
//!
//! They are two nullable columns of the rows that have the events of the hour, see [`event_hour`](super::event_hour): what is
//! counted by type and account is read, aged and erased together. The first has the totals of the hour, the second the
//! minutes, of which a window reads those of the hours at its edges.
//!
//! **Invariant:** types have the same places in both parts.

use std::collections::BTreeMap;
use std::ops::Range;

use super::delivery_hour::{DeliveryCounts, DeliveryHour};
use super::delta::{OutcomeRecord, corrupt};
use super::event_hour::{OTHER_TYPES, TYPES_COUNTED_MAX};
use crate::store::Result;

/// How the deliveries of an account's events ended in an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TypeOutcomes(BTreeMap<String, DeliveryHour>);

/// Counts of outcomes by type, summed up over hours.
pub(super) type OutcomesByType = BTreeMap<String, DeliveryCounts>;

impl TypeOutcomes {
    /// Whether it counts nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Counts an outcome of an event of a type.
    pub(super) fn count(&mut self, minute: u8, event_type: &str, record: &OutcomeRecord) {
        self.type_of(event_type).count_result(minute, record);
    }

    /// Adds the counts of another one.
    pub(super) fn merge(&mut self, other: &Self) {
        for (name, hour) in &other.0 {
            self.type_of(name).merge(hour);
        }
    }

    /// The two parts of its row; `None` when it counts nothing.
    pub(super) fn encode(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        if self.is_empty() {
            return Ok(None);
        }
        let totals: Vec<_> = self.0.iter().map(|(name, hour)| (name, &hour.total)).collect();
        let minutes: Vec<_> = self.0.values().map(|hour| &hour.minutes).collect();
        let encode = postcard::to_stdvec(&totals).and_then(|totals| {
            let minutes = postcard::to_stdvec(&minutes)?;
            Ok(Some((totals, minutes)))
        });
        encode.map_err(|error| corrupt(&error))
    }

    /// Reads the two parts of a row.
    pub(super) fn decode(totals: &[u8], minutes: &[u8]) -> Result<Self> {
        let types = decode_totals(totals)?.into_iter().zip(decode_minutes(minutes)?);
        let hour = |((name, total), minutes): ((&str, _), _)| {
            (name.to_owned(), DeliveryHour { total, minutes })
        };
        Ok(Self(types.map(hour).collect()))
    }

    /// The counts of a type, or of [`OTHER_TYPES`] where there are too many.
    fn type_of(&mut self, name: &str) -> &mut DeliveryHour {
        let is_full = self.0.len() >= TYPES_COUNTED_MAX && !self.0.contains_key(name);
        self.0.entry(if is_full { OTHER_TYPES } else { name }.to_owned()).or_default()
    }
}

/// The totals of an hour by type.
pub(super) fn decode_totals(totals: &[u8]) -> Result<Vec<(&str, DeliveryCounts)>> {
    postcard::from_bytes(totals).map_err(|error| corrupt(&error))
}

/// Calls `each` with the minutes of an hour, type by type.
pub(super) fn read_outcome_minutes(
    totals: &[u8],
    minutes: &[u8],
    mut each: impl FnMut(&str, u8, &DeliveryCounts),
) -> Result<()> {
    let types = decode_totals(totals)?.into_iter().zip(decode_minutes(minutes)?);
    for ((name, _), minutes) in types {
        for (minute, counts) in &minutes {
            each(name, *minute, counts);
        }
    }
    Ok(())
}

/// Adds an hour to the counts by type: all of it, or some of its minutes.
pub(super) fn add_outcomes(
    to: &mut OutcomesByType,
    totals: &[u8],
    minutes: &[u8],
    part: Option<&Range<u8>>,
) -> Result<()> {
    let mut add = |name: &str, counts: &DeliveryCounts| {
        to.entry(name.to_owned()).or_default().merge(counts);
    };
    let Some(part) = part else {
        decode_totals(totals)?.iter().for_each(|(name, counts)| add(name, counts));
        return Ok(());
    };
    read_outcome_minutes(totals, minutes, |name, minute, counts| {
        if part.contains(&minute) {
            add(name, counts);
        }
    })
}

fn decode_minutes(minutes: &[u8]) -> Result<Vec<BTreeMap<u8, DeliveryCounts>>> {
    postcard::from_bytes(minutes).map_err(|error| corrupt(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rollups::delta::Ended;

    fn counts(ended: Ended, times: u32) -> (DeliveryCounts, OutcomeRecord) {
        let record = OutcomeRecord::of_test(ended);
        let mut counts = DeliveryCounts::default();
        (0..times).for_each(|_| counts.count_result(&record));
        (counts, record)
    }

    #[test]
    fn row_survives_a_round_trip_and_adds_up() {
        let ((twice, taken), (once, dead)) = (counts(Ended::Delivered, 2), counts(Ended::Dead, 1));
        let mut hour = TypeOutcomes::default();
        assert_eq!(hour.encode().unwrap(), None);
        hour.count(0, "a", &taken);
        hour.count(59, "a", &taken);
        hour.count(7, "b", &dead);
        let (totals, minutes) = hour.encode().unwrap().unwrap();
        assert_eq!(TypeOutcomes::decode(&totals, &minutes).unwrap(), hour);
        let mut found = OutcomesByType::new();
        add_outcomes(&mut found, &totals, &[], None).unwrap();
        let whole = [("a".to_owned(), twice), ("b".to_owned(), once.clone())];
        assert_eq!(found, BTreeMap::from(whole));
        let mut part = OutcomesByType::new();
        add_outcomes(&mut part, &totals, &minutes, Some(&(1..60))).unwrap();
        assert_eq!((part["a"].delivered, &part["b"]), (1, &once));
        hour.merge(&TypeOutcomes::decode(&totals, &minutes).unwrap());
        assert_eq!(hour.0["a"].total.delivered, 4);
    }

    #[test]
    fn types_beyond_the_limit_are_other() {
        let (_, record) = counts(Ended::Dead, 0);
        let mut hour = TypeOutcomes::default();
        for number in 0..TYPES_COUNTED_MAX + 5 {
            hour.count(1, &format!("t{number}"), &record);
        }
        hour.count(1, "t0", &record);
        assert_eq!(hour.0[OTHER_TYPES].total.dead, 5);
        assert_eq!(hour.0["t0"].total.dead, 2);
    }
}
