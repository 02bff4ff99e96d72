//! The running task, as its own thread sees it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::{Creds, Task, ThreadWaker};
use crate::fs::{FdTable, FsContext};
use crate::mm::Mm;
use crate::platform::{Registers, UserThread, platform};
use crate::sync::WaitQueue;

/// What a task's thread holds while it runs. System calls get it by `&mut`.
pub struct Current {
    /// Itself, as others see it.
    pub task: Arc<Task>,
    /// The application's registers.
    pub regs: Registers,
    /// The application's CPU.
    pub user: Box<dyn UserThread>,
    /// Memory.
    pub mm: Arc<Mm>,
    /// Descriptors.
    pub files: Arc<FdTable>,
    /// Root, working directory, umask.
    pub fs: Arc<FsContext>,
    /// Identity.
    pub creds: Arc<Creds>,
}

/// Why a wait ended without its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// A signal, or the task's end, wants attention.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

impl Current {
    /// Waits in `queue` for `events` until `ready` gives a value. `deadline` is of the monotonic
    /// clock, in nanoseconds. `ready` is asked first, so nothing waits where nothing must.
    pub fn wait_for<T>(
        &self,
        queue: &WaitQueue,
        events: u32,
        deadline: Option<u64>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Blocked> {
        if let Some(value) = ready() {
            return Ok(value);
        }
        let waker = Arc::new(ThreadWaker(platform().current()));
        let token = queue.enter(events, false, waker);
        let result = self.park_until(deadline, ready);
        queue.leave(token);
        result
    }

    /// Parks until `ready` gives a value; whoever makes it so unparks this thread. The caller has
    /// entered the queues that matter.
    pub fn park_until<T>(
        &self,
        deadline: Option<u64>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Blocked> {
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            if self.task.attention.load(Ordering::SeqCst) && self.task.must_interrupt() {
                return Err(Blocked::Interrupted);
            }
            if deadline.is_some_and(|d| platform().monotonic() >= d) {
                return Err(Blocked::TimedOut);
            }
            platform().park(deadline);
        }
    }
}

impl Task {
    /// Whether a blocked call must be unwound: a signal that is not blocked is pending, or the
    /// process ends.
    pub fn must_interrupt(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }
}
