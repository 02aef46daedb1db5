//! Counts of a window: of an account, or of a whole organisation.

use super::DELTAS_READ_MAX;
use super::delta::{DeltaRecord, read_records};
use super::event_hour::WindowCounts;
use super::folded::{ALL_ACCOUNTS, Activity};
use crate::domain::{MinuteSpan, OrgId, Timestamp};
use crate::store::engine::{Row, args};
use crate::store::{Result, Store};

/// What an account, or an organisation, has sent in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedWindow {
    /// The counts.
    pub counts: WindowCounts,
    /// When the account's first and last events happened, in the window or not; `None` for an organisation.
    pub seen: Option<(Timestamp, Timestamp)>,
    /// Whether so much waits to be folded that the latest events were left out.
    pub is_behind: bool,
}

/// The first row has every column with its type: PostgreSQL takes those of the rest from it.
const SQL: &str = "SELECT 'account' AS part, CAST(NULL AS bigint) AS hour,
           CAST(NULL AS bytea) AS totals, CAST(NULL AS bytea) AS minutes, first_seen, last_seen
    FROM accounts WHERE org_id = $1 AND account_id = $2
    UNION ALL
    SELECT 'hour', hour, totals, CASE WHEN hour = $5 OR hour = $6 THEN minutes END, NULL, NULL
    FROM rollup_hours WHERE org_id = $1 AND account_id = $2 AND hour >= $3 AND hour < $4
    UNION ALL
    SELECT 'delta', NULL, body, NULL, NULL, NULL
    FROM (SELECT body FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $7) d";

impl Store {
    /// What an account has sent in a window; `None` for an account that was never seen.
    pub async fn account_window(
        &self,
        org: OrgId,
        account: &str,
        span: MinuteSpan,
    ) -> Result<Option<CountedWindow>> {
        let window = self.counted_window(org, account, span).await?;
        Ok(Some(window).filter(|window| window.seen.is_some()))
    }

    /// What an organisation has sent in a window. Of the users of its accounts it says nothing.
    pub async fn org_window(&self, org: OrgId, span: MinuteSpan) -> Result<CountedWindow> {
        self.counted_window(org, ALL_ACCOUNTS, span).await
    }

    async fn counted_window(
        &self,
        org: OrgId,
        account: &str,
        span: MinuteSpan,
    ) -> Result<CountedWindow> {
        let hours = span.hours();
        let (first, last) = (hours.start, hours.end - 1);
        let args = args![org, account, hours.start, hours.end, first, last, DELTAS_READ_MAX];
        let (mut counts, mut seen, mut deltas) = (WindowCounts::default(), None, 0);
        for row in self.engine.all(SQL, args).await? {
            match row.get::<String>("part")?.as_str() {
                "account" => merge(&mut seen, (row.get("first_seen")?, row.get("last_seen")?)),
                "hour" => add_hour(&mut counts, span, &row)?,
                _ => {
                    deltas += 1;
                    let body: Vec<u8> = row.get("totals")?;
                    read_records(&body, |record| {
                        add_record(&mut counts, &mut seen, account, span, &record);
                    })?;
                }
            }
        }
        Ok(CountedWindow { counts, seen, is_behind: deltas >= DELTAS_READ_MAX })
    }
}

fn add_hour(counts: &mut WindowCounts, span: MinuteSpan, row: &Row) -> Result<()> {
    let totals: Vec<u8> = row.get("totals")?;
    match span.part_of(row.get("hour")?) {
        None => counts.add_hour(&totals),
        Some(part) => counts.add_minutes(&totals, &row.get::<Vec<u8>>("minutes")?, &part),
    }
}

/// Adds what is not folded yet.
fn add_record(
    counts: &mut WindowCounts,
    seen: &mut Option<(Timestamp, Timestamp)>,
    account: &str,
    span: MinuteSpan,
    record: &DeltaRecord<'_>,
) {
    let DeltaRecord::Event(event) = record else { return };
    if account == ALL_ACCOUNTS {
        if span.has(event.at()) {
            counts.add_event(event, None);
        }
    } else if event.account_id == Some(account) {
        let once = Activity::once(event);
        merge(seen, (once.first_seen, once.last_seen));
        if span.has(event.at()) {
            counts.add_event(event, event.user_id);
        }
    }
}

fn merge(seen: &mut Option<(Timestamp, Timestamp)>, (first, last): (Timestamp, Timestamp)) {
    let known = seen.unwrap_or((first, last));
    *seen = Some((known.0.min(first), known.1.max(last)));
}
