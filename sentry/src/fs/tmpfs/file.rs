//! Open files of a tmpfs, and what they hold.

use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicU32, Ordering};

use super::node::Node;
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode, Whence, Written, default_seek};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::pages::{Charge, Pages};
use crate::fs::types::{DirSink, MAX_OFFSET, SetAttr, Time};
use crate::mm::{FilePage, Mappable, Mm};
use crate::platform::PAGE_SIZE;
use crate::sync::Mutex;

/// Seals of a memfd (fcntl(F_ADD_SEALS), linux/fcntl.h).
#[allow(missing_docs)] // the names are fcntl(2)'s
pub mod seal {
    pub const SEAL: u32 = 1;
    pub const SHRINK: u32 = 2;
    pub const GROW: u32 = 4;
    pub const WRITE: u32 = 8;
    pub const FUTURE_WRITE: u32 = 16;
    pub const EXEC: u32 = 32;
    pub const ALL: u32 = 63;
}

/// FALLOC_FL_KEEP_SIZE (linux/falloc.h).
const KEEP_SIZE: u32 = 1;
/// FALLOC_FL_PUNCH_HOLE.
const PUNCH_HOLE: u32 = 2;

/// A regular file's data.
#[derive(Default)]
pub struct Body {
    /// The data.
    pub pages: Pages,
    /// Lets one write or truncation at a time in.
    lock: Mutex<()>,
    /// [`seal`] bits.
    pub seals: AtomicU32,
}

impl Body {
    fn sealed(&self, seals: u32) -> bool {
        self.seals.load(Ordering::Relaxed) & seals != 0
    }

    /// Changes the length.
    pub fn truncate(
        &self,
        size: u64,
        charge: &dyn Charge,
        file: &dyn Mappable,
    ) -> Result<(), Errno> {
        let _one = self.lock.lock();
        let now = self.pages.size();
        if size < now && self.sealed(seal::SHRINK) || size > now && self.sealed(seal::GROW) {
            return Err(Errno::EPERM);
        }
        self.pages.truncate(size, charge, file);
        Ok(())
    }
}

/// An open regular file.
pub struct FileHandle(pub Arc<Node>);

impl FileHandle {
    fn body(&self) -> Result<&Body, Errno> {
        self.0.body().ok_or(Errno::EINVAL)
    }

    /// The seals of the file, for fcntl(F_GET_SEALS).
    pub fn seals(&self) -> Result<&AtomicU32, Errno> {
        Ok(&self.body()?.seals)
    }
}

impl FileOps for FileHandle {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let n = self.body()?.pages.read(dst, offset)?;
        self.0.change(|attr| file.accessed(attr));
        Ok(n)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        let body = self.body()?;
        if src.remaining() == 0 {
            return Ok(Written { count: 0, end: offset });
        }
        let _one = body.lock.lock();
        let size = body.pages.size();
        let at = if src.appends(file.flags()) { size } else { offset };
        let room = MAX_OFFSET.saturating_sub(at);
        if room == 0 {
            return Err(Errno::EFBIG);
        }
        src.truncate(usize::try_from(room).unwrap_or(usize::MAX));
        if body.sealed(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        if body.sealed(seal::GROW) {
            let inside = size.saturating_sub(at);
            if inside == 0 {
                return Err(Errno::EPERM);
            }
            src.truncate(usize::try_from(inside).unwrap_or(usize::MAX));
        }
        let count = body.pages.write(src, at, &*self.0.shared)?;
        self.0.touch();
        Ok(Written { count, end: at.saturating_add(count as u64) })
    }

    fn seek(&self, file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        match whence {
            Whence::Data | Whence::Hole => {
                let at = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
                self.body()?.pages.seek(at, whence == Whence::Data)
            }
            _ => default_seek(file, now, offset, whence),
        }
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn truncate(&self, _file: &File, cx: &Cx<'_>, size: u64) -> Result<(), Errno> {
        self.0.set_attr(cx, &SetAttr { size: Some(size), ..SetAttr::default() })
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        if mode == PUNCH_HOLE | KEEP_SIZE {
            return self.0.punch_hole(offset, len);
        }
        let body = self.body()?;
        let _one = body.lock.lock();
        let end = offset.saturating_add(len);
        match mode {
            0 | KEEP_SIZE => {
                if body.sealed(seal::GROW) && end > body.pages.size() {
                    return Err(Errno::EPERM);
                }
                body.pages.allocate(offset, len, mode == 0, &*self.0.shared)?;
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        self.0.touch();
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory.
pub struct DirOps(pub Arc<Node>);

impl FileOps for DirOps {
    fn readdir(&self, file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let pos = self.0.readdir(pos, sink)?;
        self.0.change(|attr| file.accessed(attr));
        Ok(pos)
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Node {
    /// Takes the content of a range away, whose bytes are zero afterwards.
    fn punch_hole(&self, offset: u64, len: u64) -> Result<(), Errno> {
        let body = self.body().ok_or(Errno::EINVAL)?;
        let _one = body.lock.lock();
        if body.sealed(seal::WRITE | seal::FUTURE_WRITE) {
            return Err(Errno::EPERM);
        }
        body.pages.punch(offset, len, &*self.shared, self);
        self.touch();
        Ok(())
    }
}

impl Mappable for Node {
    fn page(&self, index: u64, write: bool) -> Result<FilePage, Errno> {
        let body = self.body().ok_or(Errno::EFAULT)?;
        if index >= body.pages.size().div_ceil(PAGE_SIZE as u64) {
            return Err(Errno::EFAULT);
        }
        let page = body.pages.make(index, 1, &*self.shared)?;
        if write {
            let now = Time::now();
            self.change(|a| (a.mtime, a.ctime) = (now, now));
        }
        Ok(FilePage::Cached(page))
    }

    fn around(&self, index: u64, most: u32) -> u32 {
        self.body().map_or(1, |body| body.pages.run(index, most).max(1))
    }

    fn attach(&self, mm: &Arc<Mm>) {
        if let Some(body) = self.body() {
            body.pages.attach(mm);
        }
    }

    fn detach(&self, mm: &Mm) {
        if let Some(body) = self.body() {
            body.pages.detach(mm);
        }
    }

    fn punch(&self, first: u64, pages: u64) -> Result<(), Errno> {
        let page = PAGE_SIZE as u64;
        self.punch_hole(first.saturating_mul(page), pages.saturating_mul(page))
    }

    fn tracks_writes(&self) -> bool {
        false
    }

    fn identity(&self) -> (u64, u64) {
        (self.shared.dev, self.ino)
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(())
    }
}
