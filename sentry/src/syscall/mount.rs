//! mount, umount2, pivot_root.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Args;
use super::file_args::path;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::dentry::Super;
use crate::fs::mount::MS_REC;
use crate::fs::perm::cap;
use crate::fs::setup::{INTERNAL, Mounter, internal};
use crate::fs::{Mount, MountFlags, Path, Propagation, WalkFlags};
use crate::task::{Current, UserNamespace};

/// Flags of mount(2) that say what to do (linux/mount.h).
const MS_REMOUNT: u64 = 32;
const MS_BIND: u64 = 4096;
const MS_MOVE: u64 = 8192;
/// Of the kernel's own mounts.
const MS_NOUSER: u64 = 1 << 31;

/// Longest data of a mount, one page.
const MAX_DATA: usize = 4096;

/// `EPERM` where the caller may not change mounts at all (may_mount()).
pub(super) fn admin(cx: &Current) -> Result<(), Errno> {
    over(cx, &cx.fs.namespace().owner)
}

/// `EPERM` without CAP_SYS_ADMIN in a user namespace.
pub(super) fn over(cx: &Current, ns: &UserNamespace) -> Result<(), Errno> {
    if cx.creds.ns_capable(ns, cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// A file system of the sentry's own, mounted by the caller, in use. `ENODEV` where there is none of this type, `EPERM`
/// where the caller may not: what it shows is a
/// namespace's, by whose owner the file system is owned, or nobody's but the initial user namespace's.
pub(super) fn filesystem(cx: &Current, fstype: &str, data: &[u8]) -> Result<Arc<Super>, Errno> {
    if !INTERNAL.contains(&fstype) {
        return Err(Errno::ENODEV);
    }
    let process = &cx.task.process;
    let spaces = &cx.namespaces;
    let owner = match fstype {
        "proc" => &process.pidns.owner,
        "mqueue" => &spaces.ipc.owner,
        "sysfs" => &spaces.net.owner,
        "cgroup" | "cgroup2" => &spaces.cgroup.owner,
        "tmpfs" | "devpts" => &cx.creds.userns,
        _ => &UserNamespace::INITIAL,
    };
    over(cx, owner)?;
    let container = Arc::downgrade(&process.container);
    let (pidns, ipc) = (&process.pidns, &spaces.ipc);
    let mounter = Mounter { container: &container, pidns, ipc, creds: &cx.creds };
    Ok(Super::owned(internal(&cx.cx(), fstype, data, &mounter)?, owner))
}

fn walk(cx: &Current, path: &[u8]) -> Result<Path, Errno> {
    cx.cx().walk(None, path, WalkFlags::FOLLOW)
}

fn optional(cx: &Current, addr: u64, max: usize) -> Result<Vec<u8>, Errno> {
    if addr == 0 { Ok(Vec::new()) } else { cx.mm.copy_in_string(addr, max) }
}

/// The one kind that MS_ flags ask for. `EINVAL` where they ask for anything else.
pub(super) fn propagation(flags: u64) -> Result<Propagation, Errno> {
    Propagation::from_ms(flags).ok_or(Errno::EINVAL)
}

/// mount(2).
pub fn mount(cx: &mut Current, args: Args) -> SysResult {
    let [source, target, fstype, flags, data, _] = args.0;
    let fstype = match fstype {
        0 => None,
        addr => Some(cx.mm.copy_in_string(addr, MAX_DATA)?),
    };
    let source = optional(cx, source, crate::fs::types::PATH_MAX)?;
    let data = optional(cx, data, MAX_DATA)?;
    let target = path(cx, target)?;
    let at = walk(cx, &target)?;
    // The magic of old kernels in the upper half.
    let flags = if flags & 0xffff_0000 == 0xc0ed_0000 { flags & 0xffff } else { flags };
    if flags & MS_NOUSER != 0 {
        return Err(Errno::EINVAL.into());
    }
    admin(cx)?;
    if flags & MS_REMOUNT != 0 {
        return remount(cx, &at, flags, &data);
    }
    let namespace = cx.fs.namespace();
    if flags & MS_BIND != 0 {
        if source.is_empty() {
            return Err(Errno::EINVAL.into());
        }
        let tree = namespace.bind(&walk(cx, &source)?, flags & MS_REC != 0)?;
        namespace.adopt(&tree, &at)?;
        return Ok(0);
    }
    if Propagation::is_asked(flags) {
        let kind = propagation(flags)?;
        if !at.is_mount_root() || !at.mount.is_in(&namespace) {
            return Err(Errno::EINVAL.into());
        }
        at.mount.change_propagation(kind, flags & MS_REC != 0);
        return Ok(0);
    }
    if flags & MS_MOVE != 0 {
        if source.is_empty() {
            return Err(Errno::EINVAL.into());
        }
        namespace.move_mount(&walk(cx, &source)?, &at)?;
        return Ok(0);
    }
    let fstype = fstype.ok_or(Errno::EINVAL)?;
    let fstype = core::str::from_utf8(&fstype).map_err(|_| Errno::ENODEV)?;
    let sb = filesystem(cx, fstype, &data)?;
    sb.change_flags(MountFlags::from_bits_truncate(flags))?;
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let source = String::from_utf8_lossy(&source).into_owned();
    let mount = Mount::new(&sb, root, MountFlags::from_ms(flags), source);
    namespace.check_revealing(&mount)?;
    namespace.mount(&mount, &at)?;
    Ok(0)
}

/// MS_REMOUNT: of one mount's flags with MS_BIND, else of the file system and of this mount of it.
fn remount(cx: &Current, at: &Path, flags: u64, data: &[u8]) -> SysResult {
    let mut own = MountFlags::from_ms(flags);
    if !MountFlags::ms_has_atime(flags) {
        own = (own - MountFlags::ATIME) | at.mount.flags() & MountFlags::ATIME;
    }
    if !at.is_mount_root() || !at.mount.is_in(&cx.fs.namespace()) {
        return Err(Errno::EINVAL.into());
    }
    at.mount.check_locks(own)?;
    if flags & MS_BIND == 0 {
        let sb = &at.mount.sb;
        over(cx, &sb.owner)?;
        if sb.fs.is_read_only()
            && !MountFlags::from_bits_truncate(flags).contains(MountFlags::RDONLY)
        {
            return Err(Errno::EROFS.into());
        }
        sb.fs.remount(data)?;
        sb.change_flags(MountFlags::from_bits_truncate(flags))?;
        // Files that are open for writing have been looked for.
        at.mount.set_flags(own);
        return Ok(0);
    }
    at.mount.change_flags(own)?;
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
    if flags & !(FORCE | DETACH | EXPIRE | NOFOLLOW) != 0 {
        return Err(Errno::EINVAL.into());
    }
    let target = path(cx, args.get(0))?;
    let mut how = WalkFlags::empty();
    how.set(WalkFlags::FOLLOW, flags & NOFOLLOW == 0);
    how.set(WalkFlags::UNSEEN, flags & EXPIRE != 0);
    // `.` and `/` mean what is on top there.
    let at = cx.cx().walk(None, &target, how)?.topmost();
    admin(cx)?;
    let namespace = cx.fs.namespace();
    if !at.is_mount_root() || !at.mount.is_in(&namespace) {
        return Err(Errno::EINVAL.into());
    }
    if at.mount.is_locked() {
        return Err(Errno::EINVAL.into());
    }
    if flags & FORCE != 0 {
        over(cx, &at.mount.sb.owner)?;
    }
    let is_root = Arc::ptr_eq(&at.mount, &cx.fs.root().mount);
    let mount = at.mount.clone();
    drop(at);
    if flags & EXPIRE != 0 {
        if is_root || flags & (FORCE | DETACH) != 0 {
            return Err(Errno::EINVAL.into());
        }
        namespace.expire(&mount)?;
    }
    if is_root && flags & DETACH == 0 {
        // One's own root is made read-only instead.
        over(cx, &mount.sb.owner)?;
        mount.sb.change_flags(mount.sb.flags() | MountFlags::RDONLY)?;
        return Ok(0);
    }
    namespace.umount(&mount, flags & DETACH != 0)?;
    Ok(0)
}

/// pivot_root(2).
pub fn pivot_root(cx: &mut Current, args: Args) -> SysResult {
    admin(cx)?;
    let directory = |addr| {
        let path = path(cx, addr)?;
        cx.cx().walk(None, &path, WalkFlags::FOLLOW | WalkFlags::DIRECTORY)
    };
    let (new, put_old) = (directory(args.get(0))?, directory(args.get(1))?);
    let old = cx.fs.root();
    cx.fs.namespace().pivot(&old, &new, &put_old)?;
    // Whoever stood at the old root stands at the new one now.
    for process in cx.task.process.container.pids.processes() {
        for task in process.tasks() {
            let fs = task.shared.lock().fs.clone();
            if let Some(fs) = fs {
                fs.pivot(&old, &new);
            }
        }
    }
    Ok(0)
}
