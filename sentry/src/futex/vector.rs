//! Waiting for several words at once (futex_waitv(2)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{Bucket, MATCH_ANY, NOWHERE, Waiter, bucket_of, left, withdraw};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::mm::FutexKey;
use crate::platform::AtomicOp;
use crate::task::{Blocked, Current};

/// Most words of a call (FUTEX_WAITV_MAX).
pub const MAX_VECTOR: usize = 128;

/// A word, and what it must be for the call to wait.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    /// Where it is.
    pub addr: u64,
    /// What it must be.
    pub value: u32,
    /// Known to this address space only.
    pub private: bool,
}

/// Which bucket the waiter for each word stands in.
pub struct Slots(Vec<AtomicUsize>);

impl Slots {
    pub(super) fn get(&self, n: usize) -> Option<&AtomicUsize> {
        self.0.get(n)
    }

    /// Whether any of the first `count` has been woken; the last of them.
    fn woken(&self, count: usize) -> Option<usize> {
        let mut slots = self.0.iter().take(count);
        slots.rposition(|slot| slot.load(Ordering::Acquire) == NOWHERE)
    }

    /// Leaves all buckets of the first `count`; the last word that was woken, if any was.
    fn leave(self: &Arc<Self>, count: usize) -> Option<usize> {
        let mut last = None;
        for (n, slot) in self.0.iter().enumerate().take(count) {
            let mine = |waiter: &Waiter| {
                waiter.several.as_ref().is_some_and(|(s, at)| Arc::ptr_eq(s, self) && *at == n)
            };
            if withdraw(slot, mine).is_none() {
                last = Some(n);
            }
        }
        last
    }
}

/// Waits until a waiter of one of the words is woken, if all words are as expected; which. At most
/// [`MAX_VECTOR`] words.
pub fn wait_any(cx: &Current, words: &[Word], deadline: Option<u64>) -> Result<usize, SysError> {
    let keys: Vec<FutexKey> = words
        .iter()
        .map(|word| cx.mm.futex_key(word.addr, word.private))
        .collect::<Result<_, _>>()?;
    let slots = Arc::new(Slots(words.iter().map(|_| AtomicUsize::new(NOWHERE)).collect()));
    'again: loop {
        for (n, (word, key)) in words.iter().zip(&keys).enumerate() {
            let index = bucket_of(key);
            let bucket = Bucket::at(index).ok_or(Errno::EFAULT)?;
            bucket.count.fetch_add(1, Ordering::SeqCst);
            let mut waiters = bucket.waiters.lock();
            let found = cx.mm.space.atomic(word.addr, AtomicOp::Load);
            if found == Ok(word.value) {
                if let Some(slot) = slots.get(n) {
                    slot.store(index, Ordering::Release);
                }
                let several = Some((slots.clone(), n));
                waiters.push(Waiter { several, ..Waiter::plain(*key, MATCH_ANY, &cx.task) });
                continue;
            }
            left(index);
            drop(waiters);
            // A wake-up that came for a word before this one is not lost.
            if let Some(woken) = slots.leave(n) {
                return Ok(woken);
            }
            match found {
                Ok(_) => return Err(Errno::EAGAIN.into()),
                Err(_) => {
                    cx.mm.atomic(word.addr, AtomicOp::Load)?;
                    continue 'again;
                }
            }
        }
        break;
    }
    let result = cx.park_until(deadline, || slots.woken(words.len()));
    match (slots.leave(words.len()), result) {
        (Some(woken), _) => Ok(woken),
        (None, Err(Blocked::TimedOut)) => Err(Errno::ETIMEDOUT.into()),
        // Nobody has woken it: it was a signal.
        (None, _) => Err(SysError::Interrupted(Restart::Sys)),
    }
}
