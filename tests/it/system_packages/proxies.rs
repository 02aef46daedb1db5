//! The examples of reverse proxies in `deploy/`, run by the real nginx and HAProxy before a real server.

use std::path::Path;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;

use super::nginx::spawn_nginx;
use super::spawn;
use crate::support::binary::Binary;
use crate::support::client;
use crate::support::tls::Authority;
use crate::support::wait::until;

/// Addresses that were free a moment ago.
async fn free_addresses<const N: usize>() -> [String; N] {
    let mut listeners = Vec::new();
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    listeners.iter().map(address).collect::<Vec<_>>().try_into().unwrap()
}

fn example(path: &str) -> String {
    std::fs::read_to_string(format!("{}/deploy/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Replaces what must be in the example.
fn with(config: &str, replacements: &[(&str, &str)]) -> String {
    let mut config = config.to_owned();
    for (from, to) in replacements {
        assert!(config.contains(from), "{from}");
        config = config.replace(from, to);
    }
    config
}

/// Starts a server and a proxy before it, and asks through it what clients ask. `start` is given a directory with
/// `cert.pem`, `key.pem` and `both.pem`, and the addresses for HTTP, HTTPS, the server, and a server that is away.
async fn serves_through(start: impl FnOnce(&Path, [&str; 4]) -> Child) {
    let directory = tempfile::tempdir().unwrap();
    let files = directory.path();
    let authority = Authority::new();
    let (cert, key) = (files.join("cert.pem"), files.join("key.pem"));
    authority.identity("localhost").write(&cert, &key);
    let read = |file: &Path| std::fs::read_to_string(file).unwrap();
    std::fs::write(files.join("both.pem"), read(&cert) + &read(&key)).unwrap();
    let proxies = [("TRUSTED_PROXIES", "127.0.0.1/32")];
    let mut server = Binary::start(&files.join("data"), &proxies).await;
    let (key, operator_key) = server.first_keys().await;
    let [http, https, away] = free_addresses::<3>().await;
    let address = server.base_url.strip_prefix("http://").unwrap();
    let mut proxy = start(files, [&http, &https, address, &away]);
    until("the proxy listens", async || {
        assert_eq!(proxy.try_wait().unwrap(), None, "the proxy has ended");
        TcpStream::connect(&https).await.is_ok()
    })
    .await;

    drop(client());
    let trusted = Certificate::from_der(&authority.certificate()).unwrap();
    let client = Client::builder().no_proxy().redirect(Policy::none());
    let client = client.tls_certs_only([trusted]).build().unwrap();
    let https_port = https.rsplit(':').next().unwrap();
    let url = |path: &str| format!("https://localhost:{https_port}{path}");
    let post = async |path: &str, body: String| {
        let request = client.post(url(path)).header("x-api-key", &key).body(body);
        let answer = request.header("content-type", "application/json").send().await.unwrap();
        answer.status().as_u16()
    };
    // Before a proxy knows which of its servers are there, it may answer by itself.
    until("events get through", async || {
        post("/api/events", r#"{"type":"a","payload":1}"#.to_owned()).await == 202
    })
    .await;
    let event = format!(r#"{{"type":"a","payload":"{}"}}"#, "x".repeat(200_000));
    let batch = format!("[{}]", vec![event; 20].join(","));
    assert_eq!(post("/api/events/batch", batch).await, 202);

    let status = async |url: String, key: &str| {
        client.get(url).header("x-api-key", key).send().await.unwrap().status()
    };
    assert_eq!(status(url("/api/org"), &key).await, StatusCode::OK);
    assert_eq!(status(url("/metrics"), "").await, StatusCode::NOT_FOUND);
    assert_eq!(status(url("/api/admin/orgs"), &operator_key).await, StatusCode::FORBIDDEN);
    let redirected = client.get(format!("http://{http}/health/ready")).send().await.unwrap();
    assert_eq!(redirected.status(), StatusCode::PERMANENT_REDIRECT);
    proxy.kill().await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_serves_by_its_example() {
    serves_through(|files, [http, https, server, away]| {
        let path = files.display();
        let site = with(
            &example("nginx/hookgate.conf"),
            &[
                ("listen 80;", &format!("listen {http};")),
                ("listen 443 ssl http2;", &format!("listen {https} ssl http2;")),
                ("10.0.0.11:3000", server),
                ("10.0.0.12:3000", away),
                ("events.example.com;", "localhost;"),
                ("/etc/ssl/events.example.com/fullchain.pem", &format!("{path}/cert.pem")),
                ("/etc/ssl/events.example.com/privkey.pem", &format!("{path}/key.pem")),
            ],
        );
        spawn_nginx(files, &site)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_serves_by_its_example() {
    serves_through(|files, [http, https, server, away]| {
        let config = with(
            &example("haproxy/haproxy.cfg"),
            &[
                ("bind :80", &format!("bind {http}")),
                ("bind :443 ssl", &format!("bind {https} ssl")),
                ("10.0.0.11:3000", server),
                ("10.0.0.12:3000", away),
                ("/etc/ssl/events.example.com.pem", &format!("{}/both.pem", files.display())),
            ],
        );
        let file = files.join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        spawn("haproxy", &["-db", "-f", file.to_str().unwrap()])
    })
    .await;
}
