//! Open files and directories of an overlay.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use hashbrown::HashSet;

use super::node::Node;
use super::{is_whiteout, look};
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode, Whence, Written};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::types::{DirSink, FileType, OpenFlags, OwnedEntry, give_entries};
use crate::mm::Mappable;
use crate::sync::Mutex;

/// What of an open's flags holds for the file of a layer behind it.
fn kept(flags: OpenFlags) -> OpenFlags {
    let once = OpenFlags::CREAT
        | OpenFlags::EXCL
        | OpenFlags::NOCTTY
        | OpenFlags::TRUNC
        | OpenFlags::CLOEXEC
        | OpenFlags::EXEC
        | OpenFlags::PATH;
    flags - once
}

/// Opens an inode of a layer, unseen by who watches it there.
pub(in crate::fs) fn open_real(
    under: &Cx<'_>,
    inode: &Arc<dyn Inode>,
    flags: OpenFlags,
) -> Result<Arc<File>, Errno> {
    File::new(inode.open(under, flags)?, inode.clone(), None, flags)
}

/// All entries of a directory of a layer, but `.` and `..`.
pub(in crate::fs) fn list(under: &Cx<'_>, dir: &Arc<dyn Inode>) -> Result<Vec<OwnedEntry>, Errno> {
    let file = open_real(under, dir, OpenFlags::DIRECTORY | OpenFlags::NOATIME)?;
    let mut all: Vec<OwnedEntry> = Vec::new();
    let mut pos = 0;
    loop {
        // An implementation may give a part at a time; it is done when it gives nothing.
        let before = all.len();
        pos = file.ops().readdir(&file, pos, &mut |entry| {
            all.push(entry.into());
            true
        })?;
        if all.len() == before {
            break;
        }
    }
    all.retain(|e| e.name != b"." && e.name != b"..");
    Ok(all)
}

/// An open regular file: what it reads is the lower file until that is copied up, by whomever.
pub struct FileHandle {
    node: Arc<Node>,
    /// As it was when this was opened.
    first: Arc<File>,
    /// Whether that is the upper one.
    is_upper: bool,
    /// The upper file, where it has been copied up since.
    copy: spin::Once<Arc<File>>,
}

impl FileHandle {
    pub(super) fn open(
        cx: &Cx<'_>,
        node: Arc<Node>,
        flags: OpenFlags,
    ) -> Result<FileHandle, Errno> {
        let first;
        let is_upper = node.upper.get().is_some();
        {
            let under = node.shared.under(cx);
            node.check_read(&under)?;
            let mut flags = kept(flags);
            flags.set(OpenFlags::NOATIME, !is_upper || flags.contains(OpenFlags::NOATIME));
            first = open_real(&under, node.real()?.1, flags)?;
        }
        Ok(FileHandle { node, first, is_upper, copy: spin::Once::new() })
    }

    /// One that is open in the upper layer already.
    pub(super) fn opened(node: Arc<Node>, first: Arc<File>) -> FileHandle {
        FileHandle { node, first, is_upper: true, copy: spin::Once::new() }
    }

    /// The file that has the data.
    fn file(&self) -> Result<&Arc<File>, Errno> {
        if self.is_upper || self.node.upper.get().is_none() {
            return Ok(&self.first);
        }
        if let Some(copy) = self.copy.get() {
            return Ok(copy);
        }
        let flags = self.first.flags() - OpenFlags::NOATIME;
        let copy = open_real(&self.node.shared.cx(), self.node.real()?.1, flags)?;
        Ok(self.copy.call_once(|| copy))
    }
}

impl FileOps for FileHandle {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let file = self.file()?;
        file.ops().read(file, dst, offset)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        let file = self.file()?;
        file.ops().write(file, src, offset)
    }

    fn seek(&self, _file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let file = self.file()?;
        file.ops().seek(file, now, offset, whence)
    }

    fn available(&self, _file: &File) -> Result<usize, Errno> {
        let file = self.file()?;
        file.ops().available(file)
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result<(), Errno> {
        let file = self.file()?;
        file.ops().fsync(file, data_only)
    }

    fn truncate(&self, _file: &File, cx: &Cx<'_>, size: u64) -> Result<(), Errno> {
        let file = self.file()?;
        file.ops().truncate(file, cx, size)
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        let file = self.file()?;
        file.ops().allocate(file, mode, offset, len)
    }

    fn flush(&self, _file: &File) -> Result<(), Errno> {
        let file = self.file()?;
        file.ops().flush(file)
    }

    fn set_flags(&self, _file: &File, flags: OpenFlags) -> Result<(), Errno> {
        self.file()?.set_flags(flags)
    }

    fn mappable(&self, _file: &File) -> Option<Arc<dyn Mappable>> {
        // As on Linux, a mapping is of the file that was opened.
        self.first.mappable()
    }

    fn fdinfo(&self, _file: &File) -> String {
        self.first.ops().fdinfo(&self.first)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory: its entries as they were when it was last read from the beginning.
pub struct DirHandle {
    node: Arc<Node>,
    entries: Mutex<Option<Vec<OwnedEntry>>>,
}

impl DirHandle {
    pub(super) fn open(node: Arc<Node>) -> DirHandle {
        DirHandle { node, entries: Mutex::new(None) }
    }
}

impl FileOps for DirHandle {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let mut entries = self.entries.lock();
        if pos == 0 || entries.is_none() {
            *entries = Some(self.node.entries()?);
        }
        let own = self.node.ino();
        let parent = self.node.place().map_or(own, |(dir, _)| dir.ino());
        let dots = [(&b"."[..], own), (&b".."[..], parent)];
        let dots = dots.into_iter().map(|(name, ino)| (name, ino, FileType::Directory));
        let rest = entries.iter().flatten().map(|e| (&*e.name, e.ino, e.kind));
        Ok(give_entries(&mut dots.chain(rest), pos, sink))
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result<(), Errno> {
        match self.node.upper.get().and_then(|d| d.inode()) {
            Some(upper) => {
                let file = open_real(&self.node.shared.cx(), upper, OpenFlags::DIRECTORY)?;
                file.ops().fsync(&file, data_only)
            }
            None => Ok(()),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Node {
    /// The entries of this directory, each name once, without those that are gone.
    pub(super) fn entries(&self) -> Result<Vec<OwnedEntry>, Errno> {
        let under = self.shared.cx();
        let mut all = Vec::new();
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        let merge = self.is_merge();
        for (layer, dir) in self.reals() {
            let in_upper = layer == 0 && self.upper.get().is_some();
            let inode = dir.inode().ok_or(Errno::ESTALE)?;
            for mut entry in list(&under, inode)? {
                if merge && !seen.insert(entry.name.clone()) {
                    continue;
                }
                if entry.kind == FileType::CharDevice
                    && let Some(there) = look(&under, dir, &entry.name)?
                    && is_whiteout(&there)?
                {
                    continue;
                }
                // A copy has the number of what it is a copy of.
                if in_upper && merge && self.shared.same_fs {
                    match self.lookup(&under, &entry.name) {
                        Ok(inode) => entry.ino = inode.ino(),
                        Err(Errno::ENOENT) => continue,
                        Err(e) => return Err(e),
                    }
                }
                all.push(entry);
            }
        }
        Ok(all)
    }

    /// `ENOTEMPTY` where this directory has entries.
    pub(super) fn check_empty(&self) -> Result<(), Errno> {
        if self.entries()?.is_empty() { Ok(()) } else { Err(Errno::ENOTEMPTY) }
    }
}

/// The operations of a new file that is open already.
pub(super) fn opened(node: &Arc<Node>, file: Arc<File>) -> Box<dyn FileOps> {
    Box::new(FileHandle::opened(node.clone(), file))
}
