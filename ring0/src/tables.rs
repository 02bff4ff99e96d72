//! Descriptor tables: GDT, TSS, IDT.
//!
//! The selectors are Linux's (`arch/x86/include/asm/segment.h`), because an application can read them. There is
//! no 32-bit code segment and no LDT, so an application cannot leave 64-bit mode.

use core::arch::asm;

use crate::arch::{self, flags, msr};
use crate::entry;
use crate::features::{Choice, Features};
use crate::percpu::PerCpu;

/// Kernel code.
pub const KERNEL_CS: u16 = 0x10;
/// Kernel data.
pub const KERNEL_SS: u16 = 0x18;
/// `SYSRET` takes CS from here + 16 and SS from here + 8; the entry itself (32-bit code) is empty.
pub const USER_BASE: u16 = 0x23;
/// User data.
pub const USER_SS: u16 = 0x2b;
/// User code.
pub const USER_CS: u16 = 0x33;
const TSS: u16 = 0x40;

/// Interrupt-stack indices.
const IST_DOUBLE_FAULT: u8 = 1;
const IST_NMI: u8 = 2;
const IST_MACHINE_CHECK: u8 = 3;
/// A breakpoint of the application's on what `mov ss` reads is told of after the next instruction: if that is `SYSCALL`,
/// in the kernel, still on the application's stack.
const IST_DEBUG: u8 = 4;

/// One gate of the IDT (SDM volume 3, 6.14.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    /// An interrupt gate: interrupts stay off.
    fn new(handler: u64, ist: u8, dpl: u64) -> Gate {
        let low = handler & 0xffff
            | u64::from(KERNEL_CS) << 16
            | u64::from(ist) << 32
            | (0x8e | dpl << 5) << 40
            | (handler >> 16 & 0xffff) << 48;
        Gate { low, high: handler >> 32 }
    }
}

/// Task-state segment (SDM volume 3, 7.7), and no I/O permission bitmap.
#[repr(C, packed(4))]
struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

/// A stack that holds one exception frame and what the entry pushes.
#[repr(C, align(16))]
struct SmallStack([u8; 512]);

impl SmallStack {
    fn top(&self) -> u64 {
        core::ptr::from_ref(self) as u64 + size_of::<Self>() as u64
    }
}

/// The tables of one CPU. Their addresses are in CPU registers, so they never move.
#[repr(C, align(16))]
pub struct Descriptors {
    gdt: [u64; 10],
    tss: TaskState,
    entry_stack: SmallStack,
    ist: [SmallStack; 4],
}

impl Descriptors {
    /// Not loaded yet.
    #[allow(clippy::new_without_default)] // a default nobody should make
    pub fn new() -> Self {
        let mut gdt = [0; 10];
        // Flat segments, accessed (SDM volume 3, 3.4.5): code with L set; DPL 0, then 3.
        for (selector, value) in [
            (KERNEL_CS, 0x00af_9b00_0000_ffff),
            (KERNEL_SS, 0x00cf_9300_0000_ffff),
            (USER_SS, 0x00cf_f300_0000_ffff),
            (USER_CS, 0x00af_fb00_0000_ffff),
        ] {
            gdt[usize::from(selector) / 8] = value;
        }
        Descriptors {
            gdt,
            tss: TaskState {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: [0; 7],
                reserved2: 0,
                reserved3: 0,
                io_map: size_of::<TaskState>() as u16,
            },
            entry_stack: SmallStack([0; 512]),
            ist: [const { SmallStack([0; 512]) }; 4],
        }
    }
}

#[repr(C, packed(2))]
struct Pointer {
    limit: u16,
    base: u64,
}

#[repr(C, align(16))]
struct Idt([Gate; 256]);

static IDT: spin::Once<Idt> = spin::Once::new();

fn idt() -> &'static Idt {
    IDT.call_once(|| {
        let mut gates = [Gate { low: 0, high: 0 }; 256];
        for (vector, gate) in gates.iter_mut().enumerate() {
            let ist = match vector {
                1 => IST_DEBUG,
                2 => IST_NMI,
                8 => IST_DOUBLE_FAULT,
                18 => IST_MACHINE_CHECK,
                _ => 0,
            };
            // INT3, INTO and the 32-bit system call may be executed by applications.
            let dpl = if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 };
            *gate = Gate::new(entry::stub(vector), ist, dpl);
        }
        Idt(gates)
    })
}

/// Loads this CPU's tables, GS base, and system-call MSRs.
///
/// # Safety
/// Once per CPU, on that CPU, in the kernel, with interrupts off.
pub(crate) unsafe fn load(cpu: &'static PerCpu, choice: &Choice) {
    let fast = choice.features.contains(Features::FSGSBASE);
    cpu.entry.how.set(if fast { entry::WITH_FSGSBASE } else { 0 });
    let d = cpu.descriptors.get();
    // SAFETY: nobody else uses the tables of this CPU, and from here on only the CPU itself reads them.
    let d = unsafe { &mut *d };
    d.tss.rsp[0] = d.entry_stack.top();
    d.tss.ist[0] = d.ist[0].top();
    d.tss.ist[1] = d.ist[1].top();
    d.tss.ist[2] = d.ist[2].top();
    d.tss.ist[3] = d.ist[3].top();
    let base = core::ptr::from_ref(&d.tss) as u64;
    // An available 64-bit TSS (SDM volume 3, 7.2.3).
    d.gdt[usize::from(TSS) / 8] = (size_of::<TaskState>() as u64 - 1)
        | (base & 0xff_ffff) << 16
        | 0x89 << 40
        | (base >> 24 & 0xff) << 56;
    d.gdt[usize::from(TSS) / 8 + 1] = base >> 32;
    let gdtr = Pointer { limit: size_of_val(&d.gdt) as u16 - 1, base: d.gdt.as_ptr() as u64 };
    let idtr =
        Pointer { limit: size_of::<Idt>() as u16 - 1, base: core::ptr::from_ref(idt()) as u64 };
    // SAFETY: the tables are complete and stay; the selectors are in them; GS is set before anything uses it.
    unsafe {
        asm!(
            "lgdt [{gdtr}]",
            "lidt [{idtr}]",
            "push {cs}",
            "lea {t}, [rip + 2f]",
            "push {t}",
            "retfq",
            "2:",
            "mov ss, {ss:e}",
            "xor {t:e}, {t:e}",
            "mov ds, {t:e}",
            "mov es, {t:e}",
            "mov fs, {t:e}",
            "mov gs, {t:e}",
            "ltr {tss:x}",
            gdtr = in(reg) &gdtr,
            idtr = in(reg) &idtr,
            cs = const KERNEL_CS,
            ss = in(reg) u64::from(KERNEL_SS),
            tss = in(reg) u64::from(TSS),
            t = out(reg) _,
        );
        arch::wrmsr(msr::GS_BASE, core::ptr::from_ref(cpu) as u64);
        arch::wrmsr(msr::KERNEL_GS_BASE, 0);
        arch::wrmsr(msr::STAR, u64::from(USER_BASE) << 48 | u64::from(KERNEL_CS) << 32);
        arch::wrmsr(msr::LSTAR, entry::syscall_address(fast));
        // A 32-bit SYSCALL cannot happen without a 32-bit code segment, SYSENTER faults without a selector.
        arch::wrmsr(msr::CSTAR, entry::stub(0x80));
        arch::wrmsr(msr::SYSENTER_CS, 0);
        arch::wrmsr(msr::FMASK, flags::USER & !flags::FIXED | flags::IF | flags::IOPL | flags::VM);
    }
}
