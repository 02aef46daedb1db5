//! What was sent and delivered by hour, as overviews show it.

use std::collections::HashMap;

use super::endpoints::percent;
use crate::api::analytics::MetricsRequest;
use crate::api::views::{EventMetrics, MetricsRow};
use crate::domain::{HOUR_MINUTES, MetricsGroup, Timestamp, minute_of, minute_start};
use crate::http::console::ui::{Chart, ChartBar, Html, Tile, grouped};

/// Hours in the charts.
const HOURS: i64 = 24;
/// Events and deliveries by hour, oldest first.
pub(super) struct Hours {
    events: Vec<ChartBar>,
    deliveries: Vec<ChartBar>,
    pub(super) delivered: u64,
    pub(super) dead: u64,
    pub(super) accepted: u64,
    /// Of the latest hour with a delivery.
    pub(super) p95: Option<u64>,
}

/// Counts by hour of the last day.
pub(super) fn hourly() -> MetricsRequest {
    MetricsRequest {
        group_by: MetricsGroup::Hour,
        from: None,
        to: None,
        event_type: None,
        account_id: None,
        after: None,
        limit: 48,
    }
}

impl Hours {
    /// Every hour of the last day, those without anything too.
    pub(super) fn of(metrics: &EventMetrics, now: Timestamp) -> Self {
        let rows: HashMap<&str, &MetricsRow> =
            metrics.data.iter().map(|row| (row.group.as_str(), row)).collect();
        let this_hour = minute_of(now).div_euclid(HOUR_MINUTES) * HOUR_MINUTES;
        let mut hours = Self {
            events: Vec::new(),
            deliveries: Vec::new(),
            delivered: 0,
            dead: 0,
            accepted: 0,
            p95: None,
        };
        for age in (0..HOURS).rev() {
            let begins = minute_start(this_hour - age * HOUR_MINUTES).to_string();
            let row = rows.get(begins.as_str());
            let count =
                |field: fn(&MetricsRow) -> Option<u64>| row.and_then(|row| field(row)).unwrap_or(0);
            let (events, delivered) = (count(|row| row.events), count(|row| row.delivered));
            let dead = count(|row| row.dead);
            hours.accepted += events;
            hours.delivered += delivered;
            hours.dead += dead;
            let latest = row.and_then(|row| row.latency_ms?.p95);
            hours.p95 = latest.or(hours.p95);
            let label = begins.get(..16).unwrap_or(&begins).replace('T', " ");
            hours.events.push(ChartBar { label: label.clone(), values: vec![events] });
            hours.deliveries.push(ChartBar { label, values: vec![delivered, dead] });
        }
        hours
    }

    pub(super) fn success(&self) -> Tile {
        let finished = self.delivered + self.dead;
        #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
        let share = self.delivered as f64 / finished as f64;
        let rate = if finished == 0 { "–".to_owned() } else { percent(share) };
        let note = format!("{} delivered, {} dead", grouped(self.delivered), grouped(self.dead));
        Tile::new("Success rate, 24 hours", rate, note)
    }

    pub(super) fn events_chart(&self) -> Html {
        Chart::html("Events per hour", "last 24 hours, UTC", &[("events", "")], &self.events)
    }

    pub(super) fn deliveries_chart(&self) -> Html {
        let series = [("delivered", ""), ("dead", "bad")];
        Chart::html("Deliveries per hour", "last 24 hours, UTC", &series, &self.deliveries)
    }
}
