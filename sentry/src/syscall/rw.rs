//! read, write and their kind; lseek.

use alloc::sync::Arc;

use super::Args;
use super::file_args::Vectors;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::signalfd::SignalFd;
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
    read_into(cx, &file, &Vectors::one(args.get(1), args.size(2)), At::Current)
}

/// write(2).
pub fn write(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    write_from(cx, &file, &Vectors::one(args.get(1), args.size(2)), At::Current)
}

/// pread64(2).
pub fn pread(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = cx.files.get(args.int(0))?;
    read_into(cx, &file, &Vectors::one(args.get(1), args.size(2)), at)
}

/// pwrite64(2).
pub fn pwrite(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = cx.files.get(args.int(0))?;
    write_from(cx, &file, &Vectors::one(args.get(1), args.size(2)), at)
}

/// readv(2).
pub fn readv(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    read_into(cx, &file, &Vectors::read(cx, args.get(1), args.get(2))?, At::Current)
}

/// writev(2).
pub fn writev(cx: &mut Current, args: Args) -> SysResult {
    let file = cx.files.get(args.int(0))?;
    write_from(cx, &file, &Vectors::read(cx, args.get(1), args.get(2))?, At::Current)
}

/// preadv(2).
pub fn preadv(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = cx.files.get(args.int(0))?;
    read_into(cx, &file, &Vectors::read(cx, args.get(1), args.get(2))?, at)
}

/// pwritev(2).
pub fn pwritev(cx: &mut Current, args: Args) -> SysResult {
    let at = offset(args.get(3))?;
    let file = cx.files.get(args.int(0))?;
    write_from(cx, &file, &Vectors::read(cx, args.get(1), args.get(2))?, at)
}

/// RWF_HIPRI, RWF_DSYNC, RWF_SYNC of preadv2(2): more haste or more care, which need nothing here
/// beyond the fsync that follows a synchronous write.
const RWF_HIPRI: u32 = 1;
const RWF_DSYNC: u32 = 2;
const RWF_SYNC: u32 = 4;

fn v2(raw: u64, flags: u32) -> Result<At, Errno> {
    if flags & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC) != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if raw == u64::MAX { Ok(At::Current) } else { offset(raw) }
}

/// preadv2(2).
pub fn preadv2(cx: &mut Current, args: Args) -> SysResult {
    let at = v2(args.get(3), args.uint(5))?;
    let file = cx.files.get(args.int(0))?;
    read_into(cx, &file, &Vectors::read(cx, args.get(1), args.get(2))?, at)
}

/// pwritev2(2).
pub fn pwritev2(cx: &mut Current, args: Args) -> SysResult {
    let at = v2(args.get(3), args.uint(5))?;
    let file = cx.files.get(args.int(0))?;
    let n = write_from(cx, &file, &Vectors::read(cx, args.get(1), args.get(2))?, at)?;
    if args.uint(5) & (RWF_DSYNC | RWF_SYNC) != 0 {
        file.ops().fsync(&file, args.uint(5) & RWF_SYNC == 0)?;
    }
    Ok(n)
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
