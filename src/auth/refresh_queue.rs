//! The queue of cached keys whose rows are to be read again. [`super::refresh`] reads them.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::key_cache::VerifiedKey;
use crate::domain::ApiKeyId;

/// Maximum keys that wait to be read again. Of others, their next use asks again.
pub(super) const WAITING_MAX: usize = 1024;

/// The keys to read again.
pub(super) struct RefreshQueue {
    keys: mpsc::Sender<ApiKeyId>,
    /// Taken by the task.
    receiver: Mutex<Option<mpsc::Receiver<ApiKeyId>>>,
}

impl RefreshQueue {
    pub(super) fn new() -> Self {
        let (keys, receiver) = mpsc::channel(WAITING_MAX);
        Self { keys, receiver: Mutex::new(Some(receiver)) }
    }

    /// Has the row of a key read again, unless that was asked for already.
    pub(super) fn request(&self, key: ApiKeyId, verified: &VerifiedKey) {
        let is_first = !verified.is_refreshing.swap(true, Ordering::Relaxed);
        if is_first && self.keys.try_send(key).is_err() {
            verified.is_refreshing.store(false, Ordering::Relaxed);
        }
    }

    /// Where the keys come from; `None` if the task has it already.
    pub(super) fn take_receiver(&self) -> Option<mpsc::Receiver<ApiKeyId>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
