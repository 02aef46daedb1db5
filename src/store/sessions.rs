//! Sessions of the console and the links that open one, found by the hashes of their tokens.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::json;

use super::columns::{Columns, columns};
use super::engine::{Dialect, Row, Tx, Value, args};
use super::{AuditRecord, Result, StoreError, System, audit};
use crate::domain::{
    Actor, ApiKeyId, ConsoleSession, OrgId, SessionGrants, SessionKind, Timestamp,
};

/// The columns of a session, in the order of [`values`].
const COLUMNS: Columns<8> = columns! {
    token_hash key_id kind grants account_id created_at last_used_at expires_at
};

/// Sessions of a key that one more may end.
const ENDED_AT_ONCE: u32 = 1000;

/// The hash of a session's token.
pub type SessionHash = [u8; 32];

/// The values of [`COLUMNS`].
fn values<'a>(
    hash: &'a SessionHash,
    session: &'a ConsoleSession,
) -> Result<[Value<'a>; COLUMNS.0.len()]> {
    let ConsoleSession { key_id, kind, grants, account_id, created_at, last_used_at, expires_at } =
        session;
    Ok([
        (&hash[..]).into(),
        (*key_id).into(),
        kind.as_str().into(),
        text(grants)?.into(),
        account_id.as_deref().into(),
        (*created_at).into(),
        (*last_used_at).into(),
        (*expires_at).into(),
    ])
}

fn text(grants: &SessionGrants) -> Result<String> {
    serde_json::to_string(grants).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Reads [`COLUMNS`] but for the hash.
fn read(row: &Row) -> Result<ConsoleSession> {
    let grants: String = row.get("grants")?;
    let grants = serde_json::from_str(&grants)
        .map_err(|_| StoreError::Corrupt("malformed text in a column grants".to_owned()))?;
    Ok(ConsoleSession {
        key_id: row.get("key_id")?,
        kind: row.parse("kind")?,
        grants,
        account_id: row.get_opt("account_id")?,
        created_at: row.get("created_at")?,
        last_used_at: row.get("last_used_at")?,
        expires_at: row.get("expires_at")?,
    })
}

impl System<'_> {
    /// Adds a session, or a link, and tells whether the oldest of its kind have ended beyond the number that a key may
    /// have.
    pub async fn insert_session(
        self,
        hash: &SessionHash,
        session: &ConsoleSession,
    ) -> Result<bool> {
        let mut tx = self.0.engine.begin().await?;
        let ended = insert(&mut tx, hash, session).await?;
        tx.commit().await?;
        Ok(ended > 0)
    }

    /// The session, or link, whose token has this hash, whether it has ended or not.
    pub async fn session(self, hash: &SessionHash) -> Result<Option<ConsoleSession>> {
        let sql = format!("SELECT {COLUMNS} FROM console_sessions WHERE token_hash = $1");
        self.0.engine.find(sql, args![&hash[..]], read).await
    }

    /// Notes when a session was used.
    pub async fn note_session_used(self, hash: &SessionHash, now: Timestamp) -> Result<()> {
        let sql = "UPDATE console_sessions SET last_used_at = $2
                   WHERE token_hash = $1 AND last_used_at < $2";
        let mut tx = self.0.engine.begin().await?;
        tx.execute(sql, args![&hash[..], now]).await?;
        tx.commit().await
    }

    /// Uses a link up, and adds the session that it opens. `None` when there is no such link, or it was used or has
    /// ended. The audit log records who opens the portal from where.
    pub async fn exchange_link(
        self,
        link: &SessionHash,
        hash: &SessionHash,
        address: IpAddr,
        now: Timestamp,
    ) -> Result<Option<(ConsoleSession, bool)>> {
        let mut tx = self.0.engine.begin().await?;
        let lock = tx.dialect().lock(" FOR UPDATE");
        let sql = format!("SELECT {COLUMNS} FROM console_sessions WHERE token_hash = $1{lock}");
        let found = tx.find(sql, args![&link[..]], read).await?;
        let opened = found.as_ref().and_then(|found| found.opened(now));
        let Some(session) = opened else { return Ok(None) };
        remove(&mut tx, link).await?;
        let ended = insert(&mut tx, hash, &session).await?;
        if session.kind == SessionKind::Portal {
            let sql = "SELECT org_id FROM api_keys WHERE id = $1";
            let org: Option<OrgId> = tx.one(sql, args![session.key_id]).await?.get_opt("org_id")?;
            // Keys of operators make no such links.
            let Some(org) = org else { return Ok(None) };
            let account = session.account_id.as_deref().map(Arc::from);
            let by = Actor::key(session.key_id, Some(address)).of_account(account);
            let record = AuditRecord::portal("portal.open", org, &session);
            audit::write(&mut tx, &record, &by, now).await?;
        }
        tx.commit().await?;
        Ok(Some((session, ended > 0)))
    }

    /// Ends one session of a key, and has every server read the key's sessions again.
    pub async fn end_session(
        self,
        hash: &SessionHash,
        key: ApiKeyId,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.0.engine.begin().await?;
        remove(&mut tx, hash).await?;
        touch_key(&mut tx, key, now).await?;
        tx.commit().await
    }

    /// Ends every session and link of a key, and returns how many those were.
    pub async fn end_sessions(self, key: ApiKeyId, now: Timestamp) -> Result<u64> {
        let mut tx = self.0.engine.begin().await?;
        let sql = "DELETE FROM console_sessions WHERE key_id = $1";
        let ended = tx.execute(sql, args![key]).await?;
        touch_key(&mut tx, key, now).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Has an operator's session look into an organisation, or out of it again, which the audit log records, and has
    /// every server read the key's sessions again. Does nothing when the session has ended.
    pub async fn view_org(
        self,
        (hash, key): (&SessionHash, ApiKeyId),
        (grants, org): (&SessionGrants, OrgId),
        by: &Actor,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.0.engine.begin().await?;
        let sql = "UPDATE console_sessions SET grants = $2 WHERE token_hash = $1";
        if tx.execute(sql, args![&hash[..], text(grants)?]).await? == 0 {
            return tx.rollback().await;
        }
        touch_key(&mut tx, key, now).await?;
        let changes = json!({ "viewed": grants.viewed_org.is_some() });
        let record = AuditRecord::new(org, "org.view", org.uuid(), changes);
        audit::commit(tx, &record, by, now).await
    }
}

pub(super) async fn insert(
    tx: &mut Tx<'_>,
    hash: &SessionHash,
    session: &ConsoleSession,
) -> Result<u64> {
    tx.execute(COLUMNS.insert_into("console_sessions"), values(hash, session)?.into()).await?;
    // Those beyond the newest; one more is added at a time.
    let beyond = |condition: &str| {
        format!(
            "DELETE FROM console_sessions WHERE token_hash IN
                 (SELECT token_hash FROM console_sessions WHERE key_id = $1 AND kind = $2 {condition}
                  ORDER BY created_at DESC, token_hash LIMIT {ENDED_AT_ONCE} OFFSET $3)"
        )
    };
    let (key, kind) = (session.key_id, session.kind);
    let args = args![key, kind.as_str(), kind.per_key_max()];
    let mut ended = tx.execute(beyond(""), args).await?;
    if let Some(account) = session.account_id.as_deref() {
        let args = args![key, kind.as_str(), kind.per_account_max(), account];
        ended += tx.execute(beyond("AND account_id = $4"), args).await?;
    }
    // Servers cache sessions, and no links.
    if ended > 0 && kind.opens().is_none() {
        touch_key(tx, key, session.created_at).await?;
    }
    Ok(ended)
}

async fn remove(tx: &mut Tx<'_>, hash: &SessionHash) -> Result<()> {
    tx.execute("DELETE FROM console_sessions WHERE token_hash = $1", args![&hash[..]]).await?;
    Ok(())
}

/// Marks a key as changed: servers drop what they have cached of it, and of its sessions.
async fn touch_key(tx: &mut Tx<'_>, key: ApiKeyId, now: Timestamp) -> Result<()> {
    tx.execute("UPDATE api_keys SET changed_at = $2 WHERE id = $1", args![key, now]).await?;
    Ok(())
}

/// Deletes sessions that ended before `$1`, at most `$2` of them.
pub(super) const fn delete_ended(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "DELETE FROM console_sessions WHERE token_hash IN
                 (SELECT token_hash FROM console_sessions WHERE expires_at < $1 LIMIT $2)"
        }
        Dialect::Postgres => {
            "DELETE FROM console_sessions WHERE token_hash IN
                 (SELECT token_hash FROM console_sessions WHERE expires_at < $1 LIMIT $2
                  FOR UPDATE SKIP LOCKED)"
        }
    }
}
