//! Issues keys, with a bound on how many are issued at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hasher::{self, HashError, HashLimiter};
use super::key::PresentedKey;
use crate::domain::{ApiKey, ApiKeyId, OrgId, Role, Timestamp};

/// Maximum keys that tenants ask for and that are issued or wait for it; further requests are refused.
const TENANTS_MAX: usize = 64;
/// The same for operators.
const OPERATORS_MAX: usize = 8;
/// Maximum places of one organisation among those of tenants.
const ORG_PLACES: usize = 2;
/// Maximum requests of one organisation that wait for its places.
const ORG_WAITING_MAX: usize = 16;

/// A new key: the record to store, and the text, which is shown once.
#[derive(Debug)]
pub struct IssuedKey {
    /// The record for the store.
    pub record: ApiKey,
    /// The key for its owner.
    pub key: PresentedKey,
}

/// Why no key was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The system has no random source.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Too many keys are being issued.
    #[error("too many keys are being issued")]
    Busy,
}

/// Shares out key creation, which costs a hash: by organisation, and apart for operators.
///
/// Tenants' keys are issued one at a time, and so are those that operators ask for, so that a verification
/// waits behind at most two.
pub(super) struct KeyIssuer {
    tenants: IssueQueue,
    operators: IssueQueue,
    orgs: Mutex<HashMap<OrgId, Arc<OrgPlaces>>>,
}

/// Callers that wait for each other.
struct IssueQueue {
    waiting: Arc<Semaphore>,
    /// Has one permit.
    serial: Arc<Semaphore>,
}

/// What one organisation may have of the tenants' queue. Dropped when nobody uses it.
struct OrgPlaces {
    waiting: Semaphore,
    places: Arc<Semaphore>,
}

/// The right to issue one key.
pub(super) struct IssuePermit {
    _org: Option<(Arc<OrgPlaces>, OwnedSemaphorePermit)>,
    _waiting: OwnedSemaphorePermit,
    _serial: OwnedSemaphorePermit,
    _hash: OwnedSemaphorePermit,
}

impl KeyIssuer {
    pub(super) fn new() -> Self {
        Self {
            tenants: IssueQueue::new(TENANTS_MAX),
            operators: IssueQueue::new(OPERATORS_MAX),
            orgs: Mutex::default(),
        }
    }

    /// Waits until a key may be issued for this caller; `None` if too many wait already.
    pub(super) async fn acquire(
        &self,
        asked_by: Role,
        hashes: &HashLimiter,
    ) -> Option<IssuePermit> {
        let (queue, org) = match asked_by {
            Role::Operator => (&self.operators, None),
            Role::Tenant(org) => {
                let org = self.org(org);
                let place = org.acquire().await?;
                (&self.tenants, Some((org, place)))
            }
        };
        let waiting = Arc::clone(&queue.waiting).try_acquire_owned().ok()?;
        let serial = Arc::clone(&queue.serial).acquire_owned().await.ok()?;
        let hash = hashes.acquire().await?;
        Some(IssuePermit { _org: org, _waiting: waiting, _serial: serial, _hash: hash })
    }

    fn org(&self, org: OrgId) -> Arc<OrgPlaces> {
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        orgs.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(orgs.entry(org).or_insert_with(|| Arc::new(OrgPlaces::new())))
    }
}

impl IssueQueue {
    fn new(places: usize) -> Self {
        Self { waiting: Arc::new(Semaphore::new(places)), serial: Arc::new(Semaphore::new(1)) }
    }
}

impl OrgPlaces {
    fn new() -> Self {
        Self {
            waiting: Semaphore::new(ORG_WAITING_MAX),
            places: Arc::new(Semaphore::new(ORG_PLACES)),
        }
    }

    /// Waits for one of the organisation's places; `None` if too many of it wait already.
    async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        let _waiting = self.waiting.try_acquire().ok()?;
        Arc::clone(&self.places).acquire_owned().await.ok()
    }
}

/// Issues a key with all scopes of its role and no expiry. It takes the time of one Argon2id hash, in the
/// blocking pool. For a few keys one by one; keys that requests ask for go through
/// [`Authenticator::issue_key`](super::Authenticator::issue_key), which is bounded.
pub async fn issue_key(role: Role, name: String, now: Timestamp) -> Result<IssuedKey, IssueError> {
    issue(role, name, now, ()).await
}

/// Issues a key and holds `permit` until its hash is computed.
pub(super) async fn issue(
    role: Role,
    name: String,
    now: Timestamp,
    permit: impl Send + 'static,
) -> Result<IssuedKey, IssueError> {
    let key = PresentedKey::generate(ApiKeyId::mint(now))?;
    let hash = hasher::hash(key.reveal().to_owned(), permit).await?;
    let record = ApiKey {
        id: key.id(),
        role,
        name,
        scopes: role.scopes(),
        rate_limit_per_minute: None,
        hash,
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    Ok(IssuedKey { record, key })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    fn some_org() -> Role {
        Role::Tenant(OrgId::mint(Timestamp::from_micros(1)))
    }

    /// Whether a permit is there at once; callers that wait are given up.
    fn at_once(issuer: &KeyIssuer, hashes: &HashLimiter, asked_by: Role) -> Option<IssuePermit> {
        issuer.acquire(asked_by, hashes).now_or_never().flatten()
    }

    #[tokio::test]
    async fn organisation_with_many_requests_leaves_places_to_others_and_to_operators() {
        let (issuer, hashes) = (KeyIssuer::new(), HashLimiter::new());
        let [one, other] = [(); 2].map(|()| some_org());
        let first = at_once(&issuer, &hashes, one).unwrap();
        let request = async || issuer.acquire(one, &hashes).await.is_some();
        let mut requests = std::pin::pin!(join_all((0..100).map(|_| request())));
        assert!(requests.as_mut().now_or_never().is_none());
        // One is issued and one waits in the queue; 16 wait for these places.
        assert_eq!(issuer.tenants.waiting.available_permits(), TENANTS_MAX - ORG_PLACES);
        drop(first);
        let ends = requests.await;
        assert_eq!(ends.iter().filter(|is_issued| **is_issued).count(), 1 + ORG_WAITING_MAX);
        assert!(at_once(&issuer, &hashes, other).is_some());
        assert_eq!(issuer.orgs.lock().unwrap().len(), 1, "unused places are dropped");
    }

    #[tokio::test]
    async fn operator_waits_for_no_tenant() {
        let (issuer, hashes) = (KeyIssuer::new(), HashLimiter::new());
        let requests = (0..70).map(|_| issuer.acquire(some_org(), &hashes));
        let mut tenants = std::pin::pin!(join_all(requests));
        assert!(tenants.as_mut().now_or_never().is_none());
        assert_eq!(issuer.tenants.waiting.available_permits(), 0);
        assert_eq!(issuer.operators.waiting.available_permits(), OPERATORS_MAX);
        assert_eq!(issuer.operators.serial.available_permits(), 1);
    }
}
