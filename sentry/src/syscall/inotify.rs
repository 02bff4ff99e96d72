//! inotify.

use super::Args;
use super::file_args::{AT_FDCWD, fd_limit, path};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::inotify::{self, Inotify, mask};
use crate::fs::types::Access;
use crate::fs::{OpenFlags, WalkFlags, perm};
use crate::task::Current;

fn init(cx: &Current, flags: u32) -> SysResult {
    let flags = OpenFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL.into());
    }
    let file = inotify::new(&cx.cx(), flags.contains(OpenFlags::NONBLOCK))?;
    Ok(cx.files.insert(file, flags.contains(OpenFlags::CLOEXEC), fd_limit(cx))? as u64)
}

/// inotify_init(2).
pub fn inotify_init(cx: &mut Current, _args: Args) -> SysResult {
    init(cx, 0)
}

/// inotify_init1(2).
pub fn inotify_init1(cx: &mut Current, args: Args) -> SysResult {
    init(cx, args.uint(0))
}

/// inotify_add_watch(2).
pub fn inotify_add_watch(cx: &mut Current, args: Args) -> SysResult {
    let wanted = args.uint(2);
    if wanted & !mask::ALL != 0 || wanted & mask::ALL == 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = cx.files.get(args.int(0))?;
    if wanted & mask::MASK_ADD != 0 && wanted & mask::MASK_CREATE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let instance = file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?;
    let mut walk = WalkFlags::empty();
    walk.set(WalkFlags::FOLLOW, wanted & mask::DONT_FOLLOW == 0);
    walk.set(WalkFlags::DIRECTORY, wanted & mask::ONLYDIR != 0);
    let text = path(cx, args.get(1))?;
    let start = super::file_args::start(cx, AT_FDCWD, &text)?;
    let found = cx.cx().walk(start.as_ref(), &text, walk)?;
    let inode = found.inode()?;
    perm::permission(&cx.cx(), &**inode, Access::READ)?;
    Ok(u64::from(instance.add(inode, wanted)?.cast_unsigned()))
}

/// inotify_rm_watch(2).
pub fn inotify_rm_watch(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    file.ops_as::<Inotify>().ok_or(Errno::EINVAL)?.remove(args.int(1))?;
    Ok(0)
}
