//! The entries of erasures in the audit log.

use serde_json::json;

use crate::domain::Erasure;
use crate::store::AuditRecord;

impl AuditRecord {
    /// An erasure was requested. What it is of is kept here, so that it can be shown that it was erased.
    pub(in crate::store) fn erasure_requested(erasure: &Erasure) -> Self {
        let changes = json!({ "filter": erasure.filter });
        Self::new(erasure.org_id, "erasure.create", erasure.id.uuid(), changes)
    }

    /// An erasure has ended.
    pub(in crate::store) fn erasure_ended(erasure: &Erasure) -> Self {
        let changes = json!({
            "events": erasure.events,
            "deliveries": erasure.deliveries,
            "dead_letters": erasure.dead_letters,
        });
        Self::new(erasure.org_id, "erasure.finish", erasure.id.uuid(), changes)
    }
}
