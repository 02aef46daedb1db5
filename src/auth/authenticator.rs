//! From a presented key to a principal, through the caches.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::DefaultClock;
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hasher::{self, HashError};
use super::key::{self, IssueError, IssuedKey, KeyDigest, PresentedKey};
use super::throttle::FailedKeyThrottle;
use super::usage::{Ledger, OrgUsage};
use crate::config::AuthConfig;
use crate::domain::{ApiKey, ApiKeyId, KeyHash, OrgLimits, OrgState, Role, Scopes, Timestamp};
use crate::runtime::{Clock, Stopwatch};
use crate::store::{ChangeMark, KeyChange, Store, StoreError};
use crate::telemetry::{CacheLookup, Metrics};

/// Refusals are remembered this long: enough to blunt a flood of one wrong key.
const REFUSAL_TTL: Duration = Duration::from_secs(10);
/// Refusals remembered at most.
const REFUSALS_MAX: u64 = 10_000;
/// A hash that was verified is not verified again while its key is used at least this often.
const VERIFIED_IDLE: Duration = Duration::from_hours(24);
/// Checks that may wait for their turn to hash, which is ten seconds or so on a small machine; the
/// others are told to come back.
const HASHES_WAITING_MAX: usize = 512;
/// Keys that may be made or wait for it at once; whoever asks for more is told to come back.
const ISSUES_MAX: usize = 64;
/// Times a key's row is read in one check while keys are being changed.
const READS_MAX: usize = 4;

/// Who is asking, with all that a request is judged by, so that nothing is looked up for it.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The key that was presented.
    pub key_id: ApiKeyId,
    /// Whom it acts for.
    pub role: Role,
    /// What it may be used for.
    pub scopes: Scopes,
    /// Whether its organisation is suspended.
    pub suspended: bool,
    /// What its organisation may use; nothing is set for an operator.
    pub limits: OrgLimits,
    /// What its organisation uses; counts nothing for an operator.
    pub usage: Arc<OrgUsage>,
}

/// Why nobody was recognised. Callers outside learn no more than "invalid" of the first four.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// Not a key at all, by form or checksum.
    #[error("the key is malformed")]
    Malformed,
    /// There is no such key.
    #[error("the key is unknown")]
    Unknown,
    /// The key id exists, the secret is another.
    #[error("the key's secret is wrong")]
    WrongSecret,
    /// It was revoked or rotated away.
    #[error("the key has expired")]
    Expired,
    /// The store could not be asked, or the hash not computed.
    #[error("keys cannot be verified now: {0}")]
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
    /// Too many keys are being verified for the first time.
    #[error("too many keys are being verified")]
    Busy,
    /// Too many keys from this address were no good.
    #[error("too many keys from this address were no good")]
    Throttled {
        /// When the address may present another.
        retry_after: Duration,
    },
}

/// Verifies keys. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Good keys, until their TTL.
    verified: Cache<ApiKeyId, Arc<VerifiedKey>>,
    /// The hash each good key was verified against: outlives the TTL, so that a key in use is
    /// hashed once in a process.
    hashes: Cache<ApiKeyId, (KeyDigest, KeyHash)>,
    /// Good keys as their rows were last read, while they are used: what counts while the store
    /// cannot be asked.
    last_known: Cache<ApiKeyId, Arc<VerifiedKey>>,
    /// Refusals; and the place where checks of one presented key wait for each other.
    refusals: Cache<KeyDigest, Refusal>,
    /// Which addresses were refused too often.
    failures: FailedKeyThrottle,
    /// How long a row may be gone by before it is read again.
    ttl: Duration,
    hash_places: Semaphore,
    hash_turns: Arc<Semaphore>,
    issue_places: Semaphore,
    /// One: of those who make keys a single one at a time asks for a turn to hash, so that whoever
    /// waits for a key to be verified has one of them before him at most.
    issue_turn: Arc<Semaphore>,
    /// Counts [`Authenticator::invalidate`], so that a check that began before one looks again.
    invalidations: AtomicU64,
    /// One look at a time, so that all go on where the one before ended.
    looked: tokio::sync::Mutex<Looked>,
    ledger: Ledger,
}

#[derive(Debug)]
struct VerifiedKey {
    digest: KeyDigest,
    /// When its row was read: from then on its TTL runs.
    read: Stopwatch,
    principal: Arc<Principal>,
    expires_at: Option<Timestamp>,
    /// Set when it is used, until that is written down.
    used: Arc<AtomicBool>,
}

/// How far the looks for changed keys got.
#[derive(Debug, Default)]
struct Looked {
    mark: Option<ChangeMark>,
    /// What the last one found, and the next one may find again.
    seen: HashSet<KeyChange>,
}

/// What a connection remembers of the key that it presented last, so that presenting it again costs
/// neither parsing nor a look-up.
#[derive(Debug, Default)]
pub struct ConnectionKeyCache(Mutex<Option<Remembered>>);

#[derive(Debug)]
struct Remembered {
    verified: Arc<VerifiedKey>,
    /// The count of [`Authenticator::invalidate`] before it was verified.
    invalidations: u64,
}

/// A refusal that may be remembered: it is about the key, not about this moment.
#[derive(Clone, Copy)]
enum Refusal {
    Unknown,
    WrongSecret,
    Expired,
}

/// How a check ends when there is nothing to remember.
enum Unrefused {
    Verified(Arc<VerifiedKey>),
    Failed(AuthError),
}

impl Authenticator {
    /// An authenticator with empty caches.
    pub fn new(config: &AuthConfig, store: Store, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let capacity = config.auth_cache_capacity;
        let ledger = Ledger::new(clock.now());
        let shared = Shared {
            store,
            clock,
            metrics,
            verified: Cache::builder()
                .max_capacity(capacity)
                .time_to_live(config.auth_cache_ttl)
                .build(),
            hashes: Cache::builder().max_capacity(capacity).time_to_idle(VERIFIED_IDLE).build(),
            last_known: Cache::builder().max_capacity(capacity).time_to_idle(VERIFIED_IDLE).build(),
            refusals: Cache::builder().max_capacity(REFUSALS_MAX).time_to_live(REFUSAL_TTL).build(),
            failures: FailedKeyThrottle::new(
                config.failed_keys_per_minute,
                DefaultClock::default(),
            ),
            ttl: config.auth_cache_ttl,
            hash_places: Semaphore::new(HASHES_WAITING_MAX),
            hash_turns: Arc::new(Semaphore::new(num_cpus::get().div_ceil(2))),
            issue_places: Semaphore::new(ISSUES_MAX),
            issue_turn: Arc::new(Semaphore::new(1)),
            invalidations: AtomicU64::new(0),
            looked: tokio::sync::Mutex::default(),
            ledger,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Recognises a key. `client` tells the address it came from, and is asked only when the key is
    /// not known.
    pub async fn authenticate(
        &self,
        presented: &str,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Principal>, AuthError> {
        self.principal(&*self.verified(presented, client).await?)
    }

    /// Recognises a key, most likely the one that this connection presented last.
    pub async fn authenticate_on_connection(
        &self,
        presented: &str,
        last: &ConnectionKeyCache,
        now: Stopwatch,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Principal>, AuthError> {
        let invalidations = self.shared.invalidations.load(Ordering::SeqCst);
        let recalled = last.recall(|key| {
            key.invalidations == invalidations
                && key.verified.digest == KeyDigest::of(presented)
                && key.verified.read.until(now) < self.shared.ttl
        });
        if let Some(verified) = recalled {
            self.shared.metrics.cache_lookup(CacheLookup::Hit).inc();
            return self.principal(&verified);
        }
        let verified = self.verified(presented, client).await?;
        last.remember(Remembered { verified: Arc::clone(&verified), invalidations });
        self.principal(&verified)
    }

    /// Makes a key for all that its role may do, and for ever. Its hash takes turns with those that
    /// verify keys, so that making keys costs no more memory and CPU than they may.
    ///
    /// # Errors
    /// [`IssueError::Busy`] when 64 are being made already.
    pub async fn issue_key(
        &self,
        role: Role,
        name: String,
        now: Timestamp,
    ) -> Result<IssuedKey, IssueError> {
        let shared = &self.shared;
        let _place = shared.issue_places.try_acquire().map_err(|_| IssueError::Busy)?;
        let issue_turn = Arc::clone(&shared.issue_turn);
        let issue_turn = issue_turn.acquire_owned().await.map_err(|_| IssueError::Busy)?;
        let hash_turn = shared.hash_turn().await.map_err(|_| IssueError::Busy)?;
        shared.metrics.auth_hashes_total.inc();
        key::issue_in_turn(role, name, now, (issue_turn, hash_turn)).await
    }

    fn principal(&self, verified: &VerifiedKey) -> Result<Arc<Principal>, AuthError> {
        if verified.expires_at.is_some_and(|end| end <= self.shared.clock.now()) {
            return Err(AuthError::Expired);
        }
        // Read first: the word is then written once a minute, and not fought for by every request.
        if !verified.used.load(Ordering::Relaxed) {
            verified.used.store(true, Ordering::Relaxed);
        }
        Ok(Arc::clone(&verified.principal))
    }

    /// Writes down what keys and organisations have used since the last time.
    pub async fn flush_usage(&self) -> Result<(), StoreError> {
        self.shared.ledger.write(&self.shared.store, self.shared.clock.now()).await
    }

    async fn verified(
        &self,
        presented: &str,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        let key: PresentedKey = presented.parse().map_err(|_| AuthError::Malformed)?;
        let digest = key.digest();
        let shared = &self.shared;
        let Some(entry) = shared.verified.get(&key.id()).await else {
            // Boxed: it is rare and large, and would be moved about with every request.
            return Box::pin(self.check(key, digest, client())).await;
        };
        shared.metrics.cache_lookup(CacheLookup::Hit).inc();
        // Comparing digests may stop early: what leaks is the digest of a guess, and digests
        // cannot be steered towards a secret.
        if entry.digest == digest { Ok(entry) } else { Err(AuthError::WrongSecret) }
    }

    /// Forgets what is known of a key, so that its row is read again: call it after changing one.
    pub async fn invalidate(&self, key: ApiKeyId) {
        self.invalidate_keys(&[key]).await;
    }

    /// Forgets what is known of keys that were changed since the last look, and of those of
    /// organisations that were; at the first look, and when the store was put back, all that is known.
    /// A change that was seen is not forgotten for again: what was read since counts, above all when
    /// the store cannot be asked again.
    pub async fn invalidate_changed(&self) -> Result<(), StoreError> {
        let mut looked = self.shared.looked.lock().await;
        let found = self.shared.store.keys_changed_across_orgs(looked.mark).await?;
        let changes: HashSet<KeyChange> = found.changes.into_iter().collect();
        if looked.mark.is_none_or(|mark| found.mark < mark) {
            self.invalidate_all();
        } else {
            let new = changes.difference(&looked.seen);
            let keys: Vec<ApiKeyId> = new.map(|change| change.key).collect();
            if !keys.is_empty() {
                self.invalidate_keys(&keys).await;
            }
        }
        *looked = Looked { mark: Some(found.mark), seen: changes };
        Ok(())
    }

    fn invalidate_all(&self) {
        self.shared.invalidations.fetch_add(1, Ordering::SeqCst);
        self.shared.last_known.invalidate_all();
        self.shared.verified.invalidate_all();
    }

    /// Forgets what is known of these keys.
    async fn invalidate_keys(&self, keys: &[ApiKeyId]) {
        // Counted first: a check that ends before the count is undone below, one that ends after it
        // notices.
        self.shared.invalidations.fetch_add(1, Ordering::SeqCst);
        for key in keys {
            self.shared.invalidate(*key).await;
        }
    }

    /// Verifies a key that is not in the cache. Callers that present the same key share one check.
    async fn check(
        &self,
        key: PresentedKey,
        digest: KeyDigest,
        client: IpAddr,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        self.shared.metrics.cache_lookup(CacheLookup::Miss).inc();
        if let Some(refusal) = self.shared.refusals.get(&digest).await {
            return Err(refusal.into());
        }
        if !self.shared.was_verified(&key, digest).await {
            let admitted = self.shared.failures.admit(client);
            admitted.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        }
        // The cache keeps what `Ok` carries, so the good end travels as `Err` and is shared by the
        // callers that wait, but not kept here: good keys have their own cache.
        let checked = self
            .shared
            .refusals
            .try_get_with(digest, async {
                match self.shared.verify(&key, digest).await {
                    Ok(Ok(verified)) => Err(Unrefused::Verified(verified)),
                    Ok(Err(refusal)) => {
                        self.shared.failures.count(client);
                        Ok(refusal)
                    }
                    Err(failure) => Err(Unrefused::Failed(failure)),
                }
            })
            .await;
        match checked {
            Ok(refusal) => Err(refusal.into()),
            Err(unrefused) => match unrefused.as_ref() {
                Unrefused::Verified(verified) => Ok(Arc::clone(verified)),
                Unrefused::Failed(failure) => Err(failure.clone()),
            },
        }
    }
}

impl ConnectionKeyCache {
    /// The key, if it still counts.
    fn recall(&self, counts: impl FnOnce(&Remembered) -> bool) -> Option<Arc<VerifiedKey>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|key| counts(key)).map(|key| Arc::clone(&key.verified))
    }

    fn remember(&self, key: Remembered) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }
}

impl Shared {
    /// Verifies a key and caches it. Somebody who began to wait for this check after the key was
    /// revoked must not learn what was true before: so when keys were changed meanwhile, the row is
    /// read again, without a second hash.
    async fn verify(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
    ) -> Result<Result<Arc<VerifiedKey>, Refusal>, AuthError> {
        let mut reads = 1;
        loop {
            let invalidations = self.invalidations.load(Ordering::SeqCst);
            let verified = match self.verify_once(key, digest).await {
                Ok(Ok(verified)) => Arc::new(verified),
                Ok(Err(refusal)) => {
                    // A wrong secret says nothing about the key it was guessed for.
                    if matches!(refusal, Refusal::Unknown | Refusal::Expired) {
                        self.invalidate(key.id()).await;
                    }
                    return Ok(Err(refusal));
                }
                // An outage of the store must not stop ingest for keys that were good before it.
                Err(AuthError::Unavailable(cause)) => {
                    let known = self.last_known.get(&key.id()).await;
                    let known = known.filter(|known| known.digest == digest);
                    known.ok_or(AuthError::Unavailable(cause))?
                }
                Err(error) => return Err(error),
            };
            self.last_known.insert(key.id(), Arc::clone(&verified)).await;
            self.verified.insert(key.id(), Arc::clone(&verified)).await;
            if self.invalidations.load(Ordering::SeqCst) == invalidations {
                return Ok(Ok(verified));
            }
            self.invalidate(key.id()).await;
            // While keys change all the time this one is answered for once, but not cached.
            if reads == READS_MAX {
                return Ok(Ok(verified));
            }
            reads += 1;
        }
    }

    /// Whether this very key was good here, whatever became of it since.
    async fn was_verified(&self, key: &PresentedKey, digest: KeyDigest) -> bool {
        self.hashes.get(&key.id()).await.is_some_and(|(known, _)| known == digest)
    }

    async fn invalidate(&self, key: ApiKeyId) {
        self.last_known.invalidate(&key).await;
        self.verified.invalidate(&key).await;
    }

    async fn verify_once(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
    ) -> Result<Result<VerifiedKey, Refusal>, AuthError> {
        let read = Stopwatch::start();
        let Some(record) = self.store.key_across_orgs(key.id()).await? else {
            return Ok(Err(Refusal::Unknown));
        };
        if !record.is_active(self.clock.now()) {
            return Ok(Err(Refusal::Expired));
        }
        if !self.secret_matches(key, digest, &record).await? {
            return Ok(Err(Refusal::WrongSecret));
        }
        let Some(principal) = self.principal(&record).await? else {
            return Ok(Err(Refusal::Unknown));
        };
        Ok(Ok(VerifiedKey {
            digest,
            read,
            principal: Arc::new(principal),
            expires_at: record.expires_at,
            used: self.ledger.key(record.id),
        }))
    }

    /// Who a good key speaks for; nobody, when its organisation is being deleted.
    async fn principal(&self, record: &ApiKey) -> Result<Option<Principal>, StoreError> {
        let mut principal = Principal {
            key_id: record.id,
            role: record.role,
            scopes: record.scopes,
            suspended: false,
            limits: OrgLimits::default(),
            usage: Arc::default(),
        };
        if let Role::Tenant(id) = record.role {
            let Some(org) = self.store.org(id).await? else { return Ok(None) };
            match org.state() {
                OrgState::Active => {}
                OrgState::Suspended => principal.suspended = true,
                OrgState::Deleting | OrgState::Deleted => return Ok(None),
            }
            principal.limits = org.limits;
            principal.usage = self.ledger.org(id, &self.store).await?;
        }
        Ok(Some(principal))
    }

    async fn secret_matches(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
        record: &ApiKey,
    ) -> Result<bool, AuthError> {
        if let Some((known, hash)) = self.hashes.get(&record.id).await
            && hash == record.hash
        {
            return Ok(known == digest);
        }
        if !hasher::may_match(key.reveal(), &record.hash) {
            return Ok(false);
        }
        let turn = self.hash_turn().await?;
        self.metrics.auth_hashes_total.inc();
        let matches = hasher::verify(key.reveal().to_owned(), record.hash.clone(), turn).await?;
        if matches {
            self.hashes.insert(record.id, (digest, record.hash.clone())).await;
        }
        Ok(matches)
    }

    /// A turn to hash. Few hash at once, so that hashing leaves CPU and memory for everything else;
    /// few wait, so that nobody waits long.
    async fn hash_turn(&self) -> Result<OwnedSemaphorePermit, AuthError> {
        let _place = self.hash_places.try_acquire().map_err(|_| AuthError::Busy)?;
        Arc::clone(&self.hash_turns).acquire_owned().await.map_err(|_| AuthError::Busy)
    }
}

impl From<Refusal> for AuthError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unknown => Self::Unknown,
            Refusal::WrongSecret => Self::WrongSecret,
            Refusal::Expired => Self::Expired,
        }
    }
}

impl From<StoreError> for AuthError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}

impl From<HashError> for AuthError {
    fn from(error: HashError) -> Self {
        Self::Unavailable(Arc::new(error))
    }
}
