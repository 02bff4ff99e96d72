//! Sending, blocking, catching and waiting for signals.

use alloc::sync::Arc;

use super::Args;
use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::fs::OpenFlags;
use crate::fs::signalfd::{self, SignalFd};
use crate::platform::platform;
use crate::signal::{
    Disposition, Origin, SIGINFO_SIZE, SigAction, SigInfo, SigSet, Signal, code, deliver, frame,
    pair, sa, send_process, send_task,
};
use crate::task::userns::OVERFLOW_ID;
use crate::task::{Blocked, Current, Process, Task, limit};
use crate::time::TimeSpec;

/// Bytes of the kernel's sigset_t.
const SIGSET: usize = 8;

/// Reads a set whose size the caller states.
pub fn read_set(cx: &Current, addr: u64, size: usize) -> Result<SigSet, Errno> {
    if size != SIGSET {
        return Err(Errno::EINVAL);
    }
    Ok(SigSet(cx.mm.copy_in_u64(addr)?))
}

/// rt_sigaction(2).
pub fn rt_sigaction(cx: &mut Current, args: Args) -> SysResult {
    let [number, new, old, size, ..] = args.0;
    if size as usize != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let signal = Signal::new(number as i32)?;
    let new = match new {
        0 => None,
        addr => {
            let mut bytes = [0; 32];
            cx.mm.copy_in(addr, &mut bytes)?;
            let word = |n| super::word(&bytes, n);
            Some(SigAction {
                handler: word(0),
                flags: word(1) & sa::KNOWN,
                restorer: word(2),
                mask: SigSet(word(3)).without(SigSet::UNBLOCKABLE),
            })
        }
    };
    if signal.is_kernel_only() && new.is_some() {
        return Err(Errno::EINVAL.into());
    }
    let was = cx.task.process.set_action(signal, new);
    if old != 0 {
        let mut bytes = [0; 32];
        let words = [was.handler, was.flags, was.restorer, was.mask.0];
        for (to, from) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        cx.mm.copy_out(old, &bytes)?;
    }
    Ok(0)
}

impl Process {
    /// Sets what a signal does; what it did. An action that ignores it forgets those that are pending.
    pub fn set_action(&self, signal: Signal, new: Option<SigAction>) -> SigAction {
        let mut state = self.signals.lock();
        let (was, ignores) = {
            let mut actions = state.actions.lock();
            let was = actions.get(signal);
            let Some(new) = new else { return was };
            actions.set(signal, new);
            (was, new.disposition() != Disposition::Handler && actions.ignores(signal))
        };
        if ignores {
            state.flush(signal.bit());
        }
        was
    }
}

/// rt_sigprocmask(2).
pub fn rt_sigprocmask(cx: &mut Current, args: Args) -> SysResult {
    let [how, new, old, size, ..] = args.0;
    if size as usize != SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let was = cx.task.blocked();
    if new != 0 {
        let set = SigSet(cx.mm.copy_in_u64(new)?);
        let mask = match how as i32 {
            0 => was.with(set.without(SigSet::UNBLOCKABLE)),
            1 => was.without(set),
            2 => set,
            _ => return Err(Errno::EINVAL.into()),
        };
        cx.set_blocked(mask);
    }
    if old != 0 {
        cx.mm.copy_out(old, &was.0.to_le_bytes())?;
    }
    Ok(0)
}

/// rt_sigpending(2).
pub fn rt_sigpending(cx: &mut Current, args: Args) -> SysResult {
    if args.size(1) > SIGSET {
        return Err(Errno::EINVAL.into());
    }
    let (own, shared, blocked) = cx.task.signal_sets();
    let bytes = own.with(shared).and(blocked).0.to_le_bytes();
    cx.mm.copy_out(args.get(0), bytes.get(..args.size(1)).unwrap_or(&bytes))?;
    Ok(0)
}

/// rt_sigreturn(2).
pub fn rt_sigreturn(cx: &mut Current, _args: Args) -> SysResult {
    frame::pop(cx);
    Ok(cx.regs.rax)
}

/// rt_sigsuspend(2).
pub fn rt_sigsuspend(cx: &mut Current, args: Args) -> SysResult {
    let mask = read_set(cx, args.get(0), args.size(1))?;
    cx.set_mask_for_call(mask);
    pause(cx, args)
}

/// pause(2).
pub fn pause(cx: &mut Current, _args: Args) -> SysResult {
    match cx.park_until(None, || None::<u64>) {
        Ok(never) => Ok(never),
        Err(_) => Err(SysError::Interrupted(Restart::NoHandler)),
    }
}

/// rt_sigtimedwait(2).
pub fn rt_sigtimedwait(cx: &mut Current, args: Args) -> SysResult {
    let [set, info, timeout, size, ..] = args.0;
    let wanted = read_set(cx, set, size as usize)?.without(SigSet::UNBLOCKABLE);
    let deadline = match timeout {
        0 => None,
        addr => Some(platform().monotonic().saturating_add(TimeSpec::read(&cx.mm, addr)?.to_ns()?)),
    };
    let task = &cx.task;
    let await_set = |set: SigSet| {
        let _state = task.process.signals.lock();
        task.signals.lock().awaited = set;
    };
    await_set(wanted);
    let got = cx.park_until(deadline, || deliver::take(task, wanted));
    await_set(SigSet::EMPTY);
    match got {
        Ok(got) => {
            if info != 0 {
                cx.mm.copy_out(info, &got.to_bytes())?;
            }
            Ok(got.signal.number().into())
        }
        Err(Blocked::TimedOut) => Err(Errno::EAGAIN.into()),
        Err(Blocked::Interrupted) => Err(SysError::Interrupted(Restart::Never)),
    }
}

/// sigaltstack(2).
pub fn sigaltstack(cx: &mut Current, args: Args) -> SysResult {
    let (new, old) = (args.get(0), args.get(1));
    let sp = cx.regs.rsp;
    let was = cx.altstack.to_bytes(sp);
    if new != 0 {
        let mut bytes = [0; 24];
        cx.mm.copy_in(new, &mut bytes)?;
        cx.altstack.set(&bytes, sp)?;
    }
    if old != 0 {
        cx.mm.copy_out(old, &was)?;
    }
    Ok(0)
}

/// signalfd4(2).
pub fn signalfd4(cx: &mut Current, args: Args) -> SysResult {
    let flags = OpenFlags::from_bits(args.uint(3)).ok_or(Errno::EINVAL);
    let mask = read_set(cx, args.get(1), args.size(2))?;
    let flags = flags?;
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let fd = args.int(0);
    if fd != -1 {
        cx.files.get(fd)?.ops_as::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
        return Ok(fd as u64);
    }
    let file = signalfd::new(&cx.cx(), mask, flags)?;
    let most = cx.task.process.limits.soft(limit::RLIMIT_NOFILE);
    Ok(cx.files.insert(file, flags.contains(OpenFlags::CLOEXEC), most)? as u64)
}

/// signalfd(2).
pub fn signalfd(cx: &mut Current, args: Args) -> SysResult {
    let [fd, mask, size, ..] = args.0;
    signalfd4(cx, Args([fd, mask, size, 0, 0, 0]))
}

/// Number 0 asks only whether the target is there and may be signalled.
fn signal_or_probe(number: i32) -> Result<Option<Signal>, Errno> {
    if number == 0 { Ok(None) } else { Signal::new(number).map(Some) }
}

fn may_send(cx: &Current, to: &Process, signal: Option<Signal>) -> Result<(), Errno> {
    if Arc::as_ptr(&cx.task.process) == core::ptr::from_ref(to) {
        return Ok(());
    }
    // SIGCONT may be sent within the session, whoever its members are.
    if signal == Some(Signal::SIGCONT) && cx.task.process.session() == to.session() {
        return Ok(());
    }
    // What is left of a zombie's identity is nobody's concern.
    match to.creds() {
        Some(creds) if !cx.creds.may_signal(&creds) => Err(Errno::EPERM),
        _ => Ok(()),
    }
}

/// How a signal of the caller's arrives at a process: from a namespace above that one's it is without a sender,
/// and reaches init too.
///
/// The sender's user goes by the number that it has where the signal arrives.
fn arrives(cx: &Current, to: &Process, info: SigInfo) -> (SigInfo, Origin) {
    let mut info = info;
    /// A file's (asm-generic/siginfo.h).
    const SI_SIGIO: i32 = -5;
    // Those of timers and of files have something else there.
    let has_sender = !matches!(info.code, code::SI_TIMER | SI_SIGIO);
    let (pid, uid) = (info.get(0) as u32, (info.get(0) >> 32) as u32);
    if has_sender && let Some(theirs) = to.creds().filter(|theirs| theirs.userns != cx.creds.userns)
    {
        let uid = cx.creds.userns.kuid(uid).map_or(OVERFLOW_ID, |kuid| theirs.userns.uid(kuid));
        info.set(0, pair(pid, uid));
    }
    if to.pidns.nr(cx.task.process.pid) != 0 {
        return (info, Origin::Inside);
    }
    if has_sender {
        info.set(0, info.get(0) & !u64::from(u32::MAX));
    }
    (info, Origin::Outside)
}

fn send_one(
    cx: &Current,
    to: &Arc<Process>,
    signal: Option<Signal>,
    info: Option<SigInfo>,
) -> Result<(), Errno> {
    may_send(cx, to, signal)?;
    if let Some(info) = info {
        let (info, origin) = arrives(cx, to, info);
        send_process(to, info, origin)?;
    }
    Ok(())
}

/// kill(2).
pub fn kill(cx: &mut Current, args: Args) -> SysResult {
    let (pid, number) = (args.int(0), args.int(1));
    let signal = signal_or_probe(number)?;
    let info = signal.map(|s| cx.sign(s, code::SI_USER));
    let own = &cx.task.process;
    let pidns = &own.pidns;
    if pid > 0 {
        let pid = pid.unsigned_abs();
        // Any task's id names its process here.
        let to = pidns
            .process(pid)
            .or_else(|| pidns.task(pid).map(|t| t.process.clone()))
            .ok_or(Errno::ESRCH)?;
        send_one(cx, &to, signal, info)?;
        return Ok(0);
    }
    // No process can be born into the group meanwhile and be missed.
    let table = own.pids.lock();
    let targets: alloc::vec::Vec<Arc<Process>> = match pid {
        -1 => table
            .processes()
            .filter(|p| pidns.nr(p.pid) > 1 && !Arc::ptr_eq(p, own))
            .cloned()
            .collect(),
        i32::MIN => return Err(Errno::ESRCH.into()),
        0 => table.group(own.group()).to_vec(),
        group => {
            let group = pidns.id_of(group.unsigned_abs()).ok_or(Errno::ESRCH)?;
            table.group(group).to_vec()
        }
    };
    let mut result = Err(Errno::ESRCH);
    for to in &targets {
        match send_one(cx, to, signal, info) {
            Ok(()) => result = Ok(()),
            // kill(2): it succeeds if one could be signalled.
            Err(e) if result.is_err() => result = Err(e),
            Err(_) => {}
        }
    }
    drop(table);
    drop(targets);
    result?;
    Ok(0)
}

/// A task by id, which may be a leader that has ended before its group (then there is no task).
fn task_by_id(cx: &Current, group: Option<i32>, tid: i32) -> Result<Option<Arc<Task>>, Errno> {
    if tid <= 0 || group.is_some_and(|g| g <= 0) {
        return Err(Errno::EINVAL);
    }
    let tid = tid.unsigned_abs();
    let pids = &cx.task.process.pidns;
    let in_group = |pid: u32| group.is_none_or(|g| g.unsigned_abs() == pid);
    match pids.task(tid) {
        Some(task) if in_group(pids.nr(task.process.pid)) => Ok(Some(task)),
        Some(_) => Err(Errno::ESRCH),
        None if in_group(tid) && pids.process(tid).is_some() => Ok(None),
        None => Err(Errno::ESRCH),
    }
}

fn tkill_with(cx: &Current, group: Option<i32>, tid: i32, number: i32) -> SysResult {
    let task = task_by_id(cx, group, tid)?;
    let signal = signal_or_probe(number)?;
    let Some(task) = task else { return Ok(0) };
    may_send(cx, &task.process, signal)?;
    if let Some(signal) = signal {
        let (info, origin) = arrives(cx, &task.process, cx.sign(signal, code::SI_TKILL));
        send_task(&task, info, origin)?;
    }
    Ok(0)
}

/// tkill(2).
pub fn tkill(cx: &mut Current, args: Args) -> SysResult {
    tkill_with(cx, None, args.int(0), args.int(1))
}

/// tgkill(2).
pub fn tgkill(cx: &mut Current, args: Args) -> SysResult {
    tkill_with(cx, Some(args.int(0)), args.int(1), args.int(2))
}

fn queued_info(cx: &Current, addr: u64) -> Result<[u8; SIGINFO_SIZE], Errno> {
    let mut bytes = [0; SIGINFO_SIZE];
    cx.mm.copy_in(addr, &mut bytes)?;
    Ok(bytes)
}

/// What the kernel says of itself, or of kill(2), cannot be said by others for it.
fn may_claim(info: &[u8; SIGINFO_SIZE], to_self: bool) -> Result<(), Errno> {
    // si_code; which signal it says to be is of no account.
    let claimed = SigInfo::from_bytes(Signal::SIGHUP, info).code;
    if (claimed >= 0 || claimed == code::SI_TKILL) && !to_self {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// rt_sigqueueinfo(2).
pub fn rt_sigqueueinfo(cx: &mut Current, args: Args) -> SysResult {
    let (pid, number) = (args.int(0), args.int(1));
    let info = queued_info(cx, args.get(2))?;
    may_claim(&info, pid == cx.task.process.vpid as i32)?;
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let to = cx.task.process.pidns.process(pid).ok_or(Errno::ESRCH)?;
    let signal = signal_or_probe(number)?;
    send_one(cx, &to, signal, signal.map(|signal| SigInfo::from_bytes(signal, &info)))?;
    Ok(0)
}

/// rt_tgsigqueueinfo(2).
pub fn rt_tgsigqueueinfo(cx: &mut Current, args: Args) -> SysResult {
    let (group, tid, number) = (args.int(0), args.int(1), args.int(2));
    let signal = signal_or_probe(number)?;
    let info = queued_info(cx, args.get(3))?;
    let task = task_by_id(cx, Some(group), tid)?;
    may_claim(&info, tid == cx.task.vtid() as i32)?;
    let Some(task) = task else { return Ok(0) };
    may_send(cx, &task.process, signal)?;
    if let Some(signal) = signal {
        let info = SigInfo::from_bytes(signal, &info);
        let (info, origin) = arrives(cx, &task.process, info);
        send_task(&task, info, origin)?;
    }
    Ok(0)
}

/// pidfd_open(2).
pub fn pidfd_open(cx: &mut Current, args: Args) -> SysResult {
    const NONBLOCK: u32 = 0o4000;
    if args.uint(1) & !NONBLOCK != 0 || args.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let pid = args.uint(0);
    let pids = &cx.task.process.pidns;
    let process = match pids.process(pid) {
        Some(process) => process,
        // A task that leads no group.
        None if pids.task(pid).is_some() => return Err(Errno::EINVAL.into()),
        None => return Err(Errno::ESRCH.into()),
    };
    Ok(crate::task::pidfd::open(cx, &process, args.uint(1) & NONBLOCK != 0)? as u64)
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(cx: &mut Current, args: Args) -> SysResult {
    if args.uint(3) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let process = match crate::task::pidfd::process_of(cx, args.int(0)) {
        Ok((process, _)) => process,
        // The folder of a process in proc names it too.
        Err(e) => crate::fs::proc::process_of(&*cx.files.get(args.int(0))?).ok_or(e)?,
    };
    let signal = signal_or_probe(args.int(1))?;
    let info = match (signal, args.get(2)) {
        (None, _) => None,
        (Some(signal), 0) => Some(cx.sign(signal, code::SI_USER)),
        (Some(signal), addr) => {
            let info = queued_info(cx, addr)?;
            may_claim(&info, Arc::ptr_eq(&process, &cx.task.process))?;
            Some(SigInfo::from_bytes(signal, &info))
        }
    };
    if process.is_zombie() && process.pids.process(process.pid).is_none() {
        return Err(Errno::ESRCH.into());
    }
    send_one(cx, &process, signal, info)?;
    Ok(0)
}
