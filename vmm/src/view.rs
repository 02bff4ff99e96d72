//! What is at `/` for whoever enters the mount namespace of a container by its pid.
//!
//! Engines do so where they mean the files of a running container: `podman cp` copies there, and a person uses `nsenter`.
//! The pid is the stand-in's, and with the host's own mounts behind it they would change the host instead. So a stand-in
//! that is nobody's foreground has, for as long as the container may run, a mount namespace whose root is the container's
//! and in which is bound what is bound into the container, where the root itself has its mount point; what is put there is
//! in files that the gofer serves, which notices. Nothing of the container's runs in this namespace.
//!
//! It is made when the container may run already, by paths that another container may be able to change, so what they lead
//! to is compared with what was there before.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use sentry::control::MountSource;

use crate::config::{Attach, Container, by_number};

/// A folder or file of the host that is bound into a container's root.
#[derive(Debug)]
struct Bind {
    source: Attach,
    destination: PathBuf,
}

/// What a container's files are on the host.
#[derive(Debug)]
pub struct Files {
    root: Option<Attach>,
    binds: Vec<Bind>,
}

impl Files {
    /// Those of this container, of which nothing has run.
    pub fn of(container: &Container) -> Files {
        // Without the descriptors, which would keep the host's mounts busy.
        let known = |attach: &Attach| Attach { file: None, ..attach.clone() };
        let bind = |mount: &sentry::control::MountSpec| {
            let MountSource::Gofer { attach, .. } = &mount.source else { return None };
            let attach = container.attaches.iter().find(|known| known.name == *attach)?;
            Some(Bind { source: known(attach), destination: PathBuf::from(&mount.destination) })
        };
        Files {
            root: container.attaches.first().map(known),
            binds: container.spec.mounts.iter().filter_map(bind).collect(),
        }
    }
}

/// The way back to the host's mounts, taken when dropped.
#[derive(Debug)]
pub struct View {
    namespace: OwnedFd,
    root: OwnedFd,
    folder: OwnedFd,
}

const NOTHING: Option<&str> = None;

impl View {
    /// Enters a namespace where these files are at the root. `None` for a caller who may not: it stays where it was.
    pub fn enter(files: &Files) -> Result<Option<View>, Errno> {
        let Some(root) = &files.root else { return Ok(None) };
        let again = |attach: &Attach| {
            attach.again().map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
        };
        let view = View {
            namespace: open(Path::new("/proc/self/ns/mnt"), OFlag::O_RDONLY)?,
            root: open(Path::new("/"), OFlag::O_PATH)?,
            folder: open(Path::new("."), OFlag::O_PATH)?,
        };
        match unshare(CloneFlags::CLONE_NEWNS) {
            Ok(()) => {}
            Err(Errno::EPERM) => {
                crate::debug!("the stand-in stays in the mount namespace of its caller");
                return Ok(None);
            }
            Err(e) => return Err(e),
        }
        // From here on an error goes back by the drop.
        // As in runc's: what is unmounted on the host goes here too, and nothing goes the other way.
        mount(NOTHING, "/", NOTHING, MsFlags::MS_SLAVE | MsFlags::MS_REC, NOTHING)?;
        let below = again(root)?;
        bind(&below, &below)?;
        let top = again(root)?;
        for one in &files.binds {
            let found = find(&top, &one.destination);
            match found.and_then(|at| bind(&again(&one.source)?, &at)) {
                Ok(()) if one.source.read_only => seal(&find(&top, &one.destination)?)?,
                Ok(()) => {}
                // Below a mount that is the sentry's alone, or the source has gone.
                Err(e) => crate::debug!("{}: {e}", one.destination.display()),
            }
        }
        if root.read_only {
            seal(&top)?;
        }
        fchdir(&top)?;
        match pivot_root(".", ".") {
            Ok(()) => umount2(".", MntFlags::MNT_DETACH)?,
            // The host's root is an initramfs: what switch_root(8) does.
            Err(Errno::EINVAL) => {
                mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING)?;
                chroot(".")?;
            }
            Err(e) => return Err(e),
        }
        chdir("/")?;
        Ok(Some(view))
    }

    fn leave(&self) -> Result<(), Errno> {
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        fchdir(&self.root)?;
        chroot(".")?;
        fchdir(&self.folder)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Err(e) = self.leave() {
            crate::error!("cannot leave the container's mount namespace: {e}");
        }
    }
}

fn open(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty())
}

/// A place in the root, as the container sees it: links lead nowhere else.
fn find(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    openat2(top, path, how)
}

fn bind(source: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let (source, target) = (by_number(source), by_number(target));
    mount(Some(&source), &target, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
}

/// Makes the mount that this file is the root of read-only, and keeps its other flags, as it must in a user namespace.
fn seal(file: &OwnedFd) -> Result<(), Errno> {
    let kept = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let now = MsFlags::from_bits_truncate(fstatvfs(file)?.flags().bits()) & kept;
    let flags = now | MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NOTHING, &by_number(file), NOTHING, flags, NOTHING)
}
