//! Calls that make, remove and move names: mkdir, rmdir, unlink, rename, link, symlink, readlink, mknod.

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::{FileType, RenameFlags};
use crate::task::Current;

fn do_mkdir(cx: &Current, dirfd: i32, addr: u64, perm: u32) -> SysResult {
    let path = path(cx, addr)?;
    cx.cx().mkdir(start(cx, dirfd, &path)?.as_ref(), &path, perm)?;
    Ok(0)
}

/// mkdir(2).
pub fn mkdir(cx: &mut Current, args: Args) -> SysResult {
    do_mkdir(cx, AT_FDCWD, args.get(0), args.uint(1))
}

/// mkdirat(2).
pub fn mkdirat(cx: &mut Current, args: Args) -> SysResult {
    do_mkdir(cx, args.int(0), args.get(1), args.uint(2))
}

fn do_unlink(cx: &Current, dirfd: i32, addr: u64, directory: bool) -> SysResult {
    let path = path(cx, addr)?;
    let start = start(cx, dirfd, &path)?;
    match directory {
        true => cx.cx().rmdir(start.as_ref(), &path)?,
        false => cx.cx().unlink(start.as_ref(), &path)?,
    }
    Ok(0)
}

/// rmdir(2).
pub fn rmdir(cx: &mut Current, args: Args) -> SysResult {
    do_unlink(cx, AT_FDCWD, args.get(0), true)
}

/// unlink(2).
pub fn unlink(cx: &mut Current, args: Args) -> SysResult {
    do_unlink(cx, AT_FDCWD, args.get(0), false)
}

/// unlinkat(2).
pub fn unlinkat(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(2);
    if flags & !AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL.into());
    }
    do_unlink(cx, args.int(0), args.get(1), flags & AT_REMOVEDIR != 0)
}

fn do_rename(cx: &Current, from: (i32, u64), to: (i32, u64), flags: u32) -> SysResult {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    let (old, new) = (path(cx, from.1)?, path(cx, to.1)?);
    let (old_start, new_start) = (start(cx, from.0, &old)?, start(cx, to.0, &new)?);
    cx.cx().rename((old_start.as_ref(), &old), (new_start.as_ref(), &new), flags)?;
    Ok(0)
}

/// rename(2).
pub fn rename(cx: &mut Current, args: Args) -> SysResult {
    do_rename(cx, (AT_FDCWD, args.get(0)), (AT_FDCWD, args.get(1)), 0)
}

/// renameat(2).
pub fn renameat(cx: &mut Current, args: Args) -> SysResult {
    do_rename(cx, (args.int(0), args.get(1)), (args.int(2), args.get(3)), 0)
}

/// renameat2(2).
pub fn renameat2(cx: &mut Current, args: Args) -> SysResult {
    do_rename(cx, (args.int(0), args.get(1)), (args.int(2), args.get(3)), args.uint(4))
}

fn do_link(cx: &Current, from: (i32, u64), to: (i32, u64), flags: u32) -> SysResult {
    /// CAP_DAC_READ_SEARCH, which AT_EMPTY_PATH asks for (linkat(2)).
    const CAP: u32 = crate::fs::perm::cap::DAC_READ_SEARCH;
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL.into());
    }
    if flags & AT_EMPTY_PATH != 0 && !cx.creds.capable(CAP) {
        return Err(Errno::ENOENT.into());
    }
    let follow = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    let old = named(cx, from.0, from.1, flags & AT_EMPTY_PATH | follow)?;
    let old = old.path().cloned().ok_or(Errno::EXDEV)?;
    let new = path(cx, to.1)?;
    cx.cx().link(&old, start(cx, to.0, &new)?.as_ref(), &new)?;
    Ok(0)
}

/// link(2).
pub fn link(cx: &mut Current, args: Args) -> SysResult {
    do_link(cx, (AT_FDCWD, args.get(0)), (AT_FDCWD, args.get(1)), 0)
}

/// linkat(2).
pub fn linkat(cx: &mut Current, args: Args) -> SysResult {
    do_link(cx, (args.int(0), args.get(1)), (args.int(2), args.get(3)), args.uint(4))
}

fn do_symlink(cx: &Current, target: u64, dirfd: i32, addr: u64) -> SysResult {
    let (target, path) = (path(cx, target)?, path(cx, addr)?);
    cx.cx().symlink(&target, start(cx, dirfd, &path)?.as_ref(), &path)?;
    Ok(0)
}

/// symlink(2).
pub fn symlink(cx: &mut Current, args: Args) -> SysResult {
    do_symlink(cx, args.get(0), AT_FDCWD, args.get(1))
}

/// symlinkat(2).
pub fn symlinkat(cx: &mut Current, args: Args) -> SysResult {
    do_symlink(cx, args.get(0), args.int(1), args.get(2))
}

fn do_readlink(cx: &Current, dirfd: i32, addr: u64, to: u64, size: i32) -> SysResult {
    let size = usize::try_from(size).ok().filter(|n| *n > 0).ok_or(Errno::EINVAL)?;
    // An empty path means the descriptor itself, if that is a link (O_PATH | O_NOFOLLOW).
    let text = path(cx, addr)?;
    let empty = text.is_empty();
    let link = named_path(cx, dirfd, &text, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)?;
    let path = link.path().ok_or(Errno::ENOENT)?;
    if path.inode()?.kind() != FileType::Symlink {
        return Err(if empty { Errno::ENOENT } else { Errno::EINVAL }.into());
    }
    let text = cx.cx().readlink(path)?;
    let text = text.get(..size).unwrap_or(&text);
    cx.mm.copy_out(to, text)?;
    Ok(text.len() as u64)
}

/// readlink(2).
pub fn readlink(cx: &mut Current, args: Args) -> SysResult {
    do_readlink(cx, AT_FDCWD, args.get(0), args.get(1), args.int(2))
}

/// readlinkat(2).
pub fn readlinkat(cx: &mut Current, args: Args) -> SysResult {
    do_readlink(cx, args.int(0), args.get(1), args.get(2), args.int(3))
}

fn do_mknod(cx: &Current, dirfd: i32, addr: u64, mode: u32, dev: u32) -> SysResult {
    let kind = match FileType::from_mode(mode).ok_or(Errno::EINVAL)? {
        FileType::Anonymous => FileType::Regular,
        kind => kind,
    };
    let path = path(cx, addr)?;
    let perm = mode & crate::fs::types::mode::PERM;
    cx.cx().mknod(start(cx, dirfd, &path)?.as_ref(), &path, kind, perm, dev.into())?;
    Ok(0)
}

/// mknod(2).
pub fn mknod(cx: &mut Current, args: Args) -> SysResult {
    do_mknod(cx, AT_FDCWD, args.get(0), args.uint(1), args.uint(2))
}

/// mknodat(2).
pub fn mknodat(cx: &mut Current, args: Args) -> SysResult {
    do_mknod(cx, args.int(0), args.get(1), args.uint(2), args.uint(3))
}
