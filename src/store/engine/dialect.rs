//! The fragments of SQL in which the engines differ.

use std::borrow::Cow;

/// The SQL dialect of an engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

impl Dialect {
    /// The timeline that the database is on, as the column `timeline`. A SQLite file has one only.
    pub(crate) const fn timeline(self) -> &'static str {
        match self {
            Self::Sqlite => "'' AS timeline",
            // The first part of the name of a file of its log.
            Self::Postgres => "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) AS timeline",
        }
    }

    /// A row lock such as `FOR UPDATE`, to end a SELECT with. SQLite needs none: one transaction writes
    /// at a time.
    pub(crate) const fn lock(self, lock: &'static str) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => lock,
        }
    }

    /// A column in a condition that is not to choose SQLite's index: there a `+` keeps it from that.
    pub(crate) fn not_indexed(self, column: &'static str) -> Cow<'static, str> {
        match self {
            Self::Sqlite => Cow::Owned(format!("+{column}")),
            Self::Postgres => Cow::Borrowed(column),
        }
    }

    /// The condition that a column has a value, in a form that chooses no index.
    pub(crate) fn unindexed(self, column: &str, value: &str) -> String {
        match self {
            Self::Sqlite => format!("+{column} = {value}"),
            Self::Postgres => format!("{column} IS NOT DISTINCT FROM {value}"),
        }
    }

    /// A bound of a range, as one that every row may pass. Without statistics SQLite takes it for a strong condition,
    /// and an index on a filter and time for no better than one on time alone.
    pub(crate) fn weak(self, condition: &str) -> String {
        match self {
            Self::Sqlite => format!("likelihood({condition}, 1.0)"),
            Self::Postgres => condition.to_owned(),
        }
    }

    /// A column of text that is compared byte by byte, whatever the order of the database.
    pub(crate) fn bytewise(self, column: &str) -> String {
        match self {
            Self::Sqlite => column.to_owned(),
            Self::Postgres => format!("{column} COLLATE \"C\""),
        }
    }

    /// The condition that a column is one of the ids in the parameter `list`, a [`Value::Ids`](super::Value::Ids).
    pub(crate) fn any(self, column: &str, list: &str) -> String {
        match self {
            Self::Sqlite => format!("{column} IN (SELECT unhex(value) FROM json_each({list}))"),
            Self::Postgres => format!("{column} = ANY ({list})"),
        }
    }

    /// A SELECT of keys, with the columns `id` and `at`: the ids of the parameter `ids`, a
    /// [`Value::Ids`](super::Value::Ids), each with its time in `times`, a [`Value::Ints`](super::Value::Ints) of
    /// microseconds.
    pub(crate) fn keys(self, ids: &str, times: &str) -> String {
        match self {
            // A join would read the second list once for each id.
            Self::Sqlite => format!(
                "SELECT unhex(i.value) AS id, json_extract({times}, '$[' || i.key || ']') AS at
                 FROM json_each({ids}) i"
            ),
            Self::Postgres => format!(
                "SELECT o.id, timestamptz 'epoch' + o.micros * interval '1 microsecond' AS at
                 FROM unnest({ids}::uuid[], {times}::bigint[]) o (id, micros)"
            ),
        }
    }
}
