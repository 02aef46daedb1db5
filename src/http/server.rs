//! Connections: taken, bounded in number and in idle time, and seen to their end.

use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;

use super::envelope::Api;
use super::line::{Bounds, Line, Lines, TICK};
use super::places::{Place, Places};
use super::tls::Tls;
use crate::runtime::Shutdown;

/// Bytes in the head of a request at most; more get 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes a connection buffers, each way; beyond them the peer waits.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The pause after an accept failed, mostly for want of something such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API on `listener`, over TLS if there is a certificate, until the soft stop. Then nothing more is accepted, idle
/// connections are closed, and requests in flight are finished, until the hard stop.
///
/// # Errors
/// When the listener itself fails, so that nothing can be accepted any more.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    api: Api,
    shutdown: Shutdown,
) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let settings = api.settings();
    let places = Places::new(settings.connections_per_address, settings.trusted_proxies.clone());
    let mut lines =
        Lines::new(Bounds { head: settings.head_timeout, request: settings.request_timeout });
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            accepted = accept(&listener, &places) => {
                let (stream, peer, place) = accepted?;
                connections.spawn(greet(stream, tls.clone(), api.clone(), lines.open(peer), place));
            }
            _ = ticks.tick() => lines.sweep(),
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(listener);
    lines.stop();
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => report(ended),
                None => return Ok(()),
            },
            _ = ticks.tick() => lines.sweep(),
            () = shutdown.forced() => break,
        }
    }
    tracing::warn!(connections = connections.len(), "requests are cut off by the hard stop");
    connections.shutdown().await;
    Ok(())
}

/// The next connection, and its place among those at once.
async fn accept(listener: &TcpListener, places: &Places) -> io::Result<(TcpStream, IpAddr, Place)> {
    loop {
        let one_of_all = places.one_of_all().await.map_err(io::Error::other)?;
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(place) = places.take(one_of_all, peer.ip()) {
                    return Ok((stream, peer.ip(), place));
                }
                tracing::debug!(%peer, "closed: CONNECTIONS_PER_ADDRESS are open already");
            }
            Err(error) if is_of_the_listener(&error) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether no later accept can succeed either. Others are about one connection that ended before it
/// was accepted, or about something that is short for now, such as file descriptors.
fn is_of_the_listener(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let of_the_listener = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP];
    of_the_listener.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Takes a connection from its first byte to its end.
async fn greet(stream: TcpStream, tls: Option<Arc<Tls>>, api: Api, line: Arc<Line>, _place: Place) {
    // An answer is one small write; waiting to fill a packet would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let Some(tls) = tls else { return converse(stream, api, line).await };
    match line.before_first_head(tls.acceptor().accept(stream)).await {
        Some(Ok(stream)) => Box::pin(converse(stream, api, line)).await,
        Some(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        None => {}
    }
}

/// Answers one connection's requests, one after the other, until either side ends it.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, api: Api, line: Arc<Line>) {
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .writev(false)
        .half_close(true)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service_fn(|request| api.answer(request, &line)));
    let mut connection = pin!(connection);
    let (mut registered, mut stopping) = (false, false);
    let ended = poll_fn(|context| {
        if !registered {
            registered = true;
            line.register(context);
        }
        if line.head_is_overdue() {
            return Poll::Ready(Ok(()));
        }
        if !stopping && line.is_stopping() {
            stopping = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
