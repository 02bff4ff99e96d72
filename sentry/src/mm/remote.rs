//! An address space seen from outside: /proc/PID/mem and ptrace(2).
//!
//! Whoever debugs a program reads and writes what is mapped, not what the program itself may touch
//! (FOLL_FORCE of mm/gup.c): a breakpoint goes into text that is read-only. So the pages are looked up
//! in the sentry's own tables here, without the platform's mapping. A write to a private page that is
//! not its own yet makes it so first; a shared page is written only where the program may write it.

use super::{FilePage, Mm, PAGE, State, Vma};
use crate::platform::{Access, PAGE_SIZE, Prot, platform};

impl Mm {
    /// Reads what is mapped at `addr`, whatever the protection. How many bytes, up to the first page
    /// that cannot be had.
    pub fn peek(&self, addr: u64, buf: &mut [u8]) -> usize {
        self.peek_where(addr, buf, |_| true)
    }

    /// Reads what is at `addr`, as far as it is memory of the application's own and of no file, which it may read itself
    /// (FOLL_ANON of mm/gup.c): reading it waits for nobody. How many bytes.
    pub fn peek_anonymous(&self, addr: u64, buf: &mut [u8]) -> usize {
        self.peek_where(addr, buf, |vma| vma.file.is_none() && vma.prot.contains(Prot::READ))
    }

    fn peek_where(&self, addr: u64, buf: &mut [u8], fits: impl Fn(&Vma) -> bool) -> usize {
        let mut done = 0;
        while let Some((at, len)) = self.piece(addr, done, buf.len()) {
            let Some(to) = buf.get_mut(done..done.saturating_add(len)) else { break };
            if self.peek_page(at, to, &fits).is_none() {
                break;
            }
            done = done.saturating_add(len);
        }
        done
    }

    /// Writes to what is mapped at `addr`: private memory whatever the protection. How many bytes, up to
    /// the first page that cannot be written.
    pub fn poke(&self, addr: u64, data: &[u8]) -> usize {
        let mut done = 0;
        while let Some((at, len)) = self.piece(addr, done, data.len()) {
            let Some(from) = data.get(done..done.saturating_add(len)) else { break };
            if self.poke_page(at, from).is_none() {
                break;
            }
            done = done.saturating_add(len);
        }
        done
    }

    /// The next piece that lies in one page: its address and length.
    fn piece(&self, addr: u64, done: usize, all: usize) -> Option<(u64, usize)> {
        let at = addr.checked_add(done as u64).filter(|at| self.user.contains(at))?;
        let room = (PAGE - at % PAGE) as usize;
        let len = all.saturating_sub(done).min(room);
        (len > 0).then_some((at, len))
    }

    fn peek_page(&self, at: u64, buf: &mut [u8], fits: impl Fn(&Vma) -> bool) -> Option<()> {
        let state = self.state.lock();
        let vma = state.vmas.find(at).filter(|vma| fits(vma))?;
        let offset = (at % PAGE) as usize;
        if let Some(page) = state.pages.get(&(at / PAGE)) {
            platform().read_frame(page.frame.frame(), offset, buf);
            return Some(());
        }
        buf.fill(0);
        let Some(file) = &vma.file else { return Some(()) };
        let index = vma.file_page(at);
        match file.pages.page(index, false).ok()? {
            FilePage::Cached(frame) => platform().read_frame(frame.frame(), offset, buf),
            FilePage::Donated(id) => {
                let from = index.saturating_mul(PAGE).saturating_add(offset as u64);
                // What lies behind the end of the file is zero.
                platform().file_read(id, from, buf).ok()?;
            }
        }
        Some(())
    }

    fn poke_page(&self, at: u64, data: &[u8]) -> Option<()> {
        let mut state = self.state.lock();
        let vma = state.vmas.find(at)?.clone();
        if !vma.is_private() {
            drop(state);
            // Its file has to know of the write, as of the program's own.
            return vma.prot.contains(Prot::WRITE).then(|| self.copy_out(at, data).ok())?;
        }
        let number = at / PAGE;
        self.own(&mut state, &vma, number)?;
        let frame = state.pages.get(&number)?.frame.frame();
        platform().write_frame(frame, (at % PAGE) as usize, data);
        Some(())
    }

    /// Makes the page at `number` of a private area one that belongs to this address space alone.
    fn own(&self, state: &mut State, vma: &Vma, number: u64) -> Option<()> {
        match state.pages.get(&number) {
            Some(page) if page.private && page.frame.is_sole() => Some(()),
            None if vma.file.is_none() => self.fresh(state, vma, number).ok(),
            _ => self.copy_on_write(state, vma, number).ok(),
        }
    }

    /// Copies from this address space, with the program's own rights, to memory of `other`. How many
    /// bytes; short where a page of either cannot be had.
    pub fn copy_to(&self, from: u64, other: &Mm, to: u64, len: usize) -> usize {
        let mut buf = alloc::vec![0; len.min(BOUNCE)];
        let mut done = 0;
        while done < len {
            let piece = buf.len().min(len.saturating_sub(done));
            let Some(room) = buf.get_mut(..piece) else { break };
            let at = from.wrapping_add(done as u64);
            let got = self.within(at, piece).map_or(0, |reach| {
                let room = room.get_mut(..reach).unwrap_or(&mut []);
                self.copy_in_partial(at, room).map_or_else(|(n, _)| n, |()| reach)
            });
            let target = to.wrapping_add(done as u64);
            let put = other.within(target, got).map_or(0, |reach| {
                let data = buf.get(..reach).unwrap_or(&[]);
                other.copy_out_partial(target, data).map_or_else(|(n, _)| n, |()| reach)
            });
            done = done.saturating_add(put);
            if put < piece {
                break;
            }
        }
        done
    }

    /// How much of `len` bytes at `addr` lies where an application can have memory; `None`: nothing.
    fn within(&self, addr: u64, len: usize) -> Option<usize> {
        if !self.user.contains(&addr) {
            return None;
        }
        let room = usize::try_from(self.user.end.saturating_sub(addr)).unwrap_or(usize::MAX);
        Some(len.min(room)).filter(|n| *n > 0)
    }

    /// Grows the stack down to `addr` where a touch of it would: what a debugger reads then is there.
    pub fn expand_to(&self, addr: u64) {
        if self.state.lock().vmas.find(addr).is_none() {
            // Where nothing is mapped nothing is found afterwards.
            let _nothing = self.resolve(addr, Access::Read);
        }
    }
}

/// Bytes moved at a time between address spaces.
const BOUNCE: usize = 16 * PAGE_SIZE;
