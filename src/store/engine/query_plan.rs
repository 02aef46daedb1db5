//! The plans of the statements that a store runs. They show whether a list is read by an index.

use std::sync::{Mutex, PoisonError};

/// Plans, one per statement, in their order.
#[derive(Debug, Default)]
pub struct QueryPlans {
    plans: Mutex<Vec<String>>,
    /// Whether reads outside of transactions are run, and their plans tell what that took: on PostgreSQL the rows and
    /// buffers of each node, on SQLite the instructions in a last line.
    pub(super) measure: bool,
}

impl QueryPlans {
    /// Plans that tell what reads took.
    pub(in crate::store) fn measured() -> Self {
        Self { measure: true, ..Self::default() }
    }

    /// Takes the plans that were recorded so far. A plan has one line per node, as the engine prints it.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.plans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a plan.
    pub(super) fn push(&self, plan: String) {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
    }
}
