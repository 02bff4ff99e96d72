//! The option word of ptrace(2), with Linux's values.
#![allow(missing_docs)] // the names are those of the man page

bitflags::bitflags! {
    /// PTRACE_O_ options (linux/ptrace.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct Options: u32 {
        const TRACESYSGOOD = 1;
        const TRACEFORK = 1 << 1;
        const TRACEVFORK = 1 << 2;
        const TRACECLONE = 1 << 3;
        const TRACEEXEC = 1 << 4;
        const TRACEVFORKDONE = 1 << 5;
        const TRACEEXIT = 1 << 6;
        const TRACESECCOMP = 1 << 7;
        const EXITKILL = 1 << 20;
    }
}
