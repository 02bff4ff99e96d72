//! Open files and directories of an overlay.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use super::node::Node;
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode, Whence, Written};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::tmpfs;
use crate::fs::types::{DirSink, FileType, OpenFlags, OwnedEntry, give_entries};
use crate::mm::Mappable;
use crate::sync::Mutex;

/// An open regular file: what it reads is the lower file until that is copied up, by whomever.
pub struct FileHandle {
    node: Arc<Node>,
    /// The lower file, open for reading, where it had not been copied up at the time.
    lower: Option<Arc<File>>,
    upper: spin::Once<tmpfs::FileHandle>,
}

impl FileHandle {
    pub(super) fn open(cx: &Cx<'_>, node: Arc<Node>) -> Result<FileHandle, Errno> {
        let lower = match (node.copied(), node.lower_inode()) {
            (None, Some(lower)) => {
                let ops = lower.open(cx, OpenFlags::LARGEFILE)?;
                Some(File::new(ops, lower.clone(), None, OpenFlags::empty())?)
            }
            _ => None,
        };
        Ok(FileHandle { node, lower, upper: spin::Once::new() })
    }

    /// The upper file, if the data is there.
    fn upper(&self) -> Option<&tmpfs::FileHandle> {
        if let Some(upper) = self.upper.get() {
            return Some(upper);
        }
        let node = self.node.copied()?;
        Some(self.upper.call_once(|| tmpfs::FileHandle(node.clone())))
    }

    /// The upper file: it has been opened for writing.
    fn written(&self) -> Result<&tmpfs::FileHandle, Errno> {
        self.upper().ok_or(Errno::EBADF)
    }

    fn lower(&self) -> Result<&Arc<File>, Errno> {
        self.lower.as_ref().ok_or(Errno::EIO)
    }
}

impl FileOps for FileHandle {
    fn read(&self, file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        match self.upper() {
            Some(upper) => upper.read(file, dst, offset),
            None => {
                let lower = self.lower()?;
                lower.ops().read(lower, dst, offset)
            }
        }
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        self.written()?.write(file, src, offset)
    }

    fn seek(&self, file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        match self.upper() {
            Some(upper) => upper.seek(file, now, offset, whence),
            None => {
                let lower = self.lower()?;
                lower.ops().seek(lower, now, offset, whence)
            }
        }
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn truncate(&self, file: &File, cx: &Cx<'_>, size: u64) -> Result<(), Errno> {
        self.written()?.truncate(file, cx, size)
    }

    fn allocate(&self, file: &File, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        self.written()?.allocate(file, mode, offset, len)
    }

    fn mappable(&self, _file: &File) -> Option<Arc<dyn Mappable>> {
        match (self.upper(), &self.lower) {
            (None, Some(lower)) => lower.mappable(),
            _ => self.node.data().ok()?.mappable(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory: its entries as they were when it was last read from the beginning.
pub struct DirHandle {
    node: Arc<Node>,
    lower: Option<Arc<File>>,
    entries: Mutex<Option<Vec<OwnedEntry>>>,
}

impl DirHandle {
    pub(super) fn open(cx: &Cx<'_>, node: Arc<Node>) -> Result<DirHandle, Errno> {
        let lower = node.open_lower(cx)?;
        Ok(DirHandle { node, lower, entries: Mutex::new(None) })
    }
}

impl FileOps for DirHandle {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let mut entries = self.entries.lock();
        if pos == 0 || entries.is_none() {
            *entries = Some(self.node.entries(self.lower.as_ref())?);
        }
        let parent = self.node.parent_ino();
        let dots = [(&b"."[..], self.node.ino()), (&b".."[..], parent)];
        let dots = dots.into_iter().map(|(name, ino)| (name, ino, FileType::Directory));
        let rest = entries.iter().flatten().map(|e| (&*e.name, e.ino, e.kind));
        Ok(give_entries(&mut dots.chain(rest), pos, sink))
    }

    fn fsync(&self, _file: &File, _data_only: bool) -> Result<(), Errno> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
