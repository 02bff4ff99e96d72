//! Messages between the processes of a sandbox: one per packet of a `SOCK_SEQPACKET` unix socket,
//! as postcard, with descriptors.
//!
//! A message too long for a packet travels in a sealed memfd, as one more descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message that goes into a packet. Every host's default socket buffer takes it
/// (net.core.wmem_default is 208 KiB).
const INLINE: usize = 16 << 10;
/// The longest message at all: a container's arguments and environment, and some more.
const MAX: usize = 4 << 20;
/// Descriptors in one message: SCM_MAX_FD (unix(7)), one of which may be the message's own text.
pub const MAX_FDS: usize = 253;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side has closed its end.
    #[error("the other side is gone")]
    Closed,
    /// The socket failed.
    #[error("control socket: {0}")]
    Socket(#[from] Errno),
    /// A message that does not decode.
    #[error("malformed message")]
    Malformed,
    /// A message with more than fits.
    #[error("message too long")]
    TooLong,
}

/// One end, which sends `S` and receives `R`.
#[derive(Debug)]
pub struct Link<S, R> {
    socket: OwnedFd,
    types: PhantomData<fn(S) -> R>,
}

impl<S: Serialize, R: DeserializeOwned> Link<S, R> {
    /// Takes a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        Link { socket, types: PhantomData }
    }

    /// Connects to a listening socket.
    pub fn connect(path: &Path) -> Result<Self, Error> {
        let socket = seqpacket()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ECONNREFUSED => Error::Closed,
            errno => Error::Socket(errno),
        })?;
        Ok(Link::new(socket))
    }

    /// Sends a message.
    pub fn send(&self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = postcard::to_allocvec(message).map_err(|_| Error::Malformed)?;
        let mut raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let body;
        let packet = if bytes.len() < INLINE {
            [&[0u8], &bytes[..]].concat()
        } else {
            if bytes.len() > MAX {
                return Err(Error::TooLong);
            }
            body = sealed(&bytes)?;
            raw.push(body.as_raw_fd());
            vec![1u8]
        };
        if raw.len() > MAX_FDS {
            return Err(Error::TooLong);
        }
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights = if raw.is_empty() { &[][..] } else { &rights };
        loop {
            let iov = [IoSlice::new(&packet)];
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg::<()>(self.socket.as_raw_fd(), &iov, rights, flags, None) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(Errno::EPIPE | Errno::ECONNRESET) => return Err(Error::Closed),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for a message.
    pub fn receive(&self) -> Result<(R, Vec<OwnedFd>), Error> {
        self.take(MsgFlags::empty()).and_then(|message| message.ok_or(Error::Closed))
    }

    /// A message, if one is there.
    pub fn try_receive(&self) -> Result<Option<(R, Vec<OwnedFd>)>, Error> {
        self.take(MsgFlags::MSG_DONTWAIT)
    }

    fn take(&self, flags: MsgFlags) -> Result<Option<(R, Vec<OwnedFd>)>, Error> {
        let mut packet = vec![0u8; INLINE];
        let mut space = cmsg_space!([RawFd; MAX_FDS]);
        let mut iov = [IoSliceMut::new(&mut packet)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut iov, Some(&mut space), flags) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if flags.contains(MsgFlags::MSG_DONTWAIT) => return Ok(None),
                Err(Errno::ECONNRESET) => return Err(Error::Closed),
                other => break other?,
            }
        };
        let mut fds = Vec::new();
        for message in received.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                for fd in raw {
                    // SAFETY: the kernel has just put this descriptor into our table for us alone.
                    fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
                }
            }
        }
        if received.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
            return Err(Error::TooLong);
        }
        let length = received.bytes;
        let message = match packet.get(..length) {
            None | Some([]) => return Err(Error::Closed),
            Some([0, bytes @ ..]) => postcard::from_bytes(bytes),
            Some([1]) => {
                let body = fds.pop().ok_or(Error::Malformed)?;
                postcard::from_bytes(&unsealed(&body)?)
            }
            Some(_) => return Err(Error::Malformed),
        };
        Ok(Some((message.map_err(|_| Error::Malformed)?, fds)))
    }
}

impl<S, R> Link<S, R> {
    /// Fails a receive that waits longer than this.
    pub fn set_timeout(&self, seconds: i64) -> Result<(), Error> {
        use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
        use nix::sys::time::{TimeVal, TimeValLike};
        setsockopt(&self.socket, ReceiveTimeout, &TimeVal::seconds(seconds))?;
        Ok(())
    }
}

impl<S, R> AsFd for Link<S, R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<S, R> AsRawFd for Link<S, R> {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl<S, R> From<Link<S, R>> for OwnedFd {
    fn from(link: Link<S, R>) -> OwnedFd {
        link.socket
    }
}

/// Two connected sockets.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// A socket that listens at `path`.
pub fn listener(path: &Path) -> Result<OwnedFd, Error> {
    let socket = seqpacket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // As many as may wait is no promise: clients that find the queue full wait.
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

/// Accepts one connection.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just put this descriptor into our table for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE)
    .union(SealFlag::F_SEAL_SEAL);

/// The bytes in a file that nobody can change any more.
fn sealed(bytes: &[u8]) -> Result<OwnedFd, Error> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = memfd_create(c"message", flags)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = nix::unistd::write(&fd, rest)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(fd)
}

/// Reads such a file; without the seals it could shrink or be something that blocks.
fn unsealed(fd: &OwnedFd) -> Result<Vec<u8>, Error> {
    let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| Error::Malformed)?;
    if seals & SEALS.bits() != SEALS.bits() {
        return Err(Error::Malformed);
    }
    let size = crate::host::stat(fd).map_err(|_| Error::Malformed)?.st_size;
    let size = usize::try_from(size).map_err(|_| Error::TooLong)?;
    if size > MAX {
        return Err(Error::TooLong);
    }
    let mut bytes = vec![0u8; size];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let offset = i64::try_from(done).map_err(|_| Error::TooLong)?;
        match crate::host::read_at(fd, rest, offset)? {
            0 => return Err(Error::Malformed),
            count => done = done.saturating_add(count),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Strings = Link<String, String>;

    #[test]
    fn messages_of_any_length_and_their_descriptors_arrive() {
        let (a, b) = pair().unwrap();
        let (a, b) = (Strings::new(a), Strings::new(b));
        for length in [0, 10, INLINE - 1, INLINE, 1 << 20] {
            let text = "x".repeat(length);
            a.send(&text, &[a.as_fd()]).unwrap();
            let (got, fds) = b.receive().unwrap();
            assert_eq!((got.len(), fds.len()), (length, 1));
        }
        assert!(b.try_receive().unwrap().is_none());
        assert!(matches!(a.send(&"x".repeat(MAX + 1), &[]), Err(Error::TooLong)));
        drop(a);
        assert!(matches!(b.receive(), Err(Error::Closed)));
    }

    #[test]
    fn what_is_not_a_message_is_refused() {
        let (a, b) = pair().unwrap();
        let b = Strings::new(b);
        for packet in [&[7u8][..], &[1], &[0, 0xff, 0xff]] {
            nix::unistd::write(&a, packet).unwrap();
            assert!(matches!(b.receive(), Err(Error::Malformed)));
        }
    }
}
