//! Erasures: requesting one, and following it. The eraser does the work.

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::domain::{
    Actor, Erasure, ErasureId, ErasureSubject, OrgId, Page, PageRequest, Timestamp,
};

/// Requests that an event, or what the organisation has of an account, is erased, as far as it was accepted by `until`.
/// It need not be stored yet, nor exist.
///
/// # Errors
/// When the organisation does not exist.
pub async fn request(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &ErasureSubject,
    until: Timestamp,
    by: &Actor,
) -> Result<Erasure, Refusal> {
    let erasure = subsystems.store.insert_erasure(org, filter, by, until).await?;
    erasure.ok_or(Refusal::NotFound(Missing::Org(org)))
}

/// A page of an organisation's erasures, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: OrgId,
    page: PageRequest,
) -> Result<Page<Erasure>, Refusal> {
    Ok(subsystems.store.erasures(org, page).await?)
}

/// An erasure and its progress.
///
/// # Errors
/// When it does not exist.
pub async fn one(subsystems: &Subsystems, org: OrgId, id: ErasureId) -> Result<Erasure, Refusal> {
    let erasure = subsystems.store.erasure(org, id).await?;
    erasure.ok_or(Refusal::NotFound(Missing::Erasure(org, id)))
}
