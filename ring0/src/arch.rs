//! Single instructions. Each function is the instruction and its contract.

use core::arch::asm;

/// Model-specific registers (Intel SDM volume 4; AMD APM volume 2, appendix A; Linux msr-index.h).
#[allow(missing_docs)] // the names are the architecture's
pub mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const SPEC_CTRL: u32 = 0x48;
    pub const PRED_CMD: u32 = 0x49;
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    pub const SYSENTER_CS: u32 = 0x174;
    pub const PAT: u32 = 0x277;
    pub const TSC_DEADLINE: u32 = 0x6e0;
    pub const EFER: u32 = 0xc000_0080;
    pub const STAR: u32 = 0xc000_0081;
    pub const LSTAR: u32 = 0xc000_0082;
    pub const CSTAR: u32 = 0xc000_0083;
    pub const FMASK: u32 = 0xc000_0084;
    pub const FS_BASE: u32 = 0xc000_0100;
    pub const GS_BASE: u32 = 0xc000_0101;
    pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
    pub const KVM_WALL_CLOCK: u32 = 0x4b56_4d00;
    pub const KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;
    pub const KVM_STEAL_TIME: u32 = 0x4b56_4d03;
    pub const KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
}

/// RFLAGS bits.
#[allow(missing_docs)] // the names are the architecture's
pub mod flags {
    pub const CF: u64 = 1 << 0;
    pub const FIXED: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const ID: u64 = 1 << 21;
    /// What an application may set.
    pub const USER: u64 = CF | PF | AF | ZF | SF | TF | DF | OF | NT | RF | AC | ID;
}

/// Control-register bits.
#[allow(missing_docs)] // the names are the architecture's
pub mod cr {
    pub const CR4_TSD: u64 = 1 << 2;
    pub const CR4_PGE: u64 = 1 << 7;
    pub const CR4_OSFXSR: u64 = 1 << 9;
    pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub const CR4_UMIP: u64 = 1 << 11;
    pub const CR4_FSGSBASE: u64 = 1 << 16;
    pub const CR4_OSXSAVE: u64 = 1 << 18;
    pub const CR4_SMEP: u64 = 1 << 20;
    pub const CR4_SMAP: u64 = 1 << 21;
}

/// Reads an MSR.
///
/// # Safety
/// The MSR exists.
#[inline]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: reading has no side effect; the caller says that it exists.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// Writes an MSR.
///
/// # Safety
/// The MSR exists, takes the value, and what it changes is what the caller wants.
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags))
    };
}

/// Writes 8 bits to an I/O port.
///
/// # Safety
/// What the port does is what the caller wants.
#[inline]
pub unsafe fn outb(port: u16, value: u8) {
    // SAFETY: the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Writes 32 bits to an I/O port.
///
/// # Safety
/// What the port does, to memory too, is what the caller wants.
#[inline]
pub unsafe fn outl(port: u16, value: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags))
    };
}

/// The time-stamp counter, not before earlier loads.
#[inline]
pub fn rdtsc() -> u64 {
    let (lo, hi): (u32, u32);
    // SAFETY: no side effects. The fence keeps the reading after the loads before it.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") lo, out("edx") hi, options(nomem, nostack, preserves_flags))
    };
    u64::from(hi) << 32 | u64::from(lo)
}

/// A hardware random number, where the CPU has one ready.
///
/// # Safety
/// The CPU has RDRAND.
pub unsafe fn rdrand() -> Option<u64> {
    let (value, ok): (u64, u8);
    // SAFETY: the caller says that it exists.
    unsafe {
        asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack))
    };
    (ok != 0).then_some(value)
}

/// CR2: the address of the last page fault.
#[inline]
pub fn cr2() -> u64 {
    let value;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// CR3.
#[inline]
pub fn cr3() -> u64 {
    let value;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Loads CR3; drops every translation that is not global.
///
/// # Safety
/// The tables there map the kernel as the present ones do.
#[inline]
pub unsafe fn set_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// CR4.
pub fn cr4() -> u64 {
    let value;
    // SAFETY: reading has no side effect.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets CR4.
///
/// # Safety
/// The CPU has what is set, and nothing that runs depends on what is cleared.
pub unsafe fn set_cr4(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// Drops the translation of one address.
#[inline]
pub fn invlpg(addr: u64) {
    // SAFETY: dropping a cached translation is always allowed; memory operands are not reordered past it.
    unsafe { asm!("invlpg [{}]", in(reg) addr, options(nostack, preserves_flags)) };
}

/// Sets XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set, and the CPU has all components of `value`.
pub unsafe fn xsetbv(value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags))
    };
}

/// The state of debug registers: DR6 and DR7 where they say nothing (SDM volume 3, 18.2).
pub const DR6_NOTHING: u64 = 0xffff_0ff0;
/// See [`DR6_NOTHING`].
pub const DR7_NOTHING: u64 = 0x400;

/// DR6.
pub fn dr6() -> u64 {
    let value;
    // SAFETY: reading has no side effect; DR7.GD is never set.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets DR6.
pub fn set_dr6(value: u64) {
    // SAFETY: it only says what happened; the upper half is zero.
    unsafe { asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nostack, preserves_flags)) };
}

/// Sets DR0 to DR3.
pub fn set_breakpoint_addresses(addresses: &[u64; 4]) {
    let [a, b, c, d] = *addresses;
    // SAFETY: addresses alone do nothing; DR7 is off meanwhile.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nostack, preserves_flags))
    };
}

/// Sets DR7.
///
/// # Safety
/// What it enables is at addresses of the application.
pub unsafe fn set_dr7(value: u64) {
    // SAFETY: the caller's promise: the kernel does not stop at its own. The upper half is zero.
    unsafe { asm!("mov dr7, {}", in(reg) value & 0xffff_ffff, options(nostack, preserves_flags)) };
}

/// Waits for an interrupt with interrupts on, takes it, and turns them off again.
///
/// The interrupt shadow of `sti` covers `hlt`: an interrupt that was pending before ends it.
#[inline]
pub fn wait_for_interrupt() {
    // SAFETY: handlers of interrupts in the kernel keep to the C ABI's call-saved registers.
    unsafe { asm!("sti", "hlt", "cli", clobber_abi("sysv64")) };
}

/// Takes pending interrupts, with interrupts off before and after.
#[inline]
pub fn take_interrupts() {
    // SAFETY: as in `wait_for_interrupt`; the `nop` is what the shadow of `sti` covers.
    unsafe { asm!("sti", "nop", "cli", clobber_abi("sysv64")) };
}

/// Stops this CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off this never goes on but for an NMI.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
