//! Settings of the export of traces and logs, under the names that OpenTelemetry gives them
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>).

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use reqwest::header::HeaderMap;
use url::Url;

use super::otlp_values::{
    HeadersParser, ResourceAttributes, SamplerName, parse_collector, parse_signal_url,
};
use super::units::parse_ratio;

/// Settings of the export of traces and logs to an OpenTelemetry collector. Times are in milliseconds, as everywhere
/// under these names.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Traces and logs over OTLP")]
pub struct OtlpConfig {
    /// Collector that gets traces and logs over OTLP/HTTP, such as http://localhost:4318; /v1/traces and /v1/logs are
    /// added; unset: nothing is exported
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = parse_collector)]
    pub otel_exporter_otlp_endpoint: Option<Url>,
    /// Where traces go instead, as the whole URL
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", value_name = "URL", value_parser = parse_signal_url)]
    pub otel_exporter_otlp_traces_endpoint: Option<Url>,
    /// Where logs go instead, as the whole URL
    #[arg(long, env = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", value_name = "URL", value_parser = parse_signal_url)]
    pub otel_exporter_otlp_logs_endpoint: Option<Url>,
    /// Headers of every export, such as a key, as name=value separated by commas, values percent-encoded
    #[arg(long, env = "OTEL_EXPORTER_OTLP_HEADERS", hide_env_values = true, value_name = "HEADERS", value_parser = HeadersParser)]
    pub otel_exporter_otlp_headers: Option<HeaderMap>,
    /// Timeout of one request to the collector, in milliseconds
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", value_name = "MILLISECONDS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub otel_exporter_otlp_timeout: u32,
    /// The protocol of exports; only OTLP over HTTP with protobuf
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", value_enum, default_value_t = OtlpProtocol::HttpProtobuf)]
    pub otel_exporter_otlp_protocol: OtlpProtocol,
    /// Compression of exports
    #[arg(long, env = "OTEL_EXPORTER_OTLP_COMPRESSION", value_enum, default_value_t = OtlpCompression::None)]
    pub otel_exporter_otlp_compression: OtlpCompression,
    /// PEM file of CA certificates that an https:// collector may have one from, beside the system's
    #[arg(long, env = "OTEL_EXPORTER_OTLP_CERTIFICATE", value_name = "FILE")]
    pub otel_exporter_otlp_certificate: Option<PathBuf>,
    /// Whether traces are exported
    #[arg(long, env = "OTEL_TRACES_EXPORTER", value_enum, default_value_t = SignalExporter::Otlp)]
    pub otel_traces_exporter: SignalExporter,
    /// Whether logs are exported
    #[arg(long, env = "OTEL_LOGS_EXPORTER", value_enum, default_value_t = SignalExporter::Otlp)]
    pub otel_logs_exporter: SignalExporter,
    /// Export nothing, whatever the other settings say
    #[arg(long, env = "OTEL_SDK_DISABLED", num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", value_name = "BOOL", action = clap::ArgAction::Set)]
    pub otel_sdk_disabled: bool,
    /// The name of this service in traces and logs
    #[arg(long, env = "OTEL_SERVICE_NAME", value_name = "NAME")]
    pub otel_service_name: Option<String>,
    /// Further attributes of this service, as name=value separated by commas, values percent-encoded
    #[arg(
        long,
        env = "OTEL_RESOURCE_ATTRIBUTES",
        value_name = "ATTRIBUTES",
        default_value = "",
        hide_default_value = true
    )]
    pub otel_resource_attributes: ResourceAttributes,
    /// Which traces are recorded; with parentbased_ the caller decides where a request has a traceparent
    #[arg(long, env = "OTEL_TRACES_SAMPLER", value_enum, default_value_t = SamplerName::ParentbasedTraceidratio)]
    pub otel_traces_sampler: SamplerName,
    /// The share of traces that a ratio sampler records, from 0 to 1
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", value_name = "RATIO", default_value_t = 1.0, value_parser = parse_ratio)]
    pub otel_traces_sampler_arg: f64,
    /// Longest time from one export of spans to the next, in milliseconds
    #[arg(long, env = "OTEL_BSP_SCHEDULE_DELAY", value_name = "MILLISECONDS", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub otel_bsp_schedule_delay: u32,
    /// How long an export of spans may take, repetitions included, in milliseconds; then its spans are lost
    #[arg(long, env = "OTEL_BSP_EXPORT_TIMEOUT", value_name = "MILLISECONDS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub otel_bsp_export_timeout: u32,
    /// Maximum spans that wait for their export; further ones are dropped and counted
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", value_name = "SPANS", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub otel_bsp_max_queue_size: u32,
    /// Maximum spans in one export, at most OTEL_BSP_MAX_QUEUE_SIZE
    #[arg(long, env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", value_name = "SPANS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    pub otel_bsp_max_export_batch_size: u32,
    /// Longest time from one export of log lines to the next, in milliseconds
    #[arg(long, env = "OTEL_BLRP_SCHEDULE_DELAY", value_name = "MILLISECONDS", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub otel_blrp_schedule_delay: u32,
    /// How long an export of log lines may take, repetitions included, in milliseconds; then they are lost
    #[arg(long, env = "OTEL_BLRP_EXPORT_TIMEOUT", value_name = "MILLISECONDS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..=3_600_000))]
    pub otel_blrp_export_timeout: u32,
    /// Maximum log lines that wait for their export; further ones are dropped and counted
    #[arg(long, env = "OTEL_BLRP_MAX_QUEUE_SIZE", value_name = "LINES", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub otel_blrp_max_queue_size: u32,
    /// Maximum log lines in one export, at most OTEL_BLRP_MAX_QUEUE_SIZE
    #[arg(long, env = "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", value_name = "LINES", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    pub otel_blrp_max_export_batch_size: u32,
}

/// The protocol of exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OtlpProtocol {
    /// OTLP over HTTP with protobuf
    #[value(name = "http/protobuf")]
    HttpProtobuf,
}

/// The compression of exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OtlpCompression {
    /// None
    None,
    /// Gzip
    Gzip,
}

/// Where traces, or logs, go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SignalExporter {
    /// To the collector
    Otlp,
    /// Nowhere
    None,
}

/// A batch is larger than the queue that it is taken from.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{batch}={items} must be at most {queue}={queued}")]
pub struct ExportBatchError {
    batch: &'static str,
    items: u32,
    queue: &'static str,
    queued: u32,
}

impl OtlpConfig {
    /// Where traces go; `None` if nowhere.
    pub fn traces_url(&self) -> Option<Url> {
        self.url(
            self.otel_traces_exporter,
            self.otel_exporter_otlp_traces_endpoint.as_ref(),
            "v1/traces",
        )
    }

    /// Where logs go; `None` if nowhere.
    pub fn logs_url(&self) -> Option<Url> {
        self.url(self.otel_logs_exporter, self.otel_exporter_otlp_logs_endpoint.as_ref(), "v1/logs")
    }

    fn url(&self, exporter: SignalExporter, own: Option<&Url>, path: &str) -> Option<Url> {
        if self.otel_sdk_disabled || exporter == SignalExporter::None {
            return None;
        }
        own.cloned().or_else(|| {
            let mut url = self.otel_exporter_otlp_endpoint.clone()?;
            let base = url.path().trim_end_matches('/').to_owned();
            url.set_path(&format!("{base}/{path}"));
            Some(url)
        })
    }

    /// Checks that batches fit into their queues.
    ///
    /// # Errors
    /// Names the two settings.
    pub fn check(&self) -> Result<(), ExportBatchError> {
        let pairs = [
            (
                ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", self.otel_bsp_max_export_batch_size),
                ("OTEL_BSP_MAX_QUEUE_SIZE", self.otel_bsp_max_queue_size),
            ),
            (
                ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", self.otel_blrp_max_export_batch_size),
                ("OTEL_BLRP_MAX_QUEUE_SIZE", self.otel_blrp_max_queue_size),
            ),
        ];
        for ((batch, items), (queue, queued)) in pairs {
            if items > queued {
                return Err(ExportBatchError { batch, items, queue, queued });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, defaults};

    fn config(change: impl FnOnce(&mut OtlpConfig)) -> OtlpConfig {
        let Config { otlp, .. } = defaults();
        let mut otlp = *otlp;
        change(&mut otlp);
        otlp
    }

    fn urls(config: &OtlpConfig) -> [Option<String>; 2] {
        [config.traces_url(), config.logs_url()].map(|url| url.map(String::from))
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn nothing_is_exported_without_an_endpoint_or_when_disabled() {
        assert_eq!(urls(&config(|_| {})), [None, None]);
        let disabled = config(|otlp| {
            otlp.otel_exporter_otlp_endpoint = Some(url("http://a"));
            otlp.otel_sdk_disabled = true;
        });
        assert_eq!(urls(&disabled), [None, None]);
    }

    #[test]
    fn paths_are_added_to_the_base_only() {
        for base in ["http://a:4318", "http://a:4318/"] {
            let both = config(|otlp| otlp.otel_exporter_otlp_endpoint = Some(url(base)));
            let expected = ["http://a:4318/v1/traces", "http://a:4318/v1/logs"];
            assert_eq!(urls(&both), expected.map(|url| Some(url.to_owned())));
        }
        let mixed = config(|otlp| {
            otlp.otel_exporter_otlp_endpoint = Some(url("https://a/otlp"));
            otlp.otel_exporter_otlp_traces_endpoint = Some(url("http://b/in"));
            otlp.otel_logs_exporter = SignalExporter::None;
        });
        assert_eq!(urls(&mixed), [Some("http://b/in".to_owned()), None]);
        let path = config(|otlp| otlp.otel_exporter_otlp_endpoint = Some(url("https://a/otlp/")));
        assert_eq!(urls(&path)[1].as_deref(), Some("https://a/otlp/v1/logs"));
    }

    #[test]
    fn batch_that_exceeds_its_queue_is_refused_by_name() {
        assert_eq!(config(|_| {}).check(), Ok(()));
        let error = config(|otlp| otlp.otel_blrp_max_queue_size = 100).check().unwrap_err();
        let expected =
            "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE=512 must be at most OTEL_BLRP_MAX_QUEUE_SIZE=100";
        assert_eq!(error.to_string(), expected);
    }
}
