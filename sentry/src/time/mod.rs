//! Time: clocks, and everything that happens at a time.
//!
//! One service thread waits for the next deadline of [`queue`], and exists only once something is
//! queued there: there is no periodic tick. Calls that sleep park with a deadline instead and need no
//! queue.

mod clock;
mod cpu_limit;
pub mod queue;
mod timer;

pub use clock::{Clock, TimeSpec, TimeVal};
pub use cpu_limit::CpuLimit;
pub(crate) use timer::expirations;
pub use timer::{Notify, Setting, Timer, TimerClock};

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::sync::SpinLock;

/// Nanoseconds of a second.
pub const SECOND: u64 = 1_000_000_000;

/// The most timers that a process makes with timer_create(2). Linux counts them as pending signals.
const MAX_TIMERS: usize = 31_000;

/// A process's timers.
#[derive(Default)]
pub struct ProcessTimers {
    /// ITIMER_REAL (alarm(2) too), ITIMER_VIRTUAL and ITIMER_PROF (setitimer(2)), once they are used.
    pub interval: SpinLock<[Option<Arc<Timer>>; 3]>,
    /// timer_create(2), by id.
    posix: SpinLock<BTreeMap<u32, Arc<Timer>>>,
    /// RLIMIT_CPU, once there is one.
    cpu_limit: SpinLock<Option<Arc<CpuLimit>>>,
}

impl ProcessTimers {
    /// A timer's signal is being delivered: how often it has expired since that was queued. `None` where
    /// the timer is gone.
    pub fn delivered(&self, id: u32) -> Option<i32> {
        let timer = self.posix.lock().get(&id).cloned()?;
        Some(timer.delivered())
    }

    /// Makes a timer with the lowest free id. `EAGAIN` where there are too many.
    pub fn create(&self, make: impl FnOnce(u32) -> Timer) -> Result<u32, Errno> {
        let mut timers = self.posix.lock();
        if timers.len() >= MAX_TIMERS {
            return Err(Errno::EAGAIN);
        }
        let mut id = 0u32;
        for used in timers.keys() {
            if *used != id {
                break;
            }
            id = id.saturating_add(1);
        }
        timers.insert(id, Arc::new(make(id)));
        Ok(id)
    }

    /// The timer with this id.
    pub fn get(&self, id: u32) -> Result<Arc<Timer>, Errno> {
        self.posix.lock().get(&id).cloned().ok_or(Errno::EINVAL)
    }

    /// Deletes the timer with this id.
    pub fn delete(&self, id: u32) -> Result<(), Errno> {
        let timer = self.posix.lock().remove(&id).ok_or(Errno::EINVAL)?;
        timer.disarm();
        Ok(())
    }

    /// Disarms and deletes all: the process ends.
    pub fn clear(&self) {
        let timers: Vec<Arc<Timer>> =
            self.interval.lock().iter_mut().filter_map(Option::take).collect();
        for timer in timers {
            timer.disarm();
        }
        self.clear_posix();
        if let Some(limit) = self.cpu_limit.lock().take() {
            limit.disarm();
        }
    }

    /// Deletes those of timer_create(2), which do not survive exec.
    pub fn clear_posix(&self) {
        for timer in core::mem::take(&mut *self.posix.lock()).into_values() {
            timer.disarm();
        }
    }
}
