//! What the inodes of one attach point share.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use gofer::wire::{self, Fid, Node, Reply, Request};
use hashbrown::HashMap;

use super::Sharing;
use super::conn::{Answer, Connection};
use super::inode::NinepInode;
use crate::errno::Errno;
use crate::fs::anon::next_dev;
use crate::fs::inode::NameCache;
use crate::fs::types::{Attr, Time, makedev};
use crate::sync::SpinLock;
use crate::task::UserNamespace;
use crate::task::userns::{IdKind, OVERFLOW_ID};

/// Donated files kept at most, where the host half has room for as many; each is a descriptor there. The files of a
/// whole userland: one that is given up costs a message and an answer when it is read again, more than a small file's
/// content.
const MAX_DONATIONS: usize = 16 * 1024;
/// Inodes in a list beyond which those that are gone are taken out of it.
const MANY: usize = 1024;
/// Inodes looked at when one is to give up its donation.
const SWEEP: usize = 16;
/// Fids synced by one message.
const SYNC_BATCH: usize = 128;

/// After being used for so long, a directory of an exclusive attach point is watched; and so often
/// one that cannot be is looked at again, nanoseconds. Short-lived containers need no watches, whose end takes the
/// host's kernel milliseconds.
const WATCH_AFTER: u64 = 1_000_000_000;
/// After so many directories have been opened, each further one is watched from its opening on. Starting a program of
/// an interpreted language opens fewer, and whoever goes through a tree of files more.
pub(super) const WATCH_FROM: usize = 8;
/// Entries of directories that are remembered, of all directories together: some 6 MB of names.
const LISTED_MAX: usize = 64 * 1024;

/// What the inodes of one attach point share.
pub struct Remote {
    /// Whose numbers of users and groups the gofer's are.
    ids: UserNamespace,
    pub(super) conn: Arc<Connection>,
    pub(super) sharing: Sharing,
    pub(super) read_only: bool,
    /// The device number that applications see.
    pub(super) dev: u64,
    /// The root's device on the host, which is shown as `dev`.
    host_dev: wire::Dev,
    /// By device and inode number of the host.
    inodes: SpinLock<HashMap<Key, Weak<NinepInode>>>,
    /// Inodes that hold donated files, by age.
    pub(super) donated: Inodes,
    /// Donated files.
    pub(super) donations: AtomicUsize,
    /// Inodes written to since the last sync.
    pub(super) written: Inodes,
    /// The names that the VFS has cached.
    pub(super) names: SpinLock<Option<Weak<dyn NameCache>>>,
    /// Entries in remembered listings.
    listed: AtomicUsize,
    /// Times that a directory was opened at the gofer.
    pub(super) opened: AtomicUsize,
    /// [`WATCH_AFTER`], but in tests.
    pub(super) watch_after: AtomicU64,
}

/// Inodes in the order in which they came, which the list does not keep alive.
#[derive(Default)]
pub(super) struct Inodes(SpinLock<InodeList>);

#[derive(Default)]
struct InodeList {
    inodes: VecDeque<Weak<NinepInode>>,
    /// The length at which those that are gone are taken out; 0: [`MANY`].
    prune_at: usize,
}

impl Inodes {
    /// Adds one at the end.
    pub(super) fn push(&self, inode: Weak<NinepInode>) {
        let full = {
            let mut list = self.0.lock();
            list.inodes.push_back(inode);
            if list.inodes.len() < list.prune_at.max(MANY) {
                return;
            }
            // Whoever comes meanwhile begins a new list.
            core::mem::take(&mut list.inodes)
        };
        let mut alive: VecDeque<_> =
            full.into_iter().filter(|inode| inode.strong_count() > 0).collect();
        let mut list = self.0.lock();
        alive.append(&mut list.inodes);
        list.inodes = alive;
        list.prune_at = list.inodes.len().saturating_mul(2);
    }

    /// Takes the oldest out.
    fn pop(&self) -> Option<Weak<NinepInode>> {
        self.0.lock().inodes.pop_front()
    }

    /// Takes all out.
    fn take(&self) -> VecDeque<Weak<NinepInode>> {
        core::mem::take(&mut self.0.lock().inodes)
    }

    /// How many there are, gone or not.
    pub(super) fn len(&self) -> usize {
        self.0.lock().inodes.len()
    }
}

/// Device and inode number on the host.
pub(super) type Key = (wire::Dev, u64);

impl Remote {
    pub(super) fn new(
        conn: Arc<Connection>,
        sharing: Sharing,
        read_only: bool,
        root: &Node,
        ids: UserNamespace,
    ) -> Arc<Remote> {
        Arc::new(Remote {
            ids,
            conn,
            sharing,
            read_only,
            dev: next_dev(),
            host_dev: root.attr.dev,
            inodes: SpinLock::new(HashMap::new()),
            donated: Inodes::default(),
            donations: AtomicUsize::new(0),
            written: Inodes::default(),
            names: SpinLock::new(None),
            listed: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            watch_after: AtomicU64::new(WATCH_AFTER),
        })
    }

    /// Takes room for so many more entries of listings; whether there was.
    pub(super) fn take_listed(&self, count: usize) -> bool {
        let more = |now: usize| now.checked_add(count).filter(|sum| *sum <= LISTED_MAX);
        self.listed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives that room back.
    pub(super) fn release_listed(&self, count: usize) {
        self.listed.fetch_sub(count, Ordering::Relaxed);
    }

    /// Whether nobody else changes files.
    pub(super) fn exclusive(&self) -> bool {
        self.sharing == Sharing::Exclusive
    }

    /// Asks the gofer. Where that has no room for another fid, unused ones are given back and it is
    /// asked once more.
    pub(super) fn call(&self, request: &Request<'_>) -> Result<Answer, Errno> {
        let answer = self.conn.call(request)?;
        if matches!(answer.reply(), Err(Errno::ENFILE)) && self.make_room() {
            return self.conn.call(request);
        }
        Ok(answer)
    }

    /// Has names that nobody uses dropped, and the gofer forget their fids; whether there were any.
    pub(super) fn make_room(&self) -> bool {
        let names = self.names.lock().as_ref().and_then(Weak::upgrade);
        let gone = names.map_or(0, |names| names.shrink());
        self.conn.make_room();
        gone > 0
    }

    /// The inode that the gofer calls `fid`: one for all names of a file. `parent` is the inode
    /// number of the directory it was found in.
    pub(super) fn inode(
        self: &Arc<Self>,
        node: Node,
        fid: Fid,
        parent: u64,
    ) -> Result<Arc<NinepInode>, Errno> {
        let key = (node.attr.dev, node.attr.ino);
        // Made before the lock is taken, and dropped after: a drop takes the lock.
        let new = NinepInode::new(self, fid, &node, parent);
        let there: Option<Arc<NinepInode>> = {
            let mut inodes = self.inodes.lock();
            match inodes.get(&key).and_then(Weak::upgrade) {
                Some(there) => Some(there),
                None => {
                    if let Ok(new) = &new {
                        inodes.insert(key, Arc::downgrade(new));
                    }
                    None
                }
            }
        };
        match there {
            // The kind is part of what the VFS relies on: a number used again is another file.
            Some(there) if new.as_ref().is_ok_and(|new| new.same_kind(&there)) => {
                there.learn(&node.attr);
                Ok(there)
            }
            _ => new,
        }
    }

    /// The inode is going.
    pub(super) fn gone(&self, key: &Key) {
        let mut inodes = self.inodes.lock();
        // Another may have taken its place already.
        if inodes.get(key).is_some_and(|weak| weak.strong_count() == 0) {
            inodes.remove(key);
        }
    }

    /// Attributes as applications see them.
    pub(super) fn attr(&self, attr: &wire::Attr) -> Attr {
        let time = |t: wire::Time| Time { sec: t.sec, nsec: t.nsec.min(999_999_999) };
        Attr {
            dev: if attr.dev == self.host_dev {
                self.dev
            } else {
                makedev(attr.dev.major, attr.dev.minor)
            },
            ino: attr.ino,
            mode: attr.mode,
            nlink: attr.nlink,
            uid: self.ids.kuid(attr.uid).unwrap_or(OVERFLOW_ID),
            gid: self.ids.kgid(attr.gid).unwrap_or(OVERFLOW_ID),
            rdev: makedev(attr.rdev.major, attr.rdev.minor),
            size: attr.size,
            blksize: attr.blksize,
            blocks: attr.blocks,
            atime: time(attr.atime),
            mtime: time(attr.mtime),
            ctime: time(attr.ctime),
            btime: (attr.mask & STATX_BTIME != 0).then(|| time(attr.btime)),
        }
    }

    /// The user that has this number for the gofer.
    pub(super) fn kuid(&self, uid: u32) -> Option<u32> {
        self.ids.kuid(uid)
    }

    /// The gofer's number of a user. `EOVERFLOW` where it has none.
    pub(super) fn uid(&self, kuid: u32) -> Result<u32, Errno> {
        self.ids.up(IdKind::User, kuid).ok_or(Errno::EOVERFLOW)
    }

    /// The gofer's number of a group. `EOVERFLOW` where it has none.
    pub(super) fn gid(&self, kgid: u32) -> Result<u32, Errno> {
        self.ids.up(IdKind::Group, kgid).ok_or(Errno::EOVERFLOW)
    }

    /// `inode` has got a donated file: an older one may have to go.
    pub(super) fn donated(&self, inode: &Arc<NinepInode>) {
        self.donated.push(Arc::downgrade(inode));
        for _ in 0..SWEEP {
            if self.donations.load(Ordering::Relaxed) <= MAX_DONATIONS {
                return;
            }
            if !self.give_up_oldest() {
                return;
            }
        }
    }

    /// Has the oldest inode that holds a donated file give it up, if nobody uses it; whether there was one to ask.
    fn give_up_oldest(&self) -> bool {
        let Some(oldest) = self.donated.pop() else { return false };
        if let Some(inode) = oldest.upgrade()
            && !inode.data.give_up()
        {
            self.donated.push(oldest);
        }
        true
    }

    /// The host half has no room for another donated file: has some given up that nobody uses; whether there were any.
    pub(super) fn give_up_donations(&self) -> bool {
        let before = self.donations.load(Ordering::Relaxed);
        let enough = |now: usize| now.saturating_add(SWEEP) <= before;
        let candidates = self.donated.len();
        for _ in 0..candidates {
            if enough(self.donations.load(Ordering::Relaxed)) {
                break;
            }
            if !self.give_up_oldest() {
                break;
            }
        }
        self.donations.load(Ordering::Relaxed) < before
    }

    /// Has the host write everything to its disk that was written here.
    pub(super) fn sync(&self) -> Result<(), Errno> {
        let written = self.written.take();
        let inodes: Vec<Arc<NinepInode>> = written.iter().filter_map(Weak::upgrade).collect();
        let mut result = Ok(());
        for batch in inodes.chunks(SYNC_BATCH) {
            let fids = batch.iter().map(|inode| inode.synced()).collect();
            let answer = self.call(&Request::SyncMany { fids, data_only: 0 })?;
            match answer.reply()? {
                Reply::SyncMany { errnos } => {
                    if let Some(errno) = errnos.iter().find(|errno| **errno != 0) {
                        let code = i32::try_from(*errno).unwrap_or(i32::MAX);
                        result = Err(Errno::from_code(code));
                    }
                }
                _ => return Err(Errno::EIO),
            }
        }
        result
    }
}

/// The creation time is known (statx(2)).
const STATX_BTIME: u32 = 0x800;
