//! What a server has stored by the end of a run, and how long it takes to store the rest.

use std::fmt;
use std::time::Duration;

use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;
use serde::{Deserialize, Serialize};

use crate::server::Server;

/// How long to wait for the rest.
const DRAIN_MAX: Duration = Duration::from_mins(5);

/// The end of a run that accepts faster than is stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drain {
    /// Events that were stored when the last one was accepted, of all that were accepted.
    stored_share: f64,
    /// From the last acceptance until everything is stored.
    seconds: f64,
}

impl Drain {
    /// Waits until the `accepted` events of a run that has just ended are stored. Nothing else may wait.
    ///
    /// # Errors
    /// When they are not stored within five minutes.
    pub(crate) async fn wait(server: &Server, accepted: u64) -> Result<Self, CliError> {
        let watch = Stopwatch::start();
        let waiting = server.events_waiting().await?;
        if !server.settle_within(DRAIN_MAX).await {
            return Err("the events were not stored within five minutes of the run".into());
        }
        Ok(Self { stored_share: stored_share(accepted, waiting), seconds: watch.seconds() })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run stay far below 2^52")]
fn stored_share(accepted: u64, waiting: u64) -> f64 {
    if accepted == 0 { 1.0 } else { accepted.saturating_sub(waiting) as f64 / accepted as f64 }
}

impl fmt::Display for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored_share, seconds } = self;
        write!(f, "stored by the end {:.1} %, the rest after {seconds:.1} s", 100.0 * stored_share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_of_what_was_accepted() {
        let drain = Drain { stored_share: stored_share(400, 100), seconds: 1.25 };
        assert_eq!(drain.to_string(), "stored by the end 75.0 %, the rest after 1.2 s");
        let shares = [stored_share(0, 0), stored_share(5, 5), stored_share(5, 9)];
        assert_eq!(shares.map(|share| format!("{share:.1}")), ["1.0", "0.0", "0.0"]);
    }
}
