//! Kernel stacks: each mapped on its own, with a page below that is not mapped, so that running out of it is a
//! double fault and never a write into something else.

use alloc::vec::Vec;

use crate::paging::{self, PAGE};
use crate::{arch, boot};

/// Pages of a stack.
const PAGES: u64 = 16;
/// Addresses set aside for each, guard included.
const STRIDE: u64 = 32;
/// Stacks without a thread that keep their pages: as many as are often made and dropped one after the other. What a
/// burst of threads had beyond that is memory like any other.
const KEPT: usize = 16;

/// A stack. Dropping it keeps it for the next thread, or its addresses.
pub struct Stack {
    bottom: u64,
    /// CPUs, a bit each, that may know its addresses as those of an earlier stack with other pages.
    stale: u64,
}

/// Stacks to use again, by their lowest addresses, and the same of those without pages.
static SPARE: spin::Mutex<Vec<(u64, u64)>> = spin::Mutex::new(Vec::new());
static BARE: spin::Mutex<Vec<u64>> = spin::Mutex::new(Vec::new());

impl Stack {
    /// A stack; `None` where memory is short.
    pub fn new() -> Option<Stack> {
        let spare = SPARE.lock().pop();
        if let Some((bottom, stale)) = spare {
            return Some(Stack { bottom, stale });
        }
        let bare = BARE.lock().pop();
        let (bottom, stale) = match bare {
            Some(bottom) => (bottom, u64::MAX),
            None => (paging::reserve_kernel(STRIDE) + (STRIDE - PAGES) * PAGE, 0),
        };
        for n in 0..PAGES {
            let page = boot::hooks().host.alloc_page();
            let mapped =
                page.is_some_and(|page| paging::map_kernel(bottom + n * PAGE, page, false).is_ok());
            if !mapped {
                if let Some(page) = page {
                    boot::hooks().host.free_page(page);
                }
                strip(bottom, n);
                return None;
            }
        }
        Some(Stack { bottom, stale })
    }

    /// Just past its highest byte.
    pub fn top(&self) -> u64 {
        self.bottom + PAGES * PAGE
    }

    /// Whether this CPU, whose bit is given, must [`forget`](Self::forget) before it uses the stack.
    #[inline]
    pub(crate) fn is_stale(&self, cpu: u64) -> bool {
        self.stale & cpu != 0
    }

    /// Has this CPU, whose bit is given, drop what it knows of the addresses.
    #[cold]
    pub(crate) fn forget(&mut self, cpu: u64) {
        (0..PAGES).for_each(|n| arch::invlpg(self.bottom + n * PAGE));
        self.stale &= !cpu;
    }
}

/// Takes the first pages of a stack that nobody uses away, and keeps the addresses.
fn strip(bottom: u64, pages: u64) {
    for n in 0..pages {
        if let Some(page) = paging::unmap_kernel(bottom + n * PAGE) {
            boot::hooks().host.free_page(page);
        }
    }
    BARE.lock().push(bottom);
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut spare = SPARE.lock();
        if spare.len() < KEPT {
            spare.push((self.bottom, self.stale));
            return;
        }
        drop(spare);
        strip(self.bottom, PAGES);
    }
}
