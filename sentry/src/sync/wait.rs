//! Wait queues.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::SpinLock;

/// Something that waits: a task's thread, an epoll item.
pub trait Wake: Send + Sync {
    /// The condition may hold now; `events` says which (poll(2) bits, or all ones). Called with the
    /// queue locked: must not wait, nor touch the queue. Returns whether this used up the event, for
    /// exclusive waiters.
    fn wake(&self, events: u32) -> bool;
}

/// Names an entry of a [`WaitQueue`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitToken(u64);

struct Entry {
    token: WaitToken,
    events: u32,
    exclusive: bool,
    /// Woken with the queue unlocked.
    apart: bool,
    /// Told after all others, with the queue unlocked.
    last: bool,
    waker: Arc<dyn Wake>,
}

/// Who waits for a condition. The condition itself is somewhere else: whoever makes it true wakes
/// the queue afterwards; whoever waits enters the queue first and looks at the condition afterwards.
#[derive(Default)]
pub struct WaitQueue {
    entries: SpinLock<Vec<Entry>>,
    /// Length of `entries`, so that waking an empty queue touches no lock.
    count: AtomicUsize,
    /// How many of them do not wait.
    last: AtomicUsize,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl WaitQueue {
    /// An empty one.
    pub const fn new() -> Self {
        WaitQueue {
            entries: SpinLock::new(Vec::new()),
            count: AtomicUsize::new(0),
            last: AtomicUsize::new(0),
        }
    }

    /// Enters the queue for these events.
    pub fn enter(&self, events: u32, exclusive: bool, waker: Arc<dyn Wake>) -> WaitToken {
        self.add(events, exclusive, (false, false), waker)
    }

    /// Enters the queue as one who waits, but is woken with the queue unlocked: it may leave it then, and take locks that come
    /// after the caller's.
    pub fn enter_apart(&self, events: u32, waker: Arc<dyn Wake>) -> WaitToken {
        self.add(events, false, (true, false), waker)
    }

    /// Enters the queue as one who does not wait, but is told of these events: after those who wait, and with the
    /// queue unlocked, so that it may take what locks it likes that come after the caller's.
    pub fn enter_last(&self, events: u32, waker: Arc<dyn Wake>) -> WaitToken {
        self.add(events, false, (false, true), waker)
    }

    fn add(
        &self,
        events: u32,
        exclusive: bool,
        (apart, last): (bool, bool),
        waker: Arc<dyn Wake>,
    ) -> WaitToken {
        let token = WaitToken(NEXT.fetch_add(1, Ordering::Relaxed));
        let mut entries = self.entries.lock();
        entries.push(Entry { token, events, exclusive, apart, last, waker });
        if last {
            self.last.fetch_add(1, Ordering::SeqCst);
        }
        self.count.store(entries.len(), Ordering::SeqCst);
        token
    }

    /// Leaves it.
    pub fn leave(&self, token: WaitToken) {
        let mut entries = self.entries.lock();
        if let Some(at) = entries.iter().position(|e| e.token == token) {
            let gone = entries.remove(at);
            if gone.last {
                self.last.fetch_sub(1, Ordering::SeqCst);
            }
            self.count.store(entries.len(), Ordering::SeqCst);
            drop(entries);
            // Its last reference may be this one, and dropping it may do anything.
            drop(gone);
        }
    }

    /// Wakes all who wait for any of `events`, of the exclusive ones only the first.
    pub fn wake(&self, events: u32) {
        self.wake_some(events, usize::MAX);
    }

    /// Wakes all who wait, for whatever.
    pub fn wake_all(&self) {
        self.wake(u32::MAX);
    }

    /// As [`wake`](Self::wake), but at most `most`; how many.
    pub fn wake_some(&self, events: u32, most: usize) -> usize {
        // Pairs with the store in `enter`: either we see the entry, or its owner sees the condition.
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let woken = self.wake_waiters(events, most);
        self.tell(events);
        woken
    }

    /// Wakes those who wait, and does not tell the others ([`enter_last`](Self::enter_last)).
    pub fn wake_waiters(&self, events: u32, most: usize) -> usize {
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let mut woken = 0;
        let mut apart = Vec::new();
        for entry in self.entries.lock().iter().filter(|e| e.events & events != 0 && !e.last) {
            if woken == most {
                break;
            }
            woken += 1;
            if entry.apart {
                apart.push(entry.waker.clone());
                continue;
            }
            if entry.waker.wake(events) && entry.exclusive {
                break;
            }
        }
        for waker in apart {
            waker.wake(events);
        }
        woken
    }

    /// Tells those alone who do not wait.
    pub fn tell(&self, events: u32) {
        if self.last.load(Ordering::SeqCst) == 0 {
            return;
        }
        let told: Vec<Arc<dyn Wake>> = {
            let entries = self.entries.lock();
            let last = entries.iter().filter(|e| e.last && e.events & events != 0);
            last.map(|e| e.waker.clone()).collect()
        };
        for waker in told {
            waker.wake(events);
        }
    }
}
