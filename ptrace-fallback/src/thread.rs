//! Threads: host threads with a slot each, in which others park, unpark and kick them.
//!
//! A slot is never freed, so that whoever holds an old [`ThreadId`] finds at worst somebody else's
//! number in it. The id is the slot's index and a count of its uses, so it never comes again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use sentry::platform::{CpuTime, ThreadId};

use crate::sys;

/// Slots per chunk, and chunks: how many threads there can be.
const CHUNK: usize = 256;
const CHUNKS: usize = 256;
/// Slots that stay unused before one is used again, so that the times of an ended thread can be read
/// for a while.
const REST: usize = 64;

/// The signal that stops a tracee for a kick. Nothing else sends it, and a stub ignores it while
/// nobody traces it.
pub(crate) const KICK: i32 = libc::SIGURG;

/// In user mode, or about to be: a kick has to send the signal.
const RUNNING: u32 = 1;
/// Kicked, and not told yet.
const KICKED: u32 = 2;

/// One thread.
#[derive(Default)]
pub(crate) struct Slot {
    index: u32,
    /// Its [`ThreadId`], or 0 while unused.
    id: AtomicU64,
    /// 1: an unpark is there to be taken.
    token: AtomicU32,
    /// [`RUNNING`] and [`KICKED`].
    flags: AtomicU32,
    /// Its tracee. Held while it is signalled or moved, so that nothing reaches a stranger.
    tracee: Mutex<Tracee>,
    /// The thread's own id on the host.
    tid: AtomicI32,
    /// The CPU that it is bound to, and one more; 0: none.
    cpu: AtomicU32,
    /// The CPU on whose load it counts now, and one more; 0: none, as it waits.
    pub(crate) counted: AtomicU32,
    /// When it last began to count, by the monotonic clock.
    pub(crate) active_since: AtomicU64,
    /// CPUs that it may use, by application numbers; empty: all.
    pub(crate) mask: Mutex<Vec<u64>>,
    /// What the host thread had used when it became this one.
    system_before: AtomicU64,
    /// System time of a thread that has ended.
    last_system: AtomicU64,
}

#[derive(Default)]
struct Tracee {
    /// Its id; 0: none.
    tid: i32,
    /// What it had used when it became ours.
    base: u64,
    /// What earlier ones used.
    before: u64,
}

/// All slots.
pub(crate) struct Threads {
    chunks: [OnceLock<Box<[Slot]>>; CHUNKS],
    free: Mutex<Free>,
}

#[derive(Default)]
struct Free {
    used: usize,
    resting: VecDeque<u32>,
}

/// Wake-ups that a thread owes at most.
const OWED: usize = 8;

thread_local! {
    static CURRENT: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    /// Slots that have their token, and whose threads are still to be woken; `None`: this thread
    /// wakes at once.
    static OWES: RefCell<Option<Vec<&'static Slot>>> = const { RefCell::new(None) };
}

/// From now on the calling thread's unparks give the token at once, and wake when it next calls
/// [`pay`]: a thread that is woken on the waker's own CPU preempts it, and would find the locks that
/// it wants held.
pub(crate) fn owe() {
    OWES.with_borrow_mut(|owed| {
        owed.get_or_insert_with(|| Vec::with_capacity(OWED));
    });
}

/// The calling thread wakes at once again.
pub(crate) fn owe_no_more() {
    pay();
    OWES.with_borrow_mut(|owed| *owed = None);
}

/// Wakes whoever the calling thread owes that. To be called before anything that waits for another
/// thread of the sentry, or runs an application.
pub(crate) fn pay() {
    OWES.with_borrow_mut(|owed| {
        for slot in owed.iter_mut().flat_map(|owed| owed.drain(..)) {
            sys::futex_wake(&slot.token);
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Threads {
    fn default() -> Threads {
        Threads { chunks: [const { OnceLock::new() }; CHUNKS], free: Mutex::default() }
    }
}

impl Threads {
    /// A slot for a new thread; `None` where there are too many.
    pub(crate) fn take(&'static self) -> Option<&'static Slot> {
        let index = {
            let mut free = lock(&self.free);
            if free.resting.len() > REST || free.used >= CHUNK * CHUNKS {
                free.resting.pop_front()? as usize
            } else {
                free.used += 1;
                free.used - 1
            }
        };
        let slot = self.slot(index)?;
        let uses = slot.id.load(Ordering::Relaxed) >> 32;
        slot.token.store(0, Ordering::Relaxed);
        slot.flags.store(0, Ordering::Relaxed);
        slot.cpu.store(0, Ordering::Relaxed);
        slot.counted.store(0, Ordering::Relaxed);
        slot.last_system.store(0, Ordering::Relaxed);
        lock(&slot.mask).clear();
        *lock(&slot.tracee) = Tracee::default();
        let id = (uses + 1) << 32 | (index as u64 + 1);
        slot.id.store(id, Ordering::Release);
        Some(slot)
    }

    /// Gives the slot of a thread that has ended, or never began, back.
    pub(crate) fn give(&self, slot: &Slot) {
        let tid = slot.tid.swap(0, Ordering::Relaxed);
        if tid != 0 {
            slot.last_system.store(slot.system_time(tid), Ordering::Relaxed);
        }
        lock(&self.free).resting.push_back(slot.index);
    }

    fn slot(&'static self, index: usize) -> Option<&'static Slot> {
        let chunk = self.chunks.get(index / CHUNK)?.get_or_init(|| {
            let first = index / CHUNK * CHUNK;
            (first..first + CHUNK)
                .map(|index| Slot { index: index as u32, ..Slot::default() })
                .collect()
        });
        chunk.get(index % CHUNK)
    }

    /// The slot with this id; `None` where the thread has ended and another has its place.
    pub(crate) fn find(&'static self, id: ThreadId) -> Option<&'static Slot> {
        let index = (id.0 & u64::from(u32::MAX)).checked_sub(1)? as usize;
        let chunk = self.chunks.get(index / CHUNK)?.get()?;
        let slot = chunk.get(index % CHUNK)?;
        (slot.id.load(Ordering::Acquire) == id.0).then_some(slot)
    }

    /// The calling thread's slot. A thread that was not spawned by the platform gets one, for ever.
    ///
    /// # Panics
    /// Where there are too many threads for one more.
    pub(crate) fn current(&'static self) -> &'static Slot {
        if let Some(slot) = CURRENT.get() {
            return slot;
        }
        let Some(slot) = self.take() else {
            panic!("no slot is left for a thread");
        };
        slot.adopt();
        slot
    }

    /// All slots that were ever used.
    pub(crate) fn all(&'static self) -> impl Iterator<Item = &'static Slot> {
        let used = lock(&self.free).used;
        (0..used).filter_map(|index| self.slot(index))
    }
}

impl Slot {
    /// Makes it the calling thread's.
    pub(crate) fn adopt(&'static self) {
        let tid = sys::gettid();
        self.system_before.store(sys::thread_cpu_time(tid), Ordering::Relaxed);
        self.tid.store(tid, Ordering::Relaxed);
        CURRENT.set(Some(self));
    }

    /// Its thread.
    pub(crate) fn id(&self) -> ThreadId {
        ThreadId(self.id.load(Ordering::Relaxed))
    }

    /// Waits for an unpark or the deadline.
    pub(crate) fn park(&self, deadline: Option<u64>) {
        if self.token.swap(0, Ordering::Acquire) == 0 {
            sys::futex_wait(&self.token, 0, deadline);
            self.token.swap(0, Ordering::Acquire);
        }
    }

    /// Whether a park would return at once.
    pub(crate) fn has_token(&self) -> bool {
        self.token.load(Ordering::Relaxed) != 0
    }

    /// Ends its park, or the next one.
    pub(crate) fn unpark(&'static self) {
        if self.token.swap(1, Ordering::Release) != 0 {
            return;
        }
        let owed = OWES.with_borrow_mut(|owed| match owed {
            Some(owed) if owed.len() < OWED => {
                owed.push(self);
                true
            }
            _ => false,
        });
        if !owed {
            sys::futex_wake(&self.token);
        }
    }

    /// Makes it leave user mode, or not enter it, once.
    pub(crate) fn kick(&self) {
        // The first kick sends the signal, or `enter` sees the flag.
        if self.flags.fetch_or(KICKED, Ordering::SeqCst) == RUNNING {
            let tracee = lock(&self.tracee);
            if tracee.tid != 0 && self.flags.load(Ordering::SeqCst) & RUNNING != 0 {
                sys::signal(tracee.tid, KICK);
            }
        }
    }

    /// To be called before the tracee runs; false where a kick came first, which is taken by this.
    pub(crate) fn enter(&self) -> bool {
        if self.flags.fetch_or(RUNNING, Ordering::SeqCst) & KICKED != 0 {
            self.flags.store(0, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// To be called when the tracee has stopped.
    pub(crate) fn leave(&self) {
        self.flags.fetch_and(!RUNNING, Ordering::SeqCst);
    }

    /// Takes a kick, if there is one.
    pub(crate) fn take_kick(&self) -> bool {
        self.flags.fetch_and(!KICKED, Ordering::SeqCst) & KICKED != 0
    }

    /// The CPU that it is bound to.
    pub(crate) fn cpu(&self) -> Option<u32> {
        self.cpu.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Binds the thread and its tracee to a CPU.
    pub(crate) fn bind(&self, cpu: u32) {
        let tracee = lock(&self.tracee);
        self.cpu.store(cpu.saturating_add(1), Ordering::Relaxed);
        let tid = self.tid.load(Ordering::Relaxed);
        if tid != 0 {
            sys::bind_to_cpu(tid, cpu);
        }
        if tracee.tid != 0 {
            sys::bind_to_cpu(tracee.tid, cpu);
        }
    }

    /// It has a new tracee.
    pub(crate) fn attach(&self, tid: i32) {
        let mut tracee = lock(&self.tracee);
        tracee.tid = tid;
        tracee.base = sys::process_cpu_time(tid);
        if let Some(cpu) = self.cpu() {
            sys::bind_to_cpu(tid, cpu);
        }
    }

    /// It has none any more.
    pub(crate) fn detach(&self) {
        let mut tracee = lock(&self.tracee);
        let used = sys::process_cpu_time(tracee.tid).saturating_sub(tracee.base);
        tracee.before = tracee.before.saturating_add(used);
        tracee.tid = 0;
    }

    fn system_time(&self, tid: i32) -> u64 {
        let before = self.system_before.load(Ordering::Relaxed);
        sys::thread_cpu_time(tid).saturating_sub(before)
    }

    /// Time that it has used.
    pub(crate) fn cpu_time(&self) -> CpuTime {
        let tracee = lock(&self.tracee);
        let now = match tracee.tid {
            0 => 0,
            tid => sys::process_cpu_time(tid).saturating_sub(tracee.base),
        };
        let system_ns = match self.tid.load(Ordering::Relaxed) {
            0 => self.last_system.load(Ordering::Relaxed),
            tid => self.system_time(tid),
        };
        CpuTime { user_ns: tracee.before.saturating_add(now), system_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threads() -> &'static Threads {
        Box::leak(Box::default())
    }

    #[test]
    fn ids_do_not_come_again_and_stale_ones_find_nobody() {
        let threads = threads();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let slot = threads.take().unwrap();
            let id = slot.id();
            assert!(seen.insert(id));
            assert!(threads.find(id).is_some());
            threads.give(slot);
        }
        assert!(threads.all().count() < 200, "slots are used again");
        let first = *seen.iter().min_by_key(|id| id.0).unwrap();
        assert!(threads.find(first).is_none());
        assert!(threads.find(ThreadId(0)).is_none());
        assert!(threads.find(ThreadId(u64::MAX)).is_none());
    }

    #[test]
    fn an_unpark_that_comes_first_is_kept_once() {
        let slot = threads().take().unwrap();
        slot.unpark();
        slot.unpark();
        slot.park(None);
        slot.park(Some(sys::monotonic() + 1000));
        slot.park(Some(0));
    }

    #[test]
    fn an_owed_wake_up_is_paid() {
        let threads = threads();
        let slots: Vec<&'static Slot> = (0..OWED + 3).map(|_| threads.take().unwrap()).collect();
        let parked: Vec<_> = slots
            .iter()
            .copied()
            .map(|slot| {
                std::thread::spawn(move || slot.park(Some(sys::monotonic() + 60_000_000_000)))
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(20));
        owe();
        for slot in &slots {
            slot.unpark();
            assert!(slot.has_token() || !OWES.with_borrow(|o| o.as_ref().unwrap().is_empty()));
        }
        assert_eq!(OWES.with_borrow(|owed| owed.as_ref().map(Vec::len)), Some(OWED));
        let before = sys::monotonic();
        owe_no_more();
        for thread in parked {
            thread.join().unwrap();
        }
        assert!(sys::monotonic() - before < 30_000_000_000);
        slots[0].unpark();
        assert!(OWES.with_borrow(Option::is_none));
    }

    #[test]
    fn a_kick_before_entering_is_taken_once() {
        let slot = threads().take().unwrap();
        slot.kick();
        slot.kick();
        assert!(!slot.enter());
        assert!(slot.enter());
        slot.kick();
        slot.leave();
        assert!(!slot.enter());
        assert!(slot.enter());
        slot.kick();
        assert!(slot.take_kick());
        assert!(!slot.take_kick());
    }
}
