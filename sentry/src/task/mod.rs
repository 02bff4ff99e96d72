//! Tasks (threads), processes (thread groups) and the tree that they form.
//!
//! A [`Task`] is what others see of a thread: plain data behind locks. [`Current`] is what the thread
//! itself holds while it runs: its registers, the application's CPU, and direct references to what
//! only the task itself replaces (memory, descriptors, credentials), so that a system call reaches
//! them without a lock. Everything that must outlive a system call is in `Task` and `Process`.

mod creds;
mod current;

pub use creds::Creds;
pub use current::{Blocked, Current};

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::fs::{FdTable, FsContext};
use crate::kernel::{Container, Kernel};
use crate::mm::Mm;
use crate::platform::{ThreadId, platform};
use crate::sync::{SpinLock, WaitQueue, Wake};

/// A thread or process id, as an application sees it.
pub type Pid = u32;

/// One thread of an application.
pub struct Task {
    /// Its id. The first task of a process has the process's.
    pub tid: Pid,
    /// The thread group.
    pub process: Arc<Process>,
    /// comm: at most 15 bytes, as prctl(PR_SET_NAME) and /proc show it.
    pub name: SpinLock<Vec<u8>>,
    /// The platform's thread, 0 before it runs.
    pub thread: AtomicU64,
    /// Set by whoever wants the task to look at its signals or its end; cleared by the task.
    pub attention: AtomicBool,
    /// What outsiders may look at; the task's own copies in [`Current`] are the same.
    pub shared: SpinLock<Shared>,
    /// Address to clear and wake at exit (set_tid_address(2)), 0: none.
    pub clear_child_tid: AtomicU64,
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
}

/// A thread group.
pub struct Process {
    /// Its id.
    pub pid: Pid,
    /// The container it belongs to.
    pub container: Arc<Container>,
    /// Tree links and end; guarded by one lock per process, parents before children.
    pub links: SpinLock<Links>,
    /// Living tasks.
    pub tasks: SpinLock<Vec<Weak<Task>>>,
    /// Wakes those who wait for a child of this process.
    pub child_events: WaitQueue,
    /// Process group and session.
    pub group: AtomicU32,
    /// Session.
    pub session: AtomicU32,
}

/// A process's place in the tree.
pub struct Links {
    /// Who started it, or who adopted it; `None`: init of a container.
    pub parent: Option<Weak<Process>>,
    /// Children, zombies too.
    pub children: Vec<Arc<Process>>,
}

impl Task {
    /// The kernel it runs in.
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.process.container.kernel
    }

    /// Makes the task look at its signals soon, wherever it is: in user mode, waiting, or about to be.
    pub fn notice(&self) {
        self.attention.store(true, Ordering::SeqCst);
        let thread = self.thread.load(Ordering::SeqCst);
        if thread != 0 {
            platform().kick(ThreadId(thread));
            platform().unpark(ThreadId(thread));
        }
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
