//! Virtual memory: what an application has mapped, and the pages behind it.
//!
//! The truth is here. [`VmaSet`] says what was asked for; `pages` says which frame stands behind a page
//! that is resident; the platform's [`AddressSpace`] is a cache of both that faults fill. Rules:
//!
//! - A page of a private area that is in `pages` with `private` set belongs to the address space alone
//!   or is shared copy-on-write with forks: it is mapped writable only while its frame has one owner.
//! - Any other page in `pages` is held for a file's page cache, so that its frame outlives the mapping
//!   even when the file is truncated meanwhile. Pages of donated files are in no table: the host's
//!   page cache has them.
//! - Frames are dropped only after the platform has unmapped them.
//!
//! What belongs here: areas, faults, copies to and from user memory, fork. What does not: where files
//! keep their pages ([`Mappable`]), and how the machine maps (the platform).

mod advice;
mod fault;
mod fork;
mod frame;
mod map;
pub mod policy;
mod remote;
mod shared;
#[cfg(test)]
mod tests;
mod user;
mod vma;

pub use advice::Advice;
pub use fault::FaultError;
pub use frame::FrameRef;
pub use map::{MapRequest, Place};
pub use shared::SharedMemory;
pub use user::FutexKey;
pub use vma::{Vma, VmaFile, VmaFlags, VmaSet};

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::errno::Errno;
use crate::fs::aio::Contexts;
use crate::platform::{AddressSpace, Backing, FileId, Mapping, PAGE_SIZE, Prot, platform};
use crate::sync::Mutex;

pub(crate) const PAGE: u64 = PAGE_SIZE as u64;

/// Areas that a process can have: vm.max_map_count's default (Documentation/admin-guide/sysctl/vm.rst).
pub const MAX_MAP_COUNT: usize = 65530;

/// A page of a file, as something that can be mapped.
#[derive(Debug)]
pub enum FilePage {
    /// A page of the inode's page cache.
    Cached(FrameRef),
    /// The page with the same index of a donated host file.
    Donated(FileId),
}

/// What can be mapped: an inode's pages, one page cache for whoever maps or reads it.
///
/// Lock order: an address space calls these with its own lock held, so an implementation calls
/// [`Mm::forget_file`] and [`Mm::protect_file`] only after it has let go of its page-cache lock.
pub trait Mappable: Send + Sync {
    /// The page with this index. `write`: a shared mapping is about to write it, so it must be marked
    /// dirty. `EFAULT` past the end of the file (SIGBUS for the application), `ENOMEM`, or `EIO`.
    fn page(&self, index: u64, write: bool) -> Result<FilePage, Errno>;
    /// How many pages from `index` on, itself included and at most `most`, can be mapped without
    /// waiting: for faulting around. At least 1.
    fn around(&self, index: u64, most: u32) -> u32;
    /// `mm` maps pages of this inode: it wants to be told before pages go away (truncation, change of
    /// side) and before a dirty page is written back. May be called again for the same one.
    fn attach(&self, mm: &Arc<Mm>);
    /// `mm` maps none of it any more.
    fn detach(&self, mm: &Mm);
    /// Whether it wants to know the first write to a page through a shared mapping. Where nothing is
    /// ever written back there is no need, and pages are mapped writable at once.
    fn tracks_writes(&self) -> bool {
        true
    }
    /// Whether its content stands still: nobody has opened it for writing. Its pages may then be copied
    /// for a private mapping before that is written to.
    fn is_steady(&self) -> bool {
        false
    }
    /// Device and inode number, for /proc/PID/maps and for futexes.
    fn identity(&self) -> (u64, u64);
    /// Whether it is what shmat(2) maps, and so shmdt(2) unmaps.
    fn is_segment(&self) -> bool {
        false
    }
    /// Its content there goes: MADV_REMOVE. Without a lock of an address space.
    fn punch(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Writes dirty pages of the range back: msync(MS_SYNC).
    fn sync(&self, first: u64, pages: u64) -> Result<(), Errno>;
}

/// Who makes room when frames run out.
pub trait OomHandler: Send + Sync {
    /// No frame could be had; called without locks. Waits until there are some again, if need be by ending a
    /// process, which may be the caller's. `ENOMEM` where that is so, and where nobody can be ended.
    fn make_room(&self) -> Result<(), Errno>;
}

/// Where a program's parts lie, for brk(2) and /proc.
#[derive(Clone, Copy, Default, Debug)]
#[allow(missing_docs)] // the names are those of PR_SET_MM in prctl(2)
pub struct Layout {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// Where the search for room begins, downwards.
    pub mmap_base: u64,
    /// The vDSO, 0: none.
    pub vdso: u64,
}

/// Limits that apply to an address space (setrlimit(2)), bytes; `u64::MAX`: none.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names are setrlimit(2)'s
pub struct MmLimits {
    pub address_space: u64,
    pub data: u64,
    pub stack: u64,
    pub memlock: u64,
}

impl Default for MmLimits {
    fn default() -> Self {
        MmLimits { address_space: u64::MAX, data: u64::MAX, stack: 8 << 20, memlock: 8 << 20 }
    }
}

/// An address space of an application.
pub struct Mm {
    /// The machine's side of it.
    pub space: Arc<dyn AddressSpace>,
    /// Where applications may map.
    user: Range<u64>,
    state: Mutex<State>,
    /// The process that it was made for; its parent's until then.
    pub owner: AtomicU32,
    /// Page faults served.
    pub faults: AtomicU64,
    /// What membarrier(2) is registered for, by the commands' numbers; a fork's too.
    pub membarrier: AtomicU32,
    /// Its contexts of asynchronous I/O.
    pub aio: Contexts,
    /// Who makes room for it, once it is a process's.
    oom: spin::Once<Weak<dyn OomHandler>>,
}

/// A resident page.
#[derive(Clone)]
pub(crate) struct Page {
    pub frame: FrameRef,
    /// Belongs to this address space (or to its forks, copy-on-write); else to a file's page cache.
    pub private: bool,
}

/// What an [`Mm`]'s lock guards.
#[derive(Default)]
pub(crate) struct State {
    pub vmas: VmaSet,
    /// Resident pages by page number, but those of donated files.
    pub pages: BTreeMap<u64, Page>,
    pub layout: Layout,
    pub limits: MmLimits,
    /// The auxiliary vector, for /proc/PID/auxv.
    pub auxv: Vec<u8>,
    /// mlockall(MCL_FUTURE).
    pub lock_future: bool,
    /// Bytes in locked areas.
    pub locked: u64,
    /// Most pages that were resident at once.
    pub peak: u64,
    /// What is written right after forks.
    pub hot: fork::Hot,
}

/// Sizes of an address space, in pages, as /proc/PID/statm has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// All areas.
    pub size: u64,
    /// Resident pages.
    pub resident: u64,
    /// Of them, those of files.
    pub shared: u64,
    /// Executable areas.
    pub text: u64,
    /// Private writable areas.
    pub data: u64,
    /// The stack.
    pub stack: u64,
    /// The most that was resident.
    pub peak: u64,
    /// Locked areas.
    pub locked: u64,
}

impl Mm {
    /// A new, empty one.
    pub fn new() -> Result<Arc<Mm>, Errno> {
        Ok(Arc::new(Mm {
            space: platform().new_space()?,
            user: platform().user_range(),
            state: Mutex::new(State::default()),
            owner: AtomicU32::new(0),
            faults: AtomicU64::new(0),
            membarrier: AtomicU32::new(0),
            aio: Contexts::default(),
            oom: spin::Once::new(),
        }))
    }

    /// Says who makes room for it; the first call counts.
    pub fn set_oom_handler(&self, handler: Weak<dyn OomHandler>) {
        self.oom.call_once(|| handler);
    }

    /// The addresses that an application can have mapped.
    pub fn user_range(&self) -> Range<u64> {
        self.user.clone()
    }

    /// Where the program's parts lie.
    pub fn layout(&self) -> Layout {
        self.state.lock().layout
    }

    /// Sets where the program's parts lie (exec, prctl(PR_SET_MM)).
    pub fn set_layout(&self, change: impl FnOnce(&mut Layout)) {
        change(&mut self.state.lock().layout);
    }

    /// Sets the limits, after setrlimit(2) and at exec.
    pub fn set_limits(&self, limits: MmLimits) {
        self.state.lock().limits = limits;
    }

    /// The auxiliary vector, as bytes.
    pub fn auxv(&self) -> Vec<u8> {
        self.state.lock().auxv.clone()
    }

    /// Sets the auxiliary vector (exec).
    pub fn set_auxv(&self, auxv: Vec<u8>) {
        self.state.lock().auxv = auxv;
    }

    /// What is mapped at `addr`, where that is a file's pages, and how far into them that is, in bytes.
    pub fn mapped(&self, addr: u64) -> Option<(Arc<dyn Mappable>, u64)> {
        let state = self.state.lock();
        let vma = state.vmas.find(addr)?;
        let file = vma.file.as_ref()?;
        let into = file.first.checked_mul(PAGE)?.checked_add(addr.checked_sub(vma.start)?)?;
        Some((file.pages.clone(), into))
    }

    /// Whether anything is mapped at `addr` or above it.
    pub fn ends_above(&self, addr: u64) -> bool {
        self.state.lock().vmas.first_above(addr).is_some()
    }

    /// Whether anything of a file is mapped.
    pub fn maps(&self, pages: &dyn Mappable) -> bool {
        let state = self.state.lock();
        let mut files = state.vmas.iter().filter_map(|vma| vma.file.as_ref());
        files.any(|file| file.pages.identity() == pages.identity())
    }

    /// The areas now, by address.
    pub fn vmas(&self) -> Vec<Vma> {
        self.state.lock().vmas.iter().cloned().collect()
    }

    /// Pages resident in an area, and how many of them are private, for /proc/PID/smaps.
    pub fn resident_in(&self, range: Range<u64>) -> (u64, u64) {
        let state = self.state.lock();
        let pages = range.start / PAGE..(range.end / PAGE).max(range.start / PAGE);
        state
            .pages
            .range(pages)
            .fold((0, 0), |(all, private), (_, page)| (all + 1, private + u64::from(page.private)))
    }

    /// The most pages that were resident at once.
    pub fn peak_pages(&self) -> u64 {
        self.state.lock().peak
    }

    /// Sizes.
    pub fn usage(&self) -> Usage {
        let state = self.state.lock();
        let mut usage = Usage {
            size: state.vmas.total() / PAGE,
            resident: state.pages.len() as u64,
            shared: state.pages.values().filter(|p| !p.private).count() as u64,
            peak: state.peak.max(state.pages.len() as u64),
            locked: state.locked / PAGE,
            ..Usage::default()
        };
        for vma in state.vmas.iter() {
            let pages = vma.len() / PAGE;
            if vma.prot.contains(Prot::EXEC) {
                usage.text += pages;
            }
            if vma.flags.contains(VmaFlags::STACK) {
                usage.stack += pages;
            } else if vma.is_data() {
                usage.data += pages;
            }
        }
        usage
    }

    /// The file is about to lose these pages: nothing maps them afterwards; the next touch faults
    /// and asks the file again. Private copies stay, as on Linux, unless `even_private` (truncation).
    pub fn forget_file(&self, file: &dyn Mappable, first: u64, pages: u64, even_private: bool) {
        let mut state = self.state.lock();
        let mut dropped = Vec::new();
        for range in state.file_ranges(file, first, pages) {
            self.space.unmap(range.clone());
            let numbers: Vec<u64> = state
                .pages
                .range(range.start / PAGE..range.end / PAGE)
                .filter(|(_, page)| even_private || !page.private)
                .map(|(n, _)| *n)
                .collect();
            dropped.extend(numbers.iter().filter_map(|n| state.pages.remove(n)));
        }
        drop(state);
        drop(dropped);
    }

    /// The file is about to write these pages back: a later write through a shared mapping faults,
    /// and so marks the page dirty again.
    pub fn protect_file(&self, file: &dyn Mappable, first: u64, pages: u64) {
        let state = self.state.lock();
        for range in state.file_ranges(file, first, pages) {
            if let Some(vma) = state.vmas.find(range.start)
                && !vma.is_private()
            {
                self.space.protect(range, vma.prot.difference(Prot::WRITE));
            }
        }
    }

    /// Lets go of everything: the last task has left, or exec replaces it.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        let gone = state.vmas.remove(0..u64::MAX);
        self.space.unmap(self.user.clone());
        let pages = core::mem::take(&mut state.pages);
        state.locked = 0;
        self.detach(&state, &gone);
        drop(state);
        drop(pages);
    }

    /// Tells the files of areas that are gone, unless another area maps them still.
    fn detach(&self, state: &State, gone: &[Vma]) {
        for file in gone.iter().filter_map(|vma| vma.file.as_ref()) {
            let same =
                |vma: &Vma| vma.file.as_ref().is_some_and(|f| Arc::ptr_eq(&f.pages, &file.pages));
            if !state.vmas.iter().any(same) {
                file.pages.detach(self);
            }
        }
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        self.clear();
    }
}

impl State {
    /// The address ranges, one per area, that map these pages of `file`.
    fn file_ranges(&self, file: &dyn Mappable, first: u64, pages: u64) -> Vec<Range<u64>> {
        let end = first.saturating_add(pages);
        let who = file.identity();
        self.vmas
            .iter()
            .filter_map(|vma| {
                let f = vma.file.as_ref().filter(|f| f.pages.identity() == who)?;
                let last = f.first.saturating_add(vma.len() / PAGE);
                let (from, to) = (first.max(f.first), end.min(last));
                (from < to).then(|| {
                    let address = |page: u64| vma.start + (page - f.first) * PAGE;
                    address(from)..address(to)
                })
            })
            .collect()
    }

    /// What the platform may let the application do with a resident page of `vma`.
    fn effective(vma: &Vma, page: &Page) -> Prot {
        let at_once =
            || !vma.is_private() && vma.file.as_ref().is_some_and(|f| !f.pages.tracks_writes());
        if !vma.prot.contains(Prot::WRITE)
            || (page.private && page.frame.is_sole())
            || (!page.private && at_once())
        {
            vma.prot
        } else {
            // Shared copy-on-write, or of a file: the first write has to come by.
            vma.prot.difference(Prot::WRITE)
        }
    }

    /// The mappings, as runs, of all resident pages of `range` (page numbers) that lie in `vma`.
    fn runs(&self, vma: &Vma, range: Range<u64>) -> Vec<Mapping> {
        let mut runs: Vec<Mapping> = Vec::new();
        let range = range.start.max(vma.start / PAGE)..range.end.min(vma.end / PAGE);
        if range.is_empty() {
            return runs;
        }
        for (number, page) in self.pages.range(range) {
            let prot = Self::effective(vma, page);
            let (start, frame) = (number * PAGE, page.frame.frame());
            if let Some(last) = runs.last_mut()
                && last.prot == prot
                && last.start + u64::from(last.pages) * PAGE == start
                && last.backing == Backing::Frames(frame_before(frame, last.pages))
            {
                last.pages += 1;
            } else {
                runs.push(Mapping { start, pages: 1, backing: Backing::Frames(frame), prot });
            }
        }
        runs
    }
}

/// The frame `n` places before `frame`; itself where there is none.
fn frame_before(frame: crate::platform::Frame, n: u32) -> crate::platform::Frame {
    frame.0.checked_sub(n).map_or(frame, crate::platform::Frame)
}

/// Rounds up to a page; `None` past the end of the address space.
pub(crate) fn page_up(n: u64) -> Option<u64> {
    n.checked_add(PAGE - 1).map(|n| n & !(PAGE - 1))
}

/// Counts a fault.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
