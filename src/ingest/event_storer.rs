//! Stores events, however long the store is unavailable, and sets aside those that it refuses.
//!
//! A batch that it does not take although it can be reached is tried in halves until the events at fault are alone. The
//! others are stored, which shows that it takes some. Those at fault keep nobody waiting: they are tried again beside
//! everything else ([`refused_events`](super::refused_events)), and are set aside once the store has refused them for
//! [`PATIENCE`] since it took others that were begun later.
//!
//! The worker that tries the halves stores nothing else, a server may have one worker that reads, and the rest of the batch
//! waits for it. So after [`HALVING_MAX`] the events that are left are tried one by one with those at fault.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::batch_parts::{deliveries, fitting, is_ordered};
use super::metrics::IngestMetrics;
use super::record;
use super::refused_events::{RefusedIds, RefusedSince, TakenBatches};
use super::store_span::StoreSpan;
use crate::delivery::{AdmissionDoor, KnownEndpoints};
use crate::domain::{Event, LeaseToken, OrgId};
use crate::journal::{Record, RecordQuarantine};
use crate::runtime::{Backoff, Clock, Monotonic};
use crate::store::{EventBatch, Persisted, Store, StoreError, plan_deliveries};
use crate::telemetry::{OrgLines, Tracer};

/// The first wait after the store failed; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two attempts.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long an event is tried that the store is reached for and does not take, while it takes others: a damaged page is to
/// cost what it holds, and a table that is missing for everybody nothing. Its dead letter is tried for as long again.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// How often a batch is tried that the store is reached for and does not take, before its halves are, each once.
const TRIES_MAX: u32 = 3;
/// How long a batch is tried, in parts, since the first try that the store was reached for and did not take. One more try
/// may come on top, of at most 30 s on PostgreSQL: where rows are locked, or statements run into their time limit, halving
/// takes that long at each step.
const HALVING_MAX: Duration = Duration::from_secs(10);

/// Events that are dead letters because of what their tenants put into them.
static REJECTED_EVENTS: OrgLines = OrgLines::new();

/// Which batches with new events were stored, by numbers in the order in which they were begun. Those with deliveries are
/// noted for themselves, too: a table that is missing for them is not missed by others.
#[derive(Debug, Default)]
pub(super) struct StoredBatches {
    begun: AtomicU64,
    with_deliveries: AtomicU64,
    all: AtomicU64,
}

impl StoredBatches {
    /// The number of a batch that is begun.
    fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// How many were begun.
    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    fn add(&self, number: u64, has_deliveries: bool) {
        self.all.fetch_max(number, Ordering::Relaxed);
        if has_deliveries {
            self.with_deliveries.fetch_max(number, Ordering::Relaxed);
        }
    }

    fn now(&self) -> TakenBatches {
        let all = self.all.load(Ordering::Relaxed);
        TakenBatches { with_deliveries: self.with_deliveries.load(Ordering::Relaxed), all }
    }
}

/// Stores events and offers their deliveries.
pub(super) struct EventStorer {
    pub(super) store: Store,
    /// The way of the deliveries.
    pub(super) door: AdmissionDoor,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<IngestMetrics>,
    /// For records that cannot be stored.
    pub(super) quarantine: RecordQuarantine,
    /// Records the spans of batches with events of sampled traces.
    pub(super) tracer: Tracer,
    /// Knows which batches were stored.
    pub(super) stored: StoredBatches,
}

impl EventStorer {
    /// The endpoints that some events are planned for, however long the store cannot be reached. Organisations whose
    /// endpoints it does not read although it can be reached are left out: storing reads them again, and so their events alone
    /// are refused.
    pub(super) async fn endpoints(&self, events: &[Arc<Event>]) -> KnownEndpoints {
        let orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
        let mut backoff = new_backoff();
        let mut tries = 0;
        loop {
            let error = match self.door.endpoints(&orgs).await {
                Ok(endpoints) => return endpoints,
                Err(error) => error,
            };
            tries += u32::from(!error.is_connection());
            if tries >= TRIES_MAX {
                return self.door.no_endpoints();
            }
            back_off(&mut backoff, &error).await;
        }
    }

    /// Stores events, however long the store cannot be reached, in transactions of bounded size. Splits batches that it
    /// does not take, and returns the events at fault, with those of the same organisation behind them that have to be
    /// stored in order, and those that were not tried alone within [`HALVING_MAX`].
    pub(super) async fn store_all(
        &self,
        events: &[Arc<Event>],
        endpoints: &KnownEndpoints,
    ) -> RefusedIds {
        let by_org = &endpoints.by_org;
        let mut parts = vec![(events.to_vec(), TRIES_MAX)];
        let mut refused = RefusedInBatch::default();
        let mut pace = new_backoff();
        let mut taken = self.stored.now();
        let mut halving = HalvingTime::default();
        while let Some((mut part, tries_max)) = parts.pop() {
            refused.keep_behind(&mut part, self.stored.begun());
            if halving.is_over(self.clock.monotonic()) {
                for event in &part {
                    refused.add(event, self.stored.begun(), is_ordered(by_org, &event.org_id));
                }
                continue;
            }
            let deliveries_max = self.store.system().deliveries_at_once();
            let rest = part.split_off(fitting(&part, by_org, deliveries_max));
            if !rest.is_empty() {
                parts.push((rest, tries_max));
            }
            let tried = self.persist(&part, endpoints, tries_max, &mut halving).await;
            let Err(error) = tried else { continue };
            if let [event] = &part[..] {
                let is_settled = is_final(&error) && self.set_aside(event, &error, false).await;
                if !is_settled {
                    let is_ordered = is_ordered(by_org, &event.org_id);
                    refused.add(event, self.stored.begun(), is_ordered);
                }
            } else {
                // The second half first: the stack returns the first half next.
                let second = part.split_off(part.len() / 2);
                parts.extend([(second, 1), (part, 1)]);
            }
            if !is_final(&error) {
                // Slowly while nothing is taken.
                if std::mem::replace(&mut taken, self.stored.now()) != taken {
                    pace.reset();
                }
                back_off(&mut pace, &error).await;
            }
        }
        refused.ids
    }

    /// Tries an event again that the store refused. `true` when it is stored, or set aside because the store refuses it for
    /// good, or has for long while it took others.
    pub(super) async fn store_refused(
        &self,
        event: &Arc<Event>,
        refusal: &mut RefusedSince,
    ) -> bool {
        let events = std::slice::from_ref(event);
        let endpoints = self.endpoints(events).await;
        let (taken, at) = (self.stored.now(), self.clock.monotonic());
        let tried = self.persist(events, &endpoints, 1, &mut HalvingTime::default()).await;
        let Err(error) = tried else { return true };
        let has_deliveries = deliveries(event, &endpoints.by_org) > 0;
        let refused_for = refusal.again(has_deliveries, taken, at);
        let patience = if is_final(&error) { Duration::ZERO } else { PATIENCE };
        if !is_final(&error) && refused_for.is_none_or(|refused_for| refused_for < patience) {
            tracing::debug!(event = %event.id, %error, "cannot persist an event, retrying");
            return false;
        }
        let gives_up = refused_for.is_some_and(|refused_for| refused_for >= patience + PATIENCE);
        self.set_aside(event, &error, gives_up).await
    }

    /// Persists a batch, waiting while the store cannot be reached. After a failover its endpoints are read again.
    ///
    /// # Errors
    /// When the store refuses the batch, or is reached and does not take it so many times, or for the time of halving.
    async fn persist(
        &self,
        events: &[Arc<Event>],
        endpoints: &KnownEndpoints,
        tries_max: u32,
        halving: &mut HalvingTime,
    ) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut backoff = new_backoff();
        let (mut count, mut tried) = (0, None);
        let mut endpoints = Cow::Borrowed(endpoints);
        loop {
            if !self.door.are_current(&endpoints) {
                endpoints = Cow::Owned(self.endpoints(events).await);
            }
            let began = self.clock.monotonic();
            let error = match self.try_persist(events, &endpoints, &mut tried).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.is_connection() {
                // Nobody's events are stored.
                *halving = HalvingTime::default();
            } else {
                halving.begin(began);
                count += 1;
            }
            let is_last = count >= tries_max || halving.is_over(self.clock.monotonic());
            if is_final(&error) || is_last {
                return Err(error);
            }
            back_off(&mut backoff, &error).await;
        }
    }

    /// Persists a batch once. `tried` is the token of the try before, whose commit may have been answered by nobody:
    /// what it leased is released.
    async fn try_persist(
        &self,
        events: &[Arc<Event>],
        endpoints: &KnownEndpoints,
        tried: &mut Option<LeaseToken>,
    ) -> Result<(), StoreError> {
        let now = self.clock.schedule();
        if let Some(token) = *tried
            && self.store.system().release_lease(token, now).await? > 0
        {
            self.door.wake_scan();
        }
        let mut deliveries = plan_deliveries(events, &endpoints.by_org);
        let offered = self.door.offer(&mut deliveries, endpoints);
        let (endpoints, lease) = (&endpoints.by_org, Some(offered.lease()));
        *tried = lease.map(|lease| lease.token);
        let batch = EventBatch { events, endpoints, deliveries: &deliveries, lease };
        let span = StoreSpan::begin(&self.tracer, &self.clock, events);
        let number = self.stored.begin();
        let persisted = self.store.system().persist_events(batch, now).await;
        if let Some(span) = span {
            self.tracer.record(|| span.ended(events, &persisted));
        }
        let mut persisted = persisted?;
        if persisted.stored > 0 {
            self.stored.add(number, persisted.planned > 0);
        }
        self.count(&persisted);
        offered.stored(&deliveries, &mut persisted);
        Ok(())
    }

    /// Makes one event that the store refuses a dead letter, however long the store cannot be reached. If it refuses the
    /// dead letter, too, or does not take it and this `gives_up`, the journal's quarantine keeps the event. `false` when it
    /// is to be tried again.
    async fn set_aside(&self, event: &Event, refusal: &StoreError, gives_up: bool) -> bool {
        let detail = refusal.to_string();
        let record = match record::encode_event(event) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(event = %event.id, %error, "cannot encode a rejected event");
                Vec::new()
            }
        };
        let mut backoff = new_backoff();
        let refused = loop {
            let now = self.clock.now();
            let (org, id) = (event.org_id, event.id);
            match self.store.quarantine_event(org, id, &record, &detail, now).await {
                Ok(()) => break None,
                Err(error) if is_final(&error) || gives_up && !error.is_connection() => {
                    break Some(error);
                }
                Err(error) => {
                    back_off(&mut backoff, &error).await;
                    if !error.is_connection() {
                        return false;
                    }
                }
            }
        };
        let (org, event) = (event.org_id, event.id);
        if let Some(error) = refused {
            let quarantined = self.quarantine.bytes(&format!("event-{event}"), &record);
            let Ok(Some(copy)) = &quarantined else {
                // Nobody else has it: the journal does not forget it.
                tracing::error!(
                    %org, %event, detail, %error, ?quarantined,
                    "the store rejected an event and its dead letter, and the journal's quarantine has no room; retrying"
                );
                backoff.sleep().await;
                return false;
            };
            tracing::error!(
                %org, %event, detail, %error, copy = %copy.display(),
                "the store rejected an event and its dead letter; the journal's quarantine keeps it"
            );
        } else {
            tracing::debug!(%org, %event, detail, "the store rejected an event");
            if let Some(unlogged) = REJECTED_EVENTS.due(org) {
                tracing::warn!(
                    %org, %event, detail, unlogged,
                    "the store rejected an event; it is now a dead letter"
                );
            }
        }
        self.metrics.events_unstorable_total.inc();
        true
    }

    /// Quarantines a record that cannot be decoded, however long there is no file descriptor or memory for its copy.
    pub(super) async fn set_record_aside(&self, undecodable: &Record, reason: &str) {
        let mut backoff = new_backoff();
        while let Err(error) = self.quarantine.record(undecodable, reason) {
            let wait_ms = backoff.peek().as_millis();
            tracing::error!(%error, wait_ms, "cannot quarantine a record of the journal, retrying");
            backoff.sleep().await;
        }
        self.metrics.hookgate_records_undecodable_total.inc();
    }

    fn count(&self, persisted: &Persisted) {
        let count = |counter: &prometheus::IntCounter, n: usize| counter.inc_by(n as u64);
        count(&self.metrics.events_stored_total, persisted.stored);
        count(&self.metrics.events_duplicate_total, persisted.duplicates);
        count(&self.metrics.deliveries_planned_total, persisted.planned);
    }
}

/// Since when the store has been reached for parts of a batch and has not taken some.
#[derive(Default)]
struct HalvingTime(Option<Monotonic>);

impl HalvingTime {
    /// A try was refused that began then.
    fn begin(&mut self, at: Monotonic) {
        self.0.get_or_insert(at);
    }

    fn is_over(&self, now: Monotonic) -> bool {
        self.0.is_some_and(|since| now.since(since) >= HALVING_MAX)
    }
}

/// What the store has refused of a batch.
#[derive(Default)]
struct RefusedInBatch {
    ids: RefusedIds,
    /// Organisations of which nothing more is stored, since it would be out of order.
    in_order: HashSet<OrgId>,
}

impl RefusedInBatch {
    fn add(&mut self, event: &Event, begun: u64, is_ordered: bool) {
        self.ids.insert(event.id, begun);
        if is_ordered {
            self.in_order.insert(event.org_id);
        }
    }

    /// Removes what is behind something that was refused.
    fn keep_behind(&mut self, part: &mut Vec<Arc<Event>>, begun: u64) {
        if self.in_order.is_empty() {
            return;
        }
        part.retain(|event| {
            let is_behind = self.in_order.contains(&event.org_id);
            if is_behind {
                self.ids.insert(event.id, begun);
            }
            !is_behind
        });
    }
}

/// Whether the store refuses this content for good, or cannot read what it needs.
pub(super) const fn is_final(error: &StoreError) -> bool {
    matches!(error, StoreError::Refused(_) | StoreError::Corrupt(_))
}

pub(super) const fn new_backoff() -> Backoff {
    Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX)
}

async fn back_off(backoff: &mut Backoff, error: &StoreError) {
    let wait_ms = backoff.peek().as_millis();
    tracing::warn!(%error, wait_ms, "cannot persist a batch, retrying; it stays in the journal");
    backoff.sleep().await;
}
