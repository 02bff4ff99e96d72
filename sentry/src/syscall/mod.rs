//! System calls: the table, and the one place that sees every call enter and leave.
//!
//! A family of calls has a file here; a handler parses its arguments and delegates to the subsystem.

mod attr;
mod copy;
mod dir;
mod fd;
mod file_args;
mod memory;
mod mount;
mod names;
mod open;
mod poll;
mod rw;
mod stat;
mod table;
mod xattr;

pub use table::CALLS;

use crate::errno::Errno;
use crate::error::SysResult;
use crate::task::Current;

/// Serves one call.
pub type Handler = fn(&mut Current, Args) -> SysResult;

/// How far a call goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    /// As Linux does it.
    Full,
    /// Less: what is not there.
    Partial(&'static str),
    /// ENOSYS.
    Missing,
}

/// What an argument is, for printing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // see `strace`
pub enum ArgKind {
    /// A signed number.
    Int,
    /// An unsigned number or size.
    Size,
    /// A number printed in hexadecimal: an address or flags without names here.
    Hex,
    /// A descriptor.
    Fd,
    /// The directory descriptor of an *at call.
    DirFd,
    /// A path in memory.
    Path,
    /// A string vector in memory.
    Strings,
    /// Bytes in memory whose length is the next argument (written by the caller).
    InBuf,
    /// Bytes in memory whose length is the result (written by the call).
    OutBuf,
    /// open(2) flags.
    OpenFlags,
    /// A file mode, octal.
    Mode,
    /// A signal number.
    Signal,
    /// mmap(2) protection.
    MapProt,
    /// mmap(2) flags.
    MapFlags,
    /// clone(2) flags.
    CloneFlags,
    /// futex(2) operation.
    FutexOp,
}

/// A line of the table.
#[derive(Debug)]
pub struct Entry {
    /// Its number in rax.
    pub number: u16,
    /// Its name.
    pub name: &'static str,
    /// How far it goes.
    pub support: Support,
    /// Who serves it.
    pub handler: Handler,
    /// What its arguments are.
    pub args: &'static [ArgKind],
}

/// The six argument registers.
#[derive(Clone, Copy, Debug)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `n`, 0 to 5, as it is.
    pub fn get(&self, n: usize) -> u64 {
        self.0.get(n).copied().unwrap_or(0)
    }

    /// As a C `int`: the upper half is ignored, as Linux does.
    pub fn int(&self, n: usize) -> i32 {
        self.get(n) as i32
    }

    /// As a C `unsigned int`.
    pub fn uint(&self, n: usize) -> u32 {
        self.get(n) as u32
    }

    /// As a size, on a 64-bit machine.
    pub fn size(&self, n: usize) -> usize {
        self.get(n) as usize
    }
}

/// A call that is not there.
pub fn missing(_cx: &mut Current, _args: Args) -> SysResult {
    Err(Errno::ENOSYS.into())
}
