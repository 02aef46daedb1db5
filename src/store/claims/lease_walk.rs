//! Ends leases token by token range where some cannot be read, so that those do not keep the others leased.
//!
//! A damaged row makes every range of tokens fail that includes its token, and a damaged page of an index every range that
//! touches a stretch of tokens. The walk finds the first token that fails, by halving what is ahead of it, and where the stretch
//! ends, by trying tokens at growing distances, and goes on behind it. Each takes as many statements as a token has
//! bits, at most; so a walk has a budget of statements and of time, and the next one goes on where it stopped. Every range is
//! reached in the end.
//!
//! Readable tokens between two stretches may be taken for part of them where they span less than the first one.

use std::time::Duration;

use crate::runtime::Stopwatch;
use crate::store::Result;

/// Statements of one walk, at most; a stretch that fails is passed beyond that, in less than four hundred.
const STATEMENTS_MAX: usize = 512;
/// The time after which a walk goes no further than behind the stretch that it is at. Claims wait for it.
const TIME_MAX: Duration = Duration::from_secs(1);

/// The token from which the next walk goes on; its default is the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseCursor(u128);

/// A walk over all tokens.
pub(super) struct LeaseWalk<F> {
    /// Ends the lapsed leases of the tokens from one to another, and returns how many.
    release: F,
    /// How many it ends at a time, at most.
    most: u64,
    statements_left: usize,
    began: Stopwatch,
    time_max: Duration,
    released: u64,
}

impl<F, R> LeaseWalk<F>
where
    F: FnMut(u128, u128) -> R + Send,
    R: Future<Output = Result<u64>> + Send,
{
    pub(super) fn new(release: F, most: u64) -> Self {
        let (statements_left, began) = (STATEMENTS_MAX, Stopwatch::start());
        Self { release, most, statements_left, began, time_max: TIME_MAX, released: 0 }
    }

    /// Whether the walk is to stop behind the stretch that it is at.
    fn is_spent(&self) -> bool {
        self.statements_left == 0 || self.began.elapsed() >= self.time_max
    }

    /// Walks from a token to the one before it, and returns how many leases have ended and where the next walk goes on.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub(super) async fn run(mut self, from: LeaseCursor) -> Result<(u64, LeaseCursor)> {
        let LeaseCursor(start) = from;
        let before = start.checked_sub(1).map(|last| (0, last));
        let mut is_begun = false;
        for (first, last) in [Some((start, u128::MAX)), before].into_iter().flatten() {
            let mut next = Some(first);
            while let Some(first) = next {
                if is_begun && self.is_spent() {
                    return Ok((self.released, LeaseCursor(first)));
                }
                next = self.pass(first, last).await?;
                is_begun = true;
            }
        }
        Ok((self.released, LeaseCursor::default()))
    }

    /// Ends leases up to the first stretch that fails, and returns the token behind that, unless all is passed.
    async fn pass(&mut self, first: u128, last: u128) -> Result<Option<u128>> {
        if self.release(first, last).await? {
            return Ok(None);
        }
        let (mut low, mut high) = (first, last);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.release(low, middle).await? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.end_of_stretch(low, last).await
    }

    /// The token behind a stretch that fails, by a token of it.
    async fn end_of_stretch(&mut self, mut failing: u128, last: u128) -> Result<Option<u128>> {
        let mut distance: u128 = 1;
        let mut readable = loop {
            if failing == last {
                return Ok(None);
            }
            let token = failing.saturating_add(distance).min(last);
            if self.release(token, token).await? {
                break token;
            }
            failing = token;
            distance = distance.saturating_mul(2);
        };
        while readable - failing > 1 {
            let middle = failing + (readable - failing) / 2;
            if self.release(middle, middle).await? {
                readable = middle;
            } else {
                failing = middle;
            }
        }
        Ok(Some(readable))
    }

    /// Ends the leases of a range of tokens. `false` when that fails although the store can be reached.
    async fn release(&mut self, first: u128, last: u128) -> Result<bool> {
        loop {
            self.statements_left = self.statements_left.saturating_sub(1);
            match (self.release)(first, last).await {
                Ok(released) => {
                    self.released += released;
                    if released < self.most || self.is_spent() {
                        return Ok(true);
                    }
                }
                Err(error) if error.is_connection() => return Err(error),
                Err(_) => return Ok(false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::StoreError;

    /// Leases by token, and stretches of tokens that fail.
    struct FakeLeases {
        tokens: BTreeSet<u128>,
        failing: Vec<(u128, u128)>,
        statements: usize,
    }

    impl FakeLeases {
        /// As two servers have them: many near each other, whose first half is the same.
        fn new() -> Self {
            let of_server = |server: u128| {
                (0..1_000_u128).map(move |n| (server << 64) + n * 18_000_000_000_000_001)
            };
            let tokens = [1, 3].into_iter().flat_map(of_server).collect();
            Self { tokens, failing: Vec::new(), statements: 0 }
        }

        fn nth(&self, number: usize) -> u128 {
            *self.tokens.iter().nth(number).unwrap()
        }

        fn release(&mut self, first: u128, last: u128) -> Result<u64> {
            self.statements += 1;
            if self.failing.iter().any(|(from, to)| first <= *to && *from <= last) {
                return Err(StoreError::Corrupt("a page is damaged".into()));
            }
            let lapsed: Vec<u128> = self.tokens.range(first..=last).take(100).copied().collect();
            for token in &lapsed {
                self.tokens.remove(token);
            }
            Ok(lapsed.len() as u64)
        }

        async fn walk(&mut self, from: LeaseCursor) -> (u64, LeaseCursor) {
            self.statements = 0;
            let release = |first, last| std::future::ready(self.release(first, last));
            let walk = LeaseWalk { time_max: Duration::MAX, ..LeaseWalk::new(release, 100) };
            let walked = walk.run(from).await.unwrap();
            assert!(self.statements < STATEMENTS_MAX + 400, "{}", self.statements);
            walked
        }
    }

    #[tokio::test]
    async fn two_unreadable_tokens_stay_leased_alone() {
        let mut leases = FakeLeases::new();
        let unreadable = [leases.nth(300), leases.nth(700)];
        leases.failing = unreadable.map(|token| (token, token)).into();
        let (released, next) = leases.walk(LeaseCursor::default()).await;
        assert_eq!((released, next), (1_998, LeaseCursor::default()));
        assert!(leases.tokens.iter().eq(&unreadable));
    }

    #[tokio::test]
    async fn unreadable_page_of_tokens_keeps_none_before_or_behind_it_leased() {
        let mut leases = FakeLeases::new();
        // It begins and ends between two tokens.
        leases.failing = vec![(leases.nth(299) + 1, leases.nth(400) - 1)];
        let (released, next) = leases.walk(LeaseCursor::default()).await;
        assert_eq!((released, next), (1_900, LeaseCursor::default()));
    }

    #[tokio::test]
    async fn walk_goes_on_where_the_last_one_stopped_until_every_range_was_reached() {
        let mut leases = FakeLeases::new();
        let unreadable: Vec<u128> = (0..40).map(|n| leases.nth(n * 50)).collect();
        leases.failing = unreadable.iter().map(|token| (*token, *token)).collect();
        let (mut next, mut walks) = (LeaseCursor::default(), 0);
        while leases.tokens.len() > unreadable.len() {
            (_, next) = leases.walk(next).await;
            walks += 1;
            assert!(walks <= 20, "{} are left", leases.tokens.len());
        }
        assert!(leases.tokens.iter().eq(&unreadable));
        assert!(walks > 1);
    }

    #[tokio::test]
    async fn walk_without_time_passes_one_stretch_and_the_next_goes_on_behind_it() {
        let mut leases = FakeLeases::new();
        let unreadable: Vec<u128> = (0..4).map(|n| leases.nth(n * 500)).collect();
        leases.failing = unreadable.iter().map(|token| (*token, *token)).collect();
        let (mut next, mut stretches) = (LeaseCursor::default(), Vec::new());
        for _ in &unreadable {
            let release = |first, last| std::future::ready(leases.release(first, last));
            let walk = LeaseWalk { time_max: Duration::ZERO, ..LeaseWalk::new(release, 100) };
            (_, next) = walk.run(next).await.unwrap();
            stretches.push(next.0);
        }
        assert!(stretches.iter().zip(&unreadable).all(|(next, token)| *next == token + 1));
        // What it had no time for comes with a later round.
        for _ in 0..3 {
            (_, next) = leases.walk(next).await;
        }
        assert!(leases.tokens.iter().eq(&unreadable));
    }

    #[tokio::test]
    async fn walk_ends_where_nothing_can_be_read() {
        let mut leases = FakeLeases::new();
        leases.failing = vec![(0, u128::MAX)];
        assert_eq!(leases.walk(LeaseCursor(7)).await, (0, LeaseCursor::default()));
        leases.failing.clear();
        assert_eq!(leases.walk(LeaseCursor(u128::MAX)).await.0, 2_000);
    }
}
