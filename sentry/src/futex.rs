//! Futexes (futex(2), futex(7)).
//!
//! A waiter stands in a bucket of one table for the whole sandbox; which one, its [`FutexKey`] says. The
//! word is compared under the bucket's lock, so that a wake-up between the comparison and the queue
//! cannot be missed. A waiter that is taken out of its bucket is woken, exactly once, by whoever takes
//! it out. Nothing is allocated once a bucket has grown.
//!
//! Under a bucket's lock the word is reached by the platform alone, which never waits; where its page
//! is not there, the lock is let go, the page is brought in, and all is done again.

mod pi;
mod vector;

pub use pi::{cmp_requeue_pi, lives_on, lock_pi, owner_ends, unlock_pi, wait_requeue_pi};
pub use vector::{MAX_VECTOR, Word, wait_any};

use pi::Pi;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::mm::{FutexKey, Mm};
use crate::platform::{AtomicOp, ThreadId, platform};
use crate::sync::{SpinGuard, SpinLock};
use crate::task::{Blocked, Current, RestartBlock, Task};

/// Buckets; a power of two.
const BUCKETS: usize = 256;
/// A slot of a task that waits in none.
const NOWHERE: usize = usize::MAX;
/// Wakes whatever its bits (FUTEX_BITSET_MATCH_ANY).
pub const MATCH_ANY: u32 = u32::MAX;

struct Waiter {
    key: FutexKey,
    bitset: u32,
    task: Arc<Task>,
    /// Waits for a lock of priority inheritance, or to be moved to one.
    pi: Option<Pi>,
    /// One of several words that the task waits for: all of them, and which it is.
    several: Option<(Arc<vector::Slots>, usize)>,
}

impl Waiter {
    /// One that waits for one word and nothing else.
    fn plain(key: FutexKey, bitset: u32, task: &Arc<Task>) -> Waiter {
        Waiter { key, bitset, task: task.clone(), pi: None, several: None }
    }

    /// Where it is written which bucket it stands in.
    fn slot(&self) -> &AtomicUsize {
        let one = self.several.as_ref().and_then(|(slots, n)| slots.get(*n));
        one.unwrap_or(&self.task.futex.bucket)
    }
}

struct Bucket {
    waiters: SpinLock<Vec<Waiter>>,
    /// Length of `waiters`, and those about to enter: a wake-up with nobody there takes no lock.
    count: AtomicU32,
}

static TABLE: [Bucket; BUCKETS] =
    [const { Bucket { waiters: SpinLock::new(Vec::new()), count: AtomicU32::new(0) } }; BUCKETS];

/// What of futexes is a task's.
pub struct Slot {
    /// Where it waits: the number of a bucket. Changed under that bucket's lock only.
    bucket: AtomicUsize,
    /// As an owner of locks of priority inheritance: [`pi::OWES`], [`pi::GONE`].
    owner: AtomicU8,
}

impl Default for Slot {
    fn default() -> Self {
        Slot { bucket: AtomicUsize::new(NOWHERE), owner: AtomicU8::new(0) }
    }
}

/// Multiplies and rotates: keys are numbers that the sentry made up or addresses, and a bucket that
/// somebody fills on purpose slows down only who does it.
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }
}

fn bucket_of(key: &FutexKey) -> usize {
    let mut mix = Mix(0);
    key.hash(&mut mix);
    (mix.finish() >> 48) as usize % BUCKETS
}

impl Bucket {
    fn at(index: usize) -> Option<&'static Bucket> {
        TABLE.get(index)
    }
}

/// Two buckets, locked in the order of their numbers; one lock where they are the same.
enum Pair {
    One(SpinGuard<'static, Vec<Waiter>>),
    Two(SpinGuard<'static, Vec<Waiter>>, SpinGuard<'static, Vec<Waiter>>),
}

fn lock_pair(a: usize, b: usize) -> Option<Pair> {
    let (first, second) = (Bucket::at(a)?, Bucket::at(b)?);
    Some(if a == b {
        Pair::One(first.waiters.lock())
    } else if a < b {
        let first = first.waiters.lock();
        Pair::Two(first, second.waiters.lock())
    } else {
        let second = second.waiters.lock();
        Pair::Two(first.waiters.lock(), second)
    })
}

/// Wakes tasks that were taken out of their buckets. The last one is woken when this is dropped, after
/// the locks: declare it before them.
#[derive(Default)]
struct Wakes {
    last: Option<u64>,
    count: u32,
}

impl Wakes {
    fn add(&mut self, waiter: &Waiter) {
        // Afterwards the task may go on, and wait again.
        let thread = waiter.task.thread.load(Ordering::Relaxed);
        waiter.slot().store(NOWHERE, Ordering::Release);
        self.count = self.count.saturating_add(1);
        if let Some(thread) = self.last.replace(thread) {
            platform().unpark(ThreadId(thread));
        }
    }
}

impl Drop for Wakes {
    fn drop(&mut self) {
        if let Some(thread) = self.last {
            platform().unpark(ThreadId(thread));
        }
    }
}

fn wake_in(
    bucket: usize,
    waiters: &mut Vec<Waiter>,
    key: &FutexKey,
    bitset: u32,
    most: u32,
    wakes: &mut Wakes,
) -> u32 {
    let before = wakes.count;
    let mut at = 0;
    while wakes.count.wrapping_sub(before) < most
        && let Some(waiter) = waiters.get(at)
    {
        if waiter.key == *key && waiter.bitset & bitset != 0 {
            let waiter = waiters.remove(at);
            left(bucket);
            wakes.add(&waiter);
        } else {
            at = at.saturating_add(1);
        }
    }
    wakes.count.wrapping_sub(before)
}

fn left(bucket: usize) {
    if let Some(bucket) = Bucket::at(bucket) {
        bucket.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Wakes up to `most` waiters of a word whose bits meet `bitset`; how many.
pub fn wake(key: &FutexKey, bitset: u32, most: u32) -> u32 {
    wake_if(key, bitset, most, |_| true).unwrap_or(0)
}

/// As [`wake`], for applications: `EINVAL` where a waiter stands there for whom only the calls of priority
/// inheritance are right.
pub fn wake_plain(key: &FutexKey, bitset: u32, most: u32) -> Result<u32, Errno> {
    wake_if(key, bitset, most, |waiter| waiter.pi.is_none())
}

fn wake_if(
    key: &FutexKey,
    bitset: u32,
    most: u32,
    may: impl Fn(&Waiter) -> bool,
) -> Result<u32, Errno> {
    let index = bucket_of(key);
    let Some(bucket) = Bucket::at(index) else { return Ok(0) };
    // Pairs with the increment of a waiter before it reads the word.
    core::sync::atomic::fence(Ordering::SeqCst);
    if bucket.count.load(Ordering::SeqCst) == 0 {
        return Ok(0);
    }
    let mut wakes = Wakes::default();
    let mut waiters = bucket.waiters.lock();
    if waiters.iter().any(|waiter| waiter.key == *key && !may(waiter)) {
        return Err(Errno::EINVAL);
    }
    Ok(wake_in(index, &mut waiters, key, bitset, most, &mut wakes))
}

/// As [`wake`], by address, for the sentry's own wake-ups (clear_child_tid, robust lists): the waiter
/// may have named the word as private or as shared.
pub fn wake_addr(mm: &Arc<Mm>, addr: u64, most: u32) {
    let shared = mm.futex_key(addr, false);
    let private = mm.futex_key(addr, true);
    for (i, key) in [&shared, &private].into_iter().enumerate() {
        if let Ok(key) = key
            && (i == 0 || shared != private)
        {
            wake(key, MATCH_ANY, most);
        }
    }
}

/// Waits until the word's waiters are woken, if the word is `value`.
pub fn wait(
    cx: &mut Current,
    addr: u64,
    value: u32,
    bitset: u32,
    private: bool,
    deadline: Option<u64>,
) -> Result<(), SysError> {
    if bitset == 0 {
        return Err(Errno::EINVAL.into());
    }
    let key = cx.mm.futex_key(addr, private)?;
    let index = bucket_of(&key);
    let bucket = Bucket::at(index).ok_or(Errno::EFAULT)?;
    loop {
        bucket.count.fetch_add(1, Ordering::SeqCst);
        let mut waiters = bucket.waiters.lock();
        match cx.mm.space.atomic(addr, AtomicOp::Load) {
            Ok(word) if word == value => {
                cx.task.futex.bucket.store(index, Ordering::Release);
                waiters.push(Waiter::plain(key, bitset, &cx.task));
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
        Ok(()) => Ok(()),
        Err((Blocked::TimedOut, _)) => Err(Errno::ETIMEDOUT.into()),
        Err((Blocked::Interrupted, _)) => Err(SysError::Interrupted(match deadline {
            None => Restart::Sys,
            Some(deadline) => {
                cx.restart_block =
                    Some(RestartBlock::FutexWait { addr, value, bitset, private, deadline });
                Restart::Block
            }
        })),
    }
}

/// Parks until the task is taken out of its bucket, or takes it out itself: then why, and whether it waited for a lock of
/// priority inheritance there.
fn sleep(cx: &Current, deadline: Option<u64>) -> Result<(), (Blocked, bool)> {
    let slot = &cx.task.futex.bucket;
    let woken = || (slot.load(Ordering::Acquire) == NOWHERE).then_some(());
    let Err(why) = cx.park_until(deadline, woken) else { return Ok(()) };
    let mine = |waiter: &Waiter| waiter.several.is_none() && Arc::ptr_eq(&waiter.task, &cx.task);
    match withdraw(slot, mine) {
        Some(waiter) => Err((why, waiter.is_some_and(|waiter| waiter.owner().is_some()))),
        None => Ok(()),
    }
}

/// Takes a waiter out of the bucket that its slot names. `None`: somebody else was faster, and woke it.
fn withdraw(slot: &AtomicUsize, mine: impl Fn(&Waiter) -> bool) -> Option<Option<Waiter>> {
    loop {
        let index = slot.load(Ordering::Acquire);
        let bucket = Bucket::at(index)?;
        let mut waiters = bucket.waiters.lock();
        if slot.load(Ordering::Acquire) != index {
            // Woken or moved to another bucket meanwhile.
            continue;
        }
        let at = waiters.iter().position(&mine);
        let gone = at.map(|at| waiters.remove(at));
        if gone.is_some() {
            left(index);
        }
        slot.store(NOWHERE, Ordering::Release);
        return Some(gone);
    }
}

/// Wakes up to `wake` waiters of one word and moves up to `requeue` others to another word. With
/// `expected`, only if the first word is that (FUTEX_CMP_REQUEUE). How many were woken, and moved.
pub fn requeue(
    mm: &Arc<Mm>,
    from: (u64, FutexKey),
    to: FutexKey,
    wake: u32,
    requeue: u32,
    expected: Option<u32>,
) -> Result<(u32, u32), Errno> {
    let (addr, key) = from;
    let (a, b) = (bucket_of(&key), bucket_of(&to));
    loop {
        let mut wakes = Wakes::default();
        let mut pair = lock_pair(a, b).ok_or(Errno::EFAULT)?;
        if let Some(expected) = expected {
            match mm.space.atomic(addr, AtomicOp::Load) {
                Ok(word) if word == expected => {}
                Ok(_) => return Err(Errno::EAGAIN),
                Err(_) => {
                    drop(pair);
                    mm.atomic(addr, AtomicOp::Load)?;
                    continue;
                }
            }
        }
        let (Pair::One(first) | Pair::Two(first, _)) = &mut pair;
        if first.iter().any(|waiter| waiter.key == key && waiter.pi.is_some()) {
            return Err(Errno::EINVAL);
        }
        let woken = wake_in(a, first, &key, MATCH_ANY, wake, &mut wakes);
        let moved = move_waiters(&mut pair, (a, &key), (b, to), requeue, |_| {});
        return Ok((woken, moved));
    }
}

/// Moves up to `most` waiters of one word to another, each changed by `change`; how many.
fn move_waiters(
    pair: &mut Pair,
    (a, key): (usize, &FutexKey),
    (b, to): (usize, FutexKey),
    most: u32,
    change: impl Fn(&mut Waiter),
) -> u32 {
    let mut moved = 0u32;
    match pair {
        Pair::One(waiters) => {
            for waiter in waiters.iter_mut().filter(|w| w.key == *key) {
                if moved == most {
                    break;
                }
                waiter.key = to;
                change(waiter);
                moved = moved.saturating_add(1);
            }
        }
        Pair::Two(waiters, target) => {
            let mut at = 0;
            while moved < most
                && let Some(waiter) = waiters.get(at)
            {
                if waiter.key != *key {
                    at = at.saturating_add(1);
                    continue;
                }
                let mut waiter = waiters.remove(at);
                waiter.key = to;
                change(&mut waiter);
                waiter.slot().store(b, Ordering::Release);
                left(a);
                if let Some(bucket) = Bucket::at(b) {
                    bucket.count.fetch_add(1, Ordering::SeqCst);
                }
                target.push(waiter);
                moved = moved.saturating_add(1);
            }
        }
    }
    moved
}

/// FUTEX_WAKE_OP: changes the second word, wakes waiters of the first, and, where the second word's
/// old value compares as asked, of the second.
pub fn wake_op(
    mm: &Arc<Mm>,
    first: FutexKey,
    second: (u64, FutexKey),
    wake: (u32, u32),
    op: u32,
) -> Result<u32, Errno> {
    let (atomic, compare) = decode_op(op)?;
    let (addr, key) = second;
    let (a, b) = (bucket_of(&first), bucket_of(&key));
    loop {
        let mut wakes = Wakes::default();
        let mut pair = lock_pair(a, b).ok_or(Errno::EFAULT)?;
        let Ok(old) = mm.space.atomic(addr, atomic) else {
            drop(pair);
            // Adding nothing brings the page in for writing.
            mm.atomic(addr, AtomicOp::Add(0))?;
            continue;
        };
        let mut woken = {
            let (Pair::One(waiters) | Pair::Two(waiters, _)) = &mut pair;
            wake_in(a, waiters, &first, MATCH_ANY, wake.0, &mut wakes)
        };
        if compare(old) {
            let (Pair::One(waiters) | Pair::Two(_, waiters)) = &mut pair;
            let more = wake_in(b, waiters, &key, MATCH_ANY, wake.1, &mut wakes);
            woken = woken.saturating_add(more);
        }
        return Ok(woken);
    }
}

/// The operation and the comparison of FUTEX_WAKE_OP (futex(2)).
fn decode_op(op: u32) -> Result<(AtomicOp, impl Fn(u32) -> bool), Errno> {
    let signed12 = |v: u32| ((v << 20) as i32) >> 20;
    let mut arg = signed12(op >> 12 & 0xfff) as u32;
    let cmp_arg = signed12(op & 0xfff);
    if op >> 28 & 8 != 0 {
        arg = 1u32.wrapping_shl(arg & 31);
    }
    let atomic = match op >> 28 & 7 {
        0 => AtomicOp::Swap(arg),
        1 => AtomicOp::Add(arg),
        2 => AtomicOp::Or(arg),
        3 => AtomicOp::And(!arg),
        4 => AtomicOp::Xor(arg),
        _ => return Err(Errno::ENOSYS),
    };
    let cmp = op >> 24 & 0xf;
    if cmp > 5 {
        return Err(Errno::ENOSYS);
    }
    Ok((atomic, move |old: u32| {
        let old = old as i32;
        match cmp {
            0 => old == cmp_arg,
            1 => old != cmp_arg,
            2 => old < cmp_arg,
            3 => old <= cmp_arg,
            4 => old > cmp_arg,
            _ => old >= cmp_arg,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wake_op_decodes_as_futex_2_says() {
        // FUTEX_OP(FUTEX_OP_ADD, 1, FUTEX_OP_CMP_GT, -1)
        let op = 1 << 28 | 4 << 24 | 1 << 12 | 0xfff;
        let (atomic, compare) = decode_op(op).unwrap();
        assert_eq!(atomic, AtomicOp::Add(1));
        assert!(compare(0) && !compare(u32::MAX));
        // Shifted argument: 1 << 5.
        let (atomic, _) = decode_op((8 | 2) << 28 | 5 << 12).unwrap();
        assert_eq!(atomic, AtomicOp::Or(32));
        assert!(decode_op(7 << 28).is_err());
        assert!(decode_op(6 << 24).is_err());
    }
}
