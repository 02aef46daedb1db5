//! The rollups, compared with the events that they count.

use std::collections::BTreeMap;

use serde_json::Value;

use super::database::StoredEvent;
use super::load::account_of;
use super::station::{PATIENCE, POLL_INTERVAL, Station};
use crate::support::wait::until;

/// Fails unless events are counted once by hour, type and account. Those that were erased are not: they are taken from the
/// counts in the transaction that deletes them.
pub(super) async fn settle(station: &Station, stored: &[StoredEvent], test: &str) {
    let by_hour = counted(station, "hour").await;
    let (sum, all): (u64, u64) = (by_hour.values().sum(), stored.len() as u64);
    assert_eq!(sum, all, "{test}: {by_hour:?}");
    let by_type = group(stored, |event| event.event_type.clone());
    assert_eq!(counted(station, "type").await, by_type, "{test}");
    let by_account = group(stored, |event| account_of(event.number));
    // An account is listed once its first events are folded.
    let listed = async || counted(station, "account").await.len() == by_account.len();
    until("every account is listed", listed).await;
    assert_eq!(counted(station, "account").await, by_account, "{test}");
    println!("{test}: counted {sum} events in {} hours, stored {all}", by_hour.len());
}

fn group(stored: &[StoredEvent], by: impl Fn(&StoredEvent) -> String) -> BTreeMap<String, u64> {
    let mut groups = BTreeMap::new();
    for event in stored {
        *groups.entry(by(event)).or_default() += 1;
    }
    groups
}

/// The counts of the last 24 hours, once everything is counted.
async fn counted(station: &Station, group_by: &str) -> BTreeMap<String, u64> {
    let path = format!("/api/analytics/events?group_by={group_by}&limit=100");
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    let asking = async {
        loop {
            poll.tick().await;
            let (status, page): (u16, Value) = station.get(&path).await;
            if status == 200 && page["approximate"] == false {
                return page;
            }
        }
    };
    let page = tokio::time::timeout(PATIENCE, asking).await.expect("everything is counted");
    let rows = page["data"].as_array().unwrap().iter();
    let row = |row: &Value| {
        (row["group"].as_str().unwrap().to_owned(), row["events"].as_u64().unwrap_or(0))
    };
    rows.map(row).filter(|(_, events)| *events > 0).collect()
}
