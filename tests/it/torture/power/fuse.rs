//! The disk as a file system in user space.
//!
//! Without `direct_io`, since SQLite maps its `-shm` file: a write passes through the kernel's cache to here at once, a
//! mapping reaches this when the kernel writes it back. Locks are the kernel's own.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::disk::{Disk, Effect, Node, Number, Operation};

/// How long the kernel may keep what it is told: nobody else changes anything.
const TTL: Duration = Duration::from_hours(1);
const GENERATION: Generation = Generation(0);
const HANDLE: FileHandle = FileHandle(0);
const BLOCK: u32 = 4096;
/// Free blocks.
const FREE: u64 = 1 << 28;

/// A mounted disk.
pub(super) struct Mounted(pub(super) Arc<Mutex<Disk>>);

impl Mounted {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// The error that an operation fails with; it has waited if it was to be delayed.
    fn strike(&self, operation: Operation, number: Number) -> Option<Errno> {
        let effect = self.disk().strike(operation, number);
        match effect? {
            Effect::Fail(error) => Some(Errno::from_i32(error)),
            Effect::Delay(delay) => {
                std::thread::sleep(delay);
                None
            }
            Effect::Hang => {
                while self.disk().hangs() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                None
            }
        }
    }

    fn enter(&self, parent: INodeNo, name: &OsStr, is_file: bool, mode: u32) -> FileAttr {
        let mut disk = self.disk();
        let number = disk.add(parent.0, name, is_file, mode);
        attributes(number, disk.node(number).unwrap())
    }

    fn remove(&self, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let mut disk = self.disk();
        match disk.find(parent.0, name) {
            Some(number) if disk.list(number).is_empty() => {
                disk.remove(parent.0, name);
                reply.ok();
            }
            Some(_) => reply.error(Errno::ENOTEMPTY),
            None => reply.error(Errno::ENOENT),
        }
    }
}

fn attributes(number: Number, node: &Node) -> FileAttr {
    let size = node.file.as_ref().map_or(0, |file| file.content.len() as u64);
    let time = node.changed_at;
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(node.file.is_some()),
        perm: u16::try_from(node.mode & 0o7777).unwrap(),
        nlink: 1,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn kind(is_file: bool) -> FileType {
    if is_file { FileType::RegularFile } else { FileType::Directory }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut disk = self.disk();
        match disk.find(parent.0, name) {
            Some(number) => {
                let attributes = attributes(number, disk.node(number).unwrap());
                reply.entry(&TTL, &attributes, GENERATION);
            }
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.disk().node(number.0) {
            Some(node) => reply.attr(&TTL, &attributes(number.0, node)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        len: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let Some(node) = disk.node(number.0) else { return reply.error(Errno::ENOENT) };
        node.mode = mode.unwrap_or(node.mode);
        if let (Some(file), Some(len)) = (&mut node.file, len) {
            file.set_len(size(len));
        }
        reply.attr(&TTL, &attributes(number.0, node));
    }

    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        reply.entry(&TTL, &self.enter(parent, name, true, mode), GENERATION);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        reply.entry(&TTL, &self.enter(parent, name, false, mode), GENERATION);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.disk();
        if !flags.is_empty() && flags != RenameFlags::RENAME_NOREPLACE {
            return reply.error(Errno::EINVAL);
        }
        if !flags.is_empty() && disk.find(to.0, to_name).is_some() {
            return reply.error(Errno::EEXIST);
        }
        disk.rename((parent.0, name), (to.0, to_name));
        reply.ok();
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.disk().open(number.0);
        reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let attributes = self.enter(parent, name, true, mode);
        self.disk().open(attributes.ino.0);
        reply.created(&TTL, &attributes, GENERATION, HANDLE, FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn release(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk().close(number.0);
        reply.ok();
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut disk = self.disk();
        let content = &disk.node(number.0).unwrap().file.as_ref().unwrap().content;
        let start = size(offset).min(content.len());
        let end = (start + size(u64::from(len))).min(content.len());
        reply.data(&content[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Some(error) = self.strike(Operation::Write, number.0) {
            return reply.error(error);
        }
        self.disk().write(number.0, size(offset), data);
        reply.written(u32::try_from(data.len()).unwrap());
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode != 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let mut disk = self.disk();
        let file = disk.node(number.0).unwrap().file.as_mut().unwrap();
        if file.content.len() < size(offset + len) {
            file.set_len(size(offset + len));
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if let Some(error) = self.strike(Operation::Sync, number.0) {
            self.disk().fail_sync(number.0);
            return reply.error(error);
        }
        self.disk().sync(number.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.disk().sync_names(number.0);
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let mut entries = vec![(".".into(), number.0, false), ("..".into(), number.0, false)];
        entries.extend(self.disk().list(number.0));
        for (place, (name, number, is_file)) in (1..).zip(entries).skip(size(offset)) {
            if reply.add(INodeNo(number), place, kind(is_file), name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(FREE, FREE, FREE, FREE, FREE, BLOCK, 255, BLOCK);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }
}
