//! What file system calls have in common: paths, directory descriptors, vectors of buffers.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::fs::inotify;
use crate::fs::types::{PATH_MAX, SetAttr};
use crate::fs::{Attr, File, Inode, IoVec, Path, WalkFlags};
use crate::task::Current;
use crate::task::limit::RLIMIT_NOFILE;

/// The working directory as a directory descriptor (linux/fcntl.h).
pub(super) const AT_FDCWD: i32 = -100;
/// Do not follow a symbolic link at the end.
pub(super) const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// unlinkat: a directory.
pub(super) const AT_REMOVEDIR: u32 = 0x200;
/// faccessat: with effective ids.
pub(super) const AT_EACCESS: u32 = 0x200;
/// Follow a symbolic link at the end.
pub(super) const AT_SYMLINK_FOLLOW: u32 = 0x400;
/// Do not trigger automounts: there are none.
pub(super) const AT_NO_AUTOMOUNT: u32 = 0x800;
/// How statx(2) is to ask a remote server: AT_STATX_FORCE_SYNC and AT_STATX_DONT_SYNC.
pub(super) const AT_STATX_SYNC_TYPE: u32 = 0x6000;
/// An empty path means the descriptor itself.
pub(super) const AT_EMPTY_PATH: u32 = 0x1000;

/// Most pieces of a vector (UIO_MAXIOV, linux/uio.h).
const UIO_MAXIOV: usize = 1024;

/// The most descriptors that the caller may have.
pub(super) fn fd_limit(cx: &Current) -> u64 {
    cx.task.process.limits.soft(RLIMIT_NOFILE)
}

/// A path from memory.
pub(super) fn path(cx: &Current, addr: u64) -> Result<Vec<u8>, Errno> {
    cx.mm.copy_in_string(addr, PATH_MAX)
}

/// The directory that a relative `path` starts from: `None` for the working directory.
pub(super) fn start(cx: &Current, dirfd: i32, path: &[u8]) -> Result<Option<Path>, Errno> {
    if dirfd == AT_FDCWD || path.first() == Some(&b'/') {
        return Ok(None);
    }
    let file = cx.files.get_any(dirfd)?;
    file.path().cloned().map(Some).ok_or(Errno::ENOTDIR)
}

/// What a descriptor and a path name: a place, or an open file that has none.
pub(super) enum Named {
    /// A place.
    Path(Path),
    /// An open file.
    File(Arc<File>),
}

impl Named {
    pub(super) fn inode(&self) -> Result<&Arc<dyn Inode>, Errno> {
        match self {
            Named::Path(path) => path.inode(),
            Named::File(file) => Ok(file.inode()),
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Named::Path(path) => Some(path),
            Named::File(file) => file.path(),
        }
    }

    pub(super) fn attr(&self) -> Result<Attr, Errno> {
        self.inode()?.attr()
    }

    /// `EROFS` where it is on a mount that is read-only.
    pub(super) fn check_write(&self) -> Result<(), Errno> {
        match self.path() {
            Some(path) => path.mount.check_write(),
            None => Ok(()),
        }
    }

    pub(super) fn set_attr(&self, cx: &Current, set: &SetAttr) -> Result<(), Errno> {
        self.check_write()?;
        self.inode()?.set_attr(&cx.cx(), set)?;
        if let Some(path) = self.path() {
            inotify::changed(path, set);
        }
        Ok(())
    }
}

/// What an *at call means: `flags` are AT_ ones, of which AT_EMPTY_PATH and AT_SYMLINK_NOFOLLOW count.
pub(super) fn named(cx: &Current, dirfd: i32, addr: u64, flags: u32) -> Result<Named, Errno> {
    let path = if addr == 0 && flags & AT_EMPTY_PATH != 0 { Vec::new() } else { path(cx, addr)? };
    named_path(cx, dirfd, &path, flags)
}

/// The same, of a path that has been read.
pub(super) fn named_path(
    cx: &Current,
    dirfd: i32,
    path: &[u8],
    flags: u32,
) -> Result<Named, Errno> {
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        return match dirfd {
            AT_FDCWD => Ok(Named::Path(cx.fs.cwd())),
            _ => Ok(Named::File(cx.files.get_any(dirfd)?)),
        };
    }
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    Ok(Named::Path(cx.cx().walk(start(cx, dirfd, path)?.as_ref(), path, walk)?))
}

/// `EFAULT` where not all of a buffer can be an application's memory, whether or not anything is mapped
/// there (access_ok in Linux): what a call says before it looks at what it is to do.
pub(super) fn check_range(cx: &Current, addr: u64, len: usize) -> Result<(), Errno> {
    let end = addr.checked_add(len as u64).ok_or(Errno::EFAULT)?;
    if end > cx.mm.user_range().end { Err(Errno::EFAULT) } else { Ok(()) }
}

/// A vector of buffers from memory; few ones cost no allocation.
pub(super) struct Vectors {
    inline: [IoVec; 8],
    count: usize,
    heap: Vec<IoVec>,
}

impl Vectors {
    /// One buffer, which must lie where an application's memory can be: `EFAULT` before anything is done.
    pub(super) fn one(cx: &Current, addr: u64, len: usize) -> Result<Vectors, Errno> {
        check_range(cx, addr, len)?;
        let mut inline = [IoVec::default(); 8];
        if let Some(first) = inline.first_mut() {
            *first = IoVec { addr, len };
        }
        Ok(Vectors { inline, count: 1, heap: Vec::new() })
    }

    /// The `struct iovec`s at `addr`, whose buffers must lie where an application's memory can be. Of the
    /// count its lower half counts, as with Linux.
    pub(super) fn read(cx: &Current, addr: u64, count: u32) -> Result<Vectors, Errno> {
        let vectors = Vectors::read_remote(cx, addr, count.into())?;
        for slot in vectors.slots() {
            check_range(cx, slot.addr, slot.len)?;
        }
        Ok(vectors)
    }

    /// The same, of buffers in another process's memory.
    pub(super) fn read_remote(cx: &Current, addr: u64, count: u64) -> Result<Vectors, Errno> {
        let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
        if count > UIO_MAXIOV {
            return Err(Errno::EINVAL);
        }
        let mut vectors = Vectors { inline: [IoVec::default(); 8], count, heap: Vec::new() };
        if count > vectors.inline.len() {
            vectors.heap.resize(count, IoVec::default());
        }
        let mut total: usize = 0;
        let mut at = addr;
        for slot in vectors.slots_mut() {
            let mut raw = [0u8; 16];
            cx.mm.copy_in(at, &mut raw)?;
            at = at.wrapping_add(16);
            let raw = u128::from_le_bytes(raw);
            let len = (raw >> 64) as u64 as usize;
            total = total.saturating_add(len);
            if len > isize::MAX as usize || total > isize::MAX as usize {
                return Err(Errno::EINVAL);
            }
            *slot = IoVec { addr: raw as u64, len };
        }
        Ok(vectors)
    }

    /// How many bytes the buffers have.
    pub(super) fn total(&self) -> usize {
        self.slots().iter().fold(0, |sum: usize, slot| sum.saturating_add(slot.len))
    }

    fn slots_mut(&mut self) -> &mut [IoVec] {
        match self.heap.is_empty() {
            true => self.inline.get_mut(..self.count).unwrap_or(&mut []),
            false => &mut self.heap,
        }
    }

    pub(super) fn slots(&self) -> &[IoVec] {
        match self.heap.is_empty() {
            true => self.inline.get(..self.count).unwrap_or(&[]),
            false => &self.heap,
        }
    }
}
