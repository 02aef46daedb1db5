//! Noisy neighbours: a client that floods the server with wrong keys, and a tenant that sends ten times
//! its limit. A scenario beside one shows what other tenants notice.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use clap::ValueEnum;
use hookgate::auth::PresentedKey;
use hookgate::cli::CliError;
use hookgate::domain::ApiKeyId;
use hookgate::runtime::Clock;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::args::{RunArgs, Scenario};
use crate::connection::Connection;
use crate::end_to_end::call;
use crate::load::Load;
use crate::report::Measured;
use crate::server::{NEIGHBOUR_BURST, NEIGHBOUR_EVENTS_PER_MINUTE, Server};
use crate::target::Target;

/// Keys per second that the flood presents, each different and wrong.
const FLOOD_PER_SECOND: u32 = 5_000;
/// Connections per neighbour.
const CONNECTIONS: u32 = 16;
/// The whale's rate as a multiple of its limit.
const TIMES_ITS_LIMIT: u32 = 10;
/// Events per batch of the whale: the maximum.
const BATCH_EVENTS: u32 = NEIGHBOUR_BURST;
/// Longer than any run: a neighbour is aborted when the run ends.
const UNTIL_ABORTED: Duration = Duration::from_hours(1);

/// The neighbour that loads the server during a scenario.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Neighbour {
    /// 5,000 different well-formed wrong keys a second from one client
    Flood,
    /// A tenant with an endpoint and a limit of 60,000 events per minute that sends ten times as many,
    /// in batches of 1,000
    Whale,
}

impl Neighbour {
    /// Starts loading the server, until the returned tasks are dropped.
    pub(crate) async fn start(
        self,
        args: &RunArgs,
        server: &Server,
    ) -> Result<JoinSet<()>, CliError> {
        let mut tasks = JoinSet::new();
        match self {
            Self::Flood => flood(&mut tasks, args, server),
            Self::Whale => whale(&mut tasks, args, server).await?,
        }
        Ok(tasks)
    }
}

fn flood(tasks: &mut JoinSet<()>, args: &RunArgs, server: &Server) {
    let target = Target::new(Scenario::Ingest, args, server);
    let load =
        Load { connections: CONNECTIONS, rate: Some(FLOOD_PER_SECOND), duration: UNTIL_ABORTED };
    tasks.spawn(async move {
        let authority = target.authority.clone();
        let flooding = load.drive(&authority, |mut connection, mut pacer| {
            let target = target.clone();
            async move {
                while pacer.next().await.is_some() {
                    let key = PresentedKey::generate(ApiKeyId::mint(Clock::system().now()))?;
                    let target = target.with_key(key.reveal());
                    // The answer does not matter: a neighbour is not measured.
                    let _ = connection.send(target.request(None)?).await;
                }
                Measured::new()
            }
        });
        let _ = flooding.await;
    });
}

async fn whale(tasks: &mut JoinSet<()>, args: &RunArgs, server: &Server) -> Result<(), CliError> {
    let key = server.neighbour_key().ok_or("--beside whale cannot be used with --url")?;
    let server = server.with_key(key);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let body = format!(r#"{{"url":"http://{}/"}}"#, listener.local_addr()?);
    tasks.spawn(async move {
        // Aborted when the measurement ends.
        let router = Router::new().fallback(async || StatusCode::NO_CONTENT);
        let _ = axum::serve(listener, router).await;
    });
    let mut connection = Connection::open(server.authority()).await?;
    call(&mut connection, &server, "POST", "/api/endpoints", body).await?;
    let args = RunArgs { batch: BATCH_EVENTS, ..args.clone() };
    let target = Target::new(Scenario::IngestBatch, &args, &server);
    let batches = NEIGHBOUR_EVENTS_PER_MINUTE * TIMES_ITS_LIMIT / 60 / BATCH_EVENTS;
    let load = Load { connections: CONNECTIONS, rate: Some(batches), duration: UNTIL_ABORTED };
    tasks.spawn(async move {
        let _ = load.run(&target).await;
    });
    Ok(())
}
