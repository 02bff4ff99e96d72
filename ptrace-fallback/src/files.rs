//! Regular host files that gofers have donated.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::{Arc, PoisonError, RwLock};

use sentry::errno::Errno;
use sentry::platform::{AtomicOp, FileId, PAGE_SIZE};

use crate::{fixup, sys};

/// The table.
pub(crate) struct Files {
    slots: RwLock<Slots>,
    most: usize,
}

#[derive(Default)]
struct Slots {
    files: Vec<Option<Arc<File>>>,
    free: Vec<u32>,
}

fn errno(e: io::Error) -> Errno {
    Errno::from_code(e.raw_os_error().unwrap_or(0))
}

impl Files {
    /// A table for at most so many; they are a cache, and without room for one the sentry asks the gofer.
    pub(crate) fn new(most: usize) -> Files {
        Files { slots: RwLock::default(), most }
    }

    /// Takes a donated descriptor, if it is a regular file and there is room.
    pub(crate) fn add(&self, fd: OwnedFd) -> Option<FileId> {
        let file = File::from(fd);
        let regular = |stat: libc::stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG;
        if !sys::stat(file.as_fd()).is_ok_and(regular) {
            return None;
        }
        let file = Some(Arc::new(file));
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = slots.free.pop()
            && let Some(slot) = slots.files.get_mut(index as usize)
        {
            *slot = file;
            return Some(FileId(index));
        }
        if slots.files.len() >= self.most {
            return None;
        }
        slots.files.push(file);
        u32::try_from(slots.files.len().saturating_sub(1)).ok().map(FileId)
    }

    /// The file. `EBADF` where there is none: it was closed already.
    pub(crate) fn get(&self, id: FileId) -> Result<Arc<File>, Errno> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.files.get(id.0 as usize);
        slot.and_then(Clone::clone).ok_or(Errno::EBADF)
    }

    /// Forgets it.
    pub(crate) fn close(&self, id: FileId) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.files.get_mut(id.0 as usize);
        let file = slot.and_then(Option::take);
        if file.is_some() {
            slots.free.push(id.0);
        }
        drop(slots);
        // Closed here, outside of the lock.
        drop(file);
    }

    /// Reads; short at the end of the file.
    pub(crate) fn read(&self, id: FileId, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        let file = self.get(id)?;
        let mut done = 0usize;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done = done.saturating_add(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if done == 0 => return Err(errno(e)),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Writes.
    pub(crate) fn write(&self, id: FileId, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let file = self.get(id)?;
        let mut done = 0usize;
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            match file.write_at(rest, offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(n) => done = done.saturating_add(n),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if done == 0 => return Err(errno(e)),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// The size in bytes now.
    pub(crate) fn size(&self, id: FileId) -> Result<u64, Errno> {
        let file = self.get(id)?;
        Ok(sys::stat(file.as_fd()).map_err(errno)?.st_size.cast_unsigned())
    }

    /// An atomic operation on a word. Rare (futexes in shared files), so nothing stays mapped for it.
    pub(crate) fn atomic(&self, id: FileId, offset: u64, op: AtomicOp) -> Result<u32, Errno> {
        if !offset.is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        let file = self.get(id)?;
        let within = offset % PAGE_SIZE as u64;
        let start = i64::try_from(offset.saturating_sub(within)).map_err(|_| Errno::EINVAL)?;
        let prot = match op {
            AtomicOp::Load => libc::PROT_READ,
            _ => libc::PROT_READ | libc::PROT_WRITE,
        };
        // SAFETY: a new mapping where the kernel finds room disturbs nothing.
        let page = unsafe {
            libc::mmap(ptr::null_mut(), PAGE_SIZE, prot, libc::MAP_SHARED, file.as_raw_fd(), start)
        };
        if page == libc::MAP_FAILED {
            return Err(crate::sys::errno());
        }
        // SAFETY: aligned, in the page just mapped, with the rights for `op`; the handler for pages
        // that are not there was installed at the start.
        let old = unsafe { fixup::atomic(page.byte_add(within as usize).cast(), op) };
        // SAFETY: the mapping is ours, and nothing points into it any more.
        unsafe { libc::munmap(page, PAGE_SIZE) };
        old.ok_or(Errno::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys;

    #[test]
    fn a_donated_file_is_read_written_and_closed() {
        fixup::install().unwrap();
        let files = Files::new(1);
        let id = files.add(sys::memfd(c"test", 5000).unwrap()).unwrap();
        assert!(files.add(sys::memfd(c"no room", 1).unwrap()).is_none());
        assert_eq!(files.write(id, 4096, b"word"), Ok(4));
        let mut buf = [0; 1000];
        assert_eq!(files.read(id, 4096, &mut buf), Ok(904));
        assert_eq!(&buf[..4], b"word");
        let word = u32::from_le_bytes(*b"word");
        assert_eq!(files.atomic(id, 4096, AtomicOp::Add(1)), Ok(word));
        assert_eq!(files.atomic(id, 4096, AtomicOp::Load), Ok(word + 1));
        assert_eq!(files.atomic(id, 8192, AtomicOp::Load), Err(Errno::EIO));
        assert_eq!(files.size(id), Ok(5000));
        files.close(id);
        assert_eq!(files.size(id), Err(Errno::EBADF));
        assert!(files.add(sys::eventfd(0).unwrap()).is_none());
        assert!(files.add(sys::memfd(c"room again", 1).unwrap()).is_some());
    }
}
