//! File systems whose names are fixed when they are mounted; and sysfs, with what programs look for (the CPUs, mostly).

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use super::anon::next_dev;
use super::context::Cx;
use super::file::File;
use super::inode::{FileOps, FileSystem, Inode};
use super::io::IoDst;
use super::lock::InodeState;
use super::types::{Attr, DirSink, FileType, OpenFlags, SetAttr, StatFs, Time, give_entries};
use crate::errno::Errno;
use crate::kernel::Container;
use crate::platform::{PAGE_SIZE, platform};

/// The magic number (linux/magic.h).
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// A fixed file system.
pub struct Fixed {
    name: &'static str,
    magic: u64,
    dev: u64,
    /// As /proc/PID/mounts has them, each with a comma before it.
    options: String,
    root: Arc<Node>,
}

/// A file or directory of it.
struct Node {
    this: Weak<Node>,
    parent: u64,
    ino: u64,
    dev: u64,
    perm: u32,
    made: Time,
    content: Content,
    state: InodeState,
}

enum Content {
    Dir(Vec<(String, Arc<Node>)>),
    File(String),
    Live(fn() -> String),
    Of(Weak<Container>, Show),
}

/// What writes a file's text.
pub type Show = fn(&Container, &mut String);

/// What a tree is built from.
pub enum Tree {
    /// A directory.
    Dir(Vec<(String, Tree)>),
    /// A file.
    File(String),
    /// What is made when it is read.
    Live(fn() -> String),
    /// The same, of a container.
    Of(Weak<Container>, Show),
}

fn dir<const N: usize>(entries: [(&str, Tree); N]) -> Tree {
    Tree::Dir(entries.into_iter().map(|(name, tree)| (name.into(), tree)).collect())
}

fn file(text: impl Into<String>) -> Tree {
    Tree::File(text.into())
}

impl Node {
    /// The trees here are a few levels deep, and made by the sentry alone: recursion is bounded.
    fn build(tree: Tree, dev: u64, parent: u64, next: &AtomicU64) -> Arc<Node> {
        let ino = next.fetch_add(1, Ordering::Relaxed);
        let (content, perm) = match tree {
            Tree::File(text) => (Content::File(text), 0o444),
            Tree::Live(text) => (Content::Live(text), 0o444),
            Tree::Of(container, show) => (Content::Of(container, show), 0o444),
            Tree::Dir(entries) => {
                let child = |(name, tree)| (name, Node::build(tree, dev, ino, next));
                (Content::Dir(entries.into_iter().map(child).collect()), 0o755)
            }
        };
        Arc::new_cyclic(|this: &Weak<Node>| Node {
            this: this.clone(),
            parent: if parent == 0 { ino } else { parent },
            ino,
            dev,
            perm,
            made: Time::now(),
            content,
            state: InodeState::new(),
        })
    }
}

impl Fixed {
    /// One of this type, magic number and options.
    pub fn new(name: &'static str, magic: u64, tree: Tree, options: &str) -> Arc<Fixed> {
        let dev = next_dev();
        let root = Node::build(tree, dev, 0, &AtomicU64::new(1));
        Arc::new(Fixed { name, magic, dev, options: options.into(), root })
    }
}

/// sysfs.
pub fn new() -> Result<Arc<Fixed>, Errno> {
    let cpus = platform().cpus().max(1);
    let all = match cpus {
        1 => String::from("0\n"),
        n => format!("0-{}\n", n.saturating_sub(1)),
    };
    let map = format!("{}\n", bitmap(0..cpus, cpus));
    let mut cpu: Vec<(String, Tree)> = Vec::new();
    for n in 0..cpus {
        let topology = dir([
            ("core_id", file(format!("{n}\n"))),
            ("physical_package_id", file("0\n")),
            ("core_siblings_list", file(all.clone())),
            ("thread_siblings_list", file(format!("{n}\n"))),
            ("core_siblings", file(map.clone())),
            ("thread_siblings", file(format!("{}\n", bitmap(n..n.saturating_add(1), cpus)))),
            ("package_cpus", file(map.clone())),
            ("package_cpus_list", file(all.clone())),
        ]);
        cpu.push((format!("cpu{n}"), dir([("online", file("1\n")), ("topology", topology)])));
    }
    for name in ["online", "possible", "present"] {
        cpu.push((name.into(), file(all.clone())));
    }
    for name in ["offline", "isolated"] {
        cpu.push((name.into(), file("\n")));
    }
    cpu.push(("kernel_max".into(), file(format!("{}\n", cpus.saturating_sub(1)))));
    let node0 = dir([
        ("cpulist", file(all.clone())),
        ("cpumap", file(map)),
        ("distance", file("10\n")),
        ("meminfo", Tree::Live(super::proc::node_meminfo)),
    ]);
    let node = dir([
        ("node0", node0),
        ("online", file("0\n")),
        ("possible", file("0\n")),
        ("has_cpu", file("0\n")),
    ]);
    let huge = dir([
        ("enabled", file("always madvise [never]\n")),
        ("defrag", file("always defer defer+madvise madvise [never]\n")),
        ("hpage_pmd_size", file("2097152\n")),
    ]);
    let tree = dir([
        ("block", dir([])),
        ("bus", dir([])),
        ("class", dir([("net", dir([])), ("block", dir([])), ("tty", dir([]))])),
        ("dev", dir([("block", dir([])), ("char", dir([]))])),
        ("devices", dir([("system", dir([("cpu", Tree::Dir(cpu)), ("node", node)]))])),
        ("firmware", dir([])),
        ("fs", dir([("cgroup", dir([]))])),
        ("kernel", dir([("mm", dir([("transparent_hugepage", huge), ("hugepages", dir([]))]))])),
        ("module", dir([])),
        ("power", dir([])),
    ]);
    Ok(Fixed::new("sysfs", SYSFS_MAGIC, tree, ""))
}

/// A set of CPUs of so many, as `%*pb` of printk prints it: 32 in a group, the highest first.
fn bitmap(set: Range<u32>, cpus: u32) -> String {
    let mut text = String::new();
    for group in (0..cpus.div_ceil(32)).rev() {
        let bits = (0..32u32)
            .filter(|bit| set.contains(&group.saturating_mul(32).saturating_add(*bit)))
            .fold(0u32, |bits, bit| bits | 1 << bit);
        // The first group has no more digits than there are CPUs.
        let width = match text.is_empty() {
            true => (cpus.saturating_sub(1) % 32 / 4).saturating_add(1) as usize,
            false => 8,
        };
        let comma = if text.is_empty() { "" } else { "," };
        text.push_str(&format!("{comma}{bits:0width$x}"));
    }
    text
}

impl FileSystem for Fixed {
    fn name(&self) -> &'static str {
        self.name
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn options(&self) -> String {
        self.options.clone()
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::without_blocks(self.magic))
    }
}

impl Inode for Node {
    fn kind(&self) -> FileType {
        match &self.content {
            Content::Dir(_) => FileType::Directory,
            Content::File(_) | Content::Live(_) | Content::Of(..) => FileType::Regular,
        }
    }

    fn attr(&self) -> Result<Attr, Errno> {
        let (nlink, size) = match &self.content {
            Content::Dir(entries) => {
                let dirs = entries.iter().filter(|(_, n)| n.kind() == FileType::Directory).count();
                (u32::try_from(dirs).unwrap_or(u32::MAX).saturating_add(2), 0)
            }
            // As sysfs says of all its files.
            Content::File(_) | Content::Live(_) | Content::Of(..) => (1, PAGE_SIZE as u64),
        };
        Ok(Attr {
            dev: self.dev,
            ino: self.ino,
            mode: self.kind().mode() | self.perm,
            nlink,
            size,
            blksize: PAGE_SIZE as u32,
            atime: self.made,
            mtime: self.made,
            ctime: self.made,
            ..Attr::default()
        })
    }

    fn set_attr(&self, _cx: &Cx<'_>, _set: &SetAttr) -> Result<(), Errno> {
        Err(Errno::EPERM)
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

    fn lookup(&self, _cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        let Content::Dir(entries) = &self.content else { return Err(Errno::ENOTDIR) };
        match entries.iter().find(|(n, _)| n.as_bytes() == name) {
            Some((_, node)) => Ok(node.clone()),
            None => Err(Errno::ENOENT),
        }
    }

    fn open(&self, _cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        if flags.writes() {
            return Err(Errno::EACCES);
        }
        Ok(Box::new(Handle(self.this.upgrade().ok_or(Errno::ESTALE)?)))
    }
}

struct Handle(Arc<Node>);

impl FileOps for Handle {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, offset: u64) -> Result<usize, Errno> {
        let made;
        let text = match &self.0.content {
            Content::Dir(_) => return Err(Errno::EISDIR),
            Content::File(text) => text,
            Content::Live(make) => {
                made = make();
                &made
            }
            Content::Of(container, show) => {
                let container = container.upgrade().ok_or(Errno::ENODEV)?;
                let mut text = String::new();
                show(&container, &mut text);
                made = text;
                &made
            }
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        dst.put(text.as_bytes().get(at..).unwrap_or(&[]))
    }

    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let Content::Dir(entries) = &self.0.content else { return Err(Errno::ENOTDIR) };
        let dots = [(&b"."[..], self.0.ino), (&b".."[..], self.0.parent)];
        let dots = dots.into_iter().map(|(name, ino)| (name, ino, FileType::Directory));
        let rest = entries.iter().map(|(name, node)| (name.as_bytes(), node.ino, node.kind()));
        Ok(give_entries(&mut dots.chain(rest), pos, sink))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
