//! Handles of a server's parts, for test harnesses and for embedding.

use super::Metrics;
use crate::auth::Authenticator;
use crate::delivery::{DeliveryHealth, DeliveryService};
use crate::ingest::Replayer;
use crate::journal::{Journal, JournalReader};
use crate::runtime::Clock;
use crate::store::Store;

/// What happens to the background tasks: the dispatcher, the ingest workers, the replayer, the watches and
/// maintenance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackgroundWork {
    /// They run.
    Run,
    /// None is started. The caller steps those it needs, see [`HeldParts`].
    Hold,
}

/// Handles of a server's parts. Cheap to clone.
#[derive(Clone)]
pub struct AppParts {
    /// The store.
    pub store: Store,
    /// The journal's appending end.
    pub journal: Journal,
    /// Verifies API keys.
    pub authenticator: Authenticator,
    /// Heartbeats of the dispatcher.
    pub delivery_health: DeliveryHealth,
    /// The clock.
    pub clock: Clock,
    /// The metrics.
    pub metrics: Metrics,
}

/// Background work that was not started. Nothing moves until the caller steps it.
pub struct HeldParts {
    /// Claims and attempts deliveries, see [`DeliveryService::run_once`].
    pub delivery: DeliveryService,
    /// Replays dead letters, see [`Replayer::run_once`].
    pub replayer: Replayer,
    /// The journal's reading end, which the ingest workers would own.
    pub reader: JournalReader,
}
