//! Streams of containers: host descriptors that are read and written without ever waiting.
//!
//! Their descriptions are shared with whoever gave them to us, so O_NONBLOCK is not ours to set. A
//! socket takes a flag with each call. Others are asked first whether they are ready, and given no
//! more than they then take.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use sentry::errno::Errno;
use sentry::platform::{Listener, Ready, Stream, StreamKind};

use crate::keeper::Keeper;
use crate::{sys, thread};

/// What a pipe or terminal that is ready takes without waiting (PIPE_BUF, pipe(7)).
const ATOMIC: usize = 4096;

/// One stream.
pub(crate) struct HostStream {
    fd: OwnedFd,
    index: u32,
    kind: StreamKind,
    listeners: Mutex<Vec<(Ready, Arc<dyn Listener>)>>,
    keeper: &'static Keeper,
}

impl HostStream {
    pub(crate) fn new(fd: OwnedFd, index: u32, keeper: &'static Keeper) -> HostStream {
        let kind = kind_of(&fd);
        HostStream { fd, index, kind, listeners: Mutex::default(), keeper }
    }

    /// What the descriptor is ready for, and whether asking worked.
    fn poll(&self, interest: Ready) -> Ready {
        let mut fds =
            [libc::pollfd { fd: self.fd.as_raw_fd(), events: interest.bits() as i16, revents: 0 }];
        if sys::poll(&mut fds, 0) <= 0 {
            return Ready::empty();
        }
        Ready::from_bits_truncate(fds[0].revents as u16)
    }

    /// The keeper saw it ready.
    pub(crate) fn on_ready(stream: &Arc<HostStream>, events: u32) {
        let ready = Ready::from_bits_truncate(events as u16);
        let over = ready.intersects(Ready::ERR | Ready::HUP);
        let (told, left): (Vec<_>, Vec<_>) = {
            let mut listeners = stream.lock_listeners();
            std::mem::take(&mut *listeners)
                .into_iter()
                .partition(|(interest, _)| over || interest.intersects(ready))
        };
        if !left.is_empty() {
            stream.lock_listeners().extend(left);
            stream.arm();
        }
        for (_, listener) in told {
            listener.ready(ready);
        }
    }

    fn lock_listeners(&self) -> std::sync::MutexGuard<'_, Vec<(Ready, Arc<dyn Listener>)>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the keeper wait for whatever somebody waits for; without its help all are told at once.
    fn arm(&self) {
        let interest =
            self.lock_listeners().iter().fold(Ready::empty(), |all, (interest, _)| all | *interest);
        let events = u32::from(interest.bits());
        if self.keeper.watch_stream(self.fd.as_fd(), self.index, events).is_err() {
            // Regular files cannot be waited for: they are always ready.
            let all = std::mem::take(&mut *self.lock_listeners());
            for (interest, listener) in all {
                listener.ready(interest);
            }
        }
    }
}

impl Drop for HostStream {
    fn drop(&mut self) {
        // Others have its description, so closing the descriptor would not end the watch.
        self.keeper.forget_stream(self.fd.as_fd());
    }
}

fn kind_of(fd: &OwnedFd) -> StreamKind {
    // SAFETY: isatty takes no memory.
    if unsafe { libc::isatty(fd.as_raw_fd()) } == 1 {
        return StreamKind::Terminal;
    }
    let Ok(stat) = sys::stat(fd.as_fd()) else {
        return StreamKind::CharDevice;
    };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFIFO => StreamKind::Pipe,
        libc::S_IFREG => StreamKind::Regular,
        libc::S_IFSOCK => StreamKind::Socket,
        _ => StreamKind::CharDevice,
    }
}

fn result(n: isize) -> Result<usize, Errno> {
    usize::try_from(n).map_err(|_| match sys::errno() {
        // It was interrupted before anything moved: as good as not ready.
        Errno::EINTR => Errno::EAGAIN,
        e => e,
    })
}

impl Stream for HostStream {
    fn kind(&self) -> StreamKind {
        self.kind
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let (fd, at, len) = (self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len());
        if self.kind == StreamKind::Socket {
            // SAFETY: `buf` is valid for its length.
            return result(unsafe { libc::recv(fd, at, len, libc::MSG_DONTWAIT) });
        }
        let ready = Ready::IN | Ready::HUP | Ready::ERR;
        if self.kind != StreamKind::Regular && !self.poll(Ready::IN).intersects(ready) {
            return Err(Errno::EAGAIN);
        }
        // SAFETY: `buf` is valid for its length.
        result(unsafe { libc::read(fd, at, len) })
    }

    fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let (fd, at, len) = (self.fd.as_raw_fd(), data.as_ptr().cast(), data.len());
        // A regular file may be on a slow disk.
        thread::pay();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        match self.kind {
            // SAFETY: `data` is valid for its length.
            StreamKind::Socket => result(unsafe { libc::send(fd, at, len, flags) }),
            // SAFETY: as above.
            StreamKind::Regular => result(unsafe { libc::write(fd, at, len) }),
            _ => {
                let ready = self.poll(Ready::OUT);
                if ready.intersects(Ready::ERR | Ready::HUP) {
                    return Err(match self.kind {
                        StreamKind::Pipe => Errno::EPIPE,
                        _ => Errno::EIO,
                    });
                }
                if !ready.contains(Ready::OUT) {
                    return Err(Errno::EAGAIN);
                }
                // SAFETY: `data` is valid for its length.
                result(unsafe { libc::write(fd, at, len.min(ATOMIC)) })
            }
        }
    }

    fn ready(&self) -> Ready {
        self.poll(Ready::IN | Ready::OUT)
    }

    fn notify(&self, interest: Ready, listener: Arc<dyn Listener>) {
        self.lock_listeners().push((interest, listener));
        self.arm();
    }

    fn window_size(&self) -> Result<(u16, u16), Errno> {
        // SAFETY: all zeros is a winsize.
        let mut size: libc::winsize = unsafe { std::mem::zeroed() };
        // SAFETY: `size` is a valid place for the result.
        let got = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCGWINSZ, &mut size) };
        match got {
            0 => Ok((size.ws_row, size.ws_col)),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn seek(&self, offset: i64, whence: u32) -> Result<u64, Errno> {
        if self.kind != StreamKind::Regular {
            return Err(Errno::ESPIPE);
        }
        let whence = i32::try_from(whence).map_err(|_| Errno::EINVAL)?;
        // SAFETY: no memory arguments.
        let at = unsafe { libc::lseek(self.fd.as_raw_fd(), offset, whence) };
        u64::try_from(at).map_err(|_| sys::errno())
    }
}

/// SIGPIPE kills a process that does not expect it; here every writer looks at the error.
pub(crate) fn ignore_sigpipe() -> io::Result<()> {
    // SAFETY: ignoring a signal runs no code of ours.
    match unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
