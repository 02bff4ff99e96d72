//! Tasks (threads), processes (thread groups) and the tree that they form.
//!
//! A [`Task`] is what others see of a thread: plain data behind locks. [`Current`] is what the thread
//! itself holds while it runs: its registers, the application's CPU, and direct references to what
//! only the task itself replaces (memory, descriptors, credentials), so that a system call reaches
//! them without a lock. Everything that must outlive a system call is in `Task`, `Process`, or as
//! plain data in `Current`.
//!
//! One platform thread runs one task from [`start`] to its end; see [`run`] for its life.

mod access;
pub mod bandwidth;
mod clone;
mod creds;
mod current;
pub mod dispatch;
pub mod exec;
mod exit;
pub mod filecaps;
mod first;
mod flags;
mod freezer;
pub mod limit;
pub mod login;
mod namespace;
pub mod oom;
pub mod personality;
pub mod pidfd;
mod pidns;
mod pids;
mod process;
mod robust;
mod rseq;
pub mod run;
pub mod timens;
pub mod trace;
mod usage;
pub mod userns;
pub mod wait;

pub use access::{AccessMode, may_access};
pub use clone::{CloneArgs, clone};
pub use creds::{Creds, Gift, UNCHANGED, cap, has as has_cap, securebits};
pub use current::{Blocked, Current, RestartBlock, TrapInfo};
pub use exit::ParentEvent;
pub use first::{FirstProcess, discard, first_process};
pub use flags::CloneFlags;
pub use freezer::{Busy, Freezer};
pub use limit::Rlimits;
pub use login::Login;
pub use namespace::{Namespace, NamespaceId, Namespaces, UNSHARED, Uts, UtsNames};
pub use pidns::{PidNamespace, PidNumbers};
pub use pids::{PID_MAX, PidTable, Pids, TaskCount};
pub use process::{Links, Process, ProcessParts, Terminal, Zombie};
pub use rseq::Rseq;
pub use run::{Birth, start};
pub use timens::TimeNamespace;
pub use usage::Usage;
pub use userns::UserNamespace;

use alloc::sync::Arc;
use core::panic::Location;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::fs::{FdTable, FsContext};
use crate::kernel::Kernel;
use crate::mm::Mm;
use crate::mm::policy::Policy;
use crate::platform::{CpuTime, ThreadId, platform};
use crate::seccomp::{Allowed, Seccomp};
use crate::signal::{SigSet, TaskSignals};
use crate::sync::{SpinLock, Wake};

/// A thread or process id: within the sentry the container's, and for an application the number that its pid
/// namespace has for that (see [`PidNamespace`]).
pub type Pid = u32;

/// The longest comm, without the zero (TASK_COMM_LEN is 16).
pub const COMM_LEN: usize = 15;

/// One thread of an application.
pub struct Task {
    /// Unique for the life of the sandbox, unlike the tid, which exec can change.
    pub key: u64,
    tid: AtomicU32,
    vtid: AtomicU32,
    /// The thread group.
    pub process: Arc<Process>,
    /// comm, as prctl(PR_SET_NAME) and /proc show it.
    pub name: SpinLock<Comm>,
    /// The platform's thread, 0 before it runs.
    pub thread: AtomicU64,
    /// Set by whoever wants the task to look at its signals or its end; cleared by the task.
    pub attention: AtomicBool,
    /// What outsiders may look at; the task's own copies in [`Current`] are the same.
    pub shared: SpinLock<Shared>,
    /// Address to clear and wake at exit (set_tid_address(2)), 0: none.
    pub clear_child_tid: AtomicU64,
    /// The head of the list of robust futexes (set_robust_list(2)), 0: none.
    pub robust_list: AtomicU64,
    /// Blocked signals; changed by the task alone, under its process's signal lock.
    pub blocked: AtomicU64,
    /// Pending signals; see [`crate::signal`] for the lock.
    pub signals: SpinLock<TaskSignals>,
    /// The thread of a parent that waits in vfork(2) until this task execs or ends, 0: none.
    pub vfork_parent: AtomicU64,
    /// Scheduling parameters, as data.
    pub sched: SpinLock<Sched>,
    /// Who has logged in.
    pub login: Login,
    /// What it does, for /proc: see [`TaskState`].
    state: AtomicU8,
    /// Which futex bucket it waits in; see [`crate::futex`].
    pub futex: crate::futex::Slot,
    /// The signal to send when the parent dies (PR_SET_PDEATHSIG), 0: none.
    pub parent_death_signal: AtomicU8,
    /// The task of the parent process that made it, by key; decides __WNOTHREAD and the above.
    pub parent_key: AtomicU64,
    /// System calls made; written by the task alone.
    pub syscalls: AtomicU64,
    /// Somebody has to do with its system calls: the log, a tracer, a filter. The one flag that costs
    /// a system call of the others something.
    pub watched: AtomicBool,
    /// Its own code may serve its system calls (`dispatch`).
    pub dispatches: AtomicBool,
    /// Calls that are made all the same without a look at a filter.
    pub allowed: Allowed,
    /// Its filters (seccomp(2)); changed under its process's signal lock.
    pub seccomp: SpinLock<Seccomp>,
    /// Another thread has set a filter for it, and has given up gaining rights for both.
    pub owes_no_new_privs: AtomicBool,
    /// When it was made, monotonic nanoseconds.
    pub start_time: u64,
    /// Voluntary switches: times that it waited.
    pub waits: AtomicU64,
    /// It ends, and nobody can be traced by it any more.
    pub traces_no_more: AtomicBool,
    /// Why it waits, for `ringwall debug`.
    pub waiting: SpinLock<Option<Waiting>>,
}

/// Why a task waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The system call's number.
    pub call: u64,
    /// Its arguments.
    pub args: [u64; 6],
    /// Where in the sentry.
    pub place: &'static Location<'static>,
}

/// A task's name, at most [`COMM_LEN`] bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Comm {
    bytes: [u8; COMM_LEN],
    len: u8,
}

impl Comm {
    /// The first [`COMM_LEN`] bytes of a name, up to a zero.
    pub fn new(name: &[u8]) -> Comm {
        let mut comm = Comm::default();
        for (to, from) in comm.bytes.iter_mut().zip(name.iter().take_while(|b| **b != 0)) {
            *to = *from;
            comm.len = comm.len.saturating_add(1);
        }
        comm
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// What a task does, as /proc/PID/stat says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are proc(5)'s
pub enum TaskState {
    Running = 0,
    Sleeping = 1,
    Stopped = 2,
    DiskSleep = 3,
    Dead = 4,
    Traced = 5,
}

/// References that a task replaces only itself (exec, unshare, setuid) and others read.
#[derive(Clone)]
pub struct Shared {
    /// Memory; `None` after exit.
    pub mm: Option<Arc<Mm>>,
    /// Descriptors; `None` after exit.
    pub files: Option<Arc<FdTable>>,
    /// Root, cwd, umask; `None` after exit.
    pub fs: Option<Arc<FsContext>>,
    /// Identity.
    pub creds: Arc<Creds>,
    /// Namespaces.
    pub namespaces: Arc<Namespaces>,
}

/// Scheduling parameters (sched(7)). The platform's scheduler honours the affinity alone.
#[derive(Clone, Debug)]
pub struct Sched {
    /// SCHED_OTHER and so on.
    pub policy: u32,
    /// Real-time priority.
    pub priority: u32,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// SCHED_FLAG_RESET_ON_FORK.
    pub reset_on_fork: bool,
    /// CPUs that it may run on; empty: all.
    pub affinity: alloc::vec::Vec<u64>,
    /// ioprio_set(2)'s, where it was called: a context that CLONE_IO shares.
    pub ioprio: Option<Arc<AtomicU32>>,
    /// PR_SET_TIMERSLACK, nanoseconds.
    pub timer_slack: u64,
    /// When it is told of a broken page of memory (PR_MCE_KILL): PR_MCE_KILL_LATE, EARLY or DEFAULT. None breaks here.
    pub mce_kill: u8,
    /// PR_SET_IO_FLUSHER: its memory would not wait for I/O.
    pub io_flusher: bool,
    /// set_mempolicy(2)'s; `None`: the default.
    pub mempolicy: Option<Arc<Policy>>,
}

impl Default for Sched {
    fn default() -> Self {
        Sched {
            policy: 0,
            priority: 0,
            nice: 0,
            reset_on_fork: false,
            affinity: alloc::vec::Vec::new(),
            ioprio: None,
            timer_slack: 50_000,
            mce_kill: 2,
            io_flusher: false,
            mempolicy: None,
        }
    }
}

static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

impl Task {
    /// A task that does not run yet.
    pub fn new(tid: Pid, process: Arc<Process>, shared: Shared, name: Comm) -> Task {
        Task {
            key: NEXT_KEY.fetch_add(1, Ordering::Relaxed),
            tid: AtomicU32::new(tid),
            vtid: AtomicU32::new(process.pidns.nr(tid)),
            process,
            name: SpinLock::new(name),
            thread: AtomicU64::new(0),
            attention: AtomicBool::new(false),
            shared: SpinLock::new(shared),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            signals: SpinLock::new(TaskSignals::default()),
            vfork_parent: AtomicU64::new(0),
            sched: SpinLock::new(Sched::default()),
            login: Login::default(),
            state: AtomicU8::new(TaskState::Running as u8),
            futex: crate::futex::Slot::default(),
            parent_death_signal: AtomicU8::new(0),
            parent_key: AtomicU64::new(0),
            syscalls: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            dispatches: AtomicBool::new(false),
            allowed: Allowed::default(),
            seccomp: SpinLock::new(Seccomp::Off),
            owes_no_new_privs: AtomicBool::new(false),
            start_time: platform().monotonic(),
            waits: AtomicU64::new(0),
            traces_no_more: AtomicBool::new(false),
            waiting: SpinLock::new(None),
        }
    }

    /// Its number in its own pid namespace: what it gets from gettid(2).
    #[inline]
    pub fn vtid(&self) -> Pid {
        self.vtid.load(Ordering::Relaxed)
    }

    /// Its id. The first task of a process has the process's.
    #[inline]
    pub fn tid(&self) -> Pid {
        self.tid.load(Ordering::Relaxed)
    }

    /// Whether it is (or, by exec, has become) the first of its process.
    pub fn is_leader(&self) -> bool {
        self.tid() == self.process.pid
    }

    /// The kernel it runs in.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.process.container.kernel
    }

    /// Makes the task look at its signals soon, wherever it is: in user mode, waiting, or about to be.
    pub fn notice(&self) {
        self.attention.store(true, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 && platform().current() != ThreadId(thread) {
            platform().kick(ThreadId(thread));
            platform().unpark(ThreadId(thread));
        }
    }

    /// Processor time used.
    pub fn cpu_time(&self) -> CpuTime {
        match self.thread.load(Ordering::Relaxed) {
            0 => CpuTime::default(),
            thread => platform().cpu_time(ThreadId(thread)),
        }
    }

    /// What it does now.
    pub fn state(&self) -> TaskState {
        {
            let own = self.signals.lock();
            // One that its tracer has let go runs, though it may not know yet: who has others stopped asks that.
            if own.trap.as_ref().is_some_and(|stopped| stopped.resume.is_none()) {
                return TaskState::Traced;
            }
            if own.stopped {
                return TaskState::Stopped;
            }
        }
        match self.state.load(Ordering::SeqCst) {
            1 => TaskState::Sleeping,
            3 => TaskState::DiskSleep,
            4 => TaskState::Dead,
            _ => TaskState::Running,
        }
    }

    fn set_state(&self, state: TaskState) {
        // Before the task looks whether it is frozen.
        self.state.store(state as u8, Ordering::SeqCst);
    }

    /// Pending signals of its own, those of the process, and blocked ones, for /proc.
    pub fn signal_sets(&self) -> (SigSet, SigSet, SigSet) {
        let state = self.process.signals.lock();
        let own = self.signals.lock().pending.set();
        (own, state.pending.set(), self.blocked())
    }

    /// Its identity.
    pub fn creds(&self) -> Arc<Creds> {
        self.shared.lock().creds.clone()
    }
}

/// A task's thread as a waiter.
pub struct ThreadWaker(pub ThreadId);

impl Wake for ThreadWaker {
    fn wake(&self, _events: u32) -> bool {
        platform().unpark(self.0);
        true
    }
}

#[cfg(test)]
pub(crate) mod tests;
