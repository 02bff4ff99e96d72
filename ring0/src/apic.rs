//! The local APIC: interrupts between CPUs, and the timer.
//!
//! The timer is one-shot and armed only when somebody waits for a time. Each write to it is a VM exit, so an
//! armed timer is never taken back: it fires, and finds nothing to do.

use crate::arch::{self, msr};
use crate::boot;
use crate::clock;
use crate::features::Features;
use crate::percpu::{self, PerCpu, this_cpu};
use core::sync::atomic::Ordering;

/// Looks for news: a kick, a stale translation, a thread to run.
pub const IPI_VECTOR: u8 = 0xf0;
/// The timer.
pub const TIMER_VECTOR: u8 = 0xf1;
/// The local APIC's own complaints.
const ERROR_VECTOR: u8 = 0xf2;
/// Spurious interrupts; the low four bits are ones on old CPUs.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Registers by their xAPIC offset; the x2APIC MSR is 0x800 and the offset over 16 (SDM volume 3, 11.12.1.2).
mod reg {
    pub const EOI: u32 = 0xb0;
    pub const SPURIOUS: u32 = 0xf0;
    pub const ICR: u32 = 0x300;
    pub const ICR_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_LINT0: u32 = 0x350;
    pub const LVT_LINT1: u32 = 0x360;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

const MASKED: u32 = 1 << 16;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
const X2APIC_ENABLE: u64 = 3 << 10;
const XAPIC_ENABLE: u64 = 2 << 10;
/// Where an xAPIC is after reset.
pub const XAPIC_BASE: u64 = 0xfee0_0000;
/// Divide by 16.
const DIVIDE_16: u32 = 0b0011;

fn x2apic() -> bool {
    boot::choice().features.contains(Features::X2APIC)
}

/// # Safety
/// The register takes the value, and its effect is what the caller wants.
#[inline]
unsafe fn write(register: u32, value: u32) {
    // SAFETY: at boot the APIC was enabled in the chosen mode, and its page mapped for the other.
    unsafe {
        if x2apic() {
            arch::wrmsr(0x800 + (register >> 4), u64::from(value));
        } else {
            let at = (boot::xapic() + u64::from(register)) as *mut u32;
            at.write_volatile(value);
        }
    }
}

/// Enables this CPU's local APIC.
///
/// # Safety
/// On the CPU itself, at its boot, with interrupts off.
pub(crate) unsafe fn init(cpu: &'static PerCpu) {
    let mode = if x2apic() { X2APIC_ENABLE } else { XAPIC_ENABLE };
    // SAFETY: the modes are entered as the SDM says (volume 3, 11.12.5), and the vectors have gates.
    unsafe {
        let base = arch::rdmsr(msr::APIC_BASE);
        arch::wrmsr(msr::APIC_BASE, base & !X2APIC_ENABLE | XAPIC_ENABLE);
        arch::wrmsr(msr::APIC_BASE, base & !X2APIC_ENABLE | mode);
        // First: while it is disabled, every entry below stays masked.
        write(reg::SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
        write(reg::LVT_LINT0, MASKED);
        write(reg::LVT_LINT1, MASKED);
        write(reg::LVT_ERROR, u32::from(ERROR_VECTOR));
        write(reg::TIMER_DIVIDE, DIVIDE_16);
        let mode = if boot::choice().features.contains(Features::TSC_DEADLINE) {
            TSC_DEADLINE_MODE
        } else {
            0
        };
        write(reg::LVT_TIMER, u32::from(TIMER_VECTOR) | mode);
        if boot::choice().features.contains(Features::PV_EOI) {
            let at = boot::physical(cpu.pv_eoi.as_ptr() as u64);
            arch::wrmsr(msr::KVM_PV_EOI_EN, at | 1);
        }
    }
}

/// Says that the interrupt is dealt with.
#[inline]
pub fn end_of_interrupt() {
    // One instruction: between two KVM could take the bit back (Documentation/virt/kvm/x86/msr.rst).
    if this_cpu().pv_eoi.swap(0, Ordering::Relaxed) & 1 != 0 {
        return;
    }
    // SAFETY: writing 0 there means just that; without an interrupt in service it means nothing.
    unsafe { write(reg::EOI, 0) };
}

/// Interrupts another CPU with [`IPI_VECTOR`].
pub fn interrupt(cpu: u32) {
    let command = u32::from(IPI_VECTOR);
    // SAFETY: a fixed, edge-triggered interrupt with a vector that has a gate; APIC ids are CPU numbers.
    unsafe {
        if x2apic() {
            arch::wrmsr(0x800 + (reg::ICR >> 4), u64::from(cpu) << 32 | u64::from(command));
        } else {
            write(reg::ICR_HIGH, cpu << 24);
            write(reg::ICR, command);
        }
    }
}

/// Sees to it that the timer fires at `at` or before.
pub fn arm(at: u64) {
    let cpu = this_cpu();
    if cpu.timer.get() <= at {
        return;
    }
    cpu.timer.set(at);
    let now = clock::monotonic();
    let ns = at.saturating_sub(now).max(1_000);
    if boot::choice().features.contains(Features::TSC_DEADLINE) {
        // Where kvmclock is unfit for deadlines, the frequency alone gives a time that is near enough; firing
        // early is allowed.
        let tsc = clock::deadline_tsc(at).unwrap_or_else(|| {
            let ticks = u128::from(ns) * u128::from(boot::tsc_khz()) / 1_000_000;
            arch::rdtsc().wrapping_add(ticks as u64)
        });
        // SAFETY: CPUID has the deadline mode; a deadline in the past fires at once. 0 would disarm.
        unsafe { arch::wrmsr(msr::TSC_DEADLINE, tsc.max(1)) };
    } else {
        let ticks = u128::from(ns) * u128::from(boot::apic_hz() / 16) / 1_000_000_000;
        let count = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
        // SAFETY: starts the counter, whose vector has a gate.
        unsafe { write(reg::TIMER_INITIAL, count) };
    }
}

/// Deals with an interrupt, in the idle loop or from user mode: what is left to do is noted in the CPU's data.
pub(crate) fn handle(vector: u64) {
    let cpu: &PerCpu = this_cpu();
    match u8::try_from(vector) {
        Ok(TIMER_VECTOR) => {
            cpu.timer.set(u64::MAX);
            end_of_interrupt();
        }
        Ok(SPURIOUS_VECTOR) => {}
        Ok(v) => {
            end_of_interrupt();
            if v == boot::hooks().host_vector {
                boot::hooks().host.host_interrupt();
            }
        }
        Err(_) => {}
    }
}

/// The gate for interrupts in the idle loop's window.
#[unsafe(no_mangle)]
extern "sysv64" fn ring0_idle_interrupt(vector: u64) {
    handle(vector);
}

/// Makes a CPU look at its queue, where it halts or runs an application.
pub(crate) fn nudge(cpu: u32) {
    if cpu != this_cpu().number && percpu::remote(cpu).is_some() {
        interrupt(cpu);
    }
}
