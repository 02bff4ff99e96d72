//! Virtual memory areas: what an application asked for, as sorted, non-overlapping ranges.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::Mappable;
use super::policy::Policy;
use crate::platform::{PAGE_SIZE, Prot};

const PAGE: u64 = PAGE_SIZE as u64;

/// The file behind an area.
#[derive(Clone)]
pub struct VmaFile {
    /// Its pages.
    pub pages: Arc<dyn Mappable>,
    /// The page of the file at the area's start.
    pub first: u64,
    /// Its path when it was mapped, for /proc/PID/maps; empty for shared anonymous memory.
    pub name: Arc<[u8]>,
}

bitflags::bitflags! {
    /// Properties of an area.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VmaFlags: u16 {
        /// Writes go to the file (MAP_SHARED).
        const SHARED = 1;
        /// Grows down to a fault below it (a stack).
        const GROWS_DOWN = 2;
        /// mlock(2)ed.
        const LOCKED = 4;
        /// Not inherited by fork (MADV_DONTFORK).
        const DONT_FORK = 8;
        /// Zero in a forked child (MADV_WIPEONFORK).
        const WIPE_ON_FORK = 16;
        /// A shared mapping of a file that was not opened for writing: can never be made writable.
        const NEVER_WRITE = 32;
        /// Left out of core dumps (MADV_DONTDUMP).
        const DONT_DUMP = 64;
        /// The heap that brk(2) moves.
        const HEAP = 128;
        /// The initial stack.
        const STACK = 256;
        /// MAP_NORESERVE.
        const NO_RESERVE = 512;
        /// The vDSO.
        const VDSO = 1024;
    }
}

/// One area.
#[derive(Clone)]
pub struct Vma {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// What the application may do.
    pub prot: Prot,
    /// Properties.
    pub flags: VmaFlags,
    /// `None`: anonymous.
    pub file: Option<VmaFile>,
    /// What prctl(PR_SET_VMA_ANON_NAME) calls it.
    pub name: Option<Arc<[u8]>>,
    /// Its memory policy, where mbind(2) gave one.
    pub policy: Option<Arc<Policy>>,
}

impl Vma {
    /// An anonymous area.
    pub fn anonymous(range: Range<u64>, prot: Prot, flags: VmaFlags) -> Vma {
        Vma {
            start: range.start,
            end: range.end,
            prot,
            flags,
            file: None,
            name: None,
            policy: None,
        }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it is empty; a set holds no empty ones.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Whether writes stay with this address space.
    pub fn is_private(&self) -> bool {
        !self.flags.contains(VmaFlags::SHARED)
    }

    /// Private and writable: what RLIMIT_DATA and Committed_AS count.
    pub fn is_data(&self) -> bool {
        self.is_private()
            && self.prot.contains(Prot::WRITE)
            && !self.flags.contains(VmaFlags::STACK)
    }

    /// The page of the file behind `addr`.
    pub fn file_page(&self, addr: u64) -> u64 {
        let into = addr.saturating_sub(self.start) / PAGE;
        self.file.as_ref().map_or(0, |f| f.first.saturating_add(into))
    }

    /// Cuts off and returns what lies from `at` on; `at` lies inside.
    fn split_off(&mut self, at: u64) -> Vma {
        let mut tail = self.clone();
        if let Some(file) = &mut tail.file {
            file.first = file.first.saturating_add((at - self.start) / PAGE);
        }
        tail.start = at;
        self.end = at;
        tail
    }

    /// Whether `next`, which begins where this ends, could be one area with it.
    fn merges_with(&self, next: &Vma) -> bool {
        self.end == next.start
            && self.prot == next.prot
            && self.flags == next.flags
            && self.name == next.name
            && self.policy == next.policy
            && match (&self.file, &next.file) {
                (None, None) => true,
                (Some(a), Some(b)) => {
                    Arc::ptr_eq(&a.pages, &b.pages)
                        && a.first.checked_add(self.len() / PAGE) == Some(b.first)
                }
                _ => false,
            }
    }
}

/// The areas of an address space.
#[derive(Default, Clone)]
pub struct VmaSet {
    /// By start.
    areas: BTreeMap<u64, Vma>,
    /// Bytes in all of them.
    total: u64,
    /// Where the last search for room found some: the next one starts there. Everything between it
    /// and the top of the search was full then.
    hint: Option<u64>,
}

impl VmaSet {
    /// How many.
    pub fn count(&self) -> usize {
        self.areas.len()
    }

    /// Bytes in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// All, by address.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Vma> {
        self.areas.values()
    }

    /// The area that holds `addr`.
    pub fn find(&self, addr: u64) -> Option<&Vma> {
        self.areas.range(..=addr).next_back().map(|(_, v)| v).filter(|v| addr < v.end)
    }

    /// The first area that ends above `addr`.
    pub fn first_above(&self, addr: u64) -> Option<&Vma> {
        self.find(addr).or_else(|| self.areas.range(addr..).next().map(|(_, v)| v))
    }

    /// The last area that begins below `addr`.
    pub fn last_below(&self, addr: u64) -> Option<&Vma> {
        self.areas.range(..addr).next_back().map(|(_, v)| v)
    }

    /// Areas that overlap `range`, by address.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = &Vma> {
        let first = self.find(range.start).map_or(range.start, |v| v.start);
        // An empty or reversed range overlaps nothing, and BTreeMap does not take it.
        let end = range.end.max(first);
        self.areas.range(first..end).map(|(_, v)| v)
    }

    /// Whether areas cover `range` without a hole.
    pub fn covers(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for vma in self.overlapping(range.clone()) {
            if vma.start > at {
                return false;
            }
            at = vma.end;
        }
        at >= range.end
    }

    /// Adds an area where there is none, and joins it with its neighbours where they are alike.
    pub fn insert(&mut self, mut vma: Vma) {
        if vma.is_empty() {
            return;
        }
        self.total = self.total.saturating_add(vma.len());
        if let Some(before) = self.last_below(vma.start)
            && before.merges_with(&vma)
        {
            let start = before.start;
            if let Some(before) = self.areas.remove(&start) {
                vma.start = before.start;
                vma.file = before.file;
            }
        }
        if let Some(after) = self.areas.get(&vma.end)
            && vma.merges_with(after)
        {
            let start = after.start;
            if let Some(after) = self.areas.remove(&start) {
                vma.end = after.end;
            }
        }
        self.areas.insert(vma.start, vma);
    }

    /// Takes out everything in `range`, cutting areas at its ends.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<Vma> {
        self.cut(range.start);
        self.cut(range.end);
        let starts: Vec<u64> = self.overlapping(range).map(|v| v.start).collect();
        let gone: Vec<Vma> = starts.iter().filter_map(|s| self.areas.remove(s)).collect();
        for vma in &gone {
            self.total = self.total.saturating_sub(vma.len());
            if self.hint.is_some_and(|hint| vma.end > hint) {
                self.hint = None;
            }
        }
        gone
    }

    /// Makes `at` a border between areas.
    fn cut(&mut self, at: u64) {
        let Some(start) = self.find(at).map(|v| v.start).filter(|start| *start < at) else {
            return;
        };
        if let Some(vma) = self.areas.get_mut(&start) {
            let tail = vma.split_off(at);
            self.areas.insert(at, tail);
        }
    }

    /// Room for `len` bytes in `within`, as high as possible.
    pub fn find_room(&mut self, len: u64, within: Range<u64>) -> Option<u64> {
        if let Some(hint) = self.hint
            && within.contains(&hint)
            && let Some(at) = self.search(len, within.start..hint)
        {
            self.hint = Some(at);
            return Some(at);
        }
        let at = self.search(len, within.clone())?;
        // Only a search from the very top knows that all above is full, and only for small gaps.
        self.hint = Some(at);
        Some(at)
    }

    fn search(&self, len: u64, within: Range<u64>) -> Option<u64> {
        let mut end = within.end;
        for vma in self.areas.range(..within.end).rev().map(|(_, v)| v) {
            if vma.end < end && end - vma.end >= len && end.checked_sub(len)? >= within.start {
                break;
            }
            end = end.min(vma.start);
            if end <= within.start {
                return None;
            }
        }
        let at = end.checked_sub(len)?;
        (at >= within.start).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64) -> Vma {
        Vma::anonymous(start..end, Prot::READ, VmaFlags::empty())
    }

    #[test]
    fn neighbours_that_are_alike_become_one() {
        let mut set = VmaSet::default();
        set.insert(area(0x1000, 0x2000));
        set.insert(area(0x3000, 0x4000));
        set.insert(area(0x2000, 0x3000));
        assert_eq!(set.count(), 1);
        assert_eq!(set.total(), 0x3000);
        assert!(set.covers(0x1000..0x4000));
    }

    #[test]
    fn a_hole_splits_an_area() {
        let mut set = VmaSet::default();
        set.insert(area(0x1000, 0x9000));
        let gone = set.remove(0x3000..0x5000);
        assert_eq!(gone.len(), 1);
        assert_eq!((gone[0].start, gone[0].end), (0x3000, 0x5000));
        assert_eq!(set.count(), 2);
        assert!(set.find(0x3000).is_none() && set.find(0x5000).is_some());
        assert!(!set.covers(0x1000..0x9000));
        assert_eq!(set.total(), 0x6000);
    }

    #[test]
    fn room_is_found_from_the_top_and_again_after_unmapping() {
        let mut set = VmaSet::default();
        let within = 0x1000..0x10_000;
        for want in [0xf000, 0xe000, 0xd000] {
            let at = set.find_room(0x1000, within.clone()).unwrap();
            assert_eq!(at, want);
            set.insert(area(at, at + 0x1000));
        }
        set.remove(0xe000..0xf000);
        assert_eq!(set.find_room(0x1000, within.clone()), Some(0xe000));
        assert_eq!(set.find_room(0x100_000, within.clone()), None);
        assert_eq!(set.find_room(0xc000, within), Some(0x1000));
    }

    #[test]
    fn ranges_that_make_no_sense_overlap_nothing() {
        let mut set = VmaSet::default();
        set.insert(area(0x1000, 0x2000));
        let (start, end) = (0x5000, 0x3000);
        assert_eq!(set.overlapping(start..end).count(), 0);
        assert!(set.remove(0x3000..0x3000).is_empty());
    }
}
