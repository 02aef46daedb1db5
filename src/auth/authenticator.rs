//! From a presented key to a principal, through the caches.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota};
use moka::future::Cache;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::hasher::{self, HashError};
use super::key::{KeyDigest, PresentedKey};
use crate::config::AuthConfig;
use crate::domain::{ApiKey, ApiKeyId, KeyHash, Role, Timestamp};
use crate::runtime::Clock;
use crate::store::{SharedStore, StoreError};
use crate::telemetry::{CacheLookup, Metrics};

/// Refusals are remembered this long: enough to blunt a flood of one wrong key.
const REFUSAL_TTL: Duration = Duration::from_secs(10);
/// Refusals remembered at the most.
const REFUSALS_MAX: u64 = 10_000;
/// A hash that was verified is not verified again while its key is used at least this often.
const VERIFIED_IDLE: Duration = Duration::from_hours(24);
/// Checks that may wait for their turn to hash; the others are told to come back.
const HASHES_WAITING_MAX: usize = 64;
/// Hashes a second for one key id, so that a flood on one id leaves room for the others.
const HASHES_PER_SECOND_AND_ID: NonZeroU32 = NonZeroU32::MIN;
/// Hashes for one key id at once, before that rate applies.
const HASHES_BURST_PER_ID: NonZeroU32 = NonZeroU32::new(5).unwrap();

/// Who is asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Principal {
    /// The key that was presented.
    pub key_id: ApiKeyId,
    /// What it may do.
    pub role: Role,
    /// Its organisation's own rate limit; `None` follows the server's default.
    pub rate_limit_per_minute: Option<u32>,
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
}

/// Verifies keys. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    shared: Arc<Shared>,
}

struct Shared {
    store: SharedStore,
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
    hash_places: Semaphore,
    hash_turns: Semaphore,
    hash_rate: DefaultKeyedRateLimiter<ApiKeyId>,
    /// Counts [`Authenticator::forget`], so that a check that began before one caches nothing.
    forgets: AtomicU64,
}

struct VerifiedKey {
    digest: KeyDigest,
    principal: Principal,
    expires_at: Option<Timestamp>,
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
    pub fn new(
        config: &AuthConfig,
        store: SharedStore,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let capacity = config.auth_cache_capacity;
        let quota = Quota::per_second(HASHES_PER_SECOND_AND_ID).allow_burst(HASHES_BURST_PER_ID);
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
            hash_places: Semaphore::new(HASHES_WAITING_MAX),
            hash_turns: Semaphore::new(num_cpus::get().div_ceil(2)),
            hash_rate: DefaultKeyedRateLimiter::keyed(quota),
            forgets: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Recognises a key.
    pub async fn authenticate(&self, presented: &str) -> Result<Principal, AuthError> {
        let key: PresentedKey = presented.parse().map_err(|_| AuthError::Malformed)?;
        let digest = key.digest();
        let shared = &self.shared;
        let verified = match shared.verified.get(&key.id()).await {
            // Comparing digests may stop early: what leaks is the digest of a guess, and digests
            // cannot be steered towards a secret.
            Some(entry) if entry.digest == digest => {
                shared.metrics.cache_lookup(CacheLookup::Hit).inc();
                entry
            }
            Some(_) => return Err(AuthError::WrongSecret),
            None => self.check(key, digest).await?,
        };
        if verified.expires_at.is_some_and(|end| end <= shared.clock.now()) {
            return Err(AuthError::Expired);
        }
        Ok(verified.principal)
    }

    /// Forgets what is known of a key, so that its row is read again: call it after changing one.
    pub async fn forget(&self, key: ApiKeyId) {
        self.shared.forgets.fetch_add(1, Ordering::SeqCst);
        self.shared.last_known.invalidate(&key).await;
        self.shared.verified.invalidate(&key).await;
    }

    /// Drops what bounds floods on single keys for ids that have been quiet; call it now and then.
    pub(super) fn tidy(&self) {
        self.shared.hash_rate.retain_recent();
    }

    /// Verifies a key that is not in the cache. Callers that present the same key share one check.
    async fn check(
        &self,
        key: PresentedKey,
        digest: KeyDigest,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        self.shared.metrics.cache_lookup(CacheLookup::Miss).inc();
        // The cache keeps what `Ok` carries, so the good end travels as `Err` and is shared by the
        // callers that wait, but not kept here: good keys have their own cache.
        let checked = self
            .shared
            .refusals
            .try_get_with(digest, async {
                match self.shared.verify(&key, digest).await {
                    Ok(Ok(verified)) => Err(Unrefused::Verified(verified)),
                    Ok(Err(refusal)) => Ok(refusal),
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

impl Shared {
    async fn verify(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
    ) -> Result<Result<Arc<VerifiedKey>, Refusal>, AuthError> {
        let forgets = self.forgets.load(Ordering::SeqCst);
        let (record, principal) = match self.read(key.id()).await {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.last_known.invalidate(&key.id()).await;
                return Ok(Err(Refusal::Unknown));
            }
            Err(error) => {
                let known = self.last_known.get(&key.id()).await;
                let known = known.filter(|known| known.digest == digest).ok_or(error)?;
                self.keep(key.id(), &known, forgets).await;
                return Ok(Ok(known));
            }
        };
        if !record.is_active(self.clock.now()) {
            self.last_known.invalidate(&key.id()).await;
            return Ok(Err(Refusal::Expired));
        }
        if !self.secret_matches(key, digest, &record).await? {
            return Ok(Err(Refusal::WrongSecret));
        }
        let verified = VerifiedKey { digest, principal, expires_at: record.expires_at };
        let verified = Arc::new(verified);
        self.keep(key.id(), &verified, forgets).await;
        Ok(Ok(verified))
    }

    /// Caches a good key. One that was changed while it was checked is answered for this once, but
    /// not cached.
    async fn keep(&self, id: ApiKeyId, verified: &Arc<VerifiedKey>, forgets: u64) {
        if self.forgets.load(Ordering::SeqCst) == forgets {
            self.last_known.insert(id, Arc::clone(verified)).await;
            self.verified.insert(id, Arc::clone(verified)).await;
        }
    }

    /// A key's row, and whom it stands for.
    async fn read(&self, id: ApiKeyId) -> Result<Option<(ApiKey, Principal)>, StoreError> {
        let Some(record) = self.store.key_across_orgs(id).await? else { return Ok(None) };
        let principal = self.principal(&record).await?;
        Ok(principal.map(|principal| (record, principal)))
    }

    async fn principal(&self, record: &ApiKey) -> Result<Option<Principal>, StoreError> {
        let rate_limit_per_minute = match record.role {
            Role::Operator => None,
            Role::Tenant(org) => match self.store.org(org).await? {
                Some(org) => org.rate_limit_per_minute,
                None => return Ok(None),
            },
        };
        Ok(Some(Principal { key_id: record.id, role: record.role, rate_limit_per_minute }))
    }

    async fn secret_matches(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
        record: &ApiKey,
    ) -> Result<bool, AuthError> {
        let seen = self.hashes.get(&record.id).await;
        if seen.is_some_and(|(known, hash)| known == digest && hash == record.hash) {
            return Ok(true);
        }
        self.hash_rate.check_key(&record.id).map_err(|_| AuthError::Busy)?;
        let matches = {
            let _turn = self.hash_turn().await?;
            hasher::verify(key.reveal().to_owned(), record.hash.clone()).await?
        };
        if matches {
            self.hashes.insert(record.id, (digest, record.hash.clone())).await;
        }
        Ok(matches)
    }

    /// A turn to hash. Few hash at once, so that hashing leaves CPU for everything else; few wait,
    /// so that nobody waits long.
    async fn hash_turn(&self) -> Result<SemaphorePermit<'_>, AuthError> {
        let _place = self.hash_places.try_acquire().map_err(|_| AuthError::Busy)?;
        self.hash_turns.acquire().await.map_err(|_| AuthError::Busy)
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
