//! A name server on a loopback UDP socket, with answers that a test chooses.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SOA;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// Bytes of a query at most.
const QUERY_BYTES_MAX: usize = 4096;

/// The answer to a query.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These addresses: of each kind those that are asked for.
    Addresses { ips: Vec<IpAddr>, ttl: u32 },
    /// The IPv4 address, and never an answer for IPv6.
    OnlyIpv4(&'static str),
    /// The name does not exist.
    NoSuchName { ttl: u32 },
    /// The name has no address.
    Empty { ttl: u32 },
    /// The server has failed.
    ServerFailure,
    /// Never an answer.
    Silence,
    /// Another answer, after a while.
    Late(Duration, Box<Reply>),
}

impl Reply {
    pub(crate) fn addresses(ips: &[&str], ttl: u32) -> Self {
        Self::Addresses { ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(), ttl }
    }
}

/// A name server, until it is dropped.
pub(crate) struct NameServer {
    address: SocketAddr,
    queries: Arc<Mutex<BTreeMap<String, usize>>>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    /// Starts a server that answers for a name, in lower case and without the last dot, with `reply`.
    pub(crate) async fn start(reply: impl Fn(&str) -> Reply + Send + 'static) -> Self {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let address = socket.local_addr().unwrap();
        let queries = Arc::<Mutex<BTreeMap<String, usize>>>::default();
        let counted = Arc::clone(&queries);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut late = JoinSet::new();
            let mut bytes = [0; QUERY_BYTES_MAX];
            while let Ok((length, client)) = socket.recv_from(&mut bytes).await {
                let query = Message::from_vec(&bytes[..length]).unwrap();
                let name = query.queries[0].name().to_string().to_lowercase();
                let name = name.trim_end_matches('.').to_owned();
                *counted.lock().unwrap().entry(name.clone()).or_default() += 1;
                let mut reply = reply(&name);
                let mut delay = Duration::ZERO;
                while let Reply::Late(by, then) = reply {
                    delay += by;
                    reply = *then;
                }
                let Some(answer) = answer(query, &reply) else { continue };
                let socket = Arc::clone(&socket);
                late.spawn(async move {
                    tokio::time::sleep(delay).await;
                    socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
                });
            }
        });
        Self { address, queries, _tasks: tasks }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queries so far, for any name: each look-up makes one for each kind of addresses.
    pub(crate) fn queries(&self) -> usize {
        self.queries.lock().unwrap().values().sum()
    }
}

fn answer(query: Message, reply: &Reply) -> Option<Message> {
    let question = query.queries[0].clone();
    let (name, kind) = (question.name().clone(), question.query_type());
    let mut answer = query.into_response();
    answer.edns = None;
    answer.metadata.recursion_available = true;
    let absent = |ttl| {
        let soa = SOA::new(name.clone(), name.clone(), 1, 3600, 600, 86_400, ttl);
        Record::from_rdata(name.clone(), ttl, RData::SOA(soa))
    };
    let ipv4;
    let (ips, ttl) = match reply {
        Reply::Addresses { ips, ttl } => (&ips[..], *ttl),
        Reply::OnlyIpv4(_) if kind != RecordType::A => return None,
        Reply::OnlyIpv4(ip) => {
            ipv4 = [ip.parse().unwrap()];
            (&ipv4[..], 60)
        }
        Reply::NoSuchName { ttl } => {
            answer.metadata.response_code = ResponseCode::NXDomain;
            answer.add_authority(absent(*ttl));
            (&[][..], 0)
        }
        Reply::Empty { ttl } => {
            answer.add_authority(absent(*ttl));
            (&[][..], 0)
        }
        Reply::ServerFailure => {
            answer.metadata.response_code = ResponseCode::ServFail;
            (&[][..], 0)
        }
        Reply::Silence | Reply::Late(..) => return None,
    };
    for ip in ips {
        let data = RData::from(*ip);
        if data.record_type() == kind {
            answer.add_answer(Record::from_rdata(name.clone(), ttl, data));
        }
    }
    Some(answer)
}
