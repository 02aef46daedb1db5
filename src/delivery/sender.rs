//! The sender: posts one webhook and reads the start of the response.
//!
//! # One attempt, one request
//! The client follows no redirects and repeats no requests. There are four exceptions, in which the receiver
//! processed nothing, so nothing was attempted. If an idle connection turns out to be closed before a byte of the
//! request was written, the client uses another connection. If it has no connection and no addresses of the host, the
//! host is looked up, and the request, signed anew, is made (`resolver`). If this server has no file descriptor left
//! for a connection, it waits for one, for as long as connecting may take. A request that was written is never
//! written again; its failure is the attempt's.
//!
//! # Bounds
//! The status decides the attempt. The response body is only read for its excerpt, and so that the connection
//! can be reused: for at most a second and 8 KiB. A body that drips or does not end is cut off, and its
//! connection is closed; HTTP/2 flow control bounds what arrives meanwhile. Idle connections are closed after
//! 30 seconds, and earlier beyond their number (`connection_pools`).

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;

use crate::domain::{ErrorClass, LeasedDelivery, Timestamp};
use crate::runtime::{self, Clock, Stopwatch, client_tls};
use crate::telemetry::OrgLines;

use super::DeliveryError;
use super::connection_pools::{ConnectionPools, PoolLimits};
use super::exchange::{ExchangeLimits, Exchanged, NotSent, Webhook};
use super::failure::{Failure, tidy};
use super::metrics::DeliveryMetrics;
use super::resolver::{Lookups, PinnedHost, PinnedResolver};
use super::retry::{ResponseSummary, is_success};
use super::ssrf_guard::SsrfGuard;
use super::webhook;

/// Maximum bytes of a response body that are stored.
const EXCERPT_BYTES_MAX: usize = 1024;
/// Maximum bytes of a response body that are read so that the connection can be reused. Closing the
/// connection costs less than reading a longer body.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// How long a response body is read. The attempt holds its slot meanwhile, though it is decided.
const BODY_TIME_MAX: Duration = Duration::from_secs(1);
/// HTTP/2 flow-control windows, per stream and per connection: how much a receiver may send before it is
/// read.
const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long idle connections are kept. Many receivers close theirs after a minute, and a request on a
/// connection that is just being closed is a failed attempt.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);

/// Webhooks that cannot be built, such as those whose secret cannot be read.
static UNBUILDABLE: OrgLines = OrgLines::new();

/// Sends webhooks. Clones share their connections.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pools: ConnectionPools,
    guard: SsrfGuard,
    lookups: Lookups,
    options: SenderOptions,
    metrics: Arc<DeliveryMetrics>,
}

/// How webhooks are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct SenderOptions {
    /// Connect timeout, TLS handshake included.
    pub(super) connect_timeout: Duration,
    /// Timeout from the request to the header of the response.
    pub(super) timeout: Duration,
    /// Maximum idle connections per host.
    pub(super) idle_per_host: usize,
    /// Maximum idle connections over all hosts.
    pub(super) idle: usize,
}

/// The result of sending a webhook.
#[derive(Debug)]
pub(super) struct SendResult {
    /// The HTTP status; `None` without a response.
    pub(super) status: Option<u16>,
    /// Why it failed; `None` if it succeeded.
    pub(super) failure: Option<Failure>,
    /// The start of the response body; `None` if it is empty or was not read.
    pub(super) excerpt: Option<String>,
    /// When the attempt started: with the look-up of the host, if there was one, and once it had a stream.
    pub(super) started_at: Timestamp,
    /// From the start of the attempt to the response's header, or to the failure without one.
    pub(super) took: Duration,
    retry_after: Option<String>,
}

impl SendResult {
    /// No response.
    fn failed(failure: Failure, started_at: Timestamp, took: Duration) -> Self {
        let failure = Some(failure);
        Self { status: None, failure, excerpt: None, started_at, took, retry_after: None }
    }

    /// The parts of the response that the retry policy looks at.
    pub(super) fn response(&self) -> ResponseSummary<'_> {
        ResponseSummary { status: self.status, retry_after: self.retry_after.as_deref() }
    }
}

impl Sender {
    /// A sender that connects where `guard` allows, resolves names with `lookups`, and trusts the system's
    /// certificate authorities plus `authorities`.
    ///
    /// # Errors
    /// When TLS cannot be set up, say because the system has no root certificates.
    pub(super) fn new(
        guard: SsrfGuard,
        lookups: Lookups,
        options: SenderOptions,
        authorities: Vec<CertificateDer<'static>>,
        metrics: Arc<DeliveryMetrics>,
    ) -> Result<Self, DeliveryError> {
        let factory = ClientFactory {
            resolver: PinnedResolver::new(guard.clone()),
            tls: client_tls(authorities)?,
            connect_timeout: options.connect_timeout,
        };
        let limits = PoolLimits { idle: options.idle, idle_per_host: options.idle_per_host };
        let pools =
            ConnectionPools::new(limits, IDLE_CONNECTION_MAX, move |idle| factory.build(idle))?;
        Ok(Self { pools, guard, lookups, options, metrics })
    }

    /// Makes one attempt. `None` if it was not made, because the look-up of its host or its HTTP/2 stream had to wait
    /// for others until the slot or the lease is better given back. A panic is a failed attempt: one bad delivery
    /// must not end the process, nor every process that attempts it again.
    pub(super) async fn send(
        &self,
        delivery: &LeasedDelivery,
        clock: &Clock,
    ) -> Option<SendResult> {
        let started_at = clock.now();
        let host_name = delivery.endpoint.url.domain().unwrap_or_default();
        let known = self.lookups.cached(host_name).await;
        match self.post(delivery, known.as_ref(), clock).await {
            Ok(result) => return Some(result),
            Err(NotSent::HostUnknown) => {}
            Err(NotSent::NoStream) => return None,
        }
        let finding = self.lookups.find(delivery.endpoint.org_id, host_name, clock);
        let lookup = match catch_panic(async { Ok(finding.await) }).await {
            Ok(found) => found?,
            Err(failure) => return Some(SendResult::failed(failure, started_at, Duration::ZERO)),
        };
        let started_at = lookup.began_at.map_or(started_at, |began| began.max(started_at));
        let host = match lookup.host {
            Ok(host) => host,
            Err(error) => return Some(SendResult::failed(error.into(), started_at, lookup.took)),
        };
        // Another server may make the attempt once the lease has lapsed, which it does by the schedule time.
        if clock.schedule().plus(self.options.timeout) > delivery.lease.until {
            return None;
        }
        let result = match self.post(delivery, Some(&host), clock).await {
            Ok(result) => result,
            Err(NotSent::HostUnknown) => {
                SendResult::failed(Failure::unresolved(), started_at, Duration::ZERO)
            }
            Err(NotSent::NoStream) => return None,
        };
        Some(SendResult { started_at, took: lookup.took + result.took, ..result })
    }

    /// Posts the webhook, signed with the time at which it does.
    async fn post(
        &self,
        delivery: &LeasedDelivery,
        host: Option<&PinnedHost>,
        clock: &Clock,
    ) -> Result<SendResult, NotSent> {
        let (watch, at) = (Stopwatch::start(), clock.now());
        // The attempt ends before its lease, which lapses by the schedule time; the wall clock may be far from that.
        let spare = delivery.lease.until.since(clock.schedule());
        let stream = spare.saturating_sub(self.options.timeout).min(self.options.timeout);
        let exchange = self.exchange(delivery, host, at, stream);
        let (result, started_at, took) = match catch_panic(exchange).await {
            Ok(exchanged) => {
                let Exchanged { result, waited, took } = exchanged?;
                (result, at.plus(waited), took)
            }
            Err(failure) => (Err(failure), at, watch.elapsed()),
        };
        let result = match result {
            Ok((response, _pool)) => {
                catch_panic(async { Ok(read(response, started_at, took).await) }).await
            }
            Err(failure) => Err(failure),
        };
        Ok(result.unwrap_or_else(|failure| {
            if matches!(failure.class, ErrorClass::Signing | ErrorClass::Internal) {
                let (org, endpoint) = (delivery.endpoint.org_id, delivery.endpoint.id);
                let (id, error) = (delivery.id, failure.text.as_str());
                if let Some(unlogged) = UNBUILDABLE.due(org) {
                    tracing::error!(%org, %endpoint, delivery = %id, error, unlogged, "cannot build a webhook request");
                }
            }
            SendResult::failed(failure, started_at, took)
        }))
    }

    /// Makes the request, if the guard and the signer allow it, and waits so long for an HTTP/2 stream.
    async fn exchange(
        &self,
        delivery: &LeasedDelivery,
        host: Option<&PinnedHost>,
        at: Timestamp,
        stream: Duration,
    ) -> Result<Result<Exchanged, NotSent>, Failure> {
        let url = &delivery.endpoint.url;
        self.guard.check_url(url)?;
        let body = webhook::body(&delivery.event, delivery.endpoint.config.format);
        let headers = webhook::headers(delivery, at, &body)?;
        let SenderOptions { connect_timeout, timeout, .. } = self.options;
        let limits = ExchangeLimits { connect: connect_timeout, response: timeout, stream };
        let webhook = Webhook { url, headers, body };
        Ok(webhook.exchange(&self.pools, host, limits, &self.metrics).await)
    }
}

/// Builds the HTTP clients, one per host. They share the resolver and the TLS settings, with its sessions.
struct ClientFactory {
    resolver: PinnedResolver,
    tls: ClientConfig,
    connect_timeout: Duration,
}

impl ClientFactory {
    /// A client that keeps so many idle connections.
    fn build(&self, idle: usize) -> Result<Client, reqwest::Error> {
        Client::builder()
            .dns_resolver(self.resolver.clone())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .tls_backend_preconfigured(self.tls.clone())
            .http2_initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .connect_timeout(self.connect_timeout)
            .pool_max_idle_per_host(idle)
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .build()
    }
}

/// Reads the CA certificates of `WEBHOOK_CA_FILE`.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, DeliveryError> {
    let failed = |reason| DeliveryError::Authorities { path: path.to_owned(), reason };
    runtime::read_authorities(path).map_err(failed)
}

/// The result of an attempt; a panic is a failure.
async fn catch_panic<T>(attempt: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // The attempt shares no mutable state but the client's, which is unwind safe.
    let panicked = |_| Err(Failure::panicked());
    AssertUnwindSafe(attempt).catch_unwind().await.unwrap_or_else(panicked)
}

/// The result of an attempt that got a response after `took`.
async fn read(response: Response, started_at: Timestamp, took: Duration) -> SendResult {
    let status = response.status();
    let code = status.as_u16();
    let failure = (!is_success(code)).then(|| Failure::status(status));
    let retry_after = retry_after(response.headers());
    let excerpt = excerpt(response).await;
    SendResult { status: Some(code), failure, excerpt, started_at, took, retry_after }
}

fn retry_after(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(RETRY_AFTER)?.to_str().ok()?.to_owned())
}

/// Reads the response body within its bounds and returns its start. The status has decided the attempt, so a
/// body that breaks off or is cut off changes nothing.
async fn excerpt(mut response: Response) -> Option<String> {
    let mut start = Vec::new();
    let read = async {
        let mut bytes_read = 0;
        while bytes_read < BODY_BYTES_MAX
            && let Ok(Some(chunk)) = response.chunk().await
        {
            let left = EXCERPT_BYTES_MAX - start.len();
            start.extend_from_slice(&chunk[..chunk.len().min(left)]);
            bytes_read += chunk.len();
        }
    };
    // What has arrived by then is the excerpt.
    let _ = tokio::time::timeout(BODY_TIME_MAX, read).await;
    let text = String::from_utf8_lossy(&start);
    (!text.is_empty()).then(|| tidy(&text, EXCERPT_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn attempt_that_panics_has_failed() {
        let failure = catch_panic::<()>(async { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(failure, Failure::panicked());
        assert_eq!(catch_panic(async { Ok(1) }).await, Ok(1));
    }
}
