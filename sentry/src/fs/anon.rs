//! Inodes that are in no file system: pipes, eventfds, host streams, and the like.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use super::context::Cx;
use super::dentry::{Dentry, Super};
use super::file::File;
use super::inode::{FileOps, FileSystem, Inode};
use super::lock::InodeState;
use super::mount::Mount;
use super::path::Path;
use super::types::{Attr, FileType, MountFlags, OpenFlags, SetAttr, StatFs, Time, makedev};
use crate::errno::Errno;
use crate::sync::SpinLock;

static NEXT_INO: AtomicU64 = AtomicU64::new(1);
static NEXT_DEV: AtomicU64 = AtomicU64::new(32);

/// A fresh inode number.
pub fn next_ino() -> u64 {
    NEXT_INO.fetch_add(1, Ordering::Relaxed)
}

/// A fresh device number for a file system without a device: major 0, as Linux gives.
pub fn next_dev() -> u64 {
    makedev(0, NEXT_DEV.fetch_add(1, Ordering::Relaxed) as u32)
}

/// An inode without a name.
pub struct AnonInode {
    kind: FileType,
    /// How /proc/PID/fd shows it: `pipe`, `socket`, `anon_inode:[eventfd]`.
    label: &'static str,
    attr: SpinLock<Attr>,
    state: InodeState,
    open: Option<Open>,
}

/// Opens an inode again.
pub type Open = Box<dyn Fn(OpenFlags) -> Result<Box<dyn FileOps>, Errno> + Send + Sync>;

impl AnonInode {
    /// One of this kind with these permission bits, owned by the caller.
    pub fn new(kind: FileType, label: &'static str, perm: u32, uid: u32, gid: u32) -> AnonInode {
        let now = Time::now();
        AnonInode {
            kind,
            label,
            attr: SpinLock::new(Attr {
                // Linux: pipefs, sockfs and anon_inodefs have anonymous devices of their own.
                dev: makedev(
                    0,
                    match kind {
                        FileType::Fifo => 14,
                        FileType::Socket => 8,
                        _ => 15,
                    },
                ),
                ino: next_ino(),
                mode: kind.mode() | perm,
                nlink: 1,
                uid,
                gid,
                blksize: 4096,
                atime: now,
                mtime: now,
                ctime: now,
                ..Attr::default()
            }),
            state: InodeState::new(),
            open: None,
        }
    }

    /// That can be opened again, through /proc/PID/fd.
    pub fn with_open(self, open: Open) -> AnonInode {
        AnonInode { open: Some(open), ..self }
    }

    /// As this inode of this device.
    pub fn with_identity(self, dev: u64, ino: u64) -> AnonInode {
        {
            let mut attr = self.attr.lock();
            (attr.dev, attr.ino) = (dev, ino);
        }
        self
    }

    /// How it is shown.
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// With the device number of the device that it is.
    pub fn with_rdev(self, rdev: u64) -> AnonInode {
        self.attr.lock().rdev = rdev;
        self
    }
}

impl Inode for AnonInode {
    fn kind(&self) -> FileType {
        self.kind
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attr.lock())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        if set.size.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut attr = self.attr.lock();
        apply(&mut attr, set);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open(&self, _cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        match &self.open {
            Some(open) => open(flags),
            None => Err(Errno::ENXIO),
        }
    }
}

/// An open file that is neither of the kinds that a mode names (epoll, eventfd and the like), owned by
/// the caller; of `flags` what open(2) would keep counts.
pub fn file(
    cx: &Cx<'_>,
    label: &'static str,
    ops: Box<dyn FileOps>,
    flags: OpenFlags,
) -> Result<Arc<File>, Errno> {
    let (uid, gid) = (cx.creds.fsuid, cx.creds.fsgid);
    let inode = AnonInode::new(FileType::Anonymous, label, 0o600, uid, gid);
    File::new(ops, Arc::new(inode), None, flags)
}

/// The file system of what has no name: never mounted where anybody could see it.
struct AnonFs {
    root: Arc<AnonInode>,
}

impl FileSystem for AnonFs {
    fn name(&self) -> &'static str {
        "anon"
    }

    fn root(&self) -> Arc<dyn Inode> {
        self.root.clone()
    }

    fn dev(&self) -> u64 {
        makedev(0, 15)
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::without_blocks(0x0904_1934))
    }
}

/// A place for an inode that has none, so that /proc/PID/fd can lead to it.
pub fn path(inode: &Arc<dyn Inode>) -> Result<Path, Errno> {
    static MOUNT: spin::Once<Arc<Mount>> = spin::Once::new();
    let mount = match MOUNT.get() {
        Some(mount) => mount,
        None => {
            let root = AnonInode::new(FileType::Directory, "anon_inode:", 0, 0, 0);
            let sb = Super::new(Arc::new(AnonFs { root: Arc::new(root) }));
            let dentry = sb.root().ok_or(Errno::ENOENT)?;
            MOUNT.call_once(|| Mount::new(&sb, dentry, MountFlags::RELATIME, "none".into()))
        }
    };
    let name = describe(&**inode);
    let dentry = Dentry::new(&mount.sb, None, &name, Some(inode.clone()));
    Ok(Path { mount: mount.clone(), dentry })
}

/// Applies everything but the size.
pub fn apply(attr: &mut Attr, set: &SetAttr) {
    use super::types::{SetTime, mode};
    let now = Time::now();
    let time = |set: SetTime| match set {
        SetTime::Now => now,
        SetTime::To(time) => time,
    };
    if let Some(perm) = set.mode {
        attr.mode = attr.mode & mode::IFMT | perm & mode::PERM;
    }
    attr.uid = set.uid.unwrap_or(attr.uid);
    attr.gid = set.gid.unwrap_or(attr.gid);
    attr.atime = set.atime.map_or(attr.atime, time);
    attr.mtime = set.mtime.map_or(attr.mtime, time);
    attr.ctime = now;
}

/// How /proc/PID/fd shows an inode that has no path.
pub fn describe(inode: &dyn Inode) -> Vec<u8> {
    match inode.as_any().downcast_ref::<AnonInode>() {
        Some(anon) if anon.label.contains(':') => anon.label.into(),
        Some(anon) => format!("{}:[{}]", anon.label, inode.ino()).into_bytes(),
        None => format!("anon_inode:[{}]", inode.ino()).into_bytes(),
    }
}
