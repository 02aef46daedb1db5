//! Starts the export that the settings ask for, and ends it.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::collector::Collector;
use super::exporter::{Exporter, FailureReport};
use super::log_layer::export_lines;
use super::messages::{
    KeyValue, LogRecord, LogsData, Resource, ResourceLogs, ResourceSpans, ScopeLogs, ScopeMessage,
    ScopeSpans, TracesData,
};
use super::metrics::{ExportResult, OtlpMetrics};
use super::queue::{ExportQueue, QueueBounds};
use super::sampler::Sampler;
use super::span::Span;
use super::start_error::OtlpStartError;
use super::tracer::Tracer;
use crate::config::OtlpConfig;
use crate::telemetry::CounterBy;

/// The name of the service, unless it has another.
const SERVICE_NAME: &str = "hookgate";

/// The running export.
#[derive(Debug)]
pub struct OtlpExport {
    tracer: Tracer,
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// How one signal is exported.
#[derive(Clone, Copy)]
struct Pace {
    bounds: QueueBounds,
    delay: Duration,
    timeout: Duration,
}

impl OtlpExport {
    /// Starts to export what the settings name; nothing without an endpoint. Its tasks run on `threads`. They are not
    /// among those that the stop waits for, since what these tell is exported after them, by [`Self::flush`].
    ///
    /// # Errors
    /// When the client of the collector cannot be set up.
    pub fn start(
        config: &OtlpConfig,
        metrics: &OtlpMetrics,
        threads: &Handle,
    ) -> Result<Self, OtlpStartError> {
        let mut export =
            Self { tracer: Tracer::off(), tasks: Vec::new(), stop: CancellationToken::new() };
        let resource = resource(config);
        if let Some(url) = config.traces_url() {
            let collector = Collector::new(url, config)?;
            let encode = traces_encoder(resource.clone());
            let (pace, results) = (Pace::of_spans(config), &metrics.hookgate_otlp_spans_total);
            let queue = export.spawn(threads, "spans", collector, encode, pace, results);
            export.tracer = Tracer::new(Sampler::new(config), queue);
        }
        if let Some(url) = config.logs_url() {
            let collector = Collector::new(url, config)?;
            let encode = logs_encoder(resource);
            let (pace, results) = (Pace::of_lines(config), &metrics.hookgate_otlp_log_lines_total);
            let queue = export.spawn(threads, "log lines", collector, encode, pace, results);
            export_lines(Some(queue));
        }
        Ok(export)
    }

    fn spawn<T: Send + 'static>(
        &mut self,
        threads: &Handle,
        items: &'static str,
        collector: Collector,
        encode: Encoder<T>,
        pace: Pace,
        results: &CounterBy<ExportResult>,
    ) -> Arc<ExportQueue<T>> {
        let dropped = results.of(ExportResult::Dropped).clone();
        let queue = Arc::new(ExportQueue::new(pace.bounds, dropped));
        let exporter = Exporter {
            items,
            queue: Arc::clone(&queue),
            collector,
            encode,
            delay: pace.delay,
            timeout: pace.timeout,
            stop: self.stop.clone(),
            exported: results.of(ExportResult::Exported).clone(),
            failed: results.of(ExportResult::Failed).clone(),
            failures: FailureReport::default(),
        };
        self.tasks.push(threads.spawn(exporter.run()));
        queue
    }

    /// What parts of the server record spans with.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Exports what waits, for at most this long, and ends.
    pub async fn flush(self, max: Duration) {
        self.stop.cancel();
        let aborts: Vec<_> = self.tasks.iter().map(JoinHandle::abort_handle).collect();
        let ending = futures_util::future::join_all(self.tasks);
        if tokio::time::timeout(max, ending).await.is_err() {
            tracing::warn!(
                "the OpenTelemetry collector does not answer; what waits for it is lost"
            );
            aborts.iter().for_each(tokio::task::AbortHandle::abort);
        }
        export_lines(None);
    }
}

impl Pace {
    fn of_spans(config: &OtlpConfig) -> Self {
        Self {
            bounds: QueueBounds {
                items_max: config.otel_bsp_max_queue_size as usize,
                batch_max: config.otel_bsp_max_export_batch_size as usize,
            },
            delay: Duration::from_millis(config.otel_bsp_schedule_delay.into()),
            timeout: Duration::from_millis(config.otel_bsp_export_timeout.into()),
        }
    }

    fn of_lines(config: &OtlpConfig) -> Self {
        Self {
            bounds: QueueBounds {
                items_max: config.otel_blrp_max_queue_size as usize,
                batch_max: config.otel_blrp_max_export_batch_size as usize,
            },
            delay: Duration::from_millis(config.otel_blrp_schedule_delay.into()),
            timeout: Duration::from_millis(config.otel_blrp_export_timeout.into()),
        }
    }
}

type Encoder<T> = Box<dyn Fn(Vec<T>) -> Vec<u8> + Send + Sync>;

fn traces_encoder(resource: Resource) -> Encoder<Span> {
    Box::new(move |spans| {
        let spans = spans.into_iter().map(|Span(message)| message).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans }];
        let resource = Some(resource.clone());
        TracesData { resource_spans: vec![ResourceSpans { resource, scope_spans }] }.encode_to_vec()
    })
}

fn logs_encoder(resource: Resource) -> Encoder<LogRecord> {
    Box::new(move |log_records| {
        let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records }];
        let resource = Some(resource.clone());
        LogsData { resource_logs: vec![ResourceLogs { resource, scope_logs }] }.encode_to_vec()
    })
}

fn scope() -> ScopeMessage {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    ScopeMessage { name: name.to_owned(), version: version.to_owned() }
}

/// What the settings say of this service, and what is missing there.
fn resource(config: &OtlpConfig) -> Resource {
    let mut pairs = config.otel_resource_attributes.pairs().to_vec();
    if let Some(name) = &config.otel_service_name {
        pairs.retain(|(known, _)| known != "service.name");
        pairs.push(("service.name".to_owned(), name.clone()));
    }
    let own = [
        ("service.name", SERVICE_NAME.to_owned()),
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", Uuid::new_v4().to_string()),
    ];
    for (name, value) in own {
        if !pairs.iter().any(|(known, _)| known == name) {
            pairs.push((name.to_owned(), value));
        }
    }
    Resource {
        attributes: pairs.into_iter().map(|(name, value)| KeyValue::new(&name, value)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, defaults};

    fn service_name(name: Option<&str>, attributes: &str) -> (Vec<KeyValue>, usize) {
        let Config { mut otlp, .. } = defaults();
        otlp.otel_service_name = name.map(str::to_owned);
        otlp.otel_resource_attributes = attributes.parse().unwrap();
        let Resource { attributes } = resource(&otlp);
        let count = attributes.len();
        (attributes.into_iter().filter(|pair| pair.key == "service.name").collect(), count)
    }

    #[test]
    fn service_has_one_name() {
        let named = |name| vec![KeyValue::new("service.name", name)];
        assert_eq!(service_name(None, ""), (named("hookgate"), 3));
        assert_eq!(service_name(None, "service.name=a,x=y"), (named("a"), 4));
        assert_eq!(service_name(Some("b"), "service.name=a"), (named("b"), 3));
    }
}
