//! Mounts and mount namespaces (mount_namespaces(7)).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;
use core::sync::atomic::{AtomicU64, Ordering};

use super::dentry::{Dentry, Super};
use super::path::Path;
use super::types::MountFlags;
use crate::errno::Errno;
use crate::sync::{Mutex, SpinLock};
use crate::task::NamespaceId;

/// Most mounts of a namespace (/proc/sys/fs/mount-max).
const MAX_MOUNTS: usize = 100_000;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

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
    /// Where it is mounted; `None` for the root of a namespace, and after umount.
    place: SpinLock<Option<Path>>,
    /// What is mounted on it, oldest first.
    children: SpinLock<Vec<Arc<Mount>>>,
}

impl Mount {
    /// A mount that is nowhere yet. `ENOENT` where the file system has been given up.
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
            place: SpinLock::new(None),
            children: SpinLock::new(Vec::new()),
        })
    }

    /// Its flags.
    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Changes them (MS_REMOUNT | MS_BIND).
    pub fn set_flags(&self, flags: MountFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// `EROFS` where nothing may be written through it.
    pub fn check_write(&self) -> Result<(), Errno> {
        match self.flags().contains(MountFlags::RDONLY) {
            true => Err(Errno::EROFS),
            false => Ok(()),
        }
    }

    /// Where it is mounted.
    pub fn place(&self) -> Option<Path> {
        self.place.lock().clone()
    }

    /// What is mounted on `dentry` here.
    pub fn mounted_at(&self, dentry: &Arc<Dentry>) -> Option<Arc<Mount>> {
        self.children.lock().iter().rev().find(|m| m.stands_on(dentry)).cloned()
    }

    fn stands_on(&self, dentry: &Arc<Dentry>) -> bool {
        self.place.lock().as_ref().is_some_and(|p| Arc::ptr_eq(&p.dentry, dentry))
    }

    /// What is mounted on it.
    pub fn children(&self) -> Vec<Arc<Mount>> {
        self.children.lock().clone()
    }

    fn attach(self: &Arc<Self>, at: &Path) {
        at.dentry.pin();
        at.dentry.mounted.fetch_add(1, Ordering::SeqCst);
        *self.place.lock() = Some(at.clone());
        at.mount.children.lock().push(self.clone());
    }

    fn detach(self: &Arc<Self>) {
        let Some(place) = self.place.lock().take() else { return };
        place.dentry.mounted.fetch_sub(1, Ordering::SeqCst);
        place.mount.children.lock().retain(|m| !Arc::ptr_eq(m, self));
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.sb.unmounted();
    }
}

/// Mounts of one tree, each with what stands for it in another.
pub type MountPairs = Vec<(Arc<Mount>, Arc<Mount>)>;

/// The tree of mounts that a set of tasks sees.
pub struct MountNamespace {
    /// Its inode number, as /proc/PID/ns/mnt shows it.
    pub id: NamespaceId,
    root: SpinLock<Arc<Mount>>,
    /// Held while the tree changes.
    changing: Mutex<()>,
}

impl MountNamespace {
    /// One with this root.
    pub fn new(root: Arc<Mount>) -> Arc<MountNamespace> {
        Arc::new(MountNamespace {
            id: NamespaceId::default(),
            root: SpinLock::new(root),
            changing: Mutex::new(()),
        })
    }

    /// The root mount.
    pub fn root(&self) -> Arc<Mount> {
        self.root.lock().clone()
    }

    /// All mounts, each before those on it.
    pub fn all(&self) -> Vec<Arc<Mount>> {
        let mut all = Vec::from([self.root()]);
        let mut at = 0;
        while let Some(mount) = all.get(at).cloned() {
            at = at.saturating_add(1);
            let mut place = at;
            for child in mount.children() {
                all.insert(place.min(all.len()), child);
                place = place.saturating_add(1);
            }
        }
        all
    }

    /// Puts `mount` on `at`. `ENOTDIR` where one is a directory and the other is not.
    pub fn mount(&self, mount: &Arc<Mount>, at: &Path) -> Result<(), Errno> {
        let _changing = self.changing.lock();
        let is_dir = |d: &Arc<Dentry>| {
            d.inode().is_some_and(|i| i.kind() == super::types::FileType::Directory)
        };
        if is_dir(&mount.root) != is_dir(&at.dentry) {
            return Err(Errno::ENOTDIR);
        }
        if at.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        if self.all().len() >= MAX_MOUNTS {
            return Err(Errno::ENOSPC);
        }
        mount.attach(at);
        Ok(())
    }

    /// Takes `mount` away: with `lazy` with everything on it and although it is in use, else `EBUSY`.
    pub fn umount(&self, mount: &Arc<Mount>, lazy: bool) -> Result<(), Errno> {
        let _changing = self.changing.lock();
        if Arc::ptr_eq(mount, &self.root()) {
            return Err(if lazy { Errno::EINVAL } else { Errno::EBUSY });
        }
        if mount.place().is_none() {
            return Err(Errno::EINVAL);
        }
        if !lazy {
            // The parent's reference and the caller's.
            if !mount.children.lock().is_empty() || Arc::strong_count(mount) > 2 {
                return Err(Errno::EBUSY);
            }
        }
        Self::detach_tree(mount);
        Ok(())
    }

    /// Moves a mount to another place (MS_MOVE).
    pub fn move_mount(&self, mount: &Arc<Mount>, to: &Path) -> Result<(), Errno> {
        let _changing = self.changing.lock();
        if mount.place().is_none() {
            return Err(Errno::EINVAL);
        }
        let mut above = Some(to.mount.clone());
        while let Some(m) = above {
            if Arc::ptr_eq(&m, mount) {
                return Err(Errno::ELOOP);
            }
            above = m.place().map(|p| p.mount);
        }
        mount.detach();
        mount.attach(to);
        Ok(())
    }

    /// pivot_root(2): the mount of which `new` is the root becomes the root, and the old root goes to
    /// `put_old`.
    pub fn pivot(&self, new: &Path, put_old: &Path) -> Result<Arc<Mount>, Errno> {
        let _changing = self.changing.lock();
        let old = self.root();
        if !new.is_mount_root() || Arc::ptr_eq(&new.mount, &old) {
            return Err(Errno::EINVAL);
        }
        let same_place = new.same(put_old);
        new.mount.detach();
        *self.root.lock() = new.mount.clone();
        if same_place {
            old.attach(&Path::root_of(&new.mount));
        } else {
            old.attach(put_old);
        }
        Ok(old)
    }

    /// A copy of the tree for a new namespace (CLONE_NEWNS), with what each mount became.
    pub fn copy(&self) -> (Arc<MountNamespace>, MountPairs) {
        let _changing = self.changing.lock();
        let mut pairs = MountPairs::new();
        for old in self.all() {
            let new = Mount::new(&old.sb, old.root.clone(), old.flags(), old.source.clone());
            if let Some(place) = old.place()
                && let Some((_, parent)) = pairs.iter().find(|(o, _)| Arc::ptr_eq(o, &place.mount))
            {
                new.attach(&Path { mount: parent.clone(), dentry: place.dentry });
            }
            pairs.push((old, new));
        }
        let root = pairs.first().map_or_else(|| self.root(), |(_, new)| new.clone());
        (MountNamespace::new(root), pairs)
    }

    /// Copies of `mount`'s part below `root`, and with `deep` of what is mounted there, in no place yet
    /// (MS_BIND, MS_REC).
    pub fn bind(&self, from: &Path, deep: bool) -> Arc<Mount> {
        let _changing = self.changing.lock();
        let top = &from.mount;
        let copy = Mount::new(&top.sb, from.dentry.clone(), top.flags(), top.source.clone());
        let mut pairs = Vec::from([(top.clone(), copy.clone())]);
        let mut at = 0;
        while deep && let Some((old, new)) = pairs.get(at).cloned() {
            at = at.saturating_add(1);
            for child in old.children() {
                let Some(place) = child.place() else { continue };
                if at == 1 && !from.dentry.is_above(&place.dentry) {
                    continue;
                }
                let twin =
                    Mount::new(&child.sb, child.root.clone(), child.flags(), child.source.clone());
                twin.attach(&Path { mount: new.clone(), dentry: place.dentry });
                pairs.push((child, twin));
            }
        }
        copy
    }

    fn detach_tree(mount: &Arc<Mount>) {
        let mut all = Vec::from([mount.clone()]);
        while let Some(mount) = all.pop() {
            all.extend(mem::take(&mut *mount.children.lock()));
            mount.detach();
        }
    }
}

impl Drop for MountNamespace {
    fn drop(&mut self) {
        let root = self.root();
        Self::detach_tree(&root);
    }
}
