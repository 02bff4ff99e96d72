//! Processes: thread groups, and their place in the tree.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};

use super::{Comm, Creds, Pid, PidNamespace, Pids, Rlimits, Task, Usage, UserNamespace};
use crate::errno::Errno;
use crate::fs::{File, FileOps};
use crate::kernel::Container;
use crate::platform::platform;
use crate::signal::{Actions, Signal, SignalState};
use crate::sync::{SpinLock, WaitQueue};
use crate::time::ProcessTimers;

/// A thread group.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// The container it belongs to.
    pub container: Arc<Container>,
    /// Its number in its own pid namespace: what it gets from getpid(2).
    pub vpid: Pid,
    /// Its pid namespace, for life.
    pub pidns: Arc<PidNamespace>,
    /// The container's ids, whose lock guards `links` and the groups.
    pub pids: Arc<Pids>,
    /// Signals, stops, the end of the group, and its living tasks.
    pub signals: SpinLock<SignalState>,
    /// Its place in the tree; changed only under the lock of `pids`.
    pub links: SpinLock<Links>,
    /// Wakes those who wait for a child of this process.
    pub child_events: WaitQueue,
    /// Wakes those who wait for this process's end (pidfd).
    pub ended: WaitQueue,
    group: AtomicU32,
    session: AtomicU32,
    parent_pid: AtomicU32,
    /// The signal that the parent gets at the end (clone(2)), 0: none.
    pub exit_signal: AtomicU8,
    /// Resource limits.
    pub limits: Rlimits,
    /// Used by tasks that have ended.
    pub used: SpinLock<Usage>,
    /// Used by children that were waited for.
    pub used_by_children: SpinLock<Usage>,
    /// Interval timers and those of timer_create(2).
    pub timers: ProcessTimers,
    /// The controlling terminal.
    pub terminal: SpinLock<Option<Arc<dyn Terminal>>>,
    /// It has executed a program since fork: setpgid(2) of its parent is too late.
    pub has_executed: AtomicBool,
    /// Adopts orphans among its descendants (PR_SET_CHILD_SUBREAPER).
    pub is_subreaper: AtomicBool,
    /// It has a list of semaphore adjustments: by SEM_UNDO, or for threads to share (CLONE_SYSVSEM).
    pub has_semaphore_undo: AtomicBool,
    /// PR_SET_DUMPABLE.
    pub dumpable: AtomicBool,
    /// The user namespace in which the memory was made: whose capabilities count where it is not dumpable.
    pub memory_owner: SpinLock<UserNamespace>,
    /// PER_LINUX and flags (personality(2)).
    pub personality: AtomicU32,
    /// What of its memory a core dump would have (core(5)): kept, though nothing is ever dumped.
    pub coredump_filter: AtomicU32,
    /// What it executes, for /proc; open, so that nobody writes it meanwhile.
    pub exe: SpinLock<Option<Arc<File>>>,
    /// How gladly it is killed for its memory (/proc/PID/oom_score_adj), -1000 to 1000.
    pub oom_score_adj: AtomicI32,
    /// What its first task was called at its end, for /proc.
    pub last_name: SpinLock<Comm>,
    /// When it was made, monotonic nanoseconds.
    pub start_time: u64,
}

/// A controlling terminal, as job control needs it; devpts implements it.
pub trait Terminal: Send + Sync {
    /// The session leader has ended: the foreground group gets SIGHUP and SIGCONT, and the session
    /// loses the terminal.
    fn session_ended(&self, session: Pid);
    /// The foreground process group, for /proc.
    fn foreground(&self) -> Pid;
    /// Its device number, for /proc.
    fn device(&self) -> u64;
    /// Opens it (/dev/tty). `EIO` after it has been hung up, `EBUSY` where somebody wants it alone and
    /// the caller is not `privileged`.
    fn open(&self, privileged: bool) -> Result<Box<dyn FileOps>, Errno>;
}

/// A process's place in the tree.
#[derive(Default)]
pub struct Links {
    /// Who started it, or who adopted it; `None`: the host did.
    pub parent: Option<Weak<Process>>,
    /// Children, zombies too.
    pub children: Vec<Arc<Process>>,
    /// How it ended; set once.
    pub zombie: Option<Zombie>,
    /// It is stopped, and nobody has waited for that yet.
    pub stopped: Option<Signal>,
    /// It has gone on, and nobody has waited for that yet.
    pub continued: bool,
    /// The key of the parent's task that made it (__WNOTHREAD).
    pub parent_key: u64,
    /// What its tasks trace, of this process or of others; see [`super::trace`].
    pub tracees: Vec<Arc<Task>>,
    /// Whose task traces its first task.
    pub tracer: Option<Weak<Process>>,
    /// It has ended, and its tracer is to hear of that before its parent does.
    pub withheld: bool,
}

/// How a process has ended.
#[derive(Clone, Copy, Debug)]
pub struct Zombie {
    /// As wait(2) encodes it.
    pub status: i32,
    /// The real user, for siginfo.
    pub uid: u32,
    /// What it used.
    pub usage: Usage,
}

/// What a new process is made with.
pub struct ProcessParts {
    /// The container.
    pub container: Arc<Container>,
    /// The container's ids.
    pub pids: Arc<Pids>,
    /// The pid namespace, which has a number for the process.
    pub pidns: Arc<PidNamespace>,
    /// Signal actions.
    pub actions: Arc<SpinLock<Actions>>,
    /// Limits.
    pub limits: Rlimits,
    /// The signal for the parent.
    pub exit_signal: u8,
}

impl Process {
    /// A process without tasks, in its own group and session until it is put elsewhere.
    pub fn new(pid: Pid, parts: ProcessParts) -> Process {
        let mut signals = SignalState::new(parts.actions);
        let vpid = parts.pidns.nr(pid);
        signals.unkillable = vpid == 1;
        Process {
            pid,
            vpid,
            pidns: parts.pidns,
            container: parts.container,
            pids: parts.pids,
            signals: SpinLock::new(signals),
            links: SpinLock::new(Links::default()),
            child_events: WaitQueue::new(),
            ended: WaitQueue::new(),
            group: AtomicU32::new(pid),
            session: AtomicU32::new(pid),
            parent_pid: AtomicU32::new(0),
            exit_signal: AtomicU8::new(parts.exit_signal),
            limits: parts.limits,
            used: SpinLock::new(Usage::default()),
            used_by_children: SpinLock::new(Usage::default()),
            timers: ProcessTimers::default(),
            terminal: SpinLock::new(None),
            has_executed: AtomicBool::new(false),
            has_semaphore_undo: AtomicBool::new(false),
            is_subreaper: AtomicBool::new(false),
            dumpable: AtomicBool::new(true),
            memory_owner: SpinLock::default(),
            personality: AtomicU32::new(0),
            // MMF_DUMP_FILTER_DEFAULT, with the headers of ELF files.
            coredump_filter: AtomicU32::new(0x33),
            exe: SpinLock::new(None),
            oom_score_adj: AtomicI32::new(0),
            last_name: SpinLock::new(Comm::default()),
            start_time: platform().monotonic(),
        }
    }

    /// Its process group.
    #[inline]
    pub fn group(&self) -> Pid {
        self.group.load(Ordering::Relaxed)
    }

    /// Its session.
    #[inline]
    pub fn session(&self) -> Pid {
        self.session.load(Ordering::Relaxed)
    }

    /// Its parent's id, 0 where the host started it.
    #[inline]
    pub fn parent_pid(&self) -> Pid {
        self.parent_pid.load(Ordering::Relaxed)
    }

    /// Whether it is init of its pid namespace.
    pub fn is_init(&self) -> bool {
        self.vpid == 1
    }

    pub(super) fn set_group(&self, group: Pid, session: Pid) {
        self.group.store(group, Ordering::Relaxed);
        self.session.store(session, Ordering::Relaxed);
    }

    pub(super) fn set_parent_pid(&self, pid: Pid) {
        self.parent_pid.store(pid, Ordering::Relaxed);
    }

    /// Makes it a child of `parent`; under the table's lock.
    pub(super) fn adopt(self: &Arc<Self>, parent: &Arc<Process>) {
        {
            let mut links = self.links.lock();
            links.parent = Some(Arc::downgrade(parent));
        }
        self.set_parent_pid(parent.pid);
        parent.links.lock().children.push(self.clone());
    }

    /// Its parent, while that lives.
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.links.lock().parent.as_ref()?.upgrade()
    }

    /// Living tasks.
    pub fn tasks(&self) -> Vec<Arc<Task>> {
        self.signals.lock().tasks.clone()
    }

    /// The first living task: the leader while that lives.
    pub fn first_task(&self) -> Option<Arc<Task>> {
        self.signals.lock().tasks.first().cloned()
    }

    /// A user's number in its user namespace.
    pub fn shown_uid(&self, kuid: u32) -> u32 {
        self.creds().map_or(kuid, |creds| creds.userns.uid(kuid))
    }

    /// Its identity, that of its first living task.
    pub fn creds(&self) -> Option<Arc<Creds>> {
        self.first_task().map(|task| task.creds())
    }

    /// Whether it has ended.
    pub fn is_zombie(&self) -> bool {
        self.links.lock().zombie.is_some()
    }

    /// Whether it has begun to end as a whole: killed, or exit_group(2).
    pub fn is_ending(&self) -> bool {
        matches!(self.signals.lock().end, crate::signal::End::Exiting(_))
    }

    /// What its tasks have used, ended ones too.
    pub fn usage(&self) -> Usage {
        let mut usage = *self.used.lock();
        for task in self.tasks() {
            usage.add(&task.usage());
        }
        usage
    }

    /// Whether its group is orphaned: no member has a parent in another group of the session.
    pub fn group_is_orphaned(&self) -> bool {
        let table = self.pids.lock();
        is_orphaned(table.group(self.group()), None)
    }
}

/// Whether a group is orphaned, `leaving` out one process that is about to end. Under the table's lock.
pub(super) fn is_orphaned(group: &[Arc<Process>], leaving: Option<&Arc<Process>>) -> bool {
    !group.iter().any(|p| {
        if leaving.is_some_and(|gone| Arc::ptr_eq(gone, p)) || p.links.lock().zombie.is_some() {
            return false;
        }
        p.parent().is_some_and(|parent| {
            // Only the host's init cannot continue anybody: a container's may be a shell with jobs.
            parent.group() != p.group() && parent.session() == p.session()
        })
    })
}

impl Task {
    /// What it has used.
    pub fn usage(&self) -> Usage {
        let mm = self.shared.lock().mm.clone();
        let (faults, max_rss) = mm.map_or((0, 0), |mm| {
            (mm.faults.load(Ordering::Relaxed), mm.peak_pages().saturating_mul(4))
        });
        // Faults are counted by address space: they are the first task's, for want of better.
        Usage {
            cpu: self.cpu_time(),
            max_rss,
            faults: if self.is_leader() { faults } else { 0 },
            waits: self.waits.load(Ordering::Relaxed),
        }
    }
}
