//! The dentry cache: names that have been looked up, and where they lead.
//!
//! A [`Dentry`] is one name in one directory of one mounted file system, or the knowledge that there is
//! no such name. Its inode never changes: when a name comes to mean something else, another dentry
//! takes its place in the directory's map; a rename moves the dentry. A
//! directory's map keeps its children alive and children keep their directory alive; the circle is
//! broken by eviction (bounded, least recently used first, only what nobody holds) and when the last
//! mount of the file system goes.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hashbrown::HashMap;

use super::context::Cx;
use super::inode::{Caching, FileSystem, Inode, NameCache};
use super::types::MountFlags;
use crate::errno::Errno;
use crate::sync::{Mutex, SpinLock};
use crate::task::UserNamespace;

/// Names that a file system's cache may hold; above it, the oldest unused are dropped.
const MAX_CACHED: usize = 65_536;
/// Names looked at when one is to be dropped.
const SWEEP: usize = 32;
/// Names dropped when a file system asks for room.
const SHRINK: usize = 1024;

/// A file system in use: what all its mounts share.
pub struct Super {
    /// The file system.
    pub fs: Arc<dyn FileSystem>,
    /// Taken by renames from one directory to another, so that the shape of the tree stands still.
    pub rename: Mutex<()>,
    /// Whose capabilities count for it: who mounted it first.
    pub owner: UserNamespace,
    /// How names are cached.
    pub caching: Caching,
    /// Names by age, for eviction.
    ages: SpinLock<VecDeque<Weak<Dentry>>>,
    cached: AtomicUsize,
    /// Mounts of it.
    mounts: AtomicUsize,
    /// Flags that hold for all mounts of it.
    flags: AtomicU64,
    /// Files that are open for writing, through all its mounts.
    writers: AtomicUsize,
    root: SpinLock<Option<Arc<Dentry>>>,
}

impl Super {
    /// Takes a file system of the initial user namespace's into use.
    pub fn new(fs: Arc<dyn FileSystem>) -> Arc<Super> {
        Self::owned(fs, &UserNamespace::INITIAL)
    }

    /// Takes one of `owner`'s into use.
    pub fn owned(fs: Arc<dyn FileSystem>, owner: &UserNamespace) -> Arc<Super> {
        let root = fs.root();
        let sb = Arc::new(Super {
            owner: owner.clone(),
            caching: fs.caching(),
            fs,
            rename: Mutex::new(()),
            ages: SpinLock::new(VecDeque::new()),
            cached: AtomicUsize::new(0),
            mounts: AtomicUsize::new(0),
            flags: AtomicU64::new(0),
            writers: AtomicUsize::new(0),
            root: SpinLock::new(None),
        });
        let names: Weak<Super> = Arc::downgrade(&sb);
        sb.fs.in_use(names);
        *sb.root.lock() = Some(Dentry::new(&sb, None, b"/", Some(root)));
        sb
    }

    /// Its root; `None` after the last mount is gone.
    pub fn root(&self) -> Option<Arc<Dentry>> {
        self.root.lock().clone()
    }

    /// The flags that hold for all mounts of it, of [`MountFlags::SUPER`].
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::SeqCst))
    }

    /// Sets them. `EBUSY` where it would become read-only under files that are open for writing.
    pub fn change_flags(&self, flags: MountFlags) -> Result<(), Errno> {
        let mut new = flags & MountFlags::SUPER;
        new.set(MountFlags::RDONLY, new.contains(MountFlags::RDONLY) || self.fs.is_read_only());
        let old = self.flags.swap(new.bits(), Ordering::SeqCst);
        // Whoever opens a file counts first and looks at the flags then.
        let stricter = new.bits() & !old & MountFlags::RDONLY.bits() != 0;
        if stricter && self.writers.load(Ordering::SeqCst) != 0 {
            self.flags.store(old, Ordering::SeqCst);
            return Err(Errno::EBUSY);
        }
        Ok(())
    }

    /// A file is open for writing, until [`wrote`](Self::wrote).
    pub(super) fn writes(&self) {
        self.writers.fetch_add(1, Ordering::SeqCst);
    }

    /// Such a file is closed.
    pub(super) fn wrote(&self) {
        self.writers.fetch_sub(1, Ordering::SeqCst);
    }

    /// One more mount of it.
    pub(super) fn mounted(&self) {
        self.mounts.fetch_add(1, Ordering::SeqCst);
    }

    /// One mount less; with the last one the cache goes.
    pub(super) fn unmounted(&self) {
        if self.mounts.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        if let Some(root) = self.root.lock().take() {
            root.forget_below();
        }
        self.ages.lock().clear();
        self.fs.unmounted();
    }

    /// A dentry has come into its directory's map.
    fn added(&self, dentry: &Arc<Dentry>) {
        self.ages.lock().push_back(Arc::downgrade(dentry));
        if self.cached.load(Ordering::Relaxed) > MAX_CACHED {
            self.evict();
        }
    }

    /// Drops some names that nobody holds.
    fn evict(&self) {
        for _ in 0..SWEEP {
            self.evict_oldest();
        }
    }

    /// Drops the oldest name, unless somebody holds or has just used it; whether it did.
    fn evict_oldest(&self) -> bool {
        let Some(old) = self.ages.lock().pop_front() else { return false };
        let Some(dentry) = old.upgrade() else { return false };
        if dentry.used.swap(false, Ordering::Relaxed) || !dentry.evict() {
            if !dentry.is_unlinked() {
                self.ages.lock().push_back(old);
            }
            return false;
        }
        // Its drop may end in the file system: outside of every lock.
        drop(dentry);
        true
    }
}

impl NameCache for Super {
    fn shrink(&self) -> usize {
        // Twice around: the first time may only find that a name was used.
        let most = self.ages.lock().len().saturating_mul(2);
        let mut gone: usize = 0;
        for _ in 0..most {
            gone = gone.saturating_add(usize::from(self.evict_oldest()));
            if gone == SHRINK {
                break;
            }
        }
        gone
    }
}

/// Where a dentry is.
struct Place {
    /// The directory; `None` for the root of a file system.
    parent: Option<Arc<Dentry>>,
    name: Arc<[u8]>,
}

/// A name in a directory.
pub struct Dentry {
    /// The file system.
    pub sb: Arc<Super>,
    /// Held while names of this directory change, and while one that is not cached is looked up.
    pub dir: Mutex<()>,
    /// How many mounts stand on it, in all namespaces.
    pub mounted: AtomicU32,
    inode: Option<Arc<dyn Inode>>,
    /// The directory's [`Inode::names_version`] when this was last known to be true.
    seen: AtomicU64,
    place: SpinLock<Place>,
    children: SpinLock<HashMap<Arc<[u8]>, Arc<Dentry>>>,
    unlinked: AtomicBool,
    used: AtomicBool,
}

impl Dentry {
    /// One that is in no map.
    pub fn new(
        sb: &Arc<Super>,
        parent: Option<Arc<Dentry>>,
        name: &[u8],
        inode: Option<Arc<dyn Inode>>,
    ) -> Arc<Dentry> {
        Arc::new(Dentry {
            sb: sb.clone(),
            dir: Mutex::new(()),
            mounted: AtomicU32::new(0),
            inode,
            seen: AtomicU64::new(0),
            place: SpinLock::new(Place { parent, name: Arc::from(name) }),
            children: SpinLock::new(HashMap::new()),
            unlinked: AtomicBool::new(false),
            used: AtomicBool::new(true),
        })
    }

    /// One of a file that has no name, made in `dir`: O_TMPFILE shows it as the number of its inode.
    pub fn nameless(dir: &Arc<Dentry>, inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let name = alloc::format!("#{}", inode.ino());
        let dentry = Dentry::new(&dir.sb, Some(dir.clone()), name.as_bytes(), Some(inode));
        dentry.set_unlinked();
        dentry
    }

    /// Where it leads; `None`: there is nothing of this name.
    pub fn inode(&self) -> Option<&Arc<dyn Inode>> {
        self.inode.as_ref()
    }

    /// The directory that it is in; `None` for a root.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.lock().parent.clone()
    }

    /// Directory and name.
    pub fn place(&self) -> (Option<Arc<Dentry>>, Arc<[u8]>) {
        let place = self.place.lock();
        (place.parent.clone(), place.name.clone())
    }

    /// Its name.
    pub fn name(&self) -> Arc<[u8]> {
        self.place.lock().name.clone()
    }

    /// Whether its name has been removed.
    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    /// It never had a name (O_TMPFILE), or lost it.
    pub fn set_unlinked(&self) {
        self.unlinked.store(true, Ordering::Release);
    }

    /// Whether something is mounted on it.
    pub fn is_mountpoint(&self) -> bool {
        self.mounted.load(Ordering::SeqCst) != 0
    }

    /// Whether `self` is `other` or one of the directories above it.
    pub fn is_above(self: &Arc<Self>, other: &Arc<Dentry>) -> bool {
        let mut here = Some(other.clone());
        while let Some(dentry) = here {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            here = dentry.parent();
        }
        false
    }

    /// What the cache has under this name.
    pub fn cached(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        let found = self.children.lock().get(name).cloned()?;
        if !found.used.load(Ordering::Relaxed) {
            found.used.store(true, Ordering::Relaxed);
        }
        Some(found)
    }

    /// `ENOENT` where no name can be made: where names are not cached, none that is missing is more
    /// than missing, as Linux's procfs fails such a lookup whatever it is for.
    pub fn may_gain_names(&self) -> Result<(), Errno> {
        if self.sb.caching == Caching::None { Err(Errno::ENOENT) } else { Ok(()) }
    }

    /// The dentry called `name` in this directory, negative where there is none. `ahead` are the names
    /// that the caller will ask for next, below it.
    pub fn lookup(
        self: &Arc<Self>,
        cx: &Cx<'_>,
        name: &[u8],
        ahead: &[&[u8]],
    ) -> Result<Arc<Dentry>, Errno> {
        match self.trusted(cx, name)? {
            Some(dentry) => Ok(dentry),
            None => {
                let _changing = self.dir.lock();
                self.lookup_locked(cx, name, ahead)
            }
        }
    }

    /// As [`lookup`](Self::lookup), with `dir` held by the caller.
    pub fn lookup_locked(
        self: &Arc<Self>,
        cx: &Cx<'_>,
        name: &[u8],
        ahead: &[&[u8]],
    ) -> Result<Arc<Dentry>, Errno> {
        if let Some(dentry) = self.trusted(cx, name)? {
            return Ok(dentry);
        }
        if self.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let inode = self.inode().ok_or(Errno::ENOENT)?;
        if !ahead.is_empty() && inode.looks_ahead() {
            return self.lookup_ahead(cx, inode, name, ahead);
        }
        // Taken before the question: a change that comes while it is under way makes it old.
        let version = inode.names_version();
        let found = match inode.lookup(cx, name) {
            Ok(found) => Some(found),
            Err(Errno::ENOENT) => None,
            Err(e) => return Err(e),
        };
        Ok(self.insert_seen(name, found, version))
    }

    fn lookup_ahead(
        self: &Arc<Self>,
        cx: &Cx<'_>,
        inode: &Arc<dyn Inode>,
        name: &[u8],
        ahead: &[&[u8]],
    ) -> Result<Arc<Dentry>, Errno> {
        let mut names = Vec::with_capacity(ahead.len().saturating_add(1));
        names.push(name);
        names.extend_from_slice(ahead);
        let found = inode.lookup_many(cx, &names);
        let mut first: Option<Arc<Dentry>> = None;
        let mut parent = self.clone();
        let mut names = names.into_iter();
        for (inode, name) in found.inodes.into_iter().zip(&mut names) {
            // Below the first, somebody may have been faster; what is there stays.
            let dentry = match parent.cached(name) {
                Some(there) if first.is_some() => there,
                _ => parent.insert(name, Some(inode)),
            };
            first.get_or_insert_with(|| dentry.clone());
            parent = dentry;
        }
        if let (Some(Errno::ENOENT), Some(name)) = (found.error, names.next()) {
            if first.is_none() {
                return Ok(self.insert(name, None));
            }
            if parent.cached(name).is_none() {
                parent.insert(name, None);
            }
        }
        first.ok_or(found.error.unwrap_or(Errno::EIO))
    }

    /// What the cache has, if it still holds.
    fn trusted(&self, cx: &Cx<'_>, name: &[u8]) -> Result<Option<Arc<Dentry>>, Errno> {
        let Some(dentry) = self.cached(name) else { return Ok(None) };
        let inode = self.inode().ok_or(Errno::ENOENT)?;
        let version = match self.sb.caching {
            Caching::None => return Ok(Some(dentry)),
            Caching::Exclusive => {
                let version = inode.names_version();
                if dentry.seen.load(Ordering::Relaxed) == version {
                    return Ok(Some(dentry));
                }
                version
            }
            Caching::Shared => 0,
        };
        // What is mounted on hides whatever happens to the name.
        if dentry.is_mountpoint() || inode.revalidate(cx, name, dentry.inode())? {
            dentry.seen.store(version, Ordering::Relaxed);
            return Ok(Some(dentry));
        }
        self.forget(name, &dentry);
        Ok(None)
    }

    /// Enters what `name` means now into the map, instead of what was there; `dir` is held.
    pub fn insert(self: &Arc<Self>, name: &[u8], inode: Option<Arc<dyn Inode>>) -> Arc<Dentry> {
        let version = self.inode().map_or(0, |i| i.names_version());
        self.insert_seen(name, inode, version)
    }

    fn insert_seen(
        self: &Arc<Self>,
        name: &[u8],
        inode: Option<Arc<dyn Inode>>,
        version: u64,
    ) -> Arc<Dentry> {
        let dentry = Dentry::new(&self.sb, Some(self.clone()), name, inode);
        dentry.seen.store(version, Ordering::Relaxed);
        if self.sb.caching != Caching::None {
            self.enter(&dentry);
        }
        dentry
    }

    fn enter(self: &Arc<Self>, dentry: &Arc<Dentry>) {
        let old = self.children.lock().insert(dentry.name(), dentry.clone());
        match old {
            Some(old) => old.unlinked.store(true, Ordering::Release),
            None => {
                self.sb.cached.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.sb.added(dentry);
    }

    /// Makes sure that walks meet this very dentry, also where names are not cached: something is
    /// going to be mounted on it.
    pub fn pin(self: &Arc<Self>) {
        let mut here = self.clone();
        while let Some(parent) = here.parent() {
            if parent.cached(&here.name()).is_some() {
                break;
            }
            parent.enter(&here);
            here = parent;
        }
    }

    /// `dentry`, called `name` here, has been removed; `dir` is held.
    pub fn removed(self: &Arc<Self>, name: &[u8], dentry: &Arc<Dentry>) {
        dentry.unlinked.store(true, Ordering::Release);
        self.forget(name, dentry);
        dentry.forget_below();
    }

    /// Takes `dentry` out of the map, if it is still there.
    fn forget(&self, name: &[u8], dentry: &Arc<Dentry>) {
        let mut children = self.children.lock();
        if children.get(name).is_some_and(|c| Arc::ptr_eq(c, dentry)) {
            let gone = children.remove(name);
            drop(children);
            self.sb.cached.fetch_sub(1, Ordering::Relaxed);
            drop(gone);
        }
    }

    /// Others have changed what `name` means here: the next walk asks the file system.
    pub fn invalidate(&self, name: &[u8]) {
        if let Some(dentry) = self.children.lock().get(name).cloned() {
            self.forget(name, &dentry);
        }
    }

    /// Others may have changed anything here.
    pub fn invalidate_all(&self) {
        let gone = mem::take(&mut *self.children.lock());
        self.sb.cached.fetch_sub(gone.len(), Ordering::Relaxed);
    }

    /// `dentry`, called `name` here, is called `to_name` in `to` now; both are locked.
    pub fn moved(self: &Arc<Self>, dentry: &Arc<Dentry>, to: &Arc<Dentry>, to_name: &[u8]) {
        let from = dentry.name();
        self.forget(&from, dentry);
        let old = {
            let mut place = dentry.place.lock();
            place.name = Arc::from(to_name);
            place.parent.replace(to.clone())
        };
        drop(old);
        to.enter(dentry);
    }

    /// The two, of these directories, have changed places; both directories are locked.
    pub fn exchanged(
        self: &Arc<Self>,
        dentry: &Arc<Dentry>,
        to: &Arc<Dentry>,
        other: &Arc<Dentry>,
    ) {
        let (name, other_name) = (dentry.name(), other.name());
        self.forget(&name, dentry);
        to.forget(&other_name, other);
        for (dentry, parent, name) in [(dentry, to, other_name), (other, self, name)] {
            let old = {
                let mut place = dentry.place.lock();
                place.name = name;
                place.parent.replace(parent.clone())
            };
            drop(old);
            parent.enter(dentry);
        }
    }

    /// Leaves its directory's map if nobody else holds it.
    fn evict(self: &Arc<Self>) -> bool {
        let (Some(parent), name) = self.place() else { return false };
        let mut children = parent.children.lock();
        // The map's reference and the caller's; new ones come out of the map only, which is locked.
        if Arc::strong_count(self) > 2
            || self.mounted.load(Ordering::SeqCst) > 0
            || !children.get(&name).is_some_and(|c| Arc::ptr_eq(c, self))
        {
            return false;
        }
        let gone = children.remove(&name);
        drop(children);
        self.sb.cached.fetch_sub(1, Ordering::Relaxed);
        drop(gone);
        true
    }

    /// Forgets everything below. Not recursive: an application decides how deep that is.
    fn forget_below(&self) {
        let mut all: Vec<Arc<Dentry>> = Vec::new();
        let take = |d: &Dentry, all: &mut Vec<Arc<Dentry>>| {
            let gone = mem::take(&mut *d.children.lock());
            d.sb.cached.fetch_sub(gone.len(), Ordering::Relaxed);
            all.extend(gone.into_values());
        };
        take(self, &mut all);
        let mut at = 0;
        while let Some(dentry) = all.get(at).cloned() {
            take(&dentry, &mut all);
            at = at.saturating_add(1);
        }
        // Leaves first, so that no drop runs up a long chain.
        while all.pop().is_some() {}
    }
}

impl Drop for Dentry {
    fn drop(&mut self) {
        // The last child of a long chain of directories would drop them one inside the other.
        let mut parent = self.place.get_mut().parent.take();
        while let Some(dentry) = parent {
            parent = match Arc::into_inner(dentry) {
                Some(mut last) => last.place.get_mut().parent.take(),
                None => None,
            };
        }
    }
}
