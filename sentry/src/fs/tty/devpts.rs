//! devpts: the names of pseudo-terminals (Documentation/filesystems/devpts.rst).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::any::Any;

use super::master::Master;
use super::{Host, Lower, SLAVE_MAJOR, Tty};
use crate::errno::Errno;
use crate::fs::anon::{apply, next_dev};
use crate::fs::context::Cx;
use crate::fs::file::File;
use crate::fs::inode::{Caching, FileOps, FileSystem, Inode};
use crate::fs::lock::InodeState;
use crate::fs::types::{
    Attr, DirEntry, DirSink, FileType, OpenFlags, SetAttr, StatFs, Time, makedev, mode,
};
use crate::platform::Stream;
use crate::sync::SpinLock;
use crate::task::{Creds, cap};

/// linux/magic.h.
const MAGIC: u64 = 0x1cd1;
/// Inode numbers of the root and of ptmx; those of terminals follow (fs/devpts/inode.c).
const ROOT_INO: u64 = 1;
const PTMX_INO: u64 = 2;
const FIRST_INO: u64 = 3;
/// Most terminals of one mount (/proc/sys/kernel/pty/max).
const MAX: u32 = 4096;

/// Options of a mount.
#[derive(Clone, Copy)]
struct Options {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: u32,
    ptmxmode: u32,
    max: u32,
}

/// An instance: terminals and their names.
pub struct Devpts {
    dev: u64,
    options: Options,
    this: Weak<Devpts>,
    terminals: SpinLock<BTreeMap<u32, Arc<Tty>>>,
    attrs: [SpinLock<Attr>; 2],
    states: [InodeState; 2],
}

impl Devpts {
    /// A new instance, with options of somebody's. `EINVAL` for those that devpts does not have.
    pub fn new(data: &[u8], creds: &Creds) -> Result<Arc<Devpts>, Errno> {
        let mut options = Options { uid: None, gid: None, mode: 0o600, ptmxmode: 0, max: MAX };
        for option in data.split(|c| *c == b',').filter(|o| !o.is_empty()) {
            let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = |radix| u32::from_str_radix(value, radix).map_err(|_| Errno::EINVAL);
            match name {
                "newinstance" if value.is_empty() => {}
                "uid" => options.uid = Some(creds.userns.kuid(number(10)?).ok_or(Errno::EINVAL)?),
                "gid" => options.gid = Some(creds.userns.kgid(number(10)?).ok_or(Errno::EINVAL)?),
                "mode" => options.mode = number(8)? & mode::PERM,
                "ptmxmode" => options.ptmxmode = number(8)? & mode::PERM,
                "max" => options.max = number(10)?.min(MAX),
                _ => return Err(Errno::EINVAL),
            }
        }
        let dev = next_dev();
        let now = Time::now();
        let (uid, gid) = (creds.userns.kuid(0).unwrap_or(0), creds.userns.kgid(0).unwrap_or(0));
        let attr = |ino, mode, nlink, rdev| {
            let times = Attr { atime: now, mtime: now, ctime: now, ..Attr::default() };
            SpinLock::new(Attr { dev, ino, mode, nlink, uid, gid, rdev, blksize: 1024, ..times })
        };
        let root = attr(ROOT_INO, mode::IFDIR | 0o755, 2, 0);
        let ptmx = attr(PTMX_INO, mode::IFCHR | options.ptmxmode, 1, makedev(5, 2));
        Ok(Arc::new_cyclic(|this| Devpts {
            dev,
            options,
            this: this.clone(),
            terminals: SpinLock::default(),
            attrs: [root, ptmx],
            states: [InodeState::new(), InodeState::new()],
        }))
    }

    /// The instance whose root this is.
    pub fn of(root: &dyn Inode) -> Option<Arc<Devpts>> {
        root.as_any().downcast_ref::<Fixed>().and_then(|fixed| fixed.fs.this.upgrade())
    }

    fn add(&self, uid: u32, gid: u32, lower: Lower) -> Result<Arc<Tty>, Errno> {
        let mut terminals = self.terminals.lock();
        // The lowest number that is free.
        let mut index: u32 = 0;
        for used in terminals.keys() {
            if *used != index {
                break;
            }
            index = index.saturating_add(1);
        }
        if index >= self.options.max {
            return Err(Errno::ENOSPC);
        }
        let now = Time::now();
        let attr = Attr {
            dev: self.dev,
            ino: FIRST_INO.saturating_add(index.into()),
            mode: mode::IFCHR | self.options.mode,
            nlink: 1,
            uid: self.options.uid.unwrap_or(uid),
            gid: self.options.gid.unwrap_or(gid),
            rdev: makedev(SLAVE_MAJOR, index),
            blksize: 1024,
            atime: now,
            mtime: now,
            ctime: now,
            ..Attr::default()
        };
        let tty = Tty::new(index, attr, lower);
        terminals.insert(index, tty.clone());
        Ok(tty)
    }

    /// A terminal behind which is one of the host's, owned by `uid`. Unless it is a `lasting` one, it
    /// goes when it is closed for the last time. `ENOSPC` where there are too many.
    pub fn console(
        &self,
        stream: Arc<dyn Stream>,
        uid: u32,
        lasting: bool,
    ) -> Result<Arc<Tty>, Errno> {
        let host = Host { stream: stream.clone(), fs: self.this.clone(), lasting };
        let tty = self.add(uid, 0, Lower::Host(host))?;
        tty.size_from(&*stream);
        tty.pump();
        Ok(tty)
    }

    /// The name goes with the master.
    pub(super) fn remove(&self, tty: &Arc<Tty>) {
        let mut terminals = self.terminals.lock();
        let gone = match terminals.get(&tty.index()) {
            Some(own) if Arc::ptr_eq(own, tty) => terminals.remove(&tty.index()),
            _ => None,
        };
        drop(terminals);
        drop(gone);
    }

    fn fixed(&self, which: usize) -> Result<Arc<dyn Inode>, Errno> {
        Ok(Arc::new(Fixed { fs: self.this.upgrade().ok_or(Errno::ESTALE)?, which }))
    }
}

impl FileSystem for Devpts {
    fn name(&self) -> &'static str {
        "devpts"
    }

    fn root(&self) -> Arc<dyn Inode> {
        match self.this.upgrade() {
            Some(fs) => Arc::new(Fixed { fs, which: 0 }),
            // Whoever asks holds it.
            None => Arc::new(crate::fs::anon::AnonInode::new(FileType::Directory, "pts", 0, 0, 0)),
        }
    }

    fn dev(&self) -> u64 {
        self.dev
    }

    fn statfs(&self) -> Result<StatFs, Errno> {
        Ok(StatFs::without_blocks(MAGIC))
    }

    fn caching(&self) -> Caching {
        // Names come and go with masters.
        Caching::None
    }

    fn options(&self) -> String {
        let mut text = String::new();
        for (name, id) in [("uid", self.options.uid), ("gid", self.options.gid)] {
            if let Some(id) = id {
                text.push_str(&format!(",{name}={id}"));
            }
        }
        text.push_str(&format!(",mode={:03o}", self.options.mode));
        text.push_str(&format!(",ptmxmode={:03o}", self.options.ptmxmode));
        text
    }
}

/// The root, or ptmx.
struct Fixed {
    fs: Arc<Devpts>,
    which: usize,
}

impl Fixed {
    fn attrs(&self) -> &SpinLock<Attr> {
        let [root, ptmx] = &self.fs.attrs;
        if self.which == 0 { root } else { ptmx }
    }
}

impl Inode for Fixed {
    fn kind(&self) -> FileType {
        if self.which == 0 { FileType::Directory } else { FileType::CharDevice }
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.attrs().lock())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        apply(&mut self.attrs().lock(), set);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        let [root, ptmx] = &self.fs.states;
        if self.which == 0 { root } else { ptmx }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn lookup(&self, _cx: &Cx<'_>, name: &[u8]) -> Result<Arc<dyn Inode>, Errno> {
        if self.which != 0 {
            return Err(Errno::ENOTDIR);
        }
        if name == b"ptmx" {
            return self.fs.fixed(1);
        }
        let text = core::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        let index: u32 = text.parse().map_err(|_| Errno::ENOENT)?;
        // "01" and "+1" are no names.
        if format!("{index}") != text {
            return Err(Errno::ENOENT);
        }
        let tty = self.fs.terminals.lock().get(&index).cloned().ok_or(Errno::ENOENT)?;
        Ok(Arc::new(Named { tty, state: InodeState::new() }))
    }

    fn open(&self, cx: &Cx<'_>, _flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        if self.which == 0 {
            return Ok(Box::new(Directory(self.fs.clone())));
        }
        let tty = self.fs.add(cx.creds.fsuid, cx.creds.fsgid, Lower::Master)?;
        tty.state.lock().locked = true;
        Ok(Box::new(Master::new(tty, self.fs.clone())))
    }
}

/// The open root.
struct Directory(Arc<Devpts>);

impl FileOps for Directory {
    fn readdir(&self, _file: &File, pos: u64, sink: DirSink<'_>) -> Result<u64, Errno> {
        let fixed = [
            (".", ROOT_INO, FileType::Directory),
            ("..", ROOT_INO, FileType::Directory),
            ("ptmx", PTMX_INO, FileType::CharDevice),
        ];
        let mut pos = pos;
        let at = usize::try_from(pos).unwrap_or(usize::MAX);
        for (name, ino, kind) in fixed.into_iter().skip(at) {
            let next = pos.saturating_add(1);
            if !sink(DirEntry { name: name.as_bytes(), ino, kind, next }) {
                return Ok(pos);
            }
            pos = next;
        }
        // Behind those, terminals by their numbers.
        let from = u32::try_from(pos.saturating_sub(3)).unwrap_or(u32::MAX);
        let indices: Vec<u32> = self.0.terminals.lock().range(from..).map(|(i, _)| *i).collect();
        for index in indices {
            let name = format!("{index}");
            let ino = FIRST_INO.saturating_add(index.into());
            let next = u64::from(index).saturating_add(4);
            let kind = FileType::CharDevice;
            if !sink(DirEntry { name: name.as_bytes(), ino, kind, next }) {
                break;
            }
            pos = next;
        }
        Ok(pos)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A terminal by its name.
struct Named {
    tty: Arc<Tty>,
    state: InodeState,
}

impl Inode for Named {
    fn kind(&self) -> FileType {
        FileType::CharDevice
    }

    fn attr(&self) -> Result<Attr, Errno> {
        Ok(*self.tty.attr.lock())
    }

    fn set_attr(&self, _cx: &Cx<'_>, set: &SetAttr) -> Result<(), Errno> {
        apply(&mut self.tty.attr.lock(), set);
        Ok(())
    }

    fn state(&self) -> &InodeState {
        &self.state
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn open(&self, cx: &Cx<'_>, flags: OpenFlags) -> Result<Box<dyn FileOps>, Errno> {
        let tty = &self.tty;
        let slave = tty.open_slave(cx.creds.capable(cap::SYS_ADMIN))?;
        // A leader of a session without a terminal gets the first that it opens.
        if let Some(task) = cx.task
            && !flags.contains(OpenFlags::NOCTTY)
            && flags.reads()
        {
            let process = &task.process;
            let free = tty.state.lock().session.is_none();
            let wants = process.session() == process.pid && process.terminal.lock().is_none();
            if free && wants {
                tty.control(process);
            }
        }
        Ok(Box::new(slave))
    }
}
