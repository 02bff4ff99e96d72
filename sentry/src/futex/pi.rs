//! Futexes of priority inheritance: FUTEX_LOCK_PI and its kind.
//!
//! Priorities are data here, so what is inherited is the lock alone: the word's protocol, hand-over, the
//! owner's death and the requeueing from a condition variable to its mutex are as on Linux.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    Bucket, MATCH_ANY, Pair, Waiter, Wakes, bucket_of, left, lock_pair, move_waiters, sleep,
};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::mm::{FutexKey, Mm};
use crate::platform::AtomicOp;
use crate::task::{Blocked, Current, PidNamespace};

/// Bits of a priority-inheritance futex's word; the rest is the owner's tid.
const WAITERS: u32 = 0x8000_0000;
const OWNER_DIED: u32 = 0x4000_0000;
const TID_MASK: u32 = 0x3fff_ffff;

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
    let tid = cx.task.vtid();
    loop {
        bucket.count.fetch_add(1, Ordering::SeqCst);
        let mut waiters = bucket.waiters.lock();
        let outcome = try_pi(cx, addr, &key, tid, &waiters);
        match outcome {
            Ok(Some(())) if !try_only => {
                cx.task.futex.0.store(index, Ordering::Release);
                let waiter = Waiter::plain(key, MATCH_ANY, &cx.task);
                waiters.push(Waiter { pi: true, ..waiter });
            }
            other => {
                left(index);
                drop(waiters);
                match other {
                    Ok(None) => return Ok(()),
                    Ok(Some(())) => return Err(Errno::EAGAIN.into()),
                    Err(PiError::Fault) => {
                        cx.mm.atomic(addr, AtomicOp::Or(0))?;
                        continue;
                    }
                    Err(PiError::Errno(e)) => return Err(e.into()),
                }
            }
        }
        drop(waiters);
        match sleep(cx, deadline) {
            // Handed over, or the owner died: the word tells.
            Ok(()) => {
                let word = cx.mm.atomic(addr, AtomicOp::Load)?;
                if word & TID_MASK == tid {
                    return Ok(());
                }
            }
            Err((Blocked::TimedOut, _)) => return Err(Errno::ETIMEDOUT.into()),
            Err((Blocked::Interrupted, _)) => return Err(SysError::Interrupted(Restart::Always)),
        }
    }
}

enum PiError {
    Fault,
    Errno(Errno),
}

/// Takes the lock, or marks it as waited for (`Some`). Under the bucket's lock.
fn try_pi(
    cx: &Current,
    addr: u64,
    key: &FutexKey,
    tid: u32,
    waiters: &[Waiter],
) -> Result<Option<()>, PiError> {
    let space = &cx.mm.space;
    let mut word = space.atomic(addr, AtomicOp::Load).map_err(|_| PiError::Fault)?;
    loop {
        let owner = word & TID_MASK;
        if owner == tid {
            return Err(PiError::Errno(Errno::EDEADLK));
        }
        let new = if owner == 0 {
            let more = waiters.iter().any(|w| w.pi && w.key == *key);
            tid | word & OWNER_DIED | if more { WAITERS } else { 0 }
        } else {
            if cx.task.process.pidns.task(owner).is_none() {
                return Err(PiError::Errno(Errno::ESRCH));
            }
            word | WAITERS
        };
        let seen =
            space.atomic(addr, AtomicOp::CompareExchange(word, new)).map_err(|_| PiError::Fault)?;
        if seen == word {
            return Ok((owner != 0).then_some(()));
        }
        word = seen;
    }
}

/// FUTEX_UNLOCK_PI: hands the lock to the first waiter, or frees it.
pub fn unlock_pi(cx: &Current, addr: u64, private: bool) -> Result<(), Errno> {
    let key = cx.mm.futex_key(addr, private)?;
    let index = bucket_of(&key);
    let bucket = Bucket::at(index).ok_or(Errno::EFAULT)?;
    let tid = cx.task.vtid();
    loop {
        let mut wakes = Wakes::default();
        let mut waiters = bucket.waiters.lock();
        let Ok(word) = cx.mm.space.atomic(addr, AtomicOp::Load) else {
            drop(waiters);
            cx.mm.atomic(addr, AtomicOp::Or(0))?;
            continue;
        };
        if word & TID_MASK != tid {
            return Err(Errno::EPERM);
        }
        let next = waiters.iter().position(|w| w.pi && w.key == key);
        let new = match next.and_then(|at| waiters.get(at)) {
            None => 0,
            Some(heir) => {
                let more = waiters.iter().filter(|w| w.pi && w.key == key).count() > 1;
                heir.task.vtid() | if more { WAITERS } else { 0 }
            }
        };
        match cx.mm.space.atomic(addr, AtomicOp::CompareExchange(word, new)) {
            Ok(seen) if seen == word => {
                if let Some(at) = next {
                    let heir = waiters.remove(at);
                    left(index);
                    wakes.add(&heir);
                }
                return Ok(());
            }
            // A waiter marked the word meanwhile: once more.
            Ok(_) => {}
            Err(_) => {
                drop(waiters);
                cx.mm.atomic(addr, AtomicOp::Or(0))?;
            }
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
                cx.task.futex.0.store(index, Ordering::Release);
                let waiter = Waiter::plain(key, MATCH_ANY, &cx.task);
                waiters.push(Waiter { target: Some(target), ..waiter });
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
        Err((Blocked::Interrupted, Some(waiter))) if waiter.pi => Err(Errno::EAGAIN.into()),
        Err((Blocked::Interrupted, _)) => Err(SysError::Interrupted(Restart::Always)),
    }
}

/// Gives the lock, if it is free, to `heir`; else marks it as waited for. Whether it was given.
fn give(mm: &Mm, pidns: &PidNamespace, lock: u64, heir: u32, more: bool) -> Result<bool, PiError> {
    let mut word = mm.space.atomic(lock, AtomicOp::Load).map_err(|_| PiError::Fault)?;
    loop {
        let owner = word & TID_MASK;
        if owner == heir {
            return Err(PiError::Errno(Errno::EDEADLK));
        }
        let new = if owner == 0 {
            heir | word & OWNER_DIED | if more { WAITERS } else { 0 }
        } else if pidns.task(owner).is_none() {
            return Err(PiError::Errno(Errno::ESRCH));
        } else {
            word | WAITERS
        };
        let exchange = AtomicOp::CompareExchange(word, new);
        let seen = mm.space.atomic(lock, exchange).map_err(|_| PiError::Fault)?;
        if seen == word {
            return Ok(owner == 0);
        }
        word = seen;
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
        if waiters.iter().any(|w| w.key == key && w.target != Some(target)) {
            return Err(Errno::EINVAL);
        }
        let Some(first) = waiters.iter().position(|w| w.key == key) else { return Ok(0) };
        let heir = waiters.get(first).map_or(0, |w| w.task.vtid());
        let others = waiters.iter().filter(|w| w.key == key).count() > 1 && most > 0;
        let waited = {
            let (Pair::One(there) | Pair::Two(_, there)) = &pair;
            there.iter().any(|w| w.pi && w.key == target)
        };
        let given = match give(mm, &cx.task.process.pidns, to, heir, others || waited) {
            Ok(given) => given,
            Err(PiError::Fault) => {
                drop(pair);
                mm.atomic(to, AtomicOp::Or(0))?;
                continue;
            }
            Err(PiError::Errno(e)) => return Err(e),
        };
        if given {
            let (Pair::One(waiters) | Pair::Two(waiters, _)) = &mut pair;
            let waiter = waiters.remove(first);
            left(a);
            wakes.add(&waiter);
        }
        // Whoever was not given the lock waits for it in the first place.
        let most = most.saturating_add(u32::from(!given));
        let moved = move_waiters(&mut pair, (a, &key), (b, target), most, |waiter| {
            waiter.pi = true;
            waiter.target = None;
        });
        return Ok(moved.saturating_add(u32::from(given)));
    }
}
