//! Exponential backoff: waits that double up to a limit.

use std::time::Duration;

/// The waits between attempts at something that fails. Each one is twice as long as the one before, up to a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` up to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The next wait, without taking it.
    pub const fn peek(&self) -> Duration {
        self.next
    }

    /// Whether no wait was taken yet.
    pub fn is_first(&self) -> bool {
        self.next == self.first
    }

    /// Takes the next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait
    }

    /// Sleeps for the next wait.
    pub async fn sleep(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// Starts again from the first wait, after a success.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_again_after_a_reset() {
        let seconds = |wait: Duration| wait.as_secs();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert!(backoff.is_first());
        assert_eq!([(); 4].map(|()| seconds(backoff.next_wait())), [1, 2, 4, 5]);
        assert!(!backoff.is_first());
        backoff.reset();
        assert_eq!(seconds(backoff.peek()), 1);
    }
}
