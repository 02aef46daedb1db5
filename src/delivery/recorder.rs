//! The recorder: writes outcomes to the store in batches.
//!
//! A commit costs the store about as much for three hundred outcomes as for one.
//!
//! # Failure
//! - While the store cannot be reached, the recorder keeps its batch and retries with exponential backoff. Its
//!   queue fills, finished attempts wait for it and keep their slots, and no new attempts start: an outage
//!   stops sending instead of filling the memory. Nothing is claimed until all that waited is recorded: it could be
//!   what was delivered (`recorder_backlog`).
//! - A batch that the store rejects, or does not take three times although it is reached, is halved until the outcomes
//!   at fault are alone; the others are recorded. An outcome that the store rejects, or still does not take after it has
//!   recorded another one of its kind, is set aside: it is logged, remembered and dropped. Its lease lapses, and this
//!   server does not attempt the delivery again.
//! - An outcome that is not taken while no other of its kind was recorded since is held, and tried again with backoff: a
//!   damaged page looks like a table that is missing for everybody. Successes and failures are of different
//!   kinds, since they are written to different tables. Claims go on while few are held, since their outcomes tell, and
//!   what is held is not attempted again; trying one in vain again does not stop them. Beyond that it counts as a store
//!   that cannot be reached.
//! - What is held when the server stops is tried once more.
//!
//! An outcome is lost only together with its lease, which keeps delivery at least once.

use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{Decision, DeliveryId, EndpointId, LeasedDelivery, Outcome};
use crate::runtime::{Backoff, Clock, Heartbeat, Stopwatch};
use crate::store::{Store, StoreError};

use super::dispatch::Dispatch;
use super::health::Recording;
use super::outcome_report::OutcomeReport;
use super::recorder_batch::{
    BACKOFF_FIRST, BACKOFF_MAX, BATCH_OUTCOMES_MAX, Batch, Tried, Unrecorded,
};
use super::wakes::OutcomeWakes;

/// Capacity of the recorder's queue. While it is full, finished attempts keep their slots.
pub(super) const QUEUE_OUTCOMES: usize = 1024;
/// How long the first outcome of a batch waits for others, unless an ordered endpoint's next delivery waits
/// for one of them. Short compared with a retry's wait, and long enough to keep a busy store from committing
/// for every few outcomes.
const LINGER: Duration = Duration::from_millis(10);
/// How often a batch is tried that the store is reached for and does not record.
const TRIES_MAX: u32 = 3;
/// Outcomes that are tried alone while the store records nothing else; the rest of the batch is then held untried.
const DOUBTS_MAX: usize = 3;
/// Held outcomes beyond which nothing is claimed.
const HELD_MAX: usize = 16;

/// Receives outcomes and records them.
pub(super) struct Recorder {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) dispatch: Dispatch,
    pub(super) reports: mpsc::Receiver<OutcomeReport>,
    /// Deliveries whose leases are released.
    pub(super) released: mpsc::UnboundedReceiver<LeasedDelivery>,
    pub(super) batch: Batch,
    /// Wakes those who wait for the outcome of an attempt.
    pub(super) wakes: OutcomeWakes,
    /// Beats when the store has recorded outcomes.
    pub(super) progress: Heartbeat,
    /// Tells how long the outcomes at hand have been waiting for the store.
    pub(super) recording: Recording,
}

impl Recorder {
    /// Runs until every sender of outcomes is dropped and all are recorded.
    pub(super) async fn run(mut self) {
        while self.run_once().await {}
    }

    /// Waits for an outcome and records one batch. `false` if every sender is dropped.
    pub(super) async fn run_once(&mut self) -> bool {
        let open = self.receive().await;
        self.record().await;
        if !open {
            for outcome in self.batch.held.drain(..) {
                tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id,
                    "cannot record an outcome before the server stops; the delivery is attempted again");
            }
        }
        open
    }

    /// Records everything that was sent so far, without waiting for more.
    pub(super) async fn flush(&mut self) {
        loop {
            self.take_now();
            if self.batch.is_empty() {
                break;
            }
            self.record().await;
        }
        if !self.batch.held.is_empty() {
            self.record().await;
        }
    }

    fn take_now(&mut self) {
        while self.batch.len() < BATCH_OUTCOMES_MAX
            && let Ok(report) = self.reports.try_recv()
        {
            self.batch.received.push(report);
        }
        while self.batch.len() < BATCH_OUTCOMES_MAX
            && let Ok(delivery) = self.released.try_recv()
        {
            self.batch.released.push(delivery);
        }
    }

    async fn receive(&mut self) -> bool {
        if self.batch.is_empty() {
            let wait = self.batch.retry_wait();
            let received = match self.batch.held.len() {
                0 => self.receive_more().await,
                BATCH_OUTCOMES_MAX.. => {
                    tokio::time::sleep(wait).await;
                    return true;
                }
                _ => match tokio::time::timeout(wait, self.receive_more()).await {
                    Ok(received) => received,
                    Err(_) => return true,
                },
            };
            if !received {
                self.take_now();
                return !self.batch.is_empty();
            }
        }
        let fill = async { while !self.batch.is_complete() && self.receive_more().await {} };
        // Full or not: the batch is recorded now.
        let _ = tokio::time::timeout(LINGER, fill).await;
        true
    }

    /// Receives what is there, at least one. `false` when every sender of outcomes is dropped.
    async fn receive_more(&mut self) -> bool {
        let Self { reports, released, batch, .. } = self;
        let free = BATCH_OUTCOMES_MAX.saturating_sub(batch.len()).max(1);
        tokio::select! {
            count = reports.recv_many(&mut batch.received, free) => count > 0,
            // It closes with the dispatcher at the earliest.
            Some(delivery) = released.recv() => {
                batch.released.push(delivery);
                true
            }
        }
    }

    async fn record(&mut self) {
        self.batch.prepare(&self.clock);
        if self.recording.age().is_none() {
            self.recording.begin();
        }
        let tries_held = self.batch.tries_held();
        let unrecorded = self.record_outcomes(tries_held).await;
        self.end_batch(unrecorded, tries_held);
    }

    /// Follows what became of the outcomes at hand.
    fn end_batch(&mut self, unrecorded: Unrecorded, tried_held: bool) {
        let Unrecorded { held, aside, at_fault } = unrecorded;
        {
            let mut known = self.dispatch.aside();
            self.batch.held.iter().for_each(|outcome| known.remove(outcome.delivery_id));
            let held = held.iter().map(|outcome| outcome.delivery_id);
            held.chain(aside).for_each(|delivery| known.add(delivery));
        }
        self.wake_waiters(&held);
        let attempts = self.batch.outcomes.iter().filter(|outcome| outcome.attempt.is_some());
        let attempts = attempts.count();
        self.batch.outcomes.clear();
        let is_held = |endpoint: &EndpointId| held.iter().any(|of| of.endpoint_id == *endpoint);
        let ordered = std::mem::take(&mut self.batch.ordered);
        let (waiting, ordered): (Vec<_>, Vec<_>) = ordered.into_iter().partition(is_held);
        if held.is_empty() {
            self.recording.end();
            (self.batch.held_tries, self.batch.held_since) = (0, None);
        } else if tried_held || self.batch.held.is_empty() {
            self.batch.held_tries = self.batch.held_tries.saturating_add(1);
            self.batch.held_since = Some(Stopwatch::start());
        }
        self.batch.at_fault = at_fault;
        // What is held counts as done: it is known, and not attempted again.
        let claims_resume = self.dispatch.backlog().done(attempts, held.len() > HELD_MAX);
        if claims_resume {
            self.dispatch.wake();
        }
        self.batch.held = held;
        self.batch.ordered = waiting;
        if !ordered.is_empty() {
            self.dispatch.ordered_recorded(&ordered);
        }
    }

    /// Wakes everybody who waits for one of the outcomes at hand, but for those that are held.
    fn wake_waiters(&self, held: &[Outcome]) {
        if self.wakes.is_empty() {
            return;
        }
        let held: HashSet<DeliveryId> = held.iter().map(|outcome| outcome.delivery_id).collect();
        let at_hand = self.batch.outcomes.iter().chain(&self.batch.held);
        for outcome in at_hand.filter(|outcome| outcome.attempt.is_some()) {
            if !held.contains(&outcome.delivery_id) {
                self.wakes.wake(outcome.delivery_id, usize::MAX);
            }
        }
    }

    /// Records the outcomes at hand, with `tries_held` those that are held, too, and returns those that the store does not
    /// take.
    async fn record_outcomes(&self, tries_held: bool) -> Unrecorded {
        let Batch { outcomes, held, at_fault, .. } = &self.batch;
        let (tried, untried): (&[_], &[_]) = if tries_held { (held, &[]) } else { (&[], held) };
        // The new ones first: they may show that the store takes others than those that are held.
        let mut parts = vec![(tried, Tried::Held), (outcomes.as_slice(), Tried::New)];
        let (mut doubtful, mut aside) = (Vec::new(), Vec::new());
        let mut has_failed = !held.is_empty();
        // The kinds of which outcomes were recorded after something had failed.
        let mut taken = HashSet::new();
        let is_alone = |taken: &HashSet<_>, outcome: &Outcome| {
            taken.contains(&kind(outcome)) || at_fault.contains(&outcome.delivery_id)
        };
        while let Some((part, tried)) = parts.pop() {
            match (self.write(part, tried).await, part) {
                // A stale outcome changes nothing, and shows nothing.
                (Ok(counted), part) if has_failed && counted == part.len() => {
                    taken.extend(part.iter().map(kind));
                }
                (Ok(_), _) => {}
                (Err(StoreError::Unavailable(_)), [outcome]) => {
                    has_failed = true;
                    doubtful.push(outcome);
                }
                (Err(error), [outcome]) => aside.push(set_aside(outcome, &error)),
                (Err(_), many) => {
                    has_failed = true;
                    let (first, second) = many.split_at(many.len() / 2);
                    parts.extend([(second, tried), (first, tried)]);
                }
            }
            if doubtful.len() >= DOUBTS_MAX
                && !doubtful.iter().any(|outcome| is_alone(&taken, outcome))
            {
                break;
            }
        }
        let is_alone = |outcome: &&Outcome| is_alone(&taken, outcome);
        let (alone, doubtful): (Vec<_>, Vec<_>) = doubtful.into_iter().partition(is_alone);
        let at_fault = untried.iter().filter(is_alone).map(|outcome| outcome.delivery_id).collect();
        // What was not tried comes first the next time.
        let parts = parts.into_iter().rev().flat_map(|(part, _)| part);
        let held = parts.chain(untried).chain(doubtful).cloned().collect();
        // Once more, since the store may not have taken anything when they were tried.
        for outcome in alone {
            if let Err(error) = self.write(std::slice::from_ref(outcome), Tried::Held).await {
                aside.push(set_aside(outcome, &error));
            }
        }
        Unrecorded { held, aside, at_fault }
    }

    /// Records outcomes, however long the store cannot be reached, and returns how many counted.
    ///
    /// # Errors
    /// When the store is reached and does not record them.
    async fn write(&self, outcomes: &[Outcome], tried: Tried) -> Result<usize, StoreError> {
        if outcomes.is_empty() {
            return Ok(0);
        }
        // Only a hard stop interrupts the waits.
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_MAX);
        let mut attempts = 0;
        loop {
            let error = match self.store.system().record_outcomes(outcomes).await {
                Ok(counted) => {
                    self.dispatch.backlog().succeeded();
                    self.progress.beat();
                    let stale = outcomes.len().saturating_sub(counted);
                    if stale > 0 {
                        tracing::debug!(
                            stale,
                            "ignored outcomes of lapsed leases and cancelled deliveries"
                        );
                    }
                    return Ok(counted);
                }
                Err(error @ StoreError::Unavailable(_)) => error,
                Err(error) => {
                    self.progress.beat();
                    return Err(error);
                }
            };
            // Held ones wait anyway. The others were recorded before them, unless the store has gone.
            if tried == Tried::New || error.is_connection() {
                self.dispatch.backlog().failed();
            }
            if backoff.is_first() {
                tracing::warn!(%error, "cannot record outcomes, retrying");
            }
            attempts += u32::from(!error.is_connection());
            if attempts >= TRIES_MAX {
                return Err(error);
            }
            backoff.sleep().await;
        }
    }
}

/// What is written for an outcome, as far as tables differ: whether there was an attempt, and what follows.
fn kind(outcome: &Outcome) -> (bool, Discriminant<Decision>) {
    (outcome.attempt.is_some(), discriminant(&outcome.decision))
}

/// Logs that an outcome is dropped, and returns its delivery.
fn set_aside(outcome: &Outcome, error: &StoreError) -> DeliveryId {
    tracing::error!(org = %outcome.org_id, delivery = %outcome.delivery_id, %error,
        "cannot record an outcome; this server does not attempt the delivery again");
    outcome.delivery_id
}

#[cfg(test)]
mod tests;
