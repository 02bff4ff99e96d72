//! timerfd_create(2): timers that are read.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;

use super::anon;
use super::context::Cx;
use super::file::File;
use super::inode::{FileOps, Whence};
use super::io::IoDst;
use super::types::{Events, OpenFlags};
use crate::errno::Errno;
use crate::sync::{SpinLock, WaitQueue};
use crate::time::queue::{self, Expire, Queued};
use crate::time::{Clock, SECOND, Setting, expirations};

/// A timer with a descriptor.
pub struct TimerFd(Arc<Timer>);

struct Timer {
    clock: Clock,
    /// As timerfd_create(2) was given it.
    clock_id: i32,
    state: SpinLock<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    /// Of the timer's clock; `None`: it is not armed.
    deadline: Option<u64>,
    interval: u64,
    /// Expirations that nobody has read.
    expired: u64,
    queued: Option<Queued>,
    /// timerfd_settime(2)'s flags, for /proc.
    flags: u32,
}

/// A new one, which is not armed, for a clock with this number.
pub fn new(
    cx: &Cx<'_>,
    clock: Clock,
    clock_id: i32,
    nonblocking: bool,
) -> Result<Arc<File>, Errno> {
    let timer =
        Timer { clock, clock_id, state: SpinLock::new(State::default()), queue: WaitQueue::new() };
    let mut flags = OpenFlags::RDWR;
    flags.set(OpenFlags::NONBLOCK, nonblocking);
    anon::file(cx, "anon_inode:[timerfd]", Box::new(TimerFd(Arc::new(timer))), flags)
}

impl TimerFd {
    /// timerfd_settime(2): what it was set to. `absolute`: the value is a time of its clock. What has
    /// expired and was not read is forgotten.
    pub fn set(&self, new: Setting, absolute: bool, flags: u32) -> Setting {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        state.advance(now);
        let old = state.setting(now);
        if let Some(queued) = state.queued.take() {
            queue::remove(queued);
        }
        state.deadline = match new.value {
            0 => None,
            value if absolute => Some(value),
            value => Some(now.saturating_add(value)),
        };
        (state.interval, state.expired, state.flags) = (new.interval, 0, flags);
        self.0.enqueue(&mut state, now);
        old
    }

    /// timerfd_gettime(2): what is left, and the interval.
    pub fn get(&self) -> Setting {
        let now = self.0.clock.now();
        let mut state = self.0.state.lock();
        state.advance(now);
        state.setting(now)
    }
}

impl State {
    /// Counts what has expired by `now`.
    fn advance(&mut self, now: u64) {
        let Some(deadline) = self.deadline.filter(|d| *d <= now) else { return };
        let (times, next) = expirations(deadline, self.interval, now);
        self.expired = self.expired.saturating_add(times);
        self.deadline = next;
    }

    fn setting(&self, now: u64) -> Setting {
        let value = self.deadline.map_or(0, |d| d.saturating_sub(now).max(1));
        Setting { value, interval: self.interval }
    }
}

impl Timer {
    /// Queues it for its deadline.
    fn enqueue(self: &Arc<Self>, state: &mut State, now: u64) {
        let Some(deadline) = state.deadline else { return };
        let left = deadline.saturating_sub(now);
        let at = crate::platform::platform().monotonic().saturating_add(left);
        let weak: Weak<dyn Expire> = Arc::downgrade(self) as Weak<dyn Expire>;
        match queue::add(at, weak) {
            Ok(queued) => state.queued = Some(queued),
            // The machine gives no thread: the timer cannot run, and reads as disarmed.
            Err(_) => state.deadline = None,
        }
    }
}

impl Expire for Timer {
    fn expire(self: Arc<Self>) {
        let now = self.clock.now();
        let ring = {
            let mut state = self.state.lock();
            state.queued = None;
            // Whoever looked at it meanwhile may have counted this one already.
            state.advance(now);
            self.enqueue(&mut state, now);
            state.expired > 0
        };
        if ring {
            self.queue.wake(Events::READABLE.bits());
        }
    }
}

impl FileOps for TimerFd {
    fn can_hurry(&self, writes: bool) -> bool {
        !writes
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() < 8 {
            return Err(Errno::EINVAL);
        }
        let expired = {
            let mut state = self.0.state.lock();
            // The service may be late: the clock says what has expired.
            state.advance(self.0.clock.now());
            core::mem::take(&mut state.expired)
        };
        if expired == 0 {
            return Err(Errno::EAGAIN);
        }
        dst.put(&expired.to_le_bytes())
    }

    fn is_stream(&self) -> bool {
        true
    }

    /// It has no offset to move, and lets it be moved: Linux's noop_llseek.
    fn seek(&self, _file: &File, now: u64, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Ok(now)
    }

    fn poll(&self, _file: &File) -> Events {
        let mut state = self.0.state.lock();
        state.advance(self.0.clock.now());
        if state.expired > 0 { Events::READABLE } else { Events::empty() }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        let Setting { value, interval } = self.get();
        let state = self.0.state.lock();
        let time = |ns: u64| format!("({}, {})", ns / SECOND, ns % SECOND);
        format!(
            "clockid: {}\nticks: {}\nsettime flags: 0{:o}\nit_value: {}\nit_interval: {}\n",
            self.0.clock_id,
            state.expired,
            state.flags,
            time(value),
            time(interval)
        )
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for TimerFd {
    fn drop(&mut self) {
        let queued = {
            let mut state = self.0.state.lock();
            state.deadline = None;
            state.queued.take()
        };
        if let Some(queued) = queued {
            queue::remove(queued);
        }
    }
}
