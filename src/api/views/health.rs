//! Health of a server: the report for people, and what the probes answer.

use schemars::JsonSchema;
use serde::Serialize;

/// What `GET /api/health` reports.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct HealthReport {
    /// `ok`, or `degraded` when the journal refuses events, disk space is low, the store does not answer, or events or outcomes
    /// do not get through.
    pub status: &'static str,
    /// The server's version.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// The journal's backlog.
    pub queue: QueueView,
    /// The store.
    pub store: StoreView,
    /// The disks that this server writes to.
    pub disk: DiskView,
    /// Deliveries.
    pub delivery: DeliveryHealthView,
    /// Counts since the start.
    pub totals: Totals,
    /// Resident memory; `null` where the system does not tell.
    pub memory_bytes: Option<u64>,
}

/// Accepted events that the store does not have yet.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct QueueView {
    /// Their number.
    pub events: u64,
    /// Their size in the journal.
    pub bytes: u64,
    /// Whether the journal accepts more.
    pub writable: bool,
    /// `ok`, or why it does not: `poisoned`, `full`, `no_segment`, `stalled` or `closed`.
    pub journal: &'static str,
    /// Age of the oldest in seconds; `null` when none waits.
    pub oldest_seconds: Option<u64>,
    /// Whether they become deliveries.
    pub planning: StageHealth,
}

/// The health of delivery.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct DeliveryHealthView {
    /// Whether due deliveries are attempted.
    pub status: StageHealth,
    /// Age of the oldest due delivery that no server has leased, in seconds; `null` when there is
    /// none, or the store does not answer.
    pub oldest_due_seconds: Option<u64>,
    /// Age of the dispatcher's heartbeat, in seconds.
    pub dispatcher_seconds: u64,
    /// Whether outcomes are recorded.
    pub recorder: StageHealth,
    /// How long the outcomes at hand have been waiting to be recorded, in seconds; `null` when there are none.
    pub recorder_seconds: Option<u64>,
}

/// The store.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct StoreView {
    /// Whether it answers.
    pub reachable: bool,
}

/// The disks that this server writes to.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct DiskView {
    /// `ok`, `low` or `storage_low`: then no events are taken.
    pub status: &'static str,
    /// Free bytes of the one that has the least; `null` where the system does not tell.
    pub free_bytes: Option<u64>,
}

/// Counts since the process started.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct Totals {
    /// Events accepted.
    pub ingested: u64,
    /// Events stored.
    pub stored: u64,
    /// Events dropped as duplicates.
    pub duplicates: u64,
    /// Events that the store rejected.
    pub unstorable: u64,
    /// Deliveries created.
    pub planned: u64,
    /// Webhooks delivered.
    pub delivered: u64,
    /// Attempts that failed and are retried.
    pub retried: u64,
    /// Deliveries given up.
    pub dead: u64,
}

/// What `GET /health/live` answers.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct Liveness {
    /// `live`.
    pub status: &'static str,
}

/// What `GET /health/ready` answers.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct Readiness {
    /// `ready` or `unready`.
    pub status: &'static str,
    /// The checks that count, each `ok` or the code of what is wrong.
    pub checks: ReadinessChecks,
}

/// The checks of readiness: whether the server takes events.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct ReadinessChecks {
    /// `ok`, `poisoned`, `full`, `no_segment`, `stalled` or `closed`.
    pub journal: &'static str,
    /// `ok` or `storage_low`.
    pub disk: &'static str,
    /// `ok` or `shutting_down`.
    pub process: &'static str,
    /// What `?strict` adds.
    #[serde(flatten)]
    pub strict: Option<StrictChecks>,
}

/// The checks of strict readiness: whether events get through, too.
#[derive(Clone, Copy, Debug, JsonSchema, Serialize)]
pub struct StrictChecks {
    /// `ok` or `unreachable`.
    pub store: &'static str,
    /// Whether accepted events become deliveries.
    pub planning: StageHealth,
    /// Whether due deliveries are attempted.
    pub delivery: StageHealth,
    /// Whether outcomes are recorded.
    pub recorder: StageHealth,
}

/// Whether one stage of the pipeline makes progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageHealth {
    /// It makes progress, or nothing waits.
    Ok,
    /// Accepted events wait, and none becomes deliveries.
    IngestStalled,
    /// Deliveries are due, and none is claimed or recorded.
    DeliveryStalled,
    /// The dispatcher has no heartbeat.
    DispatcherStalled,
    /// Outcomes wait, and the store records none.
    RecorderStalled,
}
