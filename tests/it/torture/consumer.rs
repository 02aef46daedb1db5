//! A consumer of an inbox, and a client that erases events: both go on across whatever happens to the server.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Dice;
use super::ledger::Ledger;
use super::station::Station;
use super::wire::Sender;

/// A client that was refused asks again after this.
const PAUSE: Duration = Duration::from_millis(50);
/// Erasures that have not ended.
pub(super) const ERASURES_LEFT: &str = "SELECT count(*) FROM erasures WHERE finished_at IS NULL";
/// Between two erasures: each takes several transactions.
const ERASURE_PAUSE: Duration = Duration::from_millis(300);

/// A consumer that acknowledges whatever it receives, until it is dropped.
pub(super) struct InboxConsumer {
    seen: Arc<Mutex<Seen>>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// How often each event was received, by its id and number.
    received: HashMap<(Uuid, u64), usize>,
    /// Those whose acknowledgement was answered.
    acknowledged: HashSet<Uuid>,
    /// Those that were received after that.
    came_back: Vec<Uuid>,
}

impl InboxConsumer {
    pub(super) fn start(station: &Station, inbox: Uuid) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut task = JoinSet::new();
        task.spawn(consume(station.sender(), inbox, Arc::clone(&seen)));
        Self { seen, _task: task }
    }

    /// How often each event was received, by its id and number. Fails when one came back after its acknowledgement.
    pub(super) fn arrivals(&self) -> HashMap<(Uuid, u64), usize> {
        let seen = self.seen.lock().unwrap();
        assert!(seen.came_back.is_empty(), "acknowledged, and back: {:?}", seen.came_back);
        seen.received.clone()
    }
}

async fn consume(mut sender: Sender, inbox: Uuid, seen: Arc<Mutex<Seen>>) {
    let receive = format!("/api/inbox?inbox={inbox}&limit=50&visibility_seconds=5&wait=1");
    let acknowledge = format!("/api/ack?inbox={inbox}");
    loop {
        let Ok(reply) = sender.request("GET", &receive, "").await else { continue };
        if reply.status != 200 {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let page: Value = serde_json::from_str(&reply.body).unwrap();
        let mut ids = Vec::new();
        for event in page["data"].as_array().unwrap() {
            let id: Uuid = event["id"].as_str().unwrap().parse().unwrap();
            let number = event["payload"]["n"].as_u64().unwrap();
            let mut seen = seen.lock().unwrap();
            *seen.received.entry((id, number)).or_default() += 1;
            if seen.acknowledged.contains(&id) {
                seen.came_back.push(id);
            }
            ids.push(id);
        }
        if ids.is_empty() {
            continue;
        }
        // What is not acknowledged now comes again.
        let body = json!({ "ids": ids }).to_string();
        let Ok(reply) = sender.request("POST", &acknowledge, &body).await else { continue };
        if reply.status != 200 {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let settled: Value = serde_json::from_str(&reply.body).unwrap();
        for one in settled["data"].as_array().unwrap() {
            if one["status"] == "acked" {
                let id = one["id"].as_str().unwrap().parse().unwrap();
                seen.lock().unwrap().acknowledged.insert(id);
            }
        }
    }
}

/// A client that erases acknowledged events, until it is dropped.
pub(super) struct Eraser(JoinSet<()>);

impl Eraser {
    pub(super) fn start(station: &Station, ledger: &Arc<Ledger>, dice: &mut Dice) -> Self {
        let mut task = JoinSet::new();
        task.spawn(erase(station.sender(), Arc::clone(ledger), dice.split()));
        Self(task)
    }

    /// Ends it. What it asked for is done once [`ERASURES_LEFT`] counts none.
    pub(super) async fn stop(mut self) {
        self.0.shutdown().await;
    }
}

async fn erase(mut sender: Sender, ledger: Arc<Ledger>, mut dice: Dice) {
    loop {
        tokio::time::sleep(ERASURE_PAUSE).await;
        let Some((number, id)) = ledger.any_acknowledged(dice.next() >> 1) else { continue };
        // From now on nobody can tell whether it is there.
        ledger.erase(number, false);
        let erased = sender.request("DELETE", &format!("/api/events/{id}"), "").await;
        match erased {
            Ok(reply) if reply.status == 202 => ledger.erase(number, true),
            Ok(reply) if matches!(reply.status, 429 | 503) => {}
            Ok(reply) => ledger.fail(format!("an erasure was answered {reply:?}")),
            Err(_) => {}
        }
    }
}
