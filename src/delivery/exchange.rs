//! One exchange: hands a webhook to its host's client, and waits for the header of the response.
//!
//! # HTTP/2
//! A receiver allows so many streams at once on a connection (`SETTINGS_MAX_CONCURRENT_STREAMS`); further requests
//! wait for one. That wait is not the receiver's time: timeout and duration begin when the stream is opened, which
//! shows when the connection reads the request's body. The wait is bounded as well. A webhook that gets no stream
//! meanwhile is given back to the store if the receiver answered others, and has failed if it did not.
//!
//! Of a new host that is known only by its first answer or HTTP/2 error. Before, a request that no connection has read
//! for longer than connecting may take waits for a stream: HTTP/1.1 gives each a connection of its own.
//!
//! A receiver may say that it has not processed a request: by a GOAWAY with a lower stream, or by `REFUSED_STREAM` (RFC
//! 9113 section 8.7). Such a request is sent again, within the same attempt, and so is one whose body no connection has
//! read. Three times at once, which covers a receiver that closes each connection after so many requests; then every
//! 100 ms, until the attempt's wait is over. The connection after a GOAWAY is a new one.
//!
//! **Invariant:** a request that may have been processed is not sent again.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::header::HeaderMap;
use reqwest::{Method, Request, Response, Version};
use tokio::sync::oneshot;
use url::Url;

use crate::runtime::Stopwatch;

use super::connection_pools::{ConnectionPools, PooledClient};
use super::failure::{Failure, is_shortage};
use super::metrics::DeliveryMetrics;
use super::resolver::{PinnedHost, with_host};

/// How many times a request that was not processed is sent again without a wait.
const RESENDS_AT_ONCE: u32 = 3;
/// The wait before it is sent again after that.
const RESEND_WAIT: Duration = Duration::from_millis(100);
/// The wait before a connection is tried again that could not be made for want of file descriptors.
const SHORTAGE_WAIT: Duration = Duration::from_millis(100);

/// A webhook to send.
#[derive(Debug)]
pub(super) struct Webhook<'a> {
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The time bounds of an exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExchangeLimits {
    /// Connect timeout, TLS handshake included.
    pub(super) connect: Duration,
    /// From the request to the header of the response; connecting counts, waiting for a stream does not.
    pub(super) response: Duration,
    /// The wait for an HTTP/2 stream.
    pub(super) stream: Duration,
}

/// Why a webhook was not sent, through no fault of its receiver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NotSent {
    /// The client needs addresses of the host.
    HostUnknown,
    /// Others got the streams.
    NoStream,
}

/// An exchange that counts as an attempt.
#[derive(Debug)]
pub(super) struct Exchanged {
    /// The response, and the client that its connection returns to once its body is read.
    pub(super) result: Result<(Response, Arc<PooledClient>), Failure>,
    /// How long it waited before the receiver's time began.
    pub(super) waited: Duration,
    /// The receiver's time, to the header of the response or to the failure.
    pub(super) took: Duration,
}

/// The end of a request.
enum Sent {
    Response(Response),
    Failed(reqwest::Error),
    TimedOut,
}

impl Webhook<'_> {
    /// Sends it, and sends it again as long as it was not processed.
    pub(super) async fn exchange(
        &self,
        pools: &ConnectionPools,
        host: Option<&PinnedHost>,
        limits: ExchangeLimits,
        metrics: &DeliveryMetrics,
    ) -> Result<Exchanged, NotSent> {
        let watch = Stopwatch::start();
        let (mut resends, mut refusal) = (0, None);
        loop {
            let pool = pools.of_host(self.url);
            let answered_before = pool.answered_streams();
            let mut opened = Opened::default();
            let sent = self.send(&pool, host, limits, watch, &mut opened).await;
            if let Sent::Failed(error) = &sent
                && Failure::is_http2(error)
            {
                pool.note_multiplexed();
            }
            let waited = match &opened.at {
                Some(at) if opened.is_by_stream(&pool) => watch.until(*at),
                _ => Duration::ZERO,
            };
            let failure = match sent {
                Sent::Response(response) => {
                    let took = watch.elapsed().saturating_sub(waited);
                    return Ok(Exchanged { result: Ok((response, pool)), waited, took });
                }
                // The receiver has no part in it, and nothing was sent.
                Sent::Failed(error) if is_shortage(&error) && watch.elapsed() < limits.connect => {
                    tokio::time::sleep(SHORTAGE_WAIT).await;
                    continue;
                }
                Sent::Failed(error) if Failure::is_host_unknown(&error) => {
                    return Err(NotSent::HostUnknown);
                }
                Sent::Failed(error)
                    if is_unprocessed(&error, &opened, &pool)
                        && watch.elapsed() < limits.stream =>
                {
                    refusal = Some(Failure::request(&error, limits.connect, limits.response));
                    metrics.hookgate_webhook_resends_total.inc();
                    resends += 1;
                    if resends > RESENDS_AT_ONCE {
                        tokio::time::sleep(RESEND_WAIT).await;
                    }
                    continue;
                }
                Sent::Failed(error) => Failure::request(&error, limits.connect, limits.response),
                Sent::TimedOut if opened.at.is_none() && opened.is_by_stream(&pool) => {
                    if pool.answered_streams() != answered_before {
                        return Err(NotSent::NoStream);
                    }
                    refusal.take().unwrap_or_else(|| Failure::no_stream(watch.elapsed()))
                }
                Sent::TimedOut => Failure::no_response(limits.response),
            };
            let took = watch.elapsed().saturating_sub(waited);
            return Ok(Exchanged { result: Err(failure), waited, took });
        }
    }

    /// Sends it once; `watch` has run since the first time.
    async fn send(
        &self,
        pool: &PooledClient,
        host: Option<&PinnedHost>,
        limits: ExchangeLimits,
        watch: Stopwatch,
        opened: &mut Opened,
    ) -> Sent {
        let (notice, mut noticed) = oneshot::channel();
        let mut request = Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(reqwest::Body::wrap(ObservedBody {
            data: Some(self.body.clone()),
            opened: Some(notice),
        }));
        let mut sending = pin!(with_host(host.cloned(), pool.execute(request)));
        let mut may_open = true;
        let unread = Stopwatch::start();
        loop {
            opened.is_late |= opened.at.is_none() && unread.elapsed() > limits.connect;
            let wait = opened.at.map(|at| watch.until(at));
            let total = limits.total(wait, opened.is_by_stream(pool));
            let left = total.checked_sub(watch.elapsed());
            let Some(left) = left else {
                // From here on the connection gets no body, unless it has read it already.
                noticed.close();
                match noticed.try_recv() {
                    Ok(at) if may_open => (may_open, opened.at) = (false, Some(at)),
                    Ok(_) | Err(_) => return Sent::TimedOut,
                }
                continue;
            };
            tokio::select! {
                biased;
                at = &mut noticed, if may_open => {
                    may_open = false;
                    opened.at = at.ok();
                    opened.is_late |= opened.at.is_some_and(|at| unread.until(at) > limits.connect);
                }
                sent = &mut sending => {
                    // It may have been opened at the same moment.
                    opened.at = opened.at.or_else(|| noticed.try_recv().ok());
                    return match sent {
                        Ok(response) => {
                            if response.version() == Version::HTTP_2 {
                                pool.note_answered_stream();
                            }
                            Sent::Response(response)
                        }
                        Err(error) => Sent::Failed(error),
                    };
                }
                // Whether the host is multiplexed may have become known meanwhile.
                () = tokio::time::sleep(left) => {}
            }
        }
    }
}

impl ExchangeLimits {
    /// How long an exchange may take in all, when it waited so long for its stream and `None` when it still waits.
    fn total(self, waited: Option<Duration>, multiplexed: bool) -> Duration {
        match waited {
            _ if !multiplexed => self.response,
            Some(waited) => waited.min(self.stream) + self.response,
            None => self.stream,
        }
    }
}

/// When a connection read the request's body.
#[derive(Default)]
struct Opened {
    /// `None` if none has.
    at: Option<Stopwatch>,
    /// Whether it was unread for longer than connecting may take.
    is_late: bool,
}

impl Opened {
    /// Whether the request gets, or waits for, a stream of a connection that others use.
    fn is_by_stream(&self, pool: &PooledClient) -> bool {
        self.is_late || pool.is_multiplexed()
    }
}

/// Whether the receiver has not processed the request: because it says so, or because an HTTP/2 connection ended before
/// the request's turn.
fn is_unprocessed(error: &reqwest::Error, opened: &Opened, pool: &PooledClient) -> bool {
    let is_unread = opened.is_by_stream(pool) && opened.at.is_none();
    Failure::is_refused(error) || (is_unread && Failure::is_unsent(error))
}

/// The attempt has ended before the connection read the body.
#[derive(Debug, thiserror::Error)]
#[error("the attempt is over")]
struct Abandoned;

/// A request's body that tells when the connection reads it. An HTTP/2 connection does so once it has opened the
/// stream, even if the attempt is over: then there is no body, and the receiver never gets a whole request.
struct ObservedBody {
    data: Option<Bytes>,
    opened: Option<oneshot::Sender<Stopwatch>>,
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = Abandoned;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abandoned>>> {
        if let Some(opened) = self.opened.take()
            && opened.send(Stopwatch::start()).is_err()
        {
            return Poll::Ready(Some(Err(Abandoned)));
        }
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ExchangeLimits = ExchangeLimits {
        connect: Duration::from_secs(5),
        response: Duration::from_secs(15),
        stream: Duration::from_secs(10),
    };

    #[test]
    fn wait_for_a_stream_is_bounded_and_not_a_part_of_the_timeout() {
        let total = |waited: Option<u64>, multiplexed| {
            LIMITS.total(waited.map(Duration::from_secs), multiplexed).as_secs()
        };
        assert_eq!(total(None, true), 10);
        assert_eq!((total(Some(0), true), total(Some(9), true)), (15, 24));
        assert_eq!((total(None, false), total(Some(4), false)), (15, 15), "connecting counts");
    }

    #[tokio::test]
    async fn body_tells_when_it_is_first_read() {
        let (notice, mut noticed) = oneshot::channel();
        let data = Bytes::from_static(b"webhook");
        let mut body = ObservedBody { data: Some(data.clone()), opened: Some(notice) };
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(7), false));
        assert!(noticed.try_recv().is_err());
        let frame = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), data);
        assert!(noticed.try_recv().is_ok() && body.is_end_stream());
    }

    #[tokio::test]
    async fn body_of_an_attempt_that_is_over_is_not_sent() {
        let (notice, noticed) = oneshot::channel();
        let data = Some(Bytes::from_static(b"webhook"));
        let mut body = ObservedBody { data, opened: Some(notice) };
        drop(noticed);
        assert!(http_body_util::BodyExt::frame(&mut body).await.unwrap().is_err());
    }
}
