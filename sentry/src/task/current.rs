//! The running task, as its own thread sees it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::panic::Location;
use core::sync::atomic::Ordering;

use super::dispatch::UserDispatch;
use super::oom::Short;
use super::trace::DebugRegisters;
use super::{Creds, Namespaces, Rseq, Task, TaskState, Waiting};
use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::fs::{FdTable, FsContext};
use crate::mm::Mm;
use crate::platform::{Level, Registers, UserThread, platform};
use crate::signal::SigSet;
use crate::signal::frame::AltStack;
use crate::sync::{WaitQueue, Wake};

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
    /// Namespaces.
    pub namespaces: Arc<Namespaces>,
    /// The alternate signal stack.
    pub altstack: AltStack,
    /// The last fault or exception that raised a signal, for signal frames.
    pub trap: TrapInfo,
    /// The call that was just left was interrupted, and this becomes of it.
    pub restart: Option<Restart>,
    /// What restart_syscall(2) continues.
    pub restart_block: Option<RestartBlock>,
    /// The last call that found no memory.
    pub short: Short,
    /// The mask to go back to after the call that changed it for its time (sigsuspend, ppoll).
    pub saved_mask: Option<SigSet>,
    /// The task ends with this wait(2) status instead of going back to the application.
    pub exit: Option<i32>,
    /// A tracer lets it execute one instruction, by a flag that is not the application's.
    pub stepping: bool,
    /// The calls that its own code serves.
    pub user_dispatch: Option<UserDispatch>,
    /// Its debug registers.
    pub debug: DebugRegisters,
    /// Its reads of the time stamp counter raise SIGSEGV.
    pub tsc_faults: bool,
    /// This thread as a waiter, made once.
    pub waker: Arc<dyn Wake>,
    /// Its restartable-sequences area.
    pub rseq: Option<Rseq>,
    /// For vector state on its way to and from signal frames.
    pub xstate_buffer: Vec<u8>,
}

/// What the CPU said of a fault: sigcontext's `trapno`, `err` and `cr2`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct TrapInfo {
    /// The exception's vector.
    pub number: u64,
    /// Its error code.
    pub error: u64,
    /// The address of the last page fault.
    pub cr2: u64,
}

/// A call that restart_syscall(2) continues, as plain data. Deadlines are monotonic nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestartBlock {
    /// nanosleep(2) and clock_nanosleep(2).
    Sleep {
        /// The clock.
        clock: i32,
        /// When it ends, of that clock.
        deadline: u64,
        /// Where the rest goes, 0: nowhere.
        rest: u64,
    },
    /// futex(2) FUTEX_WAIT with a timeout.
    FutexWait {
        /// The word.
        addr: u64,
        /// What it must be.
        value: u32,
        /// The bits.
        bitset: u32,
        /// FUTEX_PRIVATE_FLAG.
        private: bool,
        /// When it ends.
        deadline: u64,
    },
    /// poll(2).
    Poll {
        /// The descriptors.
        addr: u64,
        /// How many.
        count: u32,
        /// When it ends; `None`: never.
        deadline: Option<u64>,
    },
}

/// Why a wait ended without its condition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blocked {
    /// A signal, or the task's end, wants attention.
    Interrupted,
    /// The deadline passed.
    TimedOut,
}

impl Blocked {
    /// As a system call's error, for calls whose timeout is `EAGAIN` and that restart like read(2).
    pub fn or_restart(self, timed_out: Errno) -> SysError {
        match self {
            Blocked::Interrupted => SysError::Interrupted(Restart::Sys),
            Blocked::TimedOut => SysError::Errno(timed_out),
        }
    }
}

impl Current {
    /// Waits in `queue` for `events` until `ready` gives a value. `deadline` is of the monotonic
    /// clock, in nanoseconds. `ready` is asked first, so nothing waits where nothing must.
    #[track_caller]
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
        let token = queue.enter(events, false, self.waker.clone());
        let result = self.park_until(deadline, ready);
        queue.leave(token);
        result
    }

    /// Parks until `ready` gives a value; whoever makes it so unparks this thread. The caller has
    /// entered the queues that matter.
    #[track_caller]
    pub fn park_until<T>(
        &self,
        deadline: Option<u64>,
        ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Blocked> {
        self.park_while(deadline, ready, Current::must_interrupt)
    }

    /// As [`park_until`](Self::park_until), but only the task's end interrupts it.
    #[track_caller]
    pub fn park_killable<T>(
        &self,
        deadline: Option<u64>,
        ready: impl FnMut() -> Option<T>,
    ) -> Result<T, Blocked> {
        self.park_while(deadline, ready, Current::must_die)
    }

    #[track_caller]
    fn park_while<T>(
        &self,
        deadline: Option<u64>,
        mut ready: impl FnMut() -> Option<T>,
        interrupted: impl Fn(&Current) -> bool,
    ) -> Result<T, Blocked> {
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            if interrupted(self) {
                return Err(Blocked::Interrupted);
            }
            if deadline.is_some_and(|d| platform().monotonic() >= d) {
                return Err(Blocked::TimedOut);
            }
            self.task.set_state(TaskState::Sleeping);
            *self.task.waiting.lock() = Some(self.waiting(Location::caller()));
            platform().park(deadline);
            *self.task.waiting.lock() = None;
            self.task.set_state(TaskState::Running);
            self.hold();
            self.task.goes_on();
            let waits = self.task.waits.load(Ordering::Relaxed);
            self.task.waits.store(waits.wrapping_add(1), Ordering::Relaxed);
        }
    }

    fn waiting(&self, place: &'static Location<'static>) -> Waiting {
        let r = &self.regs;
        Waiting { call: r.orig_rax, args: [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9], place }
    }

    /// Sets the mask for the time of one call (ppoll, pselect, epoll_pwait, sigsuspend). If a signal
    /// interrupts it, the old one comes back after that one's handler; else the call itself must
    /// [`restore_mask`](Self::restore_mask).
    pub fn set_mask_for_call(&mut self, mask: SigSet) {
        self.saved_mask = Some(self.task.blocked());
        self.set_blocked(mask);
    }

    /// Ends [`set_mask_for_call`](Self::set_mask_for_call) when no signal has interrupted the call.
    pub fn restore_mask(&mut self) {
        if let Some(mask) = self.saved_mask.take() {
            self.set_blocked(mask);
        }
    }

    /// Gives the task a new identity, if it is one; a change that others must not follow makes its process invisible
    /// to debuggers (commit_creds()).
    pub fn commit_creds(&mut self, new: Creds) {
        let old = &self.creds;
        if new == **old {
            return;
        }
        if (new.euid, new.egid, new.fsuid, new.fsgid) != (old.euid, old.egid, old.fsuid, old.fsgid)
            || !old.cover(&new)
        {
            self.task.process.dumpable.store(false, Ordering::Relaxed);
            self.task.parent_death_signal.store(0, Ordering::Relaxed);
        }
        self.set_creds(new);
    }

    /// Gives the task a new identity.
    pub fn set_creds(&mut self, creds: Creds) {
        let creds = Arc::new(creds);
        self.creds = creds.clone();
        let old = core::mem::replace(&mut self.task.shared.lock().creds, creds);
        drop(old);
    }

    /// Gives the task other debug registers.
    pub fn set_debug(&mut self, debug: DebugRegisters) {
        let (before, after) = (self.debug.breakpoints(), debug.breakpoints());
        self.debug = debug;
        if before != after
            && let Err(e) = self.user.set_breakpoints(&after)
        {
            // Its tracer has been told already that they are set.
            let tid = self.task.tid();
            platform().log(Level::Warning, format_args!("task {tid}: no breakpoints: {e}"));
        }
    }

    /// Has its reads of the time stamp counter raise SIGSEGV, or not.
    pub fn set_tsc_faults(&mut self, faults: bool) -> Result<(), Errno> {
        if self.tsc_faults != faults {
            self.user.set_tsc_faults(faults)?;
            self.tsc_faults = faults;
        }
        Ok(())
    }

    /// Whether its system calls go to the log.
    pub fn is_logged(&self) -> bool {
        self.task.process.container.is_watched()
    }

    /// Vector-state components that an application has (XCR0, CPUID leaf 0xd).
    pub fn xfeatures(&self) -> u64 {
        static FEATURES: spin::Once<u64> = spin::Once::new();
        *FEATURES.call_once(|| {
            let [eax, _, _, edx] = platform().cpuid(0xd, 0);
            (u64::from(eax) | u64::from(edx) << 32) | 3
        })
    }
}
