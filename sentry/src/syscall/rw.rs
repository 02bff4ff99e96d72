//! read, write and their kind; lseek.

use alloc::sync::Arc;

use super::Args;
use super::file_args::Vectors;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::epoll::Epoll;
use crate::fs::signalfd::SignalFd;
use crate::fs::timerfd::TimerFd;
use crate::fs::types::MAX_OFFSET;
use crate::fs::{File, IoDst, IoSrc, Whence};
use crate::net::SocketFile;
use crate::signal::Signal;
use crate::task::Current;

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

fn read_into(cx: &Current, file: &Arc<File>, to: &Vectors, at: At) -> SysResult {
    let mut dst = IoDst::user(&*cx.mm, to.slots());
    if let (Some(socket), At::Current) = (file.ops_as::<SocketFile>(), at) {
        return super::message::read(cx, file, socket.socket(), &mut dst);
    }
    if let (Some(signals), At::Current) = (file.ops_as::<SignalFd>(), at) {
        return Ok(signals.read(cx, file, &mut dst)? as u64);
    }
    let n = match at {
        At::Current => file.read(cx, &mut dst)?,
        At::Offset(offset) => file.pread(cx, &mut dst, offset)?,
    };
    Ok(n as u64)
}

fn write_from(cx: &Current, file: &Arc<File>, from: &Vectors, at: At) -> SysResult {
    let mut src = IoSrc::user(&*cx.mm, from.slots());
    if let (Some(socket), At::Current) = (file.ops_as::<SocketFile>(), at) {
        return super::message::write(cx, file, socket.socket(), &mut src);
    }
    let result = match at {
        At::Current => file.write(cx, &mut src),
        At::Offset(offset) => file.pwrite(cx, &mut src, offset),
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
    read_into(cx, &file, &Vectors::one(cx, args.get(1), args.size(2))?, At::Current)
}

/// write(2).
pub fn write(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    write_from(cx, &file, &Vectors::one(cx, args.get(1), args.size(2))?, At::Current)
}

/// pread64(2).
pub fn pread(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = positioned(cx, args.int(0), at)?;
    let buffer = Vectors::one(cx, args.get(1), args.size(2))?;
    check_end(at, args.size(2))?;
    read_into(cx, &file, &buffer, at)
}

/// pwrite64(2).
pub fn pwrite(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = positioned(cx, args.int(0), at)?;
    let buffer = Vectors::one(cx, args.get(1), args.size(2))?;
    check_end(at, args.size(2))?;
    write_from(cx, &file, &buffer, at)
}

/// readv(2) and its kind.
fn read_vectors(cx: &Current, args: Args, at: At, flags: u32) -> SysResult {
    let file = positioned(cx, args.int(0), at)?;
    let buffers = Vectors::read(cx, args.get(1), args.uint(2))?;
    if moves_nothing(&file, &buffers, false)? {
        return Ok(0);
    }
    check_flags(flags)?;
    check_end(at, buffers.total())?;
    read_into(cx, &file, &buffers, at)
}

/// writev(2) and its kind.
fn write_vectors(cx: &Current, args: Args, at: At, flags: u32) -> SysResult {
    let file = positioned(cx, args.int(0), at)?;
    let buffers = Vectors::read(cx, args.get(1), args.uint(2))?;
    if moves_nothing(&file, &buffers, true)? {
        return Ok(0);
    }
    check_flags(flags)?;
    check_end(at, buffers.total())?;
    let n = write_from(cx, &file, &buffers, at)?;
    if flags & (RWF_DSYNC | RWF_SYNC) != 0 {
        file.ops().fsync(&file, flags & RWF_SYNC == 0)?;
    }
    Ok(n)
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

/// RWF_HIPRI, RWF_DSYNC, RWF_SYNC of preadv2(2): more haste or more care, which need nothing here
/// beyond the fsync that follows a synchronous write.
const RWF_HIPRI: u32 = 1;
const RWF_DSYNC: u32 = 2;
const RWF_SYNC: u32 = 4;

fn check_flags(flags: u32) -> Result<(), Errno> {
    let known = RWF_HIPRI | RWF_DSYNC | RWF_SYNC;
    if flags & !known != 0 { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
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
