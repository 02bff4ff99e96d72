//! Path walk (path_resolution(7)): from a path's bytes to a [`Path`].
//!
//! Iterative: the texts of symbolic links that are not finished lie on a stack of at most
//! [`MAX_SYMLINKS`]. Nothing is allocated while a path has no links.

use alloc::borrow::Cow;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::context::Cx;
use super::dentry::Dentry;
use super::inode::{Inode, Link};
use super::path::Path;
use super::perm;
use super::types::{Access, FileType, MAX_SYMLINKS, MountFlags, NAME_MAX, PATH_MAX};
use crate::errno::Errno;

bitflags::bitflags! {
    /// How to walk.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct WalkFlags: u32 {
        /// Follow a symbolic link at the end.
        const FOLLOW = 1;
        /// An empty path means the start itself (AT_EMPTY_PATH).
        const EMPTY = 2;
        /// The end must be a directory.
        const DIRECTORY = 4;
        /// Never leave the mount (RESOLVE_NO_XDEV).
        const NO_XDEV = 8;
        /// No magic links (RESOLVE_NO_MAGICLINKS).
        const NO_MAGIC = 16;
        /// No symbolic links at all (RESOLVE_NO_SYMLINKS).
        const NO_SYMLINKS = 32;
        /// Never leave the start directory (RESOLVE_BENEATH).
        const BENEATH = 64;
        /// The start directory is the root (RESOLVE_IN_ROOT).
        const IN_ROOT = 128;
        /// Only what is cached (RESOLVE_CACHED).
        const CACHED = 256;
        /// Mounts on the way do not count as used (umount2(MNT_EXPIRE)).
        const UNSEEN = 512;
    }
}

/// The end of a walk to a parent directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Last<'p> {
    /// A name.
    Name(Cow<'p, [u8]>),
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// The path was only slashes.
    Root,
}

/// A walk under way.
pub struct Walk<'a> {
    cx: &'a Cx<'a>,
    flags: WalkFlags,
    root: Path,
    /// Where it is.
    pub at: Path,
    /// Where it began, for BENEATH.
    start: Path,
    rest: &'a [u8],
    /// Rests of link texts, innermost last.
    stack: Vec<(Vec<u8>, usize)>,
    links: u32,
    /// Whether slashes follow the last name.
    pub slash: bool,
}

impl<'a> Walk<'a> {
    /// Begins a walk at `start` (`None`: the working directory) or, for an absolute path, at the root.
    pub fn new(
        cx: &'a Cx<'a>,
        start: Option<&Path>,
        path: &'a [u8],
        flags: WalkFlags,
    ) -> Result<Walk<'a>, Errno> {
        if path.is_empty() && !flags.contains(WalkFlags::EMPTY) {
            return Err(Errno::ENOENT);
        }
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let confined = flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT);
        let absolute = path.first() == Some(&b'/');
        if absolute && flags.contains(WalkFlags::BENEATH) {
            return Err(Errno::EXDEV);
        }
        let root = cx.fs.root();
        let start = match start {
            _ if absolute && !confined => root.clone(),
            Some(start) => start.clone(),
            None => cx.fs.cwd(),
        };
        Ok(Walk {
            cx,
            flags,
            root: if flags.contains(WalkFlags::IN_ROOT) { start.clone() } else { root },
            at: start.clone(),
            start,
            rest: path,
            stack: Vec::new(),
            links: 0,
            slash: false,
        })
    }

    /// Walks to the end.
    pub fn to_end(mut self) -> Result<Path, Errno> {
        while let Some(name) = self.next_name() {
            let last = self.is_last();
            let dir = self.searchable()?;
            match &*name {
                b"." => {}
                b".." => self.up()?,
                name => {
                    let follow = !last || self.slash || self.flags.contains(WalkFlags::FOLLOW);
                    self.step(&dir, name, follow)?;
                }
            }
        }
        if (self.slash || self.flags.contains(WalkFlags::DIRECTORY))
            && self.at.inode()?.kind() != FileType::Directory
        {
            return Err(Errno::ENOTDIR);
        }
        Ok(self.at)
    }

    /// Walks to the directory of the last name, which the caller may search. The walk can be taken up
    /// again, see [`enter`](Self::enter).
    pub fn to_parent(&mut self) -> Result<Last<'a>, Errno> {
        while let Some(name) = self.next_name() {
            let last = self.is_last();
            let dir = self.searchable()?;
            if last {
                return match &*name {
                    b"." => Ok(Last::Dot),
                    b".." => Ok(Last::DotDot),
                    n if n.len() > NAME_MAX => Err(Errno::ENAMETOOLONG),
                    _ => Ok(Last::Name(name)),
                };
            }
            match &*name {
                b"." => {}
                b".." => self.up()?,
                name => self.step(&dir, name, true)?,
            }
        }
        Ok(Last::Root)
    }

    /// Goes to `dentry` of the directory it is in, through mounts; whether that is a symbolic link,
    /// which was then followed, and the walk goes on.
    pub fn enter(&mut self, dentry: Arc<Dentry>, follow: bool) -> Result<bool, Errno> {
        let mut here = Path { mount: self.at.mount.clone(), dentry };
        self.cross(&mut here)?;
        let Some(inode) = here.dentry.inode() else { return Err(Errno::ENOENT) };
        if follow && inode.kind() == FileType::Symlink {
            let inode = inode.clone();
            self.follow(&here, &inode)?;
            return Ok(true);
        }
        self.at = here;
        Ok(false)
    }

    /// The inode of the directory it is in, which the caller may search.
    fn searchable(&self) -> Result<Arc<dyn Inode>, Errno> {
        let inode = self.at.inode()?;
        if inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        perm::permission(self.cx, &**inode, Access::EXEC)?;
        Ok(inode.clone())
    }

    fn step(&mut self, dir: &Arc<dyn Inode>, name: &[u8], follow: bool) -> Result<(), Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let dentry = if self.flags.contains(WalkFlags::CACHED) {
            self.at.dentry.cached(name).ok_or(Errno::EAGAIN)?
        } else if dir.looks_ahead() && self.stack.is_empty() {
            let ahead = self.ahead();
            self.at.dentry.lookup(self.cx, name, &ahead)?
        } else {
            self.at.dentry.lookup(self.cx, name, &[])?
        };
        self.enter(dentry, follow)?;
        Ok(())
    }

    /// The plain names that come next.
    fn ahead(&self) -> Vec<&'a [u8]> {
        self.rest
            .split(|c| *c == b'/')
            .filter(|n| !n.is_empty())
            .take_while(|n| *n != b"." && *n != b".." && n.len() <= NAME_MAX)
            .take(15)
            .collect()
    }

    /// Goes to the topmost mount on `here`.
    fn cross(&self, here: &mut Path) -> Result<(), Errno> {
        while here.dentry.mounted.load(Ordering::Acquire) != 0 {
            let Some(mount) = here.mount.mounted_at(&here.dentry) else { break };
            if self.flags.contains(WalkFlags::NO_XDEV) {
                return Err(Errno::EXDEV);
            }
            if !self.flags.contains(WalkFlags::UNSEEN) {
                mount.used();
            }
            *here = Path::root_of(&mount);
        }
        Ok(())
    }

    fn up(&mut self) -> Result<(), Errno> {
        if self.flags.contains(WalkFlags::BENEATH) && self.at.same(&self.start) {
            return Err(Errno::EXDEV);
        }
        let mut here = self.at.clone();
        loop {
            if here.same(&self.root) {
                break;
            }
            if here.is_mount_root() {
                match here.mount.place() {
                    Some(place) => {
                        if self.flags.contains(WalkFlags::NO_XDEV) {
                            return Err(Errno::EXDEV);
                        }
                        here = place;
                        continue;
                    }
                    None => break,
                }
            }
            if let Some(parent) = here.dentry.parent() {
                here.dentry = parent;
            }
            break;
        }
        self.cross(&mut here)?;
        self.at = here;
        Ok(())
    }

    fn follow(&mut self, link: &Path, inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        self.links = self.links.saturating_add(1);
        if self.links > MAX_SYMLINKS
            || self.flags.contains(WalkFlags::NO_SYMLINKS)
            || link.mount.flags().contains(MountFlags::NOSYMFOLLOW)
        {
            return Err(Errno::ELOOP);
        }
        match inode.readlink(self.cx)? {
            Link::Jump(to) => {
                if self.flags.contains(WalkFlags::NO_MAGIC) {
                    return Err(Errno::ELOOP);
                }
                if self.flags.intersects(WalkFlags::BENEATH | WalkFlags::IN_ROOT) {
                    return Err(Errno::EXDEV);
                }
                if self.flags.contains(WalkFlags::NO_XDEV) && !Arc::ptr_eq(&to.mount, &link.mount) {
                    return Err(Errno::EXDEV);
                }
                self.at = to;
            }
            Link::Text(text) => {
                match text.first() {
                    None => return Err(Errno::ENOENT),
                    Some(b'/') => {
                        if self.flags.contains(WalkFlags::BENEATH) {
                            return Err(Errno::EXDEV);
                        }
                        if self.flags.contains(WalkFlags::NO_XDEV)
                            && !Arc::ptr_eq(&self.root.mount, &self.at.mount)
                        {
                            return Err(Errno::EXDEV);
                        }
                        self.at = self.root.clone();
                    }
                    Some(_) => {}
                }
                self.stack.push((text, 0));
            }
        }
        Ok(())
    }

    /// Takes the next name, and notes whether slashes follow it.
    fn next_name(&mut self) -> Option<Cow<'a, [u8]>> {
        while let Some((text, at)) = self.stack.last_mut() {
            let rest = text.get(*at..).unwrap_or(&[]);
            let (name, after) = split(rest);
            if name.is_empty() {
                self.stack.pop();
                continue;
            }
            let name = name.to_vec();
            *at = text.len().saturating_sub(after);
            return Some(Cow::Owned(name));
        }
        let (name, after) = split(self.rest);
        if name.is_empty() {
            return None;
        }
        self.rest = self.rest.get(self.rest.len().saturating_sub(after)..).unwrap_or(&[]);
        Some(Cow::Borrowed(name))
    }

    /// Whether no name follows; sets `slash`.
    fn is_last(&mut self) -> bool {
        self.slash = false;
        let rests = self.stack.iter().rev().map(|(text, at)| text.get(*at..).unwrap_or(&[]));
        for rest in rests.chain(core::iter::once(self.rest)) {
            self.slash |= !rest.is_empty();
            if rest.iter().any(|c| *c != b'/') {
                return false;
            }
        }
        true
    }
}

/// The first name of a text, and the length of what follows it.
fn split(text: &[u8]) -> (&[u8], usize) {
    let begin = text.iter().position(|c| *c != b'/').unwrap_or(text.len());
    let name = text.get(begin..).unwrap_or(&[]);
    let len = name.iter().position(|c| *c == b'/').unwrap_or(name.len());
    (name.get(..len).unwrap_or(&[]), name.len().saturating_sub(len))
}

impl<'a> Cx<'a> {
    /// The file that `path` names, from `start` (`None`: the working directory) on.
    pub fn walk(&self, start: Option<&Path>, path: &[u8], flags: WalkFlags) -> Result<Path, Errno> {
        Walk::new(self, start, path, flags)?.to_end()
    }
}
