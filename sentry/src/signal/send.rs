//! Sending: from whoever raises a signal to the queue it waits in, and to the task that will take it.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use super::{
    DefaultAction, Disposition, End, SigAction, SigInfo, SigSet, Signal, SignalState, code,
};
use crate::errno::Errno;
use crate::task::{Current, Pid, Pids, Process, Task, limit};

/// Where a signal comes from, as far as init of a pid namespace is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The namespace itself: cannot harm its init.
    Inside,
    /// The host, or the kernel: SIGKILL and SIGSTOP reach init too.
    Outside,
}

/// Sends a signal to a process; whether it was queued: what would do nothing is not. `EAGAIN` where a
/// real-time signal finds no room.
pub fn send_process(process: &Arc<Process>, info: SigInfo, origin: Origin) -> Result<bool, Errno> {
    let mut state = process.signals.lock();
    // The leader is asked first, as on Linux.
    send_locked(process, &mut state, None, info, origin)
}

/// Sends a signal to one task; see [`send_process`].
pub fn send_task(task: &Arc<Task>, info: SigInfo, origin: Origin) -> Result<bool, Errno> {
    let mut state = task.process.signals.lock();
    send_locked(&task.process, &mut state, Some(task), info, origin)
}

/// Sends a signal to each process of a process group.
pub fn send_group(pids: &Pids, group: Pid, info: SigInfo, origin: Origin) {
    let table = pids.lock();
    for process in table.group(group) {
        // A full queue is the receiver's loss: kill(2) succeeds if any could be signalled.
        let _full = send_process(process, info, origin);
    }
}

fn send_locked(
    process: &Process,
    state: &mut SignalState,
    to: Option<&Arc<Task>>,
    info: SigInfo,
    origin: Origin,
) -> Result<bool, Errno> {
    let signal = info.signal;
    if let End::Exiting(_) = state.end {
        return Ok(false);
    }
    prepare(state, signal);
    let Some(first) = to.or(state.tasks.first()).cloned() else { return Ok(false) };
    if ignored(state, &first, signal, origin) {
        return Ok(false);
    }
    let limit =
        usize::try_from(process.limits.soft(limit::RLIMIT_SIGPENDING)).unwrap_or(usize::MAX);
    let new = match to {
        Some(task) => task.signals.lock().pending.push(info, limit)?,
        None => state.pending.push(info, limit)?,
    };
    if new {
        for bell in state.bells.iter().filter_map(Weak::upgrade) {
            bell.ring(signal);
        }
        complete(state, to, &first, signal);
    }
    Ok(new)
}

/// What a signal does to others when it is sent, whether it is blocked or not.
fn prepare(state: &mut SignalState, signal: Signal) {
    if SigSet::STOPS.contains(signal) {
        state.flush(Signal::SIGCONT.bit());
    } else if signal == Signal::SIGCONT {
        state.flush(SigSet::STOPS);
        state.notify_tracers();
        state.end_stop();
    } else if signal == Signal::SIGKILL {
        state.end_stop();
        state.stop.continued = None;
    }
}

/// Whether the signal would do nothing, so that it need not be queued.
fn ignored(state: &SignalState, task: &Task, signal: Signal, origin: Origin) -> bool {
    if task.blocked().contains(signal) {
        return false;
    }
    let own = task.signals.lock();
    // A tracer sees what is ignored, too.
    if own.awaited.contains(signal) || own.trace.is_some() && signal != Signal::SIGKILL {
        return false;
    }
    drop(own);
    let actions = state.actions.lock();
    let action = actions.get(signal);
    if state.unkillable
        && action.disposition() == Disposition::Default
        && !(origin == Origin::Outside && signal.is_kernel_only())
    {
        return true;
    }
    match action.disposition() {
        Disposition::Ignore => true,
        Disposition::Default => match signal.default_action() {
            DefaultAction::Ignore => true,
            // It has done its work in `prepare`.
            DefaultAction::Continue => true,
            _ => false,
        },
        Disposition::Handler => false,
    }
}

/// Finds a task for a signal that was queued, and ends the group at once where that is its effect.
fn complete(state: &mut SignalState, to: Option<&Arc<Task>>, first: &Arc<Task>, signal: Signal) {
    let wants = |task: &Arc<Task>| {
        if signal == Signal::SIGKILL {
            return true;
        }
        let own = task.signals.lock();
        !own.stopped
            && own.trap.is_none()
            && (!task.blocked().contains(signal) || own.awaited.contains(signal))
    };
    let target = if wants(first) {
        first.clone()
    } else if to.is_some() {
        return;
    } else {
        match state.tasks.iter().find(|task| wants(task)) {
            Some(task) => task.clone(),
            // All block it: it waits in the queue until one does not.
            None => return,
        }
    };
    let fatal = {
        let actions = state.actions.lock();
        actions.get(signal).disposition() == Disposition::Default
            && matches!(signal.default_action(), DefaultAction::Terminate)
            && !target.blocked().contains(signal)
            && !target.signals.lock().awaited.contains(signal)
            && (signal == Signal::SIGKILL || target.signals.lock().trace.is_none())
            && (!state.unkillable || signal == Signal::SIGKILL)
    };
    if fatal {
        state.begin_exit(i32::from(signal.number()));
    } else {
        target.notice();
    }
}

/// Raises a signal that an instruction of the task itself caused: it cannot be blocked or ignored.
pub fn force(cx: &Current, info: SigInfo) {
    let task = &cx.task;
    let mut state = task.process.signals.lock();
    let signal = info.signal;
    {
        let mut actions = state.actions.lock();
        let blocked = task.blocked().contains(signal);
        let action = actions.get(signal);
        if blocked || action.disposition() == Disposition::Ignore {
            actions.set(signal, SigAction::default());
        }
        // Whoever debugs init does not expect to lose it.
        let traced = task.signals.lock().trace.is_some();
        if actions.get(signal).disposition() == Disposition::Default && !traced {
            drop(actions);
            state.unkillable = false;
        }
    }
    task.blocked.store(task.blocked().without(signal.bit()).0, Ordering::SeqCst);
    // Only what may be lost is forced, so that a full queue cannot refuse it.
    let _new = task.signals.lock().pending.push(info, usize::MAX);
    task.attention.store(true, Ordering::SeqCst);
}

impl Current {
    /// Changes which signals the task blocks. SIGKILL and SIGSTOP stay out of it.
    pub fn set_blocked(&self, mask: SigSet) {
        let mask = mask.without(SigSet::UNBLOCKABLE);
        let state = self.task.process.signals.lock();
        let old = self.task.blocked();
        if old == mask {
            return;
        }
        self.task.blocked.store(mask.0, Ordering::SeqCst);
        // Signals for the process that this task was to take, and now blocks, are another's.
        let now = mask.without(old).and(state.pending.set());
        if !now.is_empty() {
            for task in &state.tasks {
                if !Arc::ptr_eq(task, &self.task) && !now.without(task.blocked()).is_empty() {
                    task.notice();
                }
            }
        }
        let wants = state.wants(&self.task);
        self.task.set_attention(wants);
    }

    /// The information that a signal of this task to another carries.
    pub fn sign(&self, signal: Signal, code: i32) -> SigInfo {
        SigInfo::user(signal, code, self.task.process.vpid, self.creds.userns.uid(self.creds.uid))
    }

    /// As kill(2) of itself would: for calls that raise a signal on their caller (SIGPIPE).
    pub fn raise(&self, signal: Signal) {
        let _ok = send_task(&self.task, self.sign(signal, code::SI_USER), Origin::Inside);
    }
}
