//! The neighbours `whale` and `over-limit`: a tenant that sends large batches.

use axum::Router;
use axum::http::StatusCode;
use hookgate::cli::CliError;

use crate::args::{OptionalFields, RunArgs, Scenario};
use crate::client::ApiClient;
use crate::load::Load;
use crate::server::Server;
use crate::target::Target;

use super::tenant::Tenant;
use super::{CONNECTIONS, Running, UNTIL_ABORTED};

/// Events per batch: the maximum.
const BATCH_EVENTS: u32 = 1_000;
/// The limit of the tenant that sends more.
const EVENTS_PER_MINUTE: u32 = 60_000;
/// Its burst: one batch, so that it is at its limit from the start.
const BURST: u32 = BATCH_EVENTS;
/// Its rate as a multiple of its limit.
const TIMES_ITS_LIMIT: u32 = 10;

/// Starts a tenant without a limit that sends as fast as the server answers, for the length of a run: what it
/// posts fills the disk.
pub(super) async fn start(
    running: &mut Running,
    args: &RunArgs,
    server: &Server,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let tenant = Tenant::create(operator, 1).await?;
    let load = Load { connections: CONNECTIONS, rate: None, duration: args.duration };
    send(running, args, server, tenant, load).await
}

/// Starts a tenant that sends ten times its limit.
pub(super) async fn start_over_limit(
    running: &mut Running,
    args: &RunArgs,
    server: &Server,
    operator: &ApiClient,
) -> Result<(), CliError> {
    let tenant = Tenant::create_limited(operator, 1, EVENTS_PER_MINUTE, BURST).await?;
    let batches = EVENTS_PER_MINUTE * TIMES_ITS_LIMIT / 60 / BATCH_EVENTS;
    let load = Load { connections: CONNECTIONS, rate: Some(batches), duration: UNTIL_ABORTED };
    send(running, args, server, tenant, load).await
}

/// Sends batches whose webhooks are answered at once.
async fn send(
    running: &mut Running,
    args: &RunArgs,
    server: &Server,
    tenant: Tenant,
    load: Load,
) -> Result<(), CliError> {
    let receiver = Router::new().fallback(async || StatusCode::NO_CONTENT);
    let url = running.receivers.serve(receiver).await?;
    tenant.client.create_endpoint(&url, &[]).await?;
    let args = RunArgs { batch: BATCH_EVENTS, fields: OptionalFields::default(), ..args.clone() };
    let target = Target::new(Scenario::IngestBatch, &args, &server.with_key(&tenant.key));
    running.load.spawn(async move {
        let _ = load.run(&target).await;
    });
    running.tenants.push(tenant);
    Ok(())
}
