//! /proc/PID/mem: a process's memory as a file, for debuggers.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use core::any::Any;

use super::About;
use crate::errno::Errno;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Whence, Written};
use crate::fs::io::{IoDst, IoSrc};
use crate::mm::Mm;
use crate::platform::PAGE_SIZE;

/// An open one. It stays with the memory that the process had when it was opened, without keeping that
/// alive: after exec or the end there is nothing to read.
struct MemFile {
    mm: Weak<Mm>,
}

/// Opens the memory of the process that `about` names. `EACCES` where the caller may not.
pub(super) fn open(about: &About<'_>) -> Result<Box<dyn FileOps>, Errno> {
    let task = about.inspect()?;
    let mm = task.shared.lock().mm.as_ref().map_or_else(Weak::new, Arc::downgrade);
    Ok(Box::new(MemFile { mm }))
}

impl FileOps for MemFile {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut page = vec![0; PAGE_SIZE];
        let mut done: usize = 0;
        while dst.remaining() > 0 {
            let at = offset.wrapping_add(done as u64);
            let want = dst.remaining().min(PAGE_SIZE);
            let buf = page.get_mut(..want).unwrap_or(&mut []);
            mm.expand_to(at);
            let got = mm.peek(at, buf);
            if got == 0 {
                return if done > 0 { Ok(done) } else { Err(Errno::EIO) };
            }
            let data = buf.get(..got).unwrap_or(&[]);
            if dst.put(data)? < got {
                return Err(Errno::EFAULT);
            }
            done = done.saturating_add(got);
        }
        Ok(done)
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        let end = |count: usize| Written { count, end: offset.wrapping_add(count as u64) };
        let Some(mm) = self.mm.upgrade() else { return Ok(end(0)) };
        let mut page = vec![0; PAGE_SIZE];
        let mut done: usize = 0;
        let mut failed = false;
        while !failed && src.remaining() > 0 {
            let at = offset.wrapping_add(done as u64);
            let want = src.remaining().min(PAGE_SIZE);
            let buf = page.get_mut(..want).unwrap_or(&mut []);
            if src.take(buf)? < want {
                return Err(Errno::EFAULT);
            }
            mm.expand_to(at);
            let put = mm.poke(at, buf);
            done = done.saturating_add(put);
            failed = put < want;
        }
        if failed && done == 0 { Err(Errno::EIO) } else { Ok(end(done)) }
    }

    fn seek(&self, _file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        // Addresses are unsigned (FMODE_UNSIGNED_OFFSET).
        match whence {
            Whence::Set => Ok(offset as u64),
            Whence::Current => Ok(now.wrapping_add(offset as u64)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
