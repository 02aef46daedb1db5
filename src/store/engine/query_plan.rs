//! The plans of the statements that a store runs. They show whether a list is read by an index.

use std::sync::{Mutex, PoisonError};

/// Plans, one per statement, in their order.
#[derive(Debug, Default)]
pub struct QueryPlans(Mutex<Vec<String>>);

impl QueryPlans {
    /// Takes the plans that were recorded so far. A plan has one line per node, as the engine prints it.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a plan.
    pub(super) fn push(&self, plan: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
    }
}
