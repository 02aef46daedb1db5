//! The worker pool: moves events from the journal to the store.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::batch_pacer::{BatchPacer, LastBatch};
use super::batch_parts::{deliveries, is_ordered};
use super::deferred_batches::{DeferredBatch, WaitingSize};
use super::event_storer::{EventStorer, StoredBatches, new_backoff};
use super::metrics::{BacklogPriority, IngestMetrics};
use super::org_order::OrgOrder;
use super::priority;
use super::record::{self, record_owner};
use super::unstored_batch::UnstoredBatch;
use super::waiting_events::{Share, WaitingEvents};
use crate::config::IngestConfig;
use crate::delivery::{AdmissionDoor, KnownEndpoints};
use crate::domain::{Event, OrgId, Timestamp};
use crate::journal::{Batch, JournalReader, ReadAgain, ReadError, Record};
use crate::runtime::{Backoff, Clock, CpuLoad, Heartbeat, Lifecycle, Shutdown};
use crate::store::Store;
use crate::telemetry::Tracer;

/// Bytes of a batch, beyond its first record or event.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Small batches that are stored at a time: events that arrive meanwhile are stored together, instead of by every worker
/// separately. So many on the fast path, before the next is read, and so many of what waits.
const SMALL_BATCHES_MAX: usize = 2;
/// The longest wait for one of these to be stored. They may be stuck for a reason that does not concern the next one.
const PERMIT_WAIT: Duration = Duration::from_millis(20);

/// The state that the workers share.
pub struct Workers {
    source: tokio::sync::Mutex<Source>,
    pacer: Mutex<BatchPacer>,
    waiting: WaitingEvents,
    /// Reads what was deferred.
    again: ReadAgain,
    /// One worker at a time takes what waits.
    turn: tokio::sync::Mutex<()>,
    /// Beats whenever a batch was stored.
    heartbeat: Heartbeat,
    storer: EventStorer,
    fast_permits: Semaphore,
    /// For batches of what waits that are not full.
    small_permits: Semaphore,
    batch_events_max: usize,
}

/// The source of batches. One worker at a time holds it.
struct Source {
    journal: JournalReader,
    order: OrgOrder,
    /// Whether the last batch left durable records behind.
    has_more: bool,
}

/// Records that were read together, without those that were deferred.
struct RecordBatchRead<'a> {
    records: Vec<Record>,
    /// Whose they are.
    orgs: Vec<OrgId>,
    batch: Arc<UnstoredBatch>,
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
        let (quarantine, again) = (reader.quarantine(), reader.again());
        Self {
            again,
            source: tokio::sync::Mutex::new(Source {
                journal: reader,
                order: OrgOrder::default(),
                has_more: false,
            }),
            pacer: Mutex::new(BatchPacer::new(answering, clock.clone())),
            waiting: WaitingEvents::default(),
            turn: tokio::sync::Mutex::new(()),
            heartbeat: Heartbeat::new(clock.clone()),
            storer: EventStorer {
                store,
                door,
                clock,
                metrics,
                quarantine,
                tracer: Tracer::off(),
                stored: StoredBatches::default(),
            },
            fast_permits: Semaphore::new(SMALL_BATCHES_MAX),
            small_permits: Semaphore::new(SMALL_BATCHES_MAX),
            batch_events_max: config.store_batch_events as usize,
        }
    }

    /// The same workers, which record the spans of what they store.
    #[must_use]
    pub fn traced_by(mut self, tracer: Tracer) -> Self {
        self.storer.tracer = tracer;
        self
    }

    /// Beats whenever a batch was stored.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Starts `count` workers, at least two: one half reads and stores what is few, the other half stores what waits.
    /// At the soft stop they store what they are storing; the journal keeps the rest.
    pub fn start(self, count: usize, lifecycle: &Lifecycle) {
        let workers = Arc::new(self);
        let (again, shutdown) = (Arc::clone(&workers), lifecycle.shutdown());
        lifecycle.spawn("reader of deferred events", async move {
            again.read_deferred(&shutdown).await;
        });
        let (of_refused, shutdown) = (Arc::clone(&workers), lifecycle.shutdown());
        lifecycle.spawn("retries of refused events", async move {
            tokio::select! {
                biased;
                () = shutdown.requested() => {}
                () = of_refused.store_refused() => {}
            }
        });
        let readers = (count / 2).max(1);
        for number in 0..count.max(2) {
            let workers = Arc::clone(&workers);
            let shutdown = lifecycle.shutdown();
            lifecycle.spawn("ingest worker", async move {
                if number < readers {
                    workers.read_all(&shutdown).await;
                } else {
                    workers.store_waiting(&shutdown).await;
                }
                // A poisoned journal ends before the process is asked to stop.
                shutdown.requested().await;
            });
        }
    }

    /// Reads again what was deferred, batch after batch.
    async fn read_deferred(&self, shutdown: &Shutdown) {
        loop {
            let deferred = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                deferred = self.waiting.next_deferred() => deferred,
            };
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = self.let_wait_deferred(&deferred) => self.waiting.end_deferral(&deferred),
            }
        }
    }

    /// Reads batch after batch.
    async fn read_all(&self, shutdown: &Shutdown) {
        loop {
            let batch = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                batch = self.next_batch() => batch,
            };
            let Some(batch) = batch else { return };
            self.sort(batch).await;
        }
    }

    /// Stores what waits, batch after batch.
    async fn store_waiting(&self, shutdown: &Shutdown) {
        loop {
            let (shares, permit) = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                shares = self.next_shares() => shares,
            };
            self.store_shares(shares).await;
            drop(permit);
        }
    }

    /// Reads a batch. One worker reads while the others store.
    async fn next_batch(&self) -> Option<RecordBatchRead<'_>> {
        let mut source = self.source.lock().await;
        self.waiting.has_room().await;
        let fast_permit = if source.has_more { None } else { permit(&self.fast_permits).await };
        let wait = self.pacer().wait_to_read(self.waiting.slowdown());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let Batch { mut records, has_more, extent, ack } = self.read(&mut source.journal).await?;
        let accepted_at = self.accepted_at(&records);
        ack.set_accepted_at(accepted_at);
        source.has_more = has_more;
        self.pacer().observe(LastBatch { requests: records.len(), was_full: has_more });
        let sizes = sizes_by_org(&records);
        let place = source.order.next(sizes.keys().copied());
        let deferred = self.waiting.without_room(&sizes);
        let parts = 1 + usize::from(!deferred.is_empty());
        let batch = Arc::new(UnstoredBatch::new(place, ack, accepted_at, parts));
        let orgs_in_batch = sizes.len();
        let orgs = sizes.into_keys().filter(|org| !deferred.contains_key(org)).collect();
        if !deferred.is_empty() {
            let (batch, sizes) = (Arc::clone(&batch), Arc::new(deferred));
            let deferred = DeferredBatch::new(batch, extent, sizes, orgs_in_batch);
            records.retain(|record| !deferred.has(record));
            self.waiting.defer(deferred);
        }
        drop(source);
        Some(RecordBatchRead { records, orgs, batch, fast_permit })
    }

    /// Reads from the journal, however long it cannot be read.
    async fn read(&self, journal: &mut JournalReader) -> Option<Batch> {
        let mut backoff = new_backoff();
        let items_max = u32::try_from(self.batch_events_max).unwrap_or(u32::MAX);
        loop {
            match journal.next_batch(items_max, BATCH_BYTES_MAX).await {
                Ok(batch) => return batch,
                Err(error) => wait_to_read_again(&mut backoff, &error).await,
            }
        }
    }

    /// Reads again what a deferred batch is of, however long it cannot be read.
    async fn read_again(&self, deferred: &DeferredBatch) -> Vec<Record> {
        let mut backoff = new_backoff();
        loop {
            match self.again.read(&deferred.extent).await {
                Ok(records) => return records,
                Err(error) => wait_to_read_again(&mut backoff, &error).await,
            }
        }
    }

    /// Reads events again that were deferred, and lets them wait.
    async fn let_wait_deferred(&self, deferred: &DeferredBatch) {
        let mut records = self.read_again(deferred).await;
        records.retain(|record| deferred.has(record));
        let events = self.decode(&records).await;
        deferred.batch.decoded(deferred.sizes.keys().copied(), &events);
        let endpoints = self.storer.endpoints(&events).await;
        self.let_wait(&deferred.batch, events, &endpoints);
    }

    /// When the first record that can be decoded was accepted.
    fn accepted_at(&self, records: &[Record]) -> Timestamp {
        let mut decoded = records.iter().filter_map(|one| record::received_at(&one.payload).ok());
        decoded.next().unwrap_or_else(|| self.storer.clock.now())
    }

    /// Decodes the events. A record that this version cannot decode, such as one of a newer version, is quarantined.
    async fn decode(&self, records: &[Record]) -> Vec<Arc<Event>> {
        let mut events = Vec::with_capacity(records.len());
        for journaled in records {
            match record::decode(&journaled.payload) {
                Ok(decoded) => events.extend(decoded),
                Err(error) => self.storer.set_record_aside(journaled, &error.to_string()).await,
            }
        }
        events
    }

    /// Stores the events of organisations that have few in a batch, and lets the others wait. Those of organisations with
    /// ordered endpoints wait, too, for what earlier batches have of these: once an ordered delivery is stored,
    /// all earlier ones are.
    async fn sort(&self, read: RecordBatchRead<'_>) {
        let RecordBatchRead { records, orgs, batch, fast_permit } = read;
        // Whoever reads next was woken on this thread, where nobody else may run it, and would wait for the decoding.
        tokio::task::yield_now().await;
        let events = self.decode(&records).await;
        batch.decoded(orgs.into_iter(), &events);
        let endpoints = self.storer.endpoints(&events).await;
        let of_events = events.iter().map(|event| event.org_id).collect::<HashSet<_>>();
        let mut waits = self.waiting.stopped(of_events.iter().copied());
        waits.extend(of_events.into_iter().filter(|org| is_ordered(&endpoints.by_org, org)));
        let (waiting, others): (Vec<_>, Vec<_>) =
            events.into_iter().partition(|event| waits.contains(&event.org_id));
        let (fast, many) = priority::split(others, |event| deliveries(event, &endpoints.by_org));
        self.let_wait(&batch, waiting.into_iter().chain(many), &endpoints);
        let in_backlog = self.storer.metrics.reading(BacklogPriority::Fast, fast.len());
        let refused = self.storer.store_all(&fast, &endpoints).await;
        // A batch that only waits now tells nothing about the store.
        if fast.len() > refused.len() {
            self.heartbeat.beat();
        }
        self.waiting.stored_at_once(&batch, fast, &refused);
        drop((fast_permit, in_backlog));
    }

    /// Lets events of a batch wait, each organisation's in their order.
    fn let_wait(
        &self,
        batch: &Arc<UnstoredBatch>,
        events: impl IntoIterator<Item = Arc<Event>>,
        endpoints: &KnownEndpoints,
    ) {
        let mut waiting = HashMap::<OrgId, VecDeque<Arc<Event>>>::new();
        for event in events {
            waiting.entry(event.org_id).or_default().push_back(event);
        }
        for (org, events) in waiting {
            let is_ordered = is_ordered(&endpoints.by_org, &org);
            let priority =
                if is_ordered { BacklogPriority::Ordered } else { BacklogPriority::Bulk };
            let in_backlog = self.storer.metrics.reading(priority, events.len());
            self.waiting.push(batch, (org, is_ordered), events, in_backlog);
        }
    }

    /// Takes a batch of what waits, of the organisations whose turn it is.
    async fn next_shares(&self) -> (Vec<Share>, Option<SemaphorePermit<'_>>) {
        let _turn = self.turn.lock().await;
        let accepted_at = self.waiting.next_accepted_at().await;
        let wait = self.pacer().wait_to_store(accepted_at);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let is_small = self.waiting.len() < self.batch_events_max;
        let permit = if is_small { permit(&self.small_permits).await } else { None };
        (self.waiting.take(self.batch_events_max, BATCH_BYTES_MAX), permit)
    }

    /// Stores a batch.
    async fn store_shares(&self, shares: Vec<Share>) {
        let events: Vec<_> = shares.iter().flat_map(|share| &share.events).cloned().collect();
        let endpoints = self.storer.endpoints(&events).await;
        let refused = self.storer.store_all(&events, &endpoints).await;
        for share in shares {
            let in_order = is_ordered(&endpoints.by_org, &share.org);
            self.waiting.stored(share, &refused, in_order);
        }
        if events.len() > refused.len() {
            self.heartbeat.beat();
        }
    }

    /// Tries events again that the store has refused, one after the other.
    async fn store_refused(&self) {
        loop {
            let mut part = self.waiting.next_refused().await;
            let first = Arc::clone(part.first());
            if self.storer.store_refused(&first, &mut part.refusal).await {
                self.waiting.settled(part);
                self.heartbeat.beat();
            } else {
                tokio::time::sleep(self.waiting.refused_again(part)).await;
            }
        }
    }

    fn pacer(&self) -> MutexGuard<'_, BatchPacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a permit, for a limited time.
async fn permit(permits: &Semaphore) -> Option<SemaphorePermit<'_>> {
    tokio::time::timeout(PERMIT_WAIT, permits.acquire()).await.ok()?.ok()
}

/// Waits before the journal is read again.
async fn wait_to_read_again(backoff: &mut Backoff, error: &ReadError) {
    let wait_ms = backoff.peek().as_millis();
    tracing::error!(%error, wait_ms, "cannot read the journal, retrying");
    backoff.sleep().await;
}

/// Whose records they are, as far as this version can decode them, and what their events take.
fn sizes_by_org(records: &[Record]) -> HashMap<OrgId, WaitingSize> {
    let mut sizes = HashMap::<OrgId, WaitingSize>::new();
    for record in records {
        if let Some(org) = record_owner(&record.payload) {
            let size = sizes.entry(org).or_default();
            *size = size.plus(WaitingSize::of_record(record));
        }
    }
    sizes
}
