//! API keys as the store knows them: never the secret, only its Argon2id hash.

use std::fmt;
use std::time::Duration;

use super::{ApiKeyId, OrgId, Scopes, Timestamp, Violation};

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
    /// The key that it was rotated to. While it works still it is in its grace.
    pub replaced_by: Option<ApiKeyId>,
}

/// Why a key was not rotated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyRotationRefusal {
    /// There is no such key, or its organisation is being deleted.
    NotFound,
    /// It was revoked, or has expired.
    Inactive,
    /// It was rotated to this key before, and is in its grace.
    AlreadyRotated(ApiKeyId),
    /// So many keys of its organisation are in their grace, which is as many as it may have keys.
    OverQuota(u32),
}

impl ApiKey {
    /// The longest time that a rotated key may go on working, in seconds: a week.
    pub const GRACE_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

    /// The rule for a grace: at most seven days.
    pub fn check_grace(grace: Duration) -> Result<(), Violation> {
        if grace <= Duration::from_secs(Self::GRACE_SECONDS_MAX.into()) {
            return Ok(());
        }
        let rule = "must be at most 604800 seconds, seven days";
        Err(Violation::new("grace_seconds", "range", rule))
    }

    /// Whether the key is good at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether the key may be rotated at `now`. Once, since its end is then that of its grace: a
    /// second new key would take that end for its own, and a third and fourth would be good at once.
    ///
    /// # Errors
    /// [`KeyRotationRefusal::Inactive`] or [`KeyRotationRefusal::AlreadyRotated`].
    pub fn check_rotation(&self, now: Timestamp) -> Result<(), KeyRotationRefusal> {
        // A key that was revoked is not good, whatever another server's clock says of its end.
        if self.revoked_at.is_some() || !self.is_active(now) {
            return Err(KeyRotationRefusal::Inactive);
        }
        self.replaced_by.map_or(Ok(()), |new| Err(KeyRotationRefusal::AlreadyRotated(new)))
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
