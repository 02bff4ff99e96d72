//! open, close and their kind.

use super::Args;
use super::file_args::{AT_FDCWD, fd_limit, path, start};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::types::mode;
use crate::fs::{OpenFlags, WalkFlags};
use crate::task::Current;

fn do_open(
    cx: &Current,
    dirfd: i32,
    addr: u64,
    flags: OpenFlags,
    perm: u32,
    resolve: WalkFlags,
) -> SysResult {
    let mut flags = flags - OpenFlags::EXEC;
    // With O_PATH only these count, whatever else is asked for.
    if flags.contains(OpenFlags::PATH) {
        flags &= OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    } else {
        flags |= OpenFlags::LARGEFILE;
    }
    if flags.contains(OpenFlags::TMPFILE_) && !(flags.tmpfile() && flags.writes()) {
        return Err(Errno::EINVAL.into());
    }
    let path = path(cx, addr)?;
    let start = start(cx, dirfd, &path)?;
    let file = cx.cx().open(cx, start.as_ref(), &path, flags, perm & mode::PERM, resolve)?;
    let fd = cx.files.insert(file, flags.contains(OpenFlags::CLOEXEC), fd_limit(cx))?;
    Ok(fd as u64)
}

/// open(2).
pub fn open(cx: &mut Current, args: Args) -> SysResult {
    let flags = OpenFlags::from_bits_truncate(args.uint(1));
    do_open(cx, AT_FDCWD, args.get(0), flags, args.uint(2), WalkFlags::empty())
}

/// openat(2).
pub fn openat(cx: &mut Current, args: Args) -> SysResult {
    let flags = OpenFlags::from_bits_truncate(args.uint(2));
    do_open(cx, args.int(0), args.get(1), flags, args.uint(3), WalkFlags::empty())
}

/// creat(2).
pub fn creat(cx: &mut Current, args: Args) -> SysResult {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    do_open(cx, AT_FDCWD, args.get(0), flags, args.uint(1), WalkFlags::empty())
}

/// openat2(2).
pub fn openat2(cx: &mut Current, args: Args) -> SysResult {
    /// Size of `struct open_how` (linux/openat2.h).
    const SIZE: usize = 24;
    /// RESOLVE_NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH, IN_ROOT, CACHED, in the order of bits.
    const RESOLVE: [WalkFlags; 6] = [
        WalkFlags::NO_XDEV,
        WalkFlags::NO_MAGIC,
        WalkFlags::NO_SYMLINKS,
        WalkFlags::BENEATH,
        WalkFlags::IN_ROOT,
        WalkFlags::CACHED,
    ];
    let size = args.size(3);
    if size < SIZE {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    let mut raw = [0u8; SIZE];
    cx.mm.copy_in(args.get(2), &mut raw)?;
    let mut rest = alloc::vec![0u8; size.saturating_sub(SIZE)];
    cx.mm.copy_in(args.get(2).wrapping_add(SIZE as u64), &mut rest)?;
    if rest.iter().any(|b| *b != 0) {
        return Err(Errno::E2BIG.into());
    }
    let word = |n: usize| {
        raw.chunks_exact(8).nth(n).and_then(|c| c.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let (flags, perm, resolve) = (word(0), word(1), word(2));
    let flags = u32::try_from(flags)
        .ok()
        .and_then(OpenFlags::from_bits)
        .filter(|f| !f.contains(OpenFlags::EXEC))
        .ok_or(Errno::EINVAL)?;
    let makes = flags.contains(OpenFlags::CREAT) || flags.tmpfile();
    if makes && perm & !u64::from(mode::PERM) != 0 || !makes && perm != 0 || resolve >> 6 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path_only =
        OpenFlags::PATH | OpenFlags::DIRECTORY | OpenFlags::NOFOLLOW | OpenFlags::CLOEXEC;
    if flags.contains(OpenFlags::PATH) && !path_only.contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let mut walk = WalkFlags::empty();
    for (bit, flag) in RESOLVE.into_iter().enumerate() {
        walk.set(flag, resolve >> bit & 1 == 1);
    }
    if walk.contains(WalkFlags::BENEATH | WalkFlags::IN_ROOT) {
        return Err(Errno::EINVAL.into());
    }
    if walk.contains(WalkFlags::CACHED) && (makes || flags.contains(OpenFlags::TRUNC)) {
        return Err(Errno::EAGAIN.into());
    }
    do_open(cx, args.int(0), args.get(1), flags, perm as u32, walk)
}

/// close(2).
pub fn close(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.remove(args.int(0))?;
    file.closed(cx.files.id)?;
    Ok(0)
}

/// close_range(2).
pub fn close_range(cx: &mut Current, args: Args) -> SysResult {
    /// CLOSE_RANGE_UNSHARE and CLOSE_RANGE_CLOEXEC (linux/close_range.h).
    const UNSHARE: u32 = 2;
    const CLOEXEC: u32 = 4;
    let (first, last, flags) = (args.uint(0), args.uint(1), args.uint(2));
    if flags & !(UNSHARE | CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL.into());
    }
    if flags & UNSHARE != 0 {
        let files = cx.files.fork();
        cx.files = files.clone();
        let old = cx.task.shared.lock().files.replace(files);
        drop(old);
    }
    match flags & CLOEXEC {
        0 => cx.files.close_range(first, last),
        _ => cx.files.set_cloexec_range(first, last),
    }
    Ok(0)
}
