//! Open directories.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::Ordering;

use gofer::wire::messages::entries_attr;
use gofer::wire::{Fid, Reply, Request};

use super::inode::{Age, NinepInode};
use crate::errno::Errno;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode};
use crate::fs::types::{DirEntry, DirSink, FileType, OwnedEntry};
use crate::sync::Mutex;

/// Bytes of entries asked for at once: some 200 entries.
const BATCH: u32 = 32 * 1024;

/// Most entries of a directory that are remembered.
const LISTING_MAX: usize = 8192;

/// An open directory.
pub(super) struct DirOps {
    inode: Arc<NinepInode>,
    reading: Mutex<Reading>,
}

#[derive(Default)]
struct Reading {
    /// The directory, open at the gofer: not before somebody asks for entries that are not known.
    fid: Option<Fid>,
    batch: Batch,
    /// What has been read from the beginning on without a gap, and as of when.
    whole: Option<(Age, Vec<OwnedEntry>)>,
}

/// Entries that the gofer gave.
#[derive(Default)]
struct Batch {
    /// The position of the first of them.
    start: u64,
    entries: Arc<[OwnedEntry]>,
    /// Nothing follows them.
    end: bool,
}

impl DirOps {
    pub(super) fn new(inode: Arc<NinepInode>) -> Result<Self, Errno> {
        let mut reading = Reading::default();
        if inode.listing().is_none() {
            reading.fid = Some(inode.open_directory()?);
        }
        Ok(DirOps { inode, reading: Mutex::new(reading) })
    }

    /// The entries from `pos` on: those that are known, or what the gofer says.
    fn fetch(&self, reading: &mut Reading, pos: u64) -> Result<(), Errno> {
        if pos == 0 {
            reading.whole = None;
            if let Some(entries) = self.inode.listing() {
                reading.batch = Batch { start: 0, entries, end: true };
                return Ok(());
            }
        }
        let remote = &self.inode.remote;
        let fid = match reading.fid {
            Some(fid) => fid,
            None => *reading.fid.insert(self.inode.open_directory()?),
        };
        if pos == 0 {
            // After the open, which may begin a watch: what is known from before that is older.
            reading.whole = self.inode.listing_age().map(|age| (age, Vec::new()));
        }
        let count = BATCH.min(remote.conn.io_max() as u32);
        let answer = remote.call(&Request::ReaddirX { fid, offset: pos, count })?;
        let Reply::ReaddirX { end, data } = answer.reply()? else { return Err(Errno::EIO) };
        let mut entries = Vec::new();
        for entry in entries_attr(data) {
            let entry = entry.map_err(|_| Errno::EIO)?;
            // DT_* are the type bits of a mode, shifted down (readdir(3)).
            let kind = FileType::from_mode(u32::from(entry.kind) << 12).ok_or(Errno::EIO)?;
            let (name, ino) = (entry.name.to_vec(), entry.node.attr.ino);
            entries.push(OwnedEntry { name, ino, kind, next: entry.offset });
        }
        let entries: Arc<[OwnedEntry]> = entries.into();
        let end = end != 0;
        reading.batch = Batch { start: pos, entries: entries.clone(), end };
        self.note(reading, pos, &entries, end);
        Ok(())
    }

    /// Notes what came from `pos` on, and remembers all of it at the end.
    fn note(&self, reading: &mut Reading, pos: u64, entries: &Arc<[OwnedEntry]>, end: bool) {
        let Some((age, mut whole)) = reading.whole.take() else { return };
        if end && whole.is_empty() && pos == 0 {
            self.inode.keep_listing(age, entries);
            return;
        }
        let follows = whole.last().map_or(0, |last| last.next) == pos;
        let len = whole.len().saturating_add(entries.len());
        if !follows || len > LISTING_MAX || whole.try_reserve(entries.len()).is_err() {
            return;
        }
        whole.extend(entries.iter().cloned());
        if end {
            self.inode.keep_listing(age, &whole.into());
        } else {
            reading.whole = Some((age, whole));
        }
    }

    /// Gives entries to the sink; whether it was full.
    fn give(
        &self,
        entries: &[OwnedEntry],
        pos: &mut u64,
        given: &mut bool,
        sink: DirSink<'_>,
    ) -> bool {
        for entry in entries {
            let OwnedEntry { name, ino, kind, next } = entry;
            let ino = match (&name[..], self.inode.parent.load(Ordering::Relaxed)) {
                (b".", _) | (b"..", 0) => self.inode.ino(),
                (b"..", parent) => parent,
                _ => *ino,
            };
            if !sink(DirEntry { name, ino, kind: *kind, next: *next }) {
                return true;
            }
            *pos = *next;
            *given = true;
        }
        false
    }
}

impl FileOps for DirOps {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let mut reading = self.reading.lock();
        let mut pos = pos;
        let mut given = false;
        loop {
            let batch = &reading.batch;
            // Where in the batch the position is: at its start, or after one of its entries.
            let known = batch.entries.iter().position(|entry| entry.next == pos).map(|at| at + 1);
            let from = match known {
                Some(after) if pos != 0 => after,
                _ if pos == batch.start && pos != 0 => 0,
                _ => batch.entries.len(),
            };
            let entries = batch.entries.clone();
            let rest = entries.get(from..).unwrap_or_default();
            if !rest.is_empty() {
                if self.give(rest, &mut pos, &mut given, sink) {
                    return Ok(pos);
                }
                continue;
            }
            if batch.end && known.is_some() && pos != 0 {
                return Ok(pos);
            }
            // From the beginning the directory is read anew, as after rewinddir(3).
            match self.fetch(&mut reading, pos) {
                Ok(()) => {}
                Err(_) if given => return Ok(pos),
                Err(e) => return Err(e),
            }
            let entries = reading.batch.entries.clone();
            if entries.is_empty() || self.give(&entries, &mut pos, &mut given, sink) {
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

impl Drop for DirOps {
    fn drop(&mut self) {
        if let Some(fid) = self.reading.lock().fid.take() {
            self.inode.remote.conn.forget(fid, false);
        }
    }
}
