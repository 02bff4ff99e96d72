//! System V shared memory: shmget, shmat, shmdt, shmctl.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Args;
use super::sem::{ipc_owner, ipc_perm};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::ipc::shm::{Attachment, MAX, SEGMENTS, Stat};
use crate::mm::{MapRequest, Mappable, Place, VmaFile, VmaFlags};
use crate::platform::{PAGE_SIZE, Prot};
use crate::task::{Current, limit};

/// Commands of shmctl(2) (linux/ipc.h, linux/shm.h).
mod cmd {
    pub const IPC_RMID: i32 = 0;
    pub const IPC_SET: i32 = 1;
    pub const IPC_STAT: i32 = 2;
    pub const IPC_INFO: i32 = 3;
    pub const SHM_LOCK: i32 = 11;
    pub const SHM_UNLOCK: i32 = 12;
    pub const SHM_STAT: i32 = 13;
    pub const SHM_INFO: i32 = 14;
    pub const SHM_STAT_ANY: i32 = 15;
}

/// Flags of shmat(2).
const RDONLY: u32 = 0o10000;
const RND: u32 = 0o20000;
const REMAP: u32 = 0o40000;
const EXEC: u32 = 0o100_000;

const PAGE: u64 = PAGE_SIZE as u64;

/// shmget(2).
pub fn shmget(cx: &mut Current, args: Args) -> SysResult {
    let segments = &cx.namespaces.ipc.segments;
    let pid = cx.task.process.pid;
    Ok(segments.get(&cx.creds, pid, args.int(0), args.get(1), args.uint(2))? as u64)
}

/// shmat(2).
pub fn shmat(cx: &mut Current, args: Args) -> SysResult {
    let (id, mut addr, flags) = (args.int(0), args.get(1), args.uint(2));
    if addr != 0 && !addr.is_multiple_of(PAGE) {
        if flags & RND == 0 {
            return Err(Errno::EINVAL.into());
        }
        addr -= addr % PAGE;
    }
    if addr == 0 && flags & REMAP != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut prot = Prot::READ;
    let mut want = 0o444;
    if flags & RDONLY == 0 {
        prot |= Prot::WRITE;
        want |= 0o222;
    }
    if flags & EXEC != 0 {
        prot |= Prot::EXEC;
        want |= 0o111;
    }
    let ipc = cx.namespaces.ipc.clone();
    let attachment = Attachment::new(&ipc, &cx.creds, id, want)?;
    let place = match (args.get(1), flags & REMAP != 0) {
        (0, _) => Place::Hint(0),
        (_, true) => Place::Fixed(addr),
        (_, false) => Place::FixedNoReplace(addr),
    };
    let mut area = VmaFlags::SHARED;
    area.set(VmaFlags::NEVER_WRITE, flags & RDONLY != 0);
    let name = attachment.name();
    let len = attachment.size();
    let pages: Arc<dyn Mappable> = attachment;
    let file = Some(VmaFile { pages, first: 0, name });
    let request = MapRequest { place, len, prot, flags: area, file, populate: false };
    match cx.mm.mmap(request) {
        // Something is there already.
        Err(Errno::EEXIST) => Err(Errno::EINVAL.into()),
        result => Ok(result?),
    }
}

/// shmdt(2).
pub fn shmdt(cx: &mut Current, args: Args) -> SysResult {
    let addr = args.get(0);
    if !addr.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL.into());
    }
    cx.mm.detach_segment(addr)?;
    Ok(0)
}

/// shmctl(2).
pub fn shmctl(cx: &mut Current, args: Args) -> SysResult {
    let (id, command, arg) = (args.int(0), args.int(1), args.get(2));
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL.into());
    }
    let ipc = cx.namespaces.ipc.clone();
    let segments = &ipc.segments;
    let creds = &cx.creds;
    let result = match command {
        cmd::IPC_RMID => segments.remove(creds, id).map(|()| 0)?,
        cmd::IPC_SET => {
            let word = |at: u64| cx.mm.copy_in_u32(arg.wrapping_add(at));
            let (uid, gid) = ipc_owner(creds, word(4)?, word(8)?)?;
            let mode = word(20)?;
            segments.find(id)?.set_perm(creds, uid, gid, mode)?;
            0
        }
        cmd::IPC_STAT => {
            cx.mm.copy_out(arg, &encode(cx, &segments.find(id)?.stat(creds, true)?))?;
            0
        }
        cmd::SHM_STAT | cmd::SHM_STAT_ANY => {
            let segment = segments.at(id as u32)?;
            let stat = segment.stat(creds, command == cmd::SHM_STAT)?;
            cx.mm.copy_out(arg, &encode(cx, &stat))?;
            segment.id as u64
        }
        cmd::IPC_INFO => {
            let most = SEGMENTS as u64;
            put_words(cx, arg, &[MAX, 1, most, most, MAX, 0, 0, 0, 0])?;
            segments.totals().highest.into()
        }
        cmd::SHM_INFO => {
            let totals = segments.totals();
            // Nothing is ever swapped.
            let words = [totals.segments as u64, totals.pages, totals.resident, 0, 0, 0];
            put_words(cx, arg, &words)?;
            totals.highest.into()
        }
        cmd::SHM_LOCK | cmd::SHM_UNLOCK => {
            let memlock = cx.task.process.limits.soft(limit::RLIMIT_MEMLOCK);
            segments.find(id)?.set_locked(creds, command == cmd::SHM_LOCK, memlock)?;
            0
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(result)
}

pub(super) fn put_words(cx: &Current, addr: u64, words: &[u64]) -> Result<(), Errno> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    cx.mm.copy_out(addr, &bytes)
}

/// struct shmid64_ds.
fn encode(cx: &Current, stat: &Stat) -> Vec<u8> {
    let mut bytes = ipc_perm(&cx.creds, &stat.perm, stat.id);
    let nr = |id| u64::from(cx.task.process.pidns.nr(id));
    let pids = nr(stat.cpid) | nr(stat.lpid) << 32;
    let words = [stat.segsz, stat.atime, stat.dtime, stat.ctime, pids, stat.nattch, 0, 0];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}
