//! The collector: takes one export after the other by HTTP.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode};
use url::Url;

use super::start_error::OtlpStartError;
use crate::config::{OtlpCompression, OtlpConfig};
use crate::runtime::{client_tls, read_authorities};

/// How long a connection that nothing is sent over is kept.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);
/// Most of an answer that is read so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The longest wait that a collector can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// Where one signal is sent.
#[derive(Debug)]
pub(super) struct Collector {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    compression: OtlpCompression,
}

/// Why the collector did not take an export.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CollectorError {
    /// It may take it later, after this time if it said so.
    Temporary(String, Option<Duration>),
    /// It never will.
    Final(String),
}

impl Collector {
    /// A collector that is posted to at this URL.
    pub(super) fn new(url: Url, config: &OtlpConfig) -> Result<Self, OtlpStartError> {
        let file = config.otel_exporter_otlp_certificate.as_deref();
        let authorities = file.map(|path| {
            let failed = |reason| OtlpStartError::Certificate { path: path.to_owned(), reason };
            read_authorities(path).map_err(failed)
        });
        let authorities = authorities.transpose()?.unwrap_or_default();
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .tls_backend_preconfigured(client_tls(authorities)?)
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .build()?;
        let mut headers = config.otel_exporter_otlp_headers.clone().unwrap_or_default();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let compression = config.otel_exporter_otlp_compression;
        if compression == OtlpCompression::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let timeout = Duration::from_millis(config.otel_exporter_otlp_timeout.into());
        Ok(Self { client, url, headers, timeout, compression })
    }

    /// The body of a request with this message.
    pub(super) fn body(&self, message: Vec<u8>) -> Bytes {
        match self.compression {
            OtlpCompression::None => message.into(),
            OtlpCompression::Gzip => gzip(&message).into(),
        }
    }

    /// Posts a body once.
    pub(super) async fn post(&self, body: Bytes) -> Result<(), CollectorError> {
        let request = self.client.post(self.url.clone()).headers(self.headers.clone());
        let answer = request.timeout(self.timeout).body(body).send().await;
        let mut answer =
            answer.map_err(|error| CollectorError::Temporary(cause(&error.without_url()), None))?;
        let judged = judge(&answer);
        let mut read = 0;
        while read < ANSWER_BYTES_MAX
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            read += chunk.len();
        }
        judged
    }
}

/// What an answer says, by the specification of OTLP/HTTP: 429 and these three of 5xx may be repeated.
fn judge(answer: &Response) -> Result<(), CollectorError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let text = format!("it answers {status}");
    let is_temporary = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    );
    if !is_temporary {
        return Err(CollectorError::Final(text));
    }
    let after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = after.and_then(|after| after.trim().parse().ok());
    let wait = seconds.map(|seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    Err(CollectorError::Temporary(text, wait))
}

/// The deepest cause of an error: the others say where it was noticed.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // A vector takes every byte.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}
