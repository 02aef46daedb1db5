//! How many connections are open and in use, by pool. Only counters of the process are read.

use sqlx::{Database, Pool};

use crate::store::StoreMetrics;
use crate::store::metrics::ConnectionPool;

/// The connections of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PoolUse {
    /// At most.
    pub(super) max: usize,
    /// Open.
    pub(super) open: usize,
    /// In use.
    pub(super) in_use: usize,
}

impl PoolUse {
    /// Of one of sqlx's pools.
    pub(super) fn of<DB: Database>(pool: &Pool<DB>) -> Self {
        let open = pool.size() as usize;
        let max = pool.options().get_max_connections() as usize;
        Self { max, open, in_use: open.saturating_sub(pool.num_idle()) }
    }

    /// Sets the gauges of a pool.
    pub(super) fn set(self, metrics: &StoreMetrics, pool: ConnectionPool) {
        let number = |connections: usize| i64::try_from(connections).unwrap_or(i64::MAX);
        metrics.hookgate_db_connections_max.of(pool).set(number(self.max));
        metrics.hookgate_db_connections_open.of(pool).set(number(self.open));
        metrics.hookgate_db_connections_in_use.of(pool).set(number(self.in_use));
    }
}
