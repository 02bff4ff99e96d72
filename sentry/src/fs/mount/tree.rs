//! Changes of trees of mounts.
//!
//! All of it under [`CHANGING`]. Mounts that a change takes away are let go of after it: a file system's end may
//! wait for the host.

use alloc::collections::BTreeSet;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::sharing::{self, Propagation, Sharing, Spread};
use super::{CHANGING, Mount, MountNamespace, POINTS, address};
use crate::errno::Errno;
use crate::fs::dentry::Dentry;
use crate::fs::nsfs;
use crate::fs::path::Path;
use crate::fs::types::{FileType, MountFlags};
use crate::task::UserNamespace;

/// Mounts of one tree, each with what stands for it in another.
pub type MountPairs = Vec<(Arc<Mount>, Arc<Mount>)>;

/// How a mount is copied (CL_SLAVE and the others of Linux's clone_mnt()).
#[derive(Clone, Copy)]
pub(super) struct Copying {
    /// The copy of a shared one is its slave, not its peer.
    slave: bool,
    /// The copy is shared.
    shared: bool,
    /// Unbindable ones are copied too.
    all: bool,
}

impl Copying {
    /// As it is.
    const PLAIN: Copying = Copying { slave: false, shared: false, all: false };
    /// For a peer of the place.
    pub(super) const PEER: Copying = Copying { shared: true, ..Self::PLAIN };
    /// For a slave of the place.
    pub(super) const SLAVE: Copying = Copying { slave: true, ..Self::PLAIN };
    /// For a slave of the place that has peers.
    pub(super) const SHARED_SLAVE: Copying = Copying { shared: true, ..Self::SLAVE };
    /// For a new namespace.
    const NAMESPACE: Copying = Copying { all: true, ..Self::PLAIN };
}

fn is_dir(dentry: &Dentry) -> bool {
    dentry.inode().is_some_and(|i| i.kind() == FileType::Directory)
}

/// `mount` and all on it, each before those on it.
pub(super) fn below(mount: &Arc<Mount>) -> Vec<Arc<Mount>> {
    let mut all = Vec::new();
    let mut next = Vec::from([mount.clone()]);
    while let Some(mount) = next.pop() {
        next.extend(mount.children().into_iter().rev());
        all.push(mount);
    }
    all
}

/// Whether `from` is at or below `root`.
pub(super) fn is_reachable(from: &Path, root: &Path) -> bool {
    let mut here = from.clone();
    while !Arc::ptr_eq(&here.mount, &root.mount) {
        match here.mount.place() {
            Some(place) => here = place,
            None => return false,
        }
    }
    root.dentry.is_above(&here.dentry)
}

/// Whether something that must stay stands on the mount of `from`, at or below it (has_locked_children()).
pub(super) fn hides_something(from: &Path) -> bool {
    let below = |m: &Arc<Mount>| m.place().is_some_and(|at| from.dentry.is_above(&at.dentry));
    from.mount.children().iter().any(|m| m.is_locked() && below(m))
}

/// The mounts that stand on `dentry`, in all namespaces.
pub(super) fn standing_on(dentry: &Arc<Dentry>) -> Vec<Arc<Mount>> {
    let address = address(dentry);
    let points = POINTS.lock();
    points.range((address, 0)..=(address, u64::MAX)).filter_map(|(_, m)| m.upgrade()).collect()
}

/// The name of `dentry` is gone: what stood on it, in other namespaces than that of who removed it, goes too.
pub fn detach_from(dentry: &Arc<Dentry>) {
    if !dentry.is_mountpoint() {
        return;
    }
    let mut gone = Vec::new();
    let _changing = CHANGING.lock();
    for mount in standing_on(dentry) {
        gone.extend(remove(&mount, false));
    }
}

/// Whether a place is there for something to be mounted on, and nothing else (sysfs_create_mount_point()).
fn is_made_for(at: &Path) -> bool {
    let (parent, name) = at.dentry.place();
    let above = parent.map(|p| p.place().1);
    at.mount.sb.fs.name() == "sysfs" && *name == *b"cgroup" && above.is_some_and(|p| *p == *b"fs")
}

/// A dentry on which something is going to be mounted: whoever removes its name waits until it is.
struct Point(Path);

impl Point {
    /// On top of what is at `at`. `ENOENT` where its name is gone.
    fn new(at: &Path) -> Result<Point, Errno> {
        let at = at.clone().topmost();
        at.dentry.mounted.fetch_add(1, Ordering::SeqCst);
        let point = Point(at);
        if point.0.dentry.is_unlinked() { Err(Errno::ENOENT) } else { Ok(point) }
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        self.0.dentry.mounted.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Mount {
    fn attach(self: &Arc<Self>, at: &Path) {
        at.dentry.pin();
        at.dentry.mounted.fetch_add(1, Ordering::SeqCst);
        POINTS.lock().insert((address(&at.dentry), self.id), Arc::downgrade(self));
        *self.place.lock() = Some(at.clone());
        at.mount.children.lock().insert(address(&at.dentry), self.clone());
    }

    fn detach(self: &Arc<Self>) -> Option<Path> {
        let place = self.place.lock().take()?;
        POINTS.lock().remove(&(address(&place.dentry), self.id));
        let child = place.mount.children.lock().remove(&address(&place.dentry));
        drop(child);
        place.dentry.mounted.fetch_sub(1, Ordering::SeqCst);
        Some(place)
    }

    /// Takes it away together with what it stands on, so that it still hides what is under it from whoever has
    /// that.
    fn leave_on(&self) {
        let Some(place) = self.place.lock().take() else { return };
        POINTS.lock().remove(&(address(&place.dentry), self.id));
        place.mount.hidden.lock().push(place.dentry);
    }

    /// A copy of its part below `root`, in no place yet.
    fn copy(&self, root: &Arc<Dentry>, how: Copying) -> Arc<Mount> {
        let new = Mount::new(&self.sb, root.clone(), self.flags(), self.source.clone());
        new.locks.store(self.locks().bits(), Ordering::SeqCst);
        new.locked.store(self.is_locked(), Ordering::SeqCst);
        let old = self.sharing();
        new.set_sharing(match old.peers {
            peers @ Some(_) if how.slave => Sharing { master: peers, ..Sharing::default() },
            peers => Sharing { peers, ..old },
        });
        if how.shared {
            new.share();
        }
        new
    }

    /// Whether it or one on it may not be copied.
    fn has_unbindable(self: &Arc<Self>) -> bool {
        below(self).iter().any(|m| m.sharing().unbindable)
    }
}

/// Copies of what `from` shows and of all mounted there, in no place yet.
fn copy_tree(from: &Path, how: Copying) -> MountPairs {
    let top = from.mount.copy(&from.dentry, how);
    let mut pairs = MountPairs::from([(from.mount.clone(), top.clone())]);
    let mut next = Vec::new();
    let on = |old: &Arc<Mount>, new: &Arc<Mount>, next: &mut Vec<(Arc<Mount>, Path)>| {
        for child in old.children().into_iter().rev() {
            if let Some(place) = child.place() {
                next.push((child, Path { mount: new.clone(), dentry: place.dentry }));
            }
        }
    };
    on(&from.mount, &top, &mut next);
    next.retain(|(_, place)| from.dentry.is_above(&place.dentry));
    while let Some((old, place)) = next.pop() {
        if old.sharing().unbindable && !how.all {
            continue;
        }
        // A new namespace has no files of others, lest two keep each other alive.
        if how.all && old.root.inode().is_some_and(|i| nsfs::mount_namespace_of(&**i).is_some()) {
            continue;
        }
        let new = old.copy(&old.root, how);
        new.attach(&place);
        on(&old, &new, &mut next);
        pairs.push((old, new));
    }
    pairs
}

/// A copy of the tree `from` that is to stand on `to`, in whose namespace room is kept for it.
pub(super) fn copied(
    from: &Arc<Mount>,
    how: Copying,
    to: &Arc<Mount>,
) -> Result<Arc<Mount>, Errno> {
    let namespace = to.namespace().ok_or(Errno::EINVAL)?;
    let pairs = copy_tree(&Path::root_of(from), how);
    let (_, top) = pairs.first().ok_or(Errno::EINVAL)?;
    if let Err(e) = namespace.reserve(pairs.len()) {
        take_apart(below(top));
        return Err(e);
    }
    Ok(top.clone())
}

/// Puts the tree `source` on `at`, where nothing is, and copies of it wherever that spreads. `moving`: it is
/// elsewhere in the namespace now. `ENOENT` where the name of its root is gone.
fn graft(source: &Arc<Mount>, at: &Path, moving: bool) -> Result<(), Errno> {
    if source.root.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let namespace = at.mount.namespace().ok_or(Errno::EINVAL)?;
    let tree = below(source);
    if !moving {
        namespace.reserve(tree.len())?;
    }
    let mut copies: Vec<Spread> = Vec::new();
    if at.mount.is_shared() {
        let private: Vec<_> = tree.iter().filter(|m| !m.is_shared()).collect();
        for mount in &private {
            mount.share();
        }
        if let Err(e) = sharing::spread(source, at, &mut copies) {
            for (copy, place) in copies {
                let copy = below(&copy);
                if let Some(namespace) = place.mount.namespace() {
                    namespace.release(copy.len());
                }
                take_apart(copy);
            }
            for mount in private {
                mount.unshare();
            }
            if !moving {
                namespace.release(tree.len());
            }
            return Err(e);
        }
    }
    if moving {
        source.detach();
    }
    source.attach(at);
    source.locked.store(false, Ordering::SeqCst);
    let here = namespace.owner.clone();
    for mount in tree {
        *mount.namespace.lock() = Some(namespace.clone());
    }
    namespace.changed();
    for (copy, place) in copies {
        copy.locked.store(false, Ordering::SeqCst);
        let Some(namespace) = place.mount.namespace() else { continue };
        // What is there already comes to stand on the new one.
        let there = place.mount.mounted_at(&place.dentry);
        if let Some(there) = &there {
            there.detach();
        }
        copy.attach(&place);
        let stranger = namespace.owner != here;
        for (n, mount) in below(&copy).into_iter().enumerate() {
            if stranger {
                mount.lock(n != 0);
            }
            *mount.namespace.lock() = Some(namespace.clone());
        }
        if let Some(there) = there {
            there.attach(&Path::root_of(&copy).topmost());
        }
        namespace.changed();
    }
    Ok(())
}

/// Takes `mount` and all on it away, and with `spreads` what stands for them where that spreads. They come back,
/// to be let go of when [`CHANGING`] is free again.
fn remove(mount: &Arc<Mount>, spreads: bool) -> Vec<Arc<Mount>> {
    let mut gone = below(mount);
    for mount in &gone {
        mount.leaving.store(true, Ordering::Relaxed);
    }
    let leaving = |m: &Arc<Mount>| m.leaving.load(Ordering::Relaxed);
    let mut like: Vec<Arc<Mount>> = Vec::new();
    // What stood on something that goes comes down to where that stood.
    let mut sinking: Vec<Arc<Mount>> = Vec::new();
    for mount in gone.iter().rev().filter(|_| spreads) {
        let Some(place) = mount.place() else { continue };
        for parent in sharing::receivers(&place.mount).iter().filter_map(Weak::upgrade) {
            let Some(other) = parent.mounted_at(&place.dentry).filter(|m| !leaving(m)) else {
                continue;
            };
            let over = other.mounted_at(&other.root).filter(|m| !leaving(m));
            let on_it = other.children();
            let kept = on_it.iter().filter(|m| !leaving(m)).count();
            if kept <= usize::from(over.is_some()) {
                other.leaving.store(true, Ordering::Relaxed);
                sinking.extend(over);
                like.push(other);
            }
        }
    }
    let mut sunk = Vec::new();
    for mount in sinking.into_iter().filter(|m| !leaving(m)) {
        let mut place = mount.place();
        while let Some(at) = place.take_if(|at| leaving(&at.mount)) {
            place = at.mount.place();
        }
        mount.detach();
        sunk.extend(place.map(|place| (mount, place)));
    }
    gone.append(&mut like);
    take_apart(gone.clone());
    for (mount, place) in sunk {
        mount.attach(&place);
    }
    gone
}

/// Takes these mounts out of their places, groups and namespaces.
fn take_apart(mounts: Vec<Arc<Mount>>) {
    let ids: BTreeSet<u64> = mounts.iter().map(|m| m.id).collect();
    for mount in &mounts {
        // What is hidden from whoever is in the namespace stays so when it is gone.
        let goes_along = |place: Path| mount.is_locked() && ids.contains(&place.mount.id);
        match mount.place().is_some_and(goes_along) {
            true => mount.leave_on(),
            false => drop(mount.detach()),
        }
        mount.set_propagation(Propagation::Private);
        let namespace = mount.namespace.lock().take();
        if let Some(namespace) = namespace {
            namespace.release(1);
            namespace.changed();
        }
    }
}

/// The end of a tree that nobody is in.
pub(super) fn dissolve(root: &Arc<Mount>) {
    let all = below(root);
    let changing = CHANGING.lock();
    take_apart(below(root));
    drop(changing);
    drop(all);
}

/// Whether a umount of `mount`, to which the caller has one reference, must be refused: it is in use here, or
/// where it would spread.
fn is_busy(mount: &Arc<Mount>) -> bool {
    // The parent's reference and the caller's.
    if !mount.children.lock().is_empty() || Arc::strong_count(mount) > 2 {
        return true;
    }
    let Some(place) = mount.place() else { return false };
    let others = sharing::receivers(&place.mount);
    others.iter().filter_map(Weak::upgrade).any(|parent| {
        let Some(other) = parent.mounted_at(&place.dentry) else { return false };
        let on_it = other.children.lock().len();
        let over = usize::from(other.mounted_at(&other.root).is_some());
        // One that has something on it stays where it is, and hinders nobody.
        on_it == over && Arc::strong_count(&other) > 2 + over
    })
}

impl MountNamespace {
    /// Where something may be mounted: on top of what is at `at`, which must be of this namespace (`EINVAL`).
    fn point(&self, at: &Path) -> Result<Point, Errno> {
        let point = Point::new(at)?;
        if point.0.mount.is_in(self) { Ok(point) } else { Err(Errno::EINVAL) }
    }

    /// Puts a new mount on `at`. `ENOTDIR` where one is a directory and the other is not; `EBUSY` where the same
    /// is mounted there already.
    pub fn mount(&self, mount: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        let point = self.point(at)?;
        let at = &point.0;
        if Arc::ptr_eq(&at.mount.sb, &mount.sb) && at.is_mount_root() {
            return Err(Errno::EBUSY);
        }
        if mount.root.inode().is_some_and(|i| i.kind() == FileType::Symlink) {
            return Err(Errno::EINVAL);
        }
        if is_dir(&mount.root) != is_dir(&at.dentry) {
            return Err(Errno::ENOTDIR);
        }
        graft(mount, at, false)
    }

    /// Copies of what `from` shows, and with `deep` of what is mounted there, as a tree that is nowhere
    /// (MS_BIND, MS_REC; open_tree(2)). `EINVAL` where it is unbindable, or not of this namespace.
    pub fn bind(&self, from: &Path, deep: bool) -> Result<Arc<MountNamespace>, Errno> {
        let _changing = CHANGING.lock();
        // Of what is not mounted here, files that stand for namespaces only; and no older one goes into a newer.
        let inode = from.inode()?;
        let older = nsfs::mount_namespace_of(&**inode).is_some_and(|id| id <= self.id.0);
        if from.mount.sharing().unbindable
            || older
            || !from.mount.is_in(self) && !nsfs::is_here(&**inode)
        {
            return Err(Errno::EINVAL);
        }
        // What a locked one hides must not come to light in the copy.
        if !deep && hides_something(from) {
            return Err(Errno::EINVAL);
        }
        let left_out = |m: &Arc<Mount>| {
            let there = m.is_locked() && m.sharing().unbindable;
            there && m.place().is_some_and(|at| is_reachable(&at, from))
        };
        if deep && below(&from.mount).iter().any(left_out) {
            return Err(Errno::EPERM);
        }
        let top = match deep {
            true => copy_tree(from, Copying::PLAIN).into_iter().next().map(|(_, top)| top),
            false => Some(from.mount.copy(&from.dentry, Copying::PLAIN)),
        };
        if let Some(top) = &top {
            top.locked.store(false, Ordering::SeqCst);
        }
        Ok(MountNamespace::anonymous(top.ok_or(Errno::EINVAL)?, &self.owner))
    }

    /// Puts a tree that was nowhere on `at`.
    pub fn adopt(&self, tree: &MountNamespace, at: &Path) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        let point = self.point(at)?;
        if is_dir(&tree.root.root) != is_dir(&point.0.dentry) {
            return Err(Errno::ENOTDIR);
        }
        graft(&tree.root, &point.0, false)
    }

    /// Moves a tree to another place (MS_MOVE, move_mount(2)): one of this namespace, or the whole of an
    /// anonymous one.
    pub fn move_mount(&self, from: &Path, to: &Path) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        let point = self.point(to)?;
        let to = &point.0;
        let mount = &from.mount;
        let parent = mount.place().map(|p| p.mount);
        let namespace = mount.namespace().ok_or(Errno::EINVAL)?;
        let movable = match parent {
            Some(_) => mount.is_in(self),
            None => namespace.anonymous,
        };
        if !movable
            || !from.is_mount_root()
            || is_dir(&from.dentry) != is_dir(&to.dentry)
            || parent.as_ref().is_some_and(|p| p.is_shared() || mount.is_locked())
            || to.mount.is_shared() && mount.has_unbindable()
        {
            return Err(Errno::EINVAL);
        }
        let mut above = Some(to.mount.clone());
        while let Some(m) = above {
            if Arc::ptr_eq(&m, mount) {
                return Err(Errno::ELOOP);
            }
            above = m.place().map(|p| p.mount);
        }
        graft(mount, to, parent.is_some())
    }

    /// `EPERM` where a new mount of a proc or sysfs would show what is hidden in this namespace, where another user
    /// namespace than the initial one owns it: there must be one of that type that can be seen whole, and what
    /// that keeps the new one keeps too (mount_too_revealing()).
    pub fn check_revealing(&self, mount: &Arc<Mount>) -> Result<(), Errno> {
        let fstype = mount.sb.fs.name();
        if self.owner.is_initial() || !matches!(fstype, "proc" | "sysfs") {
            return Ok(());
        }
        let _changing = CHANGING.lock();
        let whole = |old: &Arc<Mount>| {
            let same = old.sb.fs.name() == fstype
                && old.sb.root().is_some_and(|root| Arc::ptr_eq(&root, &old.root));
            let mut keeps = old.locks();
            keeps.set(
                MountFlags::RDONLY,
                keeps.contains(MountFlags::RDONLY) || old.sb.flags().contains(MountFlags::RDONLY),
            );
            let (new, times) = (mount.flags(), MountFlags::ATIME);
            let writes = keeps.contains(MountFlags::RDONLY) && !new.contains(MountFlags::RDONLY);
            let notes = keeps.contains(times) && old.flags() & times != new & times;
            let covers =
                |m: &Arc<Mount>| m.is_locked() && !m.place().is_some_and(|at| is_made_for(&at));
            let seen = same && !writes && !notes && !old.children().iter().any(covers);
            seen.then_some(keeps & (MountFlags::RDONLY | times))
        };
        let keeps = self.all().iter().find_map(whole).ok_or(Errno::EPERM)?;
        mount.locks.fetch_or(keeps.bits(), Ordering::SeqCst);
        Ok(())
    }

    /// Takes `mount`, to which the caller has one reference, away: with `lazy` with everything on it and although
    /// it is in use, else `EBUSY`.
    pub fn umount(&self, mount: &Arc<Mount>, lazy: bool) -> Result<(), Errno> {
        let mut gone = Vec::new();
        let _changing = CHANGING.lock();
        if !mount.is_in(self) || mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        if !lazy && is_busy(mount) {
            return Err(Errno::EBUSY);
        }
        gone.extend(remove(mount, true));
        Ok(())
    }

    /// umount2(MNT_EXPIRE): `EAGAIN` marks a mount, to which the caller has one reference, as not in use; the
    /// next call finds whether it has been used since.
    pub fn expire(&self, mount: &Arc<Mount>) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        if !mount.children.lock().is_empty() || Arc::strong_count(mount) > 2 {
            return Err(Errno::EBUSY);
        }
        match mount.expiring.swap(true, Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Errno::EAGAIN),
        }
    }

    /// pivot_root(2), for a task whose root is `root`: the mount `new` takes its place, and it goes to `put_old`.
    pub fn pivot(&self, root: &Path, new: &Path, put_old: &Path) -> Result<(), Errno> {
        let _changing = CHANGING.lock();
        let point = Point::new(put_old)?;
        let put_old = &point.0;
        let above = root.mount.place();
        let parent = new.mount.place();
        let shared = |place: &Option<Path>| place.as_ref().is_some_and(|p| p.mount.is_shared());
        if put_old.mount.is_shared()
            || shared(&parent)
            || shared(&above)
            || !root.mount.is_in(self)
            || !new.mount.is_in(self)
            || new.mount.is_locked()
        {
            return Err(Errno::EINVAL);
        }
        if new.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        if Arc::ptr_eq(&new.mount, &root.mount) || Arc::ptr_eq(&put_old.mount, &root.mount) {
            return Err(Errno::EBUSY);
        }
        let Some(above) = above.filter(|_| parent.is_some()) else { return Err(Errno::EINVAL) };
        if !root.is_mount_root()
            || !new.is_mount_root()
            || !is_reachable(put_old, new)
            || !is_reachable(new, root)
        {
            return Err(Errno::EINVAL);
        }
        new.mount.detach();
        root.mount.detach();
        root.mount.attach(put_old);
        new.mount.attach(&above);
        // What hides the place below goes on to.
        let locked = root.mount.locked.swap(false, Ordering::SeqCst);
        new.mount.locked.store(locked, Ordering::SeqCst);
        self.state.changed();
        Ok(())
    }

    /// A copy of the tree for a new namespace (CLONE_NEWNS), with what each mount became.
    ///
    /// One of another user namespace's hears of what is mounted here, and tells nothing; and what it has from here
    /// it has as it is: see [`Mount::lock`].
    pub fn copy(&self, owner: &UserNamespace) -> (Arc<MountNamespace>, MountPairs) {
        let _changing = CHANGING.lock();
        let stranger = *owner != self.owner;
        let how = Copying { slave: stranger, ..Copying::NAMESPACE };
        let pairs = copy_tree(&Path::root_of(&self.root), how);
        if stranger {
            for (n, (_, new)) in pairs.iter().enumerate() {
                // Under the lowest there is nothing to hide.
                new.lock(n != 0);
            }
        }
        let root = pairs.first().map_or_else(|| self.root.clone(), |(_, new)| new.clone());
        (MountNamespace::owned(root, owner), pairs)
    }
}
