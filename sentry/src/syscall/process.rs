//! clone, fork, exec, exit, wait, and who a task is among others.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Args;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::{OpenFlags, WalkFlags};
use crate::signal::{SigInfo, Signal, code};
use crate::task::exec::{self, Exec, MAX_ARG_STRLEN};
use crate::task::wait::{ChildEvent, WaitOptions, Which, wait};
use crate::task::{
    AccessMode, CloneArgs, CloneFlags, Current, Pid, Process, UNSHARED, clone, limit, may_access,
};

/// The signal in clone(2)'s flags.
const CSIGNAL: u64 = 0xff;
/// The longest path.
const PATH_MAX: usize = 4096;

fn legacy(flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> CloneArgs {
    CloneArgs {
        flags: CloneFlags::from_bits_truncate(flags & 0xffff_ffff & !CSIGNAL),
        // The two share an argument.
        pidfd: parent_tid,
        child_tid,
        parent_tid,
        exit_signal: (flags & CSIGNAL) as u8,
        stack,
        tls,
        set_tid: Vec::new(),
    }
}

/// clone(2).
pub fn sys_clone(cx: &mut Current, args: Args) -> SysResult {
    let [flags, stack, parent_tid, child_tid, tls, _] = args.0;
    let args = legacy(flags, stack, parent_tid, child_tid, tls);
    if args.flags.contains(CloneFlags::PIDFD | CloneFlags::PARENT_SETTID) {
        return Err(Errno::EINVAL.into());
    }
    Ok(clone(cx, args)?.into())
}

/// fork(2).
pub fn fork(cx: &mut Current, _args: Args) -> SysResult {
    Ok(clone(cx, legacy(Signal::SIGCHLD.number().into(), 0, 0, 0, 0))?.into())
}

/// vfork(2).
pub fn vfork(cx: &mut Current, _args: Args) -> SysResult {
    let flags = (CloneFlags::VFORK | CloneFlags::VM).bits() | u64::from(Signal::SIGCHLD.number());
    Ok(clone(cx, legacy(flags, 0, 0, 0, 0))?.into())
}

/// Bytes of `struct clone_args` in its versions, the longest that is taken: a page.
const CLONE_ARGS_SIZE_VER0: usize = 64;
const CLONE_ARGS_SIZE: usize = 88;

/// clone3(2).
pub fn clone3(cx: &mut Current, args: Args) -> SysResult {
    let (addr, size) = (args.get(0), args.size(1));
    if size < CLONE_ARGS_SIZE_VER0 {
        return Err(Errno::EINVAL.into());
    }
    let words = super::read_struct(cx, addr, size, CLONE_ARGS_SIZE)?;
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let flags = CloneFlags::from_bits(word(0)).ok_or(Errno::EINVAL)?;
    let (stack, stack_size) = (word(5), word(6));
    let signal = word(4);
    if flags.contains(CloneFlags::DETACHED)
        || word(0) & CSIGNAL & !CloneFlags::NEWTIME.bits() != 0
        || signal > 64
        || (signal != 0 && flags.intersects(CloneFlags::THREAD | CloneFlags::PARENT))
        || (stack == 0) != (stack_size == 0)
    {
        return Err(Errno::EINVAL.into());
    }
    // Not more than there can be pid namespaces (MAX_PID_NS_LEVEL).
    let mut set_tid = Vec::new();
    match (word(8), word(9)) {
        (0, 0) => {}
        (addr, count @ 1..=32) if addr != 0 => {
            let mut bytes = [0; 4 * 32];
            let bytes = bytes.get_mut(..count as usize * 4).ok_or(Errno::EINVAL)?;
            cx.mm.copy_in(addr, bytes)?;
            if !cx.creds.capable(crate::task::cap::SYS_ADMIN) {
                return Err(Errno::EPERM.into());
            }
            set_tid.extend(bytes.as_chunks::<4>().0.iter().map(|b| Pid::from_le_bytes(*b)));
        }
        _ => return Err(Errno::EINVAL.into()),
    }
    let args = CloneArgs {
        flags,
        pidfd: word(1),
        child_tid: word(2),
        parent_tid: word(3),
        exit_signal: signal as u8,
        stack: stack.wrapping_add(stack_size),
        tls: word(7),
        set_tid,
    };
    Ok(clone(cx, args)?.into())
}

fn strings(cx: &Current, addr: u64, space: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
    if addr == 0 {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    let mut at = addr;
    loop {
        let pointer = cx.mm.copy_in_u64(at)?;
        if pointer == 0 {
            return Ok(all);
        }
        let string = match cx.mm.copy_in_string(pointer, MAX_ARG_STRLEN) {
            Err(Errno::ENAMETOOLONG) => return Err(Errno::E2BIG),
            other => other?,
        };
        let taken = string.len().saturating_add(1 + 8);
        *space = space.checked_sub(taken).ok_or(Errno::E2BIG)?;
        all.push(string);
        at = at.wrapping_add(8);
    }
}

fn execute(
    cx: &mut Current,
    dirfd: Option<i32>,
    path: u64,
    argv: u64,
    envp: u64,
    flags: u32,
) -> SysResult {
    const AT_FDCWD: i32 = -100;
    const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
    const AT_EMPTY_PATH: u32 = 0x1000;
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = cx.mm.copy_in_string(path, PATH_MAX)?;
    let start = match dirfd {
        Some(fd) if fd != AT_FDCWD && path.first() != Some(&b'/') => {
            Some((fd, cx.files.get_any(fd)?))
        }
        _ => None,
    };
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    walk.set(WalkFlags::EMPTY, flags & AT_EMPTY_PATH != 0);
    let file = match &start {
        None => exec::open(&cx.cx(), None, &path, walk)?,
        Some((_, dir)) => {
            let none = if path.is_empty() { Errno::EACCES } else { Errno::ENOTDIR };
            let at = dir.path().ok_or(none)?;
            exec::open(&cx.cx(), Some(at), &path, walk)?
        }
    };
    // A script is found again by this name, so a descriptor needs one.
    let filename = match &start {
        None => path,
        Some((fd, _)) if path.is_empty() => alloc::format!("/dev/fd/{fd}").into_bytes(),
        Some((fd, _)) => {
            let mut name = alloc::format!("/dev/fd/{fd}/").into_bytes();
            name.extend_from_slice(&path);
            name
        }
    };
    let mut space = exec::arg_space(cx.task.process.limits.soft(limit::RLIMIT_STACK));
    let mut argv = strings(cx, argv, &mut space)?;
    let envp = strings(cx, envp, &mut space)?;
    if argv.is_empty() {
        // As Linux since 5.18: a program always has an argv[0].
        argv.push(Vec::new());
    }
    exec::exec(cx, Exec { file, filename, argv, envp })?;
    Ok(0)
}

/// execve(2).
pub fn execve(cx: &mut Current, args: Args) -> SysResult {
    execute(cx, None, args.get(0), args.get(1), args.get(2), 0)
}

/// execveat(2).
pub fn execveat(cx: &mut Current, args: Args) -> SysResult {
    execute(cx, Some(args.int(0)), args.get(1), args.get(2), args.get(3), args.uint(4))
}

/// _exit(2), of one task.
pub fn exit(cx: &mut Current, args: Args) -> SysResult {
    cx.exit_task((args.int(0) & 0xff) << 8);
    Ok(0)
}

/// exit_group(2).
pub fn exit_group(cx: &mut Current, args: Args) -> SysResult {
    cx.exit_group((args.int(0) & 0xff) << 8);
    Ok(0)
}

/// The id of what the caller names by a number or its negative; 0, which is nobody's, where it names nothing.
fn id_of(cx: &Current, nr: i32) -> Pid {
    cx.task.process.pidns.id_of(nr.unsigned_abs()).unwrap_or(0)
}

/// wait4(2).
pub fn wait4(cx: &mut Current, args: Args) -> SysResult {
    let pid = args.int(0);
    let allowed = WaitOptions::WNOHANG
        | WaitOptions::WSTOPPED
        | WaitOptions::WCONTINUED
        | WaitOptions::WNOTHREAD
        | WaitOptions::WCLONE
        | WaitOptions::WALL;
    let options = WaitOptions::from_bits(args.uint(2)).ok_or(Errno::EINVAL)?;
    if !allowed.contains(options) {
        return Err(Errno::EINVAL.into());
    }
    let which = match pid {
        -1 => Which::Any,
        i32::MIN => return Err(Errno::ESRCH.into()),
        0 => Which::Group(cx.task.process.group()),
        pid if pid < 0 => Which::Group(id_of(cx, pid)),
        pid => Which::Pid(id_of(cx, pid)),
    };
    let Some(waited) = wait(cx, &which, options | WaitOptions::WEXITED)? else { return Ok(0) };
    if args.get(1) != 0 {
        cx.mm.copy_out(args.get(1), &waited.event.status().to_le_bytes())?;
    }
    if args.get(3) != 0 {
        cx.mm.copy_out(args.get(3), &waited.usage.to_bytes())?;
    }
    Ok(waited.pid.into())
}

/// waitid(2).
pub fn waitid(cx: &mut Current, args: Args) -> SysResult {
    match do_waitid(cx, args) {
        // What there is to tell is told where it failed, too: nothing.
        Err(SysError::Errno(e)) if args.get(2) != 0 && e != Errno::EFAULT => {
            cx.mm.copy_out(args.get(2), &[0; 28])?;
            Err(e.into())
        }
        result => result,
    }
}

fn do_waitid(cx: &mut Current, args: Args) -> SysResult {
    const P_ALL: u32 = 0;
    const P_PID: u32 = 1;
    const P_PGID: u32 = 2;
    const P_PIDFD: u32 = 3;
    let id = args.int(1);
    let options = WaitOptions::from_bits(args.uint(3)).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::WEXITED | WaitOptions::WSTOPPED | WaitOptions::WCONTINUED) {
        return Err(Errno::EINVAL.into());
    }
    let mut nonblocking = false;
    let which = match args.uint(0) {
        P_ALL => Which::Any,
        P_PID if id > 0 => Which::Pid(id_of(cx, id)),
        P_PGID if id == 0 => Which::Group(cx.task.process.group()),
        P_PGID if id > 0 => Which::Group(id_of(cx, id)),
        P_PIDFD if id >= 0 => {
            let (process, flags) = crate::task::pidfd::process_of(cx, id)?;
            nonblocking = flags.contains(OpenFlags::NONBLOCK);
            Which::Process(process)
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let mut how = options;
    how.set(WaitOptions::WNOHANG, nonblocking || options.contains(WaitOptions::WNOHANG));
    let waited = wait(cx, &which, how)?;
    if waited.is_none() && nonblocking && !options.contains(WaitOptions::WNOHANG) {
        return Err(Errno::EAGAIN.into());
    }
    let mut info = [0; crate::signal::SIGINFO_SIZE];
    if let Some(waited) = &waited {
        let (code, status) = match waited.event {
            ChildEvent::Ended(status) if status & 0x7f == 0 => {
                (code::CLD_EXITED, status >> 8 & 0xff)
            }
            ChildEvent::Ended(status) => (code::CLD_KILLED, status & 0x7f),
            ChildEvent::Stopped(signal) => (code::CLD_STOPPED, signal.number().into()),
            ChildEvent::Trapped(status) => (code::CLD_TRAPPED, status),
            ChildEvent::Continued => (code::CLD_CONTINUED, Signal::SIGCONT.number().into()),
        };
        let uid = cx.creds.userns.uid(waited.uid);
        let child = SigInfo::child(Signal::SIGCHLD, code, waited.pid, uid, status, (0, 0));
        info = child.to_bytes();
        if args.get(4) != 0 {
            cx.mm.copy_out(args.get(4), &waited.usage.to_bytes())?;
        }
    }
    if args.get(2) != 0 {
        // Linux writes these fields alone: up to si_status.
        cx.mm.copy_out(args.get(2), info.get(..28).unwrap_or(&[]))?;
    }
    Ok(0)
}

/// getpid(2).
pub fn getpid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.task.process.vpid.into())
}

/// gettid(2).
pub fn gettid(cx: &mut Current, _args: Args) -> SysResult {
    Ok(cx.task.vtid().into())
}

/// getppid(2).
pub fn getppid(cx: &mut Current, _args: Args) -> SysResult {
    let process = &cx.task.process;
    Ok(process.pidns.nr(process.parent_pid()).into())
}

fn find(cx: &Current, pid: i32) -> Result<Arc<Process>, Errno> {
    match u32::try_from(pid) {
        Ok(0) => Ok(cx.task.process.clone()),
        Ok(pid) => {
            let pids = &cx.task.process.pidns;
            // Any task's id names its process here.
            pids.process(pid)
                .or_else(|| pids.task(pid).map(|t| t.process.clone()))
                .ok_or(Errno::ESRCH)
        }
        Err(_) => Err(Errno::ESRCH),
    }
}

/// getpgrp(2).
pub fn getpgrp(cx: &mut Current, _args: Args) -> SysResult {
    let process = &cx.task.process;
    Ok(process.pidns.nr(process.group()).into())
}

/// getpgid(2).
pub fn getpgid(cx: &mut Current, args: Args) -> SysResult {
    let group = find(cx, args.int(0))?.group();
    Ok(cx.task.process.pidns.nr(group).into())
}

/// getsid(2).
pub fn getsid(cx: &mut Current, args: Args) -> SysResult {
    let session = find(cx, args.int(0))?.session();
    Ok(cx.task.process.pidns.nr(session).into())
}

/// setpgid(2).
pub fn setpgid(cx: &mut Current, args: Args) -> SysResult {
    let own = &cx.task.process;
    let (pid, group) = (args.int(0), args.int(1));
    // The group 0 is the one of the process's own number.
    if group < 0 || group == 0 && pid < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut table = own.pids.lock();
    let target = match u32::try_from(pid) {
        Ok(0) => own.clone(),
        Ok(_) => table.process(id_of(cx, pid)).ok_or(Errno::ESRCH)?.clone(),
        Err(_) => return Err(Errno::ESRCH.into()),
    };
    let group: Pid = if group == 0 { target.pid } else { id_of(cx, group) };
    if !Arc::ptr_eq(&target, own) {
        if !target.parent().is_some_and(|p| Arc::ptr_eq(&p, own)) {
            return Err(Errno::ESRCH.into());
        }
        if target.session() != own.session() {
            return Err(Errno::EPERM.into());
        }
        if target.has_executed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES.into());
        }
    }
    // A session's leader stays where it is.
    if target.session() == target.pid {
        return Err(Errno::EPERM.into());
    }
    if group != target.pid && !table.group(group).iter().any(|p| p.session() == own.session()) {
        return Err(Errno::EPERM.into());
    }
    if target.group() != group {
        let session = target.session();
        table.move_to(&target, group, session);
    }
    Ok(0)
}

/// setsid(2).
pub fn setsid(cx: &mut Current, _args: Args) -> SysResult {
    let own = &cx.task.process;
    let mut table = own.pids.lock();
    if own.session() == own.pid || !table.group(own.pid).is_empty() {
        return Err(Errno::EPERM.into());
    }
    table.move_to(own, own.pid, own.pid);
    drop(table);
    let old = own.terminal.lock().take();
    drop(old);
    Ok(own.vpid.into())
}

/// set_tid_address(2).
pub fn set_tid_address(cx: &mut Current, args: Args) -> SysResult {
    cx.task.clear_child_tid.store(args.get(0), Ordering::Relaxed);
    Ok(cx.task.vtid().into())
}

/// Bytes of `struct robust_list_head`.
const ROBUST_LIST_HEAD: usize = 24;

/// set_robust_list(2).
pub fn set_robust_list(cx: &mut Current, args: Args) -> SysResult {
    if args.size(1) != ROBUST_LIST_HEAD {
        return Err(Errno::EINVAL.into());
    }
    cx.task.robust_list.store(args.get(0), Ordering::Relaxed);
    Ok(0)
}

/// get_robust_list(2).
pub fn get_robust_list(cx: &mut Current, args: Args) -> SysResult {
    let task = match u32::try_from(args.int(0)) {
        Ok(0) => cx.task.clone(),
        Ok(tid) => cx.task.process.pidns.task(tid).ok_or(Errno::ESRCH)?,
        Err(_) => return Err(Errno::ESRCH.into()),
    };
    if !may_access(Some(&cx.task), &cx.creds, &task, AccessMode::RealCreds) {
        return Err(Errno::EPERM.into());
    }
    cx.mm.copy_out(args.get(2), &(ROBUST_LIST_HEAD as u64).to_le_bytes())?;
    let head = task.robust_list.load(Ordering::Relaxed);
    cx.mm.copy_out(args.get(1), &head.to_le_bytes())?;
    Ok(0)
}

/// unshare(2).
pub fn unshare(cx: &mut Current, args: Args) -> SysResult {
    // All 64 bits count, unlike clone(2)'s.
    if args.get(0) >> 32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    use CloneFlags as F;
    const NAMESPACES: F = UNSHARED.union(F::NEWPID).union(F::NEWUSER);
    let mut flags = F::from_bits(args.get(0) & 0xffff_ffff).ok_or(Errno::EINVAL)?;
    let known =
        F::THREAD | F::FS | F::NEWNS | F::SIGHAND | F::VM | F::FILES | F::SYSVSEM | NAMESPACES;
    if !known.contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    // Capabilities over a root directory that others share would be theirs.
    if flags.contains(F::NEWUSER) {
        flags |= F::THREAD | F::FS;
    }
    if flags.intersects(F::THREAD | F::SIGHAND | F::VM) {
        // Only where there is nothing to unshare.
        let alone = cx.task.process.signals.lock().tasks.len() == 1;
        if !alone || (flags.contains(F::VM) && Arc::strong_count(&cx.mm) > 2) {
            return Err(Errno::EINVAL.into());
        }
    }
    let creds = cx.creds_after(flags)?;
    let pidns = match flags.contains(F::NEWPID) {
        true => Some(cx.nest_pid_namespace(&creds.userns)?),
        false => None,
    };
    if flags.intersects(F::FS | F::NEWNS) {
        let fs = cx.fs.fork();
        if flags.contains(F::NEWNS) {
            fs.unshare_namespace(&creds.userns);
        }
        cx.fs = fs.clone();
        let old = cx.task.shared.lock().fs.replace(fs);
        drop(old);
    }
    if flags.contains(F::FILES) {
        let files = cx.files.fork();
        cx.files = files.clone();
        let old = cx.task.shared.lock().files.replace(files);
        drop(old);
    }
    if flags.intersects(UNSHARED | F::NEWPID) {
        let mut new = cx.namespaces.unshare(flags, &creds.userns);
        if let Some(pidns) = pidns {
            new.pid_for_children = pidns;
        }
        cx.set_namespaces(new);
    }
    if flags.contains(F::NEWUSER) {
        cx.commit_creds((*creds).clone());
    }
    Ok(0)
}

/// setns(2).
pub fn setns(cx: &mut Current, args: Args) -> SysResult {
    let kinds = CloneFlags::from_bits(args.uint(1).into()).ok_or(Errno::EINVAL)?;
    cx.set_ns(args.int(0), kinds)?;
    Ok(0)
}

/// restart_syscall(2).
pub fn restart_syscall(cx: &mut Current, _args: Args) -> SysResult {
    use crate::task::RestartBlock;
    match cx.restart_block.take() {
        None => Err(Errno::EINTR.into()),
        Some(RestartBlock::Sleep { clock, deadline, rest }) => {
            super::time::sleep_until(cx, clock, deadline, rest)
        }
        Some(RestartBlock::FutexWait { addr, value, bitset, private, deadline }) => {
            crate::futex::wait(cx, addr, value, bitset, private, Some(deadline))?;
            Ok(0)
        }
        // poll(2) restarts by its own call with what is left of its time.
        Some(RestartBlock::Poll { addr, count, deadline }) => {
            super::poll::poll_until(cx, addr, count, deadline)
        }
    }
}
