//! Every metric of the process, by the subsystem that owns it.

use std::sync::Arc;

use crate::analytics::AnalyticsMetrics;
use crate::auth::AuthMetrics;
use crate::delivery::DeliveryMetrics;
use crate::http::{ApiMetrics, HttpMetrics};
use crate::ingest::IngestMetrics;
use crate::journal::JournalMetrics;
use crate::store::StoreMetrics;
use crate::telemetry::{GaugeByText, OtlpMetrics, ProcessMetrics, Registry, metrics};

/// The registry and the metrics in it. Each part of the process is given its own.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Of the HTTP API.
    pub http: Arc<HttpMetrics>,
    /// Of authentication.
    pub auth: Arc<AuthMetrics>,
    /// Of the journal.
    pub journal: Arc<JournalMetrics>,
    /// Of the ingest workers.
    pub ingest: Arc<IngestMetrics>,
    /// Of the store.
    pub store: Arc<StoreMetrics>,
    /// Of delivery.
    pub delivery: Arc<DeliveryMetrics>,
    /// Of analytics.
    pub analytics: Arc<AnalyticsMetrics>,
    /// Of the export of traces and logs.
    pub otlp: Arc<OtlpMetrics>,
    /// Of the process.
    pub process: Arc<ProcessMetrics>,
    /// Of the program.
    _build: Arc<BuildMetrics>,
}

metrics! {
    /// Metrics of the program.
    struct BuildMetrics {
        /// 1, with the version of the program and the revision of its source, if the build was told
        /// (`HOOKGATE_REVISION`).
        @core hookgate_build_info: GaugeByText = &["version", "revision"],
    }
}

impl Metrics {
    /// Registers every metric in a new registry.
    ///
    /// # Errors
    /// When two metrics share a name, which a test rules out.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        Ok(Self {
            http: HttpMetrics::register(&registry)?,
            auth: AuthMetrics::register(&registry)?,
            journal: JournalMetrics::register(&registry)?,
            ingest: IngestMetrics::register(&registry)?,
            store: StoreMetrics::register(&registry)?,
            delivery: DeliveryMetrics::register(&registry)?,
            analytics: AnalyticsMetrics::register(&registry)?,
            otlp: OtlpMetrics::register(&registry)?,
            process: ProcessMetrics::register(&registry)?,
            _build: build_metrics(&registry)?,
            registry: Arc::new(registry),
        })
    }

    /// The metrics that the API counts or shows.
    pub fn for_api(&self) -> ApiMetrics {
        ApiMetrics {
            registry: Arc::clone(&self.registry),
            http: Arc::clone(&self.http),
            ingest: Arc::clone(&self.ingest),
            delivery: Arc::clone(&self.delivery),
            process: Arc::clone(&self.process),
        }
    }
}

fn build_metrics(registry: &Registry) -> Result<Arc<BuildMetrics>, prometheus::Error> {
    let metrics = BuildMetrics::register(registry)?;
    let revision = option_env!("HOOKGATE_REVISION").unwrap_or("unknown");
    let labels = [env!("CARGO_PKG_VERSION"), revision];
    metrics.hookgate_build_info.with_label_values(&labels).set(1);
    Ok(metrics)
}
