//! Counts of a window: of an account, or of a whole organisation.

use std::collections::BTreeMap;

use super::DELTAS_READ_MAX;
use super::delivery_hour::DeliveryCounts;
use super::delta::{DeltaRecord, EventRecord, OutcomeRecord, read_labelled};
use super::event_hour::{OTHER_TYPES, entry};
use super::folded::{ALL_ACCOUNTS, Activity};
use super::labels::OutcomeLabels;
use super::type_outcomes::add_outcomes;
use super::window_counts::{WindowCounts, keep_most};
use crate::domain::{MinuteSpan, OrgId, Timestamp};
use crate::store::engine::{Row, args};
use crate::store::{Result, Store};

/// What an account, or an organisation, has sent in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedWindow {
    /// The counts.
    pub counts: WindowCounts,
    /// Outcomes by type, where they were asked for.
    pub outcomes: BTreeMap<String, DeliveryCounts>,
    /// When the account's first and last events happened, in the window or not; `None` for an organisation.
    pub seen: Option<(Timestamp, Timestamp)>,
    /// Whether so much waits to be folded that the latest events were left out.
    pub is_behind: bool,
}

/// The first row has every column with its type: PostgreSQL takes those of the rest from it.
const SQL: &str = "SELECT 'account' AS part, CAST(NULL AS bigint) AS hour,
           CAST(NULL AS bytea) AS totals, CAST(NULL AS bytea) AS minutes,
           CAST(NULL AS bytea) AS outcome_totals, CAST(NULL AS bytea) AS outcome_minutes,
           first_seen, last_seen
    FROM accounts WHERE org_id = $1 AND account_id = $2
    UNION ALL
    SELECT 'hour', hour, totals, CASE WHEN hour = $5 OR hour = $6 THEN minutes END,
           CASE WHEN $8 THEN outcome_totals END,
           CASE WHEN $8 AND (hour = $5 OR hour = $6) THEN outcome_minutes END, NULL, NULL
    FROM rollup_hours WHERE org_id = $1 AND account_id = $2 AND hour >= $3 AND hour < $4
    UNION ALL
    SELECT 'delta', NULL, body, labels, NULL, NULL, NULL, NULL
    FROM (SELECT body, labels FROM rollup_deltas WHERE org_id = $1 ORDER BY id LIMIT $7) d";

/// Types of a window whose outcomes are counted by name, each with two histograms.
const TYPES_WITH_OUTCOMES_MAX: usize = 5_000;

/// What is counted in a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WindowParts {
    Events,
    /// Also how deliveries ended, by the types of their events.
    EventsAndOutcomes,
}

/// What a window is put together from.
#[derive(Clone)]
struct WindowReading<'a> {
    account: &'a str,
    span: MinuteSpan,
    parts: WindowParts,
    window: CountedWindow,
}

impl Store {
    /// What an account has sent in a window; `None` for an account that was never seen.
    pub async fn account_window(
        &self,
        org: OrgId,
        account: &str,
        span: MinuteSpan,
    ) -> Result<Option<CountedWindow>> {
        let window = self.counted_window(org, account, span, WindowParts::Events).await?;
        Ok(Some(window).filter(|window| window.seen.is_some()))
    }

    /// What an organisation, or an account of it, has sent in a window, and how deliveries ended in it, by type. Of the
    /// users of an organisation's accounts it says nothing.
    pub async fn types_window(
        &self,
        org: OrgId,
        account: Option<&str>,
        span: MinuteSpan,
    ) -> Result<CountedWindow> {
        let account = account.unwrap_or(ALL_ACCOUNTS);
        self.counted_window(org, account, span, WindowParts::EventsAndOutcomes).await
    }

    async fn counted_window(
        &self,
        org: OrgId,
        account: &str,
        span: MinuteSpan,
        parts: WindowParts,
    ) -> Result<CountedWindow> {
        let hours = span.hours();
        let (first, last) = (hours.start, hours.end - 1);
        let mut args = args![org, account, hours.start, hours.end, first, last, DELTAS_READ_MAX];
        args.extend(args![parts == WindowParts::EventsAndOutcomes]);
        let window = CountedWindow {
            counts: WindowCounts::default(),
            outcomes: BTreeMap::new(),
            seen: None,
            is_behind: false,
        };
        // Row by row: an hour takes up to half a megabyte.
        let initial = (WindowReading { account, span, parts, window }, 0);
        let add = |(reading, deltas): &mut (WindowReading<'_>, usize), row: &Row| match row
            .get::<String>("part")?
            .as_str()
        {
            "account" => {
                let times = (row.get("first_seen")?, row.get("last_seen")?);
                merge(&mut reading.window.seen, times);
                Ok(())
            }
            "hour" => reading.add_hour(row),
            _ => {
                *deltas += 1;
                reading.add_delta(row)
            }
        };
        let (reading, deltas) = self.engine.fold(SQL, args, initial, add).await?;
        Ok(CountedWindow { is_behind: deltas >= DELTAS_READ_MAX, ..reading.window })
    }
}

impl WindowReading<'_> {
    fn add_hour(&mut self, row: &Row) -> Result<()> {
        let totals: Vec<u8> = row.get("totals")?;
        let part = self.span.part_of(row.get("hour")?);
        let CountedWindow { counts, outcomes, .. } = &mut self.window;
        match &part {
            None => counts.add_hour(&totals)?,
            Some(part) => counts.add_minutes(&totals, &row.get::<Vec<u8>>("minutes")?, part)?,
        }
        let Some(totals) = row.get_opt::<Vec<u8>>("outcome_totals")? else { return Ok(()) };
        let minutes: Vec<u8> = row.get_opt("outcome_minutes")?.unwrap_or_default();
        add_outcomes(outcomes, &totals, &minutes, part.as_ref())?;
        limit_outcomes(outcomes);
        Ok(())
    }

    /// Adds what is not folded yet.
    fn add_delta(&mut self, row: &Row) -> Result<()> {
        let (body, labels): (Vec<u8>, Option<Vec<u8>>) =
            (row.get("totals")?, row.get_opt("minutes")?);
        read_labelled(&body, labels.as_deref(), |record, labels| match record {
            DeltaRecord::Event(event) => self.add_event(&event),
            DeltaRecord::Outcome(outcome) => self.add_outcome(&outcome, labels),
        })?;
        let CountedWindow { counts, outcomes, .. } = &mut self.window;
        counts.limit();
        limit_outcomes(outcomes);
        Ok(())
    }

    fn add_event(&mut self, event: &EventRecord<'_>) {
        let is_in = self.span.has(event.at());
        let CountedWindow { counts, seen, .. } = &mut self.window;
        if self.account == ALL_ACCOUNTS {
            if is_in {
                counts.add_event(event, None);
            }
        } else if event.account_id == Some(self.account) {
            let once = Activity::once(event);
            merge(seen, (once.first_seen, once.last_seen));
            if is_in {
                counts.add_event(event, event.user_id);
            }
        }
    }

    fn add_outcome(&mut self, outcome: &OutcomeRecord, labels: Option<OutcomeLabels<'_>>) {
        let Some(OutcomeLabels { event_type, account_id }) = labels else { return };
        let is_of = self.account == ALL_ACCOUNTS || account_id == Some(self.account);
        if self.parts == WindowParts::EventsAndOutcomes && is_of && self.span.has(outcome.at()) {
            self.window.outcomes.entry(event_type.to_owned()).or_default().count_result(outcome);
        }
    }
}

/// Sums up the types with the fewest outcomes where there are too many.
fn limit_outcomes(outcomes: &mut BTreeMap<String, DeliveryCounts>) {
    let mut other = DeliveryCounts::default();
    let number = |counts: &DeliveryCounts| counts.delivered + counts.dead + counts.failed_attempts;
    keep_most(outcomes, TYPES_WITH_OUTCOMES_MAX, number, |counts| other.merge(counts));
    if other != DeliveryCounts::default() {
        entry(outcomes, OTHER_TYPES).merge(&other);
    }
}

fn merge(seen: &mut Option<(Timestamp, Timestamp)>, (first, last): (Timestamp, Timestamp)) {
    let known = seen.unwrap_or((first, last));
    *seen = Some((known.0.min(first), known.1.max(last)));
}
