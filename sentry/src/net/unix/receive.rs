//! Receiving.

use alloc::vec::Vec;

use super::message::Message;
use super::{Inbox, Sock, State, address};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::{Blocker, Events, IoDst};
use crate::net::{Incoming, Kind, MsgFlags, Patience, SHUT_RECEIVE, Ucred};

/// What an urgent byte, or the mark of one, means for a receive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgent {
    /// It goes on at this place, if something is there.
    On,
    /// It ends before it, with what it has.
    Stop,
}

impl Inbox {
    /// Whether the next byte is the urgent one, or it was read by itself (SIOCATMARK).
    pub(super) fn at_mark(&self) -> bool {
        let Some(first) = self.messages.front() else { return false };
        let next = self.messages.get(1).is_some_and(|m| m.urgent);
        first.urgent || first.len() == 0 && (!self.urgent || next)
    }

    /// Where a receive that has come to `at` goes on (manage_oob() in net/unix/af_unix.c): it stops before an urgent
    /// byte if it has something; if not, the byte is read with the rest, if it is `inline`, or thrown away.
    /// What leaves the inbox so goes into `gone`.
    fn past_urgent(
        &mut self,
        at: &mut usize,
        peek: bool,
        copied: bool,
        inline: bool,
        gone: &mut Vec<Message>,
    ) -> Urgent {
        if self.messages.get(*at).is_some_and(|m| m.len() == 0) {
            if copied && !self.urgent {
                return Urgent::Stop;
            }
            if peek {
                *at = at.saturating_add(1);
            } else {
                gone.extend(self.messages.remove(*at));
            }
        }
        let Some(message) = self.messages.get_mut(*at).filter(|m| m.urgent) else {
            return Urgent::On;
        };
        if copied {
            return Urgent::Stop;
        }
        if !peek {
            message.urgent = false;
            self.urgent = false;
            if !inline {
                gone.extend(self.messages.remove(*at));
            }
        } else if !inline {
            *at = at.saturating_add(1);
        }
        Urgent::On
    }
}

impl Sock {
    pub(super) fn receive(
        &self,
        waiter: &dyn Blocker,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        patience: Patience,
    ) -> Result<(usize, Incoming), SysError> {
        if flags.contains(MsgFlags::OOB) {
            return match self.kind {
                Kind::Stream => Ok(self.receive_urgent(dst, flags)?),
                _ => Err(Errno::EOPNOTSUPP.into()),
            };
        }
        let mut incoming = Incoming::default();
        // MSG_WAITALL goes on until everything is there, with what has come so far in hand.
        let all = self.kind == Kind::Stream
            && flags.contains(MsgFlags::WAITALL)
            && !flags.contains(MsgFlags::PEEK);
        let mut done: usize = 0;
        loop {
            let before = dst.remaining();
            let attempt = || match self.receive_more(dst, flags, &mut incoming, done) {
                // A datagram socket that was shut down has an end for those only who wait for it.
                Err(Errno::EAGAIN)
                    if self.is_dgram() && self.is_shut(SHUT_RECEIVE) && !patience.none =>
                {
                    Ok(0)
                }
                result => result,
            };
            let ready = || self.has_news();
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

    /// Whether a receive would not wait. A mark where an urgent byte was is no reason, though poll(2) calls it one.
    fn has_news(&self) -> bool {
        let events = self.poll();
        if self.kind != Kind::Stream {
            return events.intersects(Events::READABLE | Events::ALWAYS);
        }
        events.intersects(Events::RDHUP | Events::ALWAYS)
            || self.inbox.lock().messages.iter().any(|m| m.len() > 0)
    }

    /// Receives what is there. `EAGAIN` where nothing is.
    pub(super) fn try_receive(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        incoming: &mut Incoming,
    ) -> Result<usize, Errno> {
        self.receive_more(dst, flags, incoming, 0)
    }

    /// The same, where `before` bytes have come already.
    fn receive_more(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        incoming: &mut Incoming,
        before: usize,
    ) -> Result<usize, Errno> {
        match self.kind {
            Kind::Stream => self.receive_bytes(dst, flags, incoming, before),
            Kind::SeqPacket if self.state() != State::Connected => Err(Errno::ENOTCONN),
            _ => self.receive_message(dst, flags, incoming),
        }
    }

    /// The urgent byte alone (unix_stream_recv_urg()).
    fn receive_urgent(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
    ) -> Result<(usize, Incoming), Errno> {
        if self.state() != State::Connected || self.options.urgent_inline() {
            return Err(Errno::EINVAL);
        }
        let mut inbox = self.inbox.lock();
        let message = inbox.messages.iter_mut().find(|m| m.urgent).ok_or(Errno::EINVAL)?;
        let incoming = Incoming { flags: MsgFlags::OOB, ..Incoming::default() };
        // Without room for it it is lost as well.
        let room = dst.remaining().min(1);
        let result = if room == 0 { Ok(0) } else { dst.put(message.rest()) };
        if !flags.contains(MsgFlags::PEEK) {
            message.urgent = false;
            if result.is_ok() {
                message.consume(1);
            }
            inbox.urgent = false;
        }
        drop(inbox);
        result.map(|_| (1, incoming))
    }

    fn receive_bytes(
        &self,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        incoming: &mut Incoming,
        before: usize,
    ) -> Result<usize, Errno> {
        if self.state() != State::Connected {
            return Err(Errno::EINVAL);
        }
        let peek = flags.contains(MsgFlags::PEEK);
        let mut skip = if peek { self.options.peek_offset() } else { 0 };
        // Dropped last, and so with the inbox unlocked: it wakes the sender.
        let mut gone = Vec::new();
        let mut done: usize = 0;
        let mut at = 0;
        loop {
            let mut inbox = self.inbox.lock();
            let copied = done > 0 || before > 0;
            let inline = self.options.urgent_inline();
            let there = inbox.past_urgent(&mut at, peek, copied, inline, &mut gone);
            if there == Urgent::Stop {
                return Ok(done);
            }
            let Some(message) = inbox.messages.get_mut(at) else {
                drop(inbox);
                return if done > 0 { Ok(done) } else { self.nothing_there() };
            };
            if skip > 0 && skip >= message.len() {
                skip = skip.saturating_sub(message.len());
                at = at.saturating_add(1);
                continue;
            }
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
            let rest = message.rest().get(skip..).unwrap_or(&[]);
            let n = match dst.put(rest) {
                Ok(n) => n,
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            };
            done = done.saturating_add(n);
            let whole = n == rest.len();
            let had_files = !message.files.is_empty();
            if peek {
                if had_files {
                    incoming.files = message.files.again();
                }
                at = at.saturating_add(1);
                skip = 0;
                self.options.move_peek_offset(n.cast_signed());
            } else {
                if had_files {
                    incoming.files = core::mem::take(&mut message.files);
                }
                message.consume(n);
                let read: Option<Message> = if whole { inbox.messages.remove(at) } else { None };
                // Its drop wakes the sender: not under the lock.
                drop(inbox);
                drop(read);
                self.options.move_peek_offset(n.cast_signed().saturating_neg());
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
        let peek = flags.contains(MsgFlags::PEEK);
        let mut skip = if peek { self.options.peek_offset() } else { 0 };
        let mut inbox = self.inbox.lock();
        // What was looked at already is passed over, an empty one too (__skb_try_recv_from_queue()).
        let passed = inbox.messages.iter().take_while(|m| {
            let passes = peek && skip >= m.len() && (m.len() > 0 || skip > 0 || m.peeked);
            if passes {
                skip = skip.saturating_sub(m.len());
            }
            passes
        });
        let at = passed.count();
        let Some(message) = inbox.messages.get_mut(at) else {
            drop(inbox);
            return self.nothing_there();
        };
        let rest = message.rest().get(skip..).unwrap_or(&[]);
        let len = rest.len();
        let n = if len == 0 { 0 } else { dst.put(rest)? };
        if n < len {
            incoming.flags |= MsgFlags::TRUNC;
        }
        incoming.from = message.from.as_deref().map(|a| address::bytes(Some(a)));
        incoming.creds = Some(message.creds.unwrap_or(Ucred::UNKNOWN));
        incoming.stamp = self.options.stamp();
        if peek {
            incoming.files = message.files.again();
            message.peeked = true;
            self.options.move_peek_offset(n.cast_signed());
        } else {
            incoming.files = core::mem::take(&mut message.files);
            let read = inbox.messages.pop_front();
            drop(inbox);
            drop(read);
            self.options.move_peek_offset(len.cast_signed().saturating_neg());
            self.wake_blocked();
        }
        Ok(if flags.contains(MsgFlags::TRUNC) { len } else { n })
    }
}
