//! Usage by organisation and month, for operators.

use super::event_hour::EventCount;
use crate::domain::{LabelCursor, LabelPage, Month, OrgId};
use crate::store::engine::{Row, args};
use crate::store::{Result, System};
use uuid::Uuid;

/// The usage of an organisation in a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonthUsage {
    /// The organisation.
    pub org_id: OrgId,
    /// Its name; empty once it is deleted.
    pub name: String,
    /// Events accepted in the month and stored.
    pub count: EventCount,
    /// Deliveries that receivers took in the month.
    pub delivered: u64,
    /// Deliveries that were given up in the month.
    pub dead: u64,
}

impl System<'_> {
    /// The usage of a month by organisation, the most events first. The latest events, which are not folded yet, are
    /// not in it.
    pub async fn month_usage(
        self,
        month: Month,
        org: Option<OrgId>,
        after: Option<&LabelCursor>,
        limit: u32,
    ) -> Result<LabelPage<MonthUsage>> {
        let after_id = after.and_then(|after| after.label.parse().ok()).unwrap_or(Uuid::max());
        let after_events = after.map_or(i64::MAX, |after| after.number);
        let of_org = if org.is_some() { " AND u.org_id = $5" } else { "" };
        let sql = format!(
            "SELECT u.org_id, o.name, u.events, u.bytes, u.delivered, u.dead
             FROM rollup_months u JOIN orgs o ON o.id = u.org_id
             WHERE u.month = $1 AND (u.events, u.org_id) < ($2, $3){of_org}
             ORDER BY u.events DESC, u.org_id DESC LIMIT $4"
        );
        let mut args = args![month.number(), after_events, after_id, limit + 1];
        args.extend(org.map(Into::into));
        let read = |row: &Row| {
            Ok(MonthUsage {
                org_id: row.get("org_id")?,
                name: row.get("name")?,
                count: EventCount { events: row.get("events")?, bytes: row.get("bytes")? },
                delivered: row.get("delivered")?,
                dead: row.get("dead")?,
            })
        };
        let rows = self.0.engine.list(sql, args, read).await?;
        Ok(LabelPage::from_rows(rows, limit, |row: &MonthUsage| {
            let events = i64::try_from(row.count.events).unwrap_or(i64::MAX);
            LabelCursor::new(events, row.org_id.to_string())
        }))
    }
}
