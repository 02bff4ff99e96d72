//! System V semaphores: semget, semop, semtimedop, semctl.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Args;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::ipc::sem::{ALL, MAX_VALUE, OPERATIONS, Operation, PER_SET, SETS, Stat, UNDO};
use crate::ipc::{Perm, table};
use crate::platform::platform;
use crate::task::{Creds, Current};
use crate::time::TimeSpec;

/// Commands of semctl(2) (linux/ipc.h, linux/sem.h).
mod cmd {
    pub const IPC_RMID: i32 = 0;
    pub const IPC_SET: i32 = 1;
    pub const IPC_STAT: i32 = 2;
    pub const IPC_INFO: i32 = 3;
    pub const GETPID: i32 = 11;
    pub const GETVAL: i32 = 12;
    pub const GETALL: i32 = 13;
    pub const GETNCNT: i32 = 14;
    pub const GETZCNT: i32 = 15;
    pub const SETVAL: i32 = 16;
    pub const SETALL: i32 = 17;
    pub const SEM_STAT: i32 = 18;
    pub const SEM_INFO: i32 = 19;
    pub const SEM_STAT_ANY: i32 = 20;
}

/// semget(2).
pub fn semget(cx: &mut Current, args: Args) -> SysResult {
    let ipc = &cx.namespaces.ipc;
    Ok(ipc.semaphores.get(&cx.creds, args.int(0), args.int(1), args.uint(2))? as u64)
}

/// semop(2).
pub fn semop(cx: &mut Current, args: Args) -> SysResult {
    operate(cx, args, 0)
}

/// semtimedop(2).
pub fn semtimedop(cx: &mut Current, args: Args) -> SysResult {
    operate(cx, args, args.get(3))
}

fn operate(cx: &mut Current, args: Args, timeout: u64) -> SysResult {
    let deadline = match timeout {
        0 => None,
        at => {
            let time = TimeSpec::read(&cx.mm, at)?.to_ns()?;
            Some(platform().monotonic().saturating_add(time))
        }
    };
    let count = args.uint(2) as usize;
    if count > OPERATIONS {
        return Err(Errno::E2BIG.into());
    }
    if count == 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = vec![0; count.saturating_mul(6)];
    cx.mm.copy_in(args.get(1), &mut bytes)?;
    let operations: Vec<Operation> = bytes
        .chunks_exact(6)
        .map(|bytes| {
            let field = |at: usize| {
                u16::from_le_bytes([
                    bytes.get(at).copied().unwrap_or(0),
                    bytes.get(at.saturating_add(1)).copied().unwrap_or(0),
                ])
            };
            Operation { num: field(0), op: field(2) as i16, flags: field(4) }
        })
        .collect();
    if operations.iter().any(|op| op.flags & UNDO != 0) {
        cx.task.process.has_semaphore_undo.store(true, Ordering::Relaxed);
    }
    let set = cx.namespaces.ipc.semaphores.find(args.int(0))?;
    set.operate(cx, &operations, deadline)?;
    Ok(0)
}

/// semctl(2).
pub fn semctl(cx: &mut Current, args: Args) -> SysResult {
    let (id, num, command, arg) = (args.int(0), args.int(1), args.int(2), args.get(3));
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let namespaces = cx.namespaces.clone();
    let semaphores = &namespaces.ipc.semaphores;
    let creds = &cx.creds;
    let pid = cx.task.process.pid;
    let mm = &cx.mm;
    let result = match command {
        cmd::IPC_RMID => semaphores.remove(creds, id).map(|()| 0)?,
        cmd::IPC_SET => {
            let word = |at: u64| mm.copy_in_u32(arg.wrapping_add(at));
            let (uid, gid) = ipc_owner(creds, word(4)?, word(8)?)?;
            let mode = word(20)?;
            semaphores.find(id)?.set_perm(creds, uid, gid, mode)?;
            0
        }
        cmd::IPC_STAT => {
            mm.copy_out(arg, &encode(creds, id, &semaphores.find(id)?.stat(creds, true)?))?;
            0
        }
        cmd::SEM_STAT | cmd::SEM_STAT_ANY => {
            let set = semaphores.at(id as u32)?;
            mm.copy_out(arg, &encode(creds, set.id, &set.stat(creds, command == cmd::SEM_STAT)?))?;
            set.id as u64
        }
        cmd::IPC_INFO | cmd::SEM_INFO => {
            let (sets, used, highest) = semaphores.usage();
            let (size, adjust) = match command {
                cmd::SEM_INFO => (sets as i32, used as i32),
                // SEMUSZ, which nothing uses, and SEMAEM.
                _ => (20, MAX_VALUE),
            };
            let (all, most) = (ALL as i32, OPERATIONS as i32);
            let per_set = PER_SET as i32;
            let info = [all, SETS as i32, all, all, per_set, most, most, size, MAX_VALUE, adjust];
            let bytes: Vec<u8> = info.iter().flat_map(|n| n.to_le_bytes()).collect();
            mm.copy_out(arg, &bytes)?;
            highest.into()
        }
        cmd::GETVAL => semaphores.find(id)?.value(creds, num)?.0 as u64,
        cmd::GETPID => {
            let last = semaphores.find(id)?.value(creds, num)?.1;
            cx.task.process.pidns.nr(last).into()
        }
        cmd::GETNCNT | cmd::GETZCNT => {
            semaphores.find(id)?.waiting(creds, num, command == cmd::GETZCNT)? as u64
        }
        cmd::GETALL => {
            let values = semaphores.find(id)?.values(creds)?;
            let bytes: Vec<u8> = values.iter().flat_map(|n| (*n as u16).to_le_bytes()).collect();
            mm.copy_out(arg, &bytes)?;
            0
        }
        cmd::SETVAL => {
            semaphores.find(id)?.set_values(creds, pid, num, &[arg as i32])?;
            0
        }
        cmd::SETALL => {
            let set = semaphores.find(id)?;
            let mut bytes = vec![0; set.len.saturating_mul(2)];
            mm.copy_in(arg, &mut bytes)?;
            let values: Vec<i32> = bytes
                .chunks_exact(2)
                .filter_map(|b| Some(u16::from_le_bytes(b.try_into().ok()?).into()))
                .collect();
            set.set_values(creds, pid, 0, &values)?;
            0
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(result)
}

/// The owner that IPC_SET gives to any object. `EINVAL` where the caller's namespace has none of these numbers.
pub(super) fn ipc_owner(creds: &Creds, uid: u32, gid: u32) -> Result<(u32, u32), Errno> {
    let ns = &creds.userns;
    Ok((ns.kuid(uid).ok_or(Errno::EINVAL)?, ns.kgid(gid).ok_or(Errno::EINVAL)?))
}

/// struct ipc64_perm, with which what IPC_STAT gives of any object begins (asm-generic/ipcbuf.h).
pub(super) fn ipc_perm(creds: &Creds, perm: &Perm, id: i32) -> Vec<u8> {
    let perm = perm.seen_from(&creds.userns);
    let sequence = table::sequence(id) & 0xffff;
    let words = [perm.key as u32, perm.uid, perm.gid, perm.cuid, perm.cgid, perm.mode, sequence];
    words.iter().flat_map(|n| n.to_le_bytes()).chain([0; 20]).collect()
}

/// struct semid64_ds (asm/sembuf.h); words between the times and at the end are unused.
fn encode(creds: &Creds, id: i32, stat: &Stat) -> Vec<u8> {
    let mut bytes = ipc_perm(creds, &stat.perm, id);
    let tail = [stat.otime, 0, stat.ctime, 0, stat.nsems as u64, 0, 0];
    bytes.extend(tail.iter().flat_map(|n| n.to_le_bytes()));
    bytes
}
