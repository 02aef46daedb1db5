//! Group commit of what consumers settle: whoever comes first writes for all who wait.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use crate::domain::{EndpointId, EventId, Timestamp};
use crate::store::{InboxSettle, Result, Store};

/// Events that are settled in one transaction, at most, but for the first request of it.
const EVENTS_AT_ONCE: usize = 2_000;

/// What was settled.
type SettledKeys = HashSet<(EndpointId, EventId)>;

/// Writes what consumers settle. Clones share the queue, which holds what requests in progress wait for.
#[derive(Clone, Debug, Default)]
pub struct Settler(Arc<SettlerState>);

#[derive(Debug, Default)]
struct SettlerState {
    queue: Mutex<VecDeque<Request>>,
    /// Held by whoever writes.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Request {
    settles: Arc<[InboxSettle]>,
    settled: oneshot::Sender<SettledKeys>,
}

impl Settler {
    /// Settles events, see [`System::settle`](crate::store::System::settle), and returns those that were received. May
    /// be cancelled at any time: others write what they wait for themselves.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn settle(
        &self,
        store: &Store,
        settles: Vec<InboxSettle>,
        now: Timestamp,
    ) -> Result<SettledKeys> {
        let settles: Arc<[InboxSettle]> = settles.into();
        loop {
            let (sender, mut answer) = oneshot::channel();
            self.queue().push_back(Request { settles: Arc::clone(&settles), settled: sender });
            let write = tokio::select! {
                biased;
                Ok(settled) = &mut answer => return Ok(settled),
                write = self.0.writing.lock() => write,
            };
            let written = self.write_until_answered(store, &mut answer, now).await;
            drop(write);
            // Without an answer, whoever was about to write it has failed or was cancelled.
            if let Some(settled) = written? {
                return Ok(settled);
            }
        }
    }

    /// Writes what waits, in its order, until it is answered. Its caller has the right to write.
    async fn write_until_answered(
        &self,
        store: &Store,
        answer: &mut oneshot::Receiver<SettledKeys>,
        now: Timestamp,
    ) -> Result<Option<SettledKeys>> {
        loop {
            match answer.try_recv() {
                Ok(settled) => return Ok(Some(settled)),
                Err(TryRecvError::Closed) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            let batch = self.next_batch();
            let settles: Vec<InboxSettle> =
                batch.iter().flat_map(|request| request.settles.iter().copied()).collect();
            let settled: SettledKeys =
                store.system().settle(&settles, now).await?.into_iter().collect();
            for Request { settles, settled: sender } in batch {
                let own = settles.iter().map(|settle| (settle.inbox, settle.event));
                let own = own.filter(|event| settled.contains(event)).collect();
                // Its caller may be gone.
                let _ = sender.send(own);
            }
        }
    }

    fn next_batch(&self) -> Vec<Request> {
        let mut queue = self.queue();
        let (mut batch, mut events): (Vec<Request>, usize) = (Vec::new(), 0);
        while let Some(next) = queue.front() {
            if !batch.is_empty() && events + next.settles.len() > EVENTS_AT_ONCE {
                break;
            }
            events += next.settles.len();
            batch.extend(queue.pop_front());
        }
        batch
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
