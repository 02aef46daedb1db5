//! Idempotency keys of requests, with the answers that their repeats get.
//!
//! A key of one API key is claimed before its request runs, and settled with its answer after it. A request that was
//! refused gives its claim up, so that it can be sent again. A server that ends in between leaves a claim, which another
//! request takes over after a while: only then may a request run twice.

use std::time::Duration;

use super::engine::{Dialect, Row, args};
use super::{Result, Store};
use crate::domain::{ApiKeyId, IdempotencyKey, OrgId, Timestamp};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_hours(24);

/// A request that names itself by an idempotency key.
#[derive(Clone, Copy, Debug)]
pub struct NamedRequest<'a> {
    /// The API key that sends it. Another one may use the same name for another request.
    pub key: ApiKeyId,
    /// The organisation of that key, with which its names are deleted.
    pub org: Option<OrgId>,
    /// Its name.
    pub name: &'a IdempotencyKey,
    /// SHA-256 of what it asks for.
    pub digest: &'a [u8; 32],
    /// When it was claimed, by the schedule time.
    pub at: Timestamp,
}

/// The answer to a request, as its repeats get it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptAnswer {
    /// Its status.
    pub status: u16,
    /// Its `Location`.
    pub location: Option<String>,
    /// The id of what it has created or begun.
    pub object: Option<String>,
    /// Its body; `None` for one that holds a secret.
    pub body: Option<Vec<u8>>,
}

/// The result of a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IdempotencyClaim {
    /// The request is new, and the caller's to run.
    New,
    /// It has run.
    Answered(KeptAnswer),
    /// It is running.
    InProgress,
    /// The name is another request's.
    OtherRequest,
}

impl Store {
    /// Claims a request. A claim that was not settled within `abandoned_after` is taken over.
    pub async fn claim_idempotency_key(
        &self,
        request: NamedRequest<'_>,
        abandoned_after: Duration,
    ) -> Result<IdempotencyClaim> {
        let NamedRequest { key, org, name, digest, at } = request;
        let claim = "INSERT INTO idempotency_keys (key_id, name, org_id, digest, claimed_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (key_id, name) DO UPDATE
                 SET org_id = excluded.org_id, digest = excluded.digest,
                     claimed_at = excluded.claimed_at, status = NULL, location = NULL,
                     object = NULL, body = NULL
                 WHERE idempotency_keys.claimed_at < $7
                    OR idempotency_keys.status IS NULL AND idempotency_keys.claimed_at < $6";
        let (abandoned, expired) = (at.minus(abandoned_after), oldest_kept(at));
        let mut tx = self.engine.begin().await?;
        let args = args![key, name.as_str(), org, &digest[..], at, abandoned, expired];
        if tx.execute(claim, args).await? > 0 {
            tx.commit().await?;
            return Ok(IdempotencyClaim::New);
        }
        let sql = "SELECT digest, status, location, object, body FROM idempotency_keys
                   WHERE key_id = $1 AND name = $2";
        let found = tx.find(sql, args![key, name.as_str()], |row| read(row, digest)).await?;
        // One that was given up in between is claimed by the next try.
        Ok(found.unwrap_or(IdempotencyClaim::InProgress))
    }

    /// Keeps the answer to a claimed request, unless its claim was taken over.
    pub async fn settle_idempotency_key(
        &self,
        request: NamedRequest<'_>,
        answer: &KeptAnswer,
    ) -> Result<()> {
        let KeptAnswer { status, location, object, body } = answer;
        let sql = "UPDATE idempotency_keys
                   SET status = $4, location = $5, object = $6, body = $7
                   WHERE key_id = $1 AND name = $2 AND claimed_at = $3 AND status IS NULL";
        let mut tx = self.engine.begin().await?;
        let args = args![
            request.key,
            request.name.as_str(),
            request.at,
            u32::from(*status),
            location.as_deref(),
            object.as_deref(),
            body.as_deref(),
        ];
        tx.execute(sql, args).await?;
        tx.commit().await
    }

    /// Gives a claim up.
    pub async fn release_idempotency_key(&self, request: NamedRequest<'_>) -> Result<()> {
        let sql = "DELETE FROM idempotency_keys
                   WHERE key_id = $1 AND name = $2 AND claimed_at = $3 AND status IS NULL";
        let mut tx = self.engine.begin().await?;
        tx.execute(sql, args![request.key, request.name.as_str(), request.at]).await?;
        tx.commit().await
    }
}

/// The oldest claims that are kept.
pub(super) fn oldest_kept(now: Timestamp) -> Timestamp {
    now.minus(KEPT)
}

/// Deletes keys that were claimed before `$1`, at most `$2` of them.
pub(super) const fn delete_answers(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "DELETE FROM idempotency_keys WHERE (key_id, name) IN
                 (SELECT key_id, name FROM idempotency_keys WHERE claimed_at < $1 LIMIT $2)"
        }
        Dialect::Postgres => {
            "DELETE FROM idempotency_keys WHERE (key_id, name) IN
                 (SELECT key_id, name FROM idempotency_keys WHERE claimed_at < $1 LIMIT $2
                  FOR UPDATE SKIP LOCKED)"
        }
    }
}

/// What a request with this digest learns of the row that has its name.
fn read(row: &Row, digest: &[u8; 32]) -> Result<IdempotencyClaim> {
    let claimed: Vec<u8> = row.get("digest")?;
    if claimed != digest {
        return Ok(IdempotencyClaim::OtherRequest);
    }
    let Some(status) = row.get_opt("status")? else { return Ok(IdempotencyClaim::InProgress) };
    Ok(IdempotencyClaim::Answered(KeptAnswer {
        status,
        location: row.get_opt("location")?,
        object: row.get_opt("object")?,
        body: row.get_opt("body")?,
    }))
}
