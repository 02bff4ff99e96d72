//! The one service thread: it waits for stubs that die, for streams that become ready, and for the
//! time at which freed memory goes back to the host or tasks are spread over CPUs.
//!
//! With nothing of the kind to wait for it sleeps without a timeout.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::{io, ptr};

use sentry::platform::Level;

use crate::PtracePlatform;
use crate::place::PATIENCE;
use crate::streams::HostStream;
use crate::stub::Stub;
use crate::sys;

/// How long freed frames keep their memory, so that it can be used again without the host, ns.
const RELEASE_AFTER: u64 = 1_000_000_000;
/// What an event is about: a kind in the top byte, a number below.
const BELL: u64 = 0;
const STUB: u64 = 1 << 56;
const STREAM: u64 = 2 << 56;
const KIND: u64 = 0xff << 56;

/// What others share with the thread.
pub(crate) struct Keeper {
    epoll: OwnedFd,
    bell: File,
    /// When to release memory, and when to balance, by the monotonic clock; 0: not asked for.
    release_at: AtomicU64,
    balance_at: AtomicU64,
    stubs: Mutex<HashMap<u64, Weak<Stub>>>,
}

impl Keeper {
    pub(crate) fn new() -> io::Result<Keeper> {
        // SAFETY: no memory arguments.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let bell = File::from(sys::eventfd(libc::EFD_NONBLOCK)?);
        let keeper = Keeper {
            epoll,
            bell,
            release_at: AtomicU64::new(0),
            balance_at: AtomicU64::new(0),
            stubs: Mutex::default(),
        };
        let bell = keeper.bell.as_raw_fd();
        keeper.control(libc::EPOLL_CTL_ADD, bell, libc::EPOLLIN as u32, BELL)?;
        Ok(keeper)
    }

    fn control(&self, op: i32, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: the event is valid for the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), op, fd, &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn ask(&self, at: &AtomicU64, after: u64) {
        let due = sys::monotonic().saturating_add(after).max(1);
        if at.load(Ordering::Relaxed) == 0
            && at.compare_exchange(0, due, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        {
            // Only a counter at its maximum refuses, and then the bell rings already.
            let _full = (&self.bell).write(&1u64.to_ne_bytes());
        }
    }

    /// Has freed memory released before long.
    pub(crate) fn ask_release(&self) {
        self.ask(&self.release_at, RELEASE_AFTER);
    }

    /// Has tasks spread before long.
    pub(crate) fn ask_balance(&self) {
        self.ask(&self.balance_at, PATIENCE);
    }

    /// Watches for a stub's death.
    pub(crate) fn watch_stub(&self, stub: &Arc<Stub>) -> io::Result<()> {
        let mut stubs = self.stubs.lock().unwrap_or_else(PoisonError::into_inner);
        if stubs.len() >= 64 && stubs.len().is_power_of_two() {
            stubs.retain(|_, stub| stub.strong_count() > 0);
        }
        stubs.insert(stub.id, Arc::downgrade(stub));
        drop(stubs);
        let fd = stub.pidfd().as_raw_fd();
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN as u32, STUB | stub.id)
    }

    /// Waits once for a stream to become ready for `events`.
    pub(crate) fn watch_stream(
        &self,
        fd: BorrowedFd<'_>,
        index: u32,
        events: u32,
    ) -> io::Result<()> {
        let (fd, data) = (fd.as_raw_fd(), STREAM | u64::from(index));
        let events = events | libc::EPOLLONESHOT as u32;
        match self.control(libc::EPOLL_CTL_MOD, fd, events, data) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.control(libc::EPOLL_CTL_ADD, fd, events, data)
            }
            done => done,
        }
    }

    /// Stops watching a stream, where it is watched.
    pub(crate) fn forget_stream(&self, fd: BorrowedFd<'_>) {
        let _unwatched = self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), 0, 0);
    }

    /// Milliseconds, rounded up, until the next thing is due; -1: nothing is.
    fn timeout(&self) -> i32 {
        let due = [&self.release_at, &self.balance_at]
            .map(|at| at.load(Ordering::SeqCst))
            .into_iter()
            .filter(|at| *at != 0)
            .min();
        let left = due.map(|at| at.saturating_sub(sys::monotonic()).div_ceil(1_000_000));
        left.map_or(-1, |ms| ms.min(60_000) as i32)
    }

    fn take_due(at: &AtomicU64) -> bool {
        let due = at.load(Ordering::SeqCst);
        due != 0 && due <= sys::monotonic() && {
            at.store(0, Ordering::SeqCst);
            true
        }
    }

    /// The thread.
    pub(crate) fn run(&self, platform: &'static PtracePlatform) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 16];
        loop {
            // SAFETY: the slice is valid for its length.
            let n = unsafe {
                libc::epoll_wait(
                    self.epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    events.len() as i32,
                    self.timeout(),
                )
            };
            for event in events.iter().take(n.max(0) as usize) {
                let (number, ready) = (event.u64 & !KIND, event.events);
                match event.u64 & KIND {
                    STUB => self.stub_died(number),
                    STREAM => {
                        if let Some(stream) = platform.stream_at(number as u32) {
                            HostStream::on_ready(&stream, ready);
                        }
                    }
                    _ => {
                        let _empty = (&self.bell).read(&mut [0; 8]);
                    }
                }
            }
            if Self::take_due(&self.release_at)
                && let Err(e) = platform.machine.memory.release()
            {
                let line = format_args!("cannot give memory back to the host: {e}");
                (platform.log)(Level::Warning, line);
            }
            if Self::take_due(&self.balance_at) && platform.placement.balance(platform.threads) {
                self.ask_balance();
            }
        }
    }

    fn stub_died(&self, id: u64) {
        let mut stubs = self.stubs.lock().unwrap_or_else(PoisonError::into_inner);
        let stub = stubs.remove(&id).and_then(|stub| stub.upgrade());
        drop(stubs);
        if let Some(stub) = stub {
            // It stays readable; whoever drops the stub closes the descriptor.
            let fd = stub.pidfd().as_raw_fd();
            // SAFETY: deleting takes no event.
            unsafe {
                libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, ptr::null_mut())
            };
            stub.died();
        }
    }
}
