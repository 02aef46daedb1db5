//! Tasks of a neighbour, apart from those that measure.

use axum::Router;
use hookgate::cli::CliError;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::arrivals;

/// Tasks on the threads of neighbours, ended when this is dropped.
///
/// A neighbour has a machine of its own. On this one it runs on threads of the lowest priority: what is measured then waits
/// for what the server does for the neighbour, and not for what the neighbour itself does.
pub(super) struct Tasks {
    tasks: JoinSet<()>,
    threads: Handle,
}

impl Tasks {
    /// None yet.
    pub(super) fn on(threads: &Handle) -> Self {
        Self { tasks: JoinSet::new(), threads: threads.clone() }
    }

    pub(super) fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.threads);
    }

    /// Serves a receiver on a free port, and returns its URL.
    pub(super) async fn serve(&mut self, router: Router) -> Result<String, CliError> {
        let (url, serving) = arrivals::receiver(router).await?;
        self.spawn(serving);
        Ok(url)
    }
}
