//! The streams of containers: standard input and output, consoles.
//!
//! A stream's open file is shared with whoever started the container, so its flags are left alone:
//! O_NONBLOCK here would be O_NONBLOCK there. That a call does not wait is arranged call by call.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use guest::contract::stream_kind;

/// Most that is written at once to what may wait although poll(2) has said that it is ready. A pipe that
/// is ready has room for PIPE_BUF bytes (pipe(7)).
const CAUTIOUS_WRITE: usize = 4096;

/// A stream.
#[derive(Debug)]
pub struct HostStream {
    fd: OwnedFd,
    kind: i64,
}

/// An error number as the contract wants it: negated.
pub fn negated(e: &io::Error) -> i64 {
    -i64::from(e.raw_os_error().unwrap_or(libc::EIO))
}

fn last() -> i64 {
    negated(&io::Error::last_os_error())
}

const EAGAIN: i64 = -libc::EAGAIN as i64;

impl HostStream {
    /// Takes a descriptor in.
    pub fn new(fd: OwnedFd) -> io::Result<HostStream> {
        let stat = crate::host::stat(&fd)?;
        // SAFETY: no memory arguments.
        let terminal = unsafe { libc::isatty(fd.as_raw_fd()) } == 1;
        let kind = match stat.st_mode & libc::S_IFMT {
            _ if terminal => stream_kind::TERMINAL,
            libc::S_IFIFO => stream_kind::PIPE,
            libc::S_IFSOCK => stream_kind::SOCKET,
            libc::S_IFCHR => stream_kind::CHAR_DEVICE,
            libc::S_IFREG | libc::S_IFBLK => stream_kind::REGULAR,
            _ => return Err(io::Error::from_raw_os_error(libc::EINVAL)),
        };
        Ok(HostStream { fd, kind })
    }

    /// Its descriptor, for epoll.
    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// One of [`stream_kind`].
    pub fn kind(&self) -> i64 {
        self.kind
    }

    /// Reads into `buf`, which has room for `len` bytes; bytes, or a negated error.
    ///
    /// # Safety
    /// `buf` has room for `len` bytes, and nobody holds a reference to it.
    pub unsafe fn read(&self, buf: *mut u8, len: usize) -> i64 {
        let fd = self.raw_fd();
        match self.kind {
            // SAFETY: as the caller promises.
            stream_kind::REGULAR => unsafe { result(libc::read(fd, buf.cast(), len)) },
            // SAFETY: as the caller promises.
            stream_kind::SOCKET => unsafe {
                let mut iov = libc::iovec { iov_base: buf.cast(), iov_len: len };
                result(libc::recvmsg(fd, &mut message(&mut iov), libc::MSG_DONTWAIT))
            },
            _ => {
                if len > 0
                    && self.ready() & i64::from(libc::POLLIN | libc::POLLHUP | libc::POLLERR) == 0
                {
                    return EAGAIN;
                }
                let iov = libc::iovec { iov_base: buf.cast(), iov_len: len };
                // Another reader of a shared pipe may come between, so ask the kernel not to wait
                // where it can be asked.
                // SAFETY: as the caller promises.
                let n = unsafe { libc::preadv2(fd, &iov, 1, -1, libc::RWF_NOWAIT) };
                if n < 0 && last() == -i64::from(libc::EOPNOTSUPP) {
                    // SAFETY: as the caller promises.
                    return unsafe { result(libc::read(fd, buf.cast(), len)) };
                }
                result(n)
            }
        }
    }

    /// Writes `len` bytes of `buf`; bytes, or a negated error.
    ///
    /// # Safety
    /// `buf` has `len` bytes.
    pub unsafe fn write(&self, buf: *const u8, len: usize) -> i64 {
        let fd = self.raw_fd();
        match self.kind {
            // SAFETY: as the caller promises.
            stream_kind::REGULAR => unsafe { result(libc::write(fd, buf.cast(), len)) },
            // SAFETY: as the caller promises.
            stream_kind::SOCKET => unsafe {
                let mut iov = libc::iovec { iov_base: buf.cast_mut().cast(), iov_len: len };
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                result(libc::sendmsg(fd, &message(&mut iov), flags))
            },
            _ => {
                let ready = self.ready();
                if ready & i64::from(libc::POLLERR) != 0 && self.kind == stream_kind::PIPE {
                    return -i64::from(libc::EPIPE);
                }
                if len > 0 && ready & i64::from(libc::POLLOUT) == 0 {
                    return EAGAIN;
                }
                let iov = libc::iovec { iov_base: buf.cast_mut().cast(), iov_len: len };
                // SAFETY: as the caller promises.
                let n = unsafe { libc::pwritev2(fd, &iov, 1, -1, libc::RWF_NOWAIT) };
                if n < 0 && last() == -i64::from(libc::EOPNOTSUPP) {
                    let len = len.min(CAUTIOUS_WRITE);
                    // SAFETY: as the caller promises.
                    return unsafe { result(libc::write(fd, buf.cast(), len)) };
                }
                result(n)
            }
        }
    }

    /// poll(2)'s bits now.
    pub fn ready(&self) -> i64 {
        let mut poll =
            libc::pollfd { fd: self.raw_fd(), events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        // SAFETY: one valid entry.
        match unsafe { libc::poll(&mut poll, 1, 0) } {
            -1 => i64::from(libc::POLLERR),
            _ => i64::from(poll.revents),
        }
    }

    /// Rows << 16 | columns.
    pub fn window(&self) -> i64 {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: `size` is what TIOCGWINSZ fills in.
        match unsafe { libc::ioctl(self.raw_fd(), libc::TIOCGWINSZ, &mut size) } {
            0 => i64::from(size.ws_row) << 16 | i64::from(size.ws_col),
            _ => -i64::from(libc::ENOTTY),
        }
    }

    /// lseek(2).
    pub fn seek(&self, offset: i64, whence: u64) -> i64 {
        if self.kind != stream_kind::REGULAR {
            return -i64::from(libc::ESPIPE);
        }
        let Ok(whence @ 0..=4) = i32::try_from(whence) else {
            return -i64::from(libc::EINVAL);
        };
        // SAFETY: no memory arguments.
        match unsafe { libc::lseek(self.raw_fd(), offset, whence) } {
            -1 => last(),
            at => at,
        }
    }
}

/// A message of these bytes, without room for descriptors.
pub fn message(iov: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: zero is a value of the structure.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (iov, 1);
    header
}

fn result(n: isize) -> i64 {
    if n < 0 {
        match last() {
            // A signal to this thread is no business of the guest's: it tries again.
            e if e == -i64::from(libc::EINTR) => EAGAIN,
            e => e,
        }
    } else {
        n as i64
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Streams(Vec<Option<Arc<HostStream>>>);

impl Streams {
    /// Takes a descriptor in. Indices are not used twice: the guest may still hold an old one.
    pub fn add(&mut self, fd: OwnedFd) -> io::Result<u32> {
        let index = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        self.0.push(Some(Arc::new(HostStream::new(fd)?)));
        Ok(index)
    }

    /// Lets a stream go: its container or exec has ended.
    pub fn remove(&mut self, index: u32) -> Option<Arc<HostStream>> {
        self.0.get_mut(index as usize)?.take()
    }

    /// The stream with this index.
    pub fn get(&self, index: u32) -> Option<Arc<HostStream>> {
        self.0.get(index as usize)?.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::FromRawFd;

    use super::*;
    use crate::kvm::tests::after_close;

    fn read(stream: &HostStream, len: usize) -> (i64, Vec<u8>) {
        let mut buf = vec![0; len];
        // SAFETY: the buffer has `len` bytes.
        let n = unsafe { stream.read(buf.as_mut_ptr(), len) };
        buf.truncate(n.max(0) as usize);
        (n, buf)
    }

    fn write(stream: &HostStream, data: &[u8]) -> i64 {
        // SAFETY: the slice is valid.
        unsafe { stream.write(data.as_ptr(), data.len()) }
    }

    fn pipe() -> (OwnedFd, OwnedFd) {
        let mut ends = [0; 2];
        // SAFETY: room for two; both are new and ours.
        unsafe {
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        }
    }

    #[test]
    fn a_pipe_never_waits() {
        let (r, w) = pipe();
        let reader = HostStream::new(r).unwrap();
        let writer = HostStream::new(w).unwrap();
        assert_eq!(reader.kind(), stream_kind::PIPE);
        assert_eq!(read(&reader, 8).0, EAGAIN);
        assert_eq!(write(&writer, b"abc"), 3);
        assert_eq!(read(&reader, 8), (3, b"abc".to_vec()));
        let mut total = 0;
        loop {
            match write(&writer, &[7; 10_000]) {
                EAGAIN => break,
                n if n > 0 => total += n,
                n => panic!("{n}"),
            }
        }
        assert!(total > 4096);
        assert_eq!(writer.seek(0, 1), -i64::from(libc::ESPIPE));
        assert_eq!(writer.window(), -i64::from(libc::ENOTTY));
        let unless_eagain = |result| (result != EAGAIN).then_some(result);
        drop(reader);
        // Full it says EAGAIN as long as somebody may read.
        assert_eq!(after_close(|| unless_eagain(write(&writer, b"x"))), -i64::from(libc::EPIPE));
        let (r, w) = pipe();
        let reader = HostStream::new(r).unwrap();
        drop(w);
        assert_eq!(after_close(|| unless_eagain(read(&reader, 8).0)), 0);
    }

    #[test]
    fn a_regular_file_has_its_shared_offset() {
        let path = std::env::temp_dir().join(format!("rw-stream-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let stream = HostStream::new(file.try_clone().unwrap().into()).unwrap();
        assert_eq!(write(&stream, b"hello"), 5);
        file.write_all(b"!").unwrap();
        assert_eq!(stream.seek(0, 1), 6);
        assert_eq!(stream.seek(1, 0), 1);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ello!");
        assert_eq!(read(&stream, 4).0, 0);
        assert_eq!(stream.seek(0, 99), -i64::from(libc::EINVAL));
        assert_eq!(stream.seek(0, u64::MAX), -i64::from(libc::EINVAL));
        assert_ne!(stream.ready() & i64::from(libc::POLLIN), 0);
    }
}
