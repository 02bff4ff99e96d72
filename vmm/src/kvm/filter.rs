//! Which system calls a vCPU's thread may make: a narrower filter over the process's.
//!
//! A vCPU thread runs the guest and, for synchronous calls, moves bytes between guest memory and files
//! or streams. It opens nothing, sends no descriptor, starts no thread, and maps nothing that could be
//! executed. Whatever is not listed kills the process.

use std::collections::BTreeMap;

use kvm_bindings::{KVMIO, kvm_regs, kvm_sregs};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not compile.
    #[error("the filter of a vCPU's thread does not compile: {0}")]
    Compile(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the filter of a vCPU's thread is not taken: {0}")]
    Install(std::io::Error),
}

/// Calls with any argument.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Donated files and streams, the log, eventfds; descriptors that are open already.
    libc::SYS_read, libc::SYS_write, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_poll,
    libc::SYS_recvfrom, libc::SYS_sendto,
    // The size of a file, when a request asks for it or one has shrunk.
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    // The end of a donation.
    libc::SYS_close,
    // Guest memory that is given back or asked for, and the allocator's.
    libc::SYS_madvise, libc::SYS_munmap, libc::SYS_brk,
    // Locks.
    libc::SYS_futex, libc::SYS_sched_yield,
    // The end of the thread, and of the process where it panics.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack, libc::SYS_restart_syscall, libc::SYS_gettid,
    libc::SYS_getpid, libc::SYS_tgkill,
    // Time stamps of log lines, where the vDSO cannot tell.
    libc::SYS_clock_gettime,
];

/// What ioctl(2) may ask: to run, where the vCPU was when it stopped, and a terminal's size.
const IOCTL: &[u64] = &[
    none(0x80),                                // KVM_RUN
    read(0x81, size_of::<kvm_regs>() as u64),  // KVM_GET_REGS
    read(0x83, size_of::<kvm_sregs>() as u64), // KVM_GET_SREGS
    libc::TIOCGWINSZ,
];

/// _IO(KVMIO, number) (asm-generic/ioctl.h).
const fn none(number: u64) -> u64 {
    (KVMIO as u64) << 8 | number
}

/// _IOR(KVMIO, number, size).
const fn read(number: u64, size: u64) -> u64 {
    2 << 30 | size << 16 | none(number)
}

/// The filter, compiled.
pub fn vcpu() -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    let ioctl = IOCTL
        .iter()
        .map(|request| rule(1, SeccompCmpOp::Eq, *request))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctl);
    // With debug assertions the standard library looks whether what it closes is open.
    let get_flags = rule(1, SeccompCmpOp::Eq, libc::F_GETFD as u64)?;
    rules.insert(libc::SYS_fcntl, vec![get_flags]);
    // Maps and protects, but never so that it could be executed.
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(2, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(filter.try_into()?)
}

fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, Error> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

/// Puts a filter over the calling thread. no_new_privs is set already.
///
/// Not seccompiler's function: that would set it again, which the process's filter need not allow.
pub fn apply(program: &BpfProgram) -> Result<(), Error> {
    let program = libc::sock_fprog {
        // A filter has at most 4096 instructions (seccomp(2)), which the kernel checks.
        len: program.len() as u16,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the program and its description are alive, and the kernel only reads them.
    let rc = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if rc == 0 { Ok(()) } else { Err(Error::Install(std::io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    /// Runs `f` under the filter in a child.
    fn filtered(f: impl FnOnce()) -> ExitStatus {
        let program = vcpu().unwrap();
        // SAFETY: the child makes plain system calls and _exits.
        unsafe {
            match libc::fork() {
                0 => {
                    libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                    let status = match apply(&program) {
                        Ok(()) => {
                            f();
                            0
                        }
                        Err(_) => 1,
                    };
                    libc::_exit(status)
                }
                pid => {
                    let mut status = 0;
                    assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
                    ExitStatus::from_raw(status)
                }
            }
        }
    }

    #[test]
    fn a_vcpu_thread_can_serve_and_nothing_else() {
        let map = |prot| {
            // SAFETY: a new mapping.
            unsafe {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0);
            }
        };
        let call = |number: c_long, args: [u64; 2]| {
            // SAFETY: none of these gets a valid pointer.
            unsafe { libc::syscall(number, args[0], args[1], 0, 0, 0) };
        };
        let served = filtered(|| {
            map(libc::PROT_READ | libc::PROT_WRITE);
            // SAFETY: no pointers, or ones that the kernel refuses.
            unsafe {
                libc::lseek(0, 0, 1);
                libc::ioctl(-1, none(0x80) as _, 0);
                libc::syscall(libc::SYS_gettid);
            }
        });
        assert!(served.success(), "{served}");
        let killed: [&dyn Fn(); 5] = [
            &|| map(libc::PROT_READ | libc::PROT_EXEC),
            &|| call(libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64]),
            &|| call(libc::SYS_ioctl, [0, libc::TIOCSTI]),
            &|| call(libc::SYS_openat, [u64::MAX, 0]),
            &|| call(libc::SYS_clone, [0, 0]),
        ];
        for (n, call) in killed.iter().enumerate() {
            let status = filtered(call);
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{n}: {status}");
        }
    }
}
