//! signalfd(2): signals read as data.
//!
//! A signalfd has a set of signals and nothing else: reading and polling look at the signals of whoever
//! reads and polls, so that a descriptor that a child has inherited gives the child's signals. Who waits
//! for it has its process told ([`FileOps::waited_for`]), and the process rings the signalfd's queue when
//! a signal of its set is queued.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use super::anon;
use super::context::Cx;
use super::file::{Blocker, File};
use super::inode::{FileOps, Whence};
use super::io::IoDst;
use super::types::{Events, OpenFlags};
use crate::errno::Errno;
use crate::error::SysError;
use crate::signal::{SigInfo, SigSet, Signal, code, deliver};
use crate::sync::WaitQueue;
use crate::task::{Current, Task};

/// Bytes of a `struct signalfd_siginfo` (linux/signalfd.h).
pub const RECORD: usize = 128;

/// What a signalfd and the processes that ring it share.
pub struct Bell {
    mask: AtomicU64,
    queue: WaitQueue,
}

impl Bell {
    /// A signal has been queued.
    pub fn ring(&self, signal: Signal) {
        if self.mask().contains(signal) {
            self.queue.wake(Events::READABLE.bits());
        }
    }

    fn mask(&self) -> SigSet {
        SigSet(self.mask.load(Ordering::Acquire))
    }
}

/// An open signalfd.
pub struct SignalFd(Arc<Bell>);

/// A new one for the signals of `mask`.
pub fn new(cx: &Cx<'_>, mask: SigSet, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    let bell =
        Bell { mask: AtomicU64::new(mask.without(SigSet::UNBLOCKABLE).0), queue: WaitQueue::new() };
    let flags = OpenFlags::RDWR | flags & OpenFlags::NONBLOCK;
    anon::file(cx, "anon_inode:[signalfd]", Box::new(SignalFd(Arc::new(bell))), flags)
}

impl SignalFd {
    /// Other signals from now on.
    pub fn set_mask(&self, mask: SigSet) {
        self.0.mask.store(mask.without(SigSet::UNBLOCKABLE).0, Ordering::Release);
        self.0.queue.wake(Events::READABLE.bits());
    }

    /// read(2) by a task, out of its own queues: waits for the first signal at most.
    pub fn read(
        &self,
        cx: &Current,
        waiter: &dyn Blocker,
        file: &File,
        dst: &mut IoDst<'_>,
    ) -> Result<usize, SysError> {
        if dst.remaining() < RECORD {
            return Err(Errno::EINVAL.into());
        }
        let take = || deliver::take(&cx.task, self.0.mask()).ok_or(Errno::EAGAIN);
        let mut next = Some(file.retry(waiter, Events::IN, None, take)?);
        let mut done: usize = 0;
        while let Some(info) = next {
            match dst.put(&record(&info)) {
                Ok(RECORD) => done = done.saturating_add(RECORD),
                // As on Linux, a signal that could not be told is lost.
                _ if done == 0 => return Err(Errno::EFAULT.into()),
                _ => break,
            }
            next = if dst.remaining() < RECORD { None } else { take().ok() };
        }
        Ok(done)
    }
}

impl FileOps for SignalFd {
    fn can_hurry(&self, writes: bool) -> bool {
        !writes
    }

    fn is_stream(&self) -> bool {
        true
    }

    /// It has no offset to move, and lets it be moved: Linux's noop_llseek.
    fn seek(&self, _file: &File, now: u64, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Ok(now)
    }

    /// Without a caller there are no signals.
    fn poll(&self, _file: &File) -> Events {
        Events::empty()
    }

    fn poll_as(&self, _file: &File, task: &Arc<Task>) -> Events {
        let (own, shared, _) = task.signal_sets();
        if own.with(shared).and(self.0.mask()).is_empty() { Events::empty() } else { Events::IN }
    }

    fn waited_for(&self, task: &Arc<Task>) {
        let bell = Arc::downgrade(&self.0);
        let mut state = task.process.signals.lock();
        if !state.bells.iter().any(|b| Weak::ptr_eq(b, &bell)) {
            state.bells.retain(|b| b.strong_count() > 0);
            state.bells.push(bell);
        }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn fdinfo(&self, _file: &File) -> String {
        format!("sigmask:\t{:016x}\n", self.0.mask().0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Which fields of a siginfo have a meaning (siginfo_layout() in kernel/signal.c).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layout {
    Kill,
    Timer,
    Poll,
    Fault,
    Memory,
    Child,
    Queue,
    Call,
}

fn layout(signal: Signal, code: i32) -> Layout {
    /// The si_codes of SIGPOLL (NSIGPOLL) and SI_SIGIO.
    const POLLS: i32 = 6;
    const SIGIO: i32 = -5;
    match (signal, code) {
        (_, code::SI_TIMER) => Layout::Timer,
        (_, SIGIO) => Layout::Poll,
        (_, ..0) => Layout::Queue,
        (_, 0) | (_, code::SI_KERNEL..) => Layout::Kill,
        (Signal::SIGBUS, 4..=5) => Layout::Memory,
        (Signal::SIGILL, ..=11)
        | (Signal::SIGFPE, ..=15)
        | (Signal::SIGSEGV, ..=10)
        | (Signal::SIGBUS, ..=5)
        | (Signal::SIGTRAP, ..=6) => Layout::Fault,
        (Signal::SIGCHLD, ..=6) => Layout::Child,
        (Signal::SIGSYS, ..=2) => Layout::Call,
        (_, ..=POLLS) => Layout::Poll,
        _ => Layout::Kill,
    }
}

/// A signal as signalfd(2) tells it.
fn record(info: &SigInfo) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(room) = bytes.get_mut(at..at.saturating_add(value.len())) {
            room.copy_from_slice(value);
        }
    };
    let low = |n: usize| (info.get(n) as u32).to_le_bytes();
    let high = |n: usize| ((info.get(n) >> 32) as u32).to_le_bytes();
    let long = |n: usize| info.get(n).to_le_bytes();
    put(0, &u32::from(info.signal.number()).to_le_bytes());
    put(4, &info.errno.to_le_bytes());
    put(8, &info.code.to_le_bytes());
    match layout(info.signal, info.code) {
        Layout::Kill => {
            put(12, &low(0)); // ssi_pid
            put(16, &high(0)); // ssi_uid
        }
        Layout::Timer => {
            put(24, &low(0)); // ssi_tid
            put(32, &high(0)); // ssi_overrun
            put(44, &low(1)); // ssi_int
            put(48, &long(1)); // ssi_ptr
        }
        Layout::Poll => {
            put(28, &low(0)); // ssi_band
            put(20, &low(1)); // ssi_fd
        }
        Layout::Fault => put(72, &long(0)), // ssi_addr
        Layout::Memory => {
            put(72, &long(0));
            put(80, low(1).get(..2).unwrap_or(&[])); // ssi_addr_lsb
        }
        Layout::Child => {
            put(12, &low(0));
            put(16, &high(0));
            put(40, &low(1)); // ssi_status
            put(56, &long(2)); // ssi_utime
            put(64, &long(3)); // ssi_stime
        }
        Layout::Queue => {
            put(12, &low(0));
            put(16, &high(0));
            put(44, &low(1));
            put(48, &long(1));
        }
        Layout::Call => {
            put(84, &low(1)); // ssi_syscall
            put(88, &long(0)); // ssi_call_addr
            put(96, &high(1)); // ssi_arch
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn a_record_has_the_fields_of_its_origin_and_no_others() {
        let mut queued = SigInfo::user(Signal::SIGUSR1, code::SI_QUEUE, 7, 1000);
        queued.set(1, 0x1_2345_6789);
        let bytes = record(&queued);
        assert_eq!((word(&bytes, 0), word(&bytes, 12), word(&bytes, 16)), (10, 7, 1000));
        assert_eq!(
            (word(&bytes, 44), word(&bytes, 48), word(&bytes, 52)),
            (0x2345_6789, 0x2345_6789, 1)
        );
        let bytes = record(&SigInfo::user(Signal::SIGUSR1, code::SI_USER, 7, 1000));
        assert!(bytes[20..].iter().all(|b| *b == 0));
        let child = SigInfo::child(Signal::SIGCHLD, code::CLD_EXITED, 9, 1, 3, (5, 6));
        let bytes = record(&child);
        assert_eq!(
            (word(&bytes, 12), word(&bytes, 40), word(&bytes, 56), word(&bytes, 64)),
            (9, 3, 5, 6)
        );
        let bytes = record(&SigInfo::timer(Signal::SIGALRM, 4, 8));
        assert_eq!((word(&bytes, 24), word(&bytes, 44), word(&bytes, 12)), (4, 8, 0));
    }

    #[test]
    fn layouts_follow_signal_and_code() {
        let of = |n: i32, code| layout(Signal::new(n).unwrap(), code);
        assert_eq!(of(11, 1), Layout::Fault);
        assert_eq!(of(11, 0x80), Layout::Kill);
        assert_eq!(of(7, 4), Layout::Memory);
        assert_eq!(of(10, 3), Layout::Poll);
        assert_eq!(of(10, 7), Layout::Kill);
        assert_eq!(of(17, -1), Layout::Queue);
        assert_eq!(of(31, 1), Layout::Call);
    }
}
