//! The steps of the schema, embedded in the binary.

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

/// A step of the schema, as `hookgate migrate status` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct MigrationStatus {
    /// Its number.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// Whether the schema has it.
    pub applied: bool,
}

/// One step: its number, its name, and the SQL of both directions.
pub(super) struct Step {
    version: i64,
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

/// The steps of both schemas, which have the same numbers and names.
macro_rules! steps {
    ($($version:literal $number:literal $name:literal;)+) => {
        /// The steps of the SQLite schema, oldest first.
        pub(super) const SQLITE: &[Step] = &[$(steps!("sqlite", $version, $number, $name)),+];
        /// The steps of the PostgreSQL schema, oldest first.
        pub(super) const POSTGRES: &[Step] = &[$(steps!("postgres", $version, $number, $name)),+];
    };
    ($engine:literal, $version:literal, $number:literal, $name:literal) => {
        Step {
            version: $version,
            name: $name,
            up: steps!(file $engine, $number, $name, ".up.sql"),
            down: steps!(file $engine, $number, $name, ".down.sql"),
        }
    };
    (file $engine:literal, $number:literal, $name:literal, $end:literal) => {
        include_str!(concat!("../../migrations/", $engine, "/", $number, "_", $name, $end))
    };
}

steps! {
    1 "0001" "initial";
    2 "0002" "endpoint_secrets";
    3 "0003" "error_class";
    4 "0004" "fairness";
    5 "0005" "replays";
    6 "0006" "tenants";
    7 "0007" "key_rotation";
    8 "0008" "change_numbers";
    9 "0009" "endpoint_config";
    10 "0010" "pending_deliveries";
    11 "0011" "finer_limits";
    12 "0012" "filter_indexes";
    13 "0013" "endpoint_versions";
    14 "0014" "trace_text";
    15 "0015" "idempotency_keys";
    16 "0016" "servers";
    17 "0017" "clocks";
    18 "0018" "own_event_type_rates";
    19 "0019" "duplicate_counts";
    20 "0020" "retention";
    21 "0021" "rollups";
    22 "0022" "inboxes";
    23 "0023" "list_filters";
    24 "0024" "change_log";
    25 "0025" "console_sessions";
    26 "0026" "failing_endpoints";
    28 "0028" "accept_span";
}

/// The table in which sqlx keeps what was applied.
pub(super) const TABLE: &str = "_sqlx_migrations";

/// The runner of the steps.
pub(super) fn migrator(steps: &[Step]) -> Migrator {
    let migration = |step: &Step, kind, sql: &'static str| {
        let no_tx = sql.starts_with("-- no-transaction");
        Migration::new(step.version, step.name.into(), kind, sql.into_sql_str(), no_tx)
    };
    let up_and_down = |step| {
        [
            migration(step, MigrationType::ReversibleUp, step.up),
            migration(step, MigrationType::ReversibleDown, step.down),
        ]
    };
    Migrator::with_migrations(steps.iter().flat_map(up_and_down).collect())
}

/// The status of each step, given the versions that were applied.
pub(super) fn status(steps: &[Step], applied: &[i64]) -> Vec<MigrationStatus> {
    let one = |step: &Step| MigrationStatus {
        version: step.version,
        name: step.name.to_owned(),
        applied: applied.contains(&step.version),
    };
    steps.iter().map(one).collect()
}

/// The step that reverts `version`.
pub(super) fn down(steps: &[Step], version: i64) -> Result<Migration, MigrateError> {
    let is_it =
        |step: &Migration| step.version == version && step.migration_type.is_down_migration();
    let step = migrator(steps).iter().find(|step| is_it(step)).cloned();
    step.ok_or(MigrateError::VersionNotPresent(version))
}
