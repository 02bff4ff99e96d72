//! Character devices, and the minimal /dev.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;

use super::context::Cx;
use super::file::File;
use super::inode::{FileOps, Inode, Whence, Written};
use super::io::{IoDst, IoSrc};
use super::tmpfs::{Options, Tmpfs};
use super::types::{FileType, New, OpenFlags, makedev};
use crate::errno::Errno;
use crate::mm::{Mappable, SharedMemory};
use crate::platform::platform;

/// Major number of the memory devices (Documentation/admin-guide/devices.txt).
const MEM_MAJOR: u32 = 1;

/// The devices that [`open`] knows and every container has: name, major, minor.
pub const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", MEM_MAJOR, 3),
    ("zero", MEM_MAJOR, 5),
    ("full", MEM_MAJOR, 7),
    ("random", MEM_MAJOR, 8),
    ("urandom", MEM_MAJOR, 9),
    ("tty", 5, 0),
];

/// The links that every /dev has (OCI runtime-spec, config-linux).
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Opens the device with this number. `ENXIO` where there is none.
pub fn open(cx: &Cx<'_>, rdev: u64, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
    let memory = |minor| rdev == makedev(MEM_MAJOR, minor);
    if memory(3) {
        Ok(Box::new(Null))
    } else if memory(5) || memory(7) {
        Ok(Box::new(Zero { full: memory(7) }))
    } else if memory(8) || memory(9) {
        Ok(Box::new(Random))
    } else if rdev == makedev(5, 0) {
        super::tty::open_own(cx, flags)
    } else {
        Err(Errno::ENXIO)
    }
}

/// A tmpfs that holds the minimal /dev.
pub fn devtmpfs(options: &Options) -> Result<Arc<Tmpfs>, Errno> {
    let fs = Tmpfs::new("devtmpfs", options)?;
    Ok(fs)
}

/// Makes the devices and links of a container's /dev in this directory, those that are not there.
pub fn populate(cx: &Cx<'_>, dir: &Arc<dyn Inode>) -> Result<(), Errno> {
    let absent = |result: Result<_, Errno>| match result {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(e) => Err(e),
    };
    let new = |mode| New { mode, uid: cx.creds.fsuid, gid: cx.creds.fsgid };
    // Devices are nobody's but the host's.
    let device = New { mode: 0o666, uid: 0, gid: 0 };
    let missing = |name: &str| match dir.lookup(cx, name.as_bytes()) {
        Ok(_) => Ok(false),
        Err(Errno::ENOENT) => Ok(true),
        Err(e) => Err(e),
    };
    for (name, major, minor) in DEFAULT {
        if missing(name)? {
            let rdev = makedev(major, minor);
            absent(dir.mknod(cx, name.as_bytes(), FileType::CharDevice, rdev, device))?;
        }
    }
    for (name, target) in LINKS {
        if missing(name)? {
            absent(dir.symlink(cx, name.as_bytes(), target.as_bytes(), new(0o777)))?;
        }
    }
    for name in ["pts", "shm", "mqueue"] {
        if missing(name)? {
            absent(dir.mkdir(cx, name.as_bytes(), new(0o755)))?;
        }
    }
    Ok(())
}

/// Takes all of a write.
fn swallow(src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
    let count = src.remaining();
    src.truncate(0);
    Ok(Written { count, end: offset })
}

/// Any seek leads to 0, as Linux's null_lseek does.
struct Null;

impl FileOps for Null {
    fn can_hurry(&self, _writes: bool) -> bool {
        true
    }

    fn read(&self, _file: &File, _dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        Ok(0)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        swallow(src, offset)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: Whence) -> Result<u64, Errno> {
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// /dev/zero, and /dev/full, which takes nothing.
struct Zero {
    full: bool,
}

impl FileOps for Zero {
    fn can_hurry(&self, _writes: bool) -> bool {
        !self.full
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        dst.put_zeros(dst.remaining())
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        if self.full {
            return Err(Errno::ENOSPC);
        }
        swallow(src, offset)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: Whence) -> Result<u64, Errno> {
        Ok(0)
    }

    fn mappable(&self, _file: &File) -> Option<Arc<dyn Mappable>> {
        // Each mapping of /dev/zero has memory of its own; it need not end anywhere.
        (!self.full).then(|| SharedMemory::new(u64::MAX >> 12) as Arc<dyn Mappable>)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

struct Random;

impl FileOps for Random {
    fn can_hurry(&self, _writes: bool) -> bool {
        true
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        dst.fill_with(dst.remaining(), |_, buf| {
            platform().random(buf);
            Ok(buf.len())
        })
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        // Stirring the pool is the host's business; the bytes are taken, as Linux takes them.
        swallow(src, offset)
    }

    fn seek(&self, _: &File, _: u64, _: i64, _: Whence) -> Result<u64, Errno> {
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
