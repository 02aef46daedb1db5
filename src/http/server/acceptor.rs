//! The acceptor: accepts connections within the limits, and pauses while the system has nothing to accept them with.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::conn_limit::{ConnLimiter, ConnPermit};
use crate::runtime::Stopwatch;

/// The pause after an accept failed, mostly for want of something such as file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Failures that are no further apart belong to one episode, which is logged once.
const EPISODE_GAP: Duration = Duration::from_secs(10);

/// Accepts connections on a listener.
pub(super) struct Acceptor {
    listener: TcpListener,
    limiter: ConnLimiter,
    /// When the pause began. Kept here and not in the future, which is dropped and made anew whenever a connection
    /// ends.
    paused: Option<Stopwatch>,
    last_failure: Option<Stopwatch>,
}

impl Acceptor {
    /// Accepts nothing before it is asked.
    pub(super) fn new(listener: TcpListener, limiter: ConnLimiter) -> Self {
        Self { listener, limiter, paused: None, last_failure: None }
    }

    /// The next connection that is within the limits. May be cancelled.
    ///
    /// # Errors
    /// When no later accept can succeed either.
    pub(super) async fn accept(&mut self) -> io::Result<(TcpStream, IpAddr, ConnPermit)> {
        loop {
            if let Some(since) = self.paused {
                tokio::time::sleep(PAUSE.saturating_sub(since.elapsed())).await;
                self.paused = None;
            }
            let total = self.limiter.reserve().await.map_err(io::Error::other)?;
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    if let Some(permit) = self.limiter.permit(total, peer.ip()) {
                        return Ok((stream, peer.ip(), permit));
                    }
                    tracing::debug!(%peer, "connection closed: CONNECTIONS_PER_ADDRESS reached");
                }
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) if concerns_one_connection(&error) => {
                    tracing::debug!(%error, "a connection ended before it was accepted");
                }
                Err(error) => self.pause(&error),
            }
        }
    }

    fn pause(&mut self, error: &io::Error) {
        let continues = self.last_failure.is_some_and(|at| at.elapsed() < EPISODE_GAP);
        if !continues {
            tracing::error!(%error, "cannot accept connections, retrying");
        }
        self.last_failure = Some(Stopwatch::start());
        self.paused = self.last_failure;
    }
}

/// Whether no later accept can succeed either. Other errors concern one connection, or a shortage that passes, such
/// as of file descriptors.
fn is_fatal(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let fatal = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP];
    fatal.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Whether a connection ended before it was accepted, so that the next accept may succeed at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn acceptor() -> Acceptor {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Acceptor::new(listener, ConnLimiter::new(8, 8, "".parse().unwrap()))
    }

    #[tokio::test]
    async fn pause_outlives_the_future_that_is_cancelled() {
        let mut acceptor = acceptor().await;
        let address = acceptor.listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        acceptor.pause(&io::Error::from_raw_os_error(24));
        for _ in 0..3 {
            let mut cancelled = Box::pin(acceptor.accept());
            assert!(futures_util::poll!(&mut cancelled).is_pending());
            drop(cancelled);
            assert!(acceptor.paused.is_some());
        }
        acceptor.accept().await.unwrap();
        assert!(acceptor.paused.is_none());
    }

    #[test]
    fn shortages_pass_and_a_closed_listener_does_not() {
        for errno in [23, 24, 12, 105] {
            let error = io::Error::from_raw_os_error(errno);
            assert!(!is_fatal(&error) && !concerns_one_connection(&error), "{error}");
        }
        assert!(is_fatal(&io::Error::from_raw_os_error(9)));
        assert!(concerns_one_connection(&io::Error::from_raw_os_error(103)));
    }
}
