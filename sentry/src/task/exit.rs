//! The end of tasks and processes: what they leave behind, who adopts their children, who is told.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::process::is_orphaned;
use super::{PidTable, Process, Task, TaskState, ThreadWaker, Zombie, robust, trace};
use crate::errno::Errno;
use crate::fs::{FdTable, FsContext};
use crate::futex;
use crate::mm::Mm;
use crate::platform::{ThreadId, platform};
use crate::signal::{
    Disposition, End, Origin, SigInfo, Signal, TaskSignals, code, sa, send_process, send_task,
};

/// What a task gives back when it ends.
pub(super) struct Held {
    pub mm: Arc<Mm>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
}

/// What a parent is told of a child that has not ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParentEvent {
    /// It has stopped.
    Stopped {
        /// By what.
        signal: Signal,
    },
    /// It goes on.
    Continued {
        /// It had stopped before, and was not only about to.
        full: bool,
    },
}

/// Ends a task, on its own thread; the last one ends the process.
pub(super) fn leave(task: &Arc<Task>, held: Held, status: i32) {
    let process = &task.process;
    let Held { mm, files, fs } = held;
    trace::tracer_ends(task);
    let usage = task.usage();
    release_memory(task, &mm);
    {
        let mut shared = task.shared.lock();
        let gone = (shared.mm.take(), shared.files.take(), shared.fs.take());
        drop(shared);
        drop(gone);
    }
    drop((mm, files, fs));
    // With what that has taken.
    let time = task.cpu_time();

    let mut stopped = None;
    let last = {
        let mut state = process.signals.lock();
        process.used.lock().add(&usage);
        process.container.ended.lock().add(time);
        state.tasks.retain(|t| !Arc::ptr_eq(t, task));
        let own = {
            let mut own = task.signals.lock();
            let trace = own.trace.take();
            core::mem::replace(&mut *own, TaskSignals { trace, ..TaskSignals::default() })
        };
        task.set_state(TaskState::Dead);
        if task.is_leader() {
            *process.last_name.lock() = *task.name.lock();
        }
        if own.stopping && state.one_stopped() {
            stopped = state.stop.signal;
        }
        if let End::Exec(by) = state.end
            && let Some(exec) = state.tasks.iter().find(|t| t.key == by)
        {
            unpark(exec);
        }
        // Signals of the process that this task was to take are another's now.
        for other in &state.tasks {
            if !state.pending.set().without(other.blocked()).is_empty() {
                other.notice();
            }
        }
        if state.tasks.is_empty() { Some(state.begin_exit(status)) } else { None }
    };
    // Nobody gives it others any more.
    crate::seccomp::leave(task);
    task.kernel().count_calls(task.syscalls.load(Ordering::Relaxed));
    if !trace::tracee_ends(task, status) && !task.is_leader() {
        process.pids.lock().remove_task(task.tid());
        process.container.tasks.one_gone();
    }
    if let Some(signal) = stopped {
        process.tell_parent(ParentEvent::Stopped { signal });
    }
    if let Some(status) = last {
        end_process(process, status, task);
    }
}

fn unpark(task: &Task) {
    let thread = task.thread.load(Ordering::SeqCst);
    if thread != 0 {
        platform().unpark(ThreadId(thread));
    }
}

/// What a task owes to others who share its memory, before it leaves it (exit or exec).
pub(super) fn release_memory(task: &Arc<Task>, mm: &Arc<Mm>) {
    robust::release(task, mm);
    futex::owner_ends(task);
    let addr = task.clear_child_tid.swap(0, Ordering::Relaxed);
    // Only where somebody else can see it: the task's two references are its own.
    if addr != 0 && Arc::strong_count(mm) > 2 && mm.copy_out(addr, &0u32.to_le_bytes()).is_ok() {
        futex::wake_addr(mm, addr, 1);
    }
    release_vfork(task);
}

/// Lets a parent go on that waits in vfork(2).
pub(super) fn release_vfork(task: &Task) {
    let parent = task.vfork_parent.swap(0, Ordering::SeqCst);
    if parent != 0 {
        platform().unpark(ThreadId(parent));
    }
}

fn end_process(process: &Arc<Process>, status: i32, last: &Arc<Task>) {
    process.timers.clear();
    if process.is_init() {
        end_namespace(process);
    } else if process.container.is_init(process) {
        end_container(process);
    }
    let terminal = process.terminal.lock().take();
    if process.session() == process.pid
        && let Some(terminal) = terminal
    {
        terminal.session_ended(process.pid);
    }
    let uid = last.shared.lock().creds.uid;
    let namespaces = last.shared.lock().namespaces.clone();
    namespaces.ipc.semaphores.process_ended(process.pid);
    let usage = *process.used.lock();

    let mut table = process.pids.lock();
    table.remove_task(process.pid);
    let mut gone = Vec::new();
    let children = core::mem::take(&mut process.links.lock().children);
    if !children.is_empty() {
        let reaper = find_reaper(&table, process);
        for child in children {
            orphan(&mut table, process, &child, reaper.as_ref(), &mut gone);
        }
    }
    // Its own group may have lost the last one who could have continued it.
    let group = table.group(process.group());
    if is_orphaned(group, Some(process))
        && process.parent().is_some_and(|parent| {
            parent.group() != process.group() && parent.session() == process.session()
        })
    {
        hang_up_stopped(group);
    }

    let zombie = Zombie { status, uid, usage };
    process.links.lock().zombie = Some(zombie);
    let parent = process.parent();
    match &parent {
        Some(_) if withhold(process, &zombie, parent.as_ref()) => {}
        Some(parent) => {
            if tell_end(process, &zombie, parent) {
                reap(&mut table, process, Some(parent));
                gone.push(process.clone());
            }
            parent.child_events.wake_all();
        }
        None => {
            reap(&mut table, process, None);
        }
    }
    drop(table);
    process.ended.wake_all();
    if parent.is_none() {
        process.container.process_ended(process, status);
    }
    // Dropped without the lock: what they hold may be large.
    drop(gone);
}

/// Init of a pid namespace is about to end: everything else in it ends first.
fn end_namespace(init: &Arc<Process>) {
    let pids = &init.pids;
    let pidns = init.pidns.clone();
    let inside = |p: &&Arc<Process>| !Arc::ptr_eq(p, init) && pidns.contains(&p.pidns);
    // Its children leave no zombies from now on.
    {
        let state = init.signals.lock();
        let mut actions = state.actions.lock();
        let mut action = actions.get(Signal::SIGCHLD);
        action.handler = 1;
        actions.set(Signal::SIGCHLD, action);
    }
    {
        let mut table = pids.lock();
        if pidns.parent().is_none() {
            table.close();
        }
        pidns.close();
        let children = init.links.lock().children.clone();
        for child in children.iter().filter(|c| c.is_zombie()) {
            reap(&mut table, child, Some(init));
        }
        for process in table.processes().filter(inside) {
            let kill = SigInfo::kernel(Signal::SIGKILL);
            let _full = send_process(process, kill, Origin::Outside);
        }
    }
    if pidns.parent().is_none() {
        // Inits of containers that share it and were never started: nobody would deliver the signal.
        for container in init.container.kernel.containers() {
            if !container.is_init(init) && Arc::ptr_eq(&container.pids, pids) {
                container.signal_unstarted(Signal::SIGKILL);
            }
        }
    }
    let waker = Arc::new(ThreadWaker(platform().current()));
    let token = pids.emptied.enter(u32::MAX, false, waker);
    while pids.lock().processes().any(|p| inside(&p)) {
        platform().park(None);
    }
    pids.emptied.leave(token);
}

/// The init of a container that is in another's pid namespace is about to end: as runc does by the cgroup, what else is the
/// container's ends first, and nothing of others.
fn end_container(init: &Arc<Process>) {
    let container = &init.container;
    let others = || {
        let all = container.processes();
        all.into_iter().filter(|p| !Arc::ptr_eq(p, init) && !p.is_zombie())
    };
    {
        let table = init.pids.lock();
        container.close();
        // Nobody forks who has this signal.
        for process in table.processes().filter(|p| Arc::ptr_eq(&p.container, container)) {
            if !Arc::ptr_eq(process, init) {
                let kill = SigInfo::kernel(Signal::SIGKILL);
                let _full = send_process(process, kill, Origin::Outside);
            }
        }
    }
    let thread = platform().current();
    while let Some(process) = others().next() {
        let token = process.ended.enter(u32::MAX, false, Arc::new(ThreadWaker(thread)));
        while !process.is_zombie() {
            platform().park(None);
        }
        process.ended.leave(token);
    }
}

/// Who adopts the children of a process: the nearest subreaper above it in its pid namespace, else that one's
/// init.
fn find_reaper(table: &PidTable, process: &Arc<Process>) -> Option<Arc<Process>> {
    let mut above = process.parent();
    while let Some(p) = above.filter(|p| Arc::ptr_eq(&p.pidns, &process.pidns)) {
        if p.is_subreaper.load(Ordering::Relaxed) && p.links.lock().zombie.is_none() {
            return Some(p);
        }
        above = p.parent();
    }
    table.process(process.pidns.id_of(1)?).filter(|init| !Arc::ptr_eq(init, process)).cloned()
}

/// A child loses its parent.
fn orphan(
    table: &mut PidTable,
    parent: &Arc<Process>,
    child: &Arc<Process>,
    reaper: Option<&Arc<Process>>,
    gone: &mut Vec<Arc<Process>>,
) {
    for task in child.tasks() {
        let signal = task.parent_death_signal.load(Ordering::Relaxed);
        if let Ok(signal) = Signal::new(signal.into()) {
            let info = SigInfo::user(signal, code::SI_USER, child.pidns.nr(parent.pid), 0);
            let _full = send_task(&task, info, Origin::Inside);
        }
    }
    child.exit_signal.store(Signal::SIGCHLD.number(), Ordering::Relaxed);
    match reaper {
        None => {
            child.links.lock().parent = None;
            child.forget_parent();
        }
        Some(reaper) => {
            child.adopt(reaper);
            let zombie = {
                let links = child.links.lock();
                links.zombie.filter(|_| !links.withheld)
            };
            if let Some(zombie) = zombie {
                if tell_end(child, &zombie, reaper) {
                    reap(table, child, Some(reaper));
                    gone.push(child.clone());
                }
                reaper.child_events.wake_all();
                return;
            }
        }
    }
    // The child's group has lost its tie to the session.
    if child.group() != parent.group() && child.session() == parent.session() {
        let group = table.group(child.group());
        if is_orphaned(group, Some(parent)) {
            hang_up_stopped(group);
        }
    }
}

/// POSIX: a group that becomes orphaned and has a stopped member gets SIGHUP and SIGCONT.
fn hang_up_stopped(group: &[Arc<Process>]) {
    if !group.iter().any(|p| p.signals.lock().stop.is_stopped()) {
        return;
    }
    for process in group {
        for signal in [Signal::SIGHUP, Signal::SIGCONT] {
            let _full = send_process(process, SigInfo::kernel(signal), Origin::Inside);
        }
    }
}

/// Tells the parent of a process's end. Whether nobody will wait for it.
fn tell_end(process: &Arc<Process>, zombie: &Zombie, parent: &Arc<Process>) -> bool {
    let signal = Signal::new(process.exit_signal.load(Ordering::Relaxed).into());
    tell(process, zombie, parent, signal)
}

/// As [`tell_end`], by this signal.
fn tell(
    process: &Arc<Process>,
    zombie: &Zombie,
    parent: &Arc<Process>,
    signal: Result<Signal, Errno>,
) -> bool {
    let mut unwanted = false;
    if signal == Ok(Signal::SIGCHLD) {
        let state = parent.signals.lock();
        let action = state.actions.lock().get(Signal::SIGCHLD);
        unwanted =
            action.disposition() == Disposition::Ignore || action.flags & sa::SA_NOCLDWAIT != 0;
        if action.disposition() == Disposition::Ignore {
            return true;
        }
    }
    if let Ok(signal) = signal {
        let (code, status) = match zombie.status & 0x7f {
            0 => (code::CLD_EXITED, zombie.status >> 8 & 0xff),
            signal => (code::CLD_KILLED, signal),
        };
        let times = zombie.usage.ticks();
        let (pid, uid) = (parent.pidns.nr(process.pid), parent.shown_uid(zombie.uid));
        let info = SigInfo::child(signal, code, pid, uid, status, times);
        let _full = send_process(parent, info, Origin::Inside);
    }
    unwanted
}

/// A process that somebody else than its parent traces has ended: the tracer is told first. Whether it
/// is so; under the table's lock.
fn withhold(process: &Arc<Process>, zombie: &Zombie, parent: Option<&Arc<Process>>) -> bool {
    let tracer = {
        let mut links = process.links.lock();
        let tracer = links.tracer.as_ref().and_then(|t| t.upgrade());
        let Some(tracer) = tracer.filter(|t| !parent.is_some_and(|p| Arc::ptr_eq(p, t))) else {
            return false;
        };
        links.withheld = true;
        tracer
    };
    let _wanted = tell(process, zombie, &tracer, Ok(Signal::SIGCHLD));
    tracer.child_events.wake_all();
    true
}

/// The tracer of a process that has ended has waited for it, or is gone: its parent is told.
pub(super) fn tell_withheld(table: &mut PidTable, process: &Arc<Process>) {
    let zombie = {
        let mut links = process.links.lock();
        let withheld = core::mem::take(&mut links.withheld);
        links.zombie.filter(|_| withheld)
    };
    let (Some(zombie), Some(parent)) = (zombie, process.parent()) else { return };
    if tell_end(process, &zombie, &parent) {
        reap(table, process, Some(&parent));
    }
    parent.child_events.wake_all();
}

/// Removes a zombie for good; under the table's lock. What it used is the parent's then.
pub(super) fn reap(table: &mut PidTable, process: &Arc<Process>, parent: Option<&Arc<Process>>) {
    if let Some(parent) = parent {
        parent.links.lock().children.retain(|c| !Arc::ptr_eq(c, process));
    }
    let tracer = process.links.lock().tracer.take().and_then(|t| t.upgrade());
    if let Some(tracer) = tracer {
        let first = |t: &Arc<Task>| t.is_leader() && Arc::ptr_eq(&t.process, process);
        tracer.links.lock().tracees.retain(|t| !first(t));
    }
    table.remove_process(process);
    process.container.tasks.one_gone();
    process.pids.emptied.wake_all();
}

/// Charges a parent with what a child used, as wait(2) does.
pub(super) fn charge(parent: &Process, child: &Process, zombie: &Zombie) {
    let below = *child.used_by_children.lock();
    let mut used = parent.used_by_children.lock();
    used.add(&zombie.usage);
    used.add(&below);
}

impl Process {
    /// Tells the parent that the process has stopped or goes on.
    pub fn tell_parent(self: &Arc<Self>, event: ParentEvent) {
        let table = self.pids.lock();
        let Some(parent) = self.parent() else { return };
        // A parent that traces it hears of the stops of its tasks one by one.
        let traced = self.links.lock().tracer.as_ref().and_then(|t| t.upgrade());
        if matches!(event, ParentEvent::Stopped { .. })
            && traced.is_some_and(|tracer| Arc::ptr_eq(&tracer, &parent))
        {
            return;
        }
        let (code, status) = {
            let state = self.signals.lock();
            let mut links = self.links.lock();
            match event {
                // It may go on again by now; then nobody needs to know that it stopped.
                ParentEvent::Stopped { signal } if state.stop.is_stopped() => {
                    links.stopped = Some(signal);
                    links.continued = false;
                    (code::CLD_STOPPED, signal.number())
                }
                ParentEvent::Stopped { .. } => return,
                ParentEvent::Continued { full } => {
                    links.stopped = None;
                    links.continued = full;
                    (code::CLD_CONTINUED, Signal::SIGCONT.number())
                }
            }
        };
        let quiet = {
            let state = parent.signals.lock();
            let action = state.actions.lock().get(Signal::SIGCHLD);
            action.flags & sa::SA_NOCLDSTOP != 0 || action.disposition() == Disposition::Ignore
        };
        if !quiet {
            let uid = parent.shown_uid(self.creds().map_or(0, |creds| creds.uid));
            let times = self.used.lock().ticks();
            let pid = parent.pidns.nr(self.pid);
            let info = SigInfo::child(Signal::SIGCHLD, code, pid, uid, status.into(), times);
            let _full = send_process(&parent, info, Origin::Inside);
        }
        parent.child_events.wake_all();
        drop(table);
    }

    fn forget_parent(&self) {
        self.set_parent_pid(0);
    }
}
