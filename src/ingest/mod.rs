//! Ingest: writes checked events to the journal, and moves them from the journal to the store.
//!
//! # Purpose
//! [`Intake`] answers tenants as soon as their events are on stable storage. The [`Workers`] move journal records to
//! the store, whenever it is available. [`Replayer`] schedules deliveries again for replayed dead letters.
//!
//! # Operation
//! ```text
//! Intake::accept ── one record per request ── Journal::append ── 202
//!                                                  │
//!        workers (4 x CPUs) ── JournalReader::next_batch, in order of arrival
//!             ├─ fast path: organisations with few events in the batch ── one transaction ── store
//!             ├─ bulk path: the others ── one transaction or more ─────────────────────────── store
//!             │     └─ leased deliveries of each path ── a channel of its own ──> delivery
//!             └─ Ack::ack, once the whole batch is stored
//! ```
//! Frequent small batches linger, and a flood yields to the request threads ([`batch_pacer`]). A batch waits a short
//! time for capacity in the hand-off channel ([`priority`]). Outside of a backlog, two batches are on the fast path at
//! a time; events that arrive meanwhile are read together. Batches are stored concurrently, except for the events of
//! organisations with ordered endpoints, which wait until all earlier batches are acknowledged.
//!
//! The journal is the queue. Workers never get events from memory, so live work, catching up after an outage and
//! recovery after a crash are one code path, and memory does not grow with the backlog.
//!
//! # Failure
//! - The store is unavailable: a worker keeps its batch and retries with exponential backoff. Tenants notice nothing
//!   until the journal is full.
//! - The store rejects a batch: it is halved until the faulty event stands alone. That event becomes a dead letter with
//!   the reason; the others are stored.
//! - The journal is poisoned: its durable records are still stored. The process answers 503 with the reason until an
//!   operator restarts it.
//! - The process dies: the records behind the checkpoint are read again. Storing them twice changes nothing.
//! - A record cannot be decoded although its checksum is right: a newer version wrote it. The process stops rather
//!   than skip acknowledged events.
//!
//! **Invariant:** this module does not know how webhooks are sent. It sends leased deliveries to a channel and wakes
//! the dispatcher.

mod batch_pacer;
mod intake;
mod metrics;
mod priority;
mod quarantine;
mod record;
mod replayer;
mod workers;

pub use intake::{AcceptError, Intake};
pub use metrics::IngestMetrics;
pub use quarantine::{Requeued, requeue};
pub use record::RecordError;
pub use replayer::Replayer;
pub use workers::{Handoff, Workers};
