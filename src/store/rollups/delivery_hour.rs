//! The outcomes of an endpoint, or of an event type, in an hour, in all and minute by minute.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::delta::{Ended, OutcomeRecord, corrupt};
use super::histogram::LatencyHistogram;
use crate::domain::{HOUR_MINUTES, minute_of};
use crate::store::Result;

/// Counts of outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryCounts {
    /// Deliveries that the receiver took.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub dead: u64,
    /// Attempts that failed, those of deliveries that are given up included.
    pub failed_attempts: u64,
    /// From the creation of a delivery, which is when its event was accepted, until it was delivered.
    pub latency: LatencyHistogram,
    /// From the start of an attempt to the end of the response.
    pub duration: LatencyHistogram,
}

/// The outcomes of an endpoint, or of an event type, in an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DeliveryHour {
    pub(super) total: DeliveryCounts,
    pub(super) minutes: BTreeMap<u8, DeliveryCounts>,
}

impl OutcomeRecord {
    /// The hour in which it counts, since 1970, and its minute in there.
    pub(super) fn hour_and_minute(&self) -> (i64, u8) {
        let minute = minute_of(self.at());
        let in_hour = minute.rem_euclid(HOUR_MINUTES);
        (minute.div_euclid(HOUR_MINUTES), u8::try_from(in_hour).unwrap_or(0))
    }
}

impl DeliveryCounts {
    pub(super) fn count(&mut self, record: &OutcomeRecord) {
        self.count_result(record);
        record.duration_ms.into_iter().for_each(|ms| self.duration.observe(u64::from(ms)));
    }

    /// Counts an outcome without the time of its attempt, which nobody asks for by type: it would be a third of a row.
    pub(super) fn count_result(&mut self, record: &OutcomeRecord) {
        match record.ended {
            Ended::Delivered => self.delivered += 1,
            Ended::Dead => self.dead += 1,
            Ended::NotYet => {}
        }
        if record.ended != Ended::Delivered && record.duration_ms.is_some() {
            self.failed_attempts += 1;
        }
        record.latency_ms.into_iter().for_each(|ms| self.latency.observe(ms));
    }

    pub(super) fn merge(&mut self, other: &Self) {
        let Self { delivered, dead, failed_attempts, latency, duration } = other;
        self.delivered += delivered;
        self.dead += dead;
        self.failed_attempts += failed_attempts;
        self.latency.merge(latency);
        self.duration.merge(duration);
    }

    /// Adds the totals of an hour.
    pub(super) fn add_hour(&mut self, totals: &[u8]) -> Result<()> {
        let read: Self = postcard::from_bytes(totals).map_err(|error| corrupt(&error))?;
        self.merge(&read);
        Ok(())
    }

    /// Adds some minutes of an hour.
    pub(super) fn add_minutes(&mut self, minutes: &[u8], part: &Range<u8>) -> Result<()> {
        for (_, counts) in read_minutes(minutes)?.range(part.clone()) {
            self.merge(counts);
        }
        Ok(())
    }
}

impl DeliveryHour {
    /// Counts an outcome.
    pub(super) fn count(&mut self, minute: u8, record: &OutcomeRecord) {
        self.total.count(record);
        self.minutes.entry(minute).or_default().count(record);
    }

    /// Counts an outcome without the time of its attempt.
    pub(super) fn count_result(&mut self, minute: u8, record: &OutcomeRecord) {
        self.total.count_result(record);
        self.minutes.entry(minute).or_default().count_result(record);
    }

    /// Adds the counts of another one.
    pub(super) fn merge(&mut self, other: &Self) {
        self.total.merge(&other.total);
        for (minute, counts) in &other.minutes {
            self.minutes.entry(*minute).or_default().merge(counts);
        }
    }

    /// The two parts of its row: the totals, and the minutes.
    pub(super) fn encode(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let totals = postcard::to_stdvec(&self.total).map_err(|error| corrupt(&error))?;
        let minutes = postcard::to_stdvec(&self.minutes).map_err(|error| corrupt(&error))?;
        Ok((totals, minutes))
    }

    /// Reads the two parts of a row.
    pub(super) fn decode(totals: &[u8], minutes: &[u8]) -> Result<Self> {
        let total = postcard::from_bytes(totals).map_err(|error| corrupt(&error))?;
        Ok(Self { total, minutes: read_minutes(minutes)? })
    }
}

/// The minutes of a row.
pub(super) fn read_minutes(minutes: &[u8]) -> Result<BTreeMap<u8, DeliveryCounts>> {
    postcard::from_bytes(minutes).map_err(|error| corrupt(&error))
}
