//! The worker pool: from the journal to the store.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};

use crate::config::IngestConfig;
use crate::domain::{
    EndpointId, Event, InstanceId, Lease, LeaseToken, LeasedDelivery, OrgId, Timestamp,
};
use crate::journal::{Journal, JournalReader, ReadError, Record};
use crate::runtime::{Clock, CpuLoad, Lifecycle, Wake};
use crate::store::{LeaseBudget, Persisted, Store, StoreError};
use crate::telemetry::Metrics;

use super::ack_window::{AckWindow, BatchNumber};
use super::backlog::{Backlog, Mark};
use super::batch_pacer::{BatchPacer, Last};
use super::priority::{self, PriorityPath};
use super::record::{self, RecordError};

/// Bytes of records a worker holds at most, beyond its first record.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Batches read from the oldest one that is not finished: so much is noted in memory, and read again
/// after a crash, when one batch takes long while others pass it by.
const BATCHES_AHEAD_MAX: usize = 1_024;
/// Batches on their way by express, from which on the next one is not read yet: what comes meanwhile is
/// stored together, instead of by every worker apart.
const EXPRESS_BATCHES_MAX: usize = 2;
/// How long the next one waits for those: they may be stuck where it is not.
const EXPRESS_WAIT: Duration = Duration::from_millis(20);
/// The first wait after the store was unavailable; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);

/// Where leased deliveries go: two bounded channels, whose room decides how many are leased.
#[derive(Clone, Debug)]
pub struct Handoff {
    /// The channel for organisations with few events in a batch.
    pub express: mpsc::Sender<LeasedDelivery>,
    /// The channel for the others.
    pub bulk: mpsc::Sender<LeasedDelivery>,
    /// Endpoints whose deliveries they do not want for now, in ascending order.
    pub shut: watch::Receiver<Arc<[EndpointId]>>,
    /// Wakes them when there are deliveries that were not leased.
    pub wake: Wake,
    /// Whose leases they are.
    pub instance: InstanceId,
    /// How long a lease lasts.
    pub lease_span: Duration,
}

/// What the workers share.
pub struct Workers {
    journal: Journal,
    source: tokio::sync::Mutex<Source>,
    backlog: Backlog,
    /// Tells those who wait for it that the window has moved.
    window_moved: Notify,
    store: Store,
    express: PriorityPath,
    express_turns: Semaphore,
    bulk: PriorityPath,
    handoff: Handoff,
    clock: Clock,
    metrics: Arc<Metrics>,
    batch_events_max: u32,
}

/// Where batches come from. One worker at a time has it.
struct Source {
    journal: JournalReader,
    pace: BatchPacer,
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
enum WorkerError {
    #[error("cannot read the journal: {0}")]
    Read(#[from] ReadError),
    #[error("journal record {seq}: {error}")]
    Record { seq: u64, error: RecordError },
}

/// Events of records that were read together.
struct Batch<'a> {
    number: BatchNumber,
    events: Vec<Arc<Event>>,
    /// Given back when what goes by express is stored. None in a backlog, or when there was none in time.
    express_turn: Option<SemaphorePermit<'a>>,
}

impl Workers {
    /// Workers that will move what `reader` reads into `store`, and give way to what `answering` does.
    pub fn new(
        config: &IngestConfig,
        (journal, reader): (Journal, JournalReader),
        answering: CpuLoad,
        store: Store,
        handoff: Handoff,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let pace = BatchPacer::new(answering, clock.clone());
        Self {
            journal,
            source: tokio::sync::Mutex::new(Source { journal: reader, pace }),
            backlog: Backlog::new(&clock),
            window_moved: Notify::new(),
            store,
            express: PriorityPath::new(handoff.express.clone()),
            express_turns: Semaphore::new(EXPRESS_BATCHES_MAX),
            bulk: PriorityPath::new(handoff.bulk.clone()),
            handoff,
            clock,
            metrics,
            batch_events_max: config.store_batch_events,
        }
    }

    /// What they have read and not stored yet.
    pub fn backlog(&self) -> Backlog {
        self.backlog.clone()
    }

    /// Starts `count` workers. They end when the journal is drained after the soft stop.
    pub fn start(self, count: usize, lifecycle: &Lifecycle) {
        let workers = Arc::new(self);
        for _ in 0..count {
            let workers = Arc::clone(&workers);
            let shutdown = lifecycle.shutdown();
            lifecycle.spawn("ingest worker", async move {
                match workers.run().await {
                    // A poisoned journal comes to its end before the process is asked to stop, which
                    // goes on to say what is wrong.
                    Ok(()) => shutdown.requested().await,
                    Err(error) => tracing::error!(%error, "an ingest worker cannot go on"),
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
        let number = batch.number;
        self.store_in_order(batch).await;
        self.backlog.progress.beat();
        let moved = self.backlog.window().finish(number);
        if let Some(mark) = moved {
            self.journal.finished(mark.end);
            self.window_moved.notify_waiters();
        }
        Ok(true)
    }

    /// Reads a batch. One worker reads while the others store.
    async fn next_batch(&self) -> Result<Option<Batch<'_>>, WorkerError> {
        let mut source = self.source.lock().await;
        self.window_until(|window| window.len() < BATCHES_AHEAD_MAX).await;
        let express_turn = if source.journal.has_more() { None } else { self.express_turn().await };
        let wait = source.pace.wait();
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let records = source.journal.next_batch(self.batch_events_max, BATCH_BYTES_MAX).await?;
        let Some(records @ ([first, .., last] | [first @ last])) = records.as_deref() else {
            return Ok(None);
        };
        let mark = Mark { end: last.seq.next(), received_at: received_at(first)? };
        let was_full = source.journal.has_more();
        source.pace.has_read(Last {
            requests: records.len(),
            was_full,
            accepted_at: mark.received_at,
        });
        // Numbered while the source is locked, so that numbers follow the order of the records.
        let number = self.backlog.window().add(mark);
        drop(source);
        let events = decode(records)?;
        Ok(Some(Batch { number, events, express_turn }))
    }

    /// Waits for a turn by express, if not for ever.
    async fn express_turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::time::timeout(EXPRESS_WAIT, self.express_turns.acquire()).await;
        turn.ok()?.ok()
    }

    /// Waits until the window is as asked for.
    async fn window_until(&self, is_so: impl Fn(&AckWindow<Mark>) -> bool) {
        loop {
            let mut moved = pin!(self.window_moved.notified());
            // Registered before the look, so that no move in between is missed.
            moved.as_mut().enable();
            if is_so(&self.backlog.window()) {
                return;
            }
            moved.await;
        }
    }

    /// Stores a batch. The events of organisations with ordered endpoints wait for the batches before
    /// it: an ordered delivery that is there proves that all before it are.
    async fn store_in_order(&self, batch: Batch<'_>) {
        let ordered = self.ordered_orgs(&batch.events).await;
        let is_ordered = |event: &Arc<Event>| ordered.binary_search(&event.org_id).is_ok();
        let (ordered, others): (Vec<_>, Vec<_>) = batch.events.into_iter().partition(is_ordered);
        self.store_all(others, batch.express_turn).await;
        if !ordered.is_empty() {
            self.window_until(|window| window.is_oldest(batch.number)).await;
            self.store_all(ordered, None).await;
        }
    }

    /// The organisations of some events that have ordered endpoints, in ascending order.
    async fn ordered_orgs(&self, events: &[Arc<Event>]) -> Vec<OrgId> {
        let mut orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
        orgs.sort_unstable();
        orgs.dedup();
        let mut wait = RETRY_WAIT;
        loop {
            match self.store.ordered_orgs_across_orgs(&orgs).await {
                Ok(ordered) => return ordered,
                Err(error) => self.rest(&mut wait, &error).await,
            }
        }
    }

    /// Stores every event, those first of which an organisation has few.
    async fn store_all(&self, events: Vec<Arc<Event>>, express_turn: Option<SemaphorePermit<'_>>) {
        let (few, many) = priority::split(events);
        self.store_by(&self.express, &few).await;
        drop(express_turn);
        self.store_by(&self.bulk, &many).await;
    }

    /// Stores every event, however long the store is away, and splits what it refuses.
    async fn store_by(&self, way: &PriorityPath, events: &[Arc<Event>]) {
        let mut parts = vec![events];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self.persist(way, part).await {
                Ok(taken) => parts.extend(part.get(taken..)),
                Err(refusal) => match part {
                    [event] => self.bury(event, &refusal).await,
                    // The second half first: the stack hands out the first half next.
                    many => {
                        let (first, second) = many.split_at(many.len() / 2);
                        parts.extend([second, first]);
                    }
                },
            }
        }
    }

    /// Persists a batch, waiting while the store is unavailable, and returns how many events it took from
    /// the first on.
    ///
    /// # Errors
    /// When the store refuses the batch.
    async fn persist(
        &self,
        way: &PriorityPath,
        events: &[Arc<Event>],
    ) -> Result<usize, StoreError> {
        let mut wait = RETRY_WAIT;
        loop {
            let permits = way.room_for(events.len()).await;
            let now = self.clock.now();
            let shut = Arc::clone(&self.handoff.shut.borrow());
            let lease_budget = permits.as_ref().map(|permits| LeaseBudget {
                lease: Lease {
                    token: LeaseToken::mint(self.handoff.instance),
                    until: now.plus(self.handoff.lease_span),
                },
                deliveries_max: permits.len(),
                except: &shut,
            });
            let result = self.store.persist_events_across_orgs(events, lease_budget, now).await;
            match result {
                Ok(persisted) => {
                    self.count(&persisted);
                    way.learn(&persisted);
                    if persisted.planned > persisted.leased.len() {
                        self.handoff.wake.wake();
                    }
                    for (permit, leased) in permits.into_iter().flatten().zip(persisted.leased) {
                        permit.send(leased);
                    }
                    return Ok(persisted.taken);
                }
                Err(refusal @ StoreError::Refused(_)) => return Err(refusal),
                Err(error @ (StoreError::Unavailable(_) | StoreError::Corrupt(_))) => {
                    drop(permits);
                    self.rest(&mut wait, &error).await;
                }
            }
        }
    }

    /// Puts one event that the store refuses among the dead letters, waiting while it cannot.
    async fn bury(&self, event: &Event, refusal: &StoreError) {
        let detail = refusal.to_string();
        let record = match record::encode_event(event) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(event = %event.id, %error, "cannot write a refused event as a record");
                Vec::new()
            }
        };
        let mut wait = RETRY_WAIT;
        while let Err(error) = self
            .store
            .quarantine_event(event.org_id, event.id, &record, &detail, self.clock.now())
            .await
        {
            self.rest(&mut wait, &error).await;
        }
        self.metrics.events_unstorable_total.inc();
        tracing::warn!(org = %event.org_id, event = %event.id, detail, "the store refused an event; it is a dead letter");
    }

    async fn rest(&self, wait: &mut Duration, error: &StoreError) {
        tracing::warn!(%error, wait_ms = wait.as_millis(), "the store did not take a batch; it stays in the journal");
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(RETRY_WAIT_MAX);
    }

    fn count(&self, persisted: &Persisted) {
        let count = |counter: &prometheus::IntCounter, n: usize| counter.inc_by(n as u64);
        count(&self.metrics.events_stored_total, persisted.stored);
        count(&self.metrics.events_duplicate_total, persisted.duplicates);
        count(&self.metrics.deliveries_planned_total, persisted.planned);
    }
}

fn received_at(record: &Record) -> Result<Timestamp, WorkerError> {
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
