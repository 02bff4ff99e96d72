//! The channel to a gofer: a SOCK_SEQPACKET socket, on which a message may bring one file.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use sentry::errno::Errno;
use sentry::platform::{Channel, FileId};

use crate::files::Files;
use crate::{sys, thread};

/// The socket buffer that we ask for; the host grants what net.core.wmem_max allows.
const WANTED: i32 = 2 << 20;
/// What the kernel wants of a socket's buffer beyond the message (net/unix/af_unix.c asks for 32).
const OVERHEAD: usize = 1024;
/// The longest message whatever the buffer.
const LONGEST: usize = 1 << 20;
/// Descriptors that a message has room for; all but the first are closed.
const DESCRIPTORS: usize = 4;

/// One gofer.
pub(crate) struct GoferChannel {
    socket: OwnedFd,
    max: usize,
    files: &'static Files,
}

impl GoferChannel {
    pub(crate) fn new(socket: OwnedFd, files: &'static Files) -> GoferChannel {
        let fd = socket.as_raw_fd();
        let len = size_of::<i32>() as u32;
        for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
            // Granted or not, what there is is read below.
            // SAFETY: the option's value is valid for its length.
            unsafe {
                libc::setsockopt(fd, libc::SOL_SOCKET, option, ptr::from_ref(&WANTED).cast(), len)
            };
        }
        let mut granted = 0i32;
        let mut got = len;
        // SAFETY: both are valid places for the result.
        unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_SNDBUF,
                ptr::from_mut(&mut granted).cast(),
                &mut got,
            )
        };
        let max = (granted.max(0) as usize).saturating_sub(OVERHEAD).min(LONGEST);
        GoferChannel { socket, max, files }
    }

    /// Waits until the socket has something, or the deadline.
    fn wait(&self, deadline: Option<u64>) -> Result<(), Errno> {
        let Some(deadline) = deadline else {
            return Ok(());
        };
        loop {
            let left = deadline.saturating_sub(sys::monotonic());
            let ms = left.div_ceil(1_000_000).min(i32::MAX as u64) as i32;
            let mut fds =
                [libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
            match sys::poll(&mut fds, ms) {
                0 if left == 0 => return Err(Errno::ETIMEDOUT),
                n if n > 0 => return Ok(()),
                n if n < 0 && sys::errno() != Errno::EINTR => return Err(sys::errno()),
                _ => {}
            }
        }
    }
}

impl Channel for GoferChannel {
    fn max_message(&self) -> usize {
        self.max
    }

    fn send(&self, message: &[u8]) -> Result<(), Errno> {
        thread::pay();
        loop {
            // SAFETY: the message is valid for its length.
            let n = unsafe {
                libc::send(
                    self.socket.as_raw_fd(),
                    message.as_ptr().cast(),
                    message.len(),
                    libc::MSG_NOSIGNAL,
                )
            };
            match usize::try_from(n) {
                Ok(n) if n == message.len() => return Ok(()),
                Ok(_) => return Err(Errno::EIO),
                Err(_) => match sys::errno() {
                    Errno::EINTR => {}
                    Errno::ECONNRESET | Errno::ENOTCONN => return Err(Errno::EPIPE),
                    e => return Err(e),
                },
            }
        }
    }

    fn recv(&self, buf: &mut Vec<u8>, deadline: Option<u64>) -> Result<Option<FileId>, Errno> {
        thread::pay();
        self.wait(deadline)?;
        buf.clear();
        buf.reserve(self.max);
        // struct cmsghdr and the descriptors, in words so that it is aligned.
        let mut control = [0u64; 2 + DESCRIPTORS / 2 + 1];
        let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: self.max };
        // SAFETY: all zeros is a msghdr.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = &mut iov;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control);
        let n = loop {
            // SAFETY: the header points at buffers that are valid for the lengths in it.
            let n = unsafe {
                libc::recvmsg(self.socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC)
            };
            match usize::try_from(n) {
                Ok(n) => break n,
                Err(_) => match sys::errno() {
                    Errno::EINTR => {}
                    Errno::ECONNRESET | Errno::ENOTCONN => return Err(Errno::EPIPE),
                    e => return Err(e),
                },
            }
        };
        // All are owned from here on, so that none stays open by mistake.
        let mut descriptors = received(&header).into_iter();
        // MSG_CTRUNC: this process has no room for another descriptor. The message is whole, and the file not donated.
        if header.msg_flags & libc::MSG_TRUNC != 0 {
            return Err(Errno::EMSGSIZE);
        }
        if n == 0 {
            return Err(Errno::EPIPE);
        }
        // SAFETY: the kernel has written that many bytes, and they were reserved.
        unsafe { buf.set_len(n) };
        // What is no regular file is no donation, and is closed.
        Ok(descriptors.next().and_then(|fd| self.files.add(fd)))
    }
}

/// The descriptors that came with a message.
fn received(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut found = Vec::new();
    // SAFETY: the header is as recvmsg left it.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !at.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR stay inside of the control buffer.
        let (level, kind, len) = unsafe { ((*at).cmsg_level, (*at).cmsg_type, (*at).cmsg_len) };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: computes a length only.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = len.saturating_sub(empty) / size_of::<RawFd>();
            for i in 0..count {
                // SAFETY: the message's own length says that there are so many, and each is a new
                // descriptor of ours.
                found.push(unsafe {
                    let fd = libc::CMSG_DATA(at).cast::<RawFd>().add(i).read_unaligned();
                    OwnedFd::from_raw_fd(fd)
                });
            }
        }
        // SAFETY: as above.
        at = unsafe { libc::CMSG_NXTHDR(header, at) };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::IoSlice;
    use std::os::fd::AsFd;

    fn pair() -> (OwnedFd, OwnedFd) {
        let mut fds = [0; 2];
        // SAFETY: the array has room for two.
        let made =
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, fds.as_mut_ptr()) };
        assert_eq!(made, 0);
        // SAFETY: both are new and ours.
        unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) }
    }

    fn send_with(socket: &OwnedFd, data: &[u8], fds: &[RawFd]) {
        let mut control = [0u64; 8];
        let slice = IoSlice::new(data);
        // SAFETY: a msghdr over buffers of this function, filled as sendmsg(2) wants it.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = ptr::from_ref(&slice).cast_mut().cast();
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(4 * fds.len() as u32) as usize;
            let first = libc::CMSG_FIRSTHDR(&header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(4 * fds.len() as u32) as usize;
            for (i, fd) in fds.iter().enumerate() {
                libc::CMSG_DATA(first).cast::<RawFd>().add(i).write_unaligned(*fd);
            }
            assert!(libc::sendmsg(socket.as_raw_fd(), &header, 0) >= 0);
        }
    }

    #[test]
    fn messages_keep_their_edges_and_bring_regular_files_only() {
        let files: &'static Files = Box::leak(Box::new(Files::new(8)));
        let (ours, theirs) = pair();
        let channel = GoferChannel::new(ours, files);
        assert!(channel.max_message() > 64 * 1024);
        channel.send(b"hello").unwrap();
        let peer = GoferChannel::new(theirs.try_clone().unwrap(), files);
        let mut buf = Vec::new();
        assert_eq!(peer.recv(&mut buf, None), Ok(None));
        assert_eq!(buf, b"hello");

        let file = sys::memfd(c"donated", 4096).unwrap();
        let not_file = sys::eventfd(0).unwrap();
        send_with(&theirs, b"take", &[file.as_raw_fd(), not_file.as_raw_fd()]);
        let id = channel.recv(&mut buf, None).unwrap().unwrap();
        assert_eq!(files.size(id), Ok(4096));
        send_with(&theirs, b"not", &[not_file.as_raw_fd()]);
        assert_eq!(channel.recv(&mut buf, None), Ok(None));
        assert_eq!(buf, b"not");

        assert_eq!(channel.recv(&mut buf, Some(1)), Err(Errno::ETIMEDOUT));
        drop((theirs, peer));
        assert_eq!(channel.recv(&mut buf, None), Err(Errno::EPIPE));
        assert_eq!(channel.send(b"x"), Err(Errno::EPIPE));
        let _kept = file.as_fd();
    }
}
