//! Organisations: creating, changing, suspending and deleting them, and what is left of their quotas.
//!
//! A change invalidates this process's caches before it returns, so a suspended or deleted
//! organisation's keys are refused from then on. Other servers hear of it, or notice it within
//! `AUTH_POLL_INTERVAL`.

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{OwnQuotas, QuotaView};
use crate::domain::{Actor, Month, Org, OrgChange, OrgId, OrgLimit, Page, PageRequest, Violation};

/// Creates an organisation with what `change` sets, a name at least.
///
/// # Errors
/// When its name or a limit breaks a rule.
pub async fn create(
    subsystems: &Subsystems,
    change: &OrgChange,
    by: &Actor,
) -> Result<Org, Refusal> {
    Org::check_name(change.name.as_deref().unwrap_or_default())?;
    check(change)?;
    let now = subsystems.clock.now();
    let mut org = Org::new(OrgId::mint(now), "", now);
    change.apply(&mut org);
    subsystems.store.effective_limits(&org).check_retention()?;
    subsystems.store.system().insert_org(&org, by).await?;
    Ok(org)
}

/// A page of organisations, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(subsystems: &Subsystems, page: PageRequest) -> Result<Page<Org>, Refusal> {
    Ok(subsystems.store.system().orgs(page).await?)
}

/// A page of the organisations whose names have this text in them, or whose id it is.
///
/// # Errors
/// When the store fails.
pub async fn search(
    subsystems: &Subsystems,
    text: &str,
    page: PageRequest,
) -> Result<Page<Org>, Refusal> {
    Ok(subsystems.store.system().orgs_named(text, page).await?)
}

/// One organisation, also one that is being deleted, or was, with its progress.
///
/// # Errors
/// When it does not exist.
pub async fn one(subsystems: &Subsystems, id: OrgId) -> Result<Org, Refusal> {
    found(id, subsystems.store.org(id).await?)
}

/// One organisation that is neither deleted nor being deleted: only such a one changes.
///
/// # Errors
/// When it does not exist, or is deleted.
pub async fn existing(subsystems: &Subsystems, id: OrgId) -> Result<Org, Refusal> {
    found(id, subsystems.store.org(id).await?.filter(|org| org.deletion.is_none()))
}

/// Changes an organisation's name and limits.
///
/// # Errors
/// When it does not exist, or a value breaks a rule.
pub async fn change(
    subsystems: &Subsystems,
    id: OrgId,
    change: &OrgChange,
    by: &Actor,
) -> Result<Org, Refusal> {
    check(change)?;
    if change.sets_retention() {
        let mut after = existing(subsystems, id).await?;
        change.apply(&mut after);
        subsystems.store.effective_limits(&after).check_retention()?;
    }
    let now = subsystems.clock.now();
    let changed = subsystems.store.update_org(id, change, by, now).await?;
    invalidated(subsystems, id, changed).await
}

/// Suspends an organisation: its keys are refused and its deliveries wait.
///
/// # Errors
/// When it does not exist.
pub async fn suspend(subsystems: &Subsystems, id: OrgId, by: &Actor) -> Result<Org, Refusal> {
    let now = subsystems.clock.now();
    let changed = subsystems.store.suspend_org(id, true, by, now).await?;
    invalidated(subsystems, id, changed).await
}

/// Ends a suspension.
///
/// # Errors
/// When the organisation does not exist.
pub async fn resume(subsystems: &Subsystems, id: OrgId, by: &Actor) -> Result<Org, Refusal> {
    let now = subsystems.clock.now();
    let changed = subsystems.store.suspend_org(id, false, by, now).await?;
    invalidated(subsystems, id, changed).await
}

/// Deletes an organisation. Its keys are refused from now on; a running server deletes its data in
/// the background.
///
/// # Errors
/// When it does not exist.
pub async fn delete(subsystems: &Subsystems, id: OrgId, by: &Actor) -> Result<Org, Refusal> {
    let changed = subsystems.store.delete_org(id, by, subsystems.clock.now()).await?;
    invalidated(subsystems, id, changed).await
}

/// What is left of an organisation's quotas. `events` were accepted this month.
///
/// # Errors
/// When the store fails.
pub async fn quotas(subsystems: &Subsystems, org: &Org, events: u64) -> Result<OwnQuotas, Refusal> {
    let now = subsystems.clock.now();
    let holdings = subsystems.store.holdings(org.id, now).await?;
    let limits = subsystems.store.effective_limits(org);
    let quota = |limit, used| QuotaView::new(&limits, limit, used);
    Ok(OwnQuotas {
        events_this_month: quota(OrgLimit::EventsPerMonth, events),
        month_ends_at: Month::end(now),
        endpoints: quota(OrgLimit::Endpoints, holdings.endpoints),
        keys: quota(OrgLimit::Keys, holdings.keys),
    })
}

/// A changed organisation, once this process's caches know of the change.
async fn invalidated(
    subsystems: &Subsystems,
    id: OrgId,
    changed: Option<Org>,
) -> Result<Org, Refusal> {
    let org = found(id, changed)?;
    subsystems.invalidate_changed().await?;
    subsystems.endpoints_changed(id).await;
    Ok(org)
}

fn found(id: OrgId, org: Option<Org>) -> Result<Org, Refusal> {
    org.ok_or(Refusal::NotFound(Missing::Org(id)))
}

fn check(change: &OrgChange) -> Result<(), Violation> {
    change.name.as_deref().map_or(Ok(()), Org::check_name)?;
    let mut set = change.limits.iter().filter_map(|(limit, value)| Some((limit, (*value)?)));
    set.try_for_each(|(limit, value)| limit.check(value))
}
