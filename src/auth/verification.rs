//! Verification of keys that are not cached: their rows are read, and their secrets hashed if need be.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::authenticator::{AuthError, Inner, Rejection};
use super::hash_queue::HashPurpose;
use super::hasher;
use super::key::{KeyDigest, PresentedKey};
use super::key_cache::{Epoch, VerifiedKey};
use super::metrics::CacheLookup;
use super::principal::Principal;
use crate::domain::{ApiKey, ApiKeyId, EventTypeRates, OrgLimits, OrgState, Role};
use crate::runtime::Stopwatch;
use crate::store::StoreError;

/// Maximum reads of a key's row in one check while keys are being changed.
pub(super) const READS_MAX: usize = 8;
/// The longest wait until the row of a key is read that was never verified here.
const LOOKUP_WAIT_MAX: Duration = Duration::from_secs(2);

/// The end of a check that has no rejection to cache.
enum NotRejected {
    Verified(Arc<VerifiedKey>),
    Failed(AuthError),
}

impl Inner {
    /// Rejects a wrong secret for a cached key, and counts it like one for a key that is not cached.
    pub(super) async fn reject_secret(&self, digest: KeyDigest, client: IpAddr) -> AuthError {
        if let Some(rejection) = self.rejections.get(&digest).await {
            return rejection.into();
        }
        if let Err(retry_after) = self.throttle.check(client) {
            return AuthError::Throttled { retry_after };
        }
        self.throttle.record_failure(client);
        self.rejections.insert(digest, Rejection::WrongSecret).await;
        AuthError::WrongSecret
    }

    /// Verifies a key that is not cached, for a caller that came in this epoch. Callers that present the same key
    /// share one check, unless its row was read before the caller came and something was invalidated since.
    pub(super) async fn check(
        &self,
        key: PresentedKey,
        digest: KeyDigest,
        arrived: Epoch,
        client: IpAddr,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        self.metrics.cache_lookups_total.of(CacheLookup::Miss).inc();
        if let Some(rejection) = self.rejections.get(&digest).await {
            return Err(rejection.into());
        }
        let is_known = self.keys.was_verified(key.id(), digest);
        if !is_known {
            let checked = self.throttle.check(client);
            checked.map_err(|retry_after| AuthError::Throttled { retry_after })?;
        }
        for _ in 0..READS_MAX {
            let verified = self.shared_check(&key, digest, is_known, client).await?;
            if !verified.epoch.is_before(arrived) {
                return Ok(verified);
            }
        }
        Err(AuthError::Busy)
    }

    async fn shared_check(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
        is_known: bool,
        client: IpAddr,
    ) -> Result<Arc<VerifiedKey>, AuthError> {
        // `try_get_with` caches `Ok` and shares `Err` with the callers that wait. Rejections are to be cached
        // here and verified keys are not (they have their own cache), so a rejection is the `Ok` of this.
        let checked = self.rejections.try_get_with(digest, async {
            match self.verify(key, digest, is_known).await {
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

    /// Verifies a key and caches it. If it was invalidated meanwhile, its row is read again, without a second
    /// hash: what was read before the key was revoked lets nobody in.
    async fn verify(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
        is_known: bool,
    ) -> Result<Result<Arc<VerifiedKey>, Rejection>, AuthError> {
        for _ in 0..READS_MAX {
            match self.verify_once(key, digest, is_known).await? {
                Ok(verified) => {
                    let verified = Arc::new(verified);
                    if self.keys.insert(key.id(), &verified) {
                        return Ok(Ok(verified));
                    }
                }
                Err(rejection) => {
                    // A wrong secret says nothing about the key whose id was used.
                    if matches!(rejection, Rejection::Unknown | Rejection::Expired) {
                        self.keys.invalidate_cached(key.id());
                    }
                    return Ok(Err(rejection));
                }
            }
        }
        Err(AuthError::Busy)
    }

    async fn verify_once(
        &self,
        key: &PresentedKey,
        digest: KeyDigest,
        is_known: bool,
    ) -> Result<Result<VerifiedKey, Rejection>, AuthError> {
        let (epoch, read) = (self.keys.epoch(key.id()), Stopwatch::start());
        let Some(record) = self.look_up(key.id(), is_known).await? else {
            return Ok(Err(Rejection::Unknown));
        };
        if !record.is_active(self.clock.now()) {
            return Ok(Err(Rejection::Expired));
        }
        if !self.secret_matches(key, digest, &record).await? {
            return Ok(Err(Rejection::WrongSecret));
        }
        let verified = self.verified_key(&record, digest, epoch, read).await?;
        Ok(verified.ok_or(Rejection::Unknown))
    }

    /// The row of a key. Few rows of keys that were never verified here are read at once.
    async fn look_up(&self, key: ApiKeyId, is_known: bool) -> Result<Option<ApiKey>, AuthError> {
        let lookup = async {
            let permit = self.unknown_lookups.acquire();
            tokio::time::timeout(LOOKUP_WAIT_MAX, permit).await.ok()?.ok()
        };
        let permit = if is_known { None } else { Some(lookup.await.ok_or(AuthError::Busy)?) };
        let record = self.store.system().key(key).await?;
        drop(permit);
        Ok(record)
    }

    /// What is cached of a valid key; `None` if its organisation is being deleted.
    pub(super) async fn verified_key(
        &self,
        record: &ApiKey,
        digest: KeyDigest,
        epoch: Epoch,
        read: Stopwatch,
    ) -> Result<Option<VerifiedKey>, StoreError> {
        let Some(principal) = self.principal(record).await? else { return Ok(None) };
        Ok(Some(VerifiedKey {
            digest,
            hash: record.hash.clone(),
            read,
            epoch,
            principal: Arc::new(principal),
            expires_at: record.expires_at,
            used: self.usage.key(record.id),
            is_refreshing: AtomicBool::new(false),
        }))
    }

    /// The principal of a valid key; `None` if its organisation is being deleted.
    pub(super) async fn principal(&self, record: &ApiKey) -> Result<Option<Principal>, StoreError> {
        let mut principal = Principal {
            key_id: record.id,
            role: record.role,
            scopes: record.scopes,
            suspended: false,
            limits: OrgLimits::default(),
            account: None,
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
            principal.event_type_rates = org.effective_event_type_rates();
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
        if let Some(known) = self.keys.digest_of(record.id, &record.hash) {
            return Ok(known == digest);
        }
        if !hasher::may_match(key.reveal(), &record.hash) {
            return Ok(false);
        }
        let permit = self.hashes.acquire(record.role, HashPurpose::Verify).await;
        let permit = permit.ok_or(AuthError::Busy)?;
        self.metrics.auth_hashes_total.inc();
        let matches = hasher::verify(key.reveal().to_owned(), record.hash.clone(), permit).await?;
        if matches {
            self.keys.insert_hash(record.id, digest, record.hash.clone());
        }
        Ok(matches)
    }
}
