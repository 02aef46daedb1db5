//! `hookgate seed`: fills a store with made-up events, to try and to measure reading.
//!
//! Without a server events go into the store, accepted over the last days, and their organisation is dated back to the
//! first; with one they are posted to a server, which accepts them now, and their `timestamp` is in the last days.

mod events;
mod progress;
mod through_api;

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::CliError;
use super::store::Common;
use super::target::TargetArgs;
use crate::api::{Subsystems, orgs, seeding};
use crate::app::admin;
use crate::domain::{Actor, OrgChange, OrgId, Timestamp};
use crate::runtime::Clock;

use events::{EventMaker, Plan};
use progress::Progress;
use through_api::EventPoster;

const STORED_AT_ONCE: usize = 5_000;
const POSTED_AT_ONCE: usize = 1_000;
const MINUTE: i64 = 60_000_000;

#[derive(Args, Debug)]
pub(super) struct SeedArgs {
    /// How many events to make (1 to 5000000)
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    events: u64,
    /// The organisation they belong to, one without endpoints; unset: a new one named seed
    #[arg(long, value_name = "ID", conflicts_with_all = ["url", "api_key", "profile"])]
    org: Option<OrgId>,
    /// Days until now over which they are spread (1 to 365)
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=365))]
    days: u64,
    /// When the last ones are accepted; the same seed, time and organisation make the same events, which are stored
    /// once; unset: now
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Accounts, of which a few have most of the events (1 to 1000000)
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    accounts: u64,
    /// What the events are made from: another number makes others
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// With one of these, they are posted to the server instead, as the organisation of its key
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    common: Common,
}

/// What was made.
#[derive(Serialize)]
struct Seeded {
    /// `None` for events that were posted: the server knows the key's organisation.
    org_id: Option<OrgId>,
    events: u64,
    /// Events that were not there before; `None` for events that were posted.
    stored: Option<u64>,
    from: String,
    until: String,
    seconds: f64,
    events_per_second: f64,
}

/// Makes events and stores or posts them.
pub(super) async fn run(args: SeedArgs) -> Result<(), CliError> {
    let seeded = if args.target.is_given() {
        args.post(&EventPoster::new(&args.target.server()?)?).await?
    } else {
        args.store().await?
    };
    args.common.output.write(&seeded, text)?;
    Ok(())
}

impl SeedArgs {
    fn plan(&self, org: OrgId, now: Timestamp) -> Plan {
        let until = self.until.unwrap_or(now).micros().div_euclid(MINUTE) * MINUTE;
        let until = Timestamp::from_micros(until);
        let from = until.minus(Duration::from_hours(24 * self.days));
        let (events, accounts, seed) = (self.events, self.accounts, self.seed);
        Plan { org, events, from, until, accounts, seed }
    }

    async fn store(&self) -> Result<Seeded, CliError> {
        let subsystems = admin::open(&self.common.store).await?;
        let seeded = self.store_all(&subsystems).await;
        subsystems.store.close().await;
        seeded
    }

    async fn store_all(&self, subsystems: &Subsystems) -> Result<Seeded, CliError> {
        let org = if let Some(org) = self.org {
            org
        } else {
            let change = OrgChange { name: Some("seed".to_owned()), ..OrgChange::default() };
            orgs::create(subsystems, &change, &Actor::CLI).await?.id
        };
        let plan = self.plan(org, subsystems.clock.now());
        seeding::prepare(subsystems, org, (plan.from, plan.until)).await?;
        let (mut maker, mut progress) = (EventMaker::new(plan)?, Progress::new(self.events));
        let mut stored = 0;
        loop {
            let events = maker.next_batch(STORED_AT_ONCE);
            if events.is_empty() {
                return Ok(Seeded::new(Some(org), plan, Some(stored), &progress));
            }
            stored += seeding::store(subsystems, &events).await? as u64;
            progress.add(events.len() as u64);
        }
    }

    async fn post(&self, api: &EventPoster) -> Result<Seeded, CliError> {
        // Of no organisation: the key's owner gets them.
        let plan = self.plan(OrgId::FIRST, Clock::system().now());
        let (mut maker, mut progress) = (EventMaker::new(plan)?, Progress::new(self.events));
        loop {
            let events = maker.next_batch(POSTED_AT_ONCE);
            if events.is_empty() {
                return Ok(Seeded::new(None, plan, None, &progress));
            }
            api.post(&events).await?;
            progress.add(events.len() as u64);
        }
    }
}

impl Seeded {
    fn new(org_id: Option<OrgId>, plan: Plan, stored: Option<u64>, progress: &Progress) -> Self {
        Self {
            org_id,
            events: plan.events,
            stored,
            from: plan.from.to_string(),
            until: plan.until.to_string(),
            seconds: progress.seconds(),
            events_per_second: progress.rate().round(),
        }
    }
}

fn text(seeded: &Seeded) -> String {
    let Seeded { org_id, events, stored, from, until, seconds, events_per_second } = seeded;
    let whose = org_id.map_or(String::new(), |org| format!(" of organisation {org}"));
    let new = stored.map_or(String::new(), |stored| format!(", {stored} of them new"));
    format!(
        "{events} events{whose} from {from} until {until}{new}, in {seconds:.0} s, \
         {events_per_second:.0} per second"
    )
}
