//! The audit log: what it says of each change, in its transaction. An organisation's entries are deleted with it.

use std::time::Duration;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::columns::{Columns, columns};
use super::engine::{Row, Tx, args};
use super::page::OrderSql;
use super::{Result, Store, StoreError, System, storable};
use crate::domain::{
    Actor, ApiKey, AuditEntry, DeadLetterDeletion, DeadLetterId, Delivery, DeliveryId,
    DeliveryPolicyChange, Endpoint, EndpointChange, EndpointId, EndpointKind, Event, EventId,
    InboxSettingsChange, Org, OrgId, Page, PageRequest, Replay, ReplayAction, ReplayStatus,
    SigningSecret, Timestamp,
};

/// An entry that is about to be written.
#[derive(Debug)]
pub(super) struct AuditRecord {
    /// Whose it is; an organisation's entries are deleted with it.
    pub(super) org: Option<OrgId>,
    pub(super) action: &'static str,
    pub(super) object: Uuid,
    pub(super) changes: Value,
}

impl AuditRecord {
    /// An organisation was added. Like its deletion, this is the operators' to remember, also when
    /// the organisation is gone; so it does not tell the name, of which nothing is to be left then.
    pub(super) fn org_created(org: &Org) -> Self {
        let changes = org_changes(&Org::new(org.id, &org.name, org.created_at), org);
        Self::new(None, "org.create", org.id.uuid(), changes)
    }

    /// An organisation was changed.
    pub(super) fn org_changed(action: &'static str, before: &Org, after: &Org) -> Self {
        let org = after.deletion.is_none().then_some(after.id);
        Self::new(org, action, after.id.uuid(), org_changes(before, after))
    }

    /// A key was added.
    pub(super) fn key_created(key: &ApiKey) -> Self {
        let mut changes = json!({ "name": key.name, "scopes": key.scopes });
        if let Some(end) = key.expires_at {
            changes["expires_at"] = json!(end);
        }
        if let Some(rate) = key.rate_limit_per_minute {
            changes["rate_limit_per_minute"] = json!(rate);
        }
        Self::new(key.role.org_id(), "key.create", key.id.uuid(), changes)
    }

    /// A key replaced `old`, which stays valid for the grace period `grace` unless it expires before.
    pub(super) fn key_rotated(new: &ApiKey, old: &ApiKey, grace: Duration) -> Self {
        let mut record = Self { action: "key.rotate", ..Self::key_created(new) };
        record.changes["replaces"] = json!(old.id);
        record.changes["grace_seconds"] = json!(grace.as_secs());
        record.changes["replaced_expires_at"] = json!(old.expires_at);
        record
    }

    /// A key has another name.
    pub(super) fn key_renamed(key: &ApiKey) -> Self {
        Self::new(key.role.org_id(), "key.update", key.id.uuid(), json!({ "name": key.name }))
    }

    /// A key was made to expire.
    pub(super) fn key_expired(key: &ApiKey) -> Self {
        let action = if key.revoked_at.is_some() { "key.revoke" } else { "key.expire" };
        let changes = json!({ "expires_at": key.expires_at });
        Self::new(key.role.org_id(), action, key.id.uuid(), changes)
    }

    /// An endpoint was added.
    pub(super) fn endpoint_created(endpoint: &Endpoint) -> Self {
        let url = (endpoint.kind == EndpointKind::Webhook).then(|| origin_of(&endpoint.url));
        let changes = json!({
            "kind": endpoint.kind,
            "url": url,
            "event_types": endpoint.event_types.to_string(),
            "account_id": endpoint.account_id,
        });
        Self::new(endpoint.org_id, "endpoint.create", endpoint.id.uuid(), changes)
    }

    /// An endpoint was changed.
    pub(super) fn endpoint_changed(org: OrgId, id: EndpointId, change: &EndpointChange) -> Self {
        let EndpointChange {
            url,
            event_types,
            headers,
            description,
            disabled_reason,
            policy,
            inbox,
            format,
        } = change;
        let InboxSettingsChange { visibility_seconds, max_receives } = inbox;
        let DeliveryPolicyChange {
            max_concurrency,
            rate_limit_per_second,
            retry_schedule,
            ordered,
        } = policy;
        let mut changes = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                changes.insert(name.to_owned(), value);
            }
        };
        set("url", url.as_ref().map(|url| json!(origin_of(url))));
        set("event_types", event_types.as_ref().map(|types| json!(types.to_string())));
        set("description", description.as_ref().map(|text| json!(text)));
        set("headers", headers.as_ref().map(|_| json!("changed"))); // They may be credentials.
        set("disabled_reason", disabled_reason.as_ref().map(|why| json!(why)));
        set("max_concurrency", max_concurrency.map(|max| json!(max)));
        set("rate_limit_per_second", rate_limit_per_second.map(|max| json!(max)));
        let schedule = retry_schedule.as_ref();
        set("retry_schedule", schedule.map(|own| json!(own.as_ref().map(ToString::to_string))));
        set("ordered", ordered.map(|ordered| json!(ordered)));
        set("visibility_seconds", visibility_seconds.map(|seconds| json!(seconds)));
        set("max_receives", max_receives.map(|max| json!(max)));
        set("format", format.map(|format| json!(format)));
        Self::new(org, "endpoint.update", id.uuid(), changes)
    }

    /// The server disabled an endpoint, for this reason.
    pub(super) fn endpoint_disabled(org: OrgId, id: EndpointId, reason: &str) -> Self {
        let disabled_reason = Some(Some(reason.to_owned()));
        let change = EndpointChange { disabled_reason, ..EndpointChange::default() };
        Self::endpoint_changed(org, id, &change)
    }

    /// An endpoint was removed.
    pub(super) fn endpoint_deleted(org: OrgId, id: EndpointId) -> Self {
        Self::new(org, "endpoint.delete", id.uuid(), Map::new())
    }

    /// An endpoint's secret was replaced.
    pub(super) fn secret_rotated(org: OrgId, id: EndpointId, new: &SigningSecret) -> Self {
        let changes = json!({ "signature": new.scheme() });
        Self::new(org, "endpoint.secret.rotate", id.uuid(), changes)
    }

    /// An endpoint's secret was shown.
    pub(super) fn secret_shown(org: OrgId, id: EndpointId) -> Self {
        Self::new(org, "endpoint.secret.show", id.uuid(), Map::new())
    }

    /// A test event was sent to an endpoint.
    pub(super) fn endpoint_tested(id: EndpointId, event: &Event, delivery: DeliveryId) -> Self {
        let changes = json!({ "event_id": event.id, "delivery_id": delivery });
        Self::new(event.org_id, "endpoint.test", id.uuid(), changes)
    }

    /// So many pending deliveries of an endpoint were cancelled.
    pub(super) fn pending_cancelled(org: OrgId, id: EndpointId, cancelled: u64) -> Self {
        let changes = json!({ "cancelled": cancelled });
        Self::new(org, "endpoint.cancel_pending", id.uuid(), changes)
    }

    /// A delivery was made due.
    pub(super) fn delivery_retried(delivery: &Delivery) -> Self {
        Self::new(delivery.org_id, "delivery.retry", delivery.id.uuid(), Map::new())
    }

    /// A delivery was cancelled.
    pub(super) fn delivery_cancelled(delivery: &Delivery) -> Self {
        Self::new(delivery.org_id, "delivery.cancel", delivery.id.uuid(), Map::new())
    }

    /// A delivery was repeated as `new`.
    pub(super) fn delivery_replayed(old: DeliveryId, new: &Delivery) -> Self {
        let changes = json!({ "delivery_id": new.id });
        Self::new(new.org_id, "delivery.replay", old.uuid(), changes)
    }

    /// An event was delivered once more, to `endpoint` alone if one was named.
    pub(super) fn event_replayed(
        org: OrgId,
        id: EventId,
        endpoint: Option<EndpointId>,
        (deliveries, skipped): (usize, usize),
    ) -> Self {
        let mut changes = json!({ "deliveries": deliveries, "skipped": skipped });
        if let Some(endpoint) = endpoint {
            changes["endpoint_id"] = json!(endpoint);
        }
        Self::new(org, "event.replay", id.uuid(), changes)
    }

    /// A replay of dead letters was started, by these rules.
    pub(super) fn replay_started(replay: &Replay) -> Self {
        let mut filter = json!(replay.filter);
        if let Some(fields) = filter.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        let changes = json!({ "filter": filter, "total": replay.total });
        let action = match replay.action {
            ReplayAction::Replay => "replay.create",
            ReplayAction::Discard => "discard.create",
        };
        Self::new(replay.org_id, action, replay.id.uuid(), changes)
    }

    /// A replay was ended before its end, when it had come so far.
    pub(super) fn replay_ended(replay: &Replay) -> Self {
        let failed = replay.status == ReplayStatus::Failed;
        let action = match (replay.action, failed) {
            (ReplayAction::Replay, true) => "replay.fail",
            (ReplayAction::Replay, false) => "replay.cancel",
            (ReplayAction::Discard, true) => "discard.fail",
            (ReplayAction::Discard, false) => "discard.cancel",
        };
        let changes = json!({ "done": replay.done, "skipped": replay.skipped });
        Self::new(replay.org_id, action, replay.id.uuid(), changes)
    }

    /// A dead letter was deleted.
    pub(super) fn dead_letter_deleted(
        org: OrgId,
        id: DeadLetterId,
        why: DeadLetterDeletion,
    ) -> Self {
        let is_stored = why == DeadLetterDeletion::Stored;
        let action = if is_stored { "dead_letter.replay" } else { "dead_letter.delete" };
        Self::new(org, action, id.uuid(), Map::new())
    }

    /// An entry about an object of an organisation, or of none.
    pub(super) fn new(
        org: impl Into<Option<OrgId>>,
        action: &'static str,
        object: Uuid,
        changes: impl Into<Value>,
    ) -> Self {
        Self { org: org.into(), action, object, changes: changes.into() }
    }
}

/// The new values of what differs.
fn org_changes(before: &Org, after: &Org) -> Map<String, Value> {
    let mut changes = Map::new();
    if before.name != after.name {
        changes.insert("name".to_owned(), json!(after.name));
    }
    for ((limit, old), (_, new)) in before.limits.iter().zip(after.limits.iter()) {
        if old != new {
            changes.insert(limit.name().to_owned(), json!(new));
        }
    }
    if before.event_type_rates != after.event_type_rates {
        changes.insert("event_type_rates".to_owned(), json!(after.event_type_rates));
    }
    if before.own_event_type_rates != after.own_event_type_rates {
        changes.insert("own_event_type_rates".to_owned(), json!(after.own_event_type_rates));
    }
    if before.state() != after.state() {
        changes.insert("state".to_owned(), json!(after.state()));
    }
    changes
}

/// Where a URL leads, without path and query: those are often secrets of the receiver's.
fn origin_of(url: &url::Url) -> String {
    url.origin().ascii_serialization()
}

impl Store {
    /// Records that an endpoint's secret was shown.
    pub async fn note_secret_shown(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<()> {
        let tx = self.engine.begin().await?;
        commit(tx, &AuditRecord::secret_shown(org, endpoint), by, now).await
    }

    /// The changes to what belongs to one organisation.
    pub async fn audit_log(&self, org: OrgId, page: PageRequest) -> Result<Page<AuditEntry>> {
        let sql = format!("SELECT {COLUMNS} FROM audit_log WHERE org_id = $4");
        self.page(page, "at", sql, args![org], read).await
    }
}

impl System<'_> {
    /// The changes to what belongs to one organisation, and its creation and deletion, whose entries outlive
    /// it.
    pub async fn org_log(self, org: OrgId, page: PageRequest) -> Result<Page<AuditEntry>> {
        // The entries of its creation and deletion belong to none. Their times, which its own row keeps,
        // lead to them by the same index.
        let sql = format!(
            "SELECT * FROM (
                 SELECT {COLUMNS} FROM audit_log WHERE org_id = $4 {}
             ) own
             UNION ALL
             SELECT {COLUMNS}
             FROM (SELECT created_at AS moment FROM orgs WHERE id = $4
                   UNION ALL SELECT deleting_since FROM orgs WHERE id = $4) moments
             CROSS JOIN audit_log
             WHERE org_id IS NULL AND at = moment AND object = $4",
            OrderSql::of(page.order).page("at")
        );
        self.0.page(page, "at", sql, args![org], read).await
    }

    /// All changes.
    pub async fn audit_log(self, page: PageRequest) -> Result<Page<AuditEntry>> {
        let sql = format!("SELECT {COLUMNS} FROM audit_log WHERE true");
        self.0.page(page, "at", sql, args![], read).await
    }
}

/// The columns of an entry, in the order in which [`write`] gives their values.
const COLUMNS: Columns<8> = columns! {
    id org_id at actor address action object changes
};

/// Adds an entry. None for an organisation that is being deleted: it would outlive the others.
pub(super) async fn write(
    tx: &mut Tx<'_>,
    record: &AuditRecord,
    by: &Actor,
    now: Timestamp,
) -> Result<()> {
    let AuditRecord { org, action, object, changes } = record;
    let lock = tx.dialect().lock(" FOR KEY SHARE");
    let sql = format!(
        "WITH org AS (SELECT deleting_since FROM orgs WHERE id = $2{lock})
         INSERT INTO audit_log ({COLUMNS})
         SELECT $1, $2, $3, $4, $5, $6, $7, $8
         WHERE NOT EXISTS (SELECT 1 FROM org WHERE deleting_since IS NOT NULL)"
    );
    let changes = by.named_in(changes.clone()).to_string();
    let values = args![
        Uuid::now_v7(),
        *org,
        now,
        by.kind.to_string(),
        by.address.map(|address| address.to_string()),
        *action,
        *object,
        storable(&changes),
    ];
    tx.execute(sql, values).await?;
    Ok(())
}

/// Adds an entry and commits the change that it is about.
pub(super) async fn commit(
    mut tx: Tx<'_>,
    record: &AuditRecord,
    by: &Actor,
    now: Timestamp,
) -> Result<()> {
    write(&mut tx, record, by, now).await?;
    tx.commit().await
}

fn read(row: &Row) -> Result<AuditEntry> {
    let changes: String = row.get("changes")?;
    let malformed = |_| StoreError::Corrupt("malformed changes of an audit entry".to_owned());
    Ok(AuditEntry {
        id: row.get("id")?,
        org_id: row.get_opt("org_id")?,
        at: row.get("at")?,
        actor: row.get("actor")?,
        address: row.get_opt("address")?,
        action: row.get("action")?,
        object: row.get("object")?,
        changes: serde_json::from_str(&changes).map_err(malformed)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{OrgLimit, Timestamp};

    #[test]
    fn only_what_differs_is_named_and_no_path_of_a_url() {
        let at = Timestamp::from_micros(1);
        let before = Org::new(OrgId::mint(at), "a", at);
        let mut after = before.clone();
        after.limits = after.limits.with(OrgLimit::Keys, Some(3));
        after.suspended_at = Some(at);
        let record = AuditRecord::org_changed("org.update", &before, &after);
        assert_eq!(record.changes, json!({ "keys_max": 3, "state": "suspended" }));
        assert_eq!(
            origin_of(&"https://u:p@a.example:8/T0/s3cret?x=1".parse().unwrap()),
            "https://a.example:8"
        );
    }
}
