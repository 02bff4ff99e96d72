//! Instructions that attacks are made of.

use core::arch::asm;

/// Writes a byte to a port.
pub fn outb(port: u16, value: u8) {
    // SAFETY: a VM exit; the host half may change memory that the contract gives it, which is read by volatile reads.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

/// Writes two bytes to a port.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as `outb`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
}

/// Writes four bytes to a port.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as `outb`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
}

/// Reads four bytes from a port.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: a VM exit.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) };
    value
}

/// Writes a run of bytes to a port by one instruction.
pub fn outs(port: u16, from: u64, count: u64) {
    // SAFETY: the caller's run is mapped; nothing is written.
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") from => _, inout("rcx") count => _, options(nostack));
    }
}

/// Reads eight bytes.
pub fn read(at: u64) -> u64 {
    // SAFETY: the caller wants just this access, whatever comes of it; no Rust reference is to what attacks read.
    unsafe { (at as *const u64).read_volatile() }
}

/// Writes eight bytes.
pub fn write(at: u64, value: u64) {
    // SAFETY: as `read`; what is overwritten is the attack's to lose.
    unsafe { (at as *mut u64).write_volatile(value) };
}

/// Writes four bytes.
pub fn write32(at: u64, value: u32) {
    // SAFETY: as `write`.
    unsafe { (at as *mut u32).write_volatile(value) };
}

/// Reads four bytes.
pub fn read32(at: u64) -> u32 {
    // SAFETY: as `read`.
    unsafe { (at as *const u32).read_volatile() }
}

/// Jumps.
pub fn jump(to: u64, registers: u64) -> ! {
    // SAFETY: wherever it leads, this machine is what is lost.
    unsafe {
        asm!(
            "mov rbx, rdi", "mov rcx, rdi", "mov rdx, rdi", "mov rsi, rdi", "mov rbp, rdi",
            "mov r8, rdi", "mov r9, rdi", "mov r10, rdi", "mov r11, rdi", "mov r12, rdi",
            "jmp rax",
            in("rax") to, in("rdi") registers, options(noreturn)
        )
    }
}

/// Other page tables.
pub fn set_tables(cr3: u64) {
    // SAFETY: as `jump`.
    unsafe { asm!("mov cr3, {}", in(reg) cr3, options(nostack)) };
}

/// Forgets translations.
pub fn flush() {
    // SAFETY: CR3 is written back as it was; global translations, which the first tables' are, go with PGE.
    unsafe {
        asm!(
            "mov {0}, cr4", "mov {1}, {0}", "and {1}, {2}", "mov cr4, {1}", "mov cr4, {0}",
            out(reg) _, out(reg) _, const !(1 << 7), options(nostack)
        );
    }
}

/// Where the first page table is.
pub fn tables() -> u64 {
    let cr3;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nostack, nomem)) };
    cr3
}

/// Stops until an interrupt comes, which never does.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are off.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

/// A fault that nobody handles.
pub fn triple_fault() -> ! {
    static NONE: [u8; 10] = [0; 10];
    // SAFETY: as `jump`.
    unsafe { asm!("lidt [{}]", "ud2", in(reg) &NONE, options(noreturn)) }
}

/// A hypercall, in AMD's way and in Intel's.
pub fn hypercall(number: u64, arguments: u64) {
    for intel in [false, true] {
        // SAFETY: what it does is the host's to decide; RBX is kept because the compiler has it.
        unsafe {
            if intel {
                asm!("push rbx", "mov rbx, {0}", "vmcall", "pop rbx", in(reg) arguments, inout("rax") number => _,
                     in("rcx") arguments, in("rdx") arguments, in("rsi") arguments);
            } else {
                asm!("push rbx", "mov rbx, {0}", "vmmcall", "pop rbx", in(reg) arguments, inout("rax") number => _,
                     in("rcx") arguments, in("rdx") arguments, in("rsi") arguments);
            }
        }
    }
}

/// Reads a model-specific register and writes it; a fault is skipped.
pub fn register(number: u32, value: Option<u64>) {
    // SAFETY: as `jump`; both instructions are two bytes long, which is what the handler skips.
    unsafe {
        match value {
            None => asm!("rdmsr", in("ecx") number, out("eax") _, out("edx") _, options(nostack)),
            Some(value) => {
                let (low, high) = (value as u32, (value >> 32) as u32);
                asm!("wrmsr", in("ecx") number, in("eax") low, in("edx") high, options(nostack));
            }
        }
    }
}

/// Instructions that ask the host for something, three bytes long each, as what faults in them is skipped.
pub fn privileged(which: u64, value: u64) {
    let low = value as u32;
    // SAFETY: as `jump`.
    unsafe {
        match which % 8 {
            0 => asm!("xsetbv", in("ecx") low & 1, in("eax") low, in("edx") 0, options(nostack)),
            1 => asm!("mov cr4, {}", in(reg) value, options(nostack)),
            2 => asm!("mov dr7, {}", in(reg) value, options(nostack)),
            3 => asm!("mov cr8, rax", "nop", in("rax") value & 15, options(nostack)),
            4 => asm!("monitor", in("rax") value, in("ecx") 0, in("edx") 0, options(nostack)),
            5 => asm!("mwait", in("eax") low, in("ecx") 0, options(nostack)),
            6 => asm!("wbinvd", "nop", options(nostack)),
            _ => asm!("vmrun rax", in("rax") value & !4095, options(nostack)),
        }
    }
}
