//! Descriptors: dup, fcntl, flock, ioctl, fsync and their kind.

use core::sync::atomic::Ordering;

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::fasync::{OWNER_PGRP, OWNER_PID};
use crate::fs::lock::{Flock, Lock, Owner};
use crate::fs::perm::{self, cap};
use crate::fs::pipe::PipeEnd;
use crate::fs::tmpfs::{FileHandle, seal};
use crate::fs::types::MAX_OFFSET;
use crate::fs::{File, FileType, OpenFlags, SignalOwner, dnotify};
use crate::task::Current;

/// dup(2).
pub fn dup(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get_any(args.int(0))?;
    Ok(cx.files.insert(file, false, fd_limit(cx))? as u64)
}

fn do_dup(cx: &Current, old: i32, new: i32, cloexec: bool) -> SysResult {
    let file = cx.files.get_any(old)?;
    if let Some(replaced) = cx.files.insert_at(new, file, cloexec, fd_limit(cx))? {
        // As Linux, nobody is told of an error of this close.
        let _ = replaced.closed(cx.files.id);
    }
    Ok(new as u64)
}

/// dup2(2).
pub fn dup2(cx: &mut Current, args: Args) -> SysResult {
    let (old, new) = (args.int(0), args.int(1));
    if old == new {
        cx.files.get_any(old)?;
        return Ok(new as u64);
    }
    do_dup(cx, old, new, false)
}

/// dup3(2).
pub fn dup3(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(2);
    if flags & !OpenFlags::CLOEXEC.bits() != 0 || args.int(0) == args.int(1) {
        return Err(Errno::EINVAL.into());
    }
    do_dup(cx, args.int(0), args.int(1), flags != 0)
}

/// Commands of fcntl(2) (asm-generic/fcntl.h, linux/fcntl.h).
mod command {
    pub const DUPFD: u32 = 0;
    pub const GETFD: u32 = 1;
    pub const SETFD: u32 = 2;
    pub const GETFL: u32 = 3;
    pub const SETFL: u32 = 4;
    pub const GETLK: u32 = 5;
    pub const SETLK: u32 = 6;
    pub const SETLKW: u32 = 7;
    pub const SETOWN: u32 = 8;
    pub const GETOWN: u32 = 9;
    pub const SETSIG: u32 = 10;
    pub const GETSIG: u32 = 11;
    pub const SETOWN_EX: u32 = 15;
    pub const GETOWN_EX: u32 = 16;
    pub const OFD_GETLK: u32 = 36;
    pub const OFD_SETLK: u32 = 37;
    pub const OFD_SETLKW: u32 = 38;
    pub const NOTIFY: u32 = 1026;
    pub const DUPFD_CLOEXEC: u32 = 1030;
    pub const SETPIPE_SZ: u32 = 1031;
    pub const GETPIPE_SZ: u32 = 1032;
    pub const ADD_SEALS: u32 = 1033;
    pub const GET_SEALS: u32 = 1034;
    pub const GET_RW_HINT: u32 = 1035;
    pub const SET_RW_HINT: u32 = 1036;
}

/// fcntl(2).
pub fn fcntl(cx: &mut Current, args: Args) -> SysResult {
    use command::*;
    let (fd, arg) = (args.int(0), args.get(2));
    let file = cx.files.get_any(fd)?;
    let number = args.uint(1);
    if file.is_path() && !matches!(number, DUPFD | DUPFD_CLOEXEC | GETFD | SETFD | GETFL) {
        return Err(Errno::EBADF.into());
    }
    Ok(match number {
        DUPFD | DUPFD_CLOEXEC => {
            let limit = fd_limit(cx);
            let min = u32::try_from(arg as i32).map_err(|_| Errno::EINVAL)?;
            if u64::from(min) >= limit {
                return Err(Errno::EINVAL.into());
            }
            cx.files.insert_from(min, file, number == DUPFD_CLOEXEC, limit)? as u64
        }
        GETFD => cx.files.cloexec(fd)?.into(),
        SETFD => {
            cx.files.set_cloexec(fd, arg & 1 != 0)?;
            0
        }
        GETFL => (file.flags() - OpenFlags::EXEC).bits().into(),
        SETFL => {
            let mut flags = OpenFlags::from_bits_truncate(arg as u32);
            if file.ops().tells().is_none() {
                // What cannot tell keeps the flag as it was opened with.
                flags.set(OpenFlags::ASYNC, file.flags().contains(OpenFlags::ASYNC));
            }
            set_flags(cx, fd, &file, flags)?;
            0
        }
        GETLK | SETLK | SETLKW | OFD_GETLK | OFD_SETLK | OFD_SETLKW => {
            byte_lock(cx, &file, number, arg)?
        }
        SETOWN => {
            let nr = arg as i32;
            if nr == i32::MIN {
                return Err(Errno::EINVAL.into());
            }
            set_owner(cx, &file, if nr < 0 { OWNER_PGRP } else { OWNER_PID }, nr.unsigned_abs())?;
            0
        }
        GETOWN => {
            let (kind, nr) = owner_of(cx, &file);
            let nr = i64::from(nr);
            (if kind == OWNER_PGRP { nr.wrapping_neg() } else { nr }) as u64
        }
        SETOWN_EX => {
            let word = cx.mm.copy_in_u64(arg)?;
            set_owner(cx, &file, word as u32, (word >> 32) as u32)?;
            0
        }
        GETOWN_EX => {
            let (kind, nr) = owner_of(cx, &file);
            cx.mm.copy_out(arg, &[kind, nr].map(u32::to_le_bytes).concat())?;
            0
        }
        SETSIG => {
            let signal = arg as i32;
            if !(0..=64).contains(&signal) {
                return Err(Errno::EINVAL.into());
            }
            file.make_fasync().set_signal(signal);
            0
        }
        GETSIG => file.fasync().map_or(0, |fasync| fasync.signal()) as u64,
        NOTIFY => {
            dnotify::notify(cx, &file, fd, arg as u32)?;
            0
        }
        GET_RW_HINT => {
            let hint = u64::from(file.inode().state().write_hint.load(Ordering::Relaxed));
            cx.mm.copy_out(arg, &hint.to_le_bytes())?;
            0
        }
        SET_RW_HINT => {
            /// RWH_WRITE_LIFE_EXTREME (linux/fcntl.h).
            const LAST: u64 = 5;
            perm::owner(&cx.creds, file.attr()?.perm())?;
            let hint = cx.mm.copy_in_u64(arg)?;
            if hint > LAST {
                return Err(Errno::EINVAL.into());
            }
            file.inode().state().write_hint.store(hint as u8, Ordering::Relaxed);
            0
        }
        SETPIPE_SZ | GETPIPE_SZ => {
            let pipe = file.ops_as::<PipeEnd>().ok_or(Errno::EBADF)?.pipe();
            match number {
                GETPIPE_SZ => pipe.capacity() as u64,
                _ => {
                    let privileged = cx.creds.capable(cap::SYS_RESOURCE);
                    pipe.set_capacity(arg as u32 as usize, privileged)? as u64
                }
            }
        }
        ADD_SEALS | GET_SEALS => {
            let seals = file.ops_as::<FileHandle>().ok_or(Errno::EINVAL)?.seals()?;
            if number == GET_SEALS {
                return Ok(seals.load(Ordering::Relaxed).into());
            }
            if !file.flags().writes() {
                return Err(Errno::EPERM.into());
            }
            let add = arg as u32;
            if add & !seal::ALL != 0 {
                return Err(Errno::EINVAL.into());
            }
            seals
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                    (now & seal::SEAL == 0).then_some(now | add)
                })
                .map_err(|_| Errno::EPERM)?;
            0
        }
        _ => return Err(Errno::EINVAL.into()),
    })
}

/// Who gets a file's signals, kind and number.
fn owner_of(cx: &Current, file: &File) -> (u32, u32) {
    let owner = file.fasync().map(|fasync| fasync.owner()).unwrap_or_default();
    (owner.kind(), owner.nr(&cx.task.process.pidns))
}

/// Sets who gets a file's signals, by the number that the caller knows; 0: nobody.
fn set_owner(cx: &Current, file: &File, kind: u32, nr: u32) -> Result<(), Errno> {
    if kind > OWNER_PGRP {
        return Err(Errno::EINVAL);
    }
    let process = &cx.task.process;
    let id = match nr {
        0 => 0,
        nr => process.pidns.find(nr).ok_or(Errno::ESRCH)?,
    };
    file.make_fasync().set_owner(SignalOwner::new(kind, id, &process.pids, &cx.creds));
    Ok(())
}

/// Sets a file's status flags, by this descriptor.
fn set_flags(cx: &Current, fd: i32, file: &File, flags: OpenFlags) -> Result<(), Errno> {
    let (before, on) = (file.flags().contains(OpenFlags::ASYNC), flags.contains(OpenFlags::ASYNC));
    file.set_flags(flags)?;
    if before == on {
        return Ok(());
    }
    let Some(tells) = file.ops().tells() else { return Ok(()) };
    let fasync = file.make_fasync();
    if let Some(group) = tells.group.filter(|_| on) {
        let process = &cx.task.process;
        let (kind, id) = if group == 0 { (OWNER_PID, process.pid) } else { (OWNER_PGRP, group) };
        fasync.set_default_owner(SignalOwner::new(kind, id, &process.pids, &cx.creds));
    }
    fasync.set_on(on, fd);
    Ok(())
}

/// Lock types of `struct flock`.
const F_RDLCK: i16 = 0;
const F_WRLCK: i16 = 1;
const F_UNLCK: i16 = 2;

/// `struct flock` of x86-64: type, whence, start, length, pid.
fn byte_lock(cx: &Current, file: &File, number: u32, addr: u64) -> SysResult {
    use command::*;
    let mut raw = [0u8; 32];
    cx.mm.copy_in(addr, &mut raw)?;
    let half = |at: usize| {
        raw.get(at..at.saturating_add(2))
            .and_then(|b| b.try_into().ok())
            .map_or(0, i16::from_le_bytes)
    };
    let word = |at: usize| {
        raw.get(at..at.saturating_add(8))
            .and_then(|b| b.try_into().ok())
            .map_or(0, i64::from_le_bytes)
    };
    let pid = word(24) as i32;
    let (kind, whence, start, len) = (half(0), half(2), word(8), word(16));
    let base = match whence {
        0 => 0,
        1 => file.offset(),
        2 => file.attr()?.size,
        _ => return Err(Errno::EINVAL.into()),
    };
    let first = base.checked_add_signed(start).filter(|n| *n <= MAX_OFFSET).ok_or(Errno::EINVAL)?;
    let (first, last) = match len {
        0 => (first, MAX_OFFSET),
        1.. => (first, first.saturating_add(len as u64 - 1).min(MAX_OFFSET)),
        _ => {
            let begin = first.checked_add_signed(len).ok_or(Errno::EINVAL)?;
            (begin, first.saturating_sub(1))
        }
    };
    let ofd = matches!(number, OFD_GETLK | OFD_SETLK | OFD_SETLKW);
    if ofd && pid != 0 {
        return Err(Errno::EINVAL.into());
    }
    let owner = if ofd { Owner::File(file.id) } else { Owner::Files(cx.files.id, pid_of(cx)) };
    let write = kind == F_WRLCK;
    let lock = Lock { owner, file: file.id, write, start: first, end: last };
    let locks = file.inode().state().locks();
    if matches!(number, GETLK | OFD_GETLK) {
        if kind != F_RDLCK && kind != F_WRLCK {
            return Err(Errno::EINVAL.into());
        }
        let (kind, first, last, pid) = match locks.conflict(&lock) {
            None => {
                cx.mm.copy_out(addr, &F_UNLCK.to_le_bytes())?;
                return Ok(0);
            }
            Some(l) => {
                let pid = match l.owner {
                    Owner::Files(_, pid) => cx.task.process.pidns.nr(pid) as i32,
                    Owner::File(_) => -1,
                };
                (if l.write { F_WRLCK } else { F_RDLCK }, l.start, l.end, pid)
            }
        };
        let len = if last >= MAX_OFFSET { 0 } else { last.saturating_sub(first).saturating_add(1) };
        let mut out = [0u8; 28];
        let fields: [(usize, &[u8]); 5] = [
            (0, &kind.to_le_bytes()),
            (2, &0i16.to_le_bytes()),
            (8, &first.to_le_bytes()),
            (16, &len.to_le_bytes()),
            (24, &pid.to_le_bytes()),
        ];
        for (at, bytes) in fields {
            if let Some(room) = out.get_mut(at..at.saturating_add(bytes.len())) {
                room.copy_from_slice(bytes);
            }
        }
        cx.mm.copy_out(addr, &out)?;
        return Ok(0);
    }
    match kind {
        F_UNLCK => {
            locks.clear(owner, first, last);
            return Ok(0);
        }
        F_RDLCK if !file.flags().reads() => return Err(Errno::EBADF.into()),
        F_WRLCK if !file.flags().writes() => return Err(Errno::EBADF.into()),
        F_RDLCK | F_WRLCK => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    if matches!(number, SETLK | OFD_SETLK) {
        locks.set(lock)?;
        return Ok(0);
    }
    let got = cx.wait_for(&locks.queue, u32::MAX, None, || locks.set(lock).ok());
    got.map_err(|_| SysError::Interrupted(crate::error::Restart::Sys))?;
    Ok(0)
}

fn pid_of(cx: &Current) -> u32 {
    cx.task.process.pid
}

/// flock(2).
pub fn flock(cx: &mut Current, args: Args) -> SysResult {
    /// LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN (asm-generic/fcntl.h).
    const SH: u32 = 1;
    const EX: u32 = 2;
    const NB: u32 = 4;
    const UN: u32 = 8;
    /// LOCK_MAND, which Linux has ignored since 5.17.
    const MAND: u32 = 32;
    let operation = args.uint(1);
    if operation & MAND != 0 {
        return Ok(0);
    }
    let file = cx.files.get(args.int(0))?;
    let locks = file.inode().state().locks();
    let exclusive = match operation & !NB {
        UN => {
            locks.unflock(file.id);
            return Ok(0);
        }
        SH => false,
        EX => true,
        _ => return Err(Errno::EINVAL.into()),
    };
    let lock = Flock { file: file.id, exclusive, pid: pid_of(cx) };
    if operation & NB != 0 {
        locks.flock(lock)?;
        return Ok(0);
    }
    let got = cx.wait_for(&locks.queue, u32::MAX, None, || locks.flock(lock).ok());
    got.map_err(|_| SysError::Interrupted(crate::error::Restart::Sys))?;
    Ok(0)
}

/// ioctl(2): those that are the same for all files here, the others by the file.
pub fn ioctl(cx: &mut Current, args: Args) -> SysResult {
    /// asm-generic/ioctls.h.
    const FIONREAD: u32 = 0x541b;
    const FIONBIO: u32 = 0x5421;
    const FIONCLEX: u32 = 0x5450;
    const FIOCLEX: u32 = 0x5451;
    const FIOASYNC: u32 = 0x5452;
    const FIOQSIZE: u32 = 0x5460;
    let fd = args.int(0);
    let file = cx.files.get(fd)?;
    let (number, arg) = (args.uint(1), args.get(2));
    match number {
        FIONCLEX | FIOCLEX => cx.files.set_cloexec(fd, number == FIOCLEX)?,
        FIONBIO | FIOASYNC => {
            let flag = if number == FIONBIO { OpenFlags::NONBLOCK } else { OpenFlags::ASYNC };
            let mut flags = file.flags();
            flags.set(flag, cx.mm.copy_in_u32(arg)? != 0);
            if number == FIOASYNC && flags != file.flags() && file.ops().tells().is_none() {
                return Err(Errno::ENOTTY.into());
            }
            set_flags(cx, fd, &file, flags)?;
        }
        FIONREAD => {
            let n = match file.inode().kind() {
                FileType::Regular if !file.is_stream() => {
                    file.attr()?.size.saturating_sub(file.offset())
                }
                _ => match file.ops().available(&file) {
                    Err(Errno::ENOTTY) => return file.ops().ioctl(cx, &file, number, arg),
                    result => result? as u64,
                },
            };
            let n = i32::try_from(n).unwrap_or(i32::MAX);
            cx.mm.copy_out(arg, &n.to_le_bytes())?;
        }
        FIOQSIZE => match file.inode().kind() {
            FileType::Regular | FileType::Directory | FileType::Symlink => {
                cx.mm.copy_out(arg, &file.attr()?.size.to_le_bytes())?;
            }
            _ => return Err(Errno::ENOTTY.into()),
        },
        _ => return file.ops().ioctl(cx, &file, number, arg),
    }
    Ok(0)
}

/// fsync(2).
pub fn fsync(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    file.ops().fsync(&file, false)?;
    Ok(0)
}

/// fdatasync(2).
pub fn fdatasync(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    file.ops().fsync(&file, true)?;
    Ok(0)
}

/// sync(2).
pub fn sync(cx: &mut Current, _args: Args) -> SysResult {
    for mount in cx.fs.namespace().all() {
        // sync(2) cannot fail; what cannot be written stays dirty and is reported by fsync.
        let _ = mount.sb.fs.sync();
    }
    Ok(0)
}

/// syncfs(2).
pub fn syncfs(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    if let Some(path) = file.path() {
        path.mount.sb.fs.sync()?;
    }
    Ok(0)
}

/// sync_file_range(2): as fdatasync of everything.
pub fn sync_file_range(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    if args.uint(3) & !7 != 0 || args.get(1) > MAX_OFFSET || args.get(2) > MAX_OFFSET {
        return Err(Errno::EINVAL.into());
    }
    match file.inode().kind() {
        FileType::Regular | FileType::Directory | FileType::BlockDevice | FileType::Symlink => {}
        _ => return Err(Errno::ESPIPE.into()),
    }
    file.ops().fsync(&file, true)?;
    Ok(0)
}

/// fadvise64(2): checked, and otherwise advice.
pub fn fadvise64(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    if file.inode().kind() == FileType::Fifo {
        return Err(Errno::ESPIPE.into());
    }
    if args.uint(3) > 5 || args.get(2) > MAX_OFFSET {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// readahead(2).
pub fn readahead(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    if !file.flags().reads() {
        return Err(Errno::EBADF.into());
    }
    if file.inode().kind() != FileType::Regular || (args.get(2) as i64) < 0 {
        return Err(Errno::EINVAL.into());
    }
    Ok(0)
}

/// pipe(2).
pub fn pipe(cx: &mut Current, args: Args) -> SysResult {
    do_pipe(cx, args.get(0), 0)
}

/// pipe2(2).
pub fn pipe2(cx: &mut Current, args: Args) -> SysResult {
    do_pipe(cx, args.get(0), args.uint(1))
}

fn do_pipe(cx: &Current, addr: u64, flags: u32) -> SysResult {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let known = OpenFlags::CLOEXEC | OpenFlags::NONBLOCK | OpenFlags::DIRECT;
    if !known.contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let (reader, writer) = crate::fs::pipe::pipe(&cx.cx(), flags)?;
    let cloexec = flags.contains(OpenFlags::CLOEXEC);
    let first = cx.files.insert(reader, cloexec, fd_limit(cx))?;
    let second = match cx.files.insert(writer, cloexec, fd_limit(cx)) {
        Ok(fd) => fd,
        Err(e) => {
            cx.files.remove(first)?;
            return Err(e.into());
        }
    };
    let pair = u64::from(first as u32) | u64::from(second as u32) << 32;
    if let Err(e) = cx.mm.copy_out(addr, &pair.to_le_bytes()) {
        cx.files.remove(first)?;
        cx.files.remove(second)?;
        return Err(e.into());
    }
    Ok(0)
}

/// eventfd2(2).
pub fn eventfd2(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(1);
    let file = crate::fs::eventfd::new(&cx.cx(), args.uint(0), flags)?;
    let cloexec = flags & OpenFlags::CLOEXEC.bits() != 0;
    Ok(cx.files.insert(file, cloexec, fd_limit(cx))? as u64)
}

/// eventfd(2).
pub fn eventfd(cx: &mut Current, args: Args) -> SysResult {
    let file = crate::fs::eventfd::new(&cx.cx(), args.uint(0), 0)?;
    Ok(cx.files.insert(file, false, fd_limit(cx))? as u64)
}

/// memfd_create(2).
pub fn memfd_create(cx: &mut Current, args: Args) -> SysResult {
    /// MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB, MFD_NOEXEC_SEAL, MFD_EXEC (linux/memfd.h).
    const CLOEXEC: u32 = 1;
    const ALLOW_SEALING: u32 = 2;
    const NOEXEC_SEAL: u32 = 8;
    const EXEC: u32 = 16;
    /// NAME_MAX less "memfd:".
    const MAX_NAME: usize = 249;
    let flags = args.uint(1);
    if flags & !(CLOEXEC | ALLOW_SEALING | NOEXEC_SEAL | EXEC) != 0
        || flags & (NOEXEC_SEAL | EXEC) == NOEXEC_SEAL | EXEC
    {
        return Err(Errno::EINVAL.into());
    }
    let name = match cx.mm.copy_in_string(args.get(0), MAX_NAME.saturating_add(1)) {
        Err(Errno::ENAMETOOLONG) => return Err(Errno::EINVAL.into()),
        name => name?,
    };
    let mut seals = if flags & ALLOW_SEALING != 0 { 0 } else { seal::SEAL };
    if flags & NOEXEC_SEAL != 0 {
        seals = seal::EXEC;
    }
    let perm = if flags & NOEXEC_SEAL != 0 { 0o666 } else { 0o777 };
    let file = crate::fs::tmpfs::memfd(&cx.cx(), &name, perm, seals)?;
    Ok(cx.files.insert(file, flags & CLOEXEC != 0, fd_limit(cx))? as u64)
}
