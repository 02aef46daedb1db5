//! The caller's own organisation and keys.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { Organisation:
    /// Show the key, its scopes, limits and quotas
    GET_OWN_ORG "getOrg" [];
    /// Limit the rates of own event types
    UPDATE_OWN_ORG "updateOrg" [] r#"{"own_event_type_rates": {"user.login": 60}}"#;
    /// Show how the portal looks
    GET_PORTAL "getPortal" [];
    /// Change how the portal looks
    UPDATE_PORTAL "updatePortal" [] r##"{"name": "Acme", "colour": "#3545b0", "allowed_origins": ["https://app.example.com"]}"##;
    /// Create a link to the portal
    ///
    /// It opens a session that sees and manages the events and endpoints of one account alone. It works once.
    CREATE_PORTAL_LINK "createPortalLink" [KEY_IN_GRACE] r#"{"account_id": "acme", "return_url": "https://app.example.com/settings"}"#;
    /// Create a key
    ///
    /// The answer alone has its text.
    CREATE_KEY "createKey" [
        QUOTA_REACHED, KEY_IN_GRACE, KEY_EXPIRES_EARLIER, AUTH_UNAVAILABLE
    ] r#"{"name": "production", "scopes": ["events:write"]}"#;
    /// List keys
    LIST_KEYS "listKeys" [];
    /// Show a key
    GET_KEY "getKey" [];
    /// Rename a key
    UPDATE_KEY "updateKey" [KEY_IN_GRACE] r#"{"name": "production, new"}"#;
    /// Revoke a key
    REVOKE_KEY "revokeKey" [KEY_IN_GRACE];
    /// Replace a key
    ///
    /// The old one works beside the new one for `grace_seconds`.
    ROTATE_KEY "rotateKey" [
        QUOTA_REACHED, KEY_IN_GRACE, KEY_EXPIRES_EARLIER, KEY_EXPIRED, KEY_ROTATED, SCOPE_REQUIRED
    ] r#"{"grace_seconds": 3600}"#;
    /// Read the organisation's audit log
    LIST_AUDIT_ENTRIES "listAuditEntries" [];
}
