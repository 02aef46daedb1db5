//! A webhook receiver: a real server on a free port that verifies each webhook with the public Standard
//! Webhooks library.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, Version};
use axum::response::{IntoResponse, Response};
use axum::serve::{Listener, ListenerExt};
use hookgate::delivery::Verifier;
use hookgate::domain::SigningSecret;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::conformance;
use super::tls::{Identity, TlsListener};
use crate::support::wait::PATIENCE;

/// A receiver, there until it is dropped.
pub(crate) struct Receiver {
    origin: String,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

/// A webhook with a valid signature.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The path and query it was posted to.
    pub(crate) path: String,
    /// The version it came in.
    pub(crate) version: Version,
    /// All header fields.
    pub(crate) headers: HeaderMap,
    /// The body as it came.
    pub(crate) body: Bytes,
}

impl Received {
    /// A header field as text; panics when it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// How to answer one webhook.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// A status and nothing else.
    pub(crate) fn status(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap();
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// With a header field.
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    /// With a body.
    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

struct Shared {
    state: Mutex<Recorded>,
    arrivals: watch::Sender<usize>,
    gate: watch::Sender<bool>,
    connections: AtomicUsize,
}

#[derive(Default)]
struct Recorded {
    secrets: Vec<SigningSecret>,
    script: VecDeque<Answer>,
    received: Vec<Received>,
    forged: usize,
}

impl Receiver {
    /// Starts on a port that is free. It answers `204` until told otherwise.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        Self::serve(origin, listener)
    }

    /// Starts with TLS, under the name `localhost`.
    pub(crate) async fn start_tls(identity: Identity, protocols: &[&str]) -> Self {
        Self::over_tls(TcpListener::bind("127.0.0.1:0").await.unwrap(), identity, protocols)
    }

    /// Starts two with TLS on one port, at 127.0.0.1 and at 127.0.0.2: one name may lead to either.
    pub(crate) async fn start_two_tls(first: Identity, second: Identity) -> (Self, Self) {
        // The port that is free at one address may be taken at the other.
        let (one, other) = loop {
            let one = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = one.local_addr().unwrap().port();
            if let Ok(other) = TcpListener::bind(("127.0.0.2", port)).await {
                break (one, other);
            }
        };
        let protocols = &["h2", "http/1.1"];
        (Self::over_tls(one, first, protocols), Self::over_tls(other, second, protocols))
    }

    fn over_tls(listener: TcpListener, identity: Identity, protocols: &[&str]) -> Self {
        let origin = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        Self::serve(origin, TlsListener::new(listener, identity, protocols))
    }

    fn serve<L: Listener<Addr: Debug>>(origin: String, listener: L) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            arrivals: watch::channel(0).0,
            gate: watch::channel(true).0,
            connections: AtomicUsize::new(0),
        });
        let counted = Arc::clone(&shared);
        let listener = listener.tap_io(move |_| {
            counted.connections.fetch_add(1, Ordering::SeqCst);
        });
        let app = Router::new().fallback(receive).with_state(Arc::clone(&shared));
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { origin, shared, _server: server }
    }

    /// The URL of a path here.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    /// Takes webhooks signed with this secret. Others are answered `401` and counted as forged.
    pub(crate) fn trust(&self, secret: &SigningSecret) {
        self.lock().secrets.push(secret.clone());
    }

    /// Answers the next webhooks so, in this order.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Answer>) {
        self.lock().script.extend(answers);
    }

    /// Answers nothing from now on until [`Self::release`]; webhooks still count as received.
    pub(crate) fn hold(&self) {
        self.shared.gate.send_replace(false);
    }

    /// Answers all that wait, and what comes.
    pub(crate) fn release(&self) {
        self.shared.gate.send_replace(true);
    }

    /// Waits until at least `count` webhooks have come and returns all that have, each as the OpenAPI document says.
    pub(crate) async fn received(&self, count: usize) -> Vec<Received> {
        let mut arrivals = self.shared.arrivals.subscribe();
        let arrived = arrivals.wait_for(|arrived| *arrived >= count);
        if tokio::time::timeout(PATIENCE, arrived).await.is_err() {
            let lock = self.lock();
            panic!("{} of {count} webhooks came, {} forged", lock.received.len(), lock.forged);
        }
        let received = self.so_far();
        for webhook in &received {
            conformance::check_webhook(webhook.header("content-type"), &webhook.body);
        }
        received
    }

    /// What has come so far.
    pub(crate) fn so_far(&self) -> Vec<Received> {
        self.lock().received.clone()
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many requests came whose signature was wrong.
    pub(crate) fn forged(&self) -> usize {
        self.lock().forged
    }

    fn lock(&self) -> MutexGuard<'_, Recorded> {
        self.shared.state.lock().unwrap()
    }
}

async fn receive(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = {
        let mut recorded = shared.state.lock().unwrap();
        if !recorded.secrets.iter().any(|secret| is_signed(secret, &headers, &body)) {
            recorded.forged += 1;
            return StatusCode::UNAUTHORIZED.into_response();
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        recorded.received.push(Received { path, version, headers, body });
        shared.arrivals.send_replace(recorded.received.len());
        recorded.script.pop_front().unwrap_or_else(|| Answer::status(204))
    };
    let mut gate = shared.gate.subscribe();
    gate.wait_for(|open| *open).await.unwrap();
    (answer.status, answer.headers, answer.body).into_response()
}

/// Compares with what the library signs. Its own `verify` also holds the timestamp against the
/// system's clock, which tests with a clock of their own are ahead of. It knows HMAC only; of Ed25519
/// the public key decides.
fn is_signed(secret: &SigningSecret, headers: &HeaderMap, body: &[u8]) -> bool {
    let header = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let (Some(id), Some(timestamp), Some(signature)) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"))
    else {
        return false;
    };
    let Ok(timestamp) = timestamp.parse::<i64>() else { return false };
    if let Some(key) = secret.public_key() {
        return Verifier::PublicKey(key).holds(signature, id, &timestamp.to_string(), body);
    }
    let expected = Webhook::new(&secret.reveal()).unwrap().sign(id, timestamp, body).unwrap();
    signature.split(' ').any(|signature| signature == expected)
}
