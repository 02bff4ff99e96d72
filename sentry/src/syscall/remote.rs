//! process_vm_readv and process_vm_writev: copies between two processes' memory.

use alloc::sync::Arc;

use super::Args;
use super::file_args::Vectors;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::IoVec;
use crate::fs::types::MAX_RW;
use crate::mm::Mm;
use crate::task::{AccessMode, Current, may_access};

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

fn target(cx: &Current, pid: i32) -> Result<Arc<Mm>, Errno> {
    let pid = u32::try_from(pid).map_err(|_| Errno::ESRCH)?;
    let task = cx.task.process.pidns.task(pid).ok_or(Errno::ESRCH)?;
    if !may_access(Some(&cx.task), &cx.creds, &task, AccessMode::RealCreds) {
        return Err(Errno::EPERM);
    }
    let mm = task.shared.lock().mm.clone();
    mm.ok_or(Errno::ESRCH)
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
