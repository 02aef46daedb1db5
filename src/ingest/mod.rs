//! Ingest: writes checked events to the journal, and moves them from the journal to the store.
//!
//! # Purpose
//! [`Intake`] answers tenants as soon as their events are on stable storage. The [`Workers`] move journal records to
//! the store, whenever it is available. [`Replayer`] schedules deliveries again for replayed dead letters, and [`Eraser`]
//! removes what was requested to be erased.
//!
//! # Operation
//! ```text
//! Intake::accept ── one record per request ── Journal::append ── 202
//!                                                  │
//!        workers (4 x CPUs) ── JournalReader::next_batch, in order of arrival
//!             ├─ plan: one delivery per endpoint that wants an event, by the endpoint cache
//!             ├─ offer: delivery's admission takes what it can start at once
//!             ├─ store: at once, organisations with few events in the batch; the others in turns ([`waiting_events`])
//!             ├─ defer: what an organisation has beyond its room in memory, to be read again ([`deferred_batches`])
//!             └─ Ack::ack, once the whole batch is stored
//! ```
//! Half of the workers read and store what is few; the other half stores what waits. So an organisation with a burst
//! waits for itself: whoever comes behind it is read, and stored, while its events wait, in memory or in the journal. A transaction has at
//! most 500 events, 4 MiB and 2,000 deliveries, or one event. Batches linger for a moment unless the server is idle,
//! and a flood yields to the request threads ([`batch_pacer`]). Outside of a backlog, two batches are on the fast path
//! at a time; events that arrive meanwhile are read together.
//! What waits is stored concurrently, except for the events of organisations with ordered endpoints: they wait until
//! those of the same organisation in earlier batches are stored. What cannot be delivered now is stored and waits
//! there.
//!
//! The journal is the queue. Workers never get events from elsewhere, so live work, catching up after an outage and
//! recovery after a crash are one code path. What they have read is bounded, and memory does not grow with the backlog.
//!
//! # Failure
//! - The store is unavailable: a worker keeps its batch and retries with exponential backoff. Tenants notice nothing
//!   until the journal is full.
//! - The store rejects a batch, or can be reached and fails three times to take it: the batch is halved until the faulty
//!   event stands alone, for at most ten seconds and one more try; the others are stored. An event that the store rejects
//!   becomes a dead letter with the reason. One that it does not take is retried while others are stored
//!   ([`refused_events`]), and so is what was not tried alone in that time. It becomes a dead letter after two minutes of
//!   refusals, counted from when a batch that began later was stored.
//! - The journal is poisoned: its durable records are still stored, for at most `SHUTDOWN_TIMEOUT`. Then the process
//!   exits with an error, for a supervisor to restart it.
//! - The process dies: the records behind the checkpoint are read again. Storing them twice changes nothing.
//! - A record cannot be decoded although its checksum is right, since a newer version wrote it: it is quarantined in
//!   the journal's directory, and the alarm is raised. So is an event whose dead letter the store refuses.
//! - The journal cannot be read: it is tried again with backoff.
//! - The soft stop: no batch is read any more, and what is being stored is stored. The journal keeps the rest.
//!
//! **Invariant:** this module does not know how webhooks are sent. It offers deliveries and stores them.

mod batch_pacer;
mod batch_parts;
mod deferred_batches;
mod eraser;
mod event_storer;
mod intake;
mod journal_replay;
mod metrics;
mod org_order;
mod priority;
mod quarantine;
mod record;
mod record_trace;
mod refused_events;
mod replayer;
mod stepping;
mod store_span;
mod stored_again;
mod unstored_batch;
mod waiting_events;
mod workers;

pub use crate::journal::{QuarantineContents, QuarantineEntry};
pub use eraser::Eraser;
pub use intake::{AcceptError, Intake};
pub use journal_replay::{JournalReplay, ReplayCounts, next_records};
pub use metrics::IngestMetrics;
pub use quarantine::{Requeued, requeue};
pub use record::{RecordError, record_owner};
pub use replayer::Replayer;
pub use stored_again::{StoreAgainError, StoredAgain};
pub use workers::Workers;
