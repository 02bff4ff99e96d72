//! The trampoline: into user mode, and out of it by system call, exception or interrupt.
//!
//! [`enter`] is an ordinary function call that comes back when the application traps. It parks the kernel's
//! call-saved registers on the kernel stack, loads the application's, and goes; every entry puts the
//! application's state into the same [`Registers`] and vector area, loads what the kernel needs (flags, MXCSR,
//! GS base), and returns from `enter` with the number of the trap.
//!
//! What an application can bring along, and where it ends: RFLAGS (FMASK at `SYSCALL`; a `popfq` at exceptions,
//! whose gates leave AC and DF alone), MXCSR and xmm0-15 (saved, loaded anew; wider state stays in the
//! registers, which the kernel's code never touches), the stack pointer (never used), FS and GS base (GS
//! is swapped, with a fence against speculation where the swap is conditional), RIP (not canonical:
//! never entered, see [`crate::user`]).
//!
//! From kernel mode come only faults of instructions listed in the fixup table, interrupts in the idle loop's
//! window, an application's breakpoints at the moment that it enters the kernel, and what ends the sandbox ([`crate::fatal`]).

use core::arch::global_asm;
use core::mem::offset_of;

use crate::fpu::{MXCSR_OFFSET, XMM_OFFSET};
use crate::percpu::offset;
use crate::tables::{USER_CS, USER_SS};

/// The general registers in the order of Linux's `struct user_regs_struct`. See
/// `sentry::platform::Registers`, which has the same layout.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
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

/// What [`enter`] returns for `SYSCALL`; below are interrupt vectors.
pub const SYSCALL: u64 = 256;
/// For [`enter`]: leave with `SYSRET`.
pub const WITH_SYSRET: u32 = 1;
/// For [`enter`]: the CPU has FSGSBASE on.
pub const WITH_FSGSBASE: u32 = 2;

unsafe extern "sysv64" {
    /// Runs the application until it traps; the vector, or [`SYSCALL`].
    ///
    /// # Safety
    /// In the kernel, interrupts off. `regs` is valid until the return, with sanitized flags, a canonical RIP, and,
    /// for `SYSRET`, RCX = RIP and R11 = RFLAGS; `area` is the thread's vector area with a valid MXCSR. The
    /// loaded space is the application's.
    pub(crate) fn ring0_enter(regs: *mut Registers, area: u64, how: u32) -> u64;
    /// Switches stacks: saves the present one's pointer in `save`, goes on where `load` was saved.
    ///
    /// # Safety
    /// `load` was stored by this function, or laid out like it with an entry to return to.
    pub(crate) fn ring0_switch_stack(save: *mut u64, load: u64);
    fn ring0_syscall();
    fn ring0_syscall_msr();
    static ring0_stubs: [u8; 0];
}

/// Bytes from one entry stub to the next.
const STUB: usize = 16;

/// Where the IDT's gate for a vector leads.
pub(crate) fn stub(vector: usize) -> u64 {
    (&raw const ring0_stubs) as u64 + (vector * STUB) as u64
}

/// Where `SYSCALL` leads.
pub(crate) fn syscall_address(fsgsbase: bool) -> u64 {
    if fsgsbase { ring0_syscall as *const () as u64 } else { ring0_syscall_msr as *const () as u64 }
}

/// `struct user_regs_struct` up to and with `ss`.
const FRAME: usize = offset_of!(Registers, fs_base);

global_asm!(
    r#"
    .macro SAVE_VECTOR area
    movaps [\area + {XMM} + 0x00], xmm0
    movaps [\area + {XMM} + 0x10], xmm1
    movaps [\area + {XMM} + 0x20], xmm2
    movaps [\area + {XMM} + 0x30], xmm3
    movaps [\area + {XMM} + 0x40], xmm4
    movaps [\area + {XMM} + 0x50], xmm5
    movaps [\area + {XMM} + 0x60], xmm6
    movaps [\area + {XMM} + 0x70], xmm7
    movaps [\area + {XMM} + 0x80], xmm8
    movaps [\area + {XMM} + 0x90], xmm9
    movaps [\area + {XMM} + 0xa0], xmm10
    movaps [\area + {XMM} + 0xb0], xmm11
    movaps [\area + {XMM} + 0xc0], xmm12
    movaps [\area + {XMM} + 0xd0], xmm13
    movaps [\area + {XMM} + 0xe0], xmm14
    movaps [\area + {XMM} + 0xf0], xmm15
    stmxcsr [\area + {MXCSR}]
    cmp dword ptr [\area + {MXCSR}], 0x1f80
    je .Lkernel_mxcsr\@
    ldmxcsr gs:[{KMXCSR}]
.Lkernel_mxcsr\@:
    .endm

    // By halves: QEMU's software CPU takes nine times as long for a load of 16 bytes, and a real one hardly notices.
    .macro LOAD_VECTOR area
    movq xmm0, qword ptr [\area + {XMM} + 0x00]
    movhps xmm0, qword ptr [\area + {XMM} + 0x08]
    movq xmm1, qword ptr [\area + {XMM} + 0x10]
    movhps xmm1, qword ptr [\area + {XMM} + 0x18]
    movq xmm2, qword ptr [\area + {XMM} + 0x20]
    movhps xmm2, qword ptr [\area + {XMM} + 0x28]
    movq xmm3, qword ptr [\area + {XMM} + 0x30]
    movhps xmm3, qword ptr [\area + {XMM} + 0x38]
    movq xmm4, qword ptr [\area + {XMM} + 0x40]
    movhps xmm4, qword ptr [\area + {XMM} + 0x48]
    movq xmm5, qword ptr [\area + {XMM} + 0x50]
    movhps xmm5, qword ptr [\area + {XMM} + 0x58]
    movq xmm6, qword ptr [\area + {XMM} + 0x60]
    movhps xmm6, qword ptr [\area + {XMM} + 0x68]
    movq xmm7, qword ptr [\area + {XMM} + 0x70]
    movhps xmm7, qword ptr [\area + {XMM} + 0x78]
    movq xmm8, qword ptr [\area + {XMM} + 0x80]
    movhps xmm8, qword ptr [\area + {XMM} + 0x88]
    movq xmm9, qword ptr [\area + {XMM} + 0x90]
    movhps xmm9, qword ptr [\area + {XMM} + 0x98]
    movq xmm10, qword ptr [\area + {XMM} + 0xa0]
    movhps xmm10, qword ptr [\area + {XMM} + 0xa8]
    movq xmm11, qword ptr [\area + {XMM} + 0xb0]
    movhps xmm11, qword ptr [\area + {XMM} + 0xb8]
    movq xmm12, qword ptr [\area + {XMM} + 0xc0]
    movhps xmm12, qword ptr [\area + {XMM} + 0xc8]
    movq xmm13, qword ptr [\area + {XMM} + 0xd0]
    movhps xmm13, qword ptr [\area + {XMM} + 0xd8]
    movq xmm14, qword ptr [\area + {XMM} + 0xe0]
    movhps xmm14, qword ptr [\area + {XMM} + 0xe8]
    movq xmm15, qword ptr [\area + {XMM} + 0xf0]
    movhps xmm15, qword ptr [\area + {XMM} + 0xf8]
    .endm

    .macro LEAVE_KERNEL_STACK code
    mov rsp, gs:[{KERNEL_RSP}]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    mov eax, \code
    ret
    .endm

    // SYSCALL: rcx = rip, r11 = rflags, interrupts off by FMASK, on the application's stack.
    .macro SYSCALL_ENTRY fsgsbase
    swapgs
    mov gs:[{SCRATCH}], rsp
    mov rsp, gs:[{REGS_END}]
    push {USER_SS}
    push qword ptr gs:[{SCRATCH}]
    push r11
    push {USER_CS}
    push rcx
    push rax
    push rdi
    push rsi
    push rdx
    push rcx
    push -38
    push r8
    push r9
    push r10
    push r11
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov rdi, gs:[{AREA}]
    SAVE_VECTOR rdi
    .if \fsgsbase
    rdfsbase rax
    mov [rsp + {FS_BASE}], rax
    swapgs
    rdgsbase rax
    swapgs
    mov [rsp + {GS_BASE}], rax
    .endif
    LEAVE_KERNEL_STACK {SYSCALL}
    .endm

    // Beside each other, and the linker script puts the rest of a system call's way there too: a jump inside a
    // page costs a software CPU a fraction of one that leaves it.
    .section .text.hot, "ax", @progbits
    .p2align 6
    .globl ring0_syscall
ring0_syscall:
    SYSCALL_ENTRY 1
    .p2align 6
    .globl ring0_syscall_msr
ring0_syscall_msr:
    SYSCALL_ENTRY 0

    .p2align 6
    .globl ring0_enter
ring0_enter:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov gs:[{KERNEL_RSP}], rsp
    lea rax, [rdi + {FRAME}]
    mov gs:[{REGS_END}], rax
    mov gs:[{AREA}], rsi
    LOAD_VECTOR rsi
    ldmxcsr [rsi + {MXCSR}]
    test edx, {WITH_SYSRET}
    jz 3f
    test edx, {WITH_FSGSBASE}
    jz 1f
    mov rax, [rdi + {FS_BASE}]
    wrfsbase rax
    mov rax, [rdi + {GS_BASE}]
    swapgs
    wrgsbase rax
    jmp 2f
1:  swapgs
2:  mov r15, [rdi + {R15}]
    mov r14, [rdi + {R14}]
    mov r13, [rdi + {R13}]
    mov r12, [rdi + {R12}]
    mov rbp, [rdi + {RBP}]
    mov rbx, [rdi + {RBX}]
    mov r11, [rdi + {EFLAGS}]
    mov r10, [rdi + {R10}]
    mov r9, [rdi + {R9}]
    mov r8, [rdi + {R8}]
    mov rax, [rdi + {RAX}]
    mov rcx, [rdi + {RIP}]
    mov rdx, [rdi + {RDX}]
    mov rsi, [rdi + {RSI}]
    mov rsp, [rdi + {RSP}]
    mov rdi, [rdi + {RDI}]
    sysretq
3:  // IRET restores every register, RCX and R11 too.
    push {USER_SS}
    push [rdi + {RSP}]
    push [rdi + {EFLAGS}]
    push {USER_CS}
    push [rdi + {RIP}]
    test edx, {WITH_FSGSBASE}
    jz 4f
    mov rax, [rdi + {FS_BASE}]
    wrfsbase rax
    mov rax, [rdi + {GS_BASE}]
    swapgs
    wrgsbase rax
    jmp 5f
4:  swapgs
5:  mov r15, [rdi + {R15}]
    mov r14, [rdi + {R14}]
    mov r13, [rdi + {R13}]
    mov r12, [rdi + {R12}]
    mov rbp, [rdi + {RBP}]
    mov rbx, [rdi + {RBX}]
    mov r11, [rdi + {R11}]
    mov r10, [rdi + {R10}]
    mov r9, [rdi + {R9}]
    mov r8, [rdi + {R8}]
    mov rax, [rdi + {RAX}]
    mov rcx, [rdi + {RCX}]
    mov rdx, [rdi + {RDX}]
    mov rsi, [rdi + {RSI}]
    mov rdi, [rdi + {RDI}]
    iretq

    .text
    .p2align 4
    .globl ring0_switch_stack
ring0_switch_stack:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    mov [rdi], rsp
    mov rsp, rsi
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret

    // One stub for each vector: error code (or 0) and vector on the stack, then on.
    .p2align 4
    .globl ring0_stubs
ring0_stubs:
    .set vector, 0
    .rept 256
    .p2align 4
    .if (vector == 2) || (vector == 8) || (vector == 18)
        .if vector != 8
        push 0
        .endif
        .byte 0x68 // push imm32
        .long vector
        jmp ring0_fatal_entry
    .else
        .if !((vector >= 10 && vector <= 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30))
        push 0
        .endif
        .byte 0x68
        .long vector
        jmp ring0_exception
    .endif
    .set vector, vector + 1
    .endr

    // [rsp]: vector, error, rip, cs, rflags, rsp, ss.
    .p2align 6
ring0_exception:
    test byte ptr [rsp + 24], 3
    jz ring0_from_kernel
    swapgs
    lfence
    push 2
    popfq
    mov gs:[{SCRATCH}], rax
    mov rax, gs:[{REGS_END}]
    sub rax, {FRAME}
    mov [rax + {R15}], r15
    mov [rax + {R14}], r14
    mov [rax + {R13}], r13
    mov [rax + {R12}], r12
    mov [rax + {RBP}], rbp
    mov [rax + {RBX}], rbx
    mov [rax + {R11}], r11
    mov [rax + {R10}], r10
    mov [rax + {R9}], r9
    mov [rax + {R8}], r8
    mov [rax + {RCX}], rcx
    mov [rax + {RDX}], rdx
    mov [rax + {RSI}], rsi
    mov [rax + {RDI}], rdi
    mov rcx, gs:[{SCRATCH}]
    mov [rax + {RAX}], rcx
    mov qword ptr [rax + {ORIG_RAX}], -1
    mov rcx, [rsp + 16]
    mov [rax + {RIP}], rcx
    mov qword ptr [rax + {CS}], {USER_CS}
    mov rcx, [rsp + 32]
    mov [rax + {EFLAGS}], rcx
    mov rcx, [rsp + 40]
    mov [rax + {RSP}], rcx
    mov qword ptr [rax + {SS}], {USER_SS}
    mov rcx, [rsp + 8]
    mov gs:[{ERROR}], rcx
    mov rbx, [rsp]
    mov rdi, gs:[{AREA}]
    SAVE_VECTOR rdi
    test dword ptr gs:[{HOW}], {WITH_FSGSBASE}
    jz 1f
    rdfsbase rcx
    mov [rax + {FS_BASE}], rcx
    swapgs
    rdgsbase rcx
    swapgs
    mov [rax + {GS_BASE}], rcx
1:  cmp ebx, 14
    jne 2f
    mov rcx, cr2
    mov gs:[{CR2}], rcx
2:  mov ecx, ebx
    LEAVE_KERNEL_STACK ecx

ring0_from_kernel:
    cld
    // An application's breakpoint whose time came only in the kernel (see `tables`): nobody is to hear of it.
    cmp qword ptr [rsp], 1
    je 6f
    cmp qword ptr [rsp], 32
    jae 4f
    // A fault: go on at the fixup where the table lists the instruction.
    push rax
    push rdx
    mov rax, [rsp + 32]
    lea rdx, [rip + ring0_fixups]
1:  cmp [rdx], rax
    je 2f
    add rdx, 16
    cmp qword ptr [rdx], 0
    jne 1b
    pop rdx
    pop rax
    jmp ring0_fatal_entry
2:  mov rax, [rdx + 8]
    mov [rsp + 32], rax
    pop rdx
    pop rax
    add rsp, 16
    iretq
4:  // An interrupt where interrupts are off: QEMU's software CPU, as a host, sometimes delivers an injected one
    // twice (its VMRUN leaves `exception_index` set). It may be anywhere, before `swapgs` too; the first delivery
    // deals with it.
    test dword ptr [rsp + 32], 0x200
    jnz 5f
    add rsp, 16
    iretq
5:  // In the idle loop's window: the code there expects call-clobbered registers to change.
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    mov rdi, [rsp + 72]
    call ring0_idle_interrupt
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
6:  add rsp, 16
    iretq

    // What ends the sandbox, perhaps on an interrupt stack, perhaps between two states: the first CPU here takes
    // the emergency stack and reports, the others stop.
ring0_fatal_entry:
    cld
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov rdi, rsp
    // The GS base may still be the application's: kernel addresses have the top bit.
    mov ecx, 0xc0000101
    rdmsr
    test edx, edx
    js 1f
    swapgs
1:  lfence
    lock bts dword ptr [rip + ring0_fatal_lock], 0
    jc 2f
    lea rsp, [rip + ring0_fatal_stack_top]
    xor ebp, ebp
    call ring0_fatal
2:  // A fault of the report itself is on its stack; anything else is another CPU.
    lea rax, [rip + ring0_fatal_stack_top]
    cmp rsp, rax
    jae 3f
    sub rax, 32768
    cmp rsp, rax
    jb 3f
    and rsp, -16
    call ring0_fatal_again
3:  cli
    hlt
    jmp 3b

    .bss
    .p2align 12
    .skip 32768
ring0_fatal_stack_top:
    .globl ring0_fatal_lock
    .p2align 2
ring0_fatal_lock:
    .skip 4
    .text
    "#,
    XMM = const XMM_OFFSET,
    MXCSR = const MXCSR_OFFSET,
    HOW = const offset::HOW,
    KMXCSR = const offset::MXCSR,
    SCRATCH = const offset::SCRATCH,
    REGS_END = const offset::REGS_END,
    KERNEL_RSP = const offset::KERNEL_RSP,
    AREA = const offset::AREA,
    ERROR = const offset::ERROR,
    CR2 = const offset::CR2,
    FRAME = const FRAME,
    SYSCALL = const SYSCALL,
    WITH_SYSRET = const WITH_SYSRET,
    WITH_FSGSBASE = const WITH_FSGSBASE,
    USER_CS = const USER_CS,
    USER_SS = const USER_SS,
    R15 = const offset_of!(Registers, r15),
    R14 = const offset_of!(Registers, r14),
    R13 = const offset_of!(Registers, r13),
    R12 = const offset_of!(Registers, r12),
    RBP = const offset_of!(Registers, rbp),
    RBX = const offset_of!(Registers, rbx),
    R11 = const offset_of!(Registers, r11),
    R10 = const offset_of!(Registers, r10),
    R9 = const offset_of!(Registers, r9),
    R8 = const offset_of!(Registers, r8),
    RAX = const offset_of!(Registers, rax),
    RCX = const offset_of!(Registers, rcx),
    RDX = const offset_of!(Registers, rdx),
    RSI = const offset_of!(Registers, rsi),
    RDI = const offset_of!(Registers, rdi),
    ORIG_RAX = const offset_of!(Registers, orig_rax),
    RIP = const offset_of!(Registers, rip),
    CS = const offset_of!(Registers, cs),
    EFLAGS = const offset_of!(Registers, eflags),
    RSP = const offset_of!(Registers, rsp),
    SS = const offset_of!(Registers, ss),
    FS_BASE = const offset_of!(Registers, fs_base),
    GS_BASE = const offset_of!(Registers, gs_base),
);
