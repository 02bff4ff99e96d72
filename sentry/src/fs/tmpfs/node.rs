//! Inodes of a tmpfs.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;

use hashbrown::HashMap;

use super::file::{Body, DirOps, FileHandle};
use super::{INODE_SPACE, Shared};
use crate::errno::Errno;
use crate::fs::anon::apply;
use crate::fs::context::Cx;
use crate::fs::inode::{Created, FileOps, Inode, Link};
use crate::fs::lock::InodeState;
use crate::fs::pages::Charge;
use crate::fs::types::{
    Attr, DirEntry, FileType, New, OpenFlags, Perm, RenameFlags, SetAttr, Time, mode,
};
use crate::mm::{FrameRef, Mappable};
use crate::platform::{PAGE_SIZE, platform};
use crate::sync::SpinLock;
use crate::task::filecaps;

/// What Linux counts for each entry of a directory's size (BOGO_DIRENT_SIZE, mm/shmem.c).
const DIRENT_SIZE: u64 = 20;

/// Extended attributes by their names.
type Xattrs = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// What an attribute takes of the room for inodes, bytes (simple_xattr_space(), fs/xattr.c).
fn space(name: &[u8], value: &[u8]) -> u64 {
    (name.len() as u64).saturating_add(value.len() as u64).saturating_add(40)
}

/// The target of a symbolic link.
pub enum Target {
    /// One that is kept with the inode.
    Short(Box<[u8]>),
    /// One that has a page of the file system's.
    Long {
        /// The page, whose beginning it is.
        page: FrameRef,
        /// Its length.
        len: usize,
        /// Who has paid for the page.
        shared: Arc<Shared>,
    },
}

/// From this length on a target has a page (SHORT_SYMLINK_LEN, mm/shmem.c).
const LONG_TARGET: usize = 128;

impl Target {
    fn len(&self) -> usize {
        match self {
            Target::Short(text) => text.len(),
            Target::Long { len, .. } => *len,
        }
    }

    fn text(&self) -> Vec<u8> {
        match self {
            Target::Short(text) => text.to_vec(),
            Target::Long { page, len, .. } => {
                let mut text = vec![0; (*len).min(PAGE_SIZE)];
                platform().read_frame(page.frame(), 0, &mut text);
                text
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Target::Long { shared, .. } = self {
            shared.refund(1);
        }
    }
}

/// An inode.
pub struct Node {
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    this: Weak<Node>,
    kind: FileType,
    pub(super) ino: u64,
    attr: SpinLock<Attr>,
    xattrs: SpinLock<Xattrs>,
    state: InodeState,
    content: Content,
}

/// What an inode holds.
pub enum Content {
    /// A regular file's data.
    File(Body),
    /// A directory's entries.
    Dir(SpinLock<Entries>),
    /// A symbolic link's target.
    Link(Target),
    /// A device number, or nothing.
    Special,
}

impl Content {
    /// An empty directory.
    pub fn dir() -> Content {
        Content::Dir(SpinLock::new(Entries::default()))
    }

    /// A symbolic link. `ENOSPC` where its target has no room, `ENAMETOOLONG` where no page has room for it.
    pub fn link(shared: &Arc<Shared>, target: &[u8]) -> Result<Content, Errno> {
        if target.len() < LONG_TARGET {
            return Ok(Content::Link(Target::Short(target.into())));
        }
        if target.len() > PAGE_SIZE {
            return Err(Errno::ENAMETOOLONG);
        }
        shared.charge(1)?;
        let page = FrameRef::alloc().inspect_err(|_| shared.refund(1))?;
        platform().write_frame(page.frame(), 0, target);
        Ok(Content::Link(Target::Long { page, len: target.len(), shared: shared.clone() }))
    }
}

/// The lowest place of an entry. Positions of readdir(3) are the places of the entries before them, and
/// 1 and 2 stand behind `.` and `..`.
const FIRST_PLACE: u64 = 3;

/// The entries of a directory, by name and by place. Later ones have higher places and are listed first,
/// as on Linux.
#[derive(Default)]
pub struct Entries {
    by_name: HashMap<Arc<[u8]>, (u64, Arc<Node>)>,
    by_place: BTreeMap<u64, Arc<[u8]>>,
    /// The last place given; they begin at [`FIRST_PLACE`].
    last: u64,
    parent: Weak<Node>,
}

impl Entries {
    fn insert(&mut self, name: &[u8], node: Arc<Node>) -> Option<Arc<Node>> {
        let old = self.remove(name);
        let name: Arc<[u8]> = Arc::from(name);
        self.last = self.last.saturating_add(1).max(FIRST_PLACE);
        self.by_place.insert(self.last, name.clone());
        self.by_name.insert(name, (self.last, node));
        old
    }

    fn remove(&mut self, name: &[u8]) -> Option<Arc<Node>> {
        let (place, node) = self.by_name.remove(name)?;
        self.by_place.remove(&place);
        Some(node)
    }
}

impl Node {
    /// A new inode with `nlink` names. `ENOSPC` at the limit of inodes.
    pub fn new(
        shared: &Arc<Shared>,
        kind: FileType,
        new: New,
        content: Content,
        nlink: u32,
    ) -> Result<Arc<Node>, Errno> {
        shared.take(INODE_SPACE)?;
        let now = Time::now();
        let ino = shared.ino();
        Ok(Arc::new_cyclic(|this: &Weak<Node>| Node {
            shared: shared.clone(),
            this: this.clone(),
            kind,
            ino,
            attr: SpinLock::new(Attr {
                dev: shared.dev,
                ino,
                mode: kind.mode() | new.mode & mode::PERM,
                nlink,
                uid: new.uid,
                gid: new.gid,
                blksize: PAGE_SIZE as u32,
                atime: now,
                mtime: now,
                ctime: now,
                btime: Some(now),
                ..Attr::default()
            }),
            xattrs: SpinLock::new(BTreeMap::new()),
            state: InodeState::new(),
            content,
        }))
    }

    /// A regular file without a name.
    pub fn new_file(shared: &Arc<Shared>, new: New) -> Result<Arc<Node>, Errno> {
        Node::new(shared, FileType::Regular, new, Content::File(Body::default()), 0)
    }

    /// Its data, if it is a regular file.
    pub fn body(&self) -> Option<&Body> {
        match &self.content {
            Content::File(body) => Some(body),
            _ => None,
        }
    }

    /// Takes extended attributes over as they are. `ENOSPC` where there is no room for one.
    pub fn adopt_xattrs(
        &self,
        all: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Errno> {
        for (name, value) in all {
            self.put_xattr(&name, &value, 0)?;
        }
        Ok(())
    }

    /// Gives it an attribute. `flags` are those of setxattr(2).
    fn put_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        // The old one makes room only when it is gone.
        let needed = space(name, value);
        self.shared.take(needed)?;
        let mut xattrs = self.xattrs.lock();
        let refused = match (flags, xattrs.contains_key(name)) {
            (1, true) => Some(Errno::EEXIST),
            (2, false) => Some(Errno::ENODATA),
            _ => None,
        };
        let unneeded = match refused {
            Some(_) => Some(needed),
            None => xattrs.insert(name.into(), value.into()).map(|old| space(name, &old)),
        };
        drop(xattrs);
        self.shared.give_back(unneeded.unwrap_or(0));
        refused.map_or(Ok(()), Err)
    }

    /// Takes an attribute away, if it has it.
    fn take_xattr(&self, name: &[u8]) -> Option<()> {
        let old = self.xattrs.lock().remove(name)?;
        self.shared.give_back(space(name, &old));
        let now = Time::now();
        self.change(|a| a.ctime = now);
        Some(())
    }

    fn entries(&self) -> Result<&SpinLock<Entries>, Errno> {
        match &self.content {
            Content::Dir(entries) => Ok(entries),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Changes attributes in place.
    pub fn change(&self, f: impl FnOnce(&mut Attr)) {
        f(&mut self.attr.lock());
    }

    /// Content has changed: mtime and ctime.
    pub fn touch(&self) {
        let now = Time::now();
        self.change(|a| (a.mtime, a.ctime) = (now, now));
    }

    /// Changes the number of names, and ctime.
    pub fn links(&self, by: i32) {
        let now = Time::now();
        self.change(|a| {
            a.nlink = a.nlink.saturating_add_signed(by);
            a.ctime = now;
        });
    }

    fn own(inode: &Arc<dyn Inode>) -> Result<Arc<Node>, Errno> {
        let node = inode.as_any().downcast_ref::<Node>().ok_or(Errno::EXDEV)?;
        node.this.upgrade().ok_or(Errno::ESTALE)
    }

    /// Enters a new name.
    fn add(&self, name: &[u8], node: &Arc<Node>) -> Result<(), Errno> {
        let entries = self.entries()?;
        if node.kind == FileType::Directory {
            node.entries()?.lock().parent = self.this.clone();
            self.links(1);
        }
        entries.lock().insert(name, node.clone());
        self.touch();
        Ok(())
    }

    fn make(
        &self,
        name: &[u8],
        kind: FileType,
        new: New,
        content: Content,
    ) -> Result<Arc<Node>, Errno> {
        let nlink = if kind == FileType::Directory { 2 } else { 1 };
        let node = Node::new(&self.shared, kind, new, content, nlink)?;
        self.add(name, &node)?;
        Ok(node)
    }

    /// What loses its name loses a link; a directory two, and its parent one.
    fn dropped(&self, node: &Arc<Node>) {
        if node.kind == FileType::Directory {
            node.links(-2);
            self.links(-1);
        } else {
            node.links(-1);
        }
    }

    pub(super) fn readdir(
        &self,
        pos: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<u64, Errno> {
        let entries = self.entries()?;
        let mut pos = pos;
        if pos == 0 {
            let entry = DirEntry { name: b".", ino: self.ino, kind: FileType::Directory, next: 1 };
            if !sink(entry) {
                return Ok(pos);
            }
            pos = 1;
        }
        if pos == 1 {
            let parent = entries.lock().parent.upgrade().map_or(self.ino, |p| p.ino);
            if !sink(DirEntry { name: b"..", ino: parent, kind: FileType::Directory, next: 2 }) {
                return Ok(pos);
            }
            pos = 2;
        }
        // The sink may fault on user memory: outside of the lock, a few entries at a time.
        loop {
            let batch: Vec<(u64, Arc<[u8]>, u64, FileType)> = {
                let entries = entries.lock();
                let below = if pos == 2 { u64::MAX } else { pos };
                let places = entries.by_place.range(..below).rev().take(64);
                places
                    .filter_map(|(place, name)| {
                        let (_, node) = entries.by_name.get(name)?;
                        Some((*place, name.clone(), node.ino, node.kind))
                    })
                    .collect()
            };
            if batch.is_empty() {
                return Ok(pos);
            }
            for (place, name, ino, kind) in batch {
                if !sink(DirEntry { name: &name, ino, kind, next: place }) {
                    return Ok(pos);
                }
                pos = place;
            }
        }
    }
}

impl Inode for Node {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let mut attr = *self.attr.lock();
        match &self.content {
            Content::File(body) => {
                attr.size = body.pages.size();
                attr.blocks = body.pages.count().saturating_mul(PAGE_SIZE as u64 / 512);
            }
            Content::Dir(entries) => {
                let count = entries.lock().by_name.len() as u64;
                attr.size = count.saturating_add(2).saturating_mul(DIRENT_SIZE);
            }
            Content::Link(target) => {
                attr.size = target.len() as u64;
                if let Target::Long { .. } = target {
                    attr.blocks = PAGE_SIZE as u64 / 512;
                }
            }
            Content::Special => {}
        }
        Ok(attr)
    }

    fn perm(&self) -> Result<Perm, Errno> {
        Ok(self.attr.lock().perm())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        if let Some(size) = set.size {
            let body = self.body().ok_or(Errno::EINVAL)?;
            body.truncate(size, &*self.shared, self)?;
            let now = Time::now();
            self.change(|a| a.mtime = now);
        }
        self.change(|attr| apply(attr, set));
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, _cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        match self.entries()?.lock().by_name.get(name) {
            Some((_, node)) => Ok(node.clone()),
            None => Err(Errno::ENOENT),
        }
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
        Ok(Created { inode: Node::new_file(&self.shared, new)?, ops: None })
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
        node.change(|a| a.rdev = rdev);
        Ok(node)
    }

    fn symlink(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        target: &[u8],
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        Ok(self.make(name, FileType::Symlink, new, Content::link(&self.shared, target)?)?)
    }

    fn link(&self, _cx: &Cx<'_>, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let node = Self::own(inode)?;
        node.links(1);
        self.add(name, &node)
    }

    fn unlink(&self, _cx: &Cx<'_>, name: &[u8], _child: &Arc<dyn Inode>) -> Result<(), Errno> {
        let node = self.entries()?.lock().remove(name).ok_or(Errno::ENOENT)?;
        self.dropped(&node);
        self.touch();
        Ok(())
    }

    fn rmdir(&self, _cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        let child = Self::own(child)?;
        if !child.entries()?.lock().by_name.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        let node = self.entries()?.lock().remove(name).ok_or(Errno::ENOENT)?;
        self.dropped(&node);
        self.touch();
        Ok(())
    }

    fn rename(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        child: &Arc<dyn Inode>,
        to: &Arc<dyn Inode>,
        to_name: &[u8],
        replaced: Option<&Arc<dyn Inode>>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let (child, to) = (Self::own(child)?, Self::own(to)?);
        let replaced = replaced.map(Self::own).transpose()?;
        let is_dir = |n: &Arc<Node>| n.kind == FileType::Directory;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if let Some(replaced) = replaced.as_ref().filter(|r| is_dir(r) && !exchange)
            && !replaced.entries()?.lock().by_name.is_empty()
        {
            return Err(Errno::ENOTEMPTY);
        }
        // A whiteout is made first: that can fail.
        let whiteout = match flags.contains(RenameFlags::WHITEOUT) {
            true => {
                let new = New { mode: 0, uid: 0, gid: 0 };
                let shared = &self.shared;
                Some(Node::new(shared, FileType::CharDevice, new, Content::Special, 1)?)
            }
            false => None,
        };
        let enter = |dir: &Node, name: &[u8], node: &Arc<Node>| -> Result<(), Errno> {
            if is_dir(node) {
                node.entries()?.lock().parent = dir.this.clone();
            }
            dir.entries()?.lock().insert(name, node.clone());
            Ok(())
        };
        match &replaced {
            Some(other) if exchange => enter(self, name, other)?,
            _ => {
                self.entries()?.lock().remove(name);
                if let Some(whiteout) = &whiteout {
                    enter(self, name, whiteout)?;
                }
            }
        }
        enter(&to, to_name, &child)?;
        // Directories that changed hands change their parents' link counts.
        if let Some(gone) = replaced.as_ref().filter(|_| !exchange) {
            to.dropped(gone);
        }
        if !core::ptr::eq(self, &*to) {
            let came_back = replaced.as_ref().is_some_and(|r| exchange && is_dir(r));
            let by = i32::from(is_dir(&child)) - i32::from(came_back);
            if by != 0 {
                self.links(-by);
                to.links(by);
            }
        }
        let now = Time::now();
        for node in [Some(&child), replaced.as_ref()].into_iter().flatten() {
            node.change(|a| a.ctime = now);
        }
        self.touch();
        to.touch();
        Ok(())
    }

    fn readlink(&self, _cx: &Cx<'_>) -> Result<Link, Errno> {
        match &self.content {
            Content::Link(target) => Ok(Link::Text(target.text())),
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(&self, _cx: &Cx<'_>, _flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        let node = self.this.upgrade().ok_or(Errno::ESTALE)?;
        match &self.content {
            Content::File(_) => Ok(Box::new(FileHandle(node))),
            Content::Dir(_) => Ok(Box::new(DirOps(node))),
            Content::Link(_) | Content::Special => Err(Errno::ENXIO),
        }
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        match &self.content {
            Content::File(_) => Some(self),
            _ => None,
        }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        self.xattrs.lock().get(name).map(|v| v.to_vec()).ok_or(Errno::ENODATA)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        if name.starts_with(b"system.") {
            return Err(Errno::EOPNOTSUPP);
        }
        self.put_xattr(name, value, flags)?;
        let now = Time::now();
        self.change(|a| a.ctime = now);
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        let mut names = Vec::new();
        for name in self.xattrs.lock().keys() {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    fn drop_caps(&self) {
        // Most have none, and are not locked long.
        let _had = self.take_xattr(filecaps::NAME);
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.take_xattr(name).ok_or(Errno::ENODATA)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let attributes = self.xattrs.get_mut().iter().map(|(name, value)| space(name, value));
        self.shared.give_back(attributes.sum::<u64>().saturating_add(INODE_SPACE));
        match &mut self.content {
            Content::File(body) => body.pages.clear(&*self.shared),
            Content::Dir(entries) => {
                // A deep tree must not drop one directory inside the other.
                let mut below: Vec<Arc<Node>> = Vec::new();
                let take = |entries: &mut SpinLock<Entries>, below: &mut Vec<Arc<Node>>| {
                    let entries = core::mem::take(entries.get_mut());
                    below.extend(entries.by_name.into_values().map(|(_, node)| node));
                };
                take(entries, &mut below);
                while let Some(node) = below.pop() {
                    if let Some(mut last) = Arc::into_inner(node)
                        && let Content::Dir(entries) = &mut last.content
                    {
                        take(entries, &mut below);
                    }
                }
            }
            Content::Link(_) | Content::Special => {}
        }
    }
}
