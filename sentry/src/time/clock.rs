//! Clocks (clock_getres(2)) and the structures that times travel in.

use alloc::sync::Arc;

use super::SECOND;
use crate::errno::Errno;
use crate::mm::Mm;
use crate::platform::{CpuTime, platform};
use crate::task::{Current, Process, Task};

/// A `struct timespec` (or `__kernel_timespec`): 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeSpec {
    /// Seconds.
    pub sec: i64,
    /// Nanoseconds.
    pub nsec: i64,
}

impl TimeSpec {
    /// From nanoseconds.
    pub fn from_ns(ns: u64) -> TimeSpec {
        TimeSpec { sec: (ns / SECOND) as i64, nsec: (ns % SECOND) as i64 }
    }

    /// In nanoseconds, as far as a clock can go. `EINVAL` where it is negative or not normal.
    pub fn to_ns(self) -> Result<u64, Errno> {
        let (Ok(sec), Ok(nsec)) = (u64::try_from(self.sec), u64::try_from(self.nsec)) else {
            return Err(Errno::EINVAL);
        };
        if nsec >= SECOND {
            return Err(Errno::EINVAL);
        }
        Ok(sec.saturating_mul(SECOND).saturating_add(nsec).min(i64::MAX as u64))
    }

    /// Reads one.
    pub fn read(mm: &Mm, addr: u64) -> Result<TimeSpec, Errno> {
        let mut bytes = [0; 16];
        mm.copy_in(addr, &mut bytes)?;
        let [sec, nsec] = halves(&bytes);
        Ok(TimeSpec { sec, nsec })
    }

    /// Writes it.
    pub fn write(self, mm: &Mm, addr: u64) -> Result<(), Errno> {
        mm.copy_out(addr, &self.to_bytes())
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        join(self.sec, self.nsec)
    }
}

/// A `struct timeval`: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeVal {
    /// Seconds.
    pub sec: i64,
    /// Microseconds.
    pub usec: i64,
}

impl TimeVal {
    /// From nanoseconds, rounded down.
    pub fn from_ns(ns: u64) -> TimeVal {
        TimeVal { sec: (ns / SECOND) as i64, usec: (ns % SECOND / 1000) as i64 }
    }

    /// In nanoseconds. `EINVAL` where it is negative or not normal.
    pub fn to_ns(self) -> Result<u64, Errno> {
        if !(0..1_000_000).contains(&self.usec) {
            return Err(Errno::EINVAL);
        }
        TimeSpec { sec: self.sec, nsec: self.usec.wrapping_mul(1000) }.to_ns()
    }

    /// Reads one.
    pub fn read(mm: &Mm, addr: u64) -> Result<TimeVal, Errno> {
        let mut bytes = [0; 16];
        mm.copy_in(addr, &mut bytes)?;
        let [sec, usec] = halves(&bytes);
        Ok(TimeVal { sec, usec })
    }

    /// Its bytes.
    pub fn to_bytes(self) -> [u8; 16] {
        join(self.sec, self.usec)
    }
}

fn halves(bytes: &[u8; 16]) -> [i64; 2] {
    let mut out = [0; 2];
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *to = i64::from_le_bytes(*from);
    }
    out
}

fn join(a: i64, b: i64) -> [u8; 16] {
    let mut out = [0; 16];
    for (to, from) in out.chunks_exact_mut(8).zip([a, b]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    out
}

/// A clock.
#[derive(Clone)]
pub enum Clock {
    /// CLOCK_REALTIME, CLOCK_TAI and their kin: since 1970.
    Realtime,
    /// CLOCK_MONOTONIC, CLOCK_BOOTTIME and their kin: since the sandbox's boot, and nanoseconds more that a time
    /// namespace gives.
    Monotonic(i64),
    /// Processor time of a process.
    Process(Arc<Process>),
    /// Processor time of a task.
    Task(Arc<Task>),
}

/// Numbers of clocks (linux/time.h).
const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
const CLOCK_MONOTONIC_RAW: i32 = 4;
const CLOCK_REALTIME_COARSE: i32 = 5;
const CLOCK_MONOTONIC_COARSE: i32 = 6;
const CLOCK_BOOTTIME: i32 = 7;
const CLOCK_REALTIME_ALARM: i32 = 8;
const CLOCK_BOOTTIME_ALARM: i32 = 9;
const CLOCK_TAI: i32 = 11;
/// In the number of a processor clock: that of one task, not of its process.
const PER_THREAD: i32 = 4;
/// What is measured by such a number: both times, user time, or what the scheduler says.
const CPUCLOCK_MAX: i32 = 3;

impl Clock {
    /// The clock with this number, as `cx` sees it. `EINVAL` where there is none.
    pub fn new(cx: &Current, id: i32) -> Result<Clock, Errno> {
        Ok(match id {
            CLOCK_REALTIME | CLOCK_REALTIME_COARSE | CLOCK_REALTIME_ALARM | CLOCK_TAI => {
                Clock::Realtime
            }
            CLOCK_MONOTONIC | CLOCK_MONOTONIC_RAW | CLOCK_MONOTONIC_COARSE => {
                Clock::Monotonic(cx.namespaces.time.ahead())
            }
            CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => {
                Clock::Monotonic(cx.namespaces.time.boottime_ahead())
            }
            CLOCK_PROCESS_CPUTIME_ID => Clock::Process(cx.task.process.clone()),
            CLOCK_THREAD_CPUTIME_ID => Clock::Task(cx.task.clone()),
            // A processor clock of any task: the complement of its id, and three bits.
            id if id < 0 && id & 3 < CPUCLOCK_MAX => {
                let pid = !(id >> 3) as u32;
                let pids = &cx.task.process.pidns;
                if id & PER_THREAD != 0 {
                    if pid == 0 {
                        return Ok(Clock::Task(cx.task.clone()));
                    }
                    let task = pids.task(pid).ok_or(Errno::EINVAL)?;
                    if !Arc::ptr_eq(&task.process, &cx.task.process) {
                        return Err(Errno::EINVAL);
                    }
                    Clock::Task(task)
                } else if pid == 0 {
                    Clock::Process(cx.task.process.clone())
                } else {
                    Clock::Process(pids.process(pid).ok_or(Errno::EINVAL)?)
                }
            }
            _ => return Err(Errno::EINVAL),
        })
    }

    /// What it says now, in nanoseconds.
    pub fn now(&self) -> u64 {
        match self {
            Clock::Realtime => platform().realtime(),
            Clock::Monotonic(ahead) => platform().monotonic().saturating_add_signed(*ahead),
            Clock::Process(process) => sum(process.usage().cpu),
            Clock::Task(task) => sum(task.cpu_time()),
        }
    }

    /// Whether it runs only while a program does.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Clock::Process(_) | Clock::Task(_))
    }

    /// When the monotonic clock will say that this one's `deadline` has come: for processor clocks, at
    /// the earliest.
    pub fn to_monotonic(&self, deadline: u64) -> u64 {
        match self {
            Clock::Monotonic(ahead) => deadline.saturating_sub_signed(*ahead),
            _ => platform().monotonic().saturating_add(deadline.saturating_sub(self.now())),
        }
    }

    /// Whether a clock of this number can be set by who may: the answer is that nobody may.
    pub fn is_settable(id: i32) -> bool {
        id == CLOCK_REALTIME
    }

    /// Whether the clock with this number ticks rather than counts.
    pub fn is_coarse(id: i32) -> bool {
        id == CLOCK_REALTIME_COARSE || id == CLOCK_MONOTONIC_COARSE
    }

    /// Whether timerfd_create(2) takes the clock with this number.
    pub fn can_have_descriptor(id: i32) -> bool {
        matches!(id, CLOCK_REALTIME | CLOCK_MONOTONIC | CLOCK_BOOTTIME) || Clock::is_alarm(id)
    }

    /// Whether the clock with this number wakes a machine that sleeps.
    pub fn is_alarm(id: i32) -> bool {
        matches!(id, CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM)
    }

    /// Whether clock_nanosleep(2) and timers take the clock with this number.
    pub fn can_wait(id: i32) -> bool {
        !matches!(id, CLOCK_MONOTONIC_RAW | CLOCK_REALTIME_COARSE | CLOCK_MONOTONIC_COARSE)
    }
}

/// User and system time.
pub(super) fn sum(time: CpuTime) -> u64 {
    time.user_ns.saturating_add(time.system_ns)
}

/// How long it takes at least until a processor clock has gone on by so much, nanoseconds: it runs at most as fast as there
/// are CPUs, and may stand still.
pub(super) fn soonest(more: u64) -> u64 {
    more / u64::from(platform().cpus().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_checked_and_do_not_overflow() {
        assert_eq!(TimeSpec { sec: 1, nsec: 5 }.to_ns(), Ok(SECOND + 5));
        assert_eq!(TimeSpec { sec: i64::MAX, nsec: 0 }.to_ns(), Ok(i64::MAX as u64));
        assert!(TimeSpec { sec: -1, nsec: 0 }.to_ns().is_err());
        assert!(TimeSpec { sec: 0, nsec: 1_000_000_000 }.to_ns().is_err());
        assert!(TimeVal { sec: 0, usec: 1_000_000 }.to_ns().is_err());
    }
}
