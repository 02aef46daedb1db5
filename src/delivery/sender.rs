//! Sends one webhook and reads the answer, as far as anybody wants it.
//!
//! # One attempt, one request
//! The client follows no redirect and repeats no request. One thing it does by itself: a request for
//! which it had picked an idle connection that turns out to be closed, before a byte of it was written,
//! goes to another connection. Nothing was sent, so nothing was attempted; a request that was written is
//! never written again, and its failure is the attempt's.
//!
//! # Bounds
//! Of an answer 64 KiB of body are read at most, and what HTTP/2 may send ahead is little more. A
//! longer answer is judged by its status, and its connection is dropped. Idle connections are closed
//! after half a minute.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Certificate, Client, Method, Request, Response};

use crate::domain::{ErrorClass, LeasedDelivery, Timestamp};

use super::DeliveryError;
use super::failure::{Failure, tidy};
use super::resolver::{DnsResolver, GuardedResolver};
use super::retry::{ResponseSummary, is_success};
use super::ssrf_guard::SsrfGuard;
use super::webhook;

/// Bytes of an answer that are kept.
const EXCERPT_BYTES_MAX: usize = 1024;
/// Bytes of an answer that are read, so that its connection can be used again. A longer answer costs
/// less to cut off, connection and all, than to read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// What a receiver may send ahead on HTTP/2 before any of it is read, for one answer and for all on one
/// connection.
const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// An idle connection is closed after this: many receivers close theirs after a minute, and a request
/// on a connection that is just being closed is a failed attempt.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);

/// Sends webhooks. Clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    client: Client,
    guard: SsrfGuard,
    options: SenderOptions,
}

/// How webhooks are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SenderOptions {
    /// A connection is there by then, TLS included.
    pub(super) connect_timeout: Duration,
    /// An attempt has ended by then, whatever the receiver does.
    pub(super) timeout: Duration,
    /// Idle connections kept open to one host at most.
    pub(super) idle_per_host: usize,
}

/// What came of sending.
#[derive(Debug)]
pub(super) struct SendResult {
    /// The HTTP status; `None` when there was no answer.
    pub(super) status: Option<u16>,
    /// What it failed at; `None` when it succeeded.
    pub(super) failure: Option<Failure>,
    /// The start of the answer's body; `None` when that was empty or was not read.
    pub(super) excerpt: Option<String>,
    retry_after: Option<String>,
}

impl SendResult {
    /// What the decision about the next attempt is taken from.
    pub(super) fn reply(&self) -> ResponseSummary<'_> {
        ResponseSummary { status: self.status, retry_after: self.retry_after.as_deref() }
    }
}

impl Sender {
    /// A sender that goes where `guard` lets it, which resolves names with `resolver`, and trusts what the
    /// system trusts and `authorities` besides.
    ///
    /// # Errors
    /// When TLS cannot be set up, say because the system has no root certificates.
    pub(super) fn new(
        guard: SsrfGuard,
        resolver: Arc<dyn DnsResolver>,
        options: SenderOptions,
        authorities: Vec<Certificate>,
    ) -> Result<Self, reqwest::Error> {
        // Fails when another part, or another instance in a test, was here before: just as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .dns_resolver(GuardedResolver::new(guard.clone(), resolver))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .tls_certs_merge(authorities)
            .http2_initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .pool_max_idle_per_host(options.idle_per_host)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .build()?;
        Ok(Self { client, guard, options })
    }

    /// Makes one attempt, which counts as started at `at`. One that panics has failed like any other: what is
    /// wrong with one delivery must not end the process, and every one after it that makes the same attempt.
    pub(super) async fn send(&self, delivery: &LeasedDelivery, at: Timestamp) -> SendResult {
        let answer = async { Ok(read(self.request(delivery, at).await?).await) };
        contained(answer).await.unwrap_or_else(|failure| {
            if matches!(failure.class, ErrorClass::Signing | ErrorClass::Internal) {
                let (org, endpoint) = (delivery.endpoint.org_id, delivery.endpoint.id);
                let (id, error) = (delivery.id, failure.text.as_str());
                tracing::error!(%org, %endpoint, delivery = %id, error, "a webhook cannot be made");
            }
            SendResult { status: None, failure: Some(failure), excerpt: None, retry_after: None }
        })
    }

    async fn request(&self, delivery: &LeasedDelivery, at: Timestamp) -> Result<Response, Failure> {
        let url = &delivery.endpoint.url;
        self.guard.check_url(url)?;
        let body = webhook::body(&delivery.event);
        let mut request = Request::new(Method::POST, url.clone());
        *request.headers_mut() = webhook::headers(delivery, at, &body)?;
        *request.body_mut() = Some(body.into());
        let SenderOptions { connect_timeout, timeout, .. } = self.options;
        let sent = self.client.execute(request).await;
        sent.map_err(|error| Failure::request(&error, connect_timeout, timeout))
    }
}

/// Reads the certificates in a PEM file.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<Certificate>, DeliveryError> {
    let failed = |reason: String| DeliveryError::Authorities { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let authorities =
        Certificate::from_pem_bundle(&pem).map_err(|error| failed(format!("{error:?}")))?;
    if authorities.is_empty() {
        return Err(failed("it holds no certificate".to_owned()));
    }
    Ok(authorities)
}

/// What an attempt comes to, which is a failure when it panics.
async fn contained<T>(attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // It shares nothing mutable but the client, whose parts keep themselves whole.
    let panicked = |_| Err(Failure::panicked());
    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(panicked)
}

async fn read(response: Response) -> SendResult {
    let status = response.status();
    let code = status.as_u16();
    let failure = (!is_success(code)).then(|| Failure::status(status));
    let retry_after = retry_after(response.headers());
    SendResult { status: Some(code), failure, excerpt: excerpt(response).await, retry_after }
}

fn retry_after(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(RETRY_AFTER)?.to_str().ok()?.to_owned())
}

/// Reads the answer and keeps its start. The status has decided already, so an answer that breaks off,
/// or drips until the timeout, takes nothing back.
async fn excerpt(mut response: Response) -> Option<String> {
    let mut kept = Vec::new();
    let mut bytes_read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = EXCERPT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
        bytes_read += chunk.len();
        if bytes_read >= ANSWER_BYTES_MAX {
            break;
        }
    }
    let text = String::from_utf8_lossy(&kept);
    (!text.is_empty()).then(|| tidy(&text, EXCERPT_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempt_that_panics_has_failed() {
        let failure = contained::<()>(async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(failure, Failure::panicked());
        assert_eq!(contained(async { Ok(1) }).await, Ok(1));
    }
}
