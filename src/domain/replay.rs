//! Replays: bulk re-delivery of dead letters in the background, or their bulk removal.

use schemars::JsonSchema;
use serde::Serialize;
use strum::{EnumString, IntoStaticStr};

use super::{DeadLetterFilter, EndpointId, OrgId, ReplayId, Timestamp};

/// The status of a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = ReplayStatusError, parse_err_fn = unknown_status)]
pub enum ReplayStatus {
    /// Runs in the background.
    Running,
    /// Every selected dead letter was replayed or skipped.
    Finished,
    /// Cancelled by its owner; dead letters replayed until then stay replayed.
    Cancelled,
    /// Stopped by a permanent store error.
    Failed,
}

/// The text is not a replay status.
#[derive(Debug, thiserror::Error)]
#[error("must be running, finished, cancelled or failed")]
pub struct ReplayStatusError;

impl ReplayStatus {
    /// The word in the store and in responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown_status(_: &str) -> ReplayStatusError {
    ReplayStatusError
}

/// What becomes of the dead letters of a replay.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ReplayAction {
    /// Their deliveries are repeated.
    #[default]
    Replay,
    /// They are deleted; their deliveries stay as they are.
    Discard,
}

impl ReplayAction {
    /// The word in the store and in responses.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A replay of dead letters, and its progress.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// The organisation it belongs to.
    #[serde(skip)]
    pub org_id: OrgId,
    /// What becomes of the dead letters.
    pub action: ReplayAction,
    /// Selects the dead letters; for a replay, among those not replayed before.
    pub filter: DeadLetterFilter,
    /// Selected dead letters when the replay was created; `None` if too many to count.
    pub total: Option<u64>,
    /// Dead letters replayed or discarded so far.
    pub done: u64,
    /// Dead letters skipped so far: the endpoint is deleted or disabled, or the store still rejects the
    /// event.
    pub skipped: u64,
    /// Its status.
    pub status: ReplayStatus,
    /// Why it failed, as free text.
    pub detail: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its status became final; `None` while it is running.
    pub finished_at: Option<Timestamp>,
}

/// Which endpoints an event is delivered to once more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplayTargets {
    /// Every one that it was planned for.
    All,
    /// Those of these that it was planned for.
    Among(Vec<EndpointId>),
    /// This one, whether it was planned for that or not.
    One(EndpointId),
}

impl From<Option<EndpointId>> for ReplayTargets {
    /// The one, or all.
    fn from(endpoint: Option<EndpointId>) -> Self {
        endpoint.map_or(Self::All, Self::One)
    }
}
