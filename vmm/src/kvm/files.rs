//! The table of donated files: regular host files that a gofer has handed over.
//!
//! The guest names a file by its index here. What arrives is checked before it gets one: anything
//! but a regular file (a device, a socket, a folder) is refused.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// Most donated files at once, where the process may have as many open.
const MAX_FILES: usize = 1 << 15;

/// A donated file.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// Whether it may be written.
    pub writable: bool,
}

/// The table.
#[derive(Debug)]
pub struct Files {
    slots: Vec<Option<Arc<OpenFile>>>,
    free: Vec<u32>,
    most: usize,
}

/// Why a donation was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// it is not a regular file
    #[error("it is not a regular file")]
    NotRegular,
    /// the table is full
    #[error("the table of donated files is full")]
    Full,
    /// it cannot be looked at
    #[error("it cannot be looked at: {0}")]
    Stat(#[from] io::Error),
}

impl Files {
    /// A table for at most so many; they are a cache, and without room for one the guest asks the gofer.
    pub fn new(most: usize) -> Files {
        Files { slots: Vec::new(), free: Vec::new(), most: most.min(MAX_FILES) }
    }

    /// Takes a descriptor in.
    pub fn donate(&mut self, fd: OwnedFd) -> Result<u32, Refused> {
        let file = File::from(fd);
        if crate::host::stat(&file)?.st_mode & libc::S_IFMT != libc::S_IFREG {
            return Err(Refused::NotRegular);
        }
        // SAFETY: no memory arguments.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error().into());
        }
        // An O_PATH descriptor reads nothing, and a write-only one cannot be mapped.
        let access = flags & (libc::O_ACCMODE | libc::O_PATH);
        let writable = match access {
            libc::O_RDONLY => false,
            libc::O_RDWR => true,
            _ => return Err(Refused::NotRegular),
        };
        let entry = Some(Arc::new(OpenFile { file, writable }));
        if let Some(handle) = self.free.pop() {
            // Indices in `free` are indices of `slots`.
            self.slots[handle as usize] = entry;
            return Ok(handle);
        }
        if self.slots.len() >= self.most {
            return Err(Refused::Full);
        }
        self.slots.push(entry);
        // At most MAX_FILES, so it fits.
        Ok((self.slots.len() - 1) as u32)
    }

    /// The file with this index.
    pub fn get(&self, handle: u32) -> Option<Arc<OpenFile>> {
        self.slots.get(handle as usize)?.clone()
    }

    /// Forgets it.
    pub fn close(&mut self, handle: u32) -> bool {
        match self.slots.get_mut(handle as usize).map(Option::take) {
            Some(Some(_)) => {
                self.free.push(handle);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_taken_and_indices_come_back() {
        let mut files = Files::new(2);
        for path in ["/dev/null", "/proc/self", "/"] {
            let fd = File::open(path).unwrap().into();
            assert!(matches!(files.donate(fd), Err(Refused::NotRegular)), "{path}");
        }
        let open = || File::open("/proc/self/exe").unwrap().into();
        assert_eq!(files.donate(open()).unwrap(), 0);
        assert_eq!(files.donate(open()).unwrap(), 1);
        assert!(matches!(files.donate(open()), Err(Refused::Full)));
        assert!(!files.get(0).unwrap().writable);
        assert!(files.close(0));
        assert!(!files.close(0));
        assert!(!files.close(7));
        assert!(files.get(0).is_none());
        assert!(files.get(u32::MAX).is_none());
        assert_eq!(files.donate(open()).unwrap(), 0);
    }
}
