//! Rollups: how many events, of which types, accounts and users, and how deliveries ended, hour by hour.
//!
//! # Purpose
//! A summary of an account with a million events, or a month by hour, reads a few hundred rows instead of counting
//! events.
//!
//! # Operation
//! A transaction that stores events or records outcomes appends one [`delta`] per organisation, made of the rows that
//! it has really written. Adding to the counts themselves there would make concurrent transactions wait for each other
//! on the rows of a busy organisation, and cost the one that writes to SQLite a fifth of its time. A background task
//! [folds](fold) deltas into the rollups, a bounded number at a time. A read is one statement: the rows, and
//! the organisation's deltas that are not folded yet. So counts are exact as soon as an event can be read.
//!
//! Events count by their own time where they have one, see [`delta::counted_at`]. Rows are per hour, with the minutes
//! inside, see [`event_hour`]. Outcomes count by their endpoint, and by the type and account of their event, see
//! [`type_outcomes`].
//!
//! # Failure
//! A delta commits with what it counts, and goes with the transaction that folds it: crashes, repeats of a batch and
//! duplicates count nothing twice. While nobody folds, reads have more deltas to add; beyond
//! [`DELTAS_READ_MAX`] an answer leaves out the latest ones and says so.

mod activity;
mod buckets;
mod delivery_hour;
pub(in crate::store) mod delta;
mod erasure;
mod event_hour;
mod event_hour_taken;
mod fold;
mod fold_steps;
mod folded;
mod groups;
mod histogram;
mod labels;
mod months;
mod type_outcomes;
mod window_counts;
mod windows;

pub use activity::{ACCOUNTS_SAMPLED_FROM, AccountRow, EventTypeRow};
pub use buckets::{BucketPage, BucketUnit, DAYS_PER_PAGE, MetricsScope, TimeBucket};
pub use delivery_hour::DeliveryCounts;
pub(in crate::store) use delta::CountedEvent;
pub(in crate::store) use erasure::{RollupErasure, erase_outcomes, erase_some, fold_all, uncount};
pub use event_hour::{EventCount, OTHER_TYPES, TYPES_COUNTED_MAX, USERS_COUNTED_MAX};
pub use fold_steps::{DELTAS_COUNTED_MAX, FoldCursor, FoldStep};
pub use groups::{AccountGroup, EndpointGroup, EndpointWindow, GROUPS_PER_PAGE, GroupPage};
pub use histogram::LatencyHistogram;
pub(in crate::store) use labels::{LabelsByEvent, labels_statement, read_labels_row};
pub use months::MonthUsage;
pub use window_counts::WindowCounts;
pub use windows::CountedWindow;

/// Deltas of an organisation that a read adds at most.
const DELTAS_READ_MAX: usize = 1_000;
