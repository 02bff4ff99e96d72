//! The master of a pseudo-terminal (pty(7), ptmx(4)).

use alloc::sync::Arc;
use core::any::Any;

use super::packet::Head;
use super::{CHUNK, Tty};
use crate::errno::Errno;
use crate::error::SysResult;
use crate::fs::fasync::Tells;
use crate::fs::file::File;
use crate::fs::inode::{FileOps, Written};
use crate::fs::io::{IoDst, IoSrc};
use crate::fs::types::{Events, OpenFlags};
use crate::fs::{Path, WalkFlags};
use crate::signal::Signal;
use crate::sync::WaitQueue;
use crate::task::{Current, limit};

/// asm-generic/ioctls.h.
const TIOCGPTN: u32 = 0x8004_5430;
const TIOCSPTLCK: u32 = 0x4004_5431;
const TIOCGPTLCK: u32 = 0x8004_5439;
const TIOCGPTPEER: u32 = 0x5441;
const TIOCPKT: u32 = 0x5420;
const TIOCGPKT: u32 = 0x8004_5438;
const TIOCSIG: u32 = 0x4004_5436;

/// An open master.
pub struct Master {
    tty: Arc<Tty>,
    pts: Arc<super::Devpts>,
}

impl Master {
    /// The one of a terminal that nobody else has.
    pub(super) fn new(tty: Arc<Tty>, pts: Arc<super::Devpts>) -> Master {
        Master { tty, pts }
    }
}

impl FileOps for Master {
    fn read(&self, _file: &File, dst: &mut IoDst<'_>, _offset: u64) -> Result<usize, Errno> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let (waiting, head) = {
            let mut state = self.tty.state.lock();
            match (state.packets.take(), state.out.len()) {
                (Head::News(news), _) => {
                    drop(state);
                    return dst.put(&[news]);
                }
                (_, 0) if state.left => return Err(Errno::EIO),
                (_, 0) => return Err(Errno::EAGAIN),
                (head, n) => (n, head),
            }
        };
        let head = match head {
            Head::Data => {
                dst.put(&[0])?;
                1
            }
            _ => 0,
        };
        if dst.remaining() == 0 {
            return Ok(head);
        }
        let done = dst.fill_with(waiting.min(dst.remaining()), |_, buf| {
            let mut state = self.tty.state.lock();
            let n = state.out.len().min(buf.len());
            for (to, from) in buf.iter_mut().zip(state.out.drain(..n)) {
                *to = from;
            }
            Ok(n)
        });
        self.tty.queue.wake(Events::WRITABLE.bits());
        done.map(|n| n.saturating_add(head))
    }

    fn write(&self, _file: &File, src: &mut IoSrc<'_>, _offset: u64) -> Result<Written, Errno> {
        if src.remaining() == 0 {
            return Ok(Written { count: 0, end: 0 });
        }
        let count = src.drain_with(CHUNK, |_, data| match self.tty.input(data) {
            0 => Err(Errno::EAGAIN),
            n => Ok(n),
        })?;
        Ok(Written { count, end: 0 })
    }

    fn is_stream(&self) -> bool {
        true
    }

    fn poll(&self, _file: &File) -> Events {
        let state = self.tty.state.lock();
        let mut events = Events::empty();
        let news = state.packets.has_news();
        events.set(Events::READABLE, news || !state.out.is_empty());
        events.set(Events::PRI, news);
        events.set(Events::WRITABLE, state.discipline.room() > 0);
        events.set(Events::HUP, state.left);
        events
    }

    fn queue(&self) -> Option<&WaitQueue> {
        Some(&self.tty.master_queue)
    }

    fn tells(&self) -> Option<Tells> {
        self.tty.tells()
    }

    fn available(&self, _file: &File) -> Result<usize, Errno> {
        Ok(self.tty.state.lock().out.len())
    }

    fn ioctl(&self, cx: &mut Current, file: &File, command: u32, arg: u64) -> SysResult {
        match command {
            TIOCGPTN => cx.mm.copy_out(arg, &self.tty.index.to_le_bytes())?,
            TIOCSPTLCK => {
                let locked = cx.mm.copy_in_u32(arg)? != 0;
                self.tty.state.lock().locked = locked;
            }
            TIOCGPTLCK => {
                let locked = u32::from(self.tty.state.lock().locked);
                cx.mm.copy_out(arg, &locked.to_le_bytes())?;
            }
            TIOCPKT => {
                let on = cx.mm.copy_in_u32(arg)? != 0;
                self.tty.state.lock().packets.set(on);
            }
            TIOCGPKT => {
                let on = u32::from(self.tty.state.lock().packets.is_on());
                cx.mm.copy_out(arg, &on.to_le_bytes())?;
            }
            TIOCSIG => {
                let signal = i32::try_from(arg).map_err(|_| Errno::EINVAL)?;
                let signal = Signal::new(signal)?;
                if ![Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP].contains(&signal) {
                    return Err(Errno::EINVAL.into());
                }
                self.tty.signal_foreground(signal);
            }
            TIOCGPTPEER => {
                // By its name beside the master's own, whatever is mounted elsewhere.
                let mount = &file.path().ok_or(Errno::EIO)?.mount;
                let flags = u32::try_from(arg).map_err(|_| Errno::EINVAL)?;
                let flags = OpenFlags::from_bits_truncate(flags);
                let name = alloc::format!("{}", self.tty.index);
                let root = Path::root_of(mount);
                let peer =
                    cx.cx().open(cx, Some(&root), name.as_bytes(), flags, 0, WalkFlags::empty())?;
                let most = cx.task.process.limits.soft(limit::RLIMIT_NOFILE);
                let cloexec = flags.contains(OpenFlags::CLOEXEC);
                return Ok(cx.files.insert(peer, cloexec, most)? as u64);
            }
            _ => return self.tty.ioctl(cx, command, arg, true),
        }
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.pts.remove(&self.tty);
        self.tty.hang_up();
    }
}
