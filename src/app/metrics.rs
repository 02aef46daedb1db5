//! Every metric of the process, by the subsystem that owns it.

use std::sync::Arc;

use crate::analytics::AnalyticsMetrics;
use crate::auth::AuthMetrics;
use crate::delivery::DeliveryMetrics;
use crate::http::{ApiMetrics, HttpMetrics};
use crate::ingest::IngestMetrics;
use crate::journal::JournalMetrics;
use crate::store::StoreMetrics;
use crate::telemetry::Registry;

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
        }
    }
}
