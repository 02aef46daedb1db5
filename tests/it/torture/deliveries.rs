//! The deliveries of every stored event: planned once per endpoint, and delivered at least once.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::database::StoredEvent;
use super::station::{PATIENCE, Station};
use crate::support::receiver::Receiver;

/// How often the database is asked what is pending. It may be millions of rows.
const PENDING_INTERVAL: Duration = Duration::from_millis(500);

const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

/// A machine under load may miss the timeout of several attempts. None of them is a reason to give up.
pub(super) const MANY_RETRIES: (&str, &str) = ("RETRY_SCHEDULE", "1s,1s,2s,5s,5s,10s,10s,30s");

/// Receivers of every event, there from before the first one.
pub(super) struct Subscribers {
    receivers: HashMap<Uuid, Receiver>,
}

impl Subscribers {
    pub(super) async fn subscribe(station: &Station) -> Self {
        let mut receivers = HashMap::new();
        for _ in 0..2 {
            let receiver = Receiver::start().await;
            let endpoint = station.add_endpoint(&receiver).await;
            receivers.insert(endpoint.parse().unwrap(), receiver);
        }
        Self { receivers }
    }

    /// Waits until nothing is pending, then fails unless each endpoint has one delivery of every stored event,
    /// which ended well, and each receiver has got the event.
    pub(super) async fn settle(&self, station: &Station, stored: &[StoredEvent], test: &str) {
        nothing_pending(station).await;
        let deliveries = station.database.deliveries().await;
        let mut planned: HashMap<(Uuid, Uuid), usize> = HashMap::new();
        for delivery in &deliveries {
            assert_eq!(delivery.status, "delivered", "{test}: {}", delivery.id);
            *planned.entry((delivery.event_id, delivery.endpoint_id)).or_default() += 1;
        }
        let ids: HashSet<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
        assert_eq!(ids.len(), deliveries.len(), "{test}: a delivery has two rows");

        let (mut unplanned, mut planned_twice, mut undelivered, mut repeated) = (0, 0, 0, 0);
        for (endpoint, receiver) in &self.receivers {
            let arrivals = arrivals(receiver);
            for event in stored {
                match planned.get(&(event.id, *endpoint)) {
                    None => unplanned += 1,
                    Some(1) => {}
                    Some(_) => planned_twice += 1,
                }
                match arrivals.get(&(event.id, event.number)) {
                    None => undelivered += 1,
                    Some(times) => repeated += times - 1,
                }
            }
            assert_eq!(receiver.forged(), 0, "{test}");
            assert!(arrivals.len() <= stored.len(), "{test}: an event came that is not stored");
        }
        let figures = format!(
            "planned {}, not planned {unplanned}, planned twice {planned_twice}, not delivered \
             {undelivered} (delivered again {repeated})",
            planned.len()
        );
        println!("{test}: {figures}");
        assert_eq!((unplanned, planned_twice, undelivered), (0, 0, 0), "{test}: {figures}");
        assert_eq!(planned.len(), stored.len() * self.receivers.len(), "{test}: {figures}");
    }
}

/// Waits until no delivery is pending, however many there are, as long as they become fewer.
async fn nothing_pending(station: &Station) {
    let mut poll = tokio::time::interval(PENDING_INTERVAL);
    let (mut fewest, mut since) = (i64::MAX, Instant::now());
    loop {
        poll.tick().await;
        let pending = station.database.count(PENDING).await;
        if pending == 0 {
            return;
        }
        if pending < fewest {
            (fewest, since) = (pending, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "{pending} deliveries stay pending");
    }
}

/// How often each event has come, by its id and the number in its payload.
fn arrivals(receiver: &Receiver) -> HashMap<(Uuid, u64), usize> {
    let mut arrivals = HashMap::new();
    for webhook in receiver.so_far() {
        let id = webhook.header("webhook-id").parse().unwrap();
        let number = webhook.json()["data"]["n"].as_u64().unwrap();
        *arrivals.entry((id, number)).or_default() += 1;
    }
    arrivals
}
