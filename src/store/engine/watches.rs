//! Tasks that watch the hosts of an engine, and end with it: when its connections are closed at the end of a stop,
//! or when it is dropped.
//!
//! They are no tasks of the server's lifecycle, since a store that is still draining needs the host that takes writes.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The watches of an engine.
#[derive(Debug, Default)]
pub(super) struct Watches {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Watches {
    /// Runs a watch until it ends or is ended.
    pub(super) fn spawn(&self, watch: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = watch => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Ends them, and waits for their ends.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Gate;

    /// Opens a gate when it ends.
    struct Ends(Gate);

    impl Drop for Ends {
        fn drop(&mut self) {
            self.0.open();
        }
    }

    /// A watch that never ends by itself, and what tells its end.
    fn watch(watches: &Watches) -> Gate {
        let ended = Gate::new();
        let end = Ends(ended.clone());
        watches.spawn(async move {
            let _end = end;
            std::future::pending::<()>().await;
        });
        ended
    }

    #[tokio::test]
    async fn watches_have_ended_once_their_engine_is_closed() {
        let watches = Watches::default();
        let ended = [watch(&watches), watch(&watches)];
        tokio::task::yield_now().await;
        assert!(ended.iter().all(|ended| !ended.is_open()));
        watches.end().await;
        assert!(ended.iter().all(Gate::is_open));
    }

    #[tokio::test]
    async fn watches_end_with_an_engine_that_is_not_closed() {
        let watches = Watches::default();
        let ended = watch(&watches);
        drop(watches);
        ended.opened().await;
    }
}
