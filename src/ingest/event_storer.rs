//! Stores events, however long the store is unavailable, and sets aside those that it refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::batch_parts::{Endpoints, deliveries, fitting};
use super::metrics::IngestMetrics;
use super::record;
use super::store_span::StoreSpan;
use crate::delivery::AdmissionDoor;
use crate::domain::{Event, LeaseToken, OrgId};
use crate::journal::RecordQuarantine;
use crate::runtime::{Backoff, Clock};
use crate::store::{EventBatch, Persisted, Store, StoreError, plan_deliveries};
use crate::telemetry::{OrgLines, Tracer};

/// The first wait after the store failed; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two attempts.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a batch is tried that the store is reached for and does not take, while it takes others: a damaged page is to
/// cost what it holds, and a table that is missing for everybody nothing.
const PATIENCE: Duration = Duration::from_mins(2);
/// The same for parts of such a batch.
const PART_PATIENCE: Duration = Duration::from_secs(5);

/// Events that are dead letters because of what their tenants put into them.
static REJECTED_EVENTS: OrgLines = OrgLines::new();

/// How many batches were stored. Those with deliveries are counted for themselves: a table that is missing for them is not
/// missed by others.
#[derive(Debug, Default)]
pub(super) struct StoredBatches {
    with_deliveries: AtomicU64,
    without: AtomicU64,
}

impl StoredBatches {
    const fn of(&self, has_deliveries: bool) -> &AtomicU64 {
        if has_deliveries { &self.with_deliveries } else { &self.without }
    }

    /// How many tell that the store takes a batch like this one.
    fn like(&self, has_deliveries: bool) -> u64 {
        self.of(has_deliveries).load(Ordering::Relaxed)
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
    /// Counts the batches that were stored.
    pub(super) stored: StoredBatches,
}

impl EventStorer {
    /// The endpoints that some events are planned for, however long the store is unavailable.
    pub(super) async fn endpoints(&self, events: &[Arc<Event>]) -> Endpoints {
        let orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
        let mut backoff = new_backoff();
        loop {
            match self.door.endpoints(&orgs).await {
                Ok(endpoints) => return endpoints,
                Err(error) => back_off(&mut backoff, &error).await,
            }
        }
    }

    /// Stores every event, however long the store is unavailable, in transactions of bounded size. Splits batches that
    /// it does not take.
    pub(super) async fn store_all(&self, events: &[Arc<Event>], endpoints: &Endpoints) {
        let mut parts = vec![(events, PATIENCE)];
        while let Some((part, patience)) = parts.pop() {
            let deliveries_max = self.store.system().deliveries_at_once();
            let (part, rest) = part.split_at(fitting(part, endpoints, deliveries_max));
            if !rest.is_empty() {
                parts.push((rest, patience));
            }
            let Err(refusal) = self.persist(part, endpoints, patience).await else { continue };
            match part {
                [event] => self.set_aside(event, &refusal).await,
                // The second half first: the stack returns the first half next.
                many => {
                    let (first, second) = many.split_at(many.len() / 2);
                    parts.extend([(second, PART_PATIENCE), (first, PART_PATIENCE)]);
                }
            }
        }
    }

    /// Persists a batch, waiting while the store is unavailable.
    ///
    /// # Errors
    /// When the store refuses the batch, or does not take it for as long as `patience` while it takes others.
    async fn persist(
        &self,
        events: &[Arc<Event>],
        endpoints: &Endpoints,
        patience: Duration,
    ) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let mut backoff = new_backoff();
        let has_deliveries = events.iter().any(|event| deliveries(event, endpoints) > 0);
        let (since, stored_before) = (self.clock.monotonic(), self.stored.like(has_deliveries));
        let mut tried = None;
        loop {
            let error = match self.try_persist(events, endpoints, &mut tried).await {
                Ok(()) => {
                    self.stored.of(has_deliveries).fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error @ (StoreError::Refused(_) | StoreError::Corrupt(_))) => {
                    return Err(error);
                }
                Err(error) => error,
            };
            let waited = self.clock.monotonic().since(since);
            let takes_others = self.stored.like(has_deliveries) > stored_before;
            if !error.is_connection() && takes_others && waited >= patience {
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
        endpoints: &Endpoints,
        tried: &mut Option<LeaseToken>,
    ) -> Result<(), StoreError> {
        let now = self.clock.schedule();
        if let Some(token) = *tried
            && self.store.system().release_lease(token, now).await? > 0
        {
            self.door.wake_scan();
        }
        let mut deliveries = plan_deliveries(events, endpoints);
        let offered = self.door.offer(&mut deliveries, endpoints);
        let lease = offered.lease();
        *tried = Some(lease.token);
        let batch = EventBatch { events, endpoints, deliveries: &deliveries, lease: Some(lease) };
        let span = StoreSpan::begin(&self.tracer, &self.clock, events);
        let persisted = self.store.system().persist_events(batch, now).await;
        if let Some(span) = span {
            self.tracer.record(|| span.ended(events, &persisted));
        }
        let mut persisted = persisted?;
        self.count(&persisted);
        offered.stored(&deliveries, &mut persisted);
        Ok(())
    }

    /// Makes one event that the store refuses a dead letter, however long the store is unavailable. If it refuses the
    /// dead letter, too, the journal's quarantine keeps the event.
    async fn set_aside(&self, event: &Event, refusal: &StoreError) {
        let detail = refusal.to_string();
        let record = match record::encode_event(event) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(event = %event.id, %error, "cannot encode a rejected event");
                Vec::new()
            }
        };
        let batches = || self.stored.like(false) + self.stored.like(true);
        let (since, stored_before) = (self.clock.monotonic(), batches());
        let mut backoff = new_backoff();
        let refused = loop {
            let now = self.clock.now();
            let (org, id) = (event.org_id, event.id);
            match self.store.quarantine_event(org, id, &record, &detail, now).await {
                Ok(()) => break None,
                Err(error @ (StoreError::Refused(_) | StoreError::Corrupt(_))) => {
                    break Some(error);
                }
                Err(error)
                    if !error.is_connection()
                        && batches() > stored_before
                        && self.clock.monotonic().since(since) >= PATIENCE =>
                {
                    break Some(error);
                }
                Err(error) => back_off(&mut backoff, &error).await,
            }
        };
        let (org, event) = (event.org_id, event.id);
        if let Some(error) = refused {
            let quarantined = self.quarantine.bytes(&format!("event-{event}"), &record);
            tracing::error!(
                %org, %event, detail, %error, ?quarantined,
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
    }

    fn count(&self, persisted: &Persisted) {
        let count = |counter: &prometheus::IntCounter, n: usize| counter.inc_by(n as u64);
        count(&self.metrics.events_stored_total, persisted.stored);
        count(&self.metrics.events_duplicate_total, persisted.duplicates);
        count(&self.metrics.deliveries_planned_total, persisted.planned);
    }
}

pub(super) const fn new_backoff() -> Backoff {
    Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX)
}

async fn back_off(backoff: &mut Backoff, error: &StoreError) {
    let wait_ms = backoff.peek().as_millis();
    tracing::warn!(%error, wait_ms, "cannot persist a batch, retrying; it stays in the journal");
    backoff.sleep().await;
}
