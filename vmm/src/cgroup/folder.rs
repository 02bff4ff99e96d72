//! Folders of a cgroup file system, reached by descriptors: each is entered by one name below one that is open, links
//! are never followed, and no path is resolved twice.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::Error;

/// A folder.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// For messages.
    path: PathBuf,
}

const FLAGS: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Whether this is the name of one file, here.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

impl Folder {
    /// A mount point, which belongs to whoever may mount.
    pub fn mount_point(path: &Path) -> Result<Folder, Error> {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY)
            .open(path)
            .map_err(|e| Error::file(path, e))?;
        Ok(Folder { fd: file.into(), path: path.to_owned() })
    }

    /// The folder of this name in it.
    pub fn enter(&self, name: &str) -> Result<Folder, Error> {
        let path = self.path.join(name);
        if !is_name(name) {
            return Err(Error::file(&path, ErrorKind::InvalidInput.into()));
        }
        let fd = openat(&self.fd, name, FLAGS, Mode::empty());
        Ok(Folder { fd: fd.map_err(|e| Error::file(&path, e.into()))?, path })
    }

    /// Makes the folder of this name in it, unless it is there.
    pub fn make(&self, name: &str) -> Result<Folder, Error> {
        if is_name(name) {
            match mkdirat(&self.fd, name, Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(Error::file(&self.path.join(name), e.into())),
            }
        }
        self.enter(name)
    }

    /// Whether it has a file of this name.
    pub fn has(&self, name: &str) -> bool {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        is_name(name) && nix::sys::stat::fstatat(&self.fd, name, flags).is_ok()
    }

    /// Waits until no other process of ours changes its limits, and keeps them from it until dropped.
    pub fn lock(&self) -> Result<Flock<OwnedFd>, Error> {
        let fail = |errno: Errno| Error::file(&self.path, errno.into());
        let fd = self.fd.try_clone().map_err(|e| Error::file(&self.path, e))?;
        Flock::lock(fd, FlockArg::LockExclusive).map_err(|(_, errno)| fail(errno))
    }

    fn open(&self, name: &str, flags: OFlag) -> std::io::Result<File> {
        if !is_name(name) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, name, flags, Mode::empty())?.into())
    }

    /// Writes a file, in one call.
    pub fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        self.open(name, OFlag::O_WRONLY)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|source| Error::Write {
                value: value.to_owned(),
                path: self.path.join(name),
                source,
            })
    }

    /// A file to write to later.
    pub fn file(&self, name: &str) -> Result<File, Error> {
        self.open(name, OFlag::O_WRONLY).map_err(|e| Error::file(&self.path.join(name), e))
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Result<String, Error> {
        let mut text = String::new();
        self.open(name, OFlag::O_RDONLY)
            .and_then(|mut file| file.read_to_string(&mut text))
            .map_err(|e| Error::file(&self.path.join(name), e))?;
        Ok(text)
    }

    /// Reads a file of one number; `max`, and what no number is, is the most.
    pub fn number(&self, name: &str) -> Result<u64, Error> {
        Ok(self.read(name)?.trim().parse().unwrap_or(u64::MAX))
    }

    /// Removes the group of this name in it, with those below: a container can have made none, but an engine may have.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        if !is_name(name) {
            return Err(Error::file(&self.path.join(name), ErrorKind::InvalidInput.into()));
        }
        // Processes that were killed leave it when they have ended, which takes a moment.
        let mut pause = Duration::from_millis(2);
        loop {
            match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EBUSY) if pause < LONGEST => {}
                Err(e) => return Err(Error::file(&self.path.join(name), e.into())),
            }
            for below in self.enter(name)?.folders() {
                self.enter(name)?.remove_empty(&below);
            }
            match unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(_) => std::thread::sleep(pause),
            }
            pause = pause.saturating_mul(2);
        }
    }

    /// One level below is what engines and systemd make.
    fn remove_empty(&self, name: &str) {
        if is_name(name)
            && let Err(e) = unlinkat(&self.fd, name, UnlinkatFlags::RemoveDir)
        {
            crate::debug!("{}: {e}", self.path.join(name).display());
        }
    }

    fn folders(&self) -> Vec<String> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// The longest that is waited for a group to be empty, in one go; all of them are twice that.
const LONGEST: Duration = Duration::from_millis(600);
