//! The dispatcher: takes leased deliveries in, keeps the lanes, and starts attempts.
//!
//! It is one task, so the lanes need no lock. It waits for four things, a delivery handed over, an
//! attempt that has ended, a claim that has been answered, and the time to claim again, and after
//! each it starts whatever has a slot. Attempts and claims run as tasks of their own.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};

use crate::domain::{InstanceId, Lease, LeaseToken, LeasedDelivery, Timestamp};
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::{LeaseRoom, SharedStore, StoreError};
use crate::telemetry::Metrics;

use super::attempt::{Attempted, Attempter};
use super::lanes::{Lanes, Limits};
use super::vitals::Vitals;

/// Deliveries in one claim at the most.
const CLAIM_DELIVERIES_MAX: usize = 512;
/// Deliveries taken off the hand-over channel at a time.
const INBOX_BATCH_MAX: usize = 256;
/// Endpoints that one claim leaves out at the most. More would make its statement slow; one too many
/// claimed for costs nothing but room.
const EXCEPT_ENDPOINTS_MAX: usize = 256;
/// One part in so many of the lanes' room is kept for claims: however fast new deliveries are handed
/// over, due retries get in.
const CLAIM_SHARE: usize = 8;
/// How much of a lease must be left when its attempt times out, for recording the outcome and for
/// clocks that are set meanwhile. Of a short lease, a quarter.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// How the dispatcher works.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// What the lanes may hold.
    pub(super) limits: Limits,
    /// An attempt has ended by then.
    pub(super) timeout: Duration,
    /// Whose leases claims are.
    pub(super) instance: InstanceId,
    /// How long a claim leases for.
    pub(super) lease: Duration,
    /// How often to claim.
    pub(super) poll_interval: Duration,
}

impl Options {
    /// Room that only claims may take.
    fn claim_reserve(&self) -> usize {
        self.limits.capacity / CLAIM_SHARE
    }
}

/// The dispatcher and all it holds in memory.
pub(super) struct Dispatcher {
    pub(super) options: Options,
    pub(super) store: SharedStore,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) attempter: Arc<Attempter>,
    pub(super) wake: Wake,
    pub(super) inbox: Inbox,
    pub(super) lanes: Lanes<LeasedDelivery>,
    pub(super) claims: Claims,
    pub(super) steps: JoinSet<Step>,
    pub(super) vitals: Vitals,
}

/// Where deliveries are handed over that are leased already.
#[derive(Debug)]
pub(super) struct Inbox {
    deliveries: mpsc::Receiver<LeasedDelivery>,
    batch: Vec<LeasedDelivery>,
    open: bool,
}

impl Inbox {
    pub(super) fn new(deliveries: mpsc::Receiver<LeasedDelivery>) -> Self {
        Self { deliveries, batch: Vec::with_capacity(INBOX_BATCH_MAX), open: true }
    }
}

/// Where the claiming stands.
#[derive(Debug, Default)]
pub(super) struct Claims {
    hunger: Hunger,
    under_way: bool,
    failing: bool,
}

/// Whether to claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Hunger {
    /// Not before the next poll or wake.
    #[default]
    Sated,
    /// There is more in the store, since the last claim came back full or passed a lane by that has
    /// run low since: as soon as there is room worth a statement.
    More,
    /// The time has come: with whatever room there is.
    Due,
}

/// What a task of the dispatcher's ended with.
#[derive(Debug)]
pub(super) enum Step {
    /// An attempt.
    Attempted(Attempted),
    /// A claim for `room` deliveries.
    Claimed { room: usize, answer: Result<Vec<LeasedDelivery>, StoreError> },
}

impl Dispatcher {
    /// Works until the soft stop; then hands back what was not started and waits for what was.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let wake = self.wake.clone();
        let poll_interval = self.options.poll_interval;
        let mut soft_stop = pin!(shutdown.requested());
        let mut nap = pin!(wake.sleep(Duration::ZERO));
        loop {
            self.start_attempts();
            self.start_claim();
            self.show();
            let inbox_room = self.inbox_room();
            tokio::select! {
                () = &mut soft_stop => break,
                Some(step) = self.steps.join_next() => self.finish(step).await,
                taken = self.inbox.deliveries.recv_many(&mut self.inbox.batch, inbox_room),
                    if self.inbox.open && inbox_room > 0 =>
                {
                    self.inbox.open = taken > 0;
                    self.take_in().await;
                }
                () = &mut nap => {
                    self.claims.hunger = Hunger::Due;
                    nap.set(wake.sleep(poll_interval));
                }
            }
        }
        self.stop().await;
    }

    /// Claims once, attempts all it got and whatever was handed over, and returns how many were
    /// attempted. For tests, which decide when it is time.
    pub(super) async fn run_once(&mut self) -> Result<usize, StoreError> {
        let (room, claim) = self.claim();
        let claimed = claim.await;
        self.claims.under_way = false;
        match claimed {
            Ok(claimed) => self.admit(room, claimed),
            Err(error) => {
                self.admit(room, Vec::new());
                return Err(error);
            }
        }
        while self.inbox.batch.len() < self.inbox_room().min(INBOX_BATCH_MAX)
            && let Ok(delivery) = self.inbox.deliveries.try_recv()
        {
            self.inbox.batch.push(delivery);
        }
        self.take_in().await;
        let mut attempted = self.start_attempts();
        while let Some(step) = self.steps.join_next().await {
            self.finish(step).await;
            attempted += self.start_attempts();
        }
        Ok(attempted)
    }

    /// How many handed-over deliveries may be taken in.
    fn inbox_room(&self) -> usize {
        let room = self.lanes.free().saturating_sub(self.options.claim_reserve());
        room.min(INBOX_BATCH_MAX)
    }

    /// Puts what was handed over into the lanes. A delivery whose lane has its share goes back to
    /// the store, which has room for any number.
    async fn take_in(&mut self) {
        for delivery in std::mem::take(&mut self.inbox.batch) {
            if let Err(delivery) = self.lanes.offer(delivery.endpoint.id, delivery) {
                self.attempter.hand_back(&delivery).await;
            }
        }
    }

    /// Starts what has a slot and returns how many that were.
    fn start_attempts(&mut self) -> usize {
        let mut started = 0;
        let mut lapsed = 0;
        let now = self.clock.now();
        while let Some((endpoint, delivery)) = self.lanes.next() {
            if !self.may_start(delivery.lease, now) {
                self.lanes.finish(endpoint);
                lapsed += 1;
                continue;
            }
            let attempter = Arc::clone(&self.attempter);
            self.steps.spawn(async move { Step::Attempted(attempter.attempt(delivery).await) });
            started += 1;
        }
        if lapsed > 0 {
            tracing::debug!(lapsed, "deliveries waited for too long and will be claimed anew");
        }
        started
    }

    /// Whether an attempt under this lease would end while the lease still holds. Beyond that,
    /// somebody else may be attempting the delivery at the same time, and this attempt's outcome
    /// would not count. Giving it up costs nothing: the lapse itself makes it due.
    fn may_start(&self, lease: Lease, now: Timestamp) -> bool {
        let margin = LEASE_MARGIN.min(self.options.lease / 4);
        now.plus(self.options.timeout).plus(margin) <= lease.until
    }

    fn start_claim(&mut self) {
        if self.lanes.take_ran_low() && self.claims.hunger == Hunger::Sated {
            self.claims.hunger = Hunger::More;
        }
        let room = self.lanes.claimable();
        let wanted = match self.claims.hunger {
            Hunger::Sated => return,
            Hunger::More => self.options.claim_reserve().clamp(1, CLAIM_DELIVERIES_MAX / 2),
            Hunger::Due => 1,
        };
        if self.claims.under_way || room < wanted {
            return;
        }
        let (room, claim) = self.claim();
        self.steps.spawn(async move { Step::Claimed { room, answer: claim.await } });
    }

    /// A claim, and the room that was reserved for it.
    fn claim(
        &mut self,
    ) -> (usize, impl Future<Output = Result<Vec<LeasedDelivery>, StoreError>> + use<>) {
        let full = self.lanes.full(EXCEPT_ENDPOINTS_MAX);
        let deliveries_max = self.lanes.reserve(CLAIM_DELIVERIES_MAX);
        self.claims.under_way = true;
        self.claims.hunger = Hunger::Sated;
        let now = self.clock.now();
        let lease = Lease {
            token: LeaseToken::mint(self.options.instance),
            until: now.plus(self.options.lease),
        };
        let store = Arc::clone(&self.store);
        let claim = async move {
            let room = LeaseRoom { lease, deliveries_max };
            store.claim_deliveries_across_orgs(room, &full, now).await
        };
        (deliveries_max, claim)
    }

    /// Takes in the end of one task, and of those that have ended besides.
    async fn finish(&mut self, step: Result<Step, JoinError>) {
        let mut next = Some(step);
        while let Some(step) = next {
            match unwind(step) {
                Step::Attempted(attempted) => self.attempted(attempted).await,
                Step::Claimed { room, answer } => self.claimed(room, answer),
            }
            next = self.steps.try_join_next();
        }
    }

    async fn attempted(&mut self, attempted: Attempted) {
        self.lanes.finish(attempted.endpoint);
        if attempted.gone {
            for delivery in self.lanes.empty(attempted.endpoint) {
                self.attempter.hand_back(&delivery).await;
            }
        }
    }

    fn claimed(&mut self, room: usize, answer: Result<Vec<LeasedDelivery>, StoreError>) {
        self.claims.under_way = false;
        match answer {
            Ok(claimed) => {
                self.claims.failing = false;
                self.vitals.progress.beat();
                if claimed.len() == room && self.claims.hunger == Hunger::Sated {
                    self.claims.hunger = Hunger::More;
                }
                self.admit(room, claimed);
            }
            Err(error) => {
                self.admit(room, Vec::new());
                // Once an outage; the next poll tries again.
                if !std::mem::replace(&mut self.claims.failing, true) {
                    tracing::warn!(%error, "due deliveries cannot be claimed");
                }
            }
        }
    }

    fn admit(&mut self, room: usize, claimed: Vec<LeasedDelivery>) {
        self.lanes
            .admit(room, claimed.into_iter().map(|delivery| (delivery.endpoint.id, delivery)));
    }

    /// The soft stop: nothing new, everything back that has not been started.
    async fn stop(mut self) {
        // Who holds a permit may still hand over; the channel ends when the last one is used or given up.
        self.inbox.deliveries.close();
        for delivery in self.lanes.empty_all() {
            self.attempter.hand_back(&delivery).await;
        }
        loop {
            self.show();
            tokio::select! {
                Some(step) = self.steps.join_next() => match unwind(step) {
                    Step::Attempted(attempted) => self.lanes.finish(attempted.endpoint),
                    Step::Claimed { room, answer } => {
                        self.admit(room, Vec::new());
                        for delivery in answer.unwrap_or_default() {
                            self.attempter.hand_back(&delivery).await;
                        }
                    }
                },
                handed_over = self.inbox.deliveries.recv(), if self.inbox.open => match handed_over {
                    Some(delivery) => self.attempter.hand_back(&delivery).await,
                    None => self.inbox.open = false,
                },
                else => break,
            }
        }
    }

    /// Shows those who watch how things stand, at every turn of the loop.
    fn show(&self) {
        self.vitals.dispatcher.beat();
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.delivery_queue_size.set(gauge(self.lanes.waiting()));
        self.metrics.webhooks_in_flight.set(gauge(self.lanes.under_way()));
    }
}

/// A task's end. One that panicked takes the dispatcher with it, and so the process: its slot and
/// its delivery would be lost to this one.
fn unwind(step: Result<Step, JoinError>) -> Step {
    match step {
        Ok(step) => step,
        Err(error) => std::panic::resume_unwind(Box::new(error.to_string())),
    }
}
