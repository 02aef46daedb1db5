//! An HTTP client that knows how much of an answer arrived before its connection closed, which libraries
//! do not report.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A complete answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// `Retry-After`, in seconds.
    pub(super) retry_after: Option<u64>,
    pub(super) body: String,
    closes: bool,
}

/// A request without a complete answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lost {
    /// The connection ended before any byte of an answer.
    Unanswered,
    /// The connection ended inside the answer.
    CutOff,
}

/// Sends requests over one connection at a time, to wherever the server is now.
pub(super) struct Sender {
    key: String,
    address: watch::Receiver<String>,
    connection: Option<BufStream<TcpStream>>,
}

impl Sender {
    pub(super) fn new(key: &str, address: watch::Receiver<String>) -> Self {
        Self { key: key.to_owned(), address, connection: None }
    }

    /// Posts once. Waits for a server that takes the connection, and never repeats the request.
    pub(super) async fn post(&mut self, path: &str, body: &str) -> Result<Reply, Lost> {
        self.request("POST", path, body).await
    }

    /// The same with another method.
    pub(super) async fn request(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<Reply, Lost> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await,
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: hookgate\r\nx-api-key: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        // Whether a request that could not be sent to its end was answered, reading tells.
        let _ = connection.write_all(head.as_bytes()).await;
        let _ = connection.write_all(body.as_bytes()).await;
        let _ = connection.flush().await;
        match connection.fill_buf().await {
            Ok([]) | Err(_) => return Err(Lost::Unanswered),
            Ok(_) => {}
        }
        let reply = read(&mut connection).await.ok_or(Lost::CutOff)?;
        if !reply.closes {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    async fn connect(&mut self) -> BufStream<TcpStream> {
        loop {
            let address = self.address.borrow_and_update().clone();
            match TcpStream::connect(&address).await {
                Ok(stream) if reaches_a_server(&stream) => return BufStream::new(stream),
                Ok(_) | Err(_) => {}
            }
            if self.address.changed().await.is_err() {
                // No other server comes: the test is over, and drops this client.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A port that nobody listens on may be given to the very socket that calls it. A server that was
/// killed at once has no address any more.
fn reaches_a_server(stream: &TcpStream) -> bool {
    let ends = (stream.local_addr(), stream.peer_addr());
    matches!(ends, (Ok(here), Ok(there)) if here != there) && stream.set_nodelay(true).is_ok()
}

async fn read(connection: &mut BufStream<TcpStream>) -> Option<Reply> {
    let status = line(connection).await?;
    let status = status.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let mut reply = Reply { status, retry_after: None, body: String::new(), closes: false };
    let mut length = 0;
    loop {
        let line = line(connection).await?;
        match line.split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(("retry-after", value)) => reply.retry_after = value.parse().ok(),
            Some(("connection", value)) => reply.closes = value == "close",
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await.ok()?;
    reply.body = String::from_utf8(body).unwrap();
    Some(reply)
}

/// A line without its end; `None` when the connection ended inside it.
async fn line(connection: &mut BufStream<TcpStream>) -> Option<String> {
    let mut line = String::new();
    connection.read_line(&mut line).await.ok()?;
    line.strip_suffix("\r\n").map(str::to_owned)
}
