//! Changing attributes: chmod, chown, utimensat, truncate, fallocate.

use alloc::sync::Arc;

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::inotify;
use crate::fs::perm::{self, cap};
use crate::fs::types::{MAX_OFFSET, Perm, mode};
use crate::fs::{Access, FileType, Inode, SetAttr, SetTime, Time};
use crate::signal::Signal;
use crate::task::{Current, filecaps, limit};

fn chmod_named(cx: &Current, named: &Named, bits: u32) -> SysResult {
    named.check_write()?;
    let inode = named.inode()?;
    let perm = inode.perm()?;
    perm::owner(&cx.creds, perm)?;
    if inode.kind() == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP.into());
    }
    let mut bits = bits & mode::PERM;
    if bits & mode::ISGID != 0
        && !cx.creds.in_group(perm.gid)
        && !cx.creds.capable_over(perm.uid, perm.gid, cap::FSETID)
    {
        bits &= !mode::ISGID;
    }
    named.set_attr(cx, &SetAttr { mode: Some(bits), ..SetAttr::default() })?;
    Ok(0)
}

/// chmod(2).
pub fn chmod(cx: &mut Current, args: Args) -> SysResult {
    let named = named(cx, AT_FDCWD, args.get(0), 0)?;
    chmod_named(cx, &named, args.uint(1))
}

/// fchmod(2).
pub fn fchmod(cx: &mut Current, args: Args) -> SysResult {
    let named = Named::File(cx.files.get(args.int(0))?);
    chmod_named(cx, &named, args.uint(1))
}

/// fchmodat(2), which has no flags.
pub fn fchmodat(cx: &mut Current, args: Args) -> SysResult {
    let named = named(cx, args.int(0), args.get(1), 0)?;
    chmod_named(cx, &named, args.uint(2))
}

/// fchmodat2(2).
pub fn fchmodat2(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let named = named(cx, args.int(0), args.get(1), flags)?;
    chmod_named(cx, &named, args.uint(2))
}

fn chown_named(cx: &Current, named: &Named, uid: u32, gid: u32) -> SysResult {
    let ns = &cx.creds.userns;
    let id = |n: u32, to: Option<u32>| match (n, to) {
        (u32::MAX, _) => Ok(None),
        (_, Some(id)) => Ok(Some(id)),
        (_, None) => Err(Errno::EINVAL),
    };
    let (uid, gid) = (id(uid, ns.kuid(uid))?, id(gid, ns.kgid(gid))?);
    named.check_write()?;
    // The file system must have room for the new owner.
    if let Some(path) = named.path() {
        let sb = &path.mount.sb.owner;
        if uid.is_some_and(|id| !sb.has_uid(id)) || gid.is_some_and(|id| !sb.has_gid(id)) {
            return Err(Errno::EOVERFLOW.into());
        }
    }
    let attr = named.attr()?;
    let Perm { uid: owner, gid: group, .. } = attr.perm();
    if !cx.creds.capable_over(owner, group, cap::CHOWN) {
        let mine = cx.creds.fsuid == owner;
        let uid_ok = uid.is_none_or(|u| mine && u == owner);
        let gid_ok = gid.is_none_or(|g| mine && (g == group || cx.creds.in_group(g)));
        if !uid_ok || !gid_ok {
            return Err(Errno::EPERM.into());
        }
    }
    let mut set = SetAttr { uid, gid, ..SetAttr::default() };
    // Even a change to nobody else is one for these.
    set.mode = perm::drop_set_ids(attr.mode);
    named.set_attr(cx, &set)?;
    let inode = named.inode()?;
    if inode.kind() != FileType::Directory {
        inode.drop_caps();
        if uid.is_none() && gid.is_none() {
            // The host's kernel, which does it with a change of owners, hears nothing of this one.
            match inode.remove_xattr(filecaps::NAME) {
                Ok(()) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(0)
}

/// chown(2).
pub fn chown(cx: &mut Current, args: Args) -> SysResult {
    let named = named(cx, AT_FDCWD, args.get(0), 0)?;
    chown_named(cx, &named, args.uint(1), args.uint(2))
}

/// lchown(2).
pub fn lchown(cx: &mut Current, args: Args) -> SysResult {
    let named = named(cx, AT_FDCWD, args.get(0), AT_SYMLINK_NOFOLLOW)?;
    chown_named(cx, &named, args.uint(1), args.uint(2))
}

/// fchown(2).
pub fn fchown(cx: &mut Current, args: Args) -> SysResult {
    let named = Named::File(cx.files.get(args.int(0))?);
    chown_named(cx, &named, args.uint(1), args.uint(2))
}

/// fchownat(2).
pub fn fchownat(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let named = named(cx, args.int(0), args.get(1), flags)?;
    chown_named(cx, &named, args.uint(2), args.uint(3))
}

/// Sets both times; `None`: leave it.
fn set_times(cx: &Current, named: &Named, times: [Option<SetTime>; 2]) -> SysResult {
    let [atime, mtime] = times;
    if atime.is_none() && mtime.is_none() {
        return Ok(0);
    }
    named.check_write()?;
    let inode = named.inode()?;
    let perm = inode.perm()?;
    let both_now = times.iter().all(|t| *t == Some(SetTime::Now));
    // Whoever may write may set both times to now; anything else is the owner's.
    if perm::owner(&cx.creds, perm).is_err() {
        if !both_now {
            return Err(Errno::EPERM.into());
        }
        perm::check(&cx.creds, perm, Access::WRITE)?;
    }
    named.set_attr(cx, &SetAttr { atime, mtime, ..SetAttr::default() })?;
    Ok(0)
}

/// Two pairs of words from memory.
fn pairs(cx: &Current, addr: u64) -> Result<[(i64, i64); 2], Errno> {
    let word = |n: u64| cx.mm.copy_in_u64(addr.wrapping_add(n.wrapping_mul(8))).map(|w| w as i64);
    Ok([(word(0)?, word(1)?), (word(2)?, word(3)?)])
}

/// utimensat(2).
pub fn utimensat(cx: &mut Current, args: Args) -> SysResult {
    /// UTIME_NOW and UTIME_OMIT (linux/stat.h).
    const NOW: i64 = (1 << 30) - 1;
    const OMIT: i64 = (1 << 30) - 2;
    let flags = args.uint(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut times = [Some(SetTime::Now); 2];
    if args.get(2) != 0 {
        let raw = pairs(cx, args.get(2))?;
        if raw.iter().all(|(_, nsec)| *nsec == OMIT) {
            return Ok(0);
        }
        for (time, (sec, nsec)) in times.iter_mut().zip(raw) {
            *time = match nsec {
                NOW => Some(SetTime::Now),
                OMIT => None,
                0..1_000_000_000 => Some(SetTime::To(Time { sec, nsec: nsec as u32 })),
                _ => return Err(Errno::EINVAL.into()),
            };
        }
    }
    let named = match args.get(1) {
        0 if args.int(0) == AT_FDCWD => return Err(Errno::EFAULT.into()),
        0 if flags != 0 => return Err(Errno::EINVAL.into()),
        0 => Named::File(cx.files.get(args.int(0))?),
        addr => named(cx, args.int(0), addr, flags)?,
    };
    set_times(cx, &named, times)
}

fn do_utimes(cx: &Current, dirfd: i32, addr: u64, times: u64) -> SysResult {
    let mut set = [Some(SetTime::Now); 2];
    if times != 0 {
        for (time, (sec, usec)) in set.iter_mut().zip(pairs(cx, times)?) {
            let nsec = match usec {
                0..1_000_000 => (usec as u32).saturating_mul(1000),
                _ => return Err(Errno::EINVAL.into()),
            };
            *time = Some(SetTime::To(Time { sec, nsec }));
        }
    }
    let named = match addr {
        0 if dirfd != AT_FDCWD => Named::File(cx.files.get(dirfd)?),
        addr => named(cx, dirfd, addr, 0)?,
    };
    set_times(cx, &named, set)
}

/// utimes(2).
pub fn utimes(cx: &mut Current, args: Args) -> SysResult {
    do_utimes(cx, AT_FDCWD, args.get(0), args.get(1))
}

/// futimesat(2).
pub fn futimesat(cx: &mut Current, args: Args) -> SysResult {
    do_utimes(cx, args.int(0), args.get(1), args.get(2))
}

/// utime(2).
pub fn utime(cx: &mut Current, args: Args) -> SysResult {
    let mut set = [Some(SetTime::Now); 2];
    if args.get(1) != 0 {
        for (time, n) in set.iter_mut().zip([0, 8]) {
            let sec = cx.mm.copy_in_u64(args.get(1).wrapping_add(n))? as i64;
            *time = Some(SetTime::To(Time { sec, nsec: 0 }));
        }
    }
    let named = named(cx, AT_FDCWD, args.get(0), 0)?;
    set_times(cx, &named, set)
}

/// linux/falloc.h
const FALLOC_FL_KEEP_SIZE: u32 = 1;

/// RLIMIT_FSIZE, for a file that is to get longer.
fn may_grow(cx: &Current, inode: &Arc<dyn Inode>, size: u64) -> Result<(), Errno> {
    let limit = cx.task.process.limits.soft(limit::RLIMIT_FSIZE);
    if size <= limit || size <= inode.attr()?.size {
        return Ok(());
    }
    cx.raise(Signal::SIGXFSZ);
    Err(Errno::EFBIG)
}

/// truncate(2).
pub fn truncate(cx: &mut Current, args: Args) -> SysResult {
    let size = args.get(1);
    if size > MAX_OFFSET {
        return Err(Errno::EINVAL.into());
    }
    let named = named(cx, AT_FDCWD, args.get(0), 0)?;
    let inode = named.inode()?;
    match inode.kind() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::EINVAL.into()),
    }
    named.check_write()?;
    perm::permission(&cx.cx(), &**inode, Access::WRITE)?;
    may_grow(cx, inode, size)?;
    // A running program cannot be changed.
    inode.state().claim(1)?;
    let result = cx.cx().truncate_inode(inode, size);
    inode.state().unclaim(1);
    result?;
    if let Some(path) = named.path() {
        inotify::happened(&path.dentry, &**inode, inotify::mask::MODIFY);
    }
    Ok(0)
}

/// ftruncate(2).
pub fn ftruncate(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    if file.flags().writes() && file.inode().kind() == FileType::Regular {
        may_grow(cx, file.inode(), args.get(1))?;
    }
    file.truncate(&cx.cx(), args.get(1))?;
    Ok(0)
}

/// fallocate(2).
pub fn fallocate(cx: &mut Current, args: Args) -> SysResult {
    let (offset, len) = (args.get(2), args.get(3));
    if offset > MAX_OFFSET || len > MAX_OFFSET || len == 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = cx.files.get(args.int(0))?;
    if !file.flags().writes() {
        return Err(Errno::EBADF.into());
    }
    match file.inode().kind() {
        FileType::Regular => {}
        FileType::Fifo => return Err(Errno::ESPIPE.into()),
        FileType::Directory => return Err(Errno::EISDIR.into()),
        _ => return Err(Errno::ENODEV.into()),
    }
    if offset.saturating_add(len) > MAX_OFFSET {
        return Err(Errno::EFBIG.into());
    }
    if args.uint(1) & FALLOC_FL_KEEP_SIZE == 0 {
        may_grow(cx, file.inode(), offset.saturating_add(len))?;
    }
    file.remove_privs(cx)?;
    file.ops().allocate(&file, args.uint(1), offset, len)?;
    Ok(0)
}
