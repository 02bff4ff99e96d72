//! Copies between descriptors: sendfile, copy_file_range.

use alloc::sync::Arc;
use alloc::vec;

use super::Args;
use super::rw::broken_pipe;
use super::splice::file_to_pipe;
use crate::errno::Errno;
use crate::error::{SysError, SysResult};
use crate::fs::eventfd::EventFd;
use crate::fs::pipe::PipeEnd;
use crate::fs::types::{MAX_OFFSET, MAX_RW};
use crate::fs::{File, FileType, IoDst, IoSrc, OpenFlags};
use crate::task::Current;

/// Bytes moved at a time.
const CHUNK: usize = 64 << 10;

/// Copies up to `count` bytes, each side at an offset or where it stands (`None`); how many, and both
/// offsets move on.
pub(super) fn copy(
    cx: &Current,
    from: &Arc<File>,
    mut from_at: Option<&mut u64>,
    to: &Arc<File>,
    mut to_at: Option<&mut u64>,
    count: usize,
) -> Result<usize, SysError> {
    let mut buf = vec![0u8; CHUNK.min(count)];
    let mut done: usize = 0;
    while done < count {
        let want = CHUNK.min(count.saturating_sub(done));
        let room = buf.get_mut(..want).unwrap_or(&mut []);
        let mut dst = IoDst::kernel(room);
        let read = match &mut from_at {
            Some(at) => from.pread(cx, &mut dst, **at),
            None => from.read(cx, &mut dst),
        };
        let n = match read {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        };
        let mut put: usize = 0;
        let mut failed = None;
        while put < n && failed.is_none() {
            let mut src = IoSrc::kernel(buf.get(put..n).unwrap_or(&[]));
            let wrote = match &mut to_at {
                Some(at) => to.pwrite(cx, &mut src, **at),
                None => to.write(cx, &mut src),
            };
            match wrote {
                Ok(0) => break,
                Ok(w) => {
                    put = put.saturating_add(w);
                    if let Some(at) = &mut to_at {
                        **at = at.saturating_add(w as u64);
                    }
                }
                Err(e) => failed = Some(e),
            }
        }
        if let Some(at) = &mut from_at {
            **at = at.saturating_add(put as u64);
        } else if put < n {
            // What was read and could not be written is given back.
            from.with_offset(|at| *at = at.saturating_sub(n.saturating_sub(put) as u64));
        }
        done = done.saturating_add(put);
        match failed {
            Some(SysError::Errno(Errno::EPIPE)) => {
                broken_pipe(cx);
                return if done == 0 { Err(Errno::EPIPE.into()) } else { Ok(done) };
            }
            Some(e) if done == 0 => return Err(e),
            Some(_) => break,
            None if put < n => break,
            None => {}
        }
        if n < want && from.is_stream() {
            break;
        }
    }
    Ok(done)
}

/// sendfile(2).
pub fn sendfile(cx: &mut Current, args: Args) -> SysResult {
    let to = cx.files.get(args.int(0))?;
    let from = cx.files.get(args.int(1))?;
    let count = args.size(3).min(MAX_RW);
    if !from.flags().reads() || !to.flags().writes() {
        return Err(Errno::EBADF.into());
    }
    if args.get(2) != 0 && from.is_stream() {
        return Err(Errno::ESPIPE.into());
    }
    // What takes one number at a time cannot be spliced to.
    if (args.get(3) as i64) < 0 || to.ops_as::<EventFd>().is_some() {
        return Err(Errno::EINVAL.into());
    }
    let pipe = to.ops_as::<PipeEnd>().map(PipeEnd::pipe);
    let offset = |addr: u64| match cx.mm.copy_in_u64(addr)? {
        at if at > MAX_OFFSET => Err(Errno::EINVAL),
        at => Ok(at),
    };
    if let Some(pipe) = pipe {
        // Filled as by splice(2): with what fits.
        let mut at = match args.get(2) {
            0 => None,
            addr => Some(offset(addr)?),
        };
        let done = file_to_pipe(cx, &from, at.as_mut(), pipe, count, to.nonblocking())?;
        if let Some(at) = at {
            cx.mm.copy_out(args.get(2), &at.to_le_bytes())?;
        }
        return Ok(done);
    }
    if to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EINVAL.into());
    }
    // What cannot be read at an offset cannot be spliced from (EINVAL); Linux takes what mmap can.
    if from.is_stream() || from.inode().kind() == FileType::Directory {
        return Err(Errno::EINVAL.into());
    }
    if args.get(2) == 0 {
        return Ok(copy(cx, &from, None, &to, None, count)? as u64);
    }
    let mut at = offset(args.get(2))?;
    let done = copy(cx, &from, Some(&mut at), &to, None, count)?;
    cx.mm.copy_out(args.get(2), &at.to_le_bytes())?;
    Ok(done as u64)
}

/// copy_file_range(2).
pub fn copy_file_range(cx: &mut Current, args: Args) -> SysResult {
    let from = cx.files.get(args.int(0))?;
    let to = cx.files.get(args.int(2))?;
    if args.uint(5) != 0 {
        return Err(Errno::EINVAL.into());
    }
    for file in [&from, &to] {
        match file.inode().kind() {
            FileType::Regular if !file.is_stream() => {}
            FileType::Directory => return Err(Errno::EISDIR.into()),
            _ => return Err(Errno::EINVAL.into()),
        }
    }
    if !from.flags().reads() || !to.flags().writes() || to.flags().contains(OpenFlags::APPEND) {
        return Err(Errno::EBADF.into());
    }
    let offset = |addr: u64, file: &File| match addr {
        0 => Ok(file.offset()),
        addr => cx.mm.copy_in_u64(addr),
    };
    let mut from_at = offset(args.get(1), &from)?;
    let mut to_at = offset(args.get(3), &to)?;
    let count = args.size(4).min(MAX_RW);
    let end = |at: u64| at.checked_add(count as u64).filter(|end| *end <= MAX_OFFSET);
    let (Some(from_end), Some(to_end)) = (end(from_at), end(to_at)) else {
        return Err(Errno::EOVERFLOW.into());
    };
    // Within one file the ranges must not overlap.
    let same = Arc::ptr_eq(from.inode(), to.inode());
    if same && from_at < to_end && to_at < from_end {
        return Err(Errno::EINVAL.into());
    }
    let done = copy(cx, &from, Some(&mut from_at), &to, Some(&mut to_at), count)?;
    for (addr, file, at) in [(args.get(1), &from, from_at), (args.get(3), &to, to_at)] {
        match addr {
            0 => file.with_offset(|offset| *offset = at),
            addr => cx.mm.copy_out(addr, &at.to_le_bytes())?,
        }
    }
    Ok(done as u64)
}
