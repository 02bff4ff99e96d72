//! Inodes of a gofer's files.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use gofer::wire::{
    self, Changed, Data as Bytes, Fid, MAX_STEPS, Node, Reply, Request, SetValid, Step, UNLINK_DIR,
    Wish,
};

use super::conn::{Answer, Listener};
use super::data::Data;
use super::dir::DirOps;
use super::file::RegularOps;
use super::remote::{Key, Remote, WATCH_FROM};
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::inode::{Created, FileOps, Found, Inode, Link};
use crate::fs::lock::InodeState;
use crate::fs::perm;
use crate::fs::types::{
    Attr, FileType, New, OpenFlags, OwnedEntry, Perm, RenameFlags, SetAttr, SetTime, StatFs, major,
    minor,
};
use crate::mm::{FilePage, Mappable, Mm};
use crate::platform::{PAGE_SIZE, platform};
use crate::sync::SpinLock;
use crate::task::filecaps;

/// Times that attributes are asked for again while others change them.
const ATTEMPTS: usize = 3;
/// The longest value of an extended attribute (XATTR_SIZE_MAX, limits.h).
const XATTR_MAX: u32 = 65536;

/// A file of the gofer's.
pub struct NinepInode {
    /// Itself: the VFS calls some methods without a count.
    me: Weak<NinepInode>,
    pub(super) remote: Arc<Remote>,
    /// The gofer's name for it.
    pub(super) fid: Fid,
    kind: FileType,
    key: Key,
    state: InodeState,
    meta: SpinLock<Meta>,
    /// The inode number of the directory it was found in, for `..`.
    pub(super) parent: AtomicU64,
    pub(super) data: Data,
    pub(super) names: Names,
}

/// Whether names of a directory may be trusted.
#[derive(Default)]
pub(super) struct Names {
    version: AtomicU64,
    pub(super) watched: AtomicBool,
    /// When to try to watch it (monotonic); 0: not used yet.
    pub(super) due: AtomicU64,
    listing: SpinLock<Option<Listing>>,
}

/// What a directory's entries are known as of: while it stays the same, so do they.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Age {
    /// Of its names, which others may change.
    version: u64,
    /// Changes made here.
    changes: u64,
}

/// All entries of a directory.
struct Listing {
    age: Age,
    entries: Arc<[OwnedEntry]>,
    /// Where room for them was taken.
    remote: Arc<Remote>,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.remote.release_listed(self.entries.len());
    }
}

/// What is known of the attributes.
struct Meta {
    attr: Attr,
    /// Something has changed since.
    stale: bool,
    /// Something has been changed by others: not even the length can be relied on.
    doubtful: bool,
    /// Counts changes, so that an answer that was under way meanwhile is not taken for the truth.
    changes: u64,
    /// How many changes there were when it had no capabilities.
    no_caps: Option<u64>,
    /// A symbolic link's text.
    target: Option<Arc<[u8]>>,
}

impl NinepInode {
    pub(super) fn new(
        remote: &Arc<Remote>,
        fid: Fid,
        node: &Node,
        parent: u64,
    ) -> Result<Arc<NinepInode>, Errno> {
        let kind = FileType::from_mode(node.attr.mode).filter(|k| *k != FileType::Anonymous);
        let Some(kind) = kind else {
            remote.conn.forget(fid, false);
            return Err(Errno::EIO);
        };
        Ok(Arc::new_cyclic(|me| NinepInode {
            me: me.clone(),
            remote: remote.clone(),
            fid,
            kind,
            key: (node.attr.dev, node.attr.ino),
            state: InodeState::new(),
            meta: SpinLock::new(Meta {
                attr: remote.attr(&node.attr),
                stale: false,
                doubtful: false,
                changes: 0,
                no_caps: None,
                target: None,
            }),
            parent: AtomicU64::new(parent),
            data: Data::default(),
            names: Names::default(),
        }))
    }

    pub(super) fn same_kind(&self, other: &NinepInode) -> bool {
        self.kind == other.kind
    }

    /// The gofer has told the attributes along with something else.
    pub(super) fn learn(&self, attr: &wire::Attr) {
        let attr = self.remote.attr(attr);
        let mut meta = self.meta.lock();
        // Where changes are under way here, what was told may be older than they are.
        if !self.remote.exclusive() || (!meta.stale && meta.changes == 0) {
            meta.attr = attr;
            meta.stale = false;
        }
    }

    /// Others may have changed it: `attr` is what the gofer says now.
    fn compare(&self, attr: &wire::Attr) {
        let attr = self.remote.attr(attr);
        let mut meta = self.meta.lock();
        if meta.attr != attr {
            meta.stale = true;
            meta.doubtful = true;
            meta.changes = meta.changes.wrapping_add(1);
        }
    }

    /// A change made here: `change` is what is known of it, the rest is asked for when wanted.
    pub(super) fn changed(&self, change: impl FnOnce(&mut Attr)) {
        let mut meta = self.meta.lock();
        change(&mut meta.attr);
        meta.stale = true;
        meta.changes = meta.changes.wrapping_add(1);
    }

    /// Length in bytes.
    pub(super) fn size(&self) -> u64 {
        self.meta.lock().attr.size
    }

    /// Of so many bytes from `offset` on, those before the end of the file where that is known to be further on: reading
    /// them asks nobody where it ends. At the end, and past it, all: somebody on the host may have written more.
    pub(super) fn readable(&self, offset: u64, len: usize) -> usize {
        if self.must_ask() {
            return len;
        }
        match self.size().saturating_sub(offset) {
            0 => len,
            left => len.min(usize::try_from(left).unwrap_or(usize::MAX)),
        }
    }

    /// Whether attributes have to be asked for.
    fn must_ask(&self) -> bool {
        !self.remote.exclusive() || self.meta.lock().stale || self.data.is_mapped_writable()
    }

    fn ask_attr(&self) -> Result<Attr, Errno> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let changes = self.meta.lock().changes;
            let answer = self.remote.call(&Request::Statx { fid: self.fid, mask: u32::MAX })?;
            let Reply::Statx { attr } = answer.reply()? else { return Err(Errno::EIO) };
            let mut attr = self.remote.attr(&attr);
            let mut meta = self.meta.lock();
            if meta.changes == changes {
                meta.attr = attr;
                meta.stale = false;
                meta.doubtful = false;
                return Ok(attr);
            }
            if attempt == ATTEMPTS {
                attr.size = meta.attr.size;
                return Ok(attr);
            }
        }
    }

    pub(super) fn statfs(&self) -> Result<StatFs, Errno> {
        let answer = self.remote.call(&Request::Statfs { fid: self.fid })?;
        let Reply::Statfs { stat } = answer.reply()? else { return Err(Errno::EIO) };
        Ok(StatFs {
            kind: stat.kind.into(),
            bsize: stat.bsize.into(),
            blocks: stat.blocks,
            bfree: stat.bfree,
            bavail: stat.bavail,
            files: stat.files,
            ffree: stat.ffree,
            fsid: stat.fsid,
            namelen: stat.namelen.into(),
        })
    }

    /// Another inode of the same file system, as one of these.
    fn peer(other: &Arc<dyn Inode>) -> Result<&NinepInode, Errno> {
        other.as_any().downcast_ref().ok_or(Errno::EXDEV)
    }

    /// Makes something in this directory: `ask` gives the request for a new fid, `node` takes the
    /// new file out of its reply.
    fn make<'r>(
        &self,
        ask: impl FnOnce(Fid) -> Request<'r>,
        node: impl FnOnce(&Reply<'_>) -> Option<Node>,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let conn = &self.remote.conn;
        let fid = conn.new_fid();
        let made =
            self.remote.call(&ask(fid)).and_then(|answer| node(&answer.reply()?).ok_or(Errno::EIO));
        let node = made.inspect_err(|_| conn.unused(fid))?;
        self.changed(|_| {});
        let inode: Arc<dyn Inode> = self.remote.inode(node, fid, self.ino())?;
        Ok(inode)
    }

    /// A name of this file is gone.
    fn lost_name(&self) {
        self.changed(|attr| {
            let gone = if self.kind == FileType::Directory { attr.nlink } else { 1 };
            attr.nlink = attr.nlink.saturating_sub(gone);
        });
    }

    /// Opens it at the gofer for its entries to be read.
    ///
    /// Beneath an exclusive root that begins a watch if it is one of many: who goes through a tree of files is going to
    /// use what is in it, so that each name and its attributes are learnt when changes are told already. One that is
    /// watched later has all of them asked about once more.
    pub(super) fn open_directory(&self) -> Result<Fid, Errno> {
        let conn = &self.remote.conn;
        let newfid = conn.new_fid();
        let many = self.remote.opened.fetch_add(1, Ordering::Relaxed) >= WATCH_FROM;
        let watch = many && self.remote.exclusive() && !self.names.watched.load(Ordering::Relaxed);
        let wish = if watch { Wish::WATCH } else { Wish::empty() };
        let flags = wire::OpenFlags::DIRECTORY.bits();
        let request = Request::OpenX { fid: self.fid, newfid, flags, wish: wish.bits() };
        let opened = self.remote.call(&request).and_then(|answer| match answer.reply()? {
            Reply::OpenX { granted, .. } => Ok(wire::Granted::from_bits_truncate(granted)),
            _ => Err(Errno::EIO),
        });
        let granted = opened.inspect_err(|_| conn.unused(newfid))?;
        if watch && granted.contains(wire::Granted::WATCHED) {
            self.begin_watch();
        }
        Ok(newfid)
    }

    /// The gofer watches it now, and did not before.
    fn begin_watch(&self) {
        if !self.names.watched.swap(true, Ordering::Relaxed) {
            self.remote.conn.listen(self.fid, self.me.clone());
            // What was seen before is looked at once more, also because nobody listened until now.
            self.names.version.fetch_add(1, Ordering::Release);
        }
    }

    /// As of when a listing is that is asked for now; `None` where others may change it any time.
    pub(super) fn listing_age(&self) -> Option<Age> {
        if !self.remote.exclusive() {
            return None;
        }
        let version = self.names_version();
        Some(Age { version, changes: self.meta.lock().changes })
    }

    /// All its entries, where they are known.
    pub(super) fn listing(&self) -> Option<Arc<[OwnedEntry]>> {
        let age = self.listing_age()?;
        let listing = self.names.listing.lock();
        listing.as_ref().filter(|listing| listing.age == age).map(|listing| listing.entries.clone())
    }

    /// Remembers all its entries, as far as there is room.
    pub(super) fn keep_listing(&self, age: Age, entries: &Arc<[OwnedEntry]>) {
        let old = self.names.listing.lock().take();
        drop(old);
        if self.remote.take_listed(entries.len()) {
            let new = Listing { age, entries: entries.clone(), remote: self.remote.clone() };
            let other = self.names.listing.lock().replace(new);
            drop(other);
        }
    }

    fn call_simple(&self, request: &Request<'_>) -> Result<(), Errno> {
        self.remote.call(request)?.reply().map(|_| ())
    }

    /// Has the host write it to its disk.
    pub(super) fn fsync(&self, data_only: bool) -> Result<(), Errno> {
        let fid = self.synced();
        self.call_simple(&Request::Fsync { fid, data_only: data_only.into() })
    }

    fn create_in<'r>(&self, ask: impl FnOnce(Fid) -> Request<'r>) -> Result<Created, Errno> {
        let conn = &self.remote.conn;
        let fid = conn.new_fid();
        let mut answer = self.remote.call(&ask(fid)).inspect_err(|_| conn.unused(fid))?;
        let file = answer.file.take();
        let (granted, node) = match answer.reply() {
            Ok(Reply::CreateX { granted, node } | Reply::Tmpfile { granted, node }) => {
                (granted, node)
            }
            other => {
                conn.unused(fid);
                return Err(other.err().unwrap_or(Errno::EIO));
            }
        };
        self.changed(|_| {});
        let inode = self.remote.inode(node, fid, self.ino())?;
        let donated = wire::Granted::from_bits_truncate(granted).contains(wire::Granted::DONATED);
        // A file without a donation is opened again, with a fid of its own: this one is the inode's.
        if donated && let Some(handle) = inode.handle(fid, granted, file) {
            inode.adopt(handle);
        }
        let ops: Box<dyn FileOps> = Box::new(RegularOps::new(inode.clone()));
        Ok(Created { inode, ops: Some(ops) })
    }
}

impl Inode for NinepInode {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        if self.must_ask() { self.ask_attr() } else { Ok(self.meta.lock().attr) }
    }

    fn perm(&self) -> Result<Perm, Errno> {
        // A name that was just looked up or checked again brought the attributes with it; a root
        // has no name.
        if !self.remote.exclusive() && self.parent.load(Ordering::Relaxed) == 0 {
            return Ok(self.ask_attr()?.perm());
        }
        Ok(self.meta.lock().attr.perm())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        let mut valid = SetValid::empty();
        let mut wire = wire::SetAttr::default();
        // Who may keep its set-ID bits when its size changes is not the process of the host that changes it.
        if let Some(mode) = set.mode.or(set.size.and_then(|_| self.set_ids())) {
            valid |= SetValid::MODE;
            wire.mode = mode;
        }
        if let Some(uid) = set.uid {
            valid |= SetValid::UID;
            wire.uid = self.remote.uid(uid)?;
        }
        if let Some(gid) = set.gid {
            valid |= SetValid::GID;
            wire.gid = self.remote.gid(gid)?;
        }
        if let Some(size) = set.size {
            valid |= SetValid::SIZE;
            wire.size = size;
        }
        match set.atime {
            None => {}
            Some(SetTime::Now) => valid |= SetValid::ATIME,
            Some(SetTime::To(time)) => {
                valid |= SetValid::ATIME | SetValid::ATIME_SET;
                (wire.atime_sec, wire.atime_nsec) = (time.sec as u64, time.nsec.into());
            }
        }
        match set.mtime {
            None => {}
            Some(SetTime::Now) => valid |= SetValid::MTIME,
            Some(SetTime::To(time)) => {
                valid |= SetValid::MTIME | SetValid::MTIME_SET;
                (wire.mtime_sec, wire.mtime_nsec) = (time.sec as u64, time.nsec.into());
            }
        }
        wire.valid = valid.bits();
        let _resizing = set.size.map(|_| self.data.io.lock());
        let answer = self.remote.call(&Request::SetattrX { fid: self.fid, set: wire })?;
        let Reply::SetattrX { attr } = answer.reply()? else { return Err(Errno::EIO) };
        let attr = self.remote.attr(&attr);
        {
            let mut meta = self.meta.lock();
            // Writes take the same lock, so with a size this is the last word on it.
            let size = if set.size.is_some() { attr.size } else { meta.attr.size };
            meta.attr = Attr { size, ..attr };
            meta.changes = meta.changes.wrapping_add(1);
        }
        if let Some(size) = set.size {
            self.cut(size);
        }
        Ok(())
    }

    fn known_mode(&self) -> Result<u32, Errno> {
        Ok(self.meta.lock().attr.mode)
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn ino(&self) -> u64 {
        self.key.1
    }

    fn lookup(&self, cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let found = self.lookup_many(cx, &[name]);
        found.inodes.into_iter().next().ok_or(found.error.unwrap_or(Errno::EIO))
    }

    fn looks_ahead(&self) -> bool {
        // Names beneath shared directories are checked again one by one anyway.
        self.remote.exclusive()
    }

    fn lookup_many(&self, _cx: &Cx<'_>, names: &[&[u8]]) -> Found {
        let mut found = Found { inodes: Vec::new(), error: None };
        if self.kind != FileType::Directory {
            found.error = Some(Errno::ENOTDIR);
            return found;
        }
        let conn = &self.remote.conn;
        let steps: Vec<Step<'_>> = names
            .iter()
            .take(MAX_STEPS)
            .map(|name| Step { newfid: conn.new_fid(), name })
            .collect();
        let fids: Vec<Fid> = steps.iter().map(|step| step.newfid).collect();
        let request = Request::WalkX { fid: self.fid, steps };
        let mut answer = conn.call(&request);
        if answer.as_ref().is_ok_and(Answer::walked_out_of_room) && self.remote.make_room() {
            answer = conn.call(&request);
        }
        let reply = answer.as_ref().map_err(|e| *e).and_then(|answer| answer.reply());
        let (nodes, errno, target) = match &reply {
            Ok(Reply::WalkX { nodes, errno, target }) => (nodes.as_slice(), *errno, *target),
            Ok(_) => (&[][..], Errno::EIO.code().unsigned_abs(), &[][..]),
            Err(e) => (&[][..], e.code().unsigned_abs(), &[][..]),
        };
        let mut parent = self.ino();
        let mut fids = fids.into_iter();
        for (node, fid) in nodes.iter().zip(&mut fids) {
            match self.remote.inode(*node, fid, parent) {
                Ok(inode) => {
                    parent = inode.ino();
                    if inode.kind == FileType::Symlink && inode.remote.exclusive() {
                        // Only the last can be one, and the text came with it.
                        inode.meta.lock().target = Some(Arc::from(target));
                    }
                    found.inodes.push(inode);
                }
                Err(e) => {
                    found.error = Some(e);
                    break;
                }
            }
        }
        // Of the steps that were not made there are no fids. (After an error above they are left
        // alone: a number less to use again does no harm.)
        if found.error.is_none() {
            fids.for_each(|fid| conn.unused(fid));
            if errno != 0 {
                let code = i32::try_from(errno).unwrap_or(i32::MAX);
                found.error = Some(Errno::from_code(code));
            }
        }
        found
    }

    fn names_version(&self) -> u64 {
        if self.kind != FileType::Directory || !self.remote.exclusive() {
            return 0;
        }
        let names = &self.names;
        let now = platform().monotonic();
        if names.watched.load(Ordering::Relaxed) {
            self.remote.conn.poll(now);
            return names.version.load(Ordering::Acquire);
        }
        let due = names.due.load(Ordering::Relaxed);
        let next = now.saturating_add(self.remote.watch_after.load(Ordering::Relaxed));
        if now >= due
            && names.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && due != 0
        {
            if self.call_simple(&Request::Watch { fid: self.fid }).is_ok() {
                self.begin_watch();
            } else {
                // What was seen before is looked at once more.
                names.version.fetch_add(1, Ordering::Release);
            }
        }
        names.version.load(Ordering::Acquire)
    }

    fn revalidate(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        child: Option<&Arc<dyn Inode>>,
    ) -> Result<bool, Errno> {
        let steps = Vec::from([Step { newfid: Fid::NONE, name }]);
        let answer = self.remote.call(&Request::WalkX { fid: self.fid, steps })?;
        let Reply::WalkX { nodes, errno, .. } = answer.reply()? else { return Err(Errno::EIO) };
        match (nodes.first(), child) {
            (Some(node), Some(child)) => {
                let child = Self::peer(child)?;
                let same = child.key == (node.attr.dev, node.attr.ino)
                    && FileType::from_mode(node.attr.mode) == Some(child.kind);
                match (same, self.remote.exclusive()) {
                    (false, _) => {}
                    (true, true) => child.compare(&node.attr),
                    (true, false) => child.learn(&node.attr),
                }
                Ok(same)
            }
            (None, None) => Ok(errno == Errno::ENOENT.code().unsigned_abs()),
            _ => Ok(false),
        }
    }

    fn create(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        new: New,
        flags: OpenFlags,
    ) -> Result<Created, Errno> {
        // Whatever it is opened for here: others will want to read, write and map it.
        let _ = flags;
        let (uid, gid) = (self.remote.uid(new.uid)?, self.remote.gid(new.gid)?);
        self.create_in(|newfid| Request::CreateX {
            dir: self.fid,
            newfid,
            name,
            flags: wire::OpenFlags::RDWR.bits(),
            mode: new.mode,
            uid,
            gid,
            wish: (Wish::DONATE | Wish::NOT_KEPT).bits(),
        })
    }

    fn tmpfile(&self, _cx: &Cx<'_>, new: New, _flags: OpenFlags) -> Result<Created, Errno> {
        let dir = self.fid;
        let (uid, gid) = (self.remote.uid(new.uid)?, self.remote.gid(new.gid)?);
        self.create_in(|newfid| Request::Tmpfile {
            dir,
            newfid,
            flags: wire::OpenFlags::RDWR.bits(),
            mode: new.mode,
            uid,
            gid,
            wish: (Wish::DONATE | Wish::NOT_KEPT).bits(),
        })
    }

    fn mkdir(&self, _cx: &Cx<'_>, name: &[u8], new: New) -> Result<Arc<dyn Inode>, Errno> {
        let (dir, mode) = (self.fid, new.mode);
        let (uid, gid) = (self.remote.uid(new.uid)?, self.remote.gid(new.gid)?);
        let made = self.make(
            |newfid| Request::MkdirX { dir, newfid, name, mode, uid, gid },
            |reply| match reply {
                Reply::MkdirX { node } => Some(*node),
                _ => None,
            },
        )?;
        Ok(made)
    }

    fn mknod(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        kind: FileType,
        rdev: u64,
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let (dir, mode) = (self.fid, new.mode);
        let (uid, gid) = (self.remote.uid(new.uid)?, self.remote.gid(new.gid)?);
        let rdev = wire::Dev { major: major(rdev), minor: minor(rdev) };
        let mode = kind.mode() | mode;
        self.make(
            |newfid| Request::MknodX { dir, newfid, name, mode, rdev, uid, gid },
            |reply| match reply {
                Reply::MknodX { node } => Some(*node),
                _ => None,
            },
        )
    }

    fn symlink(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        target: &[u8],
        new: New,
    ) -> Result<Arc<dyn Inode>, Errno> {
        let dir = self.fid;
        let (uid, gid) = (self.remote.uid(new.uid)?, self.remote.gid(new.gid)?);
        self.make(
            |newfid| Request::SymlinkX { dir, newfid, name, target, uid, gid },
            |reply| match reply {
                Reply::SymlinkX { node } => Some(*node),
                _ => None,
            },
        )
    }

    fn link(&self, _cx: &Cx<'_>, name: &[u8], inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let inode = Self::peer(inode)?;
        let request = Request::LinkX { dir: self.fid, fid: inode.fid, name };
        let answer = self.remote.call(&request)?;
        let Reply::LinkX { attr } = answer.reply()? else { return Err(Errno::EIO) };
        inode.changed(|known| known.nlink = attr.nlink);
        self.changed(|_| {});
        Ok(())
    }

    fn unlink(&self, _cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.call_simple(&Request::Unlinkat { dir: self.fid, name, flags: 0 })?;
        self.changed(|_| {});
        Self::peer(child)?.lost_name();
        Ok(())
    }

    fn rmdir(&self, _cx: &Cx<'_>, name: &[u8], child: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.call_simple(&Request::Unlinkat { dir: self.fid, name, flags: UNLINK_DIR })?;
        self.changed(|_| {});
        Self::peer(child)?.lost_name();
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
        let to = Self::peer(to)?;
        self.call_simple(&Request::RenameX {
            olddir: self.fid,
            oldname: name,
            newdir: to.fid,
            newname: to_name,
            flags: flags.bits(),
        })?;
        self.changed(|_| {});
        to.changed(|_| {});
        let child = Self::peer(child)?;
        child.changed(|_| {});
        child.parent.store(to.ino(), Ordering::Relaxed);
        if let Some(replaced) = replaced {
            let replaced = Self::peer(replaced)?;
            if flags.contains(RenameFlags::EXCHANGE) {
                replaced.changed(|_| {});
                replaced.parent.store(self.ino(), Ordering::Relaxed);
            } else {
                replaced.lost_name();
            }
        }
        Ok(())
    }

    fn readlink(&self, _cx: &Cx<'_>) -> Result<Link, Errno> {
        if self.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        if let Some(target) = self.meta.lock().target.clone() {
            return Ok(Link::Text(target.to_vec()));
        }
        let answer = self.remote.call(&Request::Readlink { fid: self.fid })?;
        let Reply::Readlink { target } = answer.reply()? else { return Err(Errno::EIO) };
        // A link's text never changes; only the name can come to mean another link.
        self.meta.lock().target = Some(Arc::from(target));
        Ok(Link::Text(target.to_vec()))
    }

    fn open(&self, _cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        match self.kind {
            FileType::Regular => {
                let inode = self.this()?;
                // Whether the host lets it be opened is told here and not at the first read.
                if flags.writes() {
                    inode.writer()?;
                }
                if flags.reads() {
                    inode.reader()?;
                }
                Ok(Box::new(RegularOps::new(inode)))
            }
            FileType::Directory => Ok(Box::new(DirOps::new(self.this()?)?)),
            FileType::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }

    fn mappable(self: Arc<Self>) -> Option<Arc<dyn Mappable>> {
        if self.kind == FileType::Regular { Some(self) } else { None }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if name == filecaps::NAME { self.caps() } else { self.ask_xattr(name) }
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<(), Errno> {
        let mapped;
        let mut value = value;
        if name == filecaps::NAME {
            mapped = filecaps::map_root(value.to_vec(), |id| self.remote.uid(id).ok())?;
            value = &mapped;
        }
        let request = Request::SetXattr { fid: self.fid, name, value: Bytes(value), flags };
        self.call_simple(&request)?;
        self.changed(|_| {});
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<u8>, Errno> {
        let request = Request::ListXattr { fid: self.fid, size: XATTR_MAX };
        let answer = self.remote.call(&request)?;
        match answer.reply()? {
            Reply::ListXattr { data, .. } => Ok(data.0.to_vec()),
            _ => Err(Errno::EIO),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        self.call_simple(&Request::RemoveXattr { fid: self.fid, name })?;
        self.changed(|_| {});
        Ok(())
    }
}

impl NinepInode {
    /// It has been written with its set-ID bits still on it: the writer may keep them. The process of the host that writes
    /// donated files may not, so they are set anew.
    pub(super) fn keep_set_ids(&self) {
        if let Some(mode) = self.set_ids() {
            let set = wire::SetAttr { valid: SetValid::MODE.bits(), mode, ..Default::default() };
            // The data is written, whatever becomes of this.
            let _ = self.call_simple(&Request::SetattrX { fid: self.fid, set });
        }
    }

    /// Its mode, if a write may take something away from it.
    fn set_ids(&self) -> Option<u32> {
        let mode = self.meta.lock().attr.mode;
        perm::drop_set_ids(mode).map(|_| mode)
    }

    fn ask_xattr(&self, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let request = Request::GetXattr { fid: self.fid, name, size: XATTR_MAX };
        let answer = self.remote.call(&request)?;
        match answer.reply()? {
            Reply::GetXattr { data, .. } => Ok(data.0.to_vec()),
            _ => Err(Errno::EIO),
        }
    }

    /// Its capabilities, which every exec asks for: that there are none is kept for as long as nothing changes.
    fn caps(&self) -> Result<Vec<u8>, Errno> {
        let changes = {
            let meta = self.meta.lock();
            if self.remote.exclusive() && meta.no_caps == Some(meta.changes) {
                return Err(Errno::ENODATA);
            }
            meta.changes
        };
        match self.ask_xattr(filecaps::NAME) {
            Ok(value) => filecaps::map_root(value, |id| self.remote.kuid(id)),
            Err(e @ (Errno::ENODATA | Errno::EOPNOTSUPP)) => {
                self.meta.lock().no_caps = Some(changes);
                Err(e)
            }
            // They are for others than the gofer's user namespace.
            Err(Errno::EOVERFLOW) => Err(Errno::ENODATA),
            Err(e) => Err(e),
        }
    }

    /// Itself, counted. `EIO` while it is being dropped, when nobody can ask.
    fn this(&self) -> Result<Arc<NinepInode>, Errno> {
        self.me.upgrade().ok_or(Errno::EIO)
    }

    /// The size now, also where others may change it.
    pub(super) fn size_now(self: &Arc<Self>) -> Result<u64, Errno> {
        if self.remote.exclusive() {
            let (size, doubtful) = {
                let meta = self.meta.lock();
                (meta.attr.size, meta.doubtful)
            };
            return if doubtful { Ok(self.ask_attr()?.size) } else { Ok(size) };
        }
        match self.reader()?.donated() {
            Some(file) => platform().file_size(file),
            None => Ok(self.attr()?.size),
        }
    }
}

impl NinepInode {
    /// fallocate(2).
    pub(super) fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<(), Errno> {
        let _writing = self.data.io.lock();
        let request = Request::Fallocate { fid: self.fid, mode, offset, length };
        self.remote.call(&request)?.reply().map(|_| ())?;
        self.this()?.wrote();
        self.keep_set_ids();
        // What became of the size depends on the mode: the gofer knows.
        self.changed(|_| {});
        let size = self.attr()?.size;
        self.cut(size);
        Ok(())
    }
}

impl Mappable for NinepInode {
    fn page(&self, index: u64, write: bool) -> Result<FilePage, Errno> {
        let inode = self.this()?;
        let start = index.checked_mul(PAGE_SIZE as u64).ok_or(Errno::EFAULT)?;
        if start >= inode.size_now()? {
            return Err(Errno::EFAULT);
        }
        let handle = if write { inode.page_writer()? } else { inode.reader()? };
        if write {
            inode.wrote();
        }
        // The number outlives the handle: it is closed only after every mapping is gone.
        handle.donated().map(FilePage::Donated).ok_or(Errno::EIO)
    }

    fn around(&self, index: u64, most: u32) -> u32 {
        let pages = self.size().div_ceil(PAGE_SIZE as u64);
        u32::try_from(pages.saturating_sub(index)).unwrap_or(u32::MAX).clamp(1, most.max(1))
    }

    fn attach(&self, mm: &Arc<Mm>) {
        self.data.attach(mm);
    }

    fn detach(&self, mm: &Mm) {
        self.data.detach(mm);
    }

    fn punch(&self, first: u64, pages: u64) -> Result<(), Errno> {
        /// FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE.
        const HOLE: u32 = 3;
        let page = PAGE_SIZE as u64;
        self.allocate(HOLE, first.saturating_mul(page), pages.saturating_mul(page))
    }

    fn tracks_writes(&self) -> bool {
        false // the host's page cache does
    }

    fn is_steady(&self) -> bool {
        self.remote.sharing == super::Sharing::Exclusive && !self.data.was_opened_for_writing()
    }

    fn identity(&self) -> (u64, u64) {
        let attr = self.meta.lock().attr;
        (attr.dev, attr.ino)
    }

    fn sync(&self, _first: u64, _pages: u64) -> Result<(), Errno> {
        self.fsync(true)
    }
}

impl Listener for NinepInode {
    fn changed(&self, _changed: Changed) {
        // Whatever it is, the names tell: each is looked at once more, and its attributes with it.
        self.names.version.fetch_add(1, Ordering::Release);
        let mut meta = self.meta.lock();
        meta.stale = true;
        meta.changes = meta.changes.wrapping_add(1);
    }
}

impl Drop for NinepInode {
    fn drop(&mut self) {
        if *self.names.watched.get_mut() {
            self.remote.conn.unlisten(self.fid);
        }
        self.remote.gone(&self.key);
        // A file without a name takes room on the host until it is forgotten.
        let nameless = self.meta.get_mut().attr.nlink == 0;
        self.remote.conn.forget(self.fid, nameless);
    }
}
