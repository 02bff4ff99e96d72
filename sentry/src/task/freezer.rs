//! The freezer: a container whose tasks all stand still, as Linux's cgroup freezer has it.
//!
//! It is the sentry that holds its tasks, and not the host its processes: the container alone stands still, whatever
//! else shares the sandbox, requests about it are answered, and it is the same on every platform. A task that runs in
//! user mode is kicked out of it and waits at the end of its way back; one that waits in a system call goes on waiting
//! there, whatever wakes it; one that works for a system call ends that work first. What waits has no part in anything
//! until the container is let go, but for its end: SIGKILL ends a frozen process, as in a version 2 cgroup.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{Current, Task, TaskState};
use crate::kernel::Container;
use crate::platform::{ThreadId, platform};

/// How long tasks have to come to a halt, nanoseconds.
const PATIENCE: u64 = 5_000_000_000;
/// How long it takes between two looks at them, nanoseconds.
const INTERVAL: u64 = 1_000_000;

/// Of a container: whether its tasks are held.
#[derive(Default)]
pub struct Freezer {
    frozen: AtomicBool,
}

/// Tasks did not come to a halt in time.
#[derive(Debug)]
pub struct Busy;

impl Freezer {
    /// Whether tasks are held, or about to be.
    pub fn is_frozen(&self) -> bool {
        // Against `Task::set_state`: a task that goes on says so first and looks here then.
        self.frozen.load(Ordering::SeqCst)
    }

    /// Holds all tasks of a container, which is the freezer's; they stand still when it returns.
    pub fn freeze(&self, container: &Container) -> Result<(), Busy> {
        self.frozen.store(true, Ordering::SeqCst);
        let deadline = platform().monotonic().saturating_add(PATIENCE);
        loop {
            let mut still = true;
            for task in tasks(container).iter().filter(|task| !stands_still(task)) {
                still = false;
                // Again each time: a task on its way out of a wait forgets a notice that is of no signal.
                task.notice();
            }
            if still {
                return Ok(());
            }
            let now = platform().monotonic();
            if now >= deadline {
                self.thaw(container);
                return Err(Busy);
            }
            platform().park(Some(now.saturating_add(INTERVAL)));
        }
    }

    /// Lets them go on.
    pub fn thaw(&self, container: &Container) {
        self.frozen.store(false, Ordering::SeqCst);
        for task in tasks(container) {
            let thread = task.thread.load(Ordering::SeqCst);
            if thread != 0 {
                platform().unpark(ThreadId(thread));
            }
        }
    }
}

/// Tasks of a container that have not ended.
pub(super) fn tasks(container: &Container) -> Vec<Arc<Task>> {
    container.processes().iter().flat_map(|process| process.tasks()).collect()
}

/// Whether a task of a frozen container does nothing before that is let go.
fn stands_still(task: &Task) -> bool {
    // One that has not begun looks before it does.
    task.thread.load(Ordering::SeqCst) == 0 || task.state() != TaskState::Running
}

impl Current {
    /// Waits for as long as the container is frozen, or until the task is to end.
    pub(crate) fn hold(&self) {
        let freezer = &self.task.process.container.freezer;
        while freezer.is_frozen() && !self.must_die() {
            // As Linux shows it.
            self.task.set_state(TaskState::DiskSleep);
            platform().park(None);
            self.task.set_state(TaskState::Running);
        }
    }
}
