//! Waits with an end: a test that would wait for ever fails and says for what.

use std::time::Duration;

/// How often something is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// A wait that takes longer has failed, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// Looks again and again until it is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "never: {what}");
}
