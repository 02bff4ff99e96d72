//! What a file system implements: [`FileSystem`], [`Inode`] and [`FileOps`].
//!
//! The VFS does everything that is the same for all: path walk, the dentry cache, permission checks,
//! mount flags, open flags, offsets, waiting. A file system says what is where and moves the data.
//! Every method has a default that fails as Linux does where a file system lacks the operation, so a
//! new one begins small.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;

use super::context::Cx;
use super::fasync::Tells;
use super::file::{Blocker, File};
use super::io::{IoDst, IoSrc};
use super::lock::InodeState;
use super::path::Path;
use super::types::{
    Attr, DirSink, Events, FileType, MAX_OFFSET, New, OpenFlags, Perm, RenameFlags, SetAttr, StatFs,
};
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::mm::Mappable;
use crate::sync::WaitQueue;
use crate::task::{Current, Task};

/// How far the dentry cache may trust what it has seen of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Only this sentry changes names, and it does so through the cache: hits and misses are kept.
    Exclusive,
    /// Others change names too: each use of a cached name asks [`Inode::revalidate`].
    Shared,
    /// Names are not cached: each walk asks [`Inode::lookup`] (procfs).
    None,
}

/// A file system instance: what is mounted.
pub trait FileSystem: Send + Sync {
    /// Its type, as mount(2) and /proc/filesystems name it.
    fn name(&self) -> &'static str;
    /// Its root directory (or file, for a bind of one).
    fn root(&self) -> Arc<dyn Inode>;
    /// Its device number, as /proc/PID/mountinfo shows it; the `dev` of its inodes.
    fn dev(&self) -> u64;
    /// What statfs(2) says.
    fn statfs(&self) -> Result<StatFs, Errno>;
    /// How names are cached.
    fn caching(&self) -> Caching {
        Caching::Exclusive
    }
    /// The VFS has taken it into use, and caches its names: where an inode costs something that can
    /// run out, the file system may ask for unused ones back.
    fn in_use(&self, _names: Weak<dyn NameCache>) {}
    /// Writes back everything.
    fn sync(&self) -> Result<(), Errno> {
        Ok(())
    }
    /// What /proc/PID/mounts shows as the source.
    fn source(&self) -> String {
        self.name().into()
    }
    /// Its own options in /proc/PID/mounts, each with a comma before it.
    fn options(&self) -> String {
        String::new()
    }
    /// Whether it can never be written, whatever its mounts say.
    fn is_read_only(&self) -> bool {
        false
    }
    /// How many overlays lie on each other here, this one included.
    fn stack_depth(&self) -> u32 {
        0
    }
    /// Its options changed by a remount, as mount(2)'s data.
    fn remount(&self, _data: &[u8]) -> Result<(), Errno> {
        Ok(())
    }
    /// The last mount is gone. Open files may still live.
    fn unmounted(&self) {}
}

/// The names that the VFS has cached of a file system.
pub trait NameCache: Send + Sync {
    /// Gives up names that nobody uses, and with them their inodes; how many. May be called with
    /// directories locked.
    fn shrink(&self) -> usize;
}

/// What a lookup of several names found.
pub struct Found {
    /// The inodes of the first names, in order.
    pub inodes: Vec<Arc<dyn Inode>>,
    /// Why the name after them was not found (`ENOENT`: it is known not to be there), where it was
    /// asked for at all.
    pub error: Option<Errno>,
}

/// A new regular file.
pub struct Created {
    /// It.
    pub inode: Arc<dyn Inode>,
    /// Its operations, where making it opened it already.
    pub ops: Option<Box<dyn FileOps>>,
}

/// Where a symbolic link leads.
pub enum Link {
    /// To this path.
    Text(Vec<u8>),
    /// Right to this file (/proc/PID/fd and the like).
    Jump(Path),
}

/// A file, directory or other object of a file system.
///
/// Changes of names come with the directory locked by the VFS, both directories for a rename, so that
/// no two changes of one directory run at once; lookups may. The VFS has checked permissions, name
/// length, that names are neither empty nor `.` nor `..`, and that both sides are on one mount.
pub trait Inode: Send + Sync + Any {
    /// What it is; never changes.
    fn kind(&self) -> FileType;
    /// Its attributes.
    fn attr(&self) -> Result<Attr, Errno>;
    /// What decides access; a cheaper part of [`attr`](Self::attr), asked at each step of a walk.
    fn perm(&self) -> Result<Perm, Errno> {
        Ok(self.attr()?.perm())
    }
    /// Whether it lets the caller in at all, whatever its permissions say. The error where not.
    fn admits(&self, _cx: &Cx<'_>) -> Result<(), Errno> {
        Ok(())
    }
    /// Its mode as it was last known, without asking anybody: each write looks for set-ID bits in it.
    fn known_mode(&self) -> Result<u32, Errno> {
        Ok(self.perm()?.mode)
    }
    /// Changes attributes, and the change time with them.
    fn set_attr(&self, cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno>;
    /// The VFS's own state of this inode: locks, watches.
    fn state(&self) -> &InodeState;
    /// Itself, for the file system to recognize its own.
    fn as_any(&self) -> &dyn Any;
    /// Inode number, where it is cheaper than [`attr`](Self::attr).
    fn ino(&self) -> u64 {
        self.attr().map_or(0, |a| a.ino)
    }

    /// The file called `name` in this directory.
    fn lookup(&self, _cx: &Cx<'_>, _name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::ENOTDIR)
    }
    /// The files met by walking `names` (at least one), as far as that can be told in one step; for
    /// file systems where each step is a message. The VFS checks permissions afterwards.
    fn lookup_many(&self, cx: &Cx<'_>, names: &[&[u8]]) -> Found {
        match self.lookup(cx, names.first().copied().unwrap_or_default()) {
            Ok(inode) => Found { inodes: Vec::from([inode]), error: None },
            Err(e) => Found { inodes: Vec::new(), error: Some(e) },
        }
    }
    /// Whether [`lookup_many`](Self::lookup_many) is worth more than [`lookup`](Self::lookup).
    fn looks_ahead(&self) -> bool {
        false
    }
    /// Grows when names of this directory may have been changed by others: cached names that were
    /// seen before are then asked about once more ([`revalidate`](Self::revalidate)). Asked at each
    /// step of a walk, with [`Caching::Exclusive`].
    fn names_version(&self) -> u64 {
        0
    }
    /// Whether `name` still means `child` (`None`: nothing). Asked with [`Caching::Shared`], and
    /// after [`names_version`](Self::names_version) has grown.
    fn revalidate(
        &self,
        _cx: &Cx<'_>,
        _name: &[u8],
        _child: Option<&Arc<dyn Inode>>,
    ) -> Result<bool, Errno> {
        Ok(true)
    }
    /// Makes a regular file. `flags` tell how it is going to be opened.
    fn create(
        &self,
        _cx: &Cx<'_>,
        _name: &[u8],
        _new: New,
        _flags: OpenFlags,
    ) -> Result<Created, Errno> {
        Err(Errno::EACCES)
    }
    /// Makes a regular file without a name (O_TMPFILE).
    fn tmpfile(&self, _cx: &Cx<'_>, _new: New, _flags: OpenFlags) -> Result<Created, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Makes a directory.
    fn mkdir(&self, _cx: &Cx<'_>, _name: &[u8], _new: New) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// Makes a device node, FIFO or socket.
    fn mknod(
        &self,
        _cx: &Cx<'_>,
        _name: &[u8],
        _kind: FileType,
        _rdev: u64,
        _new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// Makes a symbolic link.
    fn symlink(
        &self,
        _cx: &Cx<'_>,
        _name: &[u8],
        _target: &[u8],
        _new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        Err(Errno::EPERM)
    }
    /// Gives `inode`, of the same file system, another name here.
    fn link(&self, _cx: &Cx<'_>, _name: &[u8], _inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Removes the name of something that is no directory.
    fn unlink(&self, _cx: &Cx<'_>, _name: &[u8], _child: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Removes an empty directory.
    fn rmdir(&self, _cx: &Cx<'_>, _name: &[u8], _child: &Arc<dyn Inode>) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Moves `child`, called `name` here, to `to_name` in `to`, over `replaced` if that is there. The
    /// VFS has checked kinds, that no directory moves into itself, and `RenameFlags::NOREPLACE`.
    #[allow(clippy::too_many_arguments)] // rename has two of everything
    fn rename(
        &self,
        _cx: &Cx<'_>,
        _name: &[u8],
        _child: &Arc<dyn Inode>,
        _to: &Arc<dyn Inode>,
        _to_name: &[u8],
        _replaced: Option<&Arc<dyn Inode>>,
        _flags: RenameFlags,
    ) -> Result<(), Errno> {
        Err(Errno::EPERM)
    }
    /// Where a symbolic link leads.
    fn readlink(&self, _cx: &Cx<'_>) -> Result<Link, Errno> {
        Err(Errno::EINVAL)
    }

    /// Opens it. Device nodes, FIFOs and sockets are opened by the VFS unless this gives something
    /// else than `ENXIO` for them.
    fn open(&self, _cx: &Cx<'_>, _flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        Err(Errno::ENXIO)
    }
    /// What mmap(2) maps.
    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        None
    }

    /// An extended attribute's value. `ENODATA` where it has none of this name.
    fn get_xattr(&self, _name: &[u8]) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets one; `flags` as in setxattr(2).
    fn set_xattr(&self, _name: &[u8], _value: &[u8], _flags: u32) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// The names, each ended by a zero byte.
    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }
    /// Removes one.
    fn remove_xattr(&self, _name: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// It is written or given away, and its capabilities go (security_inode_killpriv()); nothing where it has none, or whoever
    /// really writes it takes them away.
    fn drop_caps(&self) {}
}

/// Commands that are the same for many kinds of file and need no address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// From the beginning.
    Set,
    /// From where it stands.
    Current,
    /// From the end.
    End,
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

/// An open file's operations. Dropped when the last descriptor of the open file description is gone.
///
/// `read` and `write` never wait for another task: where they would, they give `EAGAIN`, and whoever
/// makes them possible wakes [`queue`](Self::queue) with the [`Events`] that came true. Waiting,
/// O_NONBLOCK, poll, select and epoll are built on that, once, in [`File`]. They may wait for the
/// host, for memory and for locks.
pub trait FileOps: Send + Sync {
    /// Reads at `offset` (meaningless for streams).
    fn read(&self, _file: &File, _dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        Err(Errno::EINVAL)
    }
    /// Writes at `offset`; where it is to append ([`IoSrc::appends`]) the file finds its end itself and tells it through
    /// [`Written::end`].
    fn write(&self, _file: &File, _src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        Err(Errno::EINVAL)
    }
    /// Whether it can be read or written without waiting, whatever its flags say (RWF_NOWAIT, Linux's FMODE_NOWAIT). Files of
    /// file systems like these cannot: the host may have to be asked.
    fn can_hurry(&self, _writes: bool) -> bool {
        false
    }
    /// Whether the caller may read `wanted` bytes of this stream now, or write (`None`), and when its read ends for want
    /// of data: terminals stop who is in the background, and have timers. May wait itself.
    fn admit(
        &self,
        _file: &File,
        _caller: &dyn Blocker,
        _wanted: Option<usize>,
    ) -> Result<Option<u64>, SysError> {
        Ok(None)
    }
    /// Whether it has no offset: pread(2) and lseek(2) give ESPIPE.
    fn is_stream(&self) -> bool {
        false
    }
    /// Whether a blocking write goes on until everything is written (pipes, sockets, terminals).
    fn writes_all(&self) -> bool {
        self.is_stream()
    }
    /// What it is ready for now. Regular files always are.
    fn poll(&self, _file: &File) -> Events {
        Events::READABLE | Events::WRITABLE
    }
    /// As [`poll`](Self::poll), for the few whose state is that of whoever asks (signalfd).
    fn poll_as(&self, file: &File, _task: &Arc<Task>) -> Events {
        self.poll(file)
    }
    /// A task is about to wait in the queue, itself or through an epoll instance.
    fn waited_for(&self, _task: &Arc<Task>) {}
    /// Whom to tell of changes; `None`: it never waits (epoll refuses it).
    fn queue(&self) -> Option<&WaitQueue> {
        None
    }
    /// What O_ASYNC makes it tell its owner; `None`: it has no such thing.
    fn tells(&self) -> Option<Tells> {
        None
    }
    /// Whether open(2) may return: false while a FIFO has no other end. The queue tells.
    fn opened(&self, _file: &File) -> Result<bool, Errno> {
        Ok(true)
    }
    /// Moves the offset: gives the new one. `now` is where it stands.
    fn seek(&self, file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        if self.is_stream() {
            return Err(Errno::ESPIPE);
        }
        default_seek(file, now, offset, whence)
    }
    /// Entries of a directory from position `pos` on, until `sink` is full; the position after them.
    /// `.` and `..` are entries too. Positions stay valid while names come and go.
    fn readdir(&self, _file: &File, _pos: u64, _sink: DirSink<'_>) -> Result<u64, Errno> {
        Err(Errno::ENOTDIR)
    }
    /// ioctl(2), those that [`File`] does not know.
    fn ioctl(&self, _cx: &mut Current, _file: &File, _command: u32, _arg: u64) -> SysResult {
        Err(Errno::ENOTTY.into())
    }
    /// Bytes that can be read now (FIONREAD).
    fn available(&self, _file: &File) -> Result<usize, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Writes back: fsync(2), fdatasync(2) with `data_only`.
    fn fsync(&self, _file: &File, _data_only: bool) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }
    /// ftruncate(2).
    fn truncate(&self, file: &File, cx: &Cx<'_>, size: u64) -> Result<(), Errno> {
        file.inode().set_attr(cx, &SetAttr { size: Some(size), ..SetAttr::default() })
    }
    /// fallocate(2); `mode` is FALLOC_FL_ bits.
    fn allocate(&self, _file: &File, _mode: u32, _offset: u64, _len: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// A descriptor is closed, maybe not the last: the result is close(2)'s.
    fn flush(&self, _file: &File) -> Result<(), Errno> {
        Ok(())
    }
    /// A descriptor of the table with this id is closed, maybe not the last.
    fn closed_in(&self, _files: u64) {}
    /// The status flags are about to become these (fcntl(F_SETFL)).
    fn set_flags(&self, _file: &File, _flags: OpenFlags) -> Result<(), Errno> {
        Ok(())
    }
    /// What mmap(2) maps.
    fn mappable(&self, file: &File) -> Option<Arc<dyn Mappable>> {
        file.inode().clone().mappable()
    }
    /// Lines for /proc/PID/fdinfo, after the common ones.
    fn fdinfo(&self, _file: &File) -> String {
        String::new()
    }
    /// Itself, to be recognized (epoll, pipes in splice, sockets).
    fn as_any(&self) -> &dyn Any;
}

/// What a write did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Bytes written.
    pub count: usize,
    /// The offset after them.
    pub end: u64,
}

/// lseek(2) for files that have no end to count from (Linux's seq_lseek()): EINVAL for SEEK_END.
pub fn seek_without_end(file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
    match whence {
        Whence::End => Err(Errno::EINVAL),
        whence => default_seek(file, now, offset, whence),
    }
}

/// lseek(2) for files with a length: data everywhere, one hole at the end.
pub fn default_seek(file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
    let size = || Ok(file.attr()?.size);
    let base = match whence {
        Whence::Set => 0,
        Whence::Current => now,
        Whence::End => size()?,
        Whence::Data | Whence::Hole => {
            let at = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let size = size()?;
            return match whence {
                _ if at >= size => Err(Errno::ENXIO),
                Whence::Data => Ok(at),
                _ => Ok(size),
            };
        }
    };
    base.checked_add_signed(offset).filter(|at| *at <= MAX_OFFSET).ok_or(Errno::EINVAL)
}
