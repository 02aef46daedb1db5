//! The worker pool: moves events from the journal to the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::IngestConfig;
use crate::delivery::AdmissionDoor;
use crate::domain::{Event, LeaseToken, OrgId, Timestamp};
use crate::journal::{Ack, Batch, JournalReader, Record, RecordQuarantine};
use crate::runtime::{Backoff, Clock, CpuLoad, Heartbeat, Lifecycle, Shutdown, Stopwatch};
use crate::store::{EventBatch, Persisted, Store, StoreError, plan_deliveries};

use super::batch_pacer::{BatchPacer, LastBatch};
use super::batch_parts::{Endpoints, deliveries, fitting};
use super::metrics::IngestMetrics;
use super::org_order::{BatchPlace, OrgOrder};
use super::priority;
use super::record;

/// Bytes of records that a worker holds, beyond its first record.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches on the fast path at which the next batch is not read yet: events that arrive meanwhile are stored
/// together, instead of by every worker separately.
const FAST_BATCHES_MAX: usize = 2;
/// The longest wait for a permit of the fast path. The batches that hold the permits may be stuck for a reason that
/// does not concern the next one.
const FAST_PERMIT_WAIT: Duration = Duration::from_millis(20);
/// The first wait after the store failed; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two attempts.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long a batch is tried that the store is reached for and does not take, while it takes others.
const PATIENCE: Duration = Duration::from_mins(2);
/// The same for parts of such a batch.
const PART_PATIENCE: Duration = Duration::from_secs(5);

/// The state that the workers share.
pub struct Workers {
    source: tokio::sync::Mutex<Source>,
    /// Beats whenever a batch was stored.
    heartbeat: Heartbeat,
    store: Store,
    fast_permits: Semaphore,
    /// The way of the deliveries.
    door: AdmissionDoor,
    clock: Clock,
    metrics: Arc<IngestMetrics>,
    batch_events_max: u32,
    /// For records that cannot be stored.
    quarantine: RecordQuarantine,
    /// Counts the batches that were stored.
    stored: AtomicU64,
}

/// The source of batches. One worker at a time holds it.
struct Source {
    journal: JournalReader,
    order: OrgOrder,
    pacer: BatchPacer,
    /// Whether the last batch left durable records behind.
    has_more: bool,
}

/// Events of records that were read together.
struct EventBatchRead<'a> {
    events: Vec<Arc<Event>>,
    ack: Ack,
    /// Its place among the batches that are being stored.
    place: BatchPlace,
    /// Released once the events on the fast path are stored. `None` during a backlog, or when none was free in time.
    fast_permit: Option<SemaphorePermit<'a>>,
}

impl Workers {
    /// Workers that move records from `reader` to `store`, and yield to the threads of `answering`.
    pub fn new(
        config: &IngestConfig,
        reader: JournalReader,
        answering: CpuLoad,
        store: Store,
        door: AdmissionDoor,
        clock: Clock,
        metrics: Arc<IngestMetrics>,
    ) -> Self {
        let pacer = BatchPacer::new(answering, clock.clone());
        let quarantine = reader.quarantine();
        Self {
            source: tokio::sync::Mutex::new(Source {
                journal: reader,
                order: OrgOrder::default(),
                pacer,
                has_more: false,
            }),
            heartbeat: Heartbeat::new(clock.clone()),
            store,
            fast_permits: Semaphore::new(FAST_BATCHES_MAX),
            door,
            clock,
            metrics,
            batch_events_max: config.store_batch_events,
            quarantine,
            stored: AtomicU64::new(0),
        }
    }

    /// Beats whenever a batch was stored.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Starts `count` workers. At the soft stop they store what they have read, and read no more.
    pub fn start(self, count: usize, lifecycle: &Lifecycle) {
        let workers = Arc::new(self);
        for _ in 0..count {
            let workers = Arc::clone(&workers);
            let shutdown = lifecycle.shutdown();
            lifecycle.spawn("ingest worker", async move {
                workers.run(&shutdown).await;
                // A poisoned journal ends before the process is asked to stop.
                shutdown.requested().await;
            });
        }
    }

    async fn run(&self, shutdown: &Shutdown) {
        loop {
            let batch = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                batch = self.next_batch() => batch,
            };
            let Some(batch) = batch else { return };
            let ack = self.store_in_order(batch).await;
            self.heartbeat.beat();
            ack.ack();
        }
    }

    /// Reads a batch. One worker reads while the others store.
    async fn next_batch(&self) -> Option<EventBatchRead<'_>> {
        let mut source = self.source.lock().await;
        let fast_permit = if source.has_more { None } else { self.fast_permit().await };
        let wait = source.pacer.wait();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let Batch { records, has_more, ack } = self.read(&mut source.journal).await?;
        let accepted_at = self.accepted_at(&records);
        ack.set_accepted_at(accepted_at);
        source.has_more = has_more;
        source.pacer.observe(LastBatch {
            requests: records.len(),
            was_full: has_more,
            accepted_at,
        });
        let place = source.order.next();
        drop(source);
        let events = self.decode(&records);
        place.set_orgs(events.iter().map(|event| event.org_id));
        Some(EventBatchRead { events, ack, place, fast_permit })
    }

    /// Reads from the journal, however long it cannot be read.
    async fn read(&self, journal: &mut JournalReader) -> Option<Batch> {
        let mut backoff = new_backoff();
        loop {
            match journal.next_batch(self.batch_events_max, BATCH_BYTES_MAX).await {
                Ok(batch) => return batch,
                Err(error) => {
                    let wait_ms = backoff.peek().as_millis();
                    tracing::error!(%error, wait_ms, "cannot read the journal, retrying");
                    backoff.sleep().await;
                }
            }
        }
    }

    /// When the first record that can be decoded was accepted.
    fn accepted_at(&self, records: &[Record]) -> Timestamp {
        let mut decoded = records.iter().filter_map(|one| record::received_at(&one.payload).ok());
        decoded.next().unwrap_or_else(|| self.clock.now())
    }

    /// Decodes the events. A record that this version cannot decode, such as one of a newer version, is quarantined.
    fn decode(&self, records: &[Record]) -> Vec<Arc<Event>> {
        let mut events = Vec::with_capacity(records.len());
        for journaled in records {
            match record::decode(&journaled.payload) {
                Ok(decoded) => events.extend(decoded),
                Err(error) => {
                    self.quarantine.record(journaled, &error.to_string());
                    self.metrics.hookgate_records_undecodable_total.inc();
                }
            }
        }
        events
    }

    /// Waits for a permit of the fast path, for a limited time.
    async fn fast_permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = tokio::time::timeout(FAST_PERMIT_WAIT, self.fast_permits.acquire()).await;
        permit.ok()?.ok()
    }

    /// Stores a batch. The events of organisations with ordered endpoints wait for what earlier batches have of these
    /// organisations: once an ordered delivery is stored, all earlier ones are.
    async fn store_in_order(&self, batch: EventBatchRead<'_>) -> Ack {
        let endpoints = self.endpoints(&batch.events).await;
        let is_ordered = |event: &Arc<Event>| {
            endpoints.get(&event.org_id).is_some_and(|of_org| of_org.has_ordered())
        };
        let (ordered, others): (Vec<_>, Vec<_>) = batch.events.into_iter().partition(is_ordered);
        let (fast, bulk) = priority::split(others, |event| deliveries(event, &endpoints));
        self.store_all(&fast, &endpoints).await;
        drop(batch.fast_permit);
        let store_ordered = async {
            if !ordered.is_empty() {
                let orgs: HashSet<OrgId> = ordered.iter().map(|event| event.org_id).collect();
                batch.place.wait_for_earlier(&orgs).await;
                self.store_all(&ordered, &endpoints).await;
                batch.place.stored(&orgs);
            }
        };
        // Neither waits for the other: `bulk` may be a large fan-out of somebody else.
        tokio::join!(self.store_all(&bulk, &endpoints), store_ordered);
        batch.place.all_stored();
        batch.ack
    }

    /// The endpoints that some events are planned for, however long the store is unavailable.
    async fn endpoints(&self, events: &[Arc<Event>]) -> Endpoints {
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
    async fn store_all(&self, events: &[Arc<Event>], endpoints: &Endpoints) {
        let mut parts = vec![(events, PATIENCE)];
        while let Some((part, patience)) = parts.pop() {
            let deliveries_max = self.store.system().deliveries_at_once();
            let (part, rest) = part.split_at(fitting(part, endpoints, deliveries_max));
            if !rest.is_empty() {
                parts.push((rest, patience));
            }
            let Err(refusal) = self.persist(part, endpoints, patience).await else { continue };
            match part {
                [event] => self.quarantine(event, &refusal).await,
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
        let (since, stored_before) = (Stopwatch::start(), self.stored.load(Ordering::Relaxed));
        let mut tried = None;
        loop {
            let error = match self.try_persist(events, endpoints, &mut tried).await {
                Ok(()) => {
                    self.stored.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error @ (StoreError::Refused(_) | StoreError::Corrupt(_))) => {
                    return Err(error);
                }
                Err(error) => error,
            };
            let takes_others = self.stored.load(Ordering::Relaxed) > stored_before;
            if !error.is_connection() && takes_others && since.elapsed() >= patience {
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
        let mut persisted = self.store.system().persist_events(batch, now).await?;
        self.count(&persisted);
        offered.stored(&deliveries, &mut persisted);
        Ok(())
    }

    /// Makes one event that the store refuses a dead letter, however long the store is unavailable. If it refuses the
    /// dead letter, too, the journal's quarantine keeps the event.
    async fn quarantine(&self, event: &Event, refusal: &StoreError) {
        let detail = refusal.to_string();
        let record = match record::encode_event(event) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(event = %event.id, %error, "cannot encode a rejected event");
                Vec::new()
            }
        };
        let since = Stopwatch::start();
        let mut backoff = new_backoff();
        let refused = loop {
            let now = self.clock.now();
            let (org, id) = (event.org_id, event.id);
            match self.store.quarantine_event(org, id, &record, &detail, now).await {
                Ok(()) => break None,
                Err(error) if is_final(&error, since.elapsed()) => break Some(error),
                Err(error) => back_off(&mut backoff, &error).await,
            }
        };
        self.metrics.events_unstorable_total.inc();
        let (org, event) = (event.org_id, event.id);
        if let Some(error) = refused {
            let quarantined = self.quarantine.bytes(&format!("event-{event}"), &record);
            tracing::error!(
                %org, %event, detail, %error, ?quarantined,
                "the store rejected an event and its dead letter; the journal's quarantine keeps it"
            );
        } else {
            tracing::warn!(
                %org, %event, detail,
                "the store rejected an event; it is now a dead letter"
            );
        }
    }

    fn count(&self, persisted: &Persisted) {
        let count = |counter: &prometheus::IntCounter, n: usize| counter.inc_by(n as u64);
        count(&self.metrics.events_stored_total, persisted.stored);
        count(&self.metrics.events_duplicate_total, persisted.duplicates);
        count(&self.metrics.deliveries_planned_total, persisted.planned);
    }
}

const fn new_backoff() -> Backoff {
    Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX)
}

async fn back_off(backoff: &mut Backoff, error: &StoreError) {
    let wait_ms = backoff.peek().as_millis();
    tracing::warn!(%error, wait_ms, "cannot persist a batch, retrying; it stays in the journal");
    backoff.sleep().await;
}

/// Whether a dead letter that the store did not take for this long is given up. A store that cannot be reached is
/// waited for.
fn is_final(error: &StoreError, waited: Duration) -> bool {
    match error {
        StoreError::Refused(_) | StoreError::Corrupt(_) => true,
        error => !error.is_connection() && waited >= PATIENCE,
    }
}
