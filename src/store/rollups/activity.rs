//! Lists of what was seen: accounts, most recently active first, and event types by name.

use std::collections::{BTreeMap, BTreeSet};

use super::DELTAS_READ_MAX;
use super::delta::{DeltaRecord, read_records};
use super::event_hour::EventCount;
use super::folded::Activity;
use super::groups::GroupPage;
use crate::domain::{LabelCursor, LabelPage, OrgId, Timestamp};
use crate::store::engine::{Row, args};
use crate::store::{Result, Store};

/// Accounts that a sample is drawn from at most: those that were active last, or fewer and some that are not folded yet.
pub const ACCOUNTS_SAMPLED_FROM: u32 = 1_000;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// Its id, as the organisation names it.
    pub account_id: String,
    /// When its first event happened.
    pub first_seen: Timestamp,
    /// When its last event happened.
    pub last_seen: Timestamp,
    /// The hour of the last event, by which accounts are listed.
    pub active_hour: i64,
    /// Its events.
    pub count: EventCount,
}

/// An event type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventTypeRow {
    /// Its name.
    pub event_type: String,
    /// When its first event happened.
    pub first_seen: Timestamp,
    /// When its last event happened.
    pub last_seen: Timestamp,
    /// Its events.
    pub count: EventCount,
}

/// What was seen of types, by their names.
type ActivityByType = BTreeMap<String, Activity>;

impl Activity {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            first_seen: row.get("first_seen")?,
            last_seen: row.get("last_seen")?,
            count: EventCount { events: row.get("events")?, bytes: row.get("bytes")? },
        })
    }
}

impl Store {
    /// An organisation's accounts, by the hour of their last event, the latest first. The latest events, which are not
    /// folded yet, are not in it.
    pub async fn accounts(
        &self,
        org: OrgId,
        after: Option<&LabelCursor>,
        limit: u32,
    ) -> Result<LabelPage<AccountRow>> {
        // No label sorts behind this one.
        let (hour, label) =
            after.map_or((i64::MAX, "\u{10ffff}"), |after| (after.number, after.label.as_str()));
        let sql =
            "SELECT account_id, first_seen, last_seen, active_hour, events, bytes FROM accounts
                   WHERE org_id = $1 AND (active_hour, account_id) < ($2, $3)
                   ORDER BY active_hour DESC, account_id DESC LIMIT $4";
        let read = |row: &Row| {
            let Activity { first_seen, last_seen, count } = Activity::read(row)?;
            let (account_id, active_hour) = (row.get("account_id")?, row.get("active_hour")?);
            Ok(AccountRow { account_id, first_seen, last_seen, active_hour, count })
        };
        let rows = self.engine.list(sql, args![org, hour, label, limit + 1], read).await?;
        Ok(LabelPage::from_rows(rows, limit, |row: &AccountRow| {
            LabelCursor::new(row.active_hour, row.account_id.as_str())
        }))
    }

    /// The ids of an organisation's accounts that were active last, and of those that are not folded yet,
    /// [`ACCOUNTS_SAMPLED_FROM`] of each at most.
    pub async fn recent_accounts(&self, org: OrgId) -> Result<Vec<String>> {
        let sql = "SELECT account_id, CAST(NULL AS bytea) AS body
                   FROM (SELECT account_id FROM accounts WHERE org_id = $1
                         ORDER BY active_hour DESC, account_id DESC LIMIT $2) a
                   UNION ALL
                   SELECT NULL, body
                   FROM (SELECT body FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $3) d";
        let args = args![org, ACCOUNTS_SAMPLED_FROM, DELTAS_READ_MAX];
        let add = |found: &mut BTreeSet<String>, row: &Row| {
            found.extend(row.get_opt::<String>("account_id")?);
            let body = row.get_opt::<Vec<u8>>("body")?.unwrap_or_default();
            read_records(&body, |record| {
                if let DeltaRecord::Event(event) = record
                    && found.len() < 2 * ACCOUNTS_SAMPLED_FROM as usize
                {
                    found.extend(event.account_id.map(str::to_owned));
                }
            })
        };
        let found = self.engine.fold(sql, args, BTreeSet::new(), add).await?;
        Ok(found.into_iter().collect())
    }

    /// An organisation's event types, by name.
    pub async fn event_types(
        &self,
        org: OrgId,
        after: Option<&str>,
        limit: u32,
    ) -> Result<GroupPage<EventTypeRow>> {
        let sql = "SELECT event_type, first_seen, last_seen, events, bytes,
                          CAST(NULL AS bytea) AS body
                   FROM (SELECT * FROM event_types WHERE org_id = $1 AND event_type > $2
                         ORDER BY event_type LIMIT $3) t
                   UNION ALL
                   SELECT NULL, NULL, NULL, NULL, NULL, body
                   FROM (SELECT body FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $4) d";
        let after = after.unwrap_or_default();
        let args = args![org, after, limit + 1, DELTAS_READ_MAX];
        let add = |(found, new, deltas): &mut (ActivityByType, ActivityByType, usize),
                   row: &Row| {
            if let Some(event_type) = row.get_opt("event_type")? {
                found.insert(event_type, Activity::read(row)?);
                return Ok(());
            }
            *deltas += 1;
            read_records(&row.get::<Vec<u8>>("body")?, |record| {
                if let DeltaRecord::Event(event) = record
                    && event.event_type > after
                {
                    add_type(new, event.event_type, &Activity::once(&event), limit as usize + 1);
                }
            })
        };
        let (mut found, new, deltas) = self
            .engine
            .fold(sql, args, (ActivityByType::new(), ActivityByType::new(), 0), add)
            .await?;
        // Those behind the rows that were read may have rows of their own.
        let last =
            if found.len() > limit as usize { found.keys().next_back().cloned() } else { None };
        for (event_type, activity) in new {
            if last.as_ref().is_none_or(|last| event_type <= *last) {
                found
                    .entry(event_type)
                    .and_modify(|known| known.merge(&activity))
                    .or_insert(activity);
            }
        }
        let row = |(event_type, Activity { first_seen, last_seen, count })| EventTypeRow {
            event_type,
            first_seen,
            last_seen,
            count,
        };
        let rows = found.into_iter().map(row).collect();
        let page = LabelPage::from_rows(rows, limit, |row: &EventTypeRow| {
            LabelCursor::new(0, row.event_type.as_str())
        });
        Ok(GroupPage { page, is_behind: deltas >= DELTAS_READ_MAX })
    }
}

/// Adds the activity of a type to those of the first `max` types by name: the others are on further pages.
fn add_type(types: &mut ActivityByType, event_type: &str, activity: &Activity, max: usize) {
    if let Some(known) = types.get_mut(event_type) {
        return known.merge(activity);
    }
    if types.len() >= max {
        if types.last_key_value().is_some_and(|(last, _)| event_type > last.as_str()) {
            return;
        }
        types.pop_last();
    }
    types.insert(event_type.to_owned(), *activity);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_types_by_name_are_held_alone_in_whichever_order_they_come() {
        let mut types = ActivityByType::new();
        let at = Timestamp::from_micros(0);
        let count = EventCount { events: 1, bytes: 2 };
        let once = Activity { first_seen: at, last_seen: at, count };
        for number in (0..100).rev().chain(0..100) {
            add_type(&mut types, &format!("t{number:02}"), &once, 3);
            assert!(types.len() <= 3);
        }
        let events: Vec<_> =
            types.iter().map(|(name, activity)| (name.as_str(), activity.count.events)).collect();
        assert_eq!(events, [("t00", 2), ("t01", 2), ("t02", 2)]);
    }
}
