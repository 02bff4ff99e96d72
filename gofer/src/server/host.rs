//! The host's files: looking up one component, and reopening what a descriptor stands for.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::errors::Result;
use super::fids::Inode;
use crate::wire::{Attr, Dev, NAME_MAX, Node, Qid, QidKind, Time};

/// A name from a client, checked to be one component of a path.
pub(super) struct Name(CString);

impl Name {
    /// Checks a name.
    pub(super) fn new(name: &[u8]) -> Result<Self> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        CString::new(name).map(Name).map_err(|_| Errno::INVAL)
    }

    /// The name for a system call.
    pub(super) fn as_c_str(&self) -> &std::ffi::CStr {
        &self.0
    }
}

/// The way back from a descriptor to the file it stands for: `/proc/self/fd/N`, whose resolution
/// jumps to that very file and looks up no name.
#[derive(Debug)]
pub(super) struct Descriptors {
    directory: String,
}

impl Descriptors {
    pub(super) fn new(directory: String) -> Self {
        Descriptors { directory }
    }

    /// A path that means the file of `fd`.
    pub(super) fn path(&self, fd: BorrowedFd<'_>) -> String {
        format!("{}/{}", self.directory, fd.as_raw_fd())
    }

    /// Opens the file of `inode` anew. Only regular files and directories: opening anything else
    /// can block or act on a device.
    pub(super) fn reopen(&self, inode: &Inode, flags: OFlags) -> Result<OwnedFd> {
        let flags = match inode.kind {
            // NONBLOCK: an open must not wait for whoever holds a lease on the file.
            FileType::RegularFile => flags | OFlags::NONBLOCK,
            FileType::Directory => flags | OFlags::DIRECTORY,
            FileType::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        };
        let path = self.path(rustix::fd::AsFd::as_fd(&inode.fd));
        rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
    }
}

/// Looks up one component in a directory; a symbolic link is itself.
pub(super) fn lookup(directory: &Inode, name: &Name) -> Result<(Rc<Inode>, Node)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = open_beneath(&directory.fd, name.as_c_str(), flags, Mode::empty())?;
    adopt(fd, directory.read_only)
}

/// Opens what a client names, in a directory: the kernel refuses to leave it, and to follow any link.
pub(super) fn open_beneath(
    directory: &OwnedFd,
    name: &std::ffi::CStr,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(directory, name, flags, mode, resolve)
}

/// Makes an inode of an `O_PATH` descriptor.
pub(super) fn adopt(fd: OwnedFd, read_only: bool) -> Result<(Rc<Inode>, Node)> {
    let node = node(&fd)?;
    let kind = FileType::from_raw_mode(node.attr.mode);
    Ok((Rc::new(Inode { fd, kind, qid: node.qid, read_only }), node))
}

/// Identity and attributes of the file of a descriptor.
pub(super) fn node(fd: impl rustix::fd::AsFd) -> Result<Node> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(node_of(&rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, flags)?))
}

/// Identity and attributes of a name in a directory; a symbolic link is itself.
pub(super) fn node_at(directory: impl rustix::fd::AsFd, name: &std::ffi::CStr) -> Result<Node> {
    let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(node_of(&rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, flags)?))
}

/// The protocol's form of what statx(2) tells.
fn node_of(stat: &Statx) -> Node {
    let time = |time: &rustix::fs::StatxTimestamp| Time { sec: time.tv_sec, nsec: time.tv_nsec };
    let mode = u32::from(stat.stx_mode);
    let dev = Dev { major: stat.stx_dev_major, minor: stat.stx_dev_minor };
    let attr = Attr {
        mask: stat.stx_mask,
        blksize: stat.stx_blksize,
        attributes: stat.stx_attributes.bits(),
        attributes_mask: stat.stx_attributes_mask.bits(),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mode,
        ino: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: time(&stat.stx_atime),
        btime: time(&stat.stx_btime),
        ctime: time(&stat.stx_ctime),
        mtime: time(&stat.stx_mtime),
        rdev: Dev { major: stat.stx_rdev_major, minor: stat.stx_rdev_minor },
        dev,
    };
    let kind = qid_kind(FileType::from_raw_mode(mode)).bits();
    Node { qid: Qid { kind, version: 0, path: qid_path(dev, attr.ino) }, attr }
}

/// The qid's bits for a type of file.
pub(super) fn qid_kind(kind: FileType) -> QidKind {
    match kind {
        FileType::Directory => QidKind::DIR,
        FileType::Symlink => QidKind::SYMLINK,
        _ => QidKind::empty(),
    }
}

/// One number of device and inode. Inode numbers are small in practice, so the device goes, spread
/// by a multiplication (Fibonacci hashing), into the upper bits. Clients of the dialect get both
/// numbers with the attributes and need not rely on this.
pub(super) fn qid_path(dev: Dev, ino: u64) -> u64 {
    let dev = u64::from(dev.major) << 32 | u64::from(dev.minor);
    ino ^ (dev.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xffff_0000_0000_0000)
}
