//! Inodes of an overlay.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, Ordering};

use hashbrown::HashMap;

use super::file::{DirHandle, FileHandle};
use super::{Shared, Slot, address};
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{Created, FileOps, Found, Inode, Link};
use crate::fs::io::IoSrc;
use crate::fs::lock::InodeState;
use crate::fs::tmpfs::{self, Body, Content};
use crate::fs::types::{
    Attr, FileType, New, OpenFlags, OwnedEntry, Perm, RenameFlags, SetAttr, mode,
};
use crate::mm::Mappable;
use crate::sync::{Mutex, SpinLock};

/// Bytes copied up at a time.
const CHUNK: usize = 64 << 10;

/// A changed name.
struct Change {
    /// What it means now; `None`: nothing any more.
    node: Option<Arc<Node>>,
    /// Whether the lower directory has something of this name.
    hides: bool,
}

/// A directory's changed names.
type Changes = SpinLock<HashMap<Arc<[u8]>, Change>>;

/// An inode.
pub struct Node {
    shared: Arc<Shared>,
    this: Weak<Node>,
    kind: FileType,
    ino: u64,
    lower: Option<Arc<dyn Inode>>,
    /// Changed attributes, and data where `copied`.
    upper: spin::Once<Arc<tmpfs::Node>>,
    /// Whether the data is the upper layer's.
    copied: AtomicBool,
    /// Held while something is copied up.
    copying: Mutex<()>,
    /// It has lost its last name without having been copied up.
    nameless: AtomicBool,
    changes: Changes,
    /// The directory it was last found in, for `..`.
    parent: SpinLock<Weak<Node>>,
    state: InodeState,
}

impl Node {
    /// The node of a lower inode.
    pub(super) fn lower(shared: &Arc<Shared>, lower: Arc<dyn Inode>) -> Arc<Node> {
        let (kind, ino) = (lower.kind(), lower.ino());
        Self::build(shared, kind, ino, Some(lower))
    }

    fn build(
        shared: &Arc<Shared>,
        kind: FileType,
        ino: u64,
        lower: Option<Arc<dyn Inode>>,
    ) -> Arc<Node> {
        Arc::new_cyclic(|this: &Weak<Node>| Node {
            shared: shared.clone(),
            this: this.clone(),
            kind,
            ino,
            copied: AtomicBool::new(lower.is_none()),
            lower,
            upper: spin::Once::new(),
            copying: Mutex::new(()),
            nameless: AtomicBool::new(false),
            changes: SpinLock::new(HashMap::new()),
            parent: SpinLock::new(Weak::new()),
            state: InodeState::new(),
        })
    }

    /// A node that has nothing below it.
    fn fresh(
        shared: &Arc<Shared>,
        kind: FileType,
        new: New,
        content: Content,
        nlink: u32,
    ) -> Result<Arc<Node>, Errno> {
        let upper = tmpfs::Node::new(shared.upper.shared(), kind, new, content, nlink)?;
        let node = Self::build(shared, kind, shared.ino(), None);
        node.upper.call_once(|| upper);
        Ok(node)
    }

    fn own(inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        node.this.upgrade().ok_or(Errno::ESTALE)
    }

    /// The inode that holds the data: the upper one once it is copied up.
    pub(super) fn data(&self) -> Result<Arc<dyn Inode>, Errno> {
        match (self.upper.get(), &self.lower) {
            (Some(upper), _) if self.copied.load(Ordering::Acquire) => Ok(upper.clone()),
            (_, Some(lower)) => Ok(lower.clone()),
            (Some(upper), None) => Ok(upper.clone()),
            (None, None) => Err(Errno::EIO),
        }
    }

    /// The upper inode, if the data is there.
    pub(super) fn copied(&self) -> Option<&Arc<tmpfs::Node>> {
        self.upper.get().filter(|_| self.copied.load(Ordering::Acquire))
    }

    pub(super) fn lower_inode(&self) -> Option<&Arc<dyn Inode>> {
        self.lower.as_ref()
    }

    pub(super) fn parent_ino(&self) -> u64 {
        self.parent.lock().upgrade().map_or(self.ino, |p| p.ino)
    }

    /// The upper inode, made with the lower one's attributes where there is none yet.
    pub(super) fn copy_up(&self) -> Result<&Arc<tmpfs::Node>, Errno> {
        match self.upper.get() {
            Some(upper) => Ok(upper),
            None => {
                let _one = self.copying.lock();
                self.copy_up_locked()
            }
        }
    }

    fn copy_up_locked(&self) -> Result<&Arc<tmpfs::Node>, Errno> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let attr = lower.attr()?;
        let content = match self.kind {
            FileType::Regular => Content::File(Body::default()),
            FileType::Directory => Content::dir(),
            _ => Content::Special,
        };
        let new = New { mode: attr.mode & mode::PERM, uid: attr.uid, gid: attr.gid };
        let shared = self.shared.upper.shared();
        let upper = tmpfs::Node::new(shared, self.kind, new, content, attr.nlink)?;
        let nameless = self.nameless.load(Ordering::Acquire);
        upper.change(|a| {
            (a.atime, a.mtime, a.ctime, a.btime) = (attr.atime, attr.mtime, attr.ctime, attr.btime);
            a.rdev = attr.rdev;
            if nameless {
                a.nlink = 0;
            }
        });
        let names = match lower.list_xattr() {
            Ok(names) => names,
            Err(Errno::EOPNOTSUPP) => Vec::new(),
            Err(e) => return Err(e),
        };
        let mut xattrs = Vec::new();
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            match lower.get_xattr(name) {
                Ok(value) => xattrs.push((name.to_vec(), value)),
                // It went meanwhile, or is not for us to read.
                Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => {}
                Err(e) => return Err(e),
            }
        }
        upper.adopt_xattrs(xattrs)?;
        if !nameless && let Some(me) = self.this.upgrade() {
            let old = self.shared.nodes.lock().insert(address(lower), Slot::Pinned(me));
            drop(old);
        }
        Ok(self.upper.call_once(|| upper))
    }

    /// The upper inode with the data, of which only the first `most` bytes are wanted.
    pub(super) fn copy_up_data(&self, cx: &Cx<'_>, most: u64) -> Result<&Arc<tmpfs::Node>, Errno> {
        if let Some(upper) = self.copied() {
            return Ok(upper);
        }
        let _one = self.copying.lock();
        let upper = self.copy_up_locked()?;
        if self.copied.load(Ordering::Acquire) {
            return Ok(upper);
        }
        let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
        let body = upper.body().ok_or(Errno::EINVAL)?;
        let size = lower.attr()?.size;
        if most > 0 && size > 0 {
            let ops = lower.open(cx, OpenFlags::LARGEFILE)?;
            let file = File::new(ops, lower.clone(), None, OpenFlags::empty())?;
            let copied = copy_data(&file, body, most.min(size), upper);
            if let Err(e) = copied {
                body.truncate(0, &*upper.shared, &**upper)?;
                return Err(e);
            }
        }
        body.truncate(size, &*upper.shared, &**upper)?;
        self.copied.store(true, Ordering::Release);
        Ok(upper)
    }

    /// Enters a name.
    fn enter(&self, name: &[u8], node: Arc<Node>, over_lower: bool) {
        *node.parent.lock() = self.this.clone();
        let mut changes = self.changes.lock();
        let old = match changes.get_mut(name) {
            Some(change) => change.node.replace(node),
            None => {
                changes.insert(name.into(), Change { node: Some(node), hides: over_lower });
                None
            }
        };
        drop(changes);
        drop(old);
    }

    /// Takes a name away.
    fn leave(&self, name: &[u8]) {
        let mut changes = self.changes.lock();
        let old = match changes.get_mut(name) {
            Some(change) if change.hides => change.node.take(),
            Some(_) => changes.remove(name).and_then(|c| c.node),
            None => {
                changes.insert(name.into(), Change { node: None, hides: true });
                None
            }
        };
        drop(changes);
        drop(old);
    }

    /// Whether what `name` means comes from the lower directory.
    fn is_from_lower(&self, name: &[u8]) -> bool {
        !self.changes.lock().contains_key(name)
    }

    /// It loses a name (a directory: its only one).
    fn lose_name(&self) -> Result<(), Errno> {
        if self.upper.get().is_none() {
            let lower = self.lower.as_ref().ok_or(Errno::EIO)?;
            if self.kind == FileType::Directory || lower.attr()?.nlink <= 1 {
                self.nameless.store(true, Ordering::Release);
                return Ok(());
            }
        }
        let upper = self.copy_up()?;
        let nlink = upper.attr()?.nlink;
        let by = if self.kind == FileType::Directory { nlink } else { 1 };
        upper.links(i32::try_from(by).map_or(i32::MIN, |n| -n));
        if nlink <= by
            && let Some(lower) = &self.lower
        {
            // No name leads to it any more: it goes with the last who holds it.
            let live = Slot::Live(self.this.clone());
            let old = self.shared.nodes.lock().insert(address(lower), live);
            drop(old);
        }
        Ok(())
    }

    fn make(
        &self,
        name: &[u8],
        kind: FileType,
        new: New,
        content: Content,
    ) -> Result<Arc<Node>, Errno> {
        let upper = self.copy_up()?;
        let nlink = if kind == FileType::Directory { 2 } else { 1 };
        let node = Self::fresh(&self.shared, kind, new, content, nlink)?;
        self.enter(name, node.clone(), false);
        if kind == FileType::Directory {
            upper.links(1);
        }
        upper.touch();
        Ok(node)
    }

    /// The lower directory, open for reading its entries.
    pub(super) fn open_lower(&self, cx: &Cx<'_>) -> Result<Option<Arc<File>>, Errno> {
        let Some(lower) = &self.lower else { return Ok(None) };
        let ops = lower.open(cx, OpenFlags::DIRECTORY)?;
        Ok(Some(File::new(ops, lower.clone(), None, OpenFlags::DIRECTORY)?))
    }

    /// All entries but `.` and `..`: those of the lower directory that were not changed, then the
    /// changed ones.
    pub(super) fn entries(&self, lower: Option<&Arc<File>>) -> Result<Vec<OwnedEntry>, Errno> {
        let mut all: Vec<OwnedEntry> = Vec::new();
        let mut pos = 0;
        while let Some(lower) = lower {
            // An implementation may give a part at a time; it is done when it gives nothing.
            let before = all.len();
            pos = lower.ops().readdir(lower, pos, &mut |entry| {
                all.push(entry.into());
                true
            })?;
            if all.len() == before {
                break;
            }
        }
        let changes = self.changes.lock();
        all.retain(|e| e.name != b"." && e.name != b".." && !changes.contains_key(&*e.name));
        for (name, change) in changes.iter() {
            if let Some(node) = &change.node {
                let (ino, kind) = (node.ino, node.kind);
                all.push(OwnedEntry { name: name.to_vec(), ino, kind, next: 0 });
            }
        }
        Ok(all)
    }

    fn check_empty(&self, cx: &Cx<'_>) -> Result<(), Errno> {
        if self.entries(self.open_lower(cx)?.as_ref())?.is_empty() {
            Ok(())
        } else {
            Err(Errno::ENOTEMPTY)
        }
    }

    /// A change of this directory's own attributes by a change of its names.
    fn touch(&self, links: i32) -> Result<(), Errno> {
        let upper = self.copy_up()?;
        if links != 0 {
            upper.links(links);
        }
        upper.touch();
        Ok(())
    }
}

/// Copies the first `len` bytes of a file; holes stay holes.
fn copy_data(from: &Arc<File>, to: &Body, len: u64, node: &tmpfs::Node) -> Result<(), Errno> {
    let mut buf = vec![0u8; CHUNK];
    let mut at: u64 = 0;
    while at < len {
        let want = usize::try_from(len.saturating_sub(at)).unwrap_or(CHUNK).min(CHUNK);
        let n = from.read_at(at, buf.get_mut(..want).unwrap_or(&mut []))?;
        if n == 0 {
            break;
        }
        let data = buf.get(..n).unwrap_or(&[]);
        if data.iter().any(|b| *b != 0) {
            let wrote = to.pages.write(&mut IoSrc::kernel(data), at, &*node.shared)?;
            if wrote < n {
                return Err(Errno::ENOSPC);
            }
        }
        at = at.saturating_add(n as u64);
    }
    Ok(())
}

impl Inode for Node {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let (mut attr, dev) = match (self.upper.get(), &self.lower) {
            (Some(upper), None) => (upper.attr()?, self.shared.dev),
            (None, Some(lower)) => {
                let mut attr = lower.attr()?;
                if self.nameless.load(Ordering::Acquire) {
                    attr.nlink = 0;
                }
                (attr, self.shared.dev_of(attr.dev))
            }
            (Some(upper), Some(lower)) => {
                let below = lower.attr()?;
                let mut attr = upper.attr()?;
                if !self.copied.load(Ordering::Acquire) && self.kind != FileType::Directory {
                    (attr.size, attr.blocks) = (below.size, below.blocks);
                }
                (attr, self.shared.dev_of(below.dev))
            }
            (None, None) => return Err(Errno::EIO),
        };
        (attr.dev, attr.ino) = (dev, self.ino);
        Ok(attr)
    }

    fn perm(&self) -> Result<Perm, Errno> {
        match (self.upper.get(), &self.lower) {
            (Some(upper), _) => upper.perm(),
            (None, Some(lower)) => lower.perm(),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn set_attr(&self, cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        let upper = match set.size {
            Some(size) => self.copy_up_data(cx, size)?,
            None => self.copy_up()?,
        };
        upper.set_attr(cx, set)
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if let Some(change) = self.changes.lock().get(name) {
            return match &change.node {
                Some(node) => Ok(node.clone()),
                None => Err(Errno::ENOENT),
            };
        }
        let lower = self.lower.as_ref().ok_or(Errno::ENOENT)?;
        let node = self.shared.node(lower.lookup(cx, name)?);
        *node.parent.lock() = self.this.clone();
        Ok(node)
    }

    fn looks_ahead(&self) -> bool {
        self.lower.as_ref().is_some_and(|l| l.looks_ahead())
    }

    fn lookup_many(&self, cx: &Cx<'_>, names: &[&[u8]]) -> Found {
        let first = names.first().copied().unwrap_or_default();
        let lower = match &self.lower {
            Some(lower) if self.is_from_lower(first) => lower,
            _ => {
                return match self.lookup(cx, first) {
                    Ok(inode) => Found { inodes: Vec::from([inode]), error: None },
                    Err(e) => Found { inodes: Vec::new(), error: Some(e) },
                };
            }
        };
        let below = lower.lookup_many(cx, names);
        let mut inodes: Vec<Arc<dyn Inode>> = Vec::new();
        let mut parent = self.this.upgrade();
        let mut names = names.iter();
        for (inode, name) in below.inodes.into_iter().zip(&mut names) {
            // A name that was changed here does not mean what it means below.
            let Some(dir) = parent.filter(|p| p.is_from_lower(name)) else {
                return Found { inodes, error: None };
            };
            let node = self.shared.node(inode);
            *node.parent.lock() = Arc::downgrade(&dir);
            inodes.push(node.clone());
            parent = Some(node);
        }
        let unchanged = match names.next() {
            Some(name) => parent.is_some_and(|p| p.is_from_lower(name)),
            None => false,
        };
        let error = if unchanged || inodes.is_empty() { below.error } else { None };
        Found { inodes, error }
    }

    fn revalidate(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        child: Option<&Arc<dyn Inode>>,
    ) -> Result<bool, Errno> {
        let Some(lower) = self.lower.as_ref().filter(|_| self.is_from_lower(name)) else {
            return Ok(true);
        };
        let child = child.map(Self::own).transpose()?;
        let below = child.as_ref().and_then(|c| c.lower.as_ref());
        if child.is_some() && below.is_none() {
            return Ok(false);
        }
        lower.revalidate(cx, name, below)
    }

    fn create(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        new: New,
        _flags: OpenFlags,
    ) -> Result<Created, Errno> {
        let content = Content::File(Body::default());
        let inode = self.make(name, FileType::Regular, new, content)?;
        Ok(Created { inode, ops: None })
    }

    fn tmpfile(&self, _cx: &Cx<'_>, new: New, _flags: OpenFlags) -> Result<Created, Errno> {
        let content = Content::File(Body::default());
        let inode = Self::fresh(&self.shared, FileType::Regular, new, content, 0)?;
        Ok(Created { inode, ops: None })
    }

    fn mkdir(&self, _cx: &Cx<'_>, name: &[u8], new: New) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.make(name, FileType::Directory, new, Content::dir())?)
    }

    fn mknod(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        kind: FileType,
        rdev: u64,
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let node = self.make(name, kind, new, Content::Special)?;
        node.copy_up()?.change(|a| a.rdev = rdev);
        Ok(node)
    }

    fn symlink(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        target: &[u8],
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.make(
            name,
            FileType::Symlink,
            new,
            Content::link(self.shared.upper.shared(), target)?,
        )?)
    }

    fn link(&self, _cx: &Cx<'_>, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let node = Self::own(inode)?;
        self.copy_up()?;
        node.copy_up()?.links(1);
        self.enter(name, node, false);
        self.touch(0)
    }

    fn unlink(&self, _cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.copy_up()?;
        Self::own(child)?.lose_name()?;
        self.leave(name);
        self.touch(0)
    }

    fn rmdir(&self, cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        let child = Self::own(child)?;
        child.check_empty(cx)?;
        self.copy_up()?;
        child.lose_name()?;
        self.leave(name);
        self.touch(-1)
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
        let (child, to) = (Self::own(child)?, Self::own(to)?);
        let replaced = replaced.map(Self::own).transpose()?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let is_dir = |n: &Arc<Node>| n.kind == FileType::Directory;
        // Everything that can fail comes first.
        if let Some(replaced) = replaced.as_ref().filter(|r| is_dir(r) && !exchange) {
            replaced.check_empty(cx)?;
        }
        self.copy_up()?;
        to.copy_up()?;
        let moved = child.copy_up()?;
        let whiteout = match flags.contains(RenameFlags::WHITEOUT) {
            true => {
                let new = New { mode: 0, uid: 0, gid: 0 };
                Some(Self::fresh(&self.shared, FileType::CharDevice, new, Content::Special, 1)?)
            }
            false => None,
        };
        match &replaced {
            Some(other) if exchange => {
                other.copy_up()?.links(0);
            }
            Some(other) => other.lose_name()?,
            None => {}
        }
        let from_lower = (self.is_from_lower(name), to.is_from_lower(to_name));
        match (&replaced, whiteout) {
            (Some(other), _) if exchange => self.enter(name, other.clone(), from_lower.0),
            (_, Some(whiteout)) => self.enter(name, whiteout, from_lower.0),
            _ => self.leave(name),
        }
        to.enter(to_name, child.clone(), replaced.is_some() && from_lower.1);
        moved.links(0);
        // Link counts of the two directories: what left, what came, what was replaced.
        let went = i32::from(is_dir(&child));
        let other = replaced.as_ref().map_or(0, |r| i32::from(is_dir(r)));
        let (mut here, mut there) = (0, 0);
        if exchange {
            (here, there) = (other - went, went - other);
        } else {
            here -= went;
            there += went - other;
        }
        if core::ptr::eq(self, &*to) {
            return self.touch(here + there);
        }
        self.touch(here)?;
        to.touch(there)
    }

    fn readlink(&self, cx: &Cx<'_>) -> Result<Link, Errno> {
        match (&self.lower, self.upper.get()) {
            (Some(lower), _) => lower.readlink(cx),
            (None, Some(upper)) => upper.readlink(cx),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn open(&self, cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        let node = self.this.upgrade().ok_or(Errno::ESTALE)?;
        match self.kind {
            FileType::Regular => {
                if flags.writes() {
                    let most = if flags.contains(OpenFlags::TRUNC) { 0 } else { u64::MAX };
                    self.copy_up_data(cx, most)?;
                }
                Ok(Box::new(FileHandle::open(cx, node)?))
            }
            FileType::Directory => Ok(Box::new(DirHandle::open(cx, node)?)),
            _ => Err(Errno::ENXIO),
        }
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        self.data().ok()?.mappable()
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        match (self.upper.get(), &self.lower) {
            (Some(upper), _) => upper.get_xattr(name),
            (None, Some(lower)) => lower.get_xattr(name),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        self.copy_up()?.set_xattr(name, value, flags)
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        match (self.upper.get(), &self.lower) {
            (Some(upper), _) => upper.list_xattr(),
            (None, Some(lower)) => lower.list_xattr(),
            (None, None) => Err(Errno::EIO),
        }
    }

    fn drop_caps(&self) {
        if let Some(upper) = self.upper.get() {
            upper.drop_caps();
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.copy_up()?.remove_xattr(name)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(lower) = &self.lower {
            let key = address(lower);
            let mut nodes = self.shared.nodes.lock();
            // Another node may have come for the same inode meanwhile.
            if let Some(Slot::Live(node)) = nodes.get(&key)
                && node.strong_count() == 0
                && core::ptr::eq(node.as_ptr(), self.this.as_ptr())
            {
                nodes.remove(&key);
            }
        }
        // A deep tree must not drop one directory inside the other.
        let take = |changes: &mut Changes, below: &mut Vec<Arc<Node>>| {
            let changes = core::mem::take(changes.get_mut());
            below.extend(changes.into_values().filter_map(|c| c.node));
        };
        let mut below = Vec::new();
        take(&mut self.changes, &mut below);
        while let Some(node) = below.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                take(&mut last.changes, &mut below);
            }
        }
    }
}
