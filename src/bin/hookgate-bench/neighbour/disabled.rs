//! The neighbour `disabled`: an endpoint with a large backlog that is disabled and enabled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use hookgate::cli::CliError;
use hookgate::runtime::Stopwatch;

use crate::client::ApiClient;
use crate::measure::progress;
use crate::report::Measured;
use crate::server::Server;

use super::NeighbourArgs;
use super::tasks::Tasks;
use super::tenant::Tenant;

/// Deliveries that wait, unless `--pending` is set.
const PENDING: usize = 2_000_000;
/// Events between two lines of progress.
const FILL_STEP: usize = 100_000;
/// How long to wait until the backlog is stored.
const FILL_MAX: Duration = Duration::from_hours(1);
/// A day, the longest hold that a server grants.
const HOLD_SECONDS: &str = "86400";
/// Pause between two changes of the endpoint.
const CHANGE_PAUSE: Duration = Duration::from_secs(1);

/// An endpoint with a backlog, and how long its changes took.
pub(super) struct DisabledEndpoint {
    tenant: Tenant,
    path: String,
    pending: usize,
    changes: Arc<Mutex<Measured>>,
    _receiver: Tasks,
}

impl DisabledEndpoint {
    /// Makes the backlog: the receiver answers 503 with a `Retry-After` of a day, and holds back all that is
    /// posted after the first attempts.
    pub(super) async fn fill(
        mut receiver: Tasks,
        args: &NeighbourArgs,
        server: &Server,
        operator: &ApiClient,
    ) -> Result<Self, CliError> {
        let refuse = async || (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, HOLD_SECONDS)]);
        let url = receiver.serve(Router::new().fallback(refuse)).await?;
        let tenant = Tenant::create(operator, 1).await?;
        let path = tenant.client.create_endpoint(&url, &[]).await?;
        let pending = args.pending.map_or(PENDING, |pending| pending as usize);
        let mut posted = 0;
        while posted < pending {
            let step = FILL_STEP.min(pending - posted);
            tenant.post_events(&vec!["bench.disabled".to_owned(); step]).await?;
            posted += step;
            progress(&format!("{posted} of {pending} deliveries posted"));
        }
        if !server.settle_within(FILL_MAX).await {
            return Err("the backlog was not stored within an hour".into());
        }
        let changes = Arc::new(Mutex::new(Measured::new()?));
        Ok(Self { tenant, path, pending, changes, _receiver: receiver })
    }

    /// Disables and enables the endpoint, again and again.
    pub(super) fn disable_and_enable(&self) -> impl Future<Output = ()> + Send + use<> {
        let (client, path) = (self.tenant.client.clone(), self.path.clone());
        let changes = Arc::clone(&self.changes);
        async move {
            for enabled in [false, true].into_iter().cycle() {
                let watch = Stopwatch::start();
                let body = format!(r#"{{"enabled":{enabled}}}"#);
                let answer = client.send("PATCH", &path, &body).await;
                record(&changes, answer.map(|(status, _)| status), watch.elapsed());
                tokio::time::sleep(CHANGE_PAUSE).await;
            }
        }
    }

    /// How long the changes took.
    pub(super) fn note(&self) -> String {
        let changes = lock(&self.changes);
        format!(
            "PATCH of an endpoint with {} pending: {} times, p50 {:.2} ms, max {:.2} ms, errors {:?}",
            self.pending,
            changes.count(),
            changes.quantile_ms(0.5),
            changes.quantile_ms(1.0),
            changes.errors(),
        )
    }
}

fn record(changes: &Mutex<Measured>, answer: Result<StatusCode, CliError>, took: Duration) {
    let mut changes = lock(changes);
    match answer {
        Ok(StatusCode::OK) => changes.success(took),
        Ok(status) => changes.error(status.as_str()),
        Err(error) => changes.error(&error.to_string()),
    }
}

fn lock(changes: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    changes.lock().unwrap_or_else(PoisonError::into_inner)
}
