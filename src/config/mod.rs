//! Every setting, one section a file, plain data.
//!
//! Each field is a flag, an environment variable and a default at once, so `--help`, `.env.example`
//! and the code cannot drift apart. `.env` in the working directory is read before the environment
//! is parsed and never overrides it.

mod auth;
mod delivery;
mod destination;
mod ingest;
mod journal;
mod limit;
mod networks;
mod origins;
mod secrets;
mod server;
mod store;
mod telemetry;
mod units;

use clap::Args;

pub use auth::AuthConfig;
pub use delivery::DeliveryConfig;
pub use destination::DestinationConfig;
pub use ingest::IngestConfig;
pub use journal::JournalConfig;
pub use limit::LimitConfig;
pub use networks::Networks;
pub use origins::Origins;
pub use secrets::SecretsKeys;
pub use server::ServerConfig;
pub use store::StoreConfig;
pub use telemetry::{LogFormat, TelemetryConfig};
pub use units::{parse_duration, parse_wait};

/// All that `hookgate serve` can be told.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where it listens and keeps its data.
    #[command(flatten)]
    pub server: ServerConfig,
    /// Which store, and how it is reached.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The durable queue in front of the store.
    #[command(flatten)]
    pub journal: JournalConfig,
    /// What is taken in, and by how many workers it is stored.
    #[command(flatten)]
    pub ingest: IngestConfig,
    /// How keys are verified.
    #[command(flatten)]
    pub auth: AuthConfig,
    /// How much a tenant may send.
    #[command(flatten)]
    pub limit: LimitConfig,
    /// How webhooks are sent.
    #[command(flatten)]
    pub delivery: DeliveryConfig,
    /// Logs.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}
