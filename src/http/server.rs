//! Connections: taken, bounded in number and in idle time, and seen to their end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::runtime::Shutdown;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 16_384;
/// Time for the whole head of a request, the wait for it on an idle connection included, so that
/// clients that send nothing, or a byte now and then, do not hold connections for ever.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Bytes in the head of a request at the most; more get 431.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Bytes a connection buffers, each way; beyond them the peer waits.
const BUFFER_BYTES_MAX: usize = 64 * 1024;
/// The pause after an accept failed, mostly for want of something such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` on `listener` until the soft stop. Then nothing more is accepted, idle
/// connections are closed, and requests under way are finished, until the hard stop.
///
/// # Errors
/// When the listener itself fails, so that nothing can be accepted any more.
pub async fn serve(listener: TcpListener, router: Router, shutdown: Shutdown) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // One token a connection, since asking the process's own takes a lock that all would share.
    let stop = CancellationToken::new();
    loop {
        tokio::select! {
            () = shutdown.requested() => break,
            accepted = accept(&listener, &places) => {
                let (stream, place) = accepted?;
                connections.spawn(converse(stream, router.clone(), stop.child_token(), place));
            }
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(listener);
    stop.cancel();
    tokio::select! {
        () = async { while let Some(ended) = connections.join_next().await { report(ended); } } => {}
        () = shutdown.forced() => {
            tracing::warn!(connections = connections.len(), "requests are cut off by the hard stop");
            connections.shutdown().await;
        }
    }
    Ok(())
}

/// The next connection, and its place among those at once.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return Ok((stream, place)),
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

/// Answers one connection's requests, one after the other, until either side ends it.
async fn converse(
    stream: TcpStream,
    router: Router,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) {
    // An answer is one small write; waiting to fill a packet would only delay it.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended badly");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task failed");
    }
}
