//! An HTTP/2 receiver that does by script what HTTP/2 allows: it refuses streams, leaves connections, and allows few
//! streams at once. It writes its frames itself (RFC 9113 section 6), since servers of libraries do none of that on
//! demand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;

use super::tls::{Identity, TlsListener};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
/// `:status: 204` in the static table of HPACK.
const NO_CONTENT: u8 = 0x89;

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// 204.
    Answer,
    /// 204 after this time.
    AnswerAfter(Duration),
    /// `INTERNAL_ERROR` on the stream after this time.
    ResetAfter(Duration),
    /// `REFUSED_STREAM`.
    Refuse,
    /// 204, then a GOAWAY: later streams on the connection are not processed.
    AnswerAndGoAway,
    /// A GOAWAY that covers the request, and the end of the connection without an answer.
    GoAwayAndCut,
    /// A GOAWAY that covers no request at all.
    GoAwayAtOnce,
    /// 204, and no further stream is allowed.
    AnswerAndAllowNoMore,
}

/// A receiver that does with the n-th complete request, from 0, what it was told; there until it is dropped.
pub(crate) struct H2Peer {
    url: String,
    seen: Arc<Mutex<Seen>>,
    _server: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: usize,
    /// The bodies of the requests that were answered, or covered by a GOAWAY.
    processed: Vec<Vec<u8>>,
}

impl H2Peer {
    /// Starts on a port that is free, and allows so many streams at once on a connection.
    pub(crate) async fn start(
        identity: Identity,
        streams_max: u32,
        act: impl Fn(usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
        let mut listener = TlsListener::new(listener, identity, &["h2"]);
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (shared, act) = (Arc::clone(&seen), Arc::new(act));
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await;
                shared.lock().unwrap().connections += 1;
                let (seen, act) = (Arc::clone(&shared), Arc::clone(&act));
                connections.spawn(async move {
                    // It ends when the client leaves.
                    let _ = serve(stream, streams_max, &seen, &*act).await;
                });
            }
        });
        Self { url, seen, _server: server }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    /// How many requests came completely.
    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().requests
    }

    /// How many requests were processed, and how many different ones.
    pub(crate) fn processed(&self) -> (usize, usize) {
        let mut bodies = self.seen.lock().unwrap().processed.clone();
        let count = bodies.len();
        bodies.sort_unstable();
        bodies.dedup();
        (count, bodies.len())
    }
}

async fn serve(
    stream: TlsStream<TcpStream>,
    streams_max: u32,
    seen: &Mutex<Seen>,
    act: &(dyn Fn(usize) -> Act + Send + Sync),
) -> std::io::Result<()> {
    let (mut input, output) = tokio::io::split(stream);
    let (frames, queue) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(write_all(output, queue));
    let send = |frame| {
        // The writer is gone once the client is.
        let _ = frames.send(frame);
    };
    let mut preface = [0; PREFACE.len()];
    input.read_exact(&mut preface).await?;
    assert_eq!(preface, PREFACE);
    send(frame(SETTINGS, 0, 0, &streams_allowed(streams_max)));
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    let (mut last, mut is_leaving) = (0, false);
    loop {
        let mut head = [0; 9];
        input.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        input.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => send(frame(SETTINGS, ACK, 0, &[])),
            PING if flags & ACK == 0 => send(frame(PING, ACK, 0, &payload)),
            DATA => bodies.entry(id).or_default().extend(payload),
            _ => {}
        }
        if !matches!(kind, DATA | HEADERS) || flags & END_STREAM == 0 || is_leaving {
            continue;
        }
        let body = bodies.remove(&id).unwrap_or_default();
        let act = {
            let mut seen = seen.lock().unwrap();
            seen.requests += 1;
            let act = act(seen.requests - 1);
            if !matches!(act, Act::Refuse | Act::GoAwayAtOnce) {
                seen.processed.push(body);
            }
            act
        };
        let answer = frame(HEADERS, END_HEADERS | END_STREAM, id, &[NO_CONTENT]);
        match act {
            Act::Answer => send(answer),
            Act::AnswerAfter(wait) | Act::ResetAfter(wait) => {
                let reset = frame(RST_STREAM, 0, id, &INTERNAL_ERROR.to_be_bytes());
                let is_reset = matches!(act, Act::ResetAfter(_));
                let (frames, end) = (frames.clone(), if is_reset { reset } else { answer });
                tasks.spawn(async move {
                    tokio::time::sleep(wait).await;
                    let _ = frames.send(end);
                    Ok(())
                });
            }
            Act::Refuse => send(frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes())),
            Act::AnswerAndGoAway => {
                send(answer);
                send(go_away(id));
                is_leaving = true;
            }
            Act::GoAwayAndCut => {
                send(go_away(id));
                send(Vec::new());
            }
            Act::GoAwayAtOnce => {
                send(go_away(last));
                is_leaving = true;
            }
            Act::AnswerAndAllowNoMore => {
                send(frame(SETTINGS, 0, 0, &streams_allowed(0)));
                send(answer);
            }
        }
        last = id;
    }
}

/// Writes frames until an empty one, which ends the connection.
async fn write_all(
    mut output: WriteHalf<TlsStream<TcpStream>>,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
) -> std::io::Result<()> {
    while let Some(frame) = frames.recv().await {
        if frame.is_empty() {
            return output.shutdown().await;
        }
        output.write_all(&frame).await?;
        output.flush().await?;
    }
    Ok(())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn go_away(last: u32) -> Vec<u8> {
    let no_error = 0_u32;
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), no_error.to_be_bytes()].concat())
}

fn streams_allowed(max: u32) -> Vec<u8> {
    [&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &max.to_be_bytes()].concat()
}
