//! Endpoints: where a tenant's webhooks go.

use super::columns::{Columns, columns};
use super::crypto::{CipherContext, Keyring, SecretColumns};
use super::endpoint_versions::next_version;
use super::engine::{Dialect, Row, Tx, Value, args};
use super::keys::ChangeMark;
use super::suspension::{self, SUSPENDED};
use super::{AddRefusal, AuditRecord, Result, Store, StoreError, System, audit, storable};
use crate::domain::{
    Actor, DeliveryPolicy, Endpoint, EndpointChange, EndpointId, OrgId, OrgLimit, Page,
    PageRequest, Timestamp,
};

/// The result of a poll for changed endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointChanges {
    /// The endpoints, each with its organisation, in no order.
    pub changes: Vec<(OrgId, EndpointId)>,
    /// Where the next poll goes on.
    pub mark: ChangeMark,
}

/// The columns of an endpoint, in the order of [`values`].
pub(super) const COLUMNS: Columns<25> = columns! {
    id org_id url event_types description secret earlier_secrets headers disabled_reason
    created_at updated_at max_concurrency rate_limit_per_second retry_schedule ordered
    config kind account_id version cancel_before failing_since last_success_at last_failure_at
    default_inbox last_read_at
};

/// The values of [`COLUMNS`]; those that may be encrypted come from `secrets`.
fn values<'a>(endpoint: &'a Endpoint, secrets: &'a SecretColumns) -> [Value<'a>; COLUMNS.0.len()] {
    let Endpoint {
        id,
        org_id,
        url,
        event_types,
        description,
        secrets: _,
        headers: _,
        disabled_reason,
        created_at,
        updated_at,
        policy,
        config,
        kind,
        account_id,
        version,
        cancel_before,
        failing_since,
        last_success_at,
        last_failure_at,
        default_inbox,
        last_read_at,
    } = endpoint;
    let DeliveryPolicy { max_concurrency, rate_limit_per_second, retry_schedule, ordered } = policy;
    [
        (*id).into(),
        (*org_id).into(),
        url.as_str().into(),
        event_types.to_string().into(),
        description.as_deref().into(),
        secrets.secret.as_str().into(),
        secrets.earlier_secrets.as_deref().into(),
        secrets.headers.as_deref().into(),
        disabled_reason.as_deref().map(storable).into(),
        (*created_at).into(),
        (*updated_at).into(),
        (*max_concurrency).into(),
        (*rate_limit_per_second).into(),
        retry_schedule.as_ref().map(ToString::to_string).into(),
        (*ordered).into(),
        config.to_string().into(),
        kind.as_str().into(),
        account_id.as_deref().into(),
        (*version).into(),
        (*cancel_before).into(),
        (*failing_since).into(),
        (*last_success_at).into(),
        (*last_failure_at).into(),
        (*default_inbox).into(),
        (*last_read_at).into(),
    ]
}

/// Reads [`COLUMNS`]. Secrets that the keyring cannot decrypt are left unreadable within the
/// endpoint: the other rows stay readable.
pub(super) fn read(row: &Row, keyring: &Keyring) -> Result<Endpoint> {
    read_with(row, &SecretColumns::read(row)?, keyring)
}

fn read_with(row: &Row, secrets: &SecretColumns, keyring: &Keyring) -> Result<Endpoint> {
    let (id, org_id) = (row.get("id")?, row.get("org_id")?);
    let context = CipherContext { org: org_id, endpoint: id };
    Ok(Endpoint {
        id,
        org_id,
        url: row.parse("url")?,
        event_types: row.parse("event_types")?,
        description: row.get_opt("description")?,
        secrets: keyring.decrypt_secrets(context, secrets),
        headers: keyring.decrypt_headers(context, secrets),
        disabled_reason: row.get_opt("disabled_reason")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        policy: DeliveryPolicy {
            max_concurrency: row.get_opt("max_concurrency")?,
            rate_limit_per_second: row.get_opt("rate_limit_per_second")?,
            retry_schedule: row.parse_opt("retry_schedule")?,
            ordered: row.get("ordered")?,
        },
        config: row.parse("config")?,
        kind: row.parse("kind")?,
        account_id: row.get_opt("account_id")?,
        version: row.get("version")?,
        cancel_before: row.get_opt("cancel_before")?,
        failing_since: row.get_opt("failing_since")?,
        last_success_at: row.get_opt("last_success_at")?,
        last_failure_at: row.get_opt("last_failure_at")?,
        default_inbox: row.get("default_inbox")?,
        last_read_at: row.get_opt("last_read_at")?,
    })
}

impl Store {
    /// Adds an endpoint. Refused when its organisation does not exist. The default inbox does not count against the
    /// quota. Returns its version.
    pub async fn insert_endpoint(
        &self,
        org: OrgId,
        endpoint: &Endpoint,
        by: &Actor,
    ) -> Result<Result<u64, AddRefusal>> {
        let secrets = self.keyring.encrypt_endpoint(endpoint)?;
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        let count = "SELECT count(*) AS count FROM endpoints
                     WHERE org_id = $1 AND removed_at IS NULL AND NOT default_inbox";
        let quota = self.check_quota(&mut tx, org, OrgLimit::Endpoints, count, args![org]);
        if let Err(refusal) = quota.await? {
            return Ok(Err(refusal));
        }
        if let Some(account) = &endpoint.account_id {
            let count = "SELECT count(*) AS count FROM endpoints
                         WHERE org_id = $1 AND account_id = $2 AND removed_at IS NULL";
            let count: u32 = tx.one(count, args![org, account.as_str()]).await?.get("count")?;
            if count >= Endpoint::PER_ACCOUNT_MAX {
                return Ok(Err(AddRefusal::AccountFull));
            }
        }
        let added = Endpoint { version, ..endpoint.clone() };
        insert(&mut tx, &added, &secrets).await?;
        suspension::apply(&mut tx, org, version).await?;
        audit::commit(tx, &AuditRecord::endpoint_created(endpoint), by, endpoint.created_at)
            .await?;
        Ok(Ok(version))
    }

    /// One endpoint, its secret with it.
    pub async fn endpoint(&self, org: OrgId, id: EndpointId) -> Result<Option<Endpoint>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM endpoints
             WHERE id = $1 AND org_id = $2 AND removed_at IS NULL"
        );
        self.engine.find(sql, args![id, org], |row| read(row, &self.keyring)).await
    }

    /// The organisation's endpoints, or those of one of its accounts.
    pub async fn endpoints(
        &self,
        org: OrgId,
        account: Option<&str>,
        page: PageRequest,
    ) -> Result<Page<Endpoint>> {
        let mut sql =
            format!("SELECT {COLUMNS} FROM endpoints WHERE org_id = $4 AND removed_at IS NULL");
        let mut args = args![org];
        if let Some(account) = account {
            sql.push_str(" AND account_id = $5");
            args.push(account.into());
        }
        self.page(page, "created_at", sql, args, |row| read(row, &self.keyring)).await
    }

    /// The ids of the endpoints that receive the events of one account alone, of which there are
    /// [`Endpoint::PER_ACCOUNT_MAX`] at most.
    pub async fn endpoint_ids_of_account(
        &self,
        org: OrgId,
        account: &str,
    ) -> Result<Vec<EndpointId>> {
        let sql = "SELECT id FROM endpoints
                   WHERE org_id = $1 AND account_id = $2 AND removed_at IS NULL LIMIT $3";
        let args = args![org, account, Endpoint::PER_ACCOUNT_MAX];
        self.engine.list(sql, args, |row| row.get("id")).await
    }

    /// Changes an endpoint and returns it as it is now; `updated_at` is `now` also when nothing else
    /// changes, which the audit log does not tell. Pending deliveries of a disabled endpoint wait; those that are
    /// due when it is enabled again are claimed then. An inbox that is enabled again counts as read at `now`.
    pub async fn update_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        change: &EndpointChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Endpoint>> {
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        let Some((before, mut secrets)) = self.locked_endpoint(&mut tx, org, id).await? else {
            return Ok(None);
        };
        self.require(&before.revision())?;
        let mut after = Endpoint { updated_at: now, version, ..before.clone() };
        change.apply(&mut after);
        if before.disabled_reason.is_some() && after.disabled_reason.is_none() {
            // Nobody could read an inbox while it was disabled.
            after.last_read_at = after.last_read_at.map(|read| read.max(now));
        }
        if let Some(headers) = &change.headers {
            let context = CipherContext { org, endpoint: id };
            secrets.headers = self.keyring.encrypt_headers(context, headers)?;
        }
        write(&mut tx, &after, &secrets).await?;
        if change.disabled_reason == Some(None) && suspension::apply(&mut tx, org, version).await? {
            after.disabled_reason = Some(SUSPENDED.to_owned());
        }
        if after != (Endpoint { updated_at: now, version, ..before }) {
            let record = AuditRecord::endpoint_changed(org, id, change);
            audit::write(&mut tx, &record, by, now).await?;
        }
        tx.commit().await?;
        Ok(Some(after))
    }

    /// An endpoint, locked until the end of the transaction, with its secrets as they are
    /// stored.
    pub(super) async fn locked_endpoint(
        &self,
        tx: &mut Tx<'_>,
        org: OrgId,
        id: EndpointId,
    ) -> Result<Option<(Endpoint, SecretColumns)>> {
        let lock = tx.dialect().lock(" FOR NO KEY UPDATE");
        let sql = format!(
            "SELECT {COLUMNS} FROM endpoints
             WHERE id = $1 AND org_id = $2 AND removed_at IS NULL{lock}"
        );
        let Some(row) = tx.optional(sql, args![id, org]).await? else { return Ok(None) };
        let secrets = SecretColumns::read(&row)?;
        Ok(Some((read_with(&row, &secrets, &self.keyring)?, secrets)))
    }
}

impl System<'_> {
    /// The endpoints that were added, changed or removed since the poll that ended at `mark`, by any process, however
    /// long its transaction took. Some of the previous poll's may be named again. Without a mark, only where to
    /// begin. See [`System::keys_changed`].
    pub async fn changed_endpoints(
        self,
        mark: impl Into<Option<ChangeMark>>,
    ) -> Result<EndpointChanges> {
        let sql = match self.0.engine.dialect() {
            Dialect::Sqlite => {
                "SELECT NULL AS org_id, NULL AS id, number + 1 AS change_number FROM change_counter
                 UNION ALL
                 SELECT org_id, id, change_number FROM endpoints WHERE change_number >= $1"
            }
            Dialect::Postgres => {
                "SELECT NULL::uuid AS org_id, NULL::uuid AS id,
                        pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS change_number
                 UNION ALL
                 SELECT org_id, id, change_number FROM endpoints
                 WHERE change_number >= $1
                   AND change_number < pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
            }
        };
        let since = mark.into().map(|mark| mark.0);
        let (mut changes, mut mark) = (Vec::new(), None);
        for row in self.0.engine.all(sql, args![since]).await? {
            match row.get_opt("id")? {
                Some(id) => changes.push((row.get("org_id")?, id)),
                None => mark = Some(ChangeMark(row.get("change_number")?)),
            }
        }
        let mark = mark.ok_or_else(|| StoreError::Corrupt("changes are not counted".to_owned()))?;
        Ok(EndpointChanges { changes, mark })
    }
}

/// Adds the row of an endpoint.
pub(super) async fn insert(
    tx: &mut Tx<'_>,
    endpoint: &Endpoint,
    secrets: &SecretColumns,
) -> Result<()> {
    tx.execute(COLUMNS.insert_into("endpoints"), values(endpoint, secrets).into()).await?;
    Ok(())
}

/// Writes all columns of an endpoint.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    endpoint: &Endpoint,
    secrets: &SecretColumns,
) -> Result<()> {
    tx.execute(COLUMNS.update("endpoints"), values(endpoint, secrets).into()).await?;
    Ok(())
}
