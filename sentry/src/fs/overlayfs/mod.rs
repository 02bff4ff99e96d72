//! Overlay file systems as applications mount them (Documentation/filesystems/overlayfs.rst): a stack of
//! directories shown as one.
//!
//! Layers are directories of any file systems, worked on through the VFS as a task would, with the credentials of
//! whoever mounted the overlay: so other views of the same directories see every change. Each has a mount of its own
//! that is nowhere, as on Linux. What changes is written into the upper layer in Linux's format: copies of lower
//! files with the directories above them, character devices 0:0 for names that are gone (whiteouts), and an
//! attribute for directories that hide what lies below (opaque).
//!
//! - [`options`]: mount(2)'s data. Here: from it to layers.
//! - [`node`]: inodes of the overlay. [`copyup`], [`change`]: what is written. [`file`]: what is open.
//!
//! `fs::overlay`, the other overlay, keeps the changes of a whole file system in memory without a directory to write
//! them to.
//!
//! Locks: a node's `copying` is taken below the overlay's directories and above all locks of the layers, one at a
//! time; layers know nothing of what lies on them.

mod change;
mod copyup;
mod file;
mod node;
mod options;

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;

use super::anon::next_dev;
use super::context::{Cx, FsContext};
use super::dentry::Dentry;
use super::inode::{FileSystem, Inode};
use super::mount::{Mount, MountNamespace, Propagation};
use super::path::Path;
use super::perm::{self, cap};
use super::types::{Access, FileType, MountFlags, StatFs};
use super::walk::WalkFlags;
use crate::errno::Errno;
use crate::sync::SpinLock;
use crate::task::Creds;

pub(super) use copyup::copy_data;
pub(super) use file::{list, open_real};
pub use node::Node;
use options::Options;

/// OVERLAYFS_SUPER_MAGIC (linux/magic.h).
const MAGIC: u64 = 0x794c_7630;
/// How many overlays may lie on each other (FILESYSTEM_MAX_STACK_DEPTH, linux/fs.h).
const MAX_DEPTH: u32 = 2;
/// Entries of a directory that are removed before giving up: what an earlier mount has left in the work directory.
const MAX_LEFT: usize = 4096;

/// A directory of the stack.
struct Layer {
    /// A mount of its file system that is nowhere.
    mount: Arc<Mount>,
    root: Arc<Dentry>,
    /// The device of its files, where layers are of several file systems.
    dev: u64,
}

/// What all nodes share.
struct Shared {
    dev: u64,
    /// Whether all layers are of one file system, whose inode numbers are then the overlay's.
    same_fs: bool,
    /// Topmost first. The first is the upper one if there is a work directory.
    layers: Vec<Layer>,
    work: Option<Path>,
    /// In which the layers are worked on.
    fs: Arc<FsContext>,
    /// The mounter's.
    creds: Creds,
    /// How names of the overlay's own attributes begin.
    prefix: &'static str,
    /// Whether the mounter may have attributes of such names.
    marks: bool,
    /// Nodes by the addresses of the inodes that they stand for, which they keep alive.
    nodes: SpinLock<HashMap<usize, Weak<Node>>>,
    next_ino: AtomicU64,
    next_temp: AtomicU64,
}

/// The names of mount parameters.
pub const PARAMETERS: &[&str] = &[
    "lowerdir",
    "lowerdir+",
    "upperdir",
    "workdir",
    "userxattr",
    "default_permissions",
    "redirect_dir",
    "index",
    "metacopy",
    "nfs_export",
    "xino",
    "uuid",
    "verity",
];

/// Whether mount parameters are understood and honoured.
pub fn is_valid(data: &[u8]) -> bool {
    Options::parse(data).is_ok()
}

/// What tells inodes of layers apart.
fn address(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>().addr()
}

impl Shared {
    /// Who works on the layers.
    fn cx(&self) -> Cx<'_> {
        Cx { fs: &self.fs, creds: &self.creds, task: None }
    }

    /// The same, on behalf of a caller.
    fn under<'a>(&'a self, cx: &Cx<'a>) -> Cx<'a> {
        Cx { fs: &self.fs, creds: &self.creds, task: cx.task }
    }

    /// A place in a layer.
    fn path(&self, layer: usize, dentry: &Arc<Dentry>) -> Result<Path, Errno> {
        let layer = self.layers.get(layer).ok_or(Errno::EIO)?;
        Ok(Path { mount: layer.mount.clone(), dentry: dentry.clone() })
    }

    /// The work directory. `EROFS` where nothing can be written.
    fn work(&self) -> Result<&Path, Errno> {
        self.work.as_ref().ok_or(Errno::EROFS)
    }

    /// A name for something in the work directory.
    fn temp(&self) -> String {
        format!("#{:x}", self.next_temp.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether one of the overlay's own attributes says yes.
    fn is_marked(&self, inode: &Arc<dyn Inode>, mark: &str) -> bool {
        let name = format!("{}{mark}", self.prefix);
        self.marks && inode.get_xattr(name.as_bytes()).is_ok_and(|value| value == b"y")
    }

    /// Sets one of the overlay's own attributes.
    fn mark(&self, dentry: &Arc<Dentry>, mark: &str) -> Result<(), Errno> {
        if !self.marks {
            return Err(Errno::EPERM);
        }
        let inode = dentry.inode().ok_or(Errno::ENOENT)?;
        inode.set_xattr(format!("{}{mark}", self.prefix).as_bytes(), b"y", 0)
    }
}

/// What `name` means in a directory of a layer; `None`: nothing.
fn look(under: &Cx<'_>, dir: &Arc<Dentry>, name: &[u8]) -> Result<Option<Arc<Dentry>>, Errno> {
    perm::permission(under, &**dir.inode().ok_or(Errno::ENOENT)?, Access::EXEC)?;
    let dentry = dir.lookup(under, name, &[])?;
    Ok(dentry.inode().is_some().then_some(dentry))
}

/// Whether this stands for a name that is gone.
fn is_whiteout(dentry: &Dentry) -> Result<bool, Errno> {
    match dentry.inode() {
        Some(inode) if inode.kind() == FileType::CharDevice => Ok(inode.attr()?.rdev == 0),
        _ => Ok(false),
    }
}

/// An overlay.
pub struct Overlayfs {
    shared: Arc<Shared>,
    root: Arc<Node>,
    options: String,
    depth: u32,
}

/// mount(2) of type overlay. Errors are those of overlayfs(5) on Linux 6.18: `EINVAL` where directories are missing
/// or lie in each other, `ELOOP` where a lower directory lies in another layer.
pub fn mount(cx: &Cx<'_>, data: &[u8]) -> Result<Arc<Overlayfs>, Errno> {
    let options = Options::parse(data)?;
    let directory = |path: &[u8]| {
        let at = cx.walk(None, path, WalkFlags::FOLLOW)?;
        match at.inode()?.kind() {
            FileType::Directory => Ok(at),
            _ => Err(Errno::EINVAL),
        }
    };
    let lower = options.lower.iter().map(|p| directory(p)).collect::<Result<Vec<_>, _>>()?;
    let upper = options.upper.as_deref().map(directory).transpose()?;
    let work = options.work.as_deref().map(directory).transpose()?.filter(|_| upper.is_some());
    if lower.is_empty() || upper.is_some() != work.is_some() || upper.is_none() && lower.len() < 2 {
        return Err(Errno::EINVAL);
    }
    let all = || upper.iter().chain(&lower);
    let depth = all().map(|p| p.mount.sb.fs.stack_depth()).max().unwrap_or(0).saturating_add(1);
    if depth > MAX_DEPTH {
        return Err(Errno::EINVAL);
    }
    if let (Some(upper), Some(work)) = (&upper, &work) {
        check_upper(upper, work)?;
    }
    for (n, one) in lower.iter().enumerate() {
        let others = lower.iter().enumerate().filter(|(m, _)| *m != n).map(|(_, other)| other);
        if others.chain(&upper).chain(&work).any(|other| other.dentry.is_above(&one.dentry)) {
            return Err(Errno::ELOOP);
        }
    }
    let mut layers: Vec<Layer> = Vec::new();
    let mut trees: Vec<Arc<MountNamespace>> = Vec::new();
    for at in all() {
        // As it may be bound elsewhere, it may be a layer.
        let tree = cx.fs.namespace().bind(at, false)?;
        let mount = tree.root().clone();
        mount.change_propagation(Propagation::Private, false);
        if upper.is_none() || !layers.is_empty() {
            mount.set_flags(mount.flags() | MountFlags::RDONLY | MountFlags::NOATIME);
        }
        let same = layers.iter().find(|l| Arc::ptr_eq(&l.mount.sb, &mount.sb)).map(|l| l.dev);
        let dev = same.unwrap_or_else(next_dev);
        layers.push(Layer { mount, root: at.dentry.clone(), dev });
        trees.push(tree);
    }
    let first = layers.first().ok_or(Errno::EINVAL)?;
    let same_fs = layers.iter().all(|l| l.dev == first.dev);
    let fs = FsContext::new(trees.into_iter().next().ok_or(Errno::EINVAL)?, 0);
    let under = Cx { fs: &fs, creds: cx.creds, task: cx.task };
    let work = match work {
        Some(work) => {
            let base = Path { mount: first.mount.clone(), dentry: work.dentry };
            Some(work_directory(&under, &base)?)
        }
        None => None,
    };
    let shared = Arc::new(Shared {
        dev: next_dev(),
        same_fs,
        layers,
        work,
        fs,
        creds: cx.creds.clone(),
        marks: options.userxattr || cx.creds.capable(cap::SYS_ADMIN),
        prefix: if options.userxattr { "user.overlay." } else { "trusted.overlay." },
        nodes: SpinLock::new(HashMap::new()),
        next_ino: AtomicU64::new(1),
        next_temp: AtomicU64::new(1),
    });
    let root = Node::root(&shared)?;
    Ok(Arc::new(Overlayfs { shared, root, options: options.show(), depth }))
}

/// `EINVAL` where these cannot be upper and work directory of an overlay.
fn check_upper(upper: &Path, work: &Path) -> Result<(), Errno> {
    let apart = !upper.dentry.is_above(&work.dentry) && !work.dentry.is_above(&upper.dentry);
    let fit = Arc::ptr_eq(&upper.mount, &work.mount) && apart;
    // One overlay is no upper layer of another.
    if !fit || upper.mount.check_write().is_err() || upper.mount.sb.fs.stack_depth() != 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// The directory `work` in the one that the option names, empty.
fn work_directory(under: &Cx<'_>, base: &Path) -> Result<Path, Errno> {
    if let Some(old) = look(under, &base.dentry, b"work")? {
        let old = Path { mount: base.mount.clone(), dentry: old };
        if old.inode()?.kind() == FileType::Directory {
            for entry in file::list(under, old.inode()?)?.into_iter().take(MAX_LEFT) {
                let name = &entry.name;
                if entry.kind != FileType::Directory {
                    under.unlink(Some(&old), name)?;
                    continue;
                }
                if let Some(dentry) = look(under, &old.dentry, name)? {
                    let left = Path { mount: base.mount.clone(), dentry };
                    for entry in file::list(under, left.inode()?)?.into_iter().take(MAX_LEFT) {
                        if entry.kind != FileType::Directory {
                            under.unlink(Some(&left), &entry.name)?;
                        }
                    }
                }
                under.rmdir(Some(&old), name)?;
            }
            under.rmdir(Some(base), b"work")?;
        } else {
            under.unlink(Some(base), b"work")?;
        }
    }
    under.mkdir(Some(base), b"work", 0)?;
    under.walk(Some(base), b"work", WalkFlags::empty())
}

impl FileSystem for Overlayfs {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        self.shared.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        let top = self.shared.layers.first().ok_or(Errno::EIO)?;
        Ok(StatFs { kind: MAGIC, fsid: self.shared.dev, ..top.mount.sb.fs.statfs()? })
    }

    fn sync(&self) -> Result<(), Errno> {
        match &self.shared.work {
            Some(work) => work.mount.sb.fs.sync(),
            None => Ok(()),
        }
    }

    fn options(&self) -> String {
        self.options.clone()
    }

    fn is_read_only(&self) -> bool {
        self.shared.work.is_none()
    }

    fn stack_depth(&self) -> u32 {
        self.depth
    }
}
