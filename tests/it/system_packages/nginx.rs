//! nginx in front of a receiver: the most common HTTP/2 server, which leaves a connection after so many requests.

#![expect(clippy::print_stdout, reason = "this test reports figures")]

use std::path::Path;

use hookgate::domain::{DeliveryStatus, SigningSecret};
use hookgate::runtime::Stopwatch;
use tokio::net::TcpListener;
use tokio::process::Child;

use super::spawn;
use crate::delivery::world::World;
use crate::support::receiver::Receiver;
use crate::support::tls::Authority;
use crate::support::wait::until;

const WEBHOOKS: usize = 900;
/// Ports on which nginx is tried to start.
const PORTS_TRIED: u32 = 5;

#[tokio::test(flavor = "multi_thread")]
async fn nginx_that_leaves_connections_costs_no_attempt() {
    for requests_max in [1_000_000, 20] {
        Box::pin(deliver_through_nginx(requests_max)).await;
    }
}

/// Delivers to an nginx that leaves each connection after `requests_max` requests.
async fn deliver_through_nginx(requests_max: u32) {
    let authority = Authority::new();
    let receiver = Receiver::start().await;
    let directory = crate::support::temporary::directory();
    let files = directory.path();
    authority.identity("localhost").write(&files.join("cert.pem"), &files.join("key.pem"));
    let (mut nginx, port) = start(files, &receiver.url("/"), requests_max).await;

    let ca = format!("--webhook-ca-file={}", authority.file().display());
    let world = World::with(&[&ca, "--endpoint-concurrency=16"]).await;
    let secret = SigningSecret::generate().unwrap();
    receiver.trust(&secret);
    world.endpoint_at(&format!("https://localhost:{port}/hook"), "", secret).await;
    world.publish("user.login", WEBHOOKS).await;
    let mut service = world.delivery();
    let began = Stopwatch::start();
    while service.run_once().await.unwrap() > 0 {}
    let took = began.elapsed();

    let rows = world.rows().await;
    let delivered = rows.iter().filter(|row| row.status == DeliveryStatus::Delivered).count();
    let attempts: u32 = rows.iter().map(|row| row.attempts).sum();
    let arrived = receiver.so_far().len();
    let resent = world.metrics.delivery.hookgate_webhook_resends_total.get();
    println!(
        "nginx, keepalive_requests {requests_max}: {WEBHOOKS} webhooks in {took:?}, {delivered} \
         delivered, {attempts} attempts, {arrived} received, {resent} sent again"
    );
    assert_eq!((delivered, attempts as usize, arrived), (WEBHOOKS, WEBHOOKS, WEBHOOKS));
    nginx.kill().await.unwrap();
}

/// Starts an nginx in front of `upstream`; it and its port. Another process may take a port since it was free; then on
/// another one.
async fn start(files: &Path, upstream: &str, requests_max: u32) -> (Child, u16) {
    for _ in 0..PORTS_TRIED {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        if let Some(nginx) = try_start(files, upstream, requests_max, port).await {
            return (nginx, port);
        }
    }
    panic!("no port stays free");
}

/// Starts nginx with these servers. It keeps all of its files in the directory, its log in `error.log`.
pub(super) fn spawn_nginx(files: &Path, servers: &str) -> Child {
    let path = files.display();
    let config = format!(
        "daemon off; master_process off; pid {path}/pid; error_log {path}/error.log;
         events {{ worker_connections 512; }}
         http {{
             access_log off;
             client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
             fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
             {servers}
         }}"
    );
    let (conf, log) = (files.join("nginx.conf"), files.join("error.log"));
    std::fs::write(&conf, config).unwrap();
    spawn("nginx", &["-c", conf.to_str().unwrap(), "-e", log.to_str().unwrap()])
}

/// `None` if another process has the port.
async fn try_start(files: &Path, upstream: &str, requests_max: u32, port: u16) -> Option<Child> {
    let path = files.display();
    let server = format!(
        "server {{
             listen 127.0.0.1:{port} ssl http2;
             keepalive_requests {requests_max};
             ssl_certificate {path}/cert.pem; ssl_certificate_key {path}/key.pem;
             location / {{ proxy_pass {upstream}; }}
         }}"
    );
    let (log, pid) = (files.join("error.log"), files.join("pid"));
    let mut nginx = spawn_nginx(files, &server);
    let mut ended = false;
    until("nginx listens", async || {
        ended = nginx.try_wait().unwrap().is_some();
        // Its process id is written down once it listens.
        ended || std::fs::read(&pid).is_ok_and(|pid| !pid.is_empty())
    })
    .await;
    let said = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(!ended || said.contains("Address already in use"), "{said}");
    (!ended).then_some(nginx)
}
