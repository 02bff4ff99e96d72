//! procfs (proc(5)): what programs read about processes and the system.
//!
//! The tree is data: tables of [`Entry`] in [`system`], [`sys`] and [`process`], each a name with the
//! function that writes its text. [`node`] makes inodes of them; names are not cached, so each walk
//! sees the processes that there are. A procfs shows the processes of the pid namespace it was mounted in.

mod cpu;
mod dirs;
mod hiding;
mod idmap;
mod locks;
mod memfile;
mod mounts;
mod mqueue;
mod node;
mod process;
mod smaps;
mod sys;
mod system;
mod sysvipc;
mod timens;

pub use system::{loads, node_meminfo};

use alloc::string::String;
use alloc::sync::{Arc, Weak};

use super::anon::next_dev;
use super::context::Cx;
use super::file::File;
use super::inode::{Caching, FileSystem, Inode, Link};
use super::types::StatFs;
use crate::errno::Errno;
use crate::kernel::Container;
use crate::sync::SpinLock;
use crate::task::{AccessMode, PidNamespace, Process, Task, UserNamespace, cap, may_access};

use hiding::Hiding;

/// PROC_SUPER_MAGIC (linux/magic.h).
const MAGIC: u64 = 0x9fa0;

/// What an entry is about: the reader, and for those of a process that process and task.
struct About<'a> {
    container: &'a Arc<Container>,
    /// Whose numbers are shown.
    pidns: &'a Arc<PidNamespace>,
    cx: &'a Cx<'a>,
    subject: Option<&'a Subject>,
}

/// A process, and a task of it.
#[derive(Clone)]
struct Subject {
    process: Arc<Process>,
    /// The task; `None`: whichever lives (the leader first), or none, of a zombie.
    task: Option<Arc<Task>>,
}

impl Subject {
    /// The task, while one lives.
    fn task(&self) -> Option<Arc<Task>> {
        self.task.clone().or_else(|| self.process.first_task())
    }

    /// Whether it has been waited for, so that nothing is left of it.
    fn is_gone(&self) -> bool {
        let there = self.process.pids.process(self.process.pid);
        !there.is_some_and(|p| Arc::ptr_eq(&p, &self.process))
    }
}

/// The process whose folder in a procfs is open (tgid_pidfd_to_pid()).
pub fn process_of(file: &File) -> Option<Arc<Process>> {
    file.inode().as_any().downcast_ref::<node::Node>()?.process_of_folder()
}

impl About<'_> {
    fn subject(&self) -> Result<&Subject, Errno> {
        self.subject.ok_or(Errno::ENOENT)
    }

    fn process(&self) -> Result<&Arc<Process>, Errno> {
        Ok(&self.subject()?.process)
    }

    /// The living task it is about. `ESRCH` for a zombie.
    fn task(&self) -> Result<Arc<Task>, Errno> {
        self.subject()?.task().ok_or(Errno::ESRCH)
    }

    /// Nanoseconds that the reader's CLOCK_BOOTTIME is ahead.
    fn ahead(&self) -> i64 {
        self.cx.task.map_or(0, |t| t.shared.lock().namespaces.time.boottime_ahead())
    }

    /// The living task, if the reader may look into it (ptrace(2), "Ptrace access mode checking").
    fn inspect(&self) -> Result<Arc<Task>, Errno> {
        let task = self.task()?;
        may_inspect(self.cx, &task)?;
        Ok(task)
    }
}

/// Whether the reader may look into a task's memory, descriptors and places.
pub fn may_inspect(cx: &Cx<'_>, task: &Arc<Task>) -> Result<(), Errno> {
    if may_access(cx.task, cx.creds, task, AccessMode::FsCreds) {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// Whether the caller is allowed to administer; for what may be written in /proc/sys.
fn admin(cx: &Cx<'_>) -> Result<(), Errno> {
    if cx.creds.capable(cap::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
}

/// Gives a file below /proc/sys a value, as writing it does. `EACCES` for one that cannot be changed, and has another.
pub fn set_sysctl(
    container: &Arc<Container>,
    cx: &Cx<'_>,
    path: &str,
    value: &str,
) -> Result<(), Errno> {
    let task = cx.task.ok_or(Errno::ESRCH)?;
    let subject = None;
    let about = About { container, pidns: &task.process.pidns, cx, subject };
    let mut entries = sys::ENTRIES;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        let entry = entries.iter().find(|entry| entry.name == name).ok_or(Errno::ENOENT)?;
        match (&entry.what, names.peek()) {
            (What::Dir(below), Some(_)) => entries = below,
            (What::Writable(_, store), None) => return store(&about, value.as_bytes()),
            (What::Text(render), None) => {
                let mut now = String::new();
                render(&about, &mut now)?;
                let same = now.split_ascii_whitespace().eq(value.split_ascii_whitespace());
                return if same { Ok(()) } else { Err(Errno::EACCES) };
            }
            _ => break,
        }
    }
    Err(Errno::ENOENT)
}

/// Writes an entry's text.
type Render = fn(&About<'_>, &mut String) -> Result<(), Errno>;
/// Takes what was written to an entry.
type Store = fn(&About<'_>, &[u8]) -> Result<(), Errno>;
/// Says where a link leads.
type Follow = fn(&About<'_>) -> Result<Link, Errno>;

/// A name of the tree, as data.
struct Entry {
    name: &'static str,
    /// Permission bits.
    perm: u32,
    what: What,
}

/// What a name is.
enum What {
    Text(Render),
    /// Bytes that are no text: cmdline, environ, auxv.
    Bytes(fn(&About<'_>) -> Result<alloc::vec::Vec<u8>, Errno>),
    Writable(Render, Store),
    /// The mounts that a process sees: whoever polls it hears of changes.
    Mounts(fn(&About<'_>) -> Result<alloc::vec::Vec<u8>, Errno>),
    Link(Follow),
    Dir(&'static [Entry]),
    /// Directories whose names are what there is.
    Tasks,
    Fds,
    FdInfos,
    /// A map of ids of its user namespace, or what goes with them.
    IdMap(idmap::Which),
    /// The process's memory.
    Mem,
}

/// A file that is read.
const fn text(name: &'static str, render: Render) -> Entry {
    Entry { name, perm: 0o444, what: What::Text(render) }
}

/// A link.
const fn link(name: &'static str, follow: Follow) -> Entry {
    Entry { name, perm: 0o777, what: What::Link(follow) }
}

/// A directory.
const fn dir(name: &'static str, entries: &'static [Entry]) -> Entry {
    Entry { name, perm: 0o555, what: What::Dir(entries) }
}

/// What all inodes of a procfs share.
struct Shared {
    dev: u64,
    container: Weak<Container>,
    pidns: Arc<PidNamespace>,
    hiding: SpinLock<Hiding>,
}

/// A procfs.
pub struct ProcFs {
    shared: Arc<Shared>,
    root: Arc<node::Node>,
}

impl ProcFs {
    /// One that shows the processes of this pid namespace of a container, as mount data of somebody's in a user
    /// namespace has it. `EINVAL` for what is not understood.
    pub fn new(
        container: &Weak<Container>,
        pidns: &Arc<PidNamespace>,
        userns: &UserNamespace,
        data: &[u8],
    ) -> Result<Arc<ProcFs>, Errno> {
        let hiding = Hiding::default().with(data, userns)?;
        let (container, pidns) = (container.clone(), pidns.clone());
        let hiding = SpinLock::new(hiding);
        let shared = Arc::new(Shared { dev: next_dev(), container, pidns, hiding });
        let root = node::Node::root(&shared);
        Ok(Arc::new(ProcFs { shared, root }))
    }
}

impl FileSystem for ProcFs {
    fn name(&self) -> &'static str {
        "proc"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::without_blocks(MAGIC))
    }

    fn caching(&self) -> Caching {
        Caching::None
    }

    fn options(&self) -> String {
        self.shared.hiding.lock().options()
    }

    fn remount(&self, data: &[u8]) -> Result<(), Errno> {
        let new = self.shared.hiding.lock().with(data, &UserNamespace::default())?;
        *self.shared.hiding.lock() = new;
        Ok(())
    }
}
