//! eventfd(2).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};

use super::anon;
use super::context::Cx;
use super::file::File;
use super::inode::{FileOps, Whence, Written};
use super::io::{IoDst, IoSrc};
use super::types::{Events, OpenFlags};
use crate::errno::Errno;
use crate::sync::{SpinLock, WaitQueue};

/// EFD_SEMAPHORE (linux/eventfd.h); the other flags are those of open(2).
const SEMAPHORE: u32 = 1;
/// Tells them apart in /proc, for lsof(8) and its like.
static IDS: AtomicU32 = AtomicU32::new(0);
/// The most that it counts to.
const MAX: u64 = u64::MAX - 1;

/// A counter that can be waited for.
pub struct EventFd {
    count: SpinLock<u64>,
    semaphore: bool,
    id: u32,
    queue: WaitQueue,
}

/// A new one.
pub fn new(cx: &Cx<'_>, initial: u32, flags: u32) -> Result<Arc<File>, Errno> {
    let open = OpenFlags::from_bits(flags & !SEMAPHORE).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(open) {
        return Err(Errno::EINVAL);
    }
    let event = EventFd {
        count: SpinLock::new(initial.into()),
        semaphore: flags & SEMAPHORE != 0,
        id: IDS.fetch_add(1, Ordering::Relaxed),
        queue: WaitQueue::new(),
    };
    let flags = OpenFlags::RDWR | open & OpenFlags::NONBLOCK;
    anon::file(cx, "anon_inode:[eventfd]", Box::new(event), flags)
}

impl EventFd {
    /// Adds to the counter, as far as it goes, from inside the sentry.
    pub fn signal(&self, n: u64) {
        let mut count = self.count.lock();
        *count = count.saturating_add(n).min(MAX);
        drop(count);
        self.queue.wake(Events::READABLE.bits());
    }
}

impl FileOps for EventFd {
    fn can_hurry(&self, writes: bool) -> bool {
        !writes
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let value = {
            let mut count = self.count.lock();
            if *count == 0 {
                return Err(Errno::EAGAIN);
            }
            let value = if self.semaphore { 1 } else { *count };
            *count = count.saturating_sub(value);
            value
        };
        self.queue.wake(Events::WRITABLE.bits());
        dst.put(&value.to_le_bytes())
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        if src.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        // What waits for room comes again: the bytes must still be there then.
        let mut value = [0; 8];
        if src.peek(&mut value)? < 8 {
            return Err(Errno::EFAULT);
        }
        let value = u64::from_le_bytes(value);
        if value > MAX {
            return Err(Errno::EINVAL);
        }
        {
            let mut count = self.count.lock();
            *count = count.checked_add(value).filter(|n| *n <= MAX).ok_or(Errno::EAGAIN)?;
        }
        src.truncate(0);
        if value > 0 {
            self.queue.wake(Events::READABLE.bits());
        }
        Ok(Written { count: 8, end: 0 })
    }

    fn is_stream(&self) -> bool {
        true
    }

    /// It has no offset to move, and lets it be moved: Linux's noop_llseek.
    fn seek(&self, _file: &File, now: u64, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Ok(now)
    }

    fn poll(&self, _file: &File) -> Events {
        let count = *self.count.lock();
        let mut events = Events::empty();
        events.set(Events::READABLE, count > 0);
        events.set(Events::WRITABLE, count < MAX);
        events.set(Events::ERR, count > MAX);
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        format!(
            "eventfd-count: {:16x}\neventfd-id: {}\neventfd-semaphore: {}\n",
            *self.count.lock(),
            self.id,
            u32::from(self.semaphore)
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
