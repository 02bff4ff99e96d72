//! `--preserve-fds`: descriptors of the caller, from 3 on, that a process in a container gets under the same numbers.
//!
//! Inside they are streams like the standard ones: bytes go through them, and a regular file keeps its offset with whoever
//! else has it. Nothing else of the host is reached by one, so a folder is refused.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};
use sentry::platform::StreamId;

/// The first of them.
const FIRST: RawFd = 3;
/// The most of them: what a message to the sandbox holds, with room for the other descriptors of it.
const MOST: u32 = 48;

/// Why they cannot be passed on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// More than a message can hold.
    #[error("--preserve-fds {0}: at most {MOST}")]
    TooMany(u32),
    /// The caller has none of this number.
    #[error("--preserve-fds: descriptor {0}: {1}")]
    Descriptor(RawFd, Errno),
    /// Not what bytes go through.
    #[error("--preserve-fds: descriptor {0} is no pipe, socket, file or device")]
    Kind(RawFd),
}

/// Takes so many from this process, before it opens anything of its own.
pub fn take(count: u32) -> Result<Vec<OwnedFd>, Error> {
    if count > MOST {
        return Err(Error::TooMany(count));
    }
    let mut taken = Vec::new();
    for number in (FIRST..).take(count as usize) {
        // SAFETY: it is only looked at.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let failed = |errno| Error::Descriptor(number, errno);
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(failed)?;
        // SAFETY: it is open, and nothing else in this process knows of it yet.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let kind = SFlag::from_bits_truncate(fstat(&fd).map_err(failed)?.st_mode) & SFlag::S_IFMT;
        let streams =
            [SFlag::S_IFIFO, SFlag::S_IFCHR, SFlag::S_IFREG, SFlag::S_IFSOCK, SFlag::S_IFBLK];
        if !streams.contains(&kind) {
            return Err(Error::Kind(number));
        }
        taken.push(fd);
    }
    Ok(taken)
}

/// What the sentry is told of them: which streams they are, after so many `others`, and their access modes.
pub fn streams(fds: &[OwnedFd], others: usize) -> Result<Vec<(StreamId, u32)>, Error> {
    let stream = |(index, fd): (usize, &OwnedFd)| {
        let failed = |errno| Error::Descriptor(fd.as_raw_fd(), errno);
        let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL).map_err(failed)?);
        let id = StreamId(u32::try_from(others.saturating_add(index)).unwrap_or(u32::MAX));
        Ok((id, (flags & OFlag::O_ACCMODE).bits() as u32))
    };
    fds.iter().enumerate().map(stream).collect()
}
