//! A backup of a segment that is written meanwhile.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::sim_disk::SimDisk;
use super::*;
use crate::journal::local::{DirHandle, DirLock, FileHandle, back_up};

/// The piece in which a segment is copied.
const PIECE: u64 = 1024 * 1024;
/// Ten of them end just before the end of a piece.
const RECORD_BYTES: usize = 104_000;

/// A disk; once a segment is read behind its first piece, records are appended to the journal before the bytes are
/// returned.
struct Appending {
    disk: SimDisk,
    journal: Journal,
    is_done: Arc<AtomicBool>,
}

struct AppendingFile {
    file: Arc<dyn FileHandle>,
    journal: Journal,
    is_done: Arc<AtomicBool>,
}

impl FileHandle for AppendingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if offset >= PIECE && !self.is_done.swap(true, Ordering::SeqCst) {
            for byte in 11..=13 {
                block_on(self.journal.append(&vec![byte; RECORD_BYTES], 1)).unwrap();
            }
        }
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

impl FileSystem for Appending {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        let file = self.disk.open(path)?;
        let (journal, is_done) = (self.journal.clone(), Arc::clone(&self.is_done));
        Ok(Arc::new(AppendingFile { file, journal, is_done }))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn FileHandle>> {
        self.disk.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<Arc<dyn DirHandle>> {
        self.disk.open_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_bytes(dir)
    }

    fn lock(&self, dir: &Path) -> io::Result<Arc<dyn DirLock>> {
        self.disk.lock(dir)
    }
}

#[test]
fn records_written_while_a_segment_is_copied_are_no_damage_in_the_copy() {
    let disk = SimDisk::default();
    let wide = |dir: &Path| JournalOptions {
        segment_bytes: 3 * PIECE,
        bytes_max: 30 * PIECE,
        ..options(dir)
    };
    let (journal, ..) = try_open(&disk, &wide(Path::new(DIR))).unwrap();
    for byte in 1..=10 {
        block_on(journal.append(&vec![byte; RECORD_BYTES], 1)).unwrap();
    }
    let is_done = Arc::new(AtomicBool::new(false));
    let appending =
        Appending { disk: disk.clone(), journal: journal.clone(), is_done: Arc::clone(&is_done) };
    let to = Path::new("/backup/journal");
    let made = back_up(&appending, Path::new(DIR), to).unwrap();
    assert!(is_done.load(Ordering::SeqCst) && made.damaged_segments.is_empty(), "{made:?}");
    let (copy, mut reader, recovery) = try_open(&disk, &wide(to)).unwrap();
    assert_eq!(recovery.damage, vec![]);
    let records = block_on(drain(&copy, &mut reader));
    let seqs: Vec<_> = records.iter().map(|record| record.seq.get()).collect();
    assert_eq!(seqs, (1..=10).collect::<Vec<_>>());
}
