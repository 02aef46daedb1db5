//! Whether a store is that of the journal in the data directory: what commands ask before they change it.

use std::io;

use super::storage;
use super::stored_mark::{MarkError, StoredMark};
use crate::config::StoreConfig;
use crate::journal::{JournalError, JournalExtent, Seq};
use crate::store::Store;

/// The mark of the journal in the data directory, which a server may have open; `None` where there is none.
pub(super) fn of_directory(config: &StoreConfig) -> Result<Option<StoredMark>, JournalError> {
    match storage::journal_extent(config) {
        Ok(JournalExtent { id, stored_below, segments, .. }) => {
            // The first event makes the first segment.
            let has_events = stored_below > 1 || segments > 0;
            let stored_below = Seq::new(stored_below);
            Ok(Some(StoredMark::new(&config.data_dir, id, stored_below, has_events, false)))
        }
        Err(JournalError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether the store knows the journal in the data directory, or need not: there is none, or it never had an event.
/// Reads only, also from a store that is not migrated; a server may have the journal open.
pub(super) async fn is_of_journal(config: &StoreConfig, store: &Store) -> Result<bool, MarkError> {
    let Some(mark) = of_directory(config)? else { return Ok(true) };
    match mark.check(store).await {
        // An older backup does.
        Ok(()) | Err(MarkError::Behind { .. }) => Ok(true),
        Err(MarkError::Unknown { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the journal in the data directory has events, and some store its mark: a new one is not that.
pub(super) fn is_marked_elsewhere(config: &StoreConfig) -> Result<bool, MarkError> {
    match of_directory(config)? {
        Some(mark) => mark.is_marked_elsewhere(),
        None => Ok(false),
    }
}
