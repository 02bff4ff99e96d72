//! The system as a whole: names, memory, randomness, resource limits and use.

use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::Ordering;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::platform::{PAGE_SIZE, own_frames, platform};
use crate::task::limit::{RLIMIT_CPU, Rlimit};
use crate::task::personality::{PER_LINUX32, PER_MASK, UNAME26};
use crate::task::{Current, Task, cap, exec};
use crate::time::CpuLimit;

/// The release that uname(2) gives: an ABI that programs know, and whose it is.
pub const RELEASE: &str = "6.1.0-ringwall";
/// The same for programs that expect three numbers that begin with 2.6 (override_release(), kernel/sys.c).
const RELEASE_26: &str = "2.6.61-ringwall";
/// Its version.
pub const VERSION: &str = "#1 SMP PREEMPT_DYNAMIC Ringwall";
/// Bytes of a field of `struct utsname`.
const UTS_FIELD: usize = 65;
/// The longest name (__NEW_UTS_LEN).
const UTS_NAME: usize = 64;

/// uname(2).
pub fn uname(cx: &mut Current, args: Args) -> SysResult {
    let names = cx.namespaces.uts.names.lock().clone();
    let personality = cx.task.process.personality.load(Ordering::Relaxed);
    let release = if personality & UNAME26 != 0 { RELEASE_26 } else { RELEASE };
    let machine: &[u8] = if personality & PER_MASK == PER_LINUX32 { b"i686" } else { b"x86_64" };
    let fields: [&[u8]; 6] = [
        b"Linux",
        &names.host,
        release.as_bytes(),
        VERSION.as_bytes(),
        machine,
        if names.domain.is_empty() { b"(none)" } else { &names.domain },
    ];
    let mut bytes = [0; UTS_FIELD * 6];
    for (to, from) in bytes.chunks_exact_mut(UTS_FIELD).zip(fields) {
        for (to, from) in to.iter_mut().zip(from.iter().take(UTS_NAME)) {
            *to = *from;
        }
    }
    cx.mm.copy_out(args.get(0), &bytes)?;
    Ok(0)
}

fn new_name(cx: &Current, args: Args) -> Result<vec::Vec<u8>, Errno> {
    if !cx.creds.ns_capable(&cx.namespaces.uts.owner, cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let len = usize::try_from(args.int(1)).map_err(|_| Errno::EINVAL)?;
    cx.mm.copy_in_array(args.get(0), len, 1, UTS_NAME)
}

/// sethostname(2).
pub fn sethostname(cx: &mut Current, args: Args) -> SysResult {
    let name = new_name(cx, args)?;
    cx.namespaces.uts.names.lock().host = name;
    Ok(0)
}

/// setdomainname(2).
pub fn setdomainname(cx: &mut Current, args: Args) -> SysResult {
    let name = new_name(cx, args)?;
    cx.namespaces.uts.names.lock().domain = name;
    Ok(0)
}

/// sysinfo(2).
pub fn sysinfo(cx: &mut Current, args: Args) -> SysResult {
    let memory = own_frames();
    let page = PAGE_SIZE as u64;
    let ahead = cx.namespaces.time.boottime_ahead();
    let uptime = platform().monotonic().saturating_add_signed(ahead);
    let [one, five, fifteen] = crate::fs::proc::loads(&cx.task.process.pids);
    let mut bytes = [0; 112];
    let words = [
        uptime / 1_000_000_000,
        one,
        five,
        fifteen,
        memory.most.saturating_mul(page),
        memory.free.saturating_mul(page),
        0, // shared
        0, // buffers
        0, // swap
        0,
        u64::from(cx.task.process.container.tasks.count()) & 0xffff,
        0, // high memory
        0,
        1, // mem_unit
    ];
    for (to, from) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    cx.mm.copy_out(args.get(0), &bytes)?;
    Ok(0)
}

/// getrandom(2).
pub fn getrandom(cx: &mut Current, args: Args) -> SysResult {
    const NONBLOCK: u32 = 1;
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    let flags = args.uint(2);
    if flags & !(NONBLOCK | RANDOM | INSECURE) != 0
        || flags & (RANDOM | INSECURE) == RANDOM | INSECURE
    {
        return Err(Errno::EINVAL.into());
    }
    let len = args.size(1).min(0x1ff_ffff);
    let mut buf = [0; 256];
    let mut done = 0usize;
    while done < len {
        let n = (len - done).min(buf.len());
        let part = buf.get_mut(..n).unwrap_or(&mut []);
        platform().random(part);
        let at = args.get(0).wrapping_add(done as u64);
        if let Err(e) = cx.mm.copy_out(at, part) {
            // What lies before the page that cannot be reached counts.
            let before = PAGE_SIZE - at as usize % PAGE_SIZE;
            match part.get(..before) {
                Some(part) if cx.mm.copy_out(at, part).is_ok() => {
                    done = done.saturating_add(before)
                }
                _ => {}
            }
            return if done > 0 { Ok(done as u64) } else { Err(e.into()) };
        }
        done = done.saturating_add(n);
        if done < len && done.is_multiple_of(PAGE_SIZE) && cx.must_interrupt() {
            break;
        }
    }
    Ok(done as u64)
}

fn set_limit(cx: &Current, task: &Task, number: usize, new: Rlimit) -> Result<Rlimit, Errno> {
    let privileged = cx.creds.capable(cap::SYS_RESOURCE);
    let process = &task.process;
    let old = process.limits.set(number, new, privileged)?;
    if number == RLIMIT_CPU {
        CpuLimit::watch(process);
    }
    if let Some(mm) = task.shared.lock().mm.clone() {
        mm.set_limits(exec::mm_limits(&process.limits));
    }
    Ok(old)
}

fn read_limit(cx: &Current, addr: u64) -> Result<Rlimit, Errno> {
    let mut bytes = [0; 16];
    cx.mm.copy_in(addr, &mut bytes)?;
    Ok(Rlimit { soft: super::word(&bytes, 0), hard: super::word(&bytes, 1) })
}

fn write_limit(cx: &Current, addr: u64, limit: Rlimit) -> Result<(), Errno> {
    cx.mm.copy_out(addr, &limit.soft.to_le_bytes())?;
    cx.mm.copy_out(addr.wrapping_add(8), &limit.hard.to_le_bytes())
}

/// getrlimit(2).
pub fn getrlimit(cx: &mut Current, args: Args) -> SysResult {
    let limit = cx.task.process.limits.get(args.uint(0) as usize)?;
    write_limit(cx, args.get(1), limit)?;
    Ok(0)
}

/// setrlimit(2).
pub fn setrlimit(cx: &mut Current, args: Args) -> SysResult {
    let new = read_limit(cx, args.get(1))?;
    set_limit(cx, &cx.task, args.uint(0) as usize, new)?;
    Ok(0)
}

/// prlimit64(2).
pub fn prlimit64(cx: &mut Current, args: Args) -> SysResult {
    let number = args.uint(1) as usize;
    let new = match args.get(2) {
        0 => None,
        addr => Some(read_limit(cx, addr)?),
    };
    let task = match u32::try_from(args.int(0)) {
        Ok(0) => cx.task.clone(),
        Ok(pid) => cx.task.process.pidns.task(pid).ok_or(Errno::ESRCH)?,
        Err(_) => return Err(Errno::ESRCH.into()),
    };
    if !Arc::ptr_eq(&task.process, &cx.task.process) {
        let theirs = task.creds();
        let same = [theirs.uid, theirs.euid, theirs.suid].iter().all(|id| *id == cx.creds.uid)
            && [theirs.gid, theirs.egid, theirs.sgid].iter().all(|id| *id == cx.creds.gid);
        if !same && !cx.creds.ns_capable(&theirs.userns, cap::SYS_RESOURCE) {
            return Err(Errno::EPERM.into());
        }
    }
    let old = match new {
        None => task.process.limits.get(number)?,
        Some(new) => set_limit(cx, &task, number, new)?,
    };
    if args.get(3) != 0 {
        write_limit(cx, args.get(3), old)?;
    }
    Ok(0)
}

/// getrusage(2).
pub fn getrusage(cx: &mut Current, args: Args) -> SysResult {
    const SELF: i32 = 0;
    const CHILDREN: i32 = -1;
    const THREAD: i32 = 1;
    let process = &cx.task.process;
    let usage = match args.int(0) {
        SELF => process.usage(),
        CHILDREN => *process.used_by_children.lock(),
        THREAD => cx.task.usage(),
        _ => return Err(Errno::EINVAL.into()),
    };
    cx.mm.copy_out(args.get(1), &usage.to_bytes())?;
    Ok(0)
}

/// syslog(2): there is a log, and it is empty.
pub fn syslog(cx: &mut Current, args: Args) -> SysResult {
    let (kind, buf, len) = (args.int(0), args.get(1), args.int(2));
    // Reading all, and the size, are for everybody (kernel.dmesg_restrict is 0).
    if !matches!(kind, 3 | 10) && !cx.creds.capable(cap::SYSLOG) {
        return Err(Errno::EPERM.into());
    }
    match kind {
        0 | 1 | 5..=7 => Ok(0),
        2..=4 if buf == 0 || len < 0 => Err(Errno::EINVAL.into()),
        2..=4 => Ok(0),
        8 if !(1..=8).contains(&len) => Err(Errno::EINVAL.into()),
        8 | 9 => Ok(0),
        10 => Ok(1 << 14),
        _ => Err(Errno::EINVAL.into()),
    }
}
