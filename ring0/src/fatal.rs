//! What ends the sandbox: faults of the kernel itself, double faults, machine checks, NMIs.

use core::fmt;

use crate::boot;
use crate::paging;

/// The registers at the end, as the entry pushed them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // the names are the architecture's
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// What happened.
pub struct Report<'a> {
    /// The registers.
    pub frame: &'a Frame,
    /// CR2.
    pub cr2: u64,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.frame;
        let name = match r.vector {
            0 => "divide error",
            2 => "NMI",
            6 => "invalid opcode",
            8 => "double fault (a kernel stack ran out?)",
            13 => "general protection",
            14 => "page fault",
            18 => "machine check",
            _ => "exception",
        };
        writeln!(
            f,
            "{name} in the image: vector {} error {:#x} cr2 {:#x}",
            r.vector, r.error, self.cr2
        )?;
        writeln!(
            f,
            "rip {:#x} cs {:#x} rflags {:#x} rsp {:#x} ss {:#x}",
            r.rip, r.cs, r.rflags, r.rsp, r.ss
        )?;
        writeln!(
            f,
            "rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} rbp {:#x}",
            r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp
        )?;
        write!(
            f,
            "r8 {:#x} r9 {:#x} r10 {:#x} r11 {:#x} r12 {:#x} r13 {:#x} r14 {:#x} r15 {:#x}",
            r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15
        )
    }
}

#[unsafe(no_mangle)]
extern "sysv64" fn ring0_fatal(frame: *const Frame) -> ! {
    // SAFETY: the entry passes what it has just pushed, on a stack that nobody else uses.
    let frame = unsafe { &*frame };
    let report = Report { frame, cr2: crate::arch::cr2() };
    boot::hooks().host.fatal(&report)
}

#[unsafe(no_mangle)]
extern "sysv64" fn ring0_fatal_again() -> ! {
    boot::hooks().host.give_up()
}

/// The registers as they are here, for a panic, which no entry has pushed any for.
pub struct Here {
    /// In the order of their numbers in an instruction.
    general: [u64; 16],
    rip: u64,
    rflags: u64,
}

impl Here {
    /// Takes them.
    #[inline(always)]
    pub fn capture() -> Here {
        let mut here = Here { general: [0; 16], rip: 0, rflags: 0 };
        let at = here.general.as_mut_ptr();
        // SAFETY: stores into the array, and reads the flags by way of the stack.
        unsafe {
            core::arch::asm!(
                "mov [rdi], rax", "mov [rdi + 8], rcx", "mov [rdi + 16], rdx", "mov [rdi + 24], rbx",
                "mov [rdi + 32], rsp", "mov [rdi + 40], rbp", "mov [rdi + 48], rsi", "mov [rdi + 56], rdi",
                "mov [rdi + 64], r8", "mov [rdi + 72], r9", "mov [rdi + 80], r10", "mov [rdi + 88], r11",
                "mov [rdi + 96], r12", "mov [rdi + 104], r13", "mov [rdi + 112], r14", "mov [rdi + 120], r15",
                "lea {rip}, [rip]",
                "pushfq",
                "pop {rflags}",
                in("rdi") at,
                rip = lateout(reg) here.rip,
                rflags = lateout(reg) here.rflags,
            );
        }
        here
    }
}

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 16] = [
            "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15",
        ];
        write!(f, "rip {:#x} rflags {:#x} cr2 {:#x}", self.rip, self.rflags, crate::arch::cr2())?;
        for (n, (name, value)) in NAMES.iter().zip(self.general).enumerate() {
            let before = if n % 8 == 0 { "\n" } else { " " };
            write!(f, "{before}{name} {value:#x}")?;
        }
        Ok(())
    }
}

/// The words from a stack pointer up, as far as they are mapped.
pub fn stack_words(rsp: u64) -> impl Iterator<Item = u64> {
    let start = rsp & !7;
    (0..24).map(move |n| start.wrapping_add(n * 8)).take_while(|&at| paging::kernel_mapped(at)).map(
        // SAFETY: the word is mapped for the kernel, which is all that reading it needs.
        |at| unsafe { (at as *const u64).read() },
    )
}

/// Return addresses from a frame pointer up, as far as the frames make sense.
pub fn backtrace(mut rbp: u64, mut each: impl FnMut(u64)) {
    for _ in 0..40 {
        if rbp & 7 != 0
            || !paging::kernel_mapped(rbp)
            || !paging::kernel_mapped(rbp.wrapping_add(15))
        {
            return;
        }
        // SAFETY: both words are mapped for the kernel, which is all that reading them needs.
        let (next, ip) = unsafe { ((rbp as *const u64).read(), (rbp as *const u64).add(1).read()) };
        if ip == 0 {
            return;
        }
        each(ip);
        if next <= rbp {
            return;
        }
        rbp = next;
    }
}

/// The caller's frame pointer.
#[inline(always)]
pub fn frame_pointer() -> u64 {
    let rbp;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags))
    };
    rbp
}
