//! mounts, mountinfo and mountstats: bytes, as names need not be text.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicU64, Ordering};

use super::About;
use crate::errno::Errno;
use crate::fs::mount::NamespaceState;
use crate::fs::types::{Events, major, minor};
use crate::fs::{Mount, MountFlags, Path, nsfs};
use crate::sync::WaitQueue;

/// Somebody who has one of these files open, and hears once of each change by POLLPRI and POLLERR.
pub(super) struct Watch {
    namespace: Arc<NamespaceState>,
    seen: AtomicU64,
}

impl Watch {
    pub(super) fn poll(&self) -> Events {
        let mut ready = Events::IN | Events::RDNORM;
        let event = self.namespace.event();
        if self.seen.swap(event, Ordering::SeqCst) != event {
            ready |= Events::ERR | Events::PRI;
        }
        ready
    }

    pub(super) fn queue(&self) -> &WaitQueue {
        self.namespace.queue()
    }
}

/// Watches the mounts of the process.
pub(super) fn watch(about: &About<'_>) -> Result<Watch, Errno> {
    let fs = about.task()?.shared.lock().fs.clone().ok_or(Errno::EINVAL)?;
    let namespace = fs.namespace().state().clone();
    Ok(Watch { seen: AtomicU64::new(namespace.event()), namespace })
}

/// Lines under way.
struct Lines(Vec<u8>);

impl fmt::Write for Lines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Lines {
    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    /// A path: white space and backslash in octal.
    fn path(&mut self, path: &[u8]) {
        self.escaped(path, b" \t\n\\");
    }

    /// The source of a mount: what begins a comment in fstab(5) in octal too.
    fn source(&mut self, mount: &Mount) {
        let source = if mount.source.is_empty() { "none" } else { &mount.source };
        self.escaped(source.as_bytes(), b" \t\n\\#");
    }

    fn escaped(&mut self, text: &[u8], which: &[u8]) {
        for byte in text {
            if which.contains(byte) {
                let _ = write!(self, "\\{byte:03o}");
            } else {
                self.0.push(*byte);
            }
        }
    }

    fn access(&mut self, flags: MountFlags) {
        self.text(if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
    }

    fn flags(&mut self, flags: MountFlags, names: &[(MountFlags, &str)]) {
        for (flag, name) in names {
            if flags.contains(*flag) {
                self.text(name);
            }
        }
    }

    fn own_flags(&mut self, mount: &Mount) {
        const OWN: &[(MountFlags, &str)] = &[
            (MountFlags::NOSUID, ",nosuid"),
            (MountFlags::NODEV, ",nodev"),
            (MountFlags::NOEXEC, ",noexec"),
            (MountFlags::NOATIME, ",noatime"),
            (MountFlags::NODIRATIME, ",nodiratime"),
            (MountFlags::RELATIME, ",relatime"),
            (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
        ];
        self.flags(mount.flags(), OWN);
    }

    fn super_flags(&mut self, mount: &Mount) {
        const SUPER: &[(MountFlags, &str)] = &[
            (MountFlags::SYNCHRONOUS, ",sync"),
            (MountFlags::DIRSYNC, ",dirsync"),
            (MountFlags::MANDLOCK, ",mand"),
            (MountFlags::LAZYTIME, ",lazytime"),
        ];
        self.flags(mount.sb.flags(), SUPER);
    }
}

/// A line for each mount at or below the root of the process, given where it stands.
fn lines(
    about: &About<'_>,
    mut line: impl FnMut(&mut Lines, &Arc<Mount>, &[u8], &Path),
) -> Result<Vec<u8>, Errno> {
    let fs = about.task()?.shared.lock().fs.clone().ok_or(Errno::EINVAL)?;
    let root = fs.root();
    let mut lines = Lines(Vec::new());
    for mount in fs.namespace().all() {
        if let Some(at) = Path::root_of(&mount).names(&root) {
            line(&mut lines, &mount, &at, &root);
        }
    }
    Ok(lines.0)
}

/// /proc/PID/mounts (fstab(5)).
pub(super) fn mounts(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    lines(about, |out, mount, at, _| {
        let fs = &mount.sb.fs;
        out.source(mount);
        out.text(" ");
        out.path(at);
        let _ = write!(out, " {} ", fs.name());
        out.access(mount.all_flags());
        out.super_flags(mount);
        out.own_flags(mount);
        out.text(&fs.options());
        out.text(" 0 0\n");
    })
}

/// /proc/PID/mountinfo (proc(5)).
pub(super) fn mountinfo(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    lines(about, |out, mount, at, root| {
        let parent = mount.place().map_or(mount.id, |p| p.mount.id);
        let fs = &mount.sb.fs;
        let dev = fs.dev();
        let _ = write!(out, "{} {parent} {}:{} ", mount.id, major(dev), minor(dev));
        match mount.root.inode().and_then(|inode| nsfs::shown(&**inode)) {
            Some(name) => out.text(&name),
            None => out.path(&inside(mount)),
        }
        out.text(" ");
        out.path(at);
        out.text(" ");
        out.access(mount.flags());
        out.own_flags(mount);
        let sharing = mount.sharing();
        if let Some(group) = &sharing.peers {
            let _ = write!(out, " shared:{}", group.id);
        }
        if let Some(group) = &sharing.master {
            let _ = write!(out, " master:{}", group.id);
            if let Some(from) = mount.dominating(root).filter(|from| *from != group.id) {
                let _ = write!(out, " propagate_from:{from}");
            }
        }
        if sharing.unbindable {
            out.text(" unbindable");
        }
        let _ = write!(out, " - {} ", fs.name());
        out.source(mount);
        out.text(" ");
        out.access(mount.sb.flags());
        out.super_flags(mount);
        out.text(&fs.options());
        out.text("\n");
    })
}

/// What of its file system a mount shows.
fn inside(mount: &Mount) -> Vec<u8> {
    let mut names: Vec<Arc<[u8]>> = Vec::new();
    let mut here = mount.root.clone();
    while let (Some(parent), name) = here.place() {
        names.push(name);
        here = parent;
    }
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    if mount.root.is_unlinked() {
        text.extend_from_slice(b"//deleted");
    }
    text
}

/// /proc/PID/mountstats.
pub(super) fn mountstats(about: &About<'_>) -> Result<Vec<u8>, Errno> {
    lines(about, |out, mount, at, _| {
        out.text("device ");
        out.source(mount);
        out.text(" mounted on ");
        out.path(at);
        let _ = writeln!(out, " with fstype {}", mount.sb.fs.name());
    })
}
