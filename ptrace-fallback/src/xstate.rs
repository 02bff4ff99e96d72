//! Vector and floating-point state as the XSAVE image that ptrace moves: standard format, always as
//! long as the host's kernel has it (Intel SDM volume 1, 13.4).

use std::sync::OnceLock;

use sentry::errno::Errno;

use crate::cpuid;

/// x87, SSE.
const FP_SSE: u64 = 3;
/// Where the header is, and what follows it.
const HEADER: usize = 512;
const EXTENDED: usize = 576;
/// Where Linux says through ptrace which components it keeps (arch/x86/include/asm/user.h: the
/// first of the words at 464 is XCR0).
const KEPT: usize = 464;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// What a new program finds (Intel SDM volume 1, 13.6).
const INITIAL_FCW: u16 = 0x37f;
const INITIAL_MXCSR: u32 = 0x1f80;

/// The host kernel's form of the image.
struct Form {
    len: usize,
    components: u64,
    mxcsr_mask: u32,
}

static FORM: OnceLock<Form> = OnceLock::new();

fn word64(image: &[u8], at: usize) -> u64 {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |b| u64::from_le_bytes(*b))
}

fn word32(image: &[u8], at: usize) -> u32 {
    let bytes = image.get(at..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |b| u32::from_le_bytes(*b))
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = image.get_mut(at..at.saturating_add(bytes.len())) {
        place.copy_from_slice(bytes);
    }
}

/// Learns the form from any image that the kernel gave.
pub(crate) fn learn(image: &[u8]) {
    FORM.get_or_init(|| Form {
        len: image.len(),
        components: word64(image, KEPT) | FP_SSE,
        mxcsr_mask: match word32(image, MXCSR_MASK) {
            // Intel SDM volume 1, 11.6.6: the default where the CPU says nothing.
            0 => 0xffbf,
            mask => mask,
        },
    });
}

fn form() -> &'static Form {
    // Learned before the first tracee runs; without it only what every x86-64 has is known.
    FORM.get().unwrap_or(&Form { len: EXTENDED, components: FP_SSE, mxcsr_mask: 0xffbf })
}

/// What a new program finds.
pub(crate) fn initial() -> Vec<u8> {
    let mut image = vec![0; form().len];
    put(&mut image, 0, &INITIAL_FCW.to_le_bytes());
    put(&mut image, MXCSR, &INITIAL_MXCSR.to_le_bytes());
    // Present, not left out: the kernel takes MXCSR only with its component.
    put(&mut image, HEADER, &FP_SSE.to_le_bytes());
    image
}

/// An image from elsewhere in the host's form; `EINVAL` where XRSTOR would not take it here.
pub(crate) fn adopt(image: &[u8]) -> Result<Vec<u8>, Errno> {
    let form = form();
    if image.len() < EXTENDED {
        return Err(Errno::EINVAL);
    }
    let present = word64(image, HEADER);
    let rest_of_header = image.get(HEADER + 8..EXTENDED).unwrap_or_default();
    if present & !form.components != 0
        || rest_of_header.iter().any(|byte| *byte != 0)
        || word32(image, MXCSR) & !form.mxcsr_mask != 0
    {
        return Err(Errno::EINVAL);
    }
    let end = (2..63)
        .filter(|n| present >> n & 1 != 0)
        .map(|n| {
            let [size, offset, ..] = cpuid::read(0xd, n);
            u64::from(size).saturating_add(offset.into())
        })
        .max();
    if end.is_some_and(|end| end > image.len().min(form.len) as u64) {
        return Err(Errno::EINVAL);
    }
    let mut image = image.to_vec();
    image.resize(form.len, 0);
    Ok(image)
}

/// Whether the x87 unit has an unmasked exception pending (the ES flag of its status word).
pub(crate) fn x87_exception(image: &[u8]) -> bool {
    image.get(2).is_some_and(|low| low & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xrstor_would_not_take_is_refused() {
        let good = initial();
        assert!(adopt(&good).is_ok());
        assert_eq!(adopt(&good[..EXTENDED - 1]), Err(Errno::EINVAL));
        for (at, value) in [(MXCSR + 3, 0x80), (HEADER + 7, 0x40), (HEADER + 15, 0x80), (570, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(adopt(&bad), Err(Errno::EINVAL), "at {at}");
        }
        let mut long = good.clone();
        long.resize(20_000, 7);
        assert_eq!(adopt(&long).unwrap().len(), good.len());
    }
}
