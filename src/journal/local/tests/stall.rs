//! A disk that hangs: its calls neither fail nor return.

use super::sim_disk::SimDisk;
use super::sim_faults::{Faults, NO_FAULTS};
use super::*;
use crate::domain::Timestamp;
use crate::journal::JournalState;

#[test]
fn sync_that_hangs_is_a_stall_until_it_returns() {
    let disk = SimDisk::default();
    let clock = Clock::manual(Timestamp::from_micros(1_700_000_000_000_000));
    let options = JournalOptions { clock: clock.clone(), ..options(Path::new(DIR)) };
    let fs: Arc<dyn FileSystem> = Arc::new(disk.clone());
    let metrics = JournalMetrics::register(&Registry::new()).unwrap();
    let Opened { journal, mut reader, .. } =
        crate::journal::local::open(&options, &fs, &metrics).unwrap();
    block_on(journal.append(b"first", 1)).unwrap();
    // Nobody but the writer syncs a segment from now on.
    while journal.status().bytes < 2 * SEGMENT_BYTES {
        std::thread::yield_now();
    }
    let observed = || (journal.status().state, metrics.hookgate_journal_stalled.get());
    clock.advance(Duration::from_hours(1));
    assert_eq!(observed(), (JournalState::Open, 0), "nothing is written");

    for seq in 2..4 {
        disk.set_faults(Faults { hanging_syncs: true, ..NO_FAULTS });
        let appender = journal.clone();
        let append = std::thread::spawn(move || block_on(appender.append(b"next", 1)));
        disk.wait_for_hanging_sync();
        clock.advance(Duration::from_secs(4));
        assert_eq!(observed(), (JournalState::Open, 0));
        clock.advance(Duration::from_secs(2));
        assert_eq!(observed(), (JournalState::Stalled, 1));
        // Not when the wall clock steps.
        clock.step_by(-3_600_000_000);
        assert_eq!(observed(), (JournalState::Stalled, 1));
        disk.set_faults(NO_FAULTS);
        assert_eq!(append.join().unwrap().unwrap().get(), seq);
        assert_eq!(observed(), (JournalState::Open, 0));
    }
    assert_eq!(block_on(drain(&journal, &mut reader)).len(), 3);
}
