//! Who may do what to an inode (path_resolution(7), capabilities(7)).

use super::context::Cx;
use super::dentry::Super;
use super::inode::Inode;
use super::types::{Access, Perm, mode};
use crate::errno::Errno;
use crate::task::Creds;

/// Capabilities that file operations ask for (linux/capability.h).
#[allow(missing_docs)] // the names are capabilities(7)'s
pub mod cap {
    pub const CHOWN: u32 = 0;
    pub const DAC_OVERRIDE: u32 = 1;
    pub const DAC_READ_SEARCH: u32 = 2;
    pub const FOWNER: u32 = 3;
    pub const FSETID: u32 = 4;
    pub const SYS_CHROOT: u32 = 18;
    pub const SYS_ADMIN: u32 = 21;
    pub const SYS_RESOURCE: u32 = 24;
    pub const MKNOD: u32 = 27;
    pub const LEASE: u32 = 28;
    pub const SETFCAP: u32 = 31;
}

/// Whether `creds` have this access. `EACCES` where not.
pub fn check(creds: &Creds, perm: Perm, want: Access) -> Result<(), Errno> {
    let class = if creds.fsuid == perm.uid {
        perm.mode >> 6
    } else if creds.in_group(perm.gid) {
        perm.mode >> 3
    } else {
        perm.mode
    };
    if class & want.bits() == want.bits() {
        return Ok(());
    }
    let directory = perm.mode & mode::IFMT == mode::IFDIR;
    let reads = if directory { Access::READ | Access::EXEC } else { Access::READ };
    if reads.contains(want) && creds.capable_over(perm.uid, perm.gid, cap::DAC_READ_SEARCH) {
        return Ok(());
    }
    // Root runs only what somebody may run.
    let runs = directory || !want.contains(Access::EXEC) || perm.mode & 0o111 != 0;
    let overrides = || creds.capable_over(perm.uid, perm.gid, cap::DAC_OVERRIDE);
    if runs && overrides() { Ok(()) } else { Err(Errno::EACCES) }
}

/// Whether the caller has this access to `inode`.
pub fn permission(cx: &Cx<'_>, inode: &dyn Inode, want: Access) -> Result<(), Errno> {
    inode.admits(cx)?;
    check(cx.creds, inode.perm()?, want)
}

/// Whether the caller owns it, or may act as if. `EPERM` where not.
pub fn owner(creds: &Creds, perm: Perm) -> Result<(), Errno> {
    let capable = || creds.own_capable(cap::FOWNER) && creds.userns.has_uid(perm.uid);
    match creds.fsuid == perm.uid || capable() {
        true => Ok(()),
        false => Err(Errno::EPERM),
    }
}

/// Whether the caller may remove `child`'s name from the directory: writing and searching it, and in a
/// sticky one owning either.
pub fn may_delete(cx: &Cx<'_>, dir: &dyn Inode, child: &dyn Inode) -> Result<(), Errno> {
    let perm = dir.perm()?;
    check(cx.creds, perm, Access::WRITE | Access::EXEC)?;
    if perm.mode & mode::ISVTX != 0 && cx.creds.fsuid != perm.uid {
        let child = child.perm()?;
        if cx.creds.fsuid != child.uid && !cx.creds.capable_over(child.uid, child.gid, cap::FOWNER)
        {
            return Err(Errno::EPERM);
        }
    }
    Ok(())
}

/// Whether the caller may make a name in the directory. `EOVERFLOW` where it has no number in the user namespace
/// that the file system belongs to.
pub fn may_create(cx: &Cx<'_>, sb: &Super, dir: &dyn Inode) -> Result<(), Errno> {
    if !sb.owner.has_uid(cx.creds.fsuid) || !sb.owner.has_gid(cx.creds.fsgid) {
        return Err(Errno::EOVERFLOW);
    }
    permission(cx, dir, Access::WRITE | Access::EXEC)
}

/// The set-ID bits that a write or a change of owner takes away from a file of this mode; the mode
/// without them, if that differs.
pub fn drop_set_ids(whole: u32) -> Option<u32> {
    let mut perm = whole & mode::PERM;
    if whole & mode::IFMT == mode::IFDIR {
        return None;
    }
    perm &= !mode::ISUID;
    if perm & (mode::ISGID | 0o010) == mode::ISGID | 0o010 {
        perm &= !mode::ISGID;
    }
    (perm != whole & mode::PERM).then_some(perm)
}
