//! Why the export of traces and logs cannot be started.

use std::path::PathBuf;

/// Why the export cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum OtlpStartError {
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE` cannot be used.
    #[error("OTEL_EXPORTER_OTLP_CERTIFICATE={}: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// TLS cannot be set up, for example because the system has no root certificates.
    #[error("cannot set up TLS for the OpenTelemetry collector: {0}")]
    Tls(#[from] rustls::Error),
    /// The HTTP client cannot be set up.
    #[error("cannot set up the client of the OpenTelemetry collector: {0:?}")]
    Client(#[from] reqwest::Error),
}
