//! Clocks, sleeping, and timers.

use alloc::sync::Arc;

use super::Args;
use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::fs::OpenFlags;
use crate::fs::timerfd::{self, TimerFd};
use crate::platform::platform;
use crate::signal::{SigInfo, Signal};
use crate::task::limit::RLIMIT_NOFILE;
use crate::task::{Blocked, Current, RestartBlock, cap};
use crate::time::{Clock, Notify, SECOND, Setting, TimeSpec, TimeVal, Timer, TimerClock};

/// TIMER_ABSTIME, for clocks and timers.
const ABSTIME: u32 = 1;
/// Nanoseconds of a tick: the resolution of coarse clocks (CONFIG_HZ is 250).
const TICK: u64 = 4_000_000;

/// clock_gettime(2).
pub fn clock_gettime(cx: &mut Current, args: Args) -> SysResult {
    let now = Clock::new(cx, args.int(0))?.now();
    TimeSpec::from_ns(now).write(&cx.mm, args.get(1))?;
    Ok(0)
}

/// clock_getres(2).
pub fn clock_getres(cx: &mut Current, args: Args) -> SysResult {
    Clock::new(cx, args.int(0))?;
    if args.get(1) != 0 {
        let resolution = if Clock::is_coarse(args.int(0)) { TICK } else { 1 };
        TimeSpec::from_ns(resolution).write(&cx.mm, args.get(1))?;
    }
    Ok(0)
}

/// clock_settime(2): the sandbox's clocks are the host's, so that nobody inside may.
pub fn clock_settime(cx: &mut Current, args: Args) -> SysResult {
    Clock::new(cx, args.int(0))?;
    if !Clock::is_settable(args.int(0)) {
        return Err(Errno::EINVAL.into());
    }
    TimeSpec::read(&cx.mm, args.get(1))?.to_ns()?;
    Err(Errno::EPERM.into())
}

/// settimeofday(2).
pub fn settimeofday(cx: &mut Current, args: Args) -> SysResult {
    if args.get(0) != 0 {
        TimeVal::read(&cx.mm, args.get(0))?.to_ns()?;
    }
    Err(Errno::EPERM.into())
}

/// gettimeofday(2).
pub fn gettimeofday(cx: &mut Current, args: Args) -> SysResult {
    if args.get(0) != 0 {
        cx.mm.copy_out(args.get(0), &TimeVal::from_ns(platform().realtime()).to_bytes())?;
    }
    if args.get(1) != 0 {
        // struct timezone: the kernel's is UTC.
        cx.mm.copy_out(args.get(1), &[0; 8])?;
    }
    Ok(0)
}

/// time(2).
pub fn time(cx: &mut Current, args: Args) -> SysResult {
    let now = platform().realtime() / SECOND;
    if args.get(0) != 0 {
        cx.mm.copy_out(args.get(0), &now.to_le_bytes())?;
    }
    Ok(now)
}

/// nanosleep(2).
pub fn nanosleep(cx: &mut Current, args: Args) -> SysResult {
    const CLOCK_MONOTONIC: i32 = 1;
    let time = TimeSpec::read(&cx.mm, args.get(0))?.to_ns()?;
    let deadline = Clock::new(cx, CLOCK_MONOTONIC)?.now().saturating_add(time);
    sleep_until(cx, CLOCK_MONOTONIC, deadline, args.get(1))
}

/// clock_nanosleep(2).
pub fn clock_nanosleep(cx: &mut Current, args: Args) -> SysResult {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    let id = args.int(0);
    if id == CLOCK_THREAD_CPUTIME_ID {
        return Err(Errno::EINVAL.into());
    }
    let clock = Clock::new(cx, id)?;
    if !Clock::can_wait(id) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let time = TimeSpec::read(&cx.mm, args.get(2))?.to_ns()?;
    if args.uint(1) & ABSTIME != 0 {
        // Nothing is left over: the call is simply made again.
        return match sleep(cx, &clock, time) {
            Ok(()) => Ok(0),
            Err(()) => Err(SysError::Interrupted(Restart::NoHandler)),
        };
    }
    let deadline = clock.now().saturating_add(time);
    sleep_until(cx, id, deadline, args.get(3))
}

/// Sleeps until a clock says `deadline`; where a signal comes first, tells what is left at `rest`.
pub fn sleep_until(cx: &mut Current, id: i32, deadline: u64, rest: u64) -> SysResult {
    let clock = Clock::new(cx, id)?;
    if sleep(cx, &clock, deadline).is_ok() {
        return Ok(0);
    }
    if rest != 0 {
        let left = deadline.saturating_sub(clock.now());
        TimeSpec::from_ns(left).write(&cx.mm, rest)?;
    }
    cx.restart_block = Some(RestartBlock::Sleep { clock: id, deadline, rest });
    Err(SysError::Interrupted(Restart::Block))
}

fn sleep(cx: &Current, clock: &Clock, deadline: u64) -> Result<(), ()> {
    loop {
        let now = clock.now();
        if now >= deadline {
            return Ok(());
        }
        let until = match clock {
            Clock::Monotonic(_) | Clock::Realtime => clock.to_monotonic(deadline),
            // It may stand still: look now and then.
            _ => platform().monotonic().saturating_add(deadline.saturating_sub(now).max(1_000_000)),
        };
        match cx.park_until(Some(until), || None::<()>) {
            Ok(()) | Err(Blocked::TimedOut) => {}
            Err(Blocked::Interrupted) => return Err(()),
        }
    }
}

/// Kinds of interval timers.
const ITIMER_SIGNALS: [Signal; 3] = [Signal::SIGALRM, Signal::SIGVTALRM, Signal::SIGPROF];

fn interval_timer(cx: &Current, which: i32) -> Result<Arc<Timer>, Errno> {
    let at = usize::try_from(which).map_err(|_| Errno::EINVAL)?;
    let signal = *ITIMER_SIGNALS.get(at).ok_or(Errno::EINVAL)?;
    let process = &cx.task.process;
    let mut timers = process.timers.interval.lock();
    let slot = timers.get_mut(at).ok_or(Errno::EINVAL)?;
    Ok(slot
        .get_or_insert_with(|| {
            let clock = match at {
                0 => TimerClock::Monotonic(0),
                1 => TimerClock::UserTime,
                _ => TimerClock::ProcessTime,
            };
            Arc::new(Timer::new(process, clock, Notify::Interval(signal)))
        })
        .clone())
}

fn write_itimerval(cx: &Current, addr: u64, setting: Setting) -> Result<(), Errno> {
    let us = |ns: u64| ns.div_ceil(1000).saturating_mul(1000);
    cx.mm.copy_out(addr, &TimeVal::from_ns(setting.interval).to_bytes())?;
    cx.mm.copy_out(addr.wrapping_add(16), &TimeVal::from_ns(us(setting.value)).to_bytes())
}

/// getitimer(2).
pub fn getitimer(cx: &mut Current, args: Args) -> SysResult {
    let setting = interval_timer(cx, args.int(0))?.get();
    write_itimerval(cx, args.get(1), setting)?;
    Ok(0)
}

/// setitimer(2).
pub fn setitimer(cx: &mut Current, args: Args) -> SysResult {
    let timer = interval_timer(cx, args.int(0))?;
    let new = match args.get(1) {
        0 => Setting::default(),
        addr => Setting {
            interval: TimeVal::read(&cx.mm, addr)?.to_ns()?,
            value: TimeVal::read(&cx.mm, addr.wrapping_add(16))?.to_ns()?,
        },
    };
    let old = timer.set(new, false);
    if args.get(2) != 0 {
        write_itimerval(cx, args.get(2), old)?;
    }
    Ok(0)
}

/// alarm(2).
pub fn alarm(cx: &mut Current, args: Args) -> SysResult {
    let value = u64::from(args.uint(0)).saturating_mul(SECOND);
    let old = interval_timer(cx, 0)?.set(Setting { value, interval: 0 }, false);
    // Rounded, but an armed timer never says 0 (alarm_setitimer()).
    let mut left = old.value / SECOND;
    if old.value != 0 && (left == 0 || old.value % SECOND >= SECOND / 2) {
        left = left.saturating_add(1);
    }
    Ok(left)
}

/// sigev_notify values (sigevent(7)).
mod sigev {
    pub const SIGNAL: i32 = 0;
    pub const NONE: i32 = 1;
    pub const THREAD: i32 = 2;
    pub const THREAD_ID: i32 = 4;
}

/// timer_create(2).
pub fn timer_create(cx: &mut Current, args: Args) -> SysResult {
    let id = args.int(0);
    let clock = match Clock::new(cx, id)? {
        _ if !Clock::can_wait(id) => return Err(Errno::EOPNOTSUPP.into()),
        Clock::Realtime => TimerClock::Realtime,
        Clock::Monotonic(ahead) => TimerClock::Monotonic(ahead),
        Clock::Process(process) if Arc::ptr_eq(&process, &cx.task.process) => {
            TimerClock::ProcessTime
        }
        Clock::Process(_) => return Err(Errno::EINVAL.into()),
        Clock::Task(task) => TimerClock::TaskTime(Arc::downgrade(&task)),
    };
    // struct sigevent: value, signo, notify, tid.
    let (value, number, notify, tid) = match args.get(1) {
        0 => (None, i32::from(Signal::SIGALRM.number()), sigev::SIGNAL, 0),
        addr => {
            let mut bytes = [0; 24];
            cx.mm.copy_in(addr, &mut bytes)?;
            let word = |n| super::word(&bytes, n);
            (Some(word(0)), word(1) as i32, (word(1) >> 32) as i32, word(2) as i32)
        }
    };
    let task = match notify {
        sigev::NONE => None,
        sigev::SIGNAL | sigev::THREAD => Some(None),
        n if n == sigev::SIGNAL | sigev::THREAD_ID => {
            let tid = u32::try_from(tid).map_err(|_| Errno::EINVAL)?;
            let task = cx.task.process.pidns.task(tid).ok_or(Errno::EINVAL)?;
            if !Arc::ptr_eq(&task.process, &cx.task.process) {
                return Err(Errno::EINVAL.into());
            }
            Some(Some(Arc::downgrade(&task)))
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let signal = match &task {
        None => None,
        Some(_) => Some(Signal::new(number)?),
    };
    let process = cx.task.process.clone();
    let id = process.timers.create(|id| {
        let notify = match (signal, task) {
            (Some(signal), Some(task)) => {
                let info = SigInfo::timer(signal, id, value.unwrap_or(id.into()));
                match task {
                    None => Notify::Process(info),
                    Some(task) => Notify::Task(info, task),
                }
            }
            _ => Notify::None,
        };
        Timer::new(&process, clock, notify)
    })?;
    if let Err(e) = cx.mm.copy_out(args.get(2), &id.to_le_bytes()) {
        process.timers.delete(id)?;
        return Err(e.into());
    }
    Ok(0)
}

/// Writes a `struct itimerspec`.
pub fn write_itimerspec(cx: &Current, addr: u64, setting: Setting) -> Result<(), Errno> {
    TimeSpec::from_ns(setting.interval).write(&cx.mm, addr)?;
    TimeSpec::from_ns(setting.value).write(&cx.mm, addr.wrapping_add(16))
}

/// Reads a `struct itimerspec`.
pub fn read_itimerspec(cx: &Current, addr: u64) -> Result<Setting, Errno> {
    Ok(Setting {
        interval: TimeSpec::read(&cx.mm, addr)?.to_ns()?,
        value: TimeSpec::read(&cx.mm, addr.wrapping_add(16))?.to_ns()?,
    })
}

/// timer_settime(2).
pub fn timer_settime(cx: &mut Current, args: Args) -> SysResult {
    if args.get(2) == 0 {
        return Err(Errno::EINVAL.into());
    }
    let new = read_itimerspec(cx, args.get(2))?;
    let timer = cx.task.process.timers.get(args.uint(0))?;
    let old = timer.set(new, args.uint(1) & ABSTIME != 0);
    if args.get(3) != 0 {
        write_itimerspec(cx, args.get(3), old)?;
    }
    Ok(0)
}

/// timer_gettime(2).
pub fn timer_gettime(cx: &mut Current, args: Args) -> SysResult {
    let setting = cx.task.process.timers.get(args.uint(0))?.get();
    write_itimerspec(cx, args.get(1), setting)?;
    Ok(0)
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(cx: &mut Current, args: Args) -> SysResult {
    Ok(cx.task.process.timers.get(args.uint(0))?.overrun() as u64)
}

/// timer_delete(2).
pub fn timer_delete(cx: &mut Current, args: Args) -> SysResult {
    cx.task.process.timers.delete(args.uint(0))?;
    Ok(0)
}

/// times(2).
pub fn times(cx: &mut Current, args: Args) -> SysResult {
    if args.get(0) != 0 {
        let process = &cx.task.process;
        let (user, system) = process.usage().ticks();
        let (child_user, child_system) = process.used_by_children.lock().ticks();
        let mut bytes = [0; 32];
        for (to, from) in bytes.chunks_exact_mut(8).zip([user, system, child_user, child_system]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        cx.mm.copy_out(args.get(0), &bytes)?;
    }
    Ok(platform().monotonic() / 10_000_000)
}

/// adjtimex(2) and clock_adjtime(2), for asking only: struct timex is filled with the state of a clock
/// that nobody disciplines.
pub fn adjtimex(cx: &mut Current, args: Args) -> SysResult {
    adjust(cx, args.get(0))
}

/// clock_adjtime(2).
pub fn clock_adjtime(cx: &mut Current, args: Args) -> SysResult {
    const CLOCK_REALTIME: i32 = 0;
    if args.int(0) != CLOCK_REALTIME {
        Clock::new(cx, args.int(0))?;
        return Err(Errno::EOPNOTSUPP.into());
    }
    adjust(cx, args.get(1))
}

fn adjust(cx: &Current, addr: u64) -> SysResult {
    /// Bytes of struct timex.
    const TIMEX: usize = 208;
    /// TIME_ERROR: the clock is not synchronized.
    const TIME_ERROR: u64 = 5;
    const STA_UNSYNC: u64 = 0x40;
    let modes = cx.mm.copy_in_u32(addr)?;
    if modes != 0 {
        return Err(
            if cx.creds.capable(cap::SYS_TIME) { Errno::EINVAL } else { Errno::EPERM }.into()
        );
    }
    let mut bytes = [0; TIMEX];
    let mut put = |word: usize, value: u64| {
        if let Some(to) = bytes.chunks_exact_mut(8).nth(word) {
            to.copy_from_slice(&value.to_le_bytes());
        }
    };
    let now = TimeVal::from_ns(platform().realtime());
    put(3, 16_000_000); // maxerror
    put(4, 16_000_000); // esterror
    put(5, STA_UNSYNC); // status
    put(6, 2); // constant
    put(7, 1); // precision
    put(8, 32_768_000); // tolerance
    put(9, now.sec as u64);
    put(10, now.usec as u64);
    put(11, 10_000); // tick
    cx.mm.copy_out(addr, &bytes)?;
    Ok(TIME_ERROR)
}

/// timerfd_create(2).
pub fn timerfd_create(cx: &mut Current, args: Args) -> SysResult {
    let flags = OpenFlags::from_bits(args.uint(1)).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    if !Clock::can_have_descriptor(args.int(0)) {
        return Err(Errno::EINVAL.into());
    }
    if Clock::is_alarm(args.int(0)) && !cx.creds.capable(cap::WAKE_ALARM) {
        return Err(Errno::EPERM.into());
    }
    let clock = Clock::new(cx, args.int(0))?;
    let nonblocking = flags.contains(OpenFlags::NONBLOCK);
    let file = timerfd::new(&cx.cx(), clock, args.int(0), nonblocking)?;
    let limit = cx.task.process.limits.soft(RLIMIT_NOFILE);
    Ok(cx.files.insert(file, flags.contains(OpenFlags::CLOEXEC), limit)? as u64)
}

/// timerfd_settime(2). Nobody can set the clocks, so what waits for that waits for ever.
pub fn timerfd_settime(cx: &mut Current, args: Args) -> SysResult {
    /// TFD_TIMER_CANCEL_ON_SET (linux/timerfd.h).
    const CANCEL_ON_SET: u32 = 2;
    let new = read_itimerspec(cx, args.get(2))?;
    let flags = args.uint(1);
    if flags & !(ABSTIME | CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = cx.files.get(args.int(0))?;
    let timer = file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)?;
    let old = timer.set(new, flags & ABSTIME != 0, flags);
    if args.get(3) != 0 {
        write_itimerspec(cx, args.get(3), old)?;
    }
    Ok(0)
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    let setting = file.ops_as::<TimerFd>().ok_or(Errno::EINVAL)?.get();
    write_itimerspec(cx, args.get(1), setting)?;
    Ok(0)
}
