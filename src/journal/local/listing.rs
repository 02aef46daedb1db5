//! The files in the journal's directory: segments, spares, and what does not belong there.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::file_system::FileSystem;
use super::format::{Checkpoint, JournalId, is_held_name, parse_kept_name, parse_segment_name};
use super::segment_manager::SPARES_MAX;
use super::segments::{HeldSegments, KeptSegment, Spare};
use super::{CHECKPOINT_NAME, JournalOptions, OLD_LOCK_NAME, QUARANTINE_DIR, SPARE_PREFIX};
use crate::domain::Timestamp;

/// The names in the directory, by kind.
pub(super) struct Listing {
    /// In ascending order.
    pub(super) segments: Vec<(u64, JournalId, String)>,
    /// Kept or held after all of their records were stored; in ascending order, with the time of that.
    pub(super) kept: Vec<(u64, JournalId, Timestamp, String)>,
    pub(super) spares: BTreeMap<u64, String>,
    pub(super) unknown: Vec<String>,
}

impl Listing {
    /// Sorts the names.
    pub(super) fn new(mut names: Vec<String>) -> Self {
        names.sort();
        let mut listing =
            Self { segments: vec![], kept: vec![], spares: BTreeMap::new(), unknown: vec![] };
        for name in names {
            if let Some((first_seq, id)) = parse_segment_name(&name) {
                listing.segments.push((first_seq, id, name));
            } else if let Some((first_seq, id, stored_at)) = parse_kept_name(&name) {
                listing.kept.push((first_seq, id, stored_at, name));
            } else if let Some(number) = parse_spare_name(&name) {
                listing.spares.insert(number, name);
            } else if ![OLD_LOCK_NAME, CHECKPOINT_NAME, QUARANTINE_DIR].contains(&name.as_str()) {
                listing.unknown.push(name);
            }
        }
        listing
    }
}

impl Listing {
    /// Removes a file that holds nothing that waits: the oldest kept segment of a journal, then the spares. `false` when
    /// there is none.
    pub(super) fn make_space(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        id: Option<JournalId>,
    ) -> bool {
        let is_kept = |(_, of, _, name): &(u64, JournalId, Timestamp, String)| {
            Some(*of) == id && !is_held_name(name)
        };
        let kept = self.kept.iter().position(is_kept).map(|oldest| self.kept.remove(oldest).3);
        let Some(name) = kept.or_else(|| self.spares.pop_last().map(|(_, name)| name)) else {
            return false;
        };
        let removed = fs.remove(&dir.join(&name)).and_then(|()| fs.sync_dir(dir));
        match removed {
            Ok(()) => tracing::warn!(file = name, "removed a journal file for its space"),
            Err(error) => tracing::warn!(file = name, %error, "cannot remove a journal file"),
        }
        true
    }
}

fn parse_spare_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix(SPARE_PREFIX)?.parse().ok()?;
    (format!("{SPARE_PREFIX}{number}") == name).then_some(number)
}

/// The checkpoint's id, else that of most segments, else a new one.
pub(super) fn identity(
    checkpoint: Option<Checkpoint>,
    listing: &Listing,
) -> Result<JournalId, getrandom::Error> {
    if let Some(checkpoint) = checkpoint {
        return Ok(checkpoint.id);
    }
    let mut counts = BTreeMap::new();
    for (_, id, _) in &listing.segments {
        *counts.entry(*id).or_insert(0_u64) += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or_else(|| getrandom::u64().map(JournalId), |(id, _)| Ok(id))
}

/// The segments of this journal that are kept, and those that are held. Nothing but their length is read.
pub(super) fn kept_segments(
    fs: &dyn FileSystem,
    options: &JournalOptions,
    id: JournalId,
    listing: &mut Listing,
) -> (Vec<KeptSegment>, HeldSegments) {
    let JournalOptions { dir, retention, clock, .. } = options;
    let (mut kept, mut held) = (Vec::new(), HeldSegments::default());
    for (first_seq, of, stored_at, name) in std::mem::take(&mut listing.kept) {
        if of != id {
            listing.unknown.push(name);
            continue;
        }
        // One that cannot be opened is given up like the others.
        let length = fs.open(&dir.join(&name)).and_then(|file| file.length());
        let bytes = length.unwrap_or_default();
        if is_held_name(&name) {
            held.add(bytes);
        } else {
            let left = retention.saturating_sub(clock.now().since(stored_at));
            let given_up_at = clock.monotonic().plus(left);
            kept.push(KeptSegment { first_seq, name, bytes, given_up_at });
        }
    }
    (kept, held)
}

/// Keeps the spares of full length, and removes the others.
pub(super) fn keep_spares(
    fs: &dyn FileSystem,
    dir: &Path,
    spares: &BTreeMap<u64, String>,
    segment_bytes: u64,
) -> io::Result<Vec<Spare>> {
    let mut kept = Vec::new();
    for name in spares.values() {
        let path = dir.join(name);
        if kept.len() < SPARES_MAX {
            match fs.open(&path).and_then(|file| file.length().map(|length| (file, length))) {
                Ok((file, length)) if length == segment_bytes => {
                    kept.push(Spare { name: name.clone(), file });
                    continue;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(file = name, %error, "cannot reuse a journal file"),
            }
        }
        if let Err(error) = fs.remove(&path) {
            tracing::warn!(file = name, %error, "cannot remove a spare journal file");
        }
    }
    fs.sync_dir(dir)?;
    Ok(kept)
}
