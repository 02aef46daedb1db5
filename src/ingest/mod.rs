//! The way in: from a checked new event to a journaled record, and from the journal to the store.
//!
//! # Purpose
//! [`Intake`] answers tenants as soon as their events are on stable storage; the worker pool moves
//! what is in the journal to the store, whenever the store can take it. [`Replayer`] brings what was
//! given up on its way once more.
//!
//! # Operation
//! ```text
//! Intake::accept ── one record for one request ── Journal::append ── 202
//!                                                      │
//!        workers (4 x CPUs) ── JournalReader::next_batch, in order of arrival
//!             ├─ express: who has few events in the batch ── one transaction ── store
//!             ├─ bulk: the others ── one transaction or more ────────────────── store
//!             │     └─ leased deliveries of each way ── a channel of its own ──> whoever delivers
//!             └─ AckWindow ── Journal::finished: the checkpoint moves over what is contiguous
//! ```
//! Batches that come fast are gathered, a flood gives way to answering (`pace.rs`), and a batch waits a moment
//! for room in the hand-over. Of the batches that no backlog is behind, two are on their way by express at a
//! time: what comes meanwhile is read together. Batches are stored side by side, but for the events of
//! organisations with ordered endpoints: those wait until all batches before theirs are stored.
//!
//! The journal is the queue. Workers never get events from memory, so live work, catching up after
//! an outage and recovery after a crash are one code path, and memory does not grow with the backlog.
//!
//! # Failure
//! - The store is unavailable: a worker holds its batch and tries again, ever more slowly. Tenants
//!   notice nothing until the journal is full.
//! - The store refuses a batch: it is halved until the event at fault stands alone. That one
//!   becomes a dead letter with the reason; the others are stored.
//! - The journal is poisoned: what is durable in it is still stored. The process goes on answering
//!   503, so that whoever asks is told why, until an operator restarts it.
//! - The process dies: the records behind the checkpoint are read again. Storing them twice changes
//!   nothing.
//! - A record cannot be decoded though its checksum holds: it was written by a newer version. The
//!   process stops rather than skip what it acknowledged.
//!
//! **Invariant:** this module does not know how webhooks are sent. It hands leased deliveries to a
//! channel and wakes whoever sleeps at the other end.

mod ack_window;
mod backlog;
mod batch_pacer;
mod intake;
mod priority;
mod quarantine;
mod record;
mod replayer;
mod workers;

pub use backlog::Backlog;
pub use intake::{AcceptError, Intake};
pub use quarantine::{Requeued, requeue};
pub use record::RecordError;
pub use replayer::Replayer;
pub use workers::{Handoff, Workers};
