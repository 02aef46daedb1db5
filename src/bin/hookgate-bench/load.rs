//! Load on a server, closed loop or open loop, over a number of connections.

use std::time::Duration;

use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;
use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::pacer::Pacer;
use crate::report::Measured;
use crate::target::Target;

/// The load of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Connections, each with at most one request in flight.
    pub(crate) connections: u32,
    /// Requests per second over all connections; `None` for a closed loop.
    pub(crate) rate: Option<u32>,
    /// Length of the run.
    pub(crate) duration: Duration,
}

impl Load {
    /// Sends the target's request again and again and measures every answer.
    pub(crate) async fn run(self, target: &Target) -> Result<Measured, CliError> {
        self.run_in_turn(std::slice::from_ref(target)).await
    }

    /// Sends the requests of the targets in turn, again and again, and measures every answer. Panics without a target.
    pub(crate) async fn run_in_turn(self, targets: &[Target]) -> Result<Measured, CliError> {
        self.drive(&targets[0].authority, |mut connection, mut pacer| {
            let targets = targets.to_vec();
            async move {
                let mut turns = targets.iter().cycle();
                while let Some(due) = pacer.next().await
                    && let Some(target) = turns.next()
                {
                    if target.exchange(&mut connection, None, &mut pacer.measured).await? {
                        pacer.measured.success(pacer.watch.elapsed().saturating_sub(due));
                    }
                }
                Ok(pacer.measured)
            }
        })
        .await
    }

    /// Opens the connections, runs `work` on all of them at once, and adds up the measurements.
    pub(crate) async fn drive<F>(
        self,
        authority: &str,
        work: impl Fn(Connection, Pacer) -> F,
    ) -> Result<Measured, CliError>
    where
        F: Future<Output = Result<Measured, CliError>> + Send + 'static,
    {
        let mut connections = Vec::new();
        for _ in 0..self.connections {
            connections.push(Connection::open(authority).await?);
        }
        let watch = Stopwatch::start();
        let mut tasks = JoinSet::new();
        for (number, connection) in (0..self.connections).zip(connections) {
            tasks.spawn(work(connection, Pacer::new(self, number, watch)?));
        }
        let mut total = Measured::new()?;
        while let Some(done) = tasks.join_next().await {
            total.add(done??)?;
        }
        total.seconds = watch.seconds();
        Ok(total)
    }
}
