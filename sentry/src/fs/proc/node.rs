//! Inodes and open files of a procfs.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;

use super::{About, Entry, Shared, Subject, What, may_inspect, process, system};
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Inode, Link, Whence, Written, seek_without_end};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::lock::InodeState;
use crate::fs::types::{
    Attr, DirSink, Events, FileType, MAX_OFFSET, OpenFlags, SetAttr, Time, give_entries,
};
use crate::kernel::Container;
use crate::platform::PAGE_SIZE;
use crate::sync::{Mutex, WaitQueue};
use crate::task::{Process, Task};

/// PROC_ROOT_INO of Linux.
const ROOT_INO: u64 = 1;
/// Most bytes taken by one write to an entry.
const MAX_STORE: usize = PAGE_SIZE;

/// A file, directory or link.
pub(super) struct Node {
    shared: Arc<Shared>,
    this: Weak<Node>,
    subject: Option<Subject>,
    place: Place,
    ino: u64,
    state: InodeState,
}

/// Which one.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Root,
    /// /proc/PID, or /proc/PID/task/TID with `true`.
    Process(bool),
    Entry(&'static Entry),
    /// /proc/PID/fd/N.
    Fd(i32),
    /// /proc/PID/fdinfo/N.
    FdInfo(i32),
}

/// A number for a name (FNV-1a).
fn hash(seed: u64, name: &[u8]) -> u64 {
    name.iter().fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Node {
    pub(super) fn root(shared: &Arc<Shared>) -> Arc<Node> {
        Self::new(shared, None, Place::Root, ROOT_INO)
    }

    fn new(shared: &Arc<Shared>, subject: Option<Subject>, place: Place, ino: u64) -> Arc<Node> {
        Arc::new_cyclic(|this: &Weak<Node>| Node {
            shared: shared.clone(),
            this: this.clone(),
            subject,
            place,
            ino,
            state: InodeState::new(),
        })
    }

    /// The process whose folder (/proc/PID) this is.
    pub(super) fn process_of_folder(&self) -> Option<Arc<Process>> {
        let subject = self.subject.as_ref()?;
        matches!(self.place, Place::Process(false)).then(|| subject.process.clone())
    }

    /// The inode number of something in this directory: the same each time it is looked up.
    fn ino_of(&self, name: &[u8]) -> u64 {
        hash(self.ino, name) & 0xffff_ffff | 1 << 32
    }

    fn child(&self, subject: Option<Subject>, place: Place, name: &[u8]) -> Arc<Node> {
        Self::new(&self.shared, subject, place, self.ino_of(name))
    }

    fn container(&self) -> Result<Arc<Container>, Errno> {
        self.shared.container.upgrade().ok_or(Errno::ENOENT)
    }

    fn about<T>(
        &self,
        cx: &Cx<'_>,
        f: impl FnOnce(&About<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let container = self.container()?;
        let (pidns, subject) = (&self.shared.pidns, self.subject.as_ref());
        f(&About { container: &container, pidns, cx, subject })
    }

    fn perm_bits(&self) -> u32 {
        match self.place {
            Place::Root | Place::Process(_) => 0o555,
            Place::Entry(entry) => entry.perm,
            Place::Fd(fd) => self.fd_bits(fd),
            Place::FdInfo(_) => 0o400,
        }
    }

    /// What a descriptor was opened for, as its link's permissions.
    fn fd_bits(&self, fd: i32) -> u32 {
        let files = self.subject.as_ref().and_then(Subject::task);
        let files = files.and_then(|t| t.shared.lock().files.clone());
        let Some(flags) = files.and_then(|f| f.get_any(fd).ok()).map(|f| f.flags()) else {
            return 0;
        };
        let mut bits = 0o100;
        if flags.reads() {
            bits |= 0o400;
        }
        if flags.writes() {
            bits |= 0o200;
        }
        bits
    }

    /// The names in this directory, `.` and `..` left out.
    pub(super) fn names(&self, cx: &Cx<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
        let decimal = |n: i64| alloc::format!("{n}").into_bytes();
        let table = |entries: &'static [Entry]| {
            entries.iter().map(|e| (e.name.as_bytes().to_vec(), kind_of(&e.what)))
        };
        Ok(match self.place {
            Place::Root => {
                let hiding = *self.shared.hiding.lock();
                let pids = self.shared.pidns.processes();
                let shown = pids.iter().filter(|(_, process)| {
                    !hiding.hides_presence(cx, process.first_task().as_ref())
                });
                let pids = shown.map(|(nr, _)| (decimal((*nr).into()), FileType::Directory));
                let own = if hiding.only_processes { &[] } else { system::ENTRIES };
                table(own).chain(table(system::LINKS)).chain(pids).collect()
            }
            Place::Process(false) => {
                table(process::ENTRIES).chain(table(process::PROCESS_ONLY)).collect()
            }
            Place::Process(true) => table(process::ENTRIES).collect(),
            Place::Entry(Entry { what: What::Dir(entries), .. }) => table(entries).collect(),
            Place::Entry(Entry { what: What::Tasks, .. }) => {
                let process = &self.subject.as_ref().ok_or(Errno::ENOENT)?.process;
                let tasks = process.tasks();
                let nr = |t: &Arc<Task>| self.shared.pidns.nr(t.tid());
                tasks.iter().map(|t| (decimal(nr(t).into()), FileType::Directory)).collect()
            }
            Place::Entry(Entry { what: What::Fds, .. }) => {
                let fds = self.about(cx, super::dirs::descriptors)?;
                fds.into_iter().map(|fd| (decimal(fd.into()), FileType::Symlink)).collect()
            }
            Place::Entry(Entry { what: What::FdInfos, .. }) => {
                let fds = self.about(cx, super::dirs::descriptors)?;
                fds.into_iter().map(|fd| (decimal(fd.into()), FileType::Regular)).collect()
            }
            _ => return Err(Errno::ENOTDIR),
        })
    }

    fn in_table(&self, entries: &'static [Entry], name: &[u8]) -> Option<Arc<Node>> {
        let entry = entries.iter().find(|e| e.name.as_bytes() == name)?;
        Some(self.child(self.subject.clone(), Place::Entry(entry), name))
    }
}

fn kind_of(what: &What) -> FileType {
    match what {
        What::Text(_)
        | What::Bytes(_)
        | What::Writable(..)
        | What::Mounts(_)
        | What::IdMap(_)
        | What::Mem => FileType::Regular,
        What::Link(_) => FileType::Symlink,
        What::Dir(_) | What::Tasks | What::Fds | What::FdInfos => FileType::Directory,
    }
}

/// A decimal number without sign, leading zeros or anything else.
fn number(name: &[u8]) -> Option<u32> {
    let text = core::str::from_utf8(name).ok()?;
    let n: u32 = text.parse().ok()?;
    (alloc::format!("{n}") == text).then_some(n)
}

impl Inode for Node {
    fn kind(&self) -> FileType {
        match self.place {
            Place::Root | Place::Process(_) => FileType::Directory,
            Place::Entry(entry) => kind_of(&entry.what),
            Place::Fd(_) => FileType::Symlink,
            Place::FdInfo(_) => FileType::Regular,
        }
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let kind = self.kind();
        let now = Time::now();
        // A process's files are its user's, unless it must not be looked into.
        let owner = self.subject.as_ref().and_then(|s| {
            let dumpable = s.process.dumpable.load(core::sync::atomic::Ordering::Relaxed);
            if !dumpable {
                let ns = s.process.memory_owner.lock().clone();
                return Some((ns.kuid(0).unwrap_or(0), ns.kgid(0).unwrap_or(0)));
            }
            s.task().map(|t| t.creds()).map(|c| (c.euid, c.egid))
        });
        let (uid, gid) = owner.unwrap_or((0, 0));
        let nlink = match self.place {
            _ if kind != FileType::Directory => 1,
            Place::Root => {
                let count = self.shared.pidns.processes().len();
                u32::try_from(count).unwrap_or(u32::MAX).saturating_add(10)
            }
            Place::Process(_) => 9,
            // By this Chromium and others know whether they have threads.
            Place::Entry(Entry { what: What::Tasks, .. }) => {
                let count = self.subject.as_ref().map_or(0, |s| s.process.tasks().len());
                u32::try_from(count).unwrap_or(u32::MAX).saturating_add(2)
            }
            _ => 2,
        };
        Ok(Attr {
            dev: self.shared.dev,
            ino: self.ino,
            mode: kind.mode() | self.perm_bits(),
            nlink,
            uid,
            gid,
            size: if matches!(self.place, Place::Fd(_)) { 64 } else { 0 },
            blksize: 1024,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        })
    }

    fn admits(&self, cx: &Cx<'_>) -> Result<(), Errno> {
        match (self.place, &self.subject) {
            (Place::Process(false), Some(subject)) => {
                self.shared.hiding.lock().admits(cx, subject.task().as_ref())
            }
            _ => Ok(()),
        }
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        // A shell truncates what it writes to (`echo 1 > /proc/...`): there is nothing to cut off.
        let only_size = SetAttr { size: set.size, ..SetAttr::default() };
        if *set == only_size { Ok(()) } else { Err(Errno::EPERM) }
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn ino(&self) -> u64 {
        self.ino
    }

    fn lookup(&self, cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let subject = self.subject.as_ref();
        if subject.is_some_and(Subject::is_gone) {
            return Err(Errno::ESRCH);
        }
        let found = match self.place {
            Place::Root => match number(name) {
                Some(pid) => {
                    let pids = &self.shared.pidns;
                    // Threads are found by their own ids too, though not listed.
                    let subject = match pids.process(pid) {
                        Some(process) => Subject { process, task: None },
                        None => {
                            let task = pids.task(pid).ok_or(Errno::ENOENT)?;
                            Subject { process: task.process.clone(), task: Some(task) }
                        }
                    };
                    let hiding = *self.shared.hiding.lock();
                    if hiding.hides_presence(cx, subject.task().as_ref()) {
                        return Err(Errno::ENOENT);
                    }
                    Some(self.child(Some(subject), Place::Process(false), name))
                }
                None => {
                    let only_processes = self.shared.hiding.lock().only_processes;
                    let own = if only_processes { &[] } else { system::ENTRIES };
                    self.in_table(own, name).or_else(|| self.in_table(system::LINKS, name))
                }
            },
            Place::Process(thread) => {
                self.in_table(process::ENTRIES, name).or_else(|| match thread {
                    true => None,
                    false => self.in_table(process::PROCESS_ONLY, name),
                })
            }
            Place::Entry(Entry { what: What::Dir(entries), .. }) => self.in_table(entries, name),
            Place::Entry(Entry { what: What::Tasks, .. }) => {
                let subject = subject.ok_or(Errno::ENOENT)?;
                let tid = number(name).ok_or(Errno::ENOENT)?;
                let tasks = subject.process.tasks();
                let task = tasks
                    .into_iter()
                    .find(|t| self.shared.pidns.nr(t.tid()) == tid)
                    .ok_or(Errno::ENOENT)?;
                let subject = Subject { process: subject.process.clone(), task: Some(task) };
                Some(self.child(Some(subject), Place::Process(true), name))
            }
            Place::Entry(Entry { what: what @ (What::Fds | What::FdInfos), .. }) => {
                let fd = number(name).and_then(|n| i32::try_from(n).ok()).ok_or(Errno::ENOENT)?;
                self.about(cx, |about| super::dirs::open_file(about, fd))?;
                let place = match what {
                    What::Fds => Place::Fd(fd),
                    _ => Place::FdInfo(fd),
                };
                Some(self.child(self.subject.clone(), place, name))
            }
            _ => return Err(Errno::ENOTDIR),
        };
        Ok(found.ok_or(Errno::ENOENT)?)
    }

    fn readlink(&self, cx: &Cx<'_>) -> Result<Link, Errno> {
        match self.place {
            Place::Entry(Entry { what: What::Link(follow), .. }) => self.about(cx, follow),
            Place::Fd(fd) => {
                self.about(cx, |about| Ok(Link::Jump(super::dirs::open_file(about, fd)?.jump()?)))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn open(&self, cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        let node = self.this.upgrade().ok_or(Errno::ESTALE)?;
        match self.kind() {
            FileType::Directory => {
                let handle = DirHandle { node, reader: Reader::new(cx), names: Mutex::new(None) };
                Ok(Box::new(handle))
            }
            FileType::Regular
                if matches!(self.place, Place::Entry(Entry { what: What::Mem, .. })) =>
            {
                self.about(cx, super::memfile::open)
            }
            FileType::Regular
                if let Place::Entry(Entry { what: What::IdMap(which), .. }) = self.place =>
            {
                self.about(cx, |about| super::idmap::open(about, *which, flags))
            }
            FileType::Regular => {
                // What memory says is for who may look into it at the opening already.
                if let Place::Entry(Entry { perm: 0o400, what: What::Bytes(_), .. }) = self.place {
                    self.about(cx, |about| match about.task() {
                        Ok(task) => may_inspect(cx, &task),
                        // Of one that has ended there is nothing to see.
                        Err(_) => Ok(()),
                    })?;
                }
                let watch = match self.place {
                    Place::Entry(Entry { what: What::Mounts(_), .. }) => {
                        Some(self.about(cx, super::mounts::watch)?)
                    }
                    _ => None,
                };
                let reader = Reader::new(cx);
                Ok(Box::new(Handle { node, reader, text: Mutex::new(None), watch }))
            }
            _ => Err(Errno::ENXIO),
        }
    }
}

/// Who opened a file: what it says is for them, whoever reads it later.
struct Reader {
    fs: Arc<crate::fs::FsContext>,
    creds: crate::task::Creds,
    task: Option<Weak<crate::task::Task>>,
}

impl Reader {
    fn new(cx: &Cx<'_>) -> Reader {
        Reader { fs: cx.fs.fork(), creds: cx.creds.clone(), task: cx.task.map(Arc::downgrade) }
    }

    fn with<T>(&self, f: impl FnOnce(&Cx<'_>) -> T) -> T {
        let task = self.task.as_ref().and_then(Weak::upgrade);
        f(&Cx { fs: &self.fs, creds: &self.creds, task: task.as_ref() })
    }
}

/// An open file: its text as it was when it was last read from the beginning.
struct Handle {
    node: Arc<Node>,
    reader: Reader,
    text: Mutex<Option<Vec<u8>>>,
    watch: Option<super::mounts::Watch>,
}

impl Handle {
    fn render(&self) -> Result<Vec<u8>, Errno> {
        if self.node.subject.as_ref().is_some_and(Subject::is_gone) {
            return Err(Errno::ESRCH);
        }
        self.reader.with(|cx| {
            self.node.about(cx, |about| {
                let mut text = String::new();
                match self.node.place {
                    Place::Entry(Entry { what: What::Text(f) | What::Writable(f, _), .. }) => {
                        f(about, &mut text)?;
                    }
                    Place::Entry(Entry { what: What::Bytes(f) | What::Mounts(f), .. }) => {
                        return f(about);
                    }
                    Place::FdInfo(fd) => super::dirs::fdinfo(about, fd, &mut text)?,
                    _ => return Err(Errno::EINVAL),
                }
                Ok(text.into_bytes())
            })
        })
    }
}

impl FileOps for Handle {
    fn poll(&self, _file: &File) -> Events {
        let ready = Events::READABLE | Events::WRITABLE;
        self.watch.as_ref().map_or(ready, super::mounts::Watch::poll)
    }

    fn queue(&self) -> Option<&WaitQueue> {
        self.watch.as_ref().map(super::mounts::Watch::queue)
    }

    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let mut text = self.text.lock();
        if offset == 0 || text.is_none() {
            *text = Some(self.render()?);
        }
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        dst.put(text.as_deref().and_then(|t| t.get(at..)).unwrap_or(&[]))
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, offset: u64) -> Result<Written, Errno> {
        let Place::Entry(Entry { what: What::Writable(_, store), .. }) = self.node.place else {
            return Err(Errno::EIO);
        };
        let count = src.remaining();
        if count > MAX_STORE {
            return Err(Errno::EINVAL);
        }
        let mut data = vec![0; count];
        let n = src.take(&mut data)?;
        data.truncate(n);
        self.reader.with(|cx| self.node.about(cx, |about| store(about, &data)))?;
        Ok(Written { count: n, end: offset.saturating_add(n as u64).min(MAX_OFFSET) })
    }

    fn seek(&self, file: &File, now: u64, offset: i64, whence: Whence) -> Result<u64, Errno> {
        seek_without_end(file, now, offset, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A name in a directory, and what is there.
type Name = (Vec<u8>, FileType);

/// An open directory: its names as they were when it was last read from the beginning.
struct DirHandle {
    node: Arc<Node>,
    reader: Reader,
    names: Mutex<Option<Vec<Name>>>,
}

impl FileOps for DirHandle {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let mut names = self.names.lock();
        if pos == 0 || names.is_none() {
            let mut list = Vec::from([
                (b".".to_vec(), FileType::Directory),
                (b"..".to_vec(), FileType::Directory),
            ]);
            list.extend(self.reader.with(|cx| self.node.names(cx))?);
            *names = Some(list);
        }
        let mut all = names.iter().flatten().map(|(name, kind)| {
            let ino = match &**name {
                b"." | b".." => self.node.ino,
                name => self.node.ino_of(name),
            };
            (&**name, ino, *kind)
        });
        Ok(give_entries(&mut all, pos, sink))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
