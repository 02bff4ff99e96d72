//! Sending.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::address;
use super::message::{InFlight, Message, OVERHEAD};
use super::{MAX_DGRAMS, Sock, State};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::{Events, IoSrc};
use crate::net::{Kind, MsgFlags, Outgoing, Patience, SHUT_RECEIVE, SHUT_SEND, Ucred};
use crate::task::Current;
use crate::task::cap;
use crate::task::limit::RLIMIT_NOFILE;

/// Bytes of a stream that become one message.
const PIECE: usize = 32 << 10;

/// What goes along with the first bytes.
struct Luggage {
    sender: Option<Ucred>,
    claimed: Option<Ucred>,
    files: InFlight,
}

impl Luggage {
    /// The credentials that a message to `to` carries (maybe_add_creds()).
    fn creds(&self, from: &Sock, to: &Sock) -> Option<Ucred> {
        let wanted = from.options.passes_creds() || to.options.passes_creds();
        self.claimed.or(self.sender.filter(|_| wanted))
    }
}

impl Sock {
    /// Whether it takes datagrams of `from`: it is connected with nobody else.
    pub(super) fn takes_from(&self, from: &Sock) -> bool {
        self.peer().is_none_or(|peer| core::ptr::eq(&*peer, from))
    }

    /// Whether another message of `from` fits; where not, `from` is told once one does. Between sockets
    /// that are connected with each other only the sender's buffer counts.
    pub(super) fn has_room_for(&self, from: &Sock) -> bool {
        if self.peer().is_some_and(|peer| core::ptr::eq(&*peer, from)) {
            return true;
        }
        let mut inbox = self.inbox.lock();
        if inbox.messages.len() < MAX_DGRAMS || inbox.closed || self.is_shut(SHUT_RECEIVE) {
            return true;
        }
        inbox.blocked.retain(|b| b.strong_count() > 0);
        if !inbox.blocked.iter().any(|b| b.ptr_eq(&from.this)) {
            inbox.blocked.push(from.this.clone());
        }
        false
    }

    pub(super) fn send(
        &self,
        cx: &Current,
        src: &mut IoSrc<'_>,
        message: &mut Outgoing<'_>,
        patience: Patience,
    ) -> Result<usize, SysError> {
        let urgent = message.flags.contains(MsgFlags::OOB);
        if urgent && (self.kind != Kind::Stream || src.remaining() == 0) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        // Who may have more descriptors than others may send more, too.
        let limit = match cx.creds.capable(cap::SYS_RESOURCE) || cx.creds.capable(cap::SYS_ADMIN) {
            true => u64::from(crate::fs::fdtable::NR_OPEN),
            false => cx.task.process.limits.soft(RLIMIT_NOFILE),
        };
        let files = InFlight::new(core::mem::take(&mut message.control.files), limit)?;
        let claimed = message.control.creds;
        let mut luggage = Luggage { sender: message.sender, claimed, files };
        if self.kind == Kind::Stream {
            if message.to.is_some() {
                let connected = self.state() == State::Connected;
                let error = if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP };
                return Err(error.into());
            }
            return self.send_stream(cx, src, &mut luggage, patience, urgent);
        }
        let to = match message.to.filter(|_| self.is_dgram()) {
            Some(address) => Some(address::find(cx, address, Kind::Dgram)?),
            None => None,
        };
        let mut data = Vec::new();
        self.fetch(src, &mut data)?;
        let ready = || match self.target(to.as_ref()) {
            Ok(target) => target.has_room_for(self) && self.send_room() >= OVERHEAD,
            Err(_) => true,
        };
        let attempt = || self.send_message(to.as_ref(), &mut data, &mut luggage);
        patience.wait(cx, &self.queue, Events::WRITABLE, attempt, ready)
    }

    /// Sends a stream's bytes, all of them unless it must not wait.
    fn send_stream(
        &self,
        cx: &Current,
        src: &mut IoSrc<'_>,
        luggage: &mut Luggage,
        patience: Patience,
        urgent: bool,
    ) -> Result<usize, SysError> {
        let mut done: usize = 0;
        loop {
            let ready = || self.poll().intersects(Events::WRITABLE | Events::ALWAYS);
            let attempt = || self.send_bytes(src, luggage, urgent);
            match patience.wait(cx, &self.queue, Events::WRITABLE, attempt, ready) {
                Ok(n) => done = done.saturating_add(n),
                Err(e) if done == 0 => return Err(e),
                Err(_) => return Ok(done),
            }
            if src.remaining() == 0 {
                return Ok(done);
            }
        }
    }

    /// Bytes for whom it is connected with, as far as there is room.
    /// With `urgent` the last of them is so.
    fn send_bytes(
        &self,
        src: &mut IoSrc<'_>,
        luggage: &mut Luggage,
        urgent: bool,
    ) -> Result<usize, Errno> {
        if self.is_shut(SHUT_SEND) {
            return Err(Errno::EPIPE);
        }
        let peer = {
            let link = self.link.lock();
            match &link.peer {
                Some(peer) if link.state == State::Connected => peer.clone(),
                _ => return Err(Errno::ENOTCONN),
            }
        };
        if peer.is_dead() || peer.is_shut(SHUT_RECEIVE) {
            return Err(Errno::EPIPE);
        }
        // A stream carries nothing without bytes, not even descriptors.
        if src.remaining() == 0 {
            return Ok(0);
        }
        let room = self.send_room();
        if room == 0 {
            self.lacks_space.store(true, Ordering::Relaxed);
            return Err(Errno::EAGAIN);
        }
        let mut data = Vec::new();
        let left = src.remaining();
        let apart = urgent && left == 1;
        let want = if urgent && !apart { left.saturating_sub(1) } else { left };
        let want = want.min(room).min(PIECE);
        data.try_reserve_exact(want).map_err(|_| Errno::ENOMEM)?;
        data.resize(want, 0);
        // A piece is sent as a whole, or not at all.
        let n = src.take(&mut data)?;
        if n < want {
            return Err(Errno::EFAULT);
        }
        let creds = luggage.creds(self, &peer);
        let files = core::mem::take(&mut luggage.files);
        let mut message = Message::new(self, data, creds, files);
        (message.apart, message.urgent) = (apart, apart);
        peer.post(message)?;
        Ok(n)
    }

    /// A whole message's bytes. `EMSGSIZE` where they would never fit.
    fn fetch(&self, src: &mut IoSrc<'_>, data: &mut Vec<u8>) -> Result<(), Errno> {
        let len = src.remaining();
        if len > self.options.send_buffer().saturating_sub(32) {
            return Err(Errno::EMSGSIZE);
        }
        data.try_reserve_exact(len).map_err(|_| Errno::ENOBUFS)?;
        data.resize(len, 0);
        if len > 0 && src.take(data)? < len {
            return Err(Errno::EFAULT);
        }
        Ok(())
    }

    /// For whom a message is.
    fn target(&self, to: Option<&Arc<Sock>>) -> Result<Arc<Sock>, Errno> {
        if !self.is_dgram() && self.state() != State::Connected {
            return Err(Errno::ENOTCONN);
        }
        match to {
            Some(to) => Ok(to.clone()),
            None => self.peer().ok_or(Errno::ENOTCONN),
        }
    }

    /// Sends a message as a whole, or nothing of it.
    fn send_message(
        &self,
        to: Option<&Arc<Sock>>,
        data: &mut Vec<u8>,
        luggage: &mut Luggage,
    ) -> Result<usize, Errno> {
        if self.is_shut(SHUT_SEND) {
            return Err(Errno::EPIPE);
        }
        let target = self.target(to)?;
        if target.is_dead() {
            if !self.is_dgram() {
                return Err(Errno::EPIPE);
            }
            // A connection with one who is gone is over.
            let mut link = self.link.lock();
            if link.peer.as_ref().is_some_and(|peer| Arc::ptr_eq(peer, &target)) {
                link.state = State::Unconnected;
                let gone = link.peer.take();
                drop(link);
                drop(gone);
            }
            return Err(Errno::ECONNREFUSED);
        }
        if target.is_shut(SHUT_RECEIVE) {
            return Err(Errno::EPIPE);
        }
        if self.is_dgram() && !target.takes_from(self) {
            return Err(Errno::EPERM);
        }
        if self.send_room() < OVERHEAD || !target.has_room_for(self) {
            self.lacks_space.store(true, Ordering::Relaxed);
            return Err(Errno::EAGAIN);
        }
        let creds = luggage.creds(self, &target);
        let data = core::mem::take(data);
        let n = data.len();
        let message = Message::new(self, data, creds, core::mem::take(&mut luggage.files));
        target.post(message)?;
        Ok(n)
    }

    /// Puts a message into the inbox.
    fn post(&self, message: Message) -> Result<(), Errno> {
        let mut urgent = false;
        let refused = {
            let mut inbox = self.inbox.lock();
            if inbox.closed {
                Some(message)
            } else {
                let stream = self.kind == Kind::Stream;
                urgent = message.urgent;
                if urgent {
                    // The one before is a byte like others.
                    inbox.messages.iter_mut().for_each(|m| m.urgent = false);
                    inbox.urgent = true;
                }
                let message = match inbox.messages.back_mut().filter(|_| stream) {
                    Some(last) => last.merge(message),
                    None => Some(message),
                };
                inbox.messages.extend(message);
                None
            }
        };
        match refused {
            Some(_) if self.is_dgram() => Err(Errno::ECONNREFUSED),
            Some(_) => Err(Errno::EPIPE),
            None => {
                if urgent {
                    self.queue.wake(Events::PRI.bits());
                }
                self.queue.wake(Events::READABLE.bits());
                Ok(())
            }
        }
    }

    /// Bytes that the sentry itself moves (sendfile, splice), to whom it is connected.
    pub(super) fn try_write(&self, src: &mut IoSrc<'_>) -> Result<usize, Errno> {
        let mut luggage = Luggage { sender: None, claimed: None, files: InFlight::default() };
        if self.kind == Kind::Stream {
            return self.send_bytes(src, &mut luggage, false);
        }
        let mut data = Vec::new();
        self.fetch(src, &mut data)?;
        self.send_message(None, &mut data, &mut luggage)
    }
}
