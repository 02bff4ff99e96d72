//! The request pages, one per stub, and the file that they and the code page are in.
//!
//! The sentry writes them, stubs read them. The answers come another way, see [`super::code`].

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::code::{self, HEADER, REQUEST};
use crate::Error;
use crate::sys;

/// Stub processes that there can be at a time.
const MOST: u32 = 32 * 1024;

/// One system call for an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub nr: i64,
    pub args: [u64; 6],
    /// For clone: where the child begins.
    pub child: u64,
}

impl Request {
    pub(crate) fn new(nr: i64, args: [u64; 6]) -> Request {
        Request { nr, args, child: 0 }
    }
}

/// The file and its mapping in the sentry.
pub(super) struct Requests {
    file: OwnedFd,
    base: *mut u8,
    free: Mutex<(Vec<u32>, u32)>,
}

// SAFETY: the mapping stays for the life of the process, and is written through atomics only.
unsafe impl Send for Requests {}
// SAFETY: as above.
unsafe impl Sync for Requests {}

impl Requests {
    /// Makes the file and puts the code into its first page.
    pub(super) fn new() -> Result<Requests, Error> {
        let len = (MOST as usize + 1) * 4096;
        let file = sys::memfd(c"ringwall-stub", len as u64)
            .map_err(|e| Error::Memory("memfd for stubs", e))?;
        let base =
            sys::map_shared(file.as_fd(), len).map_err(|e| Error::Memory("map for stubs", e))?;
        let bytes = code::bytes();
        // SAFETY: the code fits its page (a test says so), which is fresh and mapped here alone.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base, bytes.len()) };
        Ok(Requests { file, base, free: Mutex::new((Vec::new(), 1)) })
    }

    /// The file's descriptor, which stubs share.
    pub(super) fn fd(&self) -> i32 {
        self.file.as_raw_fd()
    }

    /// An unused page, all zero but the eventfd; `None` where all are used.
    pub(super) fn take(&self, eventfd: i32) -> Option<Page> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let index = match free.0.pop() {
            Some(index) => index,
            None if free.1 <= MOST => {
                free.1 += 1;
                free.1 - 1
            }
            None => return None,
        };
        drop(free);
        // SAFETY: the index is at most `MOST`, so the page is inside of the mapping.
        let page = Page(unsafe { self.base.add(index as usize * 4096) }, index);
        page.word(0).store(0, Ordering::Relaxed);
        page.word(4).store(0, Ordering::Relaxed);
        page.word(8).store(eventfd as u32, Ordering::Relaxed);
        page.word(12).store(0, Ordering::Relaxed);
        page.word(16).store(0, Ordering::Release);
        Some(page)
    }

    /// Gives a page back; its stub is dead.
    pub(super) fn give(&self, index: u32) -> io::Result<()> {
        sys::punch_hole(self.file.as_fd(), u64::from(index) * 4096, 4096)?;
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.0.push(index);
        Ok(())
    }
}

/// One request page.
pub(super) struct Page(*mut u8, u32);

// SAFETY: it points into a mapping that stays, and is used through atomics only.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset < HEADER && offset.is_multiple_of(4));
        // SAFETY: inside of the page and aligned; only atomics access it.
        unsafe { AtomicU32::from_ptr(self.0.add(offset).cast()) }
    }

    /// Its number.
    pub(super) fn index(&self) -> u32 {
        self.1
    }

    /// Where it is in the file.
    pub(super) fn offset(&self) -> u64 {
        u64::from(self.1) * 4096
    }

    /// The agent's id.
    pub(super) fn agent(&self) -> u32 {
        self.word(12).load(Ordering::Acquire)
    }

    /// Says whose child a thread of this stub has to be.
    pub(super) fn set_agent(&self, pid: u32) {
        self.word(12).store(pid, Ordering::Release);
    }

    /// A word that the making of the pristine stub uses.
    pub(super) fn pristine_is_alone(&self) -> &AtomicU32 {
        self.word(16)
    }

    /// Puts a batch there and wakes the agent.
    pub(super) fn post(&self, batch: &[Request], number: u32) {
        let batch = batch.get(..batch.len().min(code::BATCH)).unwrap_or(batch);
        for (i, request) in batch.iter().enumerate() {
            let [a, b, c, d, e, f] = request.args;
            let words = [request.nr as u64, a, b, c, d, e, f, request.child];
            for (j, word) in words.into_iter().enumerate() {
                // SAFETY: i < BATCH, so this is inside of the page; aligned; only atomics access it.
                let place =
                    unsafe { AtomicU64::from_ptr(self.0.add(HEADER + i * REQUEST + j * 8).cast()) };
                place.store(word, Ordering::Relaxed);
            }
        }
        self.word(4).store(batch.len() as u32, Ordering::Relaxed);
        self.word(0).store(number, Ordering::Release);
        sys::futex_wake_shared(self.word(0));
    }
}
