//! Configuration: every setting, as plain data, one file per section.
//!
//! Each field declares a flag, an environment variable, a default and a help text at once; `--help`,
//! `.env.example` and `docs/configuration.md` are generated from them. `.env` in the working directory
//! is read before the environment is parsed, and never overrides it.

mod auth;
mod bootstrap;
mod defaults;
mod delivery;
mod destination;
mod disk;
mod dns;
mod ingest;
mod journal;
mod limit;
mod networks;
mod origins;
mod otlp;
mod otlp_values;
mod retention;
mod secrets;
mod server;
mod sizes;
mod store;
mod telemetry;
mod units;

use clap::Args;

pub use auth::AuthConfig;
pub use bootstrap::{BootstrapConfig, BootstrapKey};
pub use defaults::defaults;
pub use delivery::DeliveryConfig;
pub use destination::DestinationConfig;
pub use disk::{DiskConfig, DiskError};
pub use dns::{DnsConfig, DnsServers};
pub use ingest::IngestConfig;
pub use journal::JournalConfig;
pub use limit::LimitConfig;
pub use networks::Networks;
pub use origins::Origins;
pub use otlp::{ExportBatchError, OtlpCompression, OtlpConfig, OtlpProtocol, SignalExporter};
pub use otlp_values::{ResourceAttributes, SamplerName};
pub use retention::{RetentionConfig, RetentionError, days};
pub use secrets::SecretsKeys;
pub use server::{ServerConfig, parse_host};
pub use sizes::{ENVELOPE_BYTES_MAX, SizeError};
pub use store::StoreConfig;
pub use telemetry::{LogFormat, MetricsSet, TelemetryConfig};
pub use units::{parse_duration, parse_wait};

/// The settings of `hookgate serve`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// The listener, and bounds of connections and requests.
    #[command(flatten)]
    pub server: ServerConfig,
    /// The store.
    #[command(flatten)]
    pub store: StoreConfig,
    /// The journal.
    #[command(flatten)]
    pub journal: JournalConfig,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionConfig,
    /// The guard of free disk space.
    #[command(flatten)]
    pub disk: DiskConfig,
    /// Ingest.
    #[command(flatten)]
    pub ingest: IngestConfig,
    /// Authentication.
    #[command(flatten)]
    pub auth: AuthConfig,
    /// The first start.
    #[command(flatten)]
    pub bootstrap: BootstrapConfig,
    /// Rate limits.
    #[command(flatten)]
    pub limit: LimitConfig,
    /// Delivery.
    #[command(flatten)]
    pub delivery: DeliveryConfig,
    /// Logs and metrics.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
    /// The export of traces and logs. Boxed, since futures that hold the settings would grow by it.
    #[command(flatten)]
    pub otlp: Box<OtlpConfig>,
}
