//! Bad neighbours: what one tenant notices of a client that floods the server with wrong keys, and of
//! a tenant that sends ten times what it may.

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use clap::ValueEnum;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::super::CliError;
use super::connection::Connection;
use super::end_to_end::call;
use super::load::{Load, Target};
use super::server::{NEIGHBOUR_EVENTS_AT_ONCE, NEIGHBOUR_EVENTS_PER_MINUTE, Server};
use super::{Measured, RunArgs, Scenario};
use crate::auth::PresentedKey;
use crate::domain::ApiKeyId;
use crate::runtime::Clock;

/// Wrong keys a second of the flood, each another one.
const FLOOD_PER_SECOND: u32 = 5_000;
/// Connections of a neighbour.
const CONNECTIONS: u32 = 16;
/// How many times its limit the whale sends.
const TIMES_ITS_LIMIT: u32 = 10;
/// Events in each of the whale's batches: as many as a batch may have.
const BATCH_EVENTS: u32 = NEIGHBOUR_EVENTS_AT_ONCE;
/// Longer than any run: neighbours end with it.
const FOR_EVER: Duration = Duration::from_hours(1);

/// What troubles the server while a scenario is measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Neighbour {
    /// 5,000 different well-formed wrong keys a second from one client
    Flood,
    /// A tenant with a limit of 60,000 events a minute and an endpoint, sending ten times as much in
    /// batches of 1,000
    Whale,
}

impl Neighbour {
    /// Troubles the server until the tasks that are returned are dropped.
    pub(super) async fn trouble(
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
    let load = Load { connections: CONNECTIONS, rate: Some(FLOOD_PER_SECOND), duration: FOR_EVER };
    tasks.spawn(async move {
        let authority = target.authority.clone();
        let flooding = load.drive(&authority, |mut connection, mut line| {
            let target = target.clone();
            async move {
                while line.next().await.is_some() {
                    let key = PresentedKey::generate(ApiKeyId::mint(Clock::system().now()))?;
                    let target = target.with_key(key.reveal());
                    // Whatever comes back: a neighbour does not measure.
                    let _ = connection.send(target.request(None)?).await;
                }
                Measured::new()
            }
        });
        let _ = flooding.await;
    });
}

async fn whale(tasks: &mut JoinSet<()>, args: &RunArgs, server: &Server) -> Result<(), CliError> {
    let key = server.neighbour_key().ok_or("--beside whale needs a server of the bench's own")?;
    let server = server.as_neighbour(key);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let body = format!(r#"{{"url":"http://{}/"}}"#, listener.local_addr()?);
    tasks.spawn(async move {
        // Ends with the measurement.
        let router = Router::new().fallback(async || StatusCode::NO_CONTENT);
        let _ = axum::serve(listener, router).await;
    });
    let mut connection = Connection::open(server.authority()).await?;
    call(&mut connection, &server, "POST", "/api/endpoints", body).await?;
    let args = RunArgs { batch: BATCH_EVENTS, ..args.clone() };
    let target = Target::new(Scenario::IngestBatch, &args, &server);
    let batches = NEIGHBOUR_EVENTS_PER_MINUTE * TIMES_ITS_LIMIT / 60 / BATCH_EVENTS;
    let load = Load { connections: CONNECTIONS, rate: Some(batches), duration: FOR_EVER };
    tasks.spawn(async move {
        let _ = load.run(&target).await;
    });
    Ok(())
}
