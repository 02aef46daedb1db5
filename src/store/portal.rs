//! How organisations show the portal, and the links that open it.

use serde_json::{Map, Value as Json, json};

use super::engine::{Row, Tx, args};
use super::{AuditRecord, Result, SessionHash, Store, StoreError, audit, orgs, sessions};
use crate::domain::{
    Actor, ConsoleSession, FrameOrigin, OrgId, PortalChange, PortalSettings, Timestamp,
};

const SELECT: &str =
    "SELECT name, colour, logo, allowed_origins FROM portal_settings WHERE org_id = $1";

fn read(row: &Row) -> Result<PortalSettings> {
    let origins: String = row.get("allowed_origins")?;
    let allowed_origins: Vec<FrameOrigin> = serde_json::from_str(&origins)
        .map_err(|_| StoreError::Corrupt("malformed text in allowed_origins".to_owned()))?;
    Ok(PortalSettings {
        name: row.get_opt("name")?,
        colour: row.parse_opt("colour")?,
        logo: row.parse_opt("logo")?,
        allowed_origins,
    })
}

impl Store {
    /// How an organisation shows the portal; as usual if it has set nothing.
    pub async fn portal_settings(&self, org: OrgId) -> Result<PortalSettings> {
        Ok(self.engine.find(SELECT, args![org], read).await?.unwrap_or_default())
    }

    /// Changes how an organisation shows the portal, and returns it as it is now; `None` when there is no such
    /// organisation, or it is being deleted.
    pub async fn change_portal(
        &self,
        org: OrgId,
        change: &PortalChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<PortalSettings>> {
        let mut tx = self.engine.begin().await?;
        if orgs::locked(&mut tx, org).await?.is_none() {
            return Ok(None);
        }
        let before = tx.find(SELECT, args![org], read).await?.unwrap_or_default();
        let mut after = before.clone();
        change.apply(&mut after);
        if after == before {
            return Ok(Some(before));
        }
        write(&mut tx, org, &after, now).await?;
        let record = AuditRecord::new(org, "portal.update", org.uuid(), changes(&before, &after));
        audit::commit(tx, &record, by, now).await?;
        Ok(Some(after))
    }

    /// Adds a link that opens the portal. `false` when there is no such organisation, or it is being deleted.
    pub async fn insert_portal_link(
        &self,
        org: OrgId,
        hash: &SessionHash,
        link: &ConsoleSession,
        by: &Actor,
    ) -> Result<bool> {
        let mut tx = self.engine.begin().await?;
        if !orgs::hold(&mut tx, org).await? {
            return Ok(false);
        }
        sessions::insert(&mut tx, hash, link).await?;
        let record = AuditRecord::portal("portal_link.create", org, link);
        audit::commit(tx, &record, by, link.created_at).await?;
        Ok(true)
    }
}

async fn write(
    tx: &mut Tx<'_>,
    org: OrgId,
    settings: &PortalSettings,
    now: Timestamp,
) -> Result<()> {
    let PortalSettings { name, colour, logo, allowed_origins } = settings;
    let sql =
        "INSERT INTO portal_settings (org_id, name, colour, logo, allowed_origins, changed_at)
               VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT (org_id) DO UPDATE
               SET name = $2, colour = $3, logo = $4, allowed_origins = $5, changed_at = $6";
    let (colour, logo) =
        (colour.as_ref().map(ToString::to_string), logo.as_ref().map(ToString::to_string));
    let origins = json!(allowed_origins).to_string();
    tx.execute(sql, args![org, name.as_deref(), colour, logo, origins, now]).await?;
    Ok(())
}

/// The new values of what differs.
fn changes(before: &PortalSettings, after: &PortalSettings) -> Map<String, Json> {
    let mut changes = Map::new();
    if before.name != after.name {
        changes.insert("name".to_owned(), json!(after.name));
    }
    if before.colour != after.colour {
        let colour = after.colour.as_ref().map(ToString::to_string);
        changes.insert("colour".to_owned(), json!(colour));
    }
    if before.logo != after.logo {
        let said = if after.logo.is_some() { "changed" } else { "removed" };
        changes.insert("logo".to_owned(), json!(said));
    }
    if before.allowed_origins != after.allowed_origins {
        changes.insert("allowed_origins".to_owned(), json!(after.allowed_origins));
    }
    changes
}

impl AuditRecord {
    /// A link to the portal was made or used.
    pub(super) fn portal(action: &'static str, org: OrgId, session: &ConsoleSession) -> Self {
        let scopes = session.grants.portal.as_ref().map(|portal| portal.scopes);
        let changes = json!({ "account_id": session.account_id, "scopes": scopes });
        Self::new(org, action, org.uuid(), changes)
    }
}
