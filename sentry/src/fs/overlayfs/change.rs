//! Changes of names: everything goes into the upper layer, and whiteouts where something lies below.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::file::{list, open_real, opened};
use super::node::Node;
use super::{is_whiteout, look};
use crate::errno::Errno;
use crate::fs::context::Cx;
use crate::fs::dentry::Dentry;
use crate::fs::file::File;
use crate::fs::inode::Created;
use crate::fs::path::Path;
use crate::fs::types::{FileType, New, OpenFlags, RenameFlags};

impl Node {
    /// This directory in the upper layer.
    fn upper_dir(&self, cx: &Cx<'_>) -> Result<Path, Errno> {
        self.copy_up(cx, u64::MAX)?;
        self.upper_path()
    }

    /// Makes a name with `make(who, directory, name)`: in its place, or, where a whiteout is there, in the work
    /// directory first.
    pub(super) fn make(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        kind: FileType,
        new: New,
        make: impl FnOnce(&Cx<'_>, &Path, &[u8]) -> Result<(), Errno>,
    ) -> Result<Arc<Node>, Errno> {
        let dir = self.upper_dir(cx)?;
        let shared = &self.shared;
        let under = shared.under(cx);
        // The mounter makes it for its owner.
        let creds = crate::task::Creds { fsuid: new.uid, fsgid: new.gid, ..shared.creds.clone() };
        let maker = Cx { creds: &creds, ..under };
        let is_dir = kind == FileType::Directory;
        match look(&under, &dir.dentry, name)? {
            None => make(&maker, &dir, name)?,
            Some(there) if is_whiteout(&there)? => {
                let (work, temp) = (shared.work()?, shared.temp());
                let temp = temp.as_bytes();
                make(&maker, work, temp)?;
                self.replace_whiteout(&under, temp, (&dir, name), is_dir)
                    .inspect_err(|_| discard(&under, work, temp, is_dir))?;
            }
            Some(_) => return Err(Errno::ESTALE),
        }
        let made = look(&under, &dir.dentry, name)?.ok_or(Errno::ESTALE)?;
        let node = self.fresh(kind, made)?;
        node.set_place(&self.arc()?, name);
        Ok(node)
    }

    /// Moves what has been made in the work directory to where a whiteout is.
    fn replace_whiteout(
        &self,
        under: &Cx<'_>,
        temp: &[u8],
        (dir, name): (&Path, &[u8]),
        is_dir: bool,
    ) -> Result<(), Errno> {
        let shared = &self.shared;
        let work = shared.work()?;
        if !is_dir {
            return under.rename((Some(work), temp), (Some(dir), name), RenameFlags::empty());
        }
        let made = look(under, &work.dentry, temp)?.ok_or(Errno::ESTALE)?;
        shared.mark(&made, "opaque").map_err(|_| Errno::EIO)?;
        under.rename((Some(work), temp), (Some(dir), name), RenameFlags::EXCHANGE)?;
        under.unlink(Some(work), temp)
    }

    /// O_TMPFILE.
    pub(super) fn make_nameless(
        &self,
        cx: &Cx<'_>,
        new: New,
        flags: OpenFlags,
    ) -> Result<Created, Errno> {
        let dir = self.upper_dir(cx)?;
        let under = self.shared.under(cx);
        let created = dir.inode()?.tmpfile(&under, new, flags)?;
        let dentry = Dentry::nameless(&dir.dentry, created.inode.clone());
        let node = self.fresh(FileType::Regular, dentry)?;
        let flags =
            flags - (OpenFlags::CREAT | OpenFlags::EXCL | OpenFlags::TMPFILE_ | OpenFlags::CLOEXEC);
        let file = match created.ops {
            Some(ops) => File::new(ops, created.inode, None, flags)?,
            None => open_real(&under, &created.inode, flags)?,
        };
        let ops = Some(opened(&node, file));
        Ok(Created { inode: node, ops })
    }

    /// link(2).
    pub(super) fn add_name(&self, cx: &Cx<'_>, name: &[u8], node: &Arc<Node>) -> Result<(), Errno> {
        node.copy_up(cx, u64::MAX)?;
        let old = node.upper_path()?;
        let dir = self.upper_dir(cx)?;
        let under = self.shared.under(cx);
        if node.has_origin() {
            self.gains_copy();
        }
        match look(&under, &dir.dentry, name)? {
            None => under.link(&old, Some(&dir), name),
            Some(there) if is_whiteout(&there)? => {
                let (work, temp) = (self.shared.work()?, self.shared.temp());
                let temp = temp.as_bytes();
                under.link(&old, Some(work), temp)?;
                self.replace_whiteout(&under, temp, (&dir, name), false)
                    .inspect_err(|_| discard(&under, work, temp, false))
            }
            Some(_) => Err(Errno::ESTALE),
        }
    }

    /// unlink(2) and rmdir(2).
    pub(super) fn remove(&self, cx: &Cx<'_>, name: &[u8], child: &Arc<Node>) -> Result<(), Errno> {
        let is_dir = child.is_dir();
        if is_dir {
            child.check_empty()?;
        }
        let dir = self.upper_dir(cx)?;
        let under = self.shared.under(cx);
        // Nobody copies it up meanwhile.
        let _one = child.copying.lock();
        let below = self.lies_below(&under, name)?;
        match (look(&under, &dir.dentry, name)?, below) {
            (None, _) => under.mknod(Some(&dir), name, FileType::CharDevice, 0, 0)?,
            (Some(there), false) if is_dir => {
                clear(&under, &self.shared.path(0, &there)?)?;
                under.rmdir(Some(&dir), name)?;
            }
            (Some(_), false) => under.unlink(Some(&dir), name)?,
            (Some(there), true) => {
                let (work, temp) = (self.shared.work()?, self.shared.temp());
                let temp = temp.as_bytes();
                under.mknod(Some(work), temp, FileType::CharDevice, 0, 0)?;
                let how = if is_dir { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
                under
                    .rename((Some(work), temp), (Some(&dir), name), how)
                    .inspect_err(|_| discard(&under, work, temp, false))?;
                if is_dir {
                    // What cannot be removed stays in the work directory, where the next mount finds it.
                    let _ = clear(&under, &self.shared.path(0, &there)?);
                    discard(&under, work, temp, true);
                }
            }
        }
        child.nameless.store(true, Ordering::Release);
        Ok(())
    }

    /// renameat2(2). `EXDEV` for a directory that is not the upper layer's alone: what is merged under one name
    /// would not be under another.
    pub(super) fn move_name(
        &self,
        cx: &Cx<'_>,
        name: &[u8],
        child: &Arc<Node>,
        (to, to_name): (&Arc<Node>, &[u8]),
        replaced: Option<Arc<Node>>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let (other, victim) = if exchange { (replaced, None) } else { (None, replaced) };
        for moving in [Some(child), other.as_ref()].into_iter().flatten() {
            if moving.is_dir() && (moving.upper.get().is_none() || moving.is_merge()) {
                return Err(Errno::EXDEV);
            }
        }
        if let Some(victim) = victim.as_ref().filter(|v| v.is_dir()) {
            victim.check_empty()?;
        }
        child.copy_up(cx, u64::MAX)?;
        if let Some(other) = &other {
            other.copy_up(cx, u64::MAX)?;
        }
        let (from, into) = (self.upper_dir(cx)?, to.upper_dir(cx)?);
        let shared = &self.shared;
        let under = shared.under(cx);
        let _one = victim.as_ref().map(|v| v.copying.lock());
        let below = self.lies_below(&under, name)?;
        let there = look(&under, &into.dentry, to_name)?;
        let over_whiteout = match &there {
            Some(there) => is_whiteout(there)?,
            None => false,
        };
        let mut leaves_whiteout = false;
        let how = match below {
            _ if exchange => RenameFlags::EXCHANGE,
            // The whiteout that is there comes here.
            true if over_whiteout => RenameFlags::EXCHANGE,
            true => RenameFlags::WHITEOUT,
            false if child.is_dir() && over_whiteout => {
                leaves_whiteout = true;
                RenameFlags::EXCHANGE
            }
            false => RenameFlags::empty(),
        };
        // A directory that comes where something may be below hides that.
        let goes = [(Some(child), to.is_merge()), (other.as_ref(), self.is_merge())];
        for moving in goes.into_iter().filter(|(_, over)| *over).filter_map(|(moving, _)| moving) {
            if let Some(upper) = moving.upper.get().filter(|_| moving.is_dir()) {
                shared.mark(upper, "opaque").map_err(|_| Errno::EXDEV)?;
            }
        }
        if let (Some(victim), Some(there)) = (&victim, &there)
            && victim.is_dir()
            && !over_whiteout
        {
            clear(&under, &shared.path(0, there)?)?;
        }
        if child.has_origin() {
            to.gains_copy();
        }
        if other.as_ref().is_some_and(|other| other.has_origin()) {
            self.gains_copy();
        }
        under.rename((Some(&from), name), (Some(&into), to_name), how)?;
        if leaves_whiteout {
            under.unlink(Some(&from), name)?;
        }
        child.set_place(to, to_name);
        if let Some(other) = other {
            other.set_place(&self.arc()?, name);
        }
        if let Some(victim) = &victim {
            victim.nameless.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// Removes what could not be used from the work directory; the next mount removes what this leaves.
fn discard(under: &Cx<'_>, work: &Path, temp: &[u8], is_dir: bool) {
    let _ = match is_dir {
        true => under.rmdir(Some(work), temp),
        false => under.unlink(Some(work), temp),
    };
}

/// Removes the whiteouts of a directory that has nothing else.
fn clear(under: &Cx<'_>, dir: &Path) -> Result<(), Errno> {
    for entry in list(under, dir.inode()?)? {
        if entry.kind == FileType::CharDevice
            && let Some(there) = look(under, &dir.dentry, &entry.name)?
            && is_whiteout(&there)?
        {
            under.unlink(Some(dir), &entry.name)?;
        }
    }
    Ok(())
}
