//! inotify(7): who watches what.
//!
//! A [`Watch`] belongs to an instance, which keeps it, and stands in the list of its inode
//! ([`Watches`]). Whoever changes or uses a file calls [`happened`] with its place: the watches of the
//! inode and of the directory that it is in are told, those of the directory with the name.
//!
//! Locks: an inode's list, and an instance's tables, each for a few lines and never one under the other.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::fmt::Write as _;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};

use super::anon;
use super::context::Cx;
use super::dentry::Dentry;
use super::dnotify::{Notices, RENAME};
use super::fasync::Tells;
use super::file::File;
use super::inode::{FileOps, Inode, Whence};
use super::io::IoDst;
use super::path::Path;
use super::types::{Events, FileType, OpenFlags, SetAttr};
use crate::errno::Errno;
use crate::sync::{SpinLock, WaitQueue};

/// Bits of a mask (sys/inotify.h).
#[allow(missing_docs)] // the names are inotify(7)'s
pub mod mask {
    pub const ACCESS: u32 = 0x1;
    pub const MODIFY: u32 = 0x2;
    pub const ATTRIB: u32 = 0x4;
    pub const CLOSE_WRITE: u32 = 0x8;
    pub const CLOSE_NOWRITE: u32 = 0x10;
    pub const OPEN: u32 = 0x20;
    pub const MOVED_FROM: u32 = 0x40;
    pub const MOVED_TO: u32 = 0x80;
    pub const CREATE: u32 = 0x100;
    pub const DELETE: u32 = 0x200;
    pub const DELETE_SELF: u32 = 0x400;
    pub const MOVE_SELF: u32 = 0x800;
    pub const Q_OVERFLOW: u32 = 0x4000;
    pub const IGNORED: u32 = 0x8000;
    pub const ONLYDIR: u32 = 0x0100_0000;
    pub const DONT_FOLLOW: u32 = 0x0200_0000;
    pub const EXCL_UNLINK: u32 = 0x0400_0000;
    pub const MASK_CREATE: u32 = 0x1000_0000;
    pub const MASK_ADD: u32 = 0x2000_0000;
    pub const ISDIR: u32 = 0x4000_0000;
    pub const ONESHOT: u32 = 0x8000_0000;
    /// What can be asked for.
    pub const EVENTS: u32 = 0xfff;
    /// Everything that inotify_add_watch(2) takes.
    pub const ALL: u32 = EVENTS
        | ONLYDIR
        | DONT_FOLLOW
        | EXCL_UNLINK
        | MASK_CREATE
        | MASK_ADD
        | ISDIR
        | ONESHOT
        | 0x2000
        | Q_OVERFLOW
        | IGNORED;
}

/// Events that wait in an instance (fs.inotify.max_queued_events).
const MAX_EVENTS: usize = 16_384;
/// Instances in the sandbox (fs.inotify.max_user_instances).
const MAX_INSTANCES: usize = 128;
/// Watches in the sandbox (fs.inotify.max_user_watches).
const MAX_WATCHES: usize = 65_536;
/// Bytes of a `struct inotify_event` without its name.
const EVENT: usize = 16;

/// Watches in the sandbox: where there are none, nothing costs anything.
static WATCHES: AtomicUsize = AtomicUsize::new(0);
static INSTANCES: AtomicUsize = AtomicUsize::new(0);
static COOKIE: AtomicU32 = AtomicU32::new(1);

/// The watches of an inode.
#[derive(Default)]
pub struct Watches(SpinLock<Vec<Weak<Watch>>>, Notices);

/// There is one more who wants to know what happens.
pub(super) fn one_more() {
    WATCHES.fetch_add(1, Ordering::AcqRel);
}

/// There is one less.
pub(super) fn one_less() {
    WATCHES.fetch_sub(1, Ordering::AcqRel);
}

/// An inode that an instance watches.
pub struct Watch {
    number: i32,
    mask: AtomicU32,
    inode: Arc<dyn Inode>,
    instance: Weak<Shared>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        one_less();
        if let Some(watches) = self.inode.state().watches_if_any() {
            watches.0.lock().retain(|w| w.strong_count() > 0);
        }
    }
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq)]
struct Event {
    watch: i32,
    mask: u32,
    cookie: u32,
    name: Option<Arc<[u8]>>,
}

impl Event {
    /// Bytes of its name with the zeros that follow it.
    fn name_len(&self) -> usize {
        self.name.as_ref().map_or(0, |n| n.len().saturating_add(1).next_multiple_of(EVENT))
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.name_len();
        let head = [self.watch.cast_unsigned(), self.mask, self.cookie, len as u32];
        let mut bytes = head.map(u32::to_le_bytes).concat();
        bytes.extend_from_slice(self.name.as_deref().unwrap_or(&[]));
        bytes.resize(EVENT.saturating_add(len), 0);
        bytes
    }
}

struct Shared {
    watches: SpinLock<BTreeMap<i32, Arc<Watch>>>,
    last: AtomicI32,
    events: SpinLock<VecDeque<Event>>,
    queue: WaitQueue,
}

impl Shared {
    fn push(&self, event: Event) {
        {
            let mut events = self.events.lock();
            // What says the same as the last one says nothing new.
            if events.back() == Some(&event) {
                return;
            }
            match events.len() {
                n if n < MAX_EVENTS => events.push_back(event),
                MAX_EVENTS => events.push_back(Event {
                    watch: -1,
                    mask: mask::Q_OVERFLOW,
                    cookie: 0,
                    name: None,
                }),
                _ => return,
            }
        }
        self.queue.wake(Events::READABLE.bits());
    }

    /// Ends a watch.
    fn ignore(&self, number: i32) -> Result<(), Errno> {
        let gone = self.watches.lock().remove(&number).ok_or(Errno::EINVAL)?;
        self.push(Event { watch: number, mask: mask::IGNORED, cookie: 0, name: None });
        drop(gone);
        Ok(())
    }
}

impl Watches {
    /// Those of fcntl(F_NOTIFY).
    pub fn notices(&self) -> &Notices {
        &self.1
    }

    fn tell(&self, what: u32, cookie: u32, name: Option<&Arc<[u8]>>, unlinked: bool) {
        self.1.tell(what);
        let all: Vec<Arc<Watch>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for watch in all {
            let wanted = watch.mask.load(Ordering::Acquire);
            let left = unlinked && name.is_some() && wanted & mask::EXCL_UNLINK != 0;
            let Some(instance) = watch.instance.upgrade() else { continue };
            if wanted & what & mask::EVENTS != 0 && !left {
                let name = name.cloned();
                instance.push(Event { watch: watch.number, mask: what, cookie, name });
                if wanted & mask::ONESHOT != 0 {
                    // Whoever was faster has ended it.
                    let _ = instance.ignore(watch.number);
                }
            }
            if what & mask::DELETE_SELF != 0 {
                let _ = instance.ignore(watch.number);
            }
        }
    }
}

fn tell(inode: &dyn Inode, what: u32, cookie: u32, name: Option<&Arc<[u8]>>, unlinked: bool) {
    if let Some(watches) = inode.state().watches_if_any() {
        watches.tell(what, cookie, name, unlinked);
    }
}

fn is_watched() -> bool {
    WATCHES.load(Ordering::Acquire) != 0
}

fn with_kind(inode: &dyn Inode, what: u32) -> u32 {
    if inode.kind() == FileType::Directory { what | mask::ISDIR } else { what }
}

/// `what` happened to the file at `dentry`.
pub fn happened(dentry: &Dentry, inode: &dyn Inode, what: u32) {
    if !is_watched() {
        return;
    }
    let what = with_kind(inode, what);
    let (parent, name) = dentry.place();
    if let Some(dir) = parent.as_ref().and_then(|p| p.inode()) {
        tell(&**dir, what, 0, Some(&name), dentry.is_unlinked());
    }
    tell(inode, what, 0, None, false);
}

/// `what` happened to the name of `inode` in `dir`: it was made or removed.
pub fn name_changed(dir: &dyn Inode, name: &[u8], inode: &dyn Inode, what: u32) {
    if is_watched() {
        tell(dir, with_kind(inode, what), 0, Some(&Arc::from(name)), false);
    }
}

/// `inode` has got another name.
pub fn linked(inode: &dyn Inode) {
    if is_watched() {
        tell(inode, mask::ATTRIB, 0, None, false);
    }
}

/// A name of `inode` has been removed; with the last one, and when nobody has it open, it is gone.
pub fn unlinked(inode: &dyn Inode) {
    if !is_watched() || inode.state().watches_if_any().is_none() {
        return;
    }
    let gone = inode.kind() == FileType::Directory || inode.attr().is_ok_and(|a| a.nlink == 0);
    if inode.kind() != FileType::Directory {
        tell(inode, mask::ATTRIB, 0, None, false);
    }
    if gone && !inode.state().is_open() {
        tell(inode, mask::DELETE_SELF, 0, None, false);
    }
}

/// `inode`, which nobody has open any more, may have lost its last name before.
pub fn closed(inode: &dyn Inode) {
    if is_watched()
        && inode.state().watches_if_any().is_some()
        && inode.kind() != FileType::Directory
        && inode.attr().is_ok_and(|a| a.nlink == 0)
    {
        tell(inode, mask::DELETE_SELF, 0, None, false);
    }
}

/// `inode` has moved from one directory and name to another.
pub fn moved(from: (&dyn Inode, &[u8]), to: (&dyn Inode, &[u8]), inode: &dyn Inode) {
    if !is_watched() {
        return;
    }
    if core::ptr::addr_eq(from.0, to.0) {
        tell(from.0, RENAME, 0, Some(&Arc::from(from.1)), false);
    }
    let cookie = COOKIE.fetch_add(1, Ordering::Relaxed);
    tell(from.0, with_kind(inode, mask::MOVED_FROM), cookie, Some(&Arc::from(from.1)), false);
    tell(to.0, with_kind(inode, mask::MOVED_TO), cookie, Some(&Arc::from(to.1)), false);
    tell(inode, mask::MOVE_SELF, 0, None, false);
}

/// Attributes of the file at `path` were changed (fsnotify_change()).
pub fn changed(path: &Path, set: &SetAttr) {
    if !is_watched() {
        return;
    }
    let mut what = 0;
    if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
        what |= mask::ATTRIB;
    }
    if set.size.is_some() {
        what |= mask::MODIFY;
    }
    what |= match (set.atime.is_some(), set.mtime.is_some()) {
        (true, true) => mask::ATTRIB,
        (true, false) => mask::ACCESS,
        (false, true) => mask::MODIFY,
        (false, false) => 0,
    };
    // Each of them is an event of its own.
    for bit in [mask::ACCESS, mask::MODIFY, mask::ATTRIB] {
        if what & bit != 0
            && let Some(inode) = path.dentry.inode()
        {
            happened(&path.dentry, &**inode, bit);
        }
    }
}

/// An inotify instance.
pub struct Inotify(Arc<Shared>);

/// inotify_init1(2).
pub fn new(cx: &Cx<'_>, nonblocking: bool) -> Result<Arc<File>, Errno> {
    let inotify = Inotify(Arc::new(Shared {
        watches: SpinLock::new(BTreeMap::new()),
        last: AtomicI32::new(0),
        events: SpinLock::new(VecDeque::new()),
        queue: WaitQueue::new(),
    }));
    // Given back by the drop of what has just been made.
    if INSTANCES.fetch_add(1, Ordering::AcqRel) >= MAX_INSTANCES {
        return Err(Errno::EMFILE);
    }
    let mut flags = OpenFlags::empty();
    flags.set(OpenFlags::NONBLOCK, nonblocking);
    anon::file(cx, "anon_inode:inotify", Box::new(inotify), flags)
}

impl Inotify {
    /// inotify_add_watch(2) of an inode that the caller may read: the watch's number.
    pub fn add(&self, inode: &Arc<dyn Inode>, wanted: u32) -> Result<i32, Errno> {
        let keep = mask::EVENTS | mask::EXCL_UNLINK | mask::ONESHOT;
        let there = {
            let watches = self.0.watches.lock();
            watches.values().find(|w| Arc::ptr_eq(&w.inode, inode)).cloned()
        };
        if let Some(watch) = there {
            if wanted & mask::MASK_CREATE != 0 {
                return Err(Errno::EEXIST);
            }
            if wanted & mask::MASK_ADD != 0 {
                watch.mask.fetch_or(wanted & keep, Ordering::AcqRel);
            } else {
                watch.mask.store(wanted & keep, Ordering::Release);
            }
            return Ok(watch.number);
        }
        if WATCHES.fetch_add(1, Ordering::AcqRel) >= MAX_WATCHES {
            WATCHES.fetch_sub(1, Ordering::AcqRel);
            return Err(Errno::ENOSPC);
        }
        let watch = Arc::new(Watch {
            number: self.0.last.fetch_add(1, Ordering::AcqRel).wrapping_add(1),
            mask: AtomicU32::new(wanted & keep),
            inode: inode.clone(),
            instance: Arc::downgrade(&self.0),
        });
        let number = watch.number;
        inode.state().watches().0.lock().push(Arc::downgrade(&watch));
        self.0.watches.lock().insert(number, watch);
        Ok(number)
    }

    /// inotify_rm_watch(2).
    pub fn remove(&self, number: i32) -> Result<(), Errno> {
        self.0.ignore(number)
    }
}

impl FileOps for Inotify {
    fn tells(&self) -> Option<Tells> {
        Some(Tells { events: Events::IN, any: false, group: None })
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        let mut done: usize = 0;
        loop {
            let event = {
                let mut events = self.0.events.lock();
                match events.front() {
                    None if done == 0 => return Err(Errno::EAGAIN),
                    None => return Ok(done),
                    Some(event) if EVENT.saturating_add(event.name_len()) > dst.remaining() => {
                        return if done == 0 { Err(Errno::EINVAL) } else { Ok(done) };
                    }
                    Some(_) => events.pop_front(),
                }
            };
            let Some(event) = event else { return Ok(done) };
            match dst.put(&event.bytes()) {
                Ok(n) => done = done.saturating_add(n),
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
    }

    fn is_stream(&self) -> bool {
        true
    }

    /// It has no offset to move, and lets it be moved: Linux's noop_llseek.
    fn seek(&self, _file: &File, now: u64, _offset: i64, _whence: Whence) -> Result<u64, Errno> {
        Ok(now)
    }

    fn poll(&self, _file: &File) -> Events {
        if self.0.events.lock().is_empty() { Events::empty() } else { Events::READABLE }
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.0.queue)
    }

    fn available(&self, _file: &File) -> Result<usize, Errno> {
        let events = self.0.events.lock();
        Ok(events.iter().map(|e| EVENT.saturating_add(e.name_len())).sum())
    }

    fn fdinfo(&self, _file: &File) -> String {
        let watches: Vec<Arc<Watch>> = self.0.watches.lock().values().cloned().collect();
        let mut text = String::new();
        for watch in watches {
            let (ino, dev) = watch.inode.attr().map_or((0, 0), |a| (a.ino, a.dev));
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "inotify wd:{:x} ino:{ino:x} sdev:{dev:x} mask:{:x} ignored_mask:0 ",
                watch.number,
                watch.mask.load(Ordering::Relaxed)
            );
        }
        text
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Inotify {
    fn drop(&mut self) {
        INSTANCES.fetch_sub(1, Ordering::AcqRel);
        let gone = core::mem::take(&mut *self.0.watches.lock());
        drop(gone);
    }
}
