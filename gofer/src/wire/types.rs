//! The types of the messages' fields.

use super::codec::{Element, Field, Reader, Writer, structures};
use super::{MAX_FIDS, MAX_STEPS, Result, WireError};

/// The client's name for a file of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fid(pub u32);

impl Fid {
    /// No fid (attach(5): NOFID). As a `newfid` of the dialect: do not keep the file.
    pub const NONE: Fid = Fid(u32::MAX);
}

impl<'a> Field<'a> for Fid {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(Fid(reader.get()?))
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.put(&self.0)
    }
}

impl Element<'_> for Fid {
    const MAX: usize = MAX_FIDS;
}

impl Element<'_> for u32 {
    const MAX: usize = MAX_FIDS;
}

/// A name of a plain walk.
impl<'a> Element<'a> for &'a [u8] {
    const MAX: usize = MAX_STEPS;
}

/// File content or another long value: `count[4] data[count]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Data<'a>(pub &'a [u8]);

impl<'a> Field<'a> for Data<'a> {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        let length: u32 = reader.get()?;
        Ok(Data(reader.bytes(length as usize)?))
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.put(&u32::try_from(self.0.len()).map_err(|_| WireError::TooLong)?)?;
        writer.bytes(self.0)
    }
}

/// One step of a walk: a name, and the fid that the file found there becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<'a> {
    /// The new fid, or [`Fid::NONE`].
    pub newfid: Fid,
    /// One component: not empty, no slash, not `.` or `..`.
    pub name: &'a [u8],
}

impl<'a> Field<'a> for Step<'a> {
    fn get(reader: &mut Reader<'a>) -> Result<Self> {
        Ok(Step { newfid: reader.get()?, name: reader.get()? })
    }
    fn put(&self, writer: &mut Writer<'_>) -> Result<()> {
        writer.put(&self.newfid)?;
        writer.put(&self.name)
    }
}

impl<'a> Element<'a> for Step<'a> {
    const MAX: usize = MAX_STEPS;
}

structures! {
    /// What identifies a file on the server (intro(5)).
    pub struct Qid {
        /// [`QidKind`] bits.
        pub kind: u8,
        /// Always 0: the server keeps no versions.
        pub version: u32,
        /// Unique among the files of one connection while they exist.
        pub path: u64,
    }

    /// A point in time, as in statx(2).
    pub struct Time {
        /// Seconds since the epoch.
        pub sec: i64,
        /// Nanoseconds within the second.
        pub nsec: u32,
    }

    /// A device number.
    pub struct Dev {
        /// The driver.
        pub major: u32,
        /// The device of that driver.
        pub minor: u32,
    }

    /// Everything that statx(2) says about a file.
    pub struct Attr {
        /// Which fields the host filled (STATX_*).
        pub mask: u32,
        /// Preferred size of reads and writes.
        pub blksize: u32,
        /// STATX_ATTR_* of the file.
        pub attributes: u64,
        /// Which of them the host's file system knows.
        pub attributes_mask: u64,
        /// Number of names.
        pub nlink: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Type and permissions.
        pub mode: u32,
        /// Inode number.
        pub ino: u64,
        /// Length in bytes.
        pub size: u64,
        /// Blocks of 512 bytes.
        pub blocks: u64,
        /// Last access.
        pub atime: Time,
        /// Creation.
        pub btime: Time,
        /// Last change of attributes.
        pub ctime: Time,
        /// Last change of content.
        pub mtime: Time,
        /// The device that a device node names.
        pub rdev: Dev,
        /// The device that holds the file.
        pub dev: Dev,
    }

    /// A file as a walk finds it.
    pub struct Node {
        /// Its identity.
        pub qid: Qid,
        /// Its attributes.
        pub attr: Attr,
    }

    /// The attributes that Tgetattr of the plain protocol reports.
    pub struct PlainAttr {
        /// Which fields are valid (P9_GETATTR_*).
        pub valid: u64,
        /// Identity.
        pub qid: Qid,
        /// Type and permissions.
        pub mode: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Number of names.
        pub nlink: u64,
        /// Device that a device node names, as `dev_t` of Linux (makedev).
        pub rdev: u64,
        /// Length in bytes.
        pub size: u64,
        /// Preferred size of reads and writes.
        pub blksize: u64,
        /// Blocks of 512 bytes.
        pub blocks: u64,
        /// Last access.
        pub atime_sec: u64,
        /// Its nanoseconds.
        pub atime_nsec: u64,
        /// Last change of content.
        pub mtime_sec: u64,
        /// Its nanoseconds.
        pub mtime_nsec: u64,
        /// Last change of attributes.
        pub ctime_sec: u64,
        /// Its nanoseconds.
        pub ctime_nsec: u64,
        /// Creation.
        pub btime_sec: u64,
        /// Its nanoseconds.
        pub btime_nsec: u64,
        /// Inode generation: not known.
        pub generation: u64,
        /// Data version: not known.
        pub data_version: u64,
    }

    /// Attributes to set.
    pub struct SetAttr {
        /// Which ([`SetValid`] bits).
        pub valid: u32,
        /// Permissions.
        pub mode: u32,
        /// Owner.
        pub uid: u32,
        /// Group.
        pub gid: u32,
        /// Length in bytes.
        pub size: u64,
        /// Last access, seconds.
        pub atime_sec: u64,
        /// Its nanoseconds.
        pub atime_nsec: u64,
        /// Last change of content, seconds.
        pub mtime_sec: u64,
        /// Its nanoseconds.
        pub mtime_nsec: u64,
    }

    /// What statfs(2) says, in the order of Rstatfs.
    pub struct StatFs {
        /// Kind of file system (its magic number).
        pub kind: u32,
        /// Block size.
        pub bsize: u32,
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
        /// Identity of the file system.
        pub fsid: u64,
        /// Longest name.
        pub namelen: u32,
    }
}

impl Element<'_> for Qid {
    const MAX: usize = MAX_STEPS;
}

impl Element<'_> for Node {
    const MAX: usize = MAX_STEPS;
}

bitflags::bitflags! {
    /// Bits of [`Qid::kind`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct QidKind: u8 {
        /// A directory.
        const DIR = 0x80;
        /// A symbolic link.
        const SYMLINK = 0x02;
    }

    /// Which fields of [`SetAttr`] to set (P9_ATTR_* of 9P2000.L, ATTR_* of Linux).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct SetValid: u32 {
        /// The permissions.
        const MODE = 1;
        /// The owner.
        const UID = 1 << 1;
        /// The group.
        const GID = 1 << 2;
        /// The length.
        const SIZE = 1 << 3;
        /// The time of last access: to now, unless ATIME_SET.
        const ATIME = 1 << 4;
        /// The time of last change: to now, unless MTIME_SET.
        const MTIME = 1 << 5;
        /// The time of last change of attributes: the host does that by itself.
        const CTIME = 1 << 6;
        /// The time of last access is given.
        const ATIME_SET = 1 << 7;
        /// The time of last change is given.
        const MTIME_SET = 1 << 8;
    }

    /// How to open a file: the values of Linux on x86-64, as 9P2000.L has them (P9_DOTL_*).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// Write only. Neither this nor RDWR: read only.
        const WRONLY = 0o1;
        /// Read and write.
        const RDWR = 0o2;
        /// Create.
        const CREATE = 0o100;
        /// Fail if it exists.
        const EXCL = 0o200;
        /// Do not make it the controlling terminal.
        const NOCTTY = 0o400;
        /// Make it empty.
        const TRUNC = 0o1000;
        /// Write at the end.
        const APPEND = 0o2000;
        /// Do not block.
        const NONBLOCK = 0o4000;
        /// Data synchronously.
        const DSYNC = 0o10000;
        /// Signal-driven input.
        const FASYNC = 0o20000;
        /// Around the page cache.
        const DIRECT = 0o40000;
        /// Large files.
        const LARGEFILE = 0o100000;
        /// Only if a directory.
        const DIRECTORY = 0o200000;
        /// Not through a symbolic link.
        const NOFOLLOW = 0o400000;
        /// Do not update the time of last access.
        const NOATIME = 0o1000000;
        /// Close on exec.
        const CLOEXEC = 0o2000000;
        /// All synchronously.
        const SYNC = 0o4000000;
    }

    /// What an open of the dialect asks for besides the file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Wish: u8 {
        /// A descriptor of it.
        const DONATE = 1;
        /// With a descriptor, no open fid as well: an open makes no new fid, a creation one that
        /// is not open.
        const NOT_KEPT = 2;
        /// Of a directory: to be told of changes that others make, as by Twatch. The watch is set before the directory
        /// is opened, and is the opened fid's, not the new one's.
        const WATCH = 1 << 2;
    }

    /// What an open of the dialect got besides the file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Granted: u8 {
        /// One descriptor accompanies the reply.
        const DONATED = 1;
        /// The directory is watched. Without it, it could not be (the limit of watches).
        const WATCHED = 1 << 1;
    }

    /// Properties of an attach point.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct AttachFlags: u8 {
        /// Nothing can be changed beneath it.
        const READ_ONLY = 1;
    }

    /// What has changed in a watched directory or file.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Changed: u32 {
        /// The name now means another file or none.
        const NAME = 1;
        /// Attributes.
        const ATTR = 1 << 1;
        /// Content (and attributes).
        const DATA = 1 << 2;
        /// Events were lost: everything watched may have changed.
        const ALL = 1 << 3;
        /// The watch has ended.
        const ENDED = 1 << 4;
    }
}

/// Kinds and results of locks (P9_LOCK_* of 9P2000.L).
pub mod lock {
    /// A read lock.
    pub const READ: u8 = 0;
    /// A write lock.
    pub const WRITE: u8 = 1;
    /// No lock.
    pub const UNLOCK: u8 = 2;
    /// Granted.
    pub const SUCCESS: u8 = 0;
    /// Somebody else holds a lock that conflicts.
    pub const BLOCKED: u8 = 1;
    /// Failed.
    pub const ERROR: u8 = 2;
}

/// Flag of Tunlinkat: remove a directory (AT_REMOVEDIR).
pub const UNLINK_DIR: u32 = 0x200;
