//! Names of AF_UNIX sockets: `struct sockaddr_un`, and who has which.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use super::Sock;
use crate::errno::Errno;
use crate::fs::types::Access;
use crate::fs::{FileType, Path, WalkFlags, perm};
use crate::net::{Kind, NetNamespace, family};
use crate::sync::SpinLock;
use crate::task::Current;

/// Bytes of `sun_path`.
const MAX_PATH: usize = 108;

/// What a `struct sockaddr_un` says.
pub(super) enum Parsed<'a> {
    /// Nothing but the family: bind(2) chooses a name.
    Unnamed,
    /// A path in the file system.
    Path(&'a [u8]),
    /// An abstract name, without the zero byte that begins it.
    Abstract(&'a [u8]),
}

/// Parses an address. `EINVAL` where it is none of this family.
pub(super) fn parse(address: &[u8]) -> Result<Parsed<'_>, Errno> {
    let (head, name) = address.split_at_checked(2).ok_or(Errno::EINVAL)?;
    if head != family::UNIX.to_le_bytes() || name.len() > MAX_PATH {
        return Err(Errno::EINVAL);
    }
    Ok(match name.split_first() {
        None => Parsed::Unnamed,
        Some((0, name)) => Parsed::Abstract(name),
        Some(_) => {
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            Parsed::Path(name.get(..end).unwrap_or(name))
        }
    })
}

/// A name that a socket has, or that the socket had which accepted its connection.
pub(super) struct Address {
    bytes: Box<[u8]>,
    holder: Holder,
}

enum Holder {
    /// A node of the file system; held, so that whoever walks there meets the same inode.
    Path { _node: Path },
    /// An entry of the table of abstract names.
    Abstract(Arc<NetNamespace>),
}

/// Abstract names and whose they are. Each kind of socket has names of its own.
#[derive(Default)]
pub struct AbstractNames(SpinLock<BTreeMap<Key, Weak<Sock>>>);

/// A kind of socket and a name.
type Key = (u8, Box<[u8]>);

fn key(kind: Kind, name: &[u8]) -> Key {
    (kind as u8, name.into())
}

/// The bytes of an address, `None`: of a nameless socket.
pub(super) fn bytes(address: Option<&Address>) -> Vec<u8> {
    let nameless = family::UNIX.to_le_bytes();
    address.map_or(nameless.into(), |a| a.bytes.to_vec())
}

impl Address {
    /// Makes a node at `path` that leads to `sock`.
    pub(super) fn path(cx: &Current, path: &[u8], sock: &Arc<Sock>) -> Result<Address, Errno> {
        let fs = cx.cx();
        fs.mknod(None, path, FileType::Socket, 0o777, 0).map_err(|e| match e {
            Errno::EEXIST => Errno::EADDRINUSE,
            e => e,
        })?;
        let node = fs.walk(None, path, WalkFlags::empty())?;
        node.inode()?.state().set_socket(sock);
        let mut bytes = family::UNIX.to_le_bytes().to_vec();
        bytes.extend_from_slice(path);
        bytes.push(0);
        Ok(Address { bytes: bytes.into(), holder: Holder::Path { _node: node } })
    }

    /// Takes an abstract name.
    pub(super) fn abstract_name(
        net: &Arc<NetNamespace>,
        name: &[u8],
        sock: &Arc<Sock>,
    ) -> Result<Address, Errno> {
        net.abstract_names.insert(name, sock)?;
        let mut bytes = family::UNIX.to_le_bytes().to_vec();
        bytes.push(0);
        bytes.extend_from_slice(name);
        Ok(Address { bytes: bytes.into(), holder: Holder::Abstract(net.clone()) })
    }

    /// Takes a free abstract name of five hexadecimal digits.
    pub(super) fn automatic(net: &Arc<NetNamespace>, sock: &Arc<Sock>) -> Result<Address, Errno> {
        /// Names of this form.
        const NAMES: u32 = 1 << 20;
        let mut first = [0; 4];
        crate::platform::platform().random(&mut first);
        let first = u32::from_le_bytes(first);
        for n in 0..NAMES {
            let name = format!("{:05x}", first.wrapping_add(n) % NAMES);
            match Self::abstract_name(net, name.as_bytes(), sock) {
                Err(Errno::EADDRINUSE) => {}
                result => return result,
            }
        }
        Err(Errno::ENOSPC)
    }

    /// `sock` is gone: if the abstract name is its own, others may have it.
    pub(super) fn vacate(&self, sock: &Sock) {
        let (Holder::Abstract(net), Some(name)) = (&self.holder, self.bytes.get(3..)) else {
            return;
        };
        let mut names = net.abstract_names.0.lock();
        let key = key(sock.kind, name);
        if names.get(&key).is_some_and(|owner| owner.ptr_eq(&sock.this)) {
            names.remove(&key);
        }
    }
}

impl AbstractNames {
    fn insert(&self, name: &[u8], sock: &Arc<Sock>) -> Result<(), Errno> {
        let mut names = self.0.lock();
        let key = key(sock.kind, name);
        if names.contains_key(&key) {
            return Err(Errno::EADDRINUSE);
        }
        names.insert(key, Arc::downgrade(sock));
        Ok(())
    }

    fn get(&self, kind: Kind, name: &[u8]) -> Option<Arc<Sock>> {
        self.0.lock().get(&key(kind, name))?.upgrade()
    }
}

/// Whether there is something at `path`.
pub(super) fn exists(cx: &Current, path: &[u8]) -> bool {
    cx.cx().walk(None, path, WalkFlags::empty()).is_ok()
}

/// The socket with this name. `ECONNREFUSED` where nobody has it, `EPROTOTYPE` where it is of another
/// kind.
pub(super) fn find(cx: &Current, address: &[u8], kind: Kind) -> Result<Arc<Sock>, Errno> {
    let found = match parse(address)? {
        Parsed::Unnamed => return Err(Errno::EINVAL),
        Parsed::Path(path) => {
            let fs = cx.cx();
            let path = fs.walk(None, path, WalkFlags::FOLLOW)?;
            let inode = path.inode()?;
            perm::permission(&fs, &**inode, Access::WRITE)?;
            if inode.kind() != FileType::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            inode.state().socket()
        }
        Parsed::Abstract(name) => cx.namespaces.net.abstract_names.get(kind, name),
    };
    let found = found.filter(|sock| !sock.is_dead()).ok_or(Errno::ECONNREFUSED)?;
    if found.kind != kind {
        return Err(Errno::EPROTOTYPE);
    }
    Ok(found)
}
