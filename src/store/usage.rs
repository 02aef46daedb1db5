//! Usage counters, written now and then rather than with every request.

use super::engine::{Dialect, Row, args};
use super::{Result, Store, System};
use crate::domain::{ApiKeyId, Month, OrgId, Timestamp};

/// How many countable things an organisation has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holdings {
    /// Endpoints, disabled ones included, and the default inbox left out.
    pub endpoints: u64,
    /// Valid keys, those in their grace period included.
    pub keys: u64,
    /// Keys that were rotated and are still valid.
    pub keys_in_grace: u64,
}

impl Store {
    /// Events accepted for an organisation in a month, as far as they were added here.
    pub async fn month_events(&self, org: OrgId, month: Month) -> Result<u64> {
        let sql = "SELECT events FROM org_usage WHERE org_id = $1 AND month = $2";
        let events = self.engine.find(sql, args![org, month.number()], |row| row.get("events"));
        Ok(events.await?.unwrap_or_default())
    }

    /// How many endpoints and valid keys an organisation has.
    pub async fn holdings(&self, org: OrgId, now: Timestamp) -> Result<Holdings> {
        let sql = "SELECT (SELECT count(*) FROM endpoints
                     WHERE org_id = $1 AND removed_at IS NULL AND NOT default_inbox) AS endpoints,
                    (SELECT count(*) FROM api_keys
                     WHERE org_id = $1 AND (expires_at IS NULL OR expires_at > $2)) AS keys,
                    (SELECT count(*) FROM api_keys
                     WHERE org_id = $1 AND replaced_by IS NOT NULL AND expires_at > $2)
                        AS keys_in_grace";
        let row = self.engine.one(sql, args![org, now]).await?;
        Ok(Holdings {
            endpoints: row.get("endpoints")?,
            keys: row.get("keys")?,
            keys_in_grace: row.get("keys_in_grace")?,
        })
    }
}

impl System<'_> {
    /// Adds events accepted for organisations in a month, and returns the new total of each. Nothing
    /// is added to those that are being deleted.
    pub async fn add_month_events(
        self,
        month: Month,
        events: &[(OrgId, u64)],
    ) -> Result<Vec<(OrgId, u64)>> {
        let sql = match self.0.engine.dialect() {
            Dialect::Sqlite => {
                "INSERT INTO org_usage (org_id, month, events)
                 SELECT o.id, $3, added.value FROM json_each($1) ids
                 JOIN json_each($2) added ON added.key = ids.key
                 JOIN orgs o ON o.id = unhex(ids.value)
                 WHERE o.deleting_since IS NULL
                 ON CONFLICT (org_id, month) DO UPDATE
                     SET events = org_usage.events + excluded.events
                 RETURNING org_id, events"
            }
            Dialect::Postgres => {
                "WITH alive AS (
                     SELECT id FROM orgs WHERE id = ANY ($1) AND deleting_since IS NULL
                     FOR KEY SHARE
                 )
                 INSERT INTO org_usage (org_id, month, events)
                 SELECT u.org_id, $3, u.events FROM unnest($1, $2) u (org_id, events)
                 WHERE u.org_id IN (SELECT id FROM alive)
                 ORDER BY u.org_id
                 ON CONFLICT (org_id, month) DO UPDATE
                     SET events = org_usage.events + excluded.events
                 RETURNING org_id, events"
            }
        };
        // In the order of their ids, so that two instances cannot wait for each other in a circle.
        let mut sorted = events.to_vec();
        sorted.sort_unstable();
        let orgs: Vec<_> = sorted.iter().map(|(org, _)| org.uuid()).collect();
        let added: Vec<_> =
            sorted.iter().map(|(_, added)| i64::try_from(*added).unwrap_or(i64::MAX)).collect();
        let mut tx = self.0.engine.begin().await?;
        let total = |row: &Row| Ok((row.get("org_id")?, row.get("events")?));
        let totals = tx.list(sql, args![orgs, added, month.number()], total).await?;
        tx.commit().await?;
        Ok(totals)
    }

    /// Writes `at` as the time that keys were last used.
    pub async fn touch_keys(self, keys: &[ApiKeyId], at: Timestamp) -> Result<()> {
        let sql = match self.0.engine.dialect() {
            Dialect::Sqlite => {
                "UPDATE api_keys SET last_used_at = $2
                 WHERE id IN (SELECT unhex(value) FROM json_each($1))
                   AND (last_used_at IS NULL OR last_used_at < $2)"
            }
            // Locked in the order of their ids, so that instances cannot wait for each other in a circle.
            Dialect::Postgres => {
                "UPDATE api_keys k SET last_used_at = $2
                 FROM (SELECT id FROM api_keys WHERE id = ANY ($1) ORDER BY id
                       FOR NO KEY UPDATE) used
                 WHERE k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < $2)"
            }
        };
        let keys: Vec<_> = keys.iter().copied().map(ApiKeyId::uuid).collect();
        let mut tx = self.0.engine.begin().await?;
        tx.execute(sql, args![keys, at]).await?;
        tx.commit().await
    }
}
