//! API keys. Operators' keys belong to no organisation, so most methods are not scoped to one.

use std::time::Duration;

use super::{Store, StoreError, on_engine};
use crate::domain::{
    Actor, ApiKey, ApiKeyId, KeyRotationRefusal, OrgId, Page, PageRequest, Timestamp,
};

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
pub struct ChangeMark(pub(super) i64);

/// What a look for changes found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyChanges {
    /// The changes, in no order.
    pub changes: Vec<KeyChange>,
    /// Where the next look goes on.
    pub mark: ChangeMark,
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

impl Store {
    /// Adds a key. Refused when its organisation does not exist.
    pub async fn insert_key_across_orgs(
        &self,
        key: &ApiKey,
        by: &Actor,
    ) -> Result<Result<(), AddRefusal>, StoreError> {
        on_engine!(self, insert_key_across_orgs(key, by))
    }

    /// The key with this public id, also when it has expired.
    pub async fn key_across_orgs(&self, id: ApiKeyId) -> Result<Option<ApiKey>, StoreError> {
        on_engine!(self, key_across_orgs(id))
    }

    /// The keys of one organisation.
    pub async fn keys(&self, org: OrgId, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        on_engine!(self, keys(org, page))
    }

    /// All keys, operators' too.
    pub async fn keys_across_orgs(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        on_engine!(self, keys_across_orgs(page))
    }

    /// Makes a key expire at `at`; one that is still good and thereby ends `now` is revoked. Nothing
    /// is changed when it expires earlier anyway. `false` when there is no such key.
    pub async fn expire_key_across_orgs(
        &self,
        id: ApiKeyId,
        at: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        on_engine!(self, expire_key_across_orgs(id, at, by, now))
    }

    /// Adds `replacement`, a key of the same organisation, and makes `old` expire `grace` after `now`
    /// (unless it expires earlier anyway), together. Nothing is added when the old key may not be
    /// rotated any more; [`ApiKey::check_rotation`] has the rules. Rotating takes no room of the
    /// quota, so that an organisation with all the keys it may have can rotate them; with a grace as
    /// many may be in theirs, so that it has twice its quota at most.
    pub async fn rotate_key_across_orgs(
        &self,
        old: ApiKeyId,
        grace: Duration,
        replacement: &ApiKey,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<(), KeyRotationRefusal>, StoreError> {
        on_engine!(self, rotate_key_across_orgs(old, grace, replacement, by, now))
    }

    /// Which keys were added or changed since the look that ended at `since`, and which belong to
    /// organisations that were: by whichever process, and whatever time it took it for. Some that the
    /// look before named may be named again. Without `since` only where to begin.
    pub async fn keys_changed_across_orgs(
        &self,
        since: Option<ChangeMark>,
    ) -> Result<KeyChanges, StoreError> {
        on_engine!(self, keys_changed_across_orgs(since))
    }
}

/// The rules for rotating a key, of which the store has looked up what `room` its organisation has for
/// another one in its grace.
pub(super) fn check_rotation(
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
