//! What a gofer serves, found on the host.
//!
//! A path of a configuration is resolved once, when that is read: who can change what it leads to, another container say that
//! has a folder above it as its volume, is not to have one file checked and another one served. From then on it is the
//! descriptor that counts. A process in another mount namespace, where a descriptor of this one's mounts is of no use, finds
//! the file by its path again and compares.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::host::stat;

/// A folder or file of the host that the gofer serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attach {
    /// What the sentry calls it.
    pub name: String,
    /// Where it was.
    pub path: PathBuf,
    /// Whether it may not be changed.
    pub read_only: bool,
    /// Which file it is: device and inode, which are no other's while `file` is open.
    pub identity: (u64, u64),
    /// Whether it is a folder.
    pub directory: bool,
    /// An `O_PATH` descriptor. Other processes get it beside this message.
    #[serde(skip)]
    pub file: Option<Arc<OwnedFd>>,
}

impl Attach {
    /// Opens what is at `path`.
    pub fn open(name: &str, path: PathBuf, read_only: bool) -> io::Result<Attach> {
        let file = open_path(&path)?;
        let stat = stat(&file)?;
        Ok(Attach {
            name: name.to_owned(),
            path,
            read_only,
            identity: (stat.st_dev, stat.st_ino),
            directory: stat.st_mode & libc::S_IFMT == libc::S_IFDIR,
            file: Some(Arc::new(file)),
        })
    }

    /// With the path that the file has now, without links.
    pub fn canonical(mut self) -> io::Result<Attach> {
        if let Some(file) = &self.file {
            self.path = std::fs::read_link(by_number(file))?;
        }
        Ok(self)
    }

    /// Opens what is at its path, in another mount namespace. `ESTALE`: that is another file by now.
    pub fn again(&self) -> io::Result<OwnedFd> {
        let file = open_path(&self.path)?;
        let stat = stat(&file)?;
        if (stat.st_dev, stat.st_ino) == self.identity {
            Ok(file)
        } else {
            Err(io::Error::from_raw_os_error(libc::ESTALE))
        }
    }
}

/// A path by which the calling process gets at the file of a descriptor, and at no other.
pub fn by_number(file: &impl AsRawFd) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn another_file_at_the_path_is_noticed() {
        let folder = std::env::temp_dir().join(format!("ringwall-attach-{}", std::process::id()));
        fs::create_dir_all(folder.join("a")).unwrap();
        fs::create_dir_all(folder.join("b")).unwrap();
        let attach = Attach::open("1", folder.join("a"), false).unwrap();
        assert!(attach.directory && attach.again().is_ok());
        fs::rename(folder.join("a"), folder.join("c")).unwrap();
        std::os::unix::fs::symlink("b", folder.join("a")).unwrap();
        assert_eq!(attach.again().unwrap_err().raw_os_error(), Some(libc::ESTALE));
        // The number of what is gone is not another's.
        fs::remove_dir(folder.join("c")).unwrap();
        fs::remove_file(folder.join("a")).unwrap();
        fs::create_dir(folder.join("a")).unwrap();
        assert!(attach.again().is_err());
        fs::remove_dir_all(&folder).unwrap();
        assert!(Attach::open("1", folder.join("a"), false).is_err());
    }
}
