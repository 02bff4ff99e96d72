//! Open regular files.

use alloc::sync::Arc;
use alloc::vec;
use core::any::Any;

use gofer::wire::{Reply, Request};

use super::data::Handle;
use super::inode::NinepInode;
use crate::errno::Errno;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode, Whence, Written, default_seek};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::types::{MAX_OFFSET, OpenFlags};

/// Bytes moved at a time between a file and an application's memory, where each piece is a message.
const PIECE: usize = 64 * 1024;
/// The same where the file is donated: so few that they stay in the fastest cache on the way.
const DONATED_PIECE: usize = 16 * 1024;
/// Reads of at most this many bytes go over the stack.
const SMALL: usize = 2048;

/// Bytes to move at a time.
fn piece(handle: &Handle) -> usize {
    if handle.donated().is_some() { DONATED_PIECE } else { PIECE }
}

/// An open regular file.
pub(super) struct RegularOps {
    inode: Arc<NinepInode>,
}

impl RegularOps {
    pub(super) fn new(inode: Arc<NinepInode>) -> Self {
        RegularOps { inode }
    }
}

impl FileOps for RegularOps {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let handle = self.inode.reader()?;
        let want = self.inode.readable(offset, dst.remaining());
        if want <= SMALL {
            return dst
                .fill_with(want, |at, buf| handle.read(offset.saturating_add(at as u64), buf));
        }
        let piece = piece(&handle);
        let mut done = handle.donated().map_or(0, |donated| dst.put_file(donated, offset));
        if done == want {
            return Ok(done);
        }
        let mut buffer = vec![0u8; (want - done).min(piece)];
        while done < want {
            let room = (want - done).min(piece);
            let room = buffer.get_mut(..room).unwrap_or_default();
            let at = offset.checked_add(done as u64).ok_or(Errno::EINVAL)?;
            let got = match handle.read(at, room) {
                Ok(0) => break,
                Ok(got) => got,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            match dst.put(room.get(..got).unwrap_or_default()) {
                Ok(put) => {
                    done = done.saturating_add(put);
                    if put < got {
                        break;
                    }
                }
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write(&self, file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        let handle = self.inode.writer()?;
        let flags = file.flags();
        let writing = self.inode.data.io.lock();
        let start = if src.appends(flags) { self.inode.attr()?.size } else { offset };
        let most = usize::try_from(MAX_OFFSET.saturating_sub(start)).unwrap_or(usize::MAX);
        let want = src.remaining().min(most);
        if want == 0 {
            // pwrite(2) at the largest offset: EFBIG, unless there is nothing to write.
            let result = if src.remaining() == 0 { Ok(()) } else { Err(Errno::EFBIG) };
            return result.map(|()| Written { count: 0, end: start });
        }
        let mut small = [0u8; SMALL];
        let mut large = if want > SMALL { vec![0u8; want.min(piece(&handle))] } else { vec![] };
        let buffer = if want > SMALL { large.as_mut_slice() } else { small.as_mut_slice() };
        let mut done: usize = 0;
        let mut result = Ok(());
        while done < want {
            let room = buffer.len().min(want - done);
            let room = buffer.get_mut(..room).unwrap_or_default();
            let took = match src.take(room) {
                Ok(0) => break,
                Ok(took) => took,
                Err(e) => {
                    result = Err(e);
                    break;
                }
            };
            let (wrote, error) =
                write_all(&handle, start.saturating_add(done as u64), room.get(..took));
            done = done.saturating_add(wrote);
            if let Some(e) = error {
                result = Err(e);
                break;
            }
            if took < room.len() {
                break;
            }
        }
        let end = start.saturating_add(done as u64);
        if done > 0 {
            self.inode.changed(|attr| attr.size = attr.size.max(end));
            self.inode.wrote();
            self.inode.keep_set_ids();
        }
        drop(writing);
        if done == 0 {
            result?;
        }
        if flags.contains(OpenFlags::DSYNC) {
            self.inode.fsync(!flags.contains(OpenFlags::SYNC_))?;
        }
        Ok(Written { count: done, end })
    }

    fn seek(&self, file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let whence = match whence {
            Whence::Data => 3,
            Whence::Hole => 4,
            Whence::End => {
                let end = self.inode.size_now()?.checked_add_signed(offset);
                return end.filter(|at| *at <= MAX_OFFSET).ok_or(Errno::EINVAL);
            }
            other => return default_seek(file, now, offset, other),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let request = Request::Seek { fid: self.inode.fid, offset, whence };
        match self.inode.remote.call(&request)?.reply()? {
            Reply::Seek { offset } => Ok(offset),
            _ => Err(Errno::EIO),
        }
    }

    fn fsync(&self, _file: &File, data_only: bool) -> Result<(), Errno> {
        self.inode.fsync(data_only)
    }

    fn allocate(&self, _file: &File, mode: u32, offset: u64, len: u64) -> Result<(), Errno> {
        self.inode.allocate(mode, offset, len)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Writes all of `data`, as far as it goes: how much, and why not more.
fn write_all(
    handle: &super::data::Handle,
    offset: u64,
    data: Option<&[u8]>,
) -> (usize, Option<Errno>) {
    let data = data.unwrap_or_default();
    let mut done: usize = 0;
    while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
        match handle.write(offset.saturating_add(done as u64), rest) {
            Ok(0) => return (done, Some(Errno::EIO)),
            Ok(n) => done = done.saturating_add(n),
            Err(e) => return (done, Some(e)),
        }
    }
    (done, None)
}
