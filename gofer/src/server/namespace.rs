//! Names: making, linking, moving and removing them.

use std::ffi::CString;
use std::rc::Rc;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::Session;
use super::attr::PERMISSIONS;
use super::errors::Result;
use super::fids::Inode;
use super::host::{self, Name};
use super::nodes;
use crate::wire::*;

/// The longest target of a symbolic link (PATH_MAX of limits.h, with its final zero byte).
const TARGET_MAX: usize = 4095;

impl Session {
    pub(super) fn mkdir(
        &mut self,
        dir: Fid,
        newfid: Fid,
        name: &[u8],
        mode: u32,
        owner: (u32, u32),
    ) -> Result<Node> {
        let (directory, name) = self.place(dir, newfid, name)?;
        let bits = Mode::from_raw_mode(mode & PERMISSIONS);
        rustix::fs::mkdirat(&directory.fd, name.as_c_str(), bits)?;
        let undo = AtFlags::REMOVEDIR;
        self.made(&directory, newfid, &name, FileType::Directory, mode, owner, undo)
    }

    pub(super) fn mknod(
        &mut self,
        dir: Fid,
        newfid: Fid,
        name: &[u8],
        mode: u32,
        rdev: Dev,
        owner: (u32, u32),
    ) -> Result<Node> {
        let (directory, name) = self.place(dir, newfid, name)?;
        let kind = match FileType::from_raw_mode(mode) {
            // mknod(2): no type means a regular file.
            FileType::Unknown if mode & !PERMISSIONS == 0 => FileType::RegularFile,
            FileType::Directory | FileType::Symlink | FileType::Unknown => {
                return Err(Errno::INVAL);
            }
            kind => kind,
        };
        let bits = Mode::from_raw_mode(mode & PERMISSIONS);
        let device = matches!(kind, FileType::BlockDevice | FileType::CharacterDevice);
        match &self.nodes {
            Some(maker) if device => {
                let mode = kind.as_raw_mode() | bits.as_raw_mode();
                let request = nodes::Request { mode, dev: rdev, name: name.as_c_str() };
                maker.make(directory.fd.as_fd(), request)?;
            }
            _ => {
                let dev = if device { rustix::fs::makedev(rdev.major, rdev.minor) } else { 0 };
                rustix::fs::mknodat(&directory.fd, name.as_c_str(), kind, bits, dev)?;
            }
        }
        self.made(&directory, newfid, &name, kind, mode, owner, AtFlags::empty())
    }

    pub(super) fn symlink(
        &mut self,
        dir: Fid,
        newfid: Fid,
        name: &[u8],
        target: &[u8],
        owner: (u32, u32),
    ) -> Result<Node> {
        let (directory, name) = self.place(dir, newfid, name)?;
        if target.len() > TARGET_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        // An arbitrary string: the server never follows it.
        let target = CString::new(target).map_err(|_| Errno::INVAL)?;
        rustix::fs::symlinkat(&target, &directory.fd, name.as_c_str())?;
        self.made(&directory, newfid, &name, FileType::Symlink, 0, owner, AtFlags::empty())
    }

    pub(super) fn link(&mut self, dir: Fid, fid: Fid, name: &[u8]) -> Result<Attr> {
        let (directory, name) = self.place(dir, Fid::NONE, name)?;
        let inode = &self.fids.get(fid)?.inode;
        if inode.read_only {
            return Err(Errno::XDEV); // another attach point
        }
        // Through the descriptor's path: AT_EMPTY_PATH would need CAP_DAC_READ_SEARCH, and this
        // also links what came from O_TMPFILE. FOLLOW goes through the path's magic link alone.
        let path = self.host.path(inode.fd.as_fd());
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, path, &directory.fd, name.as_c_str(), flags)?;
        Ok(host::node(&inode.fd)?.attr)
    }

    pub(super) fn rename(
        &mut self,
        olddir: Fid,
        oldname: &[u8],
        newdir: Fid,
        newname: &[u8],
        flags: u32,
    ) -> Result<()> {
        let flags = RenameFlags::from_bits(flags)
            .filter(|flags| {
                (RenameFlags::NOREPLACE | RenameFlags::EXCHANGE | RenameFlags::WHITEOUT)
                    .contains(*flags)
            })
            .ok_or(Errno::INVAL)?;
        let (from, oldname) = self.place(olddir, Fid::NONE, oldname)?;
        let (to, newname) = self.place(newdir, Fid::NONE, newname)?;
        let (oldname, newname) = (oldname.as_c_str(), newname.as_c_str());
        rustix::fs::renameat_with(&from.fd, oldname, &to.fd, newname, flags)
    }

    pub(super) fn unlink(&mut self, dir: Fid, name: &[u8], flags: u32) -> Result<()> {
        let flags = match flags {
            0 => AtFlags::empty(),
            UNLINK_DIR => AtFlags::REMOVEDIR,
            _ => return Err(Errno::INVAL),
        };
        let (directory, name) = self.place(dir, Fid::NONE, name)?;
        rustix::fs::unlinkat(&directory.fd, name.as_c_str(), flags)
    }

    /// Where a name is to be changed: the directory and the checked name. `newfid` must be free.
    fn place(&self, dir: Fid, newfid: Fid, name: &[u8]) -> Result<(Rc<Inode>, Name)> {
        if newfid != Fid::NONE {
            self.fids.check_new(newfid)?;
        }
        let entry = self.fids.get(dir)?;
        entry.changeable_directory()?;
        Ok((entry.inode.clone(), Name::new(name)?))
    }

    /// Completes a file that was just made under `name`: owner, permissions, fid.
    #[allow(clippy::too_many_arguments)] // what the callers have in common
    fn made(
        &mut self,
        directory: &Inode,
        newfid: Fid,
        name: &Name,
        kind: FileType,
        mode: u32,
        owner: (u32, u32),
        undo: AtFlags,
    ) -> Result<Node> {
        let (inode, node) = host::lookup(directory, name)?;
        // Somebody on the host may have put another file in its place: that one is left alone.
        if inode.kind != kind {
            return Err(Errno::STALE);
        }
        match self.own(&inode, node, mode, owner) {
            Ok(node) => {
                if newfid != Fid::NONE {
                    self.fids.insert(newfid, inode, None)?;
                }
                Ok(node)
            }
            Err(errno) => {
                // As for regular files: the first error is the one to tell.
                let _ = rustix::fs::unlinkat(&directory.fd, name.as_c_str(), undo);
                Err(errno)
            }
        }
    }
}
