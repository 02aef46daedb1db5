//! The worker pool: moves events from the journal to the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};

use crate::config::IngestConfig;
use crate::domain::{
    EndpointId, Event, InstanceId, Lease, LeaseToken, LeasedDelivery, OrgId, Timestamp,
};
use crate::journal::{Ack, Batch, JournalReader, ReadError, Record};
use crate::runtime::{Backoff, Clock, CpuLoad, Heartbeat, Lifecycle, Wake};
use crate::store::{self, Persisted, PlannedDelivery, Store, StoreError, plan_deliveries};

use super::batch_pacer::{BatchPacer, LastBatch};
use super::metrics::IngestMetrics;
use super::priority::{self, PriorityPath};
use super::record::{self, RecordError};

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

/// The way to delivery: two bounded channels, whose capacity decides how many deliveries are leased.
#[derive(Clone, Debug)]
pub struct Handoff {
    /// The channel of the fast path, for organisations with few events in a batch.
    pub fast: mpsc::Sender<LeasedDelivery>,
    /// The channel for the other organisations.
    pub bulk: mpsc::Sender<LeasedDelivery>,
    /// Endpoints whose deliveries are not to be leased for now, in ascending order.
    pub backpressured: watch::Receiver<Arc<[EndpointId]>>,
    /// Wakes the dispatcher when deliveries were stored without a lease.
    pub wake: Wake,
    /// The server in whose name deliveries are leased.
    pub instance: InstanceId,
    /// How long a lease lasts.
    pub lease_span: Duration,
}

/// The state that the workers share.
pub struct Workers {
    source: tokio::sync::Mutex<Source>,
    /// Beats whenever a batch was stored.
    heartbeat: Heartbeat,
    store: Store,
    fast: PriorityPath,
    fast_permits: Semaphore,
    bulk: PriorityPath,
    handoff: Handoff,
    clock: Clock,
    metrics: Arc<IngestMetrics>,
    batch_events_max: u32,
}

/// The source of batches. One worker at a time holds it.
struct Source {
    journal: JournalReader,
    pacer: BatchPacer,
    /// Whether the last batch left durable records behind.
    has_more: bool,
}

/// Why a worker cannot continue.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("cannot read the journal: {0}")]
    Read(#[from] ReadError),
    #[error("journal record {seq}: {error}")]
    Record { seq: u64, error: RecordError },
}

/// Events of records that were read together.
struct EventBatch<'a> {
    events: Vec<Arc<Event>>,
    ack: Ack,
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
        handoff: Handoff,
        clock: Clock,
        metrics: Arc<IngestMetrics>,
    ) -> Self {
        let pacer = BatchPacer::new(answering, clock.clone());
        Self {
            source: tokio::sync::Mutex::new(Source { journal: reader, pacer, has_more: false }),
            heartbeat: Heartbeat::new(clock.clone()),
            store,
            fast: PriorityPath::new(handoff.fast.clone()),
            fast_permits: Semaphore::new(FAST_BATCHES_MAX),
            bulk: PriorityPath::new(handoff.bulk.clone()),
            handoff,
            clock,
            metrics,
            batch_events_max: config.store_batch_events,
        }
    }

    /// Beats whenever a batch was stored.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Starts `count` workers. They end when the journal is drained after the soft stop.
    pub fn start(self, count: usize, lifecycle: &Lifecycle) {
        let workers = Arc::new(self);
        for _ in 0..count {
            let workers = Arc::clone(&workers);
            let shutdown = lifecycle.shutdown();
            lifecycle.spawn("ingest worker", async move {
                match workers.run().await {
                    // A poisoned journal ends before the process is asked to stop. The process keeps running, and
                    // reports the reason.
                    Ok(()) => shutdown.requested().await,
                    Err(error) => tracing::error!(%error, "ingest worker failed"),
                }
            });
        }
    }

    async fn run(&self) -> Result<(), WorkerError> {
        while self.run_once().await? {}
        Ok(())
    }

    /// Moves one batch. `false` when the journal is closed and drained.
    async fn run_once(&self) -> Result<bool, WorkerError> {
        let Some(batch) = self.next_batch().await? else {
            return Ok(false);
        };
        let ack = self.store_in_order(batch).await;
        self.heartbeat.beat();
        ack.ack();
        Ok(true)
    }

    /// Reads a batch. One worker reads while the others store.
    async fn next_batch(&self) -> Result<Option<EventBatch<'_>>, WorkerError> {
        let mut source = self.source.lock().await;
        let fast_permit = if source.has_more { None } else { self.fast_permit().await };
        let wait = source.pacer.wait();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let batch = source.journal.next_batch(self.batch_events_max, BATCH_BYTES_MAX).await?;
        let Some(Batch { records, has_more, ack }) = batch else { return Ok(None) };
        let Some(first) = records.first() else { return Ok(None) };
        let accepted_at = accepted_at(first)?;
        ack.set_accepted_at(accepted_at);
        source.has_more = has_more;
        source.pacer.observe(LastBatch {
            requests: records.len(),
            was_full: has_more,
            accepted_at,
        });
        drop(source);
        let events = decode(&records)?;
        Ok(Some(EventBatch { events, ack, fast_permit }))
    }

    /// Waits for a permit of the fast path, for a limited time.
    async fn fast_permit(&self) -> Option<SemaphorePermit<'_>> {
        let permit = tokio::time::timeout(FAST_PERMIT_WAIT, self.fast_permits.acquire()).await;
        permit.ok()?.ok()
    }

    /// Stores a batch. The events of organisations with ordered endpoints wait for the batches before it: once an
    /// ordered delivery is stored, all earlier ones are.
    async fn store_in_order(&self, batch: EventBatch<'_>) -> Ack {
        let ordered = self.ordered_orgs(&batch.events).await;
        let is_ordered = |event: &Arc<Event>| ordered.binary_search(&event.org_id).is_ok();
        let (ordered, others): (Vec<_>, Vec<_>) = batch.events.into_iter().partition(is_ordered);
        self.store_all(others, batch.fast_permit).await;
        if !ordered.is_empty() {
            batch.ack.wait_until_oldest().await;
            self.store_all(ordered, None).await;
        }
        batch.ack
    }

    /// The organisations of some events that have ordered endpoints, in ascending order.
    async fn ordered_orgs(&self, events: &[Arc<Event>]) -> Vec<OrgId> {
        let orgs = orgs_of(events);
        let mut backoff = new_backoff();
        loop {
            match self.store.system().ordered_orgs(&orgs).await {
                Ok(ordered) => return ordered,
                Err(error) => back_off(&mut backoff, &error).await,
            }
        }
    }

    /// Stores every event, first those of organisations with few of them.
    async fn store_all(&self, events: Vec<Arc<Event>>, fast_permit: Option<SemaphorePermit<'_>>) {
        let (fast, bulk) = priority::split(events);
        self.store_by(&self.fast, &fast).await;
        drop(fast_permit);
        self.store_by(&self.bulk, &bulk).await;
    }

    /// Stores every event, however long the store is unavailable, and splits batches that it refuses.
    async fn store_by(&self, path: &PriorityPath, events: &[Arc<Event>]) {
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.persist(path, part).await {
                Ok(()) => {}
                Err(refusal) => match part {
                    [event] => self.quarantine(event, &refusal).await,
                    // The second half first: the stack returns the first half next.
                    many => {
                        let (first, second) = many.split_at(many.len() / 2);
                        parts.extend([second, first]);
                    }
                },
            }
        }
    }

    /// Persists a batch, waiting while the store is unavailable.
    ///
    /// # Errors
    /// When the store refuses the batch.
    async fn persist(&self, path: &PriorityPath, events: &[Arc<Event>]) -> Result<(), StoreError> {
        let mut backoff = new_backoff();
        loop {
            let permits = path.reserve(events.len()).await;
            let now = self.clock.now();
            let lease = permits.as_ref().map(|permits| {
                let token = LeaseToken::mint(self.handoff.instance);
                (permits.len(), Lease { token, until: now.plus(self.handoff.lease_span) })
            });
            match self.persist_once(events, lease, now).await {
                Ok(persisted) => {
                    self.count(&persisted);
                    path.observe(&persisted);
                    if persisted.planned > persisted.leased.len() {
                        self.handoff.wake.wake();
                    }
                    for (permit, leased) in permits.into_iter().flatten().zip(persisted.leased) {
                        permit.send(leased);
                    }
                    return Ok(());
                }
                Err(refusal @ StoreError::Refused(_)) => return Err(refusal),
                Err(error @ (StoreError::Unavailable(_) | StoreError::Corrupt(_))) => {
                    drop(permits);
                    back_off(&mut backoff, &error).await;
                }
            }
        }
    }

    /// Plans and stores a batch, the first so many of its deliveries leased.
    async fn persist_once(
        &self,
        events: &[Arc<Event>],
        lease: Option<(usize, Lease)>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError> {
        let endpoints = self.store.system().org_endpoints(&orgs_of(events)).await?;
        let mut deliveries = plan_deliveries(events, &endpoints);
        let backpressured = Arc::clone(&self.handoff.backpressured.borrow());
        let may_lease = |planned: &&mut PlannedDelivery| {
            let endpoint = &planned.endpoint;
            let is_refused = backpressured.binary_search(&endpoint.id).is_ok();
            endpoint.disabled_reason.is_none() && !endpoint.policy.ordered && !is_refused
        };
        let leases_max = lease.map_or(0, |(most, _)| most);
        for planned in deliveries.iter_mut().filter(may_lease).take(leases_max) {
            planned.leased = true;
        }
        let (endpoints, deliveries) = (&endpoints, &deliveries[..]);
        let lease = lease.map(|(_, lease)| lease);
        let batch = store::EventBatch { events, endpoints, deliveries, lease };
        self.store.system().persist_events(batch, now).await
    }

    /// Makes one event that the store refuses a dead letter, however long the store is unavailable.
    async fn quarantine(&self, event: &Event, refusal: &StoreError) {
        let detail = refusal.to_string();
        let record = match record::encode_event(event) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(event = %event.id, %error, "cannot encode a rejected event");
                Vec::new()
            }
        };
        let mut backoff = new_backoff();
        while let Err(error) = self
            .store
            .quarantine_event(event.org_id, event.id, &record, &detail, self.clock.now())
            .await
        {
            back_off(&mut backoff, &error).await;
        }
        self.metrics.events_unstorable_total.inc();
        tracing::warn!(
            org = %event.org_id, event = %event.id, detail,
            "the store rejected an event; it is now a dead letter"
        );
    }

    fn count(&self, persisted: &Persisted) {
        let count = |counter: &prometheus::IntCounter, n: usize| counter.inc_by(n as u64);
        count(&self.metrics.events_stored_total, persisted.stored);
        count(&self.metrics.events_duplicate_total, persisted.duplicates);
        count(&self.metrics.deliveries_planned_total, persisted.planned);
    }
}

/// The organisations of some events, each once, in ascending order.
fn orgs_of(events: &[Arc<Event>]) -> Vec<OrgId> {
    let mut orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
    orgs.sort_unstable();
    orgs.dedup();
    orgs
}

const fn new_backoff() -> Backoff {
    Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX)
}

async fn back_off(backoff: &mut Backoff, error: &StoreError) {
    let wait_ms = backoff.peek().as_millis();
    tracing::warn!(%error, wait_ms, "cannot persist a batch, retrying; it stays in the journal");
    backoff.sleep().await;
}

fn accepted_at(record: &Record) -> Result<Timestamp, WorkerError> {
    let seq = record.seq.get();
    record::received_at(&record.payload).map_err(|error| WorkerError::Record { seq, error })
}

fn decode(records: &[Record]) -> Result<Vec<Arc<Event>>, WorkerError> {
    let mut events = Vec::with_capacity(records.len());
    for record in records {
        let seq = record.seq.get();
        let decoded = record::decode(&record.payload);
        events.extend(decoded.map_err(|error| WorkerError::Record { seq, error })?);
    }
    Ok(events)
}
