//! The local journal against fjall, the fastest general-purpose library found for the purpose: durable appends of
//! 100-byte records, with a given number of records per sync. `cargo bench --bench journal_append`.
//!
//! Both write to a real directory under the target directory, sync with `fdatasync`, and are called from a task of a
//! runtime: fjall's commit through `spawn_blocking`, because it blocks for as long as the disk takes. (A thread that may
//! block saves that switch, which the journal cannot save: on a disk that syncs in 0.03 ms, single appends of fjall are
//! then 1.15 times as fast as the journal's.) fjall gets one batch per sync, its best case. The journal gets as many
//! appenders, each of which appends again when its last record is durable, as requests do; it forms the groups itself.
//! After each slice the appended records are read back and acknowledged, so that segments are reused.
//!
//! The two run in turn, one slice each, because the disks of shared machines change their speed by an order of magnitude
//! within seconds. The result is the median of the pairs' ratios.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "a bench prints its results")]
#![expect(clippy::cast_precision_loss, reason = "counts far below the 52 bits that are exact")]

use std::sync::Arc;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use hookgate::app::Metrics;
use hookgate::domain::OrgId;
use hookgate::journal::local::{self, FileSystem, JournalOptions, QUEUE_BYTES_MAX, SystemFiles};
use hookgate::journal::{Journal, JournalReader};
use hookgate::runtime::{Clock, Stopwatch};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use uuid::Uuid;

const RECORD: [u8; 100] = [b'x'; 100];
const RECORDS_PER_SYNC: [usize; 4] = [1, 32, 128, 512];
const PAIRS: usize = 31;
const SLICE: Duration = Duration::from_millis(60);
const MIB: u64 = 1024 * 1024;

fn main() {
    // `cargo test` runs benches too, to see that they work.
    let pairs = if std::env::args().any(|argument| argument == "--bench") { PAIRS } else { 1 };
    println!("records a sync   journal, records/s   fjall, records/s   ratio (quartiles)");
    for records in RECORDS_PER_SYNC {
        let (mut ours, mut theirs) = (Ours::open(), Theirs::open());
        let mut rates: Vec<(f64, f64)> =
            (0..=pairs).map(|_| (ours.slice(records), theirs.slice(records))).collect();
        // The first pair makes the files.
        rates.remove(0);
        let [_, our_rate, _] = quartiles(rates.iter().map(|(ours, _)| *ours));
        let [_, their_rate, _] = quartiles(rates.iter().map(|(_, theirs)| *theirs));
        let [low, ratio, high] = quartiles(rates.iter().map(|(ours, theirs)| ours / theirs));
        println!(
            "{records:>14}   {our_rate:>18.0}   {their_rate:>16.0}   {ratio:.2} ({low:.2} to {high:.2})"
        );
    }
}

fn quartiles(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

struct Ours {
    journal: Journal,
    reader: JournalReader,
    runtime: Runtime,
    _dir: TempDir,
}

impl Ours {
    fn open() -> Self {
        let dir = dir();
        let options = JournalOptions {
            dir: dir.path().join("journal"),
            segment_bytes: 64 * MIB,
            bytes_max: 10_240 * MIB,
            retention: Duration::ZERO,
            clock: Clock::system(),
            confirms: false,
            queue_capacity: 10_000,
            queue_bytes_max: QUEUE_BYTES_MAX,
            // As the server does for its records.
            owner: |record| record.first_chunk().map(|id| OrgId::from_uuid(Uuid::from_bytes(*id))),
        };
        let fs: Arc<dyn FileSystem> = Arc::new(SystemFiles);
        let metrics = Metrics::new().unwrap();
        let opened = local::open(&options, &fs, &metrics.journal).unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        Self { journal: opened.journal, reader: opened.reader, runtime, _dir: dir }
    }

    /// Appends for the time of a slice and returns records a second.
    fn slice(&mut self, appenders: usize) -> f64 {
        let watch = Stopwatch::start();
        let appended: u64 = self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for _ in 0..appenders {
                tasks.spawn(append_until(self.journal.clone(), watch));
            }
            tasks.join_all().await.into_iter().sum()
        });
        let rate = appended as f64 / watch.seconds();
        self.runtime.block_on(drain(&self.journal, &mut self.reader));
        rate
    }
}

async fn append_until(journal: Journal, watch: Stopwatch) -> u64 {
    let mut appended = 0;
    while watch.elapsed() < SLICE {
        journal.append(&RECORD, 1).await.unwrap();
        appended += 1;
    }
    appended
}

async fn drain(journal: &Journal, reader: &mut JournalReader) {
    while journal.status().items_waiting > 0 {
        if let Some(batch) = reader.next_batch(10_000, QUEUE_BYTES_MAX).await.unwrap() {
            batch.ack.ack();
        }
    }
}

struct Theirs {
    database: Database,
    keyspace: Keyspace,
    seq: u64,
    runtime: Runtime,
    _dir: TempDir,
}

impl Theirs {
    fn open() -> Self {
        let dir = dir();
        let database = Database::builder(dir.path()).open().unwrap();
        let keyspace = database.keyspace("journal", KeyspaceCreateOptions::default).unwrap();
        let runtime = Builder::new_current_thread().build().unwrap();
        Self { database, keyspace, seq: 0, runtime, _dir: dir }
    }

    /// Commits batches for the time of a slice and returns records a second.
    fn slice(&mut self, records: usize) -> f64 {
        let watch = Stopwatch::start();
        let before = self.seq;
        while watch.elapsed() < SLICE {
            let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
            for _ in 0..records {
                self.seq += 1;
                batch.insert(&self.keyspace, self.seq.to_be_bytes(), RECORD);
            }
            let commit = async { tokio::task::spawn_blocking(move || batch.commit()).await };
            self.runtime.block_on(commit).unwrap().unwrap();
        }
        (self.seq - before) as f64 / watch.seconds()
    }
}

fn dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}
