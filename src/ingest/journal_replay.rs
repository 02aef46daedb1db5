//! Stores again what a journal has and the store may lack: after a failover to a standby that was behind, or beside an
//! older backup.
//!
//! Events are stored once by their id and their dedup key, as by the workers, so what the store has is passed over.
//! Deliveries are planned for the events that it lacked, for the endpoints of now.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::batch_parts::fitting;
use super::event_storer::is_final;
use super::record;
use crate::domain::{Event, EventId, OrgId, Timestamp};
use crate::journal::{JournalRecords, Record};
use crate::runtime::Clock;
use crate::store::{EventBatch, Store, StoreError, plan_deliveries};

/// Records that are stored at once.
const RECORDS_PER_STEP: usize = 200;
/// Bytes of them, beyond the first one.
const BYTES_PER_STEP: usize = 4 * 1024 * 1024;

/// Stores the events of records.
#[derive(Debug)]
pub struct JournalReplay {
    store: Store,
    clock: Clock,
    /// Of the records below `waiting_from`, only events accepted at or after this time.
    since: Option<Timestamp>,
    /// The position of the first record that waits to be stored.
    waiting_from: u64,
    /// Whether only to count.
    dry_run: bool,
    /// Whether an event whose statement fails becomes a dead letter like one that is refused.
    sets_aside: bool,
    /// Ids of events with a `dedup_id` that were counted as missing: copies of them are not stored.
    counted: HashSet<EventId>,
}

/// The counts of a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplayCounts {
    /// Events that were looked at.
    pub events: u64,
    /// Of these, events that waited to be stored, as far as the journal knows.
    pub waiting: u64,
    /// Of all, events that the store lacked. They are stored now, unless only counted.
    pub missing: u64,
    /// Deliveries that were planned for them.
    pub deliveries: u64,
    /// Events of organisations that the store does not have and never had, passed over.
    pub of_unknown_orgs: u64,
    /// Events that the store refused; they are dead letters.
    pub refused: u64,
    /// Records that this version cannot decode, passed over.
    pub undecodable: u64,
    /// Of these, records that waited to be stored.
    pub undecodable_waiting: u64,
}

/// The next records of a range of positions, up to what is stored at once; none at its end. Blocks.
///
/// # Errors
/// When they cannot be read.
pub fn next_records(records: &mut JournalRecords, within: Range<u64>) -> io::Result<Vec<Record>> {
    let (mut step, mut bytes) = (Vec::new(), 0);
    while step.len() < RECORDS_PER_STEP && bytes < BYTES_PER_STEP {
        let Some(record) = records.next_record()? else { break };
        if record.seq.get() >= within.end {
            break;
        }
        if record.seq.get() >= within.start {
            bytes += record.payload.len();
            step.push(record);
        }
    }
    Ok(step)
}

impl JournalReplay {
    /// A replay of events accepted from `since` on, if given, and of every record from position `waiting_from` on.
    pub fn new(
        store: Store,
        clock: Clock,
        since: Option<Timestamp>,
        waiting_from: u64,
        dry_run: bool,
    ) -> Self {
        let (sets_aside, counted) = (false, HashSet::new());
        Self { store, clock, since, waiting_from, dry_run, sets_aside, counted }
    }

    /// Sets whether an event whose statement fails while the store is there, as by a damaged page, becomes a dead letter
    /// like one that is refused. Default: it does not.
    pub(super) const fn set_failing_aside(&mut self, sets_aside: bool) {
        self.sets_aside = sets_aside;
    }

    /// Whether it only counts.
    pub const fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Stores the events of some records. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the store is unavailable.
    pub async fn store(
        &mut self,
        records: &[Record],
        counts: &mut ReplayCounts,
    ) -> Result<(), StoreError> {
        let mut events = Vec::new();
        for journaled in records {
            let waits = journaled.seq.get() >= self.waiting_from;
            match record::decode(&journaled.payload) {
                Ok(decoded) if waits => {
                    counts.waiting += decoded.len() as u64;
                    events.extend(decoded);
                }
                Ok(decoded) => {
                    let since = self.since.unwrap_or(Timestamp::from_micros(0));
                    events.extend(decoded.into_iter().filter(|event| event.received_at >= since));
                }
                Err(error) => {
                    tracing::warn!(seq = journaled.seq.get(), %error, "cannot decode a record, passing it over");
                    counts.undecodable += 1;
                    counts.undecodable_waiting += u64::from(waits);
                }
            }
        }
        counts.events += events.len() as u64;
        self.keep_known_orgs(&mut events, counts).await?;
        if self.dry_run {
            counts.missing += self.count_missing(&events).await?;
            return Ok(());
        }
        // A replay may take long, and streams begin meanwhile.
        self.store.system().load_followed(self.clock.now()).await?;
        self.store_events(&events, counts).await
    }

    /// How many events would be stored: those that are not there, were not erased, and are no copies.
    async fn count_missing(&mut self, events: &[Arc<Event>]) -> Result<u64, StoreError> {
        let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
        let found = self.store.system().stored_events(&ids).await?;
        let erased = self.store.system().erased_events(events).await?;
        let mut missing = 0;
        for event in events {
            let is_stored = found.contains(&event.id);
            let is_erased = erased.contains(&(event.id, event.received_at));
            let is_first = |counted: &mut HashSet<EventId>| {
                event.dedup_id.is_none() || counted.insert(event.id)
            };
            if !is_stored && !is_erased && is_first(&mut self.counted) {
                missing += 1;
            }
        }
        Ok(missing)
    }

    /// Leaves out events of organisations that the store does not have. Of a deleted one the store keeps a row, and
    /// drops the events itself.
    async fn keep_known_orgs(
        &self,
        events: &mut Vec<Arc<Event>>,
        counts: &mut ReplayCounts,
    ) -> Result<(), StoreError> {
        let orgs: HashSet<OrgId> = events.iter().map(|event| event.org_id).collect();
        let mut known = HashSet::new();
        for org in orgs {
            if self.store.org(org).await?.is_some() {
                known.insert(org);
            }
        }
        let before = events.len();
        events.retain(|event| known.contains(&event.org_id));
        counts.of_unknown_orgs += (before - events.len()) as u64;
        Ok(())
    }

    async fn store_events(
        &self,
        events: &[Arc<Event>],
        counts: &mut ReplayCounts,
    ) -> Result<(), StoreError> {
        let orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
        let endpoints = self.store.system().org_endpoints(&orgs).await?;
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            let deliveries_max = self.store.system().deliveries_at_once();
            let (part, rest) = part.split_at(fitting(part, &endpoints, deliveries_max));
            if !rest.is_empty() {
                parts.push(rest);
            }
            let deliveries = plan_deliveries(part, &endpoints);
            let batch = EventBatch {
                events: part,
                endpoints: &endpoints,
                deliveries: &deliveries,
                lease: None,
            };
            match self.store.system().persist_events(batch, self.clock.now()).await {
                Ok(persisted) => {
                    counts.missing += persisted.stored as u64;
                    counts.deliveries += persisted.planned as u64;
                }
                Err(refusal) if self.blames_events(&refusal) => match part {
                    [event] => self.quarantine(event, &refusal, counts).await?,
                    many => {
                        let (first, second) = many.split_at(many.len() / 2);
                        parts.extend([second, first]);
                    }
                },
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn blames_events(&self, error: &StoreError) -> bool {
        is_final(error) || self.sets_aside && !error.is_connection() && !error.is_away()
    }

    async fn quarantine(
        &self,
        event: &Event,
        refusal: &StoreError,
        counts: &mut ReplayCounts,
    ) -> Result<(), StoreError> {
        let record = record::encode_event(event).unwrap_or_default();
        let (org, id, detail) = (event.org_id, event.id, refusal.to_string());
        self.store.quarantine_event(org, id, &record, &detail, self.clock.now()).await?;
        counts.refused += 1;
        Ok(())
    }
}
