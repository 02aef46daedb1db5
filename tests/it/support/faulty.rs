//! A receiver that misbehaves on purpose, on a raw socket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::wait::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Between two bytes of one that drips.
const DRIP_PAUSE: Duration = Duration::from_millis(20);
const CHUNK: [u8; 16 * 1024] = [b'x'; 16 * 1024];
const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// 204.
    Answer,
    /// The connection is reset.
    Reset,
    /// Nothing comes back.
    Hang,
    /// The header goes on for ever, byte by byte.
    DripHeader,
    /// 200, and a body that goes on for ever, byte by byte.
    DripBody,
    /// 200, and a body of so many bytes.
    Send(u64),
    /// 204, and the connection is closed without a word.
    AnswerAndClose,
    /// The connection is closed in an orderly way instead of an answer.
    Close,
    /// Something that is not HTTP.
    Babble,
}

/// A receiver that does with the n-th request, from 0, what it was told; there until it is dropped.
pub(crate) struct Faulty {
    origin: String,
    seen: Arc<Seen>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open_connections: watch::Sender<usize>,
    requests: watch::Sender<usize>,
    /// Requests by `webhook-id`.
    ids: Mutex<HashMap<String, usize>>,
    body_bytes: AtomicU64,
}

impl Faulty {
    /// Starts on a port that is free.
    pub(crate) async fn start(act: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Seen> = Arc::default();
        let (shared, act) = (Arc::clone(&seen), Arc::new(act));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.connections.fetch_add(1, Ordering::SeqCst);
                shared.open_connections.send_modify(|open| *open += 1);
                let (seen, act) = (Arc::clone(&shared), Arc::clone(&act));
                connections.spawn(async move {
                    serve(stream, &seen, &*act).await;
                    seen.open_connections.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { origin, seen, _server: server }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        format!("{}/hook", self.origin)
    }

    /// How many requests have come whole.
    pub(crate) fn requests(&self) -> usize {
        *self.seen.requests.borrow()
    }

    /// Waits until so many requests have come.
    pub(crate) async fn requested(&self, count: usize) {
        let mut requests = self.seen.requests.subscribe();
        let requested = requests.wait_for(|requests| *requests >= count);
        tokio::time::timeout(PATIENCE, requested).await.expect("requests come").unwrap();
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Waits until every connection is closed.
    pub(crate) async fn disconnected(&self) {
        let mut open = self.seen.open_connections.subscribe();
        let closed = open.wait_for(|open| *open == 0);
        tokio::time::timeout(PATIENCE, closed).await.expect("connections are closed").unwrap();
    }

    /// How many webhooks came more than once.
    pub(crate) fn repeated(&self) -> usize {
        self.seen.ids.lock().unwrap().values().filter(|times| **times > 1).count()
    }

    /// Bytes of bodies that found their way into a socket.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.seen.body_bytes.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, seen: &Seen, act: &(dyn Fn(usize) -> Act + Send + Sync)) {
    let mut buffer = Vec::new();
    while let Some(id) = read_request(&mut stream, &mut buffer).await {
        *seen.ids.lock().unwrap().entry(id).or_default() += 1;
        let mut number = 0;
        seen.requests.send_modify(|requests| {
            number = *requests;
            *requests += 1;
        });
        if !perform(act(number), &mut stream, seen).await {
            return;
        }
    }
}

/// Reads one request and returns its `webhook-id`; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let field = |name: &str| {
                head.lines().find_map(|line| line.strip_prefix(name)).map(|v| v.trim().to_owned())
            };
            let length: usize = field("content-length:").unwrap().parse().unwrap();
            if buffer.len() >= end + 4 + length {
                buffer.drain(..end + 4 + length);
                return field("webhook-id:");
            }
        }
        if stream.read_buf(buffer).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// Returns whether the connection goes on.
async fn perform(act: Act, stream: &mut TcpStream, seen: &Seen) -> bool {
    match act {
        Act::Answer => stream.write_all(OK).await.is_ok(),
        Act::AnswerAndClose => {
            let _ = stream.write_all(OK).await;
            false
        }
        Act::Close => false,
        Act::Reset => {
            stream.set_zero_linger().unwrap();
            false
        }
        Act::Hang => {
            // Until the other side gives up.
            let _ = stream.read(&mut [0]).await;
            false
        }
        Act::Babble => {
            let _ = stream.write_all(b"220 mail.example ESMTP ready\r\n").await;
            false
        }
        Act::DripHeader => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-drip: ").await;
            drip(stream, seen).await
        }
        Act::DripBody => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await;
            drip(stream, seen).await
        }
        Act::Send(bytes) => send(bytes, stream, seen).await,
    }
}

async fn drip(stream: &mut TcpStream, seen: &Seen) -> bool {
    let mut pause = tokio::time::interval(DRIP_PAUSE);
    while stream.write_all(b"x").await.is_ok() {
        seen.body_bytes.fetch_add(1, Ordering::SeqCst);
        pause.tick().await;
    }
    false
}

async fn send(bytes: u64, stream: &mut TcpStream, seen: &Seen) -> bool {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    let mut left = bytes;
    let mut written = stream.write_all(head.as_bytes()).await;
    while left > 0 && written.is_ok() {
        let chunk = &CHUNK[..CHUNK.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        written = stream.write_all(chunk).await;
        left -= chunk.len() as u64;
        seen.body_bytes.fetch_add(chunk.len() as u64, Ordering::SeqCst);
    }
    written.is_ok()
}
