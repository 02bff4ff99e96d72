//! Making the pristine stub: from a copy of this process to a process with two pages in it.
//!
//! It takes two clones. The first copies the process (the copy must not touch what the standard
//! library thinks of threads and locks, so it only makes system calls). The copy's own clone shares
//! its memory, which makes the kernel forget what it keeps per thread in user memory (the rseq area,
//! the alternate signal stack) before that memory goes; the copy then ends.

use std::arch::asm;
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use super::code;
use super::requests::Page;
use crate::Error;
use crate::sys;

/// Bytes of stack for the second clone, before it unmaps it.
const STACK: usize = 64 * 1024;

/// What the pristine stub is made from. It reads this in its own copy of our memory.
struct Plan {
    memory_fd: i32,
    requests_offset: u64,
    /// Set when the first clone has ended, and the memory is the second one's alone.
    alone: *const AtomicU32,
    parent: i32,
    filter: Vec<libc::sock_filter>,
}

/// A system call without the C library, which keeps its state in memory that is about to go.
///
/// # Safety
/// As the call itself.
unsafe fn raw(nr: i64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64 {
    let result;
    // SAFETY: SYSCALL clobbers rcx and r11 only; the rest is the caller's promise.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") nr => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes it; its id. `page` is its request page, at `offset` of the file `memory_fd`, whose first
/// page is the code.
pub(super) fn make(memory_fd: i32, page: &Page, offset: u64) -> Result<i32, Error> {
    let fail = |what| move |e| Error::Stub(what, e);
    let plan = Plan {
        memory_fd,
        requests_offset: offset,
        alone: page.pristine_is_alone(),
        // SAFETY: no arguments.
        parent: unsafe { libc::getpid() },
        filter: code::filter(),
    };
    // SAFETY: a new anonymous mapping disturbs nothing.
    let stack = unsafe {
        libc::mmap(
            ptr::null_mut(),
            STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if stack == libc::MAP_FAILED {
        return Err(fail("stack")(io::Error::last_os_error()));
    }
    let top = stack.addr() as u64 + STACK as u64;
    // No exit signal: nobody's SIGCHLD handler sees it.
    let flags = (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_UNTRACED) as u64;
    // SAFETY: without CLONE_VM and with the stack as it is, this is fork(2); the child branch below
    // makes system calls only, and does not return.
    let first = unsafe { raw(libc::SYS_clone, flags, 0, 0, 0, 0, 0) };
    if first == 0 {
        // SAFETY: `top` is the end of a fresh stack in this copy of the memory, and `plan` stays
        // where it is: this process leaves it untouched and ends by exit_group.
        unsafe {
            let second = clone_onto(top, &plan);
            let status = match second {
                pid if pid > 0 => {
                    page.set_agent(pid as u32);
                    0
                }
                // Errors of clone(2) fit into a status.
                error => error.unsigned_abs(),
            };
            raw(libc::SYS_exit_group, status, 0, 0, 0, 0, 0);
        }
        unreachable!("exit_group returned");
    }
    // SAFETY: the mapping is ours, and only the child's copy of it is in use.
    unsafe { libc::munmap(stack, STACK) };
    if first < 0 {
        return Err(fail("clone")(io::Error::from_raw_os_error(-first as i32)));
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    while unsafe { libc::waitpid(first as i32, &mut status, libc::__WALL) } < 0 {
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(fail("waitpid")(e));
        }
    }
    page.pristine_is_alone().store(1, Ordering::Release);
    sys::futex_wake_shared(page.pristine_is_alone());
    match page.agent() as i32 {
        pid if pid > 0 && status == 0 => Ok(pid),
        _ => Err(fail("second clone")(if libc::WIFEXITED(status) {
            io::Error::from_raw_os_error(libc::WEXITSTATUS(status))
        } else {
            io::Error::other(format!("killed by signal {}", libc::WTERMSIG(status)))
        })),
    }
}

/// Which step of [`become_pristine`] failed, by its exit status.
pub(super) fn failed_step(pid: i32) -> Option<&'static str> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let gone = unsafe { libc::waitpid(pid, &mut status, libc::__WALL | libc::WNOHANG) } == pid;
    if !gone {
        return None;
    }
    Some(match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
        (true, 1) => "it lost its parent",
        (true, 2) => "no_new_privs",
        (true, 3) => "dropping capabilities",
        (true, 4) => "mapping its code",
        (true, 5) => "mapping its requests",
        (true, 6) => "its seccomp filter",
        (true, _) => "unmapping the sentry",
        _ => "it was killed",
    })
}

/// The second clone: shares memory with its maker, is a child of the sentry, and never returns.
///
/// # Safety
/// `top` ends an unused stack; `plan` lives until the child has unmapped everything.
unsafe fn clone_onto(top: u64, plan: &Plan) -> i64 {
    let flags = libc::CLONE_VM
        | libc::CLONE_FILES
        | libc::CLONE_FS
        | libc::CLONE_PARENT
        | libc::CLONE_UNTRACED;
    let result;
    // SAFETY: the child runs on its own stack and in `become_pristine` alone; the parent sees an
    // ordinary system call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call {child}",
            "ud2",
            "2:",
            child = sym become_pristine,
            inlateout("rax") libc::SYS_clone => result,
            in("rdi") flags as u64, in("rsi") top, in("rdx") 0, in("r10") 0, in("r8") 0,
            in("r12") ptr::from_ref(plan),
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// Sheds everything and enters the code page.
unsafe extern "C" fn become_pristine(plan: &Plan) -> ! {
    // SAFETY: every call below has numbers, or memory of this function or of the plan, as arguments;
    // the mappings go over the very top of user space, which nothing here uses: the stack is ours.
    unsafe {
        let quit = |step: u64| {
            raw(libc::SYS_exit_group, step, 0, 0, 0, 0, 0);
        };
        let prctl =
            |option: i32, value: u64| raw(libc::SYS_prctl, option as u64, value, 0, 0, 0, 0);
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64);
        while (*plan.alone).load(Ordering::Acquire) == 0 {
            let wait = libc::FUTEX_WAIT as u64;
            raw(libc::SYS_futex, plan.alone.addr() as u64, wait, 0, 0, 0, 0);
        }
        if raw(libc::SYS_getppid, 0, 0, 0, 0, 0, 0) != i64::from(plan.parent) {
            quit(1);
        }
        // struct kernel_sigaction: handler, flags, restorer, mask. Exceptions keep their default,
        // or the kernel would change it behind our back; the rest is ignored while nobody traces.
        for signal in 1..=64 {
            let exception = matches!(
                signal,
                libc::SIGSEGV
                    | libc::SIGBUS
                    | libc::SIGFPE
                    | libc::SIGILL
                    | libc::SIGTRAP
                    | libc::SIGSYS
            );
            let action = [u64::from(!exception), 0, 0, 0];
            let action = ptr::from_ref(&action).addr() as u64;
            raw(libc::SYS_rt_sigaction, signal as u64, action, 0, 8, 0, 0);
        }
        let nothing = [0u64; 3];
        let nothing = ptr::from_ref(&nothing).addr() as u64;
        let set = libc::SIG_SETMASK as u64;
        raw(libc::SYS_rt_sigprocmask, set, nothing, 0, 8, 0, 0);
        // A stub's memory is the container's: no core of it on the host.
        let core = libc::RLIMIT_CORE as u64;
        raw(libc::SYS_prlimit64, 0, core, nothing, 0, 0, 0);
        prctl(libc::PR_SET_NAME, c"ringwall-stub".as_ptr().addr() as u64);
        if prctl(libc::PR_SET_NO_NEW_PRIVS, 1) != 0 {
            quit(2);
        }
        // _LINUX_CAPABILITY_VERSION_3, this process; no capability in any set. Otherwise a sentry
        // that drops capabilities later could not trace what has them.
        let header = [0x2008_0522u32, 0];
        let header = ptr::from_ref(&header).addr() as u64;
        if raw(libc::SYS_capset, header, nothing, 0, 0, 0, 0) != 0 {
            quit(3);
        }
        let fd = plan.memory_fd as u64;
        let map = (libc::MAP_SHARED | libc::MAP_FIXED) as u64;
        let code_prot = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        if raw(libc::SYS_mmap, code::CODE, 4096, code_prot, map, fd, 0) != code::CODE as i64 {
            quit(4);
        }
        let prot = libc::PROT_READ as u64;
        let (at, offset) = (code::REQUESTS, plan.requests_offset);
        if raw(libc::SYS_mmap, at, 4096, prot, map, fd, offset) != at as i64 {
            quit(5);
        }
        // Seizing a process that is not dumpable takes CAP_SYS_PTRACE.
        prctl(libc::PR_SET_DUMPABLE, 1);
        let program = libc::sock_fprog {
            len: plan.filter.len() as u16,
            filter: plan.filter.as_ptr().cast_mut(),
        };
        // The application never runs under speculation controls that it did not ask for.
        let install = libc::SECCOMP_SET_MODE_FILTER as u64;
        let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        let program = ptr::from_ref(&program).addr() as u64;
        if raw(libc::SYS_seccomp, install, flags, program, 0, 0, 0) != 0 {
            quit(6);
        }
        asm!(
            "jmp {entry}",
            entry = in(reg) code::pristine_entry(),
            in("rsi") code::CODE,
            in("r15") code::REQUESTS,
            options(noreturn),
        );
    }
}
