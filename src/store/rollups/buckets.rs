//! Event metrics over time: counts per minute, hour or day, newest first.

use std::collections::BTreeMap;

use super::DELTAS_READ_MAX;
use super::delivery_hour::{DeliveryCounts, read_minutes};
use super::delta::{DeltaRecord, read_labelled};
use super::event_hour::{EventCount, read_type_minutes};
use super::folded::{ALL_ACCOUNTS, ALL_ENDPOINTS, ALL_ORGS};
use super::labels::OutcomeLabels;
use super::type_outcomes::{decode_totals, read_outcome_minutes};
use crate::domain::{HOUR_MINUTES, MinuteSpan, OrgId, minute_of};
use crate::store::engine::{Row, args};
use crate::store::{Result, Store};

/// Rows of hours that a page of minutes reads at most, and one of hours that looks for a type.
const HOURS_PER_PAGE: u32 = 64;
const HOURS_PER_TYPE_PAGE: u32 = 256;
/// Days on a page at most.
pub const DAYS_PER_PAGE: u32 = 100;

/// The length of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BucketUnit {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day in UTC.
    Day,
}

/// Whose events are counted.
#[derive(Clone, Debug)]
pub struct MetricsScope {
    /// Of this organisation; `None` for all of them.
    pub org: Option<OrgId>,
    /// Of this account.
    pub account_id: Option<String>,
    /// Of this type.
    pub event_type: Option<String>,
}

/// A bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeBucket {
    /// Events that happened in it.
    pub count: EventCount,
    /// Outcomes that were recorded in it.
    pub deliveries: DeliveryCounts,
}

/// A page of buckets.
#[derive(Clone, Debug, Default)]
pub struct BucketPage {
    /// Buckets with something in them by their first minute, newest first.
    pub buckets: Vec<(i64, TimeBucket)>,
    /// Where the next page ends: this minute is not part of it.
    pub next: Option<i64>,
    /// Whether so much waits to be folded that the latest events were left out.
    pub is_behind: bool,
}

impl BucketUnit {
    const fn minutes(self) -> i64 {
        match self {
            Self::Minute => 1,
            Self::Hour => HOUR_MINUTES,
            Self::Day => 24 * HOUR_MINUTES,
        }
    }

    const fn start_of(self, minute: i64) -> i64 {
        minute - minute.rem_euclid(self.minutes())
    }
}

impl MetricsScope {
    fn org(&self) -> OrgId {
        self.org.unwrap_or(ALL_ORGS)
    }

    fn account(&self) -> &str {
        self.account_id.as_deref().unwrap_or(ALL_ACCOUNTS)
    }

    /// Whether it is a part of an organisation. Outcomes of one are counted with the events, those of the whole by
    /// endpoint.
    const fn is_filtered(&self) -> bool {
        self.account_id.is_some() || self.event_type.is_some()
    }

    /// Whether events of this account and type are counted in it.
    fn has(&self, account_id: Option<&str>, event_type: &str) -> bool {
        self.account_id.as_deref().is_none_or(|wanted| Some(wanted) == account_id)
            && self.event_type.as_deref().is_none_or(|wanted| wanted == event_type)
    }
}

/// What a page is put together from.
#[derive(Clone)]
struct BucketReading<'a> {
    scope: &'a MetricsScope,
    unit: BucketUnit,
    window: MinuteSpan,
    /// The newest buckets, one more than the page shows: what is older is on another page.
    buckets: BTreeMap<i64, TimeBucket>,
    buckets_max: usize,
    events: HoursRead,
    outcomes: HoursRead,
    deltas: usize,
}

/// The hours that were read from a table, newest first.
#[derive(Clone, Copy)]
struct HoursRead {
    rows: u32,
    oldest: i64,
}

impl Store {
    /// A page of at most `limit` buckets of a window. It may be shorter, also empty, when much of the window has
    /// nothing to show.
    pub async fn buckets(
        &self,
        scope: &MetricsScope,
        unit: BucketUnit,
        span: MinuteSpan,
        limit: u32,
    ) -> Result<BucketPage> {
        if span.minutes() <= 0 {
            return Ok(BucketPage::default());
        }
        let limit = if unit == BucketUnit::Day { limit.min(DAYS_PER_PAGE) } else { limit };
        let rows_max = match unit {
            BucketUnit::Minute if scope.event_type.is_none() => HOURS_PER_PAGE.min(limit + 1),
            BucketUnit::Minute => HOURS_PER_PAGE,
            BucketUnit::Hour if scope.event_type.is_none() => limit + 1,
            BucketUnit::Hour => HOURS_PER_TYPE_PAGE.max(limit + 1),
            BucketUnit::Day => 24 * (limit + 1),
        };
        let reading = self.read_buckets(scope, unit, span, (limit, rows_max)).await?;
        Ok(reading.page(limit, rows_max))
    }

    async fn read_buckets<'a>(
        &self,
        scope: &'a MetricsScope,
        unit: BucketUnit,
        span: MinuteSpan,
        (limit, rows_max): (u32, u32),
    ) -> Result<BucketReading<'a>> {
        let of_org = if scope.org.is_some() { "org_id = $1" } else { "true" };
        let sql = format!(
            "SELECT 'events' AS part, hour, events, bytes,
                    CASE WHEN $6 OR hour = $7 OR hour = $8 THEN totals END AS totals,
                    CASE WHEN $6 OR hour = $7 OR hour = $8 THEN minutes END AS minutes,
                    CASE WHEN NOT $10 THEN outcome_totals END AS outcome_totals,
                    CASE WHEN NOT $10 AND ($12 OR hour = $7 OR hour = $8)
                        THEN outcome_minutes END AS outcome_minutes
             FROM (SELECT * FROM rollup_hours
                   WHERE org_id = $1 AND account_id = $2 AND hour >= $3 AND hour < $4
                   ORDER BY hour DESC LIMIT $5) h
             UNION ALL
             SELECT 'outcomes', hour, 0, 0, totals,
                    CASE WHEN $12 OR hour = $7 OR hour = $8 THEN minutes END, NULL, NULL
             FROM (SELECT * FROM rollup_delivery_hours
                   WHERE org_id = $1 AND endpoint_id = $9 AND hour >= $3 AND hour < $4 AND $10
                   ORDER BY hour DESC LIMIT $5) d
             UNION ALL
             SELECT 'delta', NULL, NULL, NULL, body, labels, NULL, NULL
             FROM (SELECT body, labels FROM rollup_deltas WHERE {of_org} ORDER BY id LIMIT $11) d"
        );
        let hours = span.hours();
        let by_minute = unit == BucketUnit::Minute;
        let with_minutes = by_minute || scope.event_type.is_some();
        let args = args![
            scope.org(),
            scope.account(),
            hours.start,
            hours.end,
            rows_max,
            with_minutes,
            hours.start,
            hours.end - 1,
            ALL_ENDPOINTS,
            !scope.is_filtered(),
            DELTAS_READ_MAX,
            by_minute,
        ];
        let initial = BucketReading::new(scope, unit, span, limit);
        self.engine.fold(sql, args, initial, BucketReading::add_row).await
    }
}

impl HoursRead {
    const NONE: Self = Self { rows: 0, oldest: i64::MAX };

    fn add(&mut self, row: &Row) -> Result<()> {
        self.rows += 1;
        self.oldest = self.oldest.min(row.get("hour")?);
        Ok(())
    }

    /// From which minute on all were read: the last ones were cut off where there were too many.
    const fn complete_from(self, rows_max: u32) -> i64 {
        if self.rows < rows_max { i64::MIN } else { self.oldest.saturating_mul(HOUR_MINUTES) }
    }
}

impl<'a> BucketReading<'a> {
    fn new(scope: &'a MetricsScope, unit: BucketUnit, window: MinuteSpan, limit: u32) -> Self {
        Self {
            scope,
            unit,
            window,
            buckets: BTreeMap::new(),
            buckets_max: limit as usize + 1,
            events: HoursRead::NONE,
            outcomes: HoursRead::NONE,
            deltas: 0,
        }
    }

    fn add_row(&mut self, row: &Row) -> Result<()> {
        match row.get::<String>("part")?.as_str() {
            "events" => {
                self.events.add(row)?;
                self.add_events(row)?;
                self.add_type_outcomes(row)
            }
            "outcomes" => {
                self.outcomes.add(row)?;
                self.add_outcomes(row)
            }
            _ => {
                self.deltas += 1;
                let labels: Option<Vec<u8>> = row.get_opt("minutes")?;
                let body: Vec<u8> = row.get("totals")?;
                read_labelled(&body, labels.as_deref(), |delta, labels| {
                    self.add_delta(&delta, labels);
                })
            }
        }
    }

    /// The bucket of a minute, if it is among the newest of the window.
    fn bucket(&mut self, minute: i64) -> Option<&mut TimeBucket> {
        if minute < self.window.from || minute >= self.window.until {
            return None;
        }
        let start = self.unit.start_of(minute);
        if self.buckets.len() >= self.buckets_max && !self.buckets.contains_key(&start) {
            if self.buckets.first_key_value().is_some_and(|(oldest, _)| start < *oldest) {
                return None;
            }
            self.buckets.pop_first();
        }
        Some(self.buckets.entry(start).or_default())
    }

    fn add_events(&mut self, row: &Row) -> Result<()> {
        let hour: i64 = row.get("hour")?;
        let first = hour.saturating_mul(HOUR_MINUTES);
        let Some(minutes) = row.get_opt::<Vec<u8>>("minutes")? else {
            let count = EventCount { events: row.get("events")?, bytes: row.get("bytes")? };
            if let Some(bucket) = self.bucket(first) {
                bucket.count.add(count);
            }
            return Ok(());
        };
        let totals: Vec<u8> = row.get("totals")?;
        let event_type = self.scope.event_type.as_deref();
        read_type_minutes(&totals, &minutes, event_type, |minute, count| {
            let bucket = self.bucket(first + i64::from(minute));
            if let Some(bucket) = bucket {
                bucket.count.add(count);
            }
        })
    }

    fn add_outcomes(&mut self, row: &Row) -> Result<()> {
        let first = row.get::<i64>("hour")?.saturating_mul(HOUR_MINUTES);
        let Some(minutes) = row.get_opt::<Vec<u8>>("minutes")? else {
            let totals: Vec<u8> = row.get("totals")?;
            let added = self.bucket(first).map(|bucket| bucket.deliveries.add_hour(&totals));
            return added.unwrap_or(Ok(()));
        };
        for (minute, counts) in read_minutes(&minutes)? {
            if let Some(bucket) = self.bucket(first + i64::from(minute)) {
                bucket.deliveries.merge(&counts);
            }
        }
        Ok(())
    }

    /// Adds outcomes of an account or a type, which are beside its events.
    fn add_type_outcomes(&mut self, row: &Row) -> Result<()> {
        let Some(totals) = row.get_opt::<Vec<u8>>("outcome_totals")? else { return Ok(()) };
        let first = row.get::<i64>("hour")?.saturating_mul(HOUR_MINUTES);
        let wanted = self.scope.event_type.as_deref();
        let mut add = |minute: i64, name: &str, counts: &DeliveryCounts| {
            if wanted.is_none_or(|wanted| wanted == name)
                && let Some(bucket) = self.bucket(minute)
            {
                bucket.deliveries.merge(counts);
            }
        };
        let Some(minutes) = row.get_opt::<Vec<u8>>("outcome_minutes")? else {
            decode_totals(&totals)?.iter().for_each(|(name, counts)| add(first, name, counts));
            return Ok(());
        };
        read_outcome_minutes(&totals, &minutes, |name, minute, counts| {
            add(first + i64::from(minute), name, counts);
        })
    }

    /// Adds what is not folded yet.
    fn add_delta(&mut self, record: &DeltaRecord<'_>, labels: Option<OutcomeLabels<'_>>) {
        let scope = self.scope;
        match record {
            DeltaRecord::Event(event) => {
                if scope.has(event.account_id, event.event_type)
                    && let Some(bucket) = self.bucket(minute_of(event.at()))
                {
                    bucket.count.add(event.count());
                }
            }
            DeltaRecord::Outcome(outcome) => {
                let has =
                    |labels: OutcomeLabels<'_>| scope.has(labels.account_id, labels.event_type);
                if (!scope.is_filtered() || labels.is_some_and(has))
                    && let Some(bucket) = self.bucket(minute_of(outcome.at()))
                {
                    bucket.deliveries.count(outcome);
                }
            }
        }
    }

    /// The page.
    fn page(self, limit: u32, rows_max: u32) -> BucketPage {
        let Self { scope: _, unit, window, buckets, buckets_max: _, events, outcomes, deltas } =
            self;
        let cut_at = events.complete_from(rows_max).max(outcomes.complete_from(rows_max));
        let from = cut_at.max(window.from);
        // Where the hours were cut off, a bucket that began before is not complete.
        let is_complete = |start: &i64| *start >= from || from == window.from;
        let mut found: Vec<_> =
            buckets.into_iter().rev().filter(|(start, _)| is_complete(start)).collect();
        let mut next = (from > window.from).then(|| {
            let oldest = unit.start_of(from);
            if oldest < from { oldest + unit.minutes() } else { oldest }
        });
        if found.len() > limit as usize {
            found.truncate(limit as usize);
            next = found.last().map(|(start, _)| *start);
        }
        BucketPage { buckets: found, next, is_behind: deltas >= DELTAS_READ_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_buckets_are_held_alone_in_whichever_order_they_come() {
        let scope = MetricsScope { org: None, account_id: None, event_type: None };
        let window = MinuteSpan { from: 0, until: 1_000 };
        let mut reading = BucketReading::new(&scope, BucketUnit::Minute, window, 3);
        let once = EventCount { events: 1, bytes: 2 };
        for minute in (0..1_000).rev().chain(-5..1_005) {
            if let Some(bucket) = reading.bucket(minute) {
                bucket.count.add(once);
            }
            assert!(reading.buckets.len() <= 4);
        }
        let page = reading.page(3, 1);
        let counts: Vec<_> =
            page.buckets.iter().map(|(minute, bucket)| (*minute, bucket.count.events)).collect();
        assert_eq!((counts, page.next), (vec![(999, 2), (998, 2), (997, 2)], Some(997)));
    }
}
