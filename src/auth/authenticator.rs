//! The authenticator: turns the text of a presented key into a principal.
//!
//! Known keys are answered from the [`KeyCache`], and read again behind the request when they are past their TTL;
//! others are checked against the store, with one check at a time per presented key and few hashes at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use governor::clock::DefaultClock;
use moka::future::Cache;
use tokio::sync::Semaphore;

use super::hash_queue::{HashPurpose, HashQueue};
use super::hasher::HashError;
use super::issue::{self, IssueError, IssuedKey};
use super::key::{KeyDigest, PresentedKey};
use super::key_cache::{ConnectionKeyCache, Epoch, KeyCache, VerifiedKey};
use super::principal::Principal;
use super::refresh_queue::RefreshQueue;
use super::session::SessionCache;
use super::throttle::FailedKeyThrottle;
use super::usage::UsageTracker;
use crate::auth::metrics::AuthMetrics;
use crate::auth::metrics::CacheLookup;
use crate::config::AuthConfig;
use crate::domain::{ApiKeyId, Role, Timestamp};
use crate::runtime::{Clock, Stopwatch};
use crate::store::{Store, StoreError};

/// How long rejections are cached: enough to blunt a flood of one wrong key.
const REJECTION_TTL: Duration = Duration::from_secs(10);
/// Maximum cached rejections.
const REJECTIONS_MAX: u64 = 10_000;
/// Maximum look-ups at once of keys that this process has never verified. Others wait in front of the store, so that
/// the keys that it knows do not queue behind them there.
const UNKNOWN_LOOKUPS_MAX: usize = 32;
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

pub(super) struct Inner {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<AuthMetrics>,
    pub(super) keys: KeyCache,
    /// Cached keys whose rows are to be read again.
    pub(super) refreshes: RefreshQueue,
    /// Rejections by presented key. Checks of one presented key wait for each other here.
    pub(super) rejections: Cache<KeyDigest, Rejection>,
    pub(super) throttle: FailedKeyThrottle,
    pub(super) hashes: HashQueue,
    pub(super) unknown_lookups: Semaphore,
    pub(super) usage: UsageTracker,
    pub(super) sessions: SessionCache,
}

/// A rejection that may be cached, since it is about the key and not about the server's state.
#[derive(Clone, Copy)]
pub(super) enum Rejection {
    Unknown,
    WrongSecret,
    Expired,
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
            keys: KeyCache::new(
                config.auth_cache_capacity,
                config.auth_cache_ttl,
                config.auth_cache_stale_max,
            ),
            refreshes: RefreshQueue::new(),
            rejections: rejections.time_to_live(REJECTION_TTL).build(),
            throttle,
            hashes: HashQueue::new(),
            unknown_lookups: Semaphore::new(UNKNOWN_LOOKUPS_MAX),
            sessions: SessionCache::new(),
        }))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    /// Authenticates a key. `client` returns the caller's address and is called only if the key is not cached, or its
    /// secret is wrong.
    pub async fn authenticate(
        &self,
        presented: &str,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Principal>, AuthError> {
        self.0.use_key(&self.0.verified(presented, client).await?.0)
    }

    /// [`Self::authenticate`], fastest for the key that the connection presented last.
    pub async fn authenticate_on_connection(
        &self,
        presented: &str,
        connection: &ConnectionKeyCache,
        now: Stopwatch,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<Arc<Principal>, AuthError> {
        if let Some(verified) = connection.get(&self.0.keys, presented, now) {
            self.0.metrics.cache_lookups_total.of(CacheLookup::Hit).inc();
            return self.0.use_key(&verified);
        }
        let (verified, epoch) = self.0.verified(presented, client).await?;
        connection.insert(Arc::clone(&verified), epoch);
        self.0.use_key(&verified)
    }

    /// Issues a key with all scopes of its role and no expiry. Its hash waits in the same queue as those of
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
            self.0.hashes.acquire(asked_by, HashPurpose::Issue).await.ok_or(IssueError::Busy)?;
        self.0.metrics.auth_hashes_total.inc();
        issue::issue(role, name, now, permit).await
    }

    /// Flushes the usage of keys and organisations since the last flush to the store.
    pub async fn flush_usage(&self) -> Result<(), StoreError> {
        self.0.usage.flush(&self.0.store, self.0.clock.now()).await
    }

    /// Invalidates what is cached of a key, so that its row is read again. Call it after changing the key.
    pub fn invalidate(&self, key: ApiKeyId) {
        self.0.keys.invalidate(key);
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

    /// The cached or verified key, and its epoch before it was looked up.
    async fn verified(
        &self,
        presented: &str,
        client: impl FnOnce() -> IpAddr,
    ) -> Result<(Arc<VerifiedKey>, Epoch), AuthError> {
        let key: PresentedKey = presented.parse().map_err(|_| AuthError::Malformed)?;
        let (digest, epoch) = (key.digest(), self.keys.epoch(key.id()));
        let Some(entry) = self.keys.get(key.id()) else {
            // Boxed: the future is rare and large, and would be moved with every request.
            let checked = Box::pin(self.check(key, digest, epoch, client())).await;
            return checked.map(|verified| (verified, epoch));
        };
        self.metrics.cache_lookups_total.of(CacheLookup::Hit).inc();
        // The comparison may stop early: it leaks bits of a guess's digest only, and digests cannot be
        // steered towards a secret.
        if entry.digest != digest {
            return Err(self.reject_secret(digest, client()).await);
        }
        if self.keys.is_stale(&entry) {
            self.refreshes.request(key.id(), &entry);
        }
        Ok((entry, epoch))
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
