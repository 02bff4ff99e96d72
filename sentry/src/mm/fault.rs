//! Page faults: from a touched address to a mapped page, or to a signal.

use core::ops::Range;

use alloc::vec;
use alloc::vec::Vec;

use super::{FilePage, FrameRef, Mm, PAGE, Page, State, Vma, VmaFile, VmaFlags, count};
use crate::errno::Errno;
use crate::platform::{Access, Backing, Fault, FileId, Mapping, PAGE_SIZE, Prot, platform};

/// Why an address cannot be touched. The application gets a signal, a system call EFAULT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FaultError {
    /// Nothing is mapped there: SIGSEGV, SEGV_MAPERR.
    NotMapped,
    /// It is mapped without that right: SIGSEGV, SEGV_ACCERR.
    NotAllowed,
    /// Behind the end of the file, or the file cannot be read: SIGBUS, BUS_ADRERR.
    Unreadable,
    /// No frame is left: the OOM killer's case.
    OutOfMemory,
}

impl From<Errno> for FaultError {
    fn from(e: Errno) -> Self {
        if e == Errno::ENOMEM { FaultError::OutOfMemory } else { FaultError::Unreadable }
    }
}

/// Times that room is asked for. What is lacking after so many is not frames.
const TRIES: u32 = 64;
/// Bytes that must stay free below a stack that grows (vm.stack_guard_gap, 256 pages).
const STACK_GUARD_GAP: u64 = 256 * PAGE;

impl Mm {
    /// Makes the page behind a fault accessible, with some of its neighbours.
    pub fn handle_fault(&self, fault: Fault) -> Result<(), FaultError> {
        count(&self.faults);
        self.resolve_or_wait(fault.addr, fault.access)
    }

    /// As [`resolve`](Self::resolve), but where frames have run out it waits for room. Without locks.
    pub(super) fn resolve_or_wait(&self, addr: u64, access: Access) -> Result<(), FaultError> {
        for _ in 0..TRIES {
            match self.resolve(addr, access) {
                Err(FaultError::OutOfMemory) => {}
                done => return done,
            }
            let handler = self.oom.get().and_then(|handler| handler.upgrade());
            handler.ok_or(Errno::ENOMEM).and_then(|handler| handler.make_room())?;
        }
        Err(FaultError::OutOfMemory)
    }

    pub(super) fn resolve(&self, addr: u64, access: Access) -> Result<(), FaultError> {
        if !self.user.contains(&addr) {
            return Err(FaultError::NotMapped);
        }
        let mut state = self.state.lock();
        if state.vmas.find(addr).is_none() {
            self.grow_stack(&mut state, addr)?;
        }
        let vma = state.vmas.find(addr).ok_or(FaultError::NotMapped)?.clone();
        let write = match access {
            Access::Read if vma.prot.is_empty() => return Err(FaultError::NotAllowed),
            Access::Exec if !vma.prot.contains(Prot::EXEC) => return Err(FaultError::NotAllowed),
            Access::Write if !vma.prot.contains(Prot::WRITE) => return Err(FaultError::NotAllowed),
            Access::ReadOrWrite if vma.prot.is_empty() => return Err(FaultError::NotAllowed),
            Access::Write => true,
            // A page of a file is worth a second fault: it may only be read. New memory is written.
            Access::ReadOrWrite => {
                vma.prot.contains(Prot::WRITE)
                    && vma
                        .file
                        .as_ref()
                        .is_none_or(|f| !vma.is_private() && !f.pages.tracks_writes())
            }
            Access::Read | Access::Exec => false,
        };
        let number = addr / PAGE;
        match state.pages.get(&number) {
            Some(page) if !write || State::effective(&vma, page).contains(Prot::WRITE) => {
                // Maybe it was shared when it was mapped last, and is no more.
                if write && page.private {
                    state.hot.note(number);
                }
                self.remap(&state, &vma, number)
            }
            Some(page) if page.private => {
                state.hot.note(number);
                self.copy_on_write(&mut state, &vma, number)
            }
            Some(_) | None => match &vma.file {
                None => self.fresh(&mut state, &vma, number),
                Some(_) if write && vma.is_private() => {
                    self.copy_on_write(&mut state, &vma, number)
                }
                Some(file) => self.file_page(&mut state, &vma, file, number, write),
            },
        }
    }

    /// The page is resident and may be used as asked, only the platform does not know: maps it and
    /// its resident neighbours.
    fn remap(&self, state: &State, vma: &Vma, number: u64) -> Result<(), FaultError> {
        let most = u64::from(platform().fault_around().file);
        let window = window(number, most);
        Ok(self.space.map(&state.runs(vma, window))?)
    }

    /// The first touch of anonymous memory.
    pub(super) fn fresh(
        &self,
        state: &mut State,
        vma: &Vma,
        number: u64,
    ) -> Result<(), FaultError> {
        let most = u64::from(platform().fault_around().fresh);
        let pages = state.empty_around(vma, number, window(number, most));
        let (first, frames) = match FrameRef::alloc_run((pages.end - pages.start) as u32) {
            Ok(frames) => (pages.start, frames),
            Err(_) => (number, vec![FrameRef::alloc()?]),
        };
        let Some(frame) = frames.first().map(FrameRef::frame) else {
            return Err(FaultError::OutOfMemory);
        };
        let run = Mapping {
            start: first * PAGE,
            pages: frames.len() as u32,
            backing: Backing::Frames(frame),
            prot: vma.prot,
        };
        self.space.map(&[run])?;
        for (i, frame) in frames.into_iter().enumerate() {
            state.pages.insert(first + i as u64, Page { frame, private: true });
        }
        state.note_peak();
        Ok(())
    }

    /// A write to a private page that has other owners: this page and some neighbours that would
    /// fault soon get frames of their own.
    pub(super) fn copy_on_write(
        &self,
        state: &mut State,
        vma: &Vma,
        number: u64,
    ) -> Result<(), FaultError> {
        let most = u64::from(platform().fault_around().copied).max(1);
        let window = clip(window(number, most), vma);
        let mut first = number;
        while first > window.start && state.wants_copy(vma, first - 1) {
            first -= 1;
        }
        let mut end = number + 1;
        while end < window.end && state.wants_copy(vma, end) {
            end += 1;
        }
        // The frames are neighbours, so that the copies are one mapping.
        let (first, frames) = match FrameRef::alloc_run((end - first) as u32) {
            Ok(frames) => (first, frames),
            Err(_) => (number, vec![FrameRef::alloc()?]),
        };
        let mut run: Option<Mapping> = None;
        let mut replaced = Vec::new();
        for (i, frame) in frames.into_iter().enumerate() {
            let at = first + i as u64;
            match state.copy_content(vma, at, &frame) {
                Ok(()) => {}
                Err(e) if at == number => return Err(e),
                // A neighbour that cannot be read is not this fault's matter.
                Err(_) if at > number => break,
                Err(_) => {
                    run = None;
                    continue;
                }
            }
            match &mut run {
                Some(run) => run.pages += 1,
                None => {
                    run = Some(Mapping {
                        start: at * PAGE,
                        pages: 1,
                        backing: Backing::Frames(frame.frame()),
                        prot: vma.prot,
                    });
                }
            }
            replaced.extend(state.pages.insert(at, Page { frame, private: true }));
        }
        if let Some(run) = run {
            self.space.map(&[run])?;
        }
        state.note_peak();
        Ok(())
    }

    /// A page of a file as it is: a read, or a write through a shared mapping.
    fn file_page(
        &self,
        state: &mut State,
        vma: &Vma,
        file: &VmaFile,
        number: u64,
        write: bool,
    ) -> Result<(), FaultError> {
        let index = vma.file_page(number * PAGE);
        match file.pages.page(index, write)? {
            FilePage::Donated(id) => {
                let (first, pages) = state.donated_run(vma, file, number);
                let prot =
                    if vma.is_private() { vma.prot.difference(Prot::WRITE) } else { vma.prot };
                let backing = Backing::File(id, vma.file_page(first * PAGE));
                self.space.map(&[Mapping { start: first * PAGE, pages, backing, prot }])?;
            }
            FilePage::Cached(frame) => {
                let prot = if write { vma.prot } else { vma.prot.difference(Prot::WRITE) };
                let backing = Backing::Frames(frame.frame());
                state.pages.insert(number, Page { frame, private: false });
                if write {
                    self.space.map(&[Mapping { start: number * PAGE, pages: 1, backing, prot }])?;
                } else {
                    self.cached_around(state, vma, file, number)?;
                }
            }
        }
        state.note_peak();
        Ok(())
    }

    /// Maps a cached page, which is in the table, and neighbours that the page cache has.
    fn cached_around(
        &self,
        state: &mut State,
        vma: &Vma,
        file: &VmaFile,
        number: u64,
    ) -> Result<(), FaultError> {
        let most = u64::from(platform().fault_around().file);
        let range = state.empty_around(vma, number, window(number, most));
        let ahead = file.pages.around(vma.file_page(number * PAGE), (range.end - number) as u32);
        for at in number + 1..(number + u64::from(ahead)).min(range.end) {
            let Ok(FilePage::Cached(frame)) = file.pages.page(vma.file_page(at * PAGE), false)
            else {
                break;
            };
            state.pages.insert(at, Page { frame, private: false });
        }
        Ok(self.space.map(&state.runs(vma, number..range.end))?)
    }

    /// Extends a stack down to `addr`, if there is one right above that may grow so far.
    fn grow_stack(&self, state: &mut State, addr: u64) -> Result<(), FaultError> {
        let start = addr & !(PAGE - 1);
        let stack = state.vmas.first_above(addr).ok_or(FaultError::NotMapped)?.clone();
        let below = state.vmas.last_below(addr).map_or(self.user.start, |v| v.end);
        let limit = state.limits.stack;
        if !stack.flags.contains(VmaFlags::GROWS_DOWN)
            || stack.end - start > limit
            || start.saturating_sub(below) < STACK_GUARD_GAP.min(start)
            || state.vmas.total().saturating_add(stack.start - start) > state.limits.address_space
        {
            return Err(FaultError::NotMapped);
        }
        state.vmas.insert(Vma { start, end: stack.start, ..stack });
        Ok(())
    }
}

/// The aligned window of `most` pages that holds page `number`.
fn window(number: u64, most: u64) -> Range<u64> {
    let most = most.max(1);
    let start = number - number % most;
    start..start.saturating_add(most)
}

fn clip(pages: Range<u64>, vma: &Vma) -> Range<u64> {
    pages.start.max(vma.start / PAGE)..pages.end.min(vma.end / PAGE)
}

impl State {
    pub(super) fn note_peak(&mut self) {
        self.peak = self.peak.max(self.pages.len() as u64);
    }

    /// The stretch of pages around `number`, inside the window and the area, where none is resident.
    fn empty_around(&self, vma: &Vma, number: u64, window: Range<u64>) -> Range<u64> {
        let window = clip(window, vma);
        let start =
            self.pages.range(window.start..number).next_back().map_or(window.start, |(n, _)| n + 1);
        let end = self
            .pages
            .range(number + 1..window.end.max(number + 1))
            .next()
            .map_or(window.end.max(number + 1), |(n, _)| *n);
        start..end
    }

    /// Whether the page beside a copied one is better copied along: it is private and shared with a
    /// fork, or a page of a privately mapped file that nobody writes: what is written to a file shows in
    /// the pages of a private mapping that were not written yet.
    fn wants_copy(&self, vma: &Vma, number: u64) -> bool {
        match self.pages.get(&number) {
            Some(page) => !(page.private && page.frame.is_sole()),
            None => vma.file.as_ref().is_some_and(|f| {
                f.pages.is_steady() && f.pages.around(vma.file_page(number * PAGE), 1) == 1
            }),
        }
    }

    /// Fills `frame` with what the application sees at page `number` now.
    fn copy_content(&self, vma: &Vma, number: u64, frame: &FrameRef) -> Result<(), FaultError> {
        if let Some(page) = self.pages.get(&number) {
            platform().copy_frame(page.frame.frame(), frame.frame());
            return Ok(());
        }
        let Some(file) = &vma.file else { return Ok(()) };
        let index = vma.file_page(number * PAGE);
        match file.pages.page(index, false)? {
            FilePage::Cached(page) => platform().copy_frame(page.frame(), frame.frame()),
            FilePage::Donated(id) => copy_donated(id, index, frame)?,
        }
        Ok(())
    }

    /// The run of pages of a donated file to map around `number`: first page number and length.
    fn donated_run(&self, vma: &Vma, file: &VmaFile, number: u64) -> (u64, u32) {
        let most = u64::from(platform().fault_around().donated);
        let range = self.empty_around(vma, number, window(number, most));
        let reach = |from: u64| {
            let want = u32::try_from(range.end - from).unwrap_or(u32::MAX);
            file.pages.around(vma.file_page(from * PAGE), want).clamp(1, want.max(1))
        };
        let pages = reach(range.start);
        if range.start + u64::from(pages) > number {
            (range.start, pages)
        } else {
            (number, reach(number))
        }
    }
}

/// Copies one page of a donated file; what lies behind its end is zero.
fn copy_donated(id: FileId, index: u64, frame: &FrameRef) -> Result<(), Errno> {
    let mut buf = vec![0; PAGE_SIZE];
    let n = platform().file_read(id, index.saturating_mul(PAGE), &mut buf)?;
    platform().write_frame(frame.frame(), 0, buf.get(..n).unwrap_or(&[]));
    Ok(())
}
