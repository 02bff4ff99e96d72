//! The system calls that a confined gofer may make. Any other kills the process.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// System calls allowed whatever their arguments.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // The socket.
    SYS_recvfrom, SYS_recvmsg, SYS_sendmsg, SYS_getsockopt, SYS_poll, SYS_ppoll,
    // Finding and opening files. Names are beneath descriptors; the root has nothing in it.
    SYS_openat, SYS_close, SYS_statx, SYS_fstat, SYS_newfstatat, SYS_readlinkat, SYS_fstatfs,
    SYS_getdents64, SYS_lseek,
    // Changing names and attributes.
    SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat, SYS_unlinkat, SYS_renameat,
    SYS_renameat2, SYS_fchmodat, SYS_fchownat, SYS_utimensat, SYS_getxattr, SYS_setxattr,
    SYS_listxattr, SYS_removexattr,
    // Content.
    SYS_pread64, SYS_pwrite64, SYS_ftruncate, SYS_fallocate, SYS_copy_file_range, SYS_fsync,
    SYS_fdatasync,
    // Watches.
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_read,
    // The limit on descriptors bounds the table of fids.
    SYS_getrlimit, SYS_prlimit64,
    // What the C library and Rust's do by themselves: memory, locks, hash keys, clocks, the end.
    SYS_brk, SYS_munmap, SYS_mremap, SYS_madvise, SYS_futex, SYS_getrandom, SYS_clock_gettime,
    SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_sigaltstack, SYS_restart_syscall, SYS_exit,
    SYS_exit_group,
    // A panic's message and abort().
    SYS_write, SYS_writev, SYS_rt_sigaction, SYS_getpid, SYS_gettid, SYS_tgkill,
];

/// What fcntl(2) may do: the locks that clients take, and descriptors' own flags.
const FCNTL: &[c_int] = &[F_OFD_SETLK, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL];

/// Why the filter is not in place.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// It could not be compiled.
    #[error("cannot compile: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel refused it.
    #[error("cannot install: {0}")]
    Install(#[from] seccompiler::Error),
}

/// Puts the filter over the calling thread and all that it may start.
pub(super) fn install() -> Result<(), FilterError> {
    seccompiler::apply_filter(&compile()?)?;
    Ok(())
}

fn compile() -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Memory, but never code.
    let executable = PROT_EXEC as u64;
    let no_code = SeccompCmpOp::MaskedEq(executable);
    for call in [SYS_mmap, SYS_mprotect] {
        rules.insert(call, vec![rule(2, no_code.clone(), 0)?]);
    }
    let commands = FCNTL.iter().map(|command| rule(1, SeccompCmpOp::Eq, *command as u64));
    rules.insert(SYS_fcntl, commands.collect::<Result<_, _>>()?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

/// Allows a call whose argument `index`, 32 bits of it, compares so with `value`.
fn rule(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, FilterError> {
    let condition = SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}
