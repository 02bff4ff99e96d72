//! mmap(2), munmap(2), mprotect(2), mremap(2) and brk(2).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::{
    FaultError, MAX_MAP_COUNT, Mm, PAGE, Page, SharedMemory, State, Vma, VmaFile, VmaFlags, page_up,
};
use crate::errno::Errno;
use crate::platform::{Access, Mapping, Prot};

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Anywhere; near this address if there is room (0: no wish).
    Hint(u64),
    /// Exactly there, over whatever is mapped (MAP_FIXED).
    Fixed(u64),
    /// Exactly there, `EEXIST` where something is mapped (MAP_FIXED_NOREPLACE).
    FixedNoReplace(u64),
}

/// What mmap(2) is asked for.
#[derive(Clone)]
pub struct MapRequest {
    /// Where.
    pub place: Place,
    /// Bytes; rounded up to pages.
    pub len: u64,
    /// What the application may do.
    pub prot: Prot,
    /// Properties.
    pub flags: VmaFlags,
    /// `None`: anonymous.
    pub file: Option<VmaFile>,
    /// MAP_POPULATE.
    pub populate: bool,
}

impl Mm {
    /// Maps; the address.
    pub fn mmap(self: &Arc<Self>, request: MapRequest) -> Result<u64, Errno> {
        let len = page_up(request.len).filter(|len| *len != 0).ok_or(if request.len == 0 {
            Errno::EINVAL
        } else {
            Errno::ENOMEM
        })?;
        let mut file = request.file;
        if let Some(file) = &file {
            file.first.checked_add(len / PAGE).ok_or(Errno::EOVERFLOW)?;
        } else if request.flags.contains(VmaFlags::SHARED) {
            let pages = SharedMemory::new(len / PAGE);
            file = Some(VmaFile { pages, first: 0, name: Arc::from(&b"/dev/zero (deleted)"[..]) });
        }
        let mut state = self.state.lock();
        let start = self.place(&mut state, request.place, len)?;
        let range = start..start + len;
        let mut flags = request.flags;
        flags.set(VmaFlags::LOCKED, flags.contains(VmaFlags::LOCKED) || state.lock_future);
        let vma = Vma { file, ..Vma::anonymous(range.clone(), request.prot, flags) };
        let replaced: u64 = state
            .vmas
            .overlapping(range.clone())
            .map(|v| v.end.min(range.end) - v.start.max(start))
            .sum();
        state.check_limits(&vma, len, replaced)?;
        let gone = self.cut_out(&mut state, range.clone());
        if let Some(file) = &vma.file {
            file.pages.attach(self);
        }
        let populate = request.populate || vma.flags.contains(VmaFlags::LOCKED);
        if vma.flags.contains(VmaFlags::LOCKED) {
            state.locked = state.locked.saturating_add(len);
        }
        state.vmas.insert(vma);
        drop(state);
        drop(gone);
        if populate {
            // As on Linux, mmap succeeds even where not all of it can be populated.
            let _partly = self.populate(range, request.prot.contains(Prot::WRITE));
        }
        Ok(start)
    }

    /// Unmaps.
    pub fn munmap(&self, start: u64, len: u64) -> Result<(), Errno> {
        let range = self.aligned(start, len)?;
        if range.is_empty() {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        // Two ends inside one area make one area more.
        let splits = state.vmas.find(start).is_some_and(|v| v.start < start && v.end > range.end);
        if splits && state.vmas.count() >= MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let gone = self.cut_out(&mut state, range);
        drop(state);
        drop(gone);
        Ok(())
    }

    /// Changes protection. `grows`: PROT_GROWSDOWN or PROT_GROWSUP were given, as the respective flag.
    pub fn mprotect(
        &self,
        start: u64,
        len: u64,
        prot: Prot,
        grows_down: bool,
    ) -> Result<(), Errno> {
        let mut range = self
            .aligned(start, len)
            .map_err(|e| if !start.is_multiple_of(PAGE) { e } else { Errno::ENOMEM })?;
        if range.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        if grows_down {
            let vma = state.vmas.find(start).ok_or(Errno::ENOMEM)?;
            if !vma.flags.contains(VmaFlags::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = vma.start;
        }
        if !state.vmas.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        if state.vmas.count() + 2 > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM);
        }
        let denied =
            |v: &Vma| v.flags.contains(VmaFlags::NEVER_WRITE) && prot.contains(Prot::WRITE);
        if state.vmas.overlapping(range.clone()).any(denied) {
            return Err(Errno::EACCES);
        }
        let areas = state.vmas.remove(range.clone());
        for vma in areas {
            if vma.prot != prot {
                self.reprotect(&state, &vma, prot);
            }
            state.vmas.insert(Vma { prot, ..vma });
        }
        Ok(())
    }

    /// Brings the platform's mapping of an area that changes its protection in line.
    fn reprotect(&self, state: &State, vma: &Vma, prot: Prot) {
        let range = vma.start..vma.end;
        let now = Vma { prot, ..vma.clone() };
        if !prot.contains(Prot::WRITE) || vma.prot.contains(Prot::WRITE) {
            // No right to write comes in: what may not be written yet stays so.
            if prot.contains(Prot::WRITE) {
                let writable = state.runs(&now, range.start / PAGE..range.end / PAGE);
                self.space.protect(range, prot.difference(Prot::WRITE));
                self.map_best_effort(&writable);
            } else {
                self.space.protect(range, prot);
            }
            return;
        }
        self.space.protect(range.clone(), prot.difference(Prot::WRITE));
        let writable: Vec<Mapping> = state
            .runs(&now, range.start / PAGE..range.end / PAGE)
            .into_iter()
            .filter(|run| run.prot.contains(Prot::WRITE))
            .collect();
        self.map_best_effort(&writable);
    }

    /// Maps what would be faulted in otherwise; without room for tables, faults it is.
    fn map_best_effort(&self, batch: &[Mapping]) {
        if !batch.is_empty() && self.space.map(batch).is_err() {
            for m in batch {
                self.space.unmap(m.start..m.start + u64::from(m.pages) * PAGE);
            }
        }
    }

    /// mremap(2). `may_move`: MREMAP_MAYMOVE; `fixed`: MREMAP_FIXED with its address; `keep`:
    /// MREMAP_DONTUNMAP.
    pub fn mremap(
        self: &Arc<Self>,
        old: u64,
        old_len: u64,
        new_len: u64,
        may_move: bool,
        fixed: Option<u64>,
        keep: bool,
    ) -> Result<u64, Errno> {
        let old_len = page_up(old_len).ok_or(Errno::EINVAL)?;
        let new_len = page_up(new_len).filter(|n| *n != 0).ok_or(Errno::EINVAL)?;
        if !old.is_multiple_of(PAGE)
            || (fixed.is_some() && !may_move)
            || (keep && (!may_move || old_len != new_len))
        {
            return Err(Errno::EINVAL);
        }
        let mut state = self.state.lock();
        let vma = state.vmas.find(old).ok_or(Errno::EFAULT)?.clone();
        if old_len == 0 && vma.is_private() {
            // Only a shared mapping can be doubled.
            return Err(Errno::EINVAL);
        }
        let old_end = old.checked_add(old_len).ok_or(Errno::EINVAL)?;
        if old_end > vma.end {
            return Err(Errno::EFAULT);
        }
        if keep && vma.file.is_some() && !vma.is_private() {
            return Err(Errno::EINVAL);
        }
        if fixed.is_none() && !keep && old_len != 0 {
            if new_len <= old_len {
                let gone = self.cut_out(&mut state, old + new_len..old_end);
                drop(state);
                drop(gone);
                return Ok(old);
            }
            let grown = old..old + new_len.min(self.user.end.saturating_sub(old));
            let free = old_end == vma.end
                && grown.end == old + new_len
                && state.vmas.overlapping(old_end..grown.end).next().is_none();
            if free {
                state.check_limits(&vma, new_len - old_len, 0)?;
                let mut tail = Vma { start: old_end, end: grown.end, ..vma.clone() };
                if let Some(file) = &mut tail.file {
                    file.first = vma.file_page(old_end);
                }
                if tail.flags.contains(VmaFlags::LOCKED) {
                    state.locked = state.locked.saturating_add(new_len - old_len);
                }
                state.vmas.insert(tail);
                return Ok(old);
            }
        }
        if !may_move {
            return Err(Errno::ENOMEM);
        }
        if let Some(at) = fixed {
            let end = at.checked_add(new_len).ok_or(Errno::EINVAL)?;
            if !at.is_multiple_of(PAGE) || (at < old_end && old < end) {
                return Err(Errno::EINVAL);
            }
        }
        let place = fixed.map_or(Place::Hint(0), Place::Fixed);
        let new = self.place(&mut state, place, new_len)?;
        state.check_limits(&vma, new_len.saturating_sub(if keep { 0 } else { old_len }), 0)?;
        let replaced = self.cut_out(&mut state, new..new + new_len);
        let mut moved = Vma { start: new, end: new + new_len, ..vma.clone() };
        if let Some(file) = &mut moved.file {
            file.first = vma.file_page(old);
        }
        let carried = old_len.min(new_len);
        self.space.unmap(old..old_end);
        let numbers: Vec<u64> =
            state.pages.range(old / PAGE..old_end / PAGE).map(|(n, _)| *n).collect();
        let mut dropped: Vec<Page> = Vec::new();
        for number in numbers {
            let into = number - old / PAGE;
            if let Some(page) = state.pages.remove(&number) {
                if into < carried / PAGE {
                    dropped.extend(state.pages.insert(new / PAGE + into, page));
                } else {
                    dropped.push(page);
                }
            }
        }
        if !keep && old_len != 0 {
            state.vmas.remove(old..old_end);
        }
        state.vmas.insert(moved.clone());
        let runs = state.runs(&moved, new / PAGE..(new + new_len) / PAGE);
        self.map_best_effort(&runs);
        drop(state);
        drop(replaced);
        drop(dropped);
        Ok(new)
    }

    /// brk(2): the break after the call, which is the old one where the new one cannot be.
    pub fn brk(self: &Arc<Self>, wanted: u64) -> u64 {
        let mut state = self.state.lock();
        let layout = state.layout;
        let (Some(old), Some(new)) = (page_up(layout.brk), page_up(wanted)) else {
            return layout.brk;
        };
        if wanted < layout.start_brk || new > self.user.end {
            return layout.brk;
        }
        if new < old {
            let gone = self.cut_out(&mut state, new..old);
            state.layout.brk = wanted;
            drop(state);
            drop(gone);
            return wanted;
        }
        if new > old {
            let flags = VmaFlags::HEAP
                | if state.lock_future { VmaFlags::LOCKED } else { VmaFlags::empty() };
            let heap = Vma::anonymous(old..new, Prot::READ | Prot::WRITE, flags);
            // A page is left free before the next area, so that running over the heap faults.
            let taken = state.vmas.overlapping(old..new.saturating_add(PAGE)).next().is_some();
            let data = layout.end_data.saturating_sub(layout.start_data);
            let size = (new - layout.start_brk).saturating_add(data);
            if taken || size > state.limits.data || state.check_limits(&heap, new - old, 0).is_err()
            {
                return layout.brk;
            }
            state.vmas.insert(heap);
        }
        state.layout.brk = wanted;
        wanted
    }

    /// Faults a range in. Stops at the first page that cannot be.
    pub fn populate(&self, range: Range<u64>, write: bool) -> Result<(), FaultError> {
        let access = if write { Access::Write } else { Access::Read };
        for at in range.step_by(PAGE as usize) {
            let resident = self
                .state
                .lock()
                .pages
                .get(&(at / PAGE))
                .is_some_and(|p| !write || (p.private && p.frame.is_sole()));
            if !resident {
                self.resolve(at, access)?;
            }
        }
        Ok(())
    }

    /// Takes areas and pages out of `range`; what must be dropped after the lock comes back.
    pub(super) fn cut_out(&self, state: &mut State, range: Range<u64>) -> (Vec<Vma>, Vec<Page>) {
        let areas = state.vmas.remove(range.clone());
        if areas.is_empty() {
            return (areas, Vec::new());
        }
        self.space.unmap(range.clone());
        for vma in areas.iter().filter(|v| v.flags.contains(VmaFlags::LOCKED)) {
            state.locked = state.locked.saturating_sub(vma.len());
        }
        let pages = state.take_pages(range, |_| true);
        self.detach(state, &areas);
        (areas, pages)
    }

    /// A page-aligned range inside user space. `EINVAL` otherwise.
    pub(super) fn aligned(&self, start: u64, len: u64) -> Result<Range<u64>, Errno> {
        let end = page_up(len).and_then(|len| start.checked_add(len)).ok_or(Errno::EINVAL)?;
        if !start.is_multiple_of(PAGE) || end > self.user.end.max(1 << 47) {
            return Err(Errno::EINVAL);
        }
        Ok(start..end)
    }

    fn place(&self, state: &mut State, place: Place, len: u64) -> Result<u64, Errno> {
        let fits = |at: u64| {
            at.checked_add(len).is_some_and(|end| at >= self.user.start && end <= self.user.end)
        };
        match place {
            Place::Fixed(at) | Place::FixedNoReplace(at) => {
                if !at.is_multiple_of(PAGE) {
                    return Err(Errno::EINVAL);
                }
                if !fits(at) {
                    // Below vm.mmap_min_addr: EPERM; behind the end: ENOMEM.
                    return Err(if at < self.user.start { Errno::EPERM } else { Errno::ENOMEM });
                }
                let taken = state.vmas.overlapping(at..at + len).next().is_some();
                if taken && matches!(place, Place::FixedNoReplace(_)) {
                    return Err(Errno::EEXIST);
                }
                Ok(at)
            }
            Place::Hint(hint) => {
                let hint = hint & !(PAGE - 1);
                if hint != 0
                    && fits(hint)
                    && state.vmas.overlapping(hint..hint + len).next().is_none()
                {
                    return Ok(hint);
                }
                let top = match state.layout.mmap_base {
                    0 => self.user.end,
                    base => base.min(self.user.end),
                };
                let low = self.user.start;
                let found = state.vmas.find_room(len, low..top);
                // Above the base, beside the stack, is room too when all below is taken.
                found.or_else(|| state.vmas.find_room(len, low..self.user.end)).ok_or(Errno::ENOMEM)
            }
        }
    }
}

impl State {
    /// Takes resident pages out of an address range.
    pub(super) fn take_pages(
        &mut self,
        range: Range<u64>,
        wanted: impl Fn(&Page) -> bool,
    ) -> Vec<Page> {
        let numbers = range.start / PAGE..(range.end / PAGE).max(range.start / PAGE);
        let numbers: Vec<u64> =
            self.pages.range(numbers).filter(|(_, p)| wanted(p)).map(|(n, _)| *n).collect();
        numbers.iter().filter_map(|n| self.pages.remove(n)).collect()
    }

    /// `ENOMEM` where `more` bytes like `vma` would pass a limit; `replaced` bytes go away for them.
    pub(super) fn check_limits(&self, vma: &Vma, more: u64, replaced: u64) -> Result<(), Errno> {
        let total = self.vmas.total().saturating_add(more).saturating_sub(replaced);
        if self.vmas.count() >= MAX_MAP_COUNT || total > self.limits.address_space {
            return Err(Errno::ENOMEM);
        }
        if vma.is_data() && self.limits.data != u64::MAX {
            let data: u64 = self.vmas.iter().filter(|v| v.is_data()).map(Vma::len).sum();
            if data.saturating_add(more) > self.limits.data {
                return Err(Errno::ENOMEM);
            }
        }
        if vma.flags.contains(VmaFlags::LOCKED)
            && self.locked.saturating_add(more) > self.limits.memlock
        {
            return Err(Errno::EAGAIN);
        }
        Ok(())
    }
}
