//! API keys: creating, rotating and revoking them.
//!
//! A key's text is returned once, when it is created. A change invalidates this process's caches
//! before it returns; other servers hear of it, or notice it within `AUTH_POLL_INTERVAL`.
//!
//! A key makes none that outlives it, and manages none once it was rotated: otherwise a grant with an end, or a leaked
//! key in its grace period, could be made to last.

use std::time::Duration;

use super::orgs;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::auth::IssuedKey;
use crate::domain::{
    Actor, ActorKind, ApiKey, ApiKeyId, KeyRotationRefusal, Org, OrgId, OrgLimit, Page,
    PageRequest, Role, Scopes, Timestamp, Violation,
};
use crate::store::Holdings;

/// A key to create.
pub struct KeySpec {
    /// Whom it belongs to.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// What it may do: some of its role's scopes.
    pub scopes: Scopes,
    /// Events per minute that may be sent with it; `None` for as many as its organisation may.
    pub rate_limit_per_minute: Option<u32>,
    /// When it expires; `None` for when the key that asks for it does.
    pub expires_at: Option<Timestamp>,
}

/// Creates a key. `asked_by` is who waits for it: each has places of its own where keys are issued.
///
/// # Errors
/// When its name, scopes or expiry break a rule, the key that asks may manage none, its organisation does not exist or
/// has all the keys that it may have, or too many keys are being issued.
pub async fn create(
    subsystems: &Subsystems,
    spec: KeySpec,
    asked_by: Role,
    by: &Actor,
) -> Result<IssuedKey, Refusal> {
    spec.check()?;
    let KeySpec { role, name, scopes, rate_limit_per_minute, expires_at } = spec;
    let expires_at = within(expires_at, asking_key_end(subsystems, by).await?)?;
    let now = subsystems.clock.now();
    if let Some(most) = reached_quota(subsystems, role, now, |held| held.keys).await? {
        return Err(Refusal::QuotaReached { what: "keys", most });
    }
    let mut issued = subsystems.issue_key(asked_by, role, name, now).await?;
    issued.record.scopes = scopes;
    issued.record.rate_limit_per_minute = rate_limit_per_minute;
    issued.record.expires_at = expires_at;
    let added = subsystems.store.system().insert_key(&issued.record, by).await?;
    let refused = |refusal| match role {
        Role::Tenant(org) => Refusal::add(org, "keys", refusal),
        Role::Operator => Refusal::NotFound(Missing::Key(issued.record.id)),
    };
    added.map_err(refused)?;
    Ok(issued)
}

/// A page of all keys, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(subsystems: &Subsystems, page: PageRequest) -> Result<Page<ApiKey>, Refusal> {
    Ok(subsystems.store.system().keys(page).await?)
}

/// A page of an organisation's keys, newest first, also of one that is being deleted.
///
/// # Errors
/// When the organisation does not exist.
pub async fn list_of_org(
    subsystems: &Subsystems,
    org: OrgId,
    page: PageRequest,
) -> Result<Page<ApiKey>, Refusal> {
    orgs::one(subsystems, org).await?;
    Ok(subsystems.store.keys(org, page).await?)
}

/// One key.
///
/// # Errors
/// When it does not exist.
pub async fn one(subsystems: &Subsystems, id: ApiKeyId) -> Result<ApiKey, Refusal> {
    subsystems.store.system().key(id).await?.ok_or(Refusal::NotFound(Missing::Key(id)))
}

/// One key of an organisation.
///
/// # Errors
/// When it does not exist, or belongs to somebody else.
pub async fn one_of_org(
    subsystems: &Subsystems,
    org: OrgId,
    id: ApiKeyId,
) -> Result<ApiKey, Refusal> {
    let key = one(subsystems, id).await?;
    if key.role == Role::Tenant(org) { Ok(key) } else { Err(Missing::Key(id).into()) }
}

/// Replaces `old` by a key with the same name, role, scopes, rate and expiry. `old` works for another
/// `grace`, at most [`ApiKey::GRACE_SECONDS_MAX`]. `asked_by` is as in [`create`].
///
/// # Errors
/// When `old` is inactive or already rotated, the key that asks may manage none or expires earlier, too many keys are in
/// their grace period, or too many keys are being issued.
pub async fn rotate(
    subsystems: &Subsystems,
    old: ApiKey,
    grace: Duration,
    asked_by: Role,
    by: &Actor,
) -> Result<IssuedKey, Refusal> {
    ApiKey::check_grace(grace)?;
    let (id, now) = (old.id, subsystems.clock.now());
    let refused = |refusal| Refusal::key_rotation(id, refusal);
    old.check_rotation(now).map_err(refused)?;
    if within(old.expires_at, asking_key_end(subsystems, by).await?).ok() != Some(old.expires_at) {
        return Err(Refusal::KeyExpiresEarlier);
    }
    if !grace.is_zero()
        && let Some(most) =
            reached_quota(subsystems, old.role, now, |held| held.keys_in_grace).await?
    {
        return Err(Refusal::KeyRotation(KeyRotationRefusal::OverQuota(most)));
    }
    let mut issued = subsystems.issue_key(asked_by, old.role, old.name, now).await?;
    issued.record.scopes = old.scopes;
    issued.record.rate_limit_per_minute = old.rate_limit_per_minute;
    issued.record.expires_at = old.expires_at;
    // Hashing took its time: the grace period begins now, and the old key must be active now.
    let (new, now) = (&issued.record, subsystems.clock.now());
    let rotated = subsystems.store.system().rotate_key(id, grace, new, by, now).await?;
    rotated.map_err(refused)?;
    subsystems.invalidate_key(id);
    Ok(issued)
}

/// Gives a key another name, for people.
///
/// # Errors
/// When it does not exist, the name breaks its rules, or the key that asks may manage none.
pub async fn rename(
    subsystems: &Subsystems,
    id: ApiKeyId,
    name: &str,
    by: &Actor,
) -> Result<ApiKey, Refusal> {
    Org::check_name(name)?;
    asking_key_end(subsystems, by).await?;
    let now = subsystems.clock.now();
    let renamed = subsystems.store.system().rename_key(id, name, by, now).await?;
    renamed.ok_or(Refusal::NotFound(Missing::Key(id)))
}

/// Revokes a key: it stops working now. It stays listed.
///
/// # Errors
/// When it does not exist, or the key that asks may manage none.
pub async fn revoke(subsystems: &Subsystems, id: ApiKeyId, by: &Actor) -> Result<(), Refusal> {
    asking_key_end(subsystems, by).await?;
    let now = subsystems.clock.now();
    if !subsystems.store.system().expire_key(id, now, by, now).await? {
        return Err(Missing::Key(id).into());
    }
    subsystems.invalidate_key(id);
    Ok(())
}

/// When the key that asks expires; `None` if it never does, and for the command line. Its row is read: what is cached of
/// it may be older than its rotation.
///
/// # Errors
/// When it was rotated.
async fn asking_key_end(subsystems: &Subsystems, by: &Actor) -> Result<Option<Timestamp>, Refusal> {
    let ActorKind::Key(id) = by.kind else { return Ok(None) };
    let asking = one(subsystems, id).await?;
    if asking.replaced_by.is_some() { Err(Refusal::KeyInGrace) } else { Ok(asking.expires_at) }
}

/// The expiry of a key that is not to outlive one that expires at `end`.
fn within(
    expires_at: Option<Timestamp>,
    end: Option<Timestamp>,
) -> Result<Option<Timestamp>, Violation> {
    match (expires_at, end) {
        (Some(at), Some(end)) if at > end => {
            let rule = format!("must be at most {end}, when the key that asks expires");
            Err(Violation::new("expires_at", "range", rule))
        }
        (Some(at), _) => Ok(Some(at)),
        (None, end) => Ok(end),
    }
}

/// An organisation's quota of keys, if it is reached by those that `used` counts. It is checked before
/// hashing a key costs time. Only the store's own check, within the transaction that adds the key, is
/// exact.
async fn reached_quota(
    subsystems: &Subsystems,
    role: Role,
    now: Timestamp,
    used: impl FnOnce(Holdings) -> u64,
) -> Result<Option<u32>, Refusal> {
    let Role::Tenant(org) = role else { return Ok(None) };
    let org = orgs::existing(subsystems, org).await?;
    let limits = subsystems.store.effective_limits(&org);
    let Some(most) = limits.get(OrgLimit::Keys) else { return Ok(None) };
    let used = used(subsystems.store.holdings(org.id, now).await?);
    Ok((used >= u64::from(most)).then_some(most))
}

impl KeySpec {
    fn check(&self) -> Result<(), Violation> {
        Org::check_name(&self.name)?;
        if let Some(rate) = self.rate_limit_per_minute {
            OrgLimit::RatePerMinute.check(rate)?;
        }
        let all = self.role.grantable_scopes();
        if all.include(self.scopes) {
            return Ok(());
        }
        Err(Violation::new("scopes", "scope", format!("must be some of {all}")))
    }
}
