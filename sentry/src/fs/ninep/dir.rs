//! Open directories.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;

use gofer::wire::messages::entries_attr;
use gofer::wire::{Fid, OpenFlags, Reply, Request};

use super::inode::NinepInode;
use crate::errno::Errno;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode};
use crate::fs::types::{DirEntry, DirSink, FileType, OwnedEntry};
use crate::sync::Mutex;

/// Bytes of entries asked for at once: some 200 entries.
const BATCH: u32 = 32 * 1024;

/// An open directory.
pub(super) struct DirOps {
    inode: Arc<NinepInode>,
    /// The directory, open at the gofer.
    fid: Fid,
    batch: Mutex<Batch>,
}

/// Entries that the gofer gave and nobody has taken yet.
#[derive(Default)]
struct Batch {
    /// The position of the first of them.
    start: u64,
    entries: Vec<OwnedEntry>,
    /// Nothing follows them.
    end: bool,
}

impl DirOps {
    pub(super) fn new(inode: Arc<NinepInode>) -> Result<Self, Errno> {
        let conn = &inode.remote.conn;
        let newfid = conn.new_fid();
        let flags = OpenFlags::DIRECTORY.bits();
        let opened = inode
            .remote
            .call(&Request::OpenX { fid: inode.fid, newfid, flags, wish: 0 })
            .and_then(|answer| answer.reply().map(|_| ()));
        opened.inspect_err(|_| conn.unused(newfid))?;
        Ok(DirOps { inode, fid: newfid, batch: Mutex::default() })
    }

    /// Asks the gofer for the entries from `pos` on.
    fn fetch(&self, pos: u64) -> Result<Batch, Errno> {
        let remote = &self.inode.remote;
        let count = BATCH.min(remote.conn.io_max() as u32);
        let answer = remote.call(&Request::ReaddirX { fid: self.fid, offset: pos, count })?;
        let Reply::ReaddirX { end, data } = answer.reply()? else { return Err(Errno::EIO) };
        let mut entries = Vec::new();
        for entry in entries_attr(data) {
            let entry = entry.map_err(|_| Errno::EIO)?;
            let ino = match entry.name {
                b"." => self.inode.ino(),
                b".." => match self.inode.parent.load(Ordering::Relaxed) {
                    0 => self.inode.ino(),
                    parent => parent,
                },
                _ => entry.node.attr.ino,
            };
            // DT_* are the type bits of a mode, shifted down (readdir(3)).
            let kind = FileType::from_mode(u32::from(entry.kind) << 12).ok_or(Errno::EIO)?;
            entries.push(OwnedEntry { name: entry.name.to_vec(), ino, kind, next: entry.offset });
        }
        Ok(Batch { start: pos, entries, end: end != 0 })
    }
}

impl FileOps for DirOps {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let mut batch = self.batch.lock();
        let mut pos = pos;
        let mut given = false;
        loop {
            // Where in the batch the position is: at its start, or after one of its entries.
            let known = batch.entries.iter().position(|entry| entry.next == pos).map(|at| at + 1);
            let from = match known {
                Some(after) if pos != 0 => after,
                _ if pos == batch.start && pos != 0 => 0,
                _ => batch.entries.len(),
            };
            let rest = batch.entries.get(from..).unwrap_or_default();
            if rest.is_empty() {
                let at_end = batch.end && known.is_some() && pos != 0;
                if at_end {
                    return Ok(pos);
                }
                // From the beginning the directory is read anew, as after rewinddir(3).
                *batch = match self.fetch(pos) {
                    Ok(batch) => batch,
                    Err(_) if given => return Ok(pos),
                    Err(e) => return Err(e),
                };
                if batch.entries.is_empty() {
                    return Ok(pos);
                }
                let rest = core::mem::take(&mut batch.entries);
                let stopped = give(&rest, &mut pos, &mut given, sink);
                batch.entries = rest;
                if stopped {
                    return Ok(pos);
                }
            } else if give(rest, &mut pos, &mut given, sink) {
                return Ok(pos);
            }
        }
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result<(), Errno> {
        self.inode.fsync(data_only)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Gives entries to the sink; whether it was full.
fn give(entries: &[OwnedEntry], pos: &mut u64, given: &mut bool, sink: DirSink<'_>) -> bool {
    for entry in entries {
        let OwnedEntry { name, ino, kind, next } = entry;
        if !sink(DirEntry { name, ino: *ino, kind: *kind, next: *next }) {
            return true;
        }
        *pos = *next;
        *given = true;
    }
    false
}

impl Drop for DirOps {
    fn drop(&mut self) {
        self.inode.remote.conn.forget(self.fid, false);
    }
}
