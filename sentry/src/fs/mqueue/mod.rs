//! mqueue: POSIX message queues (mq_overview(7)) as files of a file system, one for each IPC namespace.
//!
//! Queues have names in one directory, which mq_open(2) and whoever has the file system mounted see alike.
//! What a queue may ever hold is charged to its user when it is made (RLIMIT_MSGQUEUE); what it does hold
//! has a limit for the namespace as well, since it is the sentry's own memory.

mod queue;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use super::anon::{apply, next_dev};
use super::context::Cx;
use super::file::File;
use super::inode::{Caching, Created, FileOps, FileSystem, Inode};
use super::lock::InodeState;
use super::types::{
    Attr, DirSink, FileType, NAME_MAX, New, OpenFlags, SetAttr, StatFs, Time, give_entries, mode,
};
use crate::errno::Errno;
use crate::sync::SpinLock;
use crate::task::{cap, limit};

pub use queue::{MqFile, Queue, Registration};

/// MQUEUE_MAGIC (linux/magic.h).
const MAGIC: u64 = 0x1980_0202;
/// What a name adds to the directory's size, and the size of a queue's file (ipc/mqueue.c).
const DIRENT_SIZE: u64 = 20;
const FILE_SIZE: u64 = 80;
/// What nobody may ask for (HARD_MSGMAX, HARD_MSGSIZEMAX).
const HARD_MESSAGES: i64 = 65_536;
const HARD_SIZE: i64 = 16 << 20;
/// What a message and a priority cost beside the text, as RLIMIT_MSGQUEUE counts (struct msg_msg and struct
/// posix_msg_tree_node), and how many priorities there are (MQ_PRIO_MAX).
const MESSAGE_COST: u64 = 48;
const PRIORITY_COST: u64 = 48;
/// The first number that is no priority.
pub const PRIORITIES: u32 = 32_768;
/// Bytes in all queues of a namespace.
const ALL: usize = 64 << 20;

/// Files of /proc/sys/fs/mqueue, which a privileged user may write: their values, and what these may be.
pub struct Limits {
    /// Queues (queues_max).
    pub queues: AtomicU32,
    /// Messages of a queue (msg_max).
    pub messages: AtomicU32,
    /// Bytes of a message (msgsize_max).
    pub size: AtomicU32,
    /// Where mq_open(2) says nothing (msg_default, msgsize_default).
    pub default_messages: AtomicU32,
    /// See `default_messages`.
    pub default_size: AtomicU32,
}

/// What all queues of a namespace share.
pub struct Shared {
    dev: u64,
    /// The limits.
    pub limits: Limits,
    next_ino: AtomicU32,
    queues: AtomicU32,
    /// Bytes charged, by user.
    charged: SpinLock<BTreeMap<u32, u64>>,
    /// Bytes of messages that are there.
    used: AtomicUsize,
}

/// What a new queue is to be (struct mq_attr).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// mq_maxmsg.
    pub messages: i64,
    /// mq_msgsize.
    pub size: i64,
}

impl Shape {
    /// Checks it against the limits, those of the machine for the `privileged`; the bytes to be charged.
    fn cost(self, limits: &Limits, privileged: bool) -> Result<u64, Errno> {
        let (messages, size) = match privileged {
            true => (HARD_MESSAGES, HARD_SIZE),
            false => (
                limits.messages.load(Ordering::Relaxed).into(),
                limits.size.load(Ordering::Relaxed).into(),
            ),
        };
        if !(1..=messages).contains(&self.messages) || !(1..=size).contains(&self.size) {
            return Err(Errno::EINVAL);
        }
        let (count, size) = (self.messages as u64, self.size as u64);
        let tree = count * MESSAGE_COST + count.min(PRIORITIES.into()) * PRIORITY_COST;
        count.checked_mul(size).and_then(|bytes| bytes.checked_add(tree)).ok_or(Errno::EOVERFLOW)
    }
}

/// The file system of a namespace.
pub struct MqFs {
    root: Arc<Root>,
}

impl Default for MqFs {
    fn default() -> Self {
        let shared = Arc::new(Shared {
            dev: next_dev(),
            limits: Limits {
                queues: AtomicU32::new(256),
                messages: AtomicU32::new(10),
                size: AtomicU32::new(8192),
                default_messages: AtomicU32::new(10),
                default_size: AtomicU32::new(8192),
            },
            next_ino: AtomicU32::new(2),
            queues: AtomicU32::new(0),
            charged: SpinLock::new(BTreeMap::new()),
            used: AtomicUsize::new(0),
        });
        let now = Time::now();
        let attr = Attr {
            dev: shared.dev,
            ino: 1,
            mode: mode::IFDIR | 0o1777,
            nlink: 2,
            size: 2 * DIRENT_SIZE,
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        let (attr, entries) = (SpinLock::new(attr), SpinLock::new(BTreeMap::new()));
        MqFs { root: Arc::new(Root { shared, attr, entries, state: InodeState::new() }) }
    }
}

impl MqFs {
    /// What its queues share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.root.shared
    }

    /// The directory.
    pub fn directory(&self) -> &Arc<Root> {
        &self.root
    }
}

impl FileSystem for MqFs {
    fn name(&self) -> &'static str {
        "mqueue"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.root.shared.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::without_blocks(MAGIC))
    }

    /// mq_open(2) and other mounts change names too.
    fn caching(&self) -> Caching {
        Caching::Shared
    }
}

/// The directory of a namespace's queues.
pub struct Root {
    shared: Arc<Shared>,
    attr: SpinLock<Attr>,
    entries: SpinLock<BTreeMap<Vec<u8>, Arc<Queue>>>,
    state: InodeState,
}

impl Root {
    /// The queue of this name.
    pub fn find(&self, name: &[u8]) -> Option<Arc<Queue>> {
        self.entries.lock().get(name).cloned()
    }

    /// Makes a queue; without a `shape`, of the default one. `EEXIST` where one has the name.
    pub fn make(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        new: New,
        shape: Option<Shape>,
    ) -> Result<Arc<Queue>, Errno> {
        let limits = &self.shared.limits;
        let privileged = cx.creds.capable(cap::SYS_RESOURCE);
        let load = |n: &AtomicU32| i64::from(n.load(Ordering::Relaxed));
        let shape = shape.unwrap_or(Shape {
            messages: load(&limits.messages).min(load(&limits.default_messages)),
            size: load(&limits.size).min(load(&limits.default_size)),
        });
        let most = limits.queues.load(Ordering::Relaxed);
        let one_more = |n: u32| (privileged || n < most).then(|| n.checked_add(1)).flatten();
        let counted = &self.shared.queues;
        if counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            return Err(Errno::ENOSPC);
        }
        let uncount = |_: &Errno| {
            counted.fetch_sub(1, Ordering::Relaxed);
        };
        let cost = shape.cost(limits, privileged).inspect_err(uncount)?;
        let rlimit = cx.task.map_or(u64::MAX, |t| t.process.limits.soft(limit::RLIMIT_MSGQUEUE));
        let uid = cx.creds.uid;
        {
            let mut charged = self.shared.charged.lock();
            let sum = charged.entry(uid).or_insert(0);
            match sum.checked_add(cost).filter(|all| *all <= rlimit) {
                Some(all) => *sum = all,
                None => {
                    uncount(&Errno::EMFILE);
                    return Err(Errno::EMFILE);
                }
            }
        }
        let now = Time::now();
        let attr = Attr {
            dev: self.shared.dev,
            ino: self.shared.next_ino.fetch_add(1, Ordering::Relaxed).into(),
            mode: mode::IFREG | new.mode & mode::PERM,
            nlink: 1,
            uid: new.uid,
            gid: new.gid,
            size: FILE_SIZE,
            blksize: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        // From here on its drop gives back what was charged.
        let queue = Queue::new(&self.shared, attr, shape, (uid, cost));
        {
            let mut entries = self.entries.lock();
            if entries.contains_key(name) {
                return Err(Errno::EEXIST);
            }
            entries.insert(name.to_vec(), queue.clone());
        }
        self.resize(|size| size.saturating_add(DIRENT_SIZE));
        Ok(queue)
    }

    /// Takes a name away.
    pub fn remove(&self, name: &[u8]) -> Result<(), Errno> {
        let queue = self.entries.lock().remove(name).ok_or(Errno::ENOENT)?;
        queue.unlinked();
        self.resize(|size| size.saturating_sub(DIRENT_SIZE));
        Ok(())
    }

    fn resize(&self, to: impl FnOnce(u64) -> u64) {
        let mut attr = self.attr.lock();
        attr.size = to(attr.size);
        let now = Time::now();
        (attr.atime, attr.mtime, attr.ctime) = (now, now, now);
    }
}

impl Shared {
    /// Room for a message's bytes. `ENOMEM` where the namespace has too many.
    fn reserve(&self, len: usize) -> Result<(), Errno> {
        let more = len.saturating_add(MESSAGE_COST as usize);
        let add = |used: usize| used.checked_add(more).filter(|sum| *sum <= ALL);
        let result = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        result.map(|_| ()).map_err(|_| Errno::ENOMEM)
    }

    fn release(&self, len: usize) {
        self.used.fetch_sub(len.saturating_add(MESSAGE_COST as usize), Ordering::Relaxed);
    }

    /// A queue has gone for good.
    fn gone(&self, (uid, cost): (u32, u64)) {
        self.queues.fetch_sub(1, Ordering::Relaxed);
        let mut charged = self.charged.lock();
        if let Some(sum) = charged.get_mut(&uid) {
            *sum = sum.saturating_sub(cost);
            if *sum == 0 {
                charged.remove(&uid);
            }
        }
    }
}

impl Inode for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        apply(&mut self.attr.lock(), set);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, _cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        match self.find(name) {
            Some(queue) => Ok(queue),
            None => Err(Errno::ENOENT),
        }
    }

    fn revalidate(
        &self,
        _cx: &Cx<'_>,
        name: &[u8],
        child: Option<&Arc<dyn Inode>>,
    ) -> Result<bool, Errno> {
        let now = self.find(name).map(|queue| queue.ino());
        Ok(now == child.map(|child| child.ino()))
    }

    fn create(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        new: New,
        _flags: OpenFlags,
    ) -> Result<Created, Errno> {
        Ok(Created { inode: self.make(cx, name, new, None)?, ops: None })
    }

    fn unlink(&self, _cx: &Cx<'_>, name: &[u8], _child: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.remove(name)
    }

    fn open(&self, _cx: &Cx<'_>, _flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        Ok(Box::new(Listing(self.entries.lock().iter().map(entry).collect())))
    }
}

fn entry((name, queue): (&Vec<u8>, &Arc<Queue>)) -> (Vec<u8>, u64) {
    (name.clone(), queue.ino())
}

/// An open directory: the names when it was opened.
struct Listing(Vec<(Vec<u8>, u64)>);

impl FileOps for Listing {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let dots = [&b"."[..], b".."].into_iter().map(|name| (name, 1, FileType::Directory));
        let queues = self.0.iter().map(|(name, ino)| (&**name, *ino, FileType::Regular));
        Ok(give_entries(&mut dots.chain(queues), pos, sink))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A name of a queue, as mq_open(2) and mq_unlink(2) take it.
pub fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        [] => Err(Errno::ENOENT),
        b"." | b".." => Err(Errno::EACCES),
        name if name.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
        name if name.contains(&b'/') => Err(Errno::EACCES),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_cost_what_linux_charges_for_them() {
        crate::platform::fake::install();
        let fs = MqFs::default();
        let limits = &fs.shared().limits;
        let cost = |messages, size, privileged| Shape { messages, size }.cost(limits, privileged);
        assert_eq!(cost(10, 8192, false), Ok(10 * 8192 + 10 * 96));
        assert_eq!(cost(11, 1, false), Err(Errno::EINVAL));
        assert_eq!(cost(1, 8193, false), Err(Errno::EINVAL));
        assert_eq!(cost(0, 1, true), Err(Errno::EINVAL));
        assert_eq!(cost(1, -1, true), Err(Errno::EINVAL));
        assert_eq!(cost(40_000, 1, true), Ok(40_000 + 40_000 * 48 + 32_768 * 48));
        assert_eq!(cost(65_537, 1, true), Err(Errno::EINVAL));
    }

    #[test]
    fn names_have_no_slash() {
        assert_eq!(check_name(b"a"), Ok(()));
        assert_eq!(check_name(b""), Err(Errno::ENOENT));
        assert_eq!(check_name(b"a/b"), Err(Errno::EACCES));
        assert_eq!(check_name(&[b'a'; 256]), Err(Errno::ENAMETOOLONG));
    }
}
