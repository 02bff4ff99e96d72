//! Device nodes. The kernel lets nobody make one in a user namespace of their own, so somebody outside of it is asked, who
//! can do nothing else: the node maker.
//!
//! One packet each way. A request is the type and the permissions, the major and the minor number, 4 bytes each and little
//! endian, and the name with its final zero byte; the directory's descriptor comes with it. The answer is an errno, 4 bytes,
//! 0 for a node that has been made.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv};

use super::errors::Result;
use super::transport::send_some;
use crate::wire::{Dev, NAME_MAX};

/// What comes before the name.
const FIXED: usize = 12;
/// The longest request, in bytes.
pub const REQUEST_MAX: usize = FIXED + NAME_MAX + 1;
/// An answer's bytes.
pub const ANSWER: usize = 4;

/// What is to be made in the directory that comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// S_IFCHR or S_IFBLK, and permissions.
    pub mode: u32,
    /// Which device.
    pub dev: Dev,
    /// One component of a path.
    pub name: &'a CStr,
}

impl<'a> Request<'a> {
    /// Checks a packet. An error is the answer to it.
    pub fn parse(packet: &'a [u8]) -> std::result::Result<Request<'a>, i32> {
        let invalid = libc::EINVAL;
        let (fixed, name) = packet.split_at_checked(FIXED).ok_or(invalid)?;
        let number = |at: usize| {
            let bytes = fixed.get(at..at.saturating_add(4))?;
            bytes.try_into().ok().map(u32::from_le_bytes)
        };
        let [Some(mode), Some(major), Some(minor)] = [0, 4, 8].map(number) else {
            return Err(invalid);
        };
        let device = matches!(mode & libc::S_IFMT, libc::S_IFCHR | libc::S_IFBLK);
        if !device || mode & !(libc::S_IFMT | 0o7777) != 0 {
            return Err(invalid);
        }
        let name = CStr::from_bytes_with_nul(name).map_err(|_| invalid)?;
        let bytes = name.to_bytes();
        if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') || bytes.len() > NAME_MAX {
            return Err(invalid);
        }
        Ok(Request { mode, dev: Dev { major, minor }, name })
    }

    /// The packet.
    fn emit(&self) -> Vec<u8> {
        let mut packet = Vec::with_capacity(REQUEST_MAX);
        for number in [self.mode, self.dev.major, self.dev.minor] {
            packet.extend(number.to_le_bytes());
        }
        packet.extend(self.name.to_bytes_with_nul());
        packet
    }
}

/// The way to the node maker.
#[derive(Debug)]
pub(super) struct Maker(pub(super) OwnedFd);

impl Maker {
    /// Has a node made, with an owner that is still to be set.
    pub(super) fn make(&self, directory: BorrowedFd<'_>, request: Request<'_>) -> Result<()> {
        let packet = request.emit();
        match send_some(self.0.as_fd(), &packet, Some(directory), SendFlags::NOSIGNAL) {
            Ok(_) => {}
            // It ends before this process does in a defect only.
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(Errno::IO),
            Err(errno) => return Err(errno),
        }
        let mut answer = [0; ANSWER];
        let (count, _) = retry_on_intr(|| recv(&self.0, &mut answer, RecvFlags::empty()))?;
        match i32::from_le_bytes(answer) {
            _ if count != ANSWER => Err(Errno::IO),
            0 => Ok(()),
            errno => Err(Errno::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_with_one_name_are_made() {
        let request = |mode, name| Request { mode, dev: Dev { major: 7, minor: 300 }, name };
        let longest = std::ffi::CString::new([b'x'; NAME_MAX]).unwrap();
        for (mode, name) in [(0o020_666, c"null"), (0o066_600, longest.as_c_str())] {
            let packet = request(mode, name).emit();
            assert!(packet.len() <= REQUEST_MAX);
            assert_eq!(Request::parse(&packet), Ok(request(mode, name)));
            for length in 0..packet.len() {
                assert_eq!(Request::parse(&packet[..length]), Err(libc::EINVAL));
            }
        }
        let longer = std::ffi::CString::new([b'x'; NAME_MAX + 1]).unwrap();
        for name in [c"", c".", c"..", c"/", c"a/b", c"/a", longer.as_c_str()] {
            assert_eq!(Request::parse(&request(0o020_666, name).emit()), Err(libc::EINVAL));
        }
        for mode in [0o666, 0o010_666, 0o040_777, 0o100_666, 0o120_777, 0o140_666, 0o1_020_666] {
            assert_eq!(Request::parse(&request(mode, c"x").emit()), Err(libc::EINVAL), "{mode:o}");
        }
        let mut inner = request(0o020_666, c"ab").emit();
        inner[FIXED] = 0;
        assert_eq!(Request::parse(&inner), Err(libc::EINVAL));
    }
}
