//! stat, statx, statfs, access and their kind.

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::types::{Time, major, minor};
use crate::fs::{Access, Attr, FileType, MountFlags, Path, perm};
use crate::task::{Creds, Current};

/// Fills a C structure field by field.
struct Fields<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Fields<N> {
    fn new() -> Self {
        Fields { bytes: [0; N], at: 0 }
    }

    fn put(&mut self, field: &[u8]) -> &mut Self {
        let end = self.at.saturating_add(field.len());
        if let Some(room) = self.bytes.get_mut(self.at..end) {
            room.copy_from_slice(field);
        }
        self.at = end;
        self
    }

    fn u64(&mut self, n: u64) -> &mut Self {
        self.put(&n.to_le_bytes())
    }

    fn u32(&mut self, n: u32) -> &mut Self {
        self.put(&n.to_le_bytes())
    }
}

/// Attributes as the caller sees them: with its own namespace's numbers of users and groups.
fn seen(cx: &Current, attr: Attr) -> Attr {
    let ns = &cx.creds.userns;
    Attr { uid: ns.uid(attr.uid), gid: ns.gid(attr.gid), ..attr }
}

/// `struct stat` of x86-64 (asm/stat.h).
fn stat_bytes(a: &Attr) -> [u8; 144] {
    let mut f = Fields::<144>::new();
    f.u64(a.dev).u64(a.ino).u64(a.nlink.into()).u32(a.mode).u32(a.uid).u32(a.gid).u32(0);
    f.u64(a.rdev).u64(a.size).u64(a.blksize.into()).u64(a.blocks);
    for t in [a.atime, a.mtime, a.ctime] {
        f.u64(t.sec as u64).u64(t.nsec.into());
    }
    f.bytes
}

fn put_stat(cx: &Current, addr: u64, attr: Attr) -> SysResult {
    cx.mm.copy_out(addr, &stat_bytes(&seen(cx, attr)))?;
    Ok(0)
}

/// stat(2).
pub fn stat(cx: &mut Current, args: Args) -> SysResult {
    let attr = named(cx, AT_FDCWD, args.get(0), 0)?.attr()?;
    put_stat(cx, args.get(1), attr)
}

/// lstat(2).
pub fn lstat(cx: &mut Current, args: Args) -> SysResult {
    let attr = named(cx, AT_FDCWD, args.get(0), AT_SYMLINK_NOFOLLOW)?.attr()?;
    put_stat(cx, args.get(1), attr)
}

/// fstat(2).
pub fn fstat(cx: &mut Current, args: Args) -> SysResult {
    let attr = cx.files.get_any(args.int(0))?.attr()?;
    put_stat(cx, args.get(1), attr)
}

/// newfstatat(2).
pub fn newfstatat(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(3);
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let attr = named(cx, args.int(0), args.get(1), flags)?.attr()?;
    put_stat(cx, args.get(2), attr)
}

/// STATX_BASIC_STATS, STATX_BTIME, STATX_MNT_ID (linux/stat.h).
const STATX_BASIC: u32 = 0x7ff;
const STATX_BTIME: u32 = 0x800;
const STATX_MNT_ID: u32 = 0x1000;
/// STATX_ATTR_MOUNT_ROOT.
const ATTR_MOUNT_ROOT: u64 = 0x2000;

/// `struct statx` (linux/stat.h).
fn statx_bytes(a: &Attr, path: Option<&Path>) -> [u8; 256] {
    let mut f = Fields::<256>::new();
    let time = |f: &mut Fields<256>, t: Time| {
        f.u64(t.sec as u64).u32(t.nsec).u32(0);
    };
    let mut mask = STATX_BASIC;
    if a.btime.is_some() {
        mask |= STATX_BTIME;
    }
    if path.is_some() {
        mask |= STATX_MNT_ID;
    }
    let at_root = path.is_some_and(Path::is_mount_root);
    f.u32(mask).u32(a.blksize).u64(if at_root { ATTR_MOUNT_ROOT } else { 0 });
    f.u32(a.nlink).u32(a.uid).u32(a.gid);
    f.put(&(a.mode as u16).to_le_bytes()).put(&[0; 2]);
    f.u64(a.ino).u64(a.size).u64(a.blocks).u64(ATTR_MOUNT_ROOT);
    time(&mut f, a.atime);
    time(&mut f, a.btime.unwrap_or_default());
    time(&mut f, a.ctime);
    time(&mut f, a.mtime);
    f.u32(major(a.rdev)).u32(minor(a.rdev)).u32(major(a.dev)).u32(minor(a.dev));
    f.u64(path.map_or(0, |p| p.mount.id));
    f.bytes
}

/// statx(2).
pub fn statx(cx: &mut Current, args: Args) -> SysResult {
    let (flags, mask) = (args.uint(2), args.uint(3));
    let known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if flags & !known != 0 || flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE || mask >> 31 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let named = named(cx, args.int(0), args.get(1), flags)?;
    let bytes = statx_bytes(&seen(cx, named.attr()?), named.path());
    cx.mm.copy_out(args.get(4), &bytes)?;
    Ok(0)
}

fn put_statfs(cx: &Current, addr: u64, named: &Named) -> SysResult {
    /// ST_VALID: f_flags is filled.
    const ST_VALID: u64 = 0x20;
    let (s, flags) = match named.path() {
        Some(path) => (path.mount.sb.fs.statfs()?, path.mount.all_flags()),
        None => {
            // PIPEFS_MAGIC and SOCKFS_MAGIC, else ANON_INODE_FS_MAGIC (linux/magic.h).
            let kind = match named.inode()?.kind() {
                FileType::Fifo => 0x5049_5045,
                FileType::Socket => 0x534f_434b,
                _ => 0x0904_1934,
            };
            (crate::fs::StatFs::without_blocks(kind), MountFlags::empty())
        }
    };
    // MS_RDONLY, NOSUID, NODEV, NOEXEC, SYNCHRONOUS and ST_RDONLY.. have the same numbers; relatime
    // and the others are shifted (linux/statfs.h).
    let mut f_flags = ST_VALID | flags.bits() & 0x5f | flags.bits() & 0xc00;
    for (flag, st) in [(MountFlags::RELATIME, 0x1000), (MountFlags::NOSYMFOLLOW, 0x2000)] {
        if flags.contains(flag) {
            f_flags |= st;
        }
    }
    let mut f = Fields::<120>::new();
    f.u64(s.kind).u64(s.bsize).u64(s.blocks).u64(s.bfree).u64(s.bavail).u64(s.files).u64(s.ffree);
    f.u64(s.fsid).u64(s.namelen).u64(s.bsize).u64(f_flags);
    cx.mm.copy_out(addr, &f.bytes)?;
    Ok(0)
}

/// statfs(2).
pub fn statfs(cx: &mut Current, args: Args) -> SysResult {
    let named = named(cx, AT_FDCWD, args.get(0), 0)?;
    put_statfs(cx, args.get(1), &named)
}

/// fstatfs(2).
pub fn fstatfs(cx: &mut Current, args: Args) -> SysResult {
    let named = Named::File(cx.files.get_any(args.int(0))?);
    put_statfs(cx, args.get(1), &named)
}

fn do_access(cx: &Current, dirfd: i32, addr: u64, want: u32, flags: u32) -> SysResult {
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_EACCESS) != 0 || want > 7 {
        return Err(Errno::EINVAL.into());
    }
    let creds = if flags & AT_EACCESS != 0 { (*cx.creds).clone() } else { real(&cx.creds) };
    let view = crate::fs::Cx { creds: &creds, ..cx.cx() };
    let found = match named_as(cx, &view, dirfd, addr, flags)? {
        Named::Path(path) => path,
        Named::File(file) => match file.path() {
            Some(path) => path.clone(),
            None => {
                perm::check(&creds, file.inode().perm()?, Access::from_bits_truncate(want))?;
                return Ok(0);
            }
        },
    };
    let want = Access::from_bits_truncate(want);
    let inode = found.inode()?;
    let kind = inode.kind();
    if want.contains(Access::EXEC)
        && kind == FileType::Regular
        && found.mount.flags().contains(MountFlags::NOEXEC)
    {
        return Err(Errno::EACCES.into());
    }
    perm::permission(&view, &**inode, want)?;
    let on_disk = matches!(kind, FileType::Regular | FileType::Directory | FileType::Symlink);
    if want.contains(Access::WRITE) && on_disk {
        found.mount.check_write()?;
    }
    Ok(0)
}

/// As [`named`], for somebody else's eyes.
fn named_as(
    cx: &Current,
    view: &crate::fs::Cx<'_>,
    dirfd: i32,
    addr: u64,
    flags: u32,
) -> Result<Named, Errno> {
    let path = path(cx, addr)?;
    if path.is_empty() && flags & AT_EMPTY_PATH != 0 {
        return named(cx, dirfd, addr, flags);
    }
    let mut walk = crate::fs::WalkFlags::empty();
    walk.set(crate::fs::WalkFlags::FOLLOW, flags & AT_SYMLINK_NOFOLLOW == 0);
    Ok(Named::Path(view.walk(start(cx, dirfd, &path)?.as_ref(), &path, walk)?))
}

/// Identity by real ids, for access(2): without SECBIT_NO_SETUID_FIXUP, the capabilities are all
/// permitted ones for root and none for others.
fn real(creds: &Creds) -> Creds {
    /// SECBIT_NO_SETUID_FIXUP (linux/securebits.h).
    const NO_SETUID_FIXUP: u32 = 1 << 2;
    let mut real = creds.clone();
    real.fsuid = creds.uid;
    real.fsgid = creds.gid;
    if creds.securebits & NO_SETUID_FIXUP == 0 {
        real.capabilities.effective = match creds.userns.kuid(0) == Some(creds.uid) {
            true => creds.capabilities.permitted,
            false => 0,
        };
    }
    real
}

/// access(2).
pub fn access(cx: &mut Current, args: Args) -> SysResult {
    do_access(cx, AT_FDCWD, args.get(0), args.uint(1), 0)
}

/// faccessat(2), which has no flags.
pub fn faccessat(cx: &mut Current, args: Args) -> SysResult {
    do_access(cx, args.int(0), args.get(1), args.uint(2), 0)
}

/// faccessat2(2).
pub fn faccessat2(cx: &mut Current, args: Args) -> SysResult {
    do_access(cx, args.int(0), args.get(1), args.uint(2), args.uint(3))
}
