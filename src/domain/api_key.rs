//! API keys as they are stored: the Argon2id hash of the secret, never the secret itself.

use std::fmt;
use std::time::Duration;

use super::{ApiKeyId, OrgId, Revision, Scopes, Timestamp, Violation};

/// Whose key it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Acts for one organisation.
    Tenant(OrgId),
    /// Manages organisations and keys, but cannot read events.
    Operator,
}

/// A stored API key.
///
/// ```text
///  active ── rotate with a grace period ──▶ in grace ── the grace period ends ──▶ expired
///    │                                         │
///    ├── `expires_at` is reached, or ──────────┼────────────────────────────────▶ expired
///    │   rotate without a grace period         │
///    └── revoke ───────────────────────────────┴────────────────────────────────▶ revoked
/// ```
/// A key works while it is active or in its grace period. No state is stored: it follows from `expires_at`,
/// `revoked_at` and `replaced_by` (see [`Self::is_active`]). A rotated key keeps working until its grace
/// period ends and cannot be rotated again; its successor can.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// The public id, part of the key's text.
    pub id: ApiKeyId,
    /// Whose key it is.
    pub role: Role,
    /// Its display name; not unique.
    pub name: String,
    /// Its permissions, a subset of [`Role::scopes`].
    pub scopes: Scopes,
    /// Events per minute that may be posted with it; `None` for as many as its organisation may.
    pub rate_limit_per_minute: Option<u32>,
    /// The hash of its secret.
    pub hash: KeyHash,
    /// When it was created.
    pub created_at: Timestamp,
    /// The key is refused from this time on; `None` means never. Revoking a key sets it to now; rotating one
    /// sets it to the end of its grace period.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
    /// The minute of its last use that was flushed to the store.
    pub last_used_at: Option<Timestamp>,
    /// The key it was rotated to. Until it expires it is in its grace period.
    pub replaced_by: Option<ApiKeyId>,
}

/// Why a key was not rotated, worded for its owner and for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyRotationRefusal {
    /// The key does not exist, or its organisation is being deleted.
    #[error("the key does not exist")]
    NotFound,
    /// The key was revoked or has expired.
    #[error("the key was revoked or has expired; create a new one")]
    Inactive,
    /// The key was already rotated to this one, and is in its grace period.
    #[error("the key was already rotated and is in its grace period; rotate {0} instead")]
    AlreadyRotated(ApiKeyId),
    /// The organisation has this many rotated keys in their grace period, which is the maximum.
    #[error(
        "{0} rotated keys are in their grace period, which is the maximum; revoke one, or rotate \
         without a grace period"
    )]
    OverQuota(u32),
}

impl ApiKey {
    /// Maximum grace period of a rotated key in seconds: seven days.
    pub const GRACE_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

    /// Checks a grace period: at most seven days.
    pub fn check_grace(grace: Duration) -> Result<(), Violation> {
        if grace <= Duration::from_secs(Self::GRACE_SECONDS_MAX.into()) {
            return Ok(());
        }
        let rule = "must be at most 604800 seconds, seven days";
        Err(Violation::new("grace_seconds", "range", rule))
    }

    /// Its state, for those who change it: without its last use.
    pub fn revision(&self) -> Revision {
        let Self { id, name, scopes, rate_limit_per_minute, .. } = self;
        let end = (self.expires_at, self.revoked_at, self.replaced_by);
        Revision::of(&(id, name, scopes, rate_limit_per_minute, end))
    }

    /// Whether the key works at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }

    /// Whether the key may be rotated at `now`. Only once: afterwards `expires_at` is the end of its grace
    /// period, which a second successor would inherit, and several successors would work at once.
    ///
    /// # Errors
    /// [`KeyRotationRefusal::Inactive`] or [`KeyRotationRefusal::AlreadyRotated`].
    pub fn check_rotation(&self, now: Timestamp) -> Result<(), KeyRotationRefusal> {
        // A revoked key is inactive even if its end was set by a server whose clock is ahead.
        if self.revoked_at.is_some() || !self.is_active(now) {
            return Err(KeyRotationRefusal::Inactive);
        }
        self.replaced_by.map_or(Ok(()), |new| Err(KeyRotationRefusal::AlreadyRotated(new)))
    }
}

impl Role {
    /// Every scope that a key of this role may be given by name.
    pub const fn grantable_scopes(self) -> Scopes {
        match self {
            Self::Tenant(_) => Scopes::TENANT,
            Self::Operator => Scopes::OPERATOR_ALL,
        }
    }

    /// The scopes of a key of this role unless they are named.
    pub const fn scopes(self) -> Scopes {
        match self {
            Self::Tenant(_) => Scopes::TENANT,
            Self::Operator => Scopes::OPERATOR,
        }
    }

    /// The organisation that a tenant's key acts for.
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
    /// Wraps a PHC string.
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
