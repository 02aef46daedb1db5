//! What the command line does with a journal: showing what it holds, and storing again what the store lacks.

use std::io;
use std::str::FromStr;

use serde::Serialize;

use super::admin::{self, AdminError};
use super::storage;
use crate::config::StoreConfig;
use crate::domain::Timestamp;
use crate::ingest::{JournalReplay, ReplayCounts, next_records};
use crate::journal::{JournalError, JournalExtent, JournalRecords};
use crate::runtime::Clock;
use crate::store::{Store, StoreError};

/// Why a command on the journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalCommandError {
    /// The store could not be opened.
    #[error(transparent)]
    Open(#[from] AdminError),
    /// The journal could not be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal could not be read.
    #[error("cannot read the journal: {0}")]
    Read(#[from] io::Error),
    /// The store failed.
    #[error("{0}; repeat the replay, it stores nothing twice")]
    Store(#[from] StoreError),
}

/// Where a replay begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplaySince {
    /// With the event at this position.
    Position(u64),
    /// With events accepted at this time.
    Time(Timestamp),
}

impl FromStr for ReplaySince {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(position) = text.parse() {
            return Ok(Self::Position(position));
        }
        let time = text.parse().map(Self::Time);
        time.map_err(|_| "neither a position nor a time such as 2026-01-31T12:00:00Z".to_owned())
    }
}

/// What a replay is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayOptions {
    /// Where it begins; `None` for the first event that the store may lack.
    pub since: Option<ReplaySince>,
    /// Whether only to count.
    pub dry_run: bool,
    /// Whether events of organisations that the store does not have are given up.
    pub skip_unknown_orgs: bool,
}

/// The result of a replay.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ReplayReport {
    /// Whether nothing was stored.
    pub dry_run: bool,
    /// The position of the first event that the journal has and that was looked at.
    pub from: u64,
    /// The position behind the last one.
    pub to: u64,
    /// Events that were looked at.
    pub events: u64,
    /// Of these, events above the journal's checkpoint: they waited, or were stored in the server's last moment.
    pub waiting: u64,
    /// Of all, events that the store lacked.
    pub missing: u64,
    /// Deliveries that were planned for them.
    pub deliveries: u64,
    /// Events of organisations that the store does not have, and whose deletion it does not record.
    pub of_unknown_orgs: u64,
    /// Events that the store refused; they are dead letters.
    pub refused: u64,
    /// Records that are damaged or cannot be decoded.
    pub lost: u64,
    /// Whether the store has every event of the journal now, so that a server starts on it, and none waits.
    pub complete: bool,
}

/// What the journal in the data directory holds.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn status(config: &StoreConfig) -> Result<JournalExtent, JournalCommandError> {
    Ok(storage::journal_extent(config)?)
}

/// Stores the events that the journal has and the store lacks, those that wait included. `progress` is told the position
/// after each step.
///
/// # Errors
/// When a server works in the data directory, or the store or the journal cannot be used.
pub async fn replay(
    config: &StoreConfig,
    options: ReplayOptions,
    progress: impl FnMut(u64, u64),
) -> Result<ReplayReport, JournalCommandError> {
    let ReplayOptions { since, dry_run, skip_unknown_orgs } = options;
    // Before anything is created or migrated.
    let extent = storage::journal_records(config, 0)?.extent();
    let subsystems = if dry_run {
        admin::open_existing(config).await?
    } else {
        admin::open_for_replay(config).await?
    };
    let store = subsystems.store;
    let replayed = async {
        let mark = store.system().journal_mark(extent.id).await?;
        let from = match since {
            Some(ReplaySince::Position(position)) => position,
            Some(ReplaySince::Time(_)) => 0,
            None => mark.unwrap_or(0),
        };
        let mut records = storage::journal_records(config, from)?;
        let time = match since {
            Some(ReplaySince::Time(time)) => Some(time),
            Some(ReplaySince::Position(_)) | None => None,
        };
        let clock = Clock::system();
        let waiting_from = extent.stored_below;
        let replay = JournalReplay::new(store.clone(), clock, time, waiting_from, dry_run);
        let replayed = replay_records(replay, &mut records, from, progress).await?;
        let Replayed { report, .. } = replayed;
        if report.of_unknown_orgs > 0 && !skip_unknown_orgs {
            // It may be another database: its mark and the checkpoint stay, so that the right one can have them.
            return Ok(report);
        }
        finish(&store, &mut records, mark, time.is_some(), replayed).await
    };
    let replayed = replayed.await;
    store.close().await;
    replayed
}

/// A replay, before it is known what it means for the store.
struct Replayed {
    report: ReplayReport,
    /// Of the records that are lost, those that waited.
    lost_waiting: u64,
}

async fn replay_records(
    mut replay: JournalReplay,
    records: &mut JournalRecords,
    from: u64,
    mut progress: impl FnMut(u64, u64),
) -> Result<Replayed, JournalCommandError> {
    let extent = records.extent();
    let from = from.min(extent.stored_below);
    let mut counts = ReplayCounts::default();
    let mut first = None;
    loop {
        let step = next_records(records, from..u64::MAX)?;
        let Some(last) = step.last() else { break };
        let behind = last.seq.get() + 1;
        first = first.or_else(|| step.first().map(|record| record.seq.get()));
        replay.store(&step, &mut counts).await?;
        progress(behind, extent.stored_below);
    }
    let ReplayCounts { events, waiting, missing, deliveries, of_unknown_orgs, refused, .. } =
        counts;
    let ReplayCounts { undecodable, undecodable_waiting, .. } = counts;
    let lost = records.lost();
    let report = ReplayReport {
        dry_run: replay.is_dry_run(),
        from: first.unwrap_or(extent.stored_below),
        to: records.end(),
        events,
        waiting,
        missing,
        deliveries,
        of_unknown_orgs,
        refused,
        lost: lost.stored + lost.waiting + undecodable,
        complete: false,
    };
    Ok(Replayed { report, lost_waiting: lost.waiting + undecodable_waiting })
}

/// Marks the store as complete if it is, and the records that waited as stored.
async fn finish(
    store: &Store,
    records: &mut JournalRecords,
    mark: Option<u64>,
    by_time: bool,
    Replayed { report, lost_waiting }: Replayed,
) -> Result<ReplayReport, JournalCommandError> {
    let extent = records.extent();
    let has = mark.unwrap_or(1);
    let was_whole = has >= extent.stored_below;
    // What is older than a time was not looked at.
    let is_whole = report.from <= has && report.lost == 0 && !by_time;
    if report.dry_run {
        // The mark alone does not tell: an event may have been deleted from the store, and of a lost record nobody knows.
        let has_every_one = report.missing == 0 && report.lost == 0;
        let complete = was_whole && report.to <= extent.stored_below && has_every_one;
        return Ok(ReplayReport { complete, ..report });
    }
    // A server sets aside what is damaged of the records that wait, so those are left to its start.
    let complete = (was_whole || is_whole) && lost_waiting == 0;
    if was_whole || is_whole {
        let stored_below = if complete { report.to } else { extent.stored_below };
        // The mark first: a checkpoint above it tells of an older store.
        store.system().raise_journal_mark(extent.id, stored_below).await?;
        records.confirm(stored_below)?;
    }
    Ok(ReplayReport { complete, ..report })
}
