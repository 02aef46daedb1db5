//! API keys as the store knows them: never the secret, only its Argon2id hash.

use std::fmt;

use super::{ApiKeyId, OrgId, Scopes, Timestamp};

/// What a key may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Acts for one organisation.
    Tenant(OrgId),
    /// Manages organisations and keys; reads no tenant's events.
    Operator,
}

/// A stored API key.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The public id inside the key.
    pub id: ApiKeyId,
    /// What it may do.
    pub role: Role,
    /// What people call it; not unique.
    pub name: String,
    /// What it may be used for: some of [`Role::scopes`].
    pub scopes: Scopes,
    /// The hash of its secret.
    pub hash: KeyHash,
    /// When it was created.
    pub created_at: Timestamp,
    /// From this moment on it is refused; `None` never. Revoking a key sets it to now, rotating
    /// one may set it to a little later.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The minute in which it was last used, as far as that was written down yet.
    pub last_used_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether the key is good at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

impl Role {
    /// All that a key of this role may be used for.
    pub const fn scopes(self) -> Scopes {
        match self {
            Self::Tenant(_) => Scopes::TENANT,
            Self::Operator => Scopes::OPERATOR,
        }
    }

    /// The organisation a tenant's key acts for.
    pub const fn org_id(self) -> Option<OrgId> {
        match self {
            Self::Tenant(org) => Some(org),
            Self::Operator => None,
        }
    }
}

/// An Argon2id hash in PHC string form. Shown as `KeyHash(…)`, since a hash can be attacked offline.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// Takes a PHC string.
    pub const fn new(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string, for the hasher and the store.
    pub fn phc(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}
