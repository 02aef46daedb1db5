//! The store: organisations, keys, endpoints, events and their deliveries, in SQLite or PostgreSQL.
//!
//! This file is the contract; `sqlite/` and `postgres/` keep it, each with what its engine does
//! best, in files of the same names. One conformance suite (`tests/it/store/`) holds both to it.
//! What needs no engine is shared: `audit` words the log, `plan`, `outcome` and `replay` decide what is written, `rows` and
//! `lease` read what comes back, `seal` encrypts secrets, `error` judges faults, `migrations` lists
//! the steps of the schema.
//!
//! # Rules
//! - A method takes the `OrgId` first and touches that tenant's rows only. One that cannot is named
//!   `*_across_orgs`.
//! - A method is one transaction: it happens as a whole or not at all. Two take their batches in parts where
//!   one connection writes: what [`EventStore::persist_events_across_orgs`] has taken it says
//!   ([`Persisted::taken`]), and outcomes may be recorded again.
//! - What an `Ok` reports survives power loss.
//! - Not found is `Ok(None)` or `Ok(false)`.
//! - Lists run from newest to oldest by `(time, id)` and fetch at most `limit` rows.
//! - Batches write rows that others may write too (dedup keys, events, deliveries) in key order, so that two
//!   batches cannot wait for each other in a circle.
//! - Whoever changes organisations, keys or endpoints, or what becomes of deliveries, says who it is
//!   (`by`), and the audit log gets its line in the same transaction. What changes nothing gets none.
//! - Nothing of an organisation that is being deleted is added: what stores events holds its row, so
//!   that a deletion begins before or after a batch.
//!
//! # Failure
//! [`StoreError`] says the one thing its caller must know: try again later ([`StoreError::Unavailable`])
//! or never with this content ([`StoreError::Refused`]).
//!
//! **Invariant:** an event row and its delivery rows commit together, so the presence of an event
//! proves that it was planned. Nothing plans an event that is already there.

mod audit;
mod claim;
mod error;
mod lease;
mod line;
mod migrations;
mod outcome;
mod plan;
pub mod postgres;
mod replay;
mod rows;
mod seal;
pub mod sqlite;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::{
    Actor, ApiKey, ApiKeyId, Attempt, AuditEntry, Cursor, DeadLetter, DeadLetterFilter,
    DeadLetterId, Delivery, DeliveryFilter, DeliveryId, Endpoint, EndpointChange, EndpointId,
    Event, EventFilter, EventId, InstanceId, KeyRotationRefusal, Lease, LeasedDelivery, Month, Org,
    OrgChange, OrgId, Outcome, Page, PageRequest, Replay, ReplayId, SecretRotationRefusal,
    SigningSecret, Timestamp,
};
use crate::runtime::{Stopwatch, Wake};
use crate::telemetry::{DbOperation, Metrics};

pub use claim::{ClaimCursor, ClaimRequest, Claimed};

/// A store as the rest of the crate sees it.
pub type SharedStore = Arc<dyn Store>;

/// Everything the product asks of a store.
pub trait Store:
    OrgStore
    + KeyStore
    + UsageStore
    + AuditStore
    + EndpointStore
    + SecretStore
    + EventStore
    + DeliveryStore
    + CancelStore
    + DeadLetterStore
    + ReplayStore
    + Maintenance
{
}

impl<T> Store for T where
    T: OrgStore
        + KeyStore
        + UsageStore
        + AuditStore
        + EndpointStore
        + SecretStore
        + EventStore
        + DeliveryStore
        + CancelStore
        + DeadLetterStore
        + ReplayStore
        + Maintenance
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
    /// Moves what was committed from the log to its place, where the backend leaves that to us. To be
    /// called every second or so; who writes has to wait less then.
    async fn checkpoint(&self) -> Result<(), StoreError>;
    /// Since when the delivery waits that has been due for longest and that nobody holds; `None`
    /// when none is due at `now`. Those of disabled endpoints are not due.
    async fn oldest_due_across_orgs(&self, now: Timestamp)
    -> Result<Option<Timestamp>, StoreError>;
    /// Closes every connection, waiting for calls in flight.
    async fn close(&self);
}

/// Why the schema could not be brought up or down.
#[derive(Debug, thiserror::Error)]
#[error("cannot migrate the schema: {0}")]
pub struct MigrateError(#[from] pub sqlx::migrate::MigrateError);

/// Organisations.
///
/// Whoever changes something is named, and the audit log gets its line in the same transaction.
#[async_trait]
pub trait OrgStore: Send + Sync {
    /// Adds an organisation.
    async fn insert_org_across_orgs(&self, org: &Org, by: &Actor) -> Result<(), StoreError>;
    /// One organisation, also one that was deleted.
    async fn org(&self, org: OrgId) -> Result<Option<Org>, StoreError>;
    /// Changes an organisation and returns it as it is now; `None` when there is none, or it is being
    /// deleted. `now` is written as the time of the change.
    async fn update_org(
        &self,
        org: OrgId,
        change: &OrgChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError>;
    /// Suspends an organisation, or ends that, and returns it as it is now; `None` as with
    /// [`Self::update_org`]. While it is suspended its endpoints are disabled, whose deliveries wait
    /// without using up attempts; what it had accepted is stored and planned, and waits, too.
    async fn suspend_org(
        &self,
        org: OrgId,
        suspended: bool,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError>;
    /// Begins the deletion of an organisation and returns it as it is now; `None` as with
    /// [`Self::update_org`]. From then on nothing of it is stored any more: events of it that come
    /// out of a journal are dropped.
    async fn delete_org(
        &self,
        org: OrgId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError>;
    /// Does one bounded step of the deletion that was begun first, and returns that organisation as it
    /// is now: with [`OrgDeletion::done_at`](crate::domain::OrgDeletion) when nothing of it is left but its
    /// row. `None` when there is nothing to delete, or another instance is at it.
    async fn delete_step_across_orgs(&self, now: Timestamp) -> Result<Option<Org>, StoreError>;
    /// All organisations but those whose deletion is done.
    async fn orgs_across_orgs(&self, page: PageRequest) -> Result<Page<Org>, StoreError>;
    /// The organisations that are suspended or being deleted: nothing is sent for them.
    async fn paused_across_orgs(&self) -> Result<Vec<OrgId>, StoreError>;
    /// Wakes each of `wakes` when keys or organisations may have been changed by other processes.
    /// Only a hint, which may be missed: whoever sleeps polls. Ends with the connection it listens
    /// on; never where a backend has no such hints.
    async fn hint_changes_across_orgs(&self, wakes: &[Wake]) -> Result<(), StoreError>;
}

/// That a key, or the organisation it belongs to, was added or changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyChange {
    /// The key.
    pub key: ApiKeyId,
    /// The change's number in its database. A key's later changes have higher ones.
    pub number: i64,
}

/// How far a look for changes got, and where the next one goes on. Counted by the database, so that it
/// does not matter what clocks say. Lower than one before only when the database was put back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChangeMark(i64);

/// What a look for changes found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyChanges {
    /// The changes, in no order.
    pub changes: Vec<KeyChange>,
    /// Where the next look goes on.
    pub mark: ChangeMark,
}

/// API keys. Operators' keys belong to no organisation, so most methods look across.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Adds a key. Refused when its organisation does not exist.
    async fn insert_key_across_orgs(
        &self,
        key: &ApiKey,
        by: &Actor,
    ) -> Result<Result<(), AddRefusal>, StoreError>;
    /// The key with this public id, also when it has expired.
    async fn key_across_orgs(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError>;
    /// The keys of one organisation.
    async fn keys(&self, org: OrgId, page: PageRequest) -> Result<Page<ApiKey>, StoreError>;
    /// All keys, operators' too.
    async fn keys_across_orgs(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError>;
    /// Makes a key expire at `at`; one that is still good and thereby ends `now` is revoked. Nothing
    /// is changed when it expires earlier anyway. `false` when there is no such key.
    async fn expire_key_across_orgs(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
    /// Adds `replacement`, a key of the same organisation, and makes `old` expire `grace` after `now`
    /// (unless it expires earlier anyway), together. Nothing is added when the old key may not be
    /// rotated any more; [`ApiKey::check_rotation`] has the rules. Rotating takes no room of the
    /// quota, so that an organisation with all the keys it may have can rotate them; with a grace as
    /// many may be in theirs, so that it has twice its quota at most.
    async fn rotate_key_across_orgs(
        &self,
        old: ApiKeyId,
        grace: Duration,
        replacement: &ApiKey,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<(), KeyRotationRefusal>, StoreError>;
    /// Which keys were added or changed since the look that ended at `since`, and which belong to
    /// organisations that were: by whichever process, and whatever time it took it for. Some that the
    /// look before named may be named again. Without `since` only where to begin.
    async fn keys_changed_across_orgs(
        &self,
        since: Option<ChangeMark>,
    ) -> Result<KeyChanges, StoreError>;
}

/// What was used: written down now and then, and not with every request.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Events that an organisation had accepted in a month, as far as they were added here.
    async fn month_events(&self, org: OrgId, month: Month) -> Result<u64, StoreError>;
    /// Adds what organisations had accepted in a month, and returns what that makes for each. Nothing
    /// is added to those that are being deleted.
    async fn add_month_events_across_orgs(
        &self,
        month: Month,
        events: &[(OrgId, u64)],
    ) -> Result<Vec<(OrgId, u64)>, StoreError>;
    /// Writes `at` as the time that keys were last used.
    async fn touch_keys_across_orgs(
        &self,
        keys: &[ApiKeyId],
        at: Timestamp,
    ) -> Result<(), StoreError>;
    /// How many endpoints and good keys an organisation has.
    async fn holdings(&self, org: OrgId, now: Timestamp) -> Result<Holdings, StoreError>;
}

/// The audit log. Nothing changes a line of it; an organisation's own are deleted with it.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Writes down that an endpoint's secret was shown.
    async fn note_secret_shown(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// What was changed of one organisation's.
    async fn audit_log(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError>;
    /// What was changed of one organisation's, and its creation and deletion, whose lines outlive it.
    async fn org_log_across_orgs(
        &self,
        org: OrgId,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError>;
    /// All that was changed.
    async fn audit_log_across_orgs(
        &self,
        page: PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError>;
}

/// Why an organisation does not get one more of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddRefusal {
    /// It has as many as it may have, which is this many.
    OverQuota(u32),
    /// It is being deleted.
    OrgDeleted,
}

impl From<AddRefusal> for KeyRotationRefusal {
    fn from(refusal: AddRefusal) -> Self {
        match refusal {
            AddRefusal::OverQuota(most) => Self::OverQuota(most),
            AddRefusal::OrgDeleted => Self::NotFound,
        }
    }
}

/// The rules for rotating a key, of which the store has looked up what `room` its organisation has for
/// another one in its grace.
fn check_rotation(
    old: &ApiKey,
    room: Result<(), AddRefusal>,
    grace: Duration,
    now: Timestamp,
) -> Result<(), KeyRotationRefusal> {
    old.check_rotation(now)?;
    match room {
        // Whoever leaves no key in its grace needs no room.
        Err(AddRefusal::OverQuota(_)) if grace.is_zero() => Ok(()),
        room => Ok(room?),
    }
}

/// How many things an organisation has that are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holdings {
    /// Endpoints, disabled ones among them.
    pub endpoints: u64,
    /// Keys that are good, those in their grace among them.
    pub keys: u64,
    /// Keys that were rotated and are good still.
    pub keys_in_grace: u64,
}

/// Endpoints.
#[async_trait]
pub trait EndpointStore: Send + Sync {
    /// Adds an endpoint. Refused when its organisation does not exist.
    async fn insert_endpoint(
        &self,
        org: OrgId,
        endpoint: &Endpoint,
        by: &Actor,
    ) -> Result<Result<(), AddRefusal>, StoreError>;
    /// One endpoint, its secret with it.
    async fn endpoint(&self, org: OrgId, id: EndpointId) -> Result<Option<Endpoint>, StoreError>;
    /// The organisation's endpoints.
    async fn endpoints(&self, org: OrgId, page: PageRequest) -> Result<Page<Endpoint>, StoreError>;
    /// Changes an endpoint and returns it as it is now; `updated_at` is `now` also when nothing else
    /// is changed, which the audit log does not tell. Disabling one parks its pending deliveries
    /// (they are claimed no more), enabling it makes the parked ones due at `now`.
    async fn update_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        change: &EndpointChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Endpoint>, StoreError>;
    /// Removes an endpoint and cancels its pending deliveries. `false` when there is none.
    async fn delete_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}

/// Endpoints' secrets: what they sign with, and how the store keeps that.
///
/// Secrets and custom header fields are written in clear without `SECRETS_KEY`, and encrypted by its
/// first key with it. Both are read, whatever the setting; what cannot be is
/// [`DecryptionError`](crate::domain::DecryptionError) within its endpoint.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// Puts `new` in the place of an endpoint's secret, which goes on signing for `overlap`, and
    /// returns the endpoint as it is now. [`Endpoint::rotated_secrets`] has the rules.
    async fn rotate_secret(
        &self,
        org: OrgId,
        id: EndpointId,
        new: &SigningSecret,
        overlap: Duration,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Endpoint, SecretRotationRefusal>, StoreError>;
    /// Encrypts what is in clear, or by another key, by the first key: one step, over some endpoints
    /// after `after` in the order of their ids. Doing it again changes nothing, so it can be broken
    /// off at any time and begun anew. Without keys it changes nothing.
    async fn reseal_secrets_across_orgs(
        &self,
        after: Option<EndpointId>,
    ) -> Result<Resealed, StoreError>;
    /// The keys that something is encrypted by and that `SECRETS_KEY` does not list: a look at every
    /// endpoint, for a server that starts.
    async fn missing_keys_across_orgs(&self) -> Result<Vec<MissingKey>, StoreError>;
}

/// What a step of encrypting did.
#[derive(Debug, Default)]
pub struct Resealed {
    /// Endpoints that were looked at.
    pub endpoints: usize,
    /// Those that were written anew.
    pub encrypted: usize,
    /// Those that cannot be read, which stay as they are.
    pub unreadable: Vec<EndpointId>,
    /// Where the next step goes on; `None` after the last one.
    pub next: Option<EndpointId>,
}

/// A key that is needed and not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingKey {
    /// Its id, as sealed texts name it.
    pub id: String,
    /// How many texts are encrypted by it.
    pub texts: i64,
}

/// Endpoints in one step of encrypting.
const RESEALED_PER_STEP: i64 = 100;

/// Events that are stored in a transaction which others need not mind, weighed by [`weight`].
pub const SHORT_WEIGHT_MAX: usize = 64;
/// Bytes of payload that take as long to store as an event's rows, about.
const PAYLOAD_BYTES_WEIGHED: usize = 4 * 1024;

/// How long it takes to store some events, in events with small payloads.
pub fn weight<'a>(events: impl IntoIterator<Item = &'a Arc<Event>>) -> usize {
    events.into_iter().map(|event| 1 + event.payload.len() / PAYLOAD_BYTES_WEIGHED).sum()
}

/// What became of a batch of events.
#[derive(Debug, Default)]
pub struct Persisted {
    /// Events from the first on that this is about. Fewer than the batch has when a store with one writer
    /// broke off for somebody who waits for it: the others are as they were, to be given again.
    pub taken: usize,
    /// Events that became a row now.
    pub stored: usize,
    /// Events that were dropped: their `dedup_id` was taken by another one, or they were stored before.
    pub duplicates: usize,
    /// Events that were dropped: their organisation is being deleted.
    pub dropped: usize,
    /// Deliveries that were planned, leased ones included.
    pub planned: usize,
    /// The planned deliveries that the caller holds the lease of, at most as many as it had room for.
    pub leased: Vec<LeasedDelivery>,
}

impl Persisted {
    /// Counts in what became of the events behind.
    fn add(&mut self, more: Self) {
        self.taken += more.taken;
        self.stored += more.stored;
        self.duplicates += more.duplicates;
        self.dropped += more.dropped;
        self.planned += more.planned;
        self.leased.extend(more.leased);
    }
}

/// Room for deliveries that the caller could start at once.
#[derive(Clone, Copy, Debug)]
pub struct LeaseBudget<'a> {
    /// The lease to plan them under.
    pub lease: Lease,
    /// How many at most.
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
    /// first is kept. `now` is written as the time the deliveries were planned. It may take the first of
    /// the events only, one at least ([`Persisted::taken`]).
    ///
    /// # Errors
    /// [`StoreError::Refused`] when one of the events is at fault; then none is stored, and the
    /// caller splits the batch to find it.
    async fn persist_events_across_orgs(
        &self,
        events: &[Arc<Event>],
        room: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted, StoreError>;
    /// Those of `orgs` that have an ordered endpoint, in ascending order. Their events are to be
    /// persisted in the order they were accepted.
    async fn ordered_orgs_across_orgs(&self, orgs: &[OrgId]) -> Result<Vec<OrgId>, StoreError>;
    /// Stores an event that is new and plans one delivery of it, to this endpoint whatever its
    /// filters say and to no other. It is due at `now`.
    async fn plan_event(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        event: &Arc<Event>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<DeliveryId, PlanRefusal>, StoreError>;
    /// Puts an event that the store refuses among the dead letters, `record` being the event in the
    /// journal's form. Doing it again changes nothing.
    async fn quarantine_event(
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

/// Deliveries and their attempts.
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
    /// long, which the audit log tells, too. Whoever subscribes to the operational events of this
    /// gets them, planned here. Outcomes whose lease was lost, or whose delivery was cancelled,
    /// change nothing; the number of those that counted is returned. After an error some may be recorded;
    /// recording them again changes nothing.
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
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError>;
}

/// Calling deliveries off.
#[async_trait]
pub trait CancelStore: Send + Sync {
    /// Cancels a pending delivery. An attempt in flight ends, and its outcome counts no more. One
    /// that is cancelled already stays as it is.
    async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError>;
    /// Cancels pending deliveries to an endpoint that were planned by `until`, at most
    /// [`CANCELS_PER_STEP`] of them, and returns how many: the caller goes on until that is none.
    /// The audit log gets one line with that number.
    async fn cancel_pending(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        until: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<u64, StoreError>;
}

/// Dead letters.
#[async_trait]
pub trait DeadLetterStore: Send + Sync {
    /// The organisation's dead letters that pass the filter.
    async fn dead_letters(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>, StoreError>;
    /// One dead letter.
    async fn dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetter>, StoreError>;
    /// The record of an event that the store refused, as [`EventStore::quarantine_event`] was given it.
    async fn quarantined_record(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<Vec<u8>>, StoreError>;
    /// Deletes a dead letter; its delivery stays as it is. `false` when there is none.
    async fn delete_dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
        why: LetterDeletion,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError>;
}

/// Why a dead letter is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LetterDeletion {
    /// Its owner puts it aside.
    Removed,
    /// The event that had been refused is stored now.
    Stored,
}

/// Why no delivery was planned to an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlanRefusal {
    /// There is no such endpoint.
    NotFound,
    /// It is disabled.
    EndpointDisabled,
}

/// Replays: new deliveries that repeat old ones. They are due at once, start with no attempts, and
/// name the delivery they repeat. A dead letter of what was repeated is marked as replayed.
#[async_trait]
pub trait ReplayStore: Send + Sync {
    /// Repeats one delivery, whatever became of it.
    async fn replay_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError>;
    /// Delivers an event once more: to every endpoint that it was planned for, or to `endpoint`
    /// alone, whether it was planned for that or not. Endpoints that are disabled or removed are
    /// passed over and counted, unless `endpoint` is one, which is refused.
    async fn replay_event(
        &self,
        org: OrgId,
        id: EventId,
        endpoint: Option<EndpointId>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<ReplayedEvent, DeliveryRefusal>, StoreError>;
    /// Adds a replay of the dead letters that pass the filter, were given up by `now` and are not
    /// replayed yet. Steps do the work. `filter.replayed` is not looked at. `None` when there is no
    /// such organisation, or it is being deleted.
    async fn insert_replay(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>, StoreError>;
    /// One replay.
    async fn replay(&self, org: OrgId, id: ReplayId) -> Result<Option<Replay>, StoreError>;
    /// The organisation's replays.
    async fn replays(&self, org: OrgId, page: PageRequest) -> Result<Page<Replay>, StoreError>;
    /// Ends a running replay and returns it as it is now; one that is over stays as it is.
    /// `failure` says why it failed; without it, it was cancelled.
    async fn end_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        failure: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>, StoreError>;
    /// The running replay whose last step is the longest ago.
    async fn next_replay_across_orgs(&self) -> Result<Option<(OrgId, ReplayId)>, StoreError>;
    /// Deals with the next dead letters of a running replay, at most [`REPLAYS_PER_STEP`], in the
    /// order they were given up. Whoever does it, however often the process dies, each is dealt with
    /// once. `None` when the replay is not running, or somebody else does a step of it right now.
    async fn step_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        now: Timestamp,
    ) -> Result<Option<ReplayStep>, StoreError>;
    /// Goes past a dead letter that a step stopped at, which is deleted when its event is `stored`
    /// and skipped when it is not. Doing it again changes nothing.
    async fn pass_quarantined_event(
        &self,
        org: OrgId,
        buried: &QuarantinedEvent,
        stored: bool,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}

/// An event that is delivered once more.
#[derive(Clone, Debug)]
pub struct ReplayedEvent {
    /// The new deliveries.
    pub deliveries: Vec<Delivery>,
    /// Endpoints that get none: disabled, removed, or beyond the [`REPLAYS_PER_STEP`]th.
    pub skipped: usize,
}

/// What a step of a replay did.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    /// New deliveries.
    pub planned: usize,
    /// Where it stopped: an event that was refused before, which the caller tries to store again and
    /// then passes by.
    pub stopped_at: Option<QuarantinedEvent>,
}

/// An event that the store refused, in the way of a replay.
#[derive(Clone, Debug)]
pub struct QuarantinedEvent {
    /// The replay.
    pub replay: ReplayId,
    /// Its dead letter's place in the order of the replay.
    pub place: Cursor,
    /// The event in the journal's form.
    pub record: Vec<u8>,
}

/// Why something cannot be done to a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryRefusal {
    /// There is no such delivery, or no such event.
    #[error("there is no such delivery")]
    NotFound,
    /// Its endpoint was removed.
    #[error("the delivery's endpoint was removed")]
    EndpointRemoved,
    /// Its endpoint is disabled.
    #[error("the delivery's endpoint is disabled; enable it first")]
    EndpointDisabled,
    /// An attempt is in flight.
    #[error("an attempt is in flight; wait for its outcome")]
    InProgress,
    /// It is delivered or dead: there is nothing to cancel.
    #[error("the delivery is finished; only a pending one can be cancelled")]
    Finished,
}

/// Dead letters that one step of a replay deals with at most: less than a tenth of a second of a
/// store.
pub const REPLAYS_PER_STEP: usize = 1_000;

/// Deliveries cancelled by one step at most.
pub const CANCELS_PER_STEP: u64 = 5_000;

/// Dead letters counted for the total of a replay at most: beyond, nobody waits for a number.
const COUNTED_MAX: i64 = 100_000;

/// A dedup key is kept this much longer than the window: events wait in the journal for a while,
/// and a key must outlast every event that it could still turn away.
const DEDUP_KEYS_KEPT_LONGER: Duration = Duration::from_hours(24);

/// Dedup keys deleted by one statement at most, so that none holds its locks for long.
const DEDUP_KEYS_PER_STEP: i64 = 10_000;

/// Why the endpoints of a suspended organisation are disabled.
const SUSPENDED: &str = "the organisation is suspended";

/// Rows of one kind that a step of a deletion deletes at most, so that none holds its locks for long.
const DELETED_PER_STEP: i64 = 2_000;

/// Runs a store call and adds its time to the histogram of its kind.
async fn timed<T>(metrics: &Metrics, operation: DbOperation, call: impl Future<Output = T>) -> T {
    let watch = Stopwatch::start();
    let result = call.await;
    metrics.db_operation(operation).observe(watch.seconds());
    result
}
