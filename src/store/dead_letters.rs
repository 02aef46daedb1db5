//! Dead letters: deliveries and events that were given up.

use uuid::Uuid;

use super::columns::{Columns, columns};
use super::engine::{Dialect, Row, args};
use super::filter::Filter;
use super::list_query::{ListQuery, Listed};
use super::{AuditRecord, Result, Store, audit};
use crate::domain::{
    Actor, DeadLetter, DeadLetterDeletion, DeadLetterFilter, DeadLetterId, DeadReason, OrgId, Page,
    PageRequest, Timestamp,
};

/// The columns that [`read`] reads.
const COLUMNS: Columns<8> = columns! {
    id event_id delivery_id endpoint_id reason detail created_at replayed_at
};

fn read(row: &Row) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get("id")?,
        event_id: row.get("event_id")?,
        delivery_id: row.get_opt("delivery_id")?,
        endpoint_id: row.get_opt("endpoint_id")?,
        reason: row.get("reason")?,
        detail: row.get_opt("detail")?,
        created_at: row.get("created_at")?,
        replayed_at: row.get_opt("replayed_at")?,
    })
}

/// The dead letters of an organisation, or of one endpoint of it, by way of the shorter index.
pub(super) fn of_org(
    dialect: Dialect,
    org: OrgId,
    filter: &DeadLetterFilter,
    before: usize,
) -> Filter<'_> {
    let mut conditions = Filter::after(before);
    let org_id = match filter.endpoint_id {
        Some(_) => dialect.not_indexed("org_id"),
        None => "org_id".into(),
    };
    conditions.and(&format!("{org_id} = ?"), org);
    conditions.and_some("endpoint_id = ?", filter.endpoint_id);
    conditions
}

impl Store {
    /// The organisation's dead letters that pass the filter.
    pub async fn dead_letters(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>> {
        let DeadLetterFilter { endpoint_id, reason, event_type, since, until, replayed } = filter;
        let (at, by_type) = ("created_at", "dead_letters_by_type");
        let listed = Listed { table: "dead_letters", at, by_type, by_day: false };
        let mut query = ListQuery::new(self.engine.dialect(), listed, org);
        query.between(*since, *until);
        query.equal_unscoped("endpoint_id", *endpoint_id);
        query.equal("reason", reason.map(DeadReason::as_str));
        query.event_type(event_type.as_ref());
        query.null("replayed_at", replayed.map(|replayed| !replayed));
        query.page(self, &COLUMNS.to_string(), page, read).await
    }

    /// One dead letter.
    pub async fn dead_letter(&self, org: OrgId, id: DeadLetterId) -> Result<Option<DeadLetter>> {
        let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = $1 AND org_id = $2");
        self.engine.find(sql, args![id, org], read).await
    }

    /// Those of an organisation's dead letters that have one of these ids, in any order.
    pub async fn dead_letters_by_id(&self, org: OrgId, ids: Vec<Uuid>) -> Result<Vec<DeadLetter>> {
        let dialect = self.engine.dialect();
        let (is_one, org_id) = (dialect.any("id", "$1"), dialect.not_indexed("org_id"));
        let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE {is_one} AND {org_id} = $2");
        self.engine.list(sql, args![ids, org], read).await
    }

    /// The record of an event that the store rejected, as [`Self::quarantine_event`] was given it.
    pub async fn quarantined_record(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT record FROM dead_letters WHERE id = $1 AND org_id = $2";
        let record = self.engine.find(sql, args![id, org], |row| row.get_opt("record"));
        Ok(record.await?.flatten())
    }

    /// Deletes a dead letter; its delivery stays as it is. `false` when there is none.
    pub async fn delete_dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
        why: DeadLetterDeletion,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.begin_in(org).await?;
        let delete = "DELETE FROM dead_letters WHERE id = $1 AND org_id = $2";
        if tx.execute(delete, args![id, org]).await? == 0 {
            return Ok(false);
        }
        audit::commit(tx, &AuditRecord::dead_letter_deleted(org, id, why), by, now).await?;
        Ok(true)
    }
}
