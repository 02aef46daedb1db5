//! Dead letters: deliveries and events that were given up.

use uuid::Uuid;

use super::engine::{Dialect, Row, Tx, args};
use super::filter::Filter;
use super::list_query::{ListQuery, Listed, PARAMETERS_BEFORE};
use super::page::ListBounds;
use super::{AuditRecord, Result, Store, audit};
use crate::domain::{
    Actor, DeadLetter, DeadLetterDeletion, DeadLetterFilter, DeadLetterId, DeadReason, Endpoint,
    ErrorClass, OrgId, Page, PageRequest, Timestamp,
};

/// The columns that [`read`] reads.
const COLUMNS: &str = "id, event_id, delivery_id, endpoint_id, reason, event_type, detail,
    error_class, status_code, attempts, created_at, replayed_at,
    (SELECT p.url FROM endpoints p WHERE p.id = endpoint_id) AS endpoint_url";

/// Those of deliveries whose last attempt failed: the condition of the indexes on why.
const FAILED: &str = "error_class IS NOT NULL";

fn read(row: &Row) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get("id")?,
        event_id: row.get("event_id")?,
        delivery_id: row.get_opt("delivery_id")?,
        endpoint_id: row.get_opt("endpoint_id")?,
        reason: row.get("reason")?,
        event_type: row.get_opt("event_type")?,
        endpoint_url: row
            .get_opt::<String>("endpoint_url")?
            .as_deref()
            .and_then(Endpoint::shown_destination),
        detail: row.get_opt("detail")?,
        error_class: row.parse_opt("error_class")?,
        status_code: row.get_opt("status_code")?,
        attempt_count: row.get_opt("attempts")?,
        created_at: row.get("created_at")?,
        replayed_at: row.get_opt("replayed_at")?,
    })
}

/// The dead letters of an organisation, or of one endpoint or event of it, by way of the shortest index.
pub(super) fn of_org(
    dialect: Dialect,
    org: OrgId,
    filter: &DeadLetterFilter,
    before: usize,
) -> Filter<'_> {
    let mut conditions = Filter::after(before);
    let column = |name: &'static str, is_shortest: bool| {
        if is_shortest { name.into() } else { dialect.not_indexed(name) }
    };
    let DeadLetterFilter { endpoint_id, event_id, .. } = filter;
    let org_id = column("org_id", endpoint_id.is_none() && event_id.is_none());
    conditions.and(&format!("{org_id} = ?"), org);
    let endpoint = column("endpoint_id", event_id.is_none());
    conditions.and_some(&format!("{endpoint} = ?"), *endpoint_id);
    conditions.and_some("event_id = ?", *event_id);
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
        let DeadLetterFilter {
            endpoint_id,
            event_id,
            reason,
            event_type,
            since,
            until,
            replayed,
            error_class,
            status_code,
        } = filter;
        let (at, by_type) = ("created_at", "dead_letters_by_type");
        let listed = Listed { table: "dead_letters", at, by_type, by_day: false };
        let bounds = ListBounds { order: page.order, since: *since, until: *until };
        let dialect = self.engine.dialect();
        let mut query = ListQuery::new(dialect, listed, org, bounds, PARAMETERS_BEFORE);
        query.equal_unscoped("endpoint_id", Some("dead_letters_by_endpoint"), *endpoint_id);
        query.equal_unscoped("event_id", Some("dead_letters_by_event"), *event_id);
        let class = error_class.map(ErrorClass::as_str);
        query.equal_within(("error_class", "dead_letters_by_error_class", FAILED), class);
        let code = status_code.map(u32::from);
        query.equal_within(("status_code", "dead_letters_by_status_code", FAILED), code);
        query.equal("reason", "dead_letters_by_reason", reason.map(DeadReason::as_str));
        query.event_type(event_type.as_ref());
        let by_replay = ("dead_letters_unreplayed", "dead_letters_replayed");
        query.null("replayed_at", by_replay, replayed.map(|replayed| !replayed));
        query.page(self, COLUMNS, page, read).await
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

/// Deletes these dead letters, in the order of their ids as a replay locks them, and returns how many there were.
pub(super) async fn discard(tx: &mut Tx<'_>, org: OrgId, ids: &[Uuid]) -> Result<usize> {
    if ids.is_empty() {
        return Ok(0);
    }
    let (lock, is_one) = (tx.dialect().lock(" FOR UPDATE"), tx.dialect().any("id", "$1"));
    let org_id = tx.dialect().not_indexed("org_id");
    let sql = format!(
        "DELETE FROM dead_letters
         WHERE id IN (SELECT id FROM dead_letters WHERE {is_one} AND {org_id} = $2
                      ORDER BY id{lock})"
    );
    let deleted = tx.execute(sql, args![ids.to_vec(), org]).await?;
    Ok(usize::try_from(deleted).unwrap_or(usize::MAX))
}
