//! The authenticator: turns the text of a presented key into a principal.
//!
//! Known keys are answered from the [`KeyCache`]; others are checked against the store, with one check at a
//! time per presented key and few hashes at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use governor::clock::DefaultClock;
use moka::future::Cache;

use super::hasher::{self, HashError, HashLimiter};
use super::issue::{self, IssueError, IssuedKey, KeyIssuer};
use super::key::{KeyDigest, PresentedKey};
use super::key_cache::{ConnectionKeyCache, KeyCache, VerifiedKey};
use super::principal::Principal;
use super::throttle::FailedKeyThrottle;
use super::usage::UsageTracker;
use crate::auth::metrics::AuthMetrics;
use crate::auth::metrics::CacheLookup;
use crate::config::AuthConfig;
use crate::domain::{ApiKey, ApiKeyId, EventTypeRates, OrgLimits, OrgState, Role, Timestamp};
use crate::runtime::{Clock, Stopwatch};
use crate::store::{Store, StoreError};

/// How long rejections are cached: enough to blunt a flood of one wrong key.
const REJECTION_TTL: Duration = Duration::from_secs(10);
/// Maximum cached rejections.
const REJECTIONS_MAX: u64 = 10_000;
/// Maximum reads of a key's row in one check while keys are being changed.
const READS_MAX: usize = 4;

/// Why a key was not authenticated. Callers learn only "invalid" of the first four.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthError {
    /// The text does not have the form of a key, or its checksum is wrong.
    #[error("the key is malformed")]
    Malformed,
    /// The key does not exist.
    #[error("the key is unknown")]
    Unknown,
    /// The key id exists, but the secret is wrong.
    #[error("the key's secret is wrong")]
    WrongSecret,
    /// The key was revoked, or it has expired.
    #[error("the key has expired")]
    Expired,
    /// The store could not be read, or the hash not computed.
    #[error("keys cannot be verified now: {0}")]
    Unavailable(Arc<dyn std::error::Error + Send + Sync>),
    /// Too many keys are being verified for the first time.
    #[error("too many keys are being verified")]
    Busy,
    /// Too many invalid keys came from this address.
    #[error("too many invalid keys from this address")]
    Throttled {
        /// When the address may present another key.
        retry_after: Duration,
    },
}

/// Authenticates keys. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    metrics: Arc<AuthMetrics>,
    keys: KeyCache,
    /// Rejections by presented key. Checks of one presented key wait for each other here.
    rejections: Cache<KeyDigest, Rejection>,
    throttle: FailedKeyThrottle,
    hashes: HashLimiter,
    issuer: KeyIssuer,
    usage: UsageTracker,
}

/// A rejection that may be cached, since it is about the key and not about the server's state.
#[derive(Clone, Copy)]
enum Rejection {
    Unknown,
    WrongSecret,
    Expired,
}

/// The end of a check that has no rejection to cache.
enum NotRejected {
    Verified(Arc<VerifiedKey>),
    Failed(AuthError),
}

impl Authenticator {
    /// An authenticator with empty caches.
    pub fn new(config: &AuthConfig, store: Store, clock: Clock, metrics: Arc<AuthMetrics>) -> Self {
        let rejections = Cache::builder().max_capacity(REJECTIONS_MAX);
        let throttle =
            FailedKeyThrottle::new(config.failed_keys_per_minute, DefaultClock::default());
        Self(Arc::new(Inner {
            usage: UsageTracker::new(clock.now()),
            store,
            clock,
            metrics,
            keys: KeyCache::new(config.auth_cache_capacity, config.auth_cache_ttl),
            rejections: rejections.time_to_live(REJECTION_TTL).build(),
            throttle,
            hashes: HashLimiter::new(),
            issuer: KeyIssuer::new(),
        }))
    }

    /// Authenticates a key. `client` returns the caller's address and is called only if the key is not cached.
    pub async fn authenticate(
        &self,
        presented: &str,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Principal>, AuthError> {
        self.0.use_key(&*self.0.verified(presented, client).await?)
    }

    /// [`Self::authenticate`], fastest for the key that the connection presented last.
    pub async fn authenticate_on_connection(
        &self,
        presented: &str,
        connection: &ConnectionKeyCache,
        now: Stopwatch,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Principal>, AuthError> {
        // Read before the look-up: an invalidation after this makes the entry stale.
        let generation = self.0.keys.generation();
        if let Some(verified) = connection.get(&self.0.keys, presented, now) {
            self.0.metrics.cache_lookups_total.of(CacheLookup::Hit).inc();
            return self.0.use_key(&verified);
        }
        let verified = self.0.verified(presented, client).await?;
        connection.insert(Arc::clone(&verified), generation);
        self.0.use_key(&verified)
    }

    /// Issues a key with all scopes of its role and no expiry. Its hash needs the same permits as
    /// verifications, so issuing keys uses no more memory and CPU than they may.
    ///
    /// # Errors
    /// [`IssueError::Busy`] when too many keys are being issued already for `asked_by`, or for all tenants.
    pub async fn issue_key(
        &self,
        asked_by: Role,
        role: Role,
        name: String,
        now: Timestamp,
    ) -> Result<IssuedKey, IssueError> {
        let permit =
            self.0.issuer.acquire(asked_by, &self.0.hashes).await.ok_or(IssueError::Busy)?;
        self.0.metrics.auth_hashes_total.inc();
        issue::issue(role, name, now, permit).await
    }

    /// Flushes the usage of keys and organisations since the last flush to the store.
    pub async fn flush_usage(&self) -> Result<(), StoreError> {
        self.0.usage.flush(&self.0.store, self.0.clock.now()).await
    }

    /// Invalidates what is cached of a key, so that its row is read again. Call it after changing the key.
    pub async fn invalidate(&self, key: ApiKeyId) {
        self.0.keys.invalidate(&[key]).await;
    }

    /// Invalidates what is cached of the keys that were changed by anyone since the last call, and of the keys
    /// of organisations that were.
    pub async fn invalidate_changed(&self) -> Result<(), StoreError> {
        self.0.keys.invalidate_changed(&self.0.store).await
    }
}

impl Inner {
    /// Marks a verified key as used and returns its principal.
    fn use_key(&self, verified: &VerifiedKey) -> Result<Arc<Principal>, AuthError> {
        if verified.expires_at.is_some_and(|end| end <= self.clock.now()) {
            return Err(AuthError::Expired);
        }
        // Read first: the flag is then written once a minute, and its cache line stays shared.
        if !verified.used.load(Ordering::Relaxed) {
            verified.used.store(true, Ordering::Relaxed);
        }
        Ok(Arc::clone(&verified.principal))
    }

    async fn verified(
        &self,
        presented: &str,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        let key: PresentedKey = presented.parse().map_err(|_| AuthError::Malformed)?;
        let digest = key.digest();
        let Some(entry) = self.keys.get(key.id()).await else {
            // Boxed: the future is rare and large, and would be moved with every request.
            return Box::pin(self.check(key, digest, client())).await;
        };
        self.metrics.cache_lookups_total.of(CacheLookup::Hit).inc();
        // The comparison may stop early: it leaks bits of a guess's digest only, and digests cannot be
        // steered towards a secret.
        if entry.digest == digest { Ok(entry) } else { Err(AuthError::WrongSecret) }
    }

    /// Verifies a key that is not cached. Callers that present the same key share one check.
    async fn check(
        &self,
        key: PresentedKey,
        digest: KeyDigest,
        client: IpAddr,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        self.metrics.cache_lookups_total.of(CacheLookup::Miss).inc();
        if let Some(rejection) = self.rejections.get(&digest).await {
            return Err(rejection.into());
        }
        if !self.keys.was_verified(key.id(), digest).await {
            let checked = self.throttle.check(client);
            checked.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        }
        // `try_get_with` caches `Ok` and shares `Err` with the callers that wait. Rejections are to be cached
        // here and verified keys are not (they have their own cache), so a rejection is the `Ok` of this.
        let checked = self.rejections.try_get_with(digest, async {
            match self.verify(&key, digest).await {
                Ok(Ok(verified)) => Err(NotRejected::Verified(verified)),
                Ok(Err(rejection)) => {
                    self.throttle.record_failure(client);
                    Ok(rejection)
                }
                Err(failure) => Err(NotRejected::Failed(failure)),
            }
        });
        match checked.await {
            Ok(rejection) => Err(rejection.into()),
            Err(not_rejected) => match not_rejected.as_ref() {
                NotRejected::Verified(verified) => Ok(Arc::clone(verified)),
                NotRejected::Failed(failure) => Err(failure.clone()),
            },
        }
    }

    /// Verifies a key and caches it. If keys were changed meanwhile, the row is read again, without a second
    /// hash: a caller that began to wait for this check after the key was revoked must not get the state
    /// before.
    async fn verify(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
    ) -> Result<Result<Arc<VerifiedKey>, Rejection>, AuthError> {
        let mut reads = 1;
        loop {
            let generation = self.keys.generation();
            let verified = match self.verify_once(key, digest).await {
                Ok(Ok(verified)) => Arc::new(verified),
                Ok(Err(rejection)) => {
                    // A wrong secret says nothing about the key whose id was used.
                    if matches!(rejection, Rejection::Unknown | Rejection::Expired) {
                        self.keys.remove(key.id()).await;
                    }
                    return Ok(Err(rejection));
                }
                // A store outage must not stop ingest for keys that were valid before it.
                Err(AuthError::Unavailable(cause)) => {
                    let known = self.keys.last_known(key.id(), digest).await;
                    known.ok_or(AuthError::Unavailable(cause))?
                }
                Err(error) => return Err(error),
            };
            self.keys.insert(key.id(), &verified).await;
            if self.keys.generation() == generation {
                return Ok(Ok(verified));
            }
            self.keys.remove(key.id()).await;
            // While keys change all the time, this result is used once but not cached.
            if reads == READS_MAX {
                return Ok(Ok(verified));
            }
            reads += 1;
        }
    }

    async fn verify_once(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
    ) -> Result<Result<VerifiedKey, Rejection>, AuthError> {
        let read = Stopwatch::start();
        let Some(record) = self.store.system().key(key.id()).await? else {
            return Ok(Err(Rejection::Unknown));
        };
        if !record.is_active(self.clock.now()) {
            return Ok(Err(Rejection::Expired));
        }
        if !self.secret_matches(key, digest, &record).await? {
            return Ok(Err(Rejection::WrongSecret));
        }
        let Some(principal) = self.principal(&record).await? else {
            return Ok(Err(Rejection::Unknown));
        };
        Ok(Ok(VerifiedKey {
            digest,
            read,
            principal: Arc::new(principal),
            expires_at: record.expires_at,
            used: self.usage.key(record.id),
        }))
    }

    /// The principal of a valid key; `None` if its organisation is being deleted.
    async fn principal(&self, record: &ApiKey) -> Result<Option<Principal>, StoreError> {
        let mut principal = Principal {
            key_id: record.id,
            role: record.role,
            scopes: record.scopes,
            suspended: false,
            limits: OrgLimits::default(),
            event_type_rates: EventTypeRates::default(),
            rate_limit_per_minute: record.rate_limit_per_minute,
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
            principal.event_type_rates = org.event_type_rates;
            principal.usage = self.usage.org(id, &self.store).await?;
        }
        Ok(Some(principal))
    }

    async fn secret_matches(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
        record: &ApiKey,
    ) -> Result<bool, AuthError> {
        if let Some(known) = self.keys.digest_of(record.id, &record.hash).await {
            return Ok(known == digest);
        }
        if !hasher::may_match(key.reveal(), &record.hash) {
            return Ok(false);
        }
        let permit = self.hashes.acquire().await.ok_or(AuthError::Busy)?;
        self.metrics.auth_hashes_total.inc();
        let matches = hasher::verify(key.reveal().to_owned(), record.hash.clone(), permit).await?;
        if matches {
            self.keys.insert_hash(record.id, digest, record.hash.clone()).await;
        }
        Ok(matches)
    }
}

impl From<Rejection> for AuthError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Unknown => Self::Unknown,
            Rejection::WrongSecret => Self::WrongSecret,
            Rejection::Expired => Self::Expired,
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
