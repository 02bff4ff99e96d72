//! Futexes of priority inheritance: FUTEX_LOCK_PI and its kind.
//!
//! Priorities are data here, so what is inherited is the lock alone: the word's protocol, hand-over, the
//! owner's death, circles of owners and the requeueing from a condition variable to its mutex are as on Linux.
//!
//! Each waiter names the owner that it waits for. An owner that ends with waiters hands their locks over
//! ([`owner_ends`]), and a wait that would close a circle of owners is refused ([`circle`]).

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use super::{
    BUCKETS, Bucket, MATCH_ANY, Pair, Waiter, Wakes, bucket_of, left, lock_pair, move_waiters,
    sleep, withdraw,
};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::mm::{FutexKey, Mm};
use crate::platform::AtomicOp;
use crate::sync::Mutex;
use crate::task::{Blocked, Current, PidNamespace, Task};

/// Bits of a priority-inheritance futex's word; the rest is the owner's tid.
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

/// Somebody has waited for a lock of this task's.
pub(super) const OWES: u8 = 1;
/// It owns no lock any more: it has handed all over that somebody waited for.
pub(super) const GONE: u8 = 2;
/// How long a chain of owners that wait for others is followed (max_lock_depth of Linux).
const MAX_CHAIN: u32 = 1024;

/// Who begins to wait for a lock holds this until it is known that no circle is closed by that.
static CHAINS: Mutex<()> = Mutex::new(());

/// What is known of a waiter for a lock.
pub(super) struct Pi {
    /// Where the lock's word is in the waiter's memory.
    addr: u64,
    mm: Arc<Mm>,
    /// It is not there yet, but waits to be moved to this lock (FUTEX_WAIT_REQUEUE_PI).
    target: Option<FutexKey>,
    /// Whose the lock is.
    owner: Weak<Task>,
}

impl Waiter {
    /// The owner that it waits for.
    pub(super) fn owner(&self) -> Option<&Weak<Task>> {
        self.pi.as_ref().filter(|pi| pi.target.is_none()).map(|pi| &pi.owner)
    }

    /// Whether it waits for this lock.
    fn is_for(&self, lock: &FutexKey) -> bool {
        self.key == *lock && self.owner().is_some()
    }
}

/// The lock is another's now, for whom all that wait for it wait.
fn has_new_owner(waiters: &mut [Waiter], lock: &FutexKey, owner: &Arc<Task>) {
    for waiter in waiters.iter_mut().filter(|w| w.is_for(lock)) {
        owner.futex.owner.fetch_or(OWES, Ordering::SeqCst);
        if let Some(pi) = &mut waiter.pi {
            pi.owner = Arc::downgrade(owner);
        }
    }
}

enum PiError {
    Fault,
    Errno(Errno),
}

impl From<Errno> for PiError {
    fn from(e: Errno) -> PiError {
        PiError::Errno(e)
    }
}

/// Takes the lock for `heir`, or marks it as waited for: then whom it waits for. With `more` it is marked in both
/// cases. Under the bucket's lock, whose waiters are given (futex_lock_pi_atomic() of Linux).
fn acquire(
    mm: &Mm,
    pidns: &PidNamespace,
    (addr, key): (u64, &FutexKey),
    waiters: &[Waiter],
    heir: &Task,
    more: bool,
) -> Result<Option<Weak<Task>>, PiError> {
    let tid = heir.vtid();
    let load = || mm.space.atomic(addr, AtomicOp::Load).map_err(|_| PiError::Fault);
    let exchange = |old, new| {
        let op = AtomicOp::CompareExchange(old, new);
        mm.space.atomic(addr, op).map(|seen| seen == old).map_err(|_| PiError::Fault)
    };
    loop {
        let word = load()?;
        let owner = word & TID_MASK;
        if owner == tid {
            return Err(Errno::EDEADLK.into());
        }
        if let Some(first) = waiters.iter().find(|w| w.key == *key) {
            let theirs = first.owner().ok_or(Errno::EINVAL)?;
            // Of an owner that has died, and is about to hand the lock over.
            let dying = word & OWNER_DIED != 0 && owner == 0;
            if !dying && theirs.upgrade().is_none_or(|task| task.vtid() != owner) {
                return Err(Errno::EINVAL.into());
            }
            return Ok(Some(theirs.clone()));
        }
        if owner == 0 {
            let new = tid | word & OWNER_DIED | if more { WAITERS } else { 0 };
            if exchange(word, new)? {
                return Ok(None);
            }
            continue;
        }
        if !exchange(word, word | WAITERS)? {
            continue;
        }
        let task = pidns.task(owner).ok_or(Errno::ESRCH)?;
        if task.futex.owner.fetch_or(OWES, Ordering::SeqCst) & GONE == 0 {
            return Ok(Some(Arc::downgrade(&task)));
        }
        // It has ended, and what it left in the word meanwhile counts.
        if load()? & TID_MASK == owner {
            return Err(Errno::ESRCH.into());
        }
    }
}

/// FUTEX_LOCK_PI and, with `try_only`, FUTEX_TRYLOCK_PI.
pub fn lock_pi(
    cx: &Current,
    addr: u64,
    private: bool,
    deadline: Option<u64>,
    try_only: bool,
) -> Result<(), SysError> {
    let key = cx.mm.futex_key(addr, private)?;
    let index = bucket_of(&key);
    let bucket = Bucket::at(index).ok_or(Errno::EFAULT)?;
    let pidns = &cx.task.process.pidns;
    loop {
        let chains = CHAINS.lock();
        bucket.count.fetch_add(1, Ordering::SeqCst);
        let mut waiters = bucket.waiters.lock();
        match acquire(&cx.mm, pidns, (addr, &key), &waiters, &cx.task, false) {
            Ok(Some(owner)) if !try_only => {
                cx.task.futex.bucket.store(index, Ordering::Release);
                let pi = Some(Pi { addr, mm: cx.mm.clone(), target: None, owner: owner.clone() });
                waiters.push(Waiter { pi, ..Waiter::plain(key, MATCH_ANY, &cx.task) });
                drop(waiters);
                if circle(&cx.task, owner) {
                    let mine = |waiter: &Waiter| Arc::ptr_eq(&waiter.task, &cx.task);
                    if withdraw(&cx.task.futex.bucket, mine).is_some() {
                        return Err(Errno::EDEADLK.into());
                    }
                }
            }
            other => {
                left(index);
                drop(waiters);
                drop(chains);
                match other {
                    Ok(None) => return Ok(()),
                    Ok(Some(_)) => return Err(Errno::EAGAIN.into()),
                    Err(PiError::Fault) => {
                        cx.mm.atomic(addr, AtomicOp::Or(0))?;
                        continue;
                    }
                    Err(PiError::Errno(e)) => return Err(e.into()),
                }
            }
        }
        drop(chains);
        match sleep(cx, deadline) {
            // Handed over: the word tells.
            Ok(()) => {
                let word = cx.mm.atomic(addr, AtomicOp::Load)?;
                if word & TID_MASK == cx.task.vtid() {
                    return Ok(());
                }
            }
            Err((Blocked::TimedOut, _)) => return Err(Errno::ETIMEDOUT.into()),
            Err((Blocked::Interrupted, _)) => return Err(SysError::Interrupted(Restart::Always)),
        }
    }
}

/// Whether an owner waits, by way of others, for `task`. Under [`CHAINS`].
fn circle(task: &Arc<Task>, mut owner: Weak<Task>) -> bool {
    for _ in 0..MAX_CHAIN {
        let Some(next) = owner.upgrade() else { return false };
        if Arc::ptr_eq(&next, task) {
            return true;
        }
        let at = next.futex.bucket.load(Ordering::Acquire);
        let Some(bucket) = Bucket::at(at) else { return false };
        let waiters = bucket.waiters.lock();
        let waits = waiters.iter().find(|w| Arc::ptr_eq(&w.task, &next));
        let Some(further) = waits.and_then(Waiter::owner) else { return false };
        owner = further.clone();
    }
    true
}

/// Takes the first waiter for a lock out, whose the lock is now, with the word's bits `bits`. `None`: the word is not in
/// memory now. Under the bucket's lock.
fn hand_over(
    waiters: &mut alloc::vec::Vec<Waiter>,
    at: usize,
    bits: u32,
    wakes: &mut Wakes,
) -> Option<()> {
    let heir = waiters.get(at)?;
    let (key, task, pi) = (heir.key, heir.task.clone(), heir.pi.as_ref()?);
    pi.mm.space.atomic(pi.addr, AtomicOp::Swap(task.vtid() | WAITERS | bits)).ok()?;
    let heir = waiters.remove(at);
    left(bucket_of(&key));
    has_new_owner(waiters, &key, &task);
    wakes.add(&heir);
    Some(())
}

/// A task leaves its memory, or ends: the locks that it owns and others wait for become theirs.
pub fn owner_ends(task: &Arc<Task>) {
    if task.futex.owner.fetch_or(GONE, Ordering::SeqCst) & OWES == 0 {
        return;
    }
    for bucket in (0..BUCKETS).filter_map(Bucket::at) {
        loop {
            let mut wakes = Wakes::default();
            let mut waiters = bucket.waiters.lock();
            let mine = |w: &Waiter| w.owner().is_some_and(|o| o.as_ptr() == Arc::as_ptr(task));
            let Some(at) = waiters.iter().position(mine) else { break };
            if hand_over(&mut waiters, at, OWNER_DIED, &mut wakes).is_some() {
                continue;
            }
            let word =
                waiters.get(at).and_then(|w| w.pi.as_ref()).map(|pi| (pi.mm.clone(), pi.addr));
            drop(waiters);
            if word.is_some_and(|(mm, addr)| mm.atomic(addr, AtomicOp::Or(0)).is_ok()) {
                continue;
            }
            // The word is gone. Its waiter finds that out by itself.
            let mut waiters = bucket.waiters.lock();
            if let Some(at) = waiters.iter().position(mine) {
                let waiter = waiters.remove(at);
                left(bucket_of(&waiter.key));
                wakes.add(&waiter);
            }
        }
    }
}

/// A task goes on with other memory, and may own locks again.
pub fn lives_on(task: &Task) {
    task.futex.owner.store(0, Ordering::SeqCst);
}

/// FUTEX_UNLOCK_PI: hands the lock to the first waiter, or frees it.
pub fn unlock_pi(cx: &Current, addr: u64, private: bool) -> Result<(), Errno> {
    let key = cx.mm.futex_key(addr, private)?;
    let bucket = Bucket::at(bucket_of(&key)).ok_or(Errno::EFAULT)?;
    let tid = cx.task.vtid();
    loop {
        let mut wakes = Wakes::default();
        let mut waiters = bucket.waiters.lock();
        let done = match cx.mm.space.atomic(addr, AtomicOp::Load) {
            Err(_) => None,
            Ok(word) if word & TID_MASK != tid => return Err(Errno::EPERM),
            Ok(word) => match waiters.iter().position(|w| w.key == key) {
                Some(at) if waiters.get(at).is_some_and(|w| w.owner().is_none()) => {
                    return Err(Errno::EINVAL);
                }
                Some(at) => hand_over(&mut waiters, at, 0, &mut wakes),
                None => match cx.mm.space.atomic(addr, AtomicOp::CompareExchange(word, 0)) {
                    Ok(seen) if seen == word => Some(()),
                    // Another has marked the word meanwhile: once more.
                    Ok(_) => continue,
                    Err(_) => None,
                },
            },
        };
        drop(waiters);
        match done {
            Some(()) => return Ok(()),
            None => drop(cx.mm.atomic(addr, AtomicOp::Or(0))?),
        }
    }
}

/// FUTEX_WAIT_REQUEUE_PI: waits at `addr` to be moved to the lock at `lock`, and has the lock afterwards.
pub fn wait_requeue_pi(
    cx: &mut Current,
    addr: u64,
    value: u32,
    private: bool,
    deadline: Option<u64>,
    lock: u64,
) -> Result<(), SysError> {
    let key = cx.mm.futex_key(addr, private)?;
    let target = cx.mm.futex_key(lock, private)?;
    if key == target {
        return Err(Errno::EINVAL.into());
    }
    let index = bucket_of(&key);
    let bucket = Bucket::at(index).ok_or(Errno::EFAULT)?;
    loop {
        bucket.count.fetch_add(1, Ordering::SeqCst);
        let mut waiters = bucket.waiters.lock();
        match cx.mm.space.atomic(addr, AtomicOp::Load) {
            Ok(word) if word == value => {
                cx.task.futex.bucket.store(index, Ordering::Release);
                let waiter = Waiter::plain(key, MATCH_ANY, &cx.task);
                let mm = cx.mm.clone();
                let pi = Pi { addr: lock, mm, target: Some(target), owner: Weak::new() };
                waiters.push(Waiter { pi: Some(pi), ..waiter });
                break;
            }
            Ok(_) => {
                left(index);
                return Err(Errno::EAGAIN.into());
            }
            Err(_) => {
                left(index);
                drop(waiters);
                cx.mm.atomic(addr, AtomicOp::Load)?;
            }
        }
    }
    match sleep(cx, deadline) {
        Ok(()) if cx.mm.atomic(lock, AtomicOp::Load)? & TID_MASK == cx.task.vtid() => Ok(()),
        // The lock's owner died while it was waited for: the lock is to be had by whoever asks.
        Ok(()) => lock_pi(cx, lock, private, deadline, false),
        Err((Blocked::TimedOut, _)) => Err(Errno::ETIMEDOUT.into()),
        // Once it was moved, it cannot begin again at the first word.
        Err((Blocked::Interrupted, true)) => Err(Errno::EAGAIN.into()),
        Err((Blocked::Interrupted, _)) => Err(SysError::Interrupted(Restart::Always)),
    }
}

/// FUTEX_CMP_REQUEUE_PI: if the word at `from` is `expected`, gives its first waiter the lock at `to`, or
/// lets it wait there, and moves up to `most` others there. How many it was in all.
pub fn cmp_requeue_pi(
    cx: &Current,
    from: u64,
    to: u64,
    private: bool,
    most: u32,
    expected: u32,
) -> Result<u32, Errno> {
    let mm: &Arc<Mm> = &cx.mm;
    let key = mm.futex_key(from, private)?;
    let target = mm.futex_key(to, private)?;
    if key == target {
        return Err(Errno::EINVAL);
    }
    let (a, b) = (bucket_of(&key), bucket_of(&target));
    loop {
        let mut wakes = Wakes::default();
        let mut pair = lock_pair(a, b).ok_or(Errno::EFAULT)?;
        match mm.space.atomic(from, AtomicOp::Load) {
            Ok(word) if word == expected => {}
            Ok(_) => return Err(Errno::EAGAIN),
            Err(_) => {
                drop(pair);
                mm.atomic(from, AtomicOp::Load)?;
                continue;
            }
        }
        let (Pair::One(waiters) | Pair::Two(waiters, _)) = &mut pair;
        let other = |w: &Waiter| w.pi.as_ref().and_then(|pi| pi.target) != Some(target);
        if waiters.iter().any(|w| w.key == key && other(w)) {
            return Err(Errno::EINVAL);
        }
        let Some(first) = waiters.iter().position(|w| w.key == key) else { return Ok(0) };
        let Some(heir) = waiters.get(first).map(|w| w.task.clone()) else { return Ok(0) };
        let others = waiters.iter().filter(|w| w.key == key).count() > 1 && most > 0;
        let there: &[Waiter] = match &pair {
            Pair::One(there) | Pair::Two(_, there) => there,
        };
        let owner = match acquire(mm, &cx.task.process.pidns, (to, &target), there, &heir, others) {
            Ok(owner) => owner,
            Err(PiError::Fault) => {
                drop(pair);
                mm.atomic(to, AtomicOp::Or(0))?;
                continue;
            }
            Err(PiError::Errno(e)) => return Err(e),
        };
        let given = owner.is_none();
        if given {
            let (Pair::One(waiters) | Pair::Two(waiters, _)) = &mut pair;
            let waiter = waiters.remove(first);
            left(a);
            wakes.add(&waiter);
            heir.futex.owner.fetch_or(OWES, Ordering::SeqCst);
        }
        let owner = owner.unwrap_or_else(|| Arc::downgrade(&heir));
        // Whoever was not given the lock waits for it in the first place.
        let most = most.saturating_add(u32::from(!given));
        let moved = move_waiters(&mut pair, (a, &key), (b, target), most, |waiter| {
            if let Some(pi) = &mut waiter.pi {
                (pi.target, pi.owner) = (None, owner.clone());
            }
        });
        return Ok(moved.saturating_add(u32::from(given)));
    }
}
