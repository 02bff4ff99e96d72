//! prctl(2), arch_prctl(2), personality(2).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::platform::platform;
use crate::task::{COMM_LEN, Comm, Creds, Current, cap, has_cap, securebits};

/// Options of prctl(2) (linux/prctl.h).
#[allow(missing_docs)]
mod pr {
    pub const SET_PDEATHSIG: i32 = 1;
    pub const GET_PDEATHSIG: i32 = 2;
    pub const GET_DUMPABLE: i32 = 3;
    pub const SET_DUMPABLE: i32 = 4;
    pub const GET_KEEPCAPS: i32 = 7;
    pub const SET_KEEPCAPS: i32 = 8;
    pub const GET_TIMING: i32 = 13;
    pub const SET_TIMING: i32 = 14;
    pub const SET_NAME: i32 = 15;
    pub const GET_NAME: i32 = 16;
    pub const GET_SECCOMP: i32 = 21;
    pub const SET_SECCOMP: i32 = 22;
    pub const CAPBSET_READ: i32 = 23;
    pub const CAPBSET_DROP: i32 = 24;
    pub const GET_TSC: i32 = 25;
    pub const SET_TSC: i32 = 26;
    pub const GET_SECUREBITS: i32 = 27;
    pub const SET_SECUREBITS: i32 = 28;
    pub const SET_TIMERSLACK: i32 = 29;
    pub const GET_TIMERSLACK: i32 = 30;
    pub const MCE_KILL: i32 = 33;
    pub const MCE_KILL_GET: i32 = 34;
    pub const SET_MM: i32 = 35;
    pub const SET_CHILD_SUBREAPER: i32 = 36;
    pub const GET_CHILD_SUBREAPER: i32 = 37;
    pub const SET_NO_NEW_PRIVS: i32 = 38;
    pub const GET_NO_NEW_PRIVS: i32 = 39;
    pub const GET_TID_ADDRESS: i32 = 40;
    pub const SET_THP_DISABLE: i32 = 41;
    pub const GET_THP_DISABLE: i32 = 42;
    pub const CAP_AMBIENT: i32 = 47;
    pub const GET_SPECULATION_CTRL: i32 = 52;
    pub const SET_SPECULATION_CTRL: i32 = 53;
    pub const SET_SYSCALL_USER_DISPATCH: i32 = 59;
    pub const SCHED_CORE: i32 = 62;
    pub const SET_IO_FLUSHER: i32 = 57;
    pub const GET_IO_FLUSHER: i32 = 58;
    pub const SET_VMA: i32 = 0x5356_4d41;
    pub const SET_PTRACER: i32 = 0x5961_6d61;
}

/// PR_SET_TSC (linux/prctl.h).
const PR_TSC_ENABLE: u32 = 1;
const PR_TSC_SIGSEGV: u32 = 2;

/// prctl(2).
pub fn prctl(cx: &mut Current, args: Args) -> SysResult {
    let [_, a, b, c, d, _] = args.0;
    let rest_zero = b == 0 && c == 0 && d == 0;
    match args.int(0) {
        pr::SET_PDEATHSIG => {
            if a > 64 {
                return Err(Errno::EINVAL.into());
            }
            cx.task.parent_death_signal.store(a as u8, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_PDEATHSIG => {
            let signal = u32::from(cx.task.parent_death_signal.load(Ordering::Relaxed));
            cx.mm.copy_out(a, &signal.to_le_bytes())?;
            Ok(0)
        }
        pr::GET_DUMPABLE => Ok(cx.task.process.dumpable.load(Ordering::Relaxed).into()),
        pr::SET_DUMPABLE if a <= 1 => {
            cx.task.process.dumpable.store(a == 1, Ordering::Relaxed);
            Ok(0)
        }
        pr::SET_NAME => {
            // A name that is too long is cut, so at most that many bytes are read.
            let mut name = [0; COMM_LEN];
            for (n, byte) in name.iter_mut().enumerate() {
                let mut one = [0];
                cx.mm.copy_in(a.wrapping_add(n as u64), &mut one)?;
                let [read] = one;
                if read == 0 {
                    break;
                }
                *byte = read;
            }
            *cx.task.name.lock() = Comm::new(&name);
            Ok(0)
        }
        pr::GET_NAME => {
            let comm = *cx.task.name.lock();
            let mut name = [0; COMM_LEN + 1];
            for (to, from) in name.iter_mut().zip(comm.as_bytes()) {
                *to = *from;
            }
            cx.mm.copy_out(a, &name)?;
            Ok(0)
        }
        pr::GET_TIMING => Ok(0),
        pr::SET_TIMING if a == 0 => Ok(0),
        pr::GET_SECCOMP => Ok(cx.task.seccomp.lock().mode().into()),
        pr::SET_SECCOMP => super::filter::prctl_set(cx, a, b),
        pr::GET_TSC => {
            let mode = if cx.tsc_faults { PR_TSC_SIGSEGV } else { PR_TSC_ENABLE };
            cx.mm.copy_out(a, &mode.to_le_bytes())?;
            Ok(0)
        }
        pr::SET_TSC if args.uint(1) == PR_TSC_ENABLE || args.uint(1) == PR_TSC_SIGSEGV => {
            cx.set_tsc_faults(args.uint(1) == PR_TSC_SIGSEGV)?;
            Ok(0)
        }
        pr::MCE_KILL => mce_kill(cx, a, b, c == 0 && d == 0),
        pr::MCE_KILL_GET if a == 0 && rest_zero => Ok(cx.task.sched.lock().mce_kill.into()),
        pr::SET_IO_FLUSHER | pr::GET_IO_FLUSHER if !cx.creds.capable(cap::SYS_RESOURCE) => {
            Err(Errno::EPERM.into())
        }
        pr::SET_IO_FLUSHER if a <= 1 && rest_zero => {
            cx.task.sched.lock().io_flusher = a == 1;
            Ok(0)
        }
        pr::GET_IO_FLUSHER if a == 0 && rest_zero => Ok(cx.task.sched.lock().io_flusher.into()),
        pr::SET_MM => super::setmm::set(cx, a, b, c, d),
        pr::GET_SPECULATION_CTRL if rest_zero => speculation(a),
        pr::SET_SPECULATION_CTRL if c == 0 && d == 0 => set_speculation(a, b),
        pr::SET_SYSCALL_USER_DISPATCH => cx.set_user_dispatch(a, b, c, d),
        // No processor here shares a core with another.
        pr::SCHED_CORE => Err(Errno::ENODEV.into()),
        pr::SET_VMA => name_area(cx, a, b, c, d),
        pr::CAPBSET_READ
        | pr::CAPBSET_DROP
        | pr::CAP_AMBIENT
        | pr::GET_KEEPCAPS
        | pr::SET_KEEPCAPS
        | pr::GET_SECUREBITS
        | pr::SET_SECUREBITS => capabilities(cx, args.int(0), a, b, c == 0 && d == 0),
        pr::SET_TIMERSLACK => {
            cx.task.sched.lock().timer_slack = if a == 0 { 50_000 } else { a };
            Ok(0)
        }
        pr::GET_TIMERSLACK => Ok(cx.task.sched.lock().timer_slack),
        pr::SET_CHILD_SUBREAPER => {
            cx.task.process.is_subreaper.store(a != 0, Ordering::Relaxed);
            Ok(0)
        }
        pr::GET_CHILD_SUBREAPER => {
            let is = u32::from(cx.task.process.is_subreaper.load(Ordering::Relaxed));
            cx.mm.copy_out(a, &is.to_le_bytes())?;
            Ok(0)
        }
        pr::SET_NO_NEW_PRIVS if a == 1 && rest_zero => {
            cx.set_creds(Creds { no_new_privs: true, ..(*cx.creds).clone() });
            Ok(0)
        }
        pr::GET_NO_NEW_PRIVS if a == 0 && rest_zero => Ok(cx.creds.no_new_privs.into()),
        pr::GET_TID_ADDRESS => {
            let addr = cx.task.clear_child_tid.load(Ordering::Relaxed);
            cx.mm.copy_out(a, &addr.to_le_bytes())?;
            Ok(0)
        }
        // There are no huge pages to be had: wanting none is granted.
        pr::SET_THP_DISABLE if rest_zero => Ok(0),
        pr::GET_THP_DISABLE if a == 0 && rest_zero => Ok(0),
        // Yama is not there; who asks is to go on as on a kernel without it.
        pr::SET_PTRACER => Err(Errno::EINVAL.into()),
        _ => Err(Errno::EINVAL.into()),
    }
}

/// What a task can have speculated or not (PR_SPEC_, linux/prctl.h).
mod speculation {
    pub const STORE_BYPASS: u64 = 0;
    pub const INDIRECT_BRANCH: u64 = 1;
    pub const L1D_FLUSH: u64 = 2;
    pub const ENABLE: u64 = 1 << 1;
    pub const DISABLE: u64 = 1 << 2;
    pub const FORCE_DISABLE: u64 = 1 << 3;
}

/// PR_GET_SPECULATION_CTRL: it is as for everybody, and no task has a choice.
fn speculation(what: u64) -> SysResult {
    match what {
        speculation::STORE_BYPASS | speculation::INDIRECT_BRANCH => Ok(speculation::ENABLE),
        speculation::L1D_FLUSH => Ok(speculation::FORCE_DISABLE),
        _ => Err(Errno::ENODEV.into()),
    }
}

/// PR_SET_SPECULATION_CTRL: Linux's errors where a task has no choice.
fn set_speculation(what: u64, control: u64) -> SysResult {
    match (what, control) {
        (speculation::STORE_BYPASS, _) => Err(Errno::ENXIO.into()),
        (speculation::INDIRECT_BRANCH, speculation::ENABLE) => Ok(0),
        (speculation::INDIRECT_BRANCH, speculation::DISABLE | speculation::FORCE_DISABLE) => {
            Err(Errno::EPERM.into())
        }
        (speculation::INDIRECT_BRANCH, _) => Err(Errno::ERANGE.into()),
        (speculation::L1D_FLUSH, _) => Err(Errno::EPERM.into()),
        _ => Err(Errno::ENODEV.into()),
    }
}

/// PR_MCE_KILL.
fn mce_kill(cx: &Current, what: u64, policy: u64, rest_zero: bool) -> SysResult {
    const CLEAR: u64 = 0;
    const SET: u64 = 1;
    const DEFAULT: u8 = 2;
    let policy = match what {
        CLEAR if policy == 0 && rest_zero => DEFAULT,
        SET if policy <= DEFAULT.into() && rest_zero => policy as u8,
        _ => return Err(Errno::EINVAL.into()),
    };
    cx.task.sched.lock().mce_kill = policy;
    Ok(0)
}

/// PR_SET_VMA, whose one operation names anonymous memory.
fn name_area(cx: &Current, what: u64, start: u64, len: u64, name: u64) -> SysResult {
    /// With the zero (ANON_VMA_NAME_MAX_LEN).
    const LONGEST: usize = 80;
    let fits = |b: &u8| matches!(b, 0x20..=0x7e) && !b"\\`$[]".contains(b);
    if what != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name: Option<Arc<[u8]>> = match name {
        0 => None,
        name => {
            let name = cx.mm.copy_in_string(name, LONGEST).map_err(|e| match e {
                Errno::ENAMETOOLONG => Errno::EINVAL,
                e => e,
            })?;
            Some(name.into())
        }
    };
    if name.as_ref().is_some_and(|name| !name.iter().all(fits)) {
        return Err(Errno::EINVAL.into());
    }
    cx.mm.set_name(start, len, name.as_ref())?;
    Ok(0)
}

/// Those that change or show capabilities.
fn capabilities(cx: &mut Current, option: i32, a: u64, b: u64, rest_zero: bool) -> SysResult {
    let old = cx.creds.clone();
    let mut new = (*old).clone();
    let number = u32::try_from(a).ok().filter(|n| *n <= cap::LAST);
    match option {
        pr::CAPBSET_READ => {
            let number = number.ok_or(Errno::EINVAL)?;
            return Ok(has_cap(old.capabilities.bounding, number).into());
        }
        pr::CAPBSET_DROP => {
            if !old.own_capable(cap::SETPCAP) {
                return Err(Errno::EPERM.into());
            }
            new.capabilities.bounding &= !(1u64 << number.ok_or(Errno::EINVAL)?);
        }
        pr::GET_KEEPCAPS => return Ok((old.securebits & securebits::KEEP_CAPS != 0).into()),
        pr::SET_KEEPCAPS => {
            if a > 1 {
                return Err(Errno::EINVAL.into());
            }
            if old.securebits & securebits::KEEP_CAPS_LOCKED != 0 {
                return Err(Errno::EPERM.into());
            }
            new.securebits &= !securebits::KEEP_CAPS;
            if a == 1 {
                new.securebits |= securebits::KEEP_CAPS;
            }
        }
        pr::GET_SECUREBITS => return Ok(old.securebits.into()),
        pr::SET_SECUREBITS => {
            let bits = a as u32;
            let locked = (old.securebits & securebits::ALL_LOCKS) >> 1;
            if locked & (old.securebits ^ bits) != 0
                || old.securebits & securebits::ALL_LOCKS & !bits != 0
                || u64::from(bits) != a
                || bits & !(securebits::ALL_LOCKS | securebits::ALL_BITS) != 0
                || !old.own_capable(cap::SETPCAP)
            {
                return Err(Errno::EPERM.into());
            }
            new.securebits = bits;
        }
        _ => return ambient(cx, a, b, rest_zero),
    }
    if new != *old {
        cx.set_creds(new);
    }
    Ok(0)
}

/// PR_CAP_AMBIENT.
fn ambient(cx: &mut Current, what: u64, number: u64, rest_zero: bool) -> SysResult {
    const IS_SET: u64 = 1;
    const RAISE: u64 = 2;
    const LOWER: u64 = 3;
    const CLEAR_ALL: u64 = 4;
    if !rest_zero {
        return Err(Errno::EINVAL.into());
    }
    let mut new = (*cx.creds).clone();
    let caps = &mut new.capabilities;
    if what == CLEAR_ALL {
        if number != 0 {
            return Err(Errno::EINVAL.into());
        }
        caps.ambient = 0;
    } else {
        let number = u32::try_from(number).ok().filter(|n| *n <= cap::LAST).ok_or(Errno::EINVAL)?;
        let bit = 1u64 << number;
        match what {
            IS_SET => return Ok((caps.ambient & bit != 0).into()),
            RAISE => {
                if caps.permitted & caps.inheritable & bit == 0
                    || cx.creds.securebits & securebits::NO_CAP_AMBIENT_RAISE != 0
                {
                    return Err(Errno::EPERM.into());
                }
                caps.ambient |= bit;
            }
            LOWER => caps.ambient &= !bit,
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    cx.set_creds(new);
    Ok(0)
}

/// Operations of arch_prctl(2) (asm/prctl.h).
mod arch {
    pub const SET_GS: i32 = 0x1001;
    pub const SET_FS: i32 = 0x1002;
    pub const GET_FS: i32 = 0x1003;
    pub const GET_GS: i32 = 0x1004;
    pub const GET_CPUID: i32 = 0x1011;
    pub const SET_CPUID: i32 = 0x1012;
}

/// arch_prctl(2).
pub fn arch_prctl(cx: &mut Current, args: Args) -> SysResult {
    let value = args.get(1);
    match args.int(0) {
        arch::SET_FS | arch::SET_GS if value >= platform().user_range().end => {
            return Err(Errno::EPERM.into());
        }
        arch::SET_FS => cx.regs.fs_base = value,
        arch::SET_GS => cx.regs.gs_base = value,
        arch::GET_FS => cx.mm.copy_out(value, &cx.regs.fs_base.to_le_bytes())?,
        arch::GET_GS => cx.mm.copy_out(value, &cx.regs.gs_base.to_le_bytes())?,
        arch::GET_CPUID => return Ok(1),
        // CPUID does not fault here.
        arch::SET_CPUID => return Err(Errno::ENODEV.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

/// personality(2): kept and given back; what it changes is for exec and uname(2).
pub fn personality(cx: &mut Current, args: Args) -> SysResult {
    let process = &cx.task.process;
    let old = process.personality.load(Ordering::Relaxed);
    if args.uint(0) != u32::MAX {
        process.personality.store(args.uint(0), Ordering::Relaxed);
    }
    Ok(old.into())
}
