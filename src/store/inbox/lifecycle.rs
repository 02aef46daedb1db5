//! Opening, finding and pausing inboxes.

use crate::domain::{
    Actor, Endpoint, EndpointChange, EndpointConfig, EndpointId, EndpointKind, INBOX_IDLE, Inbox,
    OrgId, Timestamp,
};
use crate::store::endpoint_versions::next_version;
use crate::store::engine::{Row, Tx, args};
use crate::store::{
    AddRefusal, AuditRecord, Result, Store, System, audit, endpoints, outcomes, suspension,
};

/// Inboxes that one call pauses at most.
const PAUSED_PER_STEP: u32 = 100;

/// What an id is the inbox of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum InboxLookup {
    /// An inbox.
    Found(Inbox),
    /// A webhook endpoint.
    Webhook,
    /// Nothing of the organisation's.
    Missing,
}

const COLUMNS: &str = "id, kind, ordered, config, disabled_reason, last_read_at";

fn read(row: &Row) -> Result<InboxLookup> {
    if row.parse::<EndpointKind>("kind")? == EndpointKind::Webhook {
        return Ok(InboxLookup::Webhook);
    }
    let config: EndpointConfig = row.parse("config")?;
    Ok(InboxLookup::Found(Inbox {
        id: row.get("id")?,
        ordered: row.get("ordered")?,
        settings: config.inbox,
        disabled_reason: row.get_opt("disabled_reason")?,
        last_read_at: row.get_opt("last_read_at")?,
    }))
}

const DEFAULT: &str = "org_id = $1 AND default_inbox AND removed_at IS NULL";

impl Store {
    /// An inbox of an organisation: the default one, or the endpoint with this id.
    pub async fn inbox(&self, org: OrgId, id: Option<EndpointId>) -> Result<InboxLookup> {
        let found = match id {
            None => {
                let sql = format!("SELECT {COLUMNS} FROM endpoints WHERE {DEFAULT}");
                self.engine.find(sql, args![org], read).await
            }
            Some(id) => {
                let sql = format!(
                    "SELECT {COLUMNS} FROM endpoints
                     WHERE id = $1 AND org_id = $2 AND removed_at IS NULL"
                );
                self.engine.find(sql, args![id, org], read).await
            }
        };
        Ok(found?.unwrap_or(InboxLookup::Missing))
    }

    /// Opens the default inbox of an organisation, and returns it; one that is there stays as it is. It does not count
    /// against the quota of endpoints. Refused when the organisation does not exist.
    pub async fn open_default_inbox(
        &self,
        org: OrgId,
        new: &Endpoint,
        by: &Actor,
    ) -> Result<Result<InboxLookup, AddRefusal>> {
        let secrets = self.keyring.encrypt_endpoint(new)?;
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        if let Some(found) = default_of(&mut tx, org).await? {
            tx.rollback().await?;
            return Ok(Ok(found));
        }
        let exists = "SELECT 1 AS one FROM orgs WHERE id = $1 AND deleting_since IS NULL";
        if tx.optional(exists, args![org]).await?.is_none() {
            return Ok(Err(AddRefusal::OrgDeleted));
        }
        let added = Endpoint { version, default_inbox: true, ..new.clone() };
        endpoints::insert(&mut tx, &added, &secrets).await?;
        suspension::apply(&mut tx, org, version).await?;
        let found = default_of(&mut tx, org).await?.unwrap_or(InboxLookup::Missing);
        audit::commit(tx, &AuditRecord::endpoint_created(&added), by, new.created_at).await?;
        Ok(Ok(found))
    }

    /// Notes that somebody fetched from an inbox at `now`.
    pub async fn note_inbox_read(&self, org: OrgId, id: EndpointId, now: Timestamp) -> Result<()> {
        let mut tx = self.engine.begin().await?;
        let sql = "UPDATE endpoints SET last_read_at = $3
                   WHERE id = $1 AND org_id = $2 AND (last_read_at IS NULL OR last_read_at < $3)";
        tx.execute(sql, args![id, org, now]).await?;
        tx.commit().await
    }

    /// Enables an inbox again that was paused because nobody read it, and notes that somebody does.
    pub async fn resume_inbox(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        let sql = "UPDATE endpoints
                   SET disabled_reason = NULL, last_read_at = $3, updated_at = $3, version = $4
                   WHERE id = $1 AND org_id = $2 AND disabled_reason = $5 AND removed_at IS NULL";
        if tx.execute(sql, args![id, org, now, version, INBOX_IDLE]).await? == 0 {
            return tx.rollback().await;
        }
        suspension::apply(&mut tx, org, version).await?;
        let change = EndpointChange { disabled_reason: Some(None), ..EndpointChange::default() };
        audit::commit(tx, &AuditRecord::endpoint_changed(org, id, &change), by, now).await
    }
}

async fn default_of(tx: &mut Tx<'_>, org: OrgId) -> Result<Option<InboxLookup>> {
    let sql = format!("SELECT {COLUMNS} FROM endpoints WHERE {DEFAULT}");
    tx.find(sql, args![org], read).await
}

impl System<'_> {
    /// Pauses inboxes that nobody has read since `read_before`: nothing more is planned for them. Their owners are
    /// told by an operational event. Returns their organisations. One bounded step: a full one says that there may be
    /// more.
    pub async fn pause_idle_inboxes(
        self,
        read_before: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<(OrgId, EndpointId)>> {
        let sql = "SELECT id, org_id FROM endpoints
                   WHERE kind = 'pull' AND disabled_reason IS NULL AND removed_at IS NULL
                     AND last_read_at < $1
                   ORDER BY last_read_at LIMIT $2";
        let read = |row: &Row| Ok((row.get("org_id")?, row.get("id")?));
        let idle: Vec<(OrgId, EndpointId)> =
            self.0.engine.list(sql, args![read_before, PAUSED_PER_STEP], read).await?;
        let mut paused = Vec::new();
        for (org, id) in idle {
            if self.pause(org, id, read_before, now).await? {
                paused.push((org, id));
            }
        }
        Ok(paused)
    }

    async fn pause(
        self,
        org: OrgId,
        id: EndpointId,
        read_before: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.0.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        let sql = "UPDATE endpoints SET disabled_reason = $3, updated_at = $4, version = $5
                   WHERE id = $1 AND disabled_reason IS NULL AND removed_at IS NULL
                     AND last_read_at < $2
                   RETURNING last_read_at";
        let args = args![id, read_before, INBOX_IDLE, now, version];
        let Some(last_read_at) = tx.find(sql, args, |row| row.get("last_read_at")).await? else {
            tx.rollback().await?;
            return Ok(false);
        };
        let event = outcomes::inbox_paused(id, org, last_read_at, now)?;
        self.0.publish(&mut tx, vec![event], now).await?;
        let record = AuditRecord::endpoint_disabled(org, id, INBOX_IDLE);
        audit::commit(tx, &record, &Actor::SERVER, now).await?;
        Ok(true)
    }
}
