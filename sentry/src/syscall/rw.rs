//! read, write and their kind; lseek.

use alloc::sync::Arc;

use super::Args;
use super::file_args::Vectors;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::epoll::Epoll;
use crate::fs::eventfd::EventFd;
use crate::fs::inotify::Inotify;
use crate::fs::signalfd::SignalFd;
use crate::fs::timerfd::TimerFd;
use crate::fs::types::MAX_OFFSET;
use crate::fs::{Blocker, Events, File, FileType, IoDst, IoSrc, Whence};
use crate::net::{MsgFlags, SocketFile};
use crate::signal::Signal;
use crate::sync::WaitQueue;
use crate::task::{Blocked, Current};

/// Where a transfer happens.
#[derive(Clone, Copy)]
enum At {
    Current,
    Offset(u64),
}

fn offset(raw: u64) -> Result<At, Errno> {
    if raw > MAX_OFFSET { Err(Errno::EINVAL) } else { Ok(At::Offset(raw)) }
}

/// A descriptor's file, and that it has offsets, which Linux asks for before whether it reads or writes.
fn positioned(cx: &Current, fd: i32, at: At) -> Result<Arc<File>, Errno> {
    let file = cx.files.get(fd)?;
    if matches!(at, At::Offset(_)) && file.is_stream() {
        return Err(Errno::ESPIPE);
    }
    Ok(file)
}

/// No transfer may end beyond the greatest offset.
fn check_end(at: At, len: usize) -> Result<(), Errno> {
    match at {
        At::Offset(offset) if offset.saturating_add(len as u64) > MAX_OFFSET => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// Whether a file can be read or written at all: a call with vectors of nothing succeeds on it, whatever it is.
fn moves_nothing(file: &File, buffers: &Vectors, writes: bool) -> Result<bool, Errno> {
    if buffers.total() > 0 {
        return Ok(false);
    }
    let flags = file.flags();
    if !(if writes { flags.writes() } else { flags.reads() }) {
        return Err(Errno::EBADF);
    }
    let unwritable = file.ops_as::<TimerFd>().is_some() || file.ops_as::<SignalFd>().is_some();
    Ok(file.ops_as::<Epoll>().is_none() && !(writes && unwritable))
}

/// Flags of preadv2(2) (linux/fs.h). RWF_HIPRI asks for haste, of which there is no more to be had.
const RWF_HIPRI: u32 = 0x1;
const RWF_DSYNC: u32 = 0x2;
const RWF_SYNC: u32 = 0x4;
const RWF_NOWAIT: u32 = 0x8;
const RWF_APPEND: u32 = 0x10;
const RWF_NOAPPEND: u32 = 0x20;

/// A caller that does not wait (RWF_NOWAIT).
struct Hurried<'a>(&'a Current);

impl Blocker for Hurried<'_> {
    fn wait(
        &self,
        _queue: &WaitQueue,
        _events: Events,
        _deadline: Option<u64>,
        _ready: &mut dyn FnMut() -> bool,
    ) -> Result<(), Blocked> {
        Err(Blocked::TimedOut)
    }

    fn current(&self) -> Option<&Current> {
        Some(self.0)
    }
}

/// What a socket's transfer is told of the flags.
fn message_flags(flags: u32) -> MsgFlags {
    if flags & RWF_NOWAIT != 0 { MsgFlags::DONTWAIT } else { MsgFlags::empty() }
}

fn read_into(cx: &Current, file: &Arc<File>, to: &Vectors, at: At, flags: u32) -> SysResult {
    let mut dst = IoDst::user(&*cx.mm, to.slots());
    if let (Some(socket), At::Current) = (file.ops_as::<SocketFile>(), at) {
        return super::message::read(cx, file, socket.socket(), &mut dst, message_flags(flags));
    }
    let hurried = Hurried(cx);
    let waiter: &dyn Blocker = if flags & RWF_NOWAIT != 0 { &hurried } else { cx };
    if let (Some(signals), At::Current) = (file.ops_as::<SignalFd>(), at) {
        return Ok(signals.read(cx, waiter, file, &mut dst)? as u64);
    }
    let n = match at {
        At::Current => file.read(waiter, &mut dst)?,
        At::Offset(offset) => file.pread(waiter, &mut dst, offset)?,
    };
    Ok(n as u64)
}

fn write_from(cx: &Current, file: &Arc<File>, from: &Vectors, at: At, flags: u32) -> SysResult {
    let mut src = IoSrc::user(&*cx.mm, from.slots());
    if flags & (RWF_APPEND | RWF_NOAPPEND) != 0 {
        src.append(flags & RWF_APPEND != 0);
    }
    if let (Some(socket), At::Current) = (file.ops_as::<SocketFile>(), at) {
        return super::message::write(cx, file, socket.socket(), &mut src, message_flags(flags));
    }
    let hurried = Hurried(cx);
    let waiter: &dyn Blocker = if flags & RWF_NOWAIT != 0 { &hurried } else { cx };
    let result = match at {
        At::Current => file.write(waiter, &mut src),
        At::Offset(offset) => file.pwrite(waiter, &mut src, offset),
    };
    match result {
        Err(SysError::Errno(Errno::EPIPE)) => {
            broken_pipe(cx);
            Err(Errno::EPIPE.into())
        }
        result => Ok(result? as u64),
    }
}

/// Whoever writes where nobody reads gets a signal too.
pub(super) fn broken_pipe(cx: &Current) {
    cx.raise(Signal::SIGPIPE);
}

/// read(2).
pub fn read(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    read_into(cx, &file, &Vectors::one(cx, args.get(1), args.size(2))?, At::Current, 0)
}

/// write(2).
pub fn write(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    write_from(cx, &file, &Vectors::one(cx, args.get(1), args.size(2))?, At::Current, 0)
}

/// pread64(2).
pub fn pread(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = positioned(cx, args.int(0), at)?;
    let buffer = Vectors::one(cx, args.get(1), args.size(2))?;
    check_end(at, args.size(2))?;
    read_into(cx, &file, &buffer, at, 0)
}

/// pwrite64(2).
pub fn pwrite(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = positioned(cx, args.int(0), at)?;
    let buffer = Vectors::one(cx, args.get(1), args.size(2))?;
    check_end(at, args.size(2))?;
    write_from(cx, &file, &buffer, at, 0)
}

/// What a call with vectors is about; `None`: there is nothing to move.
fn vectors(
    cx: &Current,
    args: Args,
    at: At,
    flags: u32,
    writes: bool,
) -> Result<Option<(Arc<File>, Vectors)>, Errno> {
    let file = positioned(cx, args.int(0), at)?;
    let buffers = Vectors::read(cx, args.get(1), args.uint(2))?;
    if moves_nothing(&file, &buffers, writes)? {
        return Ok(None);
    }
    check_flags(&file, flags, writes)?;
    check_end(at, buffers.total())?;
    Ok(Some((file, buffers)))
}

/// readv(2) and its kind.
fn read_vectors(cx: &Current, args: Args, at: At, flags: u32) -> SysResult {
    match vectors(cx, args, at, flags, false)? {
        None => Ok(0),
        Some((file, buffers)) => read_into(cx, &file, &buffers, at, flags),
    }
}

/// writev(2) and its kind.
fn write_vectors(cx: &Current, args: Args, at: At, flags: u32) -> SysResult {
    let Some((file, buffers)) = vectors(cx, args, at, flags, true)? else { return Ok(0) };
    let n = write_from(cx, &file, &buffers, at, flags)?;
    written(&file, flags)?;
    Ok(n)
}

/// Whether a file can do what flags of preadv2(2) ask for (kiocb_set_rw_flags()).
fn check_flags(file: &File, flags: u32, writes: bool) -> Result<(), Errno> {
    const ALL: u32 = RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND | RWF_NOAPPEND;
    if flags & !ALL != 0 || flags & RWF_NOWAIT != 0 && !file.ops().can_hurry(writes) {
        return Err(Errno::EOPNOTSUPP);
    }
    let both = RWF_APPEND | RWF_NOAPPEND;
    if flags & both == both { Err(Errno::EINVAL) } else { Ok(()) }
}

/// Whether a file can be read or written by io_submit(2) with these flags (aio_read()).
pub(super) fn check_asynchronous(file: &File, flags: u32, writes: bool) -> Result<(), Errno> {
    check_flags(file, flags, writes)?;
    let open = file.flags();
    if !(if writes { open.writes() } else { open.reads() }) {
        return Err(Errno::EBADF);
    }
    // Those that Linux reads by another way only.
    let other = file.inode().kind() == FileType::Directory
        || file.ops_as::<Epoll>().is_some()
        || file.ops_as::<TimerFd>().is_some()
        || file.ops_as::<SignalFd>().is_some()
        || file.ops_as::<Inotify>().is_some()
        || writes && file.ops_as::<EventFd>().is_some();
    if other { Err(Errno::EINVAL) } else { Ok(()) }
}

/// A read or write of io_submit(2), waited for where Linux waits for it: streams have no other way.
pub(super) fn transfer(
    cx: &Current,
    file: &Arc<File>,
    buffers: &Vectors,
    offset: u64,
    flags: u32,
    writes: bool,
) -> SysResult {
    // Other streams take no notice of an offset.
    if offset != 0 && file.ops_as::<SocketFile>().is_some() {
        return Err(Errno::ESPIPE.into());
    }
    if buffers.total() == 0 {
        return Ok(0);
    }
    let at = if file.is_stream() { At::Current } else { At::Offset(offset) };
    if !writes {
        return read_into(cx, file, buffers, at, flags);
    }
    let n = write_from(cx, file, buffers, at, flags)?;
    written(file, flags)?;
    Ok(n)
}

/// What flags ask for after a write.
fn written(file: &File, flags: u32) -> Result<(), Errno> {
    if flags & (RWF_DSYNC | RWF_SYNC) != 0 {
        file.ops().fsync(file, flags & RWF_SYNC == 0)?;
    }
    Ok(())
}

/// readv(2).
pub fn readv(cx: &mut Current, args: Args) -> SysResult {
    read_vectors(cx, args, At::Current, 0)
}

/// writev(2).
pub fn writev(cx: &mut Current, args: Args) -> SysResult {
    write_vectors(cx, args, At::Current, 0)
}

/// preadv(2).
pub fn preadv(cx: &mut Current, args: Args) -> SysResult {
    read_vectors(cx, args, offset(args.get(3))?, 0)
}

/// pwritev(2).
pub fn pwritev(cx: &mut Current, args: Args) -> SysResult {
    write_vectors(cx, args, offset(args.get(3))?, 0)
}

/// Offset -1 of preadv2(2) means the file's own.
fn v2(raw: u64) -> Result<At, Errno> {
    if raw == u64::MAX { Ok(At::Current) } else { offset(raw) }
}

/// preadv2(2).
pub fn preadv2(cx: &mut Current, args: Args) -> SysResult {
    read_vectors(cx, args, v2(args.get(3))?, args.uint(5))
}

/// pwritev2(2).
pub fn pwritev2(cx: &mut Current, args: Args) -> SysResult {
    write_vectors(cx, args, v2(args.get(3))?, args.uint(5))
}

/// lseek(2).
pub fn lseek(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    let whence = match args.uint(2) {
        0 => Whence::Set,
        1 => Whence::Current,
        2 => Whence::End,
        3 => Whence::Data,
        4 => Whence::Hole,
        _ => return Err(Errno::EINVAL.into()),
    };
    Ok(file.seek(args.get(1) as i64, whence)?)
}
