//! The neighbour `connections`: clients without a key that hold connections open, idle or with half a head sent.

use std::net::SocketAddr;

use hookgate::cli::CliError;
use hookgate::runtime::raise_descriptor_limit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::server::Server;

use super::{NeighbourArgs, Running};

/// Connections from one of this machine's addresses: below the server's limit for one client.
const PER_ADDRESS: u32 = 1_000;
/// What every other connection sends of its request.
const HALF_A_HEAD: &[u8] = b"POST /api/events HTTP/1.1\r\nhost: bench\r\nx-slow: ";

/// Opens the connections, and opens those anew that the server closes.
pub(super) async fn start(
    running: &mut Running,
    args: &NeighbourArgs,
    server: &Server,
) -> Result<(), CliError> {
    let server: SocketAddr = server.authority().parse()?;
    // Both ends of the load are in this process.
    let limit = raise_descriptor_limit();
    if u64::from(args.open_connections) + 200 > limit {
        return Err(format!("--open-connections needs more than {limit} descriptors").into());
    }
    for number in 0..args.open_connections {
        let mut stream = open(server, number).await?;
        running.load.spawn(async move {
            loop {
                // Returns when the server closes the connection: it has nothing to answer.
                let _ = stream.read(&mut [0; 1024]).await;
                let Ok(next) = open(server, number).await else { return };
                stream = next;
            }
        });
    }
    Ok(())
}

/// Opens a connection from one of the addresses 127.0.1.0/24 and, if its number is odd, sends half a head.
async fn open(server: SocketAddr, number: u32) -> Result<TcpStream, CliError> {
    let socket = TcpSocket::new_v4()?;
    let host = u8::try_from(1 + number / PER_ADDRESS).unwrap_or(u8::MAX);
    if cfg!(target_os = "linux") {
        socket.bind(SocketAddr::from(([127, 0, 1, host], 0)))?;
    }
    let mut stream = socket.connect(server).await?;
    if number % 2 == 1 {
        stream.write_all(HALF_A_HEAD).await?;
    }
    Ok(stream)
}
