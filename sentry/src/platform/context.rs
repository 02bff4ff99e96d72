//! What crosses the line between an application and the sentry: registers and traps.

/// The general registers, in the order of Linux's `struct user_regs_struct` (`sys/user.h`), so that
/// ptrace fills it with one call and a debugger inside reads it as it is.
///
/// At a system call, `orig_rax` holds the number and `rax` is -ENOSYS, as on Linux; the sentry puts
/// the result into `rax`. In every other trap `orig_rax` is all ones. `cs`, `ss` and the data
/// selectors are informative: a platform enters user mode with its own.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
#[allow(missing_docs)] // the names are the architecture's
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

/// How an application touched memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Exec,
    /// The platform cannot tell a load from a store here (ptrace, on a page that was not mapped).
    ReadOrWrite,
}

/// A page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address.
    pub addr: u64,
    /// What was tried.
    pub access: Access,
    /// Whether the page was mapped, without the right that was needed.
    pub present: bool,
}

/// An exception other than a page fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Its vector, see [`vector`].
    pub vector: u8,
    /// The error code the CPU pushed, or 0. Of [`vector::DEBUG`], which pushes none, why it came, as DR6 says it: bits 0
    /// to 3 for a breakpoint, bit 14 for a single step, nothing for INT1.
    pub error: u32,
}

/// Exception vectors (Intel SDM volume 3, table 6-1).
#[allow(missing_docs)] // the names are the architecture's
pub mod vector {
    pub const DIVIDE_ERROR: u8 = 0;
    pub const DEBUG: u8 = 1;
    pub const BREAKPOINT: u8 = 3;
    pub const OVERFLOW: u8 = 4;
    pub const BOUND_RANGE: u8 = 5;
    pub const INVALID_OPCODE: u8 = 6;
    pub const SEGMENT_NOT_PRESENT: u8 = 11;
    pub const STACK_SEGMENT: u8 = 12;
    pub const GENERAL_PROTECTION: u8 = 13;
    pub const PAGE_FAULT: u8 = 14;
    pub const X87: u8 = 16;
    pub const ALIGNMENT_CHECK: u8 = 17;
    pub const SIMD: u8 = 19;
}

/// Why the application stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// `SYSCALL`, in 64-bit mode.
    Syscall,
    /// A system call of another ABI (`int 0x80`, `SYSENTER`, or from 32-bit code): refused, never
    /// read as a 64-bit one.
    ForeignSyscall,
    /// A page fault.
    Fault(Fault),
    /// Another exception.
    Exception(Exception),
    /// [`Platform::kick`](super::Platform::kick) was called, or the platform wants the sentry to look.
    Kicked,
    /// As [`Kicked`](Self::Kicked), for a thread that has a [`RestartArea`](super::RestartArea): it has lost its
    /// CPU and perhaps has another now, which the sentry has to tell the application; or the host that does so
    /// itself could not reach that memory.
    Rescheduled,
    /// The application's thread or address space is gone on the host (a stub was killed).
    Lost,
}
