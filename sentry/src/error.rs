//! How a system call fails, and how a blocked one is taken up again.

use crate::errno::Errno;

/// Why a system call does not return a value yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysError {
    /// The caller gets this error.
    Errno(Errno),
    /// A signal came while it waited.
    Interrupted(Restart),
}

/// What becomes of a call that a signal interrupted. The names are Linux's internal codes
/// (include/linux/errno.h); `signal` decides by them, in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restart {
    /// EINTR, unless the handler has SA_RESTART or no handler ran (ERESTARTSYS).
    Sys,
    /// EINTR where a handler ran, else again (ERESTARTNOHAND).
    NoHandler,
    /// Always again (ERESTARTNOINTR).
    Always,
    /// EINTR where a handler ran, else continued by restart_syscall(2) with what the task's
    /// `restart` field holds (ERESTART_RESTARTBLOCK).
    Block,
    /// EINTR in any case.
    Never,
}

impl From<Errno> for SysError {
    fn from(e: Errno) -> Self {
        SysError::Errno(e)
    }
}

/// What a system call gives.
pub type SysResult = Result<u64, SysError>;
