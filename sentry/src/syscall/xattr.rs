//! Extended attributes (xattr(7)).

use super::Args;
use super::file_args::*;
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::perm::{self, cap};
use crate::fs::{Access, FileType};
use crate::task::{Current, UserNamespace, filecaps};

/// XATTR_NAME_MAX and XATTR_SIZE_MAX (linux/limits.h); a list is as long as a value at most.
const NAME_MAX: usize = 255;
const SIZE_MAX: usize = 65536;

/// The file that a call is about: by path (following or not) or descriptor.
fn by_path(cx: &Current, args: Args) -> Result<Named, Errno> {
    named(cx, AT_FDCWD, args.get(0), 0)
}

fn by_link(cx: &Current, args: Args) -> Result<Named, Errno> {
    named(cx, AT_FDCWD, args.get(0), AT_SYMLINK_NOFOLLOW)
}

fn by_fd(cx: &Current, args: Args) -> Result<Named, Errno> {
    Ok(Named::File(cx.files.get(args.int(0))?))
}

fn name(cx: &Current, addr: u64) -> Result<alloc::vec::Vec<u8>, Errno> {
    match cx.mm.copy_in_string(addr, NAME_MAX.saturating_add(1)) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        Ok(name) if name.is_empty() => Err(Errno::ERANGE),
        name => name,
    }
}

/// The user namespace that the file system belongs to.
fn owner(named: &Named) -> &UserNamespace {
    named.path().map_or(&UserNamespace::INITIAL, |path| &path.mount.sb.owner)
}

/// Whether the caller may set or remove a file's capabilities.
fn may_set_caps(cx: &Current, named: &Named) -> Result<(), Errno> {
    let perm = named.inode()?.perm()?;
    match cx.creds.capable_over(perm.uid, perm.gid, cap::SETFCAP) {
        true => Ok(()),
        false => Err(Errno::EPERM),
    }
}

/// Whether the caller may reach attributes of this name (xattr_permission, fs/xattr.c).
fn permitted(cx: &Current, named: &Named, name: &[u8], write: bool) -> Result<(), Errno> {
    let inode = named.inode()?;
    let perm = inode.perm()?;
    if write {
        named.check_write()?;
    }
    if name == filecaps::NAME {
        return Ok(());
    }
    if name.starts_with(b"security.") {
        // cap_inode_setxattr(): for those who administer where the file system belongs.
        return match write && !cx.creds.ns_capable(owner(named), cap::SYS_ADMIN) {
            true => Err(Errno::EPERM),
            false => Ok(()),
        };
    }
    if name.starts_with(b"system.") {
        return if write { perm::owner(&cx.creds, perm) } else { Ok(()) };
    }
    if name.starts_with(b"trusted.") {
        return match cx.creds.capable(cap::SYS_ADMIN) {
            true => Ok(()),
            false => Err(if write { Errno::EPERM } else { Errno::ENODATA }),
        };
    }
    if !name.starts_with(b"user.") {
        return Err(Errno::EOPNOTSUPP);
    }
    match inode.kind() {
        FileType::Regular => {}
        FileType::Directory => {
            let sticky = perm.mode & crate::fs::types::mode::ISVTX != 0;
            if sticky && write {
                perm::owner(&cx.creds, perm)?;
            }
        }
        _ => return Err(if write { Errno::EPERM } else { Errno::ENODATA }),
    }
    perm::check(&cx.creds, perm, if write { Access::WRITE } else { Access::READ })
}

fn do_set(cx: &Current, named: Named, args: Args) -> SysResult {
    let (size, flags) = (args.size(3), args.uint(4));
    if flags & !3 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = name(cx, args.get(1))?;
    if size > SIZE_MAX {
        return Err(Errno::E2BIG.into());
    }
    let mut value = cx.mm.copy_in_array(args.get(2), size, 1, SIZE_MAX)?;
    if name == filecaps::NAME && size > 0 {
        if !filecaps::is_valid(&value) {
            return Err(Errno::EINVAL.into());
        }
        may_set_caps(cx, &named)?;
        let everywhere = cx.creds.ns_capable(owner(&named), cap::SETFCAP);
        value = filecaps::to_store(&value, owner(&named), &cx.creds.userns, everywhere)?;
    }
    permitted(cx, &named, &name, true)?;
    named.inode()?.set_xattr(&name, &value, flags)?;
    Ok(0)
}

/// Gives `value` to the caller, or its length where no room is offered.
fn give(cx: &Current, addr: u64, size: usize, value: &[u8]) -> SysResult {
    if size != 0 {
        if value.len() > size {
            return Err(Errno::ERANGE.into());
        }
        cx.mm.copy_out(addr, value)?;
    }
    Ok(value.len() as u64)
}

fn do_get(cx: &Current, named: Named, args: Args) -> SysResult {
    let name = name(cx, args.get(1))?;
    permitted(cx, &named, &name, false)?;
    let mut value = named.inode()?.get_xattr(&name)?;
    if name == filecaps::NAME {
        value = filecaps::to_show(&value, owner(&named), &cx.creds.userns)?;
    }
    give(cx, args.get(2), args.size(3), &value)
}

fn do_list(cx: &Current, named: Named, args: Args) -> SysResult {
    let mut names = named.inode()?.list_xattr()?;
    if !cx.creds.capable(cap::SYS_ADMIN) {
        let shown = names.split_inclusive(|b| *b == 0).filter(|n| !n.starts_with(b"trusted."));
        names = shown.flatten().copied().collect();
    }
    give(cx, args.get(1), args.size(2), &names)
}

fn do_remove(cx: &Current, named: Named, args: Args) -> SysResult {
    let name = name(cx, args.get(1))?;
    permitted(cx, &named, &name, true)?;
    if name == filecaps::NAME {
        may_set_caps(cx, &named)?;
    }
    named.inode()?.remove_xattr(&name)?;
    Ok(0)
}

macro_rules! calls {
    ($($doc:literal $name:ident = $do:ident($by:ident);)*) => {
        $(#[doc = $doc] pub fn $name(cx: &mut Current, args: Args) -> SysResult {
            let named = $by(cx, args)?;
            $do(cx, named, args)
        })*
    };
}

calls! {
    "setxattr(2)." setxattr = do_set(by_path);
    "lsetxattr(2)." lsetxattr = do_set(by_link);
    "fsetxattr(2)." fsetxattr = do_set(by_fd);
    "getxattr(2)." getxattr = do_get(by_path);
    "lgetxattr(2)." lgetxattr = do_get(by_link);
    "fgetxattr(2)." fgetxattr = do_get(by_fd);
    "listxattr(2)." listxattr = do_list(by_path);
    "llistxattr(2)." llistxattr = do_list(by_link);
    "flistxattr(2)." flistxattr = do_list(by_fd);
    "removexattr(2)." removexattr = do_remove(by_path);
    "lremovexattr(2)." lremovexattr = do_remove(by_link);
    "fremovexattr(2)." fremovexattr = do_remove(by_fd);
}
