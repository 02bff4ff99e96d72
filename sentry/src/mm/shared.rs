//! Memory that several address spaces share without a file: MAP_SHARED | MAP_ANONYMOUS, System V segments.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{FilePage, FrameRef, Mappable, Mm, PAGE, Vma, VmaFile};
use crate::errno::Errno;
use crate::platform::platform;
use crate::sync::SpinLock;

/// Pages that exist as long as somebody maps them.
pub struct SharedMemory {
    number: u64,
    pages: u64,
    frames: SpinLock<BTreeMap<u64, FrameRef>>,
}

/// Linux shows shared anonymous memory as inodes of a tmpfs of the kernel's own; its device is 0:1.
const DEVICE: u64 = 1;

/// Above what ids of segments can be, which are inode numbers too.
static NEXT: AtomicU64 = AtomicU64::new(1 << 32);

impl SharedMemory {
    /// So many pages, all zero.
    pub fn new(pages: u64) -> Arc<SharedMemory> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(SharedMemory { number, pages, frames: SpinLock::new(BTreeMap::new()) })
    }

    /// Pages that are there.
    pub fn resident(&self) -> u64 {
        self.frames.lock().len() as u64
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

    fn punch(&self, first: u64, pages: u64) -> Result<(), Errno> {
        // Who has them mapped goes on with them, and reads zeros.
        for (_, frame) in self.frames.lock().range(first..first.saturating_add(pages)) {
            platform().zero_frame(frame.frame(), 0, PAGE as usize);
        }
        Ok(())
    }

    fn identity(&self) -> (u64, u64) {
        (DEVICE, self.number)
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Ok(()) // nothing stands behind it
    }
}

impl Mm {
    /// shmdt(2): unmaps what is left of the segment that was attached at `start`. `EINVAL`: none was.
    pub fn detach_segment(&self, start: u64) -> Result<(), Errno> {
        let mut state = self.state.lock();
        let begins = |vma: &Vma, file: &VmaFile| {
            // What it would begin at, had nothing of it been unmapped.
            file.first.checked_mul(PAGE).and_then(|into| vma.start.checked_sub(into)) == Some(start)
        };
        let first = state.vmas.overlapping(start..u64::MAX).find_map(|vma| {
            let file = vma.file.as_ref().filter(|file| file.pages.is_segment())?;
            begins(vma, file).then(|| file.pages.clone())
        });
        let pages = first.ok_or(Errno::EINVAL)?;
        let areas: Vec<Range<u64>> = state
            .vmas
            .overlapping(start..u64::MAX)
            .filter(|vma| {
                vma.file.as_ref().is_some_and(|f| Arc::ptr_eq(&f.pages, &pages) && begins(vma, f))
            })
            .map(|vma| vma.start..vma.end)
            .collect();
        let gone: Vec<_> = areas.into_iter().map(|range| self.cut_out(&mut state, range)).collect();
        drop(state);
        drop(gone);
        Ok(())
    }
}
