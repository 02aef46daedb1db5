//! The store: organisations, keys, endpoints, events and their deliveries, in SQLite or PostgreSQL.
//!
//! This file is the contract; `sqlite/` and `postgres/` keep it, each with what its engine does
//! best, in files of the same names. One conformance suite (`tests/it/store/`) holds both to it.
//! What needs no engine is shared: `plan` and `outcome` decide what is written, `rows` and `lease`
//! read what comes back, `error` judges faults, `migrations` lists the steps of the schema.
//!
//! # Rules
//! - A method takes the `OrgId` first and touches that tenant's rows only. One that cannot is named
//!   `*_across_orgs`.
//! - A method is one transaction: it happens as a whole or not at all.
//! - What an `Ok` reports survives power loss.
//! - Not found is `Ok(None)` or `Ok(false)`.
//! - Lists run from newest to oldest by `(time, id)` and fetch at most `limit` rows.
//! - Batches write rows that others may write too (dedup keys, events, deliveries) in key order, so that two
//!   batches cannot wait for each other in a circle.
//!
//! # Failure
//! [`StoreError`] says the one thing its caller must know: try again later ([`StoreError::Unavailable`])
//! or never with this content ([`StoreError::Refused`]).
//!
//! **Invariant:** an event row and its delivery rows commit together, so the presence of an event
//! proves that it was planned. Nothing plans an event that is already there.

mod claim;
mod error;
mod lease;
mod migrations;
mod outcome;
mod plan;
pub mod postgres;
mod rows;
pub mod sqlite;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{
    ApiKey, ApiKeyId, Attempt, DeadLetter, Delivery, DeliveryFilter, DeliveryId, Endpoint,
    EndpointChange, EndpointId, Event, EventFilter, EventId, InstanceId, Lease, LeasedDelivery,
    Org, OrgChange, OrgId, Outcome, Page, PageRequest, Timestamp,
};
use crate::runtime::Stopwatch;
use crate::telemetry::{DbOperation, Metrics};

pub use claim::{ClaimCursor, ClaimRequest, Claimed};

/// A store as the rest of the crate sees it.
pub type SharedStore = Arc<dyn Store>;

/// Everything the product asks of a store.
pub trait Store:
    OrgStore + KeyStore + EndpointStore + EventStore + DeliveryStore + Maintenance
{
}

impl<T> Store for T where
    T: OrgStore + KeyStore + EndpointStore + EventStore + DeliveryStore + Maintenance
{
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot now: no connection, no disk, a lock held too long, a lost race. The same call may
    /// succeed later.
    #[error("the store is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// It will not: it refuses this content whenever it is asked.
    #[error("the store refused the content: {0}")]
    Refused(#[source] sqlx::Error),
    /// A row holds what this version of the program never wrote.
    #[error("the store holds a value that cannot be read: {0}")]
    Corrupt(String),
}

/// A step of the schema, as `hookgate migrate status` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the schema has it.
    pub applied: bool,
}

/// Schema and upkeep.
#[async_trait]
pub trait Maintenance: Send + Sync {
    /// Answers when the store can be reached and read.
    async fn ping(&self) -> Result<(), StoreError>;
    /// Applies every migration that is missing, safely beside other instances doing the same, and
    /// returns how many that were.
    async fn migrate_up(&self) -> Result<usize, MigrateError>;
    /// Takes the newest migration back and returns its version; `None` when none is applied.
    async fn migrate_down(&self) -> Result<Option<i64>, MigrateError>;
    /// Every migration this version knows, oldest first.
    async fn migration_status(&self) -> Result<Vec<MigrationStatus>, MigrateError>;
    /// Upkeep that must happen every few hours at least: partitions for the coming days where the
    /// backend has them, and dedup keys older than the window deleted in bounded steps.
    async fn maintain_across_orgs(&self, now: Timestamp) -> Result<(), StoreError>;
    /// Closes every connection, waiting for calls under way.
    async fn close(&self);
}

/// Why the schema could not be brought up or down.
#[derive(Debug, thiserror::Error)]
#[error("cannot migrate the schema: {0}")]
pub struct MigrateError(#[from] pub sqlx::migrate::MigrateError);

/// Organisations.
#[async_trait]
pub trait OrgStore: Send + Sync {
    /// Adds an organisation.
    async fn insert_org_across_orgs(&self, org: &Org) -> Result<(), StoreError>;
    /// One organisation.
    async fn org(&self, org: OrgId) -> Result<Option<Org>, StoreError>;
    /// Changes an organisation and returns it as it is now. `now` is written as the time of the
    /// change.
    async fn update_org(
        &self,
        org: OrgId,
        change: &OrgChange,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError>;
    /// All organisations.
    async fn orgs_across_orgs(&self, page: PageRequest) -> Result<Page<Org>, StoreError>;
}

/// API keys. Operators' keys belong to no organisation, so most methods look across.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Adds a key. Refused when its organisation does not exist.
    async fn insert_key_across_orgs(&self, key: &ApiKey) -> Result<(), StoreError>;
    /// The key with this public id, also when it has expired.
    async fn key_across_orgs(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError>;
    /// The keys of one organisation.
    async fn keys(&self, org: OrgId, page: PageRequest) -> Result<Page<ApiKey>, StoreError>;
    /// All keys, operators' too.
    async fn keys_across_orgs(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError>;
    /// Makes a key expire at `at`, unless it expires earlier anyway. `now` is written as the time
    /// of the change. `false` when there is no such key.
    async fn expire_key_across_orgs(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Adds `replacement` and makes `old` expire at `old_expires_at` (unless it expires earlier
    /// anyway), together. `false`, with nothing added, when there is no such old key.
    async fn rotate_key_across_orgs(
        &self,
        old: ApiKeyId,
        old_expires_at: Timestamp,
        replacement: &ApiKey,
    ) -> Result<bool, StoreError>;
    /// Keys that were added or changed at `since` or later, and keys of organisations that were.
    async fn keys_changed_across_orgs(&self, since: Timestamp)
    -> Result<Vec<ApiKeyId>, StoreError>;
}

/// Endpoints.
#[async_trait]
pub trait EndpointStore: Send + Sync {
    /// Adds an endpoint. Refused when its organisation does not exist.
    async fn insert_endpoint(&self, org: OrgId, endpoint: &Endpoint) -> Result<(), StoreError>;
    /// One endpoint, its secret with it.
    async fn endpoint(&self, org: OrgId, id: EndpointId) -> Result<Option<Endpoint>, StoreError>;
    /// The organisation's endpoints.
    async fn endpoints(&self, org: OrgId, page: PageRequest) -> Result<Page<Endpoint>, StoreError>;
    /// Changes an endpoint and returns it as it is now. Disabling one parks its pending deliveries
    /// (they are claimed no more), enabling it makes the parked ones due at `now`.
    async fn update_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        change: &EndpointChange,
        now: Timestamp,
    ) -> Result<Option<Endpoint>, StoreError>;
    /// Removes an endpoint and cancels its pending deliveries. `false` when there is none.
    async fn delete_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}

/// What became of a batch of events.
#[derive(Debug, Default)]
pub struct Persisted {
    /// Events that became a row now.
    pub stored: usize,
    /// Events that were dropped: their `dedup_id` was taken by another one, or they were stored before.
    pub duplicates: usize,
    /// Deliveries that were planned, leased ones included.
    pub planned: usize,
    /// The planned deliveries that the caller holds the lease of, at most as many as it had room for.
    pub leased: Vec<LeasedDelivery>,
}

/// Room for deliveries that the caller could start at once.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRoom<'a> {
    /// The lease to plan them under.
    pub lease: Lease,
    /// How many at the most.
    pub deliveries_max: usize,
    /// Endpoints whose deliveries are not leased, in ascending order.
    pub except: &'a [EndpointId],
}

/// Events.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Stores events and plans one delivery for every enabled endpoint that wants them, leased as far
    /// as there is room; ordered ones never are.
    ///
    /// Storing an event again changes nothing. Of the events of one organisation with one
    /// `dedup_id` whose `received_at` lie less than the dedup window apart, the one that is stored
    /// first is kept. `now` is written as the time the deliveries were planned.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when one of the events is at fault; then none is stored, and the
    /// caller splits the batch to find it.
    async fn persist_events_across_orgs(
        &self,
        events: &[Arc<Event>],
        room: Option<LeaseRoom<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError>;
    /// Those of `orgs` that have an ordered endpoint, in ascending order. Their events are to be
    /// persisted in the order they were accepted.
    async fn ordered_orgs_across_orgs(&self, orgs: &[OrgId]) -> Result<Vec<OrgId>, StoreError>;
    /// Puts an event that the store refuses among the dead letters, `record` being the event in the
    /// journal's form. Doing it again changes nothing.
    async fn bury_event(
        &self,
        org: OrgId,
        event: EventId,
        record: &[u8],
        detail: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// One event.
    async fn event(&self, org: OrgId, id: EventId) -> Result<Option<Event>, StoreError>;
    /// The organisation's events that pass the filter.
    async fn events(
        &self,
        org: OrgId,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, StoreError>;
}

/// Deliveries, their attempts, and dead letters.
#[async_trait]
pub trait DeliveryStore: Send + Sync {
    /// Leases deliveries that are due, shared out among the endpoints that have any; each gives
    /// those that are due longest first. Two callers never hold one delivery. Of ordered
    /// deliveries to one endpoint only the oldest is leased, and only while no other one is.
    async fn claim_deliveries_across_orgs(
        &self,
        request: ClaimRequest<'_>,
    ) -> Result<Claimed, StoreError>;
    /// Records what became of leased deliveries: the attempt, the new standing, and a dead letter
    /// for one that is given up; and what that says of their endpoints: since when one fails, and
    /// that it is disabled, its pending deliveries parked, when it is gone or has failed for too
    /// long. Whoever subscribes to the operational events of this gets them, planned here. Outcomes whose lease was lost, or whose delivery was cancelled, change nothing; the
    /// number of those that counted is returned.
    async fn record_outcomes_across_orgs(&self, outcomes: &[Outcome]) -> Result<usize, StoreError>;
    /// Makes everything that a server has leased due at `now` and returns how much that was: for a
    /// server that starts again, whose earlier leases nobody uses any more.
    async fn release_leases_across_orgs(
        &self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<u64, StoreError>;
    /// One delivery.
    async fn delivery(&self, org: OrgId, id: DeliveryId) -> Result<Option<Delivery>, StoreError>;
    /// The organisation's deliveries that pass the filter.
    async fn deliveries(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError>;
    /// The attempts of one delivery, first to last.
    async fn attempts(&self, org: OrgId, id: DeliveryId) -> Result<Vec<Attempt>, StoreError>;
    /// Makes a delivery pending and due at `now`, whatever became of it, and takes back its dead
    /// letter. The count of attempts goes on: one that had used up its schedule gets one more.
    async fn retry_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Result<Delivery, RetryRefusal>, StoreError>;
    /// The organisation's dead letters.
    async fn dead_letters(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>, StoreError>;
}

/// Why a delivery cannot be retried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryRefusal {
    /// There is no such delivery.
    NotFound,
    /// Its endpoint was removed.
    EndpointRemoved,
    /// Its endpoint is disabled.
    EndpointDisabled,
    /// An attempt is under way.
    InProgress,
}

/// A dedup key is kept this much longer than the window: events wait in the journal for a while,
/// and a key must outlast every event that it could still turn away.
const DEDUP_KEYS_KEPT_LONGER: Duration = Duration::from_hours(24);

/// Dedup keys deleted by one statement at the most, so that none holds its locks for long.
const DEDUP_KEYS_PER_STEP: i64 = 10_000;

/// Runs a store call and adds its time to the histogram of its kind.
async fn timed<T>(metrics: &Metrics, operation: DbOperation, call: impl Future<Output = T>) -> T {
    let watch = Stopwatch::start();
    let result = call.await;
    metrics.db_operation(operation).observe(watch.seconds());
    result
}
