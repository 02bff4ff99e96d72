//! What ring 0 is told once, and how a CPU comes up.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::apic;
use crate::arch;
use crate::clock;
use crate::features::{self, Choice, Cpuid, Features};
use crate::fpu;
use crate::paging;
use crate::percpu::PerCpu;
use crate::tables;
use crate::thread::{self, Thread};

/// What ring 0 needs from above.
pub trait Hooks: Sync {
    /// A page of zeroes for page tables and stacks, by its physical address.
    fn alloc_page(&self) -> Option<u64>;
    /// Gives one back.
    fn free_page(&self, page: u64);
    /// The host half wants something looked at. Called with no lock held.
    fn host_interrupt(&self);
    /// Has a CPU started at `rip` with these registers; `false` where the host half refuses.
    fn start_cpu(&self, cpu: u32, rip: u64, rsp: u64, rdi: u64, cr3: u64) -> bool;
    /// A CPU is wanted for threads that wait for one. Called with no lock held, maybe often.
    fn want_cpu(&self);
    /// Something ended the sandbox.
    fn fatal(&self, report: &crate::fatal::Report<'_>) -> !;
    /// The report itself failed.
    fn give_up(&self) -> !;
}

/// What ring 0 is told at boot.
#[derive(Clone, Copy)]
pub struct Config {
    /// Where physical memory is mapped.
    pub direct_map: u64,
    /// Vector of the host half's interrupts.
    pub host_vector: u8,
    /// Frequency of the APIC timer.
    pub apic_hz: u64,
    /// Frequency of the TSC; 0: unknown.
    pub tsc_khz: u64,
    /// The rest.
    pub host: &'static dyn Hooks,
}

static STATE: spin::Once<State> = spin::Once::new();
static XAPIC: AtomicU64 = AtomicU64::new(0);

struct State {
    config: Config,
    choice: Choice,
    mxcsr_mask: u32,
    kernel_root: u64,
}

#[inline]
fn state() -> &'static State {
    // SAFETY: the boot CPU sets it before anything that asks for it runs.
    unsafe { STATE.get_unchecked() }
}

/// What ring 0 was told.
#[inline]
pub fn hooks() -> &'static Config {
    &state().config
}

/// The CPU features in use.
#[inline]
pub fn choice() -> &'static Choice {
    &state().choice
}

pub(crate) fn mxcsr_mask() -> u32 {
    state().mxcsr_mask
}

pub(crate) fn kernel_root() -> u64 {
    state().kernel_root
}

pub(crate) fn apic_hz() -> u64 {
    state().config.apic_hz
}

pub(crate) fn tsc_khz() -> u64 {
    state().config.tsc_khz
}

pub(crate) fn xapic() -> u64 {
    XAPIC.load(Ordering::Relaxed)
}

/// Where a physical address is in the direct map.
#[inline]
pub fn direct(physical: u64) -> u64 {
    hooks().direct_map.wrapping_add(physical)
}

/// The physical address of something in the direct map (the heap is there).
#[inline]
pub(crate) fn physical(virt: u64) -> u64 {
    virt.wrapping_sub(hooks().direct_map)
}

/// Brings up the boot CPU; the caller goes on as its idle thread, see [`thread::idle`].
///
/// # Safety
/// Once, at the image's entry, in the state that the contract with the host half promises. The heap
/// works, and is in the direct map.
pub unsafe fn init_boot_cpu(config: Config, cpuid: &Cpuid, without: Features) {
    let mut choice = features::choose(cpuid, without);
    let has_clock = choice.features.contains(Features::KVMCLOCK);
    if !(has_clock && config.tsc_khz != 0 && clock::is_stable(config.direct_map)) {
        choice.features -= Features::TSC_DEADLINE;
    }
    // SAFETY: the choice was made from what this CPU has.
    unsafe { features::enable(&choice) };
    let mxcsr_mask = fpu::probe_mxcsr_mask();
    STATE.call_once(|| State {
        config,
        choice,
        mxcsr_mask,
        kernel_root: arch::cr3() & paging::ADDRESS,
    });
    paging::init_kernel();
    if !choice.features.contains(Features::X2APIC) {
        XAPIC.store(paging::map_device(apic::XAPIC_BASE), Ordering::Relaxed);
    }
    let cpu = PerCpu::new(0, Thread::for_idle(0));
    // SAFETY: this is CPU 0, at its boot.
    unsafe { init(cpu) };
}

/// # Safety
/// On `cpu` itself, once, with the features on.
unsafe fn init(cpu: &'static PerCpu) {
    // SAFETY: as the caller says.
    unsafe {
        tables::load(cpu, choice());
        clock::init(cpu);
        apic::init(cpu);
    }
    cpu.set_online();
}

core::arch::global_asm!(
    r#"
    .globl ring0_start_cpu
ring0_start_cpu:
    xor ebp, ebp
    call ring0_cpu_main
    ud2
    "#
);

unsafe extern "sysv64" {
    fn ring0_start_cpu();
}

/// Starts another CPU; `false` where the host half refuses, or memory is short.
pub fn start_cpu(number: u32) -> bool {
    let Some(stack) = crate::stack::Stack::new() else {
        return false;
    };
    let rsp = stack.top();
    let cpu = PerCpu::new(number, Thread::for_idle(number));
    core::mem::forget(stack);
    hooks().host.start_cpu(
        number,
        ring0_start_cpu as *const () as u64,
        rsp,
        core::ptr::from_ref(cpu) as u64,
        kernel_root(),
    )
}

#[unsafe(no_mangle)]
extern "sysv64" fn ring0_cpu_main(cpu: *const PerCpu) -> ! {
    // SAFETY: `start_cpu` passed a leaked structure for this CPU alone.
    unsafe {
        features::enable(choice());
        init(&*cpu);
    }
    thread::idle()
}
