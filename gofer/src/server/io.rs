//! File content: reading, writing, syncing, and moving ranges about.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FallocateFlags, FileType, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Session;
use super::errors::{Result, from_wire};
use super::fids::{Open, Xattr};
use crate::wire::messages::{READ_DATA, emit_read_in_place};
use crate::wire::*;

/// The most bytes that one CopyRange moves, so that a large one does not hold up other requests.
const COPY_MAX: u64 = 4 << 20;
/// SEEK_DATA of lseek(2).
const SEEK_DATA: u32 = 3;
/// SEEK_HOLE of lseek(2).
const SEEK_HOLE: u32 = 4;

impl Session {
    pub(super) fn read(
        &mut self,
        tag: u16,
        fid: Fid,
        offset: u64,
        count: u32,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let entry = self.fids.get(fid)?;
        let space = buffer.get_mut(READ_DATA..).unwrap_or_default();
        let count = (count as usize).min(space.len()).min(IO_MAX);
        let space = space.get_mut(..count).unwrap_or_default();
        let got = if let Some(xattr) = &entry.xattr {
            let Xattr::Reading(value) = xattr else {
                return Err(Errno::BADF);
            };
            let start = usize::try_from(offset).map_or(value.len(), |o| o.min(value.len()));
            let rest = value.get(start..).unwrap_or_default();
            let count = rest.len().min(count);
            let (from, to) = (rest.get(..count), space.get_mut(..count));
            to.unwrap_or_default().copy_from_slice(from.unwrap_or_default());
            count
        } else {
            let open = regular(entry.readable()?, entry.inode.kind)?;
            rustix::io::pread(&open.fd, space, offset)?
        };
        emit_read_in_place(tag, got, buffer).map_err(from_wire)
    }

    pub(super) fn write(&mut self, fid: Fid, offset: u64, data: &[u8]) -> Result<u32> {
        if self.fids.get(fid)?.xattr.is_some() {
            return self.write_xattr(fid, offset, data);
        }
        let entry = self.fids.get(fid)?;
        let open = regular(entry.writable()?, entry.inode.kind)?;
        let count = rustix::io::pwrite(&open.fd, data, offset)?;
        u32::try_from(count).map_err(|_| Errno::OVERFLOW)
    }

    pub(super) fn sync(&self, fid: Fid, data_only: bool) -> Result<()> {
        let entry = self.fids.get(fid)?;
        let sync = |fd: &std::os::fd::OwnedFd| {
            if data_only { rustix::fs::fdatasync(fd) } else { rustix::fs::fsync(fd) }
        };
        match &entry.open {
            Some(open) => sync(&open.fd),
            None => sync(&self.host.reopen(&entry.inode, OFlags::RDONLY)?),
        }
    }

    pub(super) fn fallocate(&self, fid: Fid, mode: u32, offset: u64, length: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::OPNOTSUPP)?;
        self.with_file(fid, true, |fd| rustix::fs::fallocate(fd, mode, offset, length))
    }

    pub(super) fn copy_range(
        &self,
        source: Fid,
        source_offset: u64,
        target: Fid,
        target_offset: u64,
        length: u64,
    ) -> Result<u64> {
        let (mut source_offset, mut target_offset) = (source_offset, target_offset);
        let length = usize::try_from(length.min(COPY_MAX)).map_err(|_| Errno::INVAL)?;
        let copied = self.with_file(source, false, |from| {
            self.with_file(target, true, |to| {
                let (source_offset, target_offset) = (&mut source_offset, &mut target_offset);
                let (from_at, to_at) = (Some(source_offset), Some(target_offset));
                rustix::fs::copy_file_range(from, from_at, to, to_at, length)
            })
        })?;
        Ok(copied as u64)
    }

    pub(super) fn seek(&self, fid: Fid, offset: u64, whence: u32) -> Result<u64> {
        let position = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        // A descriptor's own position matters to nobody: reads and writes name theirs.
        self.with_file(fid, false, |fd| rustix::fs::seek(fd, position))
    }

    /// Does something with a regular file: with the fid's open file, or with one opened for this,
    /// for clients that hold a donated descriptor instead of an open fid.
    fn with_file<T>(
        &self,
        fid: Fid,
        write: bool,
        act: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
    ) -> Result<T> {
        let entry = self.fids.get(fid)?;
        match entry.inode.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR),
            _ => return Err(Errno::INVAL),
        }
        if write {
            entry.changeable()?;
        }
        match &entry.open {
            Some(open) if write && open.write || !write && open.read => act(open.fd.as_fd()),
            Some(_) => Err(Errno::BADF),
            None => {
                let flags = if write { OFlags::WRONLY } else { OFlags::RDONLY };
                act(self.host.reopen(&entry.inode, flags)?.as_fd())
            }
        }
    }
}

/// The open file, if it is a regular one.
fn regular(open: &Open, kind: FileType) -> Result<&Open> {
    match kind {
        FileType::RegularFile => Ok(open),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::INVAL),
    }
}
