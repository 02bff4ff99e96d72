//! splice, tee, vmsplice: data between pipes and files without the caller's memory in between.
//!
//! Pages are not moved here, bytes are copied inside the sentry; what can be seen is Linux's: how much a
//! call moves, when it waits, and which descriptors it takes (fs/splice.c).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::Args;
use super::copy::copy;
use super::file_args::Vectors;
use super::rw::broken_pipe;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::pipe::{Pipe, PipeEnd};
use crate::fs::types::{MAX_OFFSET, MAX_RW};
use crate::fs::{File, FileType, IoDst, IoSrc, OpenFlags};
use crate::sync::WaitQueue;
use crate::task::Current;

/// SPLICE_F_MOVE, NONBLOCK, MORE, GIFT (linux/splice.h); all but the second are hints.
const NONBLOCK: u32 = 2;
const KNOWN: u32 = 15;
/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// The pipe that a descriptor is an end of.
fn pipe_of(file: &File) -> Option<&Arc<Pipe>> {
    file.ops_as::<PipeEnd>().map(PipeEnd::pipe)
}

fn is_nonblocking(file: &File, flags: u32) -> bool {
    file.nonblocking() || flags & NONBLOCK != 0
}

/// Waits until `ready` is not `EAGAIN`, unless nothing may wait.
fn wait<T>(
    cx: &Current,
    queue: &WaitQueue,
    nonblock: bool,
    ready: impl Fn() -> Result<T, Errno>,
) -> Result<T, SysError> {
    let attempt = || match ready() {
        Err(Errno::EAGAIN) => None,
        result => Some(result),
    };
    if nonblock {
        return Ok(ready()?);
    }
    match cx.wait_for(queue, u32::MAX, None, attempt) {
        Ok(result) => Ok(result?),
        Err(blocked) => Err(blocked.or_restart(Errno::EAGAIN)),
    }
}

/// The room of a pipe that is about to be filled; who fills one that nobody reads gets a signal too.
fn wait_room(cx: &Current, pipe: &Pipe, nonblock: bool) -> Result<usize, SysError> {
    let room = wait(cx, pipe.queue(), nonblock, || pipe.has_room());
    if let Err(SysError::Errno(Errno::EPIPE)) = room {
        broken_pipe(cx);
    }
    room
}

/// What counts once something was moved: that, and not the error that ended it.
fn moved(done: usize, result: Result<(), SysError>) -> SysResult {
    match result {
        Err(e) if done == 0 => Err(e),
        _ => Ok(done as u64),
    }
}

/// From one pipe to another. With `keep` the bytes stay where they are (tee).
fn pipe_to_pipe(
    cx: &Current,
    from: &Pipe,
    to: &Pipe,
    count: usize,
    nonblock: bool,
    keep: bool,
) -> SysResult {
    let mut done: usize = 0;
    let result = loop {
        // Once something was moved, nothing is waited for.
        let nonblock = nonblock || done > 0;
        let more = match wait(cx, from.queue(), nonblock, || from.has_data()) {
            Ok(more) => more,
            Err(e) => break Err(e),
        };
        let room = match wait_room(cx, to, nonblock) {
            Ok(room) => room,
            Err(e) => break Err(e),
        };
        let want = room.min(count.saturating_sub(done)).min(CHUNK);
        if !more || want == 0 {
            break Ok(());
        }
        let data = if keep { from.peek(room.min(count)) } else { from.take(want) };
        let data = match data {
            Ok(data) => data,
            // Somebody else was faster.
            Err(Errno::EAGAIN) => continue,
            Err(e) => break Err(e.into()),
        };
        if let Err(e) = to.put(&data) {
            if !keep {
                from.give_back(&data)?;
            }
            break Err(e.into());
        }
        done = done.saturating_add(data.len());
        if keep || done >= count {
            break Ok(());
        }
    };
    moved(done, result)
}

/// From a file to a pipe: what fits now. Without an offset the file's own is used.
pub(super) fn file_to_pipe(
    cx: &Current,
    from: &Arc<File>,
    mut at: Option<&mut u64>,
    to: &Pipe,
    count: usize,
    nonblock: bool,
) -> SysResult {
    let mut room = wait_room(cx, to, nonblock)?.min(count.min(MAX_RW));
    if !is_source(from) {
        return Err(Errno::EINVAL.into());
    }
    let mut buf = vec![0u8; CHUNK.min(room)];
    let mut done: usize = 0;
    let result = loop {
        let want = CHUNK.min(room);
        let mut dst = IoDst::kernel(buf.get_mut(..want).unwrap_or(&mut []));
        let read = match &mut at {
            Some(at) => from.pread(cx, &mut dst, **at),
            // Without waiting: it can be asked directly.
            None if nonblock && from.is_stream() => {
                from.ops().read(from, &mut dst, 0).map_err(SysError::from)
            }
            None => from.read(cx, &mut dst),
        };
        let n = match read {
            Ok(n) => n.min(want),
            Err(e) => break Err(e),
        };
        if let Err(e) = to.put(buf.get(..n).unwrap_or(&[])) {
            if e == Errno::EPIPE {
                broken_pipe(cx);
            }
            break Err(e.into());
        }
        if let Some(at) = &mut at {
            **at = at.saturating_add(n as u64);
        }
        done = done.saturating_add(n);
        room = room.saturating_sub(n);
        if n < want || room == 0 || from.is_stream() {
            break Ok(());
        }
    };
    moved(done, result)
}

/// What has data that can be spliced.
fn is_source(file: &File) -> bool {
    match file.inode().kind() {
        FileType::Directory => false,
        FileType::Anonymous => false,
        FileType::Fifo => pipe_of(file).is_none(),
        _ => true,
    }
}

/// From a pipe to a file: until `count` bytes are moved or the pipe is empty.
fn pipe_to_file(
    cx: &Current,
    from: &Pipe,
    to: &Arc<File>,
    mut at: Option<&mut u64>,
    count: usize,
    nonblock: bool,
) -> SysResult {
    if to.inode().kind() == FileType::Anonymous {
        return Err(Errno::EINVAL.into());
    }
    let mut done: usize = 0;
    let result = loop {
        match wait(cx, from.queue(), nonblock || done > 0, || from.has_data()) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
        let data = match from.take(CHUNK.min(count.saturating_sub(done))) {
            Ok(data) => data,
            Err(Errno::EAGAIN) => continue,
            Err(e) => break Err(e.into()),
        };
        let mut src = IoSrc::kernel(&data);
        let wrote = match &mut at {
            Some(at) => to.pwrite(cx, &mut src, **at),
            None => to.write(cx, &mut src),
        };
        let n = match &wrote {
            Ok(n) => *n,
            Err(_) => 0,
        };
        if let Some(at) = &mut at {
            **at = at.saturating_add(n as u64);
        }
        from.give_back(data.get(n..).unwrap_or(&[]))?;
        done = done.saturating_add(n);
        match wrote {
            Err(SysError::Errno(Errno::EPIPE)) => {
                broken_pipe(cx);
                break Err(Errno::EPIPE.into());
            }
            Err(e) => break Err(e),
            Ok(n) if n < data.len() || done >= count => break Ok(()),
            Ok(_) => {}
        }
    };
    moved(done, result)
}

/// An offset that the caller gives, for a file that has offsets.
fn offset(cx: &Current, file: &File, addr: u64) -> Result<Option<u64>, Errno> {
    if addr == 0 {
        return Ok(None);
    }
    let at = cx.mm.copy_in_u64(addr)?;
    if file.is_stream() || at > MAX_OFFSET {
        return Err(Errno::EINVAL);
    }
    Ok(Some(at))
}

/// splice(2).
pub fn splice(cx: &mut Current, args: Args) -> SysResult {
    let (from_at, to_at) = (args.get(1), args.get(3));
    let (count, flags) = (args.size(4), args.uint(5));
    if count == 0 {
        return Ok(0);
    }
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let from = cx.files.get(args.int(0))?;
    let to = cx.files.get(args.int(2))?;
    let is_pipe = |file: &File| file.inode().kind() == FileType::Fifo;
    if is_pipe(&from) && from_at != 0 || is_pipe(&to) && to_at != 0 {
        return Err(Errno::ESPIPE.into());
    }
    for addr in [to_at, from_at].into_iter().filter(|addr| *addr != 0) {
        cx.mm.copy_in_u64(addr)?;
    }
    if !from.flags().reads() || !to.flags().writes() {
        return Err(Errno::EBADF.into());
    }
    match (pipe_of(&from), pipe_of(&to)) {
        (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Err(Errno::EINVAL.into()),
        (Some(a), Some(b)) => {
            let nonblock = is_nonblocking(&from, flags) || to.nonblocking();
            pipe_to_pipe(cx, a, b, count, nonblock, false)
        }
        (Some(pipe), None) => {
            let mut at = offset(cx, &to, to_at)?;
            if to.flags().contains(OpenFlags::APPEND) || count > isize::MAX as usize {
                return Err(Errno::EINVAL.into());
            }
            let nonblock = is_nonblocking(&from, flags);
            let done = pipe_to_file(cx, pipe, &to, at.as_mut(), count.min(MAX_RW), nonblock)?;
            put_offset(cx, to_at, at)?;
            Ok(done)
        }
        (None, Some(pipe)) => {
            let mut at = offset(cx, &from, from_at)?;
            if count > isize::MAX as usize {
                return Err(Errno::EINVAL.into());
            }
            let nonblock = is_nonblocking(&to, flags);
            let done = file_to_pipe(cx, &from, at.as_mut(), pipe, count, nonblock)?;
            put_offset(cx, from_at, at)?;
            Ok(done)
        }
        // A pipe of the host (a standard stream) is one too.
        (None, None) if is_pipe(&from) || is_pipe(&to) => {
            let (mut in_at, mut out_at) = (offset(cx, &from, from_at)?, offset(cx, &to, to_at)?);
            let count = count.min(CHUNK);
            let done = copy(cx, &from, in_at.as_mut(), &to, out_at.as_mut(), count)?;
            put_offset(cx, from_at, in_at)?;
            put_offset(cx, to_at, out_at)?;
            Ok(done as u64)
        }
        (None, None) => Err(Errno::EINVAL.into()),
    }
}

fn put_offset(cx: &Current, addr: u64, at: Option<u64>) -> Result<(), Errno> {
    match at {
        Some(at) => cx.mm.copy_out(addr, &at.to_le_bytes()),
        None => Ok(()),
    }
}

/// tee(2).
pub fn tee(cx: &mut Current, args: Args) -> SysResult {
    let (count, flags) = (args.size(2), args.uint(3));
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    if count == 0 {
        return Ok(0);
    }
    let from = cx.files.get(args.int(0))?;
    let to = cx.files.get(args.int(1))?;
    if !from.flags().reads() || !to.flags().writes() {
        return Err(Errno::EBADF.into());
    }
    match (pipe_of(&from), pipe_of(&to)) {
        (Some(a), Some(b)) if !Arc::ptr_eq(a, b) => {
            let nonblock = is_nonblocking(&from, flags) || to.nonblocking();
            pipe_to_pipe(cx, a, b, count, nonblock, true)
        }
        _ => Err(Errno::EINVAL.into()),
    }
}

/// vmsplice(2): into a pipe what fits, or out of it what is there. O_NONBLOCK does not count.
pub fn vmsplice(cx: &mut Current, args: Args) -> SysResult {
    let flags = args.uint(3);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL.into());
    }
    let file = cx.files.get(args.int(0))?;
    if !file.flags().writes() && !file.flags().reads() {
        return Err(Errno::EBADF.into());
    }
    let buffers = Vectors::read(cx, args.get(1), args.uint(2))?;
    let nonblock = flags & NONBLOCK != 0;
    let total = buffers.total();
    if total == 0 {
        return Ok(0);
    }
    let pipe = pipe_of(&file).ok_or(Errno::EBADF)?.clone();
    if file.flags().writes() {
        let room = wait_room(cx, &pipe, nonblock)?.min(total);
        let mut src = IoSrc::user(&*cx.mm, buffers.slots());
        let mut data: Vec<u8> = Vec::new();
        data.try_reserve_exact(room).map_err(|_| Errno::ENOMEM)?;
        data.resize(room, 0);
        let n = src.take(&mut data)?;
        match pipe.put(data.get(..n).unwrap_or(&[])) {
            Err(Errno::EPIPE) => {
                broken_pipe(cx);
                return Err(Errno::EPIPE.into());
            }
            result => result?,
        }
        return Ok(n as u64);
    }
    let mut dst = IoDst::user(&*cx.mm, buffers.slots());
    let mut done: usize = 0;
    let result = loop {
        match wait(cx, pipe.queue(), nonblock || done > 0, || pipe.has_data()) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
        let data = match pipe.take(CHUNK.min(total.saturating_sub(done))) {
            Ok(data) => data,
            Err(Errno::EAGAIN) => continue,
            Err(e) => break Err(e.into()),
        };
        let put = dst.put(&data);
        let n = *put.as_ref().unwrap_or(&0);
        pipe.give_back(data.get(n..).unwrap_or(&[]))?;
        done = done.saturating_add(n);
        match put {
            Err(e) => break Err(e.into()),
            Ok(n) if n < data.len() || done >= total => break Ok(()),
            Ok(_) => {}
        }
    };
    moved(done, result)
}
