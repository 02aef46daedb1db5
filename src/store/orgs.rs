//! Organisations, which are the tenants.

use super::columns::{Columns, columns};
use super::engine::{Args, Engine, Row, Tx, Value, args};
use super::{AuditRecord, Result, Store, System, audit, suspension};
use crate::domain::{
    Actor, Org, OrgChange, OrgDeletion, OrgId, OrgLimit, OrgLimits, Page, PageRequest, Timestamp,
};
use crate::runtime::Wake;

/// The columns of an organisation, in the order of [`values`]. The limits are in the order of
/// [`OrgLimit::ALL`].
pub(super) const COLUMNS: Columns<20> = columns! {
    id name created_at suspended_at deleting_since deleted_rows deleted_at changed_at
    rate_limit_per_minute burst bytes_per_minute events_per_month endpoints_max keys_max
    payload_bytes_max deliveries_per_minute retention_days payload_retention_days event_type_rates
    own_event_type_rates
};

/// The values of [`COLUMNS`].
fn values(org: &Org, changed_at: Timestamp) -> [Value<'_>; COLUMNS.0.len()] {
    let Org {
        id,
        name,
        limits,
        event_type_rates,
        own_event_type_rates,
        created_at,
        suspended_at,
        deletion,
    } = org;
    let since = deletion.map(|deletion| deletion.since);
    let rows = deletion.map_or(0, |deletion| deletion.rows);
    let done_at = deletion.and_then(|deletion| deletion.done_at);
    let limit = |limit| limits.get(limit).into();
    [
        (*id).into(),
        name.into(),
        (*created_at).into(),
        (*suspended_at).into(),
        since.into(),
        rows.into(),
        done_at.into(),
        changed_at.into(),
        limit(OrgLimit::RatePerMinute),
        limit(OrgLimit::Burst),
        limit(OrgLimit::BytesPerMinute),
        limit(OrgLimit::EventsPerMonth),
        limit(OrgLimit::Endpoints),
        limit(OrgLimit::Keys),
        limit(OrgLimit::PayloadBytes),
        limit(OrgLimit::DeliveriesPerMinute),
        limit(OrgLimit::RetentionDays),
        limit(OrgLimit::PayloadRetentionDays),
        event_type_rates.to_text().into(),
        own_event_type_rates.to_text().into(),
    ]
}

/// Reads [`COLUMNS`].
pub(super) fn read(row: &Row) -> Result<Org> {
    let mut limits = OrgLimits::default();
    for limit in OrgLimit::ALL {
        limits = limits.with(limit, row.get_opt(limit.name())?);
    }
    let deletion = match row.get_opt("deleting_since")? {
        Some(since) => {
            let (rows, done_at) = (row.get("deleted_rows")?, row.get_opt("deleted_at")?);
            Some(OrgDeletion { since, rows, done_at })
        }
        None => None,
    };
    Ok(Org {
        id: row.get("id")?,
        name: row.get("name")?,
        limits,
        event_type_rates: row.parse_opt("event_type_rates")?.unwrap_or_default(),
        own_event_type_rates: row.parse_opt("own_event_type_rates")?.unwrap_or_default(),
        created_at: row.get("created_at")?,
        suspended_at: row.get_opt("suspended_at")?,
        deletion,
    })
}

/// Why an organisation may not have one more key or endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddRefusal {
    /// It has reached its quota, which is this many.
    OverQuota(u32),
    /// The account of the endpoint has as many as one may have.
    AccountFull,
    /// It is being deleted.
    OrgDeleted,
}

impl Store {
    /// One organisation, also one that was deleted.
    pub async fn org(&self, org: OrgId) -> Result<Option<Org>> {
        let sql = format!("SELECT {COLUMNS} FROM orgs WHERE id = $1");
        self.engine.find(sql, args![org], read).await
    }

    /// Changes an organisation and returns it as it is now; `None` when there is none, or it is being
    /// deleted. `now` is written as the time of the change.
    pub async fn update_org(
        &self,
        org: OrgId,
        change: &OrgChange,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>> {
        let mut tx = self.engine.begin().await?;
        let Some(before) = locked(&mut tx, org).await? else { return Ok(None) };
        self.require(&before.revision())?;
        let mut after = before.clone();
        change.apply(&mut after);
        if after == before {
            return Ok(Some(before));
        }
        write(&mut tx, &after, now).await?;
        audit::commit(tx, &AuditRecord::org_changed("org.update", &before, &after), by, now)
            .await?;
        Ok(Some(after))
    }

    /// Suspends an organisation, or resumes it, and returns it as it is now; `None` as with
    /// [`Self::update_org`]. While it is suspended its endpoints are disabled, and their deliveries wait
    /// without using up attempts; events accepted before are stored and planned, and wait, too.
    pub async fn suspend_org(
        &self,
        org: OrgId,
        suspended: bool,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Org>> {
        let mut tx = self.engine.begin().await?;
        let Some(before) = locked(&mut tx, org).await? else { return Ok(None) };
        if before.suspended_at.is_some() == suspended {
            return Ok(Some(before));
        }
        let after = Org { suspended_at: suspended.then_some(now), ..before.clone() };
        write(&mut tx, &after, now).await?;
        let action = if suspended {
            suspension::disable_endpoints(&mut tx, org).await?;
            "org.suspend"
        } else {
            suspension::enable_endpoints(&mut tx, org, now).await?;
            "org.resume"
        };
        audit::commit(tx, &AuditRecord::org_changed(action, &before, &after), by, now).await?;
        Ok(Some(after))
    }

    /// Begins the deletion of an organisation and returns it as it is now; `None` as with
    /// [`Self::update_org`]. From then on nothing of it is stored: its events that come out of a
    /// journal are dropped.
    pub async fn delete_org(&self, org: OrgId, by: &Actor, now: Timestamp) -> Result<Option<Org>> {
        let mut tx = self.engine.begin().await?;
        // Waits for every batch that is storing events of it, each of which holds FOR KEY SHARE.
        if let Tx::Postgres(_) = tx {
            tx.execute("SELECT 1 FROM orgs WHERE id = $1 FOR UPDATE", args![org]).await?;
        }
        let Some(before) = locked(&mut tx, org).await? else { return Ok(None) };
        self.require(&before.revision())?;
        let deletion = OrgDeletion { since: now, rows: 0, done_at: None };
        let after = Org { deletion: Some(deletion), ..before.clone() };
        write(&mut tx, &after, now).await?;
        suspension::disable_endpoints(&mut tx, org).await?;
        audit::commit(tx, &AuditRecord::org_changed("org.delete", &before, &after), by, now)
            .await?;
        Ok(Some(after))
    }

    /// Starts a short write transaction about what belongs to an organisation, which it [holds](hold).
    pub(super) async fn begin_in(&self, org: OrgId) -> Result<Tx<'_>> {
        let mut tx = self.engine.begin().await?;
        hold(&mut tx, org).await?;
        Ok(tx)
    }

    /// Checks that an organisation may have one more of what `limit` limits. `count` counts what it has, as
    /// `count`. One that has more than it may keeps them. The organisation is locked until the end of the
    /// transaction, so that two callers cannot take the last one.
    pub(super) async fn check_quota(
        &self,
        tx: &mut Tx<'_>,
        org: OrgId,
        limit: OrgLimit,
        count: &'static str,
        args: Args<'_>,
    ) -> Result<Result<(), AddRefusal>> {
        // Without an organisation, the foreign key refuses the row.
        let Some(org) = locked_or_deleting(tx, org).await? else { return Ok(Ok(())) };
        if org.deletion.is_some() {
            return Ok(Err(AddRefusal::OrgDeleted));
        }
        let Some(max) = self.effective_limits(&org).get(limit) else { return Ok(Ok(())) };
        let count: u64 = tx.one(count, args).await?.get("count")?;
        Ok(if count >= u64::from(max) { Err(AddRefusal::OverQuota(max)) } else { Ok(()) })
    }
}

impl System<'_> {
    /// The organisations whose names have this text in them, in any case (on SQLite, of ASCII letters), or whose id it is.
    pub async fn orgs_named(self, text: &str, page: PageRequest) -> Result<Page<Org>> {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let (pattern, id) = (format!("%{escaped}%"), text.parse::<OrgId>().ok());
        let sql = format!(
            "SELECT {COLUMNS} FROM orgs WHERE (lower(name) LIKE lower($4) ESCAPE '\\' OR id = $5)"
        );
        self.0.page(page, "created_at", sql, args![pattern, id], read).await
    }

    /// Adds an organisation.
    pub async fn insert_org(self, org: &Org, by: &Actor) -> Result<()> {
        let mut tx = self.0.engine.begin().await?;
        insert(&mut tx, org, by).await?;
        tx.commit().await
    }

    /// Makes an organisation at least as old as events that are stored for it: lists look no further back than where it
    /// was created.
    pub async fn backdate_org(self, org: OrgId, from: Timestamp, now: Timestamp) -> Result<()> {
        let mut tx = self.0.engine.begin().await?;
        let sql = "UPDATE orgs SET created_at = $2, changed_at = $3
                   WHERE id = $1 AND created_at > $2";
        tx.execute(sql, args![org, from, now]).await?;
        tx.commit().await
    }

    /// All organisations but those whose deletion is done.
    pub async fn orgs(self, page: PageRequest) -> Result<Page<Org>> {
        let sql = format!("SELECT {COLUMNS} FROM orgs WHERE deleted_at IS NULL");
        self.0.page(page, "created_at", sql, args![], read).await
    }

    /// Wakes each of `wakes` when other processes may have changed keys or organisations.
    /// Only a hint, which may be missed: callers poll as well. Ends with the connection it listens
    /// on; never where an engine has no such hints.
    pub async fn hint_changes(self, wakes: &[Wake]) -> Result<()> {
        match &*self.0.engine {
            // Other processes are the command line at most; polling finds its changes.
            Engine::Sqlite(_) => std::future::pending().await,
            Engine::Postgres(engine) => engine.listen_for_changes(wakes).await,
        }
    }
}

/// Adds an organisation, and the audit entry that tells of it.
pub(super) async fn insert(tx: &mut Tx<'_>, org: &Org, by: &Actor) -> Result<()> {
    tx.execute(COLUMNS.insert_into("orgs"), values(org, org.created_at).into()).await?;
    audit::write(tx, &AuditRecord::org_created(org), by, org.created_at).await
}

/// An organisation, locked until the end of the transaction; `None` when there is
/// none, or it is being deleted. Batches that store events of it are not held up.
pub(super) async fn locked(tx: &mut Tx<'_>, org: OrgId) -> Result<Option<Org>> {
    Ok(locked_or_deleting(tx, org).await?.filter(|org| org.deletion.is_none()))
}

async fn locked_or_deleting(tx: &mut Tx<'_>, org: OrgId) -> Result<Option<Org>> {
    let lock = tx.dialect().lock(" FOR NO KEY UPDATE");
    let sql = format!("SELECT {COLUMNS} FROM orgs WHERE id = $1{lock}");
    tx.find(sql, args![org], read).await
}

/// Locks an organisation until the end of the transaction, as batches that store events of it do: its
/// deletion comes before or after. `false` when there is none, or it is being deleted. To be called
/// before locks on its endpoints and deliveries are taken, in the order in which a deletion takes them.
pub(super) async fn hold(tx: &mut Tx<'_>, org: OrgId) -> Result<bool> {
    let lock = tx.dialect().lock(" FOR KEY SHARE");
    let sql = format!("SELECT deleting_since IS NULL AS alive FROM orgs WHERE id = $1{lock}");
    Ok(tx.find(sql, args![org], |row| row.get("alive")).await? == Some(true))
}

async fn write(tx: &mut Tx<'_>, org: &Org, now: Timestamp) -> Result<()> {
    tx.execute(COLUMNS.update("orgs"), values(org, now).into()).await?;
    Ok(())
}
