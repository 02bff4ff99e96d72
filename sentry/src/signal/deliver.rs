//! Delivery: what a task does about its signals, its end and its stops on the way to user mode.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{
    DefaultAction, Disposition, End, SigInfo, SigSet, Signal, SignalState, force, frame, sa,
};
use crate::errno::Errno;
use crate::error::Restart;
use crate::platform::platform;
use crate::task::{Current, ParentEvent, trace};

/// restart_syscall(2).
const RESTART_SYSCALL: u64 = 219;
/// Bytes of the SYSCALL instruction, which a restarted call executes again.
const SYSCALL_LEN: u64 = 2;

/// What a task does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Goes on in the application.
    Run,
    /// Ends with this wait(2) status.
    Exit(i32),
}

/// What was found under the lock.
enum Found {
    Nothing,
    Exit(i32),
    Stop,
    /// A stop for a tracer alone.
    Trap,
    /// A signal that a tracer is to see first.
    Traced(SigInfo),
    Continued(bool),
    Signal(SigInfo, super::SigAction),
}

/// Serves everything that wants the task's attention.
#[inline(never)] // keeps the way of a system call short
pub fn attend(cx: &mut Current) -> Next {
    if let Some(status) = cx.exit.take() {
        return Next::Exit(status);
    }
    loop {
        match find(cx) {
            // The last look before the application runs: whatever else there is to do may be done frozen.
            Found::Nothing if cx.task.process.container.freezer.is_frozen() => cx.hold(),
            Found::Nothing if cx.task.process.container.holds_tasks() => cx.await_time(),
            Found::Nothing => break,
            Found::Exit(status) => return Next::Exit(status),
            Found::Stop => stop(cx),
            Found::Trap => trace::stop::job(cx),
            Found::Traced(info) => {
                if let Some(info) = trace::stop::signal(cx, info)
                    && let Some(next) = deliver(cx, info, None)
                {
                    return next;
                }
            }
            Found::Continued(full) => {
                cx.task.process.tell_parent(ParentEvent::Continued { full });
            }
            Found::Signal(info, action) => {
                if let Some(next) = deliver(cx, info, Some(action)) {
                    return next;
                }
            }
        }
    }
    // No handler runs: an interrupted call begins again.
    if let Some(restart) = cx.restart.take() {
        match restart {
            Restart::Sys | Restart::NoHandler | Restart::Always => again(cx, cx.regs.orig_rax),
            Restart::Block => again(cx, RESTART_SYSCALL),
            Restart::Never => {}
        }
    }
    cx.restore_mask();
    Next::Run
}

fn again(cx: &mut Current, number: u64) {
    cx.regs.rax = number;
    cx.regs.rip = cx.regs.rip.wrapping_sub(SYSCALL_LEN);
}

fn find(cx: &Current) -> Found {
    let task = &cx.task;
    let mut state = task.process.signals.lock();
    match state.end {
        End::Exiting(status) => return Found::Exit(status),
        End::Exec(by) if by != task.key => return Found::Exit(0),
        End::Alive | End::Exec(_) => {}
    }
    if let Some(full) = state.stop.continued.take() {
        return Found::Continued(full);
    }
    let blocked = task.blocked();
    let mut own = task.signals.lock();
    if own.stopping {
        return Found::Stop;
    }
    if own.trace.as_ref().is_some_and(|t| t.wants()) {
        return Found::Trap;
    }
    let traced = own.trace.is_some();
    let wanted = SigSet(u64::MAX).without(blocked);
    // Faults of the task itself come first, then its own signals, then the process's.
    let info = own.pending.take(wanted);
    drop(own);
    let info = info.or_else(|| state.pending.take(wanted));
    let Some(info) = info else {
        task.attention.store(false, Ordering::SeqCst);
        return Found::Nothing;
    };
    if traced && info.signal != Signal::SIGKILL {
        return Found::Traced(info);
    }
    let action = take_action(&state, info.signal);
    Found::Signal(info, action)
}

/// What is done with a signal; a handler for one time is taken away.
fn take_action(state: &SignalState, signal: Signal) -> super::SigAction {
    let mut actions = state.actions.lock();
    let action = actions.get(signal);
    if action.disposition() == Disposition::Handler && action.flags & sa::SA_RESETHAND != 0 {
        let mut reset = action;
        reset.handler = 0;
        actions.set(signal, reset);
    }
    action
}

/// Does what a signal asks for; `Some` where the task ends. `action`: what was found with the signal.
fn deliver(cx: &mut Current, mut info: SigInfo, action: Option<super::SigAction>) -> Option<Next> {
    let action = match action {
        Some(action) => action,
        None => take_action(&cx.task.process.signals.lock(), info.signal),
    };
    let signal = info.signal;
    if let Some(timer) = info.timer
        && let Some(overrun) = cx.task.process.timers.delivered(timer)
    {
        info.set_overrun(overrun);
    }
    match action.disposition() {
        Disposition::Ignore => None,
        Disposition::Default => by_default(cx, signal),
        Disposition::Handler => {
            handle(cx, &info, action);
            None
        }
    }
}

fn by_default(cx: &Current, signal: Signal) -> Option<Next> {
    let process = &cx.task.process;
    let mut state = process.signals.lock();
    if state.unkillable && !signal.is_kernel_only() {
        return None;
    }
    match signal.default_action() {
        DefaultAction::Ignore | DefaultAction::Continue => None,
        DefaultAction::Stop => {
            if signal != Signal::SIGSTOP {
                // A stop that nobody could undo is not made (POSIX, orphaned process groups).
                drop(state);
                if process.group_is_orphaned() {
                    return None;
                }
                state = process.signals.lock();
            }
            // A SIGCONT that came meanwhile has flushed this one's effect on Linux too.
            if state.end == End::Alive {
                state.begin_stop(signal);
            }
            None
        }
        DefaultAction::Terminate | DefaultAction::Core => {
            Some(Next::Exit(state.begin_exit(i32::from(signal.number()))))
        }
    }
}

/// Makes the task run a handler next.
fn handle(cx: &mut Current, info: &SigInfo, action: super::SigAction) {
    if let Some(restart) = cx.restart.take() {
        let restarts = match restart {
            Restart::Sys => action.flags & sa::SA_RESTART != 0,
            Restart::Always => true,
            Restart::NoHandler | Restart::Block | Restart::Never => false,
        };
        if restarts {
            again(cx, cx.regs.orig_rax);
        } else {
            cx.regs.rax = Errno::EINTR.to_rax();
        }
    }
    cx.abort_before_handler();
    let blocked = cx.task.blocked();
    // What sigreturn restores: sigsuspend's mask is only for the wait.
    let saved = cx.saved_mask.take().unwrap_or(blocked);
    if frame::push(cx, info, &action, saved).is_err() {
        // No room for the frame: SIGSEGV, and where that is the one that failed, by default.
        if info.signal == Signal::SIGSEGV {
            let state = cx.task.process.signals.lock();
            state.actions.lock().set(Signal::SIGSEGV, super::SigAction::default());
        }
        cx.set_blocked(saved);
        force(cx, SigInfo::kernel(Signal::SIGSEGV));
        return;
    }
    let mut mask = blocked.with(action.mask);
    if action.flags & sa::SA_NODEFER == 0 {
        mask = mask.with(info.signal.bit());
    }
    cx.set_blocked(mask);
}

/// Takes part in a stop of the group, until it is over.
fn stop(cx: &mut Current) {
    let task = cx.task.clone();
    let process = &task.process;
    let (all, signal, traced) = {
        let mut state = process.signals.lock();
        let mut own = task.signals.lock();
        if !own.stopping {
            return;
        }
        own.stopping = false;
        let traced = own.trace.is_some();
        own.stopped = !traced;
        drop(own);
        let before = state.stop.is_stopped();
        (state.one_stopped() && !before, state.stop.signal, traced)
    };
    if let (true, Some(signal)) = (all, signal) {
        process.tell_parent(ParentEvent::Stopped { signal });
    }
    if traced {
        return trace::stop::job(cx);
    }
    loop {
        {
            let state = process.signals.lock();
            let mut own = task.signals.lock();
            if matches!(state.end, End::Exiting(_)) {
                own.stopped = false;
            }
            if !own.stopped {
                return;
            }
        }
        platform().park(None);
    }
}

impl Current {
    /// Looks again whether something wants attention, and forgets a notice whose cause is gone.
    pub fn must_interrupt(&self) -> bool {
        if !self.task.attention.load(Ordering::SeqCst) {
            return false;
        }
        if self.exit.is_some() {
            return true;
        }
        let state = self.task.process.signals.lock();
        let wants = state.wants(&self.task);
        self.task.set_attention(wants);
        wants
    }

    /// Whether the task is to end: what interrupts a wait that signals do not.
    pub fn must_die(&self) -> bool {
        if !self.task.attention.load(Ordering::SeqCst) {
            return false;
        }
        let state = self.task.process.signals.lock();
        dies(&state, self)
    }

    /// Ends the whole process with this wait(2) status, once the call is left.
    pub fn exit_group(&mut self, status: i32) {
        let status = self.task.process.signals.lock().begin_exit(status);
        self.exit_task(status);
    }

    /// Ends this task, once the call is left.
    pub fn exit_task(&mut self, status: i32) {
        self.exit = Some(status);
        self.task.attention.store(true, Ordering::SeqCst);
    }
}

fn dies(state: &SignalState, cx: &Current) -> bool {
    match state.end {
        End::Alive => false,
        End::Exec(by) => by != cx.task.key,
        End::Exiting(_) => true,
    }
}

/// Sends SIGSEGV because a frame was bad (sigreturn).
pub fn bad_frame(cx: &Current) {
    force(cx, SigInfo::kernel(Signal::SIGSEGV));
}

/// Takes one of the signals in `wanted`, if it is there: rt_sigtimedwait(2), signalfd(2).
pub fn take(task: &Arc<crate::task::Task>, wanted: SigSet) -> Option<SigInfo> {
    let mut state = task.process.signals.lock();
    let own = task.signals.lock().pending.take(wanted);
    let mut info = own.or_else(|| state.pending.take(wanted))?;
    drop(state);
    if let Some(timer) = info.timer
        && let Some(overrun) = task.process.timers.delivered(timer)
    {
        info.set_overrun(overrun);
    }
    Some(info)
}
