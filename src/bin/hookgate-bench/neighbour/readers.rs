//! The neighbour `readers`: a tenant with many events that lists them by filters which match nothing.

use hookgate::cli::CliError;

use crate::client::ApiClient;
use crate::connection::Connection;
use crate::measure::progress;
use crate::server::Server;

use super::NeighbourArgs;
use super::tasks::Tasks;
use super::tenant::Tenant;

/// Connections, each with a read in progress all the time.
const READERS: usize = 32;
/// Events per batch.
const BATCH_EVENTS: u32 = 1_000;
/// Lists that are asked for in turn. Half of the events have the account, the other half the user, so the last
/// one checks half of them in vain.
const LISTS: [&str; 4] = [
    "/api/events?limit=1&type=never.seen",
    "/api/events?limit=1&account_id=nobody",
    "/api/events?limit=1&user_id=nobody",
    "/api/events?limit=1&account_id=many&user_id=many",
];

/// A tenant with stored events.
pub(super) struct FilledTenant(Tenant);

impl FilledTenant {
    /// Posts the events and waits until they are stored.
    pub(super) async fn fill(
        args: &NeighbourArgs,
        server: &Server,
        operator: &ApiClient,
    ) -> Result<Self, CliError> {
        let tenant = Tenant::create(operator, 1).await?;
        let batch: Vec<_> = (0..BATCH_EVENTS).map(event).collect();
        let body = format!("[{}]", batch.join(","));
        for number in 0..args.reader_events.div_ceil(BATCH_EVENTS) {
            tenant.client.call("POST", "/api/events/batch", &body).await?;
            if number % 100 == 99 {
                progress(&format!("{} events posted", (number + 1) * BATCH_EVENTS));
            }
        }
        server.settle().await;
        Ok(Self(tenant))
    }

    /// Starts the readers.
    pub(super) fn read(&self, load: &mut Tasks, server: &Server) {
        for number in 0..READERS {
            let (authority, key) = (server.authority().to_owned(), self.0.key.clone());
            load.spawn(async move {
                let lists = LISTS.iter().cycle().skip(number);
                for list in lists {
                    // The answer does not matter: a neighbour is not measured.
                    let _ = ask(&authority, &key, list).await;
                }
            });
        }
    }
}

fn event(number: u32) -> String {
    let label = if number.is_multiple_of(2) { "account_id" } else { "user_id" };
    format!(r#"{{"type":"bench.read","{label}":"many","payload":0}}"#)
}

/// Reads a list on a new connection.
async fn ask(authority: &str, key: &str, list: &str) -> Result<(), CliError> {
    let request = hyper::Request::get(list)
        .header("host", authority)
        .header("x-api-key", key)
        .body(http_body_util::Full::default())?;
    Connection::open(authority).await?.send(request).await?;
    Ok(())
}
