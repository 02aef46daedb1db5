//! What operators manage.

use crate::http::openapi::operation::{Operation, Tag, operations};
use crate::http::problem;

operations! { Operators:
    /// Create an organisation
    CREATE_ORG "createOrg" [] r#"{"name": "Acme", "rate_limit_per_minute": 6000}"#;
    /// List organisations
    LIST_ORGS "listOrgs" [];
    /// Show an organisation, and the progress of its deletion
    GET_ORG "getOrgById" [];
    /// Change the name and limits of an organisation
    UPDATE_ORG "updateOrgById" [] r#"{"rate_limit_per_minute": 6000, "burst": null}"#;
    /// Delete an organisation with all its data, in the background
    DELETE_ORG "deleteOrg" [];
    /// Suspend an organisation
    SUSPEND_ORG "suspendOrg" [];
    /// Resume an organisation
    RESUME_ORG "resumeOrg" [];
    /// Create a key for an organisation
    CREATE_ORG_KEY "createOrgKey" [
        QUOTA_REACHED, KEY_IN_GRACE, KEY_EXPIRES_EARLIER
    ] r#"{"name": "production", "scopes": ["events:write"]}"#;
    /// List the keys of an organisation
    LIST_ORG_KEYS "listOrgKeys" [];
    /// Create an operator's key
    CREATE_OPERATOR_KEY "createOperatorKey" [
        KEY_IN_GRACE, KEY_EXPIRES_EARLIER
    ] r#"{"name": "dashboard", "scopes": ["operator:read"]}"#;
    /// List all keys
    LIST_ALL_KEYS "listAllKeys" [];
    /// Show any key
    GET_ANY_KEY "getAnyKey" [];
    /// Rename any key
    UPDATE_ANY_KEY "updateAnyKey" [KEY_IN_GRACE] r#"{"name": "production, new"}"#;
    /// Revoke any key
    REVOKE_ANY_KEY "revokeAnyKey" [KEY_IN_GRACE];
    /// Replace any key
    ROTATE_ANY_KEY "rotateAnyKey" [
        QUOTA_REACHED, KEY_IN_GRACE, KEY_EXPIRES_EARLIER, KEY_EXPIRED, KEY_ROTATED, SCOPE_REQUIRED
    ] r#"{"grace_seconds": 3600}"#;
    /// Read the audit log
    LIST_ALL_AUDIT_ENTRIES "listAllAuditEntries" [];
    /// List the servers that work with the store
    LIST_SERVERS "listServers" [];
    /// Show what the journal of this server has set aside
    ///
    /// Bytes of the journal that cannot be read or decoded are skipped, reported, and copied to `damaged/` for an expert.
    GET_QUARANTINE "getQuarantine" [];
    /// List endpoints that fail, of all organisations
    ///
    /// By the time since when every attempt has failed: with `order=asc`, those that have failed for longest first.
    LIST_FAILING_ENDPOINTS "listFailingEndpoints" [];
    /// Count events of an organisation, or of all together
    GET_ALL_EVENT_METRICS "getAllEventMetrics" [];
    /// List usage by organisation for a month
    LIST_USAGE "listUsage" [];
    /// Show what this server logs
    GET_LOGS "getLogs" [];
    /// Change what this server logs, until it ends
    UPDATE_LOGS "updateLogs" [] r#"{"filter": "hookgate=debug,info"}"#;
}
