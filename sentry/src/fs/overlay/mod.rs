//! A writable layer in memory over a file system that is only read.
//!
//! Linux's overlayfs keeps its upper layer in another file system and so must write there what it
//! changed: copies of parent directories, whiteouts, opaque marks. Here the upper layer lives and dies
//! with the mount, so changes are kept where they are made: an [`Node`] has, besides its lower inode,
//! attributes, data and names of its own as far as these were changed.
//!
//! - A directory's changed names are a map: name to node, or to nothing (a whiteout). What is not in
//!   the map is looked up in the lower directory.
//! - A file's attributes are copied up (into a tmpfs inode that is in no directory) by the first change,
//!   its data by the first opening for writing or change of size.
//! - There is one node per lower inode while anybody holds it, and for ever once it has changed: so the
//!   names of a hard-linked file stay one file, and renaming a directory moves its node and copies
//!   nothing. Inode numbers stay what they are in the lower file system.

mod file;
mod node;

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::mem;
use core::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;

use super::anon::next_dev;
use super::inode::{Caching, FileSystem, Inode, NameCache};
use super::tmpfs::{Options, Tmpfs};
use super::types::StatFs;
use crate::errno::Errno;
use crate::sync::SpinLock;

pub use node::Node;

/// OVERLAYFS_SUPER_MAGIC (linux/magic.h).
const MAGIC: u64 = 0x794c_7630;
/// Inode numbers of what was made in the upper layer begin here, above those of usual file systems.
const FIRST_INO: u64 = 1 << 62;

/// A lower inode's node.
enum Slot {
    /// It has not changed: as long as somebody holds it.
    Live(Weak<Node>),
    /// It has changed.
    Pinned(Arc<Node>),
}

/// What all nodes share.
struct Shared {
    dev: u64,
    lower_dev: u64,
    /// Changed attributes and data are inodes of this file system.
    upper: Arc<Tmpfs>,
    /// The node of each lower inode, by its address: the node keeps the inode alive.
    nodes: SpinLock<HashMap<usize, Slot>>,
    next_ino: AtomicU64,
}

impl Shared {
    fn ino(&self) -> u64 {
        self.next_ino.fetch_add(1, Ordering::Relaxed)
    }

    fn dev_of(&self, lower: u64) -> u64 {
        if lower == self.lower_dev { self.dev } else { lower }
    }

    /// The node of a lower inode.
    fn node(self: &Arc<Self>, lower: Arc<dyn Inode>) -> Arc<Node> {
        let key = address(&lower);
        let there = |nodes: &HashMap<usize, Slot>| match nodes.get(&key) {
            Some(Slot::Pinned(node)) => Some(node.clone()),
            Some(Slot::Live(node)) => node.upgrade(),
            None => None,
        };
        if let Some(node) = there(&self.nodes.lock()) {
            return node;
        }
        let new = Node::lower(self, lower);
        let mut nodes = self.nodes.lock();
        match there(&nodes) {
            Some(node) => {
                drop(nodes);
                // Dropping it takes the lock.
                drop(new);
                node
            }
            None => {
                nodes.insert(key, Slot::Live(Arc::downgrade(&new)));
                new
            }
        }
    }
}

/// What tells lower inodes apart.
fn address(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

/// An overlay.
pub struct Overlay {
    shared: Arc<Shared>,
    root: Arc<Node>,
    lower: Arc<dyn FileSystem>,
}

impl Overlay {
    /// A layer over `lower` that nothing has changed yet.
    pub fn new(lower: Arc<dyn FileSystem>) -> Result<Arc<Overlay>, Errno> {
        let shared = Arc::new(Shared {
            dev: next_dev(),
            lower_dev: lower.dev(),
            upper: Tmpfs::new("tmpfs", &Options::default())?,
            nodes: SpinLock::new(HashMap::new()),
            next_ino: AtomicU64::new(FIRST_INO),
        });
        let root = shared.node(lower.root());
        Ok(Arc::new(Overlay { shared, root, lower }))
    }
}

impl FileSystem for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs { kind: MAGIC, fsid: self.shared.dev, ..self.shared.upper.statfs()? })
    }

    fn caching(&self) -> Caching {
        self.lower.caching()
    }

    fn in_use(&self, names: Weak<dyn NameCache>) {
        // A name here holds an inode there.
        self.lower.in_use(names);
    }

    fn options(&self) -> String {
        format!(",lowerdir={},upperdir=memory", self.lower.source())
    }

    fn unmounted(&self) {
        let nodes = mem::take(&mut *self.shared.nodes.lock());
        drop(nodes);
        self.lower.unmounted();
    }
}

#[cfg(test)]
mod tests;
