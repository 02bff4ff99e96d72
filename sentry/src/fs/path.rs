//! A place in the tree of mounts.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::dentry::Dentry;
use super::inode::Inode;
use super::mount::Mount;
use crate::errno::Errno;

/// A dentry as seen through a mount.
#[derive(Clone)]
pub struct Path {
    /// The mount.
    pub mount: Arc<Mount>,
    /// The dentry.
    pub dentry: Arc<Dentry>,
}

impl Path {
    /// The root of a mount.
    pub fn root_of(mount: &Arc<Mount>) -> Path {
        Path { mount: mount.clone(), dentry: mount.root.clone() }
    }

    /// Whether both are the same place.
    pub fn same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// Its inode. `ENOENT` for a negative one, which no walk gives.
    pub fn inode(&self) -> Result<&Arc<dyn Inode>, Errno> {
        self.dentry.inode().ok_or(Errno::ENOENT)
    }

    /// Whether it is the root of its mount.
    pub fn is_mount_root(&self) -> bool {
        Arc::ptr_eq(&self.dentry, &self.mount.root)
    }

    /// What is on top here, where something is mounted.
    pub fn topmost(mut self) -> Path {
        while self.dentry.is_mountpoint()
            && let Some(mount) = self.mount.mounted_at(&self.dentry)
        {
            self = Path::root_of(&mount);
        }
        self
    }

    /// One step up, across mounts; `None` at the top of all.
    pub fn up(&self) -> Option<Path> {
        let mut here = self.clone();
        while here.is_mount_root() {
            here = here.mount.place()?;
        }
        let dentry = here.dentry.parent()?;
        Some(Path { mount: here.mount, dentry })
    }

    /// The path from `root`, beginning with a slash; `None`: it is not below `root` (Linux then
    /// says "(unreachable)"). A removed file gets " (deleted)" at its end.
    pub fn text(&self, root: &Path) -> Option<Vec<u8>> {
        let mut text = self.names(root)?;
        if self.dentry.is_unlinked() {
            text.extend_from_slice(b" (deleted)");
        }
        Some(text)
    }

    /// As [`text`](Self::text), of a removed file too without a word about that.
    pub fn names(&self, root: &Path) -> Option<Vec<u8>> {
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        let mut here = self.clone();
        let reached = loop {
            if here.same(root) {
                break true;
            }
            if here.is_mount_root() {
                match here.mount.place() {
                    Some(place) => here = place,
                    None => break false,
                }
                continue;
            }
            let (parent, name) = here.dentry.place();
            names.push(name);
            match parent {
                Some(parent) => here.dentry = parent,
                None => break false,
            }
        };
        let mut text = Vec::new();
        for name in names.iter().rev() {
            text.push(b'/');
            text.extend_from_slice(name);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        reached.then_some(text)
    }

    /// As [`text`](Self::text), for showing: what is not below `root` begins at the top of all.
    pub fn show(&self, root: &Path) -> Vec<u8> {
        if self.dentry.parent().is_none() && !self.is_mount_root() {
            // It is in no directory (a pipe, a memfd): the name is all there is.
            let mut text = self.dentry.name().to_vec();
            if self.dentry.is_unlinked() {
                text.extend_from_slice(b" (deleted)");
            }
            return text;
        }
        match self.text(root) {
            Some(text) => text,
            None => {
                let mut top = self.clone();
                while let Some(up) = top.up() {
                    top = up;
                }
                self.text(&top).unwrap_or_else(|| self.dentry.place().1.to_vec())
            }
        }
    }
}
