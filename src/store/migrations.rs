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
    /// What is lost when it is reverted: the data that only this step's schema can hold.
    pub rollback_loses: &'static str,
}

/// One step: its number, its name, what reverting it loses, and the SQL of both directions.
pub(super) struct Step {
    version: i64,
    name: &'static str,
    rollback_loses: &'static str,
    up: &'static str,
    down: &'static str,
}

/// The steps of both schemas, which have the same numbers and names.
macro_rules! steps {
    ($($version:literal $number:literal $name:literal $loses:literal;)+) => {
        /// The steps of the SQLite schema, oldest first.
        pub(super) const SQLITE: &[Step] = &[$(steps!("sqlite", $version, $number, $name, $loses)),+];
        /// The steps of the PostgreSQL schema, oldest first.
        pub(super) const POSTGRES: &[Step] = &[$(steps!("postgres", $version, $number, $name, $loses)),+];
    };
    ($engine:literal, $version:literal, $number:literal, $name:literal, $loses:literal) => {
        Step {
            version: $version,
            name: $name,
            rollback_loses: $loses,
            up: steps!(file $engine, $number, $name, ".up.sql"),
            down: steps!(file $engine, $number, $name, ".down.sql"),
        }
    };
    (file $engine:literal, $number:literal, $name:literal, $end:literal) => {
        include_str!(concat!("../../migrations/", $engine, "/", $number, "_", $name, $end))
    };
}

steps! {
    1 "0001" "initial"
        "Everything: organisations, keys, endpoints, events and deliveries.";
    2 "0002" "endpoint_secrets"
        "Custom headers of endpoints, and earlier secrets that still sign.";
    3 "0003" "error_class"
        "The class of error of each attempt.";
    4 "0004" "fairness"
        "Limits, retry schedules and order of endpoints, and since when each fails.";
    5 "0005" "replays"
        "Replays, and which dead letters were replayed.";
    6 "0006" "tenants"
        "The audit log, monthly usage, suspensions, scopes of keys (each has all then), and limits of organisations.";
    7 "0007" "key_rotation"
        "Which key replaced which; both keep working.";
    8 "0008" "change_numbers"
        "Nothing: the numbers of changes are made anew.";
    9 "0009" "endpoint_config"
        "Inbox settings and webhook formats of endpoints.";
    10 "0010" "pending_deliveries"
        "What kind of endpoint each is (inboxes stay disabled), and when it last failed and succeeded.";
    11 "0011" "finer_limits"
        "Rate limits of keys, of event types and of deliveries.";
    12 "0012" "filter_indexes"
        "Nothing: the types of dead letters are taken from their events again.";
    13 "0013" "endpoint_versions"
        "Nothing: it is an index.";
    14 "0014" "trace_text"
        "Trace ids as senders wrote them; their 32 digits stay.";
    15 "0015" "idempotency_keys"
        "Idempotency keys: a repeat of a request of the last day runs again.";
    16 "0016" "servers"
        "The register of servers and journals, which is made anew at their start.";
    17 "0017" "clocks"
        "The place of waiting ordered deliveries in the journal; those of one moment may change places.";
    18 "0018" "own_event_type_rates"
        "Rate limits of event types that organisations set themselves.";
    19 "0019" "duplicate_counts"
        "Counts of duplicates, and whether a duplicate had another content.";
    20 "0020" "retention"
        "Retention times, erasures and their tombstones: an erased event may come out of a journal again.";
    21 "0021" "rollups"
        "All counts: summaries, usage, metrics, and the lists of accounts and event types.";
    22 "0022" "inboxes"
        "The scope inbox:consume, keys that have no other one, and which inbox is the default.";
    23 "0023" "list_filters"
        "Discards of dead letters, and errors of deliveries that wait.";
    24 "0024" "change_log"
        "The log of changes: streams begin anew.";
    25 "0025" "console_sessions"
        "Sessions of the console: everybody signs in again.";
    26 "0026" "failing_endpoints"
        "Nothing: they are indexes.";
    27 "0027" "portal"
        "Links to portals and their sessions, and what portals look like.";
    28 "0028" "accept_span"
        "The spans of requests that posted sampled events: their later attempts begin traces of their own.";
    29 "0029" "outcome_labels"
        "Counts of outcomes by event type and by account; those by endpoint and in all stay.";
    30 "0030" "erased_counts"
        "Whether the counts of an erasure that runs are erased: its account's are erased again, with those of later events.";
    31 "0031" "replay_filters"
        "Bulk replays and discards by event, or by whether dead letters were replayed.";
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
        rollback_loses: step.rollback_loses,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The last step that the previous version need not work beside.
    const LAST_WITHOUT_RULES: i64 = 26;

    /// The SQL without comments, in capitals, with single spaces.
    fn plain(sql: &str) -> String {
        let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
        let words = lines.flat_map(str::split_whitespace).map(str::to_uppercase);
        words.collect::<Vec<_>>().join(" ")
    }

    /// Why the previous version cannot work while a schema has this step.
    fn breaks_previous_version(sql: &str) -> Option<&'static str> {
        let sql = plain(sql);
        let taken_away = [
            "DROP TABLE ",
            "DROP COLUMN ",
            " RENAME ",
            "ALTER COLUMN ",
            "CREATE UNIQUE INDEX ",
            "TRUNCATE ",
        ];
        if let Some(found) = taken_away.into_iter().find(|words| sql.contains(words)) {
            return Some(found);
        }
        let columns = sql.split("ADD COLUMN ").skip(1).filter_map(|rest| rest.split(';').next());
        let must_be_given =
            |column: &str| column.contains("NOT NULL") && !column.contains("DEFAULT");
        columns.into_iter().any(must_be_given).then_some("ADD COLUMN … NOT NULL without DEFAULT")
    }

    #[test]
    fn previous_version_works_beside_new_steps() {
        for steps in [SQLITE, POSTGRES] {
            for step in steps.iter().filter(|step| step.version > LAST_WITHOUT_RULES) {
                let fault = breaks_previous_version(step.up);
                assert_eq!(fault, None, "{}: expand now, contract in a later release", step.name);
            }
        }
        let breaking = [
            "ALTER TABLE a\n DROP COLUMN b;",
            "alter table a rename to b;",
            "ALTER TABLE a ADD COLUMN b TEXT NOT NULL;",
            "CREATE UNIQUE INDEX a ON b (c);",
        ];
        for sql in breaking {
            assert!(breaks_previous_version(sql).is_some(), "{sql}");
        }
        let safe = "-- DROP TABLE a\nALTER TABLE a ADD COLUMN b TEXT NOT NULL DEFAULT ''; CREATE INDEX c ON a (b);";
        assert_eq!(breaks_previous_version(safe), None);
    }

    #[test]
    fn steps_tell_what_their_rollback_loses() {
        let operations = include_str!("../../docs/operations.md");
        for (index, (step, other)) in SQLITE.iter().zip(POSTGRES).enumerate() {
            let Step { version, name, rollback_loses, .. } = step;
            assert_eq!((*version, *name), (1 + i64::try_from(index).unwrap(), other.name));
            let is_sentence = rollback_loses.ends_with('.') && !rollback_loses.contains('\n');
            assert!(is_sentence && rollback_loses.len() > 10, "{name}: {rollback_loses}");
            let row = format!("| {version} | `{name}` | {rollback_loses} |");
            assert!(operations.contains(&row), "docs/operations.md lacks the row {row}");
        }
    }
}
