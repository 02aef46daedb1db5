//! Inboxes, from which owners fetch their events: what this server knows of the consumers that wait and settle.
//!
//! Nothing is sent to an inbox. Consumers that wait are woken when this server stores something for them; [`watch`]
//! finds what other servers stored, and what is back because nobody settled it. What consumers settle at the same time
//! is written together.

mod settler;
mod watch;

pub use settler::Settler;
pub use watch::watch;

use super::wakes::InboxWakes;

/// What this server knows of consumers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Inboxes {
    /// Wakes those that wait.
    pub wakes: InboxWakes,
    /// Writes what they settle.
    pub settler: Settler,
}
