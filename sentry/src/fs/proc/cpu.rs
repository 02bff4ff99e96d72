//! cpuinfo.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::About;
use crate::errno::Errno;
use crate::platform::platform;

/// Names of the bits of CPUID leaf 1 edx (arch/x86/include/asm/cpufeatures.h).
const LEAF1_EDX: &[(u32, &str)] = &[
    (0, "fpu"),
    (1, "vme"),
    (2, "de"),
    (3, "pse"),
    (4, "tsc"),
    (5, "msr"),
    (6, "pae"),
    (7, "mce"),
    (8, "cx8"),
    (9, "apic"),
    (11, "sep"),
    (12, "mtrr"),
    (13, "pge"),
    (14, "mca"),
    (15, "cmov"),
    (16, "pat"),
    (17, "pse36"),
    (19, "clflush"),
    (23, "mmx"),
    (24, "fxsr"),
    (25, "sse"),
    (26, "sse2"),
    (27, "ss"),
    (28, "ht"),
];
/// Leaf 1 ecx.
const LEAF1_ECX: &[(u32, &str)] = &[
    (0, "pni"),
    (1, "pclmulqdq"),
    (9, "ssse3"),
    (12, "fma"),
    (13, "cx16"),
    (17, "pcid"),
    (19, "sse4_1"),
    (20, "sse4_2"),
    (21, "x2apic"),
    (22, "movbe"),
    (23, "popcnt"),
    (24, "tsc_deadline_timer"),
    (25, "aes"),
    (26, "xsave"),
    (28, "avx"),
    (29, "f16c"),
    (30, "rdrand"),
    (31, "hypervisor"),
];
/// Leaf 7 ebx.
const LEAF7_EBX: &[(u32, &str)] = &[
    (0, "fsgsbase"),
    (3, "bmi1"),
    (5, "avx2"),
    (7, "smep"),
    (8, "bmi2"),
    (9, "erms"),
    (10, "invpcid"),
    (16, "avx512f"),
    (17, "avx512dq"),
    (18, "rdseed"),
    (19, "adx"),
    (20, "smap"),
    (21, "avx512ifma"),
    (23, "clflushopt"),
    (24, "clwb"),
    (28, "avx512cd"),
    (29, "sha_ni"),
    (30, "avx512bw"),
    (31, "avx512vl"),
];
/// Leaf 7 ecx.
const LEAF7_ECX: &[(u32, &str)] = &[
    (1, "avx512vbmi"),
    (2, "umip"),
    (6, "avx512_vbmi2"),
    (8, "gfni"),
    (9, "vaes"),
    (10, "vpclmulqdq"),
    (11, "avx512_vnni"),
    (12, "avx512_bitalg"),
    (14, "avx512_vpopcntdq"),
    (22, "rdpid"),
];
/// Leaf 0x80000001 edx.
const EXT_EDX: &[(u32, &str)] =
    &[(11, "syscall"), (20, "nx"), (26, "pdpe1gb"), (27, "rdtscp"), (29, "lm")];
/// Leaf 0x80000001 ecx.
const EXT_ECX: &[(u32, &str)] =
    &[(0, "lahf_lm"), (5, "abm"), (6, "sse4a"), (7, "misalignsse"), (8, "3dnowprefetch")];

/// What does not depend on the CPU's number.
struct Model {
    vendor: String,
    name: String,
    family: u32,
    model: u32,
    stepping: u32,
    flags: Vec<&'static str>,
    clflush: u32,
    physical_bits: u32,
    virtual_bits: u32,
}

fn ascii(words: &[u32]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let text = bytes.split(|b| *b == 0).next().unwrap_or(&[]);
    String::from_utf8_lossy(text).trim().into()
}

fn model() -> Model {
    let cpuid = |leaf, subleaf| platform().cpuid(leaf, subleaf);
    let [max, b, c, d] = cpuid(0, 0);
    let [version, misc, ecx1, edx1] = cpuid(1, 0);
    let [_, ebx7, ecx7, _] = if max >= 7 { cpuid(7, 0) } else { [0; 4] };
    let [max_ext, ..] = cpuid(0x8000_0000, 0);
    let [_, _, ext_ecx, ext_edx] =
        if max_ext >= 0x8000_0001 { cpuid(0x8000_0001, 0) } else { [0; 4] };
    let mut name = String::new();
    if max_ext >= 0x8000_0004 {
        let words: Vec<u32> = (0x8000_0002..=0x8000_0004u32).flat_map(|l| cpuid(l, 0)).collect();
        name = ascii(&words);
    }
    let [sizes, ..] = if max_ext >= 0x8000_0008 { cpuid(0x8000_0008, 0) } else { [0; 4] };
    // Intel SDM volume 2, CPUID: extended family and model.
    let (base_family, base_model) = (version >> 8 & 0xf, version >> 4 & 0xf);
    let family = base_family + if base_family == 0xf { version >> 20 & 0xff } else { 0 };
    let model = base_model + if base_family >= 6 { (version >> 16 & 0xf) << 4 } else { 0 };
    let mut flags = Vec::new();
    for (word, names) in [
        (edx1, LEAF1_EDX),
        (ext_edx, EXT_EDX),
        (ecx1, LEAF1_ECX),
        (ext_ecx, EXT_ECX),
        (ebx7, LEAF7_EBX),
        (ecx7, LEAF7_ECX),
    ] {
        flags.extend(names.iter().filter(|(bit, _)| word >> bit & 1 == 1).map(|(_, n)| *n));
    }
    Model {
        vendor: ascii(&[b, d, c]),
        name,
        family,
        model,
        stepping: version & 0xf,
        flags,
        clflush: (misc >> 8 & 0xff).saturating_mul(8),
        physical_bits: sizes & 0xff,
        virtual_bits: sizes >> 8 & 0xff,
    }
}

/// /proc/cpuinfo.
pub(super) fn cpuinfo(_: &About<'_>, out: &mut String) -> Result<(), Errno> {
    let m = model();
    let cpus = platform().cpus();
    let flags = m.flags.join(" ");
    for cpu in 0..cpus {
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "processor\t: {cpu}\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\n\
             model name\t: {}\nstepping\t: {}\nphysical id\t: 0\nsiblings\t: {cpus}\n\
             core id\t\t: {cpu}\ncpu cores\t: {cpus}\napicid\t\t: {cpu}\ninitial apicid\t: {cpu}\n\
             fpu\t\t: yes\nfpu_exception\t: yes\ncpuid level\t: 13\nwp\t\t: yes\nflags\t\t: {flags}\n\
             bugs\t\t:\nclflush size\t: {}\ncache_alignment\t: 64\n\
             address sizes\t: {} bits physical, {} bits virtual\npower management:\n\n",
            m.vendor,
            m.family,
            m.model,
            m.name,
            m.stepping,
            m.clflush,
            m.physical_bits,
            m.virtual_bits,
        );
    }
    Ok(())
}
