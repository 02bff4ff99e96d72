//! Virtual memory.

mod frame;

pub use frame::FrameRef;

use alloc::sync::Arc;

use crate::errno::Errno;
use crate::platform::{AddressSpace, FileId};

/// A page of a file, as something that can be mapped.
#[derive(Debug)]
pub enum FilePage {
    /// A page of the inode's page cache.
    Cached(FrameRef),
    /// The page with the same index of a donated host file.
    Donated(FileId),
}

/// What can be mapped: an inode's pages, one page cache for whoever maps or reads it.
pub trait Mappable: Send + Sync {
    /// The page with this index. `write`: a shared mapping is about to write it, so it must be marked
    /// dirty. `EFAULT` past the end of the file (SIGBUS for the application).
    fn page(&self, index: u64, write: bool) -> Result<FilePage, Errno>;
    /// Pages, from `index` on, that are there without waiting and could be mapped as one run with it,
    /// at most `most`, itself included; for faulting around.
    fn around(&self, index: u64, most: u32) -> u32;
    /// `mm` maps pages of this inode (once per mapping): it wants to be told before pages go away
    /// (truncation, change of side).
    fn attach(&self, mm: &Arc<Mm>);
    /// The opposite of `attach`.
    fn detach(&self, mm: &Mm);
    /// Device and inode number, for /proc/PID/maps.
    fn identity(&self) -> (u64, u64);
    /// Writes dirty pages of the range back: msync(MS_SYNC).
    fn sync(&self, first: u64, pages: u64) -> Result<(), Errno>;
}

/// An address space of an application.
pub struct Mm {
    /// The machine's side of it.
    pub space: Arc<dyn AddressSpace>,
}
