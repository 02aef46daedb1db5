//! The key caches: verified keys, their hashes, and the key that each connection presented last.
//!
//! An entry is looked up by key id and holds the SHA-256 of the presented key. Changing a key invalidates its
//! entry, here at once and in other processes when they poll the store for changes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;

use super::key::KeyDigest;
use super::principal::Principal;
use crate::domain::{ApiKeyId, KeyHash, Timestamp};
use crate::runtime::Stopwatch;
use crate::store::{ChangeMark, KeyChange, Store, StoreError};

/// How long the hash of a verified key is kept after its last use.
const HASH_IDLE: Duration = Duration::from_hours(24);

/// A key that was verified.
#[derive(Debug)]
pub(super) struct VerifiedKey {
    /// The SHA-256 of the presented key.
    pub(super) digest: KeyDigest,
    /// When its row was read. Its TTL counts from then.
    pub(super) read: Stopwatch,
    /// Whom it authenticates.
    pub(super) principal: Arc<Principal>,
    /// When it expires.
    pub(super) expires_at: Option<Timestamp>,
    /// Set on use, and reset when the use is flushed to the store.
    pub(super) used: Arc<AtomicBool>,
}

/// The caches of one process.
pub(super) struct KeyCache {
    /// Verified keys, until their TTL.
    verified: Cache<ApiKeyId, Arc<VerifiedKey>>,
    /// Verified keys as their rows were last read, while they are in use: authoritative while the store is
    /// unavailable.
    last_known: Cache<ApiKeyId, Arc<VerifiedKey>>,
    /// The stored hash that each key was verified against. It outlives the TTL, so that a key in use is hashed
    /// once per process.
    hashes: Cache<ApiKeyId, (KeyDigest, KeyHash)>,
    /// How long an entry is used without reading its row again.
    ttl: Duration,
    /// Counts invalidations, so that a check that began before one notices it.
    generation: AtomicU64,
    /// Locked while polling, so that each poll continues where the last one ended.
    poll: tokio::sync::Mutex<PollState>,
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
    /// The generation of the key cache before it was verified.
    generation: u64,
}

impl KeyCache {
    /// Empty caches.
    pub(super) fn new(capacity: u64, ttl: Duration) -> Self {
        Self {
            verified: Cache::builder().max_capacity(capacity).time_to_live(ttl).build(),
            last_known: Cache::builder().max_capacity(capacity).time_to_idle(HASH_IDLE).build(),
            hashes: Cache::builder().max_capacity(capacity).time_to_idle(HASH_IDLE).build(),
            ttl,
            generation: AtomicU64::new(0),
            poll: tokio::sync::Mutex::default(),
        }
    }

    /// The number of invalidations so far.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// The entry of a key, within its TTL.
    pub(super) async fn get(&self, key: ApiKeyId) -> Option<Arc<VerifiedKey>> {
        self.verified.get(&key).await
    }

    /// The entry of a key, however old, if it is for this very key.
    pub(super) async fn last_known(
        &self,
        key: ApiKeyId,
        digest: KeyDigest,
    ) -> Option<Arc<VerifiedKey>> {
        self.last_known.get(&key).await.filter(|known| known.digest == digest)
    }

    /// Caches a verified key.
    pub(super) async fn insert(&self, key: ApiKeyId, verified: &Arc<VerifiedKey>) {
        self.last_known.insert(key, Arc::clone(verified)).await;
        self.verified.insert(key, Arc::clone(verified)).await;
    }

    /// Removes the entry of a key. Its hash stays: a hash says nothing about the key's state.
    pub(super) async fn remove(&self, key: ApiKeyId) {
        self.last_known.invalidate(&key).await;
        self.verified.invalidate(&key).await;
    }

    /// Whether this very key was verified in this process, whatever its state is now.
    pub(super) async fn was_verified(&self, key: ApiKeyId, digest: KeyDigest) -> bool {
        self.hashes.get(&key).await.is_some_and(|(known, _)| known == digest)
    }

    /// The digest that was verified against this hash of a key.
    pub(super) async fn digest_of(&self, key: ApiKeyId, hash: &KeyHash) -> Option<KeyDigest> {
        let (digest, known) = self.hashes.get(&key).await?;
        (known == *hash).then_some(digest)
    }

    /// Notes that a digest was verified against this hash of a key.
    pub(super) async fn insert_hash(&self, key: ApiKeyId, digest: KeyDigest, hash: KeyHash) {
        self.hashes.insert(key, (digest, hash)).await;
    }

    /// Invalidates the entries of keys, so that their rows are read again.
    pub(super) async fn invalidate(&self, keys: &[ApiKeyId]) {
        // Counted first: a check that ends before this is undone below, one that ends after it notices.
        self.generation.fetch_add(1, Ordering::SeqCst);
        for key in keys {
            self.remove(*key).await;
        }
    }

    fn invalidate_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.last_known.invalidate_all();
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
            let new = changes.difference(&poll.seen);
            let keys: Vec<ApiKeyId> = new.map(|change| change.key).collect();
            if !keys.is_empty() {
                self.invalidate(&keys).await;
            }
        }
        *poll = PollState { mark: Some(found.mark), seen: changes };
        Ok(())
    }
}

impl ConnectionKeyCache {
    /// The cached key, if the same text was presented and the entry of `cache` would still be used.
    pub(super) fn get(
        &self,
        cache: &KeyCache,
        presented: &str,
        now: Stopwatch,
    ) -> Option<Arc<VerifiedKey>> {
        let generation = cache.generation();
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = |key: &&ConnectionKey| {
            key.generation == generation
                && key.verified.digest == KeyDigest::of(presented)
                && key.verified.read.until(now) < cache.ttl
        };
        last.as_ref().filter(is_current).map(|key| Arc::clone(&key.verified))
    }

    /// Caches a key that was verified after the key cache had this generation.
    pub(super) fn insert(&self, verified: Arc<VerifiedKey>, generation: u64) {
        let key = ConnectionKey { verified, generation };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}
