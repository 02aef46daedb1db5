//! The events that `seed` makes: the same ones for the same seed and times.
//!
//! A few accounts have most of the events and most have a few, by Zipf's law; so have the users of an account. There
//! is more traffic by day than by night.

use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, Zipf};
use uuid::{Builder, Uuid};

use super::CliError;
use crate::domain::{Event, EventId, EventType, OrgId, Timestamp, TraceId};

/// With 10,000 accounts, the largest one has a fifth of the events.
const ACCOUNT_SKEW: f64 = 1.2;
/// Of the users of an account, the busiest one has a tenth to a quarter of its events.
const USER_SKEW: f64 = 1.0;
/// Users of the largest account; the others have fewer, by their rank.
const USERS_MAX: f64 = 2_000.0;

const MINUTE_MICROS: i64 = 60_000_000;
const DAY_MINUTES: f64 = 24.0 * 60.0;
/// How much busier than the mean the busiest minute of a day is, and how much quieter the quietest.
const DAILY_SWING: f64 = 0.6;

/// Event types with how often each comes, in 100.
const TYPES: [(&str, u32); 12] = [
    ("page.viewed", 30),
    ("user.login", 14),
    ("item.added", 12),
    ("order.created", 9),
    ("order.paid", 8),
    ("message.sent", 8),
    ("order.shipped", 6),
    ("user.logout", 5),
    ("file.uploaded", 3),
    ("user.signup", 2),
    ("invoice.created", 2),
    ("payment.failed", 1),
];
const PATHS: [&str; 6] = ["/", "/pricing", "/docs/start", "/cart", "/search?q=shoes", "/account"];
const CURRENCIES: [&str; 4] = ["EUR", "USD", "GBP", "JPY"];

/// Which events are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) org: OrgId,
    pub(super) events: u64,
    /// When the first ones were accepted, and the end of the last minute.
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
    pub(super) accounts: u64,
    pub(super) seed: u64,
}

/// Makes events from the oldest to the newest.
pub(super) struct EventMaker {
    plan: Plan,
    random: Xoshiro256PlusPlus,
    accounts: Zipf<f64>,
    types: Vec<(EventType, u32)>,
    minute: i64,
    minutes: i64,
    /// Events of the minutes before.
    made: u64,
    /// Of this minute, the latest first.
    waiting: Vec<Timestamp>,
}

impl EventMaker {
    pub(super) fn new(plan: Plan) -> Result<Self, CliError> {
        let types = TYPES.map(|(name, share)| Ok::<_, CliError>((name.parse()?, share)));
        #[expect(clippy::cast_precision_loss, reason = "a million at most")]
        let accounts = Zipf::new(plan.accounts as f64, ACCOUNT_SKEW)?;
        Ok(Self {
            plan,
            random: Xoshiro256PlusPlus::seed_from_u64(plan.seed),
            accounts,
            types: types.into_iter().collect::<Result<_, _>>()?,
            minute: 0,
            minutes: (plan.until.micros() - plan.from.micros()) / MINUTE_MICROS,
            made: 0,
            waiting: Vec::new(),
        })
    }

    /// The next events, at most so many; none once all were made.
    pub(super) fn next_batch(&mut self, events_max: usize) -> Vec<Arc<Event>> {
        let mut batch = Vec::with_capacity(events_max);
        while batch.len() < events_max {
            let Some(at) = self.next_time() else { break };
            batch.push(Arc::new(self.event(at)));
        }
        batch
    }

    fn next_time(&mut self) -> Option<Timestamp> {
        while self.waiting.is_empty() {
            if self.minute >= self.minutes {
                return None;
            }
            self.fill_minute();
        }
        self.waiting.pop()
    }

    /// The times of the events of a minute.
    fn fill_minute(&mut self) {
        let begin = self.plan.from.micros() + self.minute * MINUTE_MICROS;
        self.minute += 1;
        #[expect(
            clippy::cast_precision_loss,
            reason = "minutes of a year, and five million events"
        )]
        let (until_now, until_the_end, events) =
            (traffic(self.minute as f64), traffic(self.minutes as f64), self.plan.events as f64);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to the number of events"
        )]
        let due = if self.minute == self.minutes {
            self.plan.events
        } else {
            (events * until_now / until_the_end) as u64
        };
        for _ in self.made..due {
            let within = self.random.random_range(0..MINUTE_MICROS);
            self.waiting.push(Timestamp::from_micros(begin + within));
        }
        self.made = due.max(self.made);
        self.waiting.sort_unstable_by(|a, b| b.cmp(a));
    }

    fn event(&mut self, received_at: Timestamp) -> Event {
        let rank = self.accounts.sample(&mut self.random);
        let users = (USERS_MAX / rank).max(3.0);
        // Its parameters are in range, whatever the rank.
        let user = Zipf::new(users, USER_SKEW).map_or(1.0, |zipf| zipf.sample(&mut self.random));
        let event_type = self.event_type();
        let payload = self.payload(&event_type);
        // Half of the senders tell when it happened, up to two seconds before.
        let late = self.random.random_range(0..4_000_000_i64);
        let occurred_at =
            (late < 2_000_000).then(|| Timestamp::from_micros(received_at.micros() - late));
        Event {
            id: self.id(received_at),
            org_id: self.plan.org,
            event_type,
            payload,
            dedup_id: None,
            account_id: Some(format!("acct_{rank:07}")),
            user_id: Some(format!("user_{rank:07}_{user:04}")),
            occurred_at,
            received_at,
            trace_id: TraceId::from_bytes(self.random.random()),
            accept_span: None,
        }
    }

    fn event_type(&mut self) -> EventType {
        let mut drawn = self.random.random_range(0..100);
        for (event_type, share) in &self.types {
            if drawn < *share {
                return event_type.clone();
            }
            drawn -= share;
        }
        // The shares add up to 100.
        self.types.swap_remove(0).0
    }

    fn payload(&mut self, event_type: &EventType) -> Bytes {
        let random = &mut self.random;
        let number = random.random_range(1..1_000_000_u32);
        let amount = f64::from(random.random_range(100..50_000_u32)) / 100.0;
        let pick = |random: &mut Xoshiro256PlusPlus, all: &[&'static str]| {
            all.get(random.random_range(0..all.len())).copied().unwrap_or_default()
        };
        let currency = pick(random, &CURRENCIES);
        let payload = match event_type.as_str().split_once('.') {
            Some(("page", _)) => serde_json::json!({
                "path": pick(random, &PATHS), "referrer": pick(random, &PATHS),
                "milliseconds": random.random_range(20..4_000),
            }),
            Some(("order" | "invoice" | "payment", _)) => serde_json::json!({
                "order_id": format!("ord_{number}"), "amount": amount, "currency": currency,
                "items": random.random_range(1..9),
            }),
            Some(("user", _)) => serde_json::json!({
                "address": format!("192.0.2.{}", number % 254 + 1), "method": "password",
            }),
            _ => serde_json::json!({ "id": format!("obj_{number}"), "bytes": number }),
        };
        payload.to_string().into()
    }

    /// A UUIDv7 of that time.
    fn id(&mut self, at: Timestamp) -> EventId {
        let mut random = [0; 10];
        self.random.fill_bytes(&mut random);
        let millis = u64::try_from(at.micros() / 1_000).unwrap_or(0);
        let uuid: Uuid = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        EventId::from_uuid(uuid)
    }
}

/// How much traffic there is in so many minutes: a minute of mean traffic has 1.
fn traffic(minutes: f64) -> f64 {
    // The integral of 1 + swing * sin(turn * minute).
    let turn = std::f64::consts::TAU / DAY_MINUTES;
    minutes + DAILY_SWING / turn * (1.0 - (turn * minutes).cos())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn plan(events: u64) -> Plan {
        let until: Timestamp = "2026-03-08T10:00:00Z".parse().unwrap();
        let from = Timestamp::from_micros(until.micros() - 7 * 1_440 * MINUTE_MICROS);
        Plan { org: OrgId::FIRST, events, from, until, accounts: 10_000, seed: 7 }
    }

    fn all(plan: Plan, batch: usize) -> Vec<Arc<Event>> {
        let mut maker = EventMaker::new(plan).unwrap();
        let mut events = Vec::new();
        loop {
            let next = maker.next_batch(batch);
            if next.is_empty() {
                return events;
            }
            events.extend(next);
        }
    }

    #[test]
    fn same_seed_makes_the_same_events_in_batches_of_any_size() {
        let events = all(plan(5_000), 1_000);
        assert_eq!(events, all(plan(5_000), 333));
        assert_ne!(events, all(Plan { seed: 8, ..plan(5_000) }, 1_000));
    }

    #[test]
    fn events_are_as_many_as_asked_for_in_order_and_within_the_time() {
        let (plan, events) = (plan(20_000), all(plan(20_000), 5_000));
        assert_eq!(events.len(), 20_000);
        assert!(events.is_sorted_by_key(|event| event.received_at));
        let within = |event: &Arc<Event>| (plan.from..plan.until).contains(&event.received_at);
        assert!(events.iter().all(within));
        let ids = |event: &Arc<Event>| event.id.minted_at() == Some(event.received_at.floor_ms());
        assert!(events.iter().all(ids));
    }

    #[test]
    fn one_account_has_a_fifth_and_most_have_few() {
        let events = all(plan(20_000), 5_000);
        let mut accounts: HashMap<&str, usize> = HashMap::new();
        for event in &events {
            *accounts.entry(event.account_id.as_deref().unwrap()).or_default() += 1;
        }
        let largest = accounts.values().max().unwrap();
        assert!((3_400..4_800).contains(largest), "{largest}");
        let few = accounts.values().filter(|events| **events < 5).count();
        assert!(few > accounts.len() / 2, "{few} of {}", accounts.len());
    }

    #[test]
    fn payloads_are_json_and_shares_of_types_add_up() {
        assert_eq!(TYPES.iter().map(|(_, share)| share).sum::<u32>(), 100);
        for event in all(plan(500), 500) {
            assert!(
                serde_json::from_slice::<serde_json::Value>(&event.payload).unwrap().is_object()
            );
        }
    }
}
