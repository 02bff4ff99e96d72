//! fork: a second address space that shares the pages of the first, copy-on-write.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use super::{Mm, PAGE, State, VmaFlags, VmaSet};
use crate::errno::Errno;
use crate::platform::{Mapping, Prot, platform};
use crate::sync::Mutex;

/// Runs of resident pages that a child gets mapped at once; it faults for the rest.
const EAGER_RUNS: usize = 256;

impl Mm {
    /// The child's address space. Private pages are shared until one of the two writes.
    pub fn fork(&self) -> Result<Arc<Mm>, Errno> {
        let space = platform().new_space()?;
        let state = self.state.lock();
        let mut child = State {
            pages: state.pages.clone(),
            layout: state.layout,
            limits: state.limits,
            auxv: state.auxv.clone(),
            peak: state.pages.len() as u64,
            ..State::default()
        };
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
                // The parent's next write to any of them has to come by.
                if let (Some((first, _)), Some((last, _))) = (
                    state.pages.range(pages.clone()).next(),
                    state.pages.range(pages.clone()).next_back(),
                ) {
                    let range = first * PAGE..(last + 1) * PAGE;
                    self.space.protect(range, vma.prot.difference(Prot::WRITE));
                }
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
            space,
            user: self.user.clone(),
            state: Mutex::new(child),
            faults: AtomicU64::new(0),
        });
        for file in files {
            file.pages.attach(&mm);
        }
        Ok(mm)
    }
}
