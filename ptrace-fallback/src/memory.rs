//! The sandbox's memory: one sparse memfd, mapped once in the sentry and in pieces in the stubs.
//!
//! Applications write it while the sentry reads it, so the sentry holds no references into it: bytes
//! move with string instructions, words with atomic ones.

use std::arch::asm;
use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sentry::errno::Errno;
use sentry::platform::frame_alloc::{Dirty, FrameAllocator};
use sentry::platform::{Account, AtomicOp, Frame, FrameCounts, PAGE_SIZE};

use crate::Error;
use crate::fixup;
use crate::sys;

/// Frames that go back to the host with the lock held once.
const RELEASE_BATCH: u32 = 4096;

/// What a task costs the host, in frames: kernel stacks and task structures of the stub's thread and the sentry's, the
/// stack and heap that this one has touched. (76 KiB, measured on Linux 6.18 with 600 threads that wait.)
pub(crate) const TASK: u32 = 20;
/// What an address space costs: the stub process, its page tables, and the sentry's map of it. (124 KiB beside its task,
/// measured with 300 processes that sleep.)
pub(crate) const SPACE: u32 = 32;

std::thread_local! {
    /// The account that this thread charges to.
    static ACCOUNT: Cell<Account> = const { Cell::new(Account::FIRST) };
}

/// The account that the calling thread charges to.
pub(crate) fn account() -> Account {
    ACCOUNT.get()
}

/// Has the calling thread charge to this one.
pub(crate) fn charge_to(account: Account) {
    ACCOUNT.set(account);
}

/// Memory that counts as used while this lives.
pub(crate) struct Charge {
    memory: &'static Memory,
    account: Account,
    frames: u32,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.book().uncharge(self.account, self.frames);
    }
}

/// All frames.
pub(crate) struct Memory {
    file: OwnedFd,
    base: *mut u8,
    frames: u32,
    book: Mutex<FrameAllocator>,
}

// SAFETY: the mapping stays for the life of the process, and no reference into it is ever made.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory of up to `bytes`, none of it used yet.
    pub(crate) fn new(bytes: u64) -> Result<Memory, Error> {
        let frames = u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX);
        let len = frames as usize * PAGE_SIZE;
        let file =
            sys::memfd(c"ringwall-memory", len as u64).map_err(|e| Error::Memory("memfd", e))?;
        let base = sys::map_shared(file.as_fd(), len).map_err(|e| Error::Memory("mmap", e))?;
        Ok(Memory { file, base, frames, book: Mutex::new(FrameAllocator::new(frames)) })
    }

    /// The file's descriptor, which stubs share.
    pub(crate) fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// The book of who has which frames.
    pub(crate) fn book(&self) -> MutexGuard<'_, FrameAllocator> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run of zeroed frames, for the calling thread's account.
    pub(crate) fn alloc(&self, count: u32) -> Option<Frame> {
        let run = self.book().alloc(account(), count)?;
        match run.dirty {
            Dirty::Nothing => {}
            Dirty::Everything => self.zero(run.first, 0, count as usize * PAGE_SIZE),
            Dirty::Some(dirty) => {
                for part in dirty {
                    self.zero(Frame(part.start), 0, part.len() * PAGE_SIZE);
                }
            }
        }
        Some(run.first)
    }

    /// Gives a run back.
    ///
    /// # Panics
    /// Where a frame of it is not in use: then the sentry's books are wrong, and one container could
    /// reach another's memory.
    pub(crate) fn free(&self, first: Frame, count: u32) {
        if count == 0 {
            return;
        }
        let freed = self.book().free(first, count);
        if let Err(frame) = freed {
            panic!("a frame is freed that is not in use: {frame:?}");
        }
    }

    /// What an account has.
    pub(crate) fn counts(&self, account: Account) -> FrameCounts {
        self.book().counts(account)
    }

    /// Counts memory of the host's that is used for an application without being in a frame, until the charge is dropped;
    /// for the calling thread's account.
    pub(crate) fn charge(&'static self, frames: u32) -> Result<Charge, Errno> {
        let account = account();
        let room = self.book().charge(account, frames);
        if room { Ok(Charge { memory: self, account, frames }) } else { Err(Errno::ENOMEM) }
    }

    /// Gives the memory of free frames back to the host.
    pub(crate) fn release(&self) -> std::io::Result<()> {
        loop {
            let batch = self.book().take_batch_to_release(RELEASE_BATCH, true);
            if batch.is_empty() {
                return Ok(());
            }
            for run in batch {
                let (offset, len) =
                    (u64::from(run.start) * PAGE_SIZE as u64, run.len() as u64 * PAGE_SIZE as u64);
                let punched = sys::punch_hole(self.file.as_fd(), offset, len);
                let count = run.len() as u32;
                let mut book = self.book();
                if let Err(e) = punched {
                    // Still dirty, so they are zeroed before they are used again.
                    if book.free(Frame(run.start), count).is_err() {
                        panic!("a frame under release was freed");
                    }
                    return Err(e);
                }
                if book.released(run).is_err() {
                    panic!("a frame under release was freed");
                }
            }
        }
    }

    /// Whether a run is inside of this memory.
    pub(crate) fn contains(&self, first: Frame, count: u32) -> bool {
        first.0.checked_add(count).is_some_and(|end| end <= self.frames)
    }

    /// Where bytes of a run are.
    ///
    /// # Panics
    /// Where they are outside of the memory: a handle that we did not give.
    fn place(&self, frame: Frame, offset: usize, len: usize) -> *mut u8 {
        let start = frame.0 as usize * PAGE_SIZE;
        let end = start.checked_add(offset).and_then(|n| n.checked_add(len));
        assert!(
            end.is_some_and(|end| end <= self.frames as usize * PAGE_SIZE),
            "a frame outside of memory: {frame:?}"
        );
        // SAFETY: inside of the mapping, as just checked.
        unsafe { self.base.add(start + offset) }
    }

    /// Copies out.
    pub(crate) fn read(&self, frame: Frame, offset: usize, buf: &mut [u8]) {
        let from = self.place(frame, offset, buf.len());
        // SAFETY: `from` has that many bytes in the mapping, and `buf` is ours alone.
        unsafe { copy(buf.as_mut_ptr(), from, buf.len()) }
    }

    /// Copies in.
    pub(crate) fn write(&self, frame: Frame, offset: usize, data: &[u8]) {
        let to = self.place(frame, offset, data.len());
        // SAFETY: `to` has that many bytes in the mapping, of which no reference exists.
        unsafe { copy(to, data.as_ptr(), data.len()) }
    }

    /// Has the host read a file straight into a run; how many bytes, fewer at the end of the file and after an error.
    pub(crate) fn read_file(
        &self,
        frame: Frame,
        offset: usize,
        len: usize,
        file: &File,
        from: u64,
    ) -> usize {
        let to = self.place(frame, offset, len);
        let Ok(from) = i64::try_from(from) else {
            return 0;
        };
        // SAFETY: `to` has that many bytes in the mapping, of which no reference exists; the host's kernel writes them.
        let got = unsafe { libc::pread(file.as_raw_fd(), to.cast(), len, from) };
        usize::try_from(got).unwrap_or(0)
    }

    /// Fills with zeros.
    pub(crate) fn zero(&self, frame: Frame, offset: usize, len: usize) {
        let to = self.place(frame, offset, len);
        // SAFETY: `to` has that many bytes in the mapping, of which no reference exists.
        unsafe {
            asm!(
                "rep stosb",
                inout("rdi") to => _, inout("rcx") len => _, in("al") 0u8,
                options(nostack, preserves_flags),
            );
        }
    }

    /// Copies a frame.
    pub(crate) fn copy(&self, from: Frame, to: Frame) {
        let from = self.place(from, 0, PAGE_SIZE);
        let to = self.place(to, 0, PAGE_SIZE);
        // SAFETY: both have a page in the mapping, of which no reference exists.
        unsafe { copy(to, from, PAGE_SIZE) }
    }

    /// An atomic operation on an aligned word; the word before it.
    ///
    /// # Panics
    /// Where the word is not aligned, or outside of memory.
    pub(crate) fn atomic(&self, frame: Frame, offset: usize, op: AtomicOp) -> u32 {
        assert!(offset.is_multiple_of(4), "an unaligned word at {offset}");
        let word = self.place(frame, offset, 4).cast();
        // SAFETY: an aligned word in the mapping, which is always accessible.
        match unsafe { fixup::atomic(word, op) } {
            Some(old) => old,
            None => panic!("the host has no memory for a frame"),
        }
    }
}

/// Copies bytes that others may be writing: what the compiler cannot see it does not assume.
///
/// # Safety
/// Both places must have `len` bytes, and no Rust reference to what is written may exist elsewhere.
unsafe fn copy(to: *mut u8, from: *const u8, len: usize) {
    // SAFETY: the direction flag is clear in compiled code; the rest is the caller's promise.
    unsafe {
        asm!(
            "rep movsb",
            inout("rdi") to => _, inout("rsi") from => _, inout("rcx") len => _,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of host memory behind the file.
    fn held(memory: &Memory) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::File::from(memory.file.try_clone().unwrap());
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn freed_memory_goes_back_to_the_host_and_comes_again_zeroed() {
        let memory = Memory::new(64 << 20).unwrap();
        assert_eq!(held(&memory), 0);
        let run = memory.alloc(1000).unwrap();
        for i in 0..1000 {
            memory.write(run.offset(i), 100, b"secret");
        }
        assert_eq!(held(&memory), 1000 * PAGE_SIZE as u64);
        memory.free(run, 1000);
        // Used again before it goes back: zeroed by us.
        let again = memory.alloc(10).unwrap();
        let mut buf = [1; 6];
        memory.read(again.offset(9), 100, &mut buf);
        assert_eq!(buf, [0; 6]);
        memory.release().unwrap();
        assert_eq!(held(&memory), 10 * PAGE_SIZE as u64);
        let more = memory.alloc(1000).unwrap();
        memory.read(more, 500 * PAGE_SIZE + 100, &mut buf);
        assert_eq!(buf, [0; 6]);
        let counts = memory.counts(Account::FIRST);
        assert_eq!((counts.used, counts.most), (1010, (64 << 20) / PAGE_SIZE as u64));
        assert!(memory.alloc(20_000).is_none());
    }

    #[test]
    #[should_panic(expected = "not in use")]
    fn a_frame_is_freed_once() {
        let memory = Memory::new(1 << 20).unwrap();
        let run = memory.alloc(2).unwrap();
        memory.free(run, 2);
        memory.free(run, 1);
    }

    #[test]
    #[should_panic(expected = "outside of memory")]
    fn nothing_outside_of_memory_is_reached() {
        let memory = Memory::new(1 << 20).unwrap();
        memory.write(Frame(255), PAGE_SIZE - 1, &[0; 2]);
    }
}
