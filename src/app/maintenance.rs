//! Periodic store maintenance: partitions, expired rows, checkpoints, and the schedule time.

use std::sync::Arc;
use std::time::Duration;

use crate::config::RetentionConfig;
use crate::domain::Timestamp;
use crate::journal::Journal;
use crate::runtime::{Backoff, Clock, DiskLevel, DiskSpace, Shutdown};
use crate::store::{DeliveryState, RetentionReport, Schedule, Store, StoreError, StoreMetrics};

/// Time between two rounds. Partitions are created days ahead, so missed rounds do no harm.
const INTERVAL: Duration = Duration::from_hours(1);
/// The first wait after a round that failed; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_secs(10);
/// How long tombstones of erased events are kept at least, beyond `JOURNAL_RETENTION`: a server that was stopped for
/// this long may start again with events in its journal that were erased meanwhile.
const TOMBSTONES_KEPT: Duration = Duration::from_hours(30 * 24);
/// The longest wait after a round that failed.
const RETRY_WAIT_MAX: Duration = Duration::from_mins(10);
/// Time between two measurements of the store.
const MEASURE_INTERVAL: Duration = Duration::from_mins(5);
/// Time between two counts of deliveries.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);
/// Time between two looks at the clocks.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between two looks whether the disk has little space.
const SPACE_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two checkpoints. A page that is written several times meanwhile is copied once.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Maintains the store until the soft stop.
pub(super) async fn run(
    store: Store,
    journal: Journal,
    journal_retention: Duration,
    clock: Clock,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX);
    loop {
        let now = clock.now();
        let status = journal.status();
        let oldest_unstored = match status.oldest_unacked {
            Some(accepted_at) => accepted_at,
            None if status.items_waiting == 0 => now,
            // Not read yet.
            None => Timestamp::from_micros(0),
        };
        let kept = TOMBSTONES_KEPT + journal_retention;
        let before = now.minus(kept).min(oldest_unstored);
        let maintained = async {
            store.system().maintain_behind(now, oldest_unstored).await?;
            store.system().delete_tombstones(before).await
        };
        let wait = match maintained.await {
            Ok(()) => {
                backoff.reset();
                INTERVAL
            }
            Err(error) => {
                let wait = backoff.next_wait();
                tracing::warn!(%error, ?wait, "store maintenance failed, retrying");
                wait
            }
        };
        if !shutdown.next_round(wait).await {
            return;
        }
    }
}

/// Deletes what is older than it is to be kept, until the soft stop. A step in progress is taken back then.
pub(super) async fn retain(
    store: Store,
    config: RetentionConfig,
    clock: Clock,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX);
    loop {
        let round = tokio::select! {
            () = shutdown.requested() => return,
            round = store.system().enforce_retention(&config, clock.now()) => round,
        };
        let (report, failed) = match round {
            Ok(report) => (report, None),
            Err(failure) => (failure.report, Some(failure)),
        };
        if report != RetentionReport::default() {
            let RetentionReport { rows, payloads, days, expired } = report;
            tracing::info!(rows, payloads, days, expired, "deleted what was too old");
        }
        let wait = match failed {
            Some(failure) if failure.is_cut_short() => {
                let wait = backoff.next_wait();
                tracing::warn!(error = %failure, ?wait, "cannot delete what is too old, retrying");
                wait
            }
            // Each failure is in the log. What fails for one organisation would soon fail again, and a round looks at all.
            Some(_) | None => {
                backoff.reset();
                INTERVAL
            }
        };
        if !shutdown.next_round(wait).await {
            return;
        }
    }
}

/// Sets the gauges of the store's size and age until the soft stop.
pub(super) async fn measure(
    store: Store,
    metrics: Arc<StoreMetrics>,
    clock: Clock,
    shutdown: Shutdown,
) {
    loop {
        let measured = async {
            metrics.hookgate_database_bytes.set(store.system().database_bytes().await?);
            let oldest = store.system().oldest_event().await?;
            let age = oldest.map_or(0, |oldest| clock.now().since(oldest).as_secs());
            metrics.hookgate_oldest_event_seconds.set(i64::try_from(age).unwrap_or(i64::MAX));
            Ok::<_, StoreError>(())
        };
        if let Err(error) = measured.await {
            tracing::debug!(%error, "cannot measure the store");
        }
        if !shutdown.next_round(MEASURE_INTERVAL).await {
            return;
        }
    }
}

/// Sets the gauges of deliveries by state until the soft stop. `store` reads within a time limit.
pub(super) async fn count_deliveries(
    store: Store,
    metrics: Arc<StoreMetrics>,
    clock: Clock,
    shutdown: Shutdown,
) {
    loop {
        for state in DeliveryState::ALL {
            match store.system().count_deliveries(state, clock.schedule()).await {
                Ok(count) => {
                    let count = i64::try_from(count).unwrap_or(i64::MAX);
                    metrics.hookgate_deliveries.of(state).set(count);
                }
                Err(error) => tracing::debug!(%error, ?state, "cannot count deliveries"),
            }
        }
        if !shutdown.next_round(COUNT_INTERVAL).await {
            return;
        }
    }
}

/// Keeps the schedule time in step with the store's until the soft stop.
pub(super) async fn follow_clock(store: Store, clock: Clock, shutdown: Shutdown) {
    let mut schedule = None;
    while shutdown.next_round(CLOCK_INTERVAL).await {
        let followed = match &mut schedule {
            None => Schedule::start(store.clone(), clock.clone())
                .await
                .map(|new| _ = schedule.insert(new)),
            Some(schedule) => schedule.follow().await,
        };
        if let Err(error) = followed {
            tracing::debug!(%error, "cannot compare the clock with the store's; it goes on evenly");
        }
    }
}

/// Makes checkpoints until the soft stop, so that writers need not.
pub(super) async fn checkpoint(store: Store, shutdown: Shutdown) {
    let mut failing = false;
    while shutdown.next_round(CHECKPOINT_INTERVAL).await {
        let result = store.checkpoint().await;
        let failed = result.is_err();
        if let Err(error) = result
            && !failing
        {
            tracing::warn!(%error, "store checkpoint failed; a writer makes the next one");
        }
        failing = failed;
    }
}

/// Gives the space of deleted rows back until the soft stop while the disk of the SQLite file has little. Otherwise
/// retention and hourly maintenance do, which leave a part of the file for later rows.
pub(super) async fn give_space_back(store: Store, space: DiskSpace, shutdown: Shutdown) {
    while shutdown.next_round(SPACE_INTERVAL).await {
        if space.level() == DiskLevel::Ok {
            continue;
        }
        if let Err(error) = store.system().give_all_space_back().await {
            tracing::debug!(%error, "cannot give space back to the file system");
        }
    }
}
