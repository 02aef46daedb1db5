//! The mark in the store that tells how far it has the journal's records.
//!
//! # Operation
//! The journal's checkpoint moves only to positions that were committed to the store as its mark ([`INTERVAL`]). So at
//! the start a mark below the checkpoint, or none at all, proves that the store has lost events that the journal counts
//! as stored. The start is refused then, before anything is written: what the journal keeps can be stored again by
//! `hookgate journal replay`, but not once newer events have taken its space.
//!
//! A server whose store loses its mark while it works, as by a failover, stops with an error. Its restart is refused.
//! While it stores nothing it looks every few seconds ([`LOOK_INTERVAL`]).
//!
//! A standby that is promoted may have the last mark and lack what was stored after it. It continues on another
//! timeline of the database, which is read with each mark: what may have been stored since is then stored again, by its
//! ids, before the mark passes it.
//!
//! # Upgrade
//! A journal of an earlier version has a checkpoint, and its store no mark. It is told from an older store by a file
//! in the data directory, which is written once the first mark is committed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;

use crate::delivery::DeliveryHandle;
use crate::ingest::{ReplayCounts, StoreAgainError, StoredAgain};
use crate::journal::{Journal, JournalError, Seq};
use crate::runtime::{Backoff, Clock, Shutdown};
use crate::store::{MarkState, MigrateError, Store, StoreError, Timeline};

/// The time between two marks. A crash makes the journal read so much again; a mark costs a transaction.
const INTERVAL: Duration = Duration::from_millis(500);
/// The time between two looks at the mark while nothing is stored.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// The longest wait while the store is unavailable.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(2);
/// The file that tells that the store has a mark of the journal.
const FILE_NAME: &str = "marked";

/// The store lacks events that the journal counts as stored, or that cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store's schema could not be read.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The file that tells that the store has a mark could not be read or written.
    #[error(
        "cannot read or write {}: {error}. A server needs this small file beside its journal: make space, or let it read \
         and write there",
        .path.display()
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The journal could not be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It has a mark below the checkpoint.
    #[error(
        "the database is older than the journal in {}: it has the events below position {has}, and those below \
         {stored} were stored. Run `hookgate journal replay` to store what the journal still has, or start once with \
         `hookgate serve --accept-older-store` to go on without",
        journal.display()
    )]
    Behind {
        /// `DATA_DIR`.
        journal: PathBuf,
        /// The store's mark.
        has: u64,
        /// The journal's checkpoint.
        stored: u64,
    },
    /// It has no mark.
    #[error(
        "the database knows nothing of the journal in {}, which has events (stored below position {stored}): it is \
         new, another one, or an older backup. Correct DATABASE_URL or DATA_DIR; or, if it is the right one, run \
         `hookgate journal replay --yes` to store what the journal still has, or start once with \
         `hookgate serve --accept-older-store` to go on without",
        journal.display()
    )]
    Unknown {
        /// `DATA_DIR`.
        journal: PathBuf,
        /// The journal's checkpoint.
        stored: u64,
    },
}

/// Copies the file that tells that the store has a mark, if there is one.
pub(super) fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::copy(from.join(FILE_NAME), to.join(FILE_NAME)) {
        Ok(_) => File::open(to.join(FILE_NAME))?.sync_all(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

impl MarkError {
    /// Whether the store is away for a while.
    pub(super) fn is_store_away(&self) -> bool {
        match self {
            Self::Store(error) => error.is_away(),
            Self::Migrate(error) => error.is_away(),
            Self::File { .. } | Self::Journal(_) | Self::Behind { .. } | Self::Unknown { .. } => {
                false
            }
        }
    }
}

/// A failover, until what may be missing is stored again.
#[derive(Debug)]
struct Failover {
    timeline: Timeline,
    missing: StoredAgain,
}

/// The mark of this server's journal.
#[derive(Clone, Debug)]
pub(super) struct StoredMark {
    journal_id: u64,
    /// The journal's checkpoint at the start.
    stored_below: Seq,
    /// Whether events were stored, or wait: in another database they would be those of other organisations.
    has_events: bool,
    data_dir: PathBuf,
    /// Whether an older store is accepted.
    accept_older: bool,
    /// The mark that was committed last.
    committed: Arc<AtomicU64>,
    /// The timeline on which the database was then.
    timeline: Arc<Mutex<Timeline>>,
}

impl StoredMark {
    /// The mark of a journal with this id and checkpoint.
    pub(super) fn new(
        data_dir: &Path,
        journal_id: u64,
        stored_below: Seq,
        has_events: bool,
        accept_older: bool,
    ) -> Self {
        let committed = Arc::new(AtomicU64::new(stored_below.get()));
        let (data_dir, timeline) = (data_dir.to_owned(), Arc::default());
        Self { journal_id, stored_below, has_events, data_dir, accept_older, committed, timeline }
    }

    /// Whether the journal has events, and some store its mark: a new one is not that.
    pub(super) fn is_marked_elsewhere(&self) -> Result<bool, MarkError> {
        Ok(self.has_events && self.is_marked()?)
    }

    /// Fails when the store lacks events. Reads only, also from a store that is not migrated.
    pub(super) async fn check(&self, store: &Store) -> Result<(), MarkError> {
        if !self.has_events {
            return Ok(());
        }
        let stored = self.stored_below.get();
        let has = if store.has_journal_marks().await? {
            store.system().journal_mark(self.journal_id).await?
        } else {
            None
        };
        let journal = self.data_dir.clone();
        let older = match has {
            Some(has) if has >= stored => return Ok(()),
            Some(has) => MarkError::Behind { journal, has, stored },
            None if !self.is_marked()? => return Ok(()),
            None => MarkError::Unknown { journal, stored },
        };
        if self.accept_older {
            tracing::warn!(%older, "accepting the database as it is");
            return Ok(());
        }
        Err(older)
    }

    /// Commits the first mark of this run, once the store is checked and migrated.
    pub(super) async fn begin(&self, store: &Store) -> Result<(), MarkError> {
        let stored = self.stored_below.get();
        store.system().raise_journal_mark(self.journal_id, stored).await?;
        let timeline = store.system().timeline().await?;
        *self.timeline() = timeline;
        if !self.is_marked()? {
            let path = self.data_dir.join(FILE_NAME);
            self.write_file(&path).map_err(|error| MarkError::File { path, error })?;
        }
        Ok(())
    }

    /// Marks what is acknowledged until the soft stop, and looks whether the mark is there when nothing is. Ends early
    /// when the store has lost a mark. On another timeline, deliveries know their endpoints no longer.
    pub(super) async fn run(
        self,
        journal: Journal,
        store: Store,
        clock: Clock,
        delivery: DeliveryHandle,
        shutdown: Shutdown,
    ) {
        let mut backoff = Backoff::new(INTERVAL, RETRY_WAIT_MAX);
        let mut failover = None;
        loop {
            let committed = self.committed();
            tokio::select! {
                () = shutdown.requested() => return,
                _ = journal.acked_above(committed) => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let marked = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                marked = self.mark_after_failover(&journal, &store, &clock, &delivery, &mut failover) => marked,
            };
            match marked {
                Ok(MarkState::Lost) => {
                    tracing::error!(
                        position = committed.get(),
                        "the database has lost events that it had stored, as by a failover to a standby that was \
                         behind; stopping, since a restart tells what can be done"
                    );
                    return;
                }
                Ok(_) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(%error, "cannot mark in the store how far it is, retrying");
                }
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = backoff.sleep() => {}
            }
        }
    }

    /// [`Self::mark`]; on another timeline, what may be missing there is stored again first.
    async fn mark_after_failover(
        &self,
        journal: &Journal,
        store: &Store,
        clock: &Clock,
        delivery: &DeliveryHandle,
        failover: &mut Option<Failover>,
    ) -> Result<MarkState, StoreAgainError> {
        let mark = self.mark(journal, store).await?;
        let MarkState::OnOtherTimeline(timeline) = mark else { return Ok(mark) };
        let committed = self.committed();
        let known = failover.take().filter(|known| known.timeline == timeline);
        let current = known.unwrap_or_else(|| {
            tracing::warn!("the database is another one since a failover; what was stored last is looked for there");
            delivery.database_changed();
            Failover { timeline, missing: StoredAgain::since(committed, journal) }
        });
        let end = current.missing.end();
        let acked = journal.acked_above(committed).now_or_never().unwrap_or(committed);
        if acked < end {
            *failover = Some(current);
            return Ok(MarkState::Kept);
        }
        let Failover { timeline, missing } = failover.insert(current);
        let ReplayCounts { events, missing, of_unknown_orgs, .. } =
            missing.store(journal, store, clock.clone()).await?;
        tracing::warn!(
            events,
            missing,
            "what was stored last before the failover is stored again where it is missing"
        );
        if of_unknown_orgs > 0 {
            tracing::error!(
                events = of_unknown_orgs,
                "the database has lost organisations, and with them events that were accepted"
            );
        }
        self.timeline().clone_from(timeline);
        *failover = None;
        Ok(self.mark(journal, store).await?)
    }

    /// Marks what is acknowledged now and lets the journal forget it, if the store has what it had.
    pub(super) async fn mark(
        &self,
        journal: &Journal,
        store: &Store,
    ) -> Result<MarkState, StoreError> {
        let committed = self.committed();
        let (id, timeline) = (self.journal_id, self.timeline().clone());
        let system = store.system();
        let Some(acked) = journal.acked_above(committed).now_or_never() else {
            return system.check_journal_mark(id, committed.get(), &timeline).await;
        };
        let (from, to) = (committed.get(), acked.get());
        let mark = system.advance_journal_mark(id, from, to, &timeline).await?;
        if mark == MarkState::Kept {
            self.committed.store(acked.get(), Ordering::SeqCst);
            journal.confirm(acked);
        }
        Ok(mark)
    }

    fn committed(&self) -> Seq {
        Seq::new(self.committed.load(Ordering::SeqCst))
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a store has had a mark of this journal. A file that cannot be read may say so.
    fn is_marked(&self) -> Result<bool, MarkError> {
        let path = self.data_dir.join(FILE_NAME);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim() == self.file_text()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(MarkError::File { path, error }),
        }
    }

    fn file_text(&self) -> String {
        format!("{:016x}", self.journal_id)
    }

    /// Writes the file under another name first, so that a crash or a full disk leaves all of it or nothing.
    fn write_file(&self, path: &Path) -> io::Result<()> {
        let unfinished = path.with_extension("new");
        let write = || {
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{}", self.file_text())?;
            file.sync_all()?;
            fs::rename(&unfinished, path)
        };
        if let Err(error) = write() {
            // What is left of it does no harm, and the next attempt begins anew.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        File::open(&self.data_dir)?.sync_all()
    }
}
