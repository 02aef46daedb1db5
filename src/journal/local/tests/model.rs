//! The journal against a model: a list of what was appended.
//!
//! A run is a few lives of one journal. In each, records are appended in bursts, read and finished;
//! then the process ends in good order, or the power fails in the middle of any call to the disk
//! and takes any part of what was not synced. After every life:
//!
//! - what is found is an exact stretch of what was appended, in order, from the first record that
//!   was not known to be finished;
//! - everything that was acknowledged is in it;
//! - nothing is reported as damage.

use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::sim_disk::{Faults, SimDisk};
use super::*;
use crate::journal::AppendError;

#[derive(Clone, Debug)]
enum Step {
    /// Appends so many records at once, each of so many bytes.
    Append { count: usize, bytes: usize },
    /// Reads one batch, if there is something to read.
    Read { items_max: u32 },
    /// Finishes a share of what was read.
    Finish { percent: usize },
}

#[derive(Clone, Debug)]
struct Life {
    steps: Vec<Step>,
    /// How many calls to the disk from the start of this life the power fails.
    power_fails_after: Option<u64>,
    /// How much of what was not synced survives that, in percent.
    survives_percent: u32,
    /// Bytes that one call moves at most.
    short: Option<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..12_usize, 1..400_usize).prop_map(|(count, bytes)| Step::Append { count, bytes }),
        1 => (1..20_u32).prop_map(|items_max| Step::Read { items_max }),
        1 => (0..=100_usize).prop_map(|percent| Step::Finish { percent }),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    (
        prop::collection::vec(step(), 1..16),
        prop::option::weighted(0.8, 0..160_u64),
        prop_oneof![Just(0), Just(100), 1..100_u32],
        prop::option::weighted(0.2, 50..600_usize),
    )
        .prop_map(|(steps, power_fails_after, survives_percent, short)| Life {
            steps,
            power_fails_after,
            survives_percent,
            short,
        })
}

/// What must hold.
#[derive(Default)]
struct Model {
    /// Every record that may be in the journal, by its seq less one.
    appended: Vec<Vec<u8>>,
    /// How many of them were acknowledged.
    acknowledged: u64,
    /// Records below it were finished at some time, durably or not.
    finished: u64,
    /// What makes every record different.
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
                    self.acknowledged = seq.get();
                }
                // It may be found after a restart, or not.
                Err(AppendError::Poisoned) => self.appended.push(record),
                Err(AppendError::Full) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

async fn live(life: &Life, model: &mut Model, journal: &Journal, reader: &mut JournalReader) {
    let mut read = Vec::new();
    for step in &life.steps {
        match *step {
            Step::Append { count, bytes } => model.append(journal, count, bytes).await,
            Step::Read { items_max } => {
                let handed_out = read.last().map_or(0, |record: &Record| record.seq.get());
                if model.acknowledged <= handed_out.max(model.finished) {
                    continue;
                }
                // Where the power is gone there is nothing to read.
                let Ok(batch) = reader.next_batch(items_max, 4096).await else { return };
                for record in batch.unwrap() {
                    model.check_record(&record);
                    read.push(record);
                }
            }
            Step::Finish { percent } => {
                let count = read.len() * percent / 100;
                if let Some(last) = count.checked_sub(1).map(|last| &read[last]) {
                    journal.finished(last.seq.next());
                    model.finished = model.finished.max(last.seq.get());
                }
            }
        }
    }
}

/// Opens the journal and checks what is found against the model.
fn check(disk: &SimDisk, model: &mut Model) {
    let (journal, mut reader, recovery) = open(disk);
    assert_eq!(recovery.damage, []);
    assert_eq!(recovery.foreign, Vec::<PathBuf>::new());
    let records = block_on(drain(&journal, &mut reader));
    for (record, next) in records.iter().zip(records.iter().skip(1)) {
        assert_eq!(record.seq.next(), next.seq, "records follow each other");
    }
    for record in &records {
        model.check_record(record);
    }
    let first = records.first().map_or(model.finished + 1, |record| record.seq.get());
    let end = records.last().map_or(model.finished, |record| record.seq.get());
    assert!(first <= model.finished + 1, "{first} is the first, {} finished", model.finished);
    assert!(end >= model.acknowledged, "{end} found, {} acknowledged", model.acknowledged);
    // What was not acknowledged and not found is gone for good.
    model.appended.truncate(usize::try_from(end).unwrap());
    model.acknowledged = end;
}

fn run(lives: &[Life], seed: [u8; 32]) {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut disk = SimDisk::default();
    let mut model = Model::default();
    for life in lives {
        let power_fails_at = life.power_fails_after.map(|calls| disk.calls() + calls);
        disk.set_faults(Faults { power_fails_at, short: life.short, ..Faults::default() });
        // The power may fail while the journal is opened.
        if let Ok((journal, mut reader, _)) = try_open(&disk, &options(Path::new(DIR))) {
            block_on(live(life, &mut model, &journal, &mut reader));
        }
        disk = match life.power_fails_after {
            Some(_) => disk.power_cycle(|| rng.random_range(0..100) < life.survives_percent),
            None => disk.power_cycle(|| false),
        };
        check(&disk, &mut model);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn recovery_returns_what_was_acknowledged_as_a_prefix_of_what_was_appended(
        lives in prop::collection::vec(life(), 1..5),
        seed: [u8; 32],
    ) {
        run(&lives, seed);
    }
}
