//! File descriptors that run out: nothing is lost, nothing needs a restart, and nobody takes them all.

#![expect(clippy::print_stdout, reason = "a test here reports figures")]

use std::net::SocketAddr;
use std::path::Path;

use axum::Router;
use axum::http::{Method, Request, StatusCode};
use hookgate::runtime::raise_descriptor_limit;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

use crate::support::answer::Answer;
use crate::support::binary::Binary;
use crate::support::wait::{PATIENCE, until};

/// Posts of a quarter of a megabyte that fill more than two segments of 8 MiB.
const THREE_SEGMENTS: usize = 72;

/// A tenant with one connection, which it keeps: another one may not be accepted.
struct Tenant {
    key: String,
    connection: Mutex<SendRequest<Full<Bytes>>>,
    _driver: JoinSet<()>,
}

impl Tenant {
    async fn of(server: &mut Binary) -> Self {
        let (key, _) = server.first_keys().await;
        Self::with_key(address_of(server), key).await
    }

    async fn with_key(server: SocketAddr, key: String) -> Self {
        let stream = TcpStream::connect(server).await.unwrap();
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut driving = JoinSet::new();
        driving.spawn(async move { driver.await.unwrap_or_default() });
        Self { key, connection: Mutex::new(connection), _driver: driving }
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", "test");
        let request = request.header("x-api-key", &self.key);
        let request = request.header("content-type", "application/json");
        let mut connection = self.connection.lock().await;
        connection.ready().await.unwrap();
        let response = connection.send_request(request.body(Full::from(body)).unwrap()).await;
        let (head, body) = response.unwrap().into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: head.status, headers: head.headers, text }
    }

    async fn post(&self, path: &str, body: impl Into<String>) -> Answer {
        self.send(Method::POST, path, body.into()).await
    }

    async fn post_event(&self) -> Answer {
        let body = json!({"type": "a", "payload": "x".repeat(250_000)});
        self.post("/api/events", body.to_string()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, String::new()).await
    }
}

fn address_of(server: &Binary) -> SocketAddr {
    server.base_url.strip_prefix("http://").unwrap().parse().unwrap()
}

fn open_descriptors(process: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero())).unwrap().count()
}

/// Sets the soft limit of a running server.
fn limit(server: &Binary, descriptors: u64) -> Rlimit {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit { current: Some(descriptors), maximum };
    prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap()
}

fn count(log: &[String], message: &str) -> usize {
    log.iter().filter(|line| line.contains(message)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn soft_limit_is_raised_to_the_hard_one() {
    let dir = crate::support::temporary::directory();
    let script = "ulimit -S -n 200; exec \"$0\" serve";
    let server = Binary::start_by(script, dir.path(), &[]).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid().as_raw_nonzero()));
    let limits = limits.unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let fields: Vec<&str> = files.split_ascii_whitespace().collect();
    assert_eq!(fields[3], fields[4], "{files}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_stop_neither_the_journal_nor_those_who_come_later() {
    raise_descriptor_limit();
    let dir = crate::support::temporary::directory();
    let script = "ulimit -n 256; exec \"$0\" serve";
    let mut server = Binary::start_by(script, dir.path(), &[]).await;
    let address = address_of(&server);
    let tenant = Tenant::of(&mut server).await;
    tenant.post_event().await.expect(202);

    let before = open_descriptors(server.pid());
    let mut idle = JoinSet::new();
    for number in 0..1_000_u16 {
        let host = u8::try_from(number % 40).unwrap();
        idle.spawn(hold_from(host, address));
    }
    until("the server holds all it may", async || open_descriptors(server.pid()) >= before + 50)
        .await;
    // The journal starts new segments meanwhile.
    for _ in 0..THREE_SEGMENTS {
        tenant.post_event().await.expect(202);
    }
    assert!(open_descriptors(server.pid()) < 250);
    tenant.get("/health/ready").await.expect(200);

    drop(idle);
    let newcomer = Tenant::with_key(address, tenant.key.clone()).await;
    newcomer.post_event().await.expect(202);
    newcomer.get("/health/ready").await.expect(200);
    let log = server.stop().await;
    assert_eq!(count(&log, "the limit of file descriptors is too low"), 1, "{log:#?}");
    assert_eq!(count(&log, "Too many open files"), 0, "{log:#?}");
}

/// Holds a connection from one of the addresses 127.0.2.0/24, which may wait for ever to be accepted.
async fn hold_from(host: u8, server: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 2, 1 + host], 0))).unwrap();
    let _held = socket.connect(server).await;
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn want_of_descriptors_passes_without_a_restart() {
    let dir = crate::support::temporary::directory();
    let mut server = Binary::start(dir.path(), &[]).await;
    let tenant = Tenant::of(&mut server).await;
    tenant.post_event().await.expect(202);

    let before = limit(&server, 0);
    let refused = loop {
        let answer = tenant.post_event().await;
        if answer.status != 202 {
            break answer;
        }
    };
    refused.expect_problem(503, "journal_unavailable");
    assert_eq!(refused.header("retry-after"), "5");
    let ready = tenant.get("/health/ready").await.expect(503);
    assert_eq!(ready["checks"]["journal"], "no_segment");
    // It waits in the listener's backlog; connections that end meanwhile do not hurry the next try.
    let newcomer = Tenant::with_key(address_of(&server), tenant.key.clone()).await;
    tenant.get("/health/live").await.expect(200);

    limit(&server, before.current.unwrap());
    until("the journal accepts again", async || tenant.post_event().await.status == 202).await;
    tenant.get("/health/ready").await.expect(200);
    newcomer.get("/health/live").await.expect(200);
    until("everything is stored", async || {
        tenant.get("/api/health").await.expect(200)["queue"]["events"] == 0
    })
    .await;
    let log = server.stop().await;
    assert!(count(&log, "cannot accept connections") <= 1, "{log:#?}");
    assert_eq!(count(&log, "cannot prepare a journal segment"), 1, "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_to_many_hosts_leave_few_idle_connections() {
    let hosts: usize = std::env::var("HOSTS").map_or(300, |hosts| hosts.parse().unwrap());
    raise_descriptor_limit();
    let (port, mut received, _serving) = receiver().await;
    let dir = crate::support::temporary::directory();
    let mut server = start_limited(512, dir.path()).await;
    let tenant = Tenant::of(&mut server).await;
    for host in 0..hosts {
        let url = format!("http://127.0.{}.{}:{port}/", 3 + host / 250, 1 + host % 250);
        tenant.post("/api/endpoints", json!({ "url": url }).to_string()).await.expect(201);
    }
    let before = open_descriptors(server.pid());
    tenant.post("/api/events", r#"{"type":"a","payload":1}"#).await.expect(202);
    let (mut most, mut got) = (0, 0);
    while got < hosts {
        tokio::time::timeout(PATIENCE, received.recv()).await.expect("a webhook").unwrap();
        got += 1;
        most = most.max(open_descriptors(server.pid()));
    }
    assert!(most < 400, "{most} descriptors, {before} before");
    // Half of what the reserve leaves is for receivers, and less than half of that for idle connections. The last
    // responses are read a little after the receiver has the webhooks.
    let mut after = 0;
    until("few connections are left open", async || {
        after = open_descriptors(server.pid());
        after <= before + 100
    })
    .await;
    println!("{hosts} hosts: {before} descriptors before, at most {most}, {after} after");
    server.stop().await;
}

async fn start_limited(descriptors: u32, data_dir: &Path) -> Binary {
    let script = format!("ulimit -n {descriptors}; exec \"$0\" serve");
    let settings = [("WRITE_RATE_LIMIT_PER_MINUTE", "1000000"), ("ENDPOINTS_MAX", "10000")];
    Binary::start_by(&script, data_dir, &settings).await
}

/// A receiver on every address of this machine that keeps connections open: its port, its webhooks, and its task.
async fn receiver() -> (u16, UnboundedReceiver<()>, JoinSet<()>) {
    let (sender, received) = unbounded_channel();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(move || {
        let sender = sender.clone();
        async move {
            let _ = sender.send(());
            StatusCode::NO_CONTENT
        }
    });
    let mut serving = JoinSet::new();
    serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (port, received, serving)
}
