//! Files that name namespaces, to which the links in /proc/PID/ns lead (namespaces(7), fs/nsfs.c).
//!
//! Two links lead to files of one device and inode number where they name one namespace. The files can be opened and
//! asked what ioctl_ns(2) tells; setns(2) is not there yet.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;

use super::anon::{self, AnonInode};
use super::file::File;
use super::inode::{FileOps, Inode};
use super::path::Path;
use super::types::{FileType, OpenFlags, makedev};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::task::{Current, limit};

/// Commands of linux/nsfs.h.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;

/// The number of the one user namespace.
pub const USER_NAMESPACE: u64 = 0xf000_0005;

/// Where a link to this namespace leads. `kind` is the name that the link shows: `mnt`, `uts` and so on.
pub fn path(kind: &'static str, id: u64) -> Result<Path, Errno> {
    anon::path(&inode(kind, id))
}

fn inode(kind: &'static str, id: u64) -> Arc<dyn Inode> {
    let inode = AnonInode::new(FileType::Regular, kind, 0o444, 0, 0);
    // The device of Linux's nsfs.
    let inode = inode.with_number(makedev(0, 4), id);
    Arc::new(inode.with_open(Box::new(move |_flags| Ok(Box::new(Namespace(kind))))))
}

/// The CLONE_NEW* flag of sched.h for a kind.
fn clone_flag(kind: &str) -> u64 {
    match kind {
        "time" => 0x80,
        "mnt" => 0x2_0000,
        "cgroup" => 0x200_0000,
        "uts" => 0x400_0000,
        "ipc" => 0x800_0000,
        "user" => 0x1000_0000,
        "pid" => 0x2000_0000,
        _ => 0x4000_0000,
    }
}

/// An open one.
struct Namespace(&'static str);

impl FileOps for Namespace {
    fn is_stream(&self) -> bool {
        true
    }

    fn ioctl(&self, cx: &mut Current, _file: &File, command: u32, arg: u64) -> SysResult {
        // The commands are those of ioctl_ns(2).
        match (command, self.0) {
            (NS_GET_NSTYPE, kind) => Ok(clone_flag(kind)),
            // The one user namespace has no owner and no parent that a container may know.
            (NS_GET_USERNS, "user") | (NS_GET_PARENT, "user" | "pid") => Err(Errno::EPERM.into()),
            (NS_GET_USERNS, _) => {
                let inode = inode("user", USER_NAMESPACE);
                let file = File::new(Box::new(Namespace("user")), inode, None, OpenFlags::empty())?;
                let limit = cx.task.process.limits.soft(limit::RLIMIT_NOFILE);
                Ok(cx.files.insert(file, true, limit)? as u64)
            }
            (NS_GET_OWNER_UID, "user") => {
                cx.mm.copy_out(arg, &0u32.to_le_bytes())?;
                Ok(0)
            }
            (NS_GET_PARENT | NS_GET_OWNER_UID, _) => Err(Errno::EINVAL.into()),
            _ => Err(Errno::ENOTTY.into()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
