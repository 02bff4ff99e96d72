//! Which CPU features are used: chosen once, at boot, and the same on every CPU.

use core::fmt;

use crate::arch::{self, cr};

bitflags::bitflags! {
    /// A feature that is used.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Features: u32 {
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 0;
        /// Supervisor-mode access prevention; without it copies walk the page tables in software.
        const SMAP = 1 << 1;
        /// User-mode instruction prevention (SGDT and its kin).
        const UMIP = 1 << 2;
        /// RDFSBASE and its kin, in user mode too.
        const FSGSBASE = 1 << 3;
        /// x2APIC in place of xAPIC.
        const X2APIC = 1 << 4;
        /// The local APIC's timer by TSC deadline in place of its counter.
        const TSC_DEADLINE = 1 << 5;
        /// XSAVE in place of FXSAVE.
        const XSAVE = 1 << 6;
        /// XSAVEOPT in place of XSAVE.
        const XSAVEOPT = 1 << 7;
        /// RDRAND.
        const RDRAND = 1 << 8;
        /// kvmclock.
        const KVMCLOCK = 1 << 9;
        /// 1 GiB pages.
        const GIB_PAGES = 1 << 10;
        /// The end of an interrupt by a bit in memory, without an exit.
        const PV_EOI = 1 << 11;
        /// The time that the host took away from a vCPU, told in memory.
        const STEAL_TIME = 1 << 12;
    }
}

/// What was chosen, with numbers that belong to it.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The features in use.
    pub features: Features,
    /// The state components in XCR0 (0 without XSAVE).
    pub xcr0: u64,
    /// Bytes of the XSAVE image with all of those.
    pub xsave_size: usize,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, _) in self.features.iter_names() {
            write!(f, "{} ", name)?;
        }
        write!(f, "xcr0={:#x} xsave={}", self.xcr0, self.xsave_size)
    }
}

/// CPUID as a function of leaf and subleaf; executing the instruction would be a VM exit each time.
pub type Cpuid = dyn Fn(u32, u32) -> [u32; 4];

/// x87, SSE, AVX and AVX-512: what a sandbox's CPU profile has (no AMX, PKU, CET).
const PROFILE: u64 = 0b111 | 0b1110_0000;

/// Chooses. `without` are features that must not be used although they are there.
pub fn choose(cpuid: &Cpuid, without: Features) -> Choice {
    let [max, ..] = cpuid(0, 0);
    let leaf = |n: u32, sub: u32| if n <= max { cpuid(n, sub) } else { [0; 4] };
    let [_, _, c1, _] = leaf(1, 0);
    let [_, b7, c7, _] = leaf(7, 0);
    let [ad1, ..] = leaf(0xd, 1);
    let [kvm, ..] = cpuid(0x4000_0001, 0);
    let [_, _, _, dx1] = cpuid(0x8000_0001, 0);
    let bit = |word: u32, n: u32| word >> n & 1 != 0;
    let mut f = Features::empty();
    f.set(Features::SMEP, bit(b7, 7));
    f.set(Features::SMAP, bit(b7, 20));
    f.set(Features::UMIP, bit(c7, 2));
    f.set(Features::FSGSBASE, bit(b7, 0));
    f.set(Features::X2APIC, bit(c1, 21));
    f.set(Features::TSC_DEADLINE, bit(c1, 24));
    f.set(Features::XSAVE, bit(c1, 26));
    f.set(Features::XSAVEOPT, bit(c1, 26) && bit(ad1, 0));
    f.set(Features::RDRAND, bit(c1, 30));
    f.set(Features::KVMCLOCK, bit(kvm, 3));
    f.set(Features::STEAL_TIME, bit(kvm, 5));
    f.set(Features::PV_EOI, bit(kvm, 6));
    f.set(Features::GIB_PAGES, bit(dx1, 26));
    f -= without;
    if !f.contains(Features::XSAVE) {
        f -= Features::XSAVEOPT;
    }
    let (xcr0, xsave_size) = if f.contains(Features::XSAVE) {
        let [a, _, _, d] = leaf(0xd, 0);
        let xcr0 = (u64::from(d) << 32 | u64::from(a)) & PROFILE;
        (xcr0, image_size(&|n| leaf(0xd, n), xcr0))
    } else {
        (0, 512)
    };
    Choice { features: f, xcr0, xsave_size }
}

/// Bytes of a standard-format image: the end of the last component (SDM volume 1, 13.4.3).
fn image_size(component: &dyn Fn(u32) -> [u32; 4], xcr0: u64) -> usize {
    (2..63)
        .filter(|n| xcr0 >> n & 1 != 0)
        .map(|n| {
            let [size, offset, ..] = component(n);
            offset as usize + size as usize
        })
        .fold(512 + 64, usize::max)
}

/// Turns the chosen features on, on this CPU.
///
/// # Safety
/// At boot of this CPU, with `choice` made from what it has.
pub unsafe fn enable(choice: &Choice) {
    let f = choice.features;
    let mut cr4 = arch::cr4() | cr::CR4_PGE | cr::CR4_OSFXSR | cr::CR4_OSXMMEXCPT;
    for (feature, bit) in [
        (Features::SMEP, cr::CR4_SMEP),
        (Features::SMAP, cr::CR4_SMAP),
        (Features::UMIP, cr::CR4_UMIP),
        (Features::FSGSBASE, cr::CR4_FSGSBASE),
        (Features::XSAVE, cr::CR4_OSXSAVE),
    ] {
        if f.contains(feature) {
            cr4 |= bit;
        }
    }
    // SAFETY: the caller says that the CPU has them.
    unsafe {
        arch::set_cr4(cr4);
        if f.contains(Features::XSAVE) {
            arch::xsetbv(choice.xcr0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(leaf: u32, sub: u32) -> [u32; 4] {
        match (leaf, sub) {
            (0, _) => [0xd, 0, 0, 0],
            (1, _) => [0, 0, 1 << 26 | 1 << 21, 0],
            (7, 0) => [0, 1 | 1 << 7 | 1 << 20, 1 << 2, 0],
            (0xd, 0) => [0b10_0000_0111, 0, 0, 0],
            (0xd, 1) => [1, 0, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            (0xd, 9) => [8, 2688, 0, 0],
            _ => [0; 4],
        }
    }

    #[test]
    fn protection_keys_are_left_out_and_the_image_ends_with_avx() {
        let c = choose(&cpu, Features::empty());
        assert_eq!((c.xcr0, c.xsave_size), (7, 832));
        assert!(c.features.contains(Features::XSAVEOPT | Features::SMAP));
    }

    #[test]
    fn xsaveopt_goes_with_xsave() {
        let c = choose(&cpu, Features::XSAVE);
        assert!(!c.features.contains(Features::XSAVEOPT));
        assert_eq!((c.xcr0, c.xsave_size), (0, 512));
    }
}
