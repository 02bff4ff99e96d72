//! Files that stand for namespaces, to which the links in /proc/PID/ns lead (namespaces(7), fs/nsfs.c).
//!
//! Two links lead to files of one device and inode number where they name one namespace. A file that is open
//! keeps its namespace alive, tells what ioctl_ns(2) asks, and is what setns(2) takes.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;

use super::anon::{self, AnonInode};
use super::file::File;
use super::inode::{FileOps, Inode};
use super::path::Path;
use super::types::{FileType, OpenFlags};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::task::{Current, Namespace, limit};

/// The device of Linux's nsfs.
const DEV: u64 = 4;

/// Commands of linux/nsfs.h.
const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;

/// Where a link to this namespace leads.
pub fn path(namespace: Namespace) -> Result<Path, Errno> {
    anon::path(&inode(namespace))
}

/// The namespace that an open file stands for, if it does for one.
pub fn namespace_of(file: &File) -> Option<&Namespace> {
    file.ops_as::<NamespaceFile>().map(|NamespaceFile(namespace)| namespace)
}

/// The number of the mount namespace that an inode stands for.
pub fn mount_namespace_of(inode: &dyn Inode) -> Option<u64> {
    let anon = inode.as_any().downcast_ref::<AnonInode>()?;
    let attr = anon.attr().ok()?;
    (attr.dev == DEV && anon.label() == "mnt").then_some(attr.ino)
}

/// Whether an inode stands for a namespace.
pub fn is_here(inode: &dyn Inode) -> bool {
    inode.attr().is_ok_and(|attr| attr.dev == DEV)
}

/// What /proc/PID/mountinfo shows of a mount of such an inode.
pub fn shown(inode: &dyn Inode) -> Option<String> {
    let anon = inode.as_any().downcast_ref::<AnonInode>().filter(|_| is_here(inode))?;
    Some(format!("{}:[{}]", anon.label(), inode.attr().ok()?.ino))
}

fn inode(namespace: Namespace) -> Arc<dyn Inode> {
    let inode = AnonInode::new(FileType::Regular, namespace.kind().0, 0o444, 0, 0);
    let inode = inode.with_identity(DEV, namespace.id().0);
    Arc::new(inode.with_open(Box::new(move |flags| {
        if flags.writes() {
            return Err(Errno::EPERM);
        }
        Ok(Box::new(NamespaceFile(namespace.clone())))
    })))
}

/// A descriptor of the caller's for a namespace.
fn install(cx: &Current, namespace: Namespace) -> SysResult {
    let ops = Box::new(NamespaceFile(namespace.clone()));
    let file = File::new(ops, inode(namespace), None, OpenFlags::empty())?;
    let limit = cx.task.process.limits.soft(limit::RLIMIT_NOFILE);
    Ok(cx.files.insert(file, true, limit)? as u64)
}

/// An open one.
struct NamespaceFile(Namespace);

impl FileOps for NamespaceFile {
    fn is_stream(&self) -> bool {
        true
    }

    fn ioctl(&self, cx: &mut Current, _file: &File, command: u32, arg: u64) -> SysResult {
        match (command, &self.0) {
            (NS_GET_NSTYPE, namespace) => Ok(namespace.kind().1.bits()),
            // The parent of a user namespace is its owner. None above the caller's own is the caller's to know.
            (NS_GET_USERNS, namespace) | (NS_GET_PARENT, namespace @ Namespace::User(_)) => {
                let own = &cx.creds.userns;
                let owner = namespace.owner().filter(|o| own.contains(o)).ok_or(Errno::EPERM)?;
                install(cx, Namespace::User(owner.clone()))
            }
            (NS_GET_PARENT, Namespace::Pid(pidns)) => {
                let own = &cx.task.process.pidns;
                let parent = pidns.parent().filter(|p| own.contains(p)).ok_or(Errno::EPERM)?;
                install(cx, Namespace::Pid(parent.clone()))
            }
            (NS_GET_OWNER_UID, Namespace::User(ns)) => {
                cx.mm.copy_out(arg, &cx.creds.userns.uid(ns.owner()).to_le_bytes())?;
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
