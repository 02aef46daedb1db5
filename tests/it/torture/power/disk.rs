//! The model of a disk whose power may fail: what processes see, and what is on stable storage.
//!
//! A file's content is stable once it was synced (`fsync`, `fdatasync`); names are once their directory was. Until
//! then a power cut keeps or loses each piece of 512 or 4,096 bytes by itself, and any length between the old and the
//! new one. Changes of names are journalled, as ext4 and XFS do: a cut keeps the first of those that were not synced,
//! in their order. The disk may also write a piece back early, without being asked. A failed sync leaves its pieces
//! in doubt for ever: no later sync makes them stable (as Linux does since 4.13), only another write does.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hookgate::runtime::Clock;

use super::super::Dice;

/// The number of a file or directory.
pub(super) type Number = u64;
/// The directory at the top.
pub(super) const ROOT: Number = 1;
/// One write in so many is written back early.
const EARLY: u64 = 16;

/// Directories by what is in them.
type Names = BTreeMap<(Number, OsString), Number>;

/// A disk.
pub(super) struct Disk {
    nodes: HashMap<Number, Node>,
    /// As processes see it.
    names: Names,
    stable_names: Names,
    /// Changes of names that are not stable, in their order.
    changes: VecDeque<Change>,
    next: Number,
    dice: Dice,
    fault: Option<Fault>,
    /// Whether an operation that a fault made hang is not to end yet.
    hangs: bool,
}

/// A file or a directory.
pub(super) struct Node {
    /// `None` of a directory.
    pub(super) file: Option<File>,
    pub(super) mode: u32,
    pub(super) changed_at: SystemTime,
    opened: u32,
}

/// The content of a file.
#[derive(Default)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    stable: Vec<u8>,
    /// What the next sync makes stable.
    unsynced: Vec<Range<usize>>,
    /// What a failed sync has left.
    in_doubt: Vec<Range<usize>>,
}

enum Change {
    Add(Number, OsString, Number),
    Remove(Number, OsString),
    Move { from: (Number, OsString), to: (Number, OsString) },
}

/// What an operation may be struck by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Write,
    Sync,
}

/// A fault that strikes one operation.
#[derive(Clone, Copy, Debug)]
pub(in crate::torture) struct Fault {
    pub(super) operation: Operation,
    /// The end of the name of the file.
    pub(super) file: &'static str,
    pub(super) effect: Effect,
}

/// What a fault does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    /// The operation fails with this error.
    Fail(i32),
    /// The operation takes longer.
    Delay(Duration),
    /// The operation does not end until the disk goes on.
    Hang,
}

/// How much of what is not stable survives a cut.
#[derive(Clone, Copy)]
enum Survival {
    None,
    All,
    /// So many in a hundred.
    Percent(u64),
}

impl Disk {
    /// An empty one.
    pub(super) fn new(dice: Dice) -> Self {
        Self {
            nodes: HashMap::from([(ROOT, Node::new(None, 0o755))]),
            names: Names::new(),
            stable_names: Names::new(),
            changes: VecDeque::new(),
            next: ROOT + 1,
            dice,
            fault: None,
            hangs: false,
        }
    }

    pub(super) fn find(&self, directory: Number, name: &OsStr) -> Option<Number> {
        self.names.get(&(directory, name.to_owned())).copied()
    }

    pub(super) fn node(&mut self, number: Number) -> Option<&mut Node> {
        self.nodes.get_mut(&number)
    }

    /// The content of a file at the top.
    pub(super) fn content(&self, name: &str) -> Option<&[u8]> {
        let number = self.find(ROOT, OsStr::new(name))?;
        Some(&self.nodes[&number].file.as_ref()?.content)
    }

    /// The names in a directory.
    pub(super) fn list(&self, directory: Number) -> Vec<(OsString, Number, bool)> {
        let all = self.names.range((directory, OsString::new())..);
        let inside = all.take_while(|((parent, _), _)| *parent == directory);
        let is_file = |number| self.nodes[number].file.is_some();
        inside.map(|((_, name), number)| (name.clone(), *number, is_file(number))).collect()
    }

    pub(super) fn add(
        &mut self,
        directory: Number,
        name: &OsStr,
        is_file: bool,
        mode: u32,
    ) -> Number {
        let number = self.next;
        self.next += 1;
        let file = is_file.then(File::default);
        self.nodes.insert(number, Node::new(file, mode & 0o7777));
        self.change(Change::Add(directory, name.to_owned(), number));
        number
    }

    pub(super) fn remove(&mut self, directory: Number, name: &OsStr) {
        self.change(Change::Remove(directory, name.to_owned()));
    }

    pub(super) fn rename(&mut self, from: (Number, &OsStr), to: (Number, &OsStr)) {
        let owned = |(directory, name): (Number, &OsStr)| (directory, name.to_owned());
        self.change(Change::Move { from: owned(from), to: owned(to) });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push_back(change);
    }

    pub(super) fn open(&mut self, number: Number) {
        self.nodes.get_mut(&number).unwrap().opened += 1;
    }

    pub(super) fn close(&mut self, number: Number) {
        self.nodes.get_mut(&number).unwrap().opened -= 1;
    }

    pub(super) fn write(&mut self, number: Number, offset: usize, data: &[u8]) {
        let is_early = self.dice.below(EARLY) == 0;
        let node = self.nodes.get_mut(&number).unwrap();
        node.changed_at = now();
        let file = node.file.as_mut().unwrap();
        let end = offset + data.len();
        if file.content.len() < end {
            file.set_len(end);
        }
        file.content[offset..end].copy_from_slice(data);
        file.unsynced.push(offset..end);
        if is_early {
            file.make_stable(&(offset..end));
        }
    }

    /// Makes the content of a file stable.
    pub(super) fn sync(&mut self, number: Number) {
        let file = self.nodes.get_mut(&number).unwrap().file.as_mut().unwrap();
        for range in std::mem::take(&mut file.unsynced) {
            file.make_stable(&range);
        }
        file.stable.resize(file.content.len(), 0);
    }

    /// A sync that fails.
    pub(super) fn fail_sync(&mut self, number: Number) {
        let file = self.nodes.get_mut(&number).unwrap().file.as_mut().unwrap();
        file.in_doubt.append(&mut file.unsynced);
    }

    /// Makes the names in a directory stable, and with them all that changed before.
    pub(super) fn sync_names(&mut self, directory: Number) {
        let last = self.changes.iter().rposition(|change| change.is_in(directory));
        for change in self.changes.drain(..last.map_or(0, |last| last + 1)) {
            change.apply(&mut self.stable_names);
        }
        self.forget_removed();
    }

    /// Forgets what has no name, neither seen nor stable, and is not open.
    fn forget_removed(&mut self) {
        if !self.changes.is_empty() {
            return;
        }
        let named: HashSet<_> =
            self.names.values().chain(self.stable_names.values()).copied().collect();
        self.nodes
            .retain(|number, node| *number == ROOT || named.contains(number) || node.opened > 0);
    }

    /// Has a fault strike one of the next operations.
    pub(super) fn arm(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Whether a fault has not struck yet.
    pub(super) const fn is_armed(&self) -> bool {
        self.fault.is_some()
    }

    /// The effect of the fault that strikes this operation.
    pub(super) fn strike(&mut self, operation: Operation, number: Number) -> Option<Effect> {
        let fault = self.fault?;
        let is_named = self.names.iter().any(|((_, name), named)| {
            let name = name.to_string_lossy();
            *named == number && name.ends_with(fault.file)
        });
        if fault.operation != operation || !is_named {
            return None;
        }
        self.fault = None;
        self.hangs = matches!(fault.effect, Effect::Hang);
        Some(fault.effect)
    }

    /// Whether an operation is hanging.
    pub(super) const fn hangs(&self) -> bool {
        self.hangs
    }

    /// Lets it end.
    pub(super) const fn go_on(&mut self) {
        self.hangs = false;
    }

    /// The disk after a power cut.
    pub(super) fn after_cut(&mut self, dice: &mut Dice) -> Self {
        let survival = match dice.below(4) {
            0 => Survival::None,
            1 => Survival::All,
            _ => Survival::Percent(dice.below(101)),
        };
        let piece = if dice.below(2) == 0 { 512 } else { 4096 };
        let kept = match survival {
            Survival::None => 0,
            Survival::All => self.changes.len() as u64,
            Survival::Percent(_) => dice.below(self.changes.len() as u64 + 1),
        };
        for change in self.changes.drain(..).take(usize::try_from(kept).unwrap()) {
            change.apply(&mut self.stable_names);
        }
        let mut left = Self::new(dice.split());
        left.next = self.next;
        let mut directories = vec![ROOT];
        while let Some(directory) = directories.pop() {
            for ((parent, name), number) in &self.stable_names {
                if *parent != directory {
                    continue;
                }
                let node = &self.nodes[number];
                let file = node.file.as_ref().map(|file| {
                    let content = file.after_cut(survival, piece, dice);
                    File { stable: content.clone(), content, ..File::default() }
                });
                if file.is_none() {
                    directories.push(*number);
                }
                let changed_at = node.changed_at;
                let node = Node { file, mode: node.mode, changed_at, opened: 0 };
                left.nodes.insert(*number, node);
                left.names.insert((*parent, name.clone()), *number);
            }
        }
        left.stable_names.clone_from(&left.names);
        left
    }
}

fn now() -> SystemTime {
    let micros = Clock::system().now().micros();
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap())
}

impl Node {
    fn new(file: Option<File>, mode: u32) -> Self {
        Self { file, mode, changed_at: now(), opened: 0 }
    }
}

impl File {
    /// Cuts it off, or fills it up with zeros.
    pub(super) fn set_len(&mut self, len: usize) {
        let old = self.content.len();
        self.content.resize(len, 0);
        self.unsynced.push(old.min(len)..old.max(len));
    }

    fn make_stable(&mut self, range: &Range<usize>) {
        let end = range.end.min(self.content.len());
        if range.start >= end {
            return;
        }
        if self.stable.len() < end {
            self.stable.resize(end, 0);
        }
        self.stable[range.start..end].copy_from_slice(&self.content[range.start..end]);
    }

    fn after_cut(&self, survival: Survival, piece: usize, dice: &mut Dice) -> Vec<u8> {
        let (old, new) = (self.stable.len(), self.content.len());
        let between = |dice: &mut Dice| {
            let span = u64::try_from(old.abs_diff(new)).unwrap();
            old.min(new) + usize::try_from(dice.below(span + 1)).unwrap()
        };
        let len = match survival {
            Survival::None => old,
            Survival::All => new,
            Survival::Percent(_) => match dice.below(3) {
                0 => old,
                1 => new,
                _ => between(dice),
            },
        };
        let mut left = self.stable.clone();
        left.resize(len, 0);
        let ranges = self.unsynced.iter().chain(&self.in_doubt);
        let pieces: BTreeSet<usize> =
            ranges.flat_map(|range| range.start / piece..range.end.div_ceil(piece)).collect();
        for number in pieces {
            let survives = match survival {
                Survival::None => false,
                Survival::All => true,
                Survival::Percent(percent) => dice.below(100) < percent,
            };
            let (start, end) = (number * piece, (number * piece + piece).min(len).min(new));
            if survives && start < end {
                left[start..end].copy_from_slice(&self.content[start..end]);
            }
        }
        left
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Add(directory, name, number) => {
                names.insert((*directory, name.clone()), *number);
            }
            Self::Remove(directory, name) => {
                names.remove(&(*directory, name.clone()));
            }
            Self::Move { from, to } => {
                if let Some(number) = names.remove(from) {
                    names.insert(to.clone(), number);
                }
            }
        }
    }

    fn is_in(&self, directory: Number) -> bool {
        match self {
            Self::Add(parent, ..) | Self::Remove(parent, _) => *parent == directory,
            Self::Move { from, to } => from.0 == directory || to.0 == directory,
        }
    }
}
