//! The budget of file descriptors: what the process may open, shared out before anything opens it.
//!
//! Without it, idle connections take every descriptor, and the journal cannot start its next segment. The
//! limit, less a reserve for the journal, the store and the process itself, is shared by the connections of clients
//! and those to receivers.

use crate::config::Config;
use crate::delivery;
use crate::runtime::raise_descriptor_limit;

/// For the process itself: standard streams, the listener, the event queues of two runtimes, files that are
/// read at once and closed.
const PROCESS: u64 = 64;
/// For the journal: lock, directory, checkpoint, segments and spares, the reader's segment, quarantine.
const JOURNAL: u64 = 16;
/// For each database connection: SQLite's takes three files, PostgreSQL's one socket.
const PER_DATABASE_CONNECTION: u64 = 3;
/// Database connections beside the pool: checkpoints, the change listener, the writer.
const DATABASE_CONNECTIONS_BESIDE: u64 = 4;
/// For look-ups of receivers' names: each of the 128 in flight asks for two kinds of addresses, three times at most.
const LOOKUPS: u64 = 128 * 6;
/// Idle connections to receivers.
const IDLE_CONNECTIONS_MAX: u64 = delivery::IDLE_CONNECTIONS_MAX as u64;
/// The connections that a server admits, however low the limit.
const CONNECTIONS_MIN: u64 = 8;

/// How the file descriptors are shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DescriptorBudget {
    /// The limit of the process.
    limit: u64,
    /// The limit from which on the settings hold as they are.
    needed: u64,
    /// Connections of clients.
    connections: u64,
    /// Webhooks in flight.
    webhooks: u64,
    /// Idle connections to receivers.
    idle: u64,
}

impl DescriptorBudget {
    /// Raises the limit as far as the process may, and shares it out.
    pub(super) fn raise(config: &Config) -> Self {
        Self::of(raise_descriptor_limit(), config)
    }

    fn of(limit: u64, config: &Config) -> Self {
        let database = u64::from(config.store.database_connections) + DATABASE_CONNECTIONS_BESIDE;
        let reserve = PROCESS + JOURNAL + PER_DATABASE_CONNECTION * database;
        let webhooks = u64::from(config.delivery.delivery_concurrency);
        let connections = u64::from(config.server.connections_max);
        let outbound_wanted = webhooks + IDLE_CONNECTIONS_MAX + LOOKUPS;
        let shared = limit.saturating_sub(reserve);
        let outbound = outbound_wanted.min(shared / 2);
        let left = shared - outbound;
        let webhooks = webhooks.min(outbound / 2).max(1);
        let lookups = LOOKUPS.min(outbound / 8);
        Self {
            limit,
            needed: reserve + outbound_wanted + connections,
            connections: connections.min(left.max(CONNECTIONS_MIN)),
            webhooks,
            idle: IDLE_CONNECTIONS_MAX.min(outbound.saturating_sub(webhooks + lookups)),
        }
    }

    /// The settings as far as the budget allows.
    pub(super) fn apply(self, config: &Config) -> Config {
        let mut config = config.clone();
        let cut = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        config.server.connections_max = cut(self.connections);
        config.delivery.delivery_concurrency = cut(self.webhooks);
        config
    }

    /// Idle connections to receivers at most.
    pub(super) fn idle_connections(self) -> usize {
        usize::try_from(self.idle).unwrap_or(usize::MAX)
    }

    /// Warns about a limit that is too low for the settings.
    pub(super) fn log(self) {
        if let Some(text) = self.shortage() {
            tracing::warn!("{text}");
        } else {
            tracing::debug!(budget = ?self, "file descriptors shared out");
        }
    }

    /// Tells that the limit is too low for the settings, if it is.
    pub(super) fn shortage(self) -> Option<String> {
        let Self { limit, needed, connections, webhooks, idle } = self;
        let text = || {
            format!(
                "the limit of file descriptors is too low: {limit}, while CONNECTIONS_MAX and DELIVERY_CONCURRENCY take \
                 {needed}; using {connections} connections, {webhooks} webhooks in flight and {idle} idle webhook \
                 connections; raise it (ulimit -n, LimitNOFILE) or lower them"
            )
        };
        (limit < needed).then(text)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }

    fn budget(limit: u64) -> DescriptorBudget {
        DescriptorBudget::of(limit, &Flags::parse_from(["hookgate"]).config)
    }

    #[test]
    fn high_limit_changes_no_setting() {
        for limit in [20_000, 1_048_576, u64::MAX] {
            let budget = budget(limit);
            assert!(budget.needed <= limit);
            assert_eq!((budget.connections, budget.webhooks, budget.idle), (16_384, 512, 1024));
        }
    }

    #[test]
    fn what_is_shared_out_stays_below_the_limit() {
        for limit in [256, 512, 1024, 4096, 10_000] {
            let DescriptorBudget { needed, connections, webhooks, idle, .. } = budget(limit);
            assert!(needed > limit);
            assert!(connections + webhooks + idle + PROCESS + JOURNAL + 60 <= limit, "{limit}");
            assert!(connections >= (limit - 140) / 2 && webhooks > 0 && idle > 0, "{limit}");
        }
    }

    #[test]
    fn lowest_limit_still_admits_connections() {
        let DescriptorBudget { connections, webhooks, idle, .. } = budget(64);
        assert_eq!((connections, webhooks, idle), (CONNECTIONS_MIN, 1, 0));
    }
}
