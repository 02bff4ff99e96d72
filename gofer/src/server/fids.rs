//! The table of fids: what a client's numbers stand for.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::errors::Result;
use crate::wire::{Fid, Qid};

/// The descriptors kept back from clients: socket, replies in work, directories being read.
const RESERVED_DESCRIPTORS: u64 = 64;
/// The most fids whatever the limit on descriptors: bounds the table's memory to some 20 MB.
const FIDS_MAX: u64 = 128 * 1024;
/// Descriptors that this process can have a use for.
pub const DESCRIPTORS_MAX: u64 = FIDS_MAX + RESERVED_DESCRIPTORS;
/// The most bytes in values of extended attributes that plain clients are reading or writing.
const XATTR_BYTES_MAX: usize = 4 << 20;

/// A file of the host that a client has found.
#[derive(Debug)]
pub(super) struct Inode {
    /// An `O_PATH` descriptor.
    pub(super) fd: OwnedFd,
    /// Its type, which cannot change.
    pub(super) kind: FileType,
    /// Its identity.
    pub(super) qid: Qid,
    /// Whether it lies beneath a read-only attach point.
    pub(super) read_only: bool,
}

/// A fid's open file.
#[derive(Debug)]
pub(super) struct Open {
    /// The descriptor.
    pub(super) fd: OwnedFd,
    /// Whether it may be read.
    pub(super) read: bool,
    /// Whether it may be written.
    pub(super) write: bool,
    /// For a directory: the offset that its descriptor stands at, when known.
    pub(super) position: Option<u64>,
}

/// The value of an extended attribute that a plain client reads or writes piecemeal.
#[derive(Debug)]
pub(super) enum Xattr {
    /// The whole value, being read.
    Reading(Vec<u8>),
    /// A value being written; set when it is complete and the fid is clunked.
    Writing { name: Vec<u8>, value: Vec<u8>, size: usize, flags: u32 },
}

/// What a fid stands for.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) inode: Rc<Inode>,
    pub(super) open: Option<Open>,
    pub(super) xattr: Option<Xattr>,
    /// Descriptors that hold locks, by owner.
    pub(super) locks: HashMap<u64, OwnedFd>,
}

impl Entry {
    /// The entry's open file.
    pub(super) fn opened(&self) -> Result<&Open> {
        self.open.as_ref().ok_or(Errno::BADF)
    }

    /// The entry's open file, if it may be written.
    pub(super) fn writable(&self) -> Result<&Open> {
        self.opened().and_then(|open| if open.write { Ok(open) } else { Err(Errno::BADF) })
    }

    /// The entry's open file, if it may be read.
    pub(super) fn readable(&self) -> Result<&Open> {
        self.opened().and_then(|open| if open.read { Ok(open) } else { Err(Errno::BADF) })
    }

    /// The inode, if it may be changed.
    pub(super) fn changeable(&self) -> Result<&Inode> {
        if self.inode.read_only { Err(Errno::ROFS) } else { Ok(&self.inode) }
    }

    /// The inode, if it is a directory.
    pub(super) fn directory(&self) -> Result<&Inode> {
        if self.inode.kind == FileType::Directory { Ok(&self.inode) } else { Err(Errno::NOTDIR) }
    }

    /// The inode, if it is a directory that may be changed.
    pub(super) fn changeable_directory(&self) -> Result<&Inode> {
        self.directory()?;
        self.changeable()
    }

    fn descriptors(&self) -> u64 {
        // An inode that several fids share counts for each: simple, and never too few.
        1 + u64::from(self.open.is_some()) + self.locks.len() as u64
    }

    fn xattr_bytes(&self) -> usize {
        match &self.xattr {
            None => 0,
            Some(Xattr::Reading(value)) => value.len(),
            Some(Xattr::Writing { size, .. }) => *size,
        }
    }
}

/// All fids of a client.
#[derive(Debug)]
pub(super) struct Fids {
    entries: HashMap<Fid, Entry>,
    /// Descriptors that the entries hold.
    descriptors: u64,
    descriptors_max: u64,
}

/// How many descriptors the process's limit leaves to clients.
pub(super) fn limit() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.unwrap_or(u64::MAX).saturating_sub(RESERVED_DESCRIPTORS)
}

impl Fids {
    /// A table whose entries hold at most this many descriptors.
    pub(super) fn with_limit(descriptors: u64) -> Self {
        Fids { entries: HashMap::new(), descriptors: 0, descriptors_max: descriptors.min(FIDS_MAX) }
    }

    /// The entry of a fid.
    pub(super) fn get(&self, fid: Fid) -> Result<&Entry> {
        self.entries.get(&fid).ok_or(Errno::BADF)
    }

    /// An error unless `fid` can become a new fid that holds one more open file.
    pub(super) fn check_new(&self, fid: Fid) -> Result<()> {
        if fid == Fid::NONE || self.entries.contains_key(&fid) {
            return Err(Errno::BADF);
        }
        self.check_room(2)
    }

    /// An error unless `count` more descriptors may be held.
    pub(super) fn check_room(&self, count: u64) -> Result<()> {
        match self.descriptors.checked_add(count) {
            Some(sum) if sum <= self.descriptors_max => Ok(()),
            _ => Err(Errno::NFILE),
        }
    }

    /// Makes `fid` stand for an inode, open or not.
    pub(super) fn insert(&mut self, fid: Fid, inode: Rc<Inode>, open: Option<Open>) -> Result<()> {
        self.check_new(fid)?;
        let entry = Entry { inode, open, xattr: None, locks: HashMap::new() };
        self.descriptors = self.descriptors.saturating_add(entry.descriptors());
        self.entries.insert(fid, entry);
        Ok(())
    }

    /// Changes an entry, keeping count of what it holds.
    pub(super) fn update<T>(
        &mut self,
        fid: Fid,
        change: impl FnOnce(&mut Entry) -> Result<T>,
    ) -> Result<T> {
        let entry = self.entries.get_mut(&fid).ok_or(Errno::BADF)?;
        let before = entry.descriptors();
        let result = change(entry);
        self.descriptors =
            self.descriptors.saturating_add(entry.descriptors()).saturating_sub(before);
        result
    }

    /// An error unless values of extended attributes may take `more` bytes.
    pub(super) fn check_xattr_bytes(&self, more: usize) -> Result<()> {
        let used: usize = self.entries.values().map(Entry::xattr_bytes).sum();
        match used.checked_add(more) {
            Some(sum) if sum <= XATTR_BYTES_MAX => Ok(()),
            _ => Err(Errno::NOMEM),
        }
    }

    /// Forgets a fid.
    pub(super) fn remove(&mut self, fid: Fid) -> Result<Entry> {
        let entry = self.entries.remove(&fid).ok_or(Errno::BADF)?;
        self.descriptors = self.descriptors.saturating_sub(entry.descriptors());
        Ok(entry)
    }

    /// Forgets all fids.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.descriptors = 0;
    }
}
