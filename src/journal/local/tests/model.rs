//! The local journal against a model: a list of the appended records.
//!
//! A run is a few lives of one journal. In each, records are appended in bursts, and read; batches are acknowledged
//! in any order. In some lives segments are kept once their records are stored. Some reads of the disk fail once, and
//! at times nothing can be opened. Then the process ends in good order, is killed in the middle of any call to the
//! disk, or the power fails there and loses any part of the unsynced bytes. After every life:
//!
//! - the recovered records are an exact range of the appended ones, in order, from the first record whose batch, or
//!   one before it, was not acknowledged, or earlier;
//! - the range contains every other record whose append returned;
//! - no damage is reported.

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::journal::{Ack, AppendError, JournalRecords};

#[derive(Clone, Debug)]
enum Step {
    /// Appends `count` records at once, of `bytes` bytes each.
    Append { count: usize, bytes: usize },
    /// The same while nothing can be opened.
    AppendWithoutDescriptors { count: usize, bytes: usize },
    /// Reads one batch, if there is something to read.
    Read { items_max: u32 },
    /// Acknowledges one of the batches that were read.
    Ack { batch: prop::sample::Index },
}

#[derive(Clone, Debug)]
struct Life {
    steps: Vec<Step>,
    /// Calls to the disk from the start of this life until the process ends.
    ends_after: Option<u64>,
    /// Whether the power fails then; otherwise only the process is killed.
    power_fails: bool,
    /// One in so many reads fails.
    flaky_reads: Option<u64>,
    /// The share of unsynced changes that survives, in percent.
    survives_percent: u32,
    /// Most bytes that one call transfers.
    short: Option<usize>,
    /// Whether segments are kept once their records are stored.
    keeps: bool,
    /// Most segments.
    segments_max: u64,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..12_usize, 1..400_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (1..12_usize, 1..400_usize)
            .prop_map(|(count, bytes)| Step::AppendWithoutDescriptors { count, bytes }),
        1 => (1..20_u32).prop_map(|items_max| Step::Read { items_max }),
        1 => any::<prop::sample::Index>().prop_map(|batch| Step::Ack { batch }),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    (
        prop::collection::vec(step(), 1..16),
        prop::option::weighted(0.8, 0..160_u64),
        prop::bool::weighted(0.6),
        prop::option::weighted(0.2, 7..40_u64),
        prop_oneof![Just(0), Just(100), 1..100_u32],
        prop::option::weighted(0.2, 50..600_usize),
        (any::<bool>(), prop_oneof![Just(64), 2..10_u64]),
    )
        .prop_map(
            |(
                steps,
                ends_after,
                power_fails,
                flaky_reads,
                survives_percent,
                short,
                (keeps, segments_max),
            )| {
                Life {
                    steps,
                    ends_after,
                    power_fails,
                    flaky_reads,
                    survives_percent,
                    short,
                    keeps,
                    segments_max,
                }
            },
        )
}

/// The expected state.
#[derive(Default)]
struct Model {
    /// Every record that may be in the journal, by its seq less one.
    appended: Vec<Vec<u8>>,
    /// The seq of the last append that returned.
    returned: u64,
    /// The batches up to this seq were acknowledged at some time, durably or not.
    acked: u64,
    /// Makes every record different.
    next_number: u64,
}

impl Model {
    fn record(&mut self, bytes: usize) -> Vec<u8> {
        self.next_number += 1;
        let mut record = self.next_number.to_le_bytes().to_vec();
        record.resize(8 + bytes, u8::try_from(self.next_number % 251).unwrap());
        record
    }

    fn check_record(&self, record: &Record) {
        let index = usize::try_from(record.seq.get() - 1).unwrap();
        assert_eq!(self.appended.get(index).map(Vec::as_slice), Some(&*record.payload));
    }

    async fn append(&mut self, journal: &Journal, count: usize, bytes: usize) {
        let records: Vec<_> = (0..count).map(|_| self.record(bytes)).collect();
        let results = join_all(records.iter().map(|record| journal.append(record, 1))).await;
        for (record, result) in records.into_iter().zip(results) {
            match result {
                Ok(seq) => {
                    self.appended.push(record);
                    assert_eq!(seq.get(), self.appended.len() as u64);
                    self.returned = seq.get();
                }
                // It may be found after a restart, or not.
                Err(AppendError::Poisoned) => self.appended.push(record),
                Err(AppendError::Full | AppendError::NoSegment) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A batch that was read.
struct ReadBatch {
    /// The seq of its last record.
    last: u64,
    /// Taken when it is acknowledged.
    ack: Option<Ack>,
}

async fn live(
    life: &Life,
    disk: &SimDisk,
    model: &mut Model,
    journal: &Journal,
    reader: &mut JournalReader,
) {
    let mut batches: Vec<ReadBatch> = Vec::new();
    for step in &life.steps {
        match *step {
            Step::Append { count, bytes } => model.append(journal, count, bytes).await,
            Step::AppendWithoutDescriptors { count, bytes } => {
                disk.set_no_descriptors(true);
                model.append(journal, count, bytes).await;
                disk.set_no_descriptors(false);
            }
            Step::Read { items_max } => {
                let last_read = batches.last().map_or(0, |batch| batch.last);
                if model.returned <= last_read.max(model.acked) {
                    continue;
                }
                // Nothing can be read after the power has failed.
                let Ok(batch) = reader.next_batch(items_max, 4096).await else { return };
                let Batch { records, ack, .. } = batch.unwrap();
                for record in &records {
                    model.check_record(record);
                }
                let last = records.last().unwrap().seq.get();
                batches.push(ReadBatch { last, ack: Some(ack) });
            }
            Step::Ack { .. } if batches.is_empty() => {}
            Step::Ack { batch } => {
                let index = batch.index(batches.len());
                if let Some(ack) = batches[index].ack.take() {
                    ack.ack();
                }
                let acked = batches.iter().take_while(|batch| batch.ack.is_none());
                model.acked = acked.map(|batch| batch.last).max().unwrap_or(0).max(model.acked);
            }
        }
    }
}

/// Checks the records that are still there, as a command reads them: each is the one that was appended. Some of the
/// stored ones may be missing, where a life did not keep them, and none of those that wait.
fn check_records(disk: &SimDisk, model: &Model) {
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    // Without a checkpoint nothing is known to be stored.
    let Ok(mut records) = JournalRecords::open(&fs, Path::new(DIR), 0) else { return };
    let stored_below = records.extent().stored_below;
    let mut last = 0;
    while let Some(record) = records.next_record().unwrap() {
        let seq = record.seq.get();
        assert!(seq > last && (seq <= stored_below || seq == last + 1), "{seq} after {last}");
        last = seq;
        model.check_record(&record);
    }
    assert_eq!(records.lost().waiting, 0);
    assert!(records.end() > model.returned, "{} of {}", records.end(), model.returned);
}

/// Opens the journal and checks the recovered records against the model.
fn check(disk: &SimDisk, model: &mut Model) {
    check_records(disk, model);
    let (journal, mut reader, recovery) = open(disk);
    assert_eq!(recovery.damage, []);
    assert_eq!(recovery.unknown_files, Vec::<PathBuf>::new());
    let records = block_on(drain(&journal, &mut reader));
    for (record, next) in records.iter().zip(records.iter().skip(1)) {
        assert_eq!(record.seq.get() + 1, next.seq.get(), "records follow each other");
    }
    for record in &records {
        model.check_record(record);
    }
    let first = records.first().map_or(model.acked + 1, |record| record.seq.get());
    let end = records.last().map_or(model.acked, |record| record.seq.get());
    assert!(first <= model.acked + 1, "{first} is the first, {} acked", model.acked);
    assert!(end >= model.returned, "{end} found, {} returned", model.returned);
    // Records that were not returned and not found are lost for good.
    model.appended.truncate(usize::try_from(end).unwrap());
    model.returned = end;
}

fn run(lives: &[Life], seed: [u8; 32]) {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut disk = SimDisk::default();
    let mut model = Model::default();
    for life in lives {
        let power_fails_at = life.ends_after.map(|calls| disk.calls() + calls);
        let short = life.short;
        // A page of many short reads would never be read.
        let flaky_reads = life.flaky_reads.filter(|_| short.is_none());
        disk.set_faults(Faults { short, flaky_reads, power_fails_at, ..NO_FAULTS });
        // The process may end while the journal is opened.
        let retention = if life.keeps { Duration::MAX } else { Duration::ZERO };
        let bytes_max = life.segments_max * SEGMENT_BYTES;
        let options = JournalOptions { bytes_max, retention, ..options(Path::new(DIR)) };
        if let Ok((journal, mut reader, _)) = try_open(&disk, &options) {
            block_on_paused(live(life, &disk, &mut model, &journal, &mut reader));
        }
        disk = match life.ends_after {
            Some(_) if life.power_fails => {
                disk.power_cycle(|| rng.random_range(0..100) < life.survives_percent)
            }
            Some(_) => disk.process_crash(),
            None => disk.power_cycle(|| false),
        };
        check(&disk, &mut model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recovered_records_are_a_prefix_of_the_appended_ones_with_every_acknowledged_append(
        lives in prop::collection::vec(life(), 1..5),
        seed: [u8; 32],
    ) {
        run(&lives, seed);
    }
}
