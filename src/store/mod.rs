//! The store: organisations, keys, endpoints, events and their deliveries, in SQLite or PostgreSQL.
//!
//! [`Store`] is one struct over an `engine/`, which hides the two databases behind one transaction,
//! parameter and row type. Each subject has a file, in which every statement is written once; the doc of a
//! method is its contract. Hot paths are written per engine, side by side. One conformance suite
//! (`tests/it/store/`) runs on both.
//!
//! # Rules
//! - A method takes the `OrgId` first and touches that tenant's rows only. Methods that act across
//!   organisations are reached through [`Store::system`].
//! - A method is one transaction: it happens as a whole or not at all. Only outcomes are recorded in parts where
//!   one connection writes, and may be recorded again.
//! - What an `Ok` reports survives power loss.
//! - Not found is `Ok(None)` or `Ok(false)`.
//! - Lists run from newest to oldest by `(time, id)` and fetch at most `limit` rows.
//! - Locks are taken in one order: organisations by id, endpoints by id, dedup keys, events, pending deliveries
//!   by key, finished deliveries, rollups, so that two transactions cannot wait for each other in a circle. A transaction that
//!   changes an organisation or counts a change of its endpoints locks that row `FOR NO KEY UPDATE` first thing;
//!   storing events locks it `FOR KEY SHARE`, a step of retention `FOR SHARE`, and who drops a day locks the table of
//!   organisations `IN SHARE MODE`. Several rows of one table are locked in key order, also by whoever holds
//!   the lock on their organisation. `tests/it/store/deadlocks/` runs every pair of operations.
//! - A change of organisations, keys, endpoints or deliveries names its actor (`by`), and the audit log gets
//!   its entry in the same transaction. A call that changes nothing gets none.
//! - Nothing of an organisation that is being deleted is added: a transaction that stores events locks its
//!   row, so that a deletion begins before or after a batch.
//!
//! # Failure
//! [`StoreError`] says the one thing its caller must know: try again later ([`StoreError::Unavailable`])
//! or never with this content ([`StoreError::Refused`]).
//!
//! **Invariant:** an event row and its delivery rows commit together, so the presence of an event
//! proves that it was planned. Nothing plans an event that is already there.

mod advisory_locks;
mod audit;
mod cancellation;
mod changes;
mod claims;
mod columns;
mod crypto;
mod dead_letters;
mod deliveries;
mod delivery_counts;
mod delivery_lookups;
mod delivery_pages;
mod delivery_types;
mod endpoint_attempts;
mod endpoint_versions;
mod endpoints;
mod engine;
mod erasures;
mod error;
mod event_deliveries;
mod event_type_range;
mod events;
mod failing_endpoints;
mod filter;
mod idempotency;
mod inbox;
mod journal_marks;
mod keys;
mod list_query;
mod look_back;
mod maintenance;
mod metrics;
mod migrations;
mod org_deletion;
mod orgs;
mod outcomes;
mod page;
mod portal;
mod redeliveries;
mod replay_chunk;
mod replay_selection;
mod replays;
mod retention;
mod rollups;
mod schedule;
mod secrets;
mod servers;
mod sessions;
mod suspension;
mod type_key;
mod usage;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::StoreConfig;
use crate::domain::{Org, OrgLimits, Precondition, Revision};
use crate::runtime::{Clock, Stopwatch};

use audit::AuditRecord;

pub use cancellation::{CANCELS_INLINE_MAX, CANCELS_PER_STEP, PendingCancellation};
pub use changes::CHANGES_KEPT;
use changes::FollowedOrgs;
pub use claims::{
    ClaimCursor, ClaimedDeliveries, ClaimedDelivery, DueEndpoint, DueEndpoints, LeaseCursor,
    LeaseGrant, ReadableDeliveries,
};
use crypto::Keyring;
pub use deliveries::{DeliveryRefusal, PENDING_COUNTED_MAX};
pub use delivery_lookups::ATTEMPTS_SHOWN_MAX;
pub use endpoints::EndpointChanges;
pub use engine::{ConnectionSplit, QueryPlans};
use engine::{Engine, PostgresEngine, SqliteEngine, Workload};
pub use erasures::{ErasureStep, QuarantinedRecord};
pub use error::{Result, StoreError};
pub use events::{
    ChangedEndpoint, Copies, EndpointsSince, EventBatch, OrgEndpoints, Persisted, PlanRefusal,
    PlannedDelivery, SHORT_WEIGHT_MAX, UnreadableEndpoint, plan_deliveries, weight,
};
pub use idempotency::{IdempotencyClaim, KeptAnswer, NamedRequest};
pub use inbox::{InboxBacklog, InboxLookup, InboxSettle, ReceiveRequest, ReceivedEvents};
pub use journal_marks::{MarkState, Timeline};
pub use keys::{ChangeMark, KeyChange, KeyChanges};
pub use maintenance::MigrateError;
pub use metrics::{ConnectionPool, DbOperation, DeliveryState, ReadEnd, StoreMetrics};
pub use migrations::MigrationStatus;
pub use orgs::AddRefusal;
pub use redeliveries::ReplayedEvent;
pub use replay_chunk::REPLAYS_PER_STEP;
pub use replays::{QuarantinedEvent, ReplayStep};
pub(crate) use retention::retention_defaults;
pub use retention::{RetentionFailure, RetentionReport};
pub use rollups::{
    ACCOUNTS_SAMPLED_FROM, AccountGroup, AccountRow, BucketPage, BucketUnit, CountedWindow,
    DAYS_PER_PAGE, DELTAS_COUNTED_MAX, DeliveryCounts, EndpointGroup, EndpointWindow, EventCount,
    EventTypeRow, FoldCursor, FoldStep, GROUPS_PER_PAGE, GroupPage, LatencyHistogram, MetricsScope,
    MonthUsage, OTHER_TYPES, TYPES_COUNTED_MAX, TimeBucket, USERS_COUNTED_MAX, WindowCounts,
};
pub use schedule::Schedule;
pub use secrets::{MissingKey, Reencryption};
pub use servers::{OtherServer, RegisteredServer, ServerRow};
pub use sessions::SessionHash;
pub use usage::Holdings;

/// The store. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Store {
    engine: Arc<Engine>,
    keyring: Arc<Keyring>,
    metrics: Arc<StoreMetrics>,
    dedup_window: Duration,
    /// How long events are kept, if not for ever: one that claims to be older counts by when it was accepted.
    event_retention: Option<Duration>,
    /// The quotas of organisations that have none of their own.
    quota_defaults: OrgLimits,
    /// Whose schedule time makes deliveries due; without one, the time that callers give does.
    clock: Option<Clock>,
    /// Whose changes are logged.
    followed: Arc<FollowedOrgs>,
    /// What changes of organisations, keys and endpoints require.
    precondition: Option<Arc<Precondition>>,
}

impl Store {
    /// The methods that act across organisations.
    pub const fn system(&self) -> System<'_> {
        System(self)
    }

    /// A store that can be reached and has no tables, so that it takes nothing. For tests.
    #[cfg(test)]
    pub(crate) async fn without_tables(directory: &Path) -> Self {
        let config = StoreConfig::in_directory(directory);
        let metrics = StoreMetrics::register(&crate::telemetry::Registry::new()).unwrap();
        Self::open_sqlite(&config.sqlite_path(), &config, metrics).await.unwrap()
    }

    /// Opens a SQLite file, creating it and its directory when missing. Does not migrate.
    pub async fn open_sqlite(
        path: &Path,
        config: &StoreConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self> {
        let store = Self::open_sqlite_lazily(path, config, metrics)?;
        store.reach(config).await?;
        Ok(store)
    }

    /// A SQLite file that is opened, and created when missing, once it is needed, so that it may be locked now. Its
    /// directory is created.
    pub fn open_sqlite_lazily(
        path: &Path,
        config: &StoreConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self> {
        let engine = SqliteEngine::lazy(path, config, Arc::clone(&metrics))?;
        Self::over(Engine::Sqlite(engine), config, metrics)
    }

    /// Connects to a PostgreSQL database. Does not migrate.
    pub async fn connect_postgres(
        url: &str,
        config: &StoreConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self> {
        let store = Self::connect_postgres_lazily(url, config, metrics)?;
        store.reach(config).await?;
        Ok(store)
    }

    /// A PostgreSQL database to which connections are made once they are needed, so that it may be away now.
    pub fn connect_postgres_lazily(
        url: &str,
        config: &StoreConfig,
        metrics: Arc<StoreMetrics>,
    ) -> Result<Self> {
        Self::over(
            Engine::Postgres(PostgresEngine::lazy(url, config, Arc::clone(&metrics))?),
            config,
            metrics,
        )
    }

    /// Makes a connection, to find out whether that works.
    pub async fn reach(&self, config: &StoreConfig) -> Result<()> {
        match &*self.engine {
            Engine::Sqlite(engine) => engine.reach().await,
            Engine::Postgres(engine) => engine.reach(config).await,
        }
    }

    fn over(engine: Engine, config: &StoreConfig, metrics: Arc<StoreMetrics>) -> Result<Self> {
        let keyring = Arc::new(Keyring::new(config.secrets_key.as_ref())?);
        let (engine, quota_defaults) = (Arc::new(engine), OrgLimits::default());
        let dedup_window = config.dedup_window;
        let (event_retention, clock, followed) = (None, None, Arc::default());
        Ok(Self {
            engine,
            keyring,
            metrics,
            dedup_window,
            event_retention,
            quota_defaults,
            clock,
            followed,
            precondition: None,
        })
    }

    /// The same store with the connections for lists and look-ups: few, each statement within `READ_TIMEOUT`, and
    /// ended when its caller is gone.
    pub fn for_reads(&self) -> Self {
        self.on(Workload::Reads)
    }

    /// The same as [`Self::for_reads`], from the replica if there is one: what was written in the last seconds may be
    /// missing.
    pub fn for_replica_reads(&self) -> Self {
        self.on(Workload::ReplicaReads)
    }

    /// Whether this is the store of [`Self::for_replica_reads`], and there is a replica.
    pub fn reads_replica(&self) -> bool {
        self.engine.reads_replica()
    }

    /// The same store with the connections for key look-ups, the watch for revoked keys, and readiness.
    pub fn for_keys(&self) -> Self {
        self.on(Workload::Keys)
    }

    /// The same store with the connections for claims and outcomes.
    pub fn for_delivery(&self) -> Self {
        self.on(Workload::Delivery)
    }

    /// How the connections are divided.
    pub fn connection_split(&self) -> ConnectionSplit {
        self.engine.split()
    }

    /// Sets the gauges of the connections in use.
    pub fn report_connections(&self) {
        self.engine.report_connections(&self.metrics);
    }

    /// The same store, and the plans of the statements that it runs, but for those of hot paths in transactions.
    pub fn recording_plans(&self) -> (Self, Arc<QueryPlans>) {
        self.recording(QueryPlans::default())
    }

    /// As [`Self::recording_plans`]; those of reads outside of transactions tell what they took, too.
    pub fn measuring_plans(&self) -> (Self, Arc<QueryPlans>) {
        self.recording(QueryPlans::measured())
    }

    fn recording(&self, plans: QueryPlans) -> (Self, Arc<QueryPlans>) {
        let plans = Arc::new(plans);
        let engine = Arc::new(self.engine.recording(&plans));
        (Self { engine, ..self.clone() }, plans)
    }

    fn on(&self, workload: Workload) -> Self {
        Self { engine: Arc::new(self.engine.on(workload)), ..self.clone() }
    }

    /// The same store, which holds organisations without a quota of their own to these. Only a server does:
    /// what operators add by the command line is their decision.
    #[must_use]
    pub fn with_quota_defaults(self, quota_defaults: OrgLimits) -> Self {
        Self { quota_defaults, ..self }
    }

    /// The same store, which counts events that claim to be older than this by when they were accepted.
    #[must_use]
    pub fn with_event_retention(self, event_retention: Option<Duration>) -> Self {
        Self { event_retention, ..self }
    }

    /// The same store, which changes and deletes organisations, keys and endpoints only in these states, and fails with
    /// [`StoreError::Changed`] otherwise.
    #[must_use]
    pub fn only_if(self, precondition: Precondition) -> Self {
        Self { precondition: Some(Arc::new(precondition)), ..self }
    }

    /// Checks that a row may be changed, which the transaction of the change has locked.
    fn require(&self, revision: &Revision) -> Result<()> {
        let holds = self.precondition.as_ref().is_none_or(|required| required.holds(revision));
        if holds { Ok(()) } else { Err(StoreError::Changed) }
    }

    /// An organisation's limits, with the defaults of this store where it has none of its own.
    pub fn effective_limits(&self, org: &Org) -> OrgLimits {
        org.limits.or(&self.quota_defaults)
    }
}

/// The store without the scope of one organisation: what the server and its operators do for all of them.
#[derive(Clone, Copy, Debug)]
pub struct System<'a>(&'a Store);

/// Text that both engines can store: PostgreSQL knows no NUL (its manual, section 8.3), and texts
/// of receivers and of errors may carry one.
fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Runs a store call and adds its time to the histogram of its kind.
async fn timed<T>(
    metrics: &StoreMetrics,
    operation: DbOperation,
    call: impl Future<Output = T>,
) -> T {
    let watch = Stopwatch::start();
    let result = call.await;
    metrics.db_operations_latency_seconds.of(operation).observe(watch.seconds());
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_characters_do_not_reach_the_store() {
        assert_eq!(storable("a\0b"), "a\u{fffd}b");
        assert!(matches!(storable("ab"), Cow::Borrowed("ab")));
    }
}
