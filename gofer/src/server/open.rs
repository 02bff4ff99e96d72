//! Opening and creating regular files, with or without donation; opening directories.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Session;
use super::attr::{PERMISSIONS, UNCHANGED, chown};
use super::errors::Result;
use super::fids::{Inode, Open};
use super::host::{self, Name};
use super::session::Donated;
use crate::wire::*;

/// Flags of an open that reach the host. The others are the client's own affair (CLOEXEC, NOCTTY,
/// NONBLOCK, ...), or would bind it to a buffer's alignment (DIRECT).
const PASSED_ON: [(OpenFlags, OFlags); 5] = [
    (OpenFlags::TRUNC, OFlags::TRUNC),
    (OpenFlags::APPEND, OFlags::APPEND),
    (OpenFlags::DSYNC, OFlags::DSYNC),
    (OpenFlags::SYNC, OFlags::SYNC),
    (OpenFlags::NOATIME, OFlags::NOATIME),
];

/// A client's flags, taken apart.
struct Mode9p {
    flags: OFlags,
    read: bool,
    write: bool,
    /// Whether opening alone changes the file.
    truncate: bool,
}

impl Mode9p {
    fn new(flags: u32) -> Result<Self> {
        let flags = OpenFlags::from_bits_truncate(flags);
        let (access, read, write) =
            match (flags.contains(OpenFlags::WRONLY), flags.contains(OpenFlags::RDWR)) {
                (false, false) => (OFlags::RDONLY, true, false),
                (true, false) => (OFlags::WRONLY, false, true),
                (false, true) => (OFlags::RDWR, true, true),
                (true, true) => return Err(Errno::INVAL),
            };
        let passed = PASSED_ON.iter().filter(|(from, _)| flags.contains(*from));
        let host = passed.fold(access, |all, (_, to)| all | *to);
        Ok(Mode9p { flags: host, read, write, truncate: flags.contains(OpenFlags::TRUNC) })
    }

    fn opened(&self, fd: OwnedFd) -> Open {
        Open { fd, read: self.read, write: self.write, position: None }
    }
}

impl Session {
    pub(super) fn lopen<'r>(&mut self, fid: Fid, flags: u32) -> Result<Reply<'r>> {
        let entry = self.fids.get(fid)?;
        if entry.open.is_some() {
            return Err(Errno::BUSY);
        }
        let (qid, inode) = (entry.inode.qid, entry.inode.clone());
        let open = self.open_inode(&inode, &Mode9p::new(flags)?)?;
        self.fids.check_room(1)?;
        self.fids.update(fid, |entry| {
            entry.open = Some(open);
            Ok(())
        })?;
        Ok(Reply::Lopen { qid, iounit: self.io_unit() })
    }

    pub(super) fn open<'r>(
        &mut self,
        fid: Fid,
        newfid: Fid,
        flags: u32,
        wish: u8,
    ) -> Result<Reply<'r>> {
        let entry = self.fids.get(fid)?;
        let inode = entry.inode.clone();
        if newfid == fid {
            if entry.open.is_some() {
                return Err(Errno::BUSY);
            }
            self.fids.check_room(1)?;
        } else {
            self.fids.check_new(newfid)?;
        }
        let how = Mode9p::new(flags)?;
        // Before the first entry can be read, so that no change falls between. Where it is not possible the client asks
        // again some time.
        let watch = Wish::from_bits_truncate(wish).contains(Wish::WATCH);
        let watched = watch && inode.kind == FileType::Directory && self.watch(fid).is_ok();
        let open = self.open_inode(&inode, &how)?;
        let attr = host::node(&open.fd)?.attr;
        let (mut granted, open) = self.grant(newfid, &inode, open, wish);
        granted.set(Granted::WATCHED, watched);
        if newfid == fid {
            self.fids.update(fid, |entry| {
                entry.open = open;
                Ok(())
            })?;
        } else if open.is_some() {
            self.fids.insert(newfid, inode, open)?;
        }
        Ok(Reply::OpenX { granted: granted.bits(), attr })
    }

    pub(super) fn lcreate<'r>(
        &mut self,
        fid: Fid,
        name: &[u8],
        flags: u32,
        mode: u32,
        gid: u32,
    ) -> Result<Reply<'r>> {
        let entry = self.fids.get(fid)?;
        if entry.open.is_some() {
            return Err(Errno::BUSY);
        }
        self.fids.check_room(2)?;
        let directory = entry.inode.clone();
        entry.changeable_directory()?;
        let how = Mode9p::new(flags)?;
        let (inode, node, open) =
            self.create_file(&directory, &Name::new(name)?, &how, mode, (UNCHANGED, gid))?;
        // create(5): the fid of the directory becomes the new file's.
        self.fids.remove(fid)?;
        self.fids.insert(fid, inode, Some(open))?;
        Ok(Reply::Lcreate { qid: node.qid, iounit: self.io_unit() })
    }

    #[allow(clippy::too_many_arguments)] // the message's fields
    pub(super) fn create<'r>(
        &mut self,
        dir: Fid,
        newfid: Fid,
        name: &[u8],
        flags: u32,
        mode: u32,
        owner: (u32, u32),
        wish: u8,
    ) -> Result<Reply<'r>> {
        self.fids.check_new(newfid)?;
        let entry = self.fids.get(dir)?;
        entry.changeable_directory()?;
        let directory = entry.inode.clone();
        let how = Mode9p::new(flags)?;
        let (inode, node, open) =
            self.create_file(&directory, &Name::new(name)?, &how, mode, owner)?;
        let (granted, open) = self.grant(newfid, &inode, open, wish);
        self.fids.insert(newfid, inode, open)?;
        Ok(Reply::CreateX { granted: granted.bits(), node })
    }

    pub(super) fn tmpfile<'r>(
        &mut self,
        dir: Fid,
        newfid: Fid,
        flags: u32,
        mode: u32,
        owner: (u32, u32),
        wish: u8,
    ) -> Result<Reply<'r>> {
        self.fids.check_new(newfid)?;
        let directory = self.fids.get(dir)?.changeable_directory()?;
        let how = Mode9p::new(flags)?;
        // open(2): O_TMPFILE must be opened for writing; O_EXCL would forbid a later link.
        if !how.write {
            return Err(Errno::INVAL);
        }
        let flags = how.flags.difference(OFlags::TRUNC) | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode9p = Mode::from_raw_mode(mode & PERMISSIONS);
        let fd = host::open_beneath(&directory.fd, c".", flags, mode9p)?;
        let (inode, node) = self.settle(fd.as_fd(), mode, owner)?;
        let (granted, open) = self.grant(newfid, &inode, how.opened(fd), wish);
        self.fids.insert(newfid, inode, open)?;
        Ok(Reply::Tmpfile { granted: granted.bits(), node })
    }

    /// Opens an inode as asked, if it is a regular file or a directory.
    fn open_inode(&self, inode: &Inode, how: &Mode9p) -> Result<Open> {
        if inode.read_only && (how.write || how.truncate) {
            return Err(Errno::ROFS);
        }
        // Truncation through an open for reading is unspecified in open(2), and Linux does it.
        let fd = self.host.reopen(inode, how.flags)?;
        Ok(how.opened(fd))
    }

    fn create_file(
        &self,
        directory: &Inode,
        name: &Name,
        how: &Mode9p,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(Rc<Inode>, Node, Open)> {
        let flags = how.flags.difference(OFlags::TRUNC)
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::CLOEXEC;
        let create_mode = Mode::from_raw_mode(mode & PERMISSIONS);
        let fd = host::open_beneath(&directory.fd, name.as_c_str(), flags, create_mode)?;
        match self.settle(fd.as_fd(), mode, owner) {
            Ok((inode, node)) => Ok((inode, node, how.opened(fd))),
            Err(errno) => {
                // It is not what was asked for: take it back. If that fails too, the first error
                // still says what went wrong.
                let _ = rustix::fs::unlinkat(&directory.fd, name.as_c_str(), AtFlags::empty());
                Err(errno)
            }
        }
    }

    /// Gives a file that was just created its owner and exact permissions.
    fn settle(
        &self,
        fd: rustix::fd::BorrowedFd<'_>,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<(Rc<Inode>, Node)> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let path = rustix::fs::openat(CWD, self.host.path(fd), flags, Mode::empty())?;
        let (inode, node) = host::adopt(path, false)?;
        let node = self.own(&inode, node, mode, owner)?;
        Ok((inode, node))
    }

    /// Makes owner and permissions of a new file what the client said; what it then is.
    pub(super) fn own(
        &self,
        inode: &Inode,
        node: Node,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Result<Node> {
        let differs = |wanted: u32, is: u32| wanted != UNCHANGED && wanted != is;
        let mut node = node;
        if differs(uid, node.attr.uid) || differs(gid, node.attr.gid) {
            chown(inode, uid, gid)?;
            node = host::node(&inode.fd)?;
        }
        // A change of owner takes the set-id bits away, a default ACL or a set-gid directory
        // changes the mode: the client has already reckoned with all of them.
        if inode.kind != FileType::Symlink && node.attr.mode & PERMISSIONS != mode & PERMISSIONS {
            self.chmod(inode, mode)?;
            node = host::node(&inode.fd)?;
        }
        Ok(node)
    }

    /// Whether an open file goes along with the reply, and what of it stays with `fid`.
    fn grant(
        &mut self,
        fid: Fid,
        inode: &Rc<Inode>,
        open: Open,
        wish: u8,
    ) -> (Granted, Option<Open>) {
        let wish = Wish::from_bits_truncate(wish);
        if !wish.contains(Wish::DONATE) || inode.kind != FileType::RegularFile {
            return (Granted::empty(), Some(open));
        }
        if wish.contains(Wish::NOT_KEPT) {
            self.donate(Donated::Alone(fid, inode.clone(), open));
            return (Granted::DONATED, None);
        }
        self.donate(Donated::Fid(fid));
        (Granted::DONATED, Some(open))
    }

    /// The most bytes of one read or write.
    fn io_unit(&self) -> u32 {
        // Room for the header of a write: 7 + 4 + 8 + 4.
        u32::try_from(self.msize.saturating_sub(HEADER + 16).min(IO_MAX)).unwrap_or(0)
    }
}
