//! Time: kvmclock, which KVM keeps right on each vCPU also where the TSC is unfit; or the TSC alone, where that
//! was asked for.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::arch::{self, msr};
use crate::boot;
use crate::features::Features;
use crate::percpu::{PerCpu, Shared, this_cpu};

/// What KVM writes (Linux `struct pvclock_vcpu_time_info`).
#[repr(C, align(64))]
pub struct PvClock(UnsafeCell<[u32; 16]>);

/// The fields, copied out.
#[derive(Clone, Copy)]
struct Reading {
    tsc: u64,
    system: u64,
    mul: u32,
    shift: i8,
    stable: bool,
}

impl PvClock {
    /// Not registered yet.
    #[allow(clippy::new_without_default)] // a default nobody should make
    pub const fn new() -> PvClock {
        PvClock(UnsafeCell::new([0; 16]))
    }

    fn word(&self, n: usize) -> &AtomicU32 {
        // SAFETY: the word is inside the structure and aligned, and is only ever read atomically.
        unsafe { AtomicU32::from_ptr(self.0.get().cast::<u32>().add(n)) }
    }

    #[inline]
    fn read(&self) -> Reading {
        let pair = |n| {
            u64::from(self.word(n).load(Ordering::Relaxed))
                | u64::from(self.word(n + 1).load(Ordering::Relaxed)) << 32
        };
        loop {
            // The structure is this vCPU's own, and KVM writes it while the vCPU does not run.
            let version = self.word(0).load(Ordering::Acquire);
            let last = self.word(7).load(Ordering::Relaxed);
            let reading = Reading {
                tsc: pair(2),
                system: pair(4),
                mul: self.word(6).load(Ordering::Relaxed),
                shift: last as i8,
                stable: last >> 8 & 1 != 0,
            };
            fence(Ordering::Acquire);
            if version & 1 == 0 && version == self.word(0).load(Ordering::Relaxed) {
                return reading;
            }
        }
    }
}

/// What KVM writes (Linux `struct kvm_steal_time`): for how long a vCPU was ready and had no processor of the host.
#[repr(C, align(64))]
pub struct PvSteal([AtomicU32; 16]);

impl PvSteal {
    /// Not registered yet: nothing is taken away.
    pub(crate) const fn new() -> PvSteal {
        PvSteal([const { AtomicU32::new(0) }; 16])
    }

    /// Nanoseconds, since the vCPU was made. Right on the vCPU itself; from others it may be behind.
    fn stolen(&self) -> u64 {
        let [low, high, version, ..] = &self.0;
        loop {
            let before = version.load(Ordering::Acquire);
            let found = u64::from(low.load(Ordering::Relaxed))
                | u64::from(high.load(Ordering::Relaxed)) << 32;
            fence(Ordering::Acquire);
            if before & 1 == 0 && before == version.load(Ordering::Relaxed) {
                return found;
            }
            core::hint::spin_loop();
        }
    }
}

/// The time that a CPU has had for what runs on it, nanoseconds: what passes, less what the host took away.
pub(crate) fn on_cpu(cpu: &Shared) -> u64 {
    monotonic().saturating_sub(cpu.steal.stolen())
}

impl Reading {
    #[inline]
    fn at(&self, tsc: u64) -> u64 {
        let delta = tsc.saturating_sub(self.tsc);
        let delta = if self.shift >= 0 {
            delta.wrapping_shl(self.shift as u32)
        } else {
            delta.wrapping_shr(-i32::from(self.shift) as u32)
        };
        let scaled = (u128::from(delta) * u128::from(self.mul)) >> 32;
        self.system.wrapping_add(scaled as u64)
    }
}

/// The latest time that any CPU has seen, where their clocks may differ.
static LATEST: AtomicU64 = AtomicU64::new(0);

/// A TSC and the time that it stands for, and ticks per millisecond; for the TSC alone.
static TSC_BASE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Sets what the TSC alone stands for.
pub fn set_tsc_base(tsc: u64, monotonic: u64, khz: u64) {
    for (slot, value) in TSC_BASE.iter().zip([tsc, monotonic, khz]) {
        slot.store(value, Ordering::Relaxed);
    }
}

/// Registers this CPU's clock, and where the time goes that the host takes away.
///
/// # Safety
/// On `cpu` itself, at its boot.
pub(crate) unsafe fn init(cpu: &'static PerCpu) {
    if boot::choice().features.contains(Features::KVMCLOCK) {
        let at = boot::physical(cpu.pvclock.0.get() as u64);
        // SAFETY: the structure stays where it is, does not cross a page, and CPUID says that the MSR is there.
        unsafe { arch::wrmsr(msr::KVM_SYSTEM_TIME, at | 1) };
    }
    if boot::choice().features.contains(Features::STEAL_TIME) {
        let at = boot::physical(cpu.shared.steal.0.as_ptr() as u64);
        // SAFETY: as above.
        unsafe { arch::wrmsr(msr::KVM_STEAL_TIME, at | 1) };
    }
}

/// Whether KVM says that the TSC is fit on all vCPUs: asks with a structure that is forgotten after. `direct_map` is
/// where physical memory is, for before the rest is set up.
pub(crate) fn is_stable(direct_map: u64) -> bool {
    let probe = alloc::boxed::Box::new(PvClock::new());
    let at = (probe.0.get() as u64).wrapping_sub(direct_map);
    // SAFETY: CPUID said that the MSR is there; KVM writes the structure at once, and no more after the second write.
    unsafe {
        arch::wrmsr(msr::KVM_SYSTEM_TIME, at | 1);
        let stable = probe.read().stable;
        arch::wrmsr(msr::KVM_SYSTEM_TIME, 0);
        stable
    }
}

/// CLOCK_MONOTONIC in nanoseconds: never goes back, on whatever CPU it is read.
#[inline]
pub fn monotonic() -> u64 {
    let (now, stable) = if boot::choice().features.contains(Features::KVMCLOCK) {
        let reading = this_cpu().pvclock.read();
        (reading.at(arch::rdtsc()), reading.stable)
    } else {
        let [tsc, base, khz] = [0, 1, 2].map(|n| TSC_BASE[n].load(Ordering::Relaxed));
        let delta = u128::from(arch::rdtsc().saturating_sub(tsc)) * 1_000_000;
        let scaled = delta.checked_div(u128::from(khz)).unwrap_or(0);
        (base.wrapping_add(scaled as u64), false)
    };
    if stable {
        return now;
    }
    let before = LATEST.fetch_max(now, Ordering::Relaxed);
    before.max(now)
}

/// The TSC value at which `monotonic` will be `at`, where the clock is fit for a deadline.
pub(crate) fn deadline_tsc(at: u64) -> Option<u64> {
    if !boot::choice().features.contains(Features::KVMCLOCK) {
        return None;
    }
    let r = this_cpu().pvclock.read();
    if !r.stable || r.mul == 0 {
        return None;
    }
    let ns = at.saturating_sub(r.system);
    let scaled = (u128::from(ns) << 32) / u128::from(r.mul);
    let delta = if r.shift >= 0 { scaled >> r.shift } else { scaled << -i32::from(r.shift) };
    Some(r.tsc.saturating_add(delta as u64))
}
