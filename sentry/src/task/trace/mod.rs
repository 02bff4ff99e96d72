//! Tracing (ptrace(2)): who traces whom, and what is between the two.
//!
//! A tracer is one task; what it traces is listed in its process ([`Links::tracees`]), because any task of
//! that process may wait for it. The tracee holds the rest: [`Tracing`] while somebody traces it, and
//! [`Stopped`] while it is in a ptrace-stop. A task stops on its own thread and puts everything that a
//! tracer may look at (registers, vector state, mask) into `Stopped`; the tracer edits it there, and the
//! task takes it back when it is let go. So a tracer never touches what a running task owns.
//!
//! - `mod.rs`: the two structures, attaching, letting go, the ends of either side.
//! - [`stop`]: the tracee's side: every kind of stop.
//! - [`DebugRegisters`]: breakpoints of the CPU's.
//!
//! Locks: who traces whom changes under the pid namespace's table lock and the tracee's signal locks; the
//! rest of `Tracing` and `Stopped` under the tracee's own signal lock (`Task::signals`).
//!
//! [`Links::tracees`]: super::Links

mod debug;
mod options;
pub mod stop;

pub use debug::{DebugRegisters, Reason};
pub use options::Options;

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::dispatch::UserDispatch;
use super::{CloneFlags, Current, PidTable, Process, Task, cap};
use crate::errno::Errno;
use crate::platform::{Registers, RestartArea};
use crate::signal::{
    Disposition, Origin, SigInfo, SigSet, Signal, SignalState, TaskSignals, code, sa, send_process,
};

/// PTRACE_EVENT_ codes (linux/ptrace.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are ptrace(2)'s
pub enum Event {
    Fork = 1,
    Vfork = 2,
    Clone = 3,
    Exec = 4,
    VforkDone = 5,
    Exit = 6,
    Seccomp = 7,
    Stop = 128,
}

impl Event {
    /// The option that asks for it; a stop comes without.
    fn option(self) -> Options {
        match self {
            Event::Fork => Options::TRACEFORK,
            Event::Vfork => Options::TRACEVFORK,
            Event::Clone => Options::TRACECLONE,
            Event::Exec => Options::TRACEEXEC,
            Event::VforkDone => Options::TRACEVFORKDONE,
            Event::Exit => Options::TRACEEXIT,
            Event::Seccomp => Options::TRACESECCOMP,
            Event::Stop => Options::empty(),
        }
    }
}

/// Where a task that was let go stops next by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// At signals and events only (PTRACE_CONT).
    #[default]
    Continue,
    /// At the next entry or exit of a system call too.
    Syscall,
    /// At the next entry of a system call, which is not made (PTRACE_SYSEMU).
    Emulate,
}

/// That a task is traced, and how.
#[derive(Debug)]
pub struct Tracing {
    /// By whom.
    pub tracer: Weak<Task>,
    /// By PTRACE_SEIZE.
    pub seized: bool,
    /// What its tracer wants to see.
    pub options: Options,
    /// It is to stop with [`Event::Stop`] (JOBCTL_TRAP_STOP).
    pub trap: bool,
    /// A group stop has begun or ended, of which the tracer of a seized task is told (JOBCTL_TRAP_NOTIFY).
    pub notify: bool,
    /// It is stopped for wait(2) no more, but stays where it is (PTRACE_LISTEN).
    pub listening: bool,
    /// The stop that nobody has waited for yet, as wait(2) encodes it above the lowest byte.
    pub report: Option<i32>,
    /// PTRACE_GETEVENTMSG.
    pub message: u64,
    /// How it runs.
    pub mode: Mode,
    /// It stops after one instruction.
    pub step: bool,
    /// It has ended, and how; nobody has waited for that yet. Not of a process's first task, whose end is
    /// the process's.
    pub dead: Option<i32>,
}

impl Tracing {
    fn new(tracer: &Arc<Task>, seized: bool, options: Options) -> Tracing {
        Tracing {
            tracer: Arc::downgrade(tracer),
            seized,
            options,
            trap: false,
            notify: false,
            listening: false,
            report: None,
            message: 0,
            mode: Mode::Continue,
            step: false,
            dead: None,
        }
    }

    /// Whether it has something to stop for.
    pub fn wants(&self) -> bool {
        self.trap || self.notify
    }
}

/// What kind of stop it is, for PTRACE_GET_SYSCALL_INFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// None of the others.
    Other,
    /// Before a system call.
    Entry,
    /// After one.
    Exit,
    /// A filter of seccomp(2) has said so; what it said.
    Seccomp(u32),
}

/// A task in a ptrace-stop, as its tracer sees it.
#[derive(Debug)]
pub struct Stopped {
    /// Its debug registers.
    pub debug: DebugRegisters,
    /// Its restartable-sequences area.
    pub rseq: Option<RestartArea>,
    /// The calls that its own code serves.
    pub user_dispatch: Option<UserDispatch>,
    /// Its registers, with what Linux shows of an interrupted call in rax.
    pub regs: Registers,
    /// Its vector state, one standard-format XSAVE image.
    pub xstate: Vec<u8>,
    /// `xstate` has been changed.
    pub xstate_changed: bool,
    /// Signals that it blocks, as they will be when the call that changed them is over.
    pub mask: SigSet,
    /// `mask` has been changed.
    pub mask_changed: bool,
    /// PTRACE_GETSIGINFO; a group-stop of one that is not seized has none.
    pub info: Option<SigInfo>,
    /// What kind it is.
    pub kind: Kind,
    /// Its tracer has let it go, with this signal or 0.
    pub resume: Option<i32>,
}

/// A task's tracer, while it has one.
pub fn tracer_of(task: &Task) -> Option<Arc<Task>> {
    task.signals.lock().trace.as_ref()?.tracer.upgrade()
}

/// Whether a task is traced.
pub fn is_traced(task: &Task) -> bool {
    task.signals.lock().trace.is_some()
}

/// Whether a task is traced by somebody who could not have its rights otherwise: then exec gives none
/// (LSM_UNSAFE_PTRACE).
pub fn is_watched_by_less(task: &Task) -> bool {
    is_traced(task)
        && !tracer_of(task)
            .is_some_and(|tracer| tracer.creds().ns_capable(&task.creds().userns, cap::SYS_PTRACE))
}

/// PTRACE_TRACEME: the caller is traced by its parent. `EPERM` where it is traced already, has no parent here, or one
/// with less rights.
pub fn trace_me(cx: &Current) -> Result<(), Errno> {
    let process = &cx.task.process;
    let table = process.pids.lock();
    let parent = process.parent().ok_or(Errno::EPERM)?;
    let tasks = parent.tasks();
    let maker = cx.task.parent_key.load(Ordering::Relaxed);
    let tracer = tasks.iter().find(|t| t.key == maker).or_else(|| tasks.first());
    let tracer = tracer.ok_or(Errno::EPERM)?.clone();
    // It must have what the caller has (cap_ptrace_traceme()).
    let (above, own) = (tracer.creds(), &cx.creds);
    let no_more = own.capabilities.permitted & !above.capabilities.permitted == 0;
    if !(above.userns == own.userns && no_more || above.ns_capable(&own.userns, cap::SYS_PTRACE)) {
        return Err(Errno::EPERM);
    }
    link(&table, &cx.task, &tracer, false, Options::empty())
}

/// PTRACE_ATTACH and PTRACE_SEIZE of a task that the caller may trace.
pub fn attach(
    cx: &Current,
    target: &Arc<Task>,
    seized: bool,
    options: Options,
) -> Result<(), Errno> {
    let table = target.process.pids.lock();
    link(&table, target, &cx.task, seized, options)?;
    let mut state = target.process.signals.lock();
    if !seized {
        let stop = SigInfo::kernel(Signal::SIGSTOP);
        // One that is there already does as well.
        let _there = target.signals.lock().pending.push(stop, usize::MAX);
    }
    let mut own = target.signals.lock();
    // One that is stopped with its group becomes a traced one without running in between.
    if own.stopped {
        own.stopped = false;
        if let Some(trace) = &mut own.trace {
            trace.trap = true;
        }
    }
    drop(own);
    if !seized {
        // As sending one does.
        state.flush(Signal::SIGCONT.bit());
    }
    drop(state);
    target.notice();
    Ok(())
}

fn link(
    _table: &PidTable,
    target: &Arc<Task>,
    tracer: &Arc<Task>,
    seized: bool,
    options: Options,
) -> Result<(), Errno> {
    {
        let mut links = tracer.process.links.lock();
        // Its end looks at the list after it has set this.
        if tracer.traces_no_more.load(Ordering::SeqCst) {
            return Err(Errno::EPERM);
        }
        links.tracees.push(target.clone());
    }
    let linked = {
        let state = target.process.signals.lock();
        let mut own = target.signals.lock();
        let free = own.trace.is_none() && state.tasks.iter().any(|t| Arc::ptr_eq(t, target));
        if free {
            own.trace = Some(Box::new(Tracing::new(tracer, seized, options)));
        }
        free
    };
    if !linked {
        // The one that was pushed last; there may be another, of an earlier attempt that succeeded.
        tracer.process.links.lock().tracees.pop();
        return Err(Errno::EPERM);
    }
    if target.is_leader() {
        target.process.links.lock().tracer = Some(Arc::downgrade(&tracer.process));
    }
    Ok(())
}

/// A new task of a traced one is traced too, from its beginning, if its tracer wants that. Under the
/// table's lock; nobody knows the new task yet.
pub(super) fn inherit(
    table: &PidTable,
    parent: &Task,
    child: &Arc<Task>,
    flags: CloneFlags,
    event: Option<Event>,
) {
    let (tracer, seized, options) = {
        let own = parent.signals.lock();
        let Some(trace) = &own.trace else { return };
        if event.is_none() && !flags.contains(CloneFlags::PTRACE) {
            return;
        }
        let Some(tracer) = trace.tracer.upgrade() else { return };
        (tracer, trace.seized, trace.options)
    };
    if link(table, child, &tracer, seized, options).is_err() {
        return;
    }
    let mut own = child.signals.lock();
    if seized {
        if let Some(trace) = &mut own.trace {
            trace.trap = true;
        }
    } else {
        let stop = SigInfo::user(Signal::SIGSTOP, code::SI_USER, 0, 0);
        let _new = own.pending.push(stop, usize::MAX);
    }
    drop(own);
    child.attention.store(true, Ordering::SeqCst);
}

/// Which event a clone of these flags is, where the caller's tracer wants to know of it.
pub(super) fn clone_event(parent: &Task, flags: CloneFlags, exit_signal: u8) -> Option<Event> {
    if flags.contains(CloneFlags::UNTRACED) {
        return None;
    }
    let event = if flags.contains(CloneFlags::VFORK) {
        Event::Vfork
    } else if exit_signal != Signal::SIGCHLD.number() {
        Event::Clone
    } else {
        Event::Fork
    };
    let own = parent.signals.lock();
    own.trace.as_ref().filter(|t| t.options.contains(event.option())).map(|_| event)
}

/// Lets a task go for good; with a signal if it is in a stop. Under the table's lock.
pub fn unlink(_table: &PidTable, target: &Arc<Task>, signal: i32) {
    let tracer = {
        let mut state = target.process.signals.lock();
        let mut own = target.signals.lock();
        let Some(trace) = own.trace.take() else { return };
        if let Some(stopped) = &mut own.trap {
            stopped.resume.get_or_insert(signal);
        }
        rejoin_stop(&mut state, &mut own);
        trace.tracer.upgrade()
    };
    if let Some(tracer) = tracer {
        tracer.process.links.lock().tracees.retain(|t| !Arc::ptr_eq(t, target));
    }
    if target.is_leader() {
        target.process.links.lock().tracer = None;
    }
    target.notice();
}

/// A task that is traced no more takes part in the stop of its group again, if there is one.
fn rejoin_stop(state: &mut SignalState, own: &mut TaskSignals) {
    if state.stop.signal.is_none() || own.stopping || own.stopped {
        return;
    }
    // Where all the others stand still nobody waits for it.
    if !state.stop.is_stopped() {
        state.stop.running = state.stop.running.saturating_add(1);
    }
    own.stopping = true;
}

/// A task that traces others ends: they go on alone, or with it. What of them has ended is their
/// parents' to hear of.
pub(super) fn tracer_ends(tracer: &Arc<Task>) {
    let process = &tracer.process;
    tracer.traces_no_more.store(true, Ordering::SeqCst);
    if process.links.lock().tracees.is_empty() {
        return;
    }
    let mut table = process.pids.lock();
    let mine = |task: &Arc<Task>| {
        let own = task.signals.lock();
        own.trace.as_ref().is_some_and(|t| core::ptr::eq(t.tracer.as_ptr(), Arc::as_ptr(tracer)))
    };
    let tracees: Vec<_> =
        process.links.lock().tracees.iter().filter(|t| mine(t)).cloned().collect();
    for tracee in tracees {
        let (kill, dead, report) = {
            let own = tracee.signals.lock();
            own.trace.as_ref().map_or((false, false, None), |t| {
                (t.options.contains(Options::EXITKILL), t.dead.is_some(), t.report)
            })
        };
        if dead {
            forget_dead(&mut table, &tracee);
            continue;
        }
        // What nobody has waited for is still to be done.
        let signal = report.filter(|code| code & !0x7f == 0).unwrap_or(0);
        unlink(&table, &tracee, signal);
        if kill {
            let kill = SigInfo::kernel(Signal::SIGKILL);
            let _sent = send_process(&tracee.process, kill, Origin::Outside);
        }
        if tracee.is_leader() {
            super::exit::tell_withheld(&mut table, &tracee.process);
        }
    }
}

/// Nobody is to wait any more for a task that has ended. Under the table's lock.
pub(super) fn forget_dead(table: &mut PidTable, task: &Arc<Task>) {
    let tracer = task.signals.lock().trace.take().and_then(|t| t.tracer.upgrade());
    if let Some(tracer) = tracer {
        tracer.process.links.lock().tracees.retain(|t| !Arc::ptr_eq(t, task));
    }
    table.release(task.tid());
    task.process.container.tasks.one_gone();
}

/// A traced task has ended. Whether its tracer is to wait for it: its id stays taken until then.
pub(super) fn tracee_ends(task: &Arc<Task>, status: i32) -> bool {
    let mut table = task.process.pids.lock();
    let tracer = {
        let mut own = task.signals.lock();
        let Some(trace) = &mut own.trace else { return false };
        trace.report = None;
        if task.is_leader() {
            return false;
        }
        trace.dead = Some(status);
        trace.tracer.upgrade()
    };
    let Some(tracer) = tracer else { return false };
    table.retire(task.tid());
    let uid = tracer.creds().userns.uid(task.creds().uid);
    let (code, status) = match status & 0x7f {
        0 => (code::CLD_EXITED, status >> 8 & 0xff),
        signal => (code::CLD_KILLED, signal),
    };
    let times = task.usage().ticks();
    let pid = tracer.process.pidns.nr(task.tid());
    tell(&tracer.process, SigInfo::child(Signal::SIGCHLD, code, pid, uid, status, times), false);
    true
}

/// The number of an id for the tracer of a task, 0 where it has none or cannot see that.
pub(super) fn nr_for_tracer(task: &Task, id: super::Pid) -> super::Pid {
    tracer_of(task).map_or(0, |tracer| tracer.process.pidns.nr(id))
}

/// Another task of the group takes the leader's id by exec: a tracer that had the old leader loses it
/// without a word, and has the other under the leader's id. Under the table's lock.
pub(super) fn leader_replaced(table: &mut PidTable, task: &Arc<Task>) {
    let process = &task.process;
    let old = process.links.lock().tracer.take().and_then(|t| t.upgrade());
    if let Some(tracer) = old {
        let same = |t: &Arc<Task>| {
            Arc::ptr_eq(&t.process, process) && t.is_leader() && !Arc::ptr_eq(t, task)
        };
        let gone: Vec<_> = tracer.links.lock().tracees.extract_if(.., |t| same(t)).collect();
        tracer.child_events.wake_all();
        for leader in gone {
            leader.signals.lock().trace = None;
        }
    }
    let _locked = table;
    if let Some(tracer) = tracer_of(task) {
        process.links.lock().tracer = Some(Arc::downgrade(&tracer.process));
    }
}

/// Sends a tracer's SIGCHLD, and wakes whoever waits there. Under the table's lock.
fn tell(process: &Arc<Process>, info: SigInfo, stop: bool) {
    let quiet = {
        let state = process.signals.lock();
        let action = state.actions.lock().get(Signal::SIGCHLD);
        action.disposition() == Disposition::Ignore || stop && action.flags & sa::SA_NOCLDSTOP != 0
    };
    if !quiet {
        let _full = send_process(process, info, Origin::Inside);
    }
    process.child_events.wake_all();
}
