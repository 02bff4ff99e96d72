//! Errors of operations: an errno of Linux, which the client gets.

use rustix::io::Errno;

use crate::wire::WireError;

/// The result of an operation: what fails is told to the client as an errno.
pub(super) type Result<T> = core::result::Result<T, Errno>;

/// The errno that the protocol carries: Linux's positive number.
pub(super) fn number(errno: Errno) -> u32 {
    u32::try_from(errno.raw_os_error()).unwrap_or(libc::EIO as u32)
}

/// A reply that does not fit the negotiated size is a request that asked for too much.
pub(super) fn from_wire(_: WireError) -> Errno {
    Errno::OVERFLOW
}
