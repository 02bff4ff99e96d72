//! What the kernel is asked for to keep a gofer to its files: restricted mounts, and Landlock.
//!
//! Both stand beside the empty root, and behind every lookup that the server makes. A host without them is served all the
//! same, and `check --wall` says so.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use gofer::server::{Attach, Guards};

use crate::footprint;
use crate::host::stat;

/// For a gofer's configuration.
pub const GUARDS: Guards = Guards { harden, restrict, shed: footprint::shed };

/// struct mount_attr (linux/mount.h).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// No device of these mounts is opened and no link in them followed, whoever tries; nothing is changed through one that is
/// for reading.
fn harden(root: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    /// MOUNT_ATTR_NOSYMFOLLOW, since Linux 5.10.
    const NOSYMFOLLOW: u64 = 0x0020_0000;
    let mut attr_set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | NOSYMFOLLOW;
    if read_only {
        attr_set |= libc::MOUNT_ATTR_RDONLY;
    }
    let attr = MountAttr { attr_set, ..MountAttr::default() };
    // SAFETY: a path, and a structure that is read; both are alive.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    match check(result) {
        // Before Linux 5.12.
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        done => done.map(drop),
    }
}

// Rights of linux/landlock.h.
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIR: u64 = 1 << 3;
const MAKE_CHAR: u64 = 1 << 6;
const MAKE_BLOCK: u64 = 1 << 11;
const TRUNCATE: u64 = 1 << 14;
/// Names of every kind, made, removed and moved: REMOVE_DIR to REFER.
const NAMES: u64 = (1 << 14) - (1 << 4);
/// What there is to say about a file that is no directory.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;

/// The rights that a version of the interface knows (landlock(7)): 13 at first, then REFER, TRUNCATE and, in the fifth,
/// IOCTL_DEV.
fn known(version: i64) -> u64 {
    let rights = match version {
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << rights) - 1
}

/// struct landlock_path_beneath_attr, which is packed: rights, descriptor.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

fn check(result: i64) -> io::Result<i64> {
    if result >= 0 { Ok(result) } else { Err(io::Error::last_os_error()) }
}

/// The version of the host's Landlock; `None` where it has none, or it is switched off.
pub fn landlock() -> Option<i64> {
    /// LANDLOCK_CREATE_RULESET_VERSION
    const VERSION: u32 = 1;
    // SAFETY: without a structure there is nothing to read.
    let version = unsafe {
        let none = std::ptr::null::<u64>();
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION)
    };
    (version > 0).then_some(version)
}

/// Leaves the calling thread the files beneath the attach points and, to be opened again, its own descriptors. no_new_privs
/// is set already.
fn restrict(attaches: &[Attach]) -> io::Result<()> {
    restrict_to(attaches, READ_FILE | READ_DIR, WRITE_FILE | TRUNCATE | NAMES)
}

/// Leaves the calling thread the making of device nodes beneath the attach points that may be changed. no_new_privs is set
/// already.
pub fn nodes(attaches: &[Attach]) -> io::Result<()> {
    restrict_to(attaches, 0, MAKE_CHAR | MAKE_BLOCK)
}

fn restrict_to(attaches: &[Attach], always: u64, changeable: u64) -> io::Result<()> {
    let Some(version) = landlock() else { return Ok(()) };
    let all = known(version);
    // SAFETY: one word is read, handled_access_fs; the descriptor that comes back is ours.
    let ruleset = unsafe {
        let call = libc::SYS_landlock_create_ruleset;
        let fd = check(libc::syscall(call, &raw const all, size_of::<u64>(), 0))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    for Attach { root, read_only, .. } in attaches {
        let mut rights = always;
        if !read_only {
            rights |= changeable;
        }
        if stat(root)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
            rights &= OF_FILES;
        }
        if rights & all != 0 {
            allow(ruleset.as_fd(), root.as_fd(), rights & all)?;
        }
    }
    // SAFETY: no memory arguments.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}

/// Leaves the calling thread no file at all by name.
pub fn nothing() -> io::Result<()> {
    restrict(&[])
}

fn allow(ruleset: BorrowedFd<'_>, parent: BorrowedFd<'_>, allowed: u64) -> io::Result<()> {
    /// LANDLOCK_RULE_PATH_BENEATH
    const PATH_BENEATH: u32 = 1;
    let rule = PathBeneath { allowed, parent: parent.as_raw_fd() };
    // SAFETY: the rule is read, and alive.
    let added = unsafe {
        let call = libc::SYS_landlock_add_rule;
        libc::syscall(call, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0)
    };
    match check(added) {
        // A file that no file system holds, a namespace say: nobody opens it either.
        Err(e) if e.raw_os_error() == Some(libc::EBADFD) => Ok(()),
        done => done.map(drop),
    }
}
