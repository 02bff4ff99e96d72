//! Locks and wait queues, all built on the platform's park and unpark.
//!
//! - [`SpinLock`]: for a few lines that never wait. Nothing that can park is called under it.
//! - [`Mutex`]: for what may wait for the host or for memory while it is held.
//! - [`WaitQueue`]: for conditions, with anything that implements [`Wake`] waiting.
//!
//! Lock order, outermost first; a lock is taken only under those before it:
//! 1. a directory's `Mutex` (two of them: rename's order), then that of the tree of mounts, 2. an inode's `Mutex`, 3. `Mm`'s `Mutex`,
//! 4. the page cache of an inode, 5. the process tree (`Kernel::processes`), 6. a process's signal
//!    state, 7. fd tables, fs contexts and other per-task `SpinLock`s, 8. wait queues.

mod wait;

pub use wait::{WaitQueue, WaitToken, Wake};

use alloc::collections::VecDeque;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::platform::{ThreadId, platform};

/// How a spinning thread waits: as the platform says.
pub struct Relax;

impl spin::RelaxStrategy for Relax {
    fn relax() {
        platform().relax();
    }
}

/// A lock for a few lines that never wait.
pub type SpinLock<T> = spin::mutex::SpinMutex<T, Relax>;

/// A guard of a [`SpinLock`].
pub type SpinGuard<'a, T> = spin::mutex::SpinMutexGuard<'a, T, Relax>;

/// A reader-writer spinlock, for what is read at every system call and seldom changed.
pub type RwSpinLock<T> = spin::rwlock::RwLock<T, Relax>;

/// A lock whose waiters park, so that it may be held while waiting for the host.
///
/// Not fair: a running thread may take it before one that was just woken.
#[derive(Default)]
pub struct Mutex<T> {
    value: SpinLockInner<T>,
    /// Threads that found it taken.
    waiters: SpinLock<VecDeque<ThreadId>>,
    /// Length of `waiters`, so that an uncontended unlock touches no lock.
    waiting: AtomicUsize,
}

type SpinLockInner<T> = spin::mutex::SpinMutex<T, Relax>;

impl<T> Mutex<T> {
    /// A free one.
    pub const fn new(value: T) -> Self {
        Mutex {
            value: SpinLockInner::new(value),
            waiters: SpinLock::new(VecDeque::new()),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Takes it, waiting as long as needed. Signals do not interrupt the wait.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            let me = platform().current();
            {
                let mut waiters = self.waiters.lock();
                waiters.push_back(me);
                self.waiting.store(waiters.len(), Ordering::SeqCst);
            }
            // It may have been released between the first try and our entry in the queue.
            if let Some(guard) = self.try_lock() {
                let mut waiters = self.waiters.lock();
                if let Some(at) = waiters.iter().position(|w| *w == me) {
                    waiters.remove(at);
                }
                self.waiting.store(waiters.len(), Ordering::SeqCst);
                drop(waiters);
                return guard;
            }
            platform().park(None);
            // An early return of park leaves our entry behind; it must not stand there twice.
            let mut waiters = self.waiters.lock();
            if let Some(at) = waiters.iter().position(|w| *w == me) {
                waiters.remove(at);
                self.waiting.store(waiters.len(), Ordering::SeqCst);
            }
        }
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.value.try_lock().map(|guard| MutexGuard { mutex: self, guard: Some(guard) })
    }

    /// The value, where nobody else can hold the lock.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn release(&self) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let next = {
            let mut waiters = self.waiters.lock();
            let next = waiters.pop_front();
            self.waiting.store(waiters.len(), Ordering::SeqCst);
            next
        };
        if let Some(thread) = next {
            platform().unpark(thread);
        }
    }
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// Taken only by `drop`.
    guard: Option<SpinGuard<'a, T>>,
}

#[allow(clippy::expect_used)] // the guard is there until drop
impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.guard.as_ref().expect("held until drop")
    }
}

#[allow(clippy::expect_used)] // the guard is there until drop
impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("held until drop")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.guard = None;
        self.mutex.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use alloc::sync::Arc;

    #[test]
    fn a_mutex_excludes_and_wakes_its_waiters() {
        let fake = crate::platform::fake::install();
        let _ = fake;
        let sum = Arc::new(Mutex::new(0u64));
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..4 {
            let (sum, done) = (sum.clone(), done.clone());
            platform()
                .spawn(
                    "adder",
                    Box::new(move || {
                        for _ in 0..500 {
                            let mut guard = sum.lock();
                            let was = *guard;
                            platform().yield_now();
                            *guard = was + 1;
                        }
                        done.fetch_add(1, Ordering::SeqCst);
                    }),
                )
                .unwrap();
        }
        while done.load(Ordering::SeqCst) < 4 {
            platform().yield_now();
        }
        assert_eq!(*sum.lock(), 2000);
    }
}
