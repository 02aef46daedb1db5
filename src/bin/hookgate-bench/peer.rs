//! Peers: the least that could do the same work, measured in alternation with the server.

use std::time::Duration;

use hookgate::cli::CliError;
use tokio_util::sync::CancellationToken;

use crate::args::{RunArgs, Scenario};
use crate::measure::one_run;
use crate::run::Run;
use crate::server::Server;
use crate::{reqwest_loop, store};

/// A peer of a scenario.
pub(crate) enum Peer<'a> {
    /// A handler that only answers.
    Bare(Box<Server>),
    /// Plain inserts into this database.
    Unnest(&'a str),
    /// A loop that posts with reqwest and does nothing else.
    Reqwest,
}

impl<'a> Peer<'a> {
    /// The peer that the arguments ask for, and the number of pairs of runs.
    pub(crate) async fn start(args: &'a RunArgs) -> Result<Option<(Self, u32)>, CliError> {
        Ok(match (args.peer_bare, args.peer_unnest, args.peer_reqwest) {
            (Some(pairs), _, _) => Some((Self::Bare(Box::new(Server::start_bare().await?)), pairs)),
            (None, Some(pairs), _) => {
                args.database_url.as_deref().map(|url| (Self::Unnest(url), pairs))
            }
            (None, None, Some(pairs)) => Some((Self::Reqwest, pairs)),
            (None, None, None) => None,
        })
    }

    /// The peer's name in reports.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Bare(_) => "bare handler",
            Self::Unnest(_) => "plain unnest",
            Self::Reqwest => "bare reqwest loop",
        }
    }

    /// Measures the peer once.
    pub(crate) async fn run(
        &self,
        args: &RunArgs,
        scenario: Scenario,
        duration: Duration,
        stop: &CancellationToken,
    ) -> Result<Run, CliError> {
        match self {
            Self::Bare(server) => one_run(args, scenario, server, duration, stop).await,
            Self::Unnest(url) => {
                let measured = store::run_unnest(args, url, duration, stop).await?;
                Ok(Run::new(measured, u32::from(store::ROWS), None))
            }
            Self::Reqwest => Ok(Run::new(reqwest_loop::run(args, duration, stop).await?, 1, None)),
        }
    }

    /// Stops what [`Self::start`] started.
    pub(crate) async fn stop(self) {
        match self {
            Self::Bare(server) => server.stop().await,
            Self::Unnest(_) | Self::Reqwest => {}
        }
    }
}
