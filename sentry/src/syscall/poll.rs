//! poll, select, epoll.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::fs::epoll::{self, Epoll};
use crate::fs::{Events, File, OpenFlags};
use crate::platform::platform;
use crate::signal::SigSet;
use crate::sync::WaitToken;
use crate::task::{Blocked, Current, RestartBlock};

/// A file and what it is asked for.
struct Ask {
    file: Option<Arc<File>>,
    want: Events,
}

/// Waits until one is ready: `check` looks at them all and says whether it found something.
fn wait_any(
    cx: &Current,
    asks: &[Ask],
    deadline: Option<u64>,
    mut check: impl FnMut() -> bool,
) -> Result<(), Blocked> {
    if check() {
        return Ok(());
    }
    if deadline == Some(0) {
        return Err(Blocked::TimedOut);
    }
    let mut tokens: Vec<(&Arc<File>, WaitToken)> = Vec::with_capacity(asks.len());
    for ask in asks {
        if let Some(file) = &ask.file
            && let Some(queue) = file.ops().queue()
        {
            file.ops().waited_for(&cx.task);
            let events = (ask.want | Events::ALWAYS).bits();
            tokens.push((file, queue.enter(events, false, cx.waker.clone())));
        }
    }
    let result = cx.park_until(deadline, || check().then_some(()));
    for (file, token) in tokens {
        if let Some(queue) = file.ops().queue() {
            queue.leave(token);
        }
    }
    result
}

/// A deadline of the monotonic clock: `None` for never, 0 for at once.
pub(super) fn deadline_after(nanos: Option<u64>) -> Option<u64> {
    nanos.map(|n| if n == 0 { 0 } else { platform().monotonic().saturating_add(n).max(1) })
}

/// A timeout of two words; the second counts `unit` nanoseconds.
fn timeout(cx: &Current, addr: u64, unit: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let sec = cx.mm.copy_in_u64(addr)? as i64;
    let part = cx.mm.copy_in_u64(addr.wrapping_add(8))? as i64;
    let (sec, part) = (u64::try_from(sec), u64::try_from(part));
    let (Ok(sec), Ok(part)) = (sec, part) else { return Err(Errno::EINVAL) };
    if unit == 1 && part >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    let nanos = sec.saturating_mul(1_000_000_000).saturating_add(part.saturating_mul(unit));
    Ok(Some(nanos))
}

/// Writes what is left of a timeout back, as Linux does; that it cannot be written is no error.
fn put_left(cx: &Current, addr: u64, deadline: Option<u64>, unit: u64) {
    let (Some(deadline), true) = (deadline, addr != 0) else { return };
    let left = deadline.saturating_sub(platform().monotonic());
    let words = [left / 1_000_000_000, left % 1_000_000_000 / unit];
    for (n, word) in words.into_iter().enumerate() {
        let at = addr.wrapping_add((n as u64).wrapping_mul(8));
        if cx.mm.copy_out(at, &word.to_le_bytes()).is_err() {
            return;
        }
    }
}

/// `struct pollfd`: descriptor, wanted events, and found events at byte 6.
const POLLFD: u64 = 8;

fn do_poll(cx: &Current, addr: u64, count: u32, deadline: Option<u64>) -> Result<u64, SysError> {
    if u64::from(count) > fd_limit(cx) {
        return Err(Errno::EINVAL.into());
    }
    let max = (count as usize).saturating_mul(8);
    let raw = cx.mm.copy_in_array(addr, count as usize, 8, max)?;
    let mut asks = Vec::with_capacity(count as usize);
    let mut found: Vec<Events> = Vec::with_capacity(count as usize);
    for entry in raw.chunks_exact(8) {
        let word = entry.try_into().map_or(0, u64::from_le_bytes);
        let (fd, want) = (word as i32, (word >> 32) as u16);
        let file = if fd < 0 { None } else { cx.files.get(fd).ok() };
        let missing = fd >= 0 && file.is_none();
        found.push(if missing { Events::NVAL } else { Events::empty() });
        asks.push(Ask { file, want: Events::from_bits_truncate(want.into()) });
    }
    let check = || {
        let mut any = false;
        for (ask, found) in asks.iter().zip(found.iter_mut()) {
            if let Some(file) = &ask.file {
                *found = file.poll_as(&cx.task) & (ask.want | Events::ALWAYS);
            }
            any |= !found.is_empty();
        }
        any
    };
    match wait_any(cx, &asks, deadline, check) {
        Err(Blocked::Interrupted) => return Err(SysError::Interrupted(Restart::NoHandler)),
        Ok(()) | Err(Blocked::TimedOut) => {}
    }
    let mut ready = 0;
    for (n, found) in found.iter().enumerate() {
        let at = addr.wrapping_add((n as u64).wrapping_mul(POLLFD)).wrapping_add(6);
        cx.mm.copy_out(at, &(found.bits() as u16).to_le_bytes())?;
        ready += u64::from(!found.is_empty());
    }
    Ok(ready)
}

/// poll(2).
pub fn poll(cx: &mut Current, args: Args) -> SysResult {
    let millis = args.int(2);
    let nanos = u64::try_from(millis).ok().map(|ms| ms.saturating_mul(1_000_000));
    poll_until(cx, args.get(0), args.uint(1), deadline_after(nanos))
}

/// poll(2) with a deadline, also as restart_syscall(2) continues it.
pub(super) fn poll_until(
    cx: &mut Current,
    addr: u64,
    count: u32,
    deadline: Option<u64>,
) -> SysResult {
    match do_poll(cx, addr, count, deadline) {
        Err(SysError::Interrupted(_)) => {
            cx.restart_block = Some(RestartBlock::Poll { addr, count, deadline });
            Err(SysError::Interrupted(Restart::Block))
        }
        result => result,
    }
}

/// ppoll(2).
pub fn ppoll(cx: &mut Current, args: Args) -> SysResult {
    let deadline = deadline_after(timeout(cx, args.get(2), 1)?);
    let result = under_mask(cx, args.get(3), args.get(4), |cx| {
        do_poll(cx, args.get(0), args.uint(1), deadline)
    });
    put_left(cx, args.get(2), deadline, 1);
    result
}

/// What select(2) means by readable, writable and exceptional (fs/select.c).
const IN_SET: Events =
    Events::IN.union(Events::RDNORM).union(Events::RDBAND).union(Events::HUP).union(Events::ERR);
const OUT_SET: Events = Events::OUT.union(Events::WRNORM).union(Events::WRBAND).union(Events::ERR);
const EX_SET: Events = Events::PRI;

/// Most descriptors that a set is read for; tables do not grow beyond.
const MAX_SELECT: i32 = 1 << 20;

fn do_select(cx: &Current, args: Args, deadline: Option<u64>) -> Result<u64, SysError> {
    let count = args.int(0);
    if count < 0 {
        return Err(Errno::EINVAL.into());
    }
    // Beyond the table there is nothing that could be open.
    let size = i32::try_from(cx.files.size()).unwrap_or(MAX_SELECT);
    let count = count.min(size).min(MAX_SELECT) as usize;
    let bytes = count.div_ceil(64).saturating_mul(8);
    let addrs = [args.get(1), args.get(2), args.get(3)];
    let masks = [IN_SET, OUT_SET, EX_SET];
    let mut sets: [Vec<u8>; 3] = Default::default();
    for (set, addr) in sets.iter_mut().zip(addrs) {
        set.resize(bytes, 0);
        if addr != 0 {
            cx.mm.copy_in(addr, set)?;
        }
    }
    let has = |set: &[u8], fd: usize| set.get(fd / 8).is_some_and(|b| b >> (fd % 8) & 1 == 1);
    let mut asks = Vec::new();
    let mut fds = Vec::new();
    for fd in 0..count {
        let mut want = Events::empty();
        for (set, mask) in sets.iter().zip(masks) {
            if has(set, fd) {
                want |= mask;
            }
        }
        if !want.is_empty() {
            let number = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
            asks.push(Ask { file: Some(cx.files.get(number)?), want });
            fds.push(fd);
        }
    }
    let mut found = alloc::vec![Events::empty(); asks.len()];
    let check = || {
        let mut any = false;
        for (ask, found) in asks.iter().zip(found.iter_mut()) {
            if let Some(file) = &ask.file {
                *found = file.poll_as(&cx.task) & ask.want;
            }
            any |= !found.is_empty();
        }
        any
    };
    match wait_any(cx, &asks, deadline, check) {
        Err(Blocked::Interrupted) => return Err(SysError::Interrupted(Restart::NoHandler)),
        Ok(()) | Err(Blocked::TimedOut) => {}
    }
    let mut ready = 0;
    for ((set, mask), addr) in sets.iter_mut().zip(masks).zip(addrs) {
        let asked = core::mem::replace(set, alloc::vec![0; bytes]);
        for (fd, found) in fds.iter().zip(&found) {
            if has(&asked, *fd)
                && found.intersects(mask)
                && let Some(byte) = set.get_mut(fd / 8)
            {
                *byte |= 1 << (fd % 8);
                ready += 1;
            }
        }
        if addr != 0 {
            cx.mm.copy_out(addr, set)?;
        }
    }
    Ok(ready)
}

/// select(2).
pub fn select(cx: &mut Current, args: Args) -> SysResult {
    let deadline = deadline_after(timeout(cx, args.get(4), 1000)?);
    let result = do_select(cx, args, deadline);
    put_left(cx, args.get(4), deadline, 1000);
    result
}

/// pselect6(2).
pub fn pselect6(cx: &mut Current, args: Args) -> SysResult {
    let deadline = deadline_after(timeout(cx, args.get(4), 1)?);
    let (mut mask, mut size) = (0, 0);
    if args.get(5) != 0 {
        mask = cx.mm.copy_in_u64(args.get(5))?;
        size = cx.mm.copy_in_u64(args.get(5).wrapping_add(8))?;
    }
    let result = under_mask(cx, mask, size, |cx| do_select(cx, args, deadline));
    put_left(cx, args.get(4), deadline, 1);
    result
}

/// Does `call` under the signal mask at `addr`, if there is one. The old mask is back before any signal is
/// delivered, unless a signal has interrupted the call: then it is back after that one's handler
/// (restore_saved_sigmask_unless()).
pub(super) fn under_mask(
    cx: &mut Current,
    addr: u64,
    size: u64,
    call: impl FnOnce(&mut Current) -> SysResult,
) -> SysResult {
    if addr == 0 {
        return call(cx);
    }
    if size != 8 {
        return Err(Errno::EINVAL.into());
    }
    let mask = cx.mm.copy_in_u64(addr)?;
    cx.set_mask_for_call(SigSet(mask));
    let result = call(cx);
    if !matches!(result, Err(SysError::Interrupted(_))) {
        cx.restore_mask();
    }
    result
}

/// epoll_create1(2).
pub fn epoll_create1(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(0);
    if flags & !OpenFlags::CLOEXEC.bits() != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = epoll::new(&cx.cx())?;
    Ok(cx.files.insert(file, flags != 0, fd_limit(cx))? as u64)
}

/// epoll_create(2).
pub fn epoll_create(cx: &mut Current, args: Args) -> SysResult {
    if args.int(0) <= 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = epoll::new(&cx.cx())?;
    Ok(cx.files.insert(file, false, fd_limit(cx))? as u64)
}

/// epoll_ctl(2).
pub fn epoll_ctl(cx: &mut Current, args: Args) -> SysResult {
    /// EPOLL_CTL_ADD, DEL, MOD.
    const ADD: u32 = 1;
    const DEL: u32 = 2;
    const MOD: u32 = 3;
    let operation = args.uint(1);
    let mut raw = [0u8; 12];
    if operation != DEL {
        cx.mm.copy_in(args.get(3), &mut raw)?;
    }
    let (mask, data) = raw.split_at(4);
    let mask = mask.try_into().map_or(0, u32::from_le_bytes);
    let data = data.try_into().map_or(0, u64::from_le_bytes);
    let instance = cx.files.get(args.int(0))?;
    let fd = args.int(2);
    let file = cx.files.get(fd)?;
    if file.ops().queue().is_none() {
        return Err(Errno::EPERM.into());
    }
    let epoll = instance.ops_as::<Epoll>().ok_or(Errno::EINVAL)?;
    if Arc::ptr_eq(&instance, &file) {
        return Err(Errno::EINVAL.into());
    }
    match operation {
        ADD => epoll.add(&cx.task, fd, &file, mask, data)?,
        DEL => epoll.remove(fd, &file)?,
        MOD => epoll.modify(&cx.task, fd, &file, mask, data)?,
        _ => return Err(Errno::EINVAL.into()),
    }
    Ok(0)
}

fn do_epoll_wait(cx: &Current, args: Args, deadline: Option<u64>) -> SysResult {
    /// Most events of a call (EP_MAX_EVENTS, fs/eventpoll.c).
    const MAX: i32 = i32::MAX / 12;
    let most = args.int(2);
    if most <= 0 || most > MAX {
        return Err(Errno::EINVAL.into());
    }
    check_range(cx, args.get(1), most as usize * 12)?;
    let instance = cx.files.get(args.int(0))?;
    let epoll = instance.ops_as::<Epoll>().ok_or(Errno::EINVAL)?;
    let most = most as usize;
    let take = || {
        let reports = if epoll.may_be_ready() { epoll.collect(&cx.task, most) } else { Vec::new() };
        (!reports.is_empty()).then_some(reports)
    };
    let reports = if deadline == Some(0) {
        take().unwrap_or_default()
    } else {
        match cx.wait_for(epoll.waiters(), Events::READABLE.bits(), deadline, take) {
            Ok(reports) => reports,
            Err(Blocked::TimedOut) => return Ok(0),
            Err(Blocked::Interrupted) => return Err(SysError::Interrupted(Restart::Never)),
        }
    };
    let mut at = args.get(1);
    for report in &reports {
        let mut raw = [0u8; 12];
        let (events, data) = raw.split_at_mut(4);
        events.copy_from_slice(&report.events.bits().to_le_bytes());
        data.copy_from_slice(&report.data.to_le_bytes());
        cx.mm.copy_out(at, &raw)?;
        at = at.wrapping_add(12);
    }
    Ok(reports.len() as u64)
}

fn millis(timeout: i32) -> Option<u64> {
    deadline_after(u64::try_from(timeout).ok().map(|ms| ms.saturating_mul(1_000_000)))
}

/// epoll_wait(2).
pub fn epoll_wait(cx: &mut Current, args: Args) -> SysResult {
    do_epoll_wait(cx, args, millis(args.int(3)))
}

/// epoll_pwait(2).
pub fn epoll_pwait(cx: &mut Current, args: Args) -> SysResult {
    under_mask(cx, args.get(4), args.get(5), |cx| do_epoll_wait(cx, args, millis(args.int(3))))
}

/// epoll_pwait2(2).
pub fn epoll_pwait2(cx: &mut Current, args: Args) -> SysResult {
    let deadline = deadline_after(timeout(cx, args.get(3), 1)?);
    under_mask(cx, args.get(4), args.get(5), |cx| do_epoll_wait(cx, args, deadline))
}
