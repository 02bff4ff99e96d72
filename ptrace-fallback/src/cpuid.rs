//! CPUID, remembered: on a virtual machine each execution leaves the machine, which takes as long as
//! several system calls of an application.

use std::arch::x86_64::__cpuid_count;
use std::sync::{Mutex, PoisonError};

/// Leaves that are kept, far more than anybody asks for.
const MOST: usize = 64;

/// Leaf, subleaf, and what they say.
type Known = Vec<(u32, u32, [u32; 4])>;

static KNOWN: Mutex<Known> = Mutex::new(Vec::new());

/// eax, ebx, ecx and edx. Nothing of them that depends on the CPU one runs on is of use to the sentry.
pub(crate) fn read(leaf: u32, subleaf: u32) -> [u32; 4] {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, _, found)) = known.iter().find(|(l, s, _)| (*l, *s) == (leaf, subleaf)) {
        return *found;
    }
    let r = __cpuid_count(leaf, subleaf);
    let found = [r.eax, r.ebx, r.ecx, r.edx];
    if known.len() < MOST {
        known.push((leaf, subleaf, found));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_what_the_cpu_says() {
        for _ in 0..2 {
            let r = __cpuid_count(0xd, 0);
            assert_eq!(read(0xd, 0)[2..], [r.ecx, r.edx]);
            let r = __cpuid_count(0, 0);
            assert_eq!(read(0, 0), [r.eax, r.ebx, r.ecx, r.edx]);
        }
    }
}
