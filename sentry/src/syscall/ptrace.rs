//! ptrace(2): requests of tracers. What a tracee does about them is in [`crate::task::trace`].

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Args, ptrace_regs as regs, word};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::platform::{ThreadId, platform};
use crate::signal::{Origin, SIGINFO_SIZE, SigInfo, SigSet, Signal, pair, send_task};
use crate::task::dispatch::UserDispatch;
use crate::task::trace::{self, Event, Kind, Mode, Options, Stopped, Tracing};
use crate::task::{AccessMode, Current, Task, may_access};

/// Requests (linux/ptrace.h, asm/ptrace-abi.h).
#[allow(missing_docs)] // the names are ptrace(2)'s
mod request {
    pub const TRACEME: u64 = 0;
    pub const PEEKTEXT: u64 = 1;
    pub const PEEKDATA: u64 = 2;
    pub const PEEKUSER: u64 = 3;
    pub const POKETEXT: u64 = 4;
    pub const POKEDATA: u64 = 5;
    pub const POKEUSER: u64 = 6;
    pub const CONT: u64 = 7;
    pub const KILL: u64 = 8;
    pub const SINGLESTEP: u64 = 9;
    pub const GETREGS: u64 = 12;
    pub const SETREGS: u64 = 13;
    pub const GETFPREGS: u64 = 14;
    pub const SETFPREGS: u64 = 15;
    pub const ATTACH: u64 = 16;
    pub const DETACH: u64 = 17;
    pub const SYSCALL: u64 = 24;
    pub const ARCH_PRCTL: u64 = 30;
    pub const SYSEMU: u64 = 31;
    pub const SYSEMU_SINGLESTEP: u64 = 32;
    pub const SETOPTIONS: u64 = 0x4200;
    pub const GETEVENTMSG: u64 = 0x4201;
    pub const GETSIGINFO: u64 = 0x4202;
    pub const SETSIGINFO: u64 = 0x4203;
    pub const GETREGSET: u64 = 0x4204;
    pub const SETREGSET: u64 = 0x4205;
    pub const SEIZE: u64 = 0x4206;
    pub const INTERRUPT: u64 = 0x4207;
    pub const LISTEN: u64 = 0x4208;
    pub const PEEKSIGINFO: u64 = 0x4209;
    pub const GETSIGMASK: u64 = 0x420a;
    pub const SETSIGMASK: u64 = 0x420b;
    pub const GET_SYSCALL_INFO: u64 = 0x420e;
    pub const GET_RSEQ_CONFIGURATION: u64 = 0x420f;
    pub const SET_SYSCALL_USER_DISPATCH_CONFIG: u64 = 0x4210;
    pub const GET_SYSCALL_USER_DISPATCH_CONFIG: u64 = 0x4211;
}

/// include/uapi/linux/audit.h
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// PTRACE_PEEKSIGINFO_SHARED (linux/ptrace.h).
const PEEKSIGINFO_SHARED: u32 = 1;

/// ptrace(2).
pub fn ptrace(cx: &mut Current, args: Args) -> SysResult {
    let [request, pid, addr, data, ..] = args.0;
    if request == request::TRACEME {
        trace::trace_me(cx)?;
        return Ok(0);
    }
    let pid = u32::try_from(pid as i32).map_err(|_| Errno::ESRCH)?;
    let target = cx.task.process.pidns.task(pid).ok_or(Errno::ESRCH)?;
    match request {
        request::ATTACH => attach(cx, &target, false, Options::empty())?,
        request::SEIZE => {
            if addr != 0 {
                return Err(Errno::EIO.into());
            }
            attach(cx, &target, true, options(data).map_err(|_| Errno::EIO)?)?;
        }
        _ => return Ok(serve(cx, &target, request, addr, data)?),
    }
    Ok(0)
}

fn options(data: u64) -> Result<Options, Errno> {
    u32::try_from(data).ok().and_then(Options::from_bits).ok_or(Errno::EINVAL)
}

fn attach(cx: &Current, target: &Arc<Task>, seized: bool, options: Options) -> Result<(), Errno> {
    if Arc::ptr_eq(&target.process, &cx.task.process)
        || !may_access(Some(&cx.task), &cx.creds, target, AccessMode::RealCreds)
    {
        return Err(Errno::EPERM);
    }
    trace::attach(cx, target, seized, options)
}

/// Does something with what the caller traces. `ESRCH` where it does not.
fn with_tracing<T>(
    cx: &Current,
    target: &Task,
    f: impl FnOnce(&mut Tracing, Option<&mut Stopped>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    let mut own = target.signals.lock();
    let own = &mut *own;
    let trace = own.trace.as_mut().ok_or(Errno::ESRCH)?;
    if !core::ptr::eq(trace.tracer.as_ptr(), Arc::as_ptr(&cx.task)) || trace.dead.is_some() {
        return Err(Errno::ESRCH);
    }
    f(trace, own.trap.as_deref_mut())
}

/// Does something with a stopped tracee. `ESRCH` where it is not stopped.
fn with_stopped<T>(
    cx: &Current,
    target: &Task,
    f: impl FnOnce(&mut Tracing, &mut Stopped) -> Result<T, Errno>,
) -> Result<T, Errno> {
    with_tracing(cx, target, |trace, stopped| match stopped {
        Some(stopped) if stopped.resume.is_none() && !trace.listening => f(trace, stopped),
        _ => Err(Errno::ESRCH),
    })
}

fn unpark(task: &Task) {
    let thread = task.thread.load(Ordering::SeqCst);
    if thread != 0 {
        platform().unpark(ThreadId(thread));
    }
}

fn serve(
    cx: &Current,
    target: &Arc<Task>,
    request: u64,
    addr: u64,
    data: u64,
) -> Result<u64, Errno> {
    match request {
        request::KILL => {
            with_tracing(cx, target, |_, _| Ok(()))?;
            let kill = cx.sign(Signal::SIGKILL, crate::signal::code::SI_USER);
            let _sent = send_task(target, kill, Origin::Inside);
            return Ok(0);
        }
        request::INTERRUPT => {
            with_tracing(cx, target, |trace, _| {
                trace.trap |= trace.seized;
                if trace.seized { Ok(()) } else { Err(Errno::EIO) }
            })?;
            target.notice();
            return Ok(0);
        }
        // All others are for a stopped one.
        _ => with_stopped(cx, target, |_, _| Ok(()))?,
    }
    let signal = || match data {
        0 => Ok(0),
        n => i32::try_from(n).ok().filter(|n| (1..=64).contains(n)).ok_or(Errno::EIO),
    };
    match request {
        request::PEEKTEXT | request::PEEKDATA => {
            let mut bytes = [0; 8];
            peek(target, addr, &mut bytes)?;
            cx.mm.copy_out(data, &bytes)?;
        }
        request::POKETEXT | request::POKEDATA => poke(target, addr, &data.to_le_bytes())?,
        request::PEEKUSER => {
            let value = with_stopped(cx, target, |_, s| regs::peek_user(s, addr))?;
            cx.mm.copy_out(data, &value.to_le_bytes())?;
        }
        request::POKEUSER => {
            with_stopped(cx, target, |_, s| regs::poke_user(s, addr, data))?;
        }
        request::CONT => resume(cx, target, signal()?, Mode::Continue, false)?,
        request::SYSCALL => resume(cx, target, signal()?, Mode::Syscall, false)?,
        request::SINGLESTEP => resume(cx, target, signal()?, Mode::Continue, true)?,
        request::SYSEMU => resume(cx, target, signal()?, Mode::Emulate, false)?,
        request::SYSEMU_SINGLESTEP => resume(cx, target, signal()?, Mode::Emulate, true)?,
        request::DETACH => {
            let signal = signal()?;
            trace::unlink(&target.process.pids.lock(), target, signal);
        }
        request::LISTEN => listen(cx, target)?,
        request::GETREGS => {
            let bytes = with_stopped(cx, target, |_, s| Ok(regs::general(s)))?;
            cx.mm.copy_out(data, &bytes)?;
        }
        request::SETREGS => {
            let mut bytes = [0; regs::GENERAL];
            cx.mm.copy_in(data, &mut bytes)?;
            with_stopped(cx, target, |_, s| regs::set_general(s, &bytes))?;
        }
        request::GETFPREGS => {
            let image = with_stopped(cx, target, |_, s| Ok(regs::float(s)))?;
            cx.mm.copy_out(data, &image)?;
        }
        request::SETFPREGS => {
            let mut image = [0; regs::FLOAT];
            cx.mm.copy_in(data, &mut image)?;
            with_stopped(cx, target, |_, s| regs::set_float(s, &image))?;
        }
        request::GETREGSET | request::SETREGSET => {
            regset(cx, target, request == request::SETREGSET, addr, data)?;
        }
        request::ARCH_PRCTL => arch_prctl(cx, target, addr, data)?,
        request::SETOPTIONS => {
            let options = options(data)?;
            with_stopped(cx, target, |trace, _| {
                trace.options = options;
                Ok(())
            })?;
        }
        request::GETEVENTMSG => {
            let message = with_stopped(cx, target, |trace, _| Ok(trace.message))?;
            cx.mm.copy_out(data, &message.to_le_bytes())?;
        }
        request::GETSIGINFO => {
            let info = with_stopped(cx, target, |_, s| s.info.ok_or(Errno::EINVAL))?;
            cx.mm.copy_out(data, &info.to_bytes())?;
        }
        request::SETSIGINFO => set_siginfo(cx, target, data)?,
        request::PEEKSIGINFO => return peek_siginfo(cx, target, addr, data),
        request::GETSIGMASK => {
            sigmask_size(addr)?;
            let mask = with_stopped(cx, target, |_, s| Ok(s.mask))?;
            cx.mm.copy_out(data, &mask.0.to_le_bytes())?;
        }
        request::SETSIGMASK => {
            sigmask_size(addr)?;
            let mask = SigSet(cx.mm.copy_in_u64(data)?).without(SigSet::UNBLOCKABLE);
            with_stopped(cx, target, |_, s| {
                (s.mask, s.mask_changed) = (mask, true);
                Ok(())
            })?;
        }
        request::GET_SYSCALL_INFO => return syscall_info(cx, target, addr, data),
        request::GET_RSEQ_CONFIGURATION => return rseq_configuration(cx, target, addr, data),
        request::GET_SYSCALL_USER_DISPATCH_CONFIG => {
            let dispatch = with_stopped(cx, target, |_, s| Ok(s.user_dispatch))?;
            dispatch_config_size(addr)?;
            let words = UserDispatch::config(dispatch);
            cx.mm.copy_out(data, &words.map(u64::to_le_bytes).concat())?;
        }
        request::SET_SYSCALL_USER_DISPATCH_CONFIG => {
            dispatch_config_size(addr)?;
            let mut words = [0; 4];
            for (word, n) in words.iter_mut().zip(0..) {
                *word = cx.mm.copy_in_u64(data.wrapping_add(n * 8))?;
            }
            let wanted = UserDispatch::from_config(words, cx.mm.user_range().end)?;
            with_stopped(cx, target, |_, s| {
                s.user_dispatch = wanted;
                Ok(())
            })?;
        }
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}

/// That of `struct ptrace_sud_config`.
fn dispatch_config_size(size: u64) -> Result<(), Errno> {
    if size == 32 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn sigmask_size(size: u64) -> Result<(), Errno> {
    if size == 8 { Ok(()) } else { Err(Errno::EINVAL) }
}

fn peek(target: &Task, addr: u64, buf: &mut [u8]) -> Result<(), Errno> {
    let mm = target.shared.lock().mm.clone().ok_or(Errno::EIO)?;
    mm.expand_to(addr);
    if mm.peek(addr, buf) == buf.len() { Ok(()) } else { Err(Errno::EIO) }
}

fn poke(target: &Task, addr: u64, data: &[u8]) -> Result<(), Errno> {
    let mm = target.shared.lock().mm.clone().ok_or(Errno::EIO)?;
    mm.expand_to(addr);
    if mm.poke(addr, data) == data.len() { Ok(()) } else { Err(Errno::EIO) }
}

/// Lets a stopped tracee go.
fn resume(cx: &Current, target: &Task, signal: i32, mode: Mode, step: bool) -> Result<(), Errno> {
    with_stopped(cx, target, |trace, stopped| {
        (trace.mode, trace.step) = (mode, step);
        stopped.resume = Some(signal);
        Ok(())
    })?;
    unpark(target);
    Ok(())
}

fn listen(cx: &Current, target: &Task) -> Result<(), Errno> {
    with_stopped(cx, target, |trace, stopped| {
        let stop = Event::Stop as i32;
        if !trace.seized || stopped.info.is_none_or(|info| info.code >> 8 != stop) {
            return Err(Errno::EIO);
        }
        trace.listening = true;
        Ok(())
    })?;
    // There may be something to hear already.
    unpark(target);
    Ok(())
}

fn set_siginfo(cx: &Current, target: &Task, data: u64) -> Result<(), Errno> {
    let mut bytes = [0; SIGINFO_SIZE];
    cx.mm.copy_in(data, &mut bytes)?;
    let number = bytes.as_chunks::<4>().0.first().map_or(0, |b| i32::from_le_bytes(*b));
    with_stopped(cx, target, |_, stopped| {
        let old = stopped.info.ok_or(Errno::EINVAL)?;
        // The number counts only where it is let go with the same one.
        let signal = Signal::new(number).unwrap_or(old.signal);
        stopped.info = Some(SigInfo::from_bytes(signal, &bytes));
        Ok(())
    })
}

/// `struct ptrace_peeksiginfo_args`: off, flags, nr.
fn peek_siginfo(cx: &Current, target: &Task, addr: u64, data: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 16];
    cx.mm.copy_in(addr, &mut bytes)?;
    let (offset, rest) = (word(&bytes, 0), word(&bytes, 1));
    let (flags, count) = (rest as u32, (rest >> 32) as i32);
    if flags & !PEEKSIGINFO_SHARED != 0 || count < 0 {
        return Err(Errno::EINVAL);
    }
    let mut done: u64 = 0;
    while done < u64::from(count.unsigned_abs()) {
        let at = usize::try_from(offset.saturating_add(done)).unwrap_or(usize::MAX);
        let info = {
            let state = target.process.signals.lock();
            if flags & PEEKSIGINFO_SHARED != 0 {
                state.pending.nth(at)
            } else {
                target.signals.lock().pending.nth(at)
            }
        };
        let Some(info) = info else { break };
        let to = data.wrapping_add(done.wrapping_mul(SIGINFO_SIZE as u64));
        match cx.mm.copy_out(to, &info.to_bytes()) {
            Ok(()) => done = done.saturating_add(1),
            Err(_) if done > 0 => break,
            Err(e) => return Err(e),
        }
        if cx.must_interrupt() {
            break;
        }
    }
    Ok(done)
}

/// `struct ptrace_syscall_info`, of which as much is written as there is room for; its real size.
fn syscall_info(cx: &Current, target: &Task, size: u64, data: u64) -> Result<u64, Errno> {
    let bytes = with_stopped(cx, target, |_, stopped| {
        let r = &stopped.regs;
        let op: u8 = match stopped.kind {
            Kind::Other => 0,
            Kind::Entry => 1,
            Kind::Exit => 2,
            Kind::Seccomp(_) => 3,
        };
        let mut out = Vec::with_capacity(96);
        out.extend_from_slice(&pair(op.into(), AUDIT_ARCH_X86_64).to_le_bytes());
        let mut put = |value: u64| out.extend_from_slice(&value.to_le_bytes());
        put(r.rip);
        put(r.rsp);
        match stopped.kind {
            Kind::Other => {}
            Kind::Entry | Kind::Seccomp(_) => {
                [r.orig_rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9].into_iter().for_each(put);
            }
            Kind::Exit => put(r.rax),
        }
        match stopped.kind {
            Kind::Exit => out.push(u8::from((-4095..0).contains(&(r.rax as i64)))),
            Kind::Seccomp(data) => out.extend_from_slice(&data.to_le_bytes()),
            Kind::Other | Kind::Entry => {}
        }
        Ok(out)
    })?;
    let room = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
    cx.mm.copy_out(data, bytes.get(..room).unwrap_or(&[]))?;
    Ok(bytes.len() as u64)
}

/// `struct ptrace_rseq_configuration`, of which as much is written as there is room for; its real size.
fn rseq_configuration(cx: &Current, target: &Task, size: u64, data: u64) -> Result<u64, Errno> {
    let area = with_stopped(cx, target, |_, stopped| Ok(stopped.rseq))?;
    let (addr, len, signature) = area.map_or((0, 0, 0), |a| (a.addr, a.len, a.signature));
    let words = [addr, pair(len, signature), 0];
    let bytes = words.map(u64::to_le_bytes).concat();
    let room = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len());
    cx.mm.copy_out(data, bytes.get(..room).unwrap_or(&[]))?;
    Ok(bytes.len() as u64)
}

/// Reads or writes a set of registers by way of a `struct iovec`, whose length becomes what was moved.
fn regset(cx: &Current, target: &Task, set: bool, kind: u64, iovec: u64) -> Result<(), Errno> {
    let base = cx.mm.copy_in_u64(iovec)?;
    let len = cx.mm.copy_in_u64(iovec.wrapping_add(8))?;
    let kind = regs::Set::new(kind as u32).ok_or(Errno::EINVAL)?;
    let all = with_stopped(cx, target, |_, s| Ok(kind.get(s, cx.xfeatures())))?;
    if !len.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(all.len());
    if set {
        let mut bytes = all;
        let size = bytes.len();
        cx.mm.copy_in(base, bytes.get_mut(..len).unwrap_or(&mut []))?;
        let features = cx.xfeatures();
        with_stopped(cx, target, |_, s| kind.set(s, &bytes, len == size, features))?;
    } else {
        cx.mm.copy_out(base, all.get(..len).unwrap_or(&[]))?;
    }
    cx.mm.copy_out(iovec.wrapping_add(8), &(len as u64).to_le_bytes())
}

/// PTRACE_ARCH_PRCTL: arch_prctl(2) of a tracee.
fn arch_prctl(cx: &Current, target: &Task, addr: u64, code: u64) -> Result<(), Errno> {
    const SET_GS: u64 = 0x1001;
    const SET_FS: u64 = 0x1002;
    const GET_FS: u64 = 0x1003;
    const GET_GS: u64 = 0x1004;
    match code {
        SET_FS | SET_GS if addr >= platform().user_range().end => Err(Errno::EPERM),
        SET_FS => with_stopped(cx, target, |_, s| {
            s.regs.fs_base = addr;
            Ok(())
        }),
        SET_GS => with_stopped(cx, target, |_, s| {
            s.regs.gs_base = addr;
            Ok(())
        }),
        GET_FS | GET_GS => {
            let base = with_stopped(cx, target, |_, s| {
                Ok(if code == GET_FS { s.regs.fs_base } else { s.regs.gs_base })
            })?;
            cx.mm.copy_out(addr, &base.to_le_bytes())
        }
        _ => Err(Errno::EINVAL),
    }
}
