//! TLS on the real binary, with real clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::{Certificate, Client};
use rustix::process::{Signal, kill_process};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::binary::Binary;
use crate::support::tls::Authority;
use crate::support::wait::PATIENCE;

const HELLO: &[u8] = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n";

/// A server with a certificate that can be changed.
struct Https {
    server: Binary,
    dir: TempDir,
}

impl Https {
    async fn start(authority: &Authority) -> Self {
        let dir = crate::support::temporary::directory();
        let (cert, key) = files(dir.path());
        authority.identity("127.0.0.1").write(&cert, &key);
        let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
        let settings = [("TLS_CERT", cert), ("TLS_KEY", key), ("HEAD_TIMEOUT", "20s")];
        let server = Binary::start(&dir.path().join("data"), &settings).await;
        Self { server, dir }
    }

    /// Puts a certificate of this authority in the place of the old one.
    fn change(&self, authority: &Authority) {
        let (cert, key) = files(self.dir.path());
        authority.identity("127.0.0.1").write(&cert, &key);
        self.hang_up();
    }

    fn hang_up(&self) {
        kill_process(self.server.pid(), Signal::HUP).unwrap();
    }

    fn authority(&self) -> &str {
        self.server.base_url.strip_prefix("http://").unwrap()
    }

    async fn connect(&self, trusted: &Authority) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.certificate()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.authority()).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

fn files(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("cert.pem"), dir.join("key.pem"))
}

fn client(trusted: &Authority) -> Client {
    let pem = std::fs::read(trusted.file()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().no_proxy().timeout(PATIENCE);
    builder.tls_certs_only([Certificate::from_pem(&pem).unwrap()]).build().unwrap()
}

/// Asks once more on an open connection.
async fn ask(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(HELLO).await.unwrap();
    let mut answer = vec![0; 4096];
    let bytes = stream.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..bytes]).into_owned()
}

#[tokio::test]
async fn with_a_certificate_the_server_speaks_https_and_nothing_else() {
    let authority = Authority::new();
    let mut https = Https::start(&authority).await;
    let (key, _) = https.server.first_keys().await;
    let url = format!("https://{}/api/events", https.authority());
    let post = client(&authority).post(&url).header("x-api-key", key);
    let post = post.header("content-type", "application/json");
    let answer = post.body(r#"{"type":"a","payload":1}"#).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert!(client(&Authority::new()).get(&url).send().await.is_err(), "trusted by a stranger");
    let mut plain = TcpStream::connect(https.authority()).await.unwrap();
    plain.write_all(HELLO).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
    https.server.stop().await;
}

#[tokio::test]
async fn certificate_is_changed_under_load_and_no_request_fails() {
    let (old, new) = (Authority::new(), Authority::new());
    let https = Https::start(&old).await;
    let mut open = https.connect(&old).await.unwrap();
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200 "));

    // Connections of their own, and one that is kept, all through the change.
    let (stop, mut load) = (Arc::new(tokio::sync::Notify::new()), JoinSet::new());
    let url = format!("https://{}/health/live", https.authority());
    let old_and_new = client_of_both(&old, &new);
    for fresh in [true, false] {
        let (client, url, stop) = (old_and_new.clone(), url.clone(), Arc::clone(&stop));
        load.spawn(async move {
            let mut answers = 0_u32;
            let stopped = stop.notified();
            tokio::pin!(stopped);
            loop {
                let get = client.get(&url);
                let get = if fresh { get.header("connection", "close") } else { get };
                tokio::select! {
                    biased;
                    () = &mut stopped => return answers,
                    answer = get.send() => assert_eq!(answer.unwrap().status(), 200),
                }
                answers += 1;
            }
        });
    }
    https.change(&new);
    let changed = async { while https.connect(&new).await.is_err() {} };
    tokio::time::timeout(PATIENCE, changed).await.expect("the new certificate is not shown");
    assert!(https.connect(&old).await.is_err(), "the old certificate is still shown");
    assert!(ask(&mut open).await.starts_with("HTTP/1.1 200 "), "an open connection was cut");

    // What cannot be read changes nothing: whoever connects meets the certificate from before.
    std::fs::write(files(https.dir.path()).0, "nonsense").unwrap();
    https.hang_up();
    assert!(https.connect(&new).await.is_ok());
    stop.notify_waiters();
    while let Some(answers) = load.join_next().await {
        assert!(answers.unwrap() > 0);
    }
    drop(open);
    let log = https.server.stop().await.join("\n");
    assert!(log.contains("TLS certificate reloaded"), "{log}");
}

fn client_of_both(old: &Authority, new: &Authority) -> Client {
    let certificate = |authority: &Authority| {
        Certificate::from_pem(&std::fs::read(authority.file()).unwrap()).unwrap()
    };
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().no_proxy().timeout(PATIENCE);
    builder.tls_certs_only([certificate(old), certificate(new)]).build().unwrap()
}

#[tokio::test]
async fn handshake_that_does_not_come_is_given_up() {
    let authority = Authority::new();
    let dir = crate::support::temporary::directory();
    let (cert, key) = files(dir.path());
    authority.identity("127.0.0.1").write(&cert, &key);
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let settings = [("TLS_CERT", cert), ("TLS_KEY", key), ("HEAD_TIMEOUT", "250ms")];
    let server = Binary::start(&dir.path().join("data"), &settings).await;
    let address = server.base_url.strip_prefix("http://").unwrap();
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let read = silent.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("the server waits for ever").unwrap();
    server.stop().await;
}
