//! System calls: the table, and the one place that sees every call enter and leave.
//!
//! A family of calls has a file here; a handler parses its arguments and delegates to the subsystem.

mod aio;
mod attr;
mod barrier;
mod compare;
mod copy;
mod creds;
mod dir;
mod fd;
mod file_args;
mod filter;
mod futex;
mod inotify;
mod memory;
mod message;
mod mount;
mod mountfd;
mod mqueue;
mod msg;
mod names;
mod numa;
mod open;
mod poll;
mod prctl;
mod process;
mod ptrace;
mod ptrace_regs;
mod remote;
mod rw;
mod sched;
mod sem;
mod setmm;
mod shm;
mod signal;
mod socket;
mod splice;
mod stat;
mod system;
mod table;
mod time;
mod xattr;

pub use system::{RELEASE, VERSION};
pub use table::CALLS;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::errno::Errno;
use crate::error::{Restart, SysError, SysResult};
use crate::platform::{Level, PAGE_SIZE, Registers, platform};
use crate::seccomp;
use crate::task::{Current, oom, trace};

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

/// A call that is not there: counted, and said once.
pub fn missing(cx: &mut Current, _args: Args) -> SysResult {
    let number = cx.regs.orig_rax as u32;
    let count = MISSING.get(number as usize).unwrap_or(&UNKNOWN);
    if count.fetch_add(1, Ordering::Relaxed) == 0 {
        let name = entry(number).map_or("?", |e| e.name);
        platform().log(Level::Debug, format_args!("system call {number} ({name}) is not there"));
    }
    Err(Errno::ENOSYS.into())
}

/// Numbers that the dispatch table has room for.
const NUMBERS: usize = 512;

static MISSING: [AtomicU64; NUMBERS] = [const { AtomicU64::new(0) }; NUMBERS];
static UNKNOWN: AtomicU64 = AtomicU64::new(0);

/// Handlers by number, so that serving a call begins with one load.
static HANDLERS: [Handler; NUMBERS] = {
    let mut handlers: [Handler; NUMBERS] = [missing; NUMBERS];
    let mut n = 0;
    while n < CALLS.len() {
        // In a constant: an index that is too high is an error of the build.
        #[allow(clippy::indexing_slicing)]
        {
            handlers[CALLS[n].number as usize] = CALLS[n].handler;
        }
        n += 1;
    }
    handlers
};

/// The table's line for a number.
pub fn entry(number: u32) -> Option<&'static Entry> {
    let at = CALLS.binary_search_by_key(&number, |e| e.number.into()).ok()?;
    CALLS.get(at)
}

/// Calls that are not there and were made, by number; numbers beyond the table under its length.
pub fn missing_calls() -> Vec<(u32, u64)> {
    let unknown = (NUMBERS as u32, &UNKNOWN);
    (0..)
        .zip(MISSING.iter())
        .chain([unknown])
        .map(|(number, count)| (number, count.load(Ordering::Relaxed)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// Serves the call that the application has just made, and puts the result where it belongs. Every call
/// passes here, and nothing else sees all of them.
pub fn dispatch(cx: &mut Current) {
    // The number is an `int` on Linux too.
    let number = cx.regs.orig_rax as u32;
    // Put together where they are passed, so that they are not copied.
    let args = |r: &Registers| Args([r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
    let calls = &cx.task.syscalls;
    // The task alone writes it: no locked instruction is needed.
    calls.store(calls.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    if cx.task.watched.load(Ordering::Relaxed) && !cx.task.allowed.has(number) {
        return watched(cx);
    }
    let handler = HANDLERS.get(number as usize).copied().unwrap_or(missing);
    let args = args(&cx.regs);
    let result = handler(cx, args);
    finish(cx, result);
}

/// Puts a call's result where it belongs.
#[inline(always)] // two callers, one of them on the way of every system call
fn finish(cx: &mut Current, result: SysResult) {
    match result {
        Ok(value) => cx.regs.rax = value,
        Err(SysError::Errno(Errno::ENOMEM)) => out_of_memory(cx),
        Err(SysError::Errno(e)) => cx.regs.rax = e.to_rax(),
        Err(SysError::Interrupted(restart)) => {
            cx.regs.rax = Errno::EINTR.to_rax();
            cx.restart = Some(restart);
            // Whether or not the signal is still there: the restart is decided on the way out.
            cx.task.attention.store(true, Ordering::SeqCst);
        }
    }
}

/// A call found no memory. Where it was frames that it wanted, room is made, and it is made again.
#[cold]
fn out_of_memory(cx: &mut Current) {
    cx.regs.rax = Errno::ENOMEM.to_rax();
    if oom::retry_call(cx) {
        cx.restart = Some(Restart::Always);
        cx.task.attention.store(true, Ordering::SeqCst);
    }
}

/// As [`dispatch`], of a task whose calls somebody has to do with: a tracer, a filter, the log.
#[cold]
fn watched(cx: &mut Current) {
    // A tracer may have put another number and other arguments there, or -1 for no call at all: then
    // its own result counts. A filter sees what the tracer has left.
    if cx.dispatches_to_user() {
        return;
    }
    let wanted = trace::stop::syscall_entry(cx) && seccomp::check(cx);
    let number = cx.regs.orig_rax as u32;
    if wanted && number != u32::MAX {
        let r = &cx.regs;
        let args = Args([r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]);
        let handler = HANDLERS.get(number as usize).copied().unwrap_or(missing);
        let result = if cx.is_logged() {
            crate::strace::watch(cx, number, args, handler)
        } else {
            handler(cx, args)
        };
        finish(cx, result);
    }
    trace::stop::syscall_exit(cx);
}

/// Little-endian word `n` of some bytes; 0 past their end.
pub(crate) fn word(bytes: &[u8], n: usize) -> u64 {
    bytes.as_chunks::<8>().0.get(n).map_or(0, |b| u64::from_le_bytes(*b))
}

/// Reads a structure that may grow (copy_struct_from_user()): `size` is the caller's, `known` what is
/// understood here; the words. `E2BIG` where bytes beyond are not zero.
fn read_struct(cx: &Current, addr: u64, size: usize, known: usize) -> Result<Vec<u64>, Errno> {
    if size > PAGE_SIZE {
        return Err(Errno::E2BIG);
    }
    let bytes = cx.mm.copy_in_array(addr, size, 1, PAGE_SIZE)?;
    if bytes.get(known..).is_some_and(|rest| rest.iter().any(|b| *b != 0)) {
        return Err(Errno::E2BIG);
    }
    Ok((0..known.div_ceil(8)).map(|n| word(&bytes, n)).collect())
}
