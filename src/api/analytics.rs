//! Event metrics and usage, from the rollups.

use std::collections::BTreeSet;
use std::time::Duration;

use super::endpoints;
use super::reach::CallerReach;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{DeliveryStats, EndpointStats, EventMetrics, MetricsRow, UsageView};
use crate::domain::{
    EndpointId, EventType, HOUR_MINUTES, LabelCursor, LabelPage, MetricsGroup, MinuteSpan, Month,
    OrgId, Timestamp, Violation, minute_of,
};
use crate::store::{BucketUnit, CountedWindow, DeliveryCounts, GroupPage, MetricsScope, Store};

/// The longest window of counts over time, and of others.
const DAYS_OVER_TIME_MAX: u32 = 366;
const DAYS_MAX: u32 = 31;
/// The window of metrics that are asked for without one.
const WINDOW: Duration = Duration::from_hours(24);

/// Which event metrics are asked for.
#[derive(Clone, Debug)]
pub struct MetricsRequest {
    /// By what they are grouped.
    pub group_by: MetricsGroup,
    /// From this time on; by default 24 hours before `to`.
    pub from: Option<Timestamp>,
    /// Before this time; by default until now.
    pub to: Option<Timestamp>,
    /// Only of this type.
    pub event_type: Option<EventType>,
    /// Only of this account.
    pub account_id: Option<String>,
    /// Groups behind this one.
    pub after: Option<LabelCursor>,
    /// Groups at most.
    pub limit: u32,
}

/// A page of groups, and whether it is approximate.
type Groups = (LabelPage<MetricsRow>, bool);

impl MetricsRequest {
    /// When its window begins and ends.
    fn window(&self, now: Timestamp) -> Result<(Timestamp, Timestamp), Violation> {
        let to = self.to.unwrap_or(now);
        let from = self.from.unwrap_or(to.minus(WINDOW));
        let days = if self.is_over_time() { DAYS_OVER_TIME_MAX } else { DAYS_MAX };
        check_window(from, to, days)?;
        Ok((from, to))
    }

    /// Whether it counts over time.
    const fn is_over_time(&self) -> bool {
        matches!(self.group_by, MetricsGroup::Minute | MetricsGroup::Hour | MetricsGroup::Day)
    }

    /// What an operator may ask for: counts, and not what organisations call their accounts and users.
    fn check_operator(&self, org: Option<OrgId>) -> Result<(), Violation> {
        if matches!(self.group_by, MetricsGroup::Account | MetricsGroup::User) {
            let rule = "must be minute, hour, day, type or endpoint";
            return Err(Violation::new("group_by", "conflict", rule));
        }
        if org.is_none() && (!self.is_over_time() || self.event_type.is_some()) {
            let rule = "is required for a type, and for groups other than minute, hour and day";
            return Err(Violation::new("org_id", "required", rule));
        }
        Ok(())
    }

    /// Which filters a grouping takes.
    fn check(&self) -> Result<(), Violation> {
        let group = self.group_by.as_str();
        let conflict = |field: &str| {
            let rule = format!("cannot be combined with group_by={group}");
            Err(Violation::new(field, "conflict", rule))
        };
        match self.group_by {
            MetricsGroup::Account | MetricsGroup::User | MetricsGroup::Endpoint
                if self.event_type.is_some() =>
            {
                conflict("type")
            }
            MetricsGroup::Account | MetricsGroup::Endpoint if self.account_id.is_some() => {
                conflict("account_id")
            }
            MetricsGroup::User if self.account_id.is_none() => {
                Err(Violation::new("account_id", "required", "is required with group_by=user"))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that a window has a length, of so many days at most.
pub(super) fn check_window(from: Timestamp, to: Timestamp, days_max: u32) -> Result<(), Violation> {
    if from >= to {
        return Err(Violation::new("from", "range", "must be before to"));
    }
    if to.since(from) > Duration::from_hours(24) * days_max {
        let rule = format!("must be at most {days_max} days before to");
        return Err(Violation::new("from", "range", rule));
    }
    Ok(())
}

/// A page of the metrics of events in reach.
///
/// # Errors
/// When the request's parts do not go together, its account is not in reach, or the store fails.
pub async fn events(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    mut request: MetricsRequest,
) -> Result<EventMetrics, Refusal> {
    let reach = reach.into();
    if let Some(account) = reach.account() {
        let asked = request.account_id.get_or_insert_with(|| account.to_owned());
        let is_of_all = matches!(request.group_by, MetricsGroup::Account | MetricsGroup::Endpoint);
        if asked != account || is_of_all {
            return Err(Refusal::NotFound(Missing::Account(reach.org())));
        }
    }
    grouped(subsystems, Some(reach.org()), request).await
}

/// A page of event metrics for an operator: of one organisation, or of all together.
///
/// # Errors
/// When the request's parts do not go together, or the store fails.
pub async fn events_for_operator(
    subsystems: &Subsystems,
    org: Option<OrgId>,
    request: MetricsRequest,
) -> Result<EventMetrics, Refusal> {
    request.check_operator(org)?;
    grouped(subsystems, org, request).await
}

async fn grouped(
    subsystems: &Subsystems,
    org: Option<OrgId>,
    request: MetricsRequest,
) -> Result<EventMetrics, Refusal> {
    request.check()?;
    let (from, to) = request.window(subsystems.clock.now())?;
    let span = MinuteSpan::covering(from, to);
    let store = &subsystems.store;
    let (page, approximate) = match (request.group_by, org) {
        (MetricsGroup::Minute, _) => {
            over_time(store, org, span, &request, BucketUnit::Minute).await?
        }
        (MetricsGroup::Hour, _) => over_time(store, org, span, &request, BucketUnit::Hour).await?,
        (MetricsGroup::Day, _) => over_time(store, org, span, &request, BucketUnit::Day).await?,
        (MetricsGroup::Type, Some(org)) => by_type(store, org, span, &request).await?,
        (MetricsGroup::Account, Some(org)) => by_account(store, org, span, &request).await?,
        (MetricsGroup::User, Some(org)) => by_user(store, org, span, &request).await?,
        (MetricsGroup::Endpoint, Some(org)) => by_endpoint(store, org, span, &request).await?,
        (_, None) => (LabelPage { data: Vec::new(), next_cursor: None }, false),
    };
    let LabelPage { data, next_cursor } = page;
    let group_by = request.group_by;
    Ok(EventMetrics { group_by, from: span.start(), to, data, next_cursor, approximate })
}

async fn over_time(
    store: &Store,
    org: Option<OrgId>,
    span: MinuteSpan,
    request: &MetricsRequest,
    unit: BucketUnit,
) -> Result<Groups, Refusal> {
    let scope = MetricsScope {
        org,
        account_id: request.account_id.clone(),
        event_type: request.event_type.as_ref().map(|name| name.as_str().to_owned()),
    };
    let until = request.after.as_ref().map_or(span.until, |after| after.number.min(span.until));
    let page = store.buckets(&scope, unit, MinuteSpan { until, ..span }, request.limit).await?;
    let row = |(minute, bucket): (i64, crate::store::TimeBucket)| {
        MetricsRow::at(minute).with_events(bucket.count).with_deliveries(&bucket.deliveries)
    };
    let data = page.buckets.into_iter().map(row).collect();
    let next_cursor = page.next.map(|minute| LabelCursor::new(minute, ""));
    Ok((LabelPage { data, next_cursor }, page.is_behind))
}

async fn by_type(
    store: &Store,
    org: OrgId,
    span: MinuteSpan,
    request: &MetricsRequest,
) -> Result<Groups, Refusal> {
    let window = store.types_window(org, request.account_id.as_deref(), span).await?;
    let CountedWindow { counts, outcomes, is_behind, .. } = window;
    let names: BTreeSet<&String> = counts.types.keys().chain(outcomes.keys()).collect();
    let is_wanted = |name: &&&String| {
        request.event_type.as_ref().is_none_or(|wanted| wanted.as_str() == name.as_str())
    };
    let row = |name: &String| {
        let count = counts.types.get(name).copied().unwrap_or_default();
        let none = DeliveryCounts::default();
        let deliveries = outcomes.get(name).unwrap_or(&none);
        MetricsRow::new(name.as_str()).with_events(count).with_deliveries(deliveries)
    };
    let rows = names.iter().filter(is_wanted).map(|name| row(name)).collect();
    Ok((most(rows, request), is_behind))
}

async fn by_user(
    store: &Store,
    org: OrgId,
    span: MinuteSpan,
    request: &MetricsRequest,
) -> Result<Groups, Refusal> {
    let account = request.account_id.as_deref().unwrap_or_default();
    let window = store.account_window(org, account, span).await?;
    let Some(window) = window else { return Ok((most(Vec::new(), request), false)) };
    let row = |(name, events)| MetricsRow { events: Some(events), ..MetricsRow::new(name) };
    let rows = window.counts.users.into_iter().map(row).collect();
    Ok((most(rows, request), window.is_behind || window.counts.other_users > 0))
}

async fn by_account(
    store: &Store,
    org: OrgId,
    span: MinuteSpan,
    request: &MetricsRequest,
) -> Result<Groups, Refusal> {
    let after = request.after.as_ref();
    let GroupPage { page, is_behind } =
        store.account_groups(org, span, after, request.limit).await?;
    let row = |group: crate::store::AccountGroup| {
        let row = MetricsRow::new(group.account_id).with_events(group.count);
        row.with_deliveries(&group.deliveries)
    };
    let data = page.data.into_iter().map(row).collect();
    Ok((LabelPage { data, next_cursor: page.next_cursor }, is_behind))
}

async fn by_endpoint(
    store: &Store,
    org: OrgId,
    span: MinuteSpan,
    request: &MetricsRequest,
) -> Result<Groups, Refusal> {
    let after = request.after.as_ref().and_then(|after| after.label.parse().ok());
    let GroupPage { page, is_behind } =
        store.endpoint_groups(org, span, after, request.limit).await?;
    let row = |group: crate::store::EndpointGroup| {
        MetricsRow::new(group.endpoint_id.to_string()).with_deliveries(&group.deliveries)
    };
    let data = page.data.into_iter().map(row).collect();
    Ok((LabelPage { data, next_cursor: page.next_cursor }, is_behind))
}

/// A page of groups, those with the most events first.
fn most(mut rows: Vec<MetricsRow>, request: &MetricsRequest) -> LabelPage<MetricsRow> {
    // The smaller key comes first.
    let key = |row: &MetricsRow| {
        let events = i64::try_from(row.events.unwrap_or_default()).unwrap_or(i64::MAX);
        (-events, row.group.clone())
    };
    rows.sort_by_cached_key(key);
    if let Some(after) = &request.after {
        rows.retain(|row| key(row) > (-after.number, after.label.clone()));
    }
    LabelPage::from_rows(rows, request.limit, |row| {
        let (events, label) = key(row);
        LabelCursor::new(-events, label)
    })
}

/// How the deliveries to an endpoint have ended in the last hour and day.
///
/// # Errors
/// When it does not exist.
pub async fn endpoint_stats(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
) -> Result<EndpointStats, Refusal> {
    let store = &subsystems.store;
    let org = endpoints::one(subsystems, reach, id).await?.org_id;
    let until = minute_of(subsystems.clock.now()) + 1;
    let [hour, day] = [60, 24 * 60].map(|minutes| MinuteSpan { from: until - 1 - minutes, until });
    let found = store.endpoint_windows(org, id, day, &[hour, day]).await?;
    let stats = |window: MinuteSpan, index: usize| {
        let counts = found.windows.get(index).cloned().unwrap_or_default();
        DeliveryStats::new(window, &counts)
    };
    Ok(EndpointStats {
        endpoint_id: id,
        pending: store.pending_count(org, id).await?.into(),
        last_hour: stats(hour, 0),
        last_day: stats(day, 1),
        approximate: found.is_behind,
    })
}

/// How the deliveries to an endpoint have ended in each of the last hours, the latest last; the hours are those of the clock.
///
/// # Errors
/// When it does not exist.
pub async fn endpoint_hours(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    hours: u32,
) -> Result<Vec<DeliveryStats>, Refusal> {
    let org = endpoints::one(subsystems, reach, id).await?.org_id;
    let this_hour = minute_of(subsystems.clock.now()).div_euclid(HOUR_MINUTES) * HOUR_MINUTES;
    let hour = |age: u32| {
        let from = this_hour - i64::from(age) * HOUR_MINUTES;
        MinuteSpan { from, until: from + HOUR_MINUTES }
    };
    let windows: Vec<MinuteSpan> = (0..hours).rev().map(hour).collect();
    let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
        return Ok(Vec::new());
    };
    let all = MinuteSpan { from: first.from, until: last.until };
    let found = subsystems.store.endpoint_windows(org, id, all, &windows).await?;
    let counts = windows.into_iter().zip(found.windows);
    Ok(counts.map(|(window, counts)| DeliveryStats::new(window, &counts)).collect())
}

/// A page of the usage of a month by organisation, the most events first.
///
/// # Errors
/// When the store fails.
pub async fn usage(
    subsystems: &Subsystems,
    month: Month,
    org: Option<OrgId>,
    after: Option<&LabelCursor>,
    limit: u32,
) -> Result<LabelPage<UsageView>, Refusal> {
    let page = subsystems.store.system().month_usage(month, org, after, limit).await?;
    let view = |usage| UsageView::new(month, usage);
    Ok(LabelPage { data: page.data.into_iter().map(view).collect(), next_cursor: page.next_cursor })
}
