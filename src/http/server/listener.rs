//! The listener: accepts connections, serves HTTP/1.1 on each, and drains them at shutdown.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use super::acceptor::Acceptor;
use super::conn_deadline::{Bounds, ConnDeadline, ConnDeadlines, TICK};
use super::conn_limit::{ConnLimiter, ConnPermit};
use super::middleware::Api;
use super::peer_watch::{OverTcp, Watched};
use super::tls::Tls;
use crate::http::connection::Connection;
use crate::runtime::Shutdown;
use crate::telemetry::Gauge;

/// Bytes in the head of a request at most; more get 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes a connection buffers, each way; beyond them the peer waits.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Serves the API on `listener`, over TLS if there is a certificate, until the soft stop. Then it
/// accepts no more, closes idle connections, and finishes requests in flight, until the hard stop.
///
/// # Errors
/// When the listener itself fails, so that it can accept no further connection.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    api: Api,
    shutdown: Shutdown,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let settings = api.settings();
    let limiter = ConnLimiter::new(
        settings.connections_max,
        settings.connections_per_address,
        settings.trusted_proxies.clone(),
    );
    let mut acceptor = Acceptor::new(listener, limiter);
    let mut deadlines = ConnDeadlines::new(Bounds {
        head: settings.head_timeout,
        request: settings.request_timeout,
    });
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            accepted = acceptor.accept() => {
                let (stream, peer, permit) = accepted?;
                let connection = Connection::new(peer);
                let open = OpenConnection::new(api.connections_open());
                let deadline = deadlines.open();
                let served = Served { connection, deadline, _permit: permit, _open: open };
                connections.spawn(handle_connection(stream, tls.clone(), api.clone(), served));
            }
            _ = ticks.tick() => deadlines.sweep(),
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(acceptor);
    deadlines.stop();
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => report(ended),
                None => break,
            },
            _ = ticks.tick() => deadlines.sweep(),
            () = shutdown.forced() => break,
        }
    }
    if !connections.is_empty() {
        tracing::warn!(
            connections = connections.len(),
            "hard stop: closing connections with requests in flight"
        );
        connections.shutdown().await;
    }
    // The hard stop ends these, too.
    api.settled().await;
    Ok(())
}

/// What belongs to one connection for as long as it is open.
struct Served {
    connection: Connection,
    deadline: Arc<ConnDeadline>,
    _permit: ConnPermit,
    _open: OpenConnection,
}

/// Counts a connection for as long as it is open.
struct OpenConnection(Gauge);

impl OpenConnection {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves one connection from its first byte to its end.
async fn handle_connection(stream: TcpStream, tls: Option<Arc<Tls>>, api: Api, served: Served) {
    // An answer is one small write; waiting to fill a packet would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let Some(tls) = tls else { return serve_http1(stream, api, served).await };
    match served.deadline.before_first_head(tls.acceptor().accept(stream)).await {
        Some(Ok(stream)) => Box::pin(serve_http1(stream, api, served)).await,
        Some(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
        None => {}
    }
}

/// Answers one connection's requests, one after the other, until either side ends it.
async fn serve_http1<S: AsyncRead + AsyncWrite + OverTcp + Unpin>(
    stream: S,
    api: Api,
    served: Served,
) {
    let Served { connection: client, deadline, _permit, _open } = served;
    let stream = Watched::new(stream, Arc::clone(&deadline), Arc::clone(&client.head_scan));
    let answer = |request| api.answer(request, &client, &deadline);
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .writev(false)
        .half_close(true)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    let mut connection = pin!(connection);
    let mut stopping = false;
    let ended = poll_fn(|context| {
        deadline.register(context);
        if deadline.head_is_overdue() {
            return Poll::Ready(Ok(()));
        }
        if !stopping && deadline.is_stopping() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        let polled = connection.as_mut().poll(context);
        if polled.is_pending() {
            client.unread.drain(context);
        }
        polled
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection failed");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "connection task failed");
    }
}
