//! Names and connections.

use alloc::sync::Arc;

use super::address::{self, Address, Parsed};
use super::{Sock, State, creds_of};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::Events;
use crate::net::{Kind, Patience, SHUT_RECEIVE, family};
use crate::task::Current;

/// The longest backlog (net.core.somaxconn).
const SOMAXCONN: usize = 4096;

impl Sock {
    pub(super) fn bind(&self, cx: &Current, address: &[u8]) -> Result<(), Errno> {
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let net = &cx.namespaces.net;
        let parsed = address::parse(address)?;
        if self.address().is_some() {
            return match parsed {
                // A name that is to be chosen has been chosen already.
                Parsed::Unnamed => Ok(()),
                Parsed::Path(path) if address::exists(cx, path) => Err(Errno::EADDRINUSE),
                _ => Err(Errno::EINVAL),
            };
        }
        let address = match parsed {
            Parsed::Unnamed => Address::automatic(net, &this)?,
            Parsed::Abstract(name) => Address::abstract_name(net, name, &this)?,
            Parsed::Path(path) => Address::path(cx, path, &this)?,
        };
        let mut link = self.link.lock();
        if link.address.is_some() {
            drop(link);
            address.vacate(self);
            return Err(Errno::EINVAL);
        }
        link.address = Some(Arc::new(address));
        Ok(())
    }

    /// Credentials want to know where they come from: a socket that passes them has a name.
    fn autobind(&self, cx: &Current) -> Result<(), Errno> {
        if self.options.passes_creds() && self.address().is_none() {
            self.bind(cx, &family::UNIX.to_le_bytes())?;
        }
        Ok(())
    }

    pub(super) fn listen(&self, cx: &Current, backlog: i32) -> Result<(), Errno> {
        if self.is_dgram() {
            return Err(Errno::EOPNOTSUPP);
        }
        let creds = creds_of(cx);
        let mut link = self.link.lock();
        if link.address.is_none() || !matches!(link.state, State::Unconnected | State::Listening) {
            return Err(Errno::EINVAL);
        }
        link.state = State::Listening;
        // A negative one is a very long one; and one more than asked for fits (unix_recvq_full()).
        let most = usize::try_from(backlog).unwrap_or(SOMAXCONN).min(SOMAXCONN);
        link.most = most.saturating_add(1);
        link.peer_creds = Some(creds);
        drop(link);
        self.room.wake_all();
        Ok(())
    }

    pub(super) fn connect(
        &self,
        cx: &Current,
        address: &[u8],
        patience: Patience,
    ) -> Result<(), SysError> {
        if self.is_dgram() {
            return Ok(self.connect_dgram(cx, address)?);
        }
        if matches!(address::parse(address)?, Parsed::Unnamed) {
            return Err(Errno::EINVAL.into());
        }
        self.autobind(cx)?;
        {
            let mut link = self.link.lock();
            match link.state {
                State::Unconnected => link.state = State::Connecting,
                State::Connected => return Err(Errno::EISCONN.into()),
                State::Connecting => return Err(Errno::EALREADY.into()),
                State::Listening => return Err(Errno::EINVAL.into()),
            }
        }
        let result = self.connect_to(cx, address, patience);
        if result.is_err() {
            self.link.lock().state = State::Unconnected;
        }
        result
    }

    fn connect_to(&self, cx: &Current, address: &[u8], patience: Patience) -> Result<(), SysError> {
        loop {
            // Looked up anew after each wait: it may be another one by then.
            let listener = address::find(cx, address, self.kind)?;
            match self.knock(cx, &listener) {
                Err(Errno::EAGAIN) if !patience.none => {}
                result => return Ok(result?),
            }
            let attempt = || if listener.is_full() { Err(Errno::EAGAIN) } else { Ok(()) };
            let ready = || !listener.is_full();
            patience.wait(cx, &listener.room, Events::all(), attempt, ready)?;
        }
    }

    /// Whether no further connection fits; not where it has ended.
    fn is_full(&self) -> bool {
        let link = self.link.lock();
        link.state == State::Listening && !self.is_dead() && link.backlog.len() >= link.most
    }

    /// Puts a connection into a listener's backlog. `EAGAIN` where that is full.
    fn knock(&self, cx: &Current, listener: &Arc<Sock>) -> Result<(), Errno> {
        let this = self.this.upgrade().ok_or(Errno::EINVAL)?;
        let theirs = Sock::new(self.kind, &cx.namespaces.net);
        theirs.options.inherit(&listener.options);
        let (mine, creds) = (creds_of(cx), {
            let link = listener.link.lock();
            link.peer_creds.clone()
        });
        {
            let mut far = theirs.link.lock();
            far.state = State::Connected;
            far.peer = Some(this);
            far.peer_creds = Some(mine);
            far.address = listener.address();
        }
        {
            // Before anybody can accept it: what comes back then comes to a connection.
            let mut near = self.link.lock();
            near.peer = Some(theirs.clone());
            near.peer_creds = creds;
        }
        let refused = {
            let mut link = listener.link.lock();
            let open = link.state == State::Listening && !listener.is_dead();
            if !open || listener.is_shut(SHUT_RECEIVE) {
                Some(Errno::ECONNREFUSED)
            } else if link.backlog.len() >= link.most {
                Some(Errno::EAGAIN)
            } else {
                self.link.lock().state = State::Connected;
                link.backlog.push_back(theirs.clone());
                None
            }
        };
        if let Some(error) = refused {
            let mut near = self.link.lock();
            near.peer_creds = None;
            let gone = near.peer.take();
            drop(near);
            drop(gone);
            return Err(error);
        }
        listener.queue.wake(Events::READABLE.bits());
        self.queue.wake_all();
        Ok(())
    }

    fn connect_dgram(&self, cx: &Current, address: &[u8]) -> Result<(), Errno> {
        let family = address.first_chunk::<2>().map(|f| u16::from_le_bytes(*f));
        let new = if family == Some(family::UNSPEC) {
            None
        } else {
            self.autobind(cx)?;
            let other = address::find(cx, address, Kind::Dgram)?;
            if !other.takes_from(self) {
                return Err(Errno::EPERM);
            }
            Some(other)
        };
        let old = {
            let mut link = self.link.lock();
            link.state = if new.is_some() { State::Connected } else { State::Unconnected };
            core::mem::replace(&mut link.peer, new.clone())
        };
        let Some(old) = old.filter(|old| new.as_ref().is_none_or(|n| !Arc::ptr_eq(n, old))) else {
            return Ok(());
        };
        // What came over the old connection and was not read is lost; the other end is told so.
        let gone = core::mem::take(&mut self.inbox.lock().messages);
        let lost = !gone.is_empty();
        drop(gone);
        self.wake_blocked();
        let mutual = old.peer().is_some_and(|p| core::ptr::eq(&*p, self));
        if lost && mutual && !old.is_dead() {
            old.set_error(Errno::ECONNRESET);
            old.queue.wake_all();
        }
        Ok(())
    }

    pub(super) fn accept(&self, cx: &Current, patience: Patience) -> Result<Arc<Sock>, SysError> {
        if self.is_dgram() {
            return Err(Errno::EOPNOTSUPP.into());
        }
        let attempt = || {
            let mut link = self.link.lock();
            if link.state != State::Listening {
                return Err(Errno::EINVAL);
            }
            match link.backlog.pop_front() {
                Some(sock) => Ok(sock),
                None if self.is_shut(SHUT_RECEIVE) => Err(Errno::EINVAL),
                None => Err(Errno::EAGAIN),
            }
        };
        let ready = || self.poll().intersects(Events::READABLE);
        let sock = patience.wait(cx, &self.queue, Events::READABLE, attempt, ready)?;
        self.room.wake_all();
        Ok(sock)
    }
}
