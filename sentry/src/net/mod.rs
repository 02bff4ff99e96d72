//! Sockets (socket(2)): what the calls of all families have in common, and the families.
//!
//! - [`Socket`] is what a family implements; [`SocketFile`] makes an open file of one.
//! - [`options`]: what setsockopt(2) sets at level SOL_SOCKET.
//! - [`unix`]: AF_UNIX. Other families are not there: `EAFNOSUPPORT`.
//!
//! A transfer never waits inside a family: it gives `EAGAIN`, and [`Patience::wait`] does the rest.

mod file;
mod flags;
pub mod options;
pub mod unix;

pub use file::{SocketFile, open};
pub use flags::MsgFlags;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::errno::Errno;
use crate::error::{Restart, SysError};
use crate::fs::{Blocker, Cx, Events, File, IoDst, IoSrc};
use crate::platform::platform;
use crate::sync::WaitQueue;
use crate::task::{Blocked, Current, PidNumbers};
use options::Options;

/// Address families (linux/socket.h).
pub mod family {
    /// None: an address that dissolves a connection.
    pub const UNSPEC: u16 = 0;
    /// AF_UNIX, AF_LOCAL.
    pub const UNIX: u16 = 1;
}

/// Longest address of any family, in bytes (`struct sockaddr_storage`).
pub const MAX_ADDRESS: usize = 128;

/// Kinds of socket (linux/net.h); the numbers are socket(2)'s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// SOCK_STREAM: bytes in order, connected.
    Stream = 1,
    /// SOCK_DGRAM: messages.
    Dgram = 2,
    /// SOCK_SEQPACKET: messages in order, connected.
    SeqPacket = 5,
}

/// Who sent something, or is at the other end (`struct ucred`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are unix(7)'s
pub struct Ucred {
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Ucred {
    /// What a message says whose sender nobody asked for (`overflowuid`).
    pub const UNKNOWN: Ucred = Ucred { pid: 0, uid: 65534, gid: 65534 };

    /// The caller, with its real ids.
    pub fn of(cx: &Current) -> Ucred {
        Ucred { pid: cx.task.process.pid, uid: cx.creds.uid, gid: cx.creds.gid }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone)]
pub struct PeerCreds {
    /// Process and effective ids, as they were then.
    pub creds: Ucred,
    /// Supplementary groups.
    pub groups: Arc<[u32]>,
    /// The process's numbers, which outlive it.
    pub numbers: PidNumbers,
}

/// What goes with a message (cmsg(3), SOL_SOCKET).
#[derive(Default)]
pub struct Control {
    /// SCM_RIGHTS: open files.
    pub files: Vec<Arc<File>>,
    /// SCM_CREDENTIALS: who the sender says it is; checked.
    pub creds: Option<Ucred>,
}

/// A message on its way out.
pub struct Outgoing<'a> {
    /// To whom; `None`: to whom the socket is connected.
    pub to: Option<&'a [u8]>,
    /// Who sends, by itself; `None` where the sentry itself moves data.
    pub sender: Option<Ucred>,
    /// What goes along. Taken by the first piece that is sent.
    pub control: Control,
    /// How.
    pub flags: MsgFlags,
}

/// What came with a message.
#[derive(Default)]
pub struct Incoming {
    /// From whom, as an address; `None`: from a nameless one.
    pub from: Option<Vec<u8>>,
    /// Who sent it, where that was asked for (SO_PASSCRED).
    pub creds: Option<Ucred>,
    /// When it was received, where that was asked for (SO_TIMESTAMP): type and content of the control data.
    pub stamp: Option<(u32, [u8; 16])>,
    /// Open files.
    pub files: unix::InFlight,
    /// MSG_TRUNC, MSG_EOR.
    pub flags: MsgFlags,
}

/// What shutdown(2) ends; the numbers are its `how` plus one, as bits.
pub const SHUT_RECEIVE: u8 = 1;
/// See [`SHUT_RECEIVE`].
pub const SHUT_SEND: u8 = 2;

/// How long a call waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Not at all (O_NONBLOCK, MSG_DONTWAIT).
    pub none: bool,
    /// At most so long, nanoseconds (SO_RCVTIMEO, SO_SNDTIMEO); 0: as long as it takes.
    pub timeout: u64,
}

impl Patience {
    /// Tries until it is not `EAGAIN`, waiting in between in `queue` until `ready`.
    pub fn wait<T>(
        self,
        waiter: &dyn Blocker,
        queue: &WaitQueue,
        events: Events,
        mut attempt: impl FnMut() -> Result<T, Errno>,
        mut ready: impl FnMut() -> bool,
    ) -> Result<T, SysError> {
        let mut deadline = None;
        loop {
            match attempt() {
                Err(Errno::EAGAIN) if !self.none => {}
                result => return result.map_err(SysError::from),
            }
            if self.timeout != 0 && deadline.is_none() {
                deadline = Some(platform().monotonic().saturating_add(self.timeout));
            }
            match waiter.wait(queue, events | Events::ALWAYS, deadline, &mut ready) {
                Ok(()) => {}
                Err(Blocked::TimedOut) => return Err(Errno::EAGAIN.into()),
                // What waits for a time of its own cannot begin anew (sock_intr_errno()).
                Err(Blocked::Interrupted) if self.timeout != 0 => {
                    return Err(SysError::Interrupted(Restart::Never));
                }
                Err(Blocked::Interrupted) => return Err(SysError::Interrupted(Restart::Sys)),
            }
        }
    }
}

/// A socket, as its family implements it. Addresses are `struct sockaddr` bytes, at least the family.
pub trait Socket: Send + Sync {
    /// Its address family.
    fn family(&self) -> u16;
    /// Its kind.
    fn kind(&self) -> Kind;
    /// It is an open file from now on, with this inode number.
    fn opened(&self, ino: u64);
    /// Its options of level SOL_SOCKET.
    fn options(&self) -> &Options;
    /// What it is ready for.
    fn poll(&self) -> Events;
    /// Whom to tell of changes.
    fn queue(&self) -> &WaitQueue;
    /// The pending error, which is over once it has been told (SO_ERROR).
    fn take_error(&self) -> Option<Errno>;
    /// Whether it accepts connections (SO_ACCEPTCONN).
    fn is_listening(&self) -> bool;
    /// Bytes that can be read now (SIOCINQ).
    fn available(&self) -> Result<usize, Errno>;
    /// Whether the next byte is the urgent one, or was (SIOCATMARK).
    fn at_mark(&self) -> Result<bool, Errno> {
        Err(Errno::ENOTTY)
    }
    /// Bytes sent and not read yet (SIOCOUTQ).
    fn unsent(&self) -> Result<usize, Errno>;
    /// Who is at the other end (SO_PEERCRED), with supplementary groups (SO_PEERGROUPS).
    fn peer_creds(&self) -> Option<PeerCreds>;
    /// bind(2).
    fn bind(&self, cx: &Current, address: &[u8]) -> Result<(), Errno>;
    /// listen(2).
    fn listen(&self, cx: &Current, backlog: i32) -> Result<(), Errno>;
    /// connect(2).
    fn connect(&self, cx: &Current, address: &[u8], patience: Patience) -> Result<(), SysError>;
    /// accept(2): the new socket.
    fn accept(&self, cx: &Current, patience: Patience) -> Result<Box<dyn Socket>, SysError>;
    /// Its own address.
    fn name(&self) -> Vec<u8>;
    /// The other end's address.
    fn peer_name(&self) -> Result<Vec<u8>, Errno>;
    /// Sends; waits as allowed. Streams may send less than all.
    fn send(
        &self,
        cx: &Current,
        src: &mut IoSrc<'_>,
        message: &mut Outgoing<'_>,
        patience: Patience,
    ) -> Result<usize, SysError>;
    /// Receives; waits as allowed.
    fn receive(
        &self,
        waiter: &dyn Blocker,
        dst: &mut IoDst<'_>,
        flags: MsgFlags,
        patience: Patience,
    ) -> Result<(usize, Incoming), SysError>;
    /// Sends plain bytes to whom it is connected, without waiting.
    fn try_write(&self, src: &mut IoSrc<'_>) -> Result<usize, Errno>;
    /// Receives plain bytes without waiting.
    fn try_read(&self, dst: &mut IoDst<'_>) -> Result<usize, Errno>;
    /// shutdown(2) of [`SHUT_RECEIVE`] and [`SHUT_SEND`].
    fn shutdown(&self, how: u8) -> Result<(), Errno>;
    /// Its last descriptor is gone.
    fn close(&self);
}

/// What a network namespace holds (network_namespaces(7)).
#[derive(Default)]
pub struct NetNamespace {
    /// Its number.
    pub id: crate::task::NamespaceId,
    /// Whose capabilities count for it.
    pub owner: crate::task::UserNamespace,
    /// Abstract names of AF_UNIX sockets.
    pub abstract_names: unix::AbstractNames,
    /// AF_UNIX sockets.
    pub sockets: unix::Sockets,
}

/// Checks socket(2)'s type and protocol; `bits` without its flags.
fn kind(family: u16, bits: u32, protocol: i32) -> Result<Kind, Errno> {
    /// The first number that is no type at all (SOCK_MAX).
    const MAX: u32 = 11;
    /// SOCK_RAW: for AF_UNIX another name of SOCK_DGRAM.
    const RAW: u32 = 3;
    if bits >= MAX {
        return Err(Errno::EINVAL);
    }
    if family != family::UNIX {
        return Err(Errno::EAFNOSUPPORT);
    }
    if protocol != 0 && protocol != i32::from(family::UNIX) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match bits {
        1 => Ok(Kind::Stream),
        2 | RAW => Ok(Kind::Dgram),
        5 => Ok(Kind::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

/// socket(2).
pub fn socket(
    cx: &Current,
    family: i32,
    bits: u32,
    protocol: i32,
) -> Result<Box<dyn Socket>, Errno> {
    let family = u16::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?;
    let kind = kind(family, bits, protocol)?;
    Ok(Box::new(unix::UnixSocket::new(kind, &cx.namespaces.net)))
}

/// socketpair(2).
pub fn pair(cx: &Current, family: i32, bits: u32, protocol: i32) -> Result<Pair, Errno> {
    let family = u16::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?;
    let (a, b) = unix::UnixSocket::pair(cx, kind(family, bits, protocol)?);
    Ok((Box::new(a), Box::new(b)))
}

/// Two sockets that are connected with each other.
pub type Pair = (Box<dyn Socket>, Box<dyn Socket>);

/// The credentials of whoever makes files: sockets belong to their makers.
fn owner(cx: &Cx<'_>) -> (u32, u32) {
    (cx.creds.fsuid, cx.creds.fsgid)
}
