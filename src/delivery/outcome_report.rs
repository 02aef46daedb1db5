//! What attempts tell the recorder.

use crate::domain::Outcome;

/// An outcome to record.
#[derive(Debug)]
pub(super) struct OutcomeReport {
    /// The outcome.
    pub(super) outcome: Outcome,
    /// Whether the delivery is ordered, so that the next one to its endpoint waits for this outcome.
    pub(super) ordered: bool,
}
