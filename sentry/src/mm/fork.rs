//! fork: a second address space that shares the pages of the first, copy-on-write.
//!
//! Some pages are written by both right after every fork: the stack's top, what the C library keeps of
//! the process. A copy at once is cheaper for those than a fault in each of the two, so a family of
//! forks remembers which pages were written soon, and copies them the next time.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{FrameRef, Mm, PAGE, Page, State, Vma, VmaFlags, VmaSet};
use crate::errno::Errno;
use crate::platform::{Mapping, Prot, platform};
use crate::sync::{Mutex, SpinLock};

/// Runs of resident pages that a child gets mapped at once; it faults for the rest.
const EAGER_RUNS: usize = 256;

/// Pages that a family remembers at most.
const MOST_HOT: usize = 32;
/// Forks after which it learns anew.
const RELEARN: u32 = 64;

/// What a family of forks, up to the next exec, knows about the pages that it writes soon after a fork.
#[derive(Clone, Default)]
pub(crate) struct Hot(Arc<SpinLock<HotPages>>);

#[derive(Default)]
struct HotPages {
    /// Sorted page numbers.
    pages: Vec<u64>,
    forks: u32,
}

impl Hot {
    /// A page that was shared with a fork has been written.
    pub(super) fn note(&self, number: u64) {
        let mut hot = self.0.lock();
        // Nobody has forked: there is nothing to learn.
        if hot.forks == 0 || hot.pages.len() >= MOST_HOT {
            return;
        }
        if let Err(at) = hot.pages.binary_search(&number) {
            hot.pages.insert(at, number);
        }
    }

    /// The pages to copy now; counts a fork.
    fn take(&self) -> Vec<u64> {
        let mut hot = self.0.lock();
        hot.forks = hot.forks.saturating_add(1);
        if hot.forks > RELEARN {
            hot.forks = 1;
            return core::mem::take(&mut hot.pages);
        }
        hot.pages.clone()
    }
}

impl Mm {
    /// The child's address space. Private pages are shared until one of the two writes.
    ///
    /// `alone`: no other task runs in this one, so that a page can be copied as it is at this moment.
    pub fn fork(&self, alone: bool) -> Result<Arc<Mm>, Errno> {
        let space = platform().new_space()?;
        let state = self.state.lock();
        let mut child = State {
            pages: state.pages.clone(),
            layout: state.layout,
            limits: state.limits,
            auxv: state.auxv.clone(),
            peak: state.pages.len() as u64,
            hot: state.hot.clone(),
            ..State::default()
        };
        let hot = if alone { state.hot.take() } else { Vec::new() };
        let mut vmas = VmaSet::default();
        let mut runs: Vec<Mapping> = Vec::new();
        for vma in state.vmas.iter() {
            let pages = vma.start / PAGE..vma.end / PAGE;
            if vma.flags.intersects(VmaFlags::DONT_FORK | VmaFlags::WIPE_ON_FORK) {
                let wiped: Vec<u64> = child.pages.range(pages.clone()).map(|(n, _)| *n).collect();
                for number in wiped {
                    child.pages.remove(&number);
                }
                if vma.flags.contains(VmaFlags::DONT_FORK) {
                    continue;
                }
            } else if vma.is_private() && vma.prot.contains(Prot::WRITE) {
                let copied = child.copy_hot(vma, &hot);
                self.share(&state, vma, pages.clone(), &copied);
            }
            let mut vma = vma.clone();
            // Locks are not inherited (mlock(2)).
            vma.flags.remove(VmaFlags::LOCKED);
            if runs.len() < EAGER_RUNS {
                runs.extend(child.runs(&vma, pages));
            }
            vmas.insert(vma);
        }
        child.vmas = vmas;
        drop(state);
        runs.truncate(EAGER_RUNS);
        space.map(&runs)?;
        let files: Vec<_> = child.vmas.iter().filter_map(|v| v.file.clone()).collect();
        let mm = Arc::new(Mm {
            membarrier: AtomicU32::new(self.membarrier.load(Ordering::SeqCst)),
            space,
            user: self.user.clone(),
            state: Mutex::new(child),
            owner: AtomicU32::new(self.owner.load(Ordering::Relaxed)),
            faults: AtomicU64::new(0),
            // They are not inherited.
            aio: Default::default(),
            oom: self.oom.get().cloned().map_or(spin::Once::new(), spin::Once::initialized),
        });
        for file in files {
            file.pages.attach(&mm);
        }
        Ok(mm)
    }

    /// Has the parent's next write to the resident pages of an area come by, but for those that were
    /// copied (sorted page numbers): they are its own still.
    fn share(&self, state: &State, vma: &Vma, pages: Range<u64>, copied: &[u64]) {
        let prot = vma.prot.difference(Prot::WRITE);
        let protect = |pages: Range<u64>| {
            let mut resident = state.pages.range(pages);
            if let Some((first, _)) = resident.next() {
                let last = resident.next_back().map_or(first, |(last, _)| last);
                self.space.protect(first * PAGE..(last + 1) * PAGE, prot);
            }
        };
        let mut from = pages.start;
        for page in copied {
            if from < *page {
                protect(from..*page);
            }
            from = page + 1;
        }
        if from < pages.end {
            protect(from..pages.end);
        }
    }
}

impl State {
    /// In a child that has its parent's pages: gives it copies of those of `hot` in `vma`. Which.
    fn copy_hot(&mut self, vma: &Vma, hot: &[u64]) -> Vec<u64> {
        let pages = vma.start / PAGE..vma.end / PAGE;
        let (mut copied, mut old) = (Vec::new(), Vec::new());
        let here = hot
            .iter()
            .filter(|n| pages.contains(*n) && self.pages.get(n).is_some_and(|page| page.private));
        let here: Vec<u64> = here.copied().collect();
        for run in here.chunk_by(|a, b| a + 1 == *b) {
            // Neighbours, so that they are one mapping. Without room they are shared like the rest.
            let Ok(frames) = FrameRef::alloc_run(run.len() as u32) else { break };
            for (number, frame) in run.iter().zip(frames) {
                let Some(page) = self.pages.get_mut(number) else { continue };
                platform().copy_frame(page.frame.frame(), frame.frame());
                old.push(core::mem::replace(page, Page { frame, private: true }));
                copied.push(*number);
            }
        }
        copied
    }
}
