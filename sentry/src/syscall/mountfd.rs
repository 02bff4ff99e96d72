//! Mounts by descriptors: open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, mount_setattr.

use alloc::string::String;
use alloc::sync::Arc;

use super::Args;
use super::file_args::{
    AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_SYMLINK_NOFOLLOW, fd_limit, named,
};
use super::mount::{admin, filesystem, over, propagation};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::fscontext::{self, FsContextFile};
use crate::fs::mount::{self, Change};
use crate::fs::setup::INTERNAL;
use crate::fs::{File, MountFlags, MountNamespace, OpenFlags, Path, nsfs};
use crate::task::{CloneFlags, Current, NamespaceId};

/// All mounts below too (linux/fcntl.h).
const AT_RECURSIVE: u32 = 0x8000;
/// OPEN_TREE_CLOEXEC is O_CLOEXEC.
const CLOEXEC: u32 = OpenFlags::CLOEXEC.bits();

/// Flags of a mount as fsmount(2) and mount_setattr(2) have them (linux/mount.h).
const ATTR_ATIME: u64 = 0x70;
const ATTR_NOATIME: u64 = 0x10;
const ATTR_STRICTATIME: u64 = 0x20;
const ATTR_IDMAP: u64 = 0x10_0000;
const ATTRS: [(u64, MountFlags); 6] = [
    (1, MountFlags::RDONLY),
    (2, MountFlags::NOSUID),
    (4, MountFlags::NODEV),
    (8, MountFlags::NOEXEC),
    (0x80, MountFlags::NODIRATIME),
    (0x20_0000, MountFlags::NOSYMFOLLOW),
];

/// MOUNT_ATTR_ bits but those of access times. `EINVAL` for others.
fn attributes(bits: u64) -> Result<MountFlags, Errno> {
    let (mut flags, mut rest) = (MountFlags::empty(), bits & !ATTR_ATIME);
    for (bit, flag) in ATTRS {
        if rest & bit != 0 {
            flags |= flag;
            rest &= !bit;
        }
    }
    if rest == 0 { Ok(flags) } else { Err(Errno::EINVAL) }
}

/// The one choice of access times in MOUNT_ATTR_ bits.
fn access_times(bits: u64) -> Result<MountFlags, Errno> {
    match bits & ATTR_ATIME {
        0 => Ok(MountFlags::RELATIME),
        ATTR_NOATIME => Ok(MountFlags::NOATIME),
        ATTR_STRICTATIME => Ok(MountFlags::empty()),
        _ => Err(Errno::EINVAL),
    }
}

/// What a descriptor and a path name, as a place.
fn place(cx: &Current, dirfd: i32, addr: u64, flags: u32) -> Result<Path, Errno> {
    named(cx, dirfd, addr, flags)?.path().cloned().ok_or(Errno::EINVAL)
}

fn insert(cx: &Current, file: Arc<File>, cloexec: bool) -> SysResult {
    Ok(cx.files.insert(file, cloexec, fd_limit(cx))? as u64)
}

/// open_tree(2).
pub fn open_tree(cx: &mut Current, args: Args) -> SysResult {
    /// OPEN_TREE_CLONE.
    const CLONE: u32 = 1;
    let flags = args.uint(2);
    let known =
        AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | CLONE | CLOEXEC;
    if flags & !known != 0 || flags & (AT_RECURSIVE | CLONE) == AT_RECURSIVE {
        return Err(Errno::EINVAL.into());
    }
    if flags & CLONE != 0 {
        admin(cx)?;
    }
    let at = place(cx, args.int(0), args.get(1), flags)?;
    let file = match flags & CLONE {
        0 => cx.cx().open_path(&at, OpenFlags::PATH)?,
        _ => mount::tree_file(cx.fs.namespace().bind(&at, flags & AT_RECURSIVE != 0)?)?,
    };
    insert(cx, file, flags & CLOEXEC != 0)
}

/// move_mount(2).
pub fn move_mount(cx: &mut Current, args: Args) -> SysResult {
    /// MOVE_MOUNT_ bits: SYMLINKS, AUTOMOUNTS, EMPTY_PATH of the source, and of the target 4 bits higher.
    const SYMLINKS: u32 = 1;
    const EMPTY_PATH: u32 = 4;
    const KNOWN: u32 = 0x77 | SET_GROUP;
    const SET_GROUP: u32 = 0x100;
    admin(cx)?;
    let flags = args.uint(4);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let at = |dirfd, addr, flags: u32| {
        let mut how = 0;
        if flags & SYMLINKS == 0 {
            how |= AT_SYMLINK_NOFOLLOW;
        }
        if flags & EMPTY_PATH != 0 {
            how |= AT_EMPTY_PATH;
        }
        place(cx, dirfd, addr, how)
    };
    let from = at(args.int(0), args.get(1), flags)?;
    let to = at(args.int(2), args.get(3), flags >> 4)?;
    if flags & SET_GROUP == 0 {
        cx.fs.namespace().move_mount(&from, &to)?;
        return Ok(0);
    }
    if !from.is_mount_root() || !to.is_mount_root() {
        return Err(Errno::EINVAL.into());
    }
    to.mount.join(&from.mount, |owner| over(cx, owner))?;
    Ok(0)
}

/// fsopen(2).
pub fn fsopen(cx: &mut Current, args: Args) -> SysResult {
    admin(cx)?;
    let flags = args.uint(1);
    if flags & !1 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let fstype = cx.mm.copy_in_string(args.get(0), 4096)?;
    let fstype = INTERNAL.iter().find(|t| t.as_bytes() == fstype).ok_or(Errno::ENODEV)?;
    insert(cx, fscontext::new(&cx.cx(), fstype, None)?, flags & 1 != 0)
}

/// fspick(2).
pub fn fspick(cx: &mut Current, args: Args) -> SysResult {
    /// FSPICK_CLOEXEC and the others; NO_AUTOMOUNT, 4, has no meaning here.
    const CLOEXEC: u32 = 1;
    const SYMLINK_NOFOLLOW: u32 = 2;
    const EMPTY_PATH: u32 = 8;
    admin(cx)?;
    let flags = args.uint(2);
    if flags & !0xf != 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut how = 0;
    if flags & SYMLINK_NOFOLLOW != 0 {
        how |= AT_SYMLINK_NOFOLLOW;
    }
    if flags & EMPTY_PATH != 0 {
        how |= AT_EMPTY_PATH;
    }
    let at = place(cx, args.int(0), args.get(1), how)?;
    if !at.is_mount_root() {
        return Err(Errno::EINVAL.into());
    }
    let sb = &at.mount.sb;
    insert(cx, fscontext::new(&cx.cx(), sb.fs.name(), Some(sb))?, flags & CLOEXEC != 0)
}

/// fsconfig(2).
pub fn fsconfig(cx: &mut Current, args: Args) -> SysResult {
    /// FSCONFIG_SET_ and FSCONFIG_CMD_ (linux/mount.h).
    const FLAG: u32 = 0;
    const STRING: u32 = 1;
    const BINARY: u32 = 2;
    const PATH: u32 = 3;
    const PATH_EMPTY: u32 = 4;
    const FD: u32 = 5;
    const CREATE: u32 = 6;
    const RECONFIGURE: u32 = 7;
    let (fd, command, aux) = (args.int(0), args.uint(1), args.int(4));
    let (key, value) = (args.get(2), args.get(3));
    if fd < 0 {
        return Err(Errno::EINVAL.into());
    }
    let fits = match command {
        FLAG => key != 0 && value == 0 && aux == 0,
        STRING => key != 0 && value != 0 && aux == 0,
        BINARY => key != 0 && value != 0 && (1..=1 << 20).contains(&aux),
        PATH | PATH_EMPTY => key != 0 && value != 0 && (aux == AT_FDCWD || aux >= 0),
        FD => key != 0 && value == 0 && aux >= 0,
        CREATE | RECONFIGURE => key == 0 && value == 0 && aux == 0,
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    if !fits {
        return Err(Errno::EINVAL.into());
    }
    let file = cx.files.get(fd)?;
    let context = file.ops_as::<FsContextFile>().ok_or(Errno::EINVAL)?;
    match command {
        CREATE => {
            context.create(|data| filesystem(cx, context.fstype(), data))?;
        }
        RECONFIGURE => context.reconfigure(|sb| over(cx, &sb.owner))?,
        _ => {
            let key = short(cx, key)?;
            let text = match command {
                STRING => Some(short(cx, value)?),
                _ => None,
            };
            if command == FD {
                cx.files.get_any(aux)?;
            }
            let plain = matches!(command, FLAG | STRING);
            context.set(&cx.creds, &key, if plain { Ok(text.as_deref()) } else { Err(()) })?;
        }
    }
    Ok(0)
}

/// A string of at most 255 bytes. `EINVAL` for a longer one.
fn short(cx: &Current, addr: u64) -> Result<String, Errno> {
    let text = cx.mm.copy_in_string(addr, 256).map_err(|e| match e {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        e => e,
    })?;
    String::from_utf8(text).map_err(|_| Errno::EINVAL)
}

/// fsmount(2).
pub fn fsmount(cx: &mut Current, args: Args) -> SysResult {
    admin(cx)?;
    let (flags, attr) = (args.uint(1), args.get(2) & 0xffff_ffff);
    if flags & !1 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let kept = attributes(attr)? | access_times(attr)?;
    let file = cx.files.get(args.int(0))?;
    let context = file.ops_as::<FsContextFile>().ok_or(Errno::EINVAL)?;
    let mount = context.mount(kept)?;
    cx.fs.namespace().check_revealing(&mount)?;
    let tree = MountNamespace::anonymous(mount, &cx.creds.userns);
    insert(cx, mount::tree_file(tree)?, flags & 1 != 0)
}

/// mount_setattr(2).
pub fn mount_setattr(cx: &mut Current, args: Args) -> SysResult {
    /// `struct mount_attr` of 5.12, in bytes.
    const SIZE: usize = 32;
    let (flags, size) = (args.uint(2), args.size(4));
    let known = AT_EMPTY_PATH | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT;
    if flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    if size > 4096 {
        return Err(Errno::E2BIG.into());
    }
    if size < SIZE {
        return Err(Errno::EINVAL.into());
    }
    admin(cx)?;
    let words = super::read_struct(cx, args.get(3), size, SIZE)?;
    let word = |n: usize| words.get(n).copied().unwrap_or(0);
    let (set, clear, kind, user) = (word(0), word(1), word(2), word(3));
    if set == 0 && clear == 0 && kind == 0 {
        return Ok(0);
    }
    let mut change = Change {
        propagation: if kind == 0 { None } else { Some(propagation(kind)?) },
        set: attributes(set & !ATTR_IDMAP)?,
        clear: attributes(clear & !ATTR_IDMAP)?,
    };
    match clear & ATTR_ATIME {
        ATTR_ATIME => {
            change.clear |= MountFlags::RELATIME | MountFlags::NOATIME;
            change.set |= access_times(set)?;
        }
        0 if set & ATTR_ATIME == 0 => {}
        _ => return Err(Errno::EINVAL.into()),
    }
    if (set | clear) & ATTR_IDMAP != 0 {
        return Err(id_map(cx, clear, user).into());
    }
    let at = place(cx, args.int(0), args.get(1), flags)?;
    cx.fs.namespace().set_attributes(&at, flags & AT_RECURSIVE != 0, &change)?;
    Ok(0)
}

/// Why there is no id map: a mistake of the caller's, or that no file system here supports one.
fn id_map(cx: &Current, clear: u64, user: u64) -> Errno {
    let Ok(fd) = i32::try_from(user) else { return Errno::EINVAL };
    if clear & ATTR_IDMAP != 0 {
        return Errno::EINVAL;
    }
    let file = match cx.files.get(fd) {
        Ok(file) => file,
        Err(e) => return e,
    };
    match nsfs::namespace_of(&file) {
        // The container's first one maps nothing.
        Some(ns) if ns.kind().1 == CloneFlags::NEWUSER && ns.id() == NamespaceId::USER => {
            Errno::EPERM
        }
        _ => Errno::EINVAL,
    }
}
