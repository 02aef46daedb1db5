//! The local journal's promises, on a real disk and on one that fails on demand.

mod backup;
mod damage;
mod faults;
mod full_at_start;
mod held;
mod model;
mod poison;
mod quarantine;
mod read_again;
mod recovery_cost;
mod retention;
mod shares;
mod shortage;
mod sim_disk;
mod sim_faults;
mod sim_file;
mod stall;
mod unreadable;
mod use_cases;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use self::sim_disk::SimDisk;
use super::format::{JournalId, finalize_frame, push_frame, segment_header, segment_name};
use super::{
    FileSystem, Journal, JournalError, JournalOptions, JournalReader, Opened, QUEUE_BYTES_MAX,
    RecoveryReport,
};
use crate::journal::local::format::SEGMENT_HEADER_BYTES;
use crate::journal::metrics::JournalMetrics;
use crate::journal::{Batch, Record};
use crate::runtime::Clock;
use crate::telemetry::Registry;

/// Small, so that tests cross from one segment to the next.
const SEGMENT_BYTES: u64 = SEGMENT_HEADER_BYTES + 1024;
const DIR: &str = "/data/journal";
/// The journal id of hand-written segments.
const ID: JournalId = JournalId(0x5eed);

fn options(dir: &Path) -> JournalOptions {
    JournalOptions {
        dir: dir.to_owned(),
        segment_bytes: SEGMENT_BYTES,
        bytes_max: 64 * SEGMENT_BYTES,
        retention: Duration::ZERO,
        clock: Clock::system(),
        confirms: false,
        queue_capacity: 1000,
        queue_bytes_max: QUEUE_BYTES_MAX,
        owner: |_| None,
    }
}

fn try_open(
    disk: &SimDisk,
    options: &JournalOptions,
) -> Result<(Journal, JournalReader, RecoveryReport), JournalError> {
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    try_open_on(&fs, options)
}

fn try_open_on(
    fs: &Arc<dyn FileSystem>,
    options: &JournalOptions,
) -> Result<(Journal, JournalReader, RecoveryReport), JournalError> {
    let Opened { journal, reader, recovery, id: _, stored_below: _ } =
        super::open(options, fs, &JournalMetrics::register(&Registry::new()).unwrap())?;
    Ok((journal, reader, recovery))
}

fn open(disk: &SimDisk) -> (Journal, JournalReader, RecoveryReport) {
    try_open(disk, &options(Path::new(DIR))).unwrap()
}

/// The text of a record.
fn text(record: &Record) -> String {
    String::from_utf8(record.payload.to_vec()).unwrap()
}

/// Reads one batch of durable records.
async fn read(reader: &mut JournalReader, items_max: u32) -> Batch {
    reader.next_batch(items_max, 10_000).await.unwrap().unwrap()
}

/// Closes the journal and reads to its end, without acknowledging anything.
async fn drain(journal: &Journal, reader: &mut JournalReader) -> Vec<Record> {
    journal.close();
    let mut records = Vec::new();
    while let Some(batch) = reader.next_batch(u32::MAX, usize::MAX).await.unwrap() {
        records.extend(batch.records);
    }
    records
}

/// The seqs that the next process finds on the disk. Each record must have its hand-written text.
fn recover(disk: &SimDisk) -> (Vec<u64>, RecoveryReport) {
    let (journal, mut reader, recovery) = open(disk);
    let records = block_on(drain(&journal, &mut reader));
    assert_eq!(records.len() as u64, recovery.records);
    assert_eq!(records.iter().map(|r| u64::from(r.items)).sum::<u64>(), recovery.items);
    let seqs = records.iter().map(|record| {
        assert_eq!(text(record), text_of(record.seq.get()));
        record.seq.get()
    });
    (seqs.collect(), recovery)
}

/// The text of the hand-written record of a seq.
fn text_of(seq: u64) -> String {
    format!("record {seq} {}", "x".repeat(usize::try_from(seq % 7).unwrap()))
}

/// A hand-written segment: write groups of this many records each, then zeros.
fn segment(first_seq: u64, groups: &[u64]) -> (PathBuf, Vec<u8>) {
    let mut bytes = segment_header(first_seq, ID);
    bytes.resize(usize::try_from(SEGMENT_HEADER_BYTES).unwrap(), 0);
    let mut seq = first_seq;
    for group in groups {
        for offset in 0..*group {
            bytes.extend(frame(seq, u32::try_from(offset).unwrap(), text_of(seq).as_bytes()));
            seq += 1;
        }
    }
    bytes.resize(usize::try_from(SEGMENT_BYTES).unwrap(), 0);
    (Path::new(DIR).join(segment_name(first_seq, ID)), bytes)
}

fn frame(seq: u64, group_offset: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    push_frame(&mut frame, payload, crc32c::crc32c(payload), 1);
    finalize_frame(&mut frame, ID, seq, group_offset);
    frame
}

/// The bytes of a seq's frame in a hand-written segment.
fn frame_range(first_seq: u64, seq: u64) -> std::ops::Range<usize> {
    let length = |seq| frame(seq, 0, text_of(seq).as_bytes()).len();
    let start = usize::try_from(SEGMENT_HEADER_BYTES).unwrap()
        + (first_seq..seq).map(length).sum::<usize>();
    start..start + length(seq)
}

/// The same with a clock that advances at once while everything waits.
fn block_on_paused<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(future)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Waits for the segment manager, which works on its own.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("never: {what}");
}
