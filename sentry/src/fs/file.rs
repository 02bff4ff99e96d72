//! Open file descriptions, and the waiting that all kinds of file share.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::context::Cx;
use super::dnotify;
use super::fasync::Fasync;
use super::inode::{FileOps, Inode, Whence, Written};
use super::inotify::{self, mask};
use super::io::{IoDst, IoSrc};
use super::lock::Owner;
use super::path::Path;
use super::perm::{self, cap};
use super::types::{
    Attr, DirSink, Events, FileType, MAX_OFFSET, MAX_RW, MountFlags, OpenFlags, SetAttr, Time,
};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::mm::Mappable;
use crate::signal::Signal;
use crate::sync::{Mutex, SpinLock, WaitQueue};
use crate::task::{Blocked, Current, Task, limit};

/// One who can wait: a task, or a test.
pub trait Blocker {
    /// Waits in `queue` for `events` until `ready` says so.
    fn wait(
        &self,
        queue: &WaitQueue,
        events: Events,
        deadline: Option<u64>,
        ready: &mut dyn FnMut() -> bool,
    ) -> Result<(), Blocked>;

    /// The task that waits, where it is one.
    fn current(&self) -> Option<&Current> {
        None
    }
}

impl Blocker for Current {
    fn wait(
        &self,
        queue: &WaitQueue,
        events: Events,
        deadline: Option<u64>,
        ready: &mut dyn FnMut() -> bool,
    ) -> Result<(), Blocked> {
        self.wait_for(queue, events.bits(), deadline, || ready().then_some(()))
    }

    fn current(&self) -> Option<&Current> {
        Some(self)
    }
}

/// Wants to know that an open file description has gone (epoll).
pub trait Watcher: Send + Sync {
    /// The file's last descriptor is gone; its queue, to leave it.
    fn gone(&self, queue: Option<&WaitQueue>);
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// An open file description (open(2)).
pub struct File {
    /// Unique; owns OFD locks and flocks.
    pub id: u64,
    ops: Box<dyn FileOps>,
    inode: Arc<dyn Inode>,
    path: Option<Path>,
    flags: AtomicU32,
    /// Guarded by a lock of its own, so that reads and writes through one description are in order.
    offset: Mutex<u64>,
    /// What it claimed of the inode, see `InodeState::claim`.
    claim: i32,
    watchers: SpinLock<Vec<Weak<dyn Watcher>>>,
    /// Who gets its signals, once that was said.
    fasync: spin::Once<Arc<Fasync>>,
}

impl File {
    /// A description with the operations that its inode gave. Claims the inode for writing or running:
    /// `ETXTBSY`.
    pub fn new(
        ops: Box<dyn FileOps>,
        inode: Arc<dyn Inode>,
        path: Option<Path>,
        flags: OpenFlags,
    ) -> Result<Arc<File>, Errno> {
        let claim = match inode.kind() {
            FileType::Regular if flags.contains(OpenFlags::EXEC) => -1,
            FileType::Regular if flags.writes() && !flags.contains(OpenFlags::PATH) => 1,
            _ => 0,
        };
        if claim != 0 {
            inode.state().claim(claim)?;
        }
        if let Some(path) = path.as_ref().filter(|_| claim > 0) {
            path.mount.writes();
            // It may have become read-only since the caller looked.
            if let Err(e) = path.mount.check_write() {
                path.mount.wrote();
                inode.state().unclaim(claim);
                return Err(e);
            }
        }
        inode.state().opened();
        Ok(Arc::new(File {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            ops,
            inode,
            path,
            flags: AtomicU32::new(flags.bits()),
            offset: Mutex::new(0),
            claim,
            watchers: SpinLock::new(Vec::new()),
            fasync: spin::Once::new(),
        }))
    }

    /// Its operations.
    pub fn ops(&self) -> &dyn FileOps {
        &*self.ops
    }

    /// Its operations, as what they are.
    pub fn ops_as<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any().downcast_ref()
    }

    /// Its inode.
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.inode
    }

    /// Where it was opened; `None` for what has no place (pipes, sockets).
    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref()
    }

    /// Where /proc/PID/fd leads for it.
    pub fn jump(&self) -> Result<Path, Errno> {
        match &self.path {
            Some(path) => Ok(path.clone()),
            None => super::anon::path(&self.inode),
        }
    }

    /// Its path as /proc/PID/fd, exe and maps show it.
    pub fn show(&self, root: &Path) -> Vec<u8> {
        match &self.path {
            Some(path) => path.show(root),
            None => super::anon::describe(&*self.inode),
        }
    }

    /// What stat(2) says of it.
    pub fn attr(&self) -> Result<Attr, Errno> {
        self.inode.attr()
    }

    /// What it was opened with, and what fcntl(F_SETFL) changed since.
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// fcntl(F_SETFL): the bits of [`OpenFlags::SETFL`].
    pub fn set_flags(&self, flags: OpenFlags) -> Result<(), Errno> {
        let new = (self.flags() - OpenFlags::SETFL) | (flags & OpenFlags::SETFL);
        self.ops.set_flags(self, new)?;
        self.flags.store(new.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Notes an access in `attr`, where the mount wants that: relatime, unless told otherwise.
    pub fn accessed(&self, attr: &mut Attr) {
        /// How old an access time may become with relatime, in seconds.
        const DAY: i64 = 24 * 60 * 60;
        let mount = self.path.as_ref().map_or(MountFlags::RELATIME, |p| p.mount.flags());
        let dir = self.inode.kind() == FileType::Directory;
        if mount.contains(MountFlags::NOATIME)
            || dir && mount.contains(MountFlags::NODIRATIME)
            || self.flags().contains(OpenFlags::NOATIME)
        {
            return;
        }
        let lazy = mount.contains(MountFlags::RELATIME);
        let newer = attr.atime > attr.mtime && attr.atime > attr.ctime;
        if lazy && newer {
            let now = Time::now();
            if now.sec.saturating_sub(attr.atime.sec) < DAY {
                return;
            }
            attr.atime = now;
        } else {
            attr.atime = Time::now();
        }
    }

    /// Whether it is only a place (O_PATH).
    pub fn is_path(&self) -> bool {
        self.flags().contains(OpenFlags::PATH)
    }

    /// Whether calls on it do not wait.
    pub fn nonblocking(&self) -> bool {
        self.flags().contains(OpenFlags::NONBLOCK)
    }

    /// Whether it has no offset.
    pub fn is_stream(&self) -> bool {
        self.ops.is_stream()
    }

    /// The offset now.
    pub fn offset(&self) -> u64 {
        *self.offset.lock()
    }

    /// Who gets its signals, if that was ever said.
    pub fn fasync(&self) -> Option<&Arc<Fasync>> {
        self.fasync.get()
    }

    /// The same, to say so.
    pub fn make_fasync(&self) -> &Arc<Fasync> {
        let fasync = self.fasync.call_once(Arc::default);
        if let (Some(tells), Some(queue)) = (self.ops.tells(), self.ops.queue()) {
            fasync.enter(queue, &tells);
        }
        fasync
    }

    /// Tells who watches it, or the directory that it was opened in.
    pub fn happened(&self, what: u32) {
        if let Some(path) = &self.path {
            inotify::happened(&path.dentry, &*self.inode, what);
        }
    }

    fn was_read(&self, n: usize) {
        if n > 0 {
            self.happened(mask::ACCESS);
        }
    }

    fn was_written(&self, n: usize) {
        if n > 0 {
            self.happened(mask::MODIFY);
        }
    }

    /// read(2).
    pub fn read(&self, waiter: &dyn Blocker, dst: &mut IoDst<'_>) -> Result<usize, SysError> {
        self.check_read()?;
        dst.truncate(MAX_RW);
        if self.ops.is_stream() {
            let deadline = self.ops.admit(self, waiter, Some(dst.remaining()))?;
            let read = || self.ops.read(self, dst, 0);
            return match self.retry(waiter, Events::IN | Events::RDHUP, deadline, read) {
                // A terminal whose timer (VTIME) has run out gives nothing, and no error.
                Err(SysError::Errno(Errno::EAGAIN)) if deadline.is_some() => Ok(0),
                result => result,
            };
        }
        let mut offset = self.offset.lock();
        let n = self.retry(waiter, Events::IN, None, || self.ops.read(self, dst, *offset))?;
        *offset = offset.saturating_add(n as u64);
        drop(offset);
        self.was_read(n);
        Ok(n)
    }

    /// pread(2).
    pub fn pread(
        &self,
        waiter: &dyn Blocker,
        dst: &mut IoDst<'_>,
        offset: u64,
    ) -> Result<usize, SysError> {
        self.check_read()?;
        if self.ops.is_stream() {
            return Err(Errno::ESPIPE.into());
        }
        dst.truncate(MAX_RW);
        let n = self.retry(waiter, Events::IN, None, || self.ops.read(self, dst, offset))?;
        self.was_read(n);
        Ok(n)
    }

    /// write(2).
    pub fn write(&self, waiter: &dyn Blocker, src: &mut IoSrc<'_>) -> Result<usize, SysError> {
        self.check_write()?;
        src.truncate(MAX_RW);
        if self.ops.is_stream() {
            return self.write_all(waiter, src);
        }
        let mut offset = self.offset.lock();
        self.limit_size(waiter, src, *offset)?;
        if src.remaining() > 0 {
            self.remove_privs(waiter)?;
        }
        let done = self.retry(waiter, Events::OUT, None, || self.ops.write(self, src, *offset))?;
        *offset = done.end;
        drop(offset);
        self.was_written(done.count);
        Ok(done.count)
    }

    /// pwrite(2).
    pub fn pwrite(
        &self,
        waiter: &dyn Blocker,
        src: &mut IoSrc<'_>,
        offset: u64,
    ) -> Result<usize, SysError> {
        self.check_write()?;
        if self.ops.is_stream() {
            return Err(Errno::ESPIPE.into());
        }
        src.truncate(MAX_RW);
        self.limit_size(waiter, src, offset)?;
        if src.remaining() > 0 {
            self.remove_privs(waiter)?;
        }
        let done = self.retry(waiter, Events::OUT, None, || self.ops.write(self, src, offset))?;
        self.was_written(done.count);
        Ok(done.count)
    }

    /// What a write takes away from a file: set-ID bits, unless the writer may keep them, and capabilities
    /// (file_remove_privs()).
    pub fn remove_privs(&self, caller: &dyn Blocker) -> Result<(), Errno> {
        caller.current().map_or(Ok(()), |cx| self.lose_privs(&cx.cx()))
    }

    fn lose_privs(&self, cx: &Cx<'_>) -> Result<(), Errno> {
        if self.inode.kind() != FileType::Regular {
            return Ok(());
        }
        if !cx.creds.capable(cap::FSETID)
            && let Some(mode) = perm::drop_set_ids(self.inode.known_mode()?)
        {
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            self.inode.set_attr(cx, &set)?;
        }
        self.inode.drop_caps();
        Ok(())
    }

    /// Cuts a write short at RLIMIT_FSIZE; `EFBIG` where all of it lies beyond.
    fn limit_size(
        &self,
        caller: &dyn Blocker,
        src: &mut IoSrc<'_>,
        offset: u64,
    ) -> Result<(), Errno> {
        let Some(cx) = caller.current() else { return Ok(()) };
        let limit = cx.task.process.limits.soft(limit::RLIMIT_FSIZE);
        if limit == u64::MAX || src.remaining() == 0 || self.inode.kind() != FileType::Regular {
            return Ok(());
        }
        let append = src.appends(self.flags());
        let at = if append { self.inode.attr()?.size } else { offset };
        let room = limit.saturating_sub(at);
        if room == 0 {
            cx.raise(Signal::SIGXFSZ);
            return Err(Errno::EFBIG);
        }
        src.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        Ok(())
    }

    /// Writes to a stream; a blocking one goes on until everything is written.
    fn write_all(&self, waiter: &dyn Blocker, src: &mut IoSrc<'_>) -> Result<usize, SysError> {
        self.ops.admit(self, waiter, None)?;
        let mut done: usize = 0;
        loop {
            match self.retry(waiter, Events::OUT, None, || self.ops.write(self, src, 0)) {
                Ok(Written { count, .. }) => done = done.saturating_add(count),
                Err(e) if done == 0 => return Err(e),
                Err(_) => return Ok(done),
            }
            if src.remaining() == 0 || self.nonblocking() || !self.ops.writes_all() {
                return Ok(done);
            }
        }
    }

    /// Tries until it is not `EAGAIN`, waiting in between unless O_NONBLOCK is set.
    pub fn retry<T>(
        &self,
        waiter: &dyn Blocker,
        events: Events,
        deadline: Option<u64>,
        mut attempt: impl FnMut() -> Result<T, Errno>,
    ) -> Result<T, SysError> {
        loop {
            match attempt() {
                Err(Errno::EAGAIN) if !self.nonblocking() => {}
                result => return result.map_err(SysError::from),
            }
            let Some(queue) = self.ops.queue() else { return Err(Errno::EAGAIN.into()) };
            let wanted = events | Events::ALWAYS;
            let task = waiter.current().map(|cx| &cx.task);
            if let Some(task) = task {
                self.ops.waited_for(task);
            }
            let mut ready = || match task {
                Some(task) => self.poll_as(task).intersects(wanted),
                None => self.poll().intersects(wanted),
            };
            match waiter.wait(queue, wanted, deadline, &mut ready) {
                Ok(()) => {}
                Err(Blocked::Interrupted) => return Err(SysError::Interrupted(Restart::Sys)),
                Err(Blocked::TimedOut) => return Err(Errno::EAGAIN.into()),
            }
        }
    }

    fn check_read(&self) -> Result<(), Errno> {
        if !self.flags().reads() {
            return Err(Errno::EBADF);
        }
        if self.inode.kind() == FileType::Directory { Err(Errno::EISDIR) } else { Ok(()) }
    }

    fn check_write(&self) -> Result<(), Errno> {
        if self.flags().writes() { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// Reads for the sentry itself (exec, page faults), without waiting for other tasks. Short only at
    /// the end of the file.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let mut done: usize = 0;
        while let Some(room) = buf.get_mut(done..).filter(|room| !room.is_empty()) {
            let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            match self.ops.read(self, &mut IoDst::kernel(room), at) {
                Ok(0) => break,
                Ok(n) => done = done.saturating_add(n),
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// What mmap(2) maps; `None`: it cannot be mapped (ENODEV).
    pub fn mappable(&self) -> Option<Arc<dyn Mappable>> {
        self.ops.mappable(self)
    }

    /// What it is ready for.
    pub fn poll(&self) -> Events {
        self.ops.poll(self)
    }

    /// What it is ready for in the eyes of a task.
    pub fn poll_as(&self, task: &Arc<Task>) -> Events {
        self.ops.poll_as(self, task)
    }

    /// lseek(2).
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let mut now = self.offset.lock();
        let new = self.ops.seek(self, *now, offset, whence)?;
        *now = new;
        Ok(new)
    }

    /// Does something with the offset in hand (sendfile, copy_file_range).
    pub fn with_offset<T>(&self, f: impl FnOnce(&mut u64) -> T) -> T {
        f(&mut self.offset.lock())
    }

    /// getdents64(2).
    pub fn readdir(&self, sink: DirSink<'_>) -> Result<(), Errno> {
        if self.inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let mut pos = self.offset.lock();
        *pos = self.ops.readdir(self, *pos, sink)?;
        drop(pos);
        self.happened(mask::ACCESS);
        Ok(())
    }

    /// ftruncate(2).
    pub fn truncate(&self, cx: &Cx<'_>, size: u64) -> Result<(), Errno> {
        if size > MAX_OFFSET || !self.flags().writes() || self.inode.kind() != FileType::Regular {
            return Err(Errno::EINVAL);
        }
        self.lose_privs(cx)?;
        self.ops.truncate(self, cx, size)?;
        self.happened(mask::MODIFY);
        Ok(())
    }

    /// A descriptor of the table with id `files` has been closed; the result is close(2)'s.
    pub fn closed(&self, files: u64) -> Result<(), Errno> {
        if let Some(locks) = self.inode.state().locks_if_any() {
            locks.clear(Owner::Files(files, 0), 0, u64::MAX);
        }
        if self.is_path() {
            return Ok(());
        }
        dnotify::forget(self, Some(files));
        self.ops.closed_in(files);
        self.ops.flush(self)
    }

    /// Has `watcher` told when the last descriptor is gone.
    pub fn watch(&self, watcher: Weak<dyn Watcher>) {
        let mut watchers = self.watchers.lock();
        watchers.retain(|w| w.strong_count() > 0);
        watchers.push(watcher);
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let (Some(fasync), Some(queue)) = (self.fasync.get(), self.ops.queue()) {
            fasync.leave(queue);
        }
        for watcher in core::mem::take(self.watchers.get_mut()) {
            if let Some(watcher) = watcher.upgrade() {
                watcher.gone(self.ops.queue());
            }
        }
        if let Some(locks) = self.inode.state().locks_if_any() {
            locks.unflock(self.id);
            locks.clear(Owner::File(self.id), 0, u64::MAX);
        }
        if self.claim != 0 {
            self.inode.state().unclaim(self.claim);
        }
        if let Some(path) = self.path.as_ref().filter(|_| self.claim > 0) {
            path.mount.wrote();
        }
        dnotify::forget(self, None);
        let last = self.inode.state().closed();
        if !self.is_path() {
            let wrote = self.flags().writes();
            self.happened(if wrote { mask::CLOSE_WRITE } else { mask::CLOSE_NOWRITE });
        }
        if last {
            inotify::closed(&*self.inode);
        }
    }
}

/// The operations of an O_PATH description: none.
pub struct PathOps;

impl FileOps for PathOps {
    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
