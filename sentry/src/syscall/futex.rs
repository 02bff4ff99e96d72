//! futex(2), futex_waitv(2), and the calls that take it apart: futex_wait, futex_wake, futex_requeue.

use alloc::vec::Vec;

use super::{Args, word};
use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::futex::{self, MATCH_ANY, MAX_VECTOR, Word};
use crate::platform::platform;
use crate::task::Current;
use crate::time::{Clock, TimeSpec};

/// Operations and flags (linux/futex.h).
mod op {
    pub const WAIT: u32 = 0;
    pub const WAKE: u32 = 1;
    pub const REQUEUE: u32 = 3;
    pub const CMP_REQUEUE: u32 = 4;
    pub const WAKE_OP: u32 = 5;
    pub const LOCK_PI: u32 = 6;
    pub const UNLOCK_PI: u32 = 7;
    pub const TRYLOCK_PI: u32 = 8;
    pub const WAIT_BITSET: u32 = 9;
    pub const WAKE_BITSET: u32 = 10;
    pub const WAIT_REQUEUE_PI: u32 = 11;
    pub const CMP_REQUEUE_PI: u32 = 12;
    pub const LOCK_PI2: u32 = 13;
    pub const PRIVATE: u32 = 128;
    pub const CLOCK_REALTIME: u32 = 256;
}

/// futex(2).
pub fn futex(cx: &mut Current, args: Args) -> SysResult {
    let [addr, _, _, timeout, addr2, _] = args.0;
    let (flags, value, value3) = (args.uint(1), args.uint(2), args.uint(5));
    let private = flags & op::PRIVATE != 0;
    let command = flags & !(op::PRIVATE | op::CLOCK_REALTIME);
    let realtime = flags & op::CLOCK_REALTIME != 0;
    if realtime && !matches!(command, op::WAIT_BITSET | op::LOCK_PI2 | op::WAIT_REQUEUE_PI) {
        return Err(Errno::ENOSYS.into());
    }
    match command {
        op::WAIT | op::WAIT_BITSET => {
            let deadline = if timeout == 0 {
                None
            } else {
                let time = TimeSpec::read(&cx.mm, timeout)?.to_ns()?;
                Some(match command {
                    op::WAIT => platform().monotonic().saturating_add(time),
                    _ if realtime => Clock::Realtime.to_monotonic(time),
                    _ => cx.namespaces.time.to_host(time),
                })
            };
            let bitset = if command == op::WAIT { MATCH_ANY } else { value3 };
            futex::wait(cx, addr, value, bitset, private, deadline)?;
            Ok(0)
        }
        op::WAKE | op::WAKE_BITSET => {
            let bitset = if command == op::WAKE { MATCH_ANY } else { value3 };
            if bitset == 0 {
                return Err(Errno::EINVAL.into());
            }
            let key = cx.mm.futex_key(addr, private)?;
            // Linux wakes one at least.
            Ok(futex::wake_plain(&key, bitset, value.max(1))?.into())
        }
        op::REQUEUE | op::CMP_REQUEUE => {
            // The numbers are signed in the kernel.
            let (wake, requeue) = (value as i32, timeout as i32);
            if wake < 0 || requeue < 0 {
                return Err(Errno::EINVAL.into());
            }
            let from = cx.mm.futex_key(addr, private)?;
            let to = cx.mm.futex_key(addr2, private)?;
            let expected = (command == op::CMP_REQUEUE).then_some(value3);
            let (woken, moved) = futex::requeue(
                &cx.mm,
                (addr, from),
                to,
                wake.unsigned_abs(),
                requeue.unsigned_abs(),
                expected,
            )?;
            // FUTEX_REQUEUE tells of the woken only (futex(2)); the kernel adds both for both.
            Ok(u64::from(woken).saturating_add(moved.into()))
        }
        op::WAKE_OP => {
            let first = cx.mm.futex_key(addr, private)?;
            let second = cx.mm.futex_key(addr2, private)?;
            let most = (value, timeout as u32);
            Ok(futex::wake_op(&cx.mm, first, (addr2, second), most, value3)?.into())
        }
        op::LOCK_PI | op::LOCK_PI2 => {
            let deadline = if timeout == 0 {
                None
            } else {
                let time = TimeSpec::read(&cx.mm, timeout)?.to_ns()?;
                let real = command == op::LOCK_PI || realtime;
                Some(if real {
                    Clock::Realtime.to_monotonic(time)
                } else {
                    cx.namespaces.time.to_host(time)
                })
            };
            futex::lock_pi(cx, addr, private, deadline, false)?;
            Ok(0)
        }
        op::TRYLOCK_PI => {
            futex::lock_pi(cx, addr, private, None, true)?;
            Ok(0)
        }
        op::UNLOCK_PI => {
            futex::unlock_pi(cx, addr, private)?;
            Ok(0)
        }
        op::WAIT_REQUEUE_PI => {
            let deadline = if timeout == 0 {
                None
            } else {
                let time = TimeSpec::read(&cx.mm, timeout)?.to_ns()?;
                Some(if realtime {
                    Clock::Realtime.to_monotonic(time)
                } else {
                    cx.namespaces.time.to_host(time)
                })
            };
            futex::wait_requeue_pi(cx, addr, value, private, deadline, addr2)?;
            Ok(0)
        }
        op::CMP_REQUEUE_PI => {
            let (wake, requeue) = (value as i32, timeout as i32);
            // One is given the lock: there is nothing that more could be woken for.
            if wake != 1 || requeue < 0 {
                return Err(Errno::EINVAL.into());
            }
            let most = requeue.unsigned_abs();
            Ok(futex::cmp_requeue_pi(cx, addr, addr2, private, most, value3)?.into())
        }
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// Flags of the newer calls (linux/futex.h): the size of the word, of which there is one, and whether it
/// is private.
const SIZE: u32 = 3;
const SIZE_U32: u32 = 2;
/// Numbers of clocks.
const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;

/// Whether a word is private. `EINVAL` for flags that mean nothing here.
fn is_private(flags: u32) -> Result<bool, Errno> {
    if flags & !(SIZE | op::PRIVATE) != 0 || flags & SIZE != SIZE_U32 {
        return Err(Errno::EINVAL);
    }
    Ok(flags & op::PRIVATE != 0)
}

/// A value of the word, or a mask of it, which no more than 32 bits of can be.
fn in_word(value: u64) -> Result<u32, Errno> {
    u32::try_from(value).map_err(|_| Errno::EINVAL)
}

/// A deadline of the clock that the caller names.
fn deadline_of(cx: &Current, addr: u64, clock: i32) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    if clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC {
        return Err(Errno::EINVAL);
    }
    let time = TimeSpec::read(&cx.mm, addr)?.to_ns()?;
    let realtime = clock == CLOCK_REALTIME;
    Ok(Some(if realtime {
        Clock::Realtime.to_monotonic(time)
    } else {
        cx.namespaces.time.to_host(time)
    }))
}

/// Bytes of a `struct futex_waitv`: value, address, flags, and four that are 0.
const WAITV: usize = 24;

/// The words at `addr`.
fn words(cx: &Current, addr: u64, count: usize) -> Result<Vec<Word>, Errno> {
    let bytes = cx.mm.copy_in_array(addr, count, WAITV, MAX_VECTOR.saturating_mul(WAITV))?;
    bytes
        .chunks_exact(WAITV)
        .map(|raw| {
            let [value, addr, flags] = [0, 1, 2].map(|n| word(raw, n));
            if flags >> 32 != 0 {
                return Err(Errno::EINVAL);
            }
            Ok(Word { addr, private: is_private(flags as u32)?, value: in_word(value)? })
        })
        .collect()
}

/// futex_waitv(2).
pub fn futex_waitv(cx: &mut Current, args: Args) -> SysResult {
    let (addr, count, flags) = (args.get(0), args.uint(1) as usize, args.uint(2));
    if flags != 0 || !(1..=MAX_VECTOR).contains(&count) || addr == 0 {
        return Err(Errno::EINVAL.into());
    }
    let deadline = deadline_of(cx, args.get(3), args.int(4))?;
    let words = words(cx, addr, count)?;
    Ok(futex::wait_any(cx, &words, deadline)? as u64)
}

/// futex_wake(2).
pub fn futex_wake(cx: &mut Current, args: Args) -> SysResult {
    let (addr, most) = (args.get(0), args.int(2));
    let private = is_private(args.uint(3))?;
    let bitset = in_word(args.get(1))?;
    if bitset == 0 {
        return Err(Errno::EINVAL.into());
    }
    let key = cx.mm.futex_key(addr, private)?;
    // Unlike futex(2), none means none.
    if most == 0 {
        return Ok(0);
    }
    Ok(futex::wake_plain(&key, bitset, most.max(1).unsigned_abs())?.into())
}

/// futex_wait(2).
pub fn futex_wait(cx: &mut Current, args: Args) -> SysResult {
    let private = is_private(args.uint(3))?;
    let (value, bitset) = (in_word(args.get(1))?, in_word(args.get(2))?);
    let deadline = deadline_of(cx, args.get(4), args.int(5))?;
    match futex::wait(cx, args.get(0), value, bitset, private, deadline) {
        // Its deadline is absolute, so that it can begin anew.
        Err(SysError::Interrupted(_)) => Err(SysError::Interrupted(Restart::Sys)),
        result => result.map(|()| 0),
    }
}

/// futex_requeue(2).
pub fn futex_requeue(cx: &mut Current, args: Args) -> SysResult {
    let (wake, requeue) = (args.int(2), args.int(3));
    if args.uint(1) != 0 || args.get(0) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let words = words(cx, args.get(0), 2)?;
    let [from, to] = *words else { return Err(Errno::EINVAL.into()) };
    if wake < 0 || requeue < 0 {
        return Err(Errno::EINVAL.into());
    }
    let key = cx.mm.futex_key(from.addr, from.private)?;
    let target = cx.mm.futex_key(to.addr, to.private)?;
    let (woken, moved) = futex::requeue(
        &cx.mm,
        (from.addr, key),
        target,
        wake.unsigned_abs(),
        requeue.unsigned_abs(),
        Some(from.value),
    )?;
    Ok(u64::from(woken).saturating_add(moved.into()))
}
