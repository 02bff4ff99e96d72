//! Page tables: four levels, the lower half an application's, the upper half everybody's.
//!
//! Tables are edited under a lock and through the direct map. A CPU may keep stale translations while it is idle
//! or in the kernel: each space counts its changes ([`Tables`]' generation), and a CPU compares before it
//! enters user mode or touches user memory. Only CPUs that are in user mode are interrupted. A page that
//! holds tables goes back when the whole space does, and a CPU keeps a reference to the space that it
//! has loaded, so that speculative walks never meet memory that is something else by now.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::apic;
use crate::arch;
use crate::boot;
use crate::copy::{self, Fault, Word};
use crate::features::Features;
use crate::percpu::{self, PerCpu, state, this_cpu};
use crate::thread;

/// Bytes in a page.
pub const PAGE: u64 = 4096;

/// Entry bits (SDM volume 3, 4.5).
pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const GLOBAL: u64 = 1 << 8;
/// Software: mapped, but the application may do nothing with it.
const INACCESSIBLE: u64 = 1 << 9;
const NO_EXECUTE: u64 = 1 << 63;

/// Where kernel stacks and devices are mapped: entry 384 of the top level.
const KERNEL_MAPS: u64 = 0xffff_c000_0000_0000;

/// Single pages to drop before a whole flush is cheaper.
const FEW: usize = 32;

/// Rights of a user page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    /// Loads.
    pub read: bool,
    /// Stores.
    pub write: bool,
    /// Fetches.
    pub execute: bool,
}

impl Rights {
    fn bits(self) -> u64 {
        let execute = if self.execute { 0 } else { NO_EXECUTE };
        match self {
            Rights { write: true, .. } => PRESENT | USER | ACCESSED | DIRTY | WRITABLE | execute,
            Rights { read: false, execute: false, .. } => INACCESSIBLE | NO_EXECUTE,
            _ => PRESENT | USER | ACCESSED | DIRTY | execute,
        }
    }
}

/// There is no memory for tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMemory;

/// A page of 512 entries, through the direct map.
#[derive(Clone, Copy)]
struct Table(*const AtomicU64);

impl Table {
    fn at(physical: u64) -> Table {
        Table(boot::direct(physical) as *const AtomicU64)
    }

    #[inline]
    fn entry(&self, index: usize) -> &AtomicU64 {
        // SAFETY: `at` is only given addresses of tables, which live as long as their space, and the index is cut
        // to the 512 entries. The CPU changes accessed and dirty bits at most.
        unsafe { &*self.0.add(index & 511) }
    }

    #[inline]
    fn below(&self, index: usize) -> Option<Table> {
        let entry = self.entry(index).load(Ordering::Relaxed);
        (entry & PRESENT != 0).then(|| Table::at(entry & ADDRESS))
    }
}

#[inline]
fn index(addr: u64, level: u32) -> usize {
    (addr >> (12 + 9 * level)) as usize & 511
}

/// Makes the kernel's half ready: everything that is mapped later is below entries that all spaces copy.
pub(crate) fn init_kernel() {
    let root = Table::at(boot::kernel_root());
    let slot = root.entry(index(KERNEL_MAPS, 3));
    if slot.load(Ordering::Relaxed) == 0
        && let Some(page) = boot::hooks().host.alloc_page()
    {
        slot.store(page | PRESENT | WRITABLE | ACCESSED, Ordering::Relaxed);
    }
}

static KERNEL_LOCK: spin::Mutex<u64> = spin::Mutex::new(KERNEL_MAPS);

/// Reserves kernel addresses, never given back.
pub(crate) fn reserve_kernel(pages: u64) -> u64 {
    let mut next = KERNEL_LOCK.lock();
    let at = *next;
    *next = at.saturating_add(pages.saturating_mul(PAGE));
    at
}

/// Maps one page for the kernel.
pub(crate) fn map_kernel(addr: u64, physical: u64, device: bool) -> Result<(), NoMemory> {
    let _lock = KERNEL_LOCK.lock();
    let mut table = Table::at(boot::kernel_root());
    for level in [3, 2, 1] {
        table = match table.below(index(addr, level)) {
            Some(t) => t,
            None => {
                let page = boot::hooks().host.alloc_page().ok_or(NoMemory)?;
                table
                    .entry(index(addr, level))
                    .store(page | PRESENT | WRITABLE | ACCESSED, Ordering::Release);
                Table::at(page)
            }
        };
    }
    let extra = if device { UNCACHED } else { 0 };
    table.entry(index(addr, 0)).store(
        physical | PRESENT | WRITABLE | ACCESSED | DIRTY | GLOBAL | NO_EXECUTE | extra,
        Ordering::Release,
    );
    Ok(())
}

/// Takes back what [`map_kernel`] mapped; the page, where there was one. Every CPU may go on to know it there: whoever maps
/// another one has each drop the translation before it looks.
pub(crate) fn unmap_kernel(addr: u64) -> Option<u64> {
    let _lock = KERNEL_LOCK.lock();
    let mut table = Table::at(boot::kernel_root());
    for level in [3, 2, 1] {
        table = table.below(index(addr, level))?;
    }
    let entry = table.entry(index(addr, 0)).swap(0, Ordering::AcqRel);
    (entry & PRESENT != 0).then_some(entry & ADDRESS)
}

/// Maps a device's page; 0 where there is no memory for that.
pub(crate) fn map_device(physical: u64) -> u64 {
    let addr = reserve_kernel(1);
    match map_kernel(addr, physical, true) {
        Ok(()) => addr,
        Err(NoMemory) => 0,
    }
}

/// Whether the kernel can read there, for backtraces.
pub fn kernel_mapped(addr: u64) -> bool {
    if addr >> 47 != 0x1ffff {
        return false;
    }
    let mut table = Table::at(boot::kernel_root());
    for level in [3, 2, 1, 0] {
        let entry = table.entry(index(addr, level)).load(Ordering::Relaxed);
        if entry & PRESENT == 0 {
            return false;
        }
        if level == 0 || (level < 3 && entry & 1 << 7 != 0) {
            return true;
        }
        table = Table::at(entry & ADDRESS);
    }
    false
}

/// One application's tables.
pub struct Tables {
    root: u64,
    /// Pages that hold tables. Guards the entries too. Last in the lock order.
    pages: spin::Mutex<Vec<u64>>,
    /// Counts changes after which old translations are wrong.
    generation: AtomicU64,
    /// CPUs that have it loaded.
    active: AtomicU64,
}

/// What a batch of changes leaves to be dropped from the translation caches.
#[derive(Default)]
struct Stale {
    pages: [u64; FEW],
    count: usize,
    /// Whether rights were taken away, so that other CPUs must know.
    lost: bool,
}

impl Stale {
    fn add(&mut self, addr: u64, lost: bool) {
        if let Some(slot) = self.pages.get_mut(self.count) {
            *slot = addr;
        }
        self.count = self.count.saturating_add(1);
        self.lost |= lost;
    }
}

/// The lock on a space's entries, and what its changes have made stale.
pub struct Edit<'a> {
    tables: &'a Tables,
    pages: spin::MutexGuard<'a, Vec<u64>>,
    stale: Stale,
}

impl Tables {
    /// An empty space.
    pub fn new() -> Result<Tables, NoMemory> {
        let root = boot::hooks().host.alloc_page().ok_or(NoMemory)?;
        let (from, to) = (Table::at(boot::kernel_root()), Table::at(root));
        for n in 256..512 {
            to.entry(n).store(from.entry(n).load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Ok(Tables {
            root,
            pages: spin::Mutex::new(Vec::new()),
            generation: AtomicU64::new(1),
            active: AtomicU64::new(0),
        })
    }

    /// Locks it for changes; they are complete, on every CPU, when [`Edit::finish`] returns.
    pub fn edit(&self) -> Edit<'_> {
        Edit { tables: self, pages: self.pages.lock(), stale: Stale::default() }
    }

    /// The physical address behind a user address, and its rights.
    pub fn lookup(&self, addr: u64) -> Option<(u64, Rights)> {
        let _lock = self.pages.lock();
        self.walk(addr)
    }

    fn walk(&self, addr: u64) -> Option<(u64, Rights)> {
        if addr >= copy::USER_END {
            return None;
        }
        let mut table = Table::at(self.root);
        for level in [3, 2, 1] {
            table = table.below(index(addr, level))?;
        }
        let entry = table.entry(index(addr, 0)).load(Ordering::Relaxed);
        if entry & (PRESENT | INACCESSIBLE) == 0 {
            return None;
        }
        let present = entry & PRESENT != 0;
        let rights = Rights {
            read: present,
            write: present && entry & WRITABLE != 0,
            execute: present && entry & NO_EXECUTE == 0,
        };
        Some((entry & ADDRESS | addr & (PAGE - 1), rights))
    }

    /// Drops stale translations. Called after the entries have changed.
    fn flush(&self, stale: &Stale) {
        let cpu = this_cpu();
        let here = cpu.shared.space.load(Ordering::Relaxed).cast_const() == self;
        let few = stale.pages.get(..stale.count);
        if !stale.lost {
            // Others may meet the old, lesser rights: they fault, and the answer to that fault is the same map again.
            if here {
                match few {
                    Some(few) => few.iter().for_each(|&p| arch::invlpg(p)),
                    // SAFETY: the same tables again.
                    None => unsafe { arch::set_cr3(self.root) },
                }
            }
            return;
        }
        let generation = self.generation.fetch_add(1, Ordering::SeqCst) + 1;
        if here
            && let Some(few) = few
            && cpu.shared.tlb_seen.load(Ordering::Relaxed) == generation - 1
        {
            few.iter().for_each(|&p| arch::invlpg(p));
            cpu.shared.tlb_seen.store(generation, Ordering::Release);
        }
        let others = self.active.load(Ordering::SeqCst) & !(1 << cpu.number);
        for n in percpu::each(others) {
            let Some(other) = percpu::remote(n) else {
                continue;
            };
            let behind = || {
                other.state.load(Ordering::SeqCst) != state::KERNEL
                    && other.space.load(Ordering::SeqCst).cast_const() == self
                    && other.tlb_seen.load(Ordering::SeqCst) < generation
            };
            if behind() && other.state.load(Ordering::SeqCst) == state::USER {
                apic::interrupt(n);
            }
            let mut asked = false;
            while behind() {
                // It may have gone from a copy to user mode in between: ask once more.
                if !asked && other.state.load(Ordering::SeqCst) == state::USER {
                    apic::interrupt(n);
                    asked = true;
                }
                hint::spin_loop();
            }
        }
    }

    /// Returns when every CPU that was in user mode in this space has been interrupted, or has left it by itself. One
    /// that comes back to user mode executes a locked instruction and reloads CR3 on the way, which orders memory and
    /// serializes (SDM volume 3, 9.3).
    pub fn barrier(&self) {
        self.flush(&Stale { count: usize::MAX, lost: true, ..Stale::default() });
    }

    /// Loads it on this CPU.
    #[inline]
    pub fn load(self: &Arc<Self>) {
        let cpu = this_cpu();
        if cpu.shared.space.load(Ordering::Relaxed).cast_const() != Arc::as_ptr(self) {
            self.load_now(cpu);
        }
    }

    fn load_now(self: &Arc<Self>, cpu: &PerCpu) {
        let bit = 1 << cpu.number;
        self.active.fetch_or(bit, Ordering::SeqCst);
        let generation = self.generation.load(Ordering::SeqCst);
        let new = Arc::into_raw(self.clone()).cast_mut();
        // SAFETY: every space has the kernel's half.
        unsafe { arch::set_cr3(self.root) };
        cpu.shared.tlb_seen.store(generation, Ordering::SeqCst);
        let old = cpu.shared.space.swap(new, Ordering::SeqCst);
        if !old.is_null() {
            // SAFETY: it was made by `into_raw` above, at an earlier load; this CPU has left it.
            let old = unsafe { Arc::from_raw(old.cast_const()) };
            old.active.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// Drops this CPU's stale translations of the loaded space `self`. The CPU has said before that it is in
    /// user mode or copying, so changes from here on will ask it.
    #[inline]
    pub(crate) fn catch_up(&self, cpu: &PerCpu) {
        let generation = self.generation.load(Ordering::SeqCst);
        if cpu.shared.tlb_seen.load(Ordering::Relaxed) != generation {
            // SAFETY: the same tables again.
            unsafe { arch::set_cr3(self.root) };
            cpu.shared.tlb_seen.store(generation, Ordering::SeqCst);
        }
    }

    /// Runs `f` with this space loaded and its translations fresh; `None` where it is not worth loading.
    #[inline]
    fn with_loaded<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> Option<T> {
        if !boot::choice().features.contains(Features::SMAP) {
            return None;
        }
        let cpu = this_cpu();
        if cpu.shared.space.load(Ordering::Relaxed).cast_const() != Arc::as_ptr(self) {
            if thread::current().last_space.get() != Arc::as_ptr(self) {
                return None;
            }
            self.load_now(cpu);
        }
        cpu.shared.state.swap(state::COPY, Ordering::SeqCst);
        self.catch_up(cpu);
        let result = f();
        cpu.shared.state.store(state::KERNEL, Ordering::Release);
        Some(result)
    }

    /// Copies from user memory.
    pub fn copy_in(self: &Arc<Self>, addr: u64, buf: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0usize;
        for chunk in buf.chunks_mut(CHUNK) {
            let at = addr.wrapping_add(done as u64);
            // SAFETY: SMAP is on and this space is loaded; user pages have the application's rights alone.
            let result = match self.with_loaded(|| unsafe { copy::copy_in(at, chunk) }) {
                Some(result) => result,
                None => self.walk_pages(at, chunk.len(), false, |physical, range| {
                    let part = &mut chunk[range];
                    // SAFETY: the table is locked, so that the page stays; it is memory of an application, which
                    // no Rust reference points at.
                    unsafe { read_physical(physical, part) };
                }),
            };
            result.map_err(|fault| Fault {
                done: done.saturating_add(fault.done),
                addr: fault.addr,
            })?;
            done = done.saturating_add(chunk.len());
        }
        Ok(())
    }

    /// Copies to user memory.
    pub fn copy_out(self: &Arc<Self>, addr: u64, data: &[u8]) -> Result<(), Fault> {
        let mut done = 0usize;
        for chunk in data.chunks(CHUNK) {
            let at = addr.wrapping_add(done as u64);
            // SAFETY: as in `copy_in`.
            let result = match self.with_loaded(|| unsafe { copy::copy_out(at, chunk) }) {
                Some(result) => result,
                None => self.walk_pages(at, chunk.len(), true, |physical, range| {
                    // SAFETY: as in `copy_in`.
                    unsafe { write_physical(physical, &chunk[range]) };
                }),
            };
            result.map_err(|fault| Fault {
                done: done.saturating_add(fault.done),
                addr: fault.addr,
            })?;
            done = done.saturating_add(chunk.len());
        }
        Ok(())
    }

    /// Copies from physical memory to user memory, as far as that goes without further ado; how many bytes.
    ///
    /// # Safety
    /// As for [`read_physical`].
    pub unsafe fn copy_out_physical(
        self: &Arc<Self>,
        addr: u64,
        physical: u64,
        len: usize,
    ) -> usize {
        let mut done = 0usize;
        while done < len {
            let n = (len - done).min(CHUNK);
            let (at, from) = (addr.wrapping_add(done as u64), boot::direct(physical) + done as u64);
            // SAFETY: as in `copy_in`; the source is the caller's promise.
            let copy = || unsafe { copy::copy_out_from(at, from as *const u8, n) };
            match self.with_loaded(copy) {
                Some(Ok(())) => done = done.saturating_add(n),
                Some(Err(fault)) => return done.saturating_add(fault.done),
                None => break,
            }
        }
        done
    }

    /// Each piece of a user range that lies in one page, by its physical address.
    fn walk_pages(
        &self,
        addr: u64,
        len: usize,
        write: bool,
        mut piece: impl FnMut(u64, Range<usize>),
    ) -> Result<(), Fault> {
        let mut done = 0usize;
        while done < len {
            let at = addr.wrapping_add(done as u64);
            let left = (PAGE - at % PAGE) as usize;
            let end = done.saturating_add(left).min(len);
            let _lock = self.pages.lock();
            match self.walk(at) {
                Some((physical, rights)) if if write { rights.write } else { rights.read } => {
                    piece(physical, done..end);
                }
                _ => return Err(Fault { done, addr: at }),
            }
            done = end;
        }
        Ok(())
    }

    /// `next(old)` is stored where it is `Some`, atomically; the word before. The word is aligned.
    pub fn update_word(
        self: &Arc<Self>,
        addr: u64,
        next: impl Fn(u32) -> Option<u32>,
    ) -> Result<u32, Fault> {
        let fault = Fault { done: 0, addr };
        if addr & 3 != 0 || addr >= copy::USER_END {
            return Err(fault);
        }
        // SAFETY: SMAP is on and this space is loaded.
        let fast = self.with_loaded(|| unsafe {
            let mut old = copy::word(addr, Word::Load)?;
            while let Some(new) = next(old) {
                let seen = copy::word(addr, Word::CompareExchange(old, new))?;
                if seen == old {
                    break;
                }
                old = seen;
            }
            Some(old)
        });
        if let Some(result) = fast {
            return result.ok_or(fault);
        }
        let _lock = self.pages.lock();
        let (physical, rights) = self.walk(addr).filter(|(_, r)| r.read).ok_or(fault)?;
        // SAFETY: the table is locked, so the page stays; the word is aligned; application memory.
        let word = unsafe { physical_word(physical) };
        let mut old = word.load(Ordering::SeqCst);
        while let Some(new) = next(old) {
            if !rights.write {
                return Err(fault);
            }
            match word.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break,
                Err(seen) => old = seen,
            }
        }
        Ok(old)
    }
}

/// Most bytes copied in one go: others may wait for the end of it.
const CHUNK: usize = 64 << 10;

impl Edit<'_> {
    /// The entry's table for `addr`, made where it is missing.
    fn leaf(&mut self, addr: u64) -> Result<Table, NoMemory> {
        let mut table = Table::at(self.tables.root);
        for level in [3, 2, 1] {
            let slot = index(addr, level);
            table = match table.below(slot) {
                Some(t) => t,
                None => {
                    let page = boot::hooks().host.alloc_page().ok_or(NoMemory)?;
                    self.pages.push(page);
                    table
                        .entry(slot)
                        .store(page | PRESENT | WRITABLE | USER | ACCESSED, Ordering::Release);
                    Table::at(page)
                }
            };
        }
        Ok(table)
    }

    /// Changes one entry and notes what that makes stale.
    #[inline]
    fn set(&mut self, slot: &AtomicU64, addr: u64, new: u64) {
        let old = slot.swap(new, Ordering::Relaxed);
        if old & PRESENT != 0 && old != new {
            let gained = new & PRESENT != 0
                && (old ^ new) & ADDRESS == 0
                && old & WRITABLE & !new == 0
                && new & NO_EXECUTE & !old == 0;
            self.stale.add(addr, !gained);
        }
    }

    /// Maps pages that are neighbours in physical memory over whatever is there.
    pub fn map(
        &mut self,
        start: u64,
        pages: u32,
        physical: u64,
        rights: Rights,
    ) -> Result<(), NoMemory> {
        let bits = rights.bits();
        let (mut addr, mut physical, mut left) = (start, physical, pages);
        while left > 0 && addr < copy::USER_END {
            let table = self.leaf(addr)?;
            let first = index(addr, 0);
            let count = (512 - first).min(left as usize);
            for n in first..first + count {
                self.set(table.entry(n), addr, physical | bits);
                addr += PAGE;
                physical += PAGE;
            }
            left -= count as u32;
        }
        Ok(())
    }

    /// Every present or inaccessible entry of a range.
    fn each(&mut self, range: Range<u64>, change: impl Fn(u64) -> u64) {
        let mut addr = range.start & !(PAGE - 1);
        let end = range.end.min(copy::USER_END);
        'next: while addr < end {
            let mut table = Table::at(self.tables.root);
            for level in [3, 2, 1] {
                table = match table.below(index(addr, level)) {
                    Some(t) => t,
                    None => {
                        let size = 1u64 << (12 + 9 * level);
                        addr = (addr & !(size - 1)) + size;
                        continue 'next;
                    }
                };
            }
            let first = index(addr, 0);
            for n in first..512 {
                if addr >= end {
                    return;
                }
                let slot = table.entry(n);
                let old = slot.load(Ordering::Relaxed);
                if old != 0 {
                    self.set(slot, addr, change(old));
                }
                addr += PAGE;
            }
        }
    }

    /// Unmaps what is mapped in a range.
    pub fn unmap(&mut self, range: Range<u64>) {
        self.each(range, |_| 0);
    }

    /// Changes the rights of what is mapped in a range.
    pub fn protect(&mut self, range: Range<u64>, rights: Rights) {
        let bits = rights.bits();
        self.each(range, |old| old & ADDRESS | bits);
    }

    /// Unmaps whatever points into a physical range, wherever it is.
    pub fn unmap_physical(&mut self, physical: Range<u64>) {
        self.each(
            0..copy::USER_END,
            |old| {
                if physical.contains(&(old & ADDRESS)) { 0 } else { old }
            },
        );
    }

    /// Ends the batch: no CPU uses what it has replaced any more, once this returns.
    pub fn finish(self) {
        let Edit { tables, pages, stale } = self;
        drop(pages);
        if stale.count > 0 {
            tables.flush(&stale);
        }
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        let host = boot::hooks().host;
        // No CPU has it loaded: each holds a reference while it has.
        for &page in self.pages.get_mut().iter() {
            host.free_page(page);
        }
        host.free_page(self.root);
    }
}

/// Whether this CPU has a space loaded that nobody else refers to any more.
pub(crate) fn loaded_alone() -> bool {
    let space = this_cpu().shared.space.load(Ordering::Relaxed);
    // SAFETY: this CPU's own reference keeps it; looking at the count needs another for a moment, not dropped.
    !space.is_null()
        && unsafe {
            let space = core::mem::ManuallyDrop::new(Arc::from_raw(space.cast_const()));
            Arc::strong_count(&space) == 1
        }
}

/// Goes back to the kernel's own tables on this CPU, and lets go of the loaded space.
pub(crate) fn unload() {
    let cpu = this_cpu();
    let old = cpu.shared.space.swap(core::ptr::null_mut(), Ordering::SeqCst);
    if !old.is_null() {
        // SAFETY: the kernel's own tables; the space was put there by `load_now`.
        unsafe {
            arch::set_cr3(boot::kernel_root());
            let old = Arc::from_raw(old.cast_const());
            old.active.fetch_and(!(1 << cpu.number), Ordering::SeqCst);
        }
    }
    fence(Ordering::SeqCst);
}

/// Copies out of physical memory.
///
/// # Safety
/// The range is memory that stays, and that no Rust reference points at but shared with devices and applications.
pub unsafe fn read_physical(physical: u64, buf: &mut [u8]) {
    let from = boot::direct(physical) as *const u8;
    // SAFETY: the caller's promise; string instructions make no assumption about who else writes there.
    unsafe {
        core::arch::asm!("rep movsq", "mov ecx, {tail:e}", "rep movsb", tail = in(reg) buf.len() & 7,
            inout("rcx") buf.len() / 8 => _, inout("rsi") from => _,
            inout("rdi") buf.as_mut_ptr() => _, options(nostack, preserves_flags));
    }
}

/// Copies into physical memory.
///
/// # Safety
/// As for [`read_physical`].
pub unsafe fn write_physical(physical: u64, data: &[u8]) {
    let to = boot::direct(physical) as *mut u8;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("rep movsq", "mov ecx, {tail:e}", "rep movsb", tail = in(reg) data.len() & 7,
            inout("rcx") data.len() / 8 => _, inout("rsi") data.as_ptr() => _,
            inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// Zeroes physical memory.
///
/// # Safety
/// As for [`read_physical`].
pub unsafe fn zero_physical(physical: u64, len: usize) {
    let to = boot::direct(physical) as *mut u8;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("rep stosq", "mov ecx, {tail:e}", "rep stosb", tail = in(reg) len & 7,
            inout("rcx") len / 8 => _, in("rax") 0u64, inout("rdi") to => _,
            options(nostack, preserves_flags));
    }
}

/// Copies one page of physical memory to another.
///
/// # Safety
/// As for [`read_physical`], for both.
pub unsafe fn copy_physical_page(from: u64, to: u64) {
    let (from, to) = (boot::direct(from), boot::direct(to));
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("rep movsq", inout("rcx") PAGE / 8 => _, inout("rsi") from => _,
            inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// A word of physical memory.
///
/// # Safety
/// As for [`read_physical`], for as long as the reference lives; the address is a multiple of 4.
pub unsafe fn physical_word<'a>(physical: u64) -> &'a core::sync::atomic::AtomicU32 {
    // SAFETY: the caller's promise.
    unsafe { core::sync::atomic::AtomicU32::from_ptr(boot::direct(physical & !3) as *mut u32) }
}
