//! The hash queue: decides who may compute the next Argon2id hash.
//!
//! A hash costs 19 MiB and the time of ten thousand look-ups, so few run at once. The others wait in one of three
//! classes, which take turns: operators, keys of organisations that are verified, and keys that are issued to them.
//! Within a class organisations take turns. So whoever asks waits for at most two hashes of other classes and one
//! of each other organisation per turn, however many one organisation asks for.
//!
//! A class has a bound on its waiting callers, and an organisation may have at most as many of them as are still
//! free: half of the class if it is alone. Whoever exceeds either is refused at once.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::domain::{OrgId, Role};

/// Maximum hashes at once, however many cores there are: 152 MiB.
const RUNNING_MAX: usize = 8;
/// Maximum operators' hashes that wait.
const OPERATORS_WAITING_MAX: usize = 32;
/// Maximum verifications that wait, about ten seconds' worth on a small machine.
const VERIFICATIONS_WAITING_MAX: usize = 512;
/// Maximum keys that wait to be issued.
const ISSUES_WAITING_MAX: usize = 64;
/// The number of classes.
const CLASSES: usize = 3;

/// What a hash is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HashPurpose {
    /// To verify a key.
    Verify,
    /// To issue a key.
    Issue,
}

/// Limits concurrent hashes to half the CPU cores, so that they leave CPU and memory for everything else. Clones
/// share it.
#[derive(Clone)]
pub(super) struct HashQueue(Arc<Shared>);

struct Shared {
    running_max: usize,
    state: Mutex<HashTurns>,
}

struct HashTurns {
    running: usize,
    /// Operators, verifications, issues.
    classes: [Class; CLASSES],
    /// The class whose turn is next.
    turn: usize,
}

/// Callers that wait for the same kind of hash, by organisation.
struct Class {
    lanes: HashMap<Option<OrgId>, VecDeque<Waiter>>,
    /// The keys of `lanes`, in the order of their turns.
    turns: VecDeque<Option<OrgId>>,
    waiting: usize,
    waiting_max: usize,
}

type Waiter = oneshot::Sender<HashPermit>;

/// The right to compute one hash. Dropping it lets the next caller compute one.
pub(super) struct HashPermit(Option<Arc<Shared>>);

impl HashQueue {
    /// A queue for this machine.
    pub(super) fn new() -> Self {
        Self::with_running_max(num_cpus::get().div_ceil(2).min(RUNNING_MAX))
    }

    fn with_running_max(running_max: usize) -> Self {
        let classes =
            [OPERATORS_WAITING_MAX, VERIFICATIONS_WAITING_MAX, ISSUES_WAITING_MAX].map(Class::new);
        let state = Mutex::new(HashTurns { running: 0, classes, turn: 0 });
        Self(Arc::new(Shared { running_max, state }))
    }

    /// Waits for the permit to compute a hash on behalf of `role`; `None` if too many wait already.
    pub(super) async fn acquire(&self, role: Role, purpose: HashPurpose) -> Option<HashPermit> {
        let (org, class) = match (role, purpose) {
            (Role::Operator, _) => (None, 0),
            (Role::Tenant(org), HashPurpose::Verify) => (Some(org), 1),
            (Role::Tenant(org), HashPurpose::Issue) => (Some(org), 2),
        };
        let permit = {
            let mut state = self.0.lock();
            if state.running < self.0.running_max {
                state.running += 1;
                return Some(HashPermit(Some(Arc::clone(&self.0))));
            }
            let (waiter, permit) = oneshot::channel();
            state.classes.get_mut(class)?.push(org, waiter)?;
            permit
        };
        permit.await.ok()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashTurns> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HashTurns {
    /// The caller whose turn it is.
    fn next(&mut self) -> Option<Waiter> {
        for _ in 0..CLASSES {
            let class = self.classes.get_mut(self.turn)?;
            self.turn = (self.turn + 1) % CLASSES;
            if let Some(waiter) = class.pop() {
                return Some(waiter);
            }
        }
        None
    }
}

impl Class {
    fn new(waiting_max: usize) -> Self {
        Self { lanes: HashMap::new(), turns: VecDeque::new(), waiting: 0, waiting_max }
    }

    /// Adds a caller; `None` if its organisation, or the class, has too many.
    fn push(&mut self, org: Option<OrgId>, waiter: Waiter) -> Option<()> {
        if !self.admits(org) {
            // Callers that went away hold their places until their turn, or until somebody needs them.
            self.drop_abandoned();
            if !self.admits(org) {
                return None;
            }
        }
        let lane = self.lanes.entry(org).or_default();
        if lane.is_empty() {
            self.turns.push_back(org);
        }
        lane.push_back(waiter);
        self.waiting += 1;
        Some(())
    }

    fn admits(&self, org: Option<OrgId>) -> bool {
        let free = self.waiting_max - self.waiting;
        let held = self.lanes.get(&org).map_or(0, VecDeque::len);
        free > 0 && (held == 0 || held < free)
    }

    fn drop_abandoned(&mut self) {
        self.lanes.retain(|_, lane| {
            lane.retain(|waiter| !waiter.is_closed());
            !lane.is_empty()
        });
        self.turns.retain(|org| self.lanes.contains_key(org));
        self.waiting = self.lanes.values().map(VecDeque::len).sum();
    }

    fn pop(&mut self) -> Option<Waiter> {
        let org = self.turns.pop_front()?;
        let lane = self.lanes.get_mut(&org)?;
        let waiter = lane.pop_front()?;
        self.waiting -= 1;
        if lane.is_empty() {
            self.lanes.remove(&org);
        } else {
            self.turns.push_back(org);
        }
        Some(waiter)
    }
}

impl Drop for HashPermit {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = shared.lock();
                let next = state.next();
                if next.is_none() {
                    state.running -= 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Self(Some(Arc::clone(&shared)))) {
                Ok(()) => return,
                // Its caller went away. The permit that came back must not pass itself on, too.
                Err(mut permit) => permit.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::{BoxFuture, join_all};

    use super::*;
    use crate::domain::Timestamp;

    fn some_org() -> Role {
        Role::Tenant(OrgId::mint(Timestamp::from_micros(1)))
    }

    type Waiting = BoxFuture<'static, Option<HashPermit>>;

    /// A caller that has asked, and waits.
    fn ask(queue: &HashQueue, role: Role, purpose: HashPurpose) -> Waiting {
        let queue = queue.clone();
        let mut waiting = async move { queue.acquire(role, purpose).await }.boxed();
        assert!((&mut waiting).now_or_never().is_none(), "it has to wait");
        waiting
    }

    fn is_refused(queue: &HashQueue, role: Role, purpose: HashPurpose) -> bool {
        matches!(queue.acquire(role, purpose).now_or_never(), Some(None))
    }

    /// Whether a caller has its permit now.
    fn granted(waiting: &mut Waiting) -> Option<HashPermit> {
        waiting.now_or_never().flatten()
    }

    #[test]
    fn organisation_that_asks_for_many_leaves_capacity_to_others_and_to_operators() {
        for (purpose, waiting_max) in [
            (HashPurpose::Issue, ISSUES_WAITING_MAX),
            (HashPurpose::Verify, VERIFICATIONS_WAITING_MAX),
        ] {
            let queue = HashQueue::with_running_max(1);
            let greedy = some_org();
            let running = queue.acquire(greedy, purpose).now_or_never().flatten().unwrap();
            let mut waiting: Vec<_> =
                (0..waiting_max / 2).map(|_| ask(&queue, greedy, purpose)).collect();
            assert!(is_refused(&queue, greedy, purpose));
            let mut other = ask(&queue, some_org(), purpose);
            let mut operator = ask(&queue, Role::Operator, purpose);
            drop(running);
            // The operators' class, the organisation that asked first, the other one.
            let first = granted(&mut operator).unwrap();
            drop(first);
            let second = granted(&mut waiting[0]).unwrap();
            drop(second);
            let _third = granted(&mut other).unwrap();
            assert!(granted(&mut waiting[1]).is_none());
        }
    }

    #[test]
    fn issues_and_verifications_take_turns() {
        let queue = HashQueue::with_running_max(1);
        let running = queue.acquire(some_org(), HashPurpose::Issue).now_or_never().flatten();
        let mut issues: Vec<_> =
            (0..20).map(|_| ask(&queue, some_org(), HashPurpose::Issue)).collect();
        let mut verification = ask(&queue, some_org(), HashPurpose::Verify);
        drop(running);
        let mut hashes = 0;
        let found = loop {
            if let Some(permit) = granted(&mut verification) {
                break permit;
            }
            hashes += issues.iter_mut().filter_map(granted).count();
        };
        drop(found);
        assert!(hashes <= 1, "{hashes} keys were issued first");
    }

    #[test]
    fn callers_that_went_away_hold_nothing() {
        let queue = HashQueue::with_running_max(1);
        let org = some_org();
        let running = queue.acquire(org, HashPurpose::Issue).now_or_never().flatten();
        for _ in 0..3 {
            let waiting: Vec<_> =
                (0..ISSUES_WAITING_MAX / 2).map(|_| ask(&queue, org, HashPurpose::Issue)).collect();
            drop(waiting);
        }
        let mut last = ask(&queue, org, HashPurpose::Issue);
        drop(running);
        drop(granted(&mut last).unwrap());
        let state = queue.0.lock();
        assert_eq!(state.running, 0);
        assert!(state.classes.iter().all(|class| class.waiting == 0 && class.lanes.is_empty()));
    }

    #[tokio::test]
    async fn every_waiting_caller_gets_a_permit_in_the_end() {
        let queue = HashQueue::with_running_max(3);
        let orgs = [(); 7].map(|()| some_org());
        let asked = (0..40).map(|n| {
            let (queue, org) = (queue.clone(), orgs[n % orgs.len()]);
            async move {
                let permit = queue.acquire(org, HashPurpose::Issue).await;
                tokio::task::yield_now().await;
                permit.is_some()
            }
        });
        assert!(join_all(asked).await.into_iter().all(|granted| granted));
        assert_eq!(queue.0.lock().running, 0);
    }
}
