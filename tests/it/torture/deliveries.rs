//! The deliveries of stored events: planned once per endpoint, delivered at least once, and in order where an
//! endpoint asks for that.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use hookgate::runtime::Stopwatch;
use serde_json::json;
use uuid::Uuid;

use super::consumer::InboxConsumer;
use super::database::StoredEvent;
use super::load::{IN_ORDER, SAMPLED};
use super::rollups;
use super::station::{PATIENCE, Station};
use crate::support::receiver::{Received, Receiver};

/// How often the database is asked how many deliveries are pending. There may be many.
const PENDING_INTERVAL: Duration = Duration::from_millis(500);

const PENDING: &str = "SELECT count(*) FROM pending_deliveries";

/// A machine under load may miss the timeout of several attempts. None of them is a reason to give up.
pub(super) const MANY_RETRIES: (&str, &str) = ("RETRY_SCHEDULE", "1s,1s,2s,5s,5s,10s,10s,30s");

/// Receivers that are there from before the first event: two of sampled events, and one of events in order. Another
/// one of sampled events is a consumer of an inbox.
pub(super) struct Subscribers(Vec<Subscriber>);

struct Subscriber {
    endpoint: Uuid,
    source: Receives,
    event_type: &'static str,
}

enum Receives {
    Webhooks(Receiver),
    Inbox(InboxConsumer),
}

impl Receives {
    /// How often each event has come, by its id and the number in its payload.
    fn arrivals(&self) -> HashMap<(Uuid, u64), usize> {
        match self {
            Self::Webhooks(receiver) => arrivals(receiver),
            Self::Inbox(consumer) => consumer.arrivals(),
        }
    }
}

impl Subscribers {
    pub(super) async fn subscribe(station: &Station) -> Self {
        let mut subscribers = Vec::new();
        for event_type in [SAMPLED, SAMPLED, IN_ORDER] {
            let receiver = Receiver::start().await;
            let is_ordered = event_type == IN_ORDER;
            let settings = json!({ "event_types": [event_type], "ordered": is_ordered });
            let endpoint = station.add_endpoint_with(&receiver, settings).await;
            let endpoint = endpoint.parse().unwrap();
            let source = Receives::Webhooks(receiver);
            subscribers.push(Subscriber { endpoint, source, event_type });
        }
        // An answer that a kill cuts off counts as received; a long run cuts off many.
        let settings = json!({ "kind": "pull", "event_types": [SAMPLED], "max_receives": 100 });
        let inbox = station.post("/api/endpoints", &settings).await;
        let endpoint = inbox["id"].as_str().unwrap().parse().unwrap();
        let source = Receives::Inbox(InboxConsumer::start(station, endpoint));
        subscribers.push(Subscriber { endpoint, source, event_type: SAMPLED });
        Self(subscribers)
    }

    /// Waits until nothing is pending, then fails unless each endpoint has one delivery of every stored event
    /// that it subscribes to, which ended well, and each receiver has got the event.
    /// Events are counted as often as they are stored.
    pub(super) async fn settle(&self, station: &Station, stored: &[StoredEvent], test: &str) {
        self.settle_beside_erasures(station, stored, 0, test).await;
    }

    /// The same after that many erasures, whose events may have been delivered before.
    pub(super) async fn settle_beside_erasures(
        &self,
        station: &Station,
        stored: &[StoredEvent],
        erasures: u64,
        test: &str,
    ) {
        rollups::settle(station, stored, test).await;
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
        let mut wanted = 0;
        for Subscriber { endpoint, source, event_type } in &self.0 {
            let arrivals = source.arrivals();
            let events = stored.iter().filter(|event| event.event_type == *event_type);
            let before = wanted;
            for event in events {
                wanted += 1;
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
            let came = arrivals.len();
            let most = wanted - before + usize::try_from(erasures).unwrap();
            assert!(came <= most, "{test}: an event came that is not stored");
            let Receives::Webhooks(receiver) = source else { continue };
            assert_eq!(receiver.forged(), 0, "{test}");
            if *event_type == IN_ORDER {
                assert_in_order(receiver, test);
            }
        }
        let figures = format!(
            "planned {}, not planned {unplanned}, planned twice {planned_twice}, not delivered \
             {undelivered} (delivered again {repeated})",
            planned.len()
        );
        println!("{test}: {figures}");
        assert_eq!((unplanned, planned_twice, undelivered), (0, 0, 0), "{test}: {figures}");
        assert_eq!(planned.len(), wanted, "{test}: {figures}");
    }
}

/// Waits until no delivery is pending, however many there are, as long as they become fewer.
async fn nothing_pending(station: &Station) {
    let mut poll = tokio::time::interval(PENDING_INTERVAL);
    let (mut fewest, mut since) = (i64::MAX, Stopwatch::start());
    loop {
        poll.tick().await;
        let pending = station.database.count(PENDING).await;
        if pending == 0 {
            return;
        }
        if pending < fewest {
            (fewest, since) = (pending, Stopwatch::start());
        }
        assert!(since.elapsed() < PATIENCE, "{pending} deliveries stay pending");
    }
}

/// Fails when an event came for the first time after a younger one.
fn assert_in_order(receiver: &Receiver, test: &str) {
    let mut seen = HashSet::new();
    let numbers = receiver.so_far().into_iter().map(|webhook| number(&webhook));
    let first_times: Vec<u64> = numbers.filter(|number| seen.insert(*number)).collect();
    for pair in first_times.windows(2) {
        assert!(pair[0] < pair[1], "{test}: event {} came before event {}", pair[0], pair[1]);
    }
}

fn arrivals(receiver: &Receiver) -> HashMap<(Uuid, u64), usize> {
    let mut arrivals = HashMap::new();
    for webhook in receiver.so_far() {
        let id = webhook.header("webhook-id").parse().unwrap();
        *arrivals.entry((id, number(&webhook))).or_default() += 1;
    }
    arrivals
}

fn number(webhook: &Received) -> u64 {
    webhook.json()["data"]["n"].as_u64().unwrap()
}
