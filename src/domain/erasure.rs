//! Erasures: requests to remove an event, or everything of an account, for good.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr};

use super::{ErasureId, EventId, OrgId, Timestamp};

/// What is erased.
#[derive(Clone, PartialEq, Eq, Debug, JsonSchema, Serialize)]
pub enum ErasureSubject {
    /// One event.
    #[serde(rename = "event_id")]
    Event(EventId),
    /// Every event of an account of the organisation.
    #[serde(rename = "account_id")]
    Account(String),
}

/// The status of an erasure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = ErasureStatusError, parse_err_fn = unknown_status)]
pub enum ErasureStatus {
    /// Runs in the background.
    Running,
    /// Nothing is left in the store.
    Finished,
}

/// The text is not the status of an erasure.
#[derive(Debug, thiserror::Error)]
#[error("must be running or finished")]
pub struct ErasureStatusError;

impl ErasureStatus {
    /// The word in the store and in responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_status(_: &str) -> ErasureStatusError {
    ErasureStatusError
}

/// An erasure, and its progress.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Erasure {
    /// Its id.
    pub id: ErasureId,
    /// The organisation it belongs to.
    #[serde(skip)]
    pub org_id: OrgId,
    /// What is erased.
    pub filter: ErasureSubject,
    /// Events that were accepted by then are erased; later ones are new.
    pub accepted_until: Timestamp,
    /// Its status.
    pub status: ErasureStatus,
    /// Events erased so far.
    pub events: u64,
    /// Deliveries erased so far, pending ones included.
    pub deliveries: u64,
    /// Dead letters erased so far.
    pub dead_letters: u64,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When nothing was left in the store; `None` while it runs.
    pub finished_at: Option<Timestamp>,
}
