//! API keys. Operators' keys belong to no organisation, so most methods are not scoped to one.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use uuid::Uuid;

use super::advisory_locks::FIRST_KEYS;
use super::columns::{Columns, columns};
use super::engine::{Dialect, Row, Tx, Value, args};
use super::{
    AddRefusal, AuditRecord, Result, SessionHash, Store, StoreError, System, audit, orgs, sessions,
    timed,
};
use crate::domain::{
    Actor, ApiKey, ApiKeyId, ConsoleSession, KeyHash, KeyRotationRefusal, Org, OrgId, OrgLimit,
    Page, PageRequest, Role, Scopes, Timestamp,
};
use crate::store::metrics::DbOperation;

/// Finds an operator's key, also one that has expired.
const OPERATOR_KEY: &str = "SELECT 1 FROM api_keys WHERE org_id IS NULL LIMIT 1";

/// Maximum expired and revoked keys of an organisation, whatever `KEY_RETENTION` says: each count of its keys reads all
/// of them, and each change of the organisation names them.
const ENDED_KEYS_MAX: u64 = 1_000;
/// Maximum keys over that number that the addition of a key deletes.
const ENDED_KEYS_PER_STEP: u64 = 100;

/// A change of a key or of its organisation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyChange {
    /// The key.
    pub key: ApiKeyId,
    /// The change's number in its database. A key's later changes have higher ones.
    pub number: i64,
}

/// The position of change polling, where the next poll goes on. The database counts it, so that clocks do not
/// matter. It is lower than an earlier one only when the database was restored from a backup.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ChangeMark(pub(super) i64);

/// The result of a poll for changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyChanges {
    /// The changes, in no order.
    pub changes: Vec<KeyChange>,
    /// Where the next poll goes on.
    pub mark: ChangeMark,
}

impl From<AddRefusal> for KeyRotationRefusal {
    fn from(refusal: AddRefusal) -> Self {
        match refusal {
            AddRefusal::OverQuota(max) => Self::OverQuota(max),
            // Accounts have endpoints and no keys.
            AddRefusal::OrgDeleted | AddRefusal::AccountFull => Self::NotFound,
        }
    }
}

/// The columns of a key, in the order of [`values`].
const COLUMNS: Columns<12> = columns! {
    id org_id name scopes hash created_at expires_at revoked_at last_used_at replaced_by
    changed_at rate_limit_per_minute
};

/// The values of [`COLUMNS`].
fn values(key: &ApiKey, changed_at: Timestamp) -> [Value<'_>; COLUMNS.0.len()] {
    let ApiKey {
        id,
        role,
        name,
        scopes,
        rate_limit_per_minute,
        hash,
        created_at,
        expires_at,
        revoked_at,
        last_used_at,
        replaced_by,
    } = key;
    [
        (*id).into(),
        role.org_id().into(),
        name.into(),
        scopes.to_string().into(),
        hash.phc().into(),
        (*created_at).into(),
        (*expires_at).into(),
        (*revoked_at).into(),
        (*last_used_at).into(),
        (*replaced_by).into(),
        changed_at.into(),
        (*rate_limit_per_minute).into(),
    ]
}

/// Reads [`COLUMNS`].
fn read(row: &Row) -> Result<ApiKey> {
    let role = row.get_opt("org_id")?.map_or(Role::Operator, Role::Tenant);
    let scopes: Option<Scopes> = row.parse_opt("scopes")?;
    Ok(ApiKey {
        id: row.get("id")?,
        role,
        name: row.get("name")?,
        scopes: scopes.unwrap_or(role.scopes()),
        rate_limit_per_minute: row.get_opt("rate_limit_per_minute")?,
        hash: KeyHash::new(row.get("hash")?),
        created_at: row.get("created_at")?,
        expires_at: row.get_opt("expires_at")?,
        revoked_at: row.get_opt("revoked_at")?,
        last_used_at: row.get_opt("last_used_at")?,
        replaced_by: row.get_opt("replaced_by")?,
    })
}

impl Store {
    /// The keys of one organisation.
    pub async fn keys(&self, org: OrgId, page: PageRequest) -> Result<Page<ApiKey>> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE org_id = $4");
        self.page(page, "created_at", sql, args![org], read).await
    }
}

impl System<'_> {
    /// Adds a key. Refused when its organisation does not exist.
    pub async fn insert_key(self, key: &ApiKey, by: &Actor) -> Result<Result<(), AddRefusal>> {
        let mut tx = self.0.engine.begin().await?;
        if let Some(org) = key.role.org_id() {
            let count = "SELECT count(*) AS count FROM api_keys
                         WHERE org_id = $1 AND (expires_at IS NULL OR expires_at > $2)";
            let args = args![org, key.created_at];
            let quota = self.0.check_quota(&mut tx, org, OrgLimit::Keys, count, args);
            if let Err(refusal) = quota.await? {
                return Ok(Err(refusal));
            }
        }
        insert(&mut tx, key).await?;
        audit::commit(tx, &AuditRecord::key_created(key), by, key.created_at).await?;
        Ok(Ok(()))
    }

    /// Adds the keys of a first start, among them an operator's, with the first organisation if there is none and the
    /// link to the console: all or nothing. `show` is called just before the commit, and nothing is added if it fails.
    /// `false` when there is an operator's key by now: another server was faster.
    pub async fn insert_first_keys(
        self,
        org: Option<&Org>,
        keys: &[ApiKey],
        link: Option<&(SessionHash, ConsoleSession)>,
        by: &Actor,
        show: impl FnOnce() -> io::Result<()> + Send,
    ) -> Result<io::Result<bool>> {
        let mut tx = self.0.engine.begin().await?;
        if let Tx::Postgres(_) = tx {
            tx.execute(format!("SELECT pg_advisory_xact_lock({FIRST_KEYS})"), args![]).await?;
        }
        if tx.optional(OPERATOR_KEY, args![]).await?.is_some() {
            return Ok(Ok(false));
        }
        if let Some(org) = org {
            orgs::insert(&mut tx, org, by).await?;
        }
        for key in keys {
            insert(&mut tx, key).await?;
            audit::write(&mut tx, &AuditRecord::key_created(key), by, key.created_at).await?;
        }
        if let Some((hash, session)) = link {
            sessions::insert(&mut tx, hash, session).await?;
        }
        if let Err(error) = show() {
            return Ok(Err(error));
        }
        tx.commit().await?;
        Ok(Ok(true))
    }

    /// Whether there is or was an operator's key.
    pub async fn has_operator_key(self) -> Result<bool> {
        Ok(self.0.engine.optional(OPERATOR_KEY, args![]).await?.is_some())
    }

    /// Which of these keys are operators', also when they have expired: those are never deleted.
    pub async fn operators_among(self, keys: &[ApiKeyId]) -> Result<HashSet<ApiKeyId>> {
        let any = self.0.engine.dialect().any("id", "$1");
        let sql = format!("SELECT id FROM api_keys WHERE org_id IS NULL AND {any}");
        let keys: Vec<Uuid> = keys.iter().map(|key| key.uuid()).collect();
        let found = self.0.engine.list(sql, args![keys], |row: &Row| row.get("id")).await?;
        Ok(found.into_iter().collect())
    }

    /// The key with this public id, also when it has expired.
    pub async fn key(self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE id = $1");
        let find = self.0.engine.find(sql, args![id], read);
        timed(&self.0.metrics, DbOperation::FindKey, find).await
    }

    /// All keys, operators' too.
    pub async fn keys(self, page: PageRequest) -> Result<Page<ApiKey>> {
        let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE true");
        self.0.page(page, "created_at", sql, args![], read).await
    }

    /// Gives a key another name; one that it has already changes nothing. `None` when there is no such key.
    pub async fn rename_key(
        self,
        id: ApiKeyId,
        name: &str,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<ApiKey>> {
        let mut tx = self.0.engine.begin().await?;
        let Some(mut key) = locked(&mut tx, id).await? else { return Ok(None) };
        self.0.require(&key.revision())?;
        if key.name == name {
            return Ok(Some(key));
        }
        name.clone_into(&mut key.name);
        write(&mut tx, &key, now).await?;
        audit::commit(tx, &AuditRecord::key_renamed(&key), by, now).await?;
        Ok(Some(key))
    }

    /// Makes a key expire at `at`; a valid one that thereby ends `now` is revoked. Nothing
    /// changes when it expires earlier anyway. `false` when there is no such key.
    pub async fn expire_key(
        self,
        id: ApiKeyId,
        at: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.0.engine.begin().await?;
        let Some(mut key) = locked(&mut tx, id).await? else { return Ok(false) };
        self.0.require(&key.revision())?;
        if key.expires_at.is_some_and(|end| end <= at) {
            return Ok(true);
        }
        expire(&mut key, at, now);
        write(&mut tx, &key, now).await?;
        audit::commit(tx, &AuditRecord::key_expired(&key), by, now).await?;
        Ok(true)
    }

    /// Adds `replacement`, a key of the same organisation, and makes `old` expire `grace` after `now`
    /// (unless it expires earlier anyway), together. Nothing is added when the old key may no longer be
    /// rotated; [`ApiKey::check_rotation`] has the rules. Rotation does not count against the
    /// quota, so that an organisation at its quota can rotate its keys; as many old ones may be in their grace
    /// period, so that it has at most twice its quota.
    pub async fn rotate_key(
        self,
        old: ApiKeyId,
        grace: Duration,
        replacement: &ApiKey,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<(), KeyRotationRefusal>> {
        let mut tx = self.0.engine.begin().await?;
        // The organisation before the key, in the order in which a deletion locks them.
        let quota = match replacement.role.org_id() {
            Some(org) => {
                let in_grace = "SELECT count(*) AS count FROM api_keys
                     WHERE org_id = $1 AND replaced_by IS NOT NULL AND expires_at > $2";
                let args = args![org, now];
                self.0.check_quota(&mut tx, org, OrgLimit::Keys, in_grace, args).await?
            }
            None => Ok(()),
        };
        let Some(mut key) = locked(&mut tx, old).await? else {
            return Ok(Err(KeyRotationRefusal::NotFound));
        };
        if let Err(refusal) = check_rotation(&key, quota, grace, now) {
            return Ok(Err(refusal));
        }
        expire(&mut key, now.plus(grace), now);
        key.replaced_by = Some(replacement.id);
        write(&mut tx, &key, now).await?;
        insert(&mut tx, replacement).await?;
        audit::commit(tx, &AuditRecord::key_rotated(replacement, &key, grace), by, now).await?;
        Ok(Ok(()))
    }

    /// The keys that were added or changed since the poll that ended at `since`, and those of
    /// organisations that were: by any process, however long its transaction took. Some of the
    /// previous poll's may be named again. Without `since`, only where to begin.
    pub async fn keys_changed(self, since: Option<ChangeMark>) -> Result<KeyChanges> {
        let sql = match self.0.engine.dialect() {
            // The next commit has the counter's next number: transactions are one after the other.
            Dialect::Sqlite => {
                "SELECT NULL AS id, number + 1 AS change_number FROM change_counter
                 UNION ALL
                 SELECT id, change_number FROM api_keys WHERE change_number >= $1
                 UNION
                 SELECT k.id, o.change_number FROM orgs o JOIN api_keys k ON k.org_id = o.id
                 WHERE o.change_number >= $1"
            }
            // Transactions below xmin have ended, and their changes are seen here; all others are read
            // again. Those from xmax on come later: only rows of another database, which were restored into
            // this one, have such numbers.
            Dialect::Postgres => {
                "SELECT NULL::uuid AS id,
                        pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS change_number
                 UNION ALL
                 SELECT id, change_number FROM api_keys
                 WHERE change_number >= $1
                   AND change_number < pg_snapshot_xmax(pg_current_snapshot())::text::bigint
                 UNION
                 SELECT k.id, o.change_number FROM orgs o JOIN api_keys k ON k.org_id = o.id
                 WHERE o.change_number >= $1
                   AND o.change_number < pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            }
        };
        read_changes(&self.0.engine.all(sql, args![since.map(|mark| mark.0)]).await?)
    }
}

/// Reads changes; the row without an id tells where the next poll goes on.
fn read_changes(rows: &[Row]) -> Result<KeyChanges> {
    let (mut changes, mut mark) = (Vec::new(), None);
    for row in rows {
        let number = row.get("change_number")?;
        match row.get_opt("id")? {
            Some(key) => changes.push(KeyChange { key, number }),
            None => mark = Some(ChangeMark(number)),
        }
    }
    let mark = mark.ok_or_else(|| StoreError::Corrupt("changes are not counted".to_owned()))?;
    Ok(KeyChanges { changes, mark })
}

/// Adds a key, and deletes the oldest of the ended keys of which its organisation has too many.
async fn insert(tx: &mut Tx<'_>, key: &ApiKey) -> Result<()> {
    tx.execute(COLUMNS.insert_into("api_keys"), values(key, key.created_at).into()).await?;
    let Some(org) = key.role.org_id() else { return Ok(()) };
    let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
    let sql = format!(
        "DELETE FROM api_keys WHERE id IN (
             SELECT id FROM api_keys WHERE org_id = $1 AND expires_at <= $2
             ORDER BY expires_at DESC LIMIT $3 OFFSET $4{lock})"
    );
    tx.execute(sql, args![org, key.created_at, ENDED_KEYS_PER_STEP, ENDED_KEYS_MAX]).await?;
    Ok(())
}

async fn write(tx: &mut Tx<'_>, key: &ApiKey, now: Timestamp) -> Result<()> {
    tx.execute(COLUMNS.update("api_keys"), values(key, now).into()).await?;
    Ok(())
}

/// A key, locked until the end of the transaction.
async fn locked(tx: &mut Tx<'_>, id: ApiKeyId) -> Result<Option<ApiKey>> {
    let lock = tx.dialect().lock(" FOR NO KEY UPDATE");
    let sql = format!("SELECT {COLUMNS} FROM api_keys WHERE id = $1{lock}");
    tx.find(sql, args![id], read).await
}

/// Brings the end of a key forward to `at`, which revokes a valid one if that is not after `now`.
fn expire(key: &mut ApiKey, at: Timestamp, now: Timestamp) {
    if at <= now && key.expires_at.is_none_or(|end| end > now) {
        key.revoked_at = key.revoked_at.or(Some(now));
    }
    key.expires_at = Some(key.expires_at.map_or(at, |end| end.min(at)));
}

/// Checks the rules for rotating a key; `quota` tells whether its organisation may have another one in its
/// grace period.
fn check_rotation(
    old: &ApiKey,
    quota: Result<(), AddRefusal>,
    grace: Duration,
    now: Timestamp,
) -> Result<(), KeyRotationRefusal> {
    old.check_rotation(now)?;
    match quota {
        // A rotation that leaves no key in its grace period needs none.
        Err(AddRefusal::OverQuota(_)) if grace.is_zero() => Ok(()),
        quota => Ok(quota?),
    }
}
