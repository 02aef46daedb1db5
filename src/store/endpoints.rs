//! Endpoints: where a tenant's webhooks go.

use super::columns::{Columns, columns};
use super::crypto::{CipherContext, Keyring, SecretColumns};
use super::engine::{Row, Tx, Value, args};
use super::suspension::{self, SUSPENDED};
use super::{AddRefusal, AuditRecord, Result, Store, audit, storable};
use crate::domain::{
    Actor, DeliveryPolicy, Endpoint, EndpointChange, EndpointId, OrgId, OrgLimit, Page,
    PageRequest, Timestamp,
};

/// The columns of an endpoint, in the order of [`values`].
pub(super) const COLUMNS: Columns<17> = columns! {
    id org_id url event_types description secret earlier_secrets headers disabled_reason
    created_at updated_at max_concurrency rate_limit_per_second retry_schedule ordered
    config failing_since
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
        failing_since,
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
        (*failing_since).into(),
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
        failing_since: row.get_opt("failing_since")?,
    })
}

impl Store {
    /// Adds an endpoint. Refused when its organisation does not exist.
    pub async fn insert_endpoint(
        &self,
        org: OrgId,
        endpoint: &Endpoint,
        by: &Actor,
    ) -> Result<Result<(), AddRefusal>> {
        let secrets = self.keyring.encrypt_endpoint(endpoint)?;
        let mut tx = self.engine.begin().await?;
        let count = "SELECT count(*) AS count FROM endpoints WHERE org_id = $1";
        let quota = self.check_quota(&mut tx, org, OrgLimit::Endpoints, count, args![org]);
        if let Err(refusal) = quota.await? {
            return Ok(Err(refusal));
        }
        let values = values(endpoint, &secrets);
        tx.execute(COLUMNS.insert_into("endpoints"), values.into()).await?;
        suspension::apply(&mut tx, org).await?;
        audit::commit(tx, &AuditRecord::endpoint_created(endpoint), by, endpoint.created_at)
            .await?;
        Ok(Ok(()))
    }

    /// One endpoint, its secret with it.
    pub async fn endpoint(&self, org: OrgId, id: EndpointId) -> Result<Option<Endpoint>> {
        let sql = format!("SELECT {COLUMNS} FROM endpoints WHERE id = $1 AND org_id = $2");
        self.engine.find(sql, args![id, org], |row| read(row, &self.keyring)).await
    }

    /// The organisation's endpoints.
    pub async fn endpoints(&self, org: OrgId, page: PageRequest) -> Result<Page<Endpoint>> {
        let sql = format!("SELECT {COLUMNS} FROM endpoints WHERE org_id = $4");
        self.page(page, "created_at", sql, args![org], |row| read(row, &self.keyring)).await
    }

    /// Changes an endpoint and returns it as it is now; `updated_at` is `now` also when nothing else
    /// changes, which the audit log does not tell. Disabling one parks its pending deliveries
    /// (they are claimed no more), enabling it makes the parked ones due at `now`.
    pub async fn update_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        change: &EndpointChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Endpoint>> {
        let mut tx = self.begin_in(org).await?;
        let Some((before, mut secrets)) = self.locked_endpoint(&mut tx, org, id).await? else {
            return Ok(None);
        };
        let mut after = Endpoint { updated_at: now, ..before.clone() };
        change.apply(&mut after);
        if let Some(headers) = &change.headers {
            let context = CipherContext { org, endpoint: id };
            secrets.headers = self.keyring.encrypt_headers(context, headers)?;
        }
        write(&mut tx, &after, &secrets).await?;
        match &change.disabled_reason {
            Some(Some(_)) => suspension::park(&mut tx, id).await?,
            Some(None) if suspension::apply(&mut tx, org).await? => {
                after.disabled_reason = Some(SUSPENDED.to_owned());
            }
            Some(None) => suspension::unpark(&mut tx, id, now).await?,
            None => {}
        }
        if after != (Endpoint { updated_at: now, ..before }) {
            let record = AuditRecord::endpoint_changed(org, id, change);
            audit::write(&mut tx, &record, by, now).await?;
        }
        tx.commit().await?;
        Ok(Some(after))
    }

    /// Removes an endpoint and cancels its pending deliveries. `false` when there is none.
    pub async fn delete_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin_in(org).await?;
        let delete = "DELETE FROM endpoints WHERE id = $1 AND org_id = $2";
        if tx.execute(delete, args![id, org]).await? == 0 {
            return Ok(false);
        }
        cancel_deliveries(&mut tx, id, now).await?;
        audit::commit(tx, &AuditRecord::endpoint_deleted(org, id), by, now).await?;
        Ok(true)
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
        let sql = format!("SELECT {COLUMNS} FROM endpoints WHERE id = $1 AND org_id = $2{lock}");
        let Some(row) = tx.optional(sql, args![id, org]).await? else { return Ok(None) };
        let secrets = SecretColumns::read(&row)?;
        Ok(Some((read_with(&row, &secrets, &self.keyring)?, secrets)))
    }
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

/// Cancels every pending delivery of an endpoint. PostgreSQL locks them in key order, as outcomes are
/// recorded: two transactions could wait for each other's rows otherwise.
async fn cancel_deliveries(tx: &mut Tx<'_>, endpoint: EndpointId, now: Timestamp) -> Result<()> {
    let sql = match tx {
        Tx::Sqlite(..) => {
            "UPDATE deliveries
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $2
             WHERE endpoint_id = $1 AND status = 'pending'"
        }
        Tx::Postgres(_) => {
            "WITH held AS MATERIALIZED (
                 SELECT id, event_received_at FROM deliveries
                 WHERE endpoint_id = $1 AND status = 'pending'
                 ORDER BY id FOR UPDATE
             )
             UPDATE deliveries d
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $2
             FROM held h
             WHERE d.id = h.id AND d.event_received_at = h.event_received_at"
        }
    };
    tx.execute(sql, args![endpoint, now]).await?;
    Ok(())
}
