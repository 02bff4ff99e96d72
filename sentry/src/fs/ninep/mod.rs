//! The file system of a gofer: the container's root and its bind mounts.
//!
//! - [`conn`]: requests and replies, many tasks on one channel;
//! - [`remote`]: what the inodes of one attach point share;
//! - [`inode`], [`data`], [`file`], [`dir`]: inodes, their content, and what is open.
//!
//! **Who else may change files decides what is remembered.** Beneath an *exclusive* attach point
//! (the container's root) names, missing names and attributes are kept until this sentry changes
//! them, or the gofer, which watches the directories that are in use for longer or among many that
//! are listed, tells that somebody else did (`docker cp`). Beneath a *shared* one each use of a name
//! and each stat asks the gofer.
//!
//! **Who owns a page.** Regular files are donated: the pages are those of the host's page cache,
//! read, written and mapped through a descriptor that the platform holds, and so one truth for all
//! on the host. Where the gofer or the host half donates none, content goes through messages, and
//! the file cannot be mapped.

pub mod conn;
mod data;
mod dir;
mod file;
mod inode;
mod remote;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};

use gofer::wire::{AttachFlags, Reply, Request};

use self::conn::Connection;
use self::inode::NinepInode;
use self::remote::Remote;
use super::inode::{Caching, FileSystem, Inode, NameCache};
use super::setup::GoferSource;
use super::types::StatFs;
use crate::control::FileServerInfo;
use crate::errno::Errno;
use crate::platform::{ChannelId, platform};
use crate::sync::Mutex;
use crate::task::UserNamespace;

/// The gofers of a sandbox: a connection for each that is in use.
#[derive(Default)]
pub struct Gofers(Mutex<BTreeMap<u32, Arc<Connection>>>);

impl Gofers {
    /// None in use.
    pub const fn new() -> Self {
        Gofers(Mutex::new(BTreeMap::new()))
    }

    /// What is under way to one.
    pub fn info(&self, gofer: u32) -> Option<FileServerInfo> {
        self.0.lock().get(&gofer).map(|conn| conn.info())
    }

    /// The file system of an attach point, as [`setup::Sources`](super::setup::Sources) wants it.
    pub fn attach(&self, source: GoferSource<'_>) -> Result<Arc<dyn FileSystem>, Errno> {
        let conn = {
            let mut gofers = self.0.lock();
            match gofers.get(&source.gofer) {
                Some(conn) => conn.clone(),
                None => {
                    let channel = platform().channel(ChannelId::Gofer(source.gofer))?;
                    let conn = Connection::new(channel)?;
                    gofers.insert(source.gofer, conn.clone());
                    conn
                }
            }
        };
        let sharing = if source.shared { Sharing::Shared } else { Sharing::Exclusive };
        let fs = NinepFs::attach(&conn, source.attach, sharing, source.attach.into(), source.ids)?;
        Ok(fs)
    }

    /// The gofer's container has ended. The connection goes with the last file of it.
    pub fn forget(&self, gofer: u32) {
        let gone = self.0.lock().remove(&gofer);
        drop(gone);
    }
}

/// Who may change the files of an attach point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// This sentry alone.
    Exclusive,
    /// Others on the host too.
    Shared,
}

/// An attach point of a gofer.
pub struct NinepFs {
    remote: Arc<Remote>,
    root: Arc<NinepInode>,
    source: String,
}

impl NinepFs {
    /// Attaches to what the gofer calls `name`. `source` is what /proc/PID/mounts shows; the gofer's numbers of users
    /// are those of `ids`.
    pub fn attach(
        conn: &Arc<Connection>,
        name: &str,
        sharing: Sharing,
        source: String,
        ids: &UserNamespace,
    ) -> Result<Arc<NinepFs>, Errno> {
        let fid = conn.new_fid();
        let answer = conn
            .call(&Request::AttachX { fid, aname: name.as_bytes() })
            .inspect_err(|_| conn.unused(fid))?;
        let (node, flags) = match answer.reply() {
            Ok(Reply::AttachX { node, flags }) => (node, flags),
            other => {
                conn.unused(fid);
                return Err(other.err().unwrap_or(Errno::EIO));
            }
        };
        let read_only = AttachFlags::from_bits_truncate(flags).contains(AttachFlags::READ_ONLY);
        let remote = Remote::new(conn.clone(), sharing, read_only, &node, ids.clone());
        let root = remote.inode(node, fid, 0)?;
        Ok(Arc::new(NinepFs { remote, root, source }))
    }

    /// Whether the gofer refuses all changes.
    pub fn read_only(&self) -> bool {
        self.remote.read_only
    }
}

impl FileSystem for NinepFs {
    fn name(&self) -> &'static str {
        "9p"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.remote.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        self.root.statfs()
    }

    fn caching(&self) -> Caching {
        match self.remote.sharing {
            Sharing::Exclusive => Caching::Exclusive,
            Sharing::Shared => Caching::Shared,
        }
    }

    fn in_use(&self, names: Weak<dyn NameCache>) {
        let old = self.remote.names.lock().replace(names);
        drop(old);
    }

    fn sync(&self) -> Result<(), Errno> {
        self.remote.sync()
    }

    fn source(&self) -> String {
        self.source.clone()
    }
}
