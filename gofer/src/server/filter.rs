//! The system calls that a confined gofer may make. Any other kills the process.
//!
//! What takes a call only once is done before: the bound of the table of fids, the kind of the socket, the seed of hash
//! tables.

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
    SYS_recvfrom, SYS_sendmsg, SYS_ppoll,
    // Finding files. Names are beneath descriptors; the root has nothing in it.
    SYS_openat2, SYS_close, SYS_statx, SYS_readlinkat, SYS_fstatfs, SYS_getdents64, SYS_lseek,
    // Changing names and attributes.
    SYS_mkdirat, SYS_mknodat, SYS_symlinkat, SYS_linkat, SYS_unlinkat, SYS_renameat2, SYS_fchmodat, SYS_fchownat,
    SYS_utimensat, SYS_getxattr, SYS_setxattr, SYS_listxattr, SYS_removexattr,
    // Content.
    SYS_pread64, SYS_pwrite64, SYS_ftruncate, SYS_fallocate, SYS_copy_file_range, SYS_fsync, SYS_fdatasync,
    // Watches.
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_read,
    // What the C library and Rust's do by themselves: memory, the log and its time, a panic's message, the end.
    SYS_brk, SYS_munmap, SYS_mremap, SYS_write, SYS_clock_gettime, SYS_gettid, SYS_sigaltstack, SYS_exit_group,
];

/// What fcntl(2) may do: the locks that clients take, and descriptors' own flags.
const FCNTL: &[c_int] = &[F_OFD_SETLK, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL];

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

/// The filter of a gofer, compiled.
pub fn program() -> Result<BpfProgram, FilterError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Memory, but never code.
    rules.insert(SYS_mmap, vec![rule(2, SeccompCmpOp::MaskedEq(PROT_EXEC as u64), 0)?]);
    // Only from the root, which holds the process's own descriptors and nothing else: what a client names goes through
    // openat2(2).
    rules.insert(SYS_openat, vec![rule(0, SeccompCmpOp::Eq, u64::from(AT_FDCWD.cast_unsigned()))?]);
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
