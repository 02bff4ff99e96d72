//! The plain values of the VFS: attributes, flags, times, limits.

use alloc::vec::Vec;

pub use super::flags::{Access, Events, MountFlags, OpenFlags, RenameFlags};
use crate::platform::{PAGE_SIZE, platform};

/// Longest path with its terminating zero, in bytes (PATH_MAX, linux/limits.h).
pub const PATH_MAX: usize = 4096;
/// Longest name of one component, in bytes (NAME_MAX, linux/limits.h).
pub const NAME_MAX: usize = 255;
/// Most symbolic links followed in one walk (MAXSYMLINKS, linux/namei.h).
pub const MAX_SYMLINKS: u32 = 40;
/// Most bytes moved by one read or write (MAX_RW_COUNT, linux/fs.h).
pub const MAX_RW: usize = 0x7fff_f000;
/// Largest file offset.
pub const MAX_OFFSET: u64 = i64::MAX as u64;

/// Bits of a mode (inode(7)).
#[allow(missing_docs)] // the names are inode(7)'s
pub mod mode {
    pub const IFMT: u32 = 0o170000;
    pub const IFSOCK: u32 = 0o140000;
    pub const IFLNK: u32 = 0o120000;
    pub const IFREG: u32 = 0o100000;
    pub const IFBLK: u32 = 0o060000;
    pub const IFDIR: u32 = 0o040000;
    pub const IFCHR: u32 = 0o020000;
    pub const IFIFO: u32 = 0o010000;
    pub const ISUID: u32 = 0o4000;
    pub const ISGID: u32 = 0o2000;
    pub const ISVTX: u32 = 0o1000;
    /// Everything that chmod(2) can change.
    pub const PERM: u32 = 0o7777;
}

/// What kind of file an inode is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are inode(7)'s
pub enum FileType {
    Fifo,
    CharDevice,
    Directory,
    BlockDevice,
    Regular,
    Symlink,
    Socket,
    /// Neither of these: epoll, eventfd and the like, whose mode has no type.
    Anonymous,
}

impl FileType {
    /// From the type bits of a mode; `None` where they mean nothing.
    pub fn from_mode(bits: u32) -> Option<FileType> {
        Some(match bits & mode::IFMT {
            mode::IFIFO => FileType::Fifo,
            mode::IFCHR => FileType::CharDevice,
            mode::IFDIR => FileType::Directory,
            mode::IFBLK => FileType::BlockDevice,
            mode::IFREG => FileType::Regular,
            mode::IFLNK => FileType::Symlink,
            mode::IFSOCK => FileType::Socket,
            0 => FileType::Anonymous,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    pub fn mode(self) -> u32 {
        match self {
            FileType::Fifo => mode::IFIFO,
            FileType::CharDevice => mode::IFCHR,
            FileType::Directory => mode::IFDIR,
            FileType::BlockDevice => mode::IFBLK,
            FileType::Regular => mode::IFREG,
            FileType::Symlink => mode::IFLNK,
            FileType::Socket => mode::IFSOCK,
            FileType::Anonymous => 0,
        }
    }

    /// `d_type` of getdents64(2): the type bits shifted down.
    pub fn dirent(self) -> u8 {
        (self.mode() >> 12) as u8
    }
}

/// A point in time, as in `struct timespec`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Time {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Time {
    /// From nanoseconds since 1970.
    pub fn from_nanos(ns: u64) -> Time {
        Time { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }

    /// The wall clock.
    pub fn now() -> Time {
        Time::from_nanos(platform().realtime())
    }
}

/// A device number as `st_dev` and `st_rdev` have it (makedev(3), glibc's 64-bit encoding).
pub fn makedev(major: u32, minor: u32) -> u64 {
    let (major, minor) = (u64::from(major), u64::from(minor));
    (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
}

/// The major part of a device number.
pub fn major(dev: u64) -> u32 {
    ((dev >> 32 & 0xffff_f000) | (dev >> 8 & 0xfff)) as u32
}

/// The minor part of a device number.
pub fn minor(dev: u64) -> u32 {
    ((dev >> 12 & 0xffff_ff00) | (dev & 0xff)) as u32
}

/// What stat(2) and statx(2) say of an inode.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The device that holds it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Number of names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device that a device node names.
    pub rdev: u64,
    /// Length in bytes.
    pub size: u64,
    /// Preferred size of reads and writes.
    pub blksize: u32,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of attributes.
    pub ctime: Time,
    /// Creation; `None` where not known.
    pub btime: Option<Time>,
}

impl Attr {
    /// What decides access.
    pub fn perm(&self) -> Perm {
        Perm { mode: self.mode, uid: self.uid, gid: self.gid }
    }
}

/// What decides access to an inode.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Perm {
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a new inode begins with. The VFS has applied umask and the rules for set-group-ID directories.
#[derive(Clone, Copy, Debug)]
pub struct New {
    /// Permission bits, without type.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A time to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetTime {
    /// The wall clock (UTIME_NOW).
    Now,
    /// This time.
    To(Time),
}

/// Attributes to change; `None`: as it is. The VFS has checked that the caller may.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct SetAttr {
    /// Permission bits, without type.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of content.
    pub mtime: Option<SetTime>,
}

/// What statfs(2) says.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Magic number (statfs(2)).
    pub kind: u64,
    /// Block size.
    pub bsize: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for users without privilege.
    pub bavail: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Identity.
    pub fsid: u64,
    /// Longest name.
    pub namelen: u64,
}

impl StatFs {
    /// Of a file system that is stored nowhere (simple_statfs of Linux), by its magic number.
    pub fn without_blocks(kind: u64) -> StatFs {
        StatFs { kind, bsize: PAGE_SIZE as u64, namelen: NAME_MAX as u64, ..StatFs::default() }
    }
}

/// One entry of a directory, as a file system gives it to getdents64(2).
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileType,
    /// The position after it, for the next call.
    pub next: u64,
}

/// Takes directory entries; false: it is full, and this one was not taken.
pub type DirSink<'a> = &'a mut dyn FnMut(DirEntry<'_>) -> bool;

/// Gives a sink the entries of a listing from position `pos` on, where an entry's position is its place in the listing;
/// the position to go on at.
pub fn give_entries(
    entries: &mut dyn Iterator<Item = (&[u8], u64, FileType)>,
    pos: u64,
    sink: DirSink<'_>,
) -> u64 {
    let mut pos = pos;
    for (name, ino, kind) in entries.skip(usize::try_from(pos).unwrap_or(usize::MAX)) {
        let next = pos.saturating_add(1);
        if !sink(DirEntry { name, ino, kind, next }) {
            break;
        }
        pos = next;
    }
    pos
}

/// A directory entry that owns its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: FileType,
    /// The position after it.
    pub next: u64,
}

impl From<DirEntry<'_>> for OwnedEntry {
    fn from(e: DirEntry<'_>) -> Self {
        OwnedEntry { name: e.name.to_vec(), ino: e.ino, kind: e.kind, next: e.next }
    }
}
