//! The timer queue: what happens at a time of the monotonic clock, and the thread that waits for it.
//!
//! A timer is plain data at its owner; the queue holds a weak reference and a deadline, and calls
//! [`Expire::expire`] when that has come, after it has taken the entry out. A timer that was disarmed or
//! set anew at the last moment finds that out by its own data.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::errno::Errno;
use crate::platform::{ThreadId, platform};
use crate::sync::SpinLock;

/// Something with a deadline.
pub trait Expire: Send + Sync {
    /// The deadline that was queued has come. The timer decides by its own data whether it has really
    /// expired, and queues itself again where it has more to come. Called on the service thread; must
    /// not wait.
    fn expire(self: Arc<Self>);
}

/// Names an entry of the queue, so that it can be taken out: deadline and number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Queued(u64, u64);

struct Queue {
    entries: BTreeMap<(u64, u64), Weak<dyn Expire>>,
    next: u64,
}

static QUEUE: SpinLock<Queue> = SpinLock::new(Queue { entries: BTreeMap::new(), next: 0 });
static RUNS: AtomicBool = AtomicBool::new(false);
static THREAD: AtomicU64 = AtomicU64::new(0);

/// Starts the service, where it does not run yet. `EAGAIN` where that cannot be.
pub fn begin() -> Result<(), Errno> {
    if !RUNS.swap(true, Ordering::SeqCst)
        && let Err(e) = platform().spawn("timers", Box::new(serve))
    {
        RUNS.store(false, Ordering::SeqCst);
        return Err(e);
    }
    Ok(())
}

/// Queues a timer. `EAGAIN` where the service cannot be started.
pub fn add(deadline: u64, timer: Weak<dyn Expire>) -> Result<Queued, Errno> {
    begin()?;
    let (first, key) = {
        let mut queue = QUEUE.lock();
        let first = queue.entries.first_key_value().map(|(key, _)| *key);
        let key = (deadline, queue.next);
        queue.next = queue.next.wrapping_add(1);
        queue.entries.insert(key, timer);
        (first, key)
    };
    // The service sleeps until the first deadline: only an earlier one concerns it.
    if first.is_none_or(|first| key < first) {
        let thread = THREAD.load(Ordering::SeqCst);
        if thread != 0 {
            platform().unpark(ThreadId(thread));
        }
    }
    Ok(Queued(key.0, key.1))
}

/// Takes a timer out, if it is still there.
pub fn remove(queued: Queued) {
    let gone = QUEUE.lock().entries.remove(&(queued.0, queued.1));
    drop(gone);
}

fn serve() {
    THREAD.store(platform().current().0, Ordering::SeqCst);
    loop {
        let now = platform().monotonic();
        let next = {
            let mut queue = QUEUE.lock();
            match queue.entries.first_entry() {
                Some(entry) if entry.key().0 <= now => Ok(entry.remove()),
                Some(entry) => Err(Some(entry.key().0)),
                None => Err(None),
            }
        };
        match next {
            Ok(timer) => {
                if let Some(timer) = timer.upgrade() {
                    timer.expire();
                }
            }
            Err(deadline) => platform().park(deadline),
        }
    }
}
