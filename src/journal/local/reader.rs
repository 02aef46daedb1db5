//! The reader: returns synced records, in order, from the segment files.
//!
//! It reads records that were written a moment ago, records that waited through an outage of the store, and records
//! that a crash left, all in the same way. Payloads are slices of the chunk they were read in, so a batch takes no
//! copy and at most about a chunk more memory than its records.

use std::collections::VecDeque;
use std::sync::Arc;

use super::RecordOwner;
use super::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::frame_scan::OnUnreadable;
use super::in_flight::InFlight;
use super::quarantine::LocalQuarantine;
use super::read_again::LocalReadAgain;
use super::segment_files::{Limits, Reading, Retry, SegmentFiles};
use super::segment_summary::SegmentSummary;
use super::segments::{Position, Readable, Segment, Segments};
use super::shares::{OrgBytes, add_frame};
use crate::journal::{Batch, Extent, ReadError, Record};

/// Reads a local journal from the first record that is not acknowledged.
pub(in crate::journal) struct LocalReader {
    pub(super) files: SegmentFiles,
    pub(super) segments: Arc<Segments>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) owner: RecordOwner,
    /// What is left to read of the segment of the position, if recovery took it from its summary.
    pub(super) unread: Option<Unread>,
    /// What was lost since the last batch.
    pub(super) lost: Unread,
    pub(super) position: Position,
    /// The segment of the position, once it is open.
    pub(super) reading: Option<Reading>,
}

/// Items and bytes of records that recovery counted by a summary. Those that turn out to be damaged are freed with the
/// next batch.
#[derive(Default)]
pub(super) struct Unread {
    items: u64,
    orgs: OrgBytes,
}

impl Unread {
    /// What the segment at a position holds.
    pub(super) fn at(position: Position, live: &VecDeque<Segment>) -> Option<Self> {
        let segment = live.iter().find(|segment| segment.first_seq == position.segment)?;
        segment.summary.as_deref().map(Self::of)
    }

    fn of(summary: &SegmentSummary) -> Self {
        Self { items: summary.items, orgs: summary.orgs.clone() }
    }

    fn add(&mut self, other: Self) {
        self.items += other.items;
        for (org, bytes) in other.orgs {
            *self.orgs.entry(org).or_default() += bytes;
        }
    }

    fn subtract(&mut self, other: &Self) {
        self.items = self.items.saturating_sub(other.items);
        for (org, bytes) in &other.orgs {
            if let Some(left) = self.orgs.get_mut(org) {
                *left = left.saturating_sub(*bytes);
            }
        }
    }
}

impl LocalReader {
    /// The quarantine for records that cannot be stored.
    pub(in crate::journal) fn quarantine(&self) -> LocalQuarantine {
        self.files.quarantine()
    }

    /// Reads records again that this reader has returned.
    pub(in crate::journal) fn again(&self) -> LocalReadAgain {
        LocalReadAgain { files: self.files.clone() }
    }

    /// Waits for the next batch, as [`crate::journal::JournalReader::next_batch`] describes.
    pub(in crate::journal) async fn next_batch(
        &mut self,
        items_max: u32,
        bytes_max: usize,
    ) -> Result<Option<Batch>, ReadError> {
        self.in_flight.wait_for_capacity().await;
        let mut retry = Retry::new();
        loop {
            match self.segments.readable(self.position) {
                Readable::Here { end, seq_end, is_cached } => {
                    let limits = Limits { items_max, bytes_max, end, seq_end };
                    let read = self.read(limits, is_cached, retry.on_unreadable()).await;
                    let records = match read {
                        Err(error) if retry.applies_to(&error) => {
                            retry.wait(&error).await;
                            continue;
                        }
                        read => read?,
                    };
                    if let (Some(first), Some(last)) = (records.first(), records.last()) {
                        let below = last.seq.get() + 1;
                        // A batch ends before damage, and with its segment.
                        let extent = Extent {
                            first: first.place,
                            end: self.position.offset,
                            seqs: first.seq.get()..below,
                        };
                        let Unread { items, orgs } = self.take(&records);
                        let ack = self.in_flight.add(below, items, orgs);
                        let has_more = self.position.offset < end;
                        return Ok(Some(Batch { records, has_more, extent, ack }));
                    }
                }
                Readable::Next(segment) => self.enter(&segment),
                Readable::Nothing => self.segments.wait_readable().await,
                Readable::Ended => {
                    self.in_flight.end_reader();
                    return Ok(None);
                }
            }
        }
    }

    /// What an acknowledgement of these records frees: they, and what was lost before them.
    fn take(&mut self, records: &[Record]) -> Unread {
        let mut taken = Unread::default();
        for Record { payload, items, .. } in records {
            taken.items += u64::from(*items);
            let owner = (self.owner)(payload);
            add_frame(&mut taken.orgs, owner, FRAME_HEADER_BYTES + payload.len());
        }
        if let Some(unread) = &mut self.unread {
            unread.subtract(&taken);
        }
        taken.add(std::mem::take(&mut self.lost));
        taken
    }

    fn enter(&mut self, segment: &Segment) {
        let Position { segment: left, offset, seq } = self.position;
        if seq < segment.first_seq {
            let nothing = Limits::until(offset, segment.first_seq);
            self.files.give_up(Position { segment: left, offset, seq }, nothing);
        }
        self.reading = None;
        self.lost.add(self.unread.take().unwrap_or_default());
        self.unread = segment.summary.as_deref().map(Unread::of);
        self.position = Position {
            segment: segment.first_seq,
            offset: SEGMENT_HEADER_BYTES,
            seq: segment.first_seq,
        };
    }

    async fn read(
        &mut self,
        limits: Limits,
        is_cached: bool,
        on_unreadable: OnUnreadable,
    ) -> Result<Vec<Record>, ReadError> {
        let reading = self.reading.clone();
        let read =
            self.files.read(reading, self.position, limits, is_cached, on_unreadable).await?;
        let Some((reading, records)) = read else {
            self.files.give_up(self.position, limits);
            self.position.offset = limits.end;
            self.position.seq = limits.seq_end;
            return Ok(Vec::new());
        };
        (self.position.offset, self.position.seq) = (reading.offset(), reading.seq());
        self.reading = Some(reading);
        Ok(records)
    }
}
