//! The neighbour `bodies`: a tenant that sends batches and never ends them.

use std::time::Duration;

use hookgate::cli::CliError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::ApiClient;
use crate::server::Server;

use super::Running;
use super::tenant::Tenant;

/// Connections, each with a body.
const CONNECTIONS: u32 = 400;
/// Bytes of a body: a batch has at most so many by default.
const BODY_BYTES: usize = 5 * 1024 * 1024;
/// Bytes that are sent at once.
const PIECE: &[u8] = &[b' '; 64 * 1024];
/// Pause before a connection that the server has ended is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Starts the connections.
pub(super) async fn start(
    running: &mut Running,
    server: &Server,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let tenant = Tenant::create(operator, 1).await?;
    for _ in 0..CONNECTIONS {
        let (authority, key) = (server.authority().to_owned(), tenant.key.clone());
        running.load.spawn(async move {
            loop {
                // A neighbour is not measured: its end is all that matters of an answer.
                let _ = half_send(&authority, &key).await;
                tokio::time::sleep(REOPEN_PAUSE).await;
            }
        });
    }
    running.tenants.push(tenant);
    Ok(())
}

/// Sends all of a batch but its last bytes, and waits until the server ends the connection.
async fn half_send(authority: &str, key: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(authority).await?;
    let head = format!(
        "POST /api/events/batch HTTP/1.1\r\nhost: {authority}\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {BODY_BYTES}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    for _ in 1..BODY_BYTES / PIECE.len() {
        stream.write_all(PIECE).await?;
    }
    stream.write_all(PIECE.get(1..).unwrap_or_default()).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}
