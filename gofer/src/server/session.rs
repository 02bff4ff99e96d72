//! Answers a client's messages: bytes in, bytes and perhaps a descriptor out.

use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use rustix::io::Errno;

use super::errors::{Result, from_wire, number};
use super::fids::{self, Fids, Inode, Open};
use super::host::{self, Descriptors, Name};
use super::nodes::Maker;
use super::watch::{Event, Watches};
use super::{Attach, ServeError};
use crate::wire::*;

/// One client's state. It does no input or output on a socket, so that it can be driven in-process.
#[derive(Debug)]
pub struct Session {
    attaches: Vec<Root>,
    pub(super) host: Descriptors,
    pub(super) fids: Fids,
    pub(super) watches: Watches,
    pub(super) dialect: bool,
    pub(super) msize: usize,
    pub(super) scratch: Vec<u8>,
    /// Who makes device nodes; `None`: the session itself.
    pub(super) nodes: Option<Maker>,
    /// What is donated with the reply in work.
    donated: Option<Donated>,
}

#[derive(Debug)]
struct Root {
    name: String,
    inode: Rc<Inode>,
    read_only: bool,
}

/// Who owns a descriptor while it is being donated.
#[derive(Debug)]
pub(super) enum Donated {
    /// The fid that stays open.
    Fid(Fid),
    /// Nobody else. If it cannot be sent, this fid gets it after all.
    Alone(Fid, Rc<Inode>, Open),
}

/// What [`Session::handle`] wrote.
#[derive(Debug)]
pub struct Answer<'s> {
    /// The reply's size at the start of the buffer.
    pub size: usize,
    /// The descriptor that accompanies it: of a regular file, opened as the client asked. If it
    /// cannot be sent, call [`Session::keep_donation`] and send the reply without it.
    pub donation: Option<BorrowedFd<'s>>,
}

/// Where the [`Granted`] byte stands in a reply: it is the first field of all that have one.
const GRANTED_AT: usize = HEADER;

impl Session {
    /// A session that serves `attaches`. `fd_directory` is where this process finds its own
    /// `/proc/self/fd`.
    pub fn new(
        attaches: Vec<Attach>,
        fd_directory: String,
    ) -> std::result::Result<Self, ServeError> {
        Session::bounded(attaches, fd_directory, fids::limit())
    }

    /// A session whose fids hold at most so many descriptors.
    pub fn bounded(
        attaches: Vec<Attach>,
        fd_directory: String,
        descriptors: u64,
    ) -> std::result::Result<Self, ServeError> {
        let host = Descriptors::new(fd_directory);
        let root = |attach: Attach| {
            let Attach { name, root, read_only } = attach;
            // An O_PATH descriptor of its own, whatever was given.
            let reopen = || {
                let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
                let path = host.path(root.as_fd());
                let fd =
                    rustix::fs::openat(rustix::fs::CWD, path, flags, rustix::fs::Mode::empty())?;
                host::adopt(fd, read_only)
            };
            match reopen() {
                Ok((inode, _)) => Ok(Root { name, inode, read_only }),
                Err(errno) => Err(ServeError::Attach { name, source: errno.into() }),
            }
        };
        let attaches = attaches.into_iter().map(root).collect::<std::result::Result<_, _>>()?;
        Ok(Session {
            attaches,
            host,
            fids: Fids::with_limit(descriptors),
            watches: Watches::default(),
            dialect: false,
            msize: MSIZE_MAX,
            scratch: vec![0u8; MSIZE_MAX],
            nodes: None,
            donated: None,
        })
    }

    /// Lets fids hold at most so many descriptors, where the process's limit is not the measure.
    pub fn limit_descriptors(&mut self, descriptors: u64) {
        self.fids = Fids::with_limit(descriptors);
    }

    /// The largest message that the client may send.
    pub fn msize(&self) -> usize {
        self.msize
    }

    /// Answers one message in `reply`, which has [`MSIZE_MAX`] bytes. An error ends the
    /// connection: what came is no message at all.
    pub fn handle(
        &mut self,
        request: &[u8],
        reply: &mut [u8],
    ) -> std::result::Result<Answer<'_>, WireError> {
        let frame = Frame::new_checked(request)?;
        let tag = frame.tag();
        self.donated = None;
        let limit = self.msize.min(reply.len());
        let buffer = reply.get_mut(..limit).unwrap_or_default();
        let answered = match Request::parse(frame) {
            Ok(request) if request.is_dialect() && !self.dialect => Err(Errno::OPNOTSUPP),
            Ok(request) => {
                let own = own_changes(&request);
                if own.is_some() {
                    self.watches.collect();
                }
                let result = self.answer(tag, request, buffer);
                if let Some(names) = own {
                    self.watches.collect_others(&names);
                }
                result
            }
            Err(WireError::UnknownKind(_)) => Err(Errno::OPNOTSUPP),
            Err(_) => Err(Errno::PROTO),
        };
        let size = match answered {
            Ok(size) => size,
            Err(errno) => Reply::Error { errno: number(errno) }.emit(tag, buffer)?,
        };
        let fd = match &self.donated {
            None => None,
            Some(Donated::Alone(_, _, open)) => Some(&open.fd),
            Some(Donated::Fid(fid)) => {
                self.fids.get(*fid).ok().and_then(|entry| entry.open.as_ref()).map(|open| &open.fd)
            }
        };
        Ok(Answer { size, donation: fd.map(|fd| fd.as_fd()) })
    }

    /// The descriptor to poll for changes that others make, once something is watched.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.watches.as_fd()
    }

    /// That descriptor is readable.
    pub fn collect_events(&mut self) {
        self.watches.collect();
    }

    /// Writes the next message about a change; its size. It comes again until
    /// [`event_sent`](Self::event_sent) is called.
    pub fn next_event(
        &mut self,
        buffer: &mut [u8],
    ) -> std::result::Result<Option<usize>, WireError> {
        let Some(Event { fid, changed, name }) = self.watches.first() else { return Ok(None) };
        Reply::Invalidate { fid: *fid, changed: changed.bits(), name }.emit(NOTAG, buffer).map(Some)
    }

    /// The message of the last [`next_event`](Self::next_event) is on its way.
    pub fn event_sent(&mut self) {
        self.watches.sent();
    }

    /// The donation of the last answer could not be sent: what it was of stays open here, and
    /// `reply` says so.
    pub fn keep_donation(&mut self, reply: &mut [u8]) {
        if let Some(granted) = reply.get_mut(GRANTED_AT) {
            *granted = Granted::empty().bits();
        }
        if let Some(Donated::Alone(fid, inode, open)) = self.donated.take() {
            let mut open = Some(open);
            let kept = self.fids.update(fid, |entry| {
                entry.open = open.take();
                Ok(())
            });
            if kept.is_err() {
                // An open that had made no fid. There was room for it when it was asked for.
                let _ = self.fids.insert(fid, inode, open);
            }
        }
    }

    /// Does what the request asks and writes the reply.
    fn answer(&mut self, tag: u16, request: Request<'_>, buffer: &mut [u8]) -> Result<usize> {
        use Request as T;
        let reply = match request {
            T::Version { msize, version } => self.version(msize, version),
            T::Auth { .. } => Err(Errno::OPNOTSUPP),
            T::Flush { .. } => Ok(Reply::Flush {}), // requests are answered in order
            T::Attach { fid, aname, .. } => {
                self.attach(fid, aname).map(|(node, _)| Reply::Attach { qid: node.qid })
            }
            T::AttachX { fid, aname } => self
                .attach(fid, aname)
                .map(|(node, flags)| Reply::AttachX { node, flags: flags.bits() }),
            T::Walk { fid, newfid, names } => self.walk(fid, newfid, &names),
            T::WalkX { fid, steps } => return self.walk_steps(tag, fid, &steps, buffer),
            T::Clunk { fid } => self.clunk(fid).map(|()| Reply::Clunk {}),
            T::ClunkMany { fids } => {
                // Unknown ones are passed over: the client forgets in batches, and may forget a
                // fid that a failed walk never made.
                for fid in fids {
                    let _ = self.clunk(fid);
                }
                Ok(Reply::ClunkMany {})
            }
            // The name that a fid was walked to is not kept, on purpose: it may mean another file
            // by now. Clients of 9P2000.L use Trenameat and Tunlinkat.
            T::Rename { .. } => Err(Errno::OPNOTSUPP),
            T::Remove { fid } => self.clunk(fid).and(Err(Errno::OPNOTSUPP)),

            T::Statfs { fid } => self.statfs(fid),
            T::Getattr { fid, mask } => self.getattr(fid, mask),
            T::Statx { fid, mask } => self.statx(fid, mask),
            T::Setattr { fid, set } => self.setattr(fid, &set).map(|()| Reply::Setattr {}),
            T::SetattrX { fid, set } => self
                .setattr(fid, &set)
                .and_then(|()| host::node(&self.fids.get(fid)?.inode.fd))
                .map(|node| Reply::SetattrX { attr: node.attr }),
            T::Readlink { fid } => return self.readlink(tag, fid, buffer),

            T::Lopen { fid, flags } => self.lopen(fid, flags),
            T::OpenX { fid, newfid, flags, wish } => self.open(fid, newfid, flags, wish),
            T::Lcreate { fid, name, flags, mode, gid } => self.lcreate(fid, name, flags, mode, gid),
            T::CreateX { dir, newfid, name, flags, mode, uid, gid, wish } => {
                self.create(dir, newfid, name, flags, mode, (uid, gid), wish)
            }
            T::Tmpfile { dir, newfid, flags, mode, uid, gid, wish } => {
                self.tmpfile(dir, newfid, flags, mode, (uid, gid), wish)
            }

            T::Symlink { fid, name, target, gid } => self
                .symlink(fid, Fid::NONE, name, target, (u32::MAX, gid))
                .map(|node| Reply::Symlink { qid: node.qid }),
            T::SymlinkX { dir, newfid, name, target, uid, gid } => self
                .symlink(dir, newfid, name, target, (uid, gid))
                .map(|node| Reply::SymlinkX { node }),
            T::Mknod { fid, name, mode, major, minor, gid } => self
                .mknod(fid, Fid::NONE, name, mode, Dev { major, minor }, (u32::MAX, gid))
                .map(|node| Reply::Mknod { qid: node.qid }),
            T::MknodX { dir, newfid, name, mode, rdev, uid, gid } => self
                .mknod(dir, newfid, name, mode, rdev, (uid, gid))
                .map(|node| Reply::MknodX { node }),
            T::Mkdir { fid, name, mode, gid } => self
                .mkdir(fid, Fid::NONE, name, mode, (u32::MAX, gid))
                .map(|node| Reply::Mkdir { qid: node.qid }),
            T::MkdirX { dir, newfid, name, mode, uid, gid } => {
                self.mkdir(dir, newfid, name, mode, (uid, gid)).map(|node| Reply::MkdirX { node })
            }
            T::Link { dir, fid, name } => self.link(dir, fid, name).map(|_| Reply::Link {}),
            T::LinkX { dir, fid, name } => {
                self.link(dir, fid, name).map(|attr| Reply::LinkX { attr })
            }
            T::Renameat { olddir, oldname, newdir, newname } => {
                self.rename(olddir, oldname, newdir, newname, 0).map(|()| Reply::Renameat {})
            }
            T::RenameX { olddir, oldname, newdir, newname, flags } => {
                self.rename(olddir, oldname, newdir, newname, flags).map(|()| Reply::RenameX {})
            }
            T::Unlinkat { dir, name, flags } => {
                self.unlink(dir, name, flags).map(|()| Reply::Unlinkat {})
            }

            T::Read { fid, offset, count } => return self.read(tag, fid, offset, count, buffer),
            T::Write { fid, offset, data } => {
                self.write(fid, offset, data.0).map(|count| Reply::Write { count })
            }
            T::Readdir { fid, offset, count } => {
                return self.readdir(tag, fid, offset, count, false, buffer);
            }
            T::ReaddirX { fid, offset, count } => {
                return self.readdir(tag, fid, offset, count, true, buffer);
            }
            T::Fsync { fid, data_only } => self.sync(fid, data_only != 0).map(|()| Reply::Fsync {}),
            T::SyncMany { fids, data_only } => {
                let sync = |fid| self.sync(fid, data_only != 0).map_or_else(number, |()| 0);
                Ok(Reply::SyncMany { errnos: fids.into_iter().map(sync).collect() })
            }
            T::Fallocate { fid, mode, offset, length } => {
                self.fallocate(fid, mode, offset, length).map(|()| Reply::Fallocate {})
            }
            T::CopyRange { source, source_offset, target, target_offset, length } => self
                .copy_range(source, source_offset, target, target_offset, length)
                .map(|count| Reply::CopyRange { count }),
            T::Seek { fid, offset, whence } => {
                self.seek(fid, offset, whence).map(|offset| Reply::Seek { offset })
            }

            T::Lock { fid, kind, start, length, proc_id, .. } => self
                .lock(fid, proc_id.into(), kind, start, length)
                .map(|status| Reply::Lock { status }),
            T::LockX { fid, owner, kind, start, length } => {
                self.lock(fid, owner, kind, start, length).map(|status| Reply::LockX { status })
            }
            T::Getlock { fid, kind, start, length, proc_id, client_id } => self
                .get_lock(fid, proc_id.into(), kind, start, length)
                .map(|(kind, start, length)| Reply::Getlock {
                    kind,
                    start,
                    length,
                    proc_id,
                    client_id,
                }),
            T::GetlockX { fid, owner, kind, start, length } => self
                .get_lock(fid, owner, kind, start, length)
                .map(|(kind, start, length)| Reply::GetlockX { kind, start, length }),

            T::Xattrwalk { fid, newfid, name } => self.xattr_walk(fid, newfid, name),
            T::Xattrcreate { fid, name, size, flags } => {
                self.xattr_create(fid, name, size, flags).map(|()| Reply::Xattrcreate {})
            }
            T::GetXattr { fid, name, size } => {
                return self.get_xattr(tag, fid, name, size, buffer);
            }
            T::SetXattr { fid, name, value, flags } => {
                self.set_xattr(fid, name, value.0, flags).map(|()| Reply::SetXattr {})
            }
            T::ListXattr { fid, size } => return self.list_xattr(tag, fid, size, buffer),
            T::RemoveXattr { fid, name } => {
                self.remove_xattr(fid, name).map(|()| Reply::RemoveXattr {})
            }

            T::Watch { fid } => self.watch(fid).map(|()| Reply::Watch {}),
            T::Unwatch { fid } => {
                self.watches.remove(fid);
                Ok(Reply::Unwatch {})
            }
        };
        reply?.emit(tag, buffer).map_err(from_wire)
    }

    /// Says what the reply in work carries.
    pub(super) fn donate(&mut self, donated: Donated) {
        self.donated = Some(donated);
    }

    fn version<'r>(&mut self, msize: u32, version: &[u8]) -> Result<Reply<'r>> {
        // version(5): a new negotiation ends the session before it.
        self.fids.clear();
        self.watches.clear();
        let msize = (msize as usize).min(MSIZE_MAX);
        if msize < MSIZE_MIN {
            return Err(Errno::MSGSIZE);
        }
        self.msize = msize;
        self.dialect = version == VERSION_DIALECT;
        let version = if self.dialect {
            VERSION_DIALECT
        } else if version.starts_with(VERSION_L) {
            VERSION_L
        } else {
            VERSION_UNKNOWN
        };
        // At most MSIZE_MAX, so it fits.
        Ok(Reply::Version { msize: u32::try_from(msize).map_err(|_| Errno::MSGSIZE)?, version })
    }

    fn attach(&mut self, fid: Fid, aname: &[u8]) -> Result<(Node, AttachFlags)> {
        // Plain clients may name it as a path.
        let name = aname.strip_prefix(b"/").unwrap_or(aname);
        let name = if name.is_empty() { b"root" } else { name };
        let found = self.attaches.iter().find(|root| root.name.as_bytes() == name);
        let root = found.ok_or(Errno::NOENT)?;
        let node = host::node(&root.inode.fd)?;
        let flags = if root.read_only { AttachFlags::READ_ONLY } else { AttachFlags::empty() };
        self.fids.insert(fid, root.inode.clone(), None)?;
        Ok((node, flags))
    }

    pub(super) fn watch(&mut self, fid: Fid) -> Result<()> {
        let path = self.host.path(self.fids.get(fid)?.inode.fd.as_fd());
        self.watches.add(fid, &path)
    }

    fn walk<'r>(&mut self, fid: Fid, newfid: Fid, names: &[&[u8]]) -> Result<Reply<'r>> {
        let entry = self.fids.get(fid)?;
        // walk(5): the fid must not be open.
        if newfid != fid {
            self.fids.check_new(newfid)?;
        } else if entry.open.is_some() {
            return Err(Errno::BUSY);
        }
        let mut inode = entry.inode.clone();
        let mut qids = Vec::with_capacity(names.len());
        for name in names {
            match step(&inode, name) {
                Ok((found, node)) => {
                    qids.push(node.qid);
                    inode = found;
                }
                Err(errno) if qids.is_empty() => return Err(errno),
                Err(_) => break,
            }
        }
        if qids.len() == names.len() {
            if newfid == fid {
                self.fids.remove(fid)?;
            }
            self.fids.insert(newfid, inode, None)?;
        }
        Ok(Reply::Walk { qids })
    }

    fn walk_steps(
        &mut self,
        tag: u16,
        fid: Fid,
        steps: &[Step<'_>],
        buffer: &mut [u8],
    ) -> Result<usize> {
        let mut inode = self.fids.get(fid)?.inode.clone();
        let mut nodes = Vec::with_capacity(steps.len());
        let mut why = 0;
        for Step { newfid, name } in steps {
            if inode.kind == rustix::fs::FileType::Symlink && !nodes.is_empty() {
                break;
            }
            let found = step(&inode, name).and_then(|(found, node)| {
                if *newfid != Fid::NONE {
                    self.fids.insert(*newfid, found.clone(), None)?;
                }
                Ok((found, node))
            });
            match found {
                Ok((found, node)) => {
                    nodes.push(node);
                    inode = found;
                }
                Err(errno) => {
                    why = number(errno);
                    break;
                }
            }
        }
        let mut target = Vec::new();
        if inode.kind == rustix::fs::FileType::Symlink && !nodes.is_empty() {
            target = rustix::fs::readlinkat(&inode.fd, c"", Vec::new())?.into_bytes();
        }
        let reply = Reply::WalkX { nodes, errno: why, target: &target };
        reply.emit(tag, buffer).map_err(from_wire)
    }

    fn clunk(&mut self, fid: Fid) -> Result<()> {
        let entry = self.fids.remove(fid)?;
        self.watches.remove(fid);
        self.finish_xattr(entry)
    }
}

/// One step of a walk.
fn step(inode: &Inode, name: &[u8]) -> Result<(Rc<Inode>, Node)> {
    let name = Name::new(name)?;
    if inode.kind != rustix::fs::FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    host::lookup(inode, &name)
}

/// For a request that changes what watches tell of: the names that it changes.
fn own_changes<'a>(request: &Request<'a>) -> Option<Vec<&'a [u8]>> {
    use Request as T;
    Some(match request {
        T::Lcreate { name, .. }
        | T::CreateX { name, .. }
        | T::Symlink { name, .. }
        | T::SymlinkX { name, .. }
        | T::Mknod { name, .. }
        | T::MknodX { name, .. }
        | T::Mkdir { name, .. }
        | T::MkdirX { name, .. }
        | T::Link { name, .. }
        | T::LinkX { name, .. }
        | T::Unlinkat { name, .. } => vec![name],
        T::Renameat { oldname, newname, .. } | T::RenameX { oldname, newname, .. } => {
            vec![oldname, newname]
        }
        // Attributes, and files that are closed after having been written.
        T::Setattr { .. }
        | T::SetattrX { .. }
        | T::SetXattr { .. }
        | T::RemoveXattr { .. }
        | T::Xattrcreate { .. }
        | T::Fallocate { .. }
        | T::CopyRange { .. }
        | T::Tmpfile { .. }
        | T::Lock { .. }
        | T::LockX { .. }
        | T::Getlock { .. }
        | T::GetlockX { .. }
        | T::Clunk { .. }
        | T::ClunkMany { .. } => Vec::new(),
        _ => return None,
    })
}
