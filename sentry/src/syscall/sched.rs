//! Scheduling: who runs where. Policies and priorities are data that is kept and given back; the
//! platform's scheduler honours the affinity.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::platform::{ThreadId, platform};
use crate::task::{Current, Process, Sched, Task, cap, limit};
use crate::time::TimeSpec;

/// Policies (linux/sched.h).
mod policy {
    pub const OTHER: u32 = 0;
    pub const FIFO: u32 = 1;
    pub const RR: u32 = 2;
    pub const BATCH: u32 = 3;
    pub const IDLE: u32 = 5;
    pub const DEADLINE: u32 = 6;
    pub const RESET_ON_FORK: u32 = 0x4000_0000;
}

fn is_realtime(policy: u32) -> bool {
    policy == policy::FIFO || policy == policy::RR
}

/// sched_yield(2).
pub fn sched_yield(_cx: &mut Current, _args: Args) -> SysResult {
    platform().yield_now();
    Ok(0)
}

fn find(cx: &Current, tid: i32) -> Result<Arc<Task>, Errno> {
    match u32::try_from(tid) {
        Ok(0) => Ok(cx.task.clone()),
        Ok(tid) => cx.task.process.pidns.task(tid).ok_or(Errno::ESRCH),
        Err(_) => Err(Errno::EINVAL),
    }
}

/// Whether the caller may change how a task is scheduled.
fn owns(cx: &Current, task: &Task) -> bool {
    is_same_owner(cx, task) || cx.creds.ns_capable(&task.creds().userns, cap::SYS_NICE)
}

fn is_same_owner(cx: &Current, task: &Task) -> bool {
    let theirs = task.creds();
    cx.creds.euid == theirs.euid || cx.creds.euid == theirs.uid
}

/// Words of a set of all CPUs.
fn all_cpus() -> Vec<u64> {
    let cpus = platform().cpus().max(1) as usize;
    let mut set = vec![u64::MAX; cpus.div_ceil(64)];
    if let Some(last) = set.last_mut()
        && !cpus.is_multiple_of(64)
    {
        *last = (1u64 << (cpus % 64)).wrapping_sub(1);
    }
    set
}

/// sched_setaffinity(2).
pub fn sched_setaffinity(cx: &mut Current, args: Args) -> SysResult {
    let all = all_cpus();
    let task = find(cx, args.int(0)).map_err(|_| Errno::ESRCH)?;
    let len = args.size(1).min(all.len().saturating_mul(8));
    let mut bytes = vec![0; all.len().saturating_mul(8)];
    cx.mm.copy_in(args.get(2), bytes.get_mut(..len).unwrap_or(&mut []))?;
    if !owns(cx, &task) {
        return Err(Errno::EPERM.into());
    }
    let set: Vec<u64> = bytes
        .as_chunks::<8>()
        .0
        .iter()
        .zip(&all)
        .map(|(word, all)| u64::from_le_bytes(*word) & all)
        .collect();
    if set.iter().all(|word| *word == 0) {
        return Err(Errno::EINVAL.into());
    }
    task.sched.lock().affinity = set.clone();
    let thread = task.thread.load(Ordering::SeqCst);
    if thread != 0 {
        platform().place(ThreadId(thread), &set);
    }
    Ok(0)
}

/// sched_getaffinity(2): the size of the kernel's set.
pub fn sched_getaffinity(cx: &mut Current, args: Args) -> SysResult {
    let task = find(cx, args.int(0)).map_err(|_| Errno::ESRCH)?;
    let len = args.uint(1);
    let all = all_cpus();
    // The product wraps in Linux, too.
    if len.wrapping_mul(8) < platform().cpus() || !len.is_multiple_of(8) {
        return Err(Errno::EINVAL.into());
    }
    let set = {
        let sched = task.sched.lock();
        if sched.affinity.is_empty() { all } else { sched.affinity.clone() }
    };
    let bytes: Vec<u8> = set.iter().flat_map(|word| word.to_le_bytes()).collect();
    let n = bytes.len().min(len as usize);
    cx.mm.copy_out(args.get(2), bytes.get(..n).unwrap_or(&[]))?;
    Ok(n as u64)
}

/// getcpu(2).
pub fn getcpu(cx: &mut Current, args: Args) -> SysResult {
    if args.get(0) != 0 {
        cx.mm.copy_out(args.get(0), &cx.user.cpu().to_le_bytes())?;
    }
    if args.get(1) != 0 {
        // One memory node.
        cx.mm.copy_out(args.get(1), &0u32.to_le_bytes())?;
    }
    Ok(0)
}

/// Checks and sets policy and priority.
fn set(cx: &Current, task: &Task, new: Sched) -> Result<(), Errno> {
    may_set(cx, task, &new)?;
    *task.sched.lock() = new;
    Ok(())
}

/// Whether the caller may set them, and they can be set.
fn may_set(cx: &Current, task: &Task, new: &Sched) -> Result<(), Errno> {
    let valid = matches!(
        new.policy,
        policy::OTHER | policy::FIFO | policy::RR | policy::BATCH | policy::IDLE
    );
    let range = if is_realtime(new.policy) { 1..=99 } else { 0..=0 };
    if !valid || !range.contains(&new.priority) {
        return Err(Errno::EINVAL);
    }
    let old = task.sched.lock().clone();
    if !cx.creds.capable(cap::SYS_NICE) {
        if is_realtime(new.policy) {
            let most = task.process.limits.soft(limit::RLIMIT_RTPRIO);
            let raises = new.priority > old.priority && u64::from(new.priority) > most;
            if raises || (new.policy != old.policy && most == 0) {
                return Err(Errno::EPERM);
            }
        }
        if new.nice < old.nice && !may_nice(&task.process, new.nice) {
            return Err(Errno::EPERM);
        }
        if !is_same_owner(cx, task) || (old.reset_on_fork && !new.reset_on_fork) {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// RLIMIT_NICE: from 20 (nice 0) to 40 (nice -20).
fn may_nice(process: &Process, nice: i32) -> bool {
    i64::from(20i32.saturating_sub(nice))
        <= i64::try_from(process.limits.soft(limit::RLIMIT_NICE)).unwrap_or(i64::MAX)
}

/// sched_setscheduler(2).
pub fn sched_setscheduler(cx: &mut Current, args: Args) -> SysResult {
    let (tid, number) = (args.int(0), args.int(1));
    if number < 0 || tid < 0 || args.get(2) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = cx.mm.copy_in_u32(args.get(2))?;
    let task = find(cx, tid)?;
    let number = number.unsigned_abs();
    let new = Sched {
        policy: number & !policy::RESET_ON_FORK,
        priority,
        reset_on_fork: number & policy::RESET_ON_FORK != 0,
        ..task.sched.lock().clone()
    };
    set(cx, &task, new)?;
    Ok(0)
}

/// sched_getscheduler(2).
pub fn sched_getscheduler(cx: &mut Current, args: Args) -> SysResult {
    let task = find(cx, args.int(0))?;
    let sched = task.sched.lock();
    Ok(u64::from(sched.policy | if sched.reset_on_fork { policy::RESET_ON_FORK } else { 0 }))
}

/// sched_setparam(2).
pub fn sched_setparam(cx: &mut Current, args: Args) -> SysResult {
    if args.get(1) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = cx.mm.copy_in_u32(args.get(1))?;
    let task = find(cx, args.int(0))?;
    let new = Sched { priority, ..task.sched.lock().clone() };
    set(cx, &task, new)?;
    Ok(0)
}

/// sched_getparam(2).
pub fn sched_getparam(cx: &mut Current, args: Args) -> SysResult {
    if args.get(1) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let priority = find(cx, args.int(0))?.sched.lock().priority;
    cx.mm.copy_out(args.get(1), &priority.to_le_bytes())?;
    Ok(0)
}

fn priority_range(number: u32) -> Result<(u64, u64), Errno> {
    match number {
        policy::FIFO | policy::RR => Ok((1, 99)),
        policy::OTHER | policy::BATCH | policy::IDLE | policy::DEADLINE => Ok((0, 0)),
        _ => Err(Errno::EINVAL),
    }
}

/// sched_get_priority_max(2).
pub fn sched_get_priority_max(_cx: &mut Current, args: Args) -> SysResult {
    Ok(priority_range(args.uint(0))?.1)
}

/// sched_get_priority_min(2).
pub fn sched_get_priority_min(_cx: &mut Current, args: Args) -> SysResult {
    Ok(priority_range(args.uint(0))?.0)
}

/// sched_rr_get_interval(2).
pub fn sched_rr_get_interval(cx: &mut Current, args: Args) -> SysResult {
    let rr = find(cx, args.int(0))?.sched.lock().policy == policy::RR;
    // RR_TIMESLICE, and nothing fixed for others.
    TimeSpec::from_ns(if rr { 100_000_000 } else { 4_000_000 }).write(&cx.mm, args.get(1))?;
    Ok(0)
}

/// Bytes of `struct sched_attr`, version 0.
const SCHED_ATTR: usize = 48;
/// Bytes of version 1, which has bounds of use besides.
const SCHED_ATTR_CLAMPED: usize = 56;

/// sched_getattr(2).
pub fn sched_getattr(cx: &mut Current, args: Args) -> SysResult {
    let size = args.uint(2) as usize;
    if args.get(1) == 0 || !(SCHED_ATTR..=4096).contains(&size) || args.uint(3) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let sched = find(cx, args.int(0))?.sched.lock().clone();
    let mut bytes = [0u8; SCHED_ATTR];
    let words = [
        SCHED_ATTR as u32,
        sched.policy,
        u32::from(sched.reset_on_fork),
        0,
        sched.nice as u32,
        sched.priority,
    ];
    for (to, from) in bytes.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    cx.mm.copy_out(args.get(1), &bytes)?;
    Ok(0)
}

/// sched_setattr(2).
pub fn sched_setattr(cx: &mut Current, args: Args) -> SysResult {
    const RESET_ON_FORK: u64 = 1;
    const RECLAIM: u64 = 2;
    const DL_OVERRUN: u64 = 4;
    const KEEP_POLICY: u64 = 8;
    const KEEP_PARAMS: u64 = 0x10;
    const UTIL_CLAMP: u64 = 0x60;
    if args.get(1) == 0 || args.int(0) < 0 || args.uint(2) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let size = match cx.mm.copy_in_u32(args.get(1))? as usize {
        0 => SCHED_ATTR,
        size if size < SCHED_ATTR => return Err(Errno::E2BIG.into()),
        size => size,
    };
    let words = super::read_struct(cx, args.get(1), size, SCHED_ATTR_CLAMPED)?;
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let flags = word(1);
    let policy = (word(0) >> 32) as u32;
    if flags & UTIL_CLAMP != 0 && size < SCHED_ATTR_CLAMPED || (policy as i32) < 0 {
        return Err(Errno::EINVAL.into());
    }
    let task = find(cx, args.int(0))?;
    let old = task.sched.lock().clone();
    let mut new = Sched {
        policy,
        reset_on_fork: flags & RESET_ON_FORK != 0,
        nice: (word(2) as u32 as i32).clamp(-20, 19),
        priority: (word(2) >> 32) as u32,
        ..old.clone()
    };
    if flags & KEEP_PARAMS != 0 {
        match is_realtime(old.policy) {
            true => new.priority = old.priority,
            false => new.nice = old.nice,
        }
    }
    if flags & KEEP_POLICY != 0 {
        new.policy = old.policy;
        new.reset_on_fork = old.reset_on_fork;
    }
    if flags & !(RESET_ON_FORK | RECLAIM | DL_OVERRUN | KEEP_POLICY | KEEP_PARAMS | UTIL_CLAMP) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    if new.policy == policy::DEADLINE {
        // No admission control for deadlines here: as a kernel without bandwidth left.
        return Err(Errno::EBUSY.into());
    }
    if flags & UTIL_CLAMP != 0 {
        // As a kernel without CONFIG_UCLAMP_TASK.
        return Err(Errno::EOPNOTSUPP.into());
    }
    may_set(cx, &task, &new)?;
    if flags & KEEP_PARAMS != 0 {
        // The policy is one of the parameters.
        new = Sched { reset_on_fork: new.reset_on_fork, ..old };
    }
    *task.sched.lock() = new;
    Ok(0)
}

/// PRIO_PROCESS and so on.
fn priority_targets(cx: &Current, which: i32, who: i32) -> Result<Vec<Arc<Task>>, Errno> {
    let own = &cx.task.process;
    let table = own.pids.lock();
    let id = who as u32;
    let all: Vec<Arc<Task>> = match which {
        0 if who == 0 => vec![cx.task.clone()],
        0 => own.pidns.id_of(id).and_then(|id| table.task(id)).cloned().into_iter().collect(),
        1 => {
            let group = if who == 0 { own.group() } else { own.pidns.id_of(id).unwrap_or(0) };
            table.tasks().filter(|t| t.process.group() == group).cloned().collect()
        }
        2 => {
            // A number of nobody's here is none of any task's.
            let uid = if who == 0 { Some(cx.creds.uid) } else { cx.creds.userns.kuid(id) };
            table.tasks().filter(|t| Some(t.shared.lock().creds.uid) == uid).cloned().collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if all.is_empty() { Err(Errno::ESRCH) } else { Ok(all) }
}

/// getpriority(2): the kernel gives 20 less the nice value.
pub fn getpriority(cx: &mut Current, args: Args) -> SysResult {
    let tasks = priority_targets(cx, args.int(0), args.int(1))?;
    let best = tasks.iter().map(|t| t.sched.lock().nice).min().unwrap_or(0);
    Ok(20i32.saturating_sub(best).unsigned_abs().into())
}

/// setpriority(2).
pub fn setpriority(cx: &mut Current, args: Args) -> SysResult {
    let nice = args.int(2).clamp(-20, 19);
    let tasks = priority_targets(cx, args.int(0), args.int(1))?;
    let mut result = Ok(0);
    for task in tasks {
        if !owns(cx, &task) {
            result = Err(Errno::EPERM.into());
            continue;
        }
        let lowers = nice < task.sched.lock().nice;
        if lowers && !cx.creds.capable(cap::SYS_NICE) && !may_nice(&task.process, nice) {
            result = Err(Errno::EACCES.into());
            continue;
        }
        task.sched.lock().nice = nice;
    }
    result
}

/// Classes of I/O priorities (linux/ioprio.h): a priority is a class above 13 bits of data, of which the low 3 are
/// the level, and hints that mean nothing here.
mod ioprio {
    pub const NONE: u32 = 0;
    pub const RT: u32 = 1;
    pub const BE: u32 = 2;
    pub const IDLE: u32 = 3;
    pub const SHIFT: u32 = 13;
    pub const LEVEL: u32 = 7;
    /// IOPRIO_WHO_PROCESS.
    pub const WHO_PROCESS: i32 = 1;
}

/// Targets of the ioprio calls, whose numbers are those of setpriority(2) and one.
fn ioprio_targets(cx: &Current, args: Args) -> Result<Vec<Arc<Task>>, Errno> {
    priority_targets(cx, args.int(0).wrapping_sub(1), args.int(1))
}

/// Whether the caller may have this priority (ioprio_check_cap()).
pub(super) fn check_io_priority(cx: &Current, priority: u32) -> Result<(), Errno> {
    match priority >> ioprio::SHIFT {
        ioprio::RT if !cx.creds.capable(cap::SYS_NICE) && !cx.creds.capable(cap::SYS_ADMIN) => {
            Err(Errno::EPERM)
        }
        ioprio::RT | ioprio::BE | ioprio::IDLE => Ok(()),
        ioprio::NONE if priority & ioprio::LEVEL == 0 => Ok(()),
        _ => Err(Errno::EINVAL),
    }
}

/// ioprio_set(2): kept, as there is no disk of one's own to be scheduled.
pub fn ioprio_set(cx: &mut Current, args: Args) -> SysResult {
    let priority = args.uint(2) & 0xffff;
    check_io_priority(cx, priority)?;
    for task in ioprio_targets(cx, args)? {
        let uid = task.creds().uid;
        if uid != cx.creds.euid && uid != cx.creds.uid && !cx.creds.capable(cap::SYS_NICE) {
            return Err(Errno::EPERM.into());
        }
        let mut sched = task.sched.lock();
        let context = sched.ioprio.get_or_insert_default();
        context.store(priority, Ordering::Relaxed);
    }
    Ok(0)
}

/// ioprio_get(2): a task's as it was set; of several the best of those that count.
pub fn ioprio_get(cx: &mut Current, args: Args) -> SysResult {
    let all = ioprio_targets(cx, args)?;
    let raw = |sched: &Sched| sched.ioprio.as_ref().map(|io| io.load(Ordering::Relaxed));
    let counts = |task: &Arc<Task>| {
        let sched = task.sched.lock();
        match raw(&sched) {
            // The nice value decides (task_nice_ioclass(), task_nice_ioprio()).
            Some(set) if set >> ioprio::SHIFT == ioprio::NONE => {
                let class = match sched.policy {
                    policy::IDLE => ioprio::IDLE,
                    policy::FIFO | policy::RR => ioprio::RT,
                    _ => ioprio::BE,
                };
                let level = sched.nice.saturating_add(20).unsigned_abs() / 5;
                class << ioprio::SHIFT | level
            }
            set => set.unwrap_or(0),
        }
    };
    let priority = if args.int(0) == ioprio::WHO_PROCESS {
        all.first().and_then(|task| raw(&task.sched.lock()))
    } else {
        all.iter().map(counts).min()
    };
    Ok(priority.unwrap_or(0).into())
}
