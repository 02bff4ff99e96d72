//! The control channel inside one process: two queues of whole messages.
//!
//! The host half's end never waits; it has a descriptor for its event loop. The sentry's end is a
//! [`Channel`] that waits on a condition variable; where the sentry is a guest of its own, it is a
//! [`ControlRelay`] that never waits either. Either end closes both directions when dropped.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use sentry::control::MAX_MESSAGE;
use sentry::errno::Errno;
use sentry::platform::{Channel, FileId};

/// Messages that may wait in either direction before a sender waits too.
const DEPTH: usize = 256;

/// Makes the two ends of a control channel.
pub fn control_pair() -> io::Result<(ControlHost, ControlSentry)> {
    let shared = Arc::new(Shared {
        queues: Mutex::new(Queues::default()),
        changed: Condvar::new(),
        bell: new_bell()?,
        relay_bell: OnceLock::new(),
    });
    Ok((ControlHost(Arc::clone(&shared)), ControlSentry(shared)))
}

fn new_bell() -> io::Result<File> {
    // SAFETY: eventfd has no memory arguments.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

struct Shared {
    queues: Mutex<Queues>,
    /// Told when a queue that the sentry waits on has changed.
    changed: Condvar,
    /// Readable while the host half has something to take, or the sentry is gone.
    bell: File,
    /// The same for the other end, where that is a [`ControlRelay`].
    relay_bell: OnceLock<File>,
}

#[derive(Default)]
struct Queues {
    to_sentry: VecDeque<Vec<u8>>,
    to_host: VecDeque<Vec<u8>>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // Only a counter at its maximum refuses, and then the bell rings already.
        let _full = (&self.bell).write(&1u64.to_ne_bytes());
    }

    /// Tells the sentry's end that a queue has changed.
    fn tell_sentry(&self) {
        self.changed.notify_all();
        if let Some(mut bell) = self.relay_bell.get() {
            let _full = bell.write(&1u64.to_ne_bytes());
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.tell_sentry();
        self.ring();
    }
}

/// The host half's end.
pub struct ControlHost(Arc<Shared>);

impl ControlHost {
    /// Sends one message. `WouldBlock` where the sentry has not taken the last 256, `BrokenPipe`
    /// where it is gone.
    pub fn send(&self, message: Vec<u8>) -> io::Result<()> {
        let mut queues = self.0.lock();
        if queues.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if queues.to_sentry.len() >= DEPTH {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queues.to_sentry.push_back(message);
        drop(queues);
        self.0.tell_sentry();
        Ok(())
    }

    /// Takes one message if there is one; `BrokenPipe` where there is none and the sentry is gone.
    pub fn try_recv(&self) -> io::Result<Option<Vec<u8>>> {
        let mut queues = self.0.lock();
        let full = queues.to_host.len() >= DEPTH;
        match queues.to_host.pop_front() {
            Some(message) => {
                drop(queues);
                if full {
                    self.0.tell_sentry();
                }
                Ok(Some(message))
            }
            None if queues.closed => Err(io::ErrorKind::BrokenPipe.into()),
            None => {
                // Under the lock, so that a message that comes now rings again.
                let _empty = (&self.0.bell).read(&mut [0; 8]);
                Ok(None)
            }
        }
    }
}

impl AsFd for ControlHost {
    /// Readable when [`ControlHost::try_recv`] has something to say. Only poll it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

impl Drop for ControlHost {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The sentry's end.
pub struct ControlSentry(Arc<Shared>);

impl Channel for ControlSentry {
    fn max_message(&self) -> usize {
        MAX_MESSAGE
    }

    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        crate::thread::pay();
        let mut queues = self.0.lock();
        while queues.to_host.len() >= DEPTH && !queues.closed {
            queues = self.0.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
        if queues.closed {
            return Err(Errno::EPIPE);
        }
        queues.to_host.push_back(message.to_vec());
        self.0.ring();
        Ok(())
    }

    fn recv(&self, buf: &mut Vec<u8>, deadline: Option<u64>) -> Result<Option<FileId>, Errno> {
        crate::thread::pay();
        let mut queues = self.0.lock();
        loop {
            if let Some(message) = queues.to_sentry.pop_front() {
                *buf = message;
                return Ok(None);
            }
            if queues.closed {
                return Err(Errno::EPIPE);
            }
            queues = match deadline {
                None => self.0.changed.wait(queues).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_sub(crate::sys::monotonic());
                    if left == 0 {
                        return Err(Errno::ETIMEDOUT);
                    }
                    self.0
                        .changed
                        .wait_timeout(queues, Duration::from_nanos(left))
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }
}

impl Drop for ControlSentry {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The sentry's end for an event loop that passes messages on to a sentry elsewhere. Never waits.
pub struct ControlRelay(ControlSentry);

impl ControlSentry {
    /// Makes it an end for an event loop.
    pub fn relay(self) -> io::Result<ControlRelay> {
        // Rings once at the start, for what is in the queue already.
        let mut bell = new_bell()?;
        bell.write_all(&1u64.to_ne_bytes())?;
        // There is one such end, so nobody has set it before.
        let _set = self.0.relay_bell.set(bell);
        Ok(ControlRelay(self))
    }
}

impl ControlRelay {
    /// Takes one message for the sentry if there is one; `BrokenPipe` where there is none and the
    /// host half is gone.
    pub fn try_recv(&self) -> io::Result<Option<Vec<u8>>> {
        let shared = &self.0.0;
        let mut queues = shared.lock();
        match queues.to_sentry.pop_front() {
            Some(message) => Ok(Some(message)),
            None if queues.closed => Err(io::ErrorKind::BrokenPipe.into()),
            None => {
                if let Some(mut bell) = shared.relay_bell.get() {
                    // Under the lock, so that a message that comes now rings again.
                    let _empty = bell.read(&mut [0; 8]);
                }
                Ok(None)
            }
        }
    }

    /// Hands one message of the sentry's to the host half; gives it back with `WouldBlock` where that
    /// has not taken the last 256 (the bell rings when it has), with `BrokenPipe` where it is gone.
    pub fn send(&self, message: Vec<u8>) -> Result<(), (Vec<u8>, io::ErrorKind)> {
        let shared = &self.0.0;
        let mut queues = shared.lock();
        if queues.closed {
            return Err((message, io::ErrorKind::BrokenPipe));
        }
        if queues.to_host.len() >= DEPTH {
            return Err((message, io::ErrorKind::WouldBlock));
        }
        queues.to_host.push_back(message);
        shared.ring();
        Ok(())
    }
}

impl AsFd for ControlRelay {
    /// Readable when [`ControlRelay::try_recv`] has something to say, or there is room again. Only
    /// poll it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // Set in `relay`, the only way to make one of these.
        self.0.0.relay_bell.get().unwrap_or(&self.0.0.bell).as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn messages_cross_both_ways_and_the_bell_tells() {
        let (host, sentry) = control_pair().unwrap();
        assert!(host.try_recv().unwrap().is_none());
        host.send(vec![1, 2]).unwrap();
        let mut buf = vec![9];
        assert_eq!(sentry.recv(&mut buf, None), Ok(None));
        assert_eq!(buf, [1, 2]);
        assert_eq!(sentry.recv(&mut buf, Some(0)), Err(Errno::ETIMEDOUT));
        sentry.send(&[3]).unwrap();
        assert!((&host.0.bell).read(&mut [0; 8]).is_ok());
        assert_eq!(host.try_recv().unwrap(), Some(vec![3]));
        drop(host);
        assert_eq!(sentry.recv(&mut buf, None), Err(Errno::EPIPE));
        assert_eq!(sentry.send(&[0]), Err(Errno::EPIPE));
    }

    #[test]
    fn a_relay_is_told_and_never_waits() {
        let (host, sentry) = control_pair().unwrap();
        host.send(vec![1]).unwrap();
        let relay = sentry.relay().unwrap();
        let rung = |fd: BorrowedFd<'_>| {
            let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one valid entry.
            unsafe { libc::poll(&mut poll, 1, 0) == 1 }
        };
        assert!(rung(relay.as_fd()));
        assert_eq!(relay.try_recv().unwrap(), Some(vec![1]));
        assert_eq!(relay.try_recv().unwrap(), None);
        assert!(!rung(relay.as_fd()));
        for n in 0..DEPTH {
            relay.send(vec![n as u8]).unwrap();
        }
        assert_eq!(relay.send(vec![7]), Err((vec![7], io::ErrorKind::WouldBlock)));
        assert_eq!(host.try_recv().unwrap(), Some(vec![0]));
        assert!(rung(relay.as_fd()));
        relay.send(vec![7]).unwrap();
        drop(host);
        assert_eq!(relay.send(vec![8]), Err((vec![8], io::ErrorKind::BrokenPipe)));
        assert!(relay.try_recv().is_err());
    }

    #[test]
    fn what_the_sentry_said_last_is_heard_after_its_end() {
        let (host, sentry) = control_pair().unwrap();
        sentry.send(&[7]).unwrap();
        drop(sentry);
        assert_eq!(host.try_recv().unwrap(), Some(vec![7]));
        assert_eq!(host.try_recv().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
