//! API keys.

use schemars::JsonSchema;
use serde::Serialize;

use crate::auth::IssuedKey;
use crate::domain::{ApiKey, ApiKeyId, OrgId, Role, Scopes, Timestamp};

/// A key as people read it: never its hash.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct KeyView {
    /// Its id.
    pub id: ApiKeyId,
    /// `tenant` or `operator`.
    pub role: &'static str,
    /// The organisation it belongs to; `null` for an operator's key.
    pub org_id: Option<OrgId>,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// Events per minute that may be sent with it; `null` for as many as its organisation may.
    pub rate_limit_per_minute: Option<u32>,
    /// Whether it works now.
    pub active: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires; `null` if it does not.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked or rotated.
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, to the minute, known a minute later.
    pub last_used_at: Option<Timestamp>,
    /// The key that replaced it in a rotation.
    pub replaced_by: Option<ApiKeyId>,
}

/// A new key with its text, which no other answer shows.
#[derive(JsonSchema, Serialize)]
pub struct NewKeyView {
    /// As it is read later.
    #[serde(flatten)]
    pub record: KeyView,
    /// Its text, to be sent as `X-API-Key`.
    pub key: String,
}

impl KeyView {
    /// Fields that change without their owner: a patch that sends them back is not about them.
    pub const MEASURED: [&str; 2] = ["active", "last_used_at"];

    /// A key as it is at `now`.
    pub fn new(key: ApiKey, now: Timestamp) -> Self {
        Self {
            id: key.id,
            role: match key.role {
                Role::Tenant(_) => "tenant",
                Role::Operator => "operator",
            },
            org_id: key.role.org_id(),
            active: key.is_active(now),
            name: key.name,
            scopes: key.scopes,
            rate_limit_per_minute: key.rate_limit_per_minute,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            replaced_by: key.replaced_by,
        }
    }
}

impl NewKeyView {
    /// A key that was just issued.
    pub fn new(issued: IssuedKey, now: Timestamp) -> Self {
        let key = issued.key.reveal().to_owned();
        Self { record: KeyView::new(issued.record, now), key }
    }
}
