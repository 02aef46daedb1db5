//! Issues keys: an id, a random secret and its hash.

use super::hasher::{self, HashError};
use super::key::PresentedKey;
use crate::domain::{ApiKey, ApiKeyId, Role, Timestamp};

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
    adopt(PresentedKey::generate(ApiKeyId::mint(now))?, role, name, now, permit).await
}

/// Makes the record of a key that exists already, such as one from the settings. As [`issue_key`] in everything else.
pub async fn adopt_key(
    key: PresentedKey,
    role: Role,
    name: String,
    now: Timestamp,
) -> Result<IssuedKey, IssueError> {
    adopt(key, role, name, now, ()).await
}

async fn adopt(
    key: PresentedKey,
    role: Role,
    name: String,
    now: Timestamp,
    permit: impl Send + 'static,
) -> Result<IssuedKey, IssueError> {
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
