//! Timers that tell a process by a signal: those of setitimer(2) and of timer_create(2).

use alloc::sync::{Arc, Weak};

use super::clock::{Clock, soonest, sum};
use super::queue::{self, Expire, Queued};
use crate::platform::platform;
use crate::signal::{Origin, SigInfo, Signal, send_process, send_task};
use crate::sync::SpinLock;
use crate::task::{Process, Task};

/// How often, at most, a timer of a processor clock looks at it.
const CPU_CHECK: u64 = 1_000_000;

/// What a timer counts.
pub enum TimerClock {
    /// Since 1970.
    Realtime,
    /// Since boot, and nanoseconds more (see [`Clock::Monotonic`]).
    Monotonic(i64),
    /// The process's time in the application alone (ITIMER_VIRTUAL).
    UserTime,
    /// The process's time.
    ProcessTime,
    /// One task's time.
    TaskTime(Weak<Task>),
}

/// Whom a timer tells, and how.
pub enum Notify {
    /// Nobody: it is only read.
    None,
    /// The process, by a bare signal (setitimer(2)).
    Interval(Signal),
    /// The process (SIGEV_SIGNAL).
    Process(SigInfo),
    /// One task (SIGEV_THREAD_ID).
    Task(SigInfo, Weak<Task>),
}

/// What a timer is set to, nanoseconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Setting {
    /// Until it expires; 0: it is not armed.
    pub value: u64,
    /// Between further expirations; 0: there are none.
    pub interval: u64,
}

#[derive(Default)]
struct State {
    /// Of the timer's clock.
    deadline: Option<u64>,
    interval: u64,
    queued: Option<Queued>,
    /// Its signal is queued and was not delivered yet.
    pending: bool,
    /// Expirations since then.
    overruns: u64,
    /// What timer_getoverrun(2) says.
    last_overrun: i32,
}

/// A timer.
pub struct Timer {
    process: Weak<Process>,
    clock: TimerClock,
    notify: Notify,
    state: SpinLock<State>,
}

impl Timer {
    /// One that is not armed.
    pub fn new(process: &Arc<Process>, clock: TimerClock, notify: Notify) -> Timer {
        Timer {
            process: Arc::downgrade(process),
            clock,
            notify,
            state: SpinLock::new(State::default()),
        }
    }

    fn now(&self) -> u64 {
        let process = || self.process.upgrade();
        match &self.clock {
            TimerClock::Realtime => Clock::Realtime.now(),
            TimerClock::Monotonic(ahead) => Clock::Monotonic(*ahead).now(),
            TimerClock::UserTime => process().map_or(0, |p| p.usage().cpu.user_ns),
            TimerClock::ProcessTime => process().map_or(0, |p| sum(p.usage().cpu)),
            TimerClock::TaskTime(task) => task.upgrade().map_or(0, |t| sum(t.cpu_time())),
        }
    }

    /// Arms it (or disarms it, with a value of 0); `absolute`: the value is a time of its clock. What it
    /// was set to.
    pub fn set(self: &Arc<Self>, new: Setting, absolute: bool) -> Setting {
        let now = self.now();
        let mut state = self.state.lock();
        let old = setting(&state, now);
        if let Some(queued) = state.queued.take() {
            queue::remove(queued);
        }
        state.interval = new.interval;
        state.overruns = 0;
        state.deadline = match new.value {
            0 => None,
            value if absolute => Some(value),
            value => Some(now.saturating_add(value)),
        };
        self.enqueue(&mut state, now);
        old
    }

    /// What it is set to.
    pub fn get(&self) -> Setting {
        let now = self.now();
        setting(&self.state.lock(), now)
    }

    /// Disarms it.
    pub fn disarm(&self) {
        let mut state = self.state.lock();
        state.deadline = None;
        if let Some(queued) = state.queued.take() {
            queue::remove(queued);
        }
    }

    /// Its signal is being delivered: expirations since that was queued.
    pub(super) fn delivered(&self) -> i32 {
        let mut state = self.state.lock();
        state.pending = false;
        state.last_overrun = i32::try_from(state.overruns).unwrap_or(i32::MAX);
        state.overruns = 0;
        state.last_overrun
    }

    /// timer_getoverrun(2).
    pub fn overrun(&self) -> i32 {
        self.state.lock().last_overrun
    }

    /// Queues it for when it will, or at the earliest may, expire.
    fn enqueue(self: &Arc<Self>, state: &mut State, now: u64) {
        let Some(deadline) = state.deadline else { return };
        let left = deadline.saturating_sub(now);
        let at = platform().monotonic().saturating_add(match &self.clock {
            TimerClock::Monotonic(_) | TimerClock::Realtime => left,
            _ if left == 0 => 0,
            _ => soonest(left).max(CPU_CHECK),
        });
        let weak: Weak<dyn Expire> = Arc::downgrade(self) as Weak<dyn Expire>;
        match queue::add(at, weak) {
            Ok(queued) => state.queued = Some(queued),
            // The machine gives no thread: the timer cannot run, and reads as disarmed.
            Err(_) => state.deadline = None,
        }
    }

    fn tell(&self) -> bool {
        let Some(process) = self.process.upgrade() else { return false };
        let sent = match &self.notify {
            Notify::None => return false,
            Notify::Interval(signal) => {
                send_process(&process, SigInfo::kernel(*signal), Origin::Inside)
            }
            Notify::Process(info) => send_process(&process, *info, Origin::Inside),
            Notify::Task(info, task) => match task.upgrade() {
                Some(task) => send_task(&task, *info, Origin::Inside),
                None => return false,
            },
        };
        sent.unwrap_or(false)
    }
}

fn setting(state: &State, now: u64) -> Setting {
    match state.deadline {
        None => Setting { value: 0, interval: state.interval },
        // An armed timer never reads as disarmed.
        Some(deadline) => {
            Setting { value: deadline.saturating_sub(now).max(1), interval: state.interval }
        }
    }
}

/// How often a timer that was due at `deadline` has expired by `now`, which is not before that, and when
/// it is due next; an interval of 0: never again.
pub(crate) fn expirations(deadline: u64, interval: u64, now: u64) -> (u64, Option<u64>) {
    match now.saturating_sub(deadline).checked_div(interval) {
        None => (1, None),
        Some(more) => {
            let times = more.saturating_add(1);
            (times, Some(deadline.saturating_add(interval.saturating_mul(times))))
        }
    }
}

impl Expire for Timer {
    fn expire(self: Arc<Self>) {
        let now = self.now();
        let tell = {
            let mut state = self.state.lock();
            state.queued = None;
            let Some(deadline) = state.deadline else { return };
            if now < deadline {
                self.enqueue(&mut state, now);
                return;
            }
            let (times, next) = expirations(deadline, state.interval, now);
            state.deadline = next;
            let tell = !state.pending;
            state.overruns = match tell {
                true => times.saturating_sub(1),
                false => state.overruns.saturating_add(times),
            };
            state.pending = matches!(self.notify, Notify::Process(_) | Notify::Task(..));
            self.enqueue(&mut state, now);
            tell
        };
        // Without the lock: delivery, on another thread, asks the timer.
        if tell && !self.tell() {
            self.state.lock().pending = false;
        }
    }
}
