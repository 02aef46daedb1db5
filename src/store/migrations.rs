//! The steps of the schema, embedded in the binary.

use sqlx::SqlSafeStr;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};

use super::MigrationStatus;

/// One step: its number, its name, and the SQL there and back.
pub(super) struct Step {
    version: i64,
    name: &'static str,
    up: &'static str,
    down: &'static str,
}

macro_rules! step {
    ($backend:literal, $version:literal, $number:literal, $name:literal) => {
        Step {
            version: $version,
            name: $name,
            up: include_str!(concat!(
                "../../migrations/",
                $backend,
                "/",
                $number,
                "_",
                $name,
                ".up.sql"
            )),
            down: include_str!(concat!(
                "../../migrations/",
                $backend,
                "/",
                $number,
                "_",
                $name,
                ".down.sql"
            )),
        }
    };
}

/// The steps of the SQLite schema, oldest first.
pub(super) const SQLITE: &[Step] = &[
    step!("sqlite", 1, "0001", "initial"),
    step!("sqlite", 2, "0002", "endpoint_secrets"),
    step!("sqlite", 3, "0003", "error_class"),
    step!("sqlite", 4, "0004", "fairness"),
    step!("sqlite", 5, "0005", "replays"),
    step!("sqlite", 6, "0006", "tenants"),
    step!("sqlite", 7, "0007", "key_rotation"),
    step!("sqlite", 8, "0008", "change_numbers"),
];

/// The steps of the PostgreSQL schema, oldest first.
pub(super) const POSTGRES: &[Step] = &[
    step!("postgres", 1, "0001", "initial"),
    step!("postgres", 2, "0002", "endpoint_secrets"),
    step!("postgres", 3, "0003", "error_class"),
    step!("postgres", 4, "0004", "fairness"),
    step!("postgres", 5, "0005", "replays"),
    step!("postgres", 6, "0006", "tenants"),
    step!("postgres", 7, "0007", "key_rotation"),
    step!("postgres", 8, "0008", "change_numbers"),
];

/// The table in which sqlx keeps what was applied.
pub(super) const TABLE: &str = "_sqlx_migrations";

/// What runs the steps.
pub(super) fn migrator(steps: &[Step]) -> Migrator {
    let migration = |step: &Step, kind, sql: &'static str| {
        let no_tx = sql.starts_with("-- no-transaction");
        Migration::new(step.version, step.name.into(), kind, sql.into_sql_str(), no_tx)
    };
    let there_and_back = |step| {
        [
            migration(step, MigrationType::ReversibleUp, step.up),
            migration(step, MigrationType::ReversibleDown, step.down),
        ]
    };
    Migrator::with_migrations(steps.iter().flat_map(there_and_back).collect())
}

/// The steps with their standing, given the versions that were applied.
pub(super) fn status(steps: &[Step], applied: &[i64]) -> Vec<MigrationStatus> {
    let one = |step: &Step| MigrationStatus {
        version: step.version,
        name: step.name.to_owned(),
        applied: applied.contains(&step.version),
    };
    steps.iter().map(one).collect()
}

/// The step that takes `version` back.
pub(super) fn way_back(steps: &[Step], version: i64) -> Result<Migration, MigrateError> {
    let is_it =
        |step: &Migration| step.version == version && step.migration_type.is_down_migration();
    let step = migrator(steps).iter().find(|step| is_it(step)).cloned();
    step.ok_or(MigrateError::VersionNotPresent(version))
}
