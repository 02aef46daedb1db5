//! The neighbour `lists`: a tenant that asks for its events and reads no answer.

use std::time::Duration;

use hookgate::cli::CliError;
use hyper::StatusCode;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, lookup_host};

use crate::client::ApiClient;
use crate::server::Server;

use super::Running;
use super::tenant::Tenant;

/// Events, a page of the longest kind.
const EVENTS: u32 = 500;
/// Bytes of a payload: an event has at most so many by default.
const PAYLOAD_BYTES: usize = 256 * 1024;
/// Connections, each with an answer that is not read.
const CONNECTIONS: u32 = 30;
/// The system's buffer of a connection: small, so that the answer stays in the server.
const RECEIVE_BUFFER_BYTES: u32 = 4096;
/// How long an answer is left unread before it is asked for again.
const UNREAD: Duration = Duration::from_secs(2);

/// Posts the events and starts the connections.
pub(super) async fn start(
    running: &mut Running,
    server: &Server,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let tenant = Tenant::create(operator, 1).await?;
    let payload = "x".repeat(PAYLOAD_BYTES - 2);
    let event = format!(r#"{{"type":"bench.lists","payload":"{payload}"}}"#);
    for _ in 0..EVENTS {
        tenant.client.call("POST", "/api/events", &event).await?;
    }
    server.settle().await;
    let path = list_path(&tenant.client).await?;
    for _ in 0..CONNECTIONS {
        let (authority, key) = (server.authority().to_owned(), tenant.key.clone());
        running.load.spawn(async move {
            loop {
                // A neighbour is not measured: what goes wrong is tried again.
                let _ = ask(&authority, path, &key).await;
            }
        });
    }
    running.tenants.push(tenant);
    Ok(())
}

/// The list with payloads. A server that has no `include` refuses it, and always lists payloads.
async fn list_path(client: &ApiClient) -> Result<&'static str, CliError> {
    let (status, _) = client.send("GET", "/api/events?limit=1&include=payload", "").await?;
    let has_include = status != StatusCode::UNPROCESSABLE_ENTITY;
    Ok(if has_include { "/api/events?limit=500&include=payload" } else { "/api/events?limit=500" })
}

async fn ask(authority: &str, path: &str, key: &str) -> std::io::Result<()> {
    let address = lookup_host(authority).await?.next().ok_or(std::io::ErrorKind::NotFound)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    let mut stream = socket.connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nx-api-key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    tokio::time::sleep(UNREAD).await;
    Ok(())
}
