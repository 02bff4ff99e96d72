//! What each CPU has for itself, reached through the GS base while in the kernel.

use alloc::boxed::Box;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::clock::{PvClock, PvSteal};
use crate::tables::Descriptors;
use crate::thread::{RunQueue, Thread};

/// Most CPUs: one bit each in a u64.
pub const MAX_CPUS: usize = 64;

/// What the assembly of [`crate::entry`] reaches through GS. Only this CPU touches it.
#[repr(C)]
pub(crate) struct Entry {
    /// This structure's own address.
    this: Cell<*const PerCpu>,
    /// The application's stack pointer, between `SYSCALL` and the first push.
    scratch: Cell<u64>,
    /// Just past `ss` in the [`crate::Registers`] that take the application's state.
    pub regs_end: Cell<u64>,
    /// The stack pointer to return with from [`crate::entry::enter`].
    pub kernel_rsp: Cell<u64>,
    /// The XSAVE image of the thread in user mode.
    pub area: Cell<u64>,
    /// Error code of the last exception from user mode.
    pub error: Cell<u64>,
    /// CR2 of the last page fault from user mode.
    pub cr2: Cell<u64>,
    /// MXCSR of the kernel: all exceptions masked, round to nearest (SDM volume 1, 10.2.3).
    mxcsr: Cell<u32>,
    /// [`crate::entry::WITH_FSGSBASE`], or not: reading CR4 would be a VM exit.
    pub how: Cell<u32>,
}

/// What a CPU is doing, for others to see.
pub mod state {
    /// In the kernel, or idle: touches no user memory.
    pub const KERNEL: u32 = 0;
    /// In user mode, or about to enter it.
    pub const USER: u32 = 1;
    /// Copying to or from user memory; soon over.
    pub const COPY: u32 = 2;
}

/// What other CPUs may look at.
pub struct Shared {
    /// One of [`state`].
    pub state: AtomicU32,
    /// The generation of the loaded space's translations that this CPU has caught up with.
    pub tlb_seen: AtomicU64,
    /// The loaded space.
    pub space: AtomicPtr<crate::paging::Tables>,
    /// Whether it halts for want of work.
    pub idle: AtomicBool,
    /// Threads that are ready to run here.
    pub queue: RunQueue,
    /// Whether an interrupt should look for other threads.
    pub resched: AtomicBool,
    /// When the thread that runs was put on this CPU, by [`crate::clock::on_cpu`].
    pub since: AtomicU64,
    /// What the host took away.
    pub(crate) steal: PvSteal,
}

/// One CPU.
#[repr(C, align(64))]
pub struct PerCpu {
    pub(crate) entry: Entry,
    /// Its number, which is its APIC id.
    pub number: u32,
    /// For others.
    pub shared: Shared,
    /// The thread that runs.
    pub(crate) current: Cell<&'static Thread>,
    /// The thread that ran before, whose context is complete once the next one runs.
    pub(crate) previous: Cell<Option<&'static Thread>>,
    /// Runs when nothing else does.
    pub(crate) idle_thread: Cell<&'static Thread>,
    /// The vector state in the registers belongs to this [`crate::fpu::State`]; 0: to nobody.
    pub(crate) fpu_owner: Cell<usize>,
    /// FS and GS base in the MSRs, where FSGSBASE is not used.
    pub(crate) live_bases: Cell<[u64; 2]>,
    /// Whether CR4 keeps user mode from reading the time stamp counter.
    pub(crate) tsc_faults: Cell<bool>,
    /// When the timer will fire, monotonic; `u64::MAX`: it is not armed.
    pub(crate) timer: Cell<u64>,
    /// When the thread that runs has used its slice; `u64::MAX`: nobody waits.
    pub(crate) slice_end: Cell<u64>,
    /// KVM sets bit 0 when it has delivered an interrupt whose end it need not be told of.
    pub(crate) pv_eoi: AtomicU32,
    pub(crate) pvclock: PvClock,
    pub(crate) descriptors: UnsafeCell<Descriptors>,
}

// SAFETY: a `PerCpu` is reached through `this_cpu`, which hands it to its own CPU alone, where rule 1
// of the crate makes access exclusive; other CPUs get `Shared` alone, which is atomics and locks.
unsafe impl Sync for PerCpu {}

static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static ONLINE: AtomicU64 = AtomicU64::new(0);

impl PerCpu {
    /// A CPU that is not online yet.
    pub(crate) fn new(number: u32, idle: &'static Thread) -> &'static PerCpu {
        let cpu = Box::leak(Box::new(PerCpu {
            entry: Entry {
                this: Cell::new(core::ptr::null()),
                scratch: Cell::new(0),
                regs_end: Cell::new(0),
                kernel_rsp: Cell::new(0),
                area: Cell::new(0),
                error: Cell::new(0),
                cr2: Cell::new(0),
                mxcsr: Cell::new(0x1f80),
                how: Cell::new(0),
            },
            number,
            shared: Shared {
                state: AtomicU32::new(state::KERNEL),
                tlb_seen: AtomicU64::new(0),
                space: AtomicPtr::new(core::ptr::null_mut()),
                idle: AtomicBool::new(false),
                queue: RunQueue::new(),
                resched: AtomicBool::new(false),
                since: AtomicU64::new(0),
                steal: PvSteal::new(),
            },
            current: Cell::new(idle),
            previous: Cell::new(None),
            idle_thread: Cell::new(idle),
            fpu_owner: Cell::new(0),
            tsc_faults: Cell::new(false),
            live_bases: Cell::new([0; 2]),
            timer: Cell::new(u64::MAX),
            slice_end: Cell::new(u64::MAX),
            pv_eoi: AtomicU32::new(0),
            pvclock: PvClock::new(),
            descriptors: UnsafeCell::new(Descriptors::new()),
        }));
        cpu.entry.this.set(cpu);
        cpu
    }

    /// Lets others see it.
    pub(crate) fn set_online(&'static self) {
        if let Some(slot) = CPUS.get(self.number as usize) {
            slot.store(core::ptr::from_ref(self).cast_mut(), Ordering::Release);
            ONLINE.fetch_or(1 << self.number, Ordering::SeqCst);
        }
    }
}

/// This CPU. Not to be kept across a point where the thread may move (park, yield, the application).
#[inline]
pub fn this_cpu() -> &'static PerCpu {
    let cpu: *const PerCpu;
    // SAFETY: in the kernel, GS points at this CPU's `PerCpu` from its first instructions on, whose first word is
    // its own address; it is never freed.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, pure, readonly));
        &*cpu
    }
}

/// The shared part of an online CPU.
#[inline]
pub fn remote(number: u32) -> Option<&'static Shared> {
    let p = CPUS.get(number as usize)?.load(Ordering::Acquire);
    // SAFETY: what is stored there is leaked; only the shared part is handed out.
    unsafe { p.as_ref() }.map(|cpu| &cpu.shared)
}

/// One bit for each CPU that runs.
pub fn online() -> u64 {
    ONLINE.load(Ordering::Acquire)
}

/// The CPUs in a set of bits, lowest first.
pub fn each(mut bits: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let n = bits.trailing_zeros();
        bits &= bits.wrapping_sub(1);
        (n < 64).then_some(n)
    })
}

/// Offsets for the assembly.
pub(crate) mod offset {
    use super::*;
    pub const SCRATCH: usize = offset_of!(Entry, scratch);
    pub const REGS_END: usize = offset_of!(Entry, regs_end);
    pub const KERNEL_RSP: usize = offset_of!(Entry, kernel_rsp);
    pub const AREA: usize = offset_of!(Entry, area);
    pub const ERROR: usize = offset_of!(Entry, error);
    pub const CR2: usize = offset_of!(Entry, cr2);
    pub const MXCSR: usize = offset_of!(Entry, mxcsr);
    pub const HOW: usize = offset_of!(Entry, how);
}

const _: () = assert!(offset_of!(PerCpu, entry) == 0 && offset_of!(Entry, this) == 0);

#[cfg(test)]
mod tests {
    #[test]
    fn each_bit_once_and_in_order() {
        let all: alloc::vec::Vec<u32> = super::each(1 | 1 << 5 | 1 << 63).collect();
        assert_eq!(all, [0, 5, 63]);
        assert_eq!(super::each(0).count(), 0);
    }
}
