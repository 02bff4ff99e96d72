//! The one page of code in every stub, the page of requests above it, and the filter around both.
//!
//! Both pages sit at the top of user space, above everything that an application can have mapped.
//! The application can read them and jump into them, but not change them: the request page is
//! read-only in the stub, so what the agent is told to do comes from the sentry alone. Therefore the
//! agent has no memory of its own either, and answers through an eventfd, which no application can
//! reach: a table in the code page holds every value that it can answer with.

use std::ptr;

use sentry::platform::Registers;

use crate::user::{USER_CS, USER_SS};

/// Where the code is: two pages below the end of user space (TASK_SIZE_MAX, arch/x86/include/asm/page_64.h).
pub(super) const CODE: u64 = 0x7fff_ffff_d000;
/// Where the requests are.
pub(super) const REQUESTS: u64 = CODE + 4096;

/// Bytes of the request page before the first request.
pub(super) const HEADER: usize = 64;
/// Bytes of a request.
pub(super) const REQUEST: usize = 64;
/// Requests in a page.
pub(super) const BATCH: usize = (4096 - HEADER) / REQUEST;

// Throughout: r15 is the request page, r14d the number of the last batch that was served.
// Layout of that page: u32 batch number (a futex), u32 count, u32 eventfd, u32 pid of the agent; at
// 64 the requests: u64 system call, 6 arguments, and for clone where the child begins, else 0.
core::arch::global_asm!(
    r#"
    .pushsection .text.ringwall_stub, "ax", @progbits
    .p2align 6
    .global ringwall_stub_start, ringwall_stub_pristine, ringwall_stub_newborn, ringwall_stub_thread
    .global ringwall_stub_syscall, ringwall_stub_end
ringwall_stub_start:

# The first stub comes here with everything of the sentry's still mapped; rsi is where we are.
ringwall_stub_pristine:
    mov eax, 11                 # munmap(0, here)
    xor edi, edi
    syscall
    test rax, rax
    jnz 9f
    xor r14d, r14d

# The agent: serve batches of system calls, one after the other.
33: mov eax, [r15]
    cmp eax, r14d
    jne 2f
    mov eax, 202                # futex(batch number, FUTEX_WAIT, the last one, no timeout)
    mov rdi, r15
    xor esi, esi
    mov edx, r14d
    xor r10d, r10d
    syscall
    jmp 33b
2:  mov r14d, eax
    mov ebp, [r15 + 4]
    lea r12, [r15 + 64]
    xor ebx, ebx
3:  cmp ebx, ebp
    jae 5f
    mov rax, [r12]
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rdx, [r12 + 24]
    mov r10, [r12 + 32]
    mov r8, [r12 + 40]
    mov r9, [r12 + 48]
    mov r13, [r12 + 56]
    syscall
    cmp rax, -4095
    jae 6f
    test r13, r13
    jz 4f
    test rax, rax               # a clone: the child goes its way
    jz 8f
    mov rdx, rax                # and the parent tells its id: fcntl(eventfd, F_SETOWN, id)
    mov eax, 72
    mov edi, [r15 + 8]
    mov esi, 8
    syscall
    cmp rax, -4095
    jae 6f
4:  inc ebx
    add r12, 64
    jmp 3b
5:  xor eax, eax
6:  neg eax                     # write(eventfd, &answers[errno], 8)
    cmp eax, 133
    jbe 7f
    mov eax, 5
7:  lea rsi, [rip + ringwall_stub_answers]
    lea rsi, [rsi + rax * 8]
    mov edi, [r15 + 8]
    mov edx, 8
    mov eax, 1
    syscall
    jmp 33b
8:  jmp r13

# A new stub process, a copy of the pristine one: clone left it r10 the descriptor and r9 the offset
# of its own request page, and rdx its parent.
ringwall_stub_newborn:
    mov ebx, edx
    mov rdi, r15                # mmap(over the parent's request page, read-only, shared)
    mov esi, 4096
    mov edx, 1
    mov r8, r10
    mov r10d, 0x11
    mov eax, 9
    syscall
    cmp rax, r15
    jne 9f
    mov edi, 1                  # prctl(PR_SET_PDEATHSIG, SIGKILL)
    mov esi, 9
    mov eax, 157
    syscall
    mov eax, 110                # its parent may have died before that
    syscall
    cmp eax, ebx
    jne 9f
    xor r14d, r14d
    jmp 33b

# A new thread, or one that was let go: wait to be seized.
ringwall_stub_thread:
    mov edi, 1
    mov esi, 9
    mov eax, 157
    syscall
    mov eax, 110
    syscall
    cmp eax, [r15 + 12]
    jne 9f
2:  mov eax, 34                 # pause()
    syscall
    jmp 2b

9:  mov edi, 127
    mov eax, 231                # exit_group
    syscall
    ud2

# For the trial of ptrace, and calls that a traced thread has to make itself.
ringwall_stub_syscall:
    syscall
    ud2

    .p2align 3
ringwall_stub_answers:
    .set answer, 1
    .rept 134
    .quad answer
    .set answer, answer + 1
    .endr
ringwall_stub_end:
    .popsection
    "#
);

unsafe extern "C" {
    safe static ringwall_stub_start: u8;
    safe static ringwall_stub_pristine: u8;
    safe static ringwall_stub_newborn: u8;
    safe static ringwall_stub_thread: u8;
    safe static ringwall_stub_syscall: u8;
    safe static ringwall_stub_end: u8;
}

fn place(symbol: &'static u8) -> u64 {
    CODE + (ptr::from_ref(symbol).addr() - ptr::addr_of!(ringwall_stub_start).addr()) as u64
}

/// Where the pristine stub enters.
pub(super) fn pristine_entry() -> u64 {
    place(&ringwall_stub_pristine)
}

/// Where a new stub process enters.
pub(super) fn newborn_entry() -> u64 {
    place(&ringwall_stub_newborn)
}

/// Where a thread waits to be seized.
pub(super) fn thread_entry() -> u64 {
    place(&ringwall_stub_thread)
}

/// A SYSCALL instruction.
fn syscall_instruction() -> u64 {
    place(&ringwall_stub_syscall)
}

/// The registers with which a traced thread makes a system call of its own, and stops at the UD2 behind it.
pub(crate) fn call(number: libc::c_long, [rdi, rsi, rdx, r10]: [u64; 4]) -> Registers {
    Registers {
        rip: syscall_instruction(),
        rax: number as u64,
        rdi,
        rsi,
        rdx,
        r10,
        orig_rax: u64::MAX,
        cs: USER_CS,
        ss: USER_SS,
        // IF, and the bit that is always set.
        eflags: 0x202,
        ..Registers::default()
    }
}

/// The bytes of the page.
pub(super) fn bytes() -> &'static [u8] {
    let start = ptr::addr_of!(ringwall_stub_start);
    let len = ptr::addr_of!(ringwall_stub_end).addr() - start.addr();
    // SAFETY: the two symbols delimit initialized, immutable bytes of this program's text.
    unsafe { std::slice::from_raw_parts(start, len) }
}

/// Flags with which the pristine stub makes a stub process.
pub(super) const CLONE_PROCESS: u64 =
    (libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_UNTRACED | libc::SIGCHLD) as u64;
/// Flags with which an agent makes a thread. It is a process of its own to the host (no
/// CLONE_THREAD): so its processor time can be read, and its death is nobody else's.
pub(super) const CLONE_THREAD: u64 = CLONE_PROCESS | (libc::CLONE_VM | libc::CLONE_SIGHAND) as u64;

/// The stub's seccomp filter. An application's own calls never get as far as this (PTRACE_SYSEMU
/// comes first), so it holds the code above alone, and whatever an unknown way around ptrace finds.
/// What it refuses raises SIGSYS: deadly for an agent, and for a traced thread a report (a call
/// through the vsyscall page, which the kernel runs in the page-fault handler, ends up there).
pub(crate) fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANY: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    // struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits.
    let argument = |n: u32| 16 + 8 * n;
    let op = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let allow = op(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let refuse = op(RETURN, libc::SECCOMP_RET_TRAP, 0, 0);
    /// AUDIT_ARCH_X86_64 (include/uapi/linux/audit.h)
    const X86_64: u32 = 0xc000_003e;

    let mut program = vec![op(LOAD, 4, 0, 0), op(EQUAL, X86_64, 1, 0), refuse, op(LOAD, 0, 0, 0)];
    for nr in [
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_futex,
        libc::SYS_getppid,
        libc::SYS_pause,
        libc::SYS_exit_group,
        libc::SYS_restart_syscall,
        // Of the agent for the whole stub, and of a thread for itself at the sentry's behest.
        libc::SYS_membarrier,
        libc::SYS_rseq,
    ] {
        program.extend([op(EQUAL, nr as u32, 0, 1), allow]);
    }
    // A call, one of its arguments, and the values (low halves) that it may have.
    let flags = (libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE) as u32;
    let one_of: [(i64, u32, &[u32]); 4] = [
        (libc::SYS_clone, 0, &[CLONE_PROCESS as u32, CLONE_THREAD as u32]),
        (libc::SYS_prctl, 0, &[libc::PR_SET_PDEATHSIG as u32, libc::PR_SET_TSC as u32]),
        (libc::SYS_fcntl, 1, &[libc::F_SETOWN as u32]),
        (libc::SYS_write, 2, &[8]),
    ];
    for (nr, n, values) in one_of {
        let len = 2 + 2 * values.len() as u8;
        program.push(op(EQUAL, nr as u32, 0, len));
        program.push(op(LOAD, argument(n), 0, 0));
        for value in values {
            program.extend([op(EQUAL, *value, 0, 1), allow]);
        }
        program.push(refuse);
    }
    program.extend([
        op(EQUAL, libc::SYS_mmap as u32, 0, 3),
        op(LOAD, argument(3), 0, 0),
        op(ANY, !flags, 1, 0),
        allow,
        refuse,
    ]);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_fits_its_page() {
        assert!(bytes().len() <= 4096);
        assert!(pristine_entry() >= CODE && syscall_instruction() < REQUESTS);
        assert_eq!(BATCH, 63);
    }
}
