//! The arguments of a measurement.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hookgate::config::{parse_duration, parse_wait};

use crate::neighbour::{Neighbour, NeighbourArgs};

#[derive(Args, Clone)]
pub(crate) struct RunArgs {
    /// Scenarios to measure, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ingest")]
    pub(crate) scenario: Vec<Scenario>,
    /// Base URL of the server to measure; unset: start a server and stop it afterwards
    #[arg(long, requires = "api_key")]
    pub(crate) url: Option<String>,
    /// API key of a tenant on that server, with a rate limit above the load
    #[arg(long, env = "API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// The `hookgate` program to start; unset: the one beside this program
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub(crate) server: Option<PathBuf>,
    /// PostgreSQL database of the started server; unset: SQLite. Posted events stay in it.
    /// DATABASE_URL is not read, because it may name the production database
    #[arg(long, env = "BENCH_DATABASE_URL", hide_env_values = true, conflicts_with = "url")]
    pub(crate) database_url: Option<String>,
    /// Parent of the started server's temporary directory; unset: the system's
    #[arg(long, conflicts_with = "url")]
    pub(crate) work_dir: Option<PathBuf>,
    /// As other projects measure: 100 connections, runs of 30 s after 5 s of warm-up, unless given otherwise
    #[arg(long)]
    pub(crate) seed_defaults: bool,
    /// Connections, each with at most one request in flight
    #[arg(long, default_value_t = 64, default_value_if("seed_defaults", "true", "100"), value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) connections: u32,
    /// Requests per second, evenly spaced (open loop); unset: as many as the server answers (closed
    /// loop)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
    /// Length of one run
    #[arg(long, value_name = "DURATION", default_value = "10s", default_value_if("seed_defaults", "true", "30s"), value_parser = parse_wait)]
    pub(crate) duration: Duration,
    /// Length of the unmeasured run before the first one of each scenario
    #[arg(long, value_name = "DURATION", default_value = "2s", default_value_if("seed_defaults", "true", "5s"), value_parser = parse_duration)]
    pub(crate) warm_up: Duration,
    /// Runs per scenario; the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Bytes per event payload, or per body of ingest-raw
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=262_144))]
    pub(crate) payload_bytes: u32,
    #[command(flatten)]
    pub(crate) fields: OptionalFields,
    /// After each run of ingest, ingest-batch or ingest-raw: the share of its events that was stored by
    /// its end, and the time until all are
    #[arg(long, conflicts_with_all = ["url", "beside"])]
    pub(crate) drain: bool,
    /// After each run of end-to-end: the bytes that the database has grown by, per delivered event. The
    /// journal and PostgreSQL's write-ahead log are not counted, and nothing is vacuumed
    #[arg(long, conflicts_with_all = ["url", "beside"])]
    pub(crate) disk: bool,
    /// How long the receivers of end-to-end wait before they answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = parse_duration)]
    pub(crate) receiver_delay: Duration,
    /// Events per request of ingest-batch, store and inbox
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) batch: u32,
    /// Alternate each scenario with a handler that only answers, for this many pairs of runs
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5", conflicts_with = "url",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) peer_bare: Option<u32>,
    /// Alternate each scenario with plain inserts of the same rows, for this many pairs of runs;
    /// needs --database-url
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5",
          requires = "database_url", conflicts_with = "peer_bare",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) peer_unnest: Option<u32>,
    /// Alternate end-to-end with a loop that posts to the same receivers with reqwest, for this many
    /// pairs of runs
    #[arg(long, value_name = "PAIRS", num_args = 0..=1, default_missing_value = "5",
          conflicts_with_all = ["peer_bare", "peer_unnest"],
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) peer_reqwest: Option<u32>,
    /// Alternate each scenario with and without a noisy neighbour, for --runs pairs of runs. Give a
    /// --rate, so that both have the same load
    #[arg(long, value_enum, conflicts_with_all = ["url", "peer_bare", "peer_unnest", "peer_reqwest"])]
    pub(crate) beside: Option<Neighbour>,
    #[command(flatten)]
    pub(crate) neighbour: NeighbourArgs,
    /// Write the results to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What posted events carry beside type and payload.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct OptionalFields {
    /// Give each event a dedup_id of its own
    #[arg(long)]
    pub(crate) dedup_ids: bool,
    /// Give each event an account_id, one of 1,000, and a user_id, one of 20,000
    #[arg(long)]
    pub(crate) labels: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// POST /api/events, one event per request
    Ingest,
    /// POST /api/events/batch, --batch events per request
    IngestBatch,
    /// POST /api/events/raw, --payload-bytes of plain text per request
    IngestRaw,
    /// GET /api/events?limit=1; at most 100 per second, with the default READ_RATE_LIMIT_PER_MINUTE
    List,
    /// GET /api/events?limit=10, of a thousand events that are stored before
    Read,
    /// POST /api/events, one event per request with a dedup_id, account_id and user_id of its own
    Write,
    /// Seven of read and three of write, in turn
    Mixed,
    /// GET /health/live, which asks nothing of the store
    SimpleGet,
    /// GET /openapi.json, compressed, as HTTP clients ask for it
    Openapi,
    /// GET /api/health
    Health,
    /// GET /metrics
    Metrics,
    /// POST /api/events/batch, until every event is stored
    Store,
    /// POST /api/events, until its webhook arrives at a receiver in this process
    EndToEnd,
    /// GET /api/inbox and POST /api/ack by a consumer per connection, --batch events each (at most 500), which were
    /// stored before
    Inbox,
}

impl Scenario {
    /// Whether its events may have optional fields.
    pub(crate) const fn posts_json(self) -> bool {
        matches!(
            self,
            Self::Ingest | Self::IngestBatch | Self::Store | Self::EndToEnd | Self::Inbox
        )
    }

    /// Whether it reads more than an organisation may by default.
    pub(crate) const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Mixed)
    }

    /// Whether it ends when its last event is accepted.
    pub(crate) const fn only_ingests(self) -> bool {
        matches!(self, Self::Ingest | Self::IngestBatch | Self::IngestRaw)
    }
}

impl fmt::Display for Scenario {
    /// The spelling of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", clap::builder::PossibleValue::get_name))
    }
}
