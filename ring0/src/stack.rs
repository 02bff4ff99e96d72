//! Kernel stacks: each mapped on its own, with a page below that is not mapped, so that running out of it is a
//! double fault and never a write into something else.

use alloc::vec::Vec;

use crate::boot;
use crate::paging::{self, PAGE};

/// Pages of a stack.
const PAGES: u64 = 16;
/// Addresses set aside for each, guard included.
const STRIDE: u64 = 32;

/// A stack. Dropping it keeps it for the next thread.
pub struct Stack {
    bottom: u64,
}

static SPARE: spin::Mutex<Vec<u64>> = spin::Mutex::new(Vec::new());

impl Stack {
    /// A stack; `None` where memory is short.
    pub fn new() -> Option<Stack> {
        let spare = SPARE.lock().pop();
        if let Some(bottom) = spare {
            return Some(Stack { bottom });
        }
        let bottom = paging::reserve_kernel(STRIDE) + (STRIDE - PAGES) * PAGE;
        for n in 0..PAGES {
            let page = boot::hooks().host.alloc_page()?;
            paging::map_kernel(bottom + n * PAGE, page, false).ok()?;
        }
        Some(Stack { bottom })
    }

    /// Just past its highest byte.
    pub fn top(&self) -> u64 {
        self.bottom + PAGES * PAGE
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        SPARE.lock().push(self.bottom);
    }
}
