//! The client's socket: whole messages in and out, descriptors along with them.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, recv, sendmsg,
};

use super::ServeError;
use crate::wire::{Frame, HEADER, MSIZE_MAX};

/// A connected socket.
#[derive(Debug)]
pub struct Transport {
    socket: OwnedFd,
    kind: SocketType,
    buffer: Vec<u8>,
    /// For a stream: bytes in the buffer, and how many of them are the message handed out last.
    filled: usize,
    consumed: usize,
}

/// What [`Transport::receive`] got.
#[derive(Debug)]
pub enum Received<'a> {
    /// One whole message.
    Message(&'a [u8]),
    /// The client has closed its end.
    Closed,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Whole,
    /// It is not: too many descriptors are in flight already (unix(7)).
    NotDonated,
    /// The client has closed its end.
    Closed,
}

impl Transport {
    /// Wraps a connected unix socket, sequenced packets or stream.
    pub fn new(socket: OwnedFd) -> std::io::Result<Self> {
        let kind = rustix::net::sockopt::socket_type(&socket)?;
        Transport::of_kind(socket, kind)
    }

    /// Wraps one of which is known how it cuts messages.
    pub fn of_kind(socket: OwnedFd, kind: SocketType) -> std::io::Result<Self> {
        if kind != SocketType::SEQPACKET && kind != SocketType::STREAM {
            return Err(Errno::PROTOTYPE.into());
        }
        // One byte more than a message may have tells a longer packet from the longest one.
        let buffer = vec![0u8; MSIZE_MAX.saturating_add(1)];
        Ok(Transport { socket, kind, buffer, filled: 0, consumed: 0 })
    }

    /// The socket, to poll.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits for the next message, of at most `msize` bytes.
    pub fn receive(&mut self, msize: usize) -> Result<Received<'_>, ServeError> {
        let size = if self.kind == SocketType::SEQPACKET {
            self.receive_some(0)?
        } else {
            self.receive_stream(msize)?
        };
        if size == 0 {
            return Ok(Received::Closed);
        }
        match self.buffer.get(..size) {
            Some(message) if size <= msize => Ok(Received::Message(message)),
            _ => Err(ServeError::Oversized),
        }
    }

    /// Whether a message may stand in the buffer already, so that polling would wait in vain.
    pub fn has_buffered(&self) -> bool {
        self.filled > self.consumed
    }

    /// Gathers one message from the stream at the start of the buffer; 0 at the end of the stream.
    fn receive_stream(&mut self, msize: usize) -> Result<usize, ServeError> {
        self.buffer.copy_within(self.consumed..self.filled, 0);
        self.filled = self.filled.saturating_sub(self.consumed);
        self.consumed = 0;
        loop {
            let got = self.buffer.get(..self.filled).unwrap_or_default();
            if let Some(size) = Frame::claimed_size(got) {
                if size < HEADER {
                    return Err(ServeError::Malformed(crate::wire::WireError::BadSize));
                }
                if size > msize {
                    return Err(ServeError::Oversized);
                }
                if size <= self.filled {
                    self.consumed = size;
                    return Ok(size);
                }
            }
            match self.receive_some(self.filled)? {
                0 => return Ok(0),
                count => self.filled = self.filled.saturating_add(count),
            }
        }
    }

    /// Receives into the buffer from `start`. Descriptors that the client sends are never taken:
    /// without a control buffer the kernel drops them.
    fn receive_some(&mut self, start: usize) -> Result<usize, ServeError> {
        let buffer = self.buffer.get_mut(start..).unwrap_or_default();
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => return Ok(count),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(0),
                Err(errno) => return Err(ServeError::Socket(errno.into())),
            }
        }
    }

    /// Sends a message, with a descriptor if one is donated.
    pub fn send(
        &mut self,
        message: &[u8],
        donation: Option<BorrowedFd<'_>>,
    ) -> Result<Sent, ServeError> {
        match self.send_all(message, donation, SendFlags::NOSIGNAL) {
            Ok(()) => Ok(Sent::Whole),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(Sent::Closed),
            Err(Errno::TOOMANYREFS) if donation.is_some() => Ok(Sent::NotDonated),
            Err(errno) => Err(ServeError::Socket(errno.into())),
        }
    }

    /// Sends a message if the client has room for it; `None` if it has not. Packets only: a stream
    /// could take a part of it, so on a stream this waits.
    pub fn try_send(&mut self, message: &[u8]) -> Result<Option<Sent>, ServeError> {
        let mut flags = SendFlags::NOSIGNAL;
        if self.kind == SocketType::SEQPACKET {
            flags |= SendFlags::DONTWAIT;
        }
        match self.send_all(message, None, flags) {
            Ok(()) => Ok(Some(Sent::Whole)),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(None),
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(Some(Sent::Closed)),
            Err(errno) => Err(ServeError::Socket(errno.into())),
        }
    }

    fn send_all(
        &self,
        message: &[u8],
        fd: Option<BorrowedFd<'_>>,
        flags: SendFlags,
    ) -> rustix::io::Result<()> {
        let mut rest = message;
        let mut fd = fd;
        while !rest.is_empty() {
            let count = send_some(self.socket.as_fd(), rest, fd.take(), flags)?;
            rest = rest.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Sends some bytes, a packet whole, with a descriptor if there is one; how many.
pub(super) fn send_some(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fd.as_slice().is_empty() && !control.push(SendAncillaryMessage::ScmRights(fd.as_slice())) {
        return Err(Errno::NOBUFS);
    }
    let iov = [IoSlice::new(bytes)];
    retry_on_intr(|| sendmsg(socket, &iov, &mut control, flags))
}
