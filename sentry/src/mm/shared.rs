//! Memory that several address spaces share without a file: MAP_SHARED | MAP_ANONYMOUS, SysV segments.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{FilePage, FrameRef, Mappable, Mm};
use crate::errno::Errno;
use crate::sync::SpinLock;

/// Pages that exist as long as somebody maps them.
pub struct SharedMemory {
    number: u64,
    pages: u64,
    frames: SpinLock<BTreeMap<u64, FrameRef>>,
}

/// Linux shows shared anonymous memory as inodes of a tmpfs of the kernel's own; its device is 0:1.
const DEVICE: u64 = 1;

static NEXT: AtomicU64 = AtomicU64::new(1024);

impl SharedMemory {
    /// So many pages, all zero.
    pub fn new(pages: u64) -> Arc<SharedMemory> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(SharedMemory { number, pages, frames: SpinLock::new(BTreeMap::new()) })
    }

    /// Gives up the content of a range (MADV_REMOVE); the caller makes sure that it is not mapped.
    pub fn remove(&self, first: u64, pages: u64) {
        let mut gone = {
            let mut frames = self.frames.lock();
            let mut tail = frames.split_off(&first);
            frames.append(&mut tail.split_off(&first.saturating_add(pages)));
            tail
        };
        gone.clear();
    }
}

impl Mappable for SharedMemory {
    fn page(&self, index: u64, _write: bool) -> Result<FilePage, Errno> {
        if index >= self.pages {
            return Err(Errno::EFAULT);
        }
        if let Some(frame) = self.frames.lock().get(&index) {
            return Ok(FilePage::Cached(frame.clone()));
        }
        let new = FrameRef::alloc()?;
        Ok(FilePage::Cached(self.frames.lock().entry(index).or_insert(new).clone()))
    }

    fn around(&self, index: u64, most: u32) -> u32 {
        let frames = self.frames.lock();
        let there = frames
            .range(index..)
            .zip(index..)
            .take(most as usize)
            .take_while(|((number, _), expected)| **number == *expected)
            .count();
        (there as u32).max(1)
    }

    // Pages of it never go away under a mapping, but for `remove`, whose caller sees to that.
    fn attach(&self, _mm: &Arc<Mm>) {}
    fn detach(&self, _mm: &Mm) {}

    fn tracks_writes(&self) -> bool {
        false
    }

    fn identity(&self) -> (u64, u64) {
        (DEVICE, self.number)
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(()) // nothing stands behind it
    }
}
