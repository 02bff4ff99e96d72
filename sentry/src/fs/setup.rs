//! Building a container's mount namespace.

use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::fmt;

use super::cgroup;
use super::context::{Cx, FsContext};
use super::dentry::Super;
use super::dev;
use super::fill::fill;
use super::inode::{FileSystem, Inode};
use super::mount::{MS_REC, Mount, MountNamespace, Propagation};
use super::overlay::Overlay;
use super::overlayfs;
use super::path::Path;
use super::proc::ProcFs;
use super::sysfs;
use super::tmpfs::{Options, Tmpfs};
use super::tty::Devpts;
use super::types::{FileType, MountFlags, New, SetAttr, makedev, mode};
use super::walk::WalkFlags;
use crate::control::{Capabilities, ContainerSpec, DeviceSpec, MountSource, MountSpec};
use crate::errno::Errno;
use crate::ipc::Ipc;
use crate::kernel::Container;
use crate::task::{Creds, PidNamespace, UserNamespace};

/// A folder or file of the host to be attached through a gofer.
#[derive(Clone, Copy, Debug)]
pub struct GoferSource<'a> {
    /// The gofer.
    pub gofer: u32,
    /// The attach name there.
    pub attach: &'a str,
    /// Whether somebody else may change it.
    pub shared: bool,
    /// Whose numbers of users and groups the gofer's are.
    pub ids: &'a UserNamespace,
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
    /// Its user namespace, whose root mounts them.
    pub userns: &'a UserNamespace,
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
        MountSource::Internal { fstype, data, .. } if !data.is_empty() => {
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
        "proc" => Ok(ProcFs::new(mounter.container, mounter.pidns, &creds.userns, data)?),
        "sysfs" => {
            no_words_but(data, |_| false)?;
            Ok(sysfs::new()?)
        }
        "cgroup" => Ok(cgroup::hierarchy(mounter.container, data)?),
        "cgroup2" => Ok(cgroup::unified(mounter.container)),
        "mqueue" => {
            no_words_but(data, |_| false)?;
            Ok(mounter.ipc.mqueue().0.clone())
        }
        "devpts" => Ok(Devpts::new(data, creds)?),
        "overlay" => Ok(overlayfs::mount(cx, data)?),
        _ => Err(Errno::ENODEV),
    }
}

/// `EINVAL` where data has other words than these.
fn no_words_but(data: &[u8], known: impl Fn(&[u8]) -> bool) -> Result<(), Errno> {
    let mut words = data.split(|b| *b == b',').filter(|word| !word.is_empty());
    if words.all(known) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// The types that [`internal`] makes, for /proc/filesystems.
pub const INTERNAL: [&str; 9] =
    ["sysfs", "tmpfs", "proc", "cgroup", "cgroup2", "devtmpfs", "mqueue", "devpts", "overlay"];

/// What the sentry itself acts as while it builds a container: what it makes belongs to the root of the container's
/// user namespace.
pub fn root_creds(userns: &UserNamespace) -> Creds {
    // One without a root has none to give files to.
    let (uid, gid) = (userns.kuid(0).unwrap_or(0), userns.kgid(0).unwrap_or(0));
    Creds {
        capabilities: Capabilities {
            effective: u64::MAX,
            permitted: u64::MAX,
            ..Default::default()
        },
        ..Creds::of(uid, gid)
    }
}

/// The mount namespace of a new container: its root, its mounts in order, mount points made where they
/// are missing, and what every /dev has.
pub fn mount_container(
    spec: &ContainerSpec,
    mut sources: Sources<'_>,
) -> Result<Arc<MountNamespace>, MountError> {
    let fail = |what: String| move |errno| MountError { what, errno };
    let root = GoferSource {
        gofer: spec.root.gofer,
        attach: &spec.root.attach,
        shared: spec.root.shared,
        ids: sources.userns,
    };
    let fs = (sources.attach)(root)
        .and_then(|fs| layered(fs, spec.root.overlay))
        .map_err(fail("root".into()))?;
    let sb = Super::new(fs);
    let dentry = sb.root().ok_or(Errno::ENOENT).map_err(fail("root".into()))?;
    let source = sb.fs.source();
    let mount = Mount::new(&sb, dentry, MountFlags::RELATIME, source);
    let namespace = hidden_root(sources.userns).map_err(fail("root".into()))?;
    namespace.mount(&mount, &namespace.top()).map_err(fail("root".into()))?;
    let fs = FsContext::new(namespace.clone(), 0o022);
    let creds = root_creds(sources.userns);
    let cx = Cx { fs: &fs, creds: &creds, task: None };
    let mut device_folder = None;
    for mount in &spec.mounts {
        for mount in cgroup::mounts(mount, spec.limits.version) {
            let folder =
                one(&cx, &namespace, &mount, &mut sources).map_err(fail(describe(&mount)))?;
            device_folder = folder.or(device_folder);
        }
    }
    for device in &spec.devices {
        make_device(&cx, device).map_err(fail(format!("device {}", device.path)))?;
    }
    if let Some(folder) = device_folder {
        dev::populate(&cx, &folder).map_err(fail("/dev".into()))?;
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

/// Makes a device node, if there is nothing of its name.
fn make_device(cx: &Cx<'_>, device: &DeviceSpec) -> Result<(), Errno> {
    let path = device.path.as_bytes();
    let kind = FileType::from_mode(device.mode).ok_or(Errno::EINVAL)?;
    make_folders(cx, path)?;
    let rdev = makedev(device.major, device.minor);
    match cx.mknod(None, path, kind, 0, rdev) {
        Err(Errno::EEXIST) => return Ok(()),
        result => result?,
    }
    let at = cx.walk(None, path, WalkFlags::empty())?;
    at.inode()?.set_attr(
        cx,
        &SetAttr {
            mode: Some(device.mode & mode::PERM),
            uid: Some(device.uid),
            gid: Some(device.gid),
            ..SetAttr::default()
        },
    )
}

/// mount(2) with flags that change the propagation alone.
fn propagate(mount: &Arc<Mount>, flags: u64) -> Result<(), Errno> {
    let kind = Propagation::from_ms(flags).ok_or(Errno::EINVAL)?;
    mount.change_propagation(kind, flags & MS_REC != 0);
    Ok(())
}

/// A namespace of one empty mount, on which a container's root goes, as Linux's goes on its rootfs: so that the
/// root can be pivoted from.
fn hidden_root(owner: &UserNamespace) -> Result<Arc<MountNamespace>, Errno> {
    let root = New { mode: 0o755, uid: 0, gid: 0 };
    let sb = Super::new(Tmpfs::new("rootfs", &Options { root, ..Options::default() })?);
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let mount = Mount::new(&sb, root, MountFlags::empty(), "none".into());
    Ok(MountNamespace::owned(mount, owner))
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

/// Makes a mount; its root, if that is to be filled with what every /dev has.
fn one(
    cx: &Cx<'_>,
    namespace: &Arc<MountNamespace>,
    spec: &MountSpec,
    sources: &mut Sources<'_>,
) -> Result<Option<Arc<dyn Inode>>, Errno> {
    let flags = MountFlags::from_ms(spec.flags);
    let mut device_folder = false;
    let (sb, source) = match &spec.source {
        MountSource::Internal { fstype, source, data } => {
            let userns = sources.userns;
            let creds = Creds { userns: userns.clone(), ..cx.creds.clone() };
            let mounter = Mounter {
                container: sources.container,
                pidns: sources.pidns,
                ipc: sources.ipc,
                creds: &creds,
            };
            let fs = internal(cx, fstype, data.as_bytes(), &mounter)?;
            device_folder = spec.destination.trim_end_matches('/') == "/dev"
                && (fstype == "tmpfs" || fstype == "devtmpfs");
            // Nobody's devices are on what belongs to another user namespace, and runc binds the host's there.
            let sb = if device_folder { Super::new(fs) } else { Super::owned(fs, userns) };
            (sb, source.as_str())
        }
        MountSource::Gofer { gofer, attach, overlay, .. } => {
            let source = GoferSource { gofer: *gofer, attach, shared: true, ids: sources.userns };
            (Super::new(layered((sources.attach)(source)?, *overlay)?), attach.as_str())
        }
    };
    let root = sb.root().ok_or(Errno::ENOENT)?;
    let directory = root.inode().is_some_and(|i| i.kind() == FileType::Directory);
    let mount = Mount::new(&sb, root, flags, source.into());
    let path = spec.destination.as_bytes();
    let covered = existing(cx, &spec.destination)?;
    let at = mount_point(cx, path, directory)?;
    if let MountSource::Internal { fstype, data, .. } = &spec.source {
        if fstype == "tmpfs"
            && let Some(covered) = covered
        {
            if !data.split(',').any(|word| word.starts_with("mode=")) {
                // As with runc, what it covers decides.
                let mode = Some(covered.inode()?.attr()?.mode & mode::PERM);
                let set = SetAttr { mode, ..SetAttr::default() };
                Path::root_of(&mount).inode()?.set_attr(cx, &set)?;
            }
            if spec.copy_up {
                // Where it can be written to, whatever the mount is to be.
                let root = sb.root().ok_or(Errno::ENOENT)?;
                let open = Mount::new(&sb, root, MountFlags::empty(), String::new());
                fill(cx, &covered, &Path::root_of(&open))?;
            }
        }
        sb.change_flags(MountFlags::from_bits_truncate(spec.flags))?;
    }
    namespace.mount(&mount, &at)?;
    for flags in &spec.propagation {
        propagate(&mount, *flags)?;
    }
    Ok(match device_folder {
        true => Some(Path::root_of(&mount).inode()?.clone()),
        false => None,
    })
}

/// The mount point `path`, made with the directories above it where it is missing.
pub(crate) fn mount_point(cx: &Cx<'_>, path: &[u8], directory: bool) -> Result<Path, Errno> {
    match cx.walk(None, path, WalkFlags::FOLLOW) {
        Err(Errno::ENOENT) => {}
        result => return result,
    }
    make_folders(cx, path)?;
    if directory {
        made(cx.mkdir(None, path, 0o755))?;
    } else {
        made(cx.mknod(None, path, FileType::Regular, 0o644, 0))?;
    }
    cx.walk(None, path, WalkFlags::FOLLOW)
}

/// Makes the directories above `path` that are missing.
fn make_folders(cx: &Cx<'_>, path: &[u8]) -> Result<(), Errno> {
    let mut ends = path.iter().enumerate().filter(|(at, c)| **c == b'/' && *at > 0);
    let mut prefix = ends.next().map(|(at, _)| at);
    while let Some(end) = prefix {
        prefix = ends.next().map(|(at, _)| at);
        made(cx.mkdir(None, path.get(..end).unwrap_or(path), 0o755))?;
    }
    Ok(())
}

fn made(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::EEXIST) => Ok(()),
        result => result,
    }
}
