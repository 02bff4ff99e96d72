//! The file server: one process per container, one client.
//!
//! The principle: the client may be in the hands of an attacker. Every name it sends is one
//! component and is looked up beneath a descriptor with no symbolic link followed; every file it
//! holds is an `O_PATH` descriptor that was reached that way; opening goes through that descriptor
//! and not through a name, so that what was checked is what is opened. What a client can multiply
//! (fids, locks, watches, pending attribute values) is counted and bounded.
//!
//! - [`session`] answers messages: bytes in, bytes and perhaps a descriptor out, no socket;
//! - [`transport`] moves them over a unix socket;
//! - [`confine`] takes away from the process what serving files does not need.

mod attr;
mod confine;
mod dir;
mod errors;
mod fids;
mod filter;
mod host;
mod io;
mod lock;
mod namespace;
pub mod nodes;
mod open;
pub mod session;
pub mod transport;
mod watch;
mod xattr;

#[cfg(test)]
mod tests;

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SocketType;
use transport::{Received, Sent, Transport};

pub use confine::{ConfineError, confine};
pub use fids::DESCRIPTORS_MAX;
pub use filter::{FilterError, program as filter};
pub use session::Session;

/// What a gofer serves and to whom.
#[derive(Debug)]
pub struct Config {
    /// The connected unix socket of the client: `SOCK_SEQPACKET` with one message a packet, or
    /// `SOCK_STREAM`.
    pub socket: OwnedFd,
    /// The attach points.
    pub attaches: Vec<Attach>,
    /// Whether [`confine`] gives the process namespaces and a root of its own. Without them (for
    /// callers that may not have any) privileges and system calls alone are taken away.
    pub own_namespaces: bool,
    /// Where `/proc/self/fd` of this process is to be found; [`confine`] changes it.
    fd_directory: String,
    /// What the kernel is asked for beside that; `None`: nothing.
    pub guards: Option<Guards>,
    /// How [`confine`] enters a user namespace, with namespaces of its own; `None`: it stays in the one that it is in.
    pub users: Option<Users>,
    /// Where the node maker is, once there is one.
    nodes: Option<OwnedFd>,
    /// How many descriptors a client may have, and how its socket cuts messages: what [`confine`] has found out, because
    /// it cannot be asked later.
    descriptors: Option<u64>,
    kind: Option<SocketType>,
}

impl Config {
    /// A configuration for a process that can see `/proc`.
    pub fn new(socket: OwnedFd, attaches: Vec<Attach>) -> Self {
        Config {
            socket,
            attaches,
            own_namespaces: true,
            fd_directory: "/proc/self/fd".into(),
            guards: None,
            users: None,
            nodes: None,
            descriptors: None,
            kind: None,
        }
    }
}

/// System calls that take unsafe code, which this crate has none of.
#[derive(Clone, Copy, Debug)]
pub struct Guards {
    /// Restricts a detached mount: nosuid, nodev, no symbolic link followed, and read-only where so told.
    pub harden: fn(BorrowedFd<'_>, bool) -> std::io::Result<()>,
    /// Leaves the calling thread what lies beneath these and, to be opened again, its own descriptors.
    pub restrict: fn(&[Attach]) -> std::io::Result<()>,
    /// Gives memory back that was needed so far, as nothing but the filter is to come.
    pub shed: fn(),
}

/// A user namespace that is entered last of all, so that its capabilities are none over the other namespaces.
#[derive(Debug)]
pub struct Users {
    /// /proc/self, opened while it could be.
    pub process: OwnedFd,
    /// Enters it, given that and what is served. The connection to whoever makes device nodes beneath these, if anybody is to
    /// ([`nodes`]).
    pub enter: fn(OwnedFd, &[Attach]) -> std::io::Result<Option<OwnedFd>>,
}

/// A directory (or, for a bind mount of one, a file) that clients may attach.
#[derive(Debug)]
pub struct Attach {
    /// What a client calls it: `root` for the container's root, the number of the mount otherwise.
    pub name: String,
    /// Its root, opened as a directory or with `O_PATH`.
    pub root: OwnedFd,
    /// Whether clients may change nothing beneath it.
    pub read_only: bool,
}

/// Why serving ended other than by the client's going away.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket failed.
    #[error("client socket: {0}")]
    Socket(#[source] std::io::Error),
    /// The client sent what is not a message.
    #[error("malformed message from the client: {0}")]
    Malformed(#[from] crate::wire::WireError),
    /// The client sent a message larger than it negotiated.
    #[error("message of the client exceeds the negotiated size")]
    Oversized,
    /// The descriptors given cannot be served.
    #[error("cannot serve attach point {name}: {source}")]
    Attach {
        /// The attach point.
        name: String,
        /// The reason.
        source: std::io::Error,
    },
}

/// Serves the client until it closes its end.
pub fn run(config: Config) -> Result<(), ServeError> {
    let descriptors = config.descriptors.unwrap_or_else(fids::limit);
    let mut session = Session::bounded(config.attaches, config.fd_directory, descriptors)?;
    session.nodes = config.nodes.map(nodes::Maker);
    let transport = match config.kind {
        Some(kind) => Transport::of_kind(config.socket, kind),
        None => Transport::new(config.socket),
    };
    let mut transport = transport.map_err(ServeError::Socket)?;
    let mut reply = vec![0u8; crate::wire::MSIZE_MAX];
    loop {
        if session.events().is_some() && !tell_changes(&mut session, &mut transport, &mut reply)? {
            return Ok(());
        }
        let request = match transport.receive(session.msize())? {
            Received::Message(request) => request,
            Received::Closed => return Ok(()),
        };
        let answer = session.handle(request, &mut reply)?;
        let size = answer.size;
        let bytes = reply.get(..size).unwrap_or_default();
        let mut sent = transport.send(bytes, answer.donation)?;
        if sent == Sent::NotDonated {
            let bytes = reply.get_mut(..size).unwrap_or_default();
            session.keep_donation(bytes);
            sent = transport.send(bytes, None)?;
        }
        if sent == Sent::Closed {
            return Ok(());
        }
    }
}

/// Tells the client what others change, until a request of its is there; false if it has gone.
fn tell_changes(
    session: &mut Session,
    transport: &mut Transport,
    reply: &mut [u8],
) -> Result<bool, ServeError> {
    loop {
        let mut stuck = false;
        while let Some(size) = session.next_event(reply)? {
            match transport.try_send(reply.get(..size).unwrap_or_default())? {
                Some(Sent::Closed) => return Ok(false),
                Some(_) => session.event_sent(),
                // It does not read now: requests go on, and the event waits.
                None => {
                    stuck = true;
                    break;
                }
            }
        }
        if transport.has_buffered() {
            return Ok(true);
        }
        let Some(events) = session.events().filter(|_| !stuck) else { return Ok(true) };
        let mut fds = [
            PollFd::from_borrowed_fd(transport.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(events, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ServeError::Socket(errno.into())),
        }
        let [socket, events] = fds.map(|fd| !fd.revents().is_empty());
        if events {
            session.collect_events();
        }
        if socket {
            return Ok(true);
        }
    }
}
