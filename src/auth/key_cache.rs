//! The key caches: verified keys, their hashes, and the key that each connection presented last.
//!
//! An entry is looked up by key id and holds the SHA-256 of the presented key. Changing a key invalidates its
//! entry, here at once and in other processes when they poll the store for changes.
//!
//! # Races
//! A check reads a key's row, may hash for many milliseconds, and then inserts an entry. The key may be revoked
//! meanwhile. So a check notes the key's [`Epoch`] before it reads the row, every invalidation begins a new epoch, and
//! an entry is inserted only in the epoch in which its row was read. Epochs are counted for groups of keys: a key that
//! changes all the time costs a check of its group another read now and then, and cached keys nothing.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::key::KeyDigest;
use super::principal::Principal;
use crate::domain::{ApiKeyId, KeyHash, Timestamp};
use crate::runtime::Stopwatch;
use crate::store::{ChangeMark, KeyChange, Store, StoreError};

/// How long an unused entry is kept.
const IDLE: Duration = Duration::from_hours(24);
/// Bytes for which an entry counts at least. Most take about 700.
const ENTRY_BYTES: u32 = 1024;
/// Bytes of an entry besides the rates of event types.
const FIXED_BYTES: usize = 700;
/// Groups of keys with an epoch of their own.
const EPOCH_GROUPS: usize = 4096;

/// A key that was verified.
#[derive(Debug)]
pub(super) struct VerifiedKey {
    /// The SHA-256 of the presented key.
    pub(super) digest: KeyDigest,
    /// The stored hash that it was verified against.
    pub(super) hash: KeyHash,
    /// When its row was read. Its TTL counts from then.
    pub(super) read: Stopwatch,
    /// The epoch in which its row was read.
    pub(super) epoch: Epoch,
    /// Whom it authenticates.
    pub(super) principal: Arc<Principal>,
    /// When it expires.
    pub(super) expires_at: Option<Timestamp>,
    /// Set on use, and reset when the use is flushed to the store.
    pub(super) used: Arc<AtomicBool>,
    /// Whether its row is about to be read again.
    pub(super) is_refreshing: AtomicBool,
}

/// A span without an invalidation, of one group of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Epoch {
    /// Invalidations of all keys before it.
    all: u64,
    /// Invalidations of keys of the group before it.
    group: u64,
}

/// The caches of one process.
pub(super) struct KeyCache {
    /// Verified keys, until they are unused for long. They are authoritative while the store is unavailable.
    verified: Cache<ApiKeyId, Arc<VerifiedKey>>,
    /// The stored hash that each key was verified against. It outlives invalidations, so that a key in use is
    /// hashed once per process.
    hashes: Cache<ApiKeyId, (KeyDigest, KeyHash)>,
    /// How long an entry is used without reading its row again.
    ttl: Duration,
    /// How long it is used at most, while its row cannot be read.
    stale_max: Duration,
    /// Counts invalidations of all keys.
    all: AtomicU64,
    /// Counts invalidations, by group of keys.
    groups: Box<[Group]>,
    hasher: RandomState,
    /// Locked while polling, so that each poll continues where the last one ended.
    poll: tokio::sync::Mutex<PollState>,
}

/// The epochs of a group of keys.
#[derive(Default)]
struct Group {
    /// Invalidations so far. Changed only under the lock.
    count: AtomicU64,
    /// Held while an entry of the group is inserted or removed.
    lock: Mutex<()>,
}

/// The progress of polling for changed keys.
#[derive(Debug, Default)]
struct PollState {
    mark: Option<ChangeMark>,
    /// The changes of the last poll, which the next poll may return again.
    seen: HashSet<KeyChange>,
}

/// The key that a connection presented last, so that presenting it again costs neither parsing nor a look-up.
#[derive(Debug, Default)]
pub struct ConnectionKeyCache(Mutex<Option<ConnectionKey>>);

#[derive(Debug)]
struct ConnectionKey {
    verified: Arc<VerifiedKey>,
    /// The key's epoch before it was looked up.
    epoch: Epoch,
}

impl Epoch {
    /// Whether something was invalidated between this epoch and `later`.
    pub(super) const fn is_before(self, later: Self) -> bool {
        self.all < later.all || self.group < later.group
    }
}

impl VerifiedKey {
    /// Bytes in memory, roughly.
    fn bytes(&self) -> u32 {
        let bytes = FIXED_BYTES + self.principal.event_type_rates.bytes();
        u32::try_from(bytes).unwrap_or(u32::MAX).max(ENTRY_BYTES)
    }
}

impl KeyCache {
    /// Empty caches for `capacity` keys of usual size.
    pub(super) fn new(capacity: u64, ttl: Duration, stale_max: Duration) -> Self {
        let verified = Cache::builder()
            .weigher(|_, verified: &Arc<VerifiedKey>| verified.bytes())
            .max_capacity(capacity.saturating_mul(u64::from(ENTRY_BYTES)));
        Self {
            verified: verified.time_to_idle(IDLE).build(),
            hashes: Cache::builder().max_capacity(capacity).time_to_idle(IDLE).build(),
            ttl,
            stale_max: stale_max.max(ttl),
            all: AtomicU64::new(0),
            groups: (0..EPOCH_GROUPS).map(|_| Group::default()).collect(),
            hasher: RandomState::new(),
            poll: tokio::sync::Mutex::default(),
        }
    }

    /// How long an entry is used without reading its row again.
    pub(super) const fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long it is used at most, while its row cannot be read.
    pub(super) const fn stale_max(&self) -> Duration {
        self.stale_max
    }

    /// The current epoch of a key.
    pub(super) fn epoch(&self, key: ApiKeyId) -> Epoch {
        let group = self.group(key).map_or(0, |group| group.count.load(Ordering::SeqCst));
        Epoch { all: self.all.load(Ordering::SeqCst), group }
    }

    /// The entry of a key, unless it is too old to be used.
    pub(super) fn get(&self, key: ApiKeyId) -> Option<Arc<VerifiedKey>> {
        let is_usable = |verified: &Arc<VerifiedKey>| {
            verified.epoch.all == self.all.load(Ordering::SeqCst)
                && verified.read.elapsed() < self.stale_max
        };
        self.verified.get(&key).filter(is_usable)
    }

    /// Whether the row of an entry is to be read again.
    pub(super) fn is_stale(&self, verified: &VerifiedKey) -> bool {
        verified.read.elapsed() >= self.ttl
    }

    /// Inserts a verified key. `false`, and nothing is inserted, if it was invalidated since its row was read.
    pub(super) fn insert(&self, key: ApiKeyId, verified: &Arc<VerifiedKey>) -> bool {
        let _group = self.lock(key);
        let is_current = self.epoch(key) == verified.epoch;
        if is_current {
            self.verified.insert(key, Arc::clone(verified));
        }
        is_current
    }

    /// Whether this very key was verified in this process, whatever its state is now.
    pub(super) fn was_verified(&self, key: ApiKeyId, digest: KeyDigest) -> bool {
        self.hashes.get(&key).is_some_and(|(known, _)| known == digest)
    }

    /// The digest that was verified against this hash of a key.
    pub(super) fn digest_of(&self, key: ApiKeyId, hash: &KeyHash) -> Option<KeyDigest> {
        let (digest, known) = self.hashes.get(&key)?;
        (known == *hash).then_some(digest)
    }

    /// Notes that a digest was verified against this hash of a key.
    pub(super) fn insert_hash(&self, key: ApiKeyId, digest: KeyDigest, hash: KeyHash) {
        self.hashes.insert(key, (digest, hash));
    }

    /// Invalidates the entry of a key, so that its row is read again. Its hash stays: a hash says nothing about the
    /// key's state.
    pub(super) fn invalidate(&self, key: ApiKeyId) {
        let _group = self.lock(key);
        if let Some(group) = self.group(key) {
            group.count.fetch_add(1, Ordering::SeqCst);
        }
        self.verified.invalidate(&key);
    }

    /// Invalidates the entry of a key if there is one. For keys that turn out to be invalid: nobody can disturb checks
    /// of other keys by presenting them.
    pub(super) fn invalidate_cached(&self, key: ApiKeyId) {
        if self.verified.contains_key(&key) {
            self.invalidate(key);
        }
    }

    fn invalidate_all(&self) {
        // An entry that is inserted during this carries the epoch before, and is not used.
        self.all.fetch_add(1, Ordering::SeqCst);
        self.verified.invalidate_all();
    }

    /// Invalidates the keys that changed since the last poll, and the keys of organisations that did; at the
    /// first poll, and after the store was restored from a backup, all keys. A change is applied once: what
    /// was read after it counts, above all while the store cannot be read again.
    pub(super) async fn invalidate_changed(&self, store: &Store) -> Result<(), StoreError> {
        let mut poll = self.poll.lock().await;
        let found = store.system().keys_changed(poll.mark).await?;
        let changes: HashSet<KeyChange> = found.changes.into_iter().collect();
        if poll.mark.is_none_or(|mark| found.mark < mark) {
            self.invalidate_all();
        } else {
            changes.difference(&poll.seen).for_each(|change| self.invalidate(change.key));
        }
        *poll = PollState { mark: Some(found.mark), seen: changes };
        Ok(())
    }

    fn group(&self, key: ApiKeyId) -> Option<&Group> {
        let groups = self.groups.len() as u64;
        let index = self.hasher.hash_one(key) % groups.max(1);
        self.groups.get(usize::try_from(index).unwrap_or(0))
    }

    fn lock(&self, key: ApiKeyId) -> Option<MutexGuard<'_, ()>> {
        let group = self.group(key)?;
        Some(group.lock.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ConnectionKeyCache {
    /// The cached key, if the same text was presented, and the entry of `cache` would still be used and not be
    /// read again.
    pub(super) fn get(
        &self,
        cache: &KeyCache,
        presented: &str,
        now: Stopwatch,
    ) -> Option<Arc<VerifiedKey>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = |key: &&ConnectionKey| {
            key.verified.digest == KeyDigest::of(presented)
                && key.verified.read.until(now) < cache.ttl
                && key.epoch == cache.epoch(key.verified.principal.key_id)
        };
        last.as_ref().filter(is_current).map(|key| Arc::clone(&key.verified))
    }

    /// Caches a key that was looked up after it had this epoch.
    pub(super) fn insert(&self, verified: Arc<VerifiedKey>, epoch: Epoch) {
        let key = ConnectionKey { verified, epoch };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

#[cfg(test)]
mod tests;
