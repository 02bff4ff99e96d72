//! Operations on paths: what open, mkdir, rename and the others have in common for all file systems.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::context::Cx;
use super::dentry::Dentry;
use super::devices;
use super::file::{Blocker, File, PathOps};
use super::inode::{FileOps, Inode, Link};
use super::inotify::{self, mask};
use super::mount;
use super::path::Path;
use super::perm::{self, cap};
use super::types::{
    Access, Attr, Events, FileType, MountFlags, NAME_MAX, New, OpenFlags, PATH_MAX, RenameFlags,
    SetAttr, mode,
};
use super::walk::{Last, Walk, WalkFlags};
use crate::control::DeviceRule;
use crate::errno::Errno;
use crate::error::SysError;

/// A name about to be made, removed or moved.
struct Target<'a> {
    dir: Path,
    name: Cow<'a, [u8]>,
    slash: bool,
}

impl Cx<'_> {
    /// open(2): a new open file description. Waits where the file makes an open wait (FIFOs).
    pub fn open(
        &self,
        waiter: &dyn Blocker,
        start: Option<&Path>,
        path: &[u8],
        flags: OpenFlags,
        perm: u32,
        resolve: WalkFlags,
    ) -> Result<Arc<File>, SysError> {
        let file = self.open_now(start, path, flags, perm, resolve)?;
        if !file.is_path() {
            while !file.ops().opened(&file)? {
                let queue = file.ops().queue().ok_or(Errno::EAGAIN)?;
                let mut ready = || !matches!(file.ops().opened(&file), Ok(false));
                waiter
                    .wait(queue, Events::all(), None, &mut ready)
                    .map_err(|e| e.or_restart(Errno::EAGAIN))?;
            }
        }
        Ok(file)
    }

    fn open_now(
        &self,
        start: Option<&Path>,
        path: &[u8],
        flags: OpenFlags,
        perm: u32,
        resolve: WalkFlags,
    ) -> Result<Arc<File>, Errno> {
        let mut resolve = resolve;
        if !flags.contains(OpenFlags::NOFOLLOW) {
            resolve |= WalkFlags::FOLLOW;
        }
        if flags.contains(OpenFlags::DIRECTORY) {
            resolve |= WalkFlags::DIRECTORY;
        }
        if flags.tmpfile() {
            return self.open_tmpfile(start, path, flags, perm, resolve);
        }
        if flags.contains(OpenFlags::CREAT) && !flags.contains(OpenFlags::PATH) {
            return self.open_create(start, path, flags, perm, resolve);
        }
        let path = self.walk(start, path, resolve)?;
        self.open_path(&path, flags)
    }

    /// Opens what a walk has found.
    pub fn open_path(&self, path: &Path, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        let inode = path.inode()?.clone();
        if flags.contains(OpenFlags::PATH) {
            return File::new(Box::new(PathOps), inode, Some(path.clone()), flags);
        }
        self.may_open(path, &inode, flags)?;
        self.finish_open(path, inode, flags, None)
    }

    fn may_open(&self, path: &Path, inode: &Arc<dyn Inode>, flags: OpenFlags) -> Result<(), Errno> {
        let kind = inode.kind();
        let mounted = path.mount.flags();
        // Nobody's devices but terminals are on what the owner of another user namespace mounted (SB_I_NODEV).
        let sb = &path.mount.sb;
        let foreign = !sb.owner.is_initial() && sb.fs.name() != "devpts";
        match kind {
            FileType::Symlink => return Err(Errno::ELOOP),
            FileType::Directory if flags.writes() || flags.contains(OpenFlags::EXEC) => {
                return Err(if flags.writes() { Errno::EISDIR } else { Errno::EACCES });
            }
            FileType::CharDevice | FileType::BlockDevice
                if mounted.contains(MountFlags::NODEV) || foreign =>
            {
                return Err(Errno::EACCES);
            }
            _ => {}
        }
        let mut want = Access::empty();
        want.set(Access::READ, flags.reads() && !flags.contains(OpenFlags::EXEC));
        want.set(Access::WRITE, flags.writes() || flags.contains(OpenFlags::TRUNC));
        want.set(Access::EXEC, flags.contains(OpenFlags::EXEC));
        if want.contains(Access::EXEC)
            && (kind != FileType::Regular || mounted.contains(MountFlags::NOEXEC))
        {
            return Err(Errno::EACCES);
        }
        let perm = inode.perm()?;
        inode.admits(self)?;
        perm::check(self.creds, perm, want)?;
        if matches!(kind, FileType::CharDevice | FileType::BlockDevice) {
            devices::check_open(self, kind, inode.attr()?.rdev, want)?;
        }
        if want.contains(Access::WRITE) && matches!(kind, FileType::Regular | FileType::Directory) {
            path.mount.check_write()?;
        }
        if flags.contains(OpenFlags::NOATIME) {
            perm::owner(self.creds, perm)?;
        }
        Ok(())
    }

    fn finish_open(
        &self,
        path: &Path,
        inode: Arc<dyn Inode>,
        flags: OpenFlags,
        opened: Option<Box<dyn FileOps>>,
    ) -> Result<Arc<File>, Errno> {
        let ops = match opened {
            Some(ops) => ops,
            None => self.ops_of(&inode, flags)?,
        };
        // These say what open(2) does; fcntl(F_GETFL) does not show them.
        let once = OpenFlags::CREAT
            | OpenFlags::EXCL
            | OpenFlags::NOCTTY
            | OpenFlags::TRUNC
            | OpenFlags::CLOEXEC;
        let file = File::new(ops, inode, Some(path.clone()), flags - once)?;
        file.happened(mask::OPEN);
        // A file of the host's behind a standard stream has no length that could be cut here.
        let has_length = file.inode().kind() == FileType::Regular && !file.is_stream();
        if flags.contains(OpenFlags::TRUNC) && has_length {
            self.truncate_inode(file.inode(), 0)?;
            file.happened(mask::MODIFY);
        }
        Ok(file)
    }

    fn ops_of(&self, inode: &Arc<dyn Inode>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        match inode.open(self, flags) {
            Err(Errno::ENXIO) => super::special::open(self, inode, flags),
            result => result,
        }
    }

    fn open_create(
        &self,
        start: Option<&Path>,
        path: &[u8],
        flags: OpenFlags,
        perm: u32,
        resolve: WalkFlags,
    ) -> Result<Arc<File>, Errno> {
        if flags.contains(OpenFlags::DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let mut walk = Walk::new(self, start, path, resolve)?;
        loop {
            let name = match walk.to_parent()? {
                Last::Name(name) => name,
                _ if flags.contains(OpenFlags::EXCL) => return Err(Errno::EEXIST),
                // A magic link at the end has led right to a file.
                Last::Root => return self.open_there(&walk.at, flags),
                _ => return Err(Errno::EISDIR),
            };
            if walk.slash {
                return Err(Errno::EISDIR);
            }
            let dir = walk.at.clone();
            let mut dentry = dir.dentry.lookup(self, &name, &[])?;
            if dentry.inode().is_none() {
                let changing = dir.dentry.dir.lock();
                dentry = dir.dentry.lookup_locked(self, &name, &[])?;
                if dentry.inode().is_none() {
                    return self.create_locked(&dir, &name, flags, perm);
                }
                drop(changing);
            }
            if flags.contains(OpenFlags::EXCL) {
                return Err(Errno::EEXIST);
            }
            if walk.enter(dentry, resolve.contains(WalkFlags::FOLLOW))? {
                continue;
            }
            return self.open_there(&walk.at, flags);
        }
    }

    /// Opens, with O_CREAT, what is there already.
    fn open_there(&self, path: &Path, flags: OpenFlags) -> Result<Arc<File>, Errno> {
        let inode = path.inode()?.clone();
        if inode.kind() == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        self.may_open(path, &inode, flags)?;
        self.finish_open(path, inode, flags, None)
    }

    /// Makes and opens a regular file; the directory is locked.
    fn create_locked(
        &self,
        dir: &Path,
        name: &[u8],
        flags: OpenFlags,
        perm: u32,
    ) -> Result<Arc<File>, Errno> {
        let parent = dir.inode()?;
        dir.dentry.may_gain_names()?;
        dir.mount.check_write()?;
        perm::may_create(self, &dir.mount.sb, &**parent)?;
        let new = self.new_inode(parent, FileType::Regular, perm)?;
        let created = parent.create(self, name, new, flags)?;
        let dentry = dir.dentry.insert(name, Some(created.inode.clone()));
        inotify::name_changed(&**parent, name, &*created.inode, mask::CREATE);
        let path = Path { mount: dir.mount.clone(), dentry };
        // Whoever made it may open it, whatever its mode says. It is empty.
        self.finish_open(&path, created.inode, flags - OpenFlags::TRUNC, created.ops)
    }

    fn open_tmpfile(
        &self,
        start: Option<&Path>,
        path: &[u8],
        flags: OpenFlags,
        perm: u32,
        resolve: WalkFlags,
    ) -> Result<Arc<File>, Errno> {
        if !flags.writes() {
            return Err(Errno::EINVAL);
        }
        let dir = self.walk(start, path, resolve | WalkFlags::DIRECTORY)?;
        let parent = dir.inode()?;
        dir.mount.check_write()?;
        perm::may_create(self, &dir.mount.sb, &**parent)?;
        let new = self.new_inode(parent, FileType::Regular, perm)?;
        let created = parent.tmpfile(self, new, flags)?;
        let dentry = Dentry::nameless(&dir.dentry, created.inode.clone());
        let path = Path { mount: dir.mount.clone(), dentry };
        self.finish_open(&path, created.inode, flags, created.ops)
    }

    /// What a new inode in `dir` begins with: umask, owner, and the rules of set-group-ID directories.
    fn new_inode(&self, dir: &Arc<dyn Inode>, kind: FileType, perm: u32) -> Result<New, Errno> {
        let above = dir.perm()?;
        let mut bits = perm & mode::PERM & !self.fs.umask();
        if kind == FileType::Symlink {
            bits = 0o777;
        }
        let mut gid = self.creds.fsgid;
        if above.mode & mode::ISGID != 0 {
            gid = above.gid;
            if kind == FileType::Directory {
                bits |= mode::ISGID;
            } else if bits & (mode::ISGID | 0o010) == mode::ISGID | 0o010
                && !self.creds.in_group(gid)
                && !self.creds.capable_over(above.uid, above.gid, cap::FSETID)
            {
                bits &= !mode::ISGID;
            }
        }
        Ok(New { mode: bits, uid: self.creds.fsuid, gid })
    }

    /// truncate(2) on an inode that may be written: set-ID bits go too.
    pub fn truncate_inode(&self, inode: &Arc<dyn Inode>, size: u64) -> Result<(), Errno> {
        let mut set = SetAttr { size: Some(size), ..SetAttr::default() };
        if !self.creds.capable(cap::FSETID) {
            set.mode = perm::drop_set_ids(inode.perm()?.mode);
        }
        inode.set_attr(self, &set)?;
        inode.drop_caps();
        Ok(())
    }

    fn target<'p>(
        &'p self,
        start: Option<&Path>,
        path: &'p [u8],
        special: impl FnOnce(&Last<'_>) -> Errno,
    ) -> Result<Target<'p>, Errno> {
        let mut walk = Walk::new(self, start, path, WalkFlags::empty())?;
        match walk.to_parent()? {
            Last::Name(name) => Ok(Target { dir: walk.at.clone(), name, slash: walk.slash }),
            other => Err(special(&other)),
        }
    }

    /// Makes a name: `make(directory, name, new)` gives the inode that it means. `EXDEV` where its `source` is of another
    /// mount.
    fn make(
        &self,
        start: Option<&Path>,
        path: &[u8],
        kind: FileType,
        perm: u32,
        source: Option<&Path>,
        make: impl FnOnce(&Arc<dyn Inode>, &[u8], New) -> Result<Arc<dyn Inode>, Errno>,
    ) -> Result<(), Errno> {
        let at = self.target(start, path, |_| Errno::EEXIST)?;
        let _changing = at.dir.dentry.dir.lock();
        let dentry = at.dir.dentry.lookup_locked(self, &at.name, &[])?;
        if dentry.inode().is_some() {
            return Err(Errno::EEXIST);
        }
        if at.slash && kind != FileType::Directory {
            return Err(Errno::ENOENT);
        }
        at.dir.dentry.may_gain_names()?;
        at.dir.mount.check_write()?;
        if source.is_some_and(|source| !Arc::ptr_eq(&source.mount, &at.dir.mount)) {
            return Err(Errno::EXDEV);
        }
        let parent = at.dir.inode()?;
        perm::may_create(self, &at.dir.mount.sb, &**parent)?;
        let new = self.new_inode(parent, kind, perm)?;
        let inode = make(parent, &at.name, new)?;
        at.dir.dentry.insert(&at.name, Some(inode.clone()));
        inotify::name_changed(&**parent, &at.name, &*inode, mask::CREATE);
        Ok(())
    }

    /// mkdir(2).
    pub fn mkdir(&self, start: Option<&Path>, path: &[u8], perm: u32) -> Result<(), Errno> {
        let perm = perm & 0o1777;
        self.make(start, path, FileType::Directory, perm, None, |dir, name, new| {
            dir.mkdir(self, name, new)
        })
    }

    /// mknod(2); regular files too.
    pub fn mknod(
        &self,
        start: Option<&Path>,
        path: &[u8],
        kind: FileType,
        perm: u32,
        rdev: u64,
    ) -> Result<(), Errno> {
        match kind {
            FileType::Regular | FileType::Fifo | FileType::Socket => {}
            // A whiteout (character device 0:0) needs no privilege.
            FileType::CharDevice if rdev == 0 => {}
            FileType::CharDevice | FileType::BlockDevice => {
                if !self.creds.capable(cap::MKNOD) {
                    return Err(Errno::EPERM);
                }
                devices::check(self, kind, rdev, DeviceRule::MKNOD)?;
            }
            FileType::Directory => return Err(Errno::EPERM),
            FileType::Symlink | FileType::Anonymous => return Err(Errno::EINVAL),
        }
        self.make(start, path, kind, perm, None, |dir, name, new| match kind {
            FileType::Regular => Ok(dir.create(self, name, new, OpenFlags::empty())?.inode),
            _ => dir.mknod(self, name, kind, rdev, new),
        })
    }

    /// symlink(2).
    pub fn symlink(&self, target: &[u8], start: Option<&Path>, path: &[u8]) -> Result<(), Errno> {
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        if target.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.make(start, path, FileType::Symlink, 0o777, None, |dir, name, new| {
            dir.symlink(self, name, target, new)
        })
    }

    /// link(2): another name for what a walk has found.
    pub fn link(&self, old: &Path, start: Option<&Path>, path: &[u8]) -> Result<(), Errno> {
        let inode = old.inode()?;
        self.make(start, path, FileType::Regular, 0, Some(old), |dir, name, _| {
            if inode.kind() == FileType::Directory {
                return Err(Errno::EPERM);
            }
            self.may_link(inode)?;
            dir.link(self, name, inode)?;
            inotify::linked(&**inode);
            Ok(inode.clone())
        })
    }

    /// The rule of fs.protected_hardlinks: only one's own files, or plain ones that one may read and
    /// write, get another name.
    fn may_link(&self, inode: &Arc<dyn Inode>) -> Result<(), Errno> {
        let perm = inode.perm()?;
        if perm::owner(self.creds, perm).is_ok() {
            return Ok(());
        }
        let special = inode.kind() != FileType::Regular
            || perm.mode & mode::ISUID != 0
            || perm.mode & (mode::ISGID | 0o010) == mode::ISGID | 0o010;
        if special || perm::check(self.creds, perm, Access::READ | Access::WRITE).is_err() {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Whether something is mounted on `dentry` in the caller's namespace.
    fn is_mountpoint_here(&self, dentry: &Arc<Dentry>) -> bool {
        dentry.is_mountpoint() && self.fs.namespace().stands_on(dentry)
    }

    /// unlink(2).
    pub fn unlink(&self, start: Option<&Path>, path: &[u8]) -> Result<(), Errno> {
        let at = self.target(start, path, |_| Errno::EISDIR)?;
        let _changing = at.dir.dentry.dir.lock();
        let dentry = at.dir.dentry.lookup_locked(self, &at.name, &[])?;
        let inode = dentry.inode().ok_or(Errno::ENOENT)?;
        let is_dir = inode.kind() == FileType::Directory;
        if at.slash {
            return Err(if is_dir { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        at.dir.mount.check_write()?;
        let parent = at.dir.inode()?;
        perm::may_delete(self, &**parent, &**inode)?;
        if is_dir {
            return Err(Errno::EISDIR);
        }
        if self.is_mountpoint_here(&dentry) {
            return Err(Errno::EBUSY);
        }
        parent.unlink(self, &at.name, inode)?;
        at.dir.dentry.removed(&at.name, &dentry);
        mount::detach_from(&dentry);
        inotify::unlinked(&**inode);
        inotify::name_changed(&**parent, &at.name, &**inode, mask::DELETE);
        Ok(())
    }

    /// rmdir(2).
    pub fn rmdir(&self, start: Option<&Path>, path: &[u8]) -> Result<(), Errno> {
        let at = self.target(start, path, |last| match last {
            Last::Dot => Errno::EINVAL,
            Last::DotDot => Errno::ENOTEMPTY,
            _ => Errno::EBUSY,
        })?;
        let _changing = at.dir.dentry.dir.lock();
        let dentry = at.dir.dentry.lookup_locked(self, &at.name, &[])?;
        let inode = dentry.inode().ok_or(Errno::ENOENT)?;
        at.dir.mount.check_write()?;
        let parent = at.dir.inode()?;
        perm::may_delete(self, &**parent, &**inode)?;
        if inode.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        if self.is_mountpoint_here(&dentry) {
            return Err(Errno::EBUSY);
        }
        // Nothing may come into it any more once it is found empty.
        let _emptied = dentry.dir.lock();
        parent.rmdir(self, &at.name, inode)?;
        at.dir.dentry.removed(&at.name, &dentry);
        mount::detach_from(&dentry);
        inotify::unlinked(&**inode);
        inotify::name_changed(&**parent, &at.name, &**inode, mask::DELETE);
        Ok(())
    }

    /// renameat2(2).
    pub fn rename(
        &self,
        from: (Option<&Path>, &[u8]),
        to: (Option<&Path>, &[u8]),
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        if exchange && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        if flags.contains(RenameFlags::WHITEOUT) && !self.creds.capable(cap::MKNOD) {
            return Err(Errno::EPERM);
        }
        let mut old = Walk::new(self, from.0, from.1, WalkFlags::empty())?;
        let old_last = old.to_parent()?;
        let mut new = Walk::new(self, to.0, to.1, WalkFlags::empty())?;
        let new_last = new.to_parent()?;
        if !Arc::ptr_eq(&old.at.mount, &new.at.mount) {
            return Err(Errno::EXDEV);
        }
        let Last::Name(name) = old_last else { return Err(Errno::EBUSY) };
        let old = Target { dir: old.at.clone(), name, slash: old.slash };
        let Last::Name(name) = new_last else {
            let keep = flags.contains(RenameFlags::NOREPLACE);
            return Err(if keep { Errno::EEXIST } else { Errno::EBUSY });
        };
        let new = Target { dir: new.at.clone(), name, slash: new.slash };
        old.dir.mount.check_write()?;
        let sb = &old.dir.dentry.sb;
        let one = Arc::ptr_eq(&old.dir.dentry, &new.dir.dentry);
        // Two directories are locked under the lock that keeps the tree's shape, the upper one first.
        let _shape = (!one).then(|| sb.rename.lock());
        let (first, second) = match one {
            true => (&old.dir.dentry, None),
            false if new.dir.dentry.is_above(&old.dir.dentry) => {
                (&new.dir.dentry, Some(&old.dir.dentry))
            }
            false => (&old.dir.dentry, Some(&new.dir.dentry)),
        };
        let _first = first.dir.lock();
        let _second = second.map(|d| d.dir.lock());
        self.rename_locked(&old, &new, flags)
    }

    fn rename_locked(
        &self,
        old: &Target<'_>,
        new: &Target<'_>,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let source = old.dir.dentry.lookup_locked(self, &old.name, &[])?;
        let moving = source.inode().ok_or(Errno::ENOENT)?;
        let target = new.dir.dentry.lookup_locked(self, &new.name, &[])?;
        let replaced = target.inode();
        if flags.contains(RenameFlags::NOREPLACE) && replaced.is_some() {
            return Err(Errno::EEXIST);
        }
        if exchange && replaced.is_none() {
            return Err(Errno::ENOENT);
        }
        let is_dir = |i: &Arc<dyn Inode>| i.kind() == FileType::Directory;
        if !is_dir(moving) && (old.slash || (new.slash && !exchange)) {
            return Err(Errno::ENOTDIR);
        }
        if exchange && new.slash && !replaced.is_some_and(is_dir) {
            return Err(Errno::ENOTDIR);
        }
        if source.is_above(&new.dir.dentry) {
            return Err(Errno::EINVAL);
        }
        if target.inode().is_some() && target.is_above(&old.dir.dentry) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
        let (from, to) = (old.dir.inode()?, new.dir.inode()?);
        if let Some(replaced) = replaced
            && Arc::ptr_eq(moving, replaced)
        {
            // Two names of one file: nothing happens.
            return Ok(());
        }
        perm::may_delete(self, &**from, &**moving)?;
        match replaced {
            Some(replaced) => {
                perm::may_delete(self, &**to, &**replaced)?;
                if !exchange {
                    match (is_dir(moving), is_dir(replaced)) {
                        (true, false) => return Err(Errno::ENOTDIR),
                        (false, true) => return Err(Errno::EISDIR),
                        _ => {}
                    }
                }
            }
            None => perm::may_create(self, &new.dir.mount.sb, &**to)?,
        }
        // A directory that gets another parent changes itself: its "..".
        if !Arc::ptr_eq(&old.dir.dentry, &new.dir.dentry) {
            if is_dir(moving) {
                perm::permission(self, &**moving, Access::WRITE)?;
            }
            if let Some(replaced) = replaced.filter(|r| exchange && is_dir(r)) {
                perm::permission(self, &**replaced, Access::WRITE)?;
            }
        }
        if self.is_mountpoint_here(&source) || self.is_mountpoint_here(&target) {
            return Err(Errno::EBUSY);
        }
        // Nothing may come into a directory that is about to be replaced.
        let _emptied = replaced.filter(|r| !exchange && is_dir(r)).map(|_| target.dir.lock());
        from.rename(self, &old.name, moving, to, &new.name, replaced, flags)?;
        if exchange {
            old.dir.dentry.exchanged(&source, &new.dir.dentry, &target);
        } else {
            new.dir.dentry.removed(&new.name, &target);
            mount::detach_from(&target);
            old.dir.dentry.moved(&source, &new.dir.dentry, &new.name);
        }
        inotify::moved((&**from, &old.name), (&**to, &new.name), &**moving);
        match replaced {
            Some(other) if exchange => {
                inotify::moved((&**to, &new.name), (&**from, &old.name), &**other);
            }
            Some(gone) => inotify::unlinked(&**gone),
            None => {}
        }
        Ok(())
    }

    /// readlink(2) on what a walk without FOLLOW has found.
    pub fn readlink(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        match path.inode()?.readlink(self)? {
            Link::Text(text) => Ok(text),
            Link::Jump(to) => Ok(to.show(&self.fs.root())),
        }
    }

    /// stat(2) and the like on what a walk has found.
    pub fn stat(&self, path: &Path) -> Result<Attr, Errno> {
        path.inode()?.attr()
    }

    /// chmod(2), chown(2), utimensat(2) on what a walk has found; `may` checks the caller's right.
    pub fn set_attr(&self, path: &Path, set: &SetAttr) -> Result<(), Errno> {
        path.mount.check_write()?;
        path.inode()?.set_attr(self, set)?;
        inotify::changed(path, set);
        Ok(())
    }

    /// Opens a program for exec: it must be a regular file that the caller may run, and nobody may
    /// write it meanwhile.
    pub fn open_exec(
        &self,
        start: Option<&Path>,
        path: &[u8],
        resolve: WalkFlags,
    ) -> Result<Arc<File>, Errno> {
        let path = self.walk(start, path, resolve)?;
        let flags = OpenFlags::EXEC;
        let inode = path.inode()?.clone();
        self.may_open(&path, &inode, flags)?;
        self.finish_open(&path, inode, flags, None)
    }
}

/// Whether a name may be made at all.
pub fn valid_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= NAME_MAX && !name.contains(&b'/') && !name.contains(&0)
}
