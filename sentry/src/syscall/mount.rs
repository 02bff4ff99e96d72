//! mount, umount2, pivot_root.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Args;
use super::file_args::path;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::dentry::Super;
use crate::fs::perm::cap;
use crate::fs::setup::internal;
use crate::fs::{FileType, Mount, MountFlags, Path, WalkFlags};
use crate::task::Current;

/// Flags of mount(2) that say what to do (linux/mount.h).
const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
const MS_REC: u64 = 16384;
const MS_UNBINDABLE: u64 = 1 << 17;
const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// Longest data of a mount, one page.
const MAX_DATA: usize = 4096;

fn admin(cx: &Current) -> Result<(), Errno> {
    if cx.creds.capable(cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

fn walk(cx: &Current, path: &[u8]) -> Result<Path, Errno> {
    cx.cx().walk(None, path, WalkFlags::FOLLOW)
}

fn optional(cx: &Current, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
    if addr == 0 { Ok(Vec::new()) } else { cx.mm.copy_in_string(addr, max) }
}

/// mount(2).
pub fn mount(cx: &mut Current, args: Args) -> SysResult {
    let [source, target, fstype, flags, data, _] = args.0;
    let source = optional(cx, source, crate::fs::types::PATH_MAX)?;
    let target = path(cx, target)?;
    admin(cx)?;
    let at = walk(cx, &target)?;
    // The magic of old kernels in the upper half.
    let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags };
    let mut kept = MountFlags::from_bits_truncate(flags);
    if !kept.intersects(MountFlags::NOATIME | MountFlags::STRICTATIME) {
        kept |= MountFlags::RELATIME;
    }
    let namespace = cx.fs.namespace();
    if flags & MS_REMOUNT != 0 {
        if !at.is_mount_root() {
            return Err(Errno::EINVAL.into());
        }
        if flags & MS_BIND == 0 {
            let data = optional(cx, data, MAX_DATA)?;
            at.mount.sb.fs.remount(&data)?;
        }
        at.mount.set_flags(kept);
        return Ok(0);
    }
    if flags & MS_BIND != 0 {
        let from = walk(cx, &source)?;
        let copy = namespace.bind(&from, flags & MS_REC != 0);
        namespace.mount(&copy, &at)?;
        return Ok(0);
    }
    if flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE) != 0 {
        let kind = flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE);
        if !kind.is_power_of_two() || !at.is_mount_root() {
            return Err(Errno::EINVAL.into());
        }
        // Every mount is private here: nothing propagates, so these ask for what is there already.
        return match kind {
            MS_PRIVATE | MS_SLAVE => Ok(0),
            _ => Err(Errno::EINVAL.into()),
        };
    }
    if flags & MS_MOVE != 0 {
        let from = walk(cx, &source)?;
        if !from.is_mount_root() {
            return Err(Errno::EINVAL.into());
        }
        namespace.move_mount(&from.mount, &at)?;
        return Ok(0);
    }
    let fstype = cx.mm.copy_in_string(fstype, 256)?;
    let fstype = core::str::from_utf8(&fstype).map_err(|_| Errno::ENODEV)?;
    let data = optional(cx, data, MAX_DATA)?;
    let container = Arc::downgrade(&cx.task.process.container);
    let sb = Super::new(internal(
        fstype,
        &data,
        &container,
        &cx.task.process.pidns,
        &cx.namespaces.ipc,
    )?);
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let source = String::from_utf8_lossy(&source).into_owned();
    namespace.mount(&Mount::new(&sb, root, kept, source), &at)?;
    Ok(0)
}

/// umount2(2).
pub fn umount2(cx: &mut Current, args: Args) -> SysResult {
    /// MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW (linux/fs.h).
    const FORCE: u32 = 1;
    const DETACH: u32 = 2;
    const EXPIRE: u32 = 4;
    const NOFOLLOW: u32 = 8;
    let flags = args.uint(1);
    if flags & !(FORCE | DETACH | EXPIRE | NOFOLLOW) != 0
        || flags & EXPIRE != 0 && flags & (FORCE | DETACH) != 0
    {
        return Err(Errno::EINVAL.into());
    }
    let target = path(cx, args.get(0))?;
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, flags & NOFOLLOW == 0);
    let at = cx.cx().walk(None, &target, how)?;
    if !at.is_mount_root() {
        return Err(Errno::EINVAL.into());
    }
    admin(cx)?;
    if flags & EXPIRE != 0 {
        return Err(Errno::EAGAIN.into());
    }
    let mount = at.mount.clone();
    drop(at);
    cx.fs.namespace().umount(&mount, flags & DETACH != 0)?;
    Ok(0)
}

/// pivot_root(2).
pub fn pivot_root(cx: &mut Current, args: Args) -> SysResult {
    let (new, old) = (path(cx, args.get(0))?, path(cx, args.get(1))?);
    admin(cx)?;
    let (new, put_old) = (walk(cx, &new)?, walk(cx, &old)?);
    for place in [&new, &put_old] {
        if place.inode()?.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR.into());
        }
    }
    let root = cx.fs.root();
    if !root.is_mount_root() {
        return Err(Errno::EINVAL.into());
    }
    // The old root's new place must be at or below the new root.
    let mut here = Some(put_old.clone());
    while let Some(place) = &here {
        if place.same(&new) {
            break;
        }
        here = place.up();
    }
    if here.is_none() {
        return Err(Errno::EINVAL.into());
    }
    let was = cx.fs.namespace().pivot(&new, &put_old)?;
    // Whoever stood at the old root stands at the new one now.
    let old_root = Path::root_of(&was);
    if cx.fs.cwd().same(&old_root) {
        cx.fs.set_cwd(new.clone());
    }
    if cx.fs.root().same(&old_root) {
        cx.fs.set_root(new);
    }
    Ok(0)
}
