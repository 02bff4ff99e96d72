//! Inodes of an overlay: each stands for one inode of the upper layer, or of a lower one until it is copied up; a
//! directory for all that are merged.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use super::file::{DirHandle, FileHandle};
use super::{Shared, address, is_whiteout, look};
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::dentry::Dentry;
use crate::fs::inode::{Created, FileOps, Inode, Link};
use crate::fs::lock::InodeState;
use crate::fs::path::Path;
use crate::fs::perm;
use crate::fs::types::{Access, Attr, FileType, New, OpenFlags, Perm, RenameFlags, SetAttr};
use crate::mm::Mappable;
use crate::sync::{Mutex, SpinLock};

/// A file or directory of a lower layer.
#[derive(Clone)]
pub(super) struct Real {
    /// The layer's number.
    pub layer: usize,
    pub dentry: Arc<Dentry>,
}

impl Real {
    pub fn inode(&self) -> Result<&Arc<dyn Inode>, Errno> {
        self.dentry.inode().ok_or(Errno::ESTALE)
    }
}

/// What a name means in the layers.
#[derive(Default)]
pub(super) struct Found {
    pub upper: Option<Arc<Dentry>>,
    pub lower: Vec<Real>,
}

/// A directory, and a name in it.
type Place = (Arc<Node>, Arc<[u8]>);

/// An inode.
pub struct Node {
    pub(super) shared: Arc<Shared>,
    this: Weak<Node>,
    kind: FileType,
    /// The inode number of a directory, where those of the layers may be the same.
    ino: u64,
    pub(super) upper: spin::Once<Arc<Dentry>>,
    /// What is merged, topmost first; of what is no directory the one below, or below its copy.
    pub(super) lower: Vec<Real>,
    /// Held while it is copied up, and while the name of one that is not is removed.
    pub(super) copying: Mutex<()>,
    /// It has lost its name before it was copied up.
    pub(super) nameless: AtomicBool,
    /// The directory that it was last found in, and as what.
    place: SpinLock<Option<Place>>,
    state: InodeState,
}

impl Node {
    /// The root of an overlay.
    pub(super) fn root(shared: &Arc<Shared>) -> Result<Arc<Node>, Errno> {
        let mut found = Found::default();
        for (layer, root) in shared.layers.iter().enumerate() {
            match layer {
                0 if shared.work.is_some() => found.upper = Some(root.root.clone()),
                layer => found.lower.push(Real { layer, dentry: root.root.clone() }),
            }
        }
        Ok(Self::build(shared, FileType::Directory, found))
    }

    fn build(shared: &Arc<Shared>, kind: FileType, found: Found) -> Arc<Node> {
        let node = Arc::new_cyclic(|this: &Weak<Node>| Node {
            shared: shared.clone(),
            this: this.clone(),
            kind,
            ino: shared.next_ino.fetch_add(1, Ordering::Relaxed),
            upper: spin::Once::new(),
            lower: found.lower,
            copying: Mutex::new(()),
            nameless: AtomicBool::new(false),
            place: SpinLock::new(None),
            state: InodeState::new(),
        });
        if let Some(upper) = found.upper {
            node.upper.call_once(|| upper);
        }
        node
    }

    /// The node of what was found as `name` in `dir`.
    pub(super) fn of(dir: &Arc<Node>, name: &[u8], found: Found) -> Result<Arc<Node>, Errno> {
        let shared = &dir.shared;
        let top = found.upper.as_ref().or(found.lower.first().map(|r| &r.dentry));
        let inode = top.and_then(|d| d.inode()).ok_or(Errno::ENOENT)?;
        let kind = inode.kind();
        // The names of a lower file come apart when one is copied up.
        let breaks = found.upper.is_none() && shared.work.is_some() && kind != FileType::Directory;
        let key = if breaks && inode.attr()?.nlink > 1 { None } else { Some(address(inode)) };
        let there = key.and_then(|key| shared.nodes.lock().get(&key).and_then(Weak::upgrade));
        let node = match there.filter(|node| node.is(kind, &found)) {
            Some(node) => node,
            None => {
                let node = Self::build(shared, kind, found);
                if let Some(key) = key {
                    shared.nodes.lock().insert(key, Arc::downgrade(&node));
                }
                node
            }
        };
        node.set_place(dir, name);
        Ok(node)
    }

    /// A node of what has just come to be in the upper layer.
    pub(super) fn fresh(&self, kind: FileType, upper: Arc<Dentry>) -> Result<Arc<Node>, Errno> {
        let key = address(upper.inode().ok_or(Errno::ENOENT)?);
        let found = Found { upper: Some(upper), lower: Vec::new() };
        let node = Self::build(&self.shared, kind, found);
        self.shared.nodes.lock().insert(key, Arc::downgrade(&node));
        Ok(node)
    }

    /// It stands for this inode of the upper layer too, now.
    pub(super) fn copied(&self, upper: Arc<Dentry>) -> Result<(), Errno> {
        let key = address(upper.inode().ok_or(Errno::ENOENT)?);
        self.upper.call_once(|| upper);
        self.shared.nodes.lock().insert(key, self.this.clone());
        Ok(())
    }

    /// Whether it stands for what was found.
    fn is(&self, kind: FileType, found: &Found) -> bool {
        let inode = |dentry: &Arc<Dentry>| dentry.inode().map(address);
        let upper = match (self.upper.get(), &found.upper) {
            (Some(mine), Some(upper)) => inode(mine) == inode(upper),
            // It may just be copied up.
            (_, None) => true,
            (None, Some(_)) => false,
        };
        // Below a copy of a file nobody looks.
        let lower = found.upper.is_some() && kind != FileType::Directory
            || self.lower.len() == found.lower.len()
                && self
                    .lower
                    .iter()
                    .zip(&found.lower)
                    .all(|(a, b)| inode(&a.dentry) == inode(&b.dentry));
        self.kind == kind && upper && lower
    }

    pub(super) fn own(inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?.arc()
    }

    pub(super) fn arc(&self) -> Result<Arc<Node>, Errno> {
        self.this.upgrade().ok_or(Errno::ESTALE)
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.place.lock().clone()
    }

    pub(super) fn set_place(&self, dir: &Arc<Node>, name: &[u8]) {
        // What has been copied up is found through its dentry; but for the `..` of directories.
        if self.kind == FileType::Directory || self.upper.get().is_none() {
            let new = Some((dir.clone(), Arc::from(name)));
            let old = core::mem::replace(&mut *self.place.lock(), new);
            drop(old);
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Whether it is a directory of more than one layer.
    pub(super) fn is_merge(&self) -> bool {
        let above = usize::from(self.upper.get().is_some());
        self.is_dir() && self.lower.len().saturating_add(above) > 1
    }

    /// What it stands for in the layers, topmost first.
    pub(super) fn reals(&self) -> impl Iterator<Item = (usize, &Arc<Dentry>)> {
        let upper = self.upper.get().map(|dentry| (0, dentry));
        upper.into_iter().chain(self.lower.iter().map(|r| (r.layer, &r.dentry)))
    }

    /// The inode whose attributes and data it has, and its layer.
    pub(super) fn real(&self) -> Result<(usize, &Arc<dyn Inode>), Errno> {
        let (layer, dentry) = self.reals().next().ok_or(Errno::EIO)?;
        Ok((layer, dentry.inode().ok_or(Errno::ESTALE)?))
    }

    /// Its place in the upper layer, if it is there.
    pub(super) fn upper_path(&self) -> Result<Path, Errno> {
        self.shared.path(0, self.upper.get().ok_or(Errno::EROFS)?)
    }

    /// What `name` means in the layers of this directory.
    fn find(&self, under: &Cx<'_>, name: &[u8]) -> Result<Found, Errno> {
        let mut found = Found::default();
        for (layer, dir) in self.reals() {
            let Some(dentry) = look(under, dir, name)? else { continue };
            if is_whiteout(&dentry)? {
                break;
            }
            let inode = dentry.inode().ok_or(Errno::ENOENT)?.clone();
            let is_dir = inode.kind() == FileType::Directory;
            let first = found.upper.is_none() && found.lower.is_empty();
            if !first && !is_dir {
                break;
            }
            if layer == 0 && self.shared.work.is_some() {
                found.upper = Some(dentry);
            } else {
                found.lower.push(Real { layer, dentry });
            }
            if !is_dir || self.shared.is_marked(&inode, "opaque") {
                break;
            }
        }
        Ok(found)
    }

    /// Whether `name` means something below the upper layer.
    pub(super) fn lies_below(&self, under: &Cx<'_>, name: &[u8]) -> Result<bool, Errno> {
        for real in &self.lower {
            if let Some(dentry) = look(under, &real.dentry, name)? {
                return Ok(!is_whiteout(&dentry)?);
            }
        }
        Ok(false)
    }

    /// The name of an attribute in the layers: those that look like the overlay's own are nested in these.
    fn xattr<'n>(&self, name: &'n [u8]) -> Cow<'n, [u8]> {
        let prefix = self.shared.prefix.as_bytes();
        match name.strip_prefix(prefix) {
            Some(rest) => Cow::Owned([prefix, NESTED, rest].concat()),
            None => Cow::Borrowed(name),
        }
    }
}

/// What follows the prefix in names of attributes that an overlay on this one has set.
const NESTED: &[u8] = b"overlay.";

impl Inode for Node {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let (mut layer, inode) = self.real()?;
        let mut attr = inode.attr()?;
        let same_fs = self.shared.same_fs;
        // A copy keeps the number of what it was copied from, unless that has other names.
        if let (Some(_), Some(lower)) = (self.upper.get(), self.lower.first())
            && (!self.is_dir() || same_fs)
        {
            let below = lower.inode()?.attr()?;
            if self.is_dir() || below.nlink == 1 {
                (attr.ino, layer) = (below.ino, lower.layer);
            }
        }
        let layer = self.shared.layers.get(layer).ok_or(Errno::EIO)?;
        (attr.dev, attr.ino) = match self.is_dir() {
            _ if same_fs => (self.shared.dev, attr.ino),
            true => (self.shared.dev, self.ino),
            false => (layer.dev, attr.ino),
        };
        if self.is_merge() {
            attr.nlink = 1;
        }
        Ok(attr)
    }

    fn perm(&self) -> Result<Perm, Errno> {
        self.real()?.1.perm()
    }

    fn set_attr(&self, cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        let upper = self.copy_up(cx, set.size.unwrap_or(u64::MAX))?;
        upper.inode().ok_or(Errno::ESTALE)?.set_attr(&self.shared.under(cx), set)
    }

    fn known_mode(&self) -> Result<u32, Errno> {
        self.real()?.1.known_mode()
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.find(&self.shared.under(cx), name)?;
        Ok(Node::of(&self.arc()?, name, found)?)
    }

    fn create(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        new: New,
        _flags: OpenFlags,
    ) -> Result<Created, Errno> {
        let inode = self.make(cx, name, FileType::Regular, new, |maker, dir, name| {
            maker.mknod(Some(dir), name, FileType::Regular, new.mode, 0)
        })?;
        Ok(Created { inode, ops: None })
    }

    fn tmpfile(&self, cx: &Cx<'_>, new: New, flags: OpenFlags) -> Result<Created, Errno> {
        self.make_nameless(cx, new, flags)
    }

    fn mkdir(&self, cx: &Cx<'_>, name: &[u8], new: New) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.make(cx, name, FileType::Directory, new, |maker, dir, name| {
            maker.mkdir(Some(dir), name, new.mode)
        })?)
    }

    fn mknod(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        kind: FileType,
        rdev: u64,
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        // It would be a whiteout.
        if kind == FileType::CharDevice && rdev == 0 {
            return Err(Errno::EPERM);
        }
        Ok(self.make(cx, name, kind, new, |maker, dir, name| {
            maker.mknod(Some(dir), name, kind, new.mode, rdev)
        })?)
    }

    fn symlink(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        target: &[u8],
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.make(cx, name, FileType::Symlink, new, |maker, dir, name| {
            maker.symlink(target, Some(dir), name)
        })?)
    }

    fn link(&self, cx: &Cx<'_>, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.add_name(cx, name, &Self::own(inode)?)
    }

    fn unlink(&self, cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove(cx, name, &Self::own(child)?)
    }

    fn rmdir(&self, cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove(cx, name, &Self::own(child)?)
    }

    fn rename(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        child: &Arc<dyn Inode>,
        to: &Arc<dyn Inode>,
        to_name: &[u8],
        replaced: Option<&Arc<dyn Inode>>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let replaced = replaced.map(Self::own).transpose()?;
        self.move_name(cx, name, &Self::own(child)?, (&Self::own(to)?, to_name), replaced, flags)
    }

    fn readlink(&self, cx: &Cx<'_>) -> Result<Link, Errno> {
        self.real()?.1.readlink(&self.shared.under(cx))
    }

    fn open(&self, cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        match self.kind {
            FileType::Regular => {
                if flags.writes() || flags.contains(OpenFlags::TRUNC) {
                    let most = if flags.contains(OpenFlags::TRUNC) { 0 } else { u64::MAX };
                    self.copy_up(cx, most)?;
                }
                Ok(Box::new(FileHandle::open(cx, self.arc()?, flags)?))
            }
            FileType::Directory => Ok(Box::new(DirHandle::open(self.arc()?))),
            _ => Err(Errno::ENXIO),
        }
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        self.real().ok()?.1.clone().mappable()
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.real()?.1.get_xattr(&self.xattr(name))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let upper = self.copy_up(&self.shared.cx(), u64::MAX)?;
        upper.inode().ok_or(Errno::ESTALE)?.set_xattr(&self.xattr(name), value, flags)
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        let prefix = self.shared.prefix.as_bytes();
        let mut names = Vec::new();
        for name in self.real()?.1.list_xattr()?.split(|c| *c == 0).filter(|n| !n.is_empty()) {
            match name.strip_prefix(prefix).map(|rest| rest.strip_prefix(NESTED)) {
                Some(Some(rest)) => {
                    names.extend_from_slice(prefix);
                    names.extend_from_slice(rest);
                }
                Some(None) => continue,
                None => names.extend_from_slice(name),
            }
            names.push(0);
        }
        Ok(names)
    }

    fn drop_caps(&self) {
        if let Some(inode) = self.upper.get().and_then(|upper| upper.inode()) {
            inode.drop_caps();
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        let name = self.xattr(name);
        // What is not there is not removed, and not copied up for it.
        self.real()?.1.get_xattr(&name)?;
        let upper = self.copy_up(&self.shared.cx(), u64::MAX)?;
        upper.inode().ok_or(Errno::ESTALE)?.remove_xattr(&name)
    }
}

impl Node {
    /// Whether it is a copy of something below whose inode number it has.
    pub(super) fn has_origin(&self) -> bool {
        let alone =
            |lower: &Real| lower.inode().is_ok_and(|i| i.attr().is_ok_and(|a| a.nlink == 1));
        self.upper.get().is_some()
            && self.lower.first().is_some_and(|lower| self.is_dir() || alone(lower))
    }

    /// Marks this directory as one that has copies among its names.
    pub(super) fn gains_copy(&self) {
        // Only the numbers in a listing depend on it; whether the layer can keep it does not matter.
        if let Some(upper) = self.upper.get()
            && upper.inode().is_some_and(|inode| !self.shared.is_marked(inode, "impure"))
        {
            let _ = self.shared.mark(upper, "impure");
        }
    }

    /// `EACCES` where the mounter may not read what lies below.
    pub(super) fn check_read(&self, under: &Cx<'_>) -> Result<(), Errno> {
        match self.upper.get() {
            Some(_) => Ok(()),
            None => perm::permission(under, &**self.real()?.1, Access::READ),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let keys = self.reals().take(2).filter_map(|(_, dentry)| dentry.inode().map(address));
        let keys: Vec<usize> = keys.collect();
        let mut nodes = self.shared.nodes.lock();
        for key in keys {
            // Another node may have come for the same inode meanwhile.
            if nodes.get(&key).is_some_and(|node| core::ptr::eq(node.as_ptr(), self.this.as_ptr()))
            {
                nodes.remove(&key);
            }
        }
        drop(nodes);
        // The last child of a long chain of directories would drop them one inside the other.
        let mut place = self.place.get_mut().take();
        while let Some((dir, _)) = place {
            place = Arc::into_inner(dir).and_then(|mut last| last.place.get_mut().take());
        }
    }
}
