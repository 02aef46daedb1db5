//! The audit log: who changed what.

use super::refusal::Refusal;
use super::subsystems::Subsystems;
use crate::domain::{AuditEntry, OrgId, Page, PageRequest};

/// A page of the audit log for operators, newest first: everything, or one organisation's entries,
/// with its creation and deletion.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: Option<OrgId>,
    page: PageRequest,
) -> Result<Page<AuditEntry>, Refusal> {
    Ok(match org {
        Some(org) => subsystems.store.system().org_log(org, page).await?,
        None => subsystems.store.system().audit_log(page).await?,
    })
}

/// A page of what an organisation's own keys and operators changed in it, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list_of_org(
    subsystems: &Subsystems,
    org: OrgId,
    page: PageRequest,
) -> Result<Page<AuditEntry>, Refusal> {
    Ok(subsystems.store.audit_log(org, page).await?)
}
