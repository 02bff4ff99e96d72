//! What is done to another process's memory: process_vm_readv and process_vm_writev, which copy, process_madvise,
//! process_mrelease.

use alloc::sync::Arc;

use super::Args;
use super::file_args::Vectors;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::IoVec;
use crate::fs::types::MAX_RW;
use crate::mm::{Advice, Mm};
use crate::task::{AccessMode, Current, Task, cap, may_access, pidfd};

/// process_vm_readv(2).
pub fn process_vm_readv(cx: &mut Current, args: Args) -> SysResult {
    transfer(cx, args, |own, remote, local, len, addr| remote.copy_to(addr, own, local, len))
}

/// process_vm_writev(2).
pub fn process_vm_writev(cx: &mut Current, args: Args) -> SysResult {
    transfer(cx, args, |own, remote, local, len, addr| own.copy_to(local, remote, addr, len))
}

/// Moves bytes between (local address, length, remote address); how many it moved.
type Move = fn(&Mm, &Mm, u64, usize, u64) -> usize;

fn transfer(cx: &Current, args: Args, copy: Move) -> SysResult {
    if args.get(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let local = Vectors::read(cx, args.get(1), args.uint(2))?;
    let mut room = local.total().min(MAX_RW);
    if room == 0 {
        return Ok(0);
    }
    let remote = Vectors::read_remote(cx, args.get(3), args.get(4))?;
    if remote.total() == 0 {
        return Ok(0);
    }
    let mm = target(cx, args.int(0))?;

    let mut done: usize = 0;
    let mut to = Pieces::new(local.slots());
    let mut from = Pieces::new(remote.slots());
    while room > 0 {
        let (Some(near), Some(far)) = (to.current(), from.current()) else { break };
        let len = near.len.min(far.len).min(room);
        let moved = copy(&cx.mm, &mm, near.addr, len, far.addr);
        done = done.saturating_add(moved);
        if moved < len {
            // What has arrived counts; an error is told where nothing has.
            return if done > 0 { Ok(done as u64) } else { Err(Errno::EFAULT.into()) };
        }
        room = room.saturating_sub(len);
        to.advance(len);
        from.advance(len);
    }
    Ok(done as u64)
}

pub(super) fn target(cx: &Current, pid: i32) -> Result<Arc<Mm>, Errno> {
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let task = cx.task.process.pidns.task(pid).ok_or(Errno::ESRCH)?;
    if !may_access(Some(&cx.task), &cx.creds, &task, AccessMode::RealCreds) {
        return Err(Errno::EPERM);
    }
    let mm = task.shared.lock().mm.clone();
    mm.ok_or(Errno::ESRCH)
}

/// The first task of the process that a descriptor names. `ESRCH` where it has ended.
fn leader(cx: &Current, fd: i32) -> Result<Arc<Task>, Errno> {
    let (process, _) = pidfd::process_of(cx, fd)?;
    process.pids.task(process.pid).ok_or(Errno::ESRCH)
}

/// process_madvise(2): advice that is about speed only.
pub fn process_madvise(cx: &mut Current, args: Args) -> SysResult {
    /// MADV_WILLNEED, COLD, PAGEOUT and COLLAPSE (process_madvise_behavior_valid() of mm/madvise.c).
    const FOR_OTHERS: [i32; 4] = [3, 20, 21, 25];
    if args.uint(4) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let ranges = Vectors::read(cx, args.get(1), args.uint(2))?;
    let task = leader(cx, args.int(0))?;
    if !FOR_OTHERS.contains(&args.int(3)) {
        return Err(Errno::EINVAL.into());
    }
    if !may_access(Some(&cx.task), &cx.creds, &task, AccessMode::FsCreds) {
        return Err(Errno::EPERM.into());
    }
    let mm = task.shared.lock().mm.clone().ok_or(Errno::ESRCH)?;
    if !Arc::ptr_eq(&mm, &cx.mm) && !cx.creds.capable(cap::SYS_NICE) {
        return Err(Errno::EPERM.into());
    }
    let mut done: usize = 0;
    for range in ranges.slots() {
        match mm.madvise(range.addr, range.len as u64, Advice::Hint) {
            Ok(()) => done = done.saturating_add(range.len),
            Err(e) if done == 0 => return Err(e.into()),
            Err(_) => break,
        }
    }
    Ok(done as u64)
}

/// process_mrelease(2): the private memory of a process that is being killed goes at once, not when its tasks get to it.
pub fn process_mrelease(cx: &mut Current, args: Args) -> SysResult {
    if args.uint(1) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let task = leader(cx, args.int(0))?;
    let mm = task.shared.lock().mm.clone().ok_or(Errno::ESRCH)?;
    if !task.process.is_ending() {
        return Err(Errno::EINVAL.into());
    }
    for vma in mm.vmas().iter().filter(|vma| vma.file.is_none()) {
        // A locked area refuses, and goes with its process.
        let _kept = mm.madvise(vma.start, vma.len(), Advice::DontNeed);
    }
    Ok(0)
}

/// A cursor over the pieces of a vector.
struct Pieces<'a> {
    rest: &'a [IoVec],
    /// Bytes of the first piece that are done.
    done: usize,
}

impl<'a> Pieces<'a> {
    fn new(rest: &'a [IoVec]) -> Pieces<'a> {
        Pieces { rest, done: 0 }
    }

    /// What is left of the first piece that has something left.
    fn current(&mut self) -> Option<IoVec> {
        loop {
            let (first, rest) = self.rest.split_first()?;
            let len = first.len.saturating_sub(self.done);
            if len > 0 {
                return Some(IoVec { addr: first.addr.wrapping_add(self.done as u64), len });
            }
            self.rest = rest;
            self.done = 0;
        }
    }

    fn advance(&mut self, n: usize) {
        self.done = self.done.saturating_add(n);
    }
}
