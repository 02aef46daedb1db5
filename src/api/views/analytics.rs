//! Counts: summaries of accounts, event metrics, event types, and how deliveries to an endpoint end.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::endpoint::PendingCount;
use crate::domain::{
    EndpointId, LabelCursor, MetricsGroup, MinuteSpan, Month, OrgId, Timestamp, minute_start,
};
use crate::store::{
    AccountRow, DeliveryCounts, EventCount, EventTypeRow, LatencyHistogram, MonthUsage,
};

/// What an account has sent in a window.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct AccountSummary {
    /// The account.
    pub account_id: String,
    /// `last_24h`, `last_7d`, or `custom`.
    pub window: &'static str,
    /// When the window begins: on the minute.
    pub from: Timestamp,
    /// When it ends.
    pub to: Timestamp,
    /// Events by type.
    pub totals: BTreeMap<String, u64>,
    /// The users with the most events.
    pub top_users: Vec<TopUser>,
    /// When its first event happened, in the window or not.
    pub first_seen: Option<Timestamp>,
    /// When its last event happened, in the window or not.
    pub last_seen: Option<Timestamp>,
    /// Whether users beyond the limit were summed up, or the latest events are missing.
    pub approximate: bool,
}

/// A user with its events.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct TopUser {
    /// The user.
    pub user_id: String,
    /// Its events.
    pub events: u64,
}

/// An account in the list of those that were active.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct AccountView {
    /// The account.
    pub account_id: String,
    /// Its events.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// When its first event happened.
    pub first_seen: Timestamp,
    /// When its last event happened.
    pub last_seen: Timestamp,
}

/// Some accounts.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct AccountSample {
    /// Their ids.
    pub account_ids: Vec<String>,
}

/// An event type that was seen.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EventTypeView {
    /// Its name.
    pub r#type: String,
    /// Its events.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// When its first event happened.
    pub first_seen: Timestamp,
    /// When its last event happened.
    pub last_seen: Timestamp,
}

/// A page of event types.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "EventTypeViewPage")]
pub struct EventTypePage<C = LabelCursor> {
    /// The types.
    pub data: Vec<EventTypeView>,
    /// The position of the next page; `null` at the end of the list.
    pub next_cursor: Option<C>,
    /// Whether the latest events are missing.
    pub approximate: bool,
}

impl EventTypePage {
    /// The same with a position as callers get it.
    pub fn with_cursor<C>(self, cursor: impl FnOnce(LabelCursor) -> C) -> EventTypePage<C> {
        let Self { data, next_cursor, approximate } = self;
        EventTypePage { data, next_cursor: next_cursor.map(cursor), approximate }
    }
}

/// Event metrics of a window.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "EventMetrics")]
pub struct EventMetrics<C = LabelCursor> {
    /// By what they are grouped.
    pub group_by: MetricsGroup,
    /// When the window begins: on the minute.
    pub from: Timestamp,
    /// When it ends.
    pub to: Timestamp,
    /// The groups.
    pub data: Vec<MetricsRow>,
    /// The position of the next page.
    pub next_cursor: Option<C>,
    /// Whether users beyond the limit were left out, or the latest events are missing.
    pub approximate: bool,
}

impl EventMetrics {
    /// The same with a position as callers get it.
    pub fn with_cursor<C>(self, cursor: impl FnOnce(LabelCursor) -> C) -> EventMetrics<C> {
        let Self { group_by, from, to, data, next_cursor, approximate } = self;
        let next_cursor = next_cursor.map(cursor);
        EventMetrics { group_by, from, to, data, next_cursor, approximate }
    }
}

/// A group. Fields that a grouping does not have are `null`.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct MetricsRow {
    /// When the minute, hour or day begins; or the type, account, user or endpoint.
    pub group: String,
    /// Events that happened.
    pub events: Option<u64>,
    /// Bytes of their payloads.
    pub bytes: Option<u64>,
    /// Deliveries that receivers took.
    pub delivered: Option<u64>,
    /// Deliveries that were given up.
    pub dead: Option<u64>,
    /// Attempts that failed.
    pub failed_attempts: Option<u64>,
    /// From acceptance to delivery.
    pub latency_ms: Option<Percentiles>,
}

/// Percentiles of times in milliseconds, from a histogram; `null` without any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Percentiles {
    /// Half of the times are shorter.
    pub p50: Option<u64>,
    /// Nine of ten are shorter.
    pub p90: Option<u64>,
    /// 95 of 100 are shorter.
    pub p95: Option<u64>,
    /// 99 of 100 are shorter.
    pub p99: Option<u64>,
}

/// How deliveries to an endpoint end.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct EndpointStats {
    /// The endpoint.
    pub endpoint_id: EndpointId,
    /// Deliveries that wait or are in flight.
    pub pending: PendingCount,
    /// The outcomes of the last hour.
    pub last_hour: DeliveryStats,
    /// The outcomes of the last 24 hours.
    pub last_day: DeliveryStats,
    /// Whether the latest outcomes are missing.
    pub approximate: bool,
}

/// The outcomes of a window.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct DeliveryStats {
    /// When the window begins: on the minute.
    pub from: Timestamp,
    /// Deliveries that the receiver took.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub dead: u64,
    /// Attempts that failed.
    pub failed_attempts: u64,
    /// The share of finished deliveries that the receiver took; `null` without any.
    pub success_rate: Option<f64>,
    /// From acceptance to delivery.
    pub latency_ms: Percentiles,
    /// From the start of an attempt to the end of the response.
    pub attempt_ms: Percentiles,
}

/// The usage of an organisation in a month.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct UsageView {
    /// The organisation.
    pub org_id: OrgId,
    /// Its name; empty once it is deleted.
    pub name: String,
    /// The month, as in `2026-01`.
    pub month: String,
    /// Events accepted and stored.
    pub events: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Deliveries that receivers took.
    pub delivered: u64,
    /// Deliveries that were given up.
    pub dead: u64,
}

impl MetricsRow {
    /// A group without counts.
    pub(in crate::api) fn new(group: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            events: None,
            bytes: None,
            delivered: None,
            dead: None,
            failed_attempts: None,
            latency_ms: None,
        }
    }

    /// The group of a minute.
    pub(in crate::api) fn at(minute: i64) -> Self {
        Self::new(minute_start(minute).to_string())
    }

    /// The group with a count of events.
    pub(in crate::api) fn with_events(self, count: EventCount) -> Self {
        Self { events: Some(count.events), bytes: Some(count.bytes), ..self }
    }

    /// The group with counts of outcomes.
    pub(in crate::api) fn with_deliveries(self, counts: &DeliveryCounts) -> Self {
        Self {
            delivered: Some(counts.delivered),
            dead: Some(counts.dead),
            failed_attempts: Some(counts.failed_attempts),
            latency_ms: Some((&counts.latency).into()),
            ..self
        }
    }
}

impl DeliveryStats {
    /// The outcomes of a window.
    pub(in crate::api) fn new(window: MinuteSpan, counts: &DeliveryCounts) -> Self {
        let DeliveryCounts { delivered, dead, failed_attempts, latency, duration } = counts;
        let finished = delivered + dead;
        #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
        let share = (*delivered as f64) / (finished as f64);
        Self {
            from: window.start(),
            delivered: *delivered,
            dead: *dead,
            failed_attempts: *failed_attempts,
            success_rate: (finished > 0).then_some(share),
            latency_ms: latency.into(),
            attempt_ms: duration.into(),
        }
    }
}

impl From<&LatencyHistogram> for Percentiles {
    fn from(histogram: &LatencyHistogram) -> Self {
        let [p50, p90, p95, p99] = [50, 90, 95, 99].map(|percent| histogram.percentile(percent));
        Self { p50, p90, p95, p99 }
    }
}

impl From<AccountRow> for AccountView {
    fn from(row: AccountRow) -> Self {
        let AccountRow { account_id, first_seen, last_seen, active_hour: _, count } = row;
        Self { account_id, events: count.events, bytes: count.bytes, first_seen, last_seen }
    }
}

impl From<EventTypeRow> for EventTypeView {
    fn from(row: EventTypeRow) -> Self {
        let EventTypeRow { event_type, first_seen, last_seen, count } = row;
        let (events, bytes) = (count.events, count.bytes);
        Self { r#type: event_type, events, bytes, first_seen, last_seen }
    }
}

impl UsageView {
    /// The usage of a month.
    pub(in crate::api) fn new(month: Month, usage: MonthUsage) -> Self {
        let MonthUsage { org_id, name, count, delivered, dead } = usage;
        Self {
            org_id,
            name,
            month: month.to_string(),
            events: count.events,
            bytes: count.bytes,
            delivered,
            dead,
        }
    }
}
