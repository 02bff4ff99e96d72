//! epoll(7).
//!
//! An [`Item`] is a file that an instance watches, as an entry in that file's wait queue. Its wake puts
//! it on the instance's ready list; [`Epoll::collect`] takes items from there, asks each file what it
//! is ready for, and puts level-triggered ones back.
//!
//! Locks: `items` before a file's queue before `ready` before the instance's own queue. An instance
//! may watch another one, but never in a circle, nor deeper than [`MAX_NESTING`].

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::anon;
use super::context::Cx;
use super::file::{File, Watcher};
use super::inode::{FileOps, Whence};
use super::types::{Events, OpenFlags, major, minor};
use crate::errno::Errno;
use crate::sync::{Mutex, SpinLock, WaitQueue, WaitToken, Wake};
use crate::task::Task;

/// How deep instances may watch each other (EP_MAX_NESTS, fs/eventpoll.c).
const MAX_NESTING: u32 = 4;

/// Flags in an event's mask that are not readiness (sys/epoll.h).
const EXCLUSIVE: u32 = 1 << 28;
const WAKEUP: u32 = 1 << 29;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;

/// Circles can come about only while something is added: one at a time in the sandbox.
static ADDING: Mutex<()> = Mutex::new(());

/// What is reported of a file: readiness and the caller's data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Ready events.
    pub events: Events,
    /// `epoll_data` as it was given.
    pub data: u64,
}

/// An epoll instance.
pub struct Epoll {
    shared: Arc<Shared>,
}

struct Shared {
    items: Mutex<BTreeMap<(i32, u64), Arc<Item>>>,
    ready: SpinLock<VecDeque<Arc<Item>>>,
    queue: WaitQueue,
}

/// A file that an instance watches.
struct Item {
    epoll: Weak<Shared>,
    key: (i32, u64),
    file: Weak<File>,
    /// Mask as it was given, flags included; 0 after a one-shot was reported.
    mask: AtomicU32,
    data: AtomicU64,
    /// Whether it is on the ready list.
    listed: AtomicBool,
    token: SpinLock<Option<WaitToken>>,
}

impl Item {
    fn list(self: &Arc<Self>, epoll: &Shared) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            epoll.ready.lock().push_back(self.clone());
        }
    }
}

/// Whether a mask is that of a one-shot that has been reported: it wants nothing, not even errors.
fn is_spent(mask: u32) -> bool {
    mask & Events::all().bits() == 0 && mask & ONESHOT != 0
}

/// An item as its file's queue knows it.
struct Bell(Arc<Item>);

impl Wake for Bell {
    fn wake(&self, events: u32) -> bool {
        let mask = self.0.mask.load(Ordering::Acquire);
        let wanted = mask | Events::ALWAYS.bits();
        if is_spent(mask) || events & wanted == 0 {
            return false;
        }
        let Some(epoll) = self.0.epoll.upgrade() else { return false };
        self.0.list(&epoll);
        epoll.queue.wake(Events::READABLE.bits());
        true
    }
}

impl Watcher for Item {
    fn gone(&self, queue: Option<&WaitQueue>) {
        if let (Some(queue), Some(token)) = (queue, self.token.lock().take()) {
            queue.leave(token);
        }
        if let Some(epoll) = self.epoll.upgrade() {
            let gone = epoll.items.lock().remove(&self.key);
            epoll.ready.lock().retain(|i| i.key != self.key);
            drop(gone);
        }
    }
}

/// epoll_create1(2).
pub fn new(cx: &Cx<'_>) -> Result<Arc<File>, Errno> {
    let epoll = Epoll {
        shared: Arc::new(Shared {
            items: Mutex::new(BTreeMap::new()),
            ready: SpinLock::new(VecDeque::new()),
            queue: WaitQueue::new(),
        }),
    };
    anon::file(cx, "anon_inode:[eventpoll]", Box::new(epoll), OpenFlags::RDWR)
}

impl Epoll {
    /// epoll_ctl(2) EPOLL_CTL_ADD of `file`, known to the caller as `fd`.
    pub fn add(
        &self,
        task: &Arc<Task>,
        fd: i32,
        file: &Arc<File>,
        mask: u32,
        data: u64,
    ) -> Result<(), Errno> {
        let queue = file.ops().queue().ok_or(Errno::EPERM)?;
        let nested = file.ops_as::<Epoll>();
        if mask & EXCLUSIVE != 0 {
            let allowed = EXCLUSIVE | EDGE | WAKEUP | 0x1f;
            if mask & !allowed != 0 || nested.is_some() {
                return Err(Errno::EINVAL);
            }
        }
        let _one = nested.map(|_| ADDING.lock());
        if let Some(inner) = nested {
            if Arc::ptr_eq(&inner.shared, &self.shared) {
                return Err(Errno::EINVAL);
            }
            if inner.shared.depth(&self.shared, MAX_NESTING).is_none() {
                return Err(Errno::ELOOP);
            }
        }
        let key = (fd, file.id);
        let item = Arc::new(Item {
            epoll: Arc::downgrade(&self.shared),
            key,
            file: Arc::downgrade(file),
            mask: AtomicU32::new(mask),
            data: AtomicU64::new(data),
            listed: AtomicBool::new(false),
            token: SpinLock::new(None),
        });
        {
            let mut items = self.shared.items.lock();
            if items.contains_key(&key) {
                return Err(Errno::EEXIST);
            }
            items.insert(key, item.clone());
        }
        let exclusive = mask & EXCLUSIVE != 0;
        file.ops().waited_for(task);
        let token = queue.enter(u32::MAX, exclusive, Arc::new(Bell(item.clone())));
        *item.token.lock() = Some(token);
        let watcher: Weak<dyn Watcher> = Arc::<Item>::downgrade(&item);
        file.watch(watcher);
        self.check(task, &item, file);
        Ok(())
    }

    /// EPOLL_CTL_MOD.
    pub fn modify(
        &self,
        task: &Arc<Task>,
        fd: i32,
        file: &Arc<File>,
        mask: u32,
        data: u64,
    ) -> Result<(), Errno> {
        let items = self.shared.items.lock();
        let item = items.get(&(fd, file.id)).cloned().ok_or(Errno::ENOENT)?;
        drop(items);
        if (mask | item.mask.load(Ordering::Relaxed)) & EXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        item.data.store(data, Ordering::Relaxed);
        item.mask.store(mask, Ordering::Release);
        self.check(task, &item, file);
        Ok(())
    }

    /// EPOLL_CTL_DEL.
    pub fn remove(&self, fd: i32, file: &Arc<File>) -> Result<(), Errno> {
        let item = self.shared.items.lock().remove(&(fd, file.id)).ok_or(Errno::ENOENT)?;
        Shared::forget(&item, file);
        self.shared.ready.lock().retain(|i| !Arc::ptr_eq(i, &item));
        Ok(())
    }

    /// Lists the item if its file is ready already.
    fn check(&self, task: &Arc<Task>, item: &Arc<Item>, file: &Arc<File>) {
        let wanted = Events::from_bits_truncate(item.mask.load(Ordering::Acquire)) | Events::ALWAYS;
        if file.poll_as(task).intersects(wanted) {
            item.list(&self.shared);
            self.shared.queue.wake(Events::READABLE.bits());
        }
    }

    /// Takes up to `most` reports of what is ready; `epoll_wait` without the waiting.
    pub fn collect(&self, task: &Arc<Task>, most: usize) -> Vec<Report> {
        let mut reports = Vec::new();
        let mut again = Vec::new();
        // Each item once: those that are put back come again in the next call.
        let mut left = self.shared.ready.lock().len();
        while left > 0 && reports.len() < most {
            left = left.saturating_sub(1);
            let Some(item) = self.shared.ready.lock().pop_front() else { break };
            // From here on a wake lists it again.
            item.listed.store(false, Ordering::Release);
            let Some(file) = item.file.upgrade() else { continue };
            let mask = item.mask.load(Ordering::Acquire);
            let disarmed = mask & ONESHOT != 0 && mask & Events::all().bits() == 0;
            let wanted = Events::from_bits_truncate(mask) | Events::ALWAYS;
            let events = file.poll_as(task) & wanted;
            if events.is_empty() || disarmed {
                continue;
            }
            reports.push(Report { events, data: item.data.load(Ordering::Relaxed) });
            if mask & ONESHOT != 0 {
                item.mask.store(ONESHOT | mask & EDGE, Ordering::Release);
            } else if mask & EDGE == 0 {
                again.push(item);
            }
        }
        for item in again {
            item.list(&self.shared);
        }
        reports
    }

    /// The file that is known by this descriptor; of several, this one (kcmp(2)).
    pub fn watched(&self, fd: i32, nth: usize) -> Option<Arc<File>> {
        let items = self.shared.items.lock();
        let found = items.range((fd, 0)..=(fd, u64::MAX)).nth(nth);
        found.and_then(|(_, item)| item.file.upgrade())
    }

    /// Where to wait for reports.
    pub fn waiters(&self) -> &WaitQueue {
        &self.shared.queue
    }

    /// Whether anything may be ready.
    pub fn may_be_ready(&self) -> bool {
        !self.shared.ready.lock().is_empty()
    }
}

impl Shared {
    /// Whether an instance that watches this one would find something, where `poll` asks a file.
    fn readiness(&self, poll: impl Fn(&File) -> Events) -> Events {
        let ready: Vec<Arc<Item>> = self.ready.lock().iter().cloned().collect();
        let is_ready = ready.iter().any(|item| {
            let mask = Events::from_bits_truncate(item.mask.load(Ordering::Acquire));
            item.file.upgrade().is_some_and(|f| poll(&f).intersects(mask | Events::ALWAYS))
        });
        if is_ready { Events::READABLE } else { Events::empty() }
    }

    fn forget(item: &Arc<Item>, file: &File) {
        if let (Some(queue), Some(token)) = (file.ops().queue(), item.token.lock().take()) {
            queue.leave(token);
        }
    }

    /// How deep instances lie below this one; `None`: `outer` is among them, or deeper than `most`.
    fn depth(&self, outer: &Arc<Shared>, most: u32) -> Option<u32> {
        let most = most.checked_sub(1)?;
        let files: Vec<Arc<File>> =
            self.items.lock().values().filter_map(|i| i.file.upgrade()).collect();
        let mut deepest = 1;
        for file in files {
            let Some(inner) = file.ops_as::<Epoll>() else { continue };
            if Arc::ptr_eq(&inner.shared, outer) {
                return None;
            }
            // Bounded by `most`, so this cannot recurse deeper than MAX_NESTING.
            deepest = inner.shared.depth(outer, most)?.saturating_add(1).max(deepest);
        }
        Some(deepest)
    }
}

impl FileOps for Epoll {
    fn is_stream(&self) -> bool {
        true
    }

    /// It has no offset to move, and lets it be moved: Linux's noop_llseek.
    fn seek(&self, _file: &File, now: u64, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Ok(now)
    }

    fn poll(&self, _file: &File) -> Events {
        self.shared.readiness(File::poll)
    }

    fn poll_as(&self, _file: &File, task: &Arc<Task>) -> Events {
        self.shared.readiness(|file| file.poll_as(task))
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.shared.queue)
    }

    fn fdinfo(&self, _file: &File) -> alloc::string::String {
        let mut text = alloc::string::String::new();
        for item in self.shared.items.lock().values() {
            let Some(file) = item.file.upgrade() else { continue };
            let mask = item.mask.load(Ordering::Relaxed);
            let always = if is_spent(mask) { 0 } else { Events::ALWAYS.bits() };
            let dev = file.inode().attr().map_or(0, |attr| attr.dev);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "tfd: {:8} events: {:8x} data: {:16x}  pos:{} ino:{:x} sdev:{:x}",
                item.key.0,
                mask | always,
                item.data.load(Ordering::Relaxed),
                if file.is_stream() { 0 } else { file.offset() },
                file.inode().ino(),
                // As the kernel counts within itself (MKDEV).
                major(dev) << 20 | minor(dev),
            );
        }
        text
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = core::mem::take(&mut *self.shared.items.lock());
        for item in items.values() {
            if let Some(file) = item.file.upgrade() {
                Shared::forget(item, &file);
            }
        }
        self.shared.ready.lock().clear();
    }
}
