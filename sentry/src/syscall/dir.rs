//! Directories: getdents, getcwd, chdir, chroot, umask.

use alloc::vec::Vec;

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::perm::{self, cap};
use crate::fs::{Access, DirEntry, FileType, Path, WalkFlags};
use crate::task::Current;

/// Most bytes of entries collected at once; a caller with a larger buffer calls again.
const MAX_ENTRIES: usize = 32 << 10;

/// `struct linux_dirent64` and the older `struct linux_dirent`, whose type is in its last byte.
fn put_entry(buf: &mut Vec<u8>, room: usize, entry: &DirEntry<'_>, old: bool) -> bool {
    const FIXED: usize = 8 + 8 + 2;
    let len = FIXED.saturating_add(entry.name.len()).saturating_add(2).next_multiple_of(8);
    if buf.len().saturating_add(len) > room {
        return false;
    }
    let end = buf.len().saturating_add(len);
    buf.extend_from_slice(&entry.ino.to_le_bytes());
    buf.extend_from_slice(&entry.next.to_le_bytes());
    buf.extend_from_slice(&(len as u16).to_le_bytes());
    if !old {
        buf.push(entry.kind.dirent());
    }
    buf.extend_from_slice(entry.name);
    buf.resize(end, 0);
    if old && let Some(last) = buf.last_mut() {
        *last = entry.kind.dirent();
    }
    true
}

fn do_getdents(cx: &Current, args: Args, old: bool) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    let size = args.uint(2) as usize;
    let room = size.min(MAX_ENTRIES);
    let mut buf = Vec::new();
    let mut full = false;
    // The position moves only past what the caller has got.
    let before = file.offset();
    file.readdir(&mut |entry| {
        let put = put_entry(&mut buf, room, &entry, old);
        full |= !put;
        put
    })?;
    if buf.is_empty() && full {
        return Err(Errno::EINVAL.into());
    }
    if let Err(e) = cx.mm.copy_out(args.get(1), &buf) {
        file.with_offset(|offset| *offset = before);
        return Err(e.into());
    }
    Ok(buf.len() as u64)
}

/// getdents64(2).
pub fn getdents64(cx: &mut Current, args: Args) -> SysResult {
    do_getdents(cx, args, false)
}

/// getdents(2).
pub fn getdents(cx: &mut Current, args: Args) -> SysResult {
    do_getdents(cx, args, true)
}

/// getcwd(2): the length with the zero.
pub fn getcwd(cx: &mut Current, args: Args) -> SysResult {
    let (cwd, root) = (cx.fs.cwd(), cx.fs.root());
    if cwd.dentry.is_unlinked() {
        return Err(Errno::ENOENT.into());
    }
    let mut text = match cwd.text(&root) {
        Some(text) => text,
        None => {
            let mut text = b"(unreachable)".to_vec();
            text.extend_from_slice(&cwd.show(&root));
            text
        }
    };
    text.push(0);
    if text.len() > args.size(1) {
        return Err(Errno::ERANGE.into());
    }
    cx.mm.copy_out(args.get(0), &text)?;
    Ok(text.len() as u64)
}

fn enter(cx: &Current, path: Path) -> Result<Path, Errno> {
    let inode = path.inode()?;
    if inode.kind() != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    perm::permission(&cx.cx(), &**inode, Access::EXEC)?;
    Ok(path)
}

/// chdir(2).
pub fn chdir(cx: &mut Current, args: Args) -> SysResult {
    let path = path(cx, args.get(0))?;
    let to = cx.cx().walk(None, &path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    cx.fs.set_cwd(enter(cx, to)?);
    Ok(0)
}

/// fchdir(2).
pub fn fchdir(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get_any(args.int(0))?;
    let to = file.path().cloned().ok_or(Errno::ENOTDIR)?;
    cx.fs.set_cwd(enter(cx, to)?);
    Ok(0)
}

/// chroot(2).
pub fn chroot(cx: &mut Current, args: Args) -> SysResult {
    let path = path(cx, args.get(0))?;
    let to = cx.cx().walk(None, &path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)?;
    let to = enter(cx, to)?;
    if !cx.creds.own_capable(cap::SYS_CHROOT) {
        return Err(Errno::EPERM.into());
    }
    cx.fs.set_root(to);
    Ok(0)
}

/// umask(2).
pub fn umask(cx: &mut Current, args: Args) -> SysResult {
    Ok(cx.fs.set_umask(args.uint(0)).into())
}
