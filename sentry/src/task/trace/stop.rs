//! The tracee's side: every kind of stop, on the thread of the task that stops.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Event, Kind, Mode, Options, Stopped, tell};
use crate::error::Restart;
use crate::platform::{Registers, platform};
use crate::seccomp::{self, Seccomp};
use crate::signal::{End, Origin, SigInfo, Signal, SignalState, code, force, send_task};
use crate::task::{Current, Rseq, Task};

/// SIGTRAP, the low byte of most stops.
const SIGTRAP: i32 = 5;
/// What PTRACE_O_TRACESYSGOOD adds.
const SYSGOOD: i32 = 0x80;
/// Single step (RFLAGS.TF, Intel SDM volume 1, 3.4.3.3).
const TF: u64 = 1 << 8;
/// The selectors of 64-bit user mode (arch/x86/include/asm/segment.h).
const USER_CS: u64 = 0x33;
const USER_DS: u64 = 0x2b;
/// PTRACE_EVENTMSG_SYSCALL_ENTRY and _EXIT (linux/ptrace.h).
const MESSAGE_ENTRY: u64 = 1;
const MESSAGE_EXIT: u64 = 2;

// What Linux has in rax of an interrupted call (include/linux/errno.h).
const ERESTARTSYS: i64 = 512;
const ERESTARTNOINTR: i64 = 513;
const ERESTARTNOHAND: i64 = 514;
const ERESTART_RESTARTBLOCK: i64 = 516;

/// A stop that is about to be made.
struct Stop {
    /// As wait(2) gives it above the lowest byte: a signal, 0x80 with it, or an event above it.
    code: i32,
    /// CLD_TRAPPED or CLD_STOPPED.
    why: i32,
    info: Option<SigInfo>,
    message: Option<u64>,
    kind: Kind,
}

impl Stop {
    /// One that Linux makes by ptrace_notify(): its information says what it is.
    fn notify(cx: &Current, signal: i32, code: i32, why: i32) -> Stop {
        let signal = Signal::new(signal).unwrap_or(Signal::SIGTRAP);
        let mut info = cx.sign(signal, code);
        info.set(0, crate::signal::pair(cx.task.vtid(), cx.creds.userns.uid(cx.creds.uid)));
        Stop { code, why, info: Some(info), message: None, kind: Kind::Other }
    }
}

/// Whether the task is to end, so that it stops for nobody.
fn dies(state: &SignalState, task: &Task) -> bool {
    match state.end {
        End::Alive => false,
        End::Exec(by) => by != task.key,
        End::Exiting(_) => true,
    }
}

/// The signal that the group is stopped by, or SIGTRAP where it is not.
fn group_stop(state: &SignalState) -> i32 {
    state.stop.signal.map_or(SIGTRAP, |signal| i32::from(signal.number()))
}

/// Stops, if the task is traced, until its tracer lets it go; the signal that comes with that, or 0,
/// and the information as the tracer left it.
fn trap(cx: &mut Current, stop: Stop) -> (i32, Option<SigInfo>) {
    let task = cx.task.clone();
    let untraced = (0, stop.info);
    if !super::is_traced(&task) {
        return untraced;
    }
    let stopped = Box::new(publish(cx, &stop));
    let process = &task.process;
    // At its end a task stops though it is to end.
    let ends_already = {
        let table = process.pids.lock();
        let state = process.signals.lock();
        let ends = dies(&state, &task);
        if ends && stop.code >> 8 != Event::Exit as i32 {
            return untraced;
        }
        let mut own = task.signals.lock();
        let Some(trace) = &mut own.trace else { return untraced };
        let Some(tracer) = trace.tracer.upgrade() else { return untraced };
        trace.trap = false;
        if stop.code >> 8 == Event::Stop as i32 {
            // A group stop that has begun or ended since this one was looked for is one more thing to tell of.
            trace.notify = group_stop(&state) != stop.code & 0x7f;
        }
        trace.listening = false;
        trace.report = Some(stop.code);
        trace.message = stop.message.unwrap_or(0);
        own.trap = Some(stopped);
        drop(own);
        drop(state);
        let status = stop.code & 0x7f;
        let times = task.usage().ticks();
        let uid = tracer.creds().userns.uid(cx.creds.uid);
        let pid = tracer.process.pidns.nr(task.tid());
        let info = SigInfo::child(Signal::SIGCHLD, stop.why, pid, uid, status, times);
        tell(&tracer.process, info, true);
        drop(table);
        ends
    };
    let stopped = loop {
        {
            let state = process.signals.lock();
            let mut own = task.signals.lock();
            let done = own.trap.as_ref().is_none_or(|s| s.resume.is_some())
                || own.trace.is_none()
                || (!ends_already && dies(&state, &task))
                // The tracer listens, and there is something to hear.
                || own.trace.as_ref().is_some_and(|t| t.listening && t.wants());
            if done {
                if let Some(trace) = &mut own.trace {
                    trace.listening = false;
                    trace.report = None;
                }
                break own.trap.take();
            }
        }
        platform().park(None);
    };
    let Some(stopped) = stopped else { return untraced };
    take_back(cx, &stopped);
    // Signals that came meanwhile told nobody.
    task.attention.store(true, Ordering::SeqCst);
    (stopped.resume.unwrap_or(0), stopped.info)
}

/// What the tracer sees.
fn publish(cx: &mut Current, stop: &Stop) -> Stopped {
    if core::mem::take(&mut cx.stepping) {
        cx.regs.eflags &= !TF;
    }
    let mut regs = Registers { cs: USER_CS, ss: USER_DS, ds: 0, es: 0, fs: 0, gs: 0, ..cx.regs };
    if let Some(code) = cx.restart.and_then(restart_code) {
        regs.rax = code.wrapping_neg() as u64;
    }
    let mut xstate = Vec::new();
    cx.user.xstate(&mut xstate);
    Stopped {
        debug: cx.debug,
        rseq: cx.rseq.as_ref().map(Rseq::area),
        user_dispatch: cx.user_dispatch,
        regs,
        xstate,
        xstate_changed: false,
        mask: cx.saved_mask.unwrap_or_else(|| cx.task.blocked()),
        mask_changed: false,
        info: stop.info,
        kind: stop.kind,
        resume: None,
    }
}

fn restart_code(restart: Restart) -> Option<i64> {
    match restart {
        Restart::Sys => Some(ERESTARTSYS),
        Restart::Always => Some(ERESTARTNOINTR),
        Restart::NoHandler => Some(ERESTARTNOHAND),
        Restart::Block => Some(ERESTART_RESTARTBLOCK),
        Restart::Never => None,
    }
}

/// Takes back what the tracer may have changed.
fn take_back(cx: &mut Current, stopped: &Stopped) {
    let old = cx.regs;
    cx.regs = Registers {
        cs: old.cs,
        ss: old.ss,
        ds: old.ds,
        es: old.es,
        fs: old.fs,
        gs: old.gs,
        ..stopped.regs
    };
    // What the registers say of an interrupted call is what becomes of it: a debugger that calls a
    // function of the program takes the number away first, and puts all of it back afterwards.
    cx.restart = match (stopped.regs.rax as i64).wrapping_neg() {
        _ if (stopped.regs.orig_rax as i64) < 0 => None,
        ERESTARTSYS => Some(Restart::Sys),
        ERESTARTNOINTR => Some(Restart::Always),
        ERESTARTNOHAND => Some(Restart::NoHandler),
        ERESTART_RESTARTBLOCK => Some(Restart::Block),
        _ => None,
    };
    if cx.restart.is_some() {
        cx.regs.rax = crate::errno::Errno::EINTR.to_rax();
    }
    if stopped.xstate_changed && cx.user.set_xstate(&stopped.xstate).is_err() {
        // It was checked when it was set; a platform that refuses it still keeps what it had.
        platform().log(
            crate::platform::Level::Warning,
            format_args!("task {}: the tracer's vector state does not fit", cx.task.tid()),
        );
    }
    if stopped.debug != cx.debug {
        cx.set_debug(stopped.debug);
    }
    if stopped.user_dispatch != cx.user_dispatch {
        cx.put_user_dispatch(stopped.user_dispatch);
    }
    if stopped.mask_changed {
        cx.saved_mask = None;
        cx.set_blocked(stopped.mask);
    }
    let step = {
        // Under this lock another thread may set a filter for this one.
        let _state = cx.task.process.signals.lock();
        seccomp::allow(&cx.task);
        let own = cx.task.signals.lock();
        let filtered = !matches!(*cx.task.seccomp.lock(), Seccomp::Off);
        let watched =
            own.trace.is_some() || filtered || cx.is_logged() || cx.user_dispatch.is_some();
        cx.task.watched.store(watched, Ordering::SeqCst);
        own.trace.as_ref().is_some_and(|t| t.step)
    };
    if step && cx.regs.eflags & TF == 0 {
        cx.regs.eflags |= TF;
        cx.stepping = true;
    }
}

/// A signal is about to be delivered: the tracer sees it first. What is delivered instead, if anything.
pub fn signal(cx: &mut Current, info: SigInfo) -> Option<SigInfo> {
    let before = i32::from(info.signal.number());
    let stop = Stop {
        code: before,
        why: code::CLD_TRAPPED,
        info: Some(info),
        message: None,
        kind: Kind::Other,
    };
    if !super::is_traced(&cx.task) {
        return Some(info);
    }
    let tracer = super::tracer_of(&cx.task);
    let (after, changed) = trap(cx, stop);
    let signal = Signal::new(after).ok()?;
    let info = if after == before {
        SigInfo { signal, ..changed.unwrap_or(info) }
    } else {
        let (pid, uid) = tracer.map_or((0, 0), |t| {
            let uid = cx.creds.userns.uid(t.creds().uid);
            (cx.task.process.pidns.nr(t.process.pid), uid)
        });
        SigInfo::user(signal, code::SI_USER, pid, uid)
    };
    if cx.task.blocked().contains(signal) {
        // It waits until it is blocked no more, and is seen again then.
        let _there = cx.task.signals.lock().pending.push(info, usize::MAX);
        return None;
    }
    Some(info)
}

/// Stops that a signal for the group, PTRACE_INTERRUPT or the tracer's own wish to know bring about
/// (do_jobctl_trap() of kernel/signal.c).
pub fn job(cx: &mut Current) {
    let (signal, seized) = {
        let state = cx.task.process.signals.lock();
        let mut own = cx.task.signals.lock();
        let Some(trace) = &mut own.trace else { return };
        if state.stop.signal.is_none() && !trace.seized {
            trace.trap = false;
            trace.notify = false;
            return;
        }
        (group_stop(&state), trace.seized)
    };
    let stop = if seized {
        Stop::notify(cx, signal, signal | (Event::Stop as i32) << 8, code::CLD_STOPPED)
    } else {
        Stop { code: signal, why: code::CLD_STOPPED, info: None, message: None, kind: Kind::Other }
    };
    // What the tracer lets it go with is no signal here.
    let _ignored = trap(cx, stop);
}

/// An event, if the tracer wants to know of it.
pub fn event(cx: &mut Current, event: Event, message: u64) {
    let wanted = {
        let own = cx.task.signals.lock();
        match &own.trace {
            None => return,
            Some(trace) => trace.options.contains(event.option()),
        }
    };
    if wanted {
        let mut stop = Stop::notify(cx, SIGTRAP, SIGTRAP | (event as i32) << 8, code::CLD_TRAPPED);
        stop.message = Some(message);
        let _ignored = trap(cx, stop);
    } else if event == Event::Exec {
        let seized = cx.task.signals.lock().trace.as_ref().is_some_and(|t| t.seized);
        if !seized {
            // As it was before there were events.
            let info = cx.sign(Signal::SIGTRAP, code::SI_USER);
            let _full = send_task(&cx.task, info, Origin::Inside);
        }
    }
}

/// The stop that a filter asks for; whether the tracer is there to say what becomes of the call.
pub fn seccomp(cx: &mut Current, data: u32) -> bool {
    let wanted = {
        let own = cx.task.signals.lock();
        own.trace.as_ref().is_some_and(|t| t.options.contains(Options::TRACESECCOMP))
    };
    if wanted {
        let code = SIGTRAP | (Event::Seccomp as i32) << 8;
        let mut stop = Stop::notify(cx, SIGTRAP, code, code::CLD_TRAPPED);
        stop.message = Some(data.into());
        stop.kind = Kind::Seccomp(data);
        let _ignored = trap(cx, stop);
    }
    wanted
}

fn mode(cx: &Current) -> Option<(Mode, Options)> {
    let own = cx.task.signals.lock();
    own.trace.as_ref().map(|t| (t.mode, t.options))
}

/// Before a system call; whether it is to be made.
pub fn syscall_entry(cx: &mut Current) -> bool {
    let mode = report_syscall(cx, MESSAGE_ENTRY, Kind::Entry);
    // Nothing has been interrupted yet, whatever is in rax.
    cx.restart = None;
    mode != Some(Mode::Emulate) && !cx.must_die()
}

/// After a system call.
pub fn syscall_exit(cx: &mut Current) {
    // A task that ends does not come back from the call.
    if cx.exit.is_some() {
        return;
    }
    if cx.stepping {
        // The instruction has been stepped over.
        force(cx, SigInfo::fault(Signal::SIGTRAP, code::TRAP_BRKPT, cx.regs.rip));
        return;
    }
    if mode(cx).is_some_and(|(mode, _)| mode == Mode::Syscall) {
        report_syscall(cx, MESSAGE_EXIT, Kind::Exit);
    }
}

/// Stops at a system call if the tracer wants that; how the task ran before.
fn report_syscall(cx: &mut Current, message: u64, kind: Kind) -> Option<Mode> {
    let (mode, options) = mode(cx)?;
    if mode == Mode::Continue {
        return Some(mode);
    }
    let good = if options.contains(Options::TRACESYSGOOD) { SYSGOOD } else { 0 };
    let mut stop = Stop::notify(cx, SIGTRAP, SIGTRAP | good, code::CLD_TRAPPED);
    stop.message = Some(message);
    stop.kind = if good != 0 { kind } else { Kind::Other };
    let (signal, _) = trap(cx, stop);
    if let Ok(signal) = Signal::new(signal) {
        let _full = send_task(&cx.task, SigInfo::kernel(signal), Origin::Outside);
    }
    Some(mode)
}

/// The task ends: the last thing that its tracer can look at.
pub fn exit(cx: &mut Current, status: i32) {
    event(cx, Event::Exit, status as u32 as u64);
}
