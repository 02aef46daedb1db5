//! The portal: how it looks to an organisation's customers, and the links that open it for one of them.

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::auth::{SessionToken, new_portal_link};
use crate::domain::{
    Actor, ApiKeyId, ConsoleSession, OrgId, PortalChange, PortalGrant, PortalSettings,
};

/// How long a session of the portal may last, in seconds.
pub const LASTS_SECONDS: std::ops::RangeInclusive<u32> = 300..=604_800;
/// How long it lasts by default.
pub const LASTS_SECONDS_DEFAULT: u32 = 12 * 60 * 60;

/// How an organisation shows the portal.
///
/// # Errors
/// When the store fails.
pub async fn settings(subsystems: &Subsystems, org: OrgId) -> Result<PortalSettings, Refusal> {
    Ok(subsystems.store.portal_settings(org).await?)
}

/// Changes how an organisation shows the portal. Open sessions follow within `AUTH_CACHE_TTL`.
///
/// # Errors
/// When the name breaks a rule, or the organisation does not exist.
pub async fn change(
    subsystems: &Subsystems,
    org: OrgId,
    change: &PortalChange,
    by: &Actor,
) -> Result<PortalSettings, Refusal> {
    if let Some(Some(name)) = &change.name {
        PortalSettings::check_name(name)?;
    }
    let changed = subsystems.store.change_portal(org, change, by, subsystems.clock.now()).await?;
    changed.ok_or(Refusal::NotFound(Missing::Org(org)))
}

/// Makes a link that opens the portal for an account, once. Its session is bound to `key`, and ends with it.
///
/// # Errors
/// When the key was rotated, or the organisation does not exist.
pub async fn create_link(
    subsystems: &Subsystems,
    (org, key): (OrgId, ApiKeyId),
    account_id: String,
    grant: PortalGrant,
    by: &Actor,
) -> Result<(SessionToken, ConsoleSession), Refusal> {
    let record = subsystems.store.system().key(key).await?;
    if record.is_none_or(|record| record.replaced_by.is_some()) {
        return Err(Refusal::KeyInGrace);
    }
    let now = subsystems.clock.now();
    let made = new_portal_link(key, account_id, grant, now).map_err(Refusal::Random)?;
    let (token, hash, link) = made;
    if !subsystems.store.insert_portal_link(org, &hash, &link, by).await? {
        return Err(Refusal::NotFound(Missing::Org(org)));
    }
    Ok((token, link))
}
