//! Replays: deliveries made once more of what was given up.

use std::str::FromStr;

use serde::Serialize;

use super::{DeadLetterFilter, OrgId, ReplayId, Timestamp};

/// Where a replay stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStatus {
    /// Goes on in the background.
    Running,
    /// Has dealt with every dead letter that it was for.
    Finished,
    /// Its owner called it off; what it had replayed by then stays.
    Cancelled,
    /// The store refused to go on.
    Failed,
}

/// The text was no status of a replay.
#[derive(Debug, thiserror::Error)]
#[error("must be running, finished, cancelled or failed")]
pub struct ReplayStatusError;

impl ReplayStatus {
    /// The word used in the store and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

impl FromStr for ReplayStatus {
    type Err = ReplayStatusError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "running" => Ok(Self::Running),
            "finished" => Ok(Self::Finished),
            "cancelled" => Ok(Self::Cancelled),
            "failed" => Ok(Self::Failed),
            _ => Err(ReplayStatusError),
        }
    }
}

/// A replay of dead letters, and how far it has come.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Its id.
    pub id: ReplayId,
    /// The tenant it belongs to.
    #[serde(skip)]
    pub org_id: OrgId,
    /// Which dead letters it is for: those of them that were not replayed before.
    pub filter: DeadLetterFilter,
    /// How many those were when it was made; `None` when there were too many to count.
    pub total: Option<u64>,
    /// How many it has replayed.
    pub done: u64,
    /// How many it has passed over: their endpoint is removed or disabled, or the store refuses the
    /// event still.
    pub skipped: u64,
    /// Where it stands.
    pub status: ReplayStatus,
    /// Why it failed, in words.
    pub detail: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its status became final; `None` while it is running.
    pub finished_at: Option<Timestamp>,
}
