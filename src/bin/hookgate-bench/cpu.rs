//! CPU time: of the server's process, and of the PostgreSQL processes that work for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgPool, PgPoolOptions};

/// Reads the CPU time of the processes that a measurement loads.
pub(crate) struct CpuMeter {
    server: u32,
    postgres: Option<PgPool>,
}

/// CPU time used so far, in seconds.
pub(crate) struct CpuReading {
    server: f64,
    /// By process id. Empty with SQLite, and when PostgreSQL runs on another machine.
    postgres: BTreeMap<u32, (PostgresProcess, f64)>,
}

/// What a PostgreSQL process works for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PostgresProcess {
    /// The server's database.
    Database,
    /// Every database: it writes the log or checkpoints, say.
    Shared,
}

/// CPU time used between two readings, in seconds, or per event, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    /// The server's process.
    pub(crate) server: f64,
    /// PostgreSQL's processes that serve the database.
    pub(crate) postgres_database: Option<f64>,
    /// PostgreSQL's processes that serve every database of the cluster, such as the WAL writer.
    pub(crate) postgres_shared: Option<f64>,
}

impl CpuMeter {
    /// A meter of the server with this process id, and of its PostgreSQL database.
    pub(crate) fn new(server: u32, database_url: Option<&str>) -> Result<Self, sqlx::Error> {
        let pool = |url| PgPoolOptions::new().max_connections(1).connect_lazy(url);
        Ok(Self { server, postgres: database_url.map(pool).transpose()? })
    }

    /// The CPU time used so far; `None` where the system has no `/proc`.
    pub(crate) async fn read(&self) -> Option<CpuReading> {
        let mut postgres = BTreeMap::new();
        for (id, process) in self.postgres_processes().await {
            if let Some(seconds) = seconds_of_postgres(id) {
                postgres.insert(id, (process, seconds));
            }
        }
        Some(CpuReading { server: seconds(&stat(self.server)?)?, postgres })
    }

    /// The processes that work for the database, but for the one that answers this query.
    async fn postgres_processes(&self) -> Vec<(u32, PostgresProcess)> {
        let Some(pool) = &self.postgres else { return Vec::new() };
        let processes: Vec<(i32, bool)> = sqlx::query_as(
            "SELECT pid, datname IS NULL FROM pg_stat_activity
             WHERE pid <> pg_backend_pid() AND (datname IS NULL OR datname = current_database())",
        )
        .fetch_all(pool)
        .await
        .unwrap_or_default();
        let process = |(id, is_shared)| {
            let process =
                if is_shared { PostgresProcess::Shared } else { PostgresProcess::Database };
            Some((u32::try_from(id).ok()?, process))
        };
        processes.into_iter().filter_map(process).collect()
    }
}

impl CpuReading {
    /// The time used since an earlier reading. A process that has ended in between is not counted.
    pub(crate) fn since(&self, earlier: &Self) -> CpuTime {
        let postgres = |wanted| {
            let used = self.postgres.iter().filter(|(_, (process, _))| *process == wanted);
            let used = used.map(|(id, (_, seconds))| {
                seconds - earlier.postgres.get(id).map_or(0.0, |(_, before)| *before)
            });
            (!self.postgres.is_empty()).then(|| used.sum())
        };
        CpuTime {
            server: self.server - earlier.server,
            postgres_database: postgres(PostgresProcess::Database),
            postgres_shared: postgres(PostgresProcess::Shared),
        }
    }
}

impl CpuTime {
    /// Seconds in all as microseconds per event.
    pub(crate) fn per_event(self, events: f64) -> Self {
        let each = |seconds: f64| seconds * 1e6 / events;
        Self {
            server: each(self.server),
            postgres_database: self.postgres_database.map(each),
            postgres_shared: self.postgres_shared.map(each),
        }
    }
}

/// The CPU time of a process that the database has named, unless it is another one of that id here: the
/// database may run on another machine.
fn seconds_of_postgres(id: u32) -> Option<f64> {
    let stat = stat(id)?;
    let (_, name) = stat.split_once('(')?;
    if name.starts_with("postgres") { seconds(&stat) } else { None }
}

fn stat(id: u32) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{id}/stat")).ok()
}

/// User and system time of a line of `/proc/<pid>/stat`.
fn seconds(stat: &str) -> Option<f64> {
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15 of proc(5).
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "100 on every Linux")]
    let ticks_per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(f64::from(ticks) / ticks_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgres_processes_are_told_apart_and_new_ones_count_from_zero() {
        use PostgresProcess::{Database, Shared};
        let reading = |server, processes: &[(u32, PostgresProcess, f64)]| CpuReading {
            server,
            postgres: processes.iter().map(|(id, kind, time)| (*id, (*kind, *time))).collect(),
        };
        let before = reading(1.0, &[(1, Database, 5.0), (2, Shared, 1.0), (3, Database, 9.0)]);
        let after = reading(3.0, &[(1, Database, 6.0), (2, Shared, 1.5), (4, Database, 0.25)]);
        let used =
            CpuTime { server: 2.0, postgres_database: Some(1.25), postgres_shared: Some(0.5) };
        assert_eq!(after.since(&before), used);
        assert_eq!(reading(1.0, &[]).since(&reading(0.0, &[])).postgres_database, None);
    }
}
