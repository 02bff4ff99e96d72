//! What the VFS keeps per inode: advisory locks (fcntl(2), flock(2)), the pipe of a FIFO, the socket of
//! a socket's node.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};

use super::inotify::Watches;
use super::pipe::Pipe;
use crate::errno::Errno;
use crate::net::unix::Sock;
use crate::sync::{SpinLock, WaitQueue};

/// The VFS's state of an inode. Costs nothing until it is used.
#[derive(Default)]
pub struct InodeState {
    locks: spin::Once<Box<Locks>>,
    /// What flows through a FIFO.
    fifo: spin::Once<Arc<Pipe>>,
    /// Whom bind(2) made it for.
    socket: spin::Once<Weak<Sock>>,
    /// Who wants to know what happens to it.
    watches: spin::Once<Box<Watches>>,
    /// How long what is written there will live, as its users think (fcntl(2), F_SET_RW_HINT).
    pub write_hint: AtomicU8,
    /// Open file descriptions of it.
    opens: AtomicU32,
    /// Opens for writing, or minus the number of runs as a program: each excludes the other
    /// (ETXTBSY).
    writers: AtomicI32,
}

impl InodeState {
    /// An unused one.
    pub const fn new() -> Self {
        InodeState {
            locks: spin::Once::new(),
            fifo: spin::Once::new(),
            socket: spin::Once::new(),
            watches: spin::Once::new(),
            write_hint: AtomicU8::new(0),
            opens: AtomicU32::new(0),
            writers: AtomicI32::new(0),
        }
    }

    /// Its locks.
    pub fn locks(&self) -> &Locks {
        self.locks.call_once(Box::default)
    }

    /// The pipe of a FIFO.
    pub fn fifo(&self) -> &Arc<Pipe> {
        self.fifo.call_once(Arc::default)
    }

    /// Makes this the pipe of a FIFO that has none yet: of pipe(2)'s inode.
    pub fn set_fifo(&self, pipe: &Arc<Pipe>) {
        self.fifo.call_once(|| pipe.clone());
    }

    /// The watches of inotify(7).
    pub fn watches(&self) -> &Watches {
        self.watches.call_once(Box::default)
    }

    /// Its watches, if there have ever been any.
    pub fn watches_if_any(&self) -> Option<&Watches> {
        self.watches.get().map(|b| &**b)
    }

    /// One more open file description.
    pub fn opened(&self) {
        self.opens.fetch_add(1, Ordering::AcqRel);
    }

    /// One less; whether that was the last one.
    pub fn closed(&self) -> bool {
        self.opens.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) != 0
    }

    /// The socket that is bound to it.
    pub(crate) fn socket(&self) -> Option<Arc<Sock>> {
        self.socket.get()?.upgrade()
    }

    /// Makes this the node of a socket.
    pub(crate) fn set_socket(&self, socket: &Arc<Sock>) {
        self.socket.call_once(|| Arc::downgrade(socket));
    }

    /// Its locks, if there have ever been any.
    pub fn locks_if_any(&self) -> Option<&Locks> {
        self.locks.get().map(|b| &**b)
    }

    /// One more that writes (`by` 1) or that runs it (`by` -1). `ETXTBSY` where the other sort is there.
    pub fn claim(&self, by: i32) -> Result<(), Errno> {
        self.writers
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
                if n.signum() == -by.signum() { None } else { n.checked_add(by) }
            })
            .map(|_| ())
            .map_err(|_| Errno::ETXTBSY)
    }

    /// The opposite of [`claim`](Self::claim).
    pub fn unclaim(&self, by: i32) {
        self.writers.fetch_sub(by, Ordering::AcqRel);
    }
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// POSIX: all with this descriptor table, by its id; and the process, for F_GETLK.
    Files(u64, u32),
    /// OFD and flock: an open file description, by its id.
    File(u64),
}

impl Owner {
    fn same(self, other: Owner) -> bool {
        match (self, other) {
            (Owner::Files(a, _), Owner::Files(b, _)) => a == b,
            (a, b) => a == b,
        }
    }
}

/// A lock on bytes `start` to `end`, the last one included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lock {
    /// Who.
    pub owner: Owner,
    /// The open file description that it was set by.
    pub file: u64,
    /// Whether it excludes readers too.
    pub write: bool,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

impl Lock {
    fn conflicts(&self, other: &Lock) -> bool {
        !self.owner.same(other.owner)
            && (self.write || other.write)
            && self.start <= other.end
            && other.start <= self.end
    }
}

/// A lock of flock(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flock {
    /// The open file description.
    pub file: u64,
    /// Whether it excludes all others.
    pub exclusive: bool,
    /// The process that set it.
    pub pid: u32,
}

/// The locks of an inode.
#[derive(Default)]
pub struct Locks {
    posix: SpinLock<Vec<Lock>>,
    flocks: SpinLock<Vec<Flock>>,
    /// Wakes those who wait for a lock.
    pub queue: WaitQueue,
}

impl Locks {
    /// A lock in the way of this one (F_GETLK).
    pub fn conflict(&self, lock: &Lock) -> Option<Lock> {
        self.posix.lock().iter().find(|l| l.conflicts(lock)).copied()
    }

    /// Sets it, over what its owner has there. `EAGAIN` where another's is in the way.
    pub fn set(&self, lock: Lock) -> Result<(), Errno> {
        let mut locks = self.posix.lock();
        if locks.iter().any(|l| l.conflicts(&lock)) {
            return Err(Errno::EAGAIN);
        }
        Self::cut(&mut locks, lock.owner, lock.start, lock.end);
        locks.push(lock);
        drop(locks);
        // A write lock that became a read lock lets others in.
        self.queue.wake_all();
        Ok(())
    }

    /// Takes the owner's locks away from these bytes.
    pub fn clear(&self, owner: Owner, start: u64, end: u64) {
        Self::cut(&mut self.posix.lock(), owner, start, end);
        self.queue.wake_all();
    }

    fn cut(locks: &mut Vec<Lock>, owner: Owner, start: u64, end: u64) {
        let mut rest = Vec::new();
        locks.retain(|l| {
            if !l.owner.same(owner) || l.start > end || start > l.end {
                return true;
            }
            if l.start < start {
                rest.push(Lock { end: start.saturating_sub(1), ..*l });
            }
            if l.end > end {
                rest.push(Lock { start: end.saturating_add(1), ..*l });
            }
            false
        });
        locks.append(&mut rest);
    }

    /// flock(2): shared or exclusive, for an open file description. `EAGAIN` where another's is in
    /// the way; the old one is given up first, as Linux does.
    pub fn flock(&self, new: Flock) -> Result<(), Errno> {
        let mut flocks = self.flocks.lock();
        if flocks.iter().any(|f| f.file == new.file && f.exclusive == new.exclusive) {
            return Ok(());
        }
        let before = flocks.len();
        flocks.retain(|f| f.file != new.file);
        let gave_up = flocks.len() != before;
        let free = !flocks.iter().any(|f| new.exclusive || f.exclusive);
        if free {
            flocks.push(new);
        }
        drop(flocks);
        if gave_up {
            self.queue.wake_all();
        }
        if free { Ok(()) } else { Err(Errno::EAGAIN) }
    }

    /// Gives up an open file description's flock.
    pub fn unflock(&self, file: u64) {
        self.flocks.lock().retain(|f| f.file != file);
        self.queue.wake_all();
    }

    /// All byte-range locks, for /proc/locks and fdinfo.
    pub fn list(&self) -> Vec<Lock> {
        self.posix.lock().clone()
    }

    /// All of flock(2), for the same.
    pub fn flocks(&self) -> Vec<Flock> {
        self.flocks.lock().clone()
    }
}
