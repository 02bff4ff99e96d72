//! madvise(2), mlock(2), mincore(2) and msync(2).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{FaultError, Mm, PAGE, Vma, VmaFlags, page_up};
use crate::errno::Errno;
use crate::platform::Prot;

/// What madvise(2) is asked for, as far as it has an effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// Nothing that shows: MADV_NORMAL, RANDOM, SEQUENTIAL, WILLNEED, HUGEPAGE, COLD...
    Hint,
    /// The content may go: MADV_DONTNEED.
    DontNeed,
    /// The content may go at any time until the next write; here it goes at once: MADV_FREE.
    Free,
    /// The content of the file goes, too: MADV_REMOVE.
    Remove,
    /// Set these flags on the areas.
    Set(VmaFlags),
    /// Clear them.
    Clear(VmaFlags),
    /// Fault the range in, for reading or writing: MADV_POPULATE_READ, MADV_POPULATE_WRITE.
    Populate(bool),
}

impl Mm {
    /// The range of a call that says `EINVAL` where it wraps, and `ENOMEM` where nothing can be mapped; `None`
    /// where it is empty. Both numbers are whole pages.
    fn advised(&self, start: u64, len: u64) -> Result<Option<Range<u64>>, Errno> {
        let end = start.checked_add(len).ok_or(Errno::EINVAL)?;
        if end == start {
            return Ok(None);
        }
        self.aligned(start, len).map(Some).map_err(|_| Errno::ENOMEM)
    }

    /// madvise(2).
    pub fn madvise(&self, start: u64, len: u64, advice: Advice) -> Result<(), Errno> {
        if !start.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        let Some(range) = self.advised(start, len)? else { return Ok(()) };
        if let Advice::Populate(write) = advice {
            return self.populate_checked(range, write);
        }
        let mut state = self.state.lock();
        // What is mapped is advised; a hole makes it ENOMEM afterwards.
        let whole = state.vmas.covers(range.clone());
        let areas: Vec<Vma> = state.vmas.overlapping(range.clone()).cloned().collect();
        let mut dropped = Vec::new();
        let mut punched = Vec::new();
        for vma in &areas {
            let part = vma.start.max(range.start)..vma.end.min(range.end);
            match advice {
                Advice::Hint | Advice::Populate(_) => {}
                Advice::DontNeed | Advice::Free => {
                    if vma.flags.contains(VmaFlags::LOCKED)
                        || (advice == Advice::Free && vma.file.is_some())
                    {
                        return Err(Errno::EINVAL);
                    }
                    self.space.unmap(part.clone());
                    dropped.extend(state.take_pages(part, |_| true));
                }
                Advice::Remove => {
                    let shared = vma.flags.contains(VmaFlags::SHARED);
                    let file = vma.file.as_ref().filter(|_| !vma.flags.contains(VmaFlags::LOCKED));
                    let file = file.ok_or(Errno::EINVAL)?;
                    if !shared || vma.flags.contains(VmaFlags::NEVER_WRITE) {
                        return Err(Errno::EACCES);
                    }
                    let pages = (part.end - part.start) / PAGE;
                    punched.push((file.pages.clone(), vma.file_page(part.start), pages));
                }
                Advice::Set(flags) | Advice::Clear(flags) => {
                    for mut vma in state.vmas.remove(part) {
                        vma.flags.set(flags, matches!(advice, Advice::Set(_)));
                        state.vmas.insert(vma);
                    }
                }
            }
        }
        drop(state);
        drop(dropped);
        for (file, first, pages) in punched {
            file.punch(first, pages)?;
        }
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Names a range of whole pages (prctl(PR_SET_VMA_ANON_NAME)). `EBADF` where a file is mapped, `ENOMEM` where
    /// nothing is; what comes before is named.
    pub fn set_name(&self, start: u64, len: u64, name: Option<&Arc<[u8]>>) -> Result<(), Errno> {
        if !start.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let len = page_up(len).ok_or(Errno::EINVAL)?;
        let Some(range) = self.advised(start, len)? else { return Ok(()) };
        let mut state = self.state.lock();
        let whole = state.vmas.covers(range.clone());
        let areas: Vec<Vma> = state.vmas.overlapping(range.clone()).cloned().collect();
        for vma in &areas {
            if vma.file.is_some() {
                return Err(Errno::EBADF);
            }
            let part = vma.start.max(range.start)..vma.end.min(range.end);
            for vma in state.vmas.remove(part) {
                state.vmas.insert(Vma { name: name.cloned(), ..vma });
            }
        }
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    fn populate_checked(&self, range: Range<u64>, write: bool) -> Result<(), Errno> {
        if !self.state.lock().vmas.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        self.populate(range, write).map_err(|e| match e {
            FaultError::NotMapped | FaultError::OutOfMemory => Errno::ENOMEM,
            FaultError::NotAllowed => Errno::EINVAL,
            FaultError::Unreadable => Errno::EFAULT,
        })
    }

    /// mlock2(2) and munlock(2). `on_fault`: MLOCK_ONFAULT. `capable`: CAP_IPC_LOCK lifts the limit.
    pub fn mlock(
        &self,
        start: u64,
        len: u64,
        lock: bool,
        on_fault: bool,
        capable: bool,
    ) -> Result<(), Errno> {
        let offset = start % PAGE;
        // A length that wraps when it is rounded up is none, as with Linux.
        let len = page_up(len.wrapping_add(offset)).unwrap_or(0);
        let Some(range) = self.advised(start - offset, len)? else { return Ok(()) };
        let mut state = self.state.lock();
        if lock && !capable {
            let new: u64 = state
                .vmas
                .overlapping(range.clone())
                .filter(|v| !v.flags.contains(VmaFlags::LOCKED))
                .map(|v| v.end.min(range.end) - v.start.max(range.start))
                .sum();
            match state.limits.memlock {
                0 => return Err(Errno::EPERM),
                limit if state.locked.saturating_add(new) > limit => return Err(Errno::ENOMEM),
                _ => {}
            }
        }
        let whole = state.vmas.covers(range.clone());
        for mut vma in state.vmas.remove(range.clone()) {
            if vma.flags.contains(VmaFlags::LOCKED) != lock {
                vma.flags.set(VmaFlags::LOCKED, lock);
                let len = vma.len();
                state.locked = if lock {
                    state.locked.saturating_add(len)
                } else {
                    state.locked.saturating_sub(len)
                };
            }
            state.vmas.insert(vma);
        }
        drop(state);
        if !whole {
            return Err(Errno::ENOMEM);
        }
        if lock && !on_fault {
            let closed = |v: &Vma| v.prot.is_empty();
            let reachable = !self.state.lock().vmas.overlapping(range.clone()).any(closed);
            self.populate_areas(range)?;
            if !reachable {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    /// mlockall(2) and munlockall(2).
    pub fn mlockall(
        &self,
        current: Option<bool>,
        future: bool,
        populate: bool,
    ) -> Result<(), Errno> {
        let mut state = self.state.lock();
        state.lock_future = future;
        let Some(lock) = current else { return Ok(()) };
        for mut vma in state.vmas.remove(0..u64::MAX) {
            vma.flags.set(VmaFlags::LOCKED, lock);
            state.vmas.insert(vma);
        }
        state.locked = if lock { state.vmas.total() } else { 0 };
        drop(state);
        if lock && populate {
            self.populate_areas(self.user.clone())?;
        }
        Ok(())
    }

    /// Bytes that are locked, and the limit.
    pub fn locked(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.locked, state.limits.memlock)
    }

    fn populate_areas(&self, range: Range<u64>) -> Result<(), Errno> {
        let areas: Vec<Vma> = self.state.lock().vmas.overlapping(range.clone()).cloned().collect();
        for vma in areas.iter().filter(|v| !v.prot.is_empty()) {
            let part = vma.start.max(range.start)..vma.end.min(range.end);
            match self.populate(part, vma.prot.contains(Prot::WRITE) && vma.is_private()) {
                Ok(()) | Err(FaultError::Unreadable) => {}
                Err(_) => return Err(Errno::EAGAIN),
            }
        }
        Ok(())
    }

    /// mincore(2): one byte a page, 1 where it is resident.
    pub fn mincore(&self, start: u64, len: u64) -> Result<Vec<u8>, Errno> {
        let range = self
            .aligned(start, len)
            .map_err(|e| if !start.is_multiple_of(PAGE) { e } else { Errno::ENOMEM })?;
        let state = self.state.lock();
        if !state.vmas.covers(range.clone()) {
            return Err(Errno::ENOMEM);
        }
        let mut map = vec![0; ((range.end - range.start) / PAGE) as usize];
        for (number, _) in state.pages.range(range.start / PAGE..range.end / PAGE) {
            if let Some(byte) = map.get_mut((number - range.start / PAGE) as usize) {
                *byte = 1;
            }
        }
        Ok(map)
    }

    /// msync(2). `sync`: MS_SYNC; `invalidate`: MS_INVALIDATE, which locked areas refuse.
    pub fn msync(&self, start: u64, len: u64, sync: bool, invalidate: bool) -> Result<(), Errno> {
        // A length that wraps when it is rounded up is none, as with Linux.
        let len = page_up(len).unwrap_or(0);
        let range = self
            .aligned(start, len)
            .map_err(|e| if !start.is_multiple_of(PAGE) { e } else { Errno::ENOMEM })?;
        let state = self.state.lock();
        let whole = state.vmas.covers(range.clone());
        let areas: Vec<Vma> = state.vmas.overlapping(range.clone()).cloned().collect();
        drop(state);
        for vma in &areas {
            if invalidate && vma.flags.contains(VmaFlags::LOCKED) {
                return Err(Errno::EBUSY);
            }
            if let Some(file) = vma.file.as_ref().filter(|_| sync && !vma.is_private()) {
                let part = vma.start.max(range.start)..vma.end.min(range.end);
                file.pages.sync(vma.file_page(part.start), (part.end - part.start) / PAGE)?;
            }
        }
        if whole { Ok(()) } else { Err(Errno::ENOMEM) }
    }
}
