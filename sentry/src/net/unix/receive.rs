//! Receiving.

use super::message::Message;
use super::{Sock, State, address};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::{Blocker, Events, IoDst};
use crate::net::{Incoming, Kind, MsgFlags, Patience, SHUT_RECEIVE, Ucred};

impl Sock {
    pub(super) fn receive(
        &self,
        waiter: &dyn Blocker,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        patience: Patience,
    ) -> Result<(usize, Incoming), SysError> {
        if flags.contains(MsgFlags::OOB) {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let mut incoming = Incoming::default();
        // MSG_WAITALL goes on until everything is there, with what has come so far in hand.
        let all = self.kind == Kind::Stream
            && flags.contains(MsgFlags::WAITALL)
            && !flags.contains(MsgFlags::PEEK);
        let mut done: usize = 0;
        loop {
            let before = dst.remaining();
            let attempt = || match self.try_receive(dst, flags, &mut incoming) {
                // A datagram socket that was shut down has an end for those only who wait for it.
                Err(Errno::EAGAIN)
                    if self.is_dgram() && self.is_shut(SHUT_RECEIVE) && !patience.none =>
                {
                    Ok(0)
                }
                result => result,
            };
            let ready = || self.poll().intersects(Events::READABLE | Events::ALWAYS);
            match patience.wait(waiter, &self.queue, Events::READABLE, attempt, ready) {
                Ok(n) => done = done.saturating_add(n),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
            let ended = dst.remaining() == before;
            if !all || ended || dst.remaining() == 0 || !incoming.files.is_empty() {
                break;
            }
        }
        if !self.options.passes_creds() {
            incoming.creds = None;
        }
        Ok((done, incoming))
    }

    /// Receives what is there. `EAGAIN` where nothing is.
    pub(super) fn try_receive(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        incoming: &mut Incoming,
    ) -> Result<usize, Errno> {
        match self.kind {
            Kind::Stream => self.receive_bytes(dst, flags, incoming),
            Kind::SeqPacket if self.state() != State::Connected => Err(Errno::ENOTCONN),
            _ => self.receive_message(dst, flags, incoming),
        }
    }

    fn receive_bytes(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        incoming: &mut Incoming,
    ) -> Result<usize, Errno> {
        if self.state() != State::Connected {
            return Err(Errno::EINVAL);
        }
        let peek = flags.contains(MsgFlags::PEEK);
        let mut done: usize = 0;
        let mut at = 0;
        loop {
            let mut inbox = self.inbox.lock();
            let Some(message) = inbox.messages.get_mut(at) else {
                drop(inbox);
                return if done > 0 { Ok(done) } else { self.nothing_there() };
            };
            let creds = Some(message.creds.unwrap_or(Ucred::UNKNOWN));
            if incoming.creds.is_none() {
                incoming.from = message.from.as_deref().map(|a| address::bytes(Some(a)));
                incoming.creds = creds;
            } else if self.options.passes_creds() && incoming.creds != creds {
                // Never glued together: what different writers have sent.
                return Ok(done);
            }
            if dst.remaining() == 0 {
                return Ok(done);
            }
            let n = match dst.put(message.rest()) {
                Ok(n) => n,
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            };
            done = done.saturating_add(n);
            let whole = n == message.len();
            let had_files = !message.files.is_empty();
            if peek {
                if had_files {
                    incoming.files = message.files.again();
                }
                at = at.saturating_add(1);
            } else {
                if had_files {
                    incoming.files = core::mem::take(&mut message.files);
                }
                message.consume(n);
                let read: Option<Message> = if whole { inbox.messages.remove(at) } else { None };
                // Its drop wakes the sender: not under the lock.
                drop(inbox);
                drop(read);
            }
            if !whole || had_files {
                return Ok(done);
            }
        }
    }

    /// Why nothing can be read: an error that waits, the end, or nothing yet.
    fn nothing_there(&self) -> Result<usize, Errno> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        if self.is_shut(SHUT_RECEIVE) && !self.is_dgram() {
            return Ok(0);
        }
        Err(Errno::EAGAIN)
    }

    fn receive_message(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        incoming: &mut Incoming,
    ) -> Result<usize, Errno> {
        let mut inbox = self.inbox.lock();
        let Some(message) = inbox.messages.front_mut() else {
            drop(inbox);
            return self.nothing_there();
        };
        let len = message.len();
        let n = if len == 0 { 0 } else { dst.put(message.rest())? };
        if n < len {
            incoming.flags |= MsgFlags::TRUNC;
        }
        incoming.from = message.from.as_deref().map(|a| address::bytes(Some(a)));
        incoming.creds = Some(message.creds.unwrap_or(Ucred::UNKNOWN));
        if flags.contains(MsgFlags::PEEK) {
            incoming.files = message.files.again();
        } else {
            incoming.files = core::mem::take(&mut message.files);
            let read = inbox.messages.pop_front();
            drop(inbox);
            drop(read);
            self.wake_blocked();
        }
        Ok(if flags.contains(MsgFlags::TRUNC) { len } else { n })
    }
}
