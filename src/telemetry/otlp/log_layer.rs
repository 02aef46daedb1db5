//! The layer that turns lines of the log into records for the collector.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::messages::{AnyValue, KeyValue, LogRecord, Scalar};
use super::queue::ExportQueue;
use super::span::nanos;
use crate::domain::TraceId;
use crate::runtime::Clock;

/// The queue of the server that runs in this process. Logging starts before the server is built, and its subscriber is
/// the process's for good.
static LINES: RwLock<Option<Arc<ExportQueue<LogRecord>>>> = RwLock::new(None);

/// Targets whose lines are not exported: of the exporter, and of the libraries that it uses, which would log each
/// export at the level trace.
const OWN_TARGETS: [&str; 7] =
    ["hookgate::telemetry::otlp", "h2", "hyper", "hyper_util", "reqwest", "rustls", "tower"];

/// Exports the lines that the filter lets pass. Those before the server is built and after it has stopped are lost.
#[derive(Debug)]
pub(in crate::telemetry) struct LogExportLayer {
    clock: Clock,
}

impl LogExportLayer {
    pub(in crate::telemetry) fn new() -> Self {
        Self { clock: Clock::system() }
    }
}

/// Has the lines of this process go to this queue, or to none.
pub(super) fn export_lines(to: Option<Arc<ExportQueue<LogRecord>>>) {
    *LINES.write().unwrap_or_else(PoisonError::into_inner) = to;
}

impl<S: Subscriber> Layer<S> for LogExportLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if is_own(metadata.target()) {
            return;
        }
        let lines = LINES.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(lines) = lines else { return };
        let now = nanos(self.clock.now());
        let mut fields = LineFields::default();
        event.record(&mut fields);
        fields.attributes.push(KeyValue::new("target", metadata.target()));
        let (severity_number, severity_text) = severity(*metadata.level());
        lines.push(LogRecord {
            time_unix_nano: now,
            severity_number,
            severity_text: severity_text.to_owned(),
            body: fields.message.map(AnyValue::from),
            attributes: fields.attributes,
            trace_id: fields.trace_id,
            observed_time_unix_nano: now,
        });
    }
}

fn is_own(target: &str) -> bool {
    OWN_TARGETS.iter().any(|own| {
        target.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    })
}

const fn severity(level: Level) -> (i32, &'static str) {
    match level {
        Level::TRACE => (1, "TRACE"),
        Level::DEBUG => (5, "DEBUG"),
        Level::INFO => (9, "INFO"),
        Level::WARN => (13, "WARN"),
        Level::ERROR => (17, "ERROR"),
    }
}

/// The fields of a line.
#[derive(Default)]
struct LineFields {
    message: Option<Scalar>,
    attributes: Vec<KeyValue>,
    /// The bytes that its field `trace_id` stands for.
    trace_id: Vec<u8>,
}

impl LineFields {
    fn add(&mut self, field: &Field, value: Scalar) {
        match (field.name(), &value) {
            ("message", _) => self.message = Some(value),
            ("trace_id", Scalar::Text(text)) => {
                // A text that is no id leads to bytes, as in the header that it came in.
                let trace_id = TraceId::from_header(text, None).ok();
                if trace_id.as_ref().is_none_or(|id| id.text().is_some()) {
                    self.attributes.push(KeyValue::new("hookgate.trace_text", value.clone()));
                }
                self.trace_id = trace_id.map(|id| id.bytes().to_vec()).unwrap_or_default();
            }
            (name, _) => self.attributes.push(KeyValue::new(name, value)),
        }
    }
}

impl Visit for LineFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Scalar::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, Scalar::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Scalar::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Scalar::Int(i64::try_from(value).unwrap_or(i64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Scalar::Float(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Scalar::Bool(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_export_itself_are_known() {
        for own in ["hookgate::telemetry::otlp::exporter", "hyper_util::client", "h2", "reqwest::x"]
        {
            assert!(is_own(own), "{own}");
        }
        for other in ["hookgate::telemetry", "hookgate::delivery", "h2o", "sqlx::query"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
