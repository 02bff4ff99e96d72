//! Mounts and mount namespaces (mount_namespaces(7)).
//!
//! - Here: what a [`Mount`] and a [`MountNamespace`] are, and what is asked of them.
//! - [`sharing`]: peer groups, and how a mount that comes or goes spreads along them.
//! - [`tree`]: every change of the tree: mount, bind, move, umount, pivot_root, a namespace's copy.
//!
//! A mount knows its place (parent mount and dentry) and what stands on it, by dentry: at most one mount
//! stands on one dentry of one mount, the next goes on that one's root. Both are read by path walks under a
//! spinlock of the mount, and change only under [`CHANGING`].

mod sharing;
mod tree;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::dentry::{Dentry, Super};
use super::file::File;
use super::inode::FileOps;
use super::path::Path;
use super::types::{Events, MountFlags, OpenFlags};
use crate::errno::Errno;
use crate::sync::{Mutex, SpinLock, WaitQueue};
use crate::task::{NamespaceId, UserNamespace};

pub use sharing::{MS_REC, PeerGroup, Propagation, Sharing};
pub use tree::{MountPairs, detach_from};

/// Most mounts of a namespace, unless /proc/sys/fs/mount-max says otherwise.
pub static MOUNT_MAX: AtomicUsize = AtomicUsize::new(100_000);

/// Held while mounts come, go or change places, in all namespaces (Linux's namespace_sem): what happens in one
/// spreads to others. Taken under directories' locks at most.
static CHANGING: Mutex<()> = Mutex::new(());

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Mounts by a number of whoever keeps them, and their ids.
type Mounts = BTreeMap<(usize, u64), Weak<Mount>>;

/// All mounts that stand somewhere, by the addresses of the dentries they stand on.
static POINTS: SpinLock<Mounts> = SpinLock::new(Mounts::new());

/// What tells dentries apart. Who stands on one keeps it alive.
fn address(dentry: &Arc<Dentry>) -> usize {
    Arc::as_ptr(dentry).addr()
}

/// A file system, or a part of it, at a place in the tree.
pub struct Mount {
    /// As in /proc/PID/mountinfo.
    pub id: u64,
    /// The file system.
    pub sb: Arc<Super>,
    /// What of it is seen here.
    pub root: Arc<Dentry>,
    /// What /proc/PID/mounts shows as the source.
    pub source: String,
    flags: AtomicU64,
    /// Flags that stay as they are (MNT_LOCK_READONLY and its like).
    locks: AtomicU64,
    /// It stays where it is, over what it hides (MNT_LOCKED).
    locked: AtomicBool,
    /// Files that are open for writing through it.
    writers: AtomicUsize,
    /// umount2(MNT_EXPIRE) has come by, and nobody since.
    expiring: AtomicBool,
    /// It is being taken away, with those on and like it.
    leaving: AtomicBool,
    /// Where it is mounted; `None` for the root of a namespace, and after umount.
    place: SpinLock<Option<Path>>,
    /// What is mounted on it, by the address of the dentry.
    children: SpinLock<BTreeMap<usize, Arc<Mount>>>,
    /// What those of them stand on that went with it, and still hide that.
    hidden: SpinLock<Vec<Arc<Dentry>>>,
    /// The namespace that it is in.
    namespace: SpinLock<Option<Arc<NamespaceState>>>,
    sharing: SpinLock<Sharing>,
}

impl Mount {
    /// A mount that is nowhere yet, and private. `ENOENT` where the file system has been given up.
    pub fn new(
        sb: &Arc<Super>,
        root: Arc<Dentry>,
        flags: MountFlags,
        source: String,
    ) -> Arc<Mount> {
        sb.mounted();
        Arc::new(Mount {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            sb: sb.clone(),
            root,
            source,
            flags: AtomicU64::new(flags.bits()),
            locks: AtomicU64::new(0),
            locked: AtomicBool::new(false),
            writers: AtomicUsize::new(0),
            expiring: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            place: SpinLock::new(None),
            children: SpinLock::new(BTreeMap::new()),
            hidden: SpinLock::new(Vec::new()),
            namespace: SpinLock::new(None),
            sharing: SpinLock::new(Sharing::default()),
        })
    }

    /// Its own flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::SeqCst))
    }

    /// Sets its flags, whoever uses it.
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::SeqCst);
    }

    /// What a mount is in a namespace whose owner did not make it: it keeps its access times' flags and those that
    /// take rights away, and if it `hides` something also its place (lock_mnt_tree()).
    fn lock(&self, hides: bool) {
        const RIGHTS: MountFlags = MountFlags::RDONLY
            .union(MountFlags::NODEV)
            .union(MountFlags::NOSUID)
            .union(MountFlags::NOEXEC);
        let locks = self.flags() & RIGHTS | MountFlags::ATIME;
        self.locks.fetch_or(locks.bits(), Ordering::SeqCst);
        if hides {
            self.locked.store(true, Ordering::SeqCst);
        }
    }

    /// The flags that it keeps.
    pub fn locks(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.locks.load(Ordering::SeqCst))
    }

    /// Whether it must stay where it is.
    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::SeqCst)
    }

    /// `EPERM` where flags that it keeps would be others (can_change_locked_flags()).
    pub fn check_locks(&self, new: MountFlags) -> Result<(), Errno> {
        let (locks, old) = (self.locks(), self.flags());
        let rights = locks - MountFlags::ATIME;
        let same_times = new & MountFlags::ATIME == old & MountFlags::ATIME;
        match new.contains(rights) && (same_times || !locks.contains(MountFlags::ATIME)) {
            true => Ok(()),
            false => Err(Errno::EPERM),
        }
    }

    /// Sets its flags. `EBUSY` where it would become read-only under files that are open for writing.
    pub fn change_flags(&self, flags: MountFlags) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        self.check_locks(flags)?;
        if !self.try_flags(flags) {
            return Err(Errno::EBUSY);
        }
        self.changed();
        Ok(())
    }

    /// Sets its flags, unless it would become read-only under files that are open for writing; whether it did.
    fn try_flags(&self, flags: MountFlags) -> bool {
        let old = self.flags();
        self.set_flags(flags);
        // Whoever opens a file counts first and looks at the flags then.
        let stricter = flags.contains(MountFlags::RDONLY) && !old.contains(MountFlags::RDONLY);
        let kept = !stricter || self.writers.load(Ordering::SeqCst) == 0;
        if !kept {
            self.set_flags(old);
        }
        kept
    }

    /// Its flags and those of its file system.
    pub fn all_flags(&self) -> MountFlags {
        self.flags() | self.sb.flags()
    }

    /// `EROFS` where nothing may be written through it.
    pub fn check_write(&self) -> Result<(), Errno> {
        match self.all_flags().contains(MountFlags::RDONLY) {
            true => Err(Errno::EROFS),
            false => Ok(()),
        }
    }

    /// A file is open for writing through it, until [`wrote`](Self::wrote).
    pub fn writes(&self) {
        self.writers.fetch_add(1, Ordering::SeqCst);
        self.sb.writes();
    }

    /// Such a file is closed.
    pub fn wrote(&self) {
        self.writers.fetch_sub(1, Ordering::SeqCst);
        self.sb.wrote();
    }

    /// A path walk uses it, so that it does not expire.
    pub fn used(&self) {
        if self.expiring.load(Ordering::Relaxed) {
            self.expiring.store(false, Ordering::Relaxed);
        }
    }

    /// Where it is mounted.
    pub fn place(&self) -> Option<Path> {
        self.place.lock().clone()
    }

    /// What is mounted on `dentry` here.
    pub fn mounted_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        self.children.lock().get(&address(dentry)).cloned()
    }

    /// What is mounted on it, oldest first.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        let mut all: Vec<Arc<Mount>> = self.children.lock().values().cloned().collect();
        all.sort_unstable_by_key(|m| m.id);
        all
    }

    /// Whether it is in this namespace.
    pub fn is_in(&self, namespace: &MountNamespace) -> bool {
        self.namespace.lock().as_ref().is_some_and(|s| Arc::ptr_eq(s, &namespace.state))
    }

    /// The namespace that it is in; `None` after umount.
    fn namespace(&self) -> Option<Arc<NamespaceState>> {
        self.namespace.lock().clone()
    }

    /// Tells who watches its namespace.
    fn changed(&self) {
        if let Some(namespace) = self.namespace() {
            namespace.changed();
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // What still stands on it goes too, one after the other, however many stand on each other.
        let mut next: Vec<Arc<Mount>> =
            mem::take(&mut *self.children.lock()).into_values().collect();
        while let Some(child) = next.pop().map(Arc::into_inner) {
            if let Some(child) = child {
                next.extend(mem::take(&mut *child.children.lock()).into_values());
            }
        }
        for dentry in mem::take(&mut *self.hidden.lock()) {
            dentry.mounted.fetch_sub(1, Ordering::SeqCst);
        }
        self.sb.unmounted();
    }
}

/// What the mounts of a namespace know of it.
pub struct NamespaceState {
    /// Whether it is one that no task is in: a tree that a descriptor holds (open_tree(2), fsmount(2)).
    anonymous: bool,
    /// Whose capabilities count for it.
    owner: UserNamespace,
    /// Its mounts, and those that are about to be.
    count: AtomicUsize,
    /// Changes so far, for those who poll /proc/PID/mounts.
    event: AtomicU64,
    queue: WaitQueue,
}

impl NamespaceState {
    fn new(anonymous: bool, owner: &UserNamespace) -> Arc<NamespaceState> {
        Arc::new(NamespaceState {
            anonymous,
            owner: owner.clone(),
            count: AtomicUsize::new(0),
            event: AtomicU64::new(0),
            queue: WaitQueue::new(),
        })
    }

    /// How often the tree has changed.
    pub fn event(&self) -> u64 {
        self.event.load(Ordering::SeqCst)
    }

    /// Where to wait for changes.
    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn changed(&self) {
        self.event.fetch_add(1, Ordering::SeqCst);
        self.queue.wake((Events::ERR | Events::PRI).bits());
    }

    /// Room for `n` more. `ENOSPC` at the limit.
    fn reserve(&self, n: usize) -> Result<(), Errno> {
        let most = MOUNT_MAX.load(Ordering::Relaxed);
        let more = |now: usize| now.checked_add(n).filter(|sum| *sum <= most);
        match self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(()),
            Err(_) => Err(Errno::ENOSPC),
        }
    }

    fn release(&self, n: usize) {
        self.count.fetch_sub(n, Ordering::Relaxed);
    }
}

/// The tree of mounts that a set of tasks sees; or, anonymous, one that nobody is in.
pub struct MountNamespace {
    /// Its inode number, as /proc/PID/ns/mnt shows it.
    pub id: NamespaceId,
    /// Whose capabilities count for it.
    pub owner: UserNamespace,
    root: Arc<Mount>,
    state: Arc<NamespaceState>,
}

impl MountNamespace {
    /// One of the initial user namespace's with this root, which is nowhere yet.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        Self::owned(root, &UserNamespace::INITIAL)
    }

    /// The same, of `owner`'s.
    pub fn owned(root: Arc<Mount>, owner: &UserNamespace) -> Arc<MountNamespace> {
        Self::with(root, owner, false)
    }

    /// A tree that is nowhere, kept by whoever has this, one of `owner`'s.
    pub fn anonymous(root: Arc<Mount>, owner: &UserNamespace) -> Arc<MountNamespace> {
        Self::with(root, owner, true)
    }

    fn with(root: Arc<Mount>, owner: &UserNamespace, anonymous: bool) -> Arc<MountNamespace> {
        let state = NamespaceState::new(anonymous, owner);
        for mount in tree::below(&root) {
            state.count.fetch_add(1, Ordering::Relaxed);
            *mount.namespace.lock() = Some(state.clone());
        }
        Arc::new(MountNamespace { id: NamespaceId::default(), owner: owner.clone(), root, state })
    }

    /// The root mount: below a container's it is one that nobody sees, as Linux's initial one.
    pub fn root(&self) -> &Arc<Mount> {
        &self.root
    }

    /// The topmost mount at the root: where tasks that enter it stand.
    pub fn top(&self) -> Path {
        Path::root_of(&self.root).topmost()
    }

    /// All mounts, in the order in which they were made.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        let mut all = tree::below(&self.root);
        all.sort_unstable_by_key(|m| m.id);
        all
    }

    /// What changes with its tree.
    pub fn state(&self) -> &Arc<NamespaceState> {
        &self.state
    }

    /// mount_setattr(2): changes flags and propagation of the mount whose root `at` is, one of this namespace or
    /// the root of an anonymous one, and with `deep` of all on it; of all or none. `EBUSY` where one would become
    /// read-only under files that are open for writing, `EPERM` where one keeps its flags.
    pub fn set_attributes(&self, at: &Path, deep: bool, change: &Change) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        let mount = &at.mount;
        let namespace = mount.namespace().ok_or(Errno::EINVAL)?;
        let ours = match mount.place() {
            Some(_) => mount.is_in(self),
            None => namespace.anonymous,
        };
        if !ours || !at.is_mount_root() {
            return Err(Errno::EINVAL);
        }
        let all = if deep { tree::below(mount) } else { Vec::from([mount.clone()]) };
        let mut done: Vec<(&Arc<Mount>, MountFlags)> = Vec::new();
        for mount in &all {
            let old = mount.flags();
            done.push((mount, old));
            let new = (old - change.clear) | change.set;
            let refused = match mount.check_locks(new) {
                Ok(()) if mount.try_flags(new) => None,
                Ok(()) => Some(Errno::EBUSY),
                Err(e) => Some(e),
            };
            if let Some(e) = refused {
                for (mount, old) in done {
                    mount.set_flags(old);
                }
                return Err(e);
            }
        }
        if let Some(kind) = change.propagation {
            for mount in &all {
                mount.set_propagation(kind);
            }
        }
        namespace.changed();
        Ok(())
    }

    /// Whether something of it stands on `dentry`.
    pub fn stands_on(&self, dentry: &Arc<Dentry>) -> bool {
        tree::standing_on(dentry).iter().any(|m| m.is_in(self))
    }
}

/// What mount_setattr(2) changes.
pub struct Change {
    /// Flags to be set, after those to be cleared are.
    pub set: MountFlags,
    /// Flags to be cleared.
    pub clear: MountFlags,
    /// Whom it is to tell and hear.
    pub propagation: Option<Propagation>,
}

/// The operations of an O_PATH description that keeps a tree which is nowhere: none.
struct TreeFile {
    _tree: Arc<MountNamespace>,
}

impl FileOps for TreeFile {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The root of a tree that is nowhere, as an O_PATH description: with it the tree goes, unless it has been moved
/// somewhere.
pub fn tree_file(tree: Arc<MountNamespace>) -> Result<Arc<File>, Errno> {
    let path = Path::root_of(tree.root());
    let inode = path.inode()?.clone();
    File::new(Box::new(TreeFile { _tree: tree }), inode, Some(path), OpenFlags::PATH)
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        // An anonymous one's tree may have gone elsewhere.
        if self.root.is_in(self) {
            tree::dissolve(&self.root);
        }
    }
}
