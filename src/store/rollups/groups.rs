//! Event metrics by account and by endpoint: pages of groups, each with its counts of a window.

use std::collections::BTreeMap;

use super::DELTAS_READ_MAX;
use super::delivery_hour::DeliveryCounts;
use super::delta::{DeltaRecord, OutcomeRecord, read_labelled, read_records};
use super::event_hour::{EventCount, read_type_minutes};
use super::type_outcomes::{OutcomesByType, add_outcomes};
use crate::domain::{EndpointId, LabelCursor, LabelPage, MinuteSpan, OrgId};
use crate::store::engine::{Row, args};
use crate::store::{Result, Store};
use uuid::Uuid;

/// Accounts or endpoints on a page at most: each reads its hours.
pub const GROUPS_PER_PAGE: u32 = 100;

/// A page of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPage<T> {
    /// The groups.
    pub page: LabelPage<T>,
    /// Whether so much waits to be folded that the latest events or outcomes were left out.
    pub is_behind: bool,
}

/// An account's events in a window, and how their deliveries ended in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountGroup {
    /// The account.
    pub account_id: String,
    /// Its events.
    pub count: EventCount,
    /// The outcomes of its events, of all types.
    pub deliveries: DeliveryCounts,
    /// The hour of its last event, by which the groups are listed.
    active_hour: i64,
}

/// An endpoint's outcomes in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointGroup {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Its outcomes.
    pub deliveries: DeliveryCounts,
}

/// An endpoint's outcomes in some windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointWindow {
    /// The outcomes of each window.
    pub windows: Vec<DeliveryCounts>,
    /// Whether so much waits to be folded that the latest outcomes were left out.
    pub is_behind: bool,
}

/// The groups of a page, and how many deltas were added.
type GroupSums<K, V> = (BTreeMap<K, V>, usize);

/// The accounts of a page, the sums of the hours that are wholly in the window, those of its edges, and the outcomes of
/// both.
const ACCOUNT_GROUPS: &str = "WITH page AS MATERIALIZED (
        SELECT account_id, active_hour FROM accounts
        WHERE org_id = $1 AND (active_hour, account_id) < ($2, $3) AND active_hour >= $4
        ORDER BY active_hour DESC, account_id DESC LIMIT $5
    )
    SELECT 'account' AS part, account_id, active_hour AS number, CAST(0 AS bigint) AS bytes,
           CAST(NULL AS bytea) AS totals, CAST(NULL AS bytea) AS minutes
    FROM page
    UNION ALL
    SELECT 'sum', h.account_id, CAST(sum(h.events) AS bigint), CAST(sum(h.bytes) AS bigint),
           NULL, NULL
    FROM page p CROSS JOIN rollup_hours h
    WHERE h.org_id = $1 AND h.account_id = p.account_id AND h.hour > $6 AND h.hour < $7
    GROUP BY h.account_id
    UNION ALL
    SELECT 'edge', h.account_id, h.hour, 0, h.totals, h.minutes
    FROM page p CROSS JOIN rollup_hours h
    WHERE h.org_id = $1 AND h.account_id = p.account_id AND (h.hour = $6 OR h.hour = $7)
    UNION ALL
    SELECT 'outcomes', h.account_id, h.hour, 0, h.outcome_totals,
           CASE WHEN h.hour = $6 OR h.hour = $7 THEN h.outcome_minutes END
    FROM page p CROSS JOIN rollup_hours h
    WHERE h.org_id = $1 AND h.account_id = p.account_id AND h.hour >= $6 AND h.hour <= $7
      AND h.outcome_totals IS NOT NULL
    UNION ALL
    SELECT 'delta', NULL, NULL, 0, body, labels
    FROM (SELECT body, labels FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $8) d";

impl Store {
    /// A page of an organisation's accounts that have sent anything in a window, or whose deliveries ended in it, those
    /// that were active last first. It may be shorter, also empty: accounts that were active before and after the window,
    /// but not in it, are left out, and so are those that have sent nothing since it began.
    pub async fn account_groups(
        &self,
        org: OrgId,
        span: MinuteSpan,
        after: Option<&LabelCursor>,
        limit: u32,
    ) -> Result<GroupPage<AccountGroup>> {
        let limit = limit.min(GROUPS_PER_PAGE);
        let (hour, label) =
            after.map_or((i64::MAX, "\u{10ffff}"), |after| (after.number, after.label.as_str()));
        let (first, last) = (span.hours().start, span.hours().end - 1);
        let args = args![org, hour, label, first, limit + 1, first, last, DELTAS_READ_MAX];
        let add = |(groups, deltas): &mut GroupSums<String, AccountGroup>, row: &Row| {
            let part: String = row.get("part")?;
            if part == "delta" {
                *deltas += 1;
                return add_account_delta(groups, row, span);
            }
            let (account_id, number): (String, i64) = (row.get("account_id")?, row.get("number")?);
            let of_account = groups.entry(account_id.clone()).or_insert_with(|| AccountGroup {
                account_id,
                count: EventCount::default(),
                deliveries: DeliveryCounts::default(),
                active_hour: number,
            });
            match part.as_str() {
                "sum" => of_account
                    .count
                    .add(EventCount { events: row.get("number")?, bytes: row.get("bytes")? }),
                "edge" => of_account.count.add(edge_count(row, span)?),
                "outcomes" => add_type_outcomes(&mut of_account.deliveries, row, span)?,
                _ => {}
            }
            Ok(())
        };
        let (groups, deltas) =
            self.engine.fold(ACCOUNT_GROUPS, args, GroupSums::default(), add).await?;
        let mut rows: Vec<_> = groups.into_values().collect();
        rows.sort_by(|one, other| {
            let key = |group: &AccountGroup| (group.active_hour, group.account_id.clone());
            key(other).cmp(&key(one))
        });
        let position =
            |row: &AccountGroup| LabelCursor::new(row.active_hour, row.account_id.as_str());
        let mut page = LabelPage::from_rows(rows, limit, position);
        page.data.retain(|group| {
            group.count.events > 0 || group.deliveries != DeliveryCounts::default()
        });
        Ok(GroupPage { page, is_behind: deltas >= DELTAS_READ_MAX })
    }

    /// A page of an organisation's endpoints by their ids, with the outcomes of a window.
    pub async fn endpoint_groups(
        &self,
        org: OrgId,
        span: MinuteSpan,
        after: Option<EndpointId>,
        limit: u32,
    ) -> Result<GroupPage<EndpointGroup>> {
        let limit = limit.min(GROUPS_PER_PAGE);
        let sql = "WITH page AS MATERIALIZED (
                SELECT id FROM endpoints WHERE org_id = $1 AND id > $2 AND removed_at IS NULL
                ORDER BY id LIMIT $3
            )
            SELECT 'endpoint' AS part, id, CAST(NULL AS bigint) AS hour,
                   CAST(NULL AS bytea) AS totals, CAST(NULL AS bytea) AS minutes
            FROM page
            UNION ALL
            SELECT 'hour', p.id, h.hour, h.totals,
                   CASE WHEN h.hour = $6 OR h.hour = $7 THEN h.minutes END
            FROM page p CROSS JOIN rollup_delivery_hours h
            WHERE h.org_id = $1 AND h.endpoint_id = p.id AND h.hour >= $4 AND h.hour < $5
            UNION ALL
            SELECT 'delta', NULL, NULL, body, NULL
            FROM (SELECT body FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $8) d";
        let hours = span.hours();
        let (first, last) = (hours.start, hours.end - 1);
        let after = after.map_or(Uuid::nil(), EndpointId::uuid);
        let args =
            args![org, after, limit + 1, hours.start, hours.end, first, last, DELTAS_READ_MAX];
        let add = |(groups, deltas): &mut GroupSums<Uuid, DeliveryCounts>, row: &Row| {
            let part: String = row.get("part")?;
            if part == "delta" {
                *deltas += 1;
                return new_outcomes(row, span, |endpoint, outcome| {
                    if let Some(counts) = groups.get_mut(&endpoint.uuid()) {
                        counts.count(outcome);
                    }
                });
            }
            let counts = groups.entry(row.get("id")?).or_default();
            if part == "hour" { add_delivery_hour(counts, row, span) } else { Ok(()) }
        };
        let (groups, deltas) = self.engine.fold(sql, args, GroupSums::default(), add).await?;
        let group =
            |(id, deliveries)| EndpointGroup { endpoint_id: EndpointId::from_uuid(id), deliveries };
        let rows = groups.into_iter().map(group).collect();
        let page = LabelPage::from_rows(rows, limit, |group: &EndpointGroup| {
            LabelCursor::new(0, group.endpoint_id.to_string())
        });
        Ok(GroupPage { page, is_behind: deltas >= DELTAS_READ_MAX })
    }

    /// The outcomes of an endpoint in some windows, of which `longest` has all.
    pub async fn endpoint_windows(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        longest: MinuteSpan,
        windows: &[MinuteSpan],
    ) -> Result<EndpointWindow> {
        let sql = "SELECT 'hour' AS part, hour, totals, minutes FROM rollup_delivery_hours
                   WHERE org_id = $1 AND endpoint_id = $2 AND hour >= $3 AND hour < $4
                   UNION ALL
                   SELECT 'delta', NULL, body, NULL
                   FROM (SELECT body FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $5) d";
        let hours = longest.hours();
        let args = args![org, endpoint, hours.start, hours.end, DELTAS_READ_MAX];
        let initial = (vec![DeliveryCounts::default(); windows.len()], 0);
        let add = |(found, deltas): &mut (Vec<DeliveryCounts>, usize), row: &Row| {
            let is_delta = row.get::<String>("part")? == "delta";
            *deltas += usize::from(is_delta);
            for (counts, window) in found.iter_mut().zip(windows) {
                if is_delta {
                    new_outcomes(row, *window, |id, outcome| {
                        if id == endpoint {
                            counts.count(outcome);
                        }
                    })?;
                } else if window.hours().contains(&row.get("hour")?) {
                    add_delivery_hour(counts, row, *window)?;
                }
            }
            Ok(())
        };
        let (found, deltas) = self.engine.fold(sql, args, initial, add).await?;
        Ok(EndpointWindow { windows: found, is_behind: deltas >= DELTAS_READ_MAX })
    }
}

/// The events of an hour at the edge of a window.
fn edge_count(row: &Row, span: MinuteSpan) -> Result<EventCount> {
    let (totals, minutes): (Vec<u8>, Vec<u8>) = (row.get("totals")?, row.get("minutes")?);
    let part = span.part_of(row.get("number")?).unwrap_or(0..60);
    let mut sum = EventCount::default();
    read_type_minutes(&totals, &minutes, None, |minute, count| {
        if part.contains(&minute) {
            sum.add(count);
        }
    })?;
    Ok(sum)
}

/// Adds what is not folded yet to the accounts of a page.
fn add_account_delta(
    groups: &mut BTreeMap<String, AccountGroup>,
    row: &Row,
    span: MinuteSpan,
) -> Result<()> {
    let (body, labels): (Vec<u8>, Option<Vec<u8>>) = (row.get("totals")?, row.get_opt("minutes")?);
    read_labelled(&body, labels.as_deref(), |record, labels| {
        let (account, at) = match &record {
            DeltaRecord::Event(event) => (event.account_id, event.at()),
            DeltaRecord::Outcome(outcome) => {
                (labels.and_then(|labels| labels.account_id), outcome.at())
            }
        };
        let Some(group) = account.filter(|_| span.has(at)).and_then(|id| groups.get_mut(id)) else {
            return;
        };
        match record {
            DeltaRecord::Event(event) => group.count.add(event.count()),
            DeltaRecord::Outcome(outcome) => group.deliveries.count_result(&outcome),
        }
    })
}

/// Adds the outcomes of an account's hour, of all types.
fn add_type_outcomes(counts: &mut DeliveryCounts, row: &Row, span: MinuteSpan) -> Result<()> {
    let totals: Vec<u8> = row.get("totals")?;
    let minutes: Vec<u8> = row.get_opt("minutes")?.unwrap_or_default();
    let mut by_type = OutcomesByType::new();
    add_outcomes(&mut by_type, &totals, &minutes, span.part_of(row.get("number")?).as_ref())?;
    for of_type in by_type.values() {
        counts.merge(of_type);
    }
    Ok(())
}

fn add_delivery_hour(counts: &mut DeliveryCounts, row: &Row, span: MinuteSpan) -> Result<()> {
    match span.part_of(row.get("hour")?) {
        None => counts.add_hour(&row.get::<Vec<u8>>("totals")?),
        Some(part) => counts.add_minutes(&row.get::<Vec<u8>>("minutes")?, &part),
    }
}

/// Calls `each` with outcomes of a window that are not folded yet.
fn new_outcomes(
    row: &Row,
    span: MinuteSpan,
    mut each: impl FnMut(EndpointId, &OutcomeRecord),
) -> Result<()> {
    read_records(&row.get::<Vec<u8>>("totals")?, |record| {
        if let DeltaRecord::Outcome(outcome) = record
            && span.has(outcome.at())
        {
            each(outcome.endpoint(), &outcome);
        }
    })
}
