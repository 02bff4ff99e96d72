//! Whole messages over a gofer's socket, with a descriptor along with one.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::streams;

/// Descriptors that one message can bring; the first counts, the others are closed.
const MAX_FDS: usize = 4;

/// What came.
#[derive(Debug)]
pub enum Received {
    /// Nothing yet.
    Nothing,
    /// The peer has closed its end.
    End,
    /// A message of `len` bytes, more than the buffer where it was too long.
    Message {
        /// Its length.
        len: usize,
        /// The first descriptor that came with it.
        file: Option<OwnedFd>,
    },
}

/// Sends one message, or says WouldBlock.
pub fn send(socket: &OwnedFd, message: &[u8]) -> io::Result<()> {
    loop {
        let iov_base = message.as_ptr().cast_mut().cast();
        let mut iov = libc::iovec { iov_base, iov_len: message.len() };
        // SAFETY: the slice is valid, and only read.
        let n = unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            libc::sendmsg(socket.as_raw_fd(), &streams::message(&mut iov), flags)
        };
        if n >= 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

/// Receives one message if there is one.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    // Aligned as a cmsghdr wants it, and with room for it and the descriptors.
    let mut control = [0u64; 8];
    const { assert!(64 >= 16 + MAX_FDS * 4) };
    let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: zero is a value of the structure.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = 16 + MAX_FDS * 4;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC | libc::MSG_TRUNC;
    // SAFETY: the header describes live buffers.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) };
    if n < 0 {
        let e = io::Error::last_os_error();
        return match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Received::Nothing),
            io::ErrorKind::ConnectionReset => Ok(Received::End),
            _ => Err(e),
        };
    }
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the header and the control buffer in; every descriptor in it is
    // new and ours.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(&header);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::SOL_SOCKET && (*cmsg).cmsg_type == libc::SCM_RIGHTS {
                let len = (*cmsg).cmsg_len - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(cmsg).cast::<i32>();
                for i in 0..len / size_of::<i32>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(i).read_unaligned()));
                }
            }
            cmsg = libc::CMSG_NXTHDR(&header, cmsg);
        }
    }
    if n == 0 && fds.is_empty() {
        // A gofer's message has a header, so an empty one is the end.
        return Ok(Received::End);
    }
    Ok(Received::Message { len: n as usize, file: fds.into_iter().next() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let mut ends = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: room for two; both are new and ours.
        unsafe {
            assert_eq!(libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()), 0);
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        }
    }

    fn send_fds(socket: &OwnedFd, data: &[u8], fds: &[i32]) {
        let mut control = [0u64; 8];
        let mut iov =
            libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
        // SAFETY: the header describes live buffers, the control buffer has room.
        unsafe {
            let mut header: libc::msghdr = std::mem::zeroed();
            header.msg_iov = &mut iov;
            header.msg_iovlen = 1;
            header.msg_control = control.as_mut_ptr().cast();
            header.msg_controllen = libc::CMSG_SPACE(fds.len() as u32 * 4) as usize;
            let cmsg = libc::CMSG_FIRSTHDR(&header);
            (*cmsg).cmsg_level = libc::SOL_SOCKET;
            (*cmsg).cmsg_type = libc::SCM_RIGHTS;
            (*cmsg).cmsg_len = libc::CMSG_LEN(fds.len() as u32 * 4) as usize;
            let at = libc::CMSG_DATA(cmsg).cast::<i32>();
            for (i, fd) in fds.iter().enumerate() {
                at.add(i).write_unaligned(*fd);
            }
            assert!(libc::sendmsg(socket.as_raw_fd(), &header, 0) >= 0);
        }
    }

    #[test]
    fn messages_and_their_first_descriptor_arrive() {
        let (a, b) = pair();
        let mut buffer = [0; 64];
        assert!(matches!(receive(&b, &mut buffer).unwrap(), Received::Nothing));
        send(&a, b"hello").unwrap();
        send_fds(&a, b"file", &[0, 1, 2]);
        match receive(&b, &mut buffer).unwrap() {
            Received::Message { len: 5, file: None } => assert_eq!(&buffer[..5], b"hello"),
            other => panic!("{other:?}"),
        }
        match receive(&b, &mut buffer).unwrap() {
            Received::Message { len: 4, file: Some(_) } => {}
            other => panic!("{other:?}"),
        }
        send(&a, &[1; 100]).unwrap();
        assert!(matches!(
            receive(&b, &mut buffer).unwrap(),
            Received::Message { len: 100, file: None }
        ));
        drop(a);
        assert!(matches!(receive(&b, &mut buffer).unwrap(), Received::End));
        assert!(send(&b, b"x").is_err());
    }
}
