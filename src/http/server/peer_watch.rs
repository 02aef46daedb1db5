//! Notices that the client of a long read is gone.
//!
//! hyper reads nothing while a request is being answered, which saves a system call per event, so it does not
//! notice the end of a connection either. A client may also end its side only and wait for the answer. So a read
//! that has taken a second is looked after: once its client has ended its side, it is overdue.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::conn_deadline::ConnDeadline;
use crate::http::head_scan::HeadScan;

/// A stream over TCP.
pub(super) trait OverTcp {
    /// The connection below.
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A stream that ends the time of a long read when its client is gone, and shows what comes to a [`HeadScan`].
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    deadline: Arc<ConnDeadline>,
    head_scan: Arc<HeadScan>,
}

impl<S: OverTcp> Watched<S> {
    pub(super) fn new(stream: S, deadline: Arc<ConnDeadline>, head_scan: Arc<HeadScan>) -> Self {
        Self { stream, deadline, head_scan }
    }

    fn peer_is_gone(&self) -> bool {
        let ready = self.stream.tcp().ready(Interest::READABLE).now_or_never();
        ready.is_some_and(|ready| ready.is_ok_and(Ready::is_read_closed))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.head_scan.received(buffer.filled().get(before..).unwrap_or_default());
        polled
    }
}

impl<S: AsyncWrite + OverTcp + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// hyper flushes each time that it has polled a handler.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.deadline.is_long_read() && self.peer_is_gone() {
            self.deadline.end_read();
            context.waker().wake_by_ref();
        }
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
