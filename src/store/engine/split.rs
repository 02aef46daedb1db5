//! How the connections of a store are divided, so that no kind of work waits behind another.
//!
//! Authentication, the watch for revoked keys and readiness ask little and must be answered at once. Delivery
//! claims and records all the time. A read may take as long as its time limit. Each of them has
//! connections of its own; the rest stores events and makes changes.

use std::fmt;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Database, Pool, Postgres};

use super::Engine;
use super::pool_use::PoolUse;
use super::read_pool::ReadPool;
use crate::store::StoreMetrics;
use crate::store::metrics::ConnectionPool;

/// A kind of work with connections of its own. All else uses the general ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Workload {
    /// Key look-ups, the watch for revoked keys, and readiness.
    Keys,
    /// Claims and outcomes.
    Delivery,
    /// Lists and look-ups that tenants and operators ask for.
    Reads,
    /// Those that may lack the latest: from the replica, if there is one.
    ReplicaReads,
}

/// How many connections each kind of work has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectionSplit {
    /// Connections of the engine itself: PostgreSQL's change listener, or SQLite's writer and checkpoints.
    pub engine: u32,
    /// For key look-ups, the watch for revoked keys, and readiness.
    pub keys: u32,
    /// For claims and outcomes.
    pub delivery: u32,
    /// For lists and look-ups that tenants and operators ask for.
    pub reads: u32,
    /// For everything else.
    pub general: u32,
}

impl ConnectionSplit {
    /// The fewest connections that can be divided.
    pub const CONNECTIONS_MIN: u32 = 8;
    /// Readers of a SQLite file: each has a thread and a cache of its own.
    const SQLITE_READS: (u32, u32) = (5, 8);

    /// Divides the connections to a PostgreSQL database.
    pub(super) fn postgres(connections: u32) -> Self {
        let keys = (connections / 8).clamp(1, 4);
        let delivery = (connections * 3 / 16).max(1);
        let reads = (connections * 5 / 16).max(1);
        let rest = connections.saturating_sub(1 + keys + delivery + reads);
        Self { engine: 1, keys, delivery, reads, general: rest.max(1) }
    }

    /// Divides the connections to a SQLite file. A read is a thread's work there, so there are about as many as
    /// CPUs.
    pub(super) fn sqlite(connections: u32) -> Self {
        let cpus = thread::available_parallelism().map_or(1, NonZero::get);
        let (least, most) = Self::SQLITE_READS;
        let useful = u32::try_from(cpus).unwrap_or(most).clamp(least, most);
        let each = if connections < 12 { 1 } else { 2 };
        let rest = connections.saturating_sub(2 + 3 * each);
        let reads = rest.clamp(1, useful);
        Self { engine: 2, keys: each, delivery: each, reads, general: each }
    }
}

/// `keys 2, delivery 3, reads 5, general 5, engine 1`.
impl fmt::Display for ConnectionSplit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, keys, delivery, reads, general } = self;
        write!(
            f,
            "keys {keys}, delivery {delivery}, reads {reads}, general {general}, engine {engine}"
        )
    }
}

/// The connections of a database by workload.
#[derive(Debug)]
pub(super) struct Pools<DB: Database> {
    pub(super) general: Pool<DB>,
    pub(super) keys: Pool<DB>,
    pub(super) delivery: Pool<DB>,
    pub(super) reads: Arc<ReadPool>,
    pub(super) split: ConnectionSplit,
}

impl Pools<Postgres> {
    /// Makes further connections with these options.
    pub(super) fn connect_to(&self, options: &PgConnectOptions) {
        for pool in [&self.general, &self.keys, &self.delivery] {
            pool.set_connect_options(options.clone());
        }
    }
}

impl Engine {
    /// Sets the gauges of connections.
    pub(crate) fn report_connections(&self, metrics: &StoreMetrics) {
        match self {
            Self::Sqlite(engine) => {
                engine.pools().report(metrics);
                PoolUse::of(&engine.writer).set(metrics, ConnectionPool::Writer);
            }
            Self::Postgres(engine) => {
                engine.pools().report(metrics);
                if let Some(replica) = engine.replica_reads() {
                    replica.pool_use().set(metrics, ConnectionPool::Replica);
                }
            }
        }
    }
}

impl<DB: Database> Pools<DB> {
    fn report(&self, metrics: &StoreMetrics) {
        let Self { general, keys, delivery, reads, split: _ } = self;
        PoolUse::of(general).set(metrics, ConnectionPool::General);
        PoolUse::of(keys).set(metrics, ConnectionPool::Keys);
        PoolUse::of(delivery).set(metrics, ConnectionPool::Delivery);
        reads.pool_use().set(metrics, ConnectionPool::Reads);
    }

    /// Those of a workload; what reads do in a transaction is done on the general ones.
    pub(super) fn of(&self, workload: Workload) -> (Pool<DB>, Option<Arc<ReadPool>>) {
        match workload {
            Workload::Keys => (self.keys.clone(), None),
            Workload::Delivery => (self.delivery.clone(), None),
            Workload::Reads | Workload::ReplicaReads => {
                (self.general.clone(), Some(Arc::clone(&self.reads)))
            }
        }
    }

    /// Closes every connection, waiting for calls in flight.
    pub(super) async fn close(&self) {
        self.reads.close().await;
        self.delivery.close().await;
        self.keys.close().await;
        self.general.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_within_the_whole_and_none_is_empty() {
        for connections in ConnectionSplit::CONNECTIONS_MIN..=1000 {
            let sqlite = ConnectionSplit::sqlite(connections);
            for split in [ConnectionSplit::postgres(connections), sqlite] {
                let ConnectionSplit { engine, keys, delivery, reads, general } = split;
                let parts = [engine, keys, delivery, reads, general];
                assert!(parts.iter().all(|part| *part > 0), "{connections}: {split}");
                assert!(parts.iter().sum::<u32>() <= connections, "{connections}: {split}");
                // One organisation's reads leave a connection to the others.
                assert!(reads > 1, "{connections}: {split}");
            }
            assert!(sqlite.reads <= 8);
        }
    }

    #[test]
    fn default_of_sixteen() {
        let split = ConnectionSplit::postgres(16).to_string();
        assert_eq!(split, "keys 2, delivery 3, reads 5, general 5, engine 1");
    }
}
