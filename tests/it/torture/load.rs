//! Clients that post without a pause: single events, batches, and events with a `dedup_id` that are
//! posted again, by several clients at a time, across whatever happens to the server.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::Dice;
use super::ledger::Ledger;
use super::station::Station;
use super::wire::{Lost, Reply, Sender};

/// A client that was refused asks again after this. Faster than `Retry-After` asks for: a load, not
/// an example.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// How clients behave, and which failures they accept.
#[derive(Clone, Copy)]
pub(super) struct Manners {
    pub(super) clients: usize,
    /// How many of the clients post events of the type [`IN_ORDER`]: one at most.
    pub(super) clients_in_order: usize,
    /// Bytes that payloads are filled up with, at most.
    pub(super) padding_max: u64,
    /// Whether servers are killed, so that answers get lost: then only what has a `dedup_id` is
    /// posted again. Otherwise whatever was not answered is posted again, which must be safe: a
    /// server that is not killed answers what it has taken.
    pub(super) kills: bool,
    /// Whether clients accept 503, and that the organisation's share of the journal is used up.
    pub(super) refusals: bool,
}

impl Manners {
    /// Sixteen clients that expect 202 and nothing else.
    pub(super) const DEMANDING: Self = Self {
        clients: 16,
        clients_in_order: 1,
        padding_max: 1_000,
        kills: false,
        refusals: false,
    };
}

/// The type of most events.
const EVENT_TYPE: &str = "torture.test";
/// The type of one event in [`SAMPLE`]. Deliveries of every event would leave a backlog that takes longer to drain
/// than to post.
pub(super) const SAMPLED: &str = "torture.sampled";
const SAMPLE: u64 = 8;
/// The type of the events of the one client whose events are in order of their numbers: it posts one request after
/// the other, and nobody else posts this type.
pub(super) const IN_ORDER: &str = "torture.in_order";

/// Clients at work.
pub(super) struct Load {
    over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    pub(super) fn start(
        station: &Station,
        ledger: &Arc<Ledger>,
        manners: Manners,
        dice: &mut Dice,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for client in 0..manners.clients {
            let client = Client {
                sender: station.sender(),
                ledger: Arc::clone(ledger),
                manners,
                dice: dice.split(),
                is_in_order: client < manners.clients_in_order,
            };
            clients.spawn(client.run(Arc::clone(&over)));
        }
        Self { over, clients }
    }

    /// Lets the requests in flight end, and fails if a client was answered as it must not be.
    pub(super) async fn end(mut self) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }
}

struct Client {
    sender: Sender,
    ledger: Arc<Ledger>,
    manners: Manners,
    dice: Dice,
    /// Whether its events are of the type [`IN_ORDER`].
    is_in_order: bool,
}

/// What a client posts.
pub(super) struct Post {
    numbers: Range<u64>,
    /// Whether the events have a `dedup_id`.
    named: bool,
    path: &'static str,
    body: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Accepted {
    One { id: Uuid },
    Many { ids: Vec<Uuid> },
}

impl Client {
    async fn run(mut self, over: Arc<AtomicBool>) {
        while !over.load(Ordering::Relaxed) {
            let post = self.draw();
            while !self.settle(&post).await {}
        }
    }

    fn draw(&mut self) -> Post {
        let (ledger, dice) = (&self.ledger, &mut self.dice);
        let padding = dice.below(self.manners.padding_max + 1);
        if self.is_in_order {
            let numbers = ledger.number(1 + dice.below(3));
            return Post::many(numbers, false, padding).of_type(IN_ORDER);
        }
        match dice.below(8) {
            0..=2 => Post::one(ledger.number(1), false, padding),
            3 => Post::many(ledger.number(1 + dice.below(40)), false, padding / 10),
            4 => Post::one(ledger.number_named(1), true, padding),
            5 => Post::many(ledger.number_named(1 + dice.below(40)), true, padding / 10),
            _ => match ledger.any_named(dice.next() >> 1) {
                Some(number) => Post::one(number..number + 1, true, padding),
                None => Post::one(ledger.number_named(1), true, padding),
            },
        }
    }

    /// Posts once. `false` when the same has to be posted again.
    async fn settle(&mut self, post: &Post) -> bool {
        match self.sender.post(post.path, &post.body).await {
            Ok(reply) if reply.status == 202 => post.accepted(&reply, &self.ledger),
            Ok(reply) if is_refusal(&reply) && self.manners.refusals => {
                assert!(reply.retry_after.is_some_and(|seconds| seconds > 0), "{reply:?}");
                self.ledger.refuse();
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
            }
            Ok(reply) => {
                self.ledger.fail(format!("{reply:?}"));
            }
            Err(Lost::Unanswered) if !self.manners.kills => return false,
            Err(Lost::Unanswered | Lost::CutOff) if self.manners.kills => return !post.named,
            Err(lost) => {
                self.ledger.fail(format!("{lost:?}, though nobody was killed"));
            }
        }
        true
    }
}

/// Whether the server has no space for events now.
fn is_refusal(reply: &Reply) -> bool {
    reply.status == 503 || reply.status == 429 && reply.body.contains("journal_share_used_up")
}

impl Post {
    /// One event.
    pub(super) fn one(numbers: Range<u64>, named: bool, padding: u64) -> Self {
        let body = event(numbers.start, named, padding);
        Self { numbers, named, path: "/api/events", body }
    }

    /// A batch.
    pub(super) fn many(numbers: Range<u64>, named: bool, padding: u64) -> Self {
        let events: Vec<_> = numbers.clone().map(|number| event(number, named, padding)).collect();
        let body = format!("[{}]", events.join(","));
        Self { numbers, named, path: "/api/events/batch", body }
    }

    fn of_type(mut self, event_type: &str) -> Self {
        self.body = self.body.replace(EVENT_TYPE, event_type).replace(SAMPLED, event_type);
        self
    }

    /// Makes one of its events belong to an account that the store rejects, and returns its number.
    pub(super) fn poison(&mut self, place: u64) -> u64 {
        let number = self.numbers.start + place;
        let of = |account: &str| format!(r#""account_id":"{account}","payload":{{"n":{number},"#);
        let harmless = of(&account_of(number));
        assert!(self.body.contains(&harmless));
        self.body = self.body.replace(&harmless, &of("poison"));
        number
    }

    /// Posts it, and fails if the answer is not a 202.
    pub(super) async fn send(&self, sender: &mut Sender, ledger: &Ledger) {
        let reply = sender.post(self.path, &self.body).await.unwrap();
        assert_eq!(reply.status, 202, "{reply:?}");
        self.accepted(&reply, ledger);
    }

    fn accepted(&self, reply: &Reply, ledger: &Ledger) {
        let ids = match serde_json::from_str(&reply.body).unwrap() {
            Accepted::One { id } => vec![id],
            Accepted::Many { ids } => ids,
        };
        ledger.accept(self.numbers.clone(), self.named, &ids);
    }
}

/// The account of an event.
pub(super) fn account_of(number: u64) -> String {
    format!("a{}", number % 5)
}

/// An event whose payload starts with its number.
fn event(number: u64, named: bool, padding: u64) -> String {
    let dedup_id = if named { format!(r#""dedup_id":"{number}","#) } else { String::new() };
    let event_type = if number.is_multiple_of(SAMPLE) { SAMPLED } else { EVENT_TYPE };
    let (account, padding) = (account_of(number), "x".repeat(usize::try_from(padding).unwrap()));
    format!(
        r#"{{"type":"{event_type}",{dedup_id}"account_id":"{account}","payload":{{"n":{number},"padding":"{padding}"}}}}"#
    )
}
