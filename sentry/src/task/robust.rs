//! Robust futexes: locks whose owner dies while it holds them (get_robust_list(2),
//! Documentation/locking/robust-futexes.rst).

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::Task;
use crate::errno::Errno;
use crate::futex;
use crate::mm::Mm;
use crate::platform::AtomicOp;

/// Locks that are looked at, at most (ROBUST_LIST_LIMIT): the list may be a circle.
const LIMIT: u32 = 2048;
/// Bits of a futex word.
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// Marks the locks that an ending task holds, and wakes one waiter of each.
pub(super) fn release(task: &Arc<Task>, mm: &Arc<Mm>) {
    let head = task.robust_list.swap(0, Ordering::Relaxed);
    if head != 0 {
        // A list that cannot be read ends where it cannot be read.
        let _broken = walk(task, mm, head);
    }
}

fn walk(task: &Arc<Task>, mm: &Arc<Mm>, head: u64) -> Result<(), Errno> {
    // struct robust_list_head: list.next, futex_offset, list_op_pending. Bit 0 of a link: a PI lock.
    let mut entry = mm.copy_in_u64(head)?;
    let offset = mm.copy_in_u64(head.wrapping_add(8))?;
    let pending = mm.copy_in_u64(head.wrapping_add(16))?;
    for _ in 0..LIMIT {
        if entry & !1 == head {
            break;
        }
        let next = mm.copy_in_u64(entry & !1);
        // The one that an operation was under way on comes last.
        if entry & !1 != pending & !1 {
            died(task, mm, (entry & !1).wrapping_add(offset), entry & 1 != 0, false)?;
        }
        entry = next?;
    }
    if pending & !1 != 0 {
        died(task, mm, (pending & !1).wrapping_add(offset), pending & 1 != 0, true)?;
    }
    Ok(())
}

fn died(task: &Arc<Task>, mm: &Arc<Mm>, addr: u64, pi: bool, pending: bool) -> Result<(), Errno> {
    loop {
        let word = mm.atomic(addr, AtomicOp::Load)?;
        // The owner had let go, but may not have woken anybody yet.
        if pending && !pi && word == 0 {
            futex::wake_addr(mm, addr, 1);
            return Ok(());
        }
        if word & FUTEX_TID_MASK != task.vtid() {
            return Ok(());
        }
        let new = word & FUTEX_WAITERS | FUTEX_OWNER_DIED;
        if mm.atomic(addr, AtomicOp::CompareExchange(word, new))? == word {
            // A lock of priority inheritance is handed over afterwards.
            if word & FUTEX_WAITERS != 0 && !pi {
                futex::wake_addr(mm, addr, 1);
            }
            return Ok(());
        }
    }
}
