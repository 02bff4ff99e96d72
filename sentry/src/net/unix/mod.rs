//! AF_UNIX sockets (unix(7)).
//!
//! A [`UnixSocket`] is what a descriptor holds; behind it lies a [`Sock`], which its peers hold too.
//! What is sent goes straight into the receiver's inbox; the bytes that lie there unread are charged to
//! the sender, whose send buffer they fill.
//!
//! - [`address`]: names in the file system and abstract ones.
//! - [`connect`]: bind, listen, connect, accept. [`send`], [`receive`]: transfers.
//! - [`list`]: all of them, for /proc.
//! - [`message`]: what lies in an inbox, and descriptors under way.
//!
//! Locks: an inbox is a `Mutex`, held while bytes are copied to the receiver; a link is a spinlock for a
//! few lines. No two sockets' inboxes are locked at once; of links, a new connection's is taken under its
//! listener's.

mod address;
mod connect;
mod list;
mod message;
mod receive;
mod send;

pub use address::AbstractNames;
pub use list::Sockets;
pub use message::InFlight;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use self::address::Address;
use self::message::Message;
use super::options::Options;
use super::{
    Incoming, Kind, MsgFlags, NetNamespace, Outgoing, Patience, PeerCreds, SHUT_RECEIVE, SHUT_SEND,
    Socket, Ucred, family,
};
use crate::errno::Errno;
use crate::error::SysError;
use crate::fs::{Blocker, Events, IoDst, IoSrc};
use crate::sync::{Mutex, SpinLock, WaitQueue};
use crate::task::Current;

/// Messages that wait for a datagram socket that is not connected with their sender
/// (net.unix.max_dgram_qlen, and one more).
const MAX_DGRAMS: usize = 11;

/// What a descriptor holds.
pub struct UnixSocket(Arc<Sock>);

/// A socket, as its peers see it.
pub(crate) struct Sock {
    this: Weak<Sock>,
    /// What tells it from others in /proc/net/unix.
    number: u64,
    /// The inode number of its file; 0: nobody has accepted it yet.
    ino: AtomicU64,
    kind: Kind,
    options: Options,
    /// Readers, writers and whoever polls wait here.
    queue: WaitQueue,
    /// Whoever wants to connect to a listening socket whose backlog is full waits here.
    room: WaitQueue,
    inbox: Mutex<Inbox>,
    link: SpinLock<Link>,
    /// SHUT_RECEIVE and SHUT_SEND.
    shutdown: AtomicU8,
    /// The pending error; 0: none.
    error: AtomicI32,
    /// Bytes of its own that lie unread elsewhere, with what their messages cost.
    charged: AtomicUsize,
    /// A send has met a full buffer since it was last told of room.
    lacks_space: AtomicBool,
    /// Its last descriptor is gone.
    dead: AtomicBool,
}

/// What has come and was not read.
#[derive(Default)]
struct Inbox {
    messages: VecDeque<Message>,
    /// One of them is urgent.
    urgent: bool,
    /// Nothing more may come.
    closed: bool,
    /// Senders that found it full.
    blocked: Vec<Weak<Sock>>,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Unconnected,
    /// connect(2) is under way.
    Connecting,
    Listening,
    Connected,
}

/// Whom it is connected with, and under which name it is known.
struct Link {
    state: State,
    address: Option<Arc<Address>>,
    peer: Option<Arc<Sock>>,
    peer_creds: Option<PeerCreds>,
    /// Connections that nobody has accepted.
    backlog: VecDeque<Arc<Sock>>,
    /// How many fit there.
    most: usize,
}

/// The caller, as SO_PEERCRED and SO_PEERGROUPS show it: with its effective ids.
fn creds_of(cx: &Current) -> PeerCreds {
    let creds = Ucred { pid: cx.task.process.pid, uid: cx.creds.euid, gid: cx.creds.egid };
    let numbers = cx.task.process.pidns.remember(creds.pid);
    PeerCreds { creds, groups: cx.creds.groups.as_slice().into(), numbers }
}

impl Sock {
    fn new(kind: Kind, net: &NetNamespace) -> Arc<Sock> {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let sock = Arc::new_cyclic(|this| Sock {
            this: this.clone(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            ino: AtomicU64::new(0),
            kind,
            options: Options::default(),
            queue: WaitQueue::new(),
            room: WaitQueue::new(),
            inbox: Mutex::new(Inbox::default()),
            link: SpinLock::new(Link {
                state: State::Unconnected,
                address: None,
                peer: None,
                peer_creds: None,
                backlog: VecDeque::new(),
                most: 0,
            }),
            shutdown: AtomicU8::new(0),
            error: AtomicI32::new(0),
            charged: AtomicUsize::new(0),
            lacks_space: AtomicBool::new(false),
            dead: AtomicBool::new(false),
        });
        net.sockets.add(&sock);
        sock
    }

    fn is_dgram(&self) -> bool {
        self.kind == Kind::Dgram
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    fn is_shut(&self, how: u8) -> bool {
        self.shutdown.load(Ordering::Acquire) & how != 0
    }

    fn state(&self) -> State {
        self.link.lock().state
    }

    fn peer(&self) -> Option<Arc<Sock>> {
        self.link.lock().peer.clone()
    }

    fn address(&self) -> Option<Arc<Address>> {
        self.link.lock().address.clone()
    }

    fn take_error(&self) -> Option<Errno> {
        match self.error.swap(0, Ordering::AcqRel) {
            0 => None,
            code => Some(Errno::from_code(code)),
        }
    }

    fn set_error(&self, error: Errno) {
        self.error.store(error.code(), Ordering::Release);
    }

    /// Room in the send buffer, bytes.
    fn send_room(&self) -> usize {
        self.options.send_buffer().saturating_sub(self.charged.load(Ordering::Acquire))
    }

    /// Whether poll(2) calls it writable: three quarters of the buffer are free (unix_writable()).
    fn is_writable(&self) -> bool {
        let charged = self.charged.load(Ordering::Acquire);
        charged.saturating_mul(4) <= self.options.send_buffer()
    }

    fn charge(&self, bytes: usize) {
        self.charged.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Bytes of its own have been read, or thrown away.
    fn refund(&self, bytes: usize) {
        self.charged.fetch_sub(bytes, Ordering::AcqRel);
        if self.is_writable() {
            self.queue.wake_waiters(Events::WRITABLE.bits(), usize::MAX);
            // Only who has met a full buffer is told by a signal (SOCKWQ_ASYNC_NOSPACE).
            if self.lacks_space.load(Ordering::Relaxed)
                && self.lacks_space.swap(false, Ordering::Relaxed)
            {
                self.queue.tell(Events::WRITABLE.bits());
            }
        }
    }

    /// Ends one or both directions, here and at the other end of a connection.
    fn shut(&self, how: u8) {
        self.shutdown.fetch_or(how, Ordering::AcqRel);
        if how & SHUT_RECEIVE != 0 {
            self.wake_blocked();
        }
        if !self.is_dgram()
            && let Some(peer) = self.peer()
        {
            let mirrored = how >> 1 & SHUT_RECEIVE | how << 1 & SHUT_SEND;
            peer.shutdown.fetch_or(mirrored, Ordering::AcqRel);
            peer.queue.wake_all();
            if mirrored == SHUT_RECEIVE | SHUT_SEND {
                peer.queue.tell(Events::HUP.bits());
            } else if mirrored & SHUT_RECEIVE != 0 {
                peer.queue.tell(Events::IN.bits());
            }
        }
        self.queue.wake_all();
    }

    /// Tells senders that found the inbox full that this may have changed.
    fn wake_blocked(&self) {
        let blocked = core::mem::take(&mut self.inbox.lock().blocked);
        for sender in blocked.iter().filter_map(Weak::upgrade) {
            sender.queue.wake(Events::WRITABLE.bits());
        }
    }

    /// The last descriptor is gone, or nobody will ever accept it: tells the other end.
    fn release(&self, accepted: bool) {
        let (peer, backlog) = {
            let mut link = self.link.lock();
            self.dead.store(true, Ordering::Release);
            (link.peer.take(), core::mem::take(&mut link.backlog))
        };
        if let Some(address) = self.address() {
            address.vacate(self);
        }
        let (unread, blocked) = {
            let mut inbox = self.inbox.lock();
            inbox.closed = true;
            let blocked = core::mem::take(&mut inbox.blocked);
            (core::mem::take(&mut inbox.messages), blocked)
        };
        if let Some(peer) = peer.filter(|_| !self.is_dgram()) {
            peer.shutdown.fetch_or(SHUT_RECEIVE | SHUT_SEND, Ordering::AcqRel);
            if !unread.is_empty() || !accepted {
                peer.set_error(Errno::ECONNRESET);
            }
            peer.queue.wake_all();
            peer.queue.tell(Events::HUP.bits());
        }
        drop(unread);
        for sender in blocked.iter().filter_map(Weak::upgrade) {
            sender.queue.wake_all();
        }
        // None of these listens itself, so this goes no deeper.
        for waiting in backlog {
            waiting.release(false);
        }
        self.queue.wake_all();
        self.room.wake_all();
    }

    fn poll(&self) -> Events {
        let (state, peer, waiting) = {
            let link = self.link.lock();
            let peer = link.peer.clone().filter(|_| self.is_dgram());
            (link.state, peer, !link.backlog.is_empty())
        };
        let shut = self.shutdown.load(Ordering::Acquire);
        let mut events = Events::empty();
        events.set(Events::ERR, self.error.load(Ordering::Acquire) != 0);
        events.set(Events::HUP, shut == SHUT_RECEIVE | SHUT_SEND);
        events.set(Events::RDHUP | Events::READABLE, shut & SHUT_RECEIVE != 0);
        if state == State::Listening {
            if waiting {
                events |= Events::READABLE;
            }
            return events;
        }
        {
            let inbox = self.inbox.lock();
            events.set(Events::PRI, inbox.urgent);
            if !inbox.messages.is_empty() {
                events |= Events::READABLE;
            }
        }
        if !self.is_dgram() && state != State::Connected {
            events |= Events::HUP;
        }
        let accepts = peer.is_none_or(|peer| peer.has_room_for(self));
        if accepts && self.is_writable() {
            events |= Events::WRITABLE | Events::WRBAND;
        }
        events
    }
}

impl UnixSocket {
    /// One that is neither bound nor connected.
    pub fn new(kind: Kind, net: &NetNamespace) -> UnixSocket {
        UnixSocket(Sock::new(kind, net))
    }

    /// Two that are connected with each other.
    pub fn pair(cx: &Current, kind: Kind) -> (UnixSocket, UnixSocket) {
        let net = &cx.namespaces.net;
        let (a, b) = (Sock::new(kind, net), Sock::new(kind, net));
        for (one, other) in [(&a, &b), (&b, &a)] {
            let mut link = one.link.lock();
            link.peer = Some(other.clone());
            link.peer_creds = Some(creds_of(cx));
            link.state = State::Connected;
        }
        (UnixSocket(a), UnixSocket(b))
    }
}

impl Socket for UnixSocket {
    fn family(&self) -> u16 {
        family::UNIX
    }

    fn kind(&self) -> Kind {
        self.0.kind
    }

    fn opened(&self, ino: u64) {
        self.0.ino.store(ino, Ordering::Relaxed);
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    fn poll(&self) -> Events {
        self.0.poll()
    }

    fn queue(&self) -> &WaitQueue {
        &self.0.queue
    }

    fn take_error(&self) -> Option<Errno> {
        self.0.take_error()
    }

    fn is_listening(&self) -> bool {
        self.0.state() == State::Listening
    }

    fn available(&self) -> Result<usize, Errno> {
        if self.is_listening() {
            return Err(Errno::EINVAL);
        }
        let inbox = self.0.inbox.lock();
        // Of datagrams, the first one counts.
        let most = if self.0.is_dgram() { 1 } else { usize::MAX };
        Ok(inbox.messages.iter().take(most).map(Message::len).sum())
    }

    fn at_mark(&self) -> Result<bool, Errno> {
        Ok(self.0.inbox.lock().at_mark())
    }

    fn unsent(&self) -> Result<usize, Errno> {
        Ok(self.0.charged.load(Ordering::Acquire))
    }

    fn peer_creds(&self) -> Option<PeerCreds> {
        self.0.link.lock().peer_creds.clone()
    }

    fn bind(&self, cx: &Current, address: &[u8]) -> Result<(), Errno> {
        self.0.bind(cx, address)
    }

    fn listen(&self, cx: &Current, backlog: i32) -> Result<(), Errno> {
        self.0.listen(cx, backlog)
    }

    fn connect(&self, cx: &Current, address: &[u8], patience: Patience) -> Result<(), SysError> {
        self.0.connect(cx, address, patience)
    }

    fn accept(&self, cx: &Current, patience: Patience) -> Result<Box<dyn Socket>, SysError> {
        Ok(Box::new(UnixSocket(self.0.accept(cx, patience)?)))
    }

    fn name(&self) -> Vec<u8> {
        address::bytes(self.0.address().as_deref())
    }

    fn peer_name(&self) -> Result<Vec<u8>, Errno> {
        let peer = self.0.peer().ok_or(Errno::ENOTCONN)?;
        Ok(address::bytes(peer.address().as_deref()))
    }

    fn send(
        &self,
        cx: &Current,
        src: &mut IoSrc<'_>,
        message: &mut Outgoing<'_>,
        patience: Patience,
    ) -> Result<usize, SysError> {
        self.0.send(cx, src, message, patience)
    }

    fn receive(
        &self,
        waiter: &dyn Blocker,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        patience: Patience,
    ) -> Result<(usize, Incoming), SysError> {
        self.0.receive(waiter, dst, flags, patience)
    }

    fn try_write(&self, src: &mut IoSrc<'_>) -> Result<usize, Errno> {
        self.0.try_write(src)
    }

    fn try_read(&self, dst: &mut IoDst<'_>) -> Result<usize, Errno> {
        self.0.try_receive(dst, MsgFlags::empty(), &mut Incoming::default())
    }

    fn shutdown(&self, how: u8) -> Result<(), Errno> {
        self.0.shut(how);
        Ok(())
    }

    fn close(&self) {
        self.0.release(true);
    }
}
