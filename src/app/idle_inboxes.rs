//! Pauses inboxes that nobody reads, so that what waits in them does not grow for ever.

use std::time::Duration;

use crate::delivery::DeliveryHandle;
use crate::domain::Timestamp;
use crate::runtime::{Clock, Shutdown};
use crate::store::{Result, Store};

/// Time between two rounds.
const ROUND: Duration = Duration::from_mins(1);
/// When more time than this lies between two rounds, the process or its machine stood still.
const ROUND_MAX: Duration = Duration::from_mins(2);
/// Rounds between two looks.
const ROUNDS_PER_LOOK: u32 = 10;
/// Steps of a look at most.
const STEPS_MAX: usize = 100;

/// Pauses inboxes that nobody reads.
#[derive(Debug)]
pub(super) struct IdleInboxes {
    store: Store,
    clock: Clock,
    delivery: DeliveryHandle,
    idle_max: Duration,
    reachable: Reachable,
}

impl IdleInboxes {
    /// Pauses those that nobody has read for `idle_max`.
    pub(super) const fn new(
        store: Store,
        clock: Clock,
        delivery: DeliveryHandle,
        idle_max: Duration,
    ) -> Self {
        let reachable = Reachable { rounds: 0, last: None };
        Self { store, clock, delivery, idle_max, reachable }
    }

    /// Looks for them until the soft stop, each time after consumers could read for a while.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        loop {
            let answered = self.store.ping().await.is_ok();
            if self.reachable.is_time_to_look(answered, self.clock.now())
                && let Err(error) = self.look().await
            {
                tracing::warn!(%error, "cannot pause inboxes that nobody reads, retrying");
                self.reachable.rounds = 0;
            }
            if !shutdown.next_round(ROUND).await {
                return;
            }
        }
    }

    /// Pauses those that are idle now.
    async fn look(&self) -> Result<()> {
        let now = self.clock.now();
        for _ in 0..STEPS_MAX {
            let paused =
                self.store.system().pause_idle_inboxes(now.minus(self.idle_max), now).await?;
            if paused.is_empty() {
                break;
            }
            for (org, _) in paused {
                self.delivery.endpoints_changed(org).await;
            }
        }
        Ok(())
    }
}

/// For how long consumers could read: nobody is to be paused because the server or its store was away. Once they are
/// back, those who want to read have the time between two looks for it.
#[derive(Debug)]
struct Reachable {
    /// Rounds in a row in which the store answered.
    rounds: u32,
    /// When the last round was.
    last: Option<Timestamp>,
}

impl Reachable {
    /// Notes whether the store answers in the round at `now`. Whether it has answered for long enough.
    fn is_time_to_look(&mut self, answered: bool, now: Timestamp) -> bool {
        let goes_on = self.last.is_some_and(|last| now.since(last) <= ROUND_MAX);
        self.last = Some(now);
        if !answered {
            self.rounds = 0;
            return false;
        }
        self.rounds = if goes_on { self.rounds + 1 } else { 1 };
        if self.rounds <= ROUNDS_PER_LOOK {
            return false;
        }
        // This round is the first one on the way to the next look.
        self.rounds = 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    /// The minutes of these in which it is time to look; the store answers except in `away`.
    fn looks(minutes: impl IntoIterator<Item = i64>, away: &[i64]) -> Vec<i64> {
        let mut reachable = Reachable { rounds: 0, last: None };
        let is_time = |minute: &i64| {
            let now = Timestamp::from_micros(minute * MINUTE);
            reachable.is_time_to_look(!away.contains(minute), now)
        };
        minutes.into_iter().filter(is_time).collect()
    }

    #[test]
    fn first_look_is_ten_minutes_after_the_start_and_so_is_each_next_one() {
        assert_eq!(looks(0..=35, &[]), [10, 20, 30]);
    }

    #[test]
    fn outage_of_the_store_puts_the_look_off_until_consumers_could_read_again() {
        assert_eq!(looks(0..=35, &[0, 1, 2]), [13, 23, 33]);
        assert_eq!(looks(0..=35, &[19]), [10, 30]);
        assert_eq!(looks(0..=35, &[20]), [10, 31]);
    }

    #[test]
    fn standstill_of_the_process_puts_the_look_off_too() {
        let month = 30 * 24 * 60;
        assert_eq!(looks((0..=9).chain(month..=month + 12), &[]), [month + 10]);
    }
}
