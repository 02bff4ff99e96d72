//! Mount points in a container's root: made on the host where they are missing, as runc makes them,
//! because the gofer of a read-only root changes nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use sentry::control::{MountSource, MountSpec};

use crate::config::Attach;

/// A mount point that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("mount point {} in {}: {errno}", destination.display(), root.display())]
pub struct Error {
    destination: PathBuf,
    root: PathBuf,
    errno: Errno,
}

/// Makes what is missing. Links are followed inside the root and never out of it. A tmpfs has the mode of what it covers,
/// but for one whose mount point is made here: that has its own.
pub fn make(root: &Attach, mounts: &mut [MountSpec]) -> Result<(), Error> {
    let failed = |destination: &Path| {
        let (root, destination) = (root.path.clone(), destination.to_owned());
        move |errno| Error { destination, root, errno }
    };
    let top = root.file.as_deref().ok_or(Errno::EBADF).map_err(failed(Path::new("/")))?;
    for index in 0..mounts.len() {
        let (earlier, rest) = mounts.split_at_mut(index);
        let Some(mount) = rest.first_mut() else { break };
        let destination = Path::new(&mount.destination);
        if earlier.iter().any(|earlier| destination.starts_with(&earlier.destination)) {
            continue;
        }
        let folder = !matches!(mount.source, MountSource::Gofer { directory: false, .. });
        let made = make_one(top, destination, folder).map_err(failed(destination))?;
        if let MountSource::Internal { fstype, data, .. } = &mut mount.source
            && made
            && fstype == "tmpfs"
        {
            // The last one of a kind counts.
            *data = format!("mode=1777,{data}");
        }
    }
    Ok(())
}

const O_FOLDER: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

fn find(top: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    openat2(top, path, how)
}

/// Whether it was missing.
fn make_one(top: &OwnedFd, path: &Path, folder: bool) -> Result<bool, Errno> {
    match find(top, path, OFlag::O_PATH | OFlag::O_CLOEXEC) {
        Err(Errno::ENOENT) => {}
        other => return other.map(|_| false),
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(false) };
    make_one(top, parent, true)?;
    let parent = find(top, parent, O_FOLDER)?;
    let made = if folder {
        mkdirat(parent.as_fd(), name, Mode::from_bits_truncate(0o755))
    } else {
        let mode = Mode::from_bits_truncate(0o644);
        mknodat(parent.as_fd(), name, SFlag::S_IFREG, mode, 0)
    };
    match made {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn internal(destination: &str) -> MountSpec {
        let source = MountSource::Internal {
            fstype: "tmpfs".into(),
            source: "tmpfs".into(),
            data: String::new(),
        };
        MountSpec {
            destination: destination.into(),
            source,
            flags: 0,
            propagation: Vec::new(),
            copy_up: false,
        }
    }

    #[test]
    fn what_is_missing_is_made_inside_the_root() {
        let root = std::env::temp_dir().join(format!("ringwall-points-{}", std::process::id()));
        let _none = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("usr")).unwrap();
        symlink("/usr", root.join("link")).unwrap();
        symlink("../../../..", root.join("out")).unwrap();
        let file =
            MountSource::Gofer { gofer: 0, attach: "1".into(), directory: false, overlay: false };
        let file = MountSpec {
            destination: "/etc/hosts".into(),
            source: file,
            flags: 0,
            propagation: Vec::new(),
            copy_up: false,
        };
        let mut mounts = [
            internal("/dev"),
            internal("/dev/shm"),
            internal("/link/a/b"),
            internal("/out/x"),
            file,
        ];
        let top = Attach::open("root", root.clone(), false).unwrap();
        make(&top, &mut mounts).unwrap();
        let data = mounts.iter().map(|mount| match &mount.source {
            MountSource::Internal { data, .. } => data.as_str(),
            MountSource::Gofer { .. } => "file",
        });
        let own = "mode=1777,";
        assert_eq!(data.collect::<Vec<_>>(), [own, "", own, own, "file"]);
        make(&top, &mut mounts).unwrap();
        assert!(root.join("dev").is_dir() && !root.join("dev/shm").exists());
        assert!(root.join("usr/a/b").is_dir() && root.join("x").is_dir());
        assert!(root.join("etc/hosts").is_file());
        fs::remove_dir_all(&root).unwrap();
    }
}
