//! The CPU that applications see: the host's, less what the ptrace platform could not carry.
//!
//! One profile per sandbox decides CPUID, the auxiliary vector and signal frames. Left out are AMX
//! and PKU (per-thread state that a restore under ptrace could not set), CET and MPX (supervisor or
//! dead state), nested virtualization, and what a guest's kernel alone could use: performance
//! counters, tracing, and KVM's interfaces but the clock.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// XCR0 bits that stay: x87, SSE, AVX, the three of AVX-512 (Intel SDM volume 1, 13.1).
const XCR0: u32 = 0b1110_0111;

/// Bits taken out of a register of a leaf: leaf, subleaf, [eax, ebx, ecx, edx] (Intel SDM volume 2,
/// CPUID; AMD APM volume 3, appendix E).
const REMOVED: &[(u32, u32, [u32; 4])] = &[
    // ECX: 2 DTES64, 3 MONITOR, 4 DS-CPL, 5 VMX, 6 SMX, 7 EIST, 8 TM2, 15 PDCM.
    (0x1, 0, [0, 0, bits(&[2, 3, 4, 5, 6, 7, 8, 15]), bits(&[21, 22, 29, 31])]),
    (
        0x7,
        0,
        [
            0,
            // 14 MPX, 25 processor trace, 2 SGX.
            bits(&[2, 14, 25]),
            // 3 PKU, 4 OSPKE, 5 WAITPKG, 7 shadow stacks, 16 LA57, 23 key locker, 30 SGX_LC, 31 PKS.
            bits(&[3, 4, 5, 7, 16, 23, 30, 31]),
            // 5 user interrupts, 20 IBT, 22 AMX-BF16, 24 AMX-TILE, 25 AMX-INT8.
            bits(&[5, 20, 22, 24, 25]),
        ],
    ),
    // EAX: 21 AMX-FP16. EDX: 8 AMX-COMPLEX, 18 CET_SSS.
    (0x7, 1, [bits(&[21]), 0, 0, bits(&[8, 18])]),
    // ECX: 2 SVM, 10 IBS, 12 SKINIT, 13 watchdog, 23 and 24 performance counters.
    (0x8000_0001, 0, [0, 0, bits(&[2, 10, 12, 13, 23, 24, 28]), 0]),
];

/// Leaves that are left out altogether: performance counters, tracing, AMX, SVM, IBS, SEV.
const DROPPED: &[u32] =
    &[0xa, 0x12, 0x14, 0x1d, 0x1e, 0x8000_000a, 0x8000_001b, 0x8000_001f, 0x8000_0022];

/// KVM's features that the image uses (Documentation/virt/kvm/x86/cpuid.rst): 0 and 3 the clock, 6 the end of
/// interrupts without an exit, 24 that the clock is stable.
const KVM_FEATURES: u32 = bits(&[0, 3, 6, 24]);

const fn bits(list: &[u32]) -> u32 {
    let mut word = 0;
    let mut i = 0;
    while i < list.len() {
        word |= 1 << list[i];
        i += 1;
    }
    word
}

/// Turns what KVM can show into what a vCPU shows. `vcpus` is how many applications see.
pub fn profile(supported: &CpuId, vcpus: u32, deadline_timer: bool) -> Vec<kvm_cpuid_entry2> {
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|e| !DROPPED.contains(&e.function))
        // Components of XSAVE's area that are not in XCR0 any more.
        .filter(|e| e.function != 0xd || e.index < 2 || (e.index < 32 && XCR0 >> e.index & 1 != 0))
        .copied()
        .collect();
    let area = xsave_area(&entries);
    for e in &mut entries {
        for &(_, _, gone) in
            REMOVED.iter().filter(|(leaf, sub, _)| (*leaf, *sub) == (e.function, e.index))
        {
            e.eax &= !gone[0];
            e.ebx &= !gone[1];
            e.ecx &= !gone[2];
            e.edx &= !gone[3];
        }
        match (e.function, e.index) {
            (0x1, _) => {
                // x2APIC, hypervisor, and the deadline timer where KVM has it.
                e.ecx |= 1 << 21 | 1 << 31;
                e.ecx = e.ecx & !(1 << 24) | u32::from(deadline_timer) << 24;
                // Bits 23 to 16: logical processors of the package; HTT says that they count.
                e.ebx = e.ebx & 0xff00_ffff | vcpus.min(255) << 16;
                e.edx = e.edx & !(1 << 28) | u32::from(vcpus > 1) << 28;
            }
            // Every vCPU is a core with caches of its own, all in one package.
            (0x4, _) if e.eax & 31 != 0 => {
                e.eax = e.eax & 0x3fff | cores(vcpus) << 26;
            }
            (0xd, 0) => {
                e.eax &= XCR0;
                e.edx = 0;
                e.ecx = area;
            }
            // No supervisor state.
            (0xd, 1) => (e.ecx, e.edx) = (0, 0),
            (0x4000_0001, _) => e.eax &= KVM_FEATURES,
            (0x8000_0008, _) => e.ecx = vcpus.saturating_sub(1).min(255),
            _ => {}
        }
    }
    topology(&mut entries, vcpus);
    entries
}

/// What one vCPU shows: the profile with its own APIC id.
pub fn for_vcpu(profile: &[kvm_cpuid_entry2], id: u32) -> Vec<kvm_cpuid_entry2> {
    let mut entries = profile.to_vec();
    for e in &mut entries {
        match e.function {
            0x1 => e.ebx = e.ebx & 0x00ff_ffff | id << 24,
            0xb | 0x1f => e.edx = id,
            0x8000_001e => {
                e.eax = id;
                e.ebx = id & 0xff;
            }
            _ => {}
        }
    }
    entries
}

/// Whether there are 1 GiB pages.
pub fn gigabyte_pages(profile: &[kvm_cpuid_entry2]) -> bool {
    profile.iter().any(|e| e.function == 0x8000_0001 && e.edx >> 26 & 1 != 0)
}

/// Width of physical addresses.
pub fn physical_bits(profile: &[kvm_cpuid_entry2]) -> u32 {
    // 36 where the leaf is missing (AMD APM volume 3, E.4.7).
    profile.iter().find(|e| e.function == 0x8000_0008).map_or(36, |e| e.eax & 0xff)
}

/// Cores of a package less one, as leaf 4 wants it: one less than a power of two.
fn cores(vcpus: u32) -> u32 {
    (vcpus.next_power_of_two() - 1).min(63)
}

/// The size of a standard-format XSAVE area with all that stays: 576 bytes and the farthest component.
fn xsave_area(entries: &[kvm_cpuid_entry2]) -> u32 {
    entries
        .iter()
        .filter(|e| e.function == 0xd && e.index >= 2)
        .map(|e| e.ebx.saturating_add(e.eax))
        .max()
        .unwrap_or(0)
        .max(576)
}

/// Leaves 0xb and 0x1f: one thread per core, all cores in one package.
fn topology(entries: &mut Vec<kvm_cpuid_entry2>, vcpus: u32) {
    for leaf in [0xb, 0x1f] {
        let Some(at) = entries.iter().position(|e| e.function == leaf) else { continue };
        entries.retain(|e| e.function != leaf);
        let level = |index, shift, count, kind: u32| kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: kind << 8 | index,
            ..Default::default()
        };
        let shift = vcpus.next_power_of_two().trailing_zeros();
        let levels = [level(0, 0, 1, 1), level(1, shift, vcpus, 2), level(2, 0, 0, 0)];
        let at = at.min(entries.len());
        entries.splice(at..at, levels);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, regs: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            eax: regs[0],
            ebx: regs[1],
            ecx: regs[2],
            edx: regs[3],
            ..Default::default()
        }
    }

    #[test]
    fn what_is_left_out_is_out() {
        let all = u32::MAX;
        let supported = CpuId::from_entries(&[
            entry(1, 0, [all; 4]),
            entry(7, 0, [all; 4]),
            entry(0xa, 0, [all; 4]),
            entry(0xb, 0, [0; 4]),
            entry(0xd, 0, [all, 2696, 11008, 0]),
            entry(0xd, 1, [15, 0, 0x1800, 0]),
            entry(0xd, 2, [256, 576, 0, 0]),
            entry(0xd, 9, [8, 2688, 0, 0]),
            entry(0xd, 18, [8192, 2816, 6, 0]),
            entry(0x4000_0001, 0, [all; 4]),
            entry(0x8000_0001, 0, [all; 4]),
            entry(0x8000_000a, 0, [all; 4]),
        ])
        .unwrap();
        let profile = profile(&supported, 2, true);
        let get =
            |leaf, index| profile.iter().find(|e| (e.function, e.index) == (leaf, index)).copied();
        let one = get(1, 0).unwrap();
        assert_eq!(one.ecx >> 5 & 1, 0, "VMX");
        assert_eq!(one.ecx >> 21 & 1, 1, "x2APIC");
        assert_eq!(one.ecx >> 24 & 1, 1, "deadline timer");
        let seven = get(7, 0).unwrap();
        assert_eq!(seven.ecx & bits(&[3, 4, 7]), 0);
        assert_eq!(seven.edx & bits(&[20, 22, 24, 25]), 0);
        assert!(get(0xa, 0).is_none() && get(0x8000_000a, 0).is_none());
        assert!(get(0xd, 9).is_none() && get(0xd, 18).is_none());
        let d = get(0xd, 0).unwrap();
        assert_eq!((d.eax, d.ecx), (0b1110_0111, 832));
        assert_eq!(get(0xd, 1).unwrap().ecx, 0);
        assert_eq!(get(0x4000_0001, 0).unwrap().eax, 0x0100_0049);
        assert_eq!(get(0x8000_0001, 0).unwrap().ecx >> 2 & 1, 0, "SVM");
        assert_eq!(get(0xb, 1).unwrap().ebx, 2);
        let second = for_vcpu(&profile, 1);
        assert_eq!(second.iter().find(|e| e.function == 1).unwrap().ebx >> 24, 1);
        assert!(gigabyte_pages(&profile));
    }

    #[test]
    fn a_cpu_without_avx_keeps_the_legacy_area() {
        assert_eq!(xsave_area(&[]), 576);
        assert_eq!(physical_bits(&[]), 36);
    }
}
