//! Which system calls a sandbox may make: those that its platform needs, named here.
//!
//! Calls that are allowed with any argument first, each family with its reason; the host's kernel
//! answers those from a bitmap. Whatever is not listed kills the process: its cause is a defect, or
//! an attacker, and both must be seen.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::protocol::Platform;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not compile.
    #[error("{0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("{0}")]
    Install(#[from] seccompiler::Error),
}

/// Calls that both platforms need, whatever their arguments.
#[rustfmt::skip]
const COMMON: &[c_long] = &[
    // Descriptors that were given: streams, control links, logs, donated files.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64,
    libc::SYS_pwrite64, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2,
    libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_close, libc::SYS_close_range, libc::SYS_dup,
    libc::SYS_dup2, libc::SYS_dup3,
    // Links and the gofer's socket. New sockets cannot be made or connected.
    libc::SYS_sendmsg, libc::SYS_recvmsg, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_accept4,
    libc::SYS_shutdown, libc::SYS_getsockopt, libc::SYS_setsockopt,
    // The event loop.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_epoll_pwait,
    libc::SYS_poll, libc::SYS_ppoll, libc::SYS_eventfd2, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_memfd_create,
    // Memory.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_brk, libc::SYS_mincore, libc::SYS_membarrier,
    // Threads: their making, scheduling, and waiting for each other.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq,
    libc::SYS_set_tid_address, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getppid,
    libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
    libc::SYS_getcpu, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_restart_syscall,
    // The limit on descriptors, raised to its hard limit.
    libc::SYS_getrlimit, libc::SYS_setrlimit, libc::SYS_prlimit64,
    // Signals to its own threads, as kicks.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_tgkill, libc::SYS_rt_sigtimedwait,
    // Clocks and entropy.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep, libc::SYS_gettimeofday, libc::SYS_getrandom, libc::SYS_getrusage,
];

/// What tracing needs beside those.
#[rustfmt::skip]
const PTRACE: &[c_long] = &[
    libc::SYS_ptrace, libc::SYS_wait4, libc::SYS_waitid, libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev, libc::SYS_kill, libc::SYS_tkill, libc::SYS_clone, libc::SYS_fork,
    libc::SYS_vfork,
    // Stub processes are killed by descriptor, so that no reused pid can be hit.
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal,
];

/// What vCPUs need beside those. Their threads have narrower filters of their own.
#[rustfmt::skip]
const KVM: &[c_long] = &[libc::SYS_ioctl, libc::SYS_seccomp];

/// What fcntl(2) may do: descriptors' flags, seals, and the owner that a new stub thread leaves its id in.
const FCNTL: &[c_int] = &[
    libc::F_GETFL,
    // F_GETOWN_EX (linux/fcntl.h), which glibc makes of F_GETOWN.
    16,
    libc::F_SETFL,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// What ioctl(2) may ask of streams: whether they are terminals and how large, and how much waits.
const IOCTL: &[u64] = &[libc::TCGETS, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIOCLEX];

/// What prctl(2) may do: names of threads, and of memory for whoever debugs.
const PRCTL: &[c_int] = &[libc::PR_SET_NAME, libc::PR_GET_NAME, libc::PR_SET_VMA];

/// What clone(2) and clone3(2) of the C library make: threads. clone3 hides its flags from filters,
/// so it is refused with ENOSYS and the C library takes clone.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;

/// Puts the filter over the calling thread, and all threads that it will start.
pub fn install(platform: Platform) -> Result<(), Error> {
    let program = compile(platform)?;
    let no_clone3 = refuse_clone3()?;
    // The other way round the first would not let the second in.
    apply_filter(&no_clone3)?;
    Ok(apply_filter(&program)?)
}

fn compile(platform: Platform) -> Result<BpfProgram, Error> {
    let more = match platform {
        Platform::Ptrace => PTRACE,
        Platform::Kvm => KVM,
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        COMMON.iter().chain(more).map(|call| (*call, Vec::new())).collect();
    // The other filter decides.
    rules.insert(libc::SYS_clone3, Vec::new());
    rules.insert(libc::SYS_fcntl, any_of(1, FCNTL.iter().map(|n| *n as u64))?);
    rules.insert(libc::SYS_prctl, any_of(0, PRCTL.iter().map(|n| *n as u64))?);
    rules.entry(libc::SYS_ioctl).or_insert(any_of(1, IOCTL.iter().copied())?);
    rules.entry(libc::SYS_clone).or_insert(vec![SeccompRule::new(vec![SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(THREAD),
        THREAD,
    )?])?]);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

fn refuse_clone3() -> Result<BpfProgram, Error> {
    let filter = SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

/// Rules that let an argument have one of these values.
fn any_of(
    argument: u8,
    values: impl Iterator<Item = u64>,
) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    values
        .map(|value| {
            let condition =
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
            SeccompRule::new(vec![condition])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile() {
        for platform in [Platform::Kvm, Platform::Ptrace] {
            assert!(!compile(platform).unwrap().is_empty());
        }
        assert!(!refuse_clone3().unwrap().is_empty());
    }
}
