//! futex(2).

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::futex::{self, MATCH_ANY};
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
    if realtime && !matches!(command, op::WAIT_BITSET | op::LOCK_PI2) {
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
                    _ => time,
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
            Ok(futex::wake(&key, bitset, value.max(1)).into())
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
                Some(if real { Clock::Realtime.to_monotonic(time) } else { time })
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
        _ => Err(Errno::ENOSYS.into()),
    }
}
