//! The audit log: who changed what.

use std::collections::HashSet;

use super::refusal::Refusal;
use super::subsystems::Subsystems;
use crate::domain::{ActorKind, ApiKeyId, AuditEntry, OrgId, Page, PageRequest};

/// What an organisation learns of the operator who changed something in it.
const OPERATOR: &str = "operator";

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

/// A page of what an organisation's own keys and operators changed in it, newest first. Which operator, and from which
/// address, is not the organisation's to know.
///
/// # Errors
/// When the store fails.
pub async fn list_of_org(
    subsystems: &Subsystems,
    org: OrgId,
    page: PageRequest,
) -> Result<Page<AuditEntry>, Refusal> {
    let mut page = subsystems.store.audit_log(org, page).await?;
    let keys: HashSet<ApiKeyId> = page.data.iter().filter_map(key).collect();
    let keys: Vec<ApiKeyId> = keys.into_iter().collect();
    // Not the other way round: the organisation's own keys may have been deleted since.
    let operators = subsystems.store.system().operators_among(&keys).await?;
    let server = ActorKind::Server.to_string();
    for entry in &mut page.data {
        if entry.actor != server && key(entry).is_none_or(|key| operators.contains(&key)) {
            OPERATOR.clone_into(&mut entry.actor);
            entry.address = None;
        }
    }
    Ok(page)
}

/// The key that made a change.
fn key(entry: &AuditEntry) -> Option<ApiKeyId> {
    entry.actor.parse().ok()
}
