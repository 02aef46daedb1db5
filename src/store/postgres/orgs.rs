//! Organisations.

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgListener, PgPoolOptions};
use sqlx::query::QueryScalar;
use sqlx::{PgConnection, Postgres};
use uuid::Uuid;

use super::{PostgresStore, audit, endpoints, moment};
use crate::domain::{
    Actor, Cursor, EndpointId, Org, OrgChange, OrgDeletion, OrgId, OrgLimit, Page, PageRequest,
    Timestamp,
};
use crate::runtime::Wake;
use crate::store::audit::Note;
use crate::store::rows::{self, org_columns};
use crate::store::{AddRefusal, OrgStore, SUSPENDED, StoreError};

/// What the triggers on keys and organisations notify.
const CHANGES: &str = "hookgate_changes";

#[async_trait]
impl OrgStore for PostgresStore {
    async fn insert_org_across_orgs(&self, org: &Org, by: &Actor) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        let limit = |limit| org.limits.get(limit).map(i64::from);
        sqlx::query(
            "INSERT INTO orgs (id, name, rate_limit_per_minute, burst, bytes_per_minute,
                               events_per_month, endpoints_max, keys_max, payload_bytes_max,
                               created_at, changed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
        )
        .bind(org.id.uuid())
        .bind(&org.name)
        .bind(limit(OrgLimit::RatePerMinute))
        .bind(limit(OrgLimit::Burst))
        .bind(limit(OrgLimit::BytesPerMinute))
        .bind(limit(OrgLimit::EventsPerMonth))
        .bind(limit(OrgLimit::Endpoints))
        .bind(limit(OrgLimit::Keys))
        .bind(limit(OrgLimit::PayloadBytes))
        .bind(moment(org.created_at))
        .execute(&mut *tx)
        .await?;
        audit::write(&mut tx, &Note::org_created(org), by, org.created_at).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn org(&self, org: OrgId) -> Result<Option<Org>, StoreError> {
        let row = sqlx::query(concat!("SELECT ", org_columns!(), " FROM orgs WHERE id = $1"))
            .bind(org.uuid())
            .fetch_optional(&self.pool)
            .await?;
        row.as_ref().map(rows::org).transpose()
    }

    async fn update_org(
        &self,
        org: OrgId,
        change: &OrgChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = locked(&mut tx, org).await? else { return Ok(None) };
        let mut after = before.clone();
        change.apply(&mut after);
        if after == before {
            return Ok(Some(before));
        }
        write(&mut tx, &after, now).await?;
        let note = Note::org_changed("org.update", &before, &after);
        audit::write(&mut tx, &note, by, now).await?;
        tx.commit().await?;
        Ok(Some(after))
    }

    async fn suspend_org(
        &self,
        org: OrgId,
        suspended: bool,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError> {
        let mut tx = self.pool.begin().await?;
        let Some(before) = locked(&mut tx, org).await? else { return Ok(None) };
        if before.suspended_at.is_some() == suspended {
            return Ok(Some(before));
        }
        let after = Org { suspended_at: suspended.then_some(now), ..before.clone() };
        write(&mut tx, &after, now).await?;
        let action = if suspended {
            disable_endpoints(&mut tx, org).await?;
            "org.suspend"
        } else {
            enable_endpoints(&mut tx, org, now).await?;
            "org.resume"
        };
        let note = Note::org_changed(action, &before, &after);
        audit::write(&mut tx, &note, by, now).await?;
        tx.commit().await?;
        Ok(Some(after))
    }

    async fn delete_org(
        &self,
        org: OrgId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Waits for every batch that is storing events of it, each of which holds FOR KEY SHARE.
        sqlx::query("SELECT 1 FROM orgs WHERE id = $1 FOR UPDATE")
            .bind(org.uuid())
            .execute(&mut *tx)
            .await?;
        let Some(before) = locked(&mut tx, org).await? else { return Ok(None) };
        let deletion = OrgDeletion { since: now, rows: 0, done_at: None };
        let after = Org { deletion: Some(deletion), ..before.clone() };
        write(&mut tx, &after, now).await?;
        disable_endpoints(&mut tx, org).await?;
        let note = Note::org_changed("org.delete", &before, &after);
        audit::write(&mut tx, &note, by, now).await?;
        tx.commit().await?;
        Ok(Some(after))
    }

    async fn delete_step_across_orgs(&self, now: Timestamp) -> Result<Option<Org>, StoreError> {
        self.delete_step(now).await
    }

    async fn orgs_across_orgs(&self, page: PageRequest) -> Result<Page<Org>, StoreError> {
        let after = rows::place(page);
        let found = sqlx::query(concat!(
            "SELECT ",
            org_columns!(),
            " FROM orgs
             WHERE (created_at, id) < ($1, $2) AND deleted_at IS NULL
             ORDER BY created_at DESC, id DESC LIMIT $3"
        ))
        .bind(moment(after.at))
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .fetch_all(&self.pool)
        .await?;
        let orgs = rows::all(&found, rows::org)?;
        Ok(Page::from_rows(orgs, page.limit, |org| Cursor {
            at: org.created_at,
            id: org.id.uuid(),
        }))
    }

    async fn paused_across_orgs(&self) -> Result<Vec<OrgId>, StoreError> {
        let ids: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM orgs
             WHERE (suspended_at IS NOT NULL OR deleting_since IS NOT NULL) AND deleted_at IS NULL",
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(ids.into_iter().map(OrgId::from_uuid).collect())
    }

    async fn hint_changes_across_orgs(&self, wakes: &[Wake]) -> Result<(), StoreError> {
        // A connection of its own, so that listening takes none from those who wait for an answer.
        let options = self.pool.connect_options().as_ref().clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await?;
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANGES).await?;
        loop {
            // Once at the start, too: what happened before it listened was not heard.
            wakes.iter().for_each(Wake::wake);
            if listener.try_recv().await?.is_none() {
                return Ok(());
            }
        }
    }
}

/// An organisation that nobody else changes until the end of the transaction; `None` where there is
/// none, or none that is not being deleted. Batches that store events of it are not held up.
pub(super) async fn locked(
    connection: &mut PgConnection,
    org: OrgId,
) -> Result<Option<Org>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        org_columns!(),
        " FROM orgs WHERE id = $1 FOR NO KEY UPDATE"
    ))
    .bind(org.uuid())
    .fetch_optional(connection)
    .await?;
    let org = row.as_ref().map(rows::org).transpose()?;
    Ok(org.filter(|org| org.deletion.is_none()))
}

/// Holds an organisation until the end of the transaction, as batches that store events of it do: its
/// deletion comes before or after. `false` where there is none, or it is being deleted. To be taken
/// before locks on its endpoints and deliveries, as a deletion takes them.
pub(super) async fn hold(connection: &mut PgConnection, org: OrgId) -> Result<bool, StoreError> {
    let held: Option<bool> =
        sqlx::query_scalar("SELECT deleting_since IS NULL FROM orgs WHERE id = $1 FOR KEY SHARE")
            .bind(org.uuid())
            .fetch_optional(connection)
            .await?;
    Ok(held == Some(true))
}

/// Whether there is room for one more of what `limit` limits and `count` counts. Whoever adds one
/// holds the organisation until the end of its transaction, so that two cannot take the last place.
pub(super) async fn room(
    connection: &mut PgConnection,
    org: OrgId,
    limit: OrgLimit,
    count: QueryScalar<'_, Postgres, i64, PgArguments>,
) -> Result<Result<(), AddRefusal>, StoreError> {
    let row = sqlx::query(concat!(
        "SELECT ",
        org_columns!(),
        " FROM orgs WHERE id = $1 FOR NO KEY UPDATE"
    ))
    .bind(org.uuid())
    .fetch_optional(&mut *connection)
    .await?;
    // What belongs to no organisation is refused by its foreign key.
    let Some(org) = row.as_ref().map(rows::org).transpose()? else { return Ok(Ok(())) };
    if org.deletion.is_some() {
        return Ok(Err(AddRefusal::OrgDeleted));
    }
    let Some(most) = org.limits.get(limit) else { return Ok(Ok(())) };
    let full = count.fetch_one(connection).await? >= i64::from(most);
    Ok(if full { Err(AddRefusal::OverQuota(most)) } else { Ok(()) })
}

async fn write(connection: &mut PgConnection, org: &Org, now: Timestamp) -> Result<(), StoreError> {
    let limit = |limit| org.limits.get(limit).map(i64::from);
    sqlx::query(
        "UPDATE orgs
         SET name = $2, rate_limit_per_minute = $3, burst = $4, bytes_per_minute = $5,
             events_per_month = $6, endpoints_max = $7, keys_max = $8, payload_bytes_max = $9,
             suspended_at = $10, deleting_since = $11, changed_at = $12
         WHERE id = $1",
    )
    .bind(org.id.uuid())
    .bind(&org.name)
    .bind(limit(OrgLimit::RatePerMinute))
    .bind(limit(OrgLimit::Burst))
    .bind(limit(OrgLimit::BytesPerMinute))
    .bind(limit(OrgLimit::EventsPerMonth))
    .bind(limit(OrgLimit::Endpoints))
    .bind(limit(OrgLimit::Keys))
    .bind(limit(OrgLimit::PayloadBytes))
    .bind(org.suspended_at.map(moment))
    .bind(org.deletion.map(|deletion| moment(deletion.since)))
    .bind(moment(now))
    .execute(connection)
    .await?;
    Ok(())
}

/// Disables what was enabled or added within this transaction, if the organisation is paused; `true`
/// when it is. A suspension waits for this transaction, or this one for it.
pub(super) async fn keep_paused(
    connection: &mut PgConnection,
    org: OrgId,
) -> Result<bool, StoreError> {
    let paused: Option<bool> = sqlx::query_scalar(
        "SELECT suspended_at IS NOT NULL OR deleting_since IS NOT NULL FROM orgs
         WHERE id = $1 FOR SHARE",
    )
    .bind(org.uuid())
    .fetch_optional(&mut *connection)
    .await?;
    if paused != Some(true) {
        return Ok(false);
    }
    disable_endpoints(connection, org).await?;
    Ok(true)
}

/// Disables what is not disabled, and notes that its owner did not do it.
async fn disable_endpoints(connection: &mut PgConnection, org: OrgId) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE endpoints SET suspended = true, disabled_reason = $2
         WHERE org_id = $1 AND disabled_reason IS NULL
         RETURNING id",
    )
    .bind(org.uuid())
    .bind(SUSPENDED)
    .fetch_all(&mut *connection)
    .await?;
    for id in ids {
        endpoints::park(connection, EndpointId::from_uuid(id)).await?;
    }
    Ok(())
}

/// Enables what [`disable_endpoints`] disabled, but for what has been disabled otherwise since.
async fn enable_endpoints(
    connection: &mut PgConnection,
    org: OrgId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "UPDATE endpoints SET disabled_reason = NULL
         WHERE org_id = $1 AND suspended AND disabled_reason = $2
         RETURNING id",
    )
    .bind(org.uuid())
    .bind(SUSPENDED)
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query("UPDATE endpoints SET suspended = false WHERE org_id = $1 AND suspended")
        .bind(org.uuid())
        .execute(&mut *connection)
        .await?;
    for id in ids {
        endpoints::unpark(connection, EndpointId::from_uuid(id), now).await?;
    }
    Ok(())
}
