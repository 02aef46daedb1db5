//! Issues keys, with a bound on how many are issued at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::hasher::{self, HashError, HashLimiter};
use super::key::PresentedKey;
use crate::domain::{ApiKey, ApiKeyId, Role, Timestamp};

/// Maximum keys that are issued or wait for it; further requests are refused.
const ISSUES_MAX: usize = 64;

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

/// Serialises key creation, so that a verification waits behind at most one.
pub(super) struct KeyIssuer {
    waiting: Arc<Semaphore>,
    /// Has one permit.
    serial: Arc<Semaphore>,
}

/// The right to issue one key.
pub(super) struct IssuePermit {
    _waiting: OwnedSemaphorePermit,
    _serial: OwnedSemaphorePermit,
    _hash: OwnedSemaphorePermit,
}

impl KeyIssuer {
    pub(super) fn new() -> Self {
        Self { waiting: Arc::new(Semaphore::new(ISSUES_MAX)), serial: Arc::new(Semaphore::new(1)) }
    }

    /// Waits until a key may be issued; `None` if too many wait already.
    pub(super) async fn acquire(&self, hashes: &HashLimiter) -> Option<IssuePermit> {
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
        let serial = Arc::clone(&self.serial).acquire_owned().await.ok()?;
        let hash = hashes.acquire().await?;
        Some(IssuePermit { _waiting: waiting, _serial: serial, _hash: hash })
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
        hash,
        created_at: now,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    Ok(IssuedKey { record, key })
}
