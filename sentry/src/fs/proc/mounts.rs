//! mounts, mountinfo and mountstats.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::About;
use crate::errno::Errno;
use crate::fs::types::{major, minor};
use crate::fs::{Mount, MountFlags, Path};

/// A path as these files write it: space, tab, newline and backslash in octal.
fn escaped(out: &mut String, path: &[u8]) {
    for byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                let _ = write!(out, "\\{byte:03o}");
            }
            0x20..0x7f => out.push(char::from(*byte)),
            // What is not ASCII goes as it is where it is UTF-8, else in octal too.
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
}

/// A mount and its place below the root of a process.
type Seen = (Arc<Mount>, Vec<u8>);

/// The mounts that the process sees, with where each stands below its root.
fn seen(about: &About<'_>) -> Result<(Path, Vec<Seen>), Errno> {
    let fs = about.task()?.shared.lock().fs.clone().ok_or(Errno::EINVAL)?;
    let root = fs.root();
    let mut all = Vec::new();
    for mount in fs.namespace().all() {
        let at = Path::root_of(&mount);
        let text = if at.same(&root) { Some(b"/".to_vec()) } else { at.text(&root) };
        if let Some(text) = text {
            all.push((mount, text));
        }
    }
    Ok((root, all))
}

fn options(flags: MountFlags) -> String {
    let mut text = String::from(if flags.contains(MountFlags::RDONLY) { "ro" } else { "rw" });
    for (flag, name) in [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
        (MountFlags::NOSYMFOLLOW, ",nosymfollow"),
    ] {
        if flags.contains(flag) {
            text.push_str(name);
        }
    }
    text
}

fn source(mount: &Mount) -> &[u8] {
    if mount.source.is_empty() { b"none" } else { mount.source.as_bytes() }
}

/// /proc/PID/mounts (fstab(5)).
pub(super) fn mounts(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    for (mount, at) in seen(about)?.1 {
        escaped(out, source(&mount));
        out.push(' ');
        escaped(out, &at);
        let fs = &mount.sb.fs;
        let _ = writeln!(out, " {} {}{} 0 0", fs.name(), options(mount.flags()), fs.options());
    }
    Ok(())
}

/// /proc/PID/mountinfo (proc(5)).
pub(super) fn mountinfo(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    for (mount, at) in seen(about)?.1 {
        let parent = mount.place().map_or(mount.id, |p| p.mount.id);
        let fs = &mount.sb.fs;
        let dev = fs.dev();
        let _ = write!(out, "{} {parent} {}:{} ", mount.id, major(dev), minor(dev));
        let top = mount.sb.root();
        let inside = top.and_then(|top| {
            let top = Path { mount: mount.clone(), dentry: top };
            inside(&mount, &top)
        });
        escaped(out, &inside.unwrap_or_else(|| b"/".to_vec()));
        out.push(' ');
        escaped(out, &at);
        let _ = write!(out, " {} - {} ", options(mount.flags()), fs.name());
        escaped(out, source(&mount));
        let access = if mount.flags().contains(MountFlags::RDONLY) { "ro" } else { "rw" };
        let _ = writeln!(out, " {access}{}", fs.options());
    }
    Ok(())
}

/// What of its file system a mount shows.
fn inside(mount: &Arc<Mount>, top: &Path) -> Option<Vec<u8>> {
    let mut names: Vec<Arc<[u8]>> = Vec::new();
    let mut here = mount.root.clone();
    while !Arc::ptr_eq(&here, &top.dentry) {
        let (parent, name) = here.place();
        names.push(name);
        here = parent?;
    }
    let mut text = Vec::new();
    for name in names.iter().rev() {
        text.push(b'/');
        text.extend_from_slice(name);
    }
    if text.is_empty() {
        text.push(b'/');
    }
    Some(text)
}

/// /proc/PID/mountstats.
pub(super) fn mountstats(about: &About<'_>, out: &mut String) -> Result<(), Errno> {
    for (mount, at) in seen(about)?.1 {
        out.push_str("device ");
        escaped(out, source(&mount));
        out.push_str(" mounted on ");
        escaped(out, &at);
        let _ = writeln!(out, " with fstype {}", mount.sb.fs.name());
    }
    Ok(())
}
