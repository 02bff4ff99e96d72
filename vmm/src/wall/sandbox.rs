//! The filters of the sandbox's threads, by what they do.
//!
//! They are put up when all that a sandbox needs is there and before anything of a container has come: the event loop
//! exists, KVM's machine or the pristine stub is made, and the sentry runs. So none of what only setting up takes is in
//! them: nothing is opened or connected, no socket and no event descriptor is made, no signal's action changes.
//!
//! - the **event loop**, on the process's first thread; on KVM it starts the threads of vCPUs, which inherit its filter;
//! - a **vCPU**: runs the guest, and moves bytes between its memory and descriptors that are open;
//! - the **sentry**, under ptrace: its tasks and its service thread.

use kvm_bindings::{
    KVMIO, kvm_clock_data, kvm_cpuid2, kvm_irqfd, kvm_mp_state, kvm_regs, kvm_sregs,
};
use libc::{c_int, c_long};
use seccompiler::BpfProgram;

use super::filter::{self, Error, Over, Rules};
use crate::protocol::Platform;

/// What every thread does: it moves bytes, has memory, waits, and ends.
#[rustfmt::skip]
const COMMON: &[c_long] = &[
    // Descriptors that were given: streams, links, logs, donated files, counters of events.
    libc::SYS_read, libc::SYS_write, libc::SYS_lseek, libc::SYS_fstat, libc::SYS_close, libc::SYS_poll,
    // Links and sockets that are there. Every message has room for descriptors or none.
    libc::SYS_sendmsg, libc::SYS_recvmsg,
    // Memory.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk,
    // Locks.
    libc::SYS_futex,
    // What the C library does with a thread at its start and end.
    libc::SYS_rt_sigprocmask, libc::SYS_sigaltstack, libc::SYS_exit,
    // Kicks, and calls that a stop interrupted.
    libc::SYS_rt_sigreturn, libc::SYS_restart_syscall,
    // A panic: its message names the thread, and abort(3) signals it.
    libc::SYS_gettid, libc::SYS_getpid, libc::SYS_tgkill, libc::SYS_exit_group,
    // Where the vDSO cannot tell.
    libc::SYS_clock_gettime,
];

/// Files on KVM: one call each way, at a position or the file's own, waiting or not.
const VECTORS: &[c_long] = &[libc::SYS_preadv2, libc::SYS_pwritev2];

/// A thread's start, as the C library makes one.
const START: &[c_long] = &[libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_getaffinity];

/// The event loop.
#[rustfmt::skip]
const LOOP: &[c_long] = &[
    libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_accept4,
    // A message too long for a packet.
    libc::SYS_memfd_create,
];

/// The sentry under ptrace.
#[rustfmt::skip]
const TRACER: &[c_long] = &[
    libc::SYS_ptrace, libc::SYS_wait4, libc::SYS_getrandom,
    // Stubs are killed by descriptor, so that no reused pid can be hit, and answer by an event descriptor.
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_eventfd2,
    // A tracee runs on its tracer's CPU.
    libc::SYS_sched_setaffinity, libc::SYS_getcpu, libc::SYS_sched_yield,
    // Donated files, and memory that goes back to the host.
    libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_fallocate,
    // The gofer's socket and streams.
    libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_epoll_ctl, libc::SYS_epoll_wait,
];

/// What a vCPU's thread asks of KVM and of streams.
const VCPU_IOCTL: &[u64] = &[
    request(NONE, 0x80, 0), // KVM_RUN
    request(READ, 0x81, size_of::<kvm_regs>()),
    request(READ, 0x83, size_of::<kvm_sregs>()),
    libc::TIOCGWINSZ,
];

/// What the event loop asks of them beside that: the time, and new vCPUs.
const LOOP_IOCTL: &[u64] = &[
    request(READ, 0x7c, size_of::<kvm_clock_data>()), // KVM_GET_CLOCK
    request(NONE, 0x41, 0),                           // KVM_CREATE_VCPU
    request(WRITE, 0x90, size_of::<kvm_cpuid2>()),    // KVM_SET_CPUID2
    request(WRITE, 0x84, size_of::<kvm_sregs>()),     // KVM_SET_SREGS
    request(WRITE, 0x82, size_of::<kvm_regs>()),      // KVM_SET_REGS
    request(WRITE, 0x99, size_of::<kvm_mp_state>()),  // KVM_SET_MP_STATE
    request(WRITE, 0x76, size_of::<kvm_irqfd>()),     // KVM_IRQFD
    request(NONE, 0xce, 0),                           // KVM_GET_STATS_FD
    libc::TCGETS,
];

/// What is asked of streams under ptrace: whether they are terminals, and how large.
const STREAM_IOCTL: &[u64] = &[libc::TCGETS, libc::TIOCGWINSZ];

const NONE: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;

/// A request of KVM's (asm-generic/ioctl.h).
const fn request(direction: u64, number: u64, size: usize) -> u64 {
    direction << 30 | (size as u64) << 16 | (KVMIO as u64) << 8 | number
}

/// What fcntl(2) may do: how a file was opened, and a message's seals.
const FCNTL: &[c_int] = &[libc::F_GETFL, libc::F_GETFD, libc::F_ADD_SEALS, libc::F_GET_SEALS];
/// F_GETOWN_EX (linux/fcntl.h), which glibc makes of F_GETOWN: a new stub thread leaves its id there.
const F_GETOWN_EX: c_int = 16;

/// What prctl(2) may do: names of threads, and of memory for whoever debugs; and what the event loop does.
const PRCTL: &[c_int] = &[libc::PR_SET_NAME, libc::PR_SET_VMA, LIVE_ON];
/// The event loop alone: a sandbox that several containers are in does not end with the stand-in of the first.
const LIVE_ON: c_int = libc::PR_SET_PDEATHSIG;

/// clone(2) makes threads.
const THREAD: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;
/// And no namespaces.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u64;

fn numbers(list: &[c_int]) -> impl Iterator<Item = u64> {
    list.iter().map(|n| *n as u64)
}

/// Threads can be started; clone3(2), which hides its flags from filters, is for [`no_clone3`] to refuse.
fn threads(rules: Rules) -> Result<Rules, Error> {
    let rules = rules.any(START).any(&[libc::SYS_clone3]);
    rules.masked(libc::SYS_clone, 0, THREAD | NAMESPACES, THREAD)?.one_of(
        libc::SYS_prctl,
        0,
        numbers(PRCTL),
    )
}

/// Another filter can be put over this one.
fn narrower(rules: Rules) -> Result<Rules, Error> {
    rules.one_of(libc::SYS_seccomp, 0, [u64::from(libc::SECCOMP_SET_MODE_FILTER)])
}

/// The C library takes clone(2) when it has been told that there is no clone3(2).
pub fn no_clone3() -> Result<BpfProgram, Error> {
    filter::refuse(libc::SYS_clone3)
}

/// A vCPU's thread. It never begins a thread, nor changes what a descriptor is.
pub fn vcpu() -> Result<BpfProgram, Error> {
    let rules = Rules::default().any(COMMON).any(VECTORS).memory_without_code()?;
    // With debug assertions the standard library looks whether what it closes is open.
    let rules = rules.one_of(libc::SYS_fcntl, 1, numbers(&[libc::F_GETFD]))?;
    rules.one_of(libc::SYS_ioctl, 1, VCPU_IOCTL.iter().copied())?.compile()
}

/// The event loop on KVM, which is over the threads of later vCPUs too.
pub fn kvm_loop() -> Result<BpfProgram, Error> {
    let rules = Rules::default().any(COMMON).any(VECTORS).any(LOOP).memory_without_code()?;
    let rules = narrower(threads(rules)?)?.one_of(libc::SYS_fcntl, 1, numbers(FCNTL))?;
    let requests = VCPU_IOCTL.iter().chain(LOOP_IOCTL).copied();
    rules.one_of(libc::SYS_ioctl, 1, requests)?.compile()
}

/// All threads under ptrace: the sentry's, and what the event loop may do before its own filter.
pub fn tracer() -> Result<BpfProgram, Error> {
    let rules = Rules::default().any(COMMON).any(TRACER).any(LOOP).any(&[libc::SYS_preadv2]);
    let rules = rules.memory_without_code()?;
    let rules = narrower(threads(rules)?)?;
    let descriptors = FCNTL.iter().chain(&[F_GETOWN_EX]).map(|n| *n as u64);
    let rules = rules.one_of(libc::SYS_fcntl, 1, descriptors)?;
    // The buffers of a gofer's socket.
    let buffers = [libc::SO_SNDBUF as u64, libc::SO_RCVBUF as u64];
    let rules = rules.one_of(libc::SYS_getsockopt, 2, buffers)?;
    let rules = rules.one_of(libc::SYS_setsockopt, 2, buffers)?;
    rules.one_of(libc::SYS_ioctl, 1, STREAM_IOCTL.iter().copied())?.compile()
}

/// The event loop under ptrace: it neither traces nor starts anything.
pub fn ptrace_loop() -> Result<BpfProgram, Error> {
    // A long message is read at a position.
    let rules = Rules::default().any(COMMON).any(LOOP).any(&[libc::SYS_preadv2]);
    let rules = rules.memory_without_code()?.one_of(libc::SYS_fcntl, 1, numbers(FCNTL))?;
    let rules = rules.one_of(libc::SYS_prctl, 0, numbers(&[LIVE_ON]))?;
    rules.one_of(libc::SYS_ioctl, 1, STREAM_IOCTL.iter().copied())?.compile()
}

/// Puts up the filters of a sandbox whose event loop is the calling thread. On KVM the threads of vCPUs have taken
/// theirs; under ptrace every thread gets the sentry's.
pub fn install(platform: Platform) -> Result<(), Error> {
    match platform {
        Platform::Kvm => {
            filter::apply(&no_clone3()?, Over::Thread)?;
            filter::apply(&kvm_loop()?, Over::Thread)
        }
        Platform::Ptrace => {
            // The other way round the first would not let the second in.
            filter::apply(&no_clone3()?, Over::Process)?;
            filter::apply(&tracer()?, Over::Process)?;
            filter::apply(&ptrace_loop()?, Over::Thread)
        }
    }
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
                    let status = match filter::apply(&program, Over::Thread) {
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
                libc::ioctl(-1, request(NONE, 0x80, 0) as _, 0);
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
