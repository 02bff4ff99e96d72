//! Building a container's mount namespace.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::fmt;

use super::context::{Cx, FsContext};
use super::dentry::Super;
use super::dev;
use super::inode::FileSystem;
use super::mount::{MS_REC, Mount, MountNamespace, Propagation};
use super::overlay::Overlay;
use super::overlayfs;
use super::path::Path;
use super::proc::ProcFs;
use super::sysfs;
use super::tmpfs::{Options, Tmpfs};
use super::tty::Devpts;
use super::types::{FileType, MountFlags, New};
use super::walk::WalkFlags;
use crate::control::{Capabilities, ContainerSpec, MountSource, MountSpec};
use crate::errno::Errno;
use crate::ipc::Ipc;
use crate::kernel::Container;
use crate::task::{Creds, PidNamespace};

/// A folder or file of the host to be attached through a gofer.
#[derive(Clone, Copy, Debug)]
pub struct GoferSource<'a> {
    /// The gofer.
    pub gofer: u32,
    /// The attach name there.
    pub attach: &'a str,
    /// Whether somebody else may change it.
    pub shared: bool,
}

/// Attaches a gofer's folder, as a file system.
pub type Attach<'a> = dyn FnMut(GoferSource<'_>) -> Result<Arc<dyn FileSystem>, Errno> + 'a;

/// What file systems of a container are made from.
pub struct Sources<'a> {
    /// Attaches a gofer's folder.
    pub attach: &'a mut Attach<'a>,
    /// Whose processes /proc shows.
    pub container: &'a Weak<Container>,
    /// Whose message queues an mqueue has.
    pub ipc: &'a Ipc,
    /// The container's pid namespace, which is what its proc shows.
    pub pidns: &'a Arc<PidNamespace>,
}

impl Sources<'_> {
    fn mounter<'a>(&'a self, creds: &'a Creds) -> Mounter<'a> {
        Mounter { container: self.container, pidns: self.pidns, ipc: self.ipc, creds }
    }
}

/// A mount that failed.
#[derive(Clone, Debug)]
pub struct MountError {
    /// What was to be mounted where.
    pub what: String,
    /// Why it could not.
    pub errno: Errno,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.errno.text())
    }
}

/// A mount's place and, as they are what can be wrong with it, its options.
fn describe(mount: &MountSpec) -> String {
    match &mount.source {
        MountSource::Internal { fstype, data } if !data.is_empty() => {
            format!("mount {} ({fstype}, {data})", mount.destination)
        }
        _ => format!("mount {}", mount.destination),
    }
}

/// Who mounts a file system of the sentry's own, as far as that depends on it.
pub struct Mounter<'a> {
    /// Whose processes proc shows,
    pub container: &'a Weak<Container>,
    /// by the numbers of this namespace.
    pub pidns: &'a Arc<PidNamespace>,
    /// Whose message queues an mqueue has.
    pub ipc: &'a Ipc,
    /// To whom the root of a tmpfs belongs, and whose numbers options have.
    pub creds: &'a Creds,
}

/// A file system of the sentry's own, by its type; an overlay is of directories that `cx` sees. `ENODEV` where there is none of this type.
pub fn internal(
    cx: &Cx<'_>,
    fstype: &str,
    data: &[u8],
    mounter: &Mounter<'_>,
) -> Result<Arc<dyn FileSystem>, Errno> {
    let creds = mounter.creds;
    match fstype {
        "tmpfs" => Ok(Tmpfs::new("tmpfs", &Options::parse(data, creds)?)?),
        "devtmpfs" => Ok(dev::devtmpfs(&Options::parse(data, creds)?)?),
        "proc" => Ok(ProcFs::new(mounter.container, mounter.pidns)),
        "sysfs" => Ok(sysfs::new()?),
        "cgroup" => Ok(sysfs::cgroup("cgroup")),
        "cgroup2" => Ok(sysfs::cgroup("cgroup2")),
        "mqueue" => Ok(mounter.ipc.mqueue().0.clone()),
        "devpts" => Ok(Devpts::new(data, creds)?),
        "overlay" => Ok(overlayfs::mount(cx, data)?),
        _ => Err(Errno::ENODEV),
    }
}

/// The types that [`internal`] makes, for /proc/filesystems.
pub const INTERNAL: [&str; 9] =
    ["sysfs", "tmpfs", "proc", "cgroup", "cgroup2", "devtmpfs", "mqueue", "devpts", "overlay"];

/// What the sentry itself acts as while it builds a container.
pub fn root_creds() -> Creds {
    Creds {
        capabilities: Capabilities {
            effective: u64::MAX,
            permitted: u64::MAX,
            ..Default::default()
        },
        ..Creds::default()
    }
}

/// The mount namespace of a new container: its root, its mounts in order, mount points made where they
/// are missing, and what every /dev has.
pub fn mount_container(
    spec: &ContainerSpec,
    mut sources: Sources<'_>,
) -> Result<Arc<MountNamespace>, MountError> {
    let fail = |what: String| move |errno| MountError { what, errno };
    let root =
        GoferSource { gofer: spec.root.gofer, attach: &spec.root.attach, shared: spec.root.shared };
    let fs = (sources.attach)(root)
        .and_then(|fs| layered(fs, spec.root.overlay))
        .map_err(fail("root".into()))?;
    let sb = Super::new(fs);
    let dentry = sb.root().ok_or(Errno::ENOENT).map_err(fail("root".into()))?;
    let source = sb.fs.source();
    let mount = Mount::new(&sb, dentry, MountFlags::RELATIME, source);
    let namespace = hidden_root().map_err(fail("root".into()))?;
    namespace.mount(&mount, &namespace.top()).map_err(fail("root".into()))?;
    let fs = FsContext::new(namespace.clone(), 0o022);
    let creds = root_creds();
    let cx = Cx { fs: &fs, creds: &creds, task: None };
    for mount in &spec.mounts {
        one(&cx, &namespace, mount, &mut sources).map_err(fail(describe(mount)))?;
    }
    for path in &spec.masked {
        mask(&cx, &namespace, path).map_err(fail(format!("masked path {path}")))?;
    }
    for path in &spec.readonly {
        protect(&cx, &namespace, path).map_err(fail(format!("read-only path {path}")))?;
    }
    if spec.root.readonly {
        mount.set_flags(MountFlags::RDONLY | MountFlags::RELATIME);
    }
    Ok(namespace)
}

/// mount(2) with flags that change the propagation alone.
fn propagate(mount: &Arc<Mount>, flags: u64) -> Result<(), Errno> {
    let kind = Propagation::from_ms(flags).ok_or(Errno::EINVAL)?;
    mount.change_propagation(kind, flags & MS_REC != 0);
    Ok(())
}

/// A namespace of one empty mount, on which a container's root goes, as Linux's goes on its rootfs: so that the
/// root can be pivoted from.
fn hidden_root() -> Result<Arc<MountNamespace>, Errno> {
    let root = New { mode: 0o755, uid: 0, gid: 0 };
    let sb = Super::new(Tmpfs::new("rootfs", &Options { root, ..Options::default() })?);
    let root = sb.root().ok_or(Errno::ENOENT)?;
    Ok(MountNamespace::new(Mount::new(&sb, root, MountFlags::empty(), "none".into())))
}

/// Where a path leads, if it is there.
fn existing(cx: &Cx<'_>, path: &str) -> Result<Option<Path>, Errno> {
    match cx.walk(None, path.as_bytes(), WalkFlags::FOLLOW) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Hides what is at `path`, as runc does.
fn mask(cx: &Cx<'_>, namespace: &Arc<MountNamespace>, path: &str) -> Result<(), Errno> {
    let Some(at) = existing(cx, path)? else { return Ok(()) };
    if at.inode()?.kind() == FileType::Directory {
        let sb = Super::new(Tmpfs::new("tmpfs", &Options::default())?);
        let root = sb.root().ok_or(Errno::ENOENT)?;
        let mount =
            Mount::new(&sb, root, MountFlags::RDONLY | MountFlags::RELATIME, "tmpfs".into());
        return namespace.mount(&mount, &at);
    }
    // Without a /dev/null there is nothing to hide it behind.
    let null = cx.walk(None, b"/dev/null", WalkFlags::FOLLOW)?;
    namespace.adopt(&*namespace.bind(&null, false)?, &at)
}

/// Mounts what is at `path` over itself, read-only, with all that is mounted below.
fn protect(cx: &Cx<'_>, namespace: &Arc<MountNamespace>, path: &str) -> Result<(), Errno> {
    let Some(at) = existing(cx, path)? else { return Ok(()) };
    let tree = namespace.bind(&at, true)?;
    tree.root().set_flags(tree.root().flags() | MountFlags::RDONLY);
    namespace.adopt(&tree, &at)
}

fn layered(fs: Arc<dyn FileSystem>, overlay: bool) -> Result<Arc<dyn FileSystem>, Errno> {
    if !overlay {
        return Ok(fs);
    }
    Ok(Overlay::new(fs)?)
}

fn one(
    cx: &Cx<'_>,
    namespace: &Arc<MountNamespace>,
    spec: &MountSpec,
    sources: &mut Sources<'_>,
) -> Result<(), Errno> {
    let flags = MountFlags::from_ms(spec.flags);
    let (fs, source) = match &spec.source {
        MountSource::Internal { fstype, data } => {
            (internal(cx, fstype, data.as_bytes(), &sources.mounter(cx.creds))?, fstype.as_str())
        }
        MountSource::Gofer { gofer, attach, overlay, .. } => {
            let source = GoferSource { gofer: *gofer, attach, shared: true };
            (layered((sources.attach)(source)?, *overlay)?, attach.as_str())
        }
    };
    let sb = Super::new(fs);
    if matches!(spec.source, MountSource::Internal { .. }) {
        sb.change_flags(MountFlags::from_bits_truncate(spec.flags))?;
    }
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let directory = root.inode().is_some_and(|i| i.kind() == FileType::Directory);
    let mount = Mount::new(&sb, root, flags, source.into());
    let at = mount_point(cx, spec.destination.as_bytes(), directory)?;
    namespace.mount(&mount, &at)?;
    for flags in &spec.propagation {
        propagate(&mount, *flags)?;
    }
    let device_folder = spec.destination.trim_end_matches('/') == "/dev"
        && matches!(&spec.source, MountSource::Internal { fstype, .. }
            if fstype == "tmpfs" || fstype == "devtmpfs");
    if device_folder {
        dev::populate(cx, Path::root_of(&mount).inode()?)?;
    }
    Ok(())
}

/// The mount point `path`, made with the directories above it where it is missing.
pub(crate) fn mount_point(cx: &Cx<'_>, path: &[u8], directory: bool) -> Result<Path, Errno> {
    match cx.walk(None, path, WalkFlags::FOLLOW) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    let mut ends = path.iter().enumerate().filter(|(at, c)| **c == b'/' && *at > 0);
    let mut prefix = ends.next().map(|(at, _)| at);
    while let Some(end) = prefix {
        prefix = ends.next().map(|(at, _)| at);
        made(cx.mkdir(None, path.get(..end).unwrap_or(path), 0o755))?;
    }
    if directory {
        made(cx.mkdir(None, path, 0o755))?;
    } else {
        made(cx.mknod(None, path, FileType::Regular, 0o644, 0))?;
    }
    cx.walk(None, path, WalkFlags::FOLLOW)
}

fn made(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}
