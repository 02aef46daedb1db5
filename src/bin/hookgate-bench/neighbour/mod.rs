//! Noisy neighbours: other organisations, and a client without a key, that load the server during a
//! scenario. A scenario beside one shows what an organisation notices of others.

mod bodies;
mod connections;
mod disabled;
mod dns;
mod fanout;
mod flood;
mod keys;
mod lists;
mod readers;
mod slow;
mod tasks;
mod tenant;
mod whale;

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hookgate::cli::CliError;
use hookgate::runtime::Background;
use tokio::task::JoinSet;

use crate::args::RunArgs;
use crate::client::ApiClient;
use crate::server::Server;

use disabled::DisabledEndpoint;
use keys::HealthyTenant;
use readers::FilledTenant;
use tasks::Tasks;
use tenant::Tenant;

/// Connections per neighbour.
const CONNECTIONS: u32 = 16;
/// Longer than any run: a neighbour is aborted when the run ends.
const UNTIL_ABORTED: Duration = Duration::from_hours(1);
/// How long to wait until the attempts of a stopped neighbour have ended: as long as its receivers take.
const ATTEMPTS_END_MAX: Duration = Duration::from_secs(30);
/// The priority of neighbours: below that of every thread of the server.
const NICENESS: i32 = 19;
const ATTEMPTS_POLL: Duration = Duration::from_millis(50);

/// The neighbour that loads the server during a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Neighbour {
    /// 5,000 different well-formed wrong keys a second from one client
    Flood,
    /// A tenant with an endpoint and a limit of 60,000 events per minute that sends ten times as many,
    /// in batches of 1,000
    OverLimit,
    /// A tenant with an endpoint and no limit that sends batches of 1,000 as fast as it can
    Whale,
    /// 24 tenants, or one with --slow-endpoints, whose receivers answer 200 after 5 to 13 s, with
    /// --pending deliveries in all
    Slow,
    /// The same tenants with receivers that answer 200 at once, and never end the body of the answer
    Dripping,
    /// The same tenants with receivers that accept the request and never answer
    Hanging,
    /// The same tenants with receivers that all fail for 6 s and answer 200 for 6 s, so that their breakers
    /// open and close together
    Failing,
    /// A tenant with --fanout-endpoints that all subscribe to the same events, and 500 of these events
    Fanout,
    /// Clients without a key that hold --open-connections open, idle or with half a head sent
    Connections,
    /// A tenant whose endpoint has --pending deliveries, and is disabled and enabled again all the time
    Disabled,
    /// A tenant with --silent-names endpoints at as many names of a name server that never answers for
    /// them. The receivers of end-to-end are at names, too, and close their connections
    Dns,
    /// A tenant that creates keys on 50 connections, and a client that presents unknown keys on 50 more
    Keys,
    /// A tenant that holds 400 connections, each with a batch of 5 MiB of which the last byte is missing
    Bodies,
    /// A tenant with 500 events of 256 KiB that asks for all of them on 30 connections, and reads no answer
    Lists,
    /// A tenant with --reader-events that lists them over 32 connections by filters that match nothing
    Readers,
}

impl Neighbour {
    /// Whether it may create more endpoints than a tenant may change in a minute.
    pub(crate) const fn has_many_endpoints(self) -> bool {
        matches!(self, Self::Fanout | Self::Slow | Self::Dripping | Self::Hanging | Self::Failing)
    }
}

impl fmt::Display for Neighbour {
    /// The spelling of the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", clap::builder::PossibleValue::get_name))
    }
}

/// The sizes of neighbours.
#[derive(Args, Clone, Debug)]
pub(crate) struct NeighbourArgs {
    /// Endpoints of the one organisation beside slow, dripping, hanging or failing; unset: 24 organisations
    /// with one endpoint each
    #[arg(long, requires = "beside", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slow_endpoints: Option<u32>,
    /// Endpoints of the organisation that fans out
    #[arg(long, requires = "beside", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    fanout_endpoints: u32,
    /// Endpoints at names that are never answered
    #[arg(long, requires = "beside", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    silent_names: u32,
    /// Connections that are held open beside connections
    #[arg(long, requires = "beside", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    open_connections: u32,
    /// Deliveries of the neighbour that wait; unset: 36,000 beside slow, dripping,
    /// hanging and failing, 2,000,000 beside disabled
    #[arg(long, requires = "beside", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pending: Option<u32>,
    /// Events of the organisation that reads
    #[arg(long, requires = "beside", default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    reader_events: u32,
}

/// Starts a neighbour for one run after the other.
pub(crate) struct Neighbourhood<'a> {
    neighbour: Neighbour,
    args: &'a RunArgs,
    server: &'a Server,
    operator: ApiClient,
    /// Where neighbours run.
    threads: Background,
    /// Filled for the first run, which takes minutes, and kept for the others.
    disabled: Option<DisabledEndpoint>,
    /// Creates keys beside the neighbour `keys`.
    healthy: Option<HealthyTenant>,
    /// Filled as `disabled` is.
    reading: Option<FilledTenant>,
}

/// A neighbour that loads the server.
pub(crate) struct Running {
    /// Its requests.
    load: Tasks,
    /// Requests beside it whose time is measured, too.
    measured: JoinSet<()>,
    receivers: Tasks,
    tenants: Vec<Tenant>,
}

impl<'a> Neighbourhood<'a> {
    /// A neighbour that is not there yet.
    pub(crate) fn new(
        neighbour: Neighbour,
        args: &'a RunArgs,
        server: &'a Server,
    ) -> Result<Self, CliError> {
        let operator = server.operator().ok_or("--beside cannot be used with --url")?;
        let threads = Background::start_with(NICENESS)?;
        let (disabled, healthy, reading) = (None, None, None);
        Ok(Self { neighbour, args, server, operator, threads, disabled, healthy, reading })
    }

    /// Starts the neighbour. Its tenants are new ones, since the backlog of earlier ones is suspended.
    pub(crate) async fn start(&mut self) -> Result<Running, CliError> {
        let Self { neighbour, args, server, ref operator, .. } = *self;
        let threads = self.threads.handle();
        let mut running = Running {
            load: Tasks::on(&threads),
            measured: JoinSet::new(),
            receivers: Tasks::on(&threads),
            tenants: Vec::new(),
        };
        match neighbour {
            Neighbour::Flood => flood::start(&mut running, args, server),
            Neighbour::OverLimit => {
                whale::start_over_limit(&mut running, args, server, operator).await?;
            }
            Neighbour::Whale => whale::start(&mut running, args, server, operator).await?,
            Neighbour::Slow | Neighbour::Dripping | Neighbour::Hanging | Neighbour::Failing => {
                let receiver = match neighbour {
                    Neighbour::Failing => slow::failing(),
                    Neighbour::Dripping => slow::dripping(),
                    Neighbour::Hanging => slow::hanging(),
                    _ => slow::late(),
                };
                slow::start(&mut running, &args.neighbour, operator, receiver).await?;
            }
            Neighbour::Fanout => fanout::start(&mut running, &args.neighbour, operator).await?,
            Neighbour::Dns => dns::start(&mut running, &args.neighbour, operator).await?,
            Neighbour::Connections => {
                connections::start(&mut running, &args.neighbour, server).await?;
            }
            Neighbour::Bodies => bodies::start(&mut running, server, operator).await?,
            Neighbour::Lists => lists::start(&mut running, server, operator).await?,
            Neighbour::Disabled => {
                if self.disabled.is_none() {
                    let tasks = Tasks::on(&threads);
                    let filled = DisabledEndpoint::fill(tasks, &args.neighbour, server, operator);
                    self.disabled = Some(filled.await?);
                }
                if let Some(endpoint) = &self.disabled {
                    running.measured.spawn(endpoint.disable_and_enable());
                }
            }
            Neighbour::Keys => {
                if self.healthy.is_none() {
                    self.healthy = Some(HealthyTenant::create(operator).await?);
                }
                let flooder = keys::start(&mut running.load, operator).await?;
                running.tenants.push(flooder);
                if let Some(healthy) = &self.healthy {
                    running.measured.spawn(healthy.create_keys());
                }
            }
            Neighbour::Readers => {
                if self.reading.is_none() {
                    let filled = FilledTenant::fill(&args.neighbour, server, operator).await?;
                    self.reading = Some(filled);
                }
                if let Some(tenant) = &self.reading {
                    tenant.read(&mut running.load, server);
                }
            }
        }
        Ok(running)
    }

    /// What the neighbour noticed, one line each.
    pub(crate) fn notes(&self) -> Vec<String> {
        let disabled = self.disabled.iter().map(DisabledEndpoint::note);
        disabled.chain(self.healthy.iter().map(HealthyTenant::note)).collect()
    }
}

impl Running {
    /// Stops the load, suspends the tenants, so that their deliveries wait, and waits until their attempts
    /// have ended.
    pub(crate) async fn stop(self, server: &Server) -> Result<(), CliError> {
        let Self { load, measured, receivers, tenants } = self;
        drop((load, measured));
        for tenant in &tenants {
            tenant.suspend().await?;
        }
        if !tenants.is_empty() {
            let ended = async {
                while server.metric("webhooks_in_flight").await? > 0 {
                    tokio::time::sleep(ATTEMPTS_POLL).await;
                }
                Ok(())
            };
            tokio::time::timeout(ATTEMPTS_END_MAX, ended).await.unwrap_or(Ok::<_, CliError>(()))?;
        }
        drop(receivers);
        Ok(())
    }
}
