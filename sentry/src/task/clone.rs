//! New tasks and processes (clone(2)).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::run::{Birth, start};
use super::{
    Blocked, CloneFlags, Creds, Current, Links, Pid, PidNamespace, PidTable, Process, ProcessParts,
    Rseq, Shared, Task, UNSHARED, UserNamespace, cap, limit, trace,
};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::platform::platform;
use crate::seccomp;
use crate::signal::frame::{AltStack, SS_DISABLE};
use crate::signal::{Actions, End};
use crate::sync::SpinLock;
use crate::time::CpuLimit;

/// What clone3(2) is given; clone, fork and vfork fill it too.
#[derive(Clone, Debug)]
pub struct CloneArgs {
    /// Flags, without the signal.
    pub flags: CloneFlags,
    /// Where the pidfd goes.
    pub pidfd: u64,
    /// Where the child writes its tid.
    pub child_tid: u64,
    /// Where the parent's memory gets it.
    pub parent_tid: u64,
    /// The signal at the child's end, 0: none.
    pub exit_signal: u8,
    /// The child's stack pointer; 0: the parent's.
    pub stack: u64,
    /// fs base of the child.
    pub tls: u64,
    /// The numbers that the child is to have (set_tid), from its own pid namespace outwards.
    pub set_tid: Vec<Pid>,
}

/// Makes a task, as asked; its number for the caller.
pub fn clone(cx: &mut Current, args: CloneArgs) -> Result<Pid, SysError> {
    let flags = args.flags;
    check(cx, flags)?;
    if flags.contains(CloneFlags::SETTLS) && args.tls >= platform().user_range().end {
        return Err(Errno::EPERM.into());
    }
    // A signal that comes now is the parent's before there is a child.
    if cx.must_interrupt() {
        return Err(SysError::Interrupted(Restart::Always));
    }
    let creds = cx.creds_after(flags)?;
    limit_processes(cx)?;

    let parent = cx.task.process.clone();
    let mut pidns = cx.namespaces.pid_for_children.clone();
    if flags.contains(CloneFlags::NEWPID) {
        pidns = pidns.nest(&creds.userns)?;
    }
    let tid = pidns.allocate(&parent.container.tasks, &args.set_tid)?;
    let result = make(cx, &args, tid, pidns, creds);
    if result.is_err() {
        parent.pids.give_up(tid, &parent.container.tasks);
    }
    let (task, event) = result?;
    if let Some(event) = event {
        trace::stop::event(cx, event, trace::nr_for_tracer(&cx.task, tid).into());
    }
    if flags.contains(CloneFlags::VFORK) {
        let released = || (task.vfork_parent.load(Ordering::SeqCst) == 0).then_some(());
        match cx.park_killable(None, released) {
            Ok(()) => {
                let nr = trace::nr_for_tracer(&cx.task, tid);
                trace::stop::event(cx, trace::Event::VforkDone, nr.into());
            }
            Err(Blocked::Interrupted | Blocked::TimedOut) => {}
        }
        task.vfork_parent.store(0, Ordering::SeqCst);
    }
    Ok(parent.pidns.nr(tid))
}

/// Combinations that make no sense (copy_process() in kernel/fork.c).
fn check(cx: &Current, flags: CloneFlags) -> Result<(), Errno> {
    use CloneFlags as F;
    let both = |set: CloneFlags| flags.contains(set);
    if both(F::NEWNS | F::FS)
        || both(F::NEWUSER | F::FS)
        // Semaphores that are owed could not be of both.
        || both(F::NEWIPC | F::SYSVSEM)
        || (both(F::THREAD) && !both(F::SIGHAND))
        || (both(F::SIGHAND) && !both(F::VM))
        || (both(F::PARENT) && cx.task.process.is_init())
        || (both(F::THREAD) && flags.intersects(F::NEWUSER | F::NEWPID))
        // Threads of a process are in one namespace, and a task has one way out of its own.
        || (flags.intersects(F::THREAD | F::NEWPID) && !has_own_children(cx))
        || (both(F::PIDFD) && flags.intersects(F::THREAD | F::DETACHED))
        || both(F::SIGHAND | F::CLEAR_SIGHAND)
        || flags.contains(F::INTO_CGROUP)
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

impl Current {
    /// Who a task is that `flags` make, in a new user namespace if they ask for one; which then the other namespaces
    /// that they ask for belong to. `EPERM` without the capability for those, or in a chroot: what that hides
    /// must stay hidden.
    pub fn creds_after(&self, flags: CloneFlags) -> Result<Arc<Creds>, Errno> {
        let mut creds = self.creds.clone();
        if flags.contains(CloneFlags::NEWUSER) {
            if self.fs.is_chrooted() {
                return Err(Errno::EPERM);
            }
            creds = Arc::new(creds.in_new_user_namespace(UserNamespace::nest(&creds)?));
        }
        let others = CloneFlags::NEWNS | CloneFlags::NEWPID | UNSHARED;
        if flags.intersects(others) && !creds.own_capable(cap::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        Ok(creds)
    }
}

/// Whether children are born into the pid namespace of their parent.
fn has_own_children(cx: &Current) -> bool {
    Arc::ptr_eq(&cx.namespaces.pid_for_children, &cx.task.process.pidns)
}

impl Current {
    /// A pid namespace of `owner`'s for the caller's children. `EINVAL` where they are born into another already.
    pub fn nest_pid_namespace(&self, owner: &UserNamespace) -> Result<Arc<PidNamespace>, Errno> {
        if !has_own_children(self) {
            return Err(Errno::EINVAL);
        }
        self.task.process.pidns.nest(owner)
    }
}

/// RLIMIT_NPROC: tasks of the real user.
fn limit_processes(cx: &Current) -> Result<(), Errno> {
    let process = &cx.task.process;
    let limit = process.limits.soft(limit::RLIMIT_NPROC);
    let free = cx.creds.uid == 0
        || cx.creds.capable(cap::SYS_RESOURCE)
        || cx.creds.capable(cap::SYS_ADMIN)
        // Nobody can have more tasks than there are.
        || u64::from(process.container.tasks.count()) < limit;
    if free {
        return Ok(());
    }
    let table = process.pids.lock();
    let own = table.tasks().filter(|t| Arc::ptr_eq(&t.process.container, &process.container));
    let mine = own.filter(|t| t.shared.lock().creds.uid == cx.creds.uid).count();
    if mine as u64 >= limit { Err(Errno::EAGAIN) } else { Ok(()) }
}

/// The new task, and the event that it is for a tracer.
fn make(
    cx: &mut Current,
    args: &CloneArgs,
    tid: Pid,
    pidns: Arc<PidNamespace>,
    creds: Arc<Creds>,
) -> Result<(Arc<Task>, Option<trace::Event>), SysError> {
    use CloneFlags as F;
    let flags = args.flags;
    let has = |flag| flags.contains(flag);
    // The task's two references, as long as nobody shares the memory.
    let alone = Arc::strong_count(&cx.mm) <= 2;
    let mm = if has(F::VM) { cx.mm.clone() } else { cx.mm.fork(alone)? };
    let files = if has(F::FILES) { cx.files.clone() } else { cx.files.fork() };
    let fs = if has(F::FS) { cx.fs.clone() } else { cx.fs.fork() };
    if has(F::NEWNS) {
        fs.unshare_namespace(&creds.userns);
    }
    // A child that has memory of its own has its clocks from the beginning.
    let changes_time = !has(F::VM)
        && (has(F::NEWTIME) || !Arc::ptr_eq(&cx.namespaces.time, &cx.namespaces.time_for_children));
    let namespaces = if changes_time || flags.intersects(F::NEWPID | UNSHARED) {
        let mut new = cx.namespaces.unshare(flags, &creds.userns);
        new.pid_for_children = pidns.clone();
        if changes_time {
            new.time = new.time_for_children.clone();
            new.time.freeze();
        }
        Arc::new(new)
    } else {
        cx.namespaces.clone()
    };
    let process =
        if has(F::THREAD) { cx.task.process.clone() } else { new_process(cx, args, tid, pidns) };
    if !has(F::VM) {
        mm.owner.store(process.pid, Ordering::Relaxed);
    }
    let shared = Shared {
        mm: Some(mm.clone()),
        files: Some(files.clone()),
        fs: Some(fs.clone()),
        creds: creds.clone(),
        namespaces: namespaces.clone(),
    };
    let name = *cx.task.name.lock();
    let mut task = Task::new(tid, process.clone(), shared, name);
    task.login = cx.task.login.duplicate();
    task.blocked.store(cx.task.blocked().0, Ordering::Relaxed);
    if has(F::CHILD_CLEARTID) {
        task.clear_child_tid.store(args.child_tid, Ordering::Relaxed);
    }
    if has(F::VFORK) {
        let thread = cx.task.thread.load(Ordering::Relaxed);
        task.vfork_parent.store(thread, Ordering::Relaxed);
    }
    task.parent_key.store(cx.task.key, Ordering::Relaxed);
    *task.sched.lock() = inherit_sched(&cx.task, has(F::IO));
    if has(F::SYSVSEM) {
        process.has_semaphore_undo.store(true, Ordering::Relaxed);
    }
    let task = Arc::new(task);

    let mut regs = cx.regs;
    regs.rax = 0;
    regs.orig_rax = u64::MAX;
    if args.stack != 0 {
        regs.rsp = args.stack;
    }
    if has(F::SETTLS) {
        regs.fs_base = args.tls;
    }
    let mut image = Vec::new();
    cx.user.xstate(&mut image);
    let keeps_stack = !has(F::VM) || has(F::VFORK);
    let birth = Birth {
        task: task.clone(),
        regs,
        mm,
        files,
        fs,
        creds,
        namespaces,
        xstate: Some(image),
        altstack: if keeps_stack {
            cx.altstack
        } else {
            AltStack { flags: SS_DISABLE, ..AltStack::default() }
        },
        debug: cx.debug.for_child(),
        tsc_faults: cx.tsc_faults,
        set_tid: if has(F::CHILD_SETTID) { args.child_tid } else { 0 },
        rseq: if has(F::VM) { None } else { cx.rseq.as_ref().map(Rseq::area) },
    };
    if has(F::PARENT_SETTID) {
        let nr = cx.task.process.pidns.nr(tid);
        cx.mm.copy_out(args.parent_tid, &nr.to_le_bytes())?;
    }
    let pidfd = if has(F::PIDFD) { Some(pidfd(cx, &process, args.pidfd)?) } else { None };
    let undo = |cx: &Current| {
        if let Some(fd) = pidfd
            && let Ok(file) = cx.files.remove(fd)
        {
            // Nobody has used it: there is nothing that closing could fail at.
            let _ = file.closed(cx.files.id);
        }
    };
    let event =
        trace::clone_event(&cx.task, flags, if has(F::THREAD) { 0 } else { args.exit_signal });
    if let Err(e) = enter(cx, &task, flags, event) {
        undo(cx);
        return Err(e);
    }
    if let Err(e) = start(birth) {
        leave_again(&task, flags.contains(F::THREAD));
        undo(cx);
        return Err(e.into());
    }
    Ok((task, event))
}

fn pidfd(cx: &Current, process: &Arc<Process>, addr: u64) -> Result<i32, Errno> {
    let fd = super::pidfd::open(cx, process, false)?;
    cx.mm.copy_out(addr, &fd.to_le_bytes())?;
    Ok(fd)
}

fn inherit_sched(task: &Task, shares_io: bool) -> super::Sched {
    let mut sched = task.sched.lock().clone();
    if !shares_io {
        // A priority is worth a context (copy_io() in block/blk-ioc.c).
        sched.ioprio = sched.ioprio.and_then(|io| match io.load(Ordering::Relaxed) {
            0 => None,
            priority => Some(Arc::new(AtomicU32::new(priority))),
        });
    }
    if sched.reset_on_fork {
        sched.reset_on_fork = false;
        if sched.policy == 1 || sched.policy == 2 {
            (sched.policy, sched.priority) = (0, 0);
        }
        sched.nice = sched.nice.max(0);
    }
    sched
}

fn new_process(cx: &Current, args: &CloneArgs, pid: Pid, pidns: Arc<PidNamespace>) -> Arc<Process> {
    let old = &cx.task.process;
    let actions = {
        let state = old.signals.lock();
        if args.flags.contains(CloneFlags::SIGHAND) {
            state.actions.clone()
        } else {
            let actions = state.actions.lock();
            let copy: Actions = if args.flags.contains(CloneFlags::CLEAR_SIGHAND) {
                actions.after_exec()
            } else {
                (*actions).clone()
            };
            Arc::new(SpinLock::new(copy))
        }
    };
    let exit_signal = if args.flags.contains(CloneFlags::PARENT) {
        old.exit_signal.load(Ordering::Relaxed)
    } else {
        args.exit_signal
    };
    let process = Process::new(
        pid,
        ProcessParts {
            container: old.container.clone(),
            pids: old.pids.clone(),
            pidns,
            actions,
            limits: old.limits.duplicate(),
            exit_signal,
        },
    );
    *process.terminal.lock() = old.terminal.lock().clone();
    *process.exe.lock() = old.exe.lock().clone();
    process.oom_score_adj.store(old.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
    let filter = old.coredump_filter.load(Ordering::Relaxed);
    process.coredump_filter.store(filter, Ordering::Relaxed);
    process.personality.store(old.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    process.dumpable.store(old.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    *process.memory_owner.lock() = old.memory_owner.lock().clone();
    *process.links.lock() = Links { parent_key: cx.task.key, ..Links::default() };
    let process = Arc::new(process);
    CpuLimit::watch(&process);
    process
}

/// Makes the new task known: from here on it can be signalled.
fn enter(
    cx: &Current,
    task: &Arc<Task>,
    flags: CloneFlags,
    event: Option<trace::Event>,
) -> Result<(), SysError> {
    let own = &cx.task.process;
    let mut table = own.pids.lock();
    // Another thread is about to become more than who would share its directories (copy_fs() in kernel/fork.c).
    if flags.contains(CloneFlags::FS) && cx.fs.is_in_exec() {
        return Err(Errno::EAGAIN.into());
    }
    if flags.contains(CloneFlags::THREAD) {
        let mut state = own.signals.lock();
        // The group may have begun to end, or to stop, meanwhile.
        if state.end != End::Alive || state.wants(&cx.task) {
            return Err(SysError::Interrupted(Restart::Always));
        }
        seccomp::inherit(&cx.task, task);
        state.tasks.push(task.clone());
        drop(state);
        table.insert_task(task.tid(), task);
        trace::inherit(&table, &cx.task, task, flags, event);
        return Ok(());
    }
    {
        let state = own.signals.lock();
        if state.wants(&cx.task) {
            return Err(SysError::Interrupted(Restart::Always));
        }
        seccomp::inherit(&cx.task, task);
    }
    let process = &task.process;
    process.pidns.admit()?;
    let parent = if flags.contains(CloneFlags::PARENT) { own.parent() } else { Some(own.clone()) };
    process.set_group(own.group(), own.session());
    process.signals.lock().tasks.push(task.clone());
    if let Some(parent) = parent {
        process.adopt(&parent);
    }
    insert(&mut table, process, task);
    trace::inherit(&table, &cx.task, task, flags, event);
    Ok(())
}

fn insert(table: &mut PidTable, process: &Arc<Process>, task: &Arc<Task>) {
    table.insert_process(process);
    table.insert_task(task.tid(), task);
}

/// Takes back [`enter`]: the machine has no thread.
fn leave_again(task: &Arc<Task>, thread: bool) {
    let process = &task.process;
    let mut table = process.pids.lock();
    trace::unlink(&table, task, 0);
    process.signals.lock().tasks.retain(|t| !Arc::ptr_eq(t, task));
    table.remove_task(task.tid());
    if !thread {
        if let Some(parent) = process.parent() {
            parent.links.lock().children.retain(|c| !Arc::ptr_eq(c, process));
        }
        table.remove_process(process);
    }
}
