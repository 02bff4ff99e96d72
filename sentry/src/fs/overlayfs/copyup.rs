//! Copying up: what is about to change gets a copy in the upper layer, with the directories above it.
//!
//! A copy is made in the work directory and renamed to its place when it is complete, so that whoever looks into
//! the upper layer never sees half of one.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::Shared;
use super::file::open_real;
use super::node::Node;
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::dentry::Dentry;
use crate::fs::file::File;
use crate::fs::inode::{Inode, Link};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::path::Path;
use crate::fs::perm::cap;
use crate::fs::types::{Attr, FileType, New, OpenFlags, RenameFlags, SetAttr, SetTime, mode};
use crate::fs::walk::WalkFlags;

/// Bytes copied at a time.
const CHUNK: usize = 64 << 10;

impl Node {
    /// What it is in the upper layer, where it is copied to if it is not there yet; of a regular file's data only the
    /// first `most` bytes are wanted. `EROFS` where there is no upper layer.
    pub(super) fn copy_up(&self, cx: &Cx<'_>, most: u64) -> Result<&Arc<Dentry>, Errno> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        let shared = &self.shared;
        shared.work()?;
        let under = shared.under(cx);
        // It and the directories above it that are not there, uppermost last.
        let mut missing = Vec::from([self.arc()?]);
        while let Some((dir, _)) = missing.last().and_then(|node| node.place())
            && dir.upper.get().is_none()
        {
            missing.push(dir);
        }
        while let Some(node) = missing.pop() {
            let most = if missing.is_empty() { most } else { u64::MAX };
            node.copy_one(&under, most)?;
        }
        self.upper.get().ok_or(Errno::EIO)
    }

    fn copy_one(&self, under: &Cx<'_>, most: u64) -> Result<(), Errno> {
        let _one = self.copying.lock();
        if self.upper.get().is_some() {
            return Ok(());
        }
        let shared = &self.shared;
        let work = shared.work()?;
        let lower = self.lower.first().ok_or(Errno::EIO)?.inode()?;
        let attr = lower.attr()?;
        if self.nameless.load(Ordering::Acquire) {
            return self.copied(shared.copy_nameless(under, lower, &attr, most)?);
        }
        let (dir, name) = self.place().ok_or(Errno::EIO)?;
        let above = dir;
        let dir = above.upper_path()?;
        let parent = dir.inode()?;
        let before = parent.attr()?;
        let temp = shared.temp();
        make(under, work, temp.as_bytes(), lower, &attr)?;
        let made = under.walk(Some(work), temp.as_bytes(), WalkFlags::empty());
        let done = made.and_then(|made| {
            fill(shared, under, lower, made.inode()?, &attr, most)?;
            under.rename(
                (Some(work), temp.as_bytes()),
                (Some(&dir), &name),
                RenameFlags::NOREPLACE,
            )?;
            Ok(made)
        });
        match done {
            Ok(made) => {
                self.copied(made.dentry)?;
                if self.has_origin() {
                    above.gains_copy();
                }
                // That one of its files is copied up is no change of the directory.
                let _ = parent.set_attr(under, &times(&before));
                Ok(())
            }
            Err(e) => {
                let _ = match self.is_dir() {
                    true => under.rmdir(Some(work), temp.as_bytes()),
                    false => under.unlink(Some(work), temp.as_bytes()),
                };
                Err(e)
            }
        }
    }
}

impl Shared {
    /// A copy that is in no directory, of a file that has lost its name.
    fn copy_nameless(
        &self,
        under: &Cx<'_>,
        lower: &Arc<dyn Inode>,
        attr: &Attr,
        most: u64,
    ) -> Result<Arc<Dentry>, Errno> {
        if lower.kind() != FileType::Regular {
            return Err(Errno::ENOENT);
        }
        let work = self.work()?;
        let new = New { mode: attr.mode & mode::PERM, uid: attr.uid, gid: attr.gid };
        let inode = work.inode()?.tmpfile(under, new, OpenFlags::RDWR)?.inode;
        fill(self, under, lower, &inode, attr, most)?;
        Ok(Dentry::nameless(&work.dentry, inode))
    }
}

/// Makes an empty one of the same kind.
fn make(
    under: &Cx<'_>,
    work: &Path,
    name: &[u8],
    lower: &Arc<dyn Inode>,
    attr: &Attr,
) -> Result<(), Errno> {
    match lower.kind() {
        FileType::Directory => under.mkdir(Some(work), name, 0o700),
        FileType::Symlink => match lower.readlink(under)? {
            Link::Text(text) => under.symlink(&text, Some(work), name),
            Link::Jump(_) => Err(Errno::EINVAL),
        },
        kind => under.mknod(Some(work), name, kind, 0o600, attr.rdev),
    }
}

fn times(attr: &Attr) -> SetAttr {
    SetAttr {
        atime: Some(SetTime::To(attr.atime)),
        mtime: Some(SetTime::To(attr.mtime)),
        ..SetAttr::default()
    }
}

/// Gives a new inode the data, attributes and extended attributes of a lower one.
fn fill(
    shared: &Shared,
    under: &Cx<'_>,
    lower: &Arc<dyn Inode>,
    upper: &Arc<dyn Inode>,
    attr: &Attr,
    most: u64,
) -> Result<(), Errno> {
    let (users, creds) = (&shared.creds.userns, &shared.creds);
    if !users.has_uid(attr.uid) || !users.has_gid(attr.gid) {
        return Err(Errno::EOVERFLOW);
    }
    if lower.kind() == FileType::Regular {
        let size = attr.size.min(most);
        let to = open_real(under, upper, OpenFlags::RDWR | OpenFlags::LARGEFILE)?;
        if size > 0 {
            let flags = OpenFlags::LARGEFILE | OpenFlags::NOATIME;
            copy_data(&open_real(under, lower, flags)?, &to, size)?;
        }
        to.ops().truncate(&to, under, size)?;
        to.ops().flush(&to)?;
    }
    let owner = SetAttr { uid: Some(attr.uid), gid: Some(attr.gid), ..SetAttr::default() };
    upper.set_attr(under, &owner)?;
    // After the data and the owner, with which capabilities would go.
    let names = match lower.list_xattr() {
        Ok(names) => names,
        Err(Errno::EOPNOTSUPP) => Vec::new(),
        Err(e) => return Err(e),
    };
    let own = shared.prefix.as_bytes();
    for name in names.split(|c| *c == 0).filter(|n| !n.is_empty()) {
        // Those of an overlay on this one are nested in names like these, and are copied.
        if name.strip_prefix(own).is_some_and(|rest| !rest.starts_with(b"overlay.")) {
            continue;
        }
        // As vfs_getxattr() and vfs_setxattr() have it: these are for the privileged.
        if name.starts_with(b"trusted.") && !creds.capable(cap::SYS_ADMIN)
            || name == b"security.capability" && !creds.capable(cap::SETFCAP)
        {
            continue;
        }
        match lower.get_xattr(name) {
            Ok(value) => upper.set_xattr(name, &value, 0)?,
            // It went meanwhile, or is not for the mounter to read.
            Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::EPERM) => {}
            Err(e) => return Err(e),
        }
    }
    let mut rest = times(attr);
    if lower.kind() != FileType::Symlink {
        rest.mode = Some(attr.mode & mode::PERM);
    }
    upper.set_attr(under, &rest)
}

/// Copies the first `len` bytes of a file; where it has only zeros, the copy has a hole.
pub(in crate::fs) fn copy_data(from: &Arc<File>, to: &Arc<File>, len: u64) -> Result<(), Errno> {
    let mut buf = vec![0u8; CHUNK];
    let mut at: u64 = 0;
    while at < len {
        let want = usize::try_from(len.saturating_sub(at)).unwrap_or(CHUNK).min(CHUNK);
        let room = buf.get_mut(..want).ok_or(Errno::EIO)?;
        let n = from.ops().read(from, &mut IoDst::kernel(room), at)?;
        if n == 0 {
            break;
        }
        let mut data = room.get(..n).unwrap_or_default();
        if data.iter().all(|c| *c == 0) {
            data = &[];
        }
        let mut done: u64 = 0;
        while !data.is_empty() {
            let offset = at.saturating_add(done);
            let wrote = to.ops().write(to, &mut IoSrc::kernel(data), offset)?.count;
            if wrote == 0 {
                return Err(Errno::ENOSPC);
            }
            data = data.get(wrote..).unwrap_or_default();
            done = done.saturating_add(wrote as u64);
        }
        at = at.saturating_add(n as u64);
    }
    Ok(())
}
