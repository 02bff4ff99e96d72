//! The flag words of clone(2) and wait(2), with Linux's values.
#![allow(missing_docs)] // the names of the flags are those of the man pages

bitflags::bitflags! {
    /// Flags of clone(2) (linux/sched.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct CloneFlags: u64 {
        const NEWTIME = 0x80;
        const VM = 0x100;
        const FS = 0x200;
        const FILES = 0x400;
        const SIGHAND = 0x800;
        const PIDFD = 0x1000;
        const PTRACE = 0x2000;
        const VFORK = 0x4000;
        const PARENT = 0x8000;
        const THREAD = 0x1_0000;
        const NEWNS = 0x2_0000;
        const SYSVSEM = 0x4_0000;
        const SETTLS = 0x8_0000;
        const PARENT_SETTID = 0x10_0000;
        const CHILD_CLEARTID = 0x20_0000;
        const DETACHED = 0x40_0000;
        const UNTRACED = 0x80_0000;
        const CHILD_SETTID = 0x100_0000;
        const NEWCGROUP = 0x200_0000;
        const NEWUTS = 0x400_0000;
        const NEWIPC = 0x800_0000;
        const NEWUSER = 0x1000_0000;
        const NEWPID = 0x2000_0000;
        const NEWNET = 0x4000_0000;
        const IO = 0x8000_0000;
        const CLEAR_SIGHAND = 0x1_0000_0000;
        const INTO_CGROUP = 0x2_0000_0000;
    }
}

bitflags::bitflags! {
    /// Options of wait4(2) and waitid(2) (linux/wait.h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct WaitOptions: u32 {
        const WNOHANG = 1;
        /// WUNTRACED too.
        const WSTOPPED = 2;
        const WEXITED = 4;
        const WCONTINUED = 8;
        const WNOWAIT = 0x0100_0000;
        const WNOTHREAD = 0x2000_0000;
        const WALL = 0x4000_0000;
        const WCLONE = 0x8000_0000;
    }
}
