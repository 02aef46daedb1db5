//! A name server for the started server: answers for the receivers in this process, and never for the names of a
//! neighbour.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use hookgate::cli::CliError;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// The domain of names that are never answered.
pub(crate) const SILENT: &str = "silent.test";
/// The domain of names that lead to this machine.
pub(crate) const HEALTHY: &str = "healthy.test";

/// Maximum bytes of a query; a longer one is cut off, and so not answered.
const QUERY_BYTES_MAX: usize = 1_024;

/// A name server on a UDP socket, until it is dropped.
pub(crate) struct NameServer {
    address: SocketAddr,
    _serving: JoinSet<()>,
}

impl NameServer {
    /// Starts to answer.
    pub(crate) async fn start() -> Result<Self, CliError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut bytes = [0; QUERY_BYTES_MAX];
            while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
                let query = bytes.get(..length).and_then(|query| Message::from_vec(query).ok());
                if let Some(answer) = query.and_then(answer) {
                    // The client asks again if this fails.
                    let _ = socket.send_to(&answer, client).await;
                }
            }
        });
        Ok(Self { address, _serving: serving })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The answer to a query, with a TTL of zero so that the answer has to be asked for again and again. Names that are
/// not silent have an IPv4 address and no other.
fn answer(query: Message) -> Option<Vec<u8>> {
    let question = query.queries.first()?.clone();
    if question.name().to_string().trim_end_matches('.').ends_with(SILENT) {
        return None;
    }
    let mut answer = query.into_response();
    if question.query_type() == RecordType::A {
        let address = RData::from(Ipv4Addr::LOCALHOST);
        answer.add_answer(Record::from_rdata(question.name().clone(), 0, address));
    }
    answer.to_vec().ok()
}
