//! The pages of a file in memory, for file systems whose data is there.
//!
//! One cache per inode serves whoever reads, writes or maps it. Its lock is held for look-ups only,
//! never while data moves: a frame that was looked up stays alive by its own count.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::io::{IoDst, IoSrc};
use crate::errno::Errno;
use crate::mm::{FrameRef, Mappable, Mm};
use crate::platform::{PAGE_SIZE, platform};
use crate::sync::SpinLock;

/// Pages made at once by a long write, so that neighbours in the file are neighbours in memory.
const RUN: u64 = 16;

/// Who pays for pages: asked before each is made.
pub trait Charge: Send + Sync {
    /// `pages` more. `ENOSPC` where there is no room.
    fn charge(&self, pages: u64) -> Result<(), Errno>;
    /// `pages` less.
    fn refund(&self, pages: u64);
}

/// A sparse array of pages, and a length in bytes.
#[derive(Default)]
pub struct Pages {
    inner: SpinLock<Inner>,
    /// Address spaces that map it.
    mappers: SpinLock<Vec<Weak<Mm>>>,
}

#[derive(Default)]
struct Inner {
    size: u64,
    pages: BTreeMap<u64, FrameRef>,
}

/// The page that holds a byte, and its place there.
fn split(offset: u64) -> (u64, usize) {
    (offset / PAGE_SIZE as u64, (offset % PAGE_SIZE as u64) as usize)
}

impl Pages {
    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.inner.lock().size
    }

    /// Pages that are there.
    pub fn count(&self) -> u64 {
        self.inner.lock().pages.len() as u64
    }

    /// The page with this index; `None`: a hole.
    pub fn get(&self, index: u64) -> Option<FrameRef> {
        self.inner.lock().pages.get(&index).cloned()
    }

    /// The page with this index, made where it is not there. `most` pages from it on will be wanted.
    pub fn make(&self, index: u64, most: u64, charge: &dyn Charge) -> Result<FrameRef, Errno> {
        if let Some(there) = self.get(index) {
            return Ok(there);
        }
        let end = {
            let inner = self.inner.lock();
            let next = inner.pages.range(index..).next().map_or(u64::MAX, |(i, _)| *i);
            next.min(index.saturating_add(most.clamp(1, RUN)))
        };
        let count = end.saturating_sub(index).max(1);
        let (count, frames) = match charge
            .charge(count)
            .and_then(|()| FrameRef::alloc_run(count as u32).inspect_err(|_| charge.refund(count)))
        {
            Ok(frames) => (count, frames),
            Err(e) if count == 1 => return Err(e),
            Err(_) => {
                charge.charge(1)?;
                (1, Vec::from([FrameRef::alloc().inspect_err(|_| charge.refund(1))?]))
            }
        };
        let mut surplus = 0;
        let mut inner = self.inner.lock();
        for (i, frame) in (index..index.saturating_add(count)).zip(frames) {
            // Somebody may have been faster; theirs stays.
            match inner.pages.entry(i) {
                Entry::Vacant(place) => {
                    place.insert(frame);
                }
                Entry::Occupied(_) => surplus += 1,
            }
        }
        let page = inner.pages.get(&index).cloned();
        drop(inner);
        if surplus > 0 {
            charge.refund(surplus);
        }
        page.ok_or(Errno::ENOMEM)
    }

    /// How many pages from `index` on are there and are neighbours in memory, at most `most`.
    pub fn run(&self, index: u64, most: u32) -> u32 {
        let inner = self.inner.lock();
        let mut frame = None;
        let mut n = 0;
        for (i, page) in inner.pages.range(index..) {
            let here = page.frame().0;
            if n == most
                || *i != index.saturating_add(u64::from(n))
                || frame.is_some_and(|f: u32| f.checked_add(1) != Some(here))
            {
                break;
            }
            frame = Some(here);
            n += 1;
        }
        n
    }

    /// Reads from `offset` on, up to the size.
    pub fn read(&self, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let mut done: usize = 0;
        loop {
            let at = offset.saturating_add(done as u64);
            let (index, within) = split(at);
            let (left, page) = {
                let inner = self.inner.lock();
                (inner.size.saturating_sub(at), inner.pages.get(&index).cloned())
            };
            let len = (PAGE_SIZE - within)
                .min(dst.remaining())
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            if len == 0 {
                return Ok(done);
            }
            let put = match &page {
                Some(page) => dst.put_frame(page.frame(), within, len),
                None => dst.put_zeros(len),
            };
            match put {
                Ok(n) => done = done.saturating_add(n),
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
            if put.is_ok_and(|n| n < len) {
                return Ok(done);
            }
        }
    }

    /// Writes from `offset` on, making pages and growing the file as needed. The caller lets one write
    /// at a time in. Offsets stay below `i64::MAX`: the VFS has seen to that.
    pub fn write(
        &self,
        src: &mut IoSrc<'_>,
        offset: u64,
        charge: &dyn Charge,
    ) -> Result<usize, Errno> {
        let mut done: usize = 0;
        while src.remaining() > 0 {
            let at = offset.checked_add(done as u64).ok_or(Errno::EFBIG)?;
            let (index, within) = split(at);
            let len = (PAGE_SIZE - within).min(src.remaining());
            let want = (src.remaining().saturating_add(within) as u64).div_ceil(PAGE_SIZE as u64);
            let took = self
                .make(index, want, charge)
                .and_then(|page| src.take_frame(page.frame(), within, len));
            let n = match took {
                Ok(n) => n,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            };
            done = done.saturating_add(n);
            let mut inner = self.inner.lock();
            inner.size = inner.size.max(at.saturating_add(n as u64));
            drop(inner);
            if n < len {
                break;
            }
        }
        Ok(done)
    }

    /// Changes the size; what is beyond goes. `file` is whose pages these are.
    pub fn truncate(&self, size: u64, charge: &dyn Charge, file: &dyn Mappable) {
        let mut inner = self.inner.lock();
        let old = core::mem::replace(&mut inner.size, size);
        if size >= old {
            return;
        }
        let (index, within) = split(size);
        let first = if within == 0 { index } else { index.saturating_add(1) };
        let gone = inner.pages.split_off(&first);
        let partial = if within == 0 { None } else { inner.pages.get(&index).cloned() };
        drop(inner);
        if let Some(page) = &partial {
            platform().zero_frame(page.frame(), within, PAGE_SIZE - within);
        }
        self.tell(file, first, u64::MAX, true);
        drop(partial);
        charge.refund(gone.len() as u64);
    }

    /// Makes a hole of these bytes; the size stays.
    pub fn punch(&self, offset: u64, len: u64, charge: &dyn Charge, file: &dyn Mappable) {
        let end = offset.saturating_add(len);
        let (first, within) = split(offset);
        let (last, tail) = split(end);
        let zero = |index: u64, from: usize, to: usize| {
            if let Some(page) = self.get(index) {
                platform().zero_frame(page.frame(), from, to.saturating_sub(from));
            }
        };
        if first == last {
            return zero(first, within, tail);
        }
        let mut whole = first;
        if within != 0 {
            zero(first, within, PAGE_SIZE);
            whole = first.saturating_add(1);
        }
        if tail != 0 {
            zero(last, 0, tail);
        }
        let gone: Vec<FrameRef> = {
            let mut inner = self.inner.lock();
            let mut middle = inner.pages.split_off(&whole);
            let mut rest = middle.split_off(&last);
            inner.pages.append(&mut rest);
            middle.into_values().collect()
        };
        self.tell(file, whole, last.saturating_sub(whole), false);
        charge.refund(gone.len() as u64);
    }

    /// Makes all pages of these bytes; `grow`: and the file at least as long.
    pub fn allocate(
        &self,
        offset: u64,
        len: u64,
        grow: bool,
        charge: &dyn Charge,
    ) -> Result<(), Errno> {
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        let pages = end.div_ceil(PAGE_SIZE as u64);
        for index in offset / PAGE_SIZE as u64..pages {
            self.make(index, pages.saturating_sub(index), charge)?;
        }
        if grow {
            let mut inner = self.inner.lock();
            inner.size = inner.size.max(end);
        }
        Ok(())
    }

    /// The first byte at or after `offset` that is data (or, without `data`, that is in a hole; the end
    /// of the file counts as one). `ENXIO` where there is none.
    pub fn seek(&self, offset: u64, data: bool) -> Result<u64, Errno> {
        let inner = self.inner.lock();
        if offset >= inner.size {
            return Err(Errno::ENXIO);
        }
        let (index, _) = split(offset);
        if data {
            let (found, _) = inner.pages.range(index..).next().ok_or(Errno::ENXIO)?;
            let at = found.saturating_mul(PAGE_SIZE as u64).max(offset);
            return if at < inner.size { Ok(at) } else { Err(Errno::ENXIO) };
        }
        let mut hole = index;
        for (i, _) in inner.pages.range(index..) {
            if *i != hole {
                break;
            }
            hole = hole.saturating_add(1);
        }
        Ok(hole.saturating_mul(PAGE_SIZE as u64).max(offset).min(inner.size))
    }

    /// An address space maps it.
    pub fn attach(&self, mm: &Arc<Mm>) {
        let mut mappers = self.mappers.lock();
        if !mappers.iter().any(|m| core::ptr::eq(m.as_ptr(), &**mm)) {
            mappers.push(Arc::downgrade(mm));
        }
    }

    /// No longer.
    pub fn detach(&self, mm: &Mm) {
        self.mappers.lock().retain(|m| !core::ptr::eq(m.as_ptr(), mm));
    }

    /// Tells those who map it that pages have gone.
    fn tell(&self, file: &dyn Mappable, first: u64, count: u64, even_private: bool) {
        let mappers: Vec<Arc<Mm>> = self.mappers.lock().iter().filter_map(Weak::upgrade).collect();
        for mm in mappers {
            mm.forget_file(file, first, count, even_private);
        }
    }

    /// Gives everything back; nobody reads, writes or maps it any more.
    pub fn clear(&mut self, charge: &dyn Charge) {
        let gone = core::mem::take(&mut self.inner.get_mut().pages);
        charge.refund(gone.len() as u64);
    }
}
