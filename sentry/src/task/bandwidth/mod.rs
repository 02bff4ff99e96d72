//! Limits of processor time: a container with a quota whose tasks are held once they have used it, until the next period,
//! as the bandwidth control of Linux's scheduler has it.
//!
//! Tasks are not charged as they run, which would cost each way in and out of the application something: the thread of
//! the timers looks at what they have used, by the platform's count, when the [`Pool`] may be empty at the earliest, and
//! then has them come out of the application. They wait at the end of their way back to it; what a task does for a system
//! call it ends first. A container whose tasks all wait is not looked at; the first that goes on says so
//! ([`Container::holds_tasks`]). One without a quota costs a load where a task has waited, and nothing elsewhere.

mod pool;

use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::{Current, Task, TaskState, freezer};
use crate::control::Throttling;
use crate::errno::Errno;
use crate::kernel::Container;
use crate::platform::{Level, platform};
use crate::sync::{SpinLock, WaitQueue};
use crate::time::queue::{self, Expire, Queued};
use pool::Pool;

/// The period where none is given, microseconds.
pub const PERIOD: u64 = 100_000;

/// How a container stands.
mod mode {
    /// It has no quota.
    pub const FREE: u8 = 0;
    /// No task of it runs: nobody looks.
    pub const IDLE: u8 = 1;
    /// It is looked at.
    pub const COUNTED: u8 = 2;
    /// It has used its time: its tasks are held.
    pub const SPENT: u8 = 3;
}

/// Of a container: the processor time that it may use.
#[derive(Default)]
pub struct Bandwidth {
    /// One of [`mode`]; changed under the lock of `state` alone.
    mode: AtomicU8,
    state: SpinLock<State>,
    /// Tasks that are held, and how many.
    held: WaitQueue,
    holds: AtomicU32,
}

#[derive(Default)]
struct State {
    /// What was asked for: quota and period, microseconds.
    limit: Option<(u64, u64)>,
    pool: Option<Pool>,
    queued: Option<Queued>,
    counts: Throttling,
    /// Since when its tasks are held, or up to when that is counted.
    since: u64,
}

impl Bandwidth {
    /// Whether its tasks are to be held now.
    pub fn is_spent(&self) -> bool {
        // Against `look`, which says so before it tells the tasks.
        self.mode.load(Ordering::SeqCst) == mode::SPENT
    }

    /// How often its tasks were held.
    pub fn counts(&self) -> Throttling {
        self.state.lock().counts
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

impl Container {
    /// Lets its tasks use so much processor time in each period, microseconds both; `None`: as much as there is. A change
    /// begins a period, and nothing is owed. `EAGAIN` where the machine has no thread that looks at it.
    pub fn limit_time(self: &Arc<Self>, limit: Option<(u64, u64)>) -> Result<(), Errno> {
        let own = &self.bandwidth;
        if own.state.lock().limit == limit {
            return Ok(());
        }
        if limit.is_some() {
            queue::begin()?;
        }
        let (used, _) = time_and_running(self);
        {
            let mut state = own.state.lock();
            let now = platform().monotonic();
            count_held(own, &mut state, now);
            if let Some(queued) = state.queued.take() {
                queue::remove(queued);
            }
            state.limit = limit;
            let cpus = platform().cpus();
            state.pool = limit.map(|(quota, period)| Pool::new(quota, period, cpus, now, used));
            own.set(if limit.is_some() { mode::IDLE } else { mode::FREE });
        }
        own.held.wake_all();
        if limit.is_some() && time_and_running(self).1 > 0 {
            self.count_time();
        }
        Ok(())
    }

    /// A task goes on, or is about to: whether it is to be held before it runs.
    #[inline]
    pub(crate) fn holds_tasks(self: &Arc<Self>) -> bool {
        match self.bandwidth.mode.load(Ordering::SeqCst) {
            mode::IDLE => {
                self.count_time();
                self.bandwidth.is_spent()
            }
            mode => mode == mode::SPENT,
        }
    }

    /// Time is used from now on.
    #[cold]
    fn count_time(self: &Arc<Self>) {
        let own = &self.bandwidth;
        let mut state = own.state.lock();
        if own.mode.load(Ordering::SeqCst) != mode::IDLE {
            return;
        }
        let now = platform().monotonic();
        let Some(pool) = &mut state.pool else { return };
        // Periods in which nothing ran count for nothing, but they have paid what was owed.
        pool.refill(now);
        own.set(if pool.is_empty() { mode::SPENT } else { mode::COUNTED });
        let next = pool.next_look(now, 1);
        state.since = now;
        self.look_at(&mut state, next);
    }

    fn look_at(self: &Arc<Self>, state: &mut State, at: u64) {
        let weak = Arc::downgrade(self);
        match queue::add(at, weak as Weak<dyn Expire>) {
            Ok(queued) => state.queued = Some(queued),
            // The thread is there since the limit was set.
            Err(e) => {
                let id = &self.id;
                let line = format_args!("container {id}: its processor time is not limited: {e}");
                platform().log(Level::Error, line);
                self.bandwidth.set(mode::FREE);
            }
        }
    }
}

/// What tasks of a container have used, ended ones too, and how many are not waiting for anything.
fn time_and_running(container: &Container) -> (u64, u32) {
    // An ending task is in both, or for a moment in neither: what is missed is found at the next look.
    let mut time = *container.ended.lock();
    let mut running = 0u32;
    for task in freezer::tasks(container) {
        time.add(task.cpu_time());
        running = running.saturating_add(runs(&task).into());
    }
    (time.user_ns.saturating_add(time.system_ns), running)
}

/// Whether a task uses processor time, or would if it were not held. One that has not begun looks before it does.
fn runs(task: &Task) -> bool {
    task.thread.load(Ordering::SeqCst) != 0 && task.state() == TaskState::Running
}

/// Counts for how long tasks were held up to now.
fn count_held(own: &Bandwidth, state: &mut State, now: u64) {
    if own.is_spent() {
        // As Linux, for each processor that would have run one.
        let processors = own.holds.load(Ordering::SeqCst).min(platform().cpus());
        let time = now.saturating_sub(state.since).saturating_mul(processors.into());
        state.counts.time_ns = state.counts.time_ns.saturating_add(time);
        state.since = now;
    }
}

impl Expire for Container {
    /// Looks at what its tasks have used.
    fn expire(self: Arc<Self>) {
        let own = &self.bandwidth;
        let now = platform().monotonic();
        let (used, running) = time_and_running(&self);
        let took = platform().monotonic().saturating_sub(now);
        let (mut hold, mut release, mut idle) = (false, false, false);
        {
            let mut state = own.state.lock();
            state.queued = None;
            let was_spent = own.is_spent();
            let held = was_spent && own.holds.load(Ordering::SeqCst) > 0;
            let Some(pool) = &mut state.pool else { return };
            pool.charge(used);
            let ended = pool.refill(now);
            let is_spent = pool.is_empty();
            // Many tasks are looked at less often: that is to cost a tenth of the time at most.
            let next = pool.next_look(now.saturating_add(took.saturating_mul(9)), running);
            state.counts.periods = state.counts.periods.saturating_add(ended);
            if held {
                state.counts.throttled = state.counts.throttled.saturating_add(ended);
            }
            count_held(own, &mut state, now);
            match (was_spent, is_spent) {
                (false, true) => {
                    state.since = now;
                    own.set(mode::SPENT);
                    hold = true;
                }
                (true, false) => {
                    own.set(mode::COUNTED);
                    release = true;
                }
                _ => {}
            }
            if ended > 0 && running == 0 && !is_spent {
                own.set(mode::IDLE);
                idle = true;
            } else {
                self.look_at(&mut state, next);
            }
        }
        if hold {
            freezer::tasks(&self).iter().filter(|task| runs(task)).for_each(|task| task.notice());
        }
        if release {
            own.held.wake_all();
        }
        // One that has gone on before it could see that nobody looks.
        if idle && time_and_running(&self).1 > 0 {
            self.count_time();
        }
    }
}

impl Task {
    /// It goes on after a wait. Said before that ([`Task::set_state`]).
    #[inline]
    pub(crate) fn goes_on(&self) {
        if self.process.container.holds_tasks() {
            self.attention.store(true, Ordering::SeqCst);
        }
    }

    /// Has the task look at its signals before it goes back to the application, or not, as these want it; and in any case
    /// where it is to be held there.
    pub(crate) fn set_attention(&self, wanted: bool) {
        self.attention.store(wanted, Ordering::SeqCst);
        if !wanted && self.process.container.bandwidth.is_spent() {
            self.attention.store(true, Ordering::SeqCst);
        }
    }
}

impl Current {
    /// Waits until the container has processor time again, or something else wants the task's attention.
    pub(crate) fn await_time(&self) {
        let own = &self.task.process.container.bandwidth;
        own.holds.fetch_add(1, Ordering::SeqCst);
        let token = own.held.enter(u32::MAX, false, self.waker.clone());
        while own.is_spent() && !self.task.attention.load(Ordering::SeqCst) {
            platform().park(None);
        }
        own.held.leave(token);
        own.holds.fetch_sub(1, Ordering::SeqCst);
    }
}
